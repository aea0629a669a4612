"""One elbow for each finetuning amount, without a law: what a law is to be held against, shown before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from emergence.measures.emergence_law import LawData
from emergence.measures.resampling import FloatArray
from emergence.measures.simplex import IntArray, minimise

_N_PLACES = 41
_ROUNDS = 12


@dataclass(frozen=True, eq=False)
class FreeFit:
    """Elbows (J,) of ``amounts`` (J,) with one slope and base.

    Attributes:
        before, past: (J,) runs on either side of each elbow. An elbow with none past it lies somewhere below its
            losses, one with none before it somewhere above.
        rss: Weighted squares that are left.
    """

    amounts: FloatArray
    elbows: FloatArray
    before: IntArray
    past: IntArray
    slope: float
    base: float
    rss: float


def fit_free(data: LawData) -> FreeFit:
    """Least squares over finetuned runs: elbows in turn on a grid from several starts, then all together."""
    data = data.rows(~data.fewshot)
    amounts, level = np.unique(data.amount, return_inverse=True)
    mean = np.average(data.score, weights=data.weight)
    centred = data.score - mean

    def gain(elbows: FloatArray) -> FloatArray:
        """Squares (R,) that elbows (R, J) take off."""
        phi = np.maximum(elbows[:, level] - data.loss, 0.0)
        phi = phi - ((phi @ data.weight) / data.weight.sum())[:, None]
        square, moment = (phi * phi) @ data.weight, np.maximum(phi @ (data.weight * centred), 0.0)
        return np.divide(moment**2, square, out=np.zeros_like(moment), where=square > 1e-20)

    low, high = float(data.loss.min()), float(data.loss.max())
    span = high - low
    starts = np.stack([np.linspace(low + a * span, low + b * span, len(amounts)) for a, b in _SHAPES])
    starts = np.stack([_in_turn(gain, elbows, low, span) for elbows in starts])
    total = float(data.weight @ centred**2)
    found, values = minimise(
        lambda elbows, _: total - gain(elbows),
        starts,
        np.full(len(amounts), 0.02 * span),
        iterations=800,
        tolerance=1e-9,
    )
    elbows = np.clip(found[values.argmin()], low - span, high + span)
    phi = np.maximum(elbows[level] - data.loss, 0.0)
    phi_centred = phi - np.average(phi, weights=data.weight)
    square = float(data.weight @ phi_centred**2)
    slope = max(0.0, float(data.weight @ (phi_centred * centred)) / square) if square > 1e-20 else 0.0
    base = float(np.average(data.score - slope * phi, weights=data.weight))
    rss = float(data.weight @ (data.score - base - slope * phi) ** 2)
    past = np.array([int((data.loss[level == j] < elbows[j]).sum()) for j in range(len(amounts))])
    return FreeFit(amounts, elbows, np.bincount(level) - past, past, slope, base, rss)


#: Elbows of the smallest and of the largest amount with which the search begins, in ranges of the losses.
_SHAPES = ((0.2, 0.6), (0.4, 0.9), (0.1, 0.3), (0.5, 0.5))


def _in_turn(gain: Callable[[FloatArray], FloatArray], elbows: FloatArray, low: float, span: float) -> FloatArray:
    """Each elbow at its best place while the others stay, on ever finer grids."""
    elbows, reach = elbows.copy(), 0.6 * span
    for _ in range(_ROUNDS):
        for j in range(len(elbows)):
            tried = np.repeat(elbows[None], _N_PLACES, axis=0)
            tried[:, j] = np.clip(elbows[j] + np.linspace(-reach, reach, _N_PLACES), low - span, low + 2 * span)
            elbows = tried[gain(tried).argmax()]
        reach *= 0.7
    return elbows
