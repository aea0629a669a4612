"""Are some training seeds in another state than the rest? (Zhao et al. 2025, arXiv 2502.17356)

Where a score is bimodal over seeds, the mean over them rises as the share of lucky seeds does: its break is one of a
probability, not of a model. So: two normal components of one variance against one, by parametric bootstrap.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from emergence.measures.resampling import FloatArray

#: Below this many seeds at a scale nothing is said (docs/methods.md#metric-mirage).
LEAST_SEEDS = 5
N_NULL = 9_999
#: A component's variance is at least this share of all seeds', so that the likelihood stays bounded.
_LEAST_VARIANCE = 1e-4
_STEPS = 50


@dataclass(frozen=True)
class SeedMixture:
    """``p`` of "one component", at the scale ``at`` (index) where the seeds are furthest apart."""

    p: float
    at: int
    n_seeds: int


def seed_mixture(by_seed: ArrayLike) -> SeedMixture | None:
    """The test of scores (S, K) of S seeds at K scales; None below five seeds or where all seeds are alike.

    One scale is tested, that of the largest variance over seeds. For normal scores the variance says nothing about the
    shape the test looks at (Basu), so choosing by it costs no correction.
    """
    scores = np.asarray(by_seed, dtype=np.float64)
    n_seeds = len(scores)
    if n_seeds < LEAST_SEEDS or not np.ptp(scores, axis=0).any():
        return None
    at = int(scores.var(axis=0).argmax())
    observed = float(_likelihood_ratio(scores[None, :, at])[0])
    p = (1 + int((_null(n_seeds) >= observed).sum())) / (1 + N_NULL)
    return SeedMixture(p, at, n_seeds)


@lru_cache(maxsize=32)
def _null(n_seeds: int) -> FloatArray:
    """The statistic of one normal component, whose mean and variance do not matter."""
    return _likelihood_ratio(np.random.default_rng(n_seeds).standard_normal((N_NULL, n_seeds)))


def _likelihood_ratio(scores: FloatArray) -> FloatArray:
    """(D,) twice the gain in log-likelihood of two components for samples (D, S), by EM from the best split."""
    x = np.sort(scores, axis=1)
    x = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
    n = x.shape[1]
    sums, k = np.cumsum(x, axis=1)[:, :-1], np.arange(1, n)
    split = (sums**2 * n / (k * (n - k))).argmax(axis=1)  # largest sum of squares between the two parts
    upper = (np.arange(n) > split[:, None]).astype(np.float64)
    for _ in range(_STEPS):
        share, low, high, variance = _components(x, upper)
        logs = (high - low) / variance * (x - (high + low) / 2) + np.log(share / (1 - share))
        upper = 1 / (1 + np.exp(-np.minimum(np.maximum(logs, -700), 700)))  # np.clip takes longer for so few
    share, low, high, variance = _components(x, upper)
    kernels = [w * np.exp(-((x - m) ** 2) / (2 * variance)) for w, m in ((1 - share, low), (share, high))]
    density = np.log(np.maximum(kernels[0] + kernels[1], 1e-300)) - 0.5 * np.log(variance)
    return np.asarray(2 * density.sum(axis=1) + n)  # one component: −n/2 up to the constant both share


def _components(x: FloatArray, upper: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Share of the upper component, both means, and their variance, each (D, 1), from memberships (D, S)."""
    weight = np.minimum(np.maximum(upper.sum(axis=1, keepdims=True), 1e-6), x.shape[1] - 1e-6)
    rest = x.shape[1] - weight
    high = (upper * x).sum(axis=1, keepdims=True) / weight
    low = ((1 - upper) * x).sum(axis=1, keepdims=True) / rest
    squares = upper * (x - high) ** 2 + (1 - upper) * (x - low) ** 2
    variance = np.maximum(squares.mean(axis=1, keepdims=True), _LEAST_VARIANCE)
    return weight / x.shape[1], low, high, variance
