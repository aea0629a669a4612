"""What ``--adapter`` means: which few weights are finetuned while the trunk's own stay. Standard library only."""

from __future__ import annotations

from typing import Literal

from emergence.spec.settings import ModelConfig

Adapter = Literal["none", "lora-1", "lora-2", "lora-4", "lora-64", "prefix-16"]


def lora_rank(adapter: str) -> int:
    """LoRA's rank; 0 for what is none."""
    return int(adapter.removeprefix("lora-")) if adapter.startswith("lora-") else 0


def prefix_states(adapter: str) -> int:
    """Learned states before the text; 0 for what is no prefix."""
    return int(adapter.removeprefix("prefix-")) if adapter.startswith("prefix-") else 0


def adapter_parameters(model: ModelConfig, adapter: str) -> int:
    """Weights of an adapter: r (in + out) for each of a block's six matrices, or D for each state of a prefix."""
    hidden, inner = model.hidden_size, model.mlp_ratio * model.hidden_size
    per_rank = 4 * (hidden + hidden) + 2 * (hidden + inner)
    return model.n_layers * lora_rank(adapter) * per_rank + prefix_states(adapter) * hidden
