"""Is there a scale, or a loss, at which a score starts to rise? Where, and how surely?

Fits with and without a break, a profile interval for the break, a parametric bootstrap test of "no
break" (never chi-squared: without a break its place is not identified), and the model-free crossing of
a level (METHODS B5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression
from scipy.special import logit

from emergence.measures.curves import (
    BREAKS,
    FAMILIES,
    LOGISTIC_WIDTH,
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
#: With fewer distinct x than this no break may be claimed (METHODS A5).
MIN_DISTINCT_X = 6
N_DRAWS = 2_000


@dataclass(frozen=True)
class Break:
    """A fitted break: where the curve turns, and the 95% profile interval of that place, in units of x.

    ``flags``: ``no_rise`` (nothing to place), ``interval_reaches_edge`` (one-sided at best), ``few_x``.
    """

    fit: CurveFit
    tau: float
    lo: float
    hi: float
    width: float
    flags: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        numbers = {k: getattr(self, k) for k in ("tau", "lo", "hi", "width")}
        finite = {k: v if math.isfinite(v) else None for k, v in numbers.items()}
        return {"fit": self.fit.to_dict(), **finite, "flags": list(self.flags)}


def fit_families(
    x: ArrayLike, y: ArrayLike, se: ArrayLike | None = None, *, sign: int, families: tuple[str, ...] = FAMILIES
) -> dict[str, CurveFit]:
    """Every family's best curve, lowest AICc first.

    Args:
        x, y: (K,) log10 N or loss, and the score.
        se: (K,) standard errors of y; None weighs all alike.
        sign: +1 where progress raises x, −1 where it lowers it.
        families: Which to fit.
    """
    points = Points.of(x, y, se, sign)
    fits = [fit_curve(family, points) for family in families]
    return {fit.family: fit for fit in sorted(fits, key=lambda f: f.aicc)}


def fit_break(x: ArrayLike, y: ArrayLike, se: ArrayLike | None = None, *, sign: int, family: str = "relu") -> Break:
    """The break of one family with its profile interval {τ : n·ln(RSS(τ)/RSS_min) ≤ 3.84}.

    ``width`` is the 10-90% width of a logistic, the ramp of a saturating curve, nan for a ReLU.
    """
    if family not in BREAKS:
        raise ValueError(f"{family!r} has no break; one of {BREAKS}")
    points = Points.of(x, y, se, sign)
    fit = fit_curve(family, points)
    flags = [*fit.flags, *(["few_x"] if points.n_distinct < MIN_DISTINCT_X else [])]
    width = {"relu": math.nan, "saturating": fit.parameters.get("width", math.nan)}.get(
        family, LOGISTIC_WIDTH / fit.parameters.get("kappa", math.nan)
    )
    if "no_rise" in flags:
        return Break(fit, math.nan, math.nan, math.nan, math.nan, tuple(flags))
    tau, rss = _tau_profile(family, points)
    best = max(fit.rss, 1e-12 * float(constant_rss(points.y[None], points.weights)[0]))
    accepted = np.flatnonzero(len(points) * np.log(np.maximum(rss, best) / best) <= _CHI2_95)
    at = int(np.searchsorted(tau, sign * fit.parameters["tau"]))
    first, last = min([at, *accepted]), max([at - 1, *accepted])
    if first == 0 or last == len(tau) - 1:
        flags.append("interval_reaches_edge")
    bounds = np.concatenate([[points.z[0]], tau, [points.z[-1]]])  # outward to the next place tried
    lo, hi = sorted((sign * float(bounds[first]), sign * float(bounds[last + 2])))
    return Break(fit, fit.parameters["tau"], lo, hi, width, tuple(flags))


def _tau_profile(family: str, points: Points) -> tuple[FloatArray, FloatArray]:
    """Break places along z (rising) and the smallest RSS with the break there."""
    lo, hi = float(points.z[0]), float(points.z[-1])
    grid = parameter_grid(family, lo, hi)
    y = points.y[None, :]
    gain = explained(basis(family, points.z, grid, lo, hi), y, points.weights)[:, 0]
    tau, index = np.unique(grid[:, 0], return_inverse=True)
    best = np.zeros(len(tau))
    np.maximum.at(best, index, gain)
    return tau, np.maximum(constant_rss(y, points.weights)[0] - best, 0.0)


@dataclass(frozen=True)
class BreakTest:
    """Parametric bootstrap of "the curve is smooth".

    Attributes:
        p: Share of draws from the best smooth curve in which a break helps at least as much as in the data.
        smooth: The smooth family with the smallest RSS. breaking: The breaking one.
        gain: RSS(smooth) − RSS(break) with standard errors, ln of their ratio without.
        n_draws: Draws.
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
    smooth: tuple[str, ...] = SMOOTH,
    breaks: tuple[str, ...] = ("relu", "logistic"),
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> BreakTest:
    """Does a break fit better than chance allows? Draws repeat the whole choice of curves.

    Noise is N(0, SE²), or, without standard errors, of the smooth fit's residual variance.
    """
    points = Points.of(x, y, se, sign)
    observed = points.y[None, :]
    smooth_fit = min((fit_curve(f, points) for f in smooth), key=lambda fit: fit.rss)
    null = smooth_fit.predict(points.sign * points.z)
    if points.se_known:
        sd = points.weights**-0.5
    else:
        free = max(1, len(points) - 3)  # every smooth family has at most three parameters
        sd = np.full(len(points), math.sqrt(smooth_fit.rss / free))
    noise = np.random.default_rng(seed).standard_normal((n_draws, len(points)))
    draws = null + sd * noise
    in_data, in_draws = (_break_gain(points, values, smooth, breaks) for values in (observed, draws))
    breaking = min(breaks, key=lambda f: float(family_rss(f, points, observed)[0]))
    reached = int((in_draws >= in_data[0] - 1e-12 * abs(in_data[0])).sum())
    flags = ("few_x",) if points.n_distinct < MIN_DISTINCT_X else ()
    return BreakTest((1 + reached) / (1 + n_draws), smooth_fit.family, breaking, float(in_data[0]), n_draws, flags)


