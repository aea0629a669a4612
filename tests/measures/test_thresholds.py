"""Curves and breaks: known answers, planted truths, and the size of the break test."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.special import expit

from benchmarks.break_coverage import interval_case
from emergence.measures.curves import (
    FAMILIES,
    LOGISTIC_WIDTH,
    NARROW,
    SMOOTH,
    Points,
    aicc,
    family_rss,
    fit_curve,
    parameter_grid,
)
from emergence.measures.thresholds import (
    TESTED_BREAKS,
    break_test,
    crossing_interval,
    fit_break,
    fit_families,
)
from emergence.plain import plain

LOSS = np.array([3.0, 2.8, 2.6, 2.4, 2.2, 2.0])
HINGE = np.array([0.1, 0.1, 0.1, 0.15, 0.25, 0.35])


def test_known_relu_on_the_loss_axis():
    found = fit_break(LOSS, HINGE, sign=-1)
    assert found.tau == pytest.approx(2.5, abs=1e-6)
    assert found.fit.parameters["A"] == pytest.approx(0.5, abs=1e-6)
    assert found.fit.parameters["B"] == pytest.approx(0.1, abs=1e-6)
    assert found.fit.rss == pytest.approx(0.0, abs=1e-12)
    assert found.lo <= 2.5 <= found.hi and found.hi - found.lo < 0.02
    np.testing.assert_allclose(found.fit.predict(LOSS), HINGE, atol=1e-6)
    json.dumps(plain(found), allow_nan=False)


def test_direction_of_progress_only_mirrors_the_answer():
    forward, backward = fit_break(-LOSS, HINGE, sign=1), fit_break(LOSS, HINGE, sign=-1)
    assert forward.tau == pytest.approx(-backward.tau) and forward.lo == pytest.approx(-backward.hi)
    order = np.random.default_rng(0).permutation(6)
    assert fit_break(LOSS[order], HINGE[order], sign=-1).tau == pytest.approx(backward.tau)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_recovers_a_curve_of_its_own(family):
    x = np.linspace(5, 9, 12)
    curves = {
        "constant": np.full(12, 0.3),
        "linear": 0.1 * x,
        "quadratic": 0.1 + 0.02 * (x - 5) ** 2 + 0.05 * (x - 5),
        "power_law": 0.6 - 0.9 * 10 ** (-0.3 * (x - 5)),
        "relu": 0.1 + 0.2 * np.maximum(x - 6.7, 0),
        "wide_logistic": 0.1 + 0.5 / (1 + np.exp(-4 * (x - 7.1))),
        "narrow_logistic": 0.1 + 0.5 / (1 + np.exp(-8 * (x - 7.1))),
        "saturating": 0.1 + 0.3 * np.clip(x - 6.2, 0, 1.3),
    }
    fit = fit_curve(family, Points.of(x, curves[family], None, 1))
    np.testing.assert_allclose(fit.predict(x), curves[family], atol=2e-3)
    best = next(iter(fit_families(x, curves[family], sign=1).values()))
    assert best.rss <= fit.rss + 1e-9
    planted = {
        "relu": {"tau": 6.7},
        "wide_logistic": {"tau": 7.1, "kappa": 4.0},
        "narrow_logistic": {"tau": 7.1, "kappa": 8.0},
        "saturating": {"tau": 6.2},
    }
    for name, value in planted.get(family, {}).items():
        assert fit.parameters[name] == pytest.approx(value, rel=1e-2)


def test_logistic_width_is_that_from_10_to_90_percent():
    x = np.linspace(5, 9, 15)
    found = fit_break(x, 1 / (1 + np.exp(-6 * (x - 7))), sign=1, family="narrow_logistic")
    assert found.width == pytest.approx(4.394 / 6, rel=1e-2)


def test_weights_matter_and_grid_rss_is_never_below_the_polished():
    rng = np.random.default_rng(0)
    x, y, se = np.linspace(0, 1, 10), rng.random(10), rng.uniform(0.01, 1, 10)
    points = Points.of(x, y, se, 1)
    for family in FAMILIES:
        fit = fit_curve(family, points)
        assert fit.rss <= family_rss(family, points, y[None])[0] + 1e-9
        assert fit.rss == pytest.approx((((y - fit.predict(x)) / se) ** 2).sum())


def test_monotone_quadratic_never_falls():
    rng = np.random.default_rng(1)
    x = np.linspace(0, 1, 8)
    for _ in range(30):
        fit = fit_curve("quadratic", Points.of(x, rng.normal(size=8), None, 1))
        assert (np.diff(fit.predict(np.linspace(0, 1, 50))) >= -1e-12).all()


def test_falling_scores_have_no_break():
    found = fit_break(np.arange(8.0), -np.arange(8.0), sign=1)
    assert math.isnan(found.tau) and "no_rise" in found.flags
    json.dumps(plain(found), allow_nan=False)


@pytest.mark.parametrize(("points", "errors"), [(8, "known"), (12, "correlated"), (8, "estimated"), (12, "estimated")])
def test_profile_interval_covers_the_planted_break(points: int, errors: str) -> None:
    row = interval_case(points, 0.5, 0.04, errors, simulations=200, seed=1)
    assert 0.91 <= row["coverage"] <= 0.99, "95% up to 2.6 standard errors of the simulation"


def test_interval_without_scatter_to_judge_by_is_everything():
    three = fit_break([0.0, 1.0, 2.0], [0.0, 0.0, 1.0], sign=1)
    assert (three.lo, three.hi) == (0.0, 2.0) and "interval_reaches_edge" in three.flags


def _joint(k: int) -> np.ndarray:
    return 0.05**2 * (0.95 + 0.05 * np.eye(k))


def test_what_all_snapshots_share_costs_nothing():
    """Errors that move all scores together move the level alone: with their covariance the break is placed as surely
    as if they were not there, and a break is found that independent errors of this size would hide."""
    x, rng = np.linspace(0, 1, 12), np.random.default_rng(8)
    y = np.maximum(x - 0.5, 0) + 0.3 + 0.05 * np.sqrt(0.05) * rng.normal(size=12)
    together = fit_break(x, y, sign=1, covariance=_joint(12))
    own = fit_break(x, y, np.full(12, 0.05 * np.sqrt(0.05)), sign=1)
    assert (together.lo, together.hi) == pytest.approx((own.lo, own.hi), abs=1e-6)
    assert fit_break(x, y, np.full(12, 0.05), sign=1).hi - own.hi > 0.02
    assert break_test(x, y, sign=1, covariance=_joint(12), n_draws=199).p < 0.05
    assert break_test(x, y, np.full(12, 0.05), sign=1, n_draws=199).p > 0.1


def test_order_of_points_does_not_matter_to_a_covariance():
    x, order = np.linspace(0, 1, 8), np.random.default_rng(0).permutation(8)
    y, joint = np.maximum(x - 0.5, 0), 0.02**2 * (np.exp(-np.abs(x[:, None] - x)) + np.diag(x))
    straight = fit_break(x, y, sign=1, covariance=joint)
    mixed = fit_break(x[order], y[order], sign=1, covariance=joint[np.ix_(order, order)])
    assert (mixed.tau, mixed.lo, mixed.hi) == pytest.approx((straight.tau, straight.lo, straight.hi))
    with pytest.raises(ValueError, match="positive definite"):
        fit_break(x, y, sign=1, covariance=-joint)
    with pytest.raises(ValueError, match="covariance"):
        fit_break(x, y, sign=1, covariance=joint[:3])


def test_a_logistic_breaks_only_below_a_fifth_of_the_axis():
    x, se = np.linspace(0, 1, 12), np.full(12, 0.02)
    rng = np.random.default_rng(3)
    p = {
        width: break_test(x, expit(LOGISTIC_WIDTH / width * (x - 0.47)) + se * rng.normal(size=12), se, sign=1).p
        for width in (0.1, 0.4, 0.6, 1.0)
    }
    assert p[0.1] < 0.01 and min(p[0.4], p[0.6], p[1.0]) > 0.05
    for family in ("wide_logistic", "narrow_logistic"):
        widths = np.exp(parameter_grid(family, 2.0, 4.0).theta[:, 1]) / 2.0
        assert (widths >= NARROW - 1e-9).all() if family in SMOOTH else (widths <= NARROW + 1e-9).all()
    assert "saturating" not in TESTED_BREAKS


def test_break_test_keeps_its_size_and_has_power():
    rng = np.random.default_rng(5)
    x = np.linspace(5, 9, 10)
    smooth = 0.1 + 0.1 * (x - 5)
    null = [
        break_test(x, smooth + 0.02 * rng.normal(size=10), np.full(10, 0.02), sign=1, n_draws=99) for _ in range(60)
    ]
    assert np.mean([t.p <= 0.1 for t in null]) <= 0.2
    assert np.mean([t.p <= 0.5 for t in null]) >= 0.2
    hinge = 0.1 + 0.3 * np.maximum(x - 7.4, 0)
    found = break_test(x, hinge + 0.01 * rng.normal(size=10), np.full(10, 0.01), sign=1, n_draws=499)
    assert found.p < 0.05 and found.breaking in ("relu", "narrow_logistic") and found.flags == ()
    unweighted = break_test(x, hinge + 0.003 * rng.normal(size=10), sign=1, n_draws=499)
    assert unweighted.p < 0.05
    assert break_test(x[:4], hinge[:4], np.full(4, 0.01), sign=1, n_draws=50).flags == ("few_x",)


def test_crossing_by_interpolation():
    def crossing(x, y, sign, level):
        found = crossing_interval(x, y, sign=sign, level=level, draws=[y])
        return found.x, found.flags

    assert crossing(LOSS, HINGE, -1, 0.2) == (pytest.approx(2.3), ())
    assert crossing([0, 1, 2, 3], [0.1, 0.5, 0.3, 0.9], 1, 0.4) == (pytest.approx(1.0), ())
    assert crossing(LOSS, HINGE, -1, 0.5) == (pytest.approx(math.nan, nan_ok=True), ("not_reached",))
    assert crossing(LOSS, HINGE, -1, 0.05) == (3.0, ("reached_at_first",))


def test_crossing_interval_and_its_open_end():
    se = np.full(6, 0.01)
    inner = crossing_interval(LOSS, HINGE, se, sign=-1, level=0.2, n_draws=300)
    assert inner.lo < 2.3 < inner.hi and inner.hi - inner.lo < 0.12 and inner.share_reached == 1.0
    edge = crossing_interval(LOSS, HINGE, se, sign=-1, level=0.35, n_draws=300)
    assert edge.lo == -math.inf and math.isfinite(edge.hi) and 0.2 < edge.share_reached < 0.8
    never = crossing_interval(LOSS, HINGE, se, sign=-1, level=0.9, n_draws=50)
    assert math.isnan(never.x) and never.share_reached == 0.0 and never.lo == never.hi == -math.inf
    given = crossing_interval(LOSS, HINGE, sign=-1, level=0.2, draws=np.tile(HINGE, (20, 1)))
    assert given.lo == given.hi == pytest.approx(2.3)
    with pytest.raises(ValueError, match="standard errors"):
        crossing_interval(LOSS, HINGE, sign=-1)


def test_aicc_is_infinite_with_too_few_points():
    assert math.isinf(aicc(1.0, 5, "relu")) and math.isfinite(aicc(1.0, 6, "relu"))
    assert aicc(2.0, 10, "linear") == pytest.approx(10 * math.log(0.2) + 6 + 24 / 6)


def test_bad_points_are_refused():
    with pytest.raises(ValueError, match="three different"):
        fit_break([1, 1, 2], [0, 0, 1], sign=1)
    with pytest.raises(ValueError, match="sign"):
        fit_break(LOSS, HINGE, sign=0)
    with pytest.raises(ValueError, match="above 0"):
        fit_break(LOSS, HINGE, np.zeros(6), sign=-1)
    with pytest.raises(ValueError, match="no break"):
        fit_break(LOSS, HINGE, sign=-1, family="linear")
