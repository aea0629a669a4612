"""Dropout on the residual stream: in training alone, seeded by the step, and gone when it is removed."""

from __future__ import annotations

import pytest
import torch

from emergence.errors import UsageError
from emergence.model import Trunk, build_trunk
from emergence.model.dropout import ResidualDropout
from emergence.spec.config import ModelConfig

MODEL = ModelConfig(n_layers=2, hidden_size=64, n_heads=2, vocab_size=300, sequence_length=32)
IDS = torch.arange(60).view(3, 20)


@pytest.fixture
def trunk() -> Trunk:
    return build_trunk(MODEL, 64, seed=0, init="normal").train()


def test_masks_are_the_steps_and_the_seeds(trunk: Trunk) -> None:
    dropout = ResidualDropout(trunk, 0.3, seed=0)
    dropout.start_step(5)
    first, second = trunk(IDS), trunk(IDS)
    assert not torch.equal(first, second)
    torch.rand(7)  # the global generator is not asked
    dropout.start_step(5)
    assert torch.equal(trunk(IDS), first)
    dropout.start_step(6)
    assert not torch.equal(trunk(IDS), first)
    dropout.remove()
    other = ResidualDropout(trunk, 0.3, seed=1)
    other.start_step(5)
    assert not torch.equal(trunk(IDS), first)


def test_it_drops_in_training_alone_and_leaves_with_its_hooks(trunk: Trunk) -> None:
    plain = trunk(IDS)
    dropout = ResidualDropout(trunk, 0.3, seed=0)
    dropout.start_step(0)
    assert not torch.equal(trunk(IDS), plain)
    assert torch.equal(trunk.eval()(IDS), plain)
    dropout.remove()
    assert torch.equal(trunk.train()(IDS), plain)


def test_the_share_and_the_mean_are_right(trunk: Trunk) -> None:
    dropout = ResidualDropout(trunk, 0.25, seed=0)
    dropout.start_step(0)
    ones = torch.ones(40, 50, 64)
    dropped = dropout._drop(trunk.blocks[0], None, ones)
    assert float((dropped == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.01)


def test_no_rate_is_no_hook_and_everything_is_no_rate(trunk: Trunk) -> None:
    ResidualDropout(trunk, 0.0, seed=0).start_step(0)
    assert not any(module._forward_hooks for module in trunk.modules())
    with pytest.raises(UsageError, match=r"below 1, not 1"):
        ResidualDropout(trunk, 1.0, seed=0)
