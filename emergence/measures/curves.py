"""Smooth and breaking curves through a score against scale or loss, fitted by weighted least squares.

Every family but the quadratic has the form y = B + A·φ(z; θ) with A ≥ 0, where z is the direction of
progress (log10 N, or minus the loss). For given θ the best (A, B) is linear, so θ is searched on a grid
and polished (METHODS B5); and thousands of parametric bootstrap draws cost one matrix product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import expit

from emergence.measures.resampling import FloatArray

SMOOTH = ("linear", "quadratic", "power_law")
BREAKS = ("relu", "logistic", "saturating")
FAMILIES = ("constant", *SMOOTH, *BREAKS)
#: Free parameters of each family, besides the noise.
N_PARAMETERS = {
    "constant": 1,
    "linear": 2,
    "quadratic": 3,
    "power_law": 3,
    "relu": 3,
    "logistic": 4,
    "saturating": 4,
}
_N_TAU, _N_SHAPE = 200, 25
#: 10-90% width of a logistic curve is this over kappa: 2·ln 9.
LOGISTIC_WIDTH = 2 * math.log(9)


@dataclass(frozen=True, eq=False)
class Points:
    """Scores along the direction of progress, sorted.

    Attributes:
        z: (K,) sign · x, rising.
        y: (K,) scores.
        weights: (K,) 1/SE², or ones.
        sign: +1 where progress raises x (log10 N), −1 where it lowers it (loss).
        se_known: Whether the weights come from standard errors.
    """

    z: FloatArray
    y: FloatArray
    weights: FloatArray
    sign: int
    se_known: bool

    @classmethod
    def of(cls, x: ArrayLike, y: ArrayLike, se: ArrayLike | None, sign: int) -> Points:
        """Raises ValueError for fewer than three different x, numbers that are not finite, or an SE ≤ 0."""
        if sign not in (1, -1):
            raise ValueError(f"sign must be 1 (more is progress) or -1 (less is), got {sign}")
        values = [np.asarray(v, dtype=np.float64) for v in (x, y)]
        errors = np.ones_like(values[0]) if se is None else np.asarray(se, dtype=np.float64)
        if values[0].ndim != 1 or not values[0].shape == values[1].shape == errors.shape:
            raise ValueError("x, y and se need one flat shape")
        if not all(np.isfinite(v).all() for v in (*values, errors)) or (errors <= 0).any():
            raise ValueError("x and y must be finite, and every standard error above 0")
        if len(np.unique(values[0])) < 3:
            raise ValueError("a curve needs at least three different x")
        order = np.argsort(sign * values[0], kind="stable")
        return cls(sign * values[0][order], values[1][order], errors[order] ** -2.0, sign, se is not None)

    def __len__(self) -> int:
        return len(self.z)

    @property
    def n_distinct(self) -> int:
        return len(np.unique(self.z))


def basis(family: str, z: FloatArray, theta: FloatArray, lo: float, hi: float) -> FloatArray:
    """φ(z; θ) (G, K) for parameters θ (G, P); ``lo`` and ``hi`` bound the data along z."""
    if family == "constant":
        return np.zeros((len(theta), len(z)))
    if family == "linear":
        return np.broadcast_to(z - lo, (len(theta), len(z)))
    if family == "power_law":  # exponential in log10 N is a power of N; κ = 0 is the line
        kappa = theta[:, :1]
        return np.asarray(np.expm1(kappa * (z - lo) / (hi - lo)) / kappa)
    tau = theta[:, :1]
    if family == "relu":
        return np.maximum(z - tau, 0.0)
    if family == "logistic":
        return np.asarray(expit(theta[:, 1:] * (z - tau)))
    if family == "saturating":
        return np.clip(z - tau, 0.0, theta[:, 1:])
    raise ValueError(f"unknown family {family!r}; one of {FAMILIES}")


def parameter_grid(family: str, lo: float, hi: float) -> FloatArray:
    """(G, P) starting values of θ over the interior of the data."""
    span = hi - lo
    tau = np.linspace(lo, hi, _N_TAU + 2)[1:-1]
    if family in ("constant", "linear"):
        return np.zeros((1, 1))
    if family == "power_law":
        rate = np.geomspace(0.05, 12.0, 60)
        return np.concatenate([-rate[::-1], rate])[:, None]
    if family == "relu":
        return tau[:, None]
    second = np.geomspace(2.0, 200.0, _N_SHAPE) / span  # logistic: 10-90% widths from twice the data to 1/45 of it
    if family == "saturating":
        second = np.linspace(0.04, 1.0, _N_SHAPE) * span
    grid = np.stack([a.ravel() for a in np.meshgrid(tau, second, indexing="ij")], axis=1)
    return grid if family == "logistic" else grid[grid.sum(axis=1) <= hi]


def explained(phi: FloatArray, y: FloatArray, weights: FloatArray) -> FloatArray:
    """(G, D) weighted sum of squares that B + A·φ, A ≥ 0, takes off the constant's; y is (D, K)."""
    share = weights / weights.sum()
    centred = phi - (phi @ share)[:, None]  # (G, K)
    moment = (weights * centred) @ y.T  # (G, D)
    square = (weights * centred**2).sum(axis=1)[:, None]
    return np.divide(np.maximum(moment, 0.0) ** 2, square, out=np.zeros_like(moment), where=square > 1e-300)


