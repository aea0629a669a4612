"""How sure is E_0? A profile whose critical value is calibrated, and for comparison the paper's intervals.

The profile asks which E_0 fit nearly as well as the best one. How much worse counts as worse is not read off an F
distribution, which takes errors as independent: data are drawn from the fitted law with its checkpoint and draw
effects, and each is asked the same question about the E_0 it was drawn from (docs/laws.md). Intervals may be open: that
the data do not bound E_0 is an answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import fdtri

from emergence.measures.emergence_law import LawFit, LawModel
from emergence.measures.law_errors import LawErrors, fit_errors
from emergence.measures.resampling import FloatArray

#: Bootstrap draws of the calibration.
N_DRAWS = 199
#: What the headlined interval promises.
LEVEL = 0.90
QUANTILES = (0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95)
#: Distances from the estimate at which the profile is computed, in ranges of the losses, on either side.
_DISTANCES = np.geomspace(1e-3, 4.0, 32)
_N_FINER = 9


@dataclass(frozen=True, eq=False)
class Profile:
    """The calibrated profile of E_0.

    Attributes:
        lo, hi: The interval; infinite where the data do not bound that side.
        level: What it promises.
        e: (K,) places, rising. excess: (K,) n·ln(RSS of the best law through it / least RSS).
        critical: The excess that counts as too much.
        null: (D,) excesses of drawn data at the E_0 they were drawn from, rising.
        estimates: (D,) E_0 of the drawn data.
        is_split: Whether the places that fit are in several pieces; the interval is from end to end.
    """

    lo: float
    hi: float
    level: float
    e: FloatArray
    excess: FloatArray
    critical: float
    null: FloatArray
    estimates: FloatArray
    is_split: bool

    def share_below(self, places: FloatArray) -> FloatArray:
        """How sure E_0 lies below each place: the confidence distribution whose 5% and 95% end a 90% interval."""
        excess = np.interp(places, self.e, self.excess)
        tail = 1 - np.searchsorted(self.null, excess, side="left") / (len(self.null) + 1)
        best = self.e[self.excess.argmin()]
        return np.asarray(np.where(places < best, tail / 2, 1 - tail / 2))

    def quantiles(self, shares: tuple[float, ...] = QUANTILES) -> dict[float, float]:
        """Places below which E_0 lies with these shares of confidence; infinite where the data do not bound them."""
        found = {}
        best = int(self.excess.argmin())
        for share in shares:
            critical = _critical(self.null, abs(1 - 2 * share))
            side = slice(None, best + 1) if share < 0.5 else slice(best, None)
            e, excess = self.e[side], self.excess[side]
            if share < 0.5:
                found[share] = _crossing(e[::-1], excess[::-1], critical, -math.inf)
            else:
                found[share] = _crossing(e, excess, critical, math.inf) if share > 0.5 else float(self.e[best])
        return found


def _critical(null: FloatArray, level: float) -> float:
    """The ⌈level·(D + 1)⌉-th smallest of D draws, so that the test is exact where draws and data are alike."""
    rank = math.ceil(level * (len(null) + 1) - 1e-9)
    return float(null[min(max(rank, 1), len(null)) - 1])


def _crossing(e: FloatArray, excess: FloatArray, critical: float, otherwise: float) -> float:
    """Where the excess last reaches ``critical`` on the way from the best place outwards, by interpolation."""
    inside = np.flatnonzero(excess <= critical)
    last = int(inside[-1]) if len(inside) else 0
    if last == len(e) - 1:
        return otherwise
    share = (critical - excess[last]) / (excess[last + 1] - excess[last])
    return float(e[last] + np.clip(share, 0.0, 1.0) * (e[last + 1] - e[last]))


def calibrated_profile(
    fit: LawFit, errors: LawErrors | None = None, *, level: float = LEVEL, n_draws: int = N_DRAWS, seed: int = 0
) -> Profile:
    """The headlined interval of E_0. ``errors`` are those of :func:`fit_errors` unless given."""
    model = fit.model
    errors = fit_errors(fit) if errors is None else errors
    drawn = errors.draws(model, fit.fitted, n_draws, np.random.default_rng(seed))
    theta, least = model.search(drawn)
    _, through = model.search(drawn, fit.theta[:1])
    floor = _floor(model, fit.fitted)
    null = np.sort(_excess(model, np.minimum(least, through), through, floor))
    critical = _critical(null, level)
    e, excess = _profile(fit, critical, floor)
    best = int(excess.argmin())
    lo = _crossing(e[best::-1], excess[best::-1], critical, -math.inf)
    hi = _crossing(e[best:], excess[best:], critical, math.inf)
    is_split = bool((np.diff((excess <= critical).astype(int)) == 1).sum() > (excess[0] > critical))
    return Profile(lo, hi, level, e, excess, critical, null, theta[:, 0], is_split)


def f_profile(fit: LawFit, *, level: float = LEVEL) -> tuple[float, float]:
    """The interval of an uncalibrated profile: errors independent, critical value by F."""
    n, p = len(fit.model.data), fit.model.n_parameters
    critical = n * math.log1p(float(fdtri(1, n - p, level)) / (n - p))
    e, excess = _profile(fit, critical, _floor(fit.model, fit.fitted))
    best = int(excess.argmin())
    return (
        _crossing(e[best::-1], excess[best::-1], critical, -math.inf),
        _crossing(e[best:], excess[best:], critical, math.inf),
    )


def _floor(model: LawModel, scores: FloatArray) -> float:
    """Squares that are rounding."""
    return 1e-16 * float(model.data.weight @ model.centre(scores, model.data.weight) ** 2) + 1e-300


def _excess(model: LawModel, least: FloatArray, through: FloatArray, floor: float) -> FloatArray:
    return np.asarray(len(model.data) * np.log(np.maximum(through, floor) / np.maximum(least, floor)))


def _profile(fit: LawFit, critical: float, floor: float) -> tuple[FloatArray, FloatArray]:
    """Places and their excess: ever further from the estimate, and finer where it crosses ``critical``."""
    model, span = fit.model, float(np.ptp(fit.model.data.loss))
    away = span * _DISTANCES
    e = np.concatenate([fit.elbow - away[::-1], [fit.elbow], fit.elbow + away])
    e = np.unique(np.clip(e, model.lowest, model.highest))
    excess = _through(fit, e, floor)
    for _ in range(2):
        crossings = np.flatnonzero((excess[1:] <= critical) != (excess[:-1] <= critical))
        finer = [np.linspace(e[k], e[k + 1], _N_FINER)[1:-1] for k in crossings]
        if not finer:
            break
        more = np.concatenate(finer)
        order = np.argsort(np.append(e, more), kind="stable")
        e, excess = np.append(e, more)[order], np.append(excess, _through(fit, more, floor))[order]
    return e, np.maximum(excess, 0.0)


def _through(fit: LawFit, e: FloatArray, floor: float) -> FloatArray:
    """Excess of the best law through each place."""
    model = fit.model
    found = model.search(np.broadcast_to(model.data.score, (len(e), len(model.data))), e)[1]
    return _excess(model, np.full(len(e), fit.rss), found, floor)


def bootstrap_runs(fit: LawFit, n_draws: int, rng: np.random.Generator, *, whole_draws: bool = False) -> FloatArray:
    """E_0 (D,) refitted to runs drawn with replacement within each amount, as the paper does.

    Args:
        whole_draws: Draw whole draws of finetuning data within each amount; few-shot rows stay.
    """
    data = fit.model.data
    counts = np.zeros((n_draws, len(data)))
    group = np.where(data.fewshot, -1.0, data.amount)
    for amount in np.unique(group):
        rows = np.flatnonzero(group == amount)
        units, codes = np.unique(data.draw[rows] if whole_draws else rows, return_inverse=True)
        drawn = rng.multinomial(len(units), np.full(len(units), 1 / len(units)), size=n_draws)
        counts[:, rows] = drawn[:, codes]
    return np.asarray(fit.model.search(np.broadcast_to(data.score, counts.shape), counts=counts)[0][:, 0])
