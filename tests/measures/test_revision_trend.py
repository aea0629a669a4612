"""Planted damage in a training history is named, and sound revisions are not."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from emergence.measures import revision_trend
from emergence.measures.revision_trend import RevisionFacts, find_suspects

STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
LN_V = math.log(50_000)
GROUPS = ("embed", "layers.0", "layers.1", "head")


def history(seed: int = 0, noise: float = 0.02) -> list[RevisionFacts]:
    """Weights that go a way that bends, with a loss that falls with the log of the step."""
    rng = np.random.default_rng(seed)
    start = {g: rng.normal(size=64) for g in GROUPS}
    ways = {g: rng.normal(size=(3, 64)) for g in GROUPS}
    revisions = []
    for step in STEPS:
        t = math.log1p(step) / math.log1p(STEPS[-1])
        sketch = {
            g: start[g] + ways[g][0] * t + ways[g][1] * t**2 + ways[g][2] * t**3 + noise * t * rng.normal(size=64)
            for g in GROUPS
        }
        loss = LN_V - 7.5 * t + 0.03 * float(rng.normal())
        digests = {g: str(hash((seed, step, g))) for g in GROUPS}
        revisions.append(RevisionFacts(f"step{step}", step, digests, sketch, loss if step else LN_V + 0.05))
    return revisions


def put(revisions: list[RevisionFacts], at: int, of: int, groups: tuple[str, ...] = GROUPS) -> None:
    """Give the revision at one place the groups of another."""
    a, b = revisions[at], revisions[of]
    sketch = {g: (b if g in groups else a).sketch[g] for g in GROUPS}
    digests = {g: (b if g in groups else a).digests[g] for g in GROUPS}
    revisions[at] = replace(a, sketch=sketch, digests=digests, loss=b.loss if groups == GROUPS else a.loss)


@pytest.mark.parametrize("seed", range(5))
def test_a_sound_history_has_no_suspects(seed: int) -> None:
    assert find_suspects(history(seed), LN_V) == {}
    without_loss = [replace(r, loss=None) for r in history(seed)]
    assert find_suspects(without_loss, LN_V) == {}


@pytest.mark.parametrize("at", range(len(STEPS)))
def test_a_copy_is_named_and_not_what_it_is_a_copy_of(at: int) -> None:
    for of in set(range(len(STEPS))) - {at}:
        revisions = history()
        put(revisions, at, of)
        suspects = find_suspects(revisions, LN_V)
        assert list(suspects) == [revisions[at].name], (at, of)
        assert suspects[revisions[at].name] == f"it has the weights of {revisions[of].name}, byte for byte"


@pytest.mark.parametrize(
    "of", [{9: 6, 5: 8}, {8: 5, 11: 7}, {8: 9, 3: 11, 10: 11}, {0: 4, 1: 8, 9: 5}, {1: 0, 6: 0, 10: 7}]
)
def test_several_copies_at_once_are_named_and_not_what_they_are_copies_of(of: dict[int, int]) -> None:
    for groups in (GROUPS, ("embed", "layers.0")):
        revisions = history()
        for at, source in of.items():
            put(revisions, at, source, groups)
        suspects = find_suspects(revisions, LN_V)
        assert set(suspects) == {revisions[at].name for at in of}, groups


def test_many_copies_are_placed_one_set_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    revisions = history()
    of = {9: 6, 5: 8, 3: 2}
    for at, source in of.items():
        put(revisions, at, source)
    monkeypatch.setattr(revision_trend, "_MOST_PLACINGS", 1)
    assert set(find_suspects(revisions, LN_V)) == {revisions[at].name for at in of}


@pytest.mark.parametrize("at", [0, -1])
def test_an_end_with_weights_of_another_run_is_named(at: int) -> None:
    revisions = history()
    revisions[at] = replace(revisions[at], sketch=history(seed=9)[at].sketch)
    suspects = find_suspects(revisions, LN_V)
    assert list(suspects) == [revisions[at].name] and "times too far" in suspects[revisions[at].name]


def test_a_history_that_warms_up_and_decays_has_no_suspects() -> None:
    """A last part that moves the weights hardly any more, and a first step of a rate near 0."""
    sound = history(seed=3)
    slow = {g: sound[-2].sketch[g] + 0.02 * (sound[-1].sketch[g] - sound[-2].sketch[g]) for g in GROUPS}
    first = {g: sound[0].sketch[g] + 0.01 * (sound[1].sketch[g] - sound[0].sketch[g]) for g in GROUPS}
    sound[-1] = replace(sound[-1], sketch=slow)
    sound[1] = replace(sound[1], sketch=first)
    assert find_suspects(sound, LN_V) == {}


def test_a_shard_of_another_step_is_named() -> None:
    revisions = history()
    put(revisions, 5, 11, ("embed", "layers.0"))
    assert find_suspects(revisions, LN_V) == {"step16": "2 of its 4 groups of tensors are those of step1000"}


@pytest.mark.parametrize(("copies", "source"), [((5, 6), 11), ((3, 4, 5), 11), ((6, 7), 5), ((5, 7), 6)])
def test_every_revision_with_one_shard_of_another_step_is_named(copies: tuple[int, ...], source: int) -> None:
    revisions = history()
    names = {revisions[i].name for i in copies}
    for i in copies:
        put(revisions, i, source, ("embed", "layers.0"))
    assert set(find_suspects(revisions, LN_V)) == names


def test_steps_that_serve_the_start_are_named_and_the_start_is_not() -> None:
    revisions = history()
    put(revisions, 1, 0)
    put(revisions, 2, 0)
    assert set(find_suspects(revisions, LN_V)) == {"step1", "step2"}


def test_a_norm_that_never_moved_is_no_copy() -> None:
    still = {"norm": np.ones(8)}
    revisions = [replace(r, sketch={**r.sketch, **still}, digests={**r.digests, "norm": "ones"}) for r in history()]
    assert find_suspects(revisions, LN_V) == {}


@pytest.mark.parametrize(("i", "j"), [(5, 6), (3, 8), (6, 10)])
def test_two_exchanged_revisions_are_both_named(i: int, j: int) -> None:
    revisions = history()
    a, b = revisions[i], revisions[j]
    revisions[i] = replace(b, name=a.name, step=a.step)
    revisions[j] = replace(a, name=b.name, step=b.step)
    suspects = find_suspects(revisions, LN_V)
    assert set(suspects) == {a.name, b.name}
    assert all("exchanged" in reason for reason in suspects.values())


def test_weights_of_another_run_are_off_the_way_and_a_trained_start_is_off_guessing() -> None:
    revisions = history()
    revisions[6] = replace(revisions[6], sketch=history(seed=9)[6].sketch)
    revisions[0] = replace(revisions[0], loss=4.0)
    suspects = find_suspects(revisions, LN_V)
    assert set(suspects) == {"step0", "step32"}
    assert "off the way" in suspects["step32"] and "guessing has ln V" in suspects["step0"]


def test_a_loss_that_falls_along_a_curve_is_no_suspect() -> None:
    """Losses of a real pretraining of 9.2 million weights, which bend sharply where the first words are learnt."""
    losses = (9.758, 9.750, 9.736, 9.627, 8.839, 6.953, 6.332, 6.017, 5.787, 5.531, 5.168, 5.1)
    revisions = [replace(r, loss=loss) for r, loss in zip(history(), losses, strict=True)]
    assert find_suspects(revisions, 9.72) == {}


def test_a_loss_off_the_trend_is_named_where_weights_say_nothing() -> None:
    revisions = [replace(r, sketch={}) for r in history()]
    revisions[8] = replace(revisions[8], loss=(revisions[8].loss or 0) + 3)
    assert list(find_suspects(revisions, LN_V)) == ["step128"]


def test_a_loss_that_turns_is_no_suspect_and_a_spike_at_the_turn_is() -> None:
    losses = [10.8, 10.7, 10.5, 9.9, 8.9, 7.9, 6.9, 6.0, 7.0, 8.1, 9.2, 10.3]
    revisions = [replace(r, loss=loss) for r, loss in zip(history(), losses, strict=True)]
    assert find_suspects(revisions, LN_V) == {}
    revisions[7] = replace(revisions[7], loss=4.0)
    assert set(find_suspects(revisions, LN_V)) == {"step64"}
