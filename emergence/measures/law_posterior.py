"""The posterior of the emergence law by MCMC, for comparison with the paper's.

Slope, base, Δ and the noise are integrated out in closed form, so the sampler moves in three dimensions. Priors are
flat over the bounds of the elbows, N(0, 1) on ln α, flat on slope (above 0), base and Δ, and 1/σ on the noise. Errors
count as independent, so under effects of checkpoints and draws the posterior is too narrow (docs/laws.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr

from emergence.measures.emergence_law import LawFit
from emergence.measures.law_intervals import QUANTILES
from emergence.measures.resampling import FloatArray

N_WALKERS, N_STEPS = 64, 3_000
#: Autocorrelation times that a chain must be long, and the largest R-hat, before it is believed.
LEAST_TIMES, MOST_R_HAT = 50, 1.01


@dataclass(frozen=True)
class Posterior:
    """Quantiles of E_0, how many autocorrelation times long the chain was, and R-hat over its walkers."""

    quantiles: dict[float, float]
    times: float
    r_hat: float

    @property
    def is_converged(self) -> bool:
        return self.times >= LEAST_TIMES and self.r_hat <= MOST_R_HAT


def walkers(fit: LawFit, rng: np.random.Generator) -> FloatArray:
    """Where a chain begins: places (walkers, 3) around the fit."""
    spread = np.array([0.02 * float(np.ptp(fit.model.data.loss))] * 2 + [0.05])
    start = fit.model.clip(fit.theta + spread * rng.standard_normal((N_WALKERS, 3)))
    start[:, 1] = np.maximum(start[:, 1], start[:, 0] + 1e-6)
    return start


def posterior_of(chain: FloatArray, time: float) -> Posterior:
    """The posterior from E_0 along a chain (steps, walkers) and its autocorrelation time; less its first quarter."""
    kept = chain[len(chain) // 4 :]
    quantiles = dict(zip(QUANTILES, np.quantile(kept, QUANTILES).tolist(), strict=True))
    return Posterior(quantiles, len(chain) / time, _r_hat(kept))


def log_posterior(fit: LawFit, theta: FloatArray) -> FloatArray:
    """Up to a constant, of θ (R, 3); −inf outside the bounds."""
    model, data = fit.model, fit.model.data
    inside = (theta[:, 0] >= model.lowest) & (theta[:, 0] <= theta[:, 1]) & (theta[:, 1] <= model.highest)
    inside &= (theta[:, 2] >= math.log(model.alpha[0])) & (theta[:, 2] <= math.log(model.alpha[1]))
    phi = model.centre(model.hinge(model.clip(theta)), data.weight)
    centred = model.centre(data.score, data.weight)
    square = (data.weight * phi * phi).sum(axis=1)
    inside &= square > 1e-12
    square = np.where(inside, square, 1.0)
    slope = (data.weight * phi * centred).sum(axis=1) / square
    rest = centred - slope[:, None] * phi
    rss = np.maximum((data.weight * rest * rest).sum(axis=1), 1e-300)
    degrees = len(data) - 1 - len(model.groups)
    rises = log_ndtr(slope * np.sqrt(square * degrees / rss))  # the share of the slope's density above 0
    logs = -0.5 * degrees * np.log(rss) - 0.5 * np.log(square) + rises - 0.5 * theta[:, 2] ** 2
    return np.where(inside, logs, -np.inf)


def _r_hat(chain: FloatArray) -> float:
    """Of quarters of the ensemble's mean path, which is one chain: walkers of an ensemble are not independent."""
    pieces = np.array_split(chain.mean(axis=1), 4)
    between = np.var([piece.mean() for piece in pieces], ddof=1)
    return math.sqrt(1 + between / float(chain.var()))
