"""Cutting and reading units: nothing stays behind, and a cut is what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from emergence.errors import UsageError
from emergence.model import Trunk
from emergence.model.huggingface import load_model
from emergence.model.unit_hooks import KINDS, Ablation, Attribution, Kind, Units, reading, units_of
from tests.model.test_trunk import RECIPES, small_trunk, some_ids
from tests.published_models import FAMILIES, save_model


def logits(trunk: Trunk, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return trunk(ids) @ trunk.unembedding.T


def zeros(units: Units) -> list[torch.Tensor]:
    return [torch.zeros(1, n * units.columns) for n in units.per_block]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("kind", KINDS)
def test_hooks_leave_no_trace(recipe: str, kind: Kind) -> None:
    trunk, ids = small_trunk(recipe), some_ids()
    trunk.requires_grad_(False)
    units, before = units_of(trunk, kind), logits(trunk, ids)
    everything = np.arange(len(units))
    with Ablation(units, everything).applied():
        assert not torch.equal(logits(trunk, ids), before)
    assert torch.equal(logits(trunk, ids), before)
    for way in (0.0, 0.5):
        attribution = Attribution(units, zeros(units), way, torch.zeros_like(ids))
        with attribution.applied():
            trunk.hidden_states(ids)[-1].sum().backward()
        assert [lost.shape for lost in attribution.lost()] == [(*ids.shape, n) for n in units.per_block]
    with pytest.raises(ZeroDivisionError), reading(units.modules, lambda place, activations: 1 / 0):
        logits(trunk, ids)
    assert torch.equal(logits(trunk, ids), before)
    assert all(weight.grad is None for weight in trunk.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_cutting_nothing_changes_nothing_and_a_unit_that_gives_what_it_gave_neither(kind: Kind) -> None:
    trunk, ids = small_trunk(), some_ids(1)
    units, before = units_of(trunk, kind), logits(trunk, ids)
    with Ablation(units, np.zeros(0, dtype=np.int64)).applied():
        assert torch.equal(logits(trunk, ids), before)
    own: list[torch.Tensor] = []
    with reading(units.modules, lambda place, activations: own.append(activations[0])):
        logits(trunk, ids)
    classes = torch.arange(ids.shape[1])[None]  # each position a class of its own, with what stood there
    with Ablation(units, np.arange(len(units)), own, classes).applied():
        assert torch.equal(logits(trunk, ids), before)


@pytest.mark.parametrize("recipe", RECIPES)
def test_all_heads_of_a_layer_are_its_attention_and_all_neurons_its_mlp(recipe: str) -> None:
    trunk, ids = small_trunk(recipe), some_ids()
    for kind in KINDS:
        for block in range(2):
            units = units_of(trunk, kind)
            with Ablation(units, np.flatnonzero(units.blocks == block)).applied():
                cut = logits(trunk, ids)
            part = trunk.blocks[block].attention if kind == "head" else trunk.blocks[block].mlp
            removal = part.register_forward_hook(lambda module, args, output: torch.zeros_like(output))
            without = logits(trunk, ids)
            removal.remove()
            assert torch.equal(cut, without)


def test_one_head_is_cut_before_heads_are_mixed() -> None:
    trunk, ids = small_trunk(), some_ids()
    units = units_of(trunk, "head")
    assert len(units) == 8 and units.columns == 8 and units.blocks.tolist() == [0] * 4 + [1] * 4
    with Ablation(units, np.array([5])).applied():
        cut = logits(trunk, ids)
    with torch.no_grad():
        trunk.blocks[1].attention.output.weight[:, 8:16] = 0  # what the second head of block 1 goes through
    torch.testing.assert_close(cut, logits(trunk, ids))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", [0.0, 0.5])
def test_an_attribution_is_what_a_small_step_towards_the_values_costs(kind: Kind, way: float) -> None:
    trunk, ids = small_trunk(), some_ids(1)
    trunk.double().requires_grad_(False)
    direction, values = (torch.randn(n, generator=torch.Generator().manual_seed(n)).double() for n in (32, 128))
    units, classes, unit, step = units_of(trunk, kind), torch.zeros_like(ids), 5, 1e-6
    tables = [values[None, : n * units.columns] for n in units.per_block]
    block, first = int(units.blocks[unit]), int(units.first[units.blocks[unit]])

    def value() -> torch.Tensor:
        return (trunk.hidden_states(ids)[-1] @ direction).sum()

    attribution = Attribution(units, tables, way, classes)
    with attribution.applied():
        value().backward()
    told = list(attribution.lost())[block][0, :, unit - first].sum()

    def nudged(step: float) -> torch.Tensor:
        def move(place: int, x: torch.Tensor) -> torch.Tensor:
            share = torch.full((x.shape[-1],), way).double()
            if place == block:
                share[torch.from_numpy(units.columns_of(np.array([unit]), block))] += step
            return x - share * (x - tables[place])

        with reading(units.modules, move):
            return value()

    assert float((nudged(0) - nudged(step)) / step) == pytest.approx(float(told), rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_units_of_published_models_are_found_and_cut(tmp_path: Path, family: str, kind: Kind) -> None:
    encoder = load_model(str(save_model(tmp_path, family))).encoder
    units, ids = units_of(encoder, kind), torch.arange(24).view(2, 12)

    def states() -> torch.Tensor:
        with torch.no_grad():
            return encoder.hidden_states(ids)[-1]

    before = states()
    attribution = Attribution(units, zeros(units), 0.0, torch.zeros_like(ids))
    with attribution.applied():
        encoder.hidden_states(ids)[-1].square().sum().backward()
    assert all((lost != 0).any() for lost in attribution.lost())
    last = len(units) - 1
    with Ablation(units, np.array([last])).applied():
        cut = states()
    assert torch.equal(states(), before) and not torch.equal(cut, before)
    module, columns = units.modules[-1], units.columns_of(np.array([last]), 1)
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    with torch.no_grad():  # the last head, or neuron, goes through the last columns of a linear layer
        if isinstance(module, torch.nn.Linear):
            weight[:, columns] = 0
        else:
            weight[columns] = 0
    torch.testing.assert_close(states(), cut)


def test_a_model_whose_neurons_are_elsewhere_is_refused_by_name(tmp_path: Path) -> None:
    encoder = load_model(str(save_model(tmp_path, "llama"))).encoder
    block = encoder.model.model.layers[0]
    block.mlp.elsewhere = block.mlp.down_proj
    del block.mlp.down_proj
    with pytest.raises(UsageError, match=r"llama .*its neurons are not where those of a known family are"):
        encoder.output_layer(0, "mlp")
