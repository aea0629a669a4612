"""Control task, description length and layer statistics: known answers and planted truths."""

from __future__ import annotations

import math

import numpy as np
import pytest

from emergence.measures.probe_validity import (
    ControlTask,
    expected_layer,
    mdl_block_ends,
    online_description_length,
    selectivity,
)

N, K = 100_000, 45


def _blocks(log_prob):
    ends = mdl_block_ends(N)
    return ends, [np.full(size, log_prob) for size in np.diff(ends)]


def test_known_uniform_probe_compresses_nothing():
    result = online_description_length(np.full(N, K), *_blocks(-math.log(K)))
    assert result.uniform_bits == pytest.approx(549185.3096329675)
    assert result.online_bits == pytest.approx(549185.3096329675)
    assert result.compression == pytest.approx(1.0) and result.n_clipped == 0


def test_known_perfect_probe():
    result = online_description_length(np.full(N, K), *_blocks(0.0))
    assert result.online_bits == pytest.approx(549.1853096329675)
    assert result.compression == pytest.approx(1000.0)


def test_block_ends():
    assert mdl_block_ends(N).tolist() == [100, 200, 400, 800, 1600, 3200, 6250, 12500, 25000, 50000, N]
    assert mdl_block_ends(1000).tolist() == [32, 62, 125, 250, 500, 1000]
    assert mdl_block_ends(20).tolist() == [20]
    with pytest.raises(ValueError, match="at least one"):
        mdl_block_ends(0)


def test_options_may_differ_and_impossible_labels_are_floored():
    result = online_description_length([2, 4, 8], [1, 3], [[-np.inf, math.log(0.5)]])
    assert result.uniform_bits == 6.0
    assert result.online_bits == pytest.approx(1.0 - math.log2(1e-12) + 1.0)
    assert result.n_clipped == 1
    with pytest.raises(ValueError, match="blocks of"):
        online_description_length([2, 4, 8], [1, 3], [[0.0]])
    with pytest.raises(ValueError, match="positive"):
        online_description_length([2, 4, 8], [1, 3], [[0.0, 0.5]])
    with pytest.raises(ValueError, match="not a number"):
        online_description_length([2, 4, 8], [1, 3], [[0.0, np.nan]])


def test_control_answers_are_one_per_type_in_any_order_and_split():
    rng = np.random.default_rng(0)
    task = ControlTask(rng.integers(-8, 9, 500), rng.integers(1, 6, 500), seed=3)
    kinds = [("eat", "what"), ("eat", "who"), ("give", "who")] * 40
    predicates, lengths = np.full(120, 20), np.full(120, 60)
    starts, ends = task.spans(kinds, predicates, lengths)
    for k, kind in enumerate(kinds[:3]):
        offset, length = task.target(kind)
        assert set(starts[k::3]) == {20 + offset} and set(ends[k::3] - starts[k::3] + 1) == {length}
    again = task.spans(kinds[::-1], predicates, lengths)
    assert again[0][::-1].tolist() == starts.tolist()
    other = ControlTask(task.offsets, task.lengths, seed=4)
    assert any(other.target(kind) != task.target(kind) for kind in kinds[:3])


def test_control_answers_follow_the_training_distribution_and_stay_in_the_sentence():
    offsets, lengths = np.array([-3, -3, -3, 2]), np.array([2, 2, 2, 4])
    task = ControlTask(offsets, lengths)
    targets = [task.target(k) for k in range(4000)]
    assert np.mean([t == (-3, 2) for t in targets]) == pytest.approx(0.75, abs=0.03)
    assert set(targets) == {(-3, 2), (2, 4)}
    words = np.random.default_rng(1).integers(1, 6, 300)
    starts, ends = task.spans(list(range(300)), words - 1, words)
    assert (starts >= 0).all() and (starts <= ends).all() and (ends < words).all()
    with pytest.raises(ValueError, match="training golds"):
        ControlTask(np.array([]), np.array([]))


def test_selectivity_of_rote_learning_is_zero():
    rng = np.random.default_rng(2)
    clusters = np.repeat(np.arange(100), 5)
    task = rng.random(500)
    rote = selectivity(task, task[rng.permutation(500)], clusters, n_boot=500)
    assert rote.lo < 0 < rote.hi and rote.point == pytest.approx(0.0)
    real = selectivity(task + 0.2, task, clusters, n_boot=500)
    assert real.point == pytest.approx(0.2) and real.lo == pytest.approx(0.2)


def test_known_layer_statistics():
    for layer in (1, 2, 4):
        scores = np.where(np.arange(6) >= layer, 0.7, 0.2)
        assert expected_layer(scores).layer == layer
    mixed = expected_layer([0.2, 0.5, 0.4, 0.5])
    assert mixed.layer == pytest.approx((0.3 * 1 + 0.1 * 3) / 0.4) and mixed.clipped == pytest.approx(0.1)
    assert math.isnan(expected_layer([0.5, 0.4]).layer)