def _break_gain(points: Points, y: FloatArray, smooth: tuple[str, ...], breaks: tuple[str, ...]) -> FloatArray:
    """(D,) how much better the best break fits than the best smooth curve, both on their grids."""
    best = [np.min([family_rss(f, points, y) for f in families], axis=0) for families in (smooth, breaks)]
    if points.se_known:
        return np.asarray(best[0] - best[1])
    tiny = 1e-12 * constant_rss(y, points.weights) + 1e-300
    return np.asarray(np.log(np.maximum(best[0], tiny) / np.maximum(best[1], tiny)))


@dataclass(frozen=True)
class Crossing:
    """Where a monotone curve reaches a level, in units of x.

    Attributes:
        x: By interpolation; nan where it is never reached.
        lo, hi: 95% bootstrap interval; an end is infinite where more than 2.5% of the draws never cross.
        share_reached: Of the draws.
        flags: ``not_reached``, or ``reached_at_first`` where the first point is already there.
    """

    x: float
    lo: float
    hi: float
    share_reached: float
    flags: tuple[str, ...]


def isotonic_crossing(
    x: ArrayLike, y: ArrayLike, se: ArrayLike | None = None, *, sign: int, level: float = 0.5
) -> tuple[float, tuple[str, ...]]:
    """The x at which the isotonic fit crosses ``level``, and flags; nan and ``not_reached`` if never."""
    points = Points.of(x, y, se, sign)
    z, fitted = points.z, isotonic_regression(points.y, weights=points.weights).x
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
    draws: ArrayLike | None = None,
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> Crossing:
    """The crossing with its interval from bootstrap draws (D, K) of y, or from N(y, SE²) without them."""
    values = np.asarray(y, dtype=np.float64)
    if draws is None:
        if se is None:
            raise ValueError("an interval needs standard errors or bootstrap draws of y")
        draws = values + np.asarray(se) * np.random.default_rng(seed).standard_normal((n_draws, len(values)))
    at, flags = isotonic_crossing(x, values, se, sign=sign, level=level)
    crossings = np.array([isotonic_crossing(x, row, se, sign=sign, level=level)[0] for row in np.asarray(draws)])
    along = np.where(np.isnan(crossings), np.inf, sign * crossings)  # never reached: beyond the data
    ends = np.quantile(along, [0.025, 0.975], method="nearest")  # no interpolation towards infinity
    lo, hi = sorted(sign * float(end) for end in ends)
    return Crossing(at, lo, hi, float(np.isfinite(along).mean()), flags)


def logit_scale(y: ArrayLike, se: ArrayLike, n: int) -> tuple[FloatArray, FloatArray]:
    """Scores in [0, 1] and their SEs on the logit scale, for fits where an interval touches 0 or 1.

    Scores are pulled half a question of ``n`` off the ends, so that 0 and 1 stay finite.
    """
    edge = 0.5 / n
    inside = np.clip(np.asarray(y, dtype=np.float64), edge, 1 - edge)
    return np.asarray(logit(inside)), np.asarray(se, dtype=np.float64) / (inside * (1 - inside))
