"""Adapters of a trunk: they start as the trunk, only they are trained, and what is kept is an ordinary trunk."""

from __future__ import annotations

import importlib.util
from typing import get_args

import pytest
import torch
from torch import Tensor

from emergence.model import Trunk, build_trunk
from emergence.model.adapters import add_adapter, plain_weights
from emergence.spec.adapters import Adapter, adapter_parameters, lora_rank, prefix_states
from emergence.spec.config import load_config
from emergence.training.checkpoint import load_into

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="LoRA is of peft")
IDS = torch.arange(24).reshape(2, 12)
LEARNED = "positions"


def small(positions: str = "rotary") -> Trunk:
    sets = ["model.n_layers=2", "model.hidden_size=16", "model.n_heads=2", f"model.positions={positions}"]
    return build_trunk(load_config("debug", sets).model, 64, seed=1, init="normal")


def step(trunk: Trunk) -> None:
    """One step far enough that every weight that can change does."""
    for _ in range(2):  # LoRA's first matrix has no gradient while the second is zero
        trunk.zero_grad()
        trunk(IDS).square().sum().backward()
        for weight in trunk.parameters():
            if weight.grad is not None:
                weight.data -= 0.1 * weight.grad.sign()


def of_all_levels(trunk: Trunk) -> Tensor:
    with torch.no_grad():
        return torch.stack(trunk.hidden_states(IDS))


@needs_peft
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("adapter", ["lora-1", "lora-4", "lora-64"])
def test_lora_starts_as_the_trunk_and_ends_as_one(adapter: str) -> None:
    trunk, before = small(), small()
    add_adapter(trunk, adapter, seed=3)
    torch.testing.assert_close(of_all_levels(trunk), of_all_levels(before), rtol=0, atol=0)
    step(trunk)
    plain = plain_weights(trunk)
    assert list(plain) == list(before.state_dict())
    changed = {name for name, weight in before.state_dict().items() if not torch.equal(plain[name], weight)}
    kinds = ("query", "key", "value", "output", "input")
    assert changed == {name for name in plain if "blocks" in name and name.split(".")[-2] in kinds}
    for name in changed:
        assert torch.linalg.matrix_rank((plain[name] - before.state_dict()[name]).double(), tol=1e-5) <= lora_rank(
            adapter
        )
    load_into(before, plain, "what was kept")
    torch.testing.assert_close(of_all_levels(trunk), of_all_levels(before), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_a_prefix_is_read_by_the_text_and_never_returned(positions: str) -> None:
    trunk, before = small(positions), small(positions)
    add_adapter(trunk, "prefix-16", seed=3)
    assert trunk.prefix is not None and trunk.prefix.shape == (16, 16)
    states = of_all_levels(trunk)
    assert states.shape == of_all_levels(before).shape and not torch.equal(states[1], of_all_levels(before)[1])
    torch.testing.assert_close(states[0], of_all_levels(before)[0])
    with torch.no_grad():
        torch.testing.assert_close(states[-1], trunk(IDS))
        torch.testing.assert_close(states[:, :, :5], torch.stack(trunk.hidden_states(IDS[:, :5])), rtol=1e-4, atol=1e-5)
    if positions == "rotary":  # by hand: the text after sixteen more states, whose tokens are never seen
        entry = trunk._embed(IDS)[0]
        torch.testing.assert_close(entry[:, :16], trunk.prefix.expand(2, -1, -1))
    kept = plain_weights(trunk)
    load_into(before, kept, "what was kept")
    torch.testing.assert_close(of_all_levels(before), states, rtol=0, atol=0)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("adapter", get_args(Adapter))
def test_the_adapter_alone_is_trained_and_counted_in_closed_form(adapter: str) -> None:
    if lora_rank(adapter):
        pytest.importorskip("peft")
    trunk = small()
    state = torch.random.get_rng_state()
    add_adapter(trunk, adapter, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state), "no draw is taken from anybody else"
    trained = sum(weight.numel() for weight in trunk.parameters() if weight.requires_grad)
    if adapter == "none":
        assert trained == sum(weight.numel() for weight in small().parameters())
        return
    assert trained == adapter_parameters(trunk.config, adapter) > 0
    again, other = small(), small()
    add_adapter(again, adapter, seed=3)
    add_adapter(other, adapter, seed=4)
    mine, same, theirs = ([w for w in t.parameters() if w.requires_grad] for t in (trunk, again, other))
    assert all(map(torch.equal, mine, same)) and not all(map(torch.equal, mine, theirs))
    frozen = {name: weight.clone() for name, weight in trunk.named_parameters() if not weight.requires_grad}
    step(trunk)
    assert all(torch.equal(weight, frozen[name]) for name, weight in trunk.named_parameters() if name in frozen)


def test_names_are_read_one_way() -> None:
    assert [lora_rank(name) for name in get_args(Adapter)] == [0, 1, 2, 4, 64, 0]
    assert [prefix_states(name) for name in get_args(Adapter)] == [0, 0, 0, 0, 0, 16]
