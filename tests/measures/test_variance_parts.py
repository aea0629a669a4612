"""Width for variances known from few observations: exact at both ends, and in between as wide as it must be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import ndtri, stdtrit

from emergence.measures.variance_parts import VariancePart, effective_df, t_widening


def test_one_part_is_students_t_and_none_the_normal() -> None:
    assert effective_df([VariancePart(0.3, 4)]) == 4
    assert effective_df([VariancePart(0.3, 9), VariancePart(0.0, 1)]) == 9
    assert effective_df([VariancePart(1.0, math.inf)]) == math.inf == effective_df([])
    assert math.isnan(effective_df([VariancePart(math.nan, 4)]))
    assert t_widening(math.inf, 0.95) == 1.0
    assert t_widening(2, 0.95) == pytest.approx(4.302653 / 1.959964, rel=1e-5)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_squared_half_widths_add_up(level: float) -> None:
    p = (1 + level) / 2
    df = effective_df([VariancePart(1.0, math.inf), VariancePart(0.5, 2), VariancePart(0.1, 4)], level)
    half = math.sqrt(ndtri(p) ** 2 + 0.5 * stdtrit(2, p) ** 2 + 0.1 * stdtrit(4, p) ** 2)
    assert t_widening(df, level) * ndtri(p) * math.sqrt(1.6) == pytest.approx(half, rel=1e-6)


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("ratio", [0.25, 1.0, 4.0])
def test_a_known_variance_and_that_of_few_seeds_cover(seeds: int, ratio: float) -> None:
    """Question variance 1 (half of it noise of single seeds), seed variance ``ratio`` from ``seeds`` - 1 df."""
    rng, df, n = np.random.default_rng(0), seeds - 1, 4000
    seen = (ratio + 0.5) * rng.chisquare(df, n) / df
    errors = rng.normal(size=n) * math.sqrt(1 + ratio)
    of_seeds = np.maximum(seen - 0.5, 0)
    total = 1 + of_seeds
    half = [
        t_widening(effective_df([VariancePart(1.0, math.inf), VariancePart(v, df)]), 0.95) * ndtri(0.975) * math.sqrt(s)
        for v, s in zip(of_seeds.tolist(), total.tolist(), strict=True)
    ]
    assert 0.925 <= np.mean(np.abs(errors) <= half) <= 0.98
