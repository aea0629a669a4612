"""How large a break do the data exclude? Absence of a significant break is no evidence of a smooth curve.

A curve is taken as (1 − s) parts of some smooth family and s parts of one narrow step, both rising: s is the share of
the whole rise that happens at one place, beyond what the smooth curve puts there. The bound is the largest s whose best
curve, over all families, shapes and places, fits no worse than chance allows (docs/methods.md#thresholds).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import fdtri

from emergence.measures.curves import NARROW, SMOOTH, Grid, Points, basis, constant_rss, parameter_grid
from emergence.measures.resampling import FloatArray

#: 10-90% width of the step as a share of the axis: half of what still counts as a break.
STEP_WIDTH = NARROW / 2
#: A break below this share of the rise is as good as none (docs/methods.md#metric-mirage).
NEGLIGIBLE = 0.10
#: 97.5% quantile of chi-squared with one degree of freedom: for a bound 90% would do, if the place of the step were not
#: searched for as well (benchmarks/break_coverage.py).
_LIMIT = 5.023886187314888
#: Rise, share, place of the step, level, and two for the shape of the smooth curve.
_N_PARAMETERS = 6
_SHARES = np.linspace(0.0, 1.0, 51)
_N_PLACES = 50
#: Rounds of halving the grid's steps.
_ROUNDS = 6


@dataclass(frozen=True)
class Equivalence:
    """``share`` of the rise in one narrow step, best estimate; ``upper``: the largest that is not excluded (95%)."""

    share: float
    upper: float

    @property
    def negligible(self) -> bool:
        return self.upper < NEGLIGIBLE


def largest_break(
    x: ArrayLike, y: ArrayLike, se: ArrayLike | None = None, *, sign: int, covariance: ArrayLike | None = None
) -> Equivalence:
    """The equivalence bound of scores y (K,) at x; 1 (nothing is excluded) where the score does not rise.

    Accepted are shares with RSS(s) − RSS_min ≤ 5.02, or ≤ F(1, n − 6) RSS_min / (n − 6) without standard errors.
    """
    points = Points.of(x, y, se, sign, covariance)
    profile = _profile(points)
    least, total = float(profile.min()), float(constant_rss(points.y[None], points)[0])
    if total - least <= 1e-12 * total:
        return Equivalence(0.0, 1.0)
    free = len(points) - _N_PARAMETERS
    allowed = _LIMIT
    if not points.se_known:
        allowed = float(fdtri(1, free, 0.975)) * max(least, 1e-12 * total) / free if free > 0 else math.inf
    accepted = np.flatnonzero(profile - least <= allowed)
    return Equivalence(float(_SHARES[int(profile.argmin())]), _upper(profile - least - allowed, int(accepted[-1])))


def _upper(over: FloatArray, last: int) -> float:
    """Where the profile leaves the accepted shares, interpolated."""
    if last == len(_SHARES) - 1:
        return 1.0
    inside, outside = -float(over[last]), float(over[last + 1])
    return float(_SHARES[last] + (_SHARES[last + 1] - _SHARES[last]) * inside / (inside + outside))


def _profile(points: Points) -> FloatArray:
    """(shares,) the smallest RSS with that share of the rise in one step."""
    y = points.whiten @ points.y
    most = np.max([_explained_by_share(family, points, y) for family in SMOOTH], axis=0)
    return np.maximum(float(y @ y) - most, 0.0)


def _explained_by_share(family: str, points: Points, y: FloatArray) -> FloatArray:
    """(shares,) squares of whitened y (K,) that the mixtures of one family explain: on a grid, then around its best."""
    grid, places = parameter_grid(family, points.lo, points.hi), _places(points)
    smooth, steps = _curves(family, grid.theta, points), _steps(places, points)
    with_y, steps_with_y = smooth @ y, steps @ y
    size, steps_size, crossed = (smooth**2).sum(axis=1), (steps**2).sum(axis=1), smooth @ steps.T
    start = np.empty(len(_SHARES), dtype=np.int64)
    for k, s in enumerate(_SHARES):
        moment = (1 - s) * with_y[:, None] + s * steps_with_y
        square = (1 - s) ** 2 * size[:, None] + 2 * s * (1 - s) * crossed + s**2 * steps_size
        start[k] = (np.maximum(moment, 0.0) ** 2 / square).argmax()
    at, of_step = np.divmod(start, len(places))
    theta = np.concatenate([grid.theta[at], places[of_step, None]], axis=1)  # (shares, P + 1)
    least, most = np.append(grid.least, places[0]), np.append(grid.most, places[-1])
    step = np.append(grid.step, places[1] - places[0])
    moves = Grid.of(*[np.array([-1.0, 0.0, 1.0])] * len(step)).theta * step  # (C, P + 1)
    rows = np.arange(len(theta))
    for k in range(1, _ROUNDS + 1):
        tried = np.clip(theta[:, None] + moves * 0.5**k, least, most)  # (shares, C, P + 1)
        flat = tried.reshape(-1, len(step))
        curves, jumps = (v.reshape(*tried.shape[:2], -1) for v in (
            _curves(family, flat[:, :-1], points), _steps(flat[:, -1], points)))  # fmt: skip
        mixed = curves + _SHARES[:, None, None] * (jumps - curves)
        gains = np.maximum(mixed @ y, 0.0) ** 2 / (mixed**2).sum(axis=2)
        theta = tried[rows, gains.argmax(axis=1)]  # staying is one of the moves
    return np.asarray(gains.max(axis=1))


def _curves(family: str, theta: FloatArray, points: Points) -> FloatArray:
    """(G, K) the family's curves, each rising from 0 to 1 over the data, whitened."""
    return _risen(basis(family, points.z, theta, points.lo, points.hi)) @ points.whiten.T


def _places(points: Points) -> FloatArray:
    """(T,) where a step lies with its 10% and 90% inside the data."""
    half = 0.5 * STEP_WIDTH * (points.hi - points.lo)
    return np.linspace(points.lo + half, points.hi - half, _N_PLACES)


def _steps(places: FloatArray, points: Points) -> FloatArray:
    """(T, K) narrow steps from 0 to 1, whitened."""
    theta = np.stack([places, np.full(len(places), math.log(STEP_WIDTH * (points.hi - points.lo)))], axis=1)
    return _curves("narrow_logistic", theta, points)


def _risen(phi: FloatArray) -> FloatArray:
    return np.asarray((phi - phi[:, :1]) / (phi[:, -1:] - phi[:, :1]))
