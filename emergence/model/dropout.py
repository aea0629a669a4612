"""Dropout on what every sublayer adds to the residual stream, for finetuning alone.

The trunk has no dropout of its own, because pretraining sees each text about once. Hooks add it, so a trunk without
hooks computes, to the bit, what it computes for all other results.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from emergence.errors import UsageError
from emergence.model.trunk import Trunk

#: Keeps these draws apart from all others of the same seed.
_STREAM = 0xD809
#: The parts of a block that add to the residual stream.
_SUBLAYERS = ("attention", "mlp")


class ResidualDropout:
    """Zero a share of the outputs of attention and MLP in training mode, and scale up the rest.

    The form is the inverted one of Srivastava et al. (2014). The masks of a step depend on ``seed`` and the step alone.
    So a resumed run draws what an unbroken one draws, and a checkpoint holds no random state.

    Args:
        trunk: Gets the hooks. :meth:`remove` takes them away again.
        rate: Share that is zeroed, from 0 to below 1. At 0 no hook is set.
        seed: Decides the masks.
    """

    def __init__(self, trunk: Trunk, rate: float, seed: int) -> None:
        if not 0 <= rate < 1:
            raise UsageError(f"finetune.dropout must be at least 0 and below 1, not {rate:g}")
        self._keep, self._seed = 1 - rate, seed
        self._generator = torch.Generator(next(trunk.parameters()).device)
        layers = [layer for block in trunk.blocks for name, layer in block.named_children() if name in _SUBLAYERS]
        self._hooks = [layer.register_forward_hook(self._drop) for layer in layers] if rate else []

    def start_step(self, step: int) -> None:
        """Draw the masks of ``step`` from here on."""
        if self._hooks:
            # The three are hashed, because a CPU generator takes only 32 bits.
            mixed = np.random.SeedSequence([self._seed, step, _STREAM]).generate_state(1)
            self._generator.manual_seed(int(mixed[0]))

    def remove(self) -> None:
        """Take the hooks away."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _drop(self, module: nn.Module, _: object, output: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        if not module.training:
            return output
        mask = torch.empty_like(output).bernoulli_(self._keep, generator=self._generator)  # (B, T, D)
        return output * mask / self._keep
