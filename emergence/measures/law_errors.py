"""How the errors of a law's runs go together: variances of checkpoints and data draws, by restricted likelihood (REML).

All runs of a checkpoint share it, and all checkpoints that were finetuned on one draw of data share that. Both effects
move several scores at once, so intervals that take errors as independent are too narrow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emergence.measures.emergence_law import LawFit, LawModel
from emergence.measures.resampling import FloatArray

#: Standard deviations of an effect, in those of the rest, that are tried first.
_RATIOS = np.array([0.0, 0.15, 0.3, 0.45, 0.6, 0.8, 1.0, 1.3, 1.7, 2.2, 3.0, 4.5, 7.0, 12.0])
#: A second look between neighbours.
_N_FINER = 5


@dataclass(frozen=True)
class LawErrors:
    """Standard deviations, in the units that were fitted: of a checkpoint, of a draw, and of what is left."""

    checkpoint: float
    draw: float
    rest: float

    def draws(self, model: LawModel, fitted: FloatArray, n: int, rng: np.random.Generator) -> FloatArray:
        """Scores (``n``, runs) as they might have come out around ``fitted``."""
        data = model.data
        out = fitted + self.rest * rng.standard_normal((n, len(data))) / np.sqrt(data.weight)
        out += self.checkpoint * rng.standard_normal((n, int(data.checkpoint.max()) + 1))[:, data.checkpoint]
        effects = self.draw * rng.standard_normal((n, int(data.draw.max()) + 2))
        effects[:, -1] = 0.0  # few-shot rows have the code −1
        return np.asarray(out + effects[:, data.draw])


def fit_errors(fit: LawFit) -> LawErrors:
    """REML on a grid of the two variance ratios, the law linearised at the fit."""
    model, data = fit.model, fit.model.data
    root = np.sqrt(data.weight)[:, None]
    levels = np.zeros((len(data), len(model.groups)))
    for k, rows in enumerate(model.groups):
        levels[rows, k] = 1.0
    fixed = np.column_stack([levels, _tangents(fit)]) * root
    keep = np.linalg.svd(fixed, full_matrices=True)
    rank = int((1e-9 * keep.S[0] < keep.S).sum())
    free = keep.U[:, rank:].T  # (m, n): contrasts that the law says nothing about
    if not len(free):
        return LawErrors(0.0, 0.0, 0.0)
    rest = free @ (root[:, 0] * data.score)
    effects = []
    for codes in (data.checkpoint, data.draw):
        members = np.eye(int(codes.max()) + 1)[codes] * (codes >= 0)[:, None]
        effects.append(free @ (root * members))
    contrasts = _Contrasts.of(rest, effects)
    first, second = contrasts.best(_RATIOS, _RATIOS)
    for _ in range(2):
        first, second = contrasts.best(_near(first), _near(second))
    sigma = float(np.sqrt(contrasts.squares(np.array([first]), np.array([second]))[1][0] / len(rest)))
    return LawErrors(first * sigma, second * sigma, sigma)


@dataclass(frozen=True, eq=False)
class _Contrasts:
    """What the restricted likelihood of ratios (a, b) takes, in the few dimensions of the effects.

    The covariance of m contrasts is I + Z·diag(a², b²)·Zᵀ, with Z (m, q) of rank q ≪ m; Woodbury's identity leaves q.

    Attributes:
        m: Contrasts. total: Their squares. gram: ZᵀZ (q, q). moment: Zᵀ·contrasts (q,).
        is_second: (q,) whether a column of Z is of the second effect.
    """

    m: int
    total: float
    gram: FloatArray
    moment: FloatArray
    is_second: FloatArray

    @classmethod
    def of(cls, rest: FloatArray, effects: list[FloatArray]) -> _Contrasts:
        z = np.hstack(effects)
        second = np.repeat([0.0, 1.0], [effect.shape[1] for effect in effects])
        return cls(len(rest), float(rest @ rest), z.T @ z, z.T @ rest, second)

    def squares(self, a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Log determinant (G,) of the covariance, and the contrasts' squares (G,) in its units."""
        scale = np.where(self.is_second, b[:, None], a[:, None])  # (G, q)
        inner = np.eye(len(self.moment)) + scale[:, :, None] * self.gram * scale[:, None, :]
        moment = scale * self.moment
        solved = np.linalg.solve(inner, moment[..., None])[..., 0]
        left = self.total - (moment * solved).sum(axis=1)
        return np.linalg.slogdet(inner)[1], np.maximum(left, 1e-14 * self.total + 1e-300)

    def best(self, first: FloatArray, second: FloatArray) -> tuple[float, float]:
        """The pair of ratios of the highest restricted likelihood, the variance of the rest profiled out."""
        a, b = (axis.ravel() for axis in np.meshgrid(first, second, indexing="ij"))
        logs, left = self.squares(a, b)
        at = int((logs + self.m * np.log(left)).argmin())
        return float(a[at]), float(b[at])


def _near(ratio: float) -> FloatArray:
    below, above = _RATIOS[ratio > _RATIOS], _RATIOS[ratio < _RATIOS]
    low = below[-1] if len(below) else 0.0
    high = above[0] if len(above) else ratio
    return np.append(np.linspace(low, high, _N_FINER), ratio)


def _tangents(fit: LawFit) -> FloatArray:
    """How the law's scores move with the slope, both elbows and α (n, 4)."""
    step = np.array([1e-5 * float(np.ptp(fit.model.data.loss))] * 2 + [1e-4])
    moves = np.diag(step)
    sides = fit.model.hinge(fit.theta + moves) - fit.model.hinge(fit.theta - moves)  # (3, n)
    return np.column_stack([fit.model.hinge(fit.theta), fit.slope * sides.T / (2 * step)])
