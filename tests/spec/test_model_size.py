"""The closed-form counts are those of the module, and the estimates have the right shape."""

from __future__ import annotations

import dataclasses

import pytest

from emergence.model import SpanHead, Trunk
from emergence.spec.config import CONFIG_NAMES, load_config
from emergence.spec.model_size import (
    activation_bytes_per_token,
    count_parameters,
    training_flops_per_token,
    training_memory_bytes,
)


@pytest.mark.parametrize("name", CONFIG_NAMES)
@pytest.mark.parametrize("recipe", ["modern", "gpt2"])
def test_counts_equal_the_module(name: str, recipe: str) -> None:
    import torch

    config = load_config(name, [f"recipe={recipe}"]).model
    with torch.device("meta"):
        trunk, head = Trunk(config, 16_384), SpanHead(config.hidden_size)
    counts = count_parameters(config, 16_384)
    own = sum(weight.numel() for weight in trunk.parameters())
    embeddings = sum(w.numel() for name, w in trunk.named_parameters() if name.startswith(("embedding", "position")))
    assert counts.total == own
    assert counts.non_embedding == own - embeddings
    assert counts.trainable_frozen == sum(weight.numel() for weight in head.parameters())
    assert counts.trainable_full == own + counts.trainable_frozen


def test_sizes_have_the_names_they_are_known_by() -> None:
    millions = {name: count_parameters(load_config(name).model, 16_384).non_embedding / 1e6 for name in CONFIG_NAMES}
    assert 0.4 < millions["tiny"] < 0.7
    assert 1.6 < millions["small"] < 2.6
    assert 45 < millions["base"] < 55
    assert 100 < millions["medium"] < 115


def test_flops_are_six_per_weight_plus_head_and_attention() -> None:
    model = load_config("base").model
    counts = count_parameters(model, 16_384)
    without_attention = 6 * counts.non_embedding + 6 * model.hidden_size * 16_384
    assert training_flops_per_token(model, 16_384) == without_attention + 6 * 10 * 512 * 640


def test_memory_grows_with_the_micro_batch_and_shrinks_with_bf16() -> None:
    config = load_config("medium")
    at = {m: training_memory_bytes(config.model, 16_384, config.pretrain, m, "fp32") for m in (0, 1, 2)}
    assert at[2] - at[1] == at[1] - at[0] == 512 * activation_bytes_per_token(config.model)
    assert training_memory_bytes(config.model, 16_384, config.pretrain, 2, "bf16") < at[2]
    # Muon keeps one number per matrix entry, AdamW two.
    adamw = dataclasses.replace(config.pretrain, optimizer="adamw")
    assert training_memory_bytes(config.model, 16_384, adamw, 1) > at[1]
