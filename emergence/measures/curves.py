"""Smooth and breaking curves through a score against scale or loss, fitted by generalised least squares.

Every family but the quadratic has the form y = B + A·φ(z; θ) with A ≥ 0, where z is the direction of
progress (log10 N, or minus the loss). For given θ the best (A, B) is linear, so θ is searched on a grid
and refined (docs/methods.md#thresholds), for thousands of parametric bootstrap draws at once.

Errors that go together (snapshots answer the same questions) are made independent by whitening; the level B
is projected out with them, so that what all snapshots share costs nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from emergence.measures.resampling import FloatArray
from emergence.plain import plain

#: A logistic narrower than this share of the axis (10-90% width) is a break, a wider one is smooth:
#: every bounded score is S-shaped sooner or later (docs/methods.md#thresholds).
NARROW = 0.2
SMOOTH = ("linear", "quadratic", "power_law", "wide_logistic")
BREAKS = ("relu", "narrow_logistic", "saturating")
FAMILIES = ("constant", *SMOOTH, *BREAKS)
#: Free parameters of each family, besides the noise.
N_PARAMETERS = {
    "constant": 1,
    "linear": 2,
    "quadratic": 3,
    "power_law": 3,
    "wide_logistic": 4,
    "relu": 3,
    "narrow_logistic": 4,
    "saturating": 4,
}
#: 10-90% width of a logistic curve is this over kappa: 2·ln 9.
LOGISTIC_WIDTH = 2 * math.log(9)
#: The narrowest and the widest logistic, as shares of the axis.
_NARROWEST, _WIDEST = 0.02, 2.5
#: Rounds of halving the grid's steps around each draw's best place.
_ROUNDS = 5


@dataclass(frozen=True, eq=False)
class Points:
    """Scores along the direction of progress, sorted.

    Attributes:
        z: (K,) sign · x, rising.
        y: (K,) scores.
        covariance: (K, K) of the errors of y; the identity where they are unknown.
        whiten: (K, K) makes errors independent, with variance 1, and takes out the best constant.
        sign: +1 where progress raises x (log10 N), −1 where it lowers it (loss).
        se_known: Whether ``covariance`` comes from standard errors.
    """

    z: FloatArray
    y: FloatArray
    covariance: FloatArray
    whiten: FloatArray
    sign: int
    se_known: bool

    @classmethod
    def of(
        cls, x: ArrayLike, y: ArrayLike, se: ArrayLike | None, sign: int, covariance: ArrayLike | None = None
    ) -> Points:
        """``covariance`` (K, K) speaks instead of ``se`` (K,) where both are given.

        Raises:
            ValueError: fewer than three different x, numbers that are not finite, an SE ≤ 0, a covariance that is not
                positive definite.
        """
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
        joint = np.diag(errors**2) if covariance is None else np.asarray(covariance, dtype=np.float64)
        if joint.shape != (len(errors), len(errors)):
            raise ValueError(f"covariance {joint.shape} of {len(errors)} scores")
        order = np.argsort(sign * values[0], kind="stable")
        joint = joint[np.ix_(order, order)]
        known = se is not None or covariance is not None
        return cls(sign * values[0][order], values[1][order], joint, _whitening(joint), sign, known)

    def __len__(self) -> int:
        return len(self.z)

    @property
    def n_distinct(self) -> int:
        return len(np.unique(self.z))

    @property
    def lo(self) -> float:
        return float(self.z[0])

    @property
    def hi(self) -> float:
        return float(self.z[-1])

    def level(self, rest: FloatArray) -> float:
        """The constant that fits ``rest`` (K,) best."""
        weights = np.linalg.solve(self.covariance, np.ones(len(self)))
        return float(rest @ weights / weights.sum())


def _whitening(covariance: FloatArray) -> FloatArray:
    from scipy.linalg import solve_triangular  # a twentieth of a second, which most tables do without

    try:
        root = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError as error:
        raise ValueError("the covariance of the scores must be positive definite") from error
    inverse = np.asarray(solve_triangular(root, np.eye(len(root)), lower=True))
    ones = inverse.sum(axis=1)  # what the constant becomes
    return np.asarray(inverse - np.outer(ones, ones @ inverse) / (ones @ ones))


def basis(family: str, z: FloatArray, theta: FloatArray, lo: float, hi: float) -> FloatArray:
    """φ(z; θ) (G, K) for parameters θ (G, P); ``lo`` and ``hi`` bound the data along z.

    θ of a logistic is its middle and the log of its 10-90% width.
    """
    if family == "constant":
        return np.zeros((len(theta), len(z)))
    u = (z - lo) / (hi - lo)
    if family == "linear":
        return np.broadcast_to(u * (hi - lo), (len(theta), len(z)))
    if family == "power_law":  # exponential in log10 N is a power of N; κ = 0 is the line
        kappa = np.where(np.abs(theta[:, :1]) < 1e-6, 1e-6, theta[:, :1])
        return np.asarray(np.expm1(kappa * u) / kappa)
    if family == "quadratic":  # rises throughout if and only if the mixture is one of these two
        return np.asarray(theta[:, :1] * u**2 + (1 - theta[:, :1]) * (1 - (1 - u) ** 2))
    tau = theta[:, :1]
    if family == "relu":
        return np.maximum(z - tau, 0.0)
    if family in ("wide_logistic", "narrow_logistic"):
        return np.asarray(expit(LOGISTIC_WIDTH * np.exp(-theta[:, 1:]) * (z - tau)))
    if family == "saturating":
        return np.clip(z - tau, 0.0, theta[:, 1:])
    raise ValueError(f"unknown family {family!r}; one of {FAMILIES}")


@dataclass(frozen=True, eq=False)
class Grid:
    """Starting values of θ (G, P), the distance (P,) between neighbours, and bounds (P,)."""

    theta: FloatArray
    step: FloatArray
    least: FloatArray
    most: FloatArray

    @classmethod
    def of(cls, *axes: FloatArray) -> Grid:
        theta = np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], axis=1)
        step = np.array([a[1] - a[0] if len(a) > 1 else 0.0 for a in axes])
        return cls(theta, step, theta.min(axis=0), theta.max(axis=0))


def parameter_grid(family: str, lo: float, hi: float) -> Grid:
    """Where to look for θ: τ inside the data (a logistic whose middle lies beyond it is a hinge in all but name)."""
    span = hi - lo
    tau = np.linspace(lo, hi, 62)[1:-1]
    if family in ("constant", "linear"):
        return Grid.of(np.zeros(1))
    if family == "quadratic":
        return Grid.of(np.linspace(0.0, 1.0, 11))
    if family == "power_law":
        return Grid.of(np.linspace(-12.0, 12.0, 60))
    if family == "relu":
        return Grid.of(tau)
    if family == "wide_logistic":
        return Grid.of(tau[::2], math.log(span) + np.linspace(math.log(NARROW), math.log(_WIDEST), 8))
    if family == "narrow_logistic":
        return Grid.of(tau, math.log(span) + np.linspace(math.log(_NARROWEST), math.log(NARROW), 5))
    if family == "saturating":
        return Grid.of(tau, np.linspace(0.04, 1.0, 13) * span)
    raise ValueError(f"unknown family {family!r}; one of {FAMILIES}")


def explained(phi: FloatArray, y: FloatArray, points: Points) -> FloatArray:
    """(G, D) squares that B + A·φ, A ≥ 0, takes off the constant's, for φ (G, K) and y (D, K)."""
    white, target = phi @ points.whiten.T, y @ points.whiten.T
    moment, square = white @ target.T, (white**2).sum(axis=1)[:, None]
    return _share(moment, square, np.broadcast_to((phi**2).sum(axis=1)[:, None], moment.shape), points)


