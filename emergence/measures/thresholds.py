"""Is there a scale, or a loss, at which a score starts to rise? Where, and how surely?

The module fits curves with and without a break, and gives the break a profile interval. It tests "no break" by a
parametric bootstrap. A chi-squared test would be wrong, because without a break its place is not identified. The
crossing of a level needs no model of the curve (docs/methods.md#thresholds).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import fdtri

from emergence.measures.curves import (
    BREAKS,
    FAMILIES,
    LOGISTIC_WIDTH,
    N_PARAMETERS,
    SMOOTH,
    CurveFit,
    Points,
    basis,
    constant_rss,
    explained,
    family_rss,
    fit_curve,
    parameter_grid,
)
from emergence.measures.resampling import FloatArray

#: 95% quantile of chi-squared with one degree of freedom, for the profile interval.
_CHI2_95 = 3.841458820694124
#: With fewer distinct x than this no break may be claimed (docs/methods.md#thresholds).
MIN_DISTINCT_X = 6
N_DRAWS = 2_000
#: What is tested. A saturating ReLU is not: with a wide ramp it is as good an S-curve as a wide logistic, which is
#: smooth, and with a narrow one it is the narrow logistic. It may still be placed by :func:`fit_break`.
TESTED_BREAKS = ("relu", "narrow_logistic")
_N_TAU, _N_SHAPE = 200, 25


@dataclass(frozen=True)
class Break:
    """A fitted break: the place ``tau`` where the curve turns and its 95% profile interval, in units of x.

    ``flags``: ``no_rise`` (nothing to place), ``interval_reaches_edge`` (one-sided at best), ``few_x``.
    """

    fit: CurveFit
    tau: float
    lo: float
    hi: float
    width: float
    flags: tuple[str, ...]


def fit_families(
    x: ArrayLike,
    y: ArrayLike,
    se: ArrayLike | None = None,
    *,
    sign: int,
    covariance: ArrayLike | None = None,
    families: tuple[str, ...] = FAMILIES,
) -> dict[str, CurveFit]:
    """Every family's best curve, lowest AICc first.

    Args:
        x, y: (K,) log10 N or loss, and the score.
        se: (K,) standard errors of y; None weighs all alike.
        sign: +1 where progress raises x, −1 where it lowers it.
        covariance: (K, K) of the errors, instead of ``se``.
        families: Which to fit.
    """
    points = Points.of(x, y, se, sign, covariance)
    fits = [fit_curve(family, points) for family in families]
    return {fit.family: fit for fit in sorted(fits, key=lambda f: f.aicc)}


def fit_break(
    x: ArrayLike,
    y: ArrayLike,
    se: ArrayLike | None = None,
    *,
    sign: int,
    family: str = "relu",
    covariance: ArrayLike | None = None,
) -> Break:
    """The break of one family with its 95% profile interval (docs/methods.md#thresholds).

    The interval is {τ : RSS(τ) − RSS_min ≤ 3.84} where the errors are known. Where they are not,
    F(1, n − p) · RSS_min / (n − p) stands in place of 3.84. ``width`` is the 10-90% width of a logistic, the ramp of a
    saturating curve, and nan for a ReLU.
    """
    if family not in BREAKS:
        raise ValueError(f"{family!r} has no break; one of {BREAKS}")
    points = Points.of(x, y, se, sign, covariance)
    fit = fit_curve(family, points)
    flags = [*fit.flags, *(["few_x"] if points.n_distinct < MIN_DISTINCT_X else [])]
    if "no_rise" in flags:
        return Break(fit, math.nan, math.nan, math.nan, math.nan, tuple(flags))
    lo, hi, at_edge = _profile_interval(family, points, fit)
    least, most = sorted((sign * lo, sign * hi))
    return Break(fit, fit.parameters["tau"], least, most, _width(fit), (*flags, *(["interval_reaches_edge"] * at_edge)))


def _width(fit: CurveFit) -> float:
    if "kappa" in fit.parameters:
        return LOGISTIC_WIDTH / fit.parameters["kappa"]
    return fit.parameters.get("width", math.nan)


def _profile_interval(family: str, points: Points, fit: CurveFit) -> tuple[float, float, bool]:
    """Ends along z of the outermost accepted places, and whether one is the edge of the data."""
    tiny = 1e-12 * float(constant_rss(points.y[None], points)[0])
    limit = fit.rss + max(_allowed(fit, points), tiny)
    span = points.hi - points.lo
    best = points.sign * fit.parameters["tau"]
    tau = np.unique([*np.linspace(points.lo, points.hi, _N_TAU + 2)[1:-1], best])
    accepted = np.flatnonzero((_tau_profile(family, points, tau) <= limit) | (tau == best))
    first, last = int(accepted[0]), int(accepted[-1])
    lo = points.lo if first == 0 else _edge(family, points, limit, tau[first], tau[first - 1])
    hi = points.hi if last == len(tau) - 1 else _edge(family, points, limit, tau[last], tau[last + 1])
    return lo, hi, bool(lo - points.lo < 1e-9 * span or points.hi - hi < 1e-9 * span)


def _allowed(fit: CurveFit, points: Points) -> float:
    """How much worse than the best place an accepted one may fit; without scatter to judge by, anything is accepted."""
    if points.se_known:
        return _CHI2_95
    free = len(points) - N_PARAMETERS[fit.family]
    return float(fdtri(1, free, 0.95)) * fit.rss / free if free > 0 else math.inf


def _edge(family: str, points: Points, limit: float, inside: float, outside: float) -> float:
    """Where RSS(τ) crosses the limit between an accepted and a rejected place: three rounds of a grid of 16."""
    for _ in range(3):
        tau = np.linspace(inside, outside, 17)
        rejected = np.flatnonzero(_tau_profile(family, points, tau[1:]) > limit)
        k = int(rejected[0]) if len(rejected) else 15
        inside, outside = float(tau[k]), float(tau[k + 1])
    return outside


def _tau_profile(family: str, points: Points, tau: FloatArray) -> FloatArray:
    """(T,) the smallest RSS with the break at each of the places (T,) along z."""
    y = points.y[None]
    shape = np.zeros((1, 0))
    if family != "relu":
        grid = parameter_grid(family, points.lo, points.hi)
        shape = np.linspace(grid.least[1], grid.most[1], _N_SHAPE)[:, None]
    theta = np.concatenate([np.repeat(tau, len(shape))[:, None], np.tile(shape, (len(tau), 1))], axis=1)
    gain = explained(basis(family, points.z, theta, points.lo, points.hi), y, points)[:, 0]
    return np.maximum(constant_rss(y, points)[0] - gain.reshape(len(tau), -1).max(axis=1), 0.0)


@dataclass(frozen=True)
class BreakTest:
    """Parametric bootstrap of "the curve is smooth".

    Attributes:
        p: Share of draws from the best smooth curve in which a break helps at least as much as in the data.
        smooth: The smooth family with the smallest RSS. breaking: The breaking one.
        gain: RSS(smooth) − RSS(break) where standard errors are known, else the logarithm of their ratio.
        n_draws: Draws of the bootstrap.
        flags: ``few_x`` with fewer than six distinct x: p then is no evidence of a break.
    """

    p: float
    smooth: str
    breaking: str
    gain: float
    n_draws: int
    flags: tuple[str, ...]


def break_test(
    x: ArrayLike,
    y: ArrayLike,
    se: ArrayLike | None = None,
    *,
    sign: int,
    covariance: ArrayLike | None = None,
    smooth: tuple[str, ...] = SMOOTH,
    breaks: tuple[str, ...] = TESTED_BREAKS,
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> BreakTest:
    """Does a break fit better than chance allows? Every draw repeats the whole choice of curves.

    The noise has the given covariance, or else the given standard errors. Without either it has the residual variance
    of the smooth fit.
    """
    points = Points.of(x, y, se, sign, covariance)
    null = min((fit_curve(f, points, polish=False) for f in smooth), key=lambda fit: fit.rss)
    scale = 1.0
    if not points.se_known:
        scale = math.sqrt(null.rss / max(1, len(points) - N_PARAMETERS[null.family]))
    noise = np.random.default_rng(seed).standard_normal((n_draws, len(points)))
    draws = null.predict(points.sign * points.z) + scale * noise @ np.linalg.cholesky(points.covariance).T
    tried = np.concatenate([points.y[None], draws])  # the data first
    rss = {f: family_rss(f, points, tried) for f in (*smooth, *breaks)}
    gain = _gain(points, tried, *(np.min([rss[f] for f in families], axis=0) for families in (smooth, breaks)))
    reached = int((gain[1:] >= gain[0] - 1e-12 * abs(gain[0])).sum())
    breaking = min(breaks, key=lambda f: float(rss[f][0]))
    flags = ("few_x",) if points.n_distinct < MIN_DISTINCT_X else ()
    return BreakTest((1 + reached) / (1 + n_draws), null.family, breaking, float(gain[0]), n_draws, flags)


def _gain(points: Points, y: FloatArray, smooth: FloatArray, breaking: FloatArray) -> FloatArray:
    """(D,) how much better the best break fits than the best smooth curve, from their RSS (D,)."""
    if points.se_known:
        return np.asarray(smooth - breaking)
    tiny = 1e-12 * constant_rss(y, points) + 1e-300
    return np.asarray(np.log(np.maximum(smooth, tiny) / np.maximum(breaking, tiny)))


@dataclass(frozen=True)
class Crossing:
    """Where a monotone curve reaches a level, in units of x.

    Attributes:
        x: The place, by interpolation; nan where the level is never reached.
        lo, hi: 95% bootstrap interval; an end is infinite where more than 2.5% of the draws never cross.
        share_reached: Share of the draws that reach the level.
        flags: ``not_reached``, or ``reached_at_first`` where the first point is already there.
    """

    x: float
    lo: float
    hi: float
    share_reached: float
    flags: tuple[str, ...]


def _crossing(points: Points, y: FloatArray, level: float) -> tuple[float, tuple[str, ...]]:
    """The place of scores y (K,) in the order of ``points``, and its flags."""
    z, sign = points.z, points.sign
    from scipy.optimize import isotonic_regression  # a tenth of a second, which most tables do without

    fitted = isotonic_regression(y, weights=1.0 / np.diag(points.covariance)).x
    above = np.flatnonzero(fitted >= level)
    if not len(above):
        return math.nan, ("not_reached",)
    k = int(above[0])
    if k == 0:
        return sign * float(z[0]), ("reached_at_first",)
    share = (level - fitted[k - 1]) / (fitted[k] - fitted[k - 1])
    return sign * float(z[k - 1] + share * (z[k] - z[k - 1])), ()


def crossing_interval(
    x: ArrayLike,
    y: ArrayLike,
    se: ArrayLike | None = None,
    *,
    sign: int,
    level: float = 0.5,
    covariance: ArrayLike | None = None,
    draws: ArrayLike | None = None,
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> Crossing:
    """The crossing with its interval from bootstrap draws (D, K) of y, or without them from N(y, covariance or SE²)."""
    points = Points.of(x, y, se, sign, covariance)
    if draws is None:
        if not points.se_known:
            raise ValueError("an interval needs standard errors or bootstrap draws of y")
        noise = np.random.default_rng(seed).standard_normal((n_draws, len(points)))
        drawn = points.y + noise @ np.linalg.cholesky(points.covariance).T
    else:
        drawn = np.asarray(draws)[:, np.argsort(sign * np.asarray(x, dtype=np.float64), kind="stable")]
    at, flags = _crossing(points, points.y, level)
    crossings = np.array([_crossing(points, row, level)[0] for row in drawn])
    along = np.where(np.isnan(crossings), np.inf, sign * crossings)  # never reached: beyond the data
    ends = np.quantile(along, [0.025, 0.975], method="nearest")  # no interpolation towards infinity
    lo, hi = sorted(sign * float(end) for end in ends)
    return Crossing(at, lo, hi, float(np.isfinite(along).mean()), flags)
