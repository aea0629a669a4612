"""Two emergence laws on one axis: the difference of their emergence points, and of their scores at equal loss."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from emergence.measures.emergence_law import LawFit
from emergence.measures.law_errors import LawErrors
from emergence.measures.law_intervals import Profile
from emergence.measures.resampling import FloatArray


@dataclass(frozen=True)
class Difference:
    """A minus B with its interval; infinite where the data do not bound that side."""

    point: float
    lo: float
    hi: float

    @property
    def sign(self) -> int:
        """1 or −1 where the interval is on one side of 0, else 0."""
        return 1 if self.lo > 0 else -1 if self.hi < 0 else 0


def point_difference(a: LawFit, b: LawFit, a_profile: Profile, b_profile: Profile) -> Difference:
    """E_0 of A minus that of B, from the calibrated intervals of both (Zou and Donner 2008).

    Each side is the root of the squared distances to the two ends that move the difference there (MOVER). So a skewed
    interval stays skewed, and an open one opens the difference.
    """
    point = a.elbow - b.elbow
    below = math.hypot(a.elbow - a_profile.lo, b_profile.hi - b.elbow)
    above = math.hypot(a_profile.hi - a.elbow, b.elbow - b_profile.lo)
    return Difference(point, point - below, point + above)


def scores_at(fit: LawFit, scores: FloatArray, theta: FloatArray, loss: float, amounts: FloatArray) -> FloatArray:
    """What the law says at a loss and amounts (J,), (R, J) for elbows and α θ (R, 3) fitted to scores (R, n).

    Slope and base are the best ones for each θ; few-shot rows shape the slope and not the base.
    """
    model, data = fit.model, fit.model.data
    weight = np.broadcast_to(data.weight, scores.shape)
    hinge = model.hinge(theta)
    phi, centred = model.centre(hinge, weight), model.centre(scores, weight)
    square = (weight * phi * phi).sum(axis=1)
    moment = np.maximum((weight * phi * centred).sum(axis=1), 0.0)
    slope = np.divide(moment, square, out=np.zeros_like(moment), where=square > 1e-20)
    tuned = ~data.fewshot
    base = np.average(scores[:, tuned] - slope[:, None] * hinge[:, tuned], axis=1, weights=data.weight[tuned])
    constants = _constants(fit, theta)
    scale = amounts if model.form == "power" else np.log(amounts)
    elbows = constants[0][:, None] * scale ** np.exp(theta[:, 2:3]) + constants[1][:, None]
    return np.asarray(slope[:, None] * np.maximum(elbows - loss, 0.0) + base[:, None])


def _constants(fit: LawFit, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
    """k and C of each θ (R, 3)."""
    ends = np.array([fit.model.target, fit.model.data.amounts[-1]])
    scale = ends if fit.model.form == "power" else np.log(ends)
    low, high = (scale ** (np.exp(theta[:, 2:3]))).T
    k = (theta[:, 1] - theta[:, 0]) / (high - low)
    return k, theta[:, 0] - k * low


def score_differences(
    fits: tuple[LawFit, LawFit],
    errors: tuple[LawErrors, LawErrors],
    loss: float,
    amounts: FloatArray,
    *,
    level: float,
    n_draws: int,
    seed: int,
) -> list[Difference]:
    """Scores of A minus those of B at one loss and each amount; intervals by parametric bootstrap of both laws."""
    means, draws = [], []
    rng = np.random.default_rng(seed)
    for fit, error in zip(fits, errors, strict=True):
        observed = fit.model.data.score[None]
        means.append(scores_at(fit, observed, fit.theta[None], loss, amounts)[0])
        drawn = error.draws(fit.model, fit.fitted, n_draws, rng)
        draws.append(scores_at(fit, drawn, fit.model.search(drawn)[0], loss, amounts))
    point = means[0] - means[1]
    off = draws[0] - draws[1] - point
    lo, hi = np.quantile(off, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return [Difference(float(p), float(p - h), float(p - low)) for p, low, h in zip(point, lo, hi, strict=True)]