def _share(moment: FloatArray, square: FloatArray, size: FloatArray, points: Points) -> FloatArray:
    """A ≥ 0, and nothing for a φ that is constant up to rounding."""
    real = square > 1e-22 * size * (points.whiten**2).sum()
    return np.divide(np.maximum(moment, 0.0) ** 2, square, out=np.zeros_like(moment), where=real & (square > 1e-300))


def constant_rss(y: FloatArray, points: Points) -> FloatArray:
    """(D,) squares of y (D, K) around the best constant."""
    return np.asarray(((y @ points.whiten.T) ** 2).sum(axis=1))


def family_rss(family: str, points: Points, y: FloatArray) -> FloatArray:
    """(D,) residual sum of squares of the family's best curve, for many y (D, K) at once."""
    return np.maximum(constant_rss(y, points) - _search(family, points, y)[1], 0.0)


def _search(family: str, points: Points, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """θ (D, P) and what it explains (D,): the grid's best, then its neighbours at ever smaller steps."""
    grid = parameter_grid(family, points.lo, points.hi)
    gains = explained(basis(family, points.z, grid.theta, points.lo, points.hi), y, points)
    theta, best = grid.theta[gains.argmax(axis=0)], gains.max(axis=0)
    if not grid.step.any():
        return theta, best
    moves = Grid.of(*[np.array([-1.0, 0.0, 1.0])] * len(grid.step)).theta * grid.step  # (C, P)
    target = y @ points.whiten.T
    for k in range(1, _ROUNDS + 1):
        tried = np.clip(theta[:, None] + moves * 0.5**k, grid.least, grid.most)  # (D, C, P)
        phi = basis(family, points.z, tried.reshape(-1, len(grid.step)), points.lo, points.hi)
        white = (phi @ points.whiten.T).reshape(*tried.shape[:2], -1)
        size = (phi**2).sum(axis=1).reshape(tried.shape[:2])
        gains = _share(np.einsum("dck,dk->dc", white, target), (white**2).sum(axis=2), size, points)
        at = gains.argmax(axis=1)
        better = gains[np.arange(len(at)), at] > best
        theta = np.where(better[:, None], tried[np.arange(len(at)), at], theta)
        best = np.maximum(best, gains.max(axis=1))
    return theta, best


@dataclass(frozen=True)
class CurveFit:
    """The best curve of one family.

    Attributes:
        family: One of ``FAMILIES``.
        parameters: By name, in units of x: ``B`` (level before), ``A`` (slope or rise, ≥ 0), ``tau``,
            ``kappa``, ``width``, ``mix``; see :meth:`predict`.
        rss: Residual sum of squares, in units of the errors' covariance.
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
        theta = [self.sign * p["tau"]] if "tau" in p else []
        if self.family in ("wide_logistic", "narrow_logistic"):
            theta.append(math.log(LOGISTIC_WIDTH / p["kappa"]))
        else:
            theta += [p[name] for name in ("kappa", "width", "mix") if name in p]
        phi = basis(self.family, z.ravel(), np.array([theta or [0.0]]), self.lo, self.hi)[0]
        return np.asarray(p["B"] + p["A"] * phi.reshape(z.shape))

    def to_dict(self) -> dict[str, Any]:
        return plain({key: getattr(self, key) for key in ("family", "parameters", "rss", "aicc", "flags")})


def fit_curve(family: str, points: Points, *, polish: bool = True) -> CurveFit:
    """Generalised least squares by grid and, unless a hundredth of the grid's step will do, polish."""
    theta = _polish(family, points) if polish else _search(family, points, points.y[None])[0][0]
    phi = basis(family, points.z, theta[None, :], points.lo, points.hi)
    white, target = points.whiten @ phi[0], points.whiten @ points.y
    rises = explained(phi, points.y[None], points)[0, 0] > 0
    slope = float(white @ target) / float(white @ white) if rises else 0.0
    curve = slope * phi[0]
    parameters = {"B": points.level(points.y - curve), "A": slope, **_named(family, theta, points.sign)}
    rss = float(((target - slope * white) ** 2).sum())
    flags = ("no_rise",) if family != "constant" and not rises else ()
    return CurveFit(family, parameters, rss, aicc(rss, len(points), family), flags, points.sign, points.lo, points.hi)


def _named(family: str, theta: FloatArray, sign: int) -> dict[str, float]:
    if family in ("power_law", "quadratic"):
        return {"kappa" if family == "power_law" else "mix": float(theta[0])}
    if family in ("constant", "linear"):
        return {}
    place = {"tau": sign * float(theta[0])}
    if family in ("wide_logistic", "narrow_logistic"):
        return {**place, "kappa": LOGISTIC_WIDTH / math.exp(theta[1])}
    return {**place, "width": float(theta[1])} if family == "saturating" else place


def _polish(family: str, points: Points) -> FloatArray:
    """The search's best θ, refined to rounding without leaving the grid's bounds."""
    from scipy.optimize import minimize  # a tenth of a second, which most tables do without

    y = points.y[None]
    best, gain = _search(family, points, y)
    start, scale = best[0], float(constant_rss(y, points)[0])
    grid = parameter_grid(family, points.lo, points.hi)
    if not grid.step.any() or scale <= 0 or gain[0] <= 0:
        return np.asarray(start)

    def loss(theta: FloatArray) -> float:
        phi = basis(family, points.z, theta[None, :], points.lo, points.hi)
        return -float(explained(phi, y, points)[0, 0]) / scale

    options = {"xatol": 1e-10 * (points.hi - points.lo), "fatol": 1e-15, "maxiter": 2000}
    bounds = list(zip(grid.least, grid.most, strict=True))
    refined = minimize(loss, start, method="Nelder-Mead", bounds=bounds, options=options)
    return np.asarray(refined.x if refined.fun <= loss(start) else start)


def aicc(rss: float, n: int, family: str) -> float:
    """Small-sample Akaike criterion; infinite where n ≤ k + 1."""
    k = N_PARAMETERS[family] + 1
    if n - k - 1 <= 0:
        return math.inf
    return n * math.log(max(rss, 1e-300) / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1)
