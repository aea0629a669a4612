"""Where the blocks, the final norm and the head of a family sit, and what stands between head and logits.

Attribute paths are those of the classes in transformers. A model whose parts are not found, or whose last normed
states do not give its logits, is refused by name, because its levels would not be what this program calls them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from emergence.errors import UsageError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

#: (blocks, final norm), tried in this order.
_PLACES = (
    ("model.layers", "model.norm"),  # Llama, Mistral, Qwen, OLMo, Gemma, SmolLM
    ("gpt_neox.layers", "gpt_neox.final_layer_norm"),  # GPT-NeoX, Pythia
    ("transformer.h", "transformer.ln_f"),  # GPT-2, GPT-Neo, GPT-J, BLOOM, Falcon
    ("model.layers", "model.final_layernorm"),  # Phi, Persimmon
    ("model.decoder.layers", "model.decoder.final_layer_norm"),  # OPT
    ("transformer.blocks", "transformer.norm_f"),  # MPT
)
#: The layer of a block whose input is its neurons (``mlp``) or its heads side by side (``head``), tried in this order.
_OUTPUTS = {
    "mlp": (
        "mlp.down_proj",  # Llama, Mistral, Qwen, OLMo, Gemma, SmolLM
        "mlp.dense_4h_to_h",  # GPT-NeoX, Pythia, BLOOM, Falcon
        "mlp.c_proj",  # GPT-2, GPT-Neo
        "mlp.fc_out",  # GPT-J
        "mlp.fc2",  # Phi
        "fc2",  # OPT
        "ffn.down_proj",  # MPT
    ),
    "head": (
        "self_attn.o_proj",
        "attention.dense",
        "attn.c_proj",
        "attn.attention.out_proj",  # GPT-Neo
        "attn.out_proj",  # GPT-J, MPT
        "self_attn.dense",  # Phi, Persimmon
        "self_attn.out_proj",  # OPT
        "self_attention.dense",  # BLOOM, Falcon
    ),
}
#: Settings under which a configuration keeps the longest sequence.
_LENGTHS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
#: What relative error the identity of levels and logits may have, by bits of the weights' type.
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.02}


@dataclass(frozen=True)
class Parts:
    """The parts of one model: its blocks, its final norm, and its head with what follows it."""

    blocks: nn.ModuleList
    norm: nn.Module
    head: Callable[[Tensor], Tensor]


def parts_of(model: PreTrainedModel) -> Parts:
    """Find the parts of a causal model.

    Raises:
        UsageError: They are not where those of a known family are.
    """
    layers = model.config.get_text_config().num_hidden_layers
    for blocks_at, norm_at in _PLACES:
        blocks, norm = _at(model, blocks_at), _at(model, norm_at)
        if isinstance(blocks, nn.ModuleList) and len(blocks) == layers and isinstance(norm, nn.Module):
            return Parts(blocks, norm, _head_of(model))
    raise UsageError(
        f"{_kind(model)}: its blocks and its final norm are not where those of a known family are, so its levels "
        f"cannot be read (known: {', '.join(dict.fromkeys(place for place, _ in _PLACES))})"
    )


def output_layer_of(model: PreTrainedModel, block: nn.Module, kind: str) -> nn.Module:
    """The layer of a block that its neurons (``mlp``) or its heads (``head``) go into.

    Raises:
        UsageError: It is not where that of a known family is, as in mixtures of experts.
    """
    for path in _OUTPUTS[kind]:
        layer = _at(block, path)
        if isinstance(layer, nn.Module):
            return layer
    what = "neurons" if kind == "mlp" else "heads"
    raise UsageError(f"{_kind(model)}: its {what} are not where those of a known family are, so they cannot be cut")


def context_length(config: PretrainedConfig) -> int:
    """The longest sequence that a model takes, in tokens; 2,048 where its configuration says nothing (BLOOM)."""
    known = (getattr(config, name, None) for name in _LENGTHS)
    return next((int(length) for length in known if isinstance(length, int) and length > 0), 2048)


def check_logits(model: PreTrainedModel, parts: Parts, last: Tensor, ids: Tensor) -> float:
    """Compare head(``last``) with the model's own logits for ``ids``.

    Returns:
        The largest difference, as a share of the largest logit.

    Raises:
        UsageError: They differ: the last level is not what the head reads.
    """
    with torch.no_grad():
        own = model(input_ids=ids, use_cache=False).logits.float()
        ours = parts.head(last).float()
    off = float((own - ours).abs().max() / own.abs().max().clamp_min(1e-6))
    if not off <= _TOLERANCE.get(model.dtype, 1e-3):
        raise UsageError(
            f"{_kind(model)}: the head applied to its final norm gives other logits than the model (off by {off:.2g} "
            "of the largest), so its last level cannot be read"
        )
    return off


def _head_of(model: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """The output embedding with the scale or the soft cap that a family has behind it."""
    output = model.get_output_embeddings()
    if not isinstance(output, nn.Module):
        raise UsageError(f"{_kind(model)} has no output embedding, so it is no language model")
    config = model.config.get_text_config()
    factor = getattr(config, "logit_scale", None)  # Cohere
    divisor = getattr(config, "logits_scaling", None)  # Granite
    cap = getattr(config, "final_logit_softcapping", None)  # Gemma 2

    def head(states: Tensor) -> Tensor:
        logits: Tensor = output(states)
        logits = logits * factor if factor else logits
        logits = logits / divisor if divisor else logits
        return cap * torch.tanh(logits / cap) if cap else logits

    return head


def _kind(model: PreTrainedModel) -> str:
    return f"{model.config.model_type} ({type(model).__name__})"


def _at(module: nn.Module, path: str) -> object:
    found: object = module
    for name in path.split("."):
        found = getattr(found, name, None)
    return found
