"""Selectivity and concentration of units: planted truths, shuffled labels, closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import hypergeom, mannwhitneyu, ortho_group, rankdata

from emergence.measures.selectivity import (
    MORE_CONCENTRATED,
    MORE_DISTRIBUTED,
    NO_TREND,
    UNDETERMINED,
    Trend,
    UnitProbe,
    _best_threshold,
    benjamini_hochberg,
    fewest_for_probe,
    fewest_units,
    matched_units,
    overlap_of,
    participation_ratio,
    roles_auc,
    select_units,
    selected,
    trend_over,
    verdict_of,
    without_confounds,
)

WIDTH, WORDS = 64, 1200


def planted(rotated: bool, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Activations of a layer into which three neurons write a role, or all do, and the weights that read it.

    The random rotation keeps what is there and what reads it; only the neurons are others.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, WORDS)
    activations = rng.normal(size=(WORDS, WIDTH))
    activations[:, :3] += 1.2 * (labels == 1)[:, None]
    weights = np.zeros(WIDTH)
    weights[:3] = 1.0
    if rotated:
        turn = ortho_group.rvs(WIDTH, random_state=rng)
        activations, weights = activations @ turn, weights @ turn
    return activations, labels, np.arange(WORDS) % 2 == 0, weights


def counts_of(rotated: bool) -> tuple[float, float, float, int]:
    """The three counts of the planted layer, and how many units are selective."""
    activations, labels, in_a, weights = planted(rotated)
    off = activations - activations[in_a].mean(axis=0)
    role = labels == 1
    attributions = (off * weights)[in_a & role]  # gradient x (activation - mean), of every word
    order = np.argsort(-attributions.mean(axis=0))
    answer = off @ weights

    def lost(k: int) -> float:  # k units give their mean
        kept = np.zeros(WIDTH)
        kept[order[k:]] = weights[order[k:]]
        return float((answer - off @ kept)[~in_a & role].mean())

    half, _ = fewest_units(lost, WIDTH, lost(WIDTH) / 2)
    chosen = select_units(activations, [labels], in_a, 2)[0]
    probe, _, _ = fewest_for_probe(UnitProbe(activations, in_a), role, chosen.order(1))
    return half, participation_ratio(attributions, np.arange(len(attributions))), probe, int(chosen.confirmed[1].sum())


def test_three_planted_neurons_are_concentrated_and_a_rotation_of_them_is_distributed() -> None:
    half, participation, probe, selective = few = counts_of(rotated=False)
    assert 1 <= half <= 2 and participation == pytest.approx(3, abs=0.3) and 2 <= probe <= 4
    assert selective == 3
    # A random rotation gives neurons unequal parts, so a third of the width or more is what a count can reach.
    half, participation, probe, selective = many = counts_of(rotated=True)
    assert half > 4 * few[0] and participation > WIDTH / 4 and probe > WIDTH / 4
    assert selective > 8
    # A training that leads from the one to the other is told as such, if all three counts are there.
    steps = np.arange(5.0)
    ways = [np.geomspace(first, last, 5) for first, last in zip(few[:3], many[:3], strict=True)]

    def trend(way: np.ndarray) -> Trend:
        return trend_over([[(steps, way * (1 + 0.01 * seed))] for seed in range(3)])

    assert verdict_of([trend(way) for way in ways]) == MORE_DISTRIBUTED
    assert verdict_of([trend(way[::-1]) for way in ways]) == MORE_CONCENTRATED
    assert verdict_of([trend(ways[0]), trend(ways[1]), trend(ways[2][::-1])]) == UNDETERMINED


def test_of_shuffled_labels_no_unit_is_selective_beyond_the_false_discovery_rate() -> None:
    activations, labels, in_a, _ = planted(rotated=False)
    ranks = [rankdata(activations[rows], axis=0) for rows in (in_a, ~in_a)]
    rng = np.random.default_rng(1)
    chosen = confirmed = 0
    for _ in range(200):
        shuffled = rng.permutation(labels)
        found = selected(*roles_auc(ranks[0], shuffled[in_a], 2), *roles_auc(ranks[1], shuffled[~in_a], 2))
        chosen += bool(found.chosen[1].any())
        confirmed += bool(found.confirmed[1].any())
    assert chosen <= 20  # where nothing is true, every discovery is false: 5% of draws, 10 +- 3 of 200
    assert confirmed <= 3


def test_auc_and_its_z_are_mann_and_whitneys_with_ties() -> None:
    rng = np.random.default_rng(0)
    values, labels = np.maximum(rng.integers(-4, 4, (80, 3)), 0), rng.integers(0, 3, 80)
    auc, z = roles_auc(rankdata(values, axis=0), labels, 3)
    for role in range(3):
        for unit in range(3):
            one, rest = values[labels == role, unit], values[labels != role, unit]
            test = mannwhitneyu(one, rest, use_continuity=False, method="asymptotic")
            assert auc[role, unit] == pytest.approx(test.statistic / (len(one) * len(rest)))
            assert 2 * (1 - 0.5 * (1 + math.erf(abs(z[role, unit]) / math.sqrt(2)))) == pytest.approx(test.pvalue)
    constant = roles_auc(rankdata(np.ones((80, 1)), axis=0), labels, 3)
    assert (constant[0] == 0.5).all() and (constant[1] == 0).all()


def test_many_units_are_ranked_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    activations, labels, in_a, _ = planted(rotated=True)
    whole = select_units(activations, [labels], in_a, 2)[0]
    monkeypatch.setattr("emergence.measures.selectivity._CHUNK", 10)
    parts = select_units(activations, [labels], in_a, 2)[0]
    assert (parts.auc_b == whole.auc_b).all() and (parts.confirmed == whole.confirmed).all()


def test_half_a_chooses_and_half_b_reports() -> None:
    activations, labels, in_a, _ = planted(rotated=False)
    activations[~in_a] = np.random.default_rng(7).normal(size=(int((~in_a).sum()), WIDTH))  # nothing is there
    found = select_units(activations, [labels], in_a, 2)[0]
    assert found.chosen[1, :3].all() and not found.confirmed[1].any()
    assert abs(found.reported[1, found.order(1)[0]] - 0.5) < 0.1
    activations, labels, in_a, _ = planted(rotated=False)
    down = select_units(-activations, [labels], in_a, 2)[0]
    assert down.confirmed[1, :3].all() and (down.reported[1, :3] > 0.75).all()  # in the direction of half A


def test_a_confound_that_explains_everything_leaves_nothing() -> None:
    rng = np.random.default_rng(0)
    place = rng.normal(size=WORDS)
    labels = (place + 0.3 * rng.normal(size=WORDS) > 0).astype(np.int64)
    in_a = np.arange(WORDS) % 2 == 0
    values = np.column_stack([2 * place + 0.5 * rng.normal(size=WORDS), place, rng.normal(size=WORDS) + labels])
    raw = select_units(values, [labels], in_a, 2)[0]
    left = without_confounds(values, place[:, None], in_a)
    clean = select_units(left, [labels], in_a, 2)[0]
    assert raw.confirmed[1].all() and clean.confirmed[1].tolist() == [False, False, True]
    assert (left[:, 1] == 0).all()


def test_discoveries_are_those_of_benjamini_and_hochberg() -> None:
    p = [0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205, 0.212, 0.216]  # their table, q = 0.05
    assert benjamini_hochberg(p).tolist() == [True, True] + [False] * 8
    assert benjamini_hochberg([0.02, 0.04, 0.03]).all()  # the last is below q, so all are
    assert not benjamini_hochberg([math.nan, 0.9]).any()


def test_counts_in_closed_form() -> None:
    seven = np.array([2.0] * 4 + [-2.0] * 3 + [0.0] * 5)
    assert participation_ratio(np.tile(seven, (8, 1)), np.arange(8)) == pytest.approx(7)
    assert math.isnan(participation_ratio(np.zeros((8, 3)), np.arange(8)))
    assert math.isnan(participation_ratio(np.tile(seven, (8, 1)), np.arange(8) % 3)), "fewer than four sentences"
    assert fewest_units(lambda k: k / 100, 100, 0.5)[0] == pytest.approx(50)
    assert fewest_units(lambda k: 1.0, 100, 0.5) == (1.0, ((1, 1.0),))
    assert math.isnan(fewest_units(lambda k: 0.0, 100, 0.5)[0])
    assert fewest_units(lambda k: 1 / 0, 100, math.nan) == (pytest.approx(math.nan, nan_ok=True), ())
    shared = overlap_of([1, 2, 3], [2, 3, 4, 5], [10])
    assert (shared.shared, shared.expected) == (2, pytest.approx(1.2))
    assert shared.p == pytest.approx(float(hypergeom.pmf([2, 3], 10, 3, 4).sum()))


@pytest.mark.parametrize("width", [256, 1536, 3840])
def test_noise_is_no_unit_however_many_there_are(width: int) -> None:
    """20 equal carriers among many, over 40 questions: by their means alone these read 70, 450 and 1,550."""
    rng = np.random.default_rng(width)
    carriers = np.concatenate([np.ones(20), np.zeros(width - 20)])
    found = participation_ratio(carriers + 0.5 * rng.normal(size=(40, width)), np.arange(40))
    assert found == pytest.approx(20, rel=0.4)
    assert math.isnan(participation_ratio(rng.normal(size=(40, width)), np.arange(40))), "no mean at all"


def test_units_that_tell_nothing_change_no_count_of_the_probe() -> None:
    """By nine tenths of what all give, the count fell to a quarter, since a probe of all fits noise."""
    rng, counts = np.random.default_rng(0), []
    role = rng.random(1200) < 0.2
    carriers = 0.6 * role[:, None] + rng.normal(size=(1200, 20))
    for width in (64, 1536):
        values = np.concatenate([carriers, rng.normal(size=(1200, width - 20))], axis=1)
        counts.append(fewest_for_probe(UnitProbe(values, np.arange(1200) % 2 == 0), role, np.arange(width))[0])
    assert counts[1] > 0.5 * counts[0]


def test_two_networks_whose_best_units_lie_in_one_block_share_no_more_than_chance() -> None:
    rng = np.random.default_rng(0)
    low = [
        overlap_of(2048 + rng.permutation(512)[:50], 2048 + rng.permutation(512)[:50], [512] * 5).p < 0.05
        for _ in range(200)
    ]
    assert np.mean(low) < 0.1
    apart = overlap_of([0, 1, 600], [0, 1, 601], [512, 512])
    assert apart.shared == 2 and apart.expected == pytest.approx(2 * 2 / 512 + 1 / 512)


def test_random_units_match_in_size_and_layer() -> None:
    rng = np.random.default_rng(0)
    sizes, layers = np.tile(np.arange(20.0), 2), np.repeat([0, 1], 20)
    for _ in range(20):
        units = rng.permutation(40)[:6]
        drawn = matched_units(units, sizes, layers, rng)
        assert len(set(drawn)) == 6 and not set(drawn) & set(units)
        assert (layers[drawn] == layers[units]).all() and np.abs(sizes[drawn] - sizes[units]).max() < 12
    taken = matched_units(np.arange(20), sizes, layers, rng)
    assert (layers[taken] == 1).all()  # a layer that is taken whole: another's units stand in
    assert len(matched_units(np.arange(30), sizes, layers, rng)) == 10


def test_a_probe_of_all_units_is_the_same_by_way_of_units_or_of_words() -> None:
    activations, labels, in_a, _ = planted(rotated=False)
    wide = np.column_stack([activations, np.zeros((WORDS, WORDS))])  # constant units add nothing
    probe, same, role = UnitProbe(activations, in_a), UnitProbe(wide, in_a), labels == 1
    of_all = probe.f1(np.arange(WIDTH), role)
    assert of_all == pytest.approx(same.f1(np.arange(WIDTH + WORDS), role))
    assert of_all == pytest.approx(same.f1(np.arange(WIDTH + WORDS - 1), role))  # not all, so not what is kept
    assert probe.f1(np.arange(3), role) > 0.75 and probe.base(role) == pytest.approx(0.70, abs=0.01)
    nothing = UnitProbe(np.random.default_rng(1).normal(size=(WORDS, 4)), in_a)
    assert math.isnan(fewest_for_probe(nothing, role, np.arange(4))[0])


def test_no_threshold_parts_words_with_the_same_score() -> None:
    scores = np.array([1.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    positive = np.array([True, False, False, False, True, True])
    # Above 0: one hit in four. From 0 on: three in six, which is the best that there is.
    assert _best_threshold(scores, positive) == 0.0
    assert _best_threshold(np.array([3.0, 2.0, 2.0, 1.0]), np.array([True, True, False, False])) == 2.0


def test_units_that_are_constant_but_for_rounding_tell_a_probe_nothing() -> None:
    activations, labels, in_a, _ = planted(rotated=False)
    rng = np.random.default_rng(3)
    constant = np.full((WORDS, 30), 123.456, dtype=np.float32)
    constant[rng.random((WORDS, 30)) < 0.5] = np.nextafter(np.float32(123.456), np.float32(200.0))
    values = np.concatenate([activations.astype(np.float32), constant], axis=1)
    alone, beside = UnitProbe(values[:, :WIDTH], in_a), UnitProbe(values, in_a)
    of_alone = alone.f1(np.arange(WIDTH), labels == 1)
    assert beside.f1(np.arange(WIDTH + 30), labels == 1) == pytest.approx(of_alone, abs=0.003)


def test_verdicts_need_three_seeds_an_interval_and_an_order() -> None:
    x = np.arange(6.0)

    def seeds(n: int, slope: float, noise: float = 0.02) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        rng = np.random.default_rng(3)
        return [[(x, 8 * 2 ** (slope * x + noise * rng.normal(size=6)))] for _ in range(n)]

    rising = trend_over(seeds(3, 0.4))
    assert rising.direction == 1 and rising.change.point == pytest.approx(2, abs=0.1) and rising.p < 0.01
    assert trend_over(seeds(3, -0.4)).direction == -1
    assert trend_over(seeds(2, 0.4)).direction is None
    flat = trend_over(seeds(3, 0.0))
    assert flat.direction == 0 and verdict_of([flat] * 3) == NO_TREND
    wild = trend_over(seeds(3, 0.0, noise=3.0))
    assert wild.direction is None and verdict_of([flat, flat, wild]) == UNDETERMINED
    gaps = [[(x, np.array([math.nan, 8, 9, math.nan, 12, 14]))], [], [(x, np.full(6, math.nan))]]
    assert trend_over(gaps).change.n_seeds == 1
    # Two sizes have no order to be tested, so the interval decides alone.
    assert trend_over([[(np.array([5.0, 6.0]), np.array([8.0, 16.0 + seed]))] for seed in range(3)]).direction == 1