def constant_rss(y: FloatArray, weights: FloatArray) -> FloatArray:
    """(D,) weighted squares of y (D, K) around its weighted mean."""
    mean = y @ (weights / weights.sum())
    return np.asarray(((y - mean[:, None]) ** 2) @ weights)


def family_rss(family: str, points: Points, y: FloatArray) -> FloatArray:
    """(D,) residual sum of squares of the family's best curve on the grid, for many y (D, K) at once."""
    total = constant_rss(y, points.weights)
    lo, hi = float(points.z[0]), float(points.z[-1])
    if family == "quadratic":
        return total - _quadratic(points, y)[0]
    phi = basis(family, points.z, parameter_grid(family, lo, hi), lo, hi)
    return np.maximum(total - explained(phi, y, points.weights).max(axis=0), 0.0)


def _quadratic(points: Points, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """What a monotone quadratic explains (D,), and its coefficients (D, 2) on u² and 1 − (1 − u)².

    With u in [0, 1] along the data, a quadratic rises throughout if and only if both are ≥ 0, so the best
    is the free fit where that holds and otherwise the better of the two alone.
    """
    u = (points.z - points.z[0]) / (points.z[-1] - points.z[0])
    phi = np.stack([u**2, 1 - (1 - u) ** 2])  # (2, K)
    w = points.weights
    centred = phi - (phi @ (w / w.sum()))[:, None]
    gram, moment = (centred * w) @ centred.T, (centred * w) @ y.T  # (2, 2), (2, D)
    free = np.linalg.solve(gram, moment).T  # (D, 2)
    alone = np.maximum(moment / np.diag(gram)[:, None], 0.0).T  # (D, 2)
    gain_alone = alone**2 * np.diag(gram)
    single = np.where(np.eye(2, dtype=bool)[gain_alone.argmax(axis=1)], alone, 0.0)
    both = np.all(free >= 0, axis=1)
    gain = np.where(both, (free * moment.T).sum(axis=1), gain_alone.max(axis=1))
    return gain, np.where(both[:, None], free, single)


@dataclass(frozen=True)
class CurveFit:
    """The best curve of one family.

    Attributes:
        family: One of ``FAMILIES``.
        parameters: By name, in units of x: ``B`` (level before), ``A`` (slope or rise, ≥ 0), ``tau``,
            ``kappa``, ``width``; see :meth:`predict`.
        rss: Weighted residual sum of squares.
        aicc: n·ln(RSS/n) + 2k + 2k(k + 1)/(n − k − 1), k with the noise; infinite with too few points.
        flags: ``no_rise`` where A = 0, so that tau means nothing.
    """

    family: str
    parameters: dict[str, float]
    rss: float
    aicc: float
    flags: tuple[str, ...]
    sign: int
    lo: float
    hi: float

    def predict(self, x: ArrayLike) -> FloatArray:
        """The curve at x (any shape)."""
        z = self.sign * np.asarray(x, dtype=np.float64)
        p = self.parameters
        if self.family == "quadratic":
            u = (z - self.lo) / (self.hi - self.lo)
            return np.asarray(p["B"] + p["A"] * u**2 + p["A2"] * (1 - (1 - u) ** 2))
        theta = [self.sign * p["tau"]] if "tau" in p else []
        theta += [p[name] for name in ("kappa", "width") if name in p]
        phi = basis(self.family, z.ravel(), np.array([theta or [0.0]]), self.lo, self.hi)[0]
        return np.asarray(p["B"] + p["A"] * phi.reshape(z.shape))

    def to_dict(self) -> dict[str, Any]:
        aicc = self.aicc if math.isfinite(self.aicc) else None
        return {
            "family": self.family,
            "parameters": dict(self.parameters),
            "rss": self.rss,
            "aicc": aicc,
            "flags": list(self.flags),
        }


def fit_curve(family: str, points: Points) -> CurveFit:
    """Weighted least squares by grid and polish."""
    y, w = points.y[None, :], points.weights
    lo, hi = float(points.z[0]), float(points.z[-1])
    if family == "quadratic":
        a, a2 = (float(c) for c in _quadratic(points, y)[1][0])
        u = (points.z - lo) / (hi - lo)
        curve, parameters = a * u**2 + a2 * (1 - (1 - u) ** 2), {"A": a, "A2": a2}
    else:
        theta = _polish(family, points, parameter_grid(family, lo, hi))
        phi = basis(family, points.z, theta[None, :], lo, hi)
        centred = phi[0] - phi[0] @ w / w.sum()
        square = float(w @ centred**2)
        slope = max(0.0, float((w * centred) @ points.y) / square) if square > 1e-300 else 0.0
        curve, parameters = slope * phi[0], {"A": slope, **_named(family, theta, points.sign)}
    level = float((points.y - curve) @ w / w.sum())
    rss = float(w @ (points.y - level - curve) ** 2)
    flags = ("no_rise",) if family != "constant" and not np.ptp(curve) > 0 else ()
    return CurveFit(family, {"B": level, **parameters}, rss, aicc(rss, len(points), family), flags, points.sign, lo, hi)


def _named(family: str, theta: FloatArray, sign: int) -> dict[str, float]:
    if family == "power_law":
        return {"kappa": float(theta[0])}
    if family not in BREAKS:
        return {}
    second = {"logistic": "kappa", "saturating": "width"}
    return {"tau": sign * float(theta[0])} | ({second[family]: float(theta[1])} if family in second else {})


def _polish(family: str, points: Points, grid: FloatArray) -> FloatArray:
    """The grid's best θ, refined without leaving the grid's bounds."""
    y, w = points.y[None, :], points.weights
    lo, hi = float(points.z[0]), float(points.z[-1])
    gains = explained(basis(family, points.z, grid, lo, hi), y, w)[:, 0]
    start = grid[int(gains.argmax())]
    scale = float(constant_rss(y, w)[0])
    if family not in (*BREAKS, "power_law") or scale <= 0 or gains.max() <= 0:
        return start

    def loss(theta: FloatArray) -> float:
        return -float(explained(basis(family, points.z, theta[None, :], lo, hi), y, w)[0, 0]) / scale

    bounds = list(zip(grid.min(axis=0), grid.max(axis=0), strict=True))
    if family == "power_law":  # stay on the side of the start: κ = 0 is not in the grid
        bounds = [(0.05, 12.0) if start[0] > 0 else (-12.0, -0.05)]
    options = {"xatol": 1e-10 * (hi - lo), "fatol": 1e-15, "maxiter": 2000}
    refined = minimize(loss, start, method="Nelder-Mead", bounds=bounds, options=options)
    return np.asarray(refined.x if refined.fun <= loss(start) else start)


def aicc(rss: float, n: int, family: str) -> float:
    """Small-sample Akaike criterion; infinite where n ≤ k + 1."""
    k = N_PARAMETERS[family] + 1
    if n - k - 1 <= 0:
        return math.inf
    return n * math.log(max(rss, 1e-300) / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1)
