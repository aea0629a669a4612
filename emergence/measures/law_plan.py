"""What a sweep would say of the emergence point, before anything is trained: the planned sweep simulated from a law.

Sweeps are drawn with the effects of checkpoints and data draws that the law's errors have (``law_errors``), and each
is fitted like a real one. Sweeps that differ by one row of the grid are compared on the same draws: what both have, a
run's noise as well as a checkpoint's effect, is the same in both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from emergence.measures.emergence_law import BoolArray, LawData, LawForm, LawModel, fit_law
from emergence.measures.law_errors import LawErrors, fit_errors
from emergence.measures.law_intervals import LEVEL, calibrated_profile
from emergence.measures.resampling import FloatArray

#: A prediction that is off by more than this, in nats, has failed (Snell et al. 2024).
MISSED = 0.1
#: Nats of the emergence point below the best loss from which on nothing is predicted.
FAR = 0.3
#: Simulated sweeps that are fitted, and those of them that get an interval; draws that calibrate each.
N_SWEEPS, N_INTERVALS, N_CALIBRATION = 300, 60, 39
#: An amount stands clear of D_0 by this factor, or it is none to add.
_CLEAR = 1.3


@dataclass(frozen=True)
class BelievedLaw:
    """The law that sweeps are drawn from: score = slope·max(E(D) − L, 0), E(D) = k·(ln D)^α + c, or k·D^α + c.

    Attributes:
        target: D_0. form: ``power`` for D itself.
    """

    k: float
    alpha: float
    c: float
    slope: float
    target: float
    form: LawForm = "log_power"

    @classmethod
    def through(cls, elbow: float, top: float, most: float, slope: float, alpha: float, target: float) -> BelievedLaw:
        """The law with elbow E_0 at ``target`` and ``top`` at the amount ``most``.

        Raises:
            ValueError: The elbows do not rise with the amount, or one of the other numbers is not above 0.
        """
        if not (top > elbow > 0 and most > target > 1 and slope > 0 and alpha > 0):
            raise ValueError("elbows rise with the amount, and losses, slope and alpha are above 0")
        low, high = math.log(target) ** alpha, math.log(most) ** alpha
        k = (top - elbow) / (high - low)
        return cls(k, alpha, elbow - k * low, slope, target)

    def elbows(self, amounts: FloatArray) -> FloatArray:
        scale = amounts if self.form == "power" else np.log(amounts)
        return np.asarray(self.k * scale**self.alpha + self.c)

    @property
    def elbow(self) -> float:
        """E_0."""
        return float(self.elbows(np.array([self.target]))[0])


@dataclass(frozen=True)
class PlannedSweep:
    """Checkpoints x amounts x draws.

    Attributes:
        losses: Of the checkpoints. amounts: Finetuning questions. draws: Of questions, at each amount.
        fewshot: Whether checkpoints before emergence are prompted, too, at D_0.
    """

    losses: tuple[float, ...]
    amounts: tuple[float, ...]
    draws: int
    fewshot: bool = False

    @property
    def n_runs(self) -> int:
        return len(self.losses) * len(self.amounts) * self.draws

    def data(self, law: BelievedLaw) -> LawData:
        """Its runs, with the scores of the law and no noise."""
        losses, amounts = np.array(sorted(self.losses)), np.array(sorted(self.amounts))
        draws = range(self.draws)
        cells = [(x, d, draw, 0) for x in losses for d in amounts for draw in draws]
        cells += [(x, law.target, 0, 1) for x in losses if self.fewshot and x > law.elbow]
        loss, amount, draw, few = np.array(cells, dtype=np.float64).T
        score = law.slope * np.maximum(law.elbows(amount) - loss, 0.0)
        return LawData.of(loss, amount, score, fewshot=few > 0, draw=draw)


@dataclass(frozen=True)
class Forecast:
    """What sweeps of one kind say.

    Attributes:
        error: Median of |estimate − E_0|. error_90: Its 90% quantile. missed: Share of errors above :data:`MISSED`.
        spread: From the 5% to the 95% quantile of the estimates.
    """

    error: float
    error_90: float
    missed: float
    spread: float

    @classmethod
    def of(cls, estimates: FloatArray, truth: float) -> Forecast:
        off = np.abs(estimates - truth)
        lo, hi = np.quantile(estimates, [0.05, 0.95])
        return cls(float(np.median(off)), float(np.quantile(off, 0.9)), float((off > MISSED).mean()), float(hi - lo))


@dataclass(frozen=True)
class AddedRow:
    """One more row of the grid, and what the sweep with it says. ``runs``: how many more there are."""

    name: str
    sweep: PlannedSweep
    runs: int
    forecast: Forecast


@dataclass(frozen=True)
class LawPlan:
    """What a planned sweep would say.

    Attributes:
        width: Median width of the calibrated interval, infinite if most are open. open: Share of open ones.
        added: Rows that could be added, the most helpful first.
        gap: How far the best loss stays above the emergence point; negative where it is past it.
    """

    sweep: PlannedSweep
    law: BelievedLaw
    errors: LawErrors
    level: float
    forecast: Forecast
    width: float
    open: float
    added: tuple[AddedRow, ...]
    n_sweeps: int
    n_intervals: int

    @property
    def gap(self) -> float:
        return min(self.sweep.losses) - self.law.elbow

    @property
    def is_hopeless(self) -> bool:
        """Whether the emergence point lies too far below the losses, or most predictions miss."""
        return self.gap >= FAR - 1e-9 or self.forecast.missed > 0.5


def rows_to_add(sweep: PlannedSweep, target: float) -> list[tuple[str, PlannedSweep]]:
    """A draw, a better checkpoint, one in the widest gap, and a smaller, a larger and a middle amount."""
    losses, amounts = sorted(sweep.losses), sorted(sweep.amounts)
    found = [
        ("another draw at every amount", PlannedSweep(sweep.losses, sweep.amounts, sweep.draws + 1, sweep.fewshot))
    ]

    def with_loss(loss: float, words: str) -> None:
        more = replace(sweep, losses=(*sweep.losses, loss))
        found.append((f"a checkpoint of loss {loss:.4g}, {words}", more))

    def with_amount(amount: float, words: str) -> None:
        more = replace(sweep, amounts=(*sweep.amounts, amount))
        found.append((f"{amount:,g} questions, {words}", more))

    if (better := 2 * losses[0] - losses[1]) > 0:
        with_loss(better, "better than all")
    wide = int(np.diff(losses).argmax())
    with_loss((losses[wide] + losses[wide + 1]) / 2, "in the widest gap")
    smaller = float(round(amounts[0] / 2))
    if smaller > _CLEAR * target:
        with_amount(smaller, "fewer than all")
    with_amount(float(round(2 * amounts[-1])), "more than all")
    wide = int(np.diff(np.log(amounts)).argmax())
    middle = float(round(math.sqrt(amounts[wide] * amounts[wide + 1])))
    if middle not in amounts:
        with_amount(middle, "in the widest gap")
    return found


def plan_sweep(
    sweep: PlannedSweep,
    law: BelievedLaw,
    errors: LawErrors,
    *,
    level: float = LEVEL,
    n_sweeps: int = N_SWEEPS,
    n_intervals: int = N_INTERVALS,
    n_calibration: int = N_CALIBRATION,
    seed: int = 0,
    one_by_one: Callable[[Sequence[int]], Iterable[int]] = lambda numbers: numbers,
) -> LawPlan:
    """Simulate a sweep, and the sweeps with one more row.

    Args:
        sweep: What is planned. law, errors: What is believed.
        level: Of the intervals. n_sweeps, n_intervals, n_calibration: Simulated sweeps, those of them that get an
            interval, and the draws that calibrate each.
        seed: Of all draws.
        one_by_one: Passes the numbers of the intervals on, and may show how far it is.

    Raises:
        ValueError: Too few losses or amounts for a law, or D_0 is not below the largest amount.
    """
    candidates = rows_to_add(sweep, law.target)
    everything = PlannedSweep(
        tuple(sorted({x for _, each in candidates for x in each.losses})),
        tuple(sorted({d for _, each in candidates for d in each.amounts})),
        sweep.draws + 1,
        sweep.fewshot,
    ).data(law)
    whole = LawModel(everything, law.form, law.target)
    drawn = errors.draws(whole, everything.score, n_sweeps, np.random.default_rng(seed))

    def forecast(each: PlannedSweep) -> Forecast:
        rows = _rows_of(everything, each)
        model = LawModel(everything.rows(rows), law.form, law.target)
        return Forecast.of(model.search(drawn[:, rows])[0][:, 0], law.elbow)

    base = forecast(sweep)
    added = [AddedRow(name, each, each.n_runs - sweep.n_runs, forecast(each)) for name, each in candidates]
    added.sort(key=lambda row: row.forecast.spread)
    rows = _rows_of(everything, sweep)
    data = everything.rows(rows)
    widths = np.array(
        [
            _width(data.scored(drawn[i, rows]), law, level, n_calibration, seed + i)
            for i in one_by_one(range(n_intervals))
        ]
    )
    width = float(np.median(widths))
    is_open = float(np.isinf(widths).mean())
    return LawPlan(sweep, law, errors, level, base, width, is_open, tuple(added), n_sweeps, n_intervals)


def _rows_of(everything: LawData, sweep: PlannedSweep) -> BoolArray:
    """Which runs of the grid of all candidates a sweep has."""
    first = np.isin(everything.loss, sweep.losses)
    tuned = ~everything.fewshot & np.isin(everything.amount, sweep.amounts) & (everything.draw_order < sweep.draws)
    return np.asarray(first & (tuned | everything.fewshot))


def _width(data: LawData, law: BelievedLaw, level: float, n_draws: int, seed: int) -> float:
    fit = fit_law(LawModel(data, law.form, law.target))
    profile = calibrated_profile(fit, fit_errors(fit), level=level, n_draws=n_draws, seed=seed)
    return profile.hi - profile.lo
