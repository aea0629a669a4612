from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from emergence.answering.few_shot import few_shot_indices
from emergence.errors import UsageError


def test_smaller_subsets_are_contained_in_larger_ones() -> None:
    subsets = [set(few_shot_indices(1000, n, seed=3).tolist()) for n in (10, 50, 100, 500, 1000)]
    assert [len(s) for s in subsets] == [10, 50, 100, 500, 1000]
    assert all(small < large for small, large in pairwise(subsets))


def test_seeded_and_spread_over_the_data() -> None:
    first = few_shot_indices(10_000, 200, seed=0)
    np.testing.assert_array_equal(first, few_shot_indices(10_000, 200, seed=0))
    assert (first != few_shot_indices(10_000, 200, seed=1)).any()
    assert abs(first.mean() / 5000 - 1) < 0.15


def test_other_draws_share_nothing_but_chance() -> None:
    """Neither with the nested draw, nor with each other, nor between amounts: overlaps are those of chance."""
    draws = {(k, n): set(few_shot_indices(1000, n, seed=3, subset=k).tolist()) for k in range(3) for n in (100, 300)}
    for (k, n), draw in draws.items():
        assert len(draw) == n
        for (other_k, other_n), other in draws.items():
            if (k, n) < (other_k, other_n) and (k, other_k) != (0, 0):
                chance = n * other_n / 1000
                assert abs(len(draw & other) - chance) < 5 * chance**0.5
    np.testing.assert_array_equal(few_shot_indices(1000, 100, 3, 0), few_shot_indices(1000, 100, 3))


def test_no_limit_is_everything_in_order() -> None:
    np.testing.assert_array_equal(few_shot_indices(7, None, seed=0), np.arange(7))
    np.testing.assert_array_equal(few_shot_indices(7, 7, seed=5), np.arange(7))


@pytest.mark.parametrize("limit", [0, 8])
def test_impossible_limits_are_refused(limit: int) -> None:
    with pytest.raises(UsageError, match="--finetune-samples must be between 1 and the 7"):
        few_shot_indices(7, limit, seed=0)
