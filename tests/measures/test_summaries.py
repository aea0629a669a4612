"""The score from means and standard errors alone: known answers, and seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import stdtrit

from emergence.measures.bootstrap import Estimate
from emergence.measures.summaries import difference, mean_over_seeds, score_from_summaries
from emergence.plain import plain


def cell(point: float, se: float) -> Estimate:
    return Estimate(point, point - 1.96 * se, point + 1.96 * se, "bca", 400, 100, se=se)


def test_the_known_answer() -> None:
    score = score_from_summaries(cell(0.40, 0.02), cell(0.60, 0.02), cell(0.20, 0.02))
    assert score.score.point == pytest.approx(0.5) and score.score.se == pytest.approx(0.06124, abs=1e-5)
    assert (score.score.lo, score.score.hi) == pytest.approx((0.3788, 0.6212), abs=1e-4)
    assert (score.delta.lo, score.delta.hi) == pytest.approx((0.3800, 0.6200), abs=1e-4)
    assert score.score.method == "fieller" and score.flags == ("single_seed",)
    assert score.headroom.se == pytest.approx(0.02 * math.sqrt(2))


def test_a_weak_denominator_is_undefined_and_unbounded() -> None:
    score = score_from_summaries(cell(0.22, 0.02), cell(0.23, 0.02), cell(0.20, 0.02))
    assert math.isnan(score.score.point) and "denominator_uncertain" in score.flags
    assert math.isinf(score.score.lo) and math.isinf(score.score.hi)
    assert plain(score)["bad_denominators"] is None


def test_without_standard_errors_there_is_a_point_and_no_interval() -> None:
    bare = [Estimate(p, math.nan, math.nan, "none", 0, 0) for p in (0.05, 0.25, 0.0)]
    score = score_from_summaries(*bare)
    assert score.score.point == pytest.approx(0.2) and math.isnan(score.score.lo)
    assert score.score.method == "none" and "no_interval" in score.flags
    assert math.isnan(difference(*bare[:2]).lo)


def test_one_seed_keeps_its_own_interval_and_several_widen() -> None:
    one = cell(0.4, 0.02)
    assert mean_over_seeds([one]) is one
    points = (0.38, 0.40, 0.45)
    several = mean_over_seeds([cell(p, 0.02) for p in points])
    of_seeds = np.var(points, ddof=1) / 3
    assert several.point == pytest.approx(0.41) and several.n_seeds == 3
    assert several.se == pytest.approx(math.sqrt(0.02**2 + of_seeds))
    assert several.hi - several.point > 1.96 * several.se  # Student's t, few degrees of freedom
    half = math.sqrt(stdtrit(99, 0.975) ** 2 * 0.02**2 + stdtrit(2, 0.975) ** 2 * of_seeds)
    assert several.hi - several.point == pytest.approx(half)


def test_other_sizes_of_the_cell_help_to_tell_the_variance_over_seeds() -> None:
    own, other = ([cell(p, 0.001) for p in points] for points in ((0.38, 0.40, 0.45), (0.50, 0.51, 0.52)))
    alone, pooled = mean_over_seeds(own), mean_over_seeds(own, [other, [cell(0.9, 0.02)]])
    of_seeds = np.mean([np.var([e.point for e in group], ddof=1) for group in (own, other)]) / 3
    assert pooled.se == pytest.approx(math.sqrt(0.001**2 + of_seeds)) and pooled.point == alone.point
    assert pooled.df == pytest.approx(4, abs=0.05) and alone.df == pytest.approx(2, abs=0.05)
    assert pooled.flags == ("seed_variance_pooled",) and alone.flags == ()


def test_equal_seeds_do_not_shrink_the_interval_below_that_of_their_questions() -> None:
    same = mean_over_seeds([cell(0.4, 0.02)] * 5)
    assert same.se == pytest.approx(0.02) and same.df == 99
