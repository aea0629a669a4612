"""Delete-half spread against the truth, and a permutation test that is uniform when nothing corresponds."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from emergence.measures.cka import CKAMethod, cka
from emergence.measures.cka_resampling import delete_half, permutation_test

METHODS = [CKAMethod(), CKAMethod("biased"), CKAMethod(kernel="rbf"), CKAMethod("biased", "rbf")]


def pair(rng: np.random.Generator, n: int, noise: float = 1.0) -> list[NDArray[np.float64]]:
    factors = rng.normal(size=(n, 4)) * [3, 2, 1, 1]
    return [factors @ rng.normal(size=(4, d)) + noise * rng.normal(size=(n, d)) for d in (6, 8)]


@pytest.mark.parametrize("method", METHODS)
def test_halves_are_what_cka_gives_on_them(method: CKAMethod) -> None:
    rng = np.random.default_rng(0)
    x, y = pair(rng, 60)
    blocks = np.repeat(np.arange(30), 2)
    found = delete_half([x, y], [(0, 1), (1, 0), (1, 1)], blocks, method, draws=5, seed=3, block_bytes=20_000)
    assert found.values.shape == (3, 5) and found.n_blocks == 30
    assert found.points == pytest.approx([cka(x, y, method)] * 2 + [1.0], abs=1e-12)
    np.testing.assert_allclose(found.values[0], found.values[1], atol=1e-14)
    if method.kernel == "linear":  # rbf keeps the full sample's bandwidth
        order = np.random.default_rng(3).random((5, 30)).argsort(axis=1)
        for draw in range(5):
            rows = (order[draw] < 15)[blocks]
            assert found.values[0, draw] == pytest.approx(cka(x[rows], y[rows], method), abs=1e-11)


def test_spread_over_halves_is_the_standard_error() -> None:
    rng = np.random.default_rng(1)
    mixing = [rng.normal(size=(4, d)) for d in (6, 8)]

    def sample(n: int) -> list[NDArray[np.float64]]:
        factors = rng.normal(size=(n, 4)) * [3, 2, 1, 1]
        return [factors @ m + 2 * rng.normal(size=(n, m.shape[1])) for m in mixing]

    truth = np.std([cka(*sample(81)) for _ in range(300)])
    errors = [delete_half(sample(81), [(0, 1)], np.arange(81), draws=60, seed=i).standard_errors[0] for i in range(25)]
    assert np.mean(errors) == pytest.approx(truth, rel=0.15)


def test_rows_of_one_sentence_go_together() -> None:
    rng = np.random.default_rng(2)
    x, y = (np.repeat(z, 4, axis=0) for z in pair(rng, 40))
    sentences = np.repeat(np.arange(40), 4)
    clustered = delete_half([x, y], [(0, 1)], sentences).standard_errors[0]
    by_rows = delete_half([x, y], [(0, 1)], np.arange(160)).standard_errors[0]
    assert clustered > 1.5 * by_rows


def test_intervals_hold_the_point_and_stay_below_one() -> None:
    rng = np.random.default_rng(3)
    x, _ = pair(rng, 80)
    near = x + 0.05 * rng.normal(size=x.shape)
    found = delete_half([x, near, x.copy()], [(0, 1), (0, 2)], np.arange(80))
    lo, hi = found.intervals()
    assert lo[0] < found.points[0] < hi[0] < 1.0
    assert (lo[1], hi[1]) == pytest.approx((1.0, 1.0), abs=1e-12)
    wider = found.intervals(0.99)
    assert wider[0][0] < lo[0] and wider[1][0] > hi[0]
    with pytest.raises(ValueError, match="19 sentences"):
        delete_half([x[:19], x[:19]], [(0, 1)], np.arange(19))


@pytest.mark.parametrize("method", METHODS)
def test_permuted_statistic_is_cka_of_permuted_rows(method: CKAMethod) -> None:
    rng = np.random.default_rng(4)
    x, y = pair(rng, 30)
    test = permutation_test(x, y, np.arange(30), method, n_permutations=19, seed=7)
    order = np.random.default_rng(7)
    values = [cka(x, y[order.permutation(30)], method) for _ in range(19)]
    assert test.observed == pytest.approx(cka(x, y, method), abs=1e-12)
    assert test.null_mean == pytest.approx(np.mean(values), abs=1e-12)
    assert test.p_value == (1 + sum(v >= test.observed for v in values)) / 20


@pytest.mark.parametrize("components", [None, 2])
def test_uniform_when_sentences_are_unrelated(components: int | None) -> None:
    # Sentences of unequal length, with strong likeness within a sentence on both sides, and none across.
    rng = np.random.default_rng(5)
    sizes = rng.integers(1, 4, size=30)
    sentences = np.repeat(np.arange(30), sizes)
    p_values = []
    for _ in range(120):
        x, y = (rng.normal(size=(30, 3))[sentences] + 0.3 * rng.normal(size=(len(sentences), 3)) for _ in range(2))
        p_values.append(
            permutation_test(x, y, sentences, n_permutations=39, components=components, seed=int(rng.integers(1 << 30)))
        )
    values = np.array([test.p_value for test in p_values])
    for level in (0.1, 0.25, 0.5, 0.75):
        assert abs((values <= level + 1e-9).mean() - level) < 3.5 * np.sqrt(level * (1 - level) / len(values))


def test_a_real_correspondence_is_found() -> None:
    rng = np.random.default_rng(6)
    x, y = pair(rng, 40, noise=2.0)
    test = permutation_test(x, y, np.arange(40), n_permutations=99)
    assert test.p_value == 0.01 and test.null_high < test.observed and abs(test.null_mean) < 0.05
    assert permutation_test(x, y, np.arange(40), n_permutations=99, components=3).components == 3


def test_sentences_without_a_peer_stay_where_they_are() -> None:
    rng = np.random.default_rng(7)
    x, y = pair(rng, 30)
    sentences = np.concatenate([np.zeros(10, dtype=int), np.arange(1, 21)])
    assert permutation_test(x, y, sentences, n_permutations=9).fixed_rows == 10
    alone = permutation_test(x, y, np.zeros(30), n_permutations=9)
    assert alone.fixed_rows == 30 and alone.p_value == 1.0
