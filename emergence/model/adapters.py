"""Adapters: a few weights that are finetuned in place of a trunk's own, which stay as pretraining left them.

LoRA (Hu et al. 2022) adds a product of two thin matrices to every matrix of every block, by ``peft``. A prefix (Lester
et al. 2021) is learned states that stand before the text. Both start as the trunk: LoRA's second matrix is zero, and
text is read after the prefix by weights that never met one, so its states are drawn small.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from emergence.model.trunk import EMBEDDING_STD, Trunk
from emergence.spec.adapters import lora_rank, prefix_states

#: LoRA's product is scaled by this over the rank.
LORA_ALPHA = 32
#: The matrices of a block that get a product.
_TARGETS = r"blocks\.\d+\.(attention\.(query|key|value|output)|mlp\.(input|output))"
#: Keeps these draws apart from all others of the same seed.
_STREAM = 0xADA9


def add_adapter(trunk: Trunk, adapter: str, seed: int) -> None:
    """Freeze ``trunk`` and give it ``adapter``, in place; with ``none`` it stays as it is. No global state is changed.

    Raises:
        ImportError: ``peft`` is not installed.
    """
    if adapter == "none":
        return
    trunk.requires_grad_(False)
    draw = int(np.random.SeedSequence([seed, _STREAM]).generate_state(1)[0])
    if n := prefix_states(adapter):
        scale = EMBEDDING_STD if trunk.position is not None else 1.0  # that of the states beside it
        states = torch.randn(n, trunk.hidden_size, generator=torch.Generator().manual_seed(draw)) * scale
        trunk.prefix = nn.Parameter(states.to(trunk.unembedding.device))
        return
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=lora_rank(adapter), lora_alpha=LORA_ALPHA, target_modules=_TARGETS)
    devices = [trunk.unembedding.device] if trunk.unembedding.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(draw)
        inject_adapter_in_model(config, trunk)


@torch.no_grad()
def plain_weights(trunk: Trunk) -> dict[str, Tensor]:
    """The weights under the names of a trunk without LoRA, whose products are added to its matrices.

    A prefix has the name ``prefix``. Without an adapter it is the ``state_dict``.
    """
    state = dict(trunk.state_dict())
    plain: dict[str, Tensor] = {}
    for name, tensor in state.items():
        place, is_base, kind = name.partition(".base_layer.")
        if is_base:
            layer = trunk.get_submodule(place)
            product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight  # type: ignore[index, union-attr]
            plain[f"{place}.{kind}"] = tensor + layer.scaling["default"] * product  # type: ignore[index]
        elif ".lora_" not in name:
            plain[name] = tensor
    return plain
