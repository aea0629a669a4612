"""What a planned sweep would say of the emergence point, its cost, and which one more row of its grid helps most."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emergence.errors import EmergenceError, UsageError
from emergence.findings.collect import OWN_KIND
from emergence.findings.law_table import MOST_LOSS
from emergence.findings.laws import FEW_AMOUNTS, FEW_CHECKPOINTS, LEAST_SUPERVISION, MOST_AMOUNT
from emergence.findings.stored_laws import StoredLaw, read_stored_law
from emergence.measures.emergence_law import LawForm
from emergence.measures.law_errors import LawErrors
from emergence.measures.law_intervals import LEVEL
from emergence.measures.law_plan import (
    FAR,
    MISSED,
    N_INTERVALS,
    AddedRow,
    BelievedLaw,
    LawPlan,
    PlannedSweep,
    plan_sweep,
)
from emergence.plain import plain
from emergence.wording import counted, in_line, parsed_number

SCHEMA_VERSION = 1
#: Simulated sweeps for each that gets an interval; those without cost little.
SWEEPS_AN_INTERVAL = 5
DEFAULT_ALPHA = 1.2
#: What no part of a sweep takes.
MOST_HOURS = 1e6


@dataclass(frozen=True)
class Hours:
    """CPU hours of a checkpoint, of a finetuning run whatever its amount, and of a thousand questions of one."""

    checkpoint: float
    run: float = 0.0
    per_thousand: float = 0.0

    def of(self, sweep: PlannedSweep) -> float:
        """Of a whole sweep. Few-shot rows cost next to nothing."""
        questions = len(sweep.losses) * sweep.draws * sum(sweep.amounts) / 1000
        return len(sweep.losses) * self.checkpoint + sweep.n_runs * self.run + questions * self.per_thousand


@dataclass(frozen=True)
class PlanAnalysis:
    """A plan in words. ``hours`` is None where nobody said what runs cost."""

    plan: LawPlan
    hours: Hours | None

    def gain(self, row: AddedRow) -> float:
        """By which share a row narrows the spread of predictions."""
        return 1 - row.forecast.spread / self.plan.forecast.spread if self.plan.forecast.spread > 0 else 0.0

    def more_hours(self, row: AddedRow) -> float:
        """What a row costs; nan where nobody said."""
        return self.hours.of(row.sweep) - self.hours.of(self.plan.sweep) if self.hours else math.nan

    def worth(self, row: AddedRow) -> float:
        """The gain for each CPU hour, or for each run where nobody said what one costs."""
        cost = self.more_hours(row) if self.hours else float(row.runs)
        return self.gain(row) / cost if cost > 0 else math.inf * self.gain(row)

    @property
    def added(self) -> list[AddedRow]:
        """Rows, the one that is worth most first."""
        return sorted(self.plan.added, key=self.worth, reverse=True)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; an open interval's width is null."""
        plan, hours = self.plan, self.hours
        rows = [
            {"row": row.name, "runs": row.runs, "hours": self.more_hours(row), "gain": self.gain(row),
             "worth": self.worth(row), "forecast": row.forecast}
            for row in self.added
        ]  # fmt: skip
        return plain(
            {
                "kind": f"{OWN_KIND}law_plan", "schema_version": SCHEMA_VERSION, "sweep": plan.sweep,
                "runs": plan.sweep.n_runs, "law": {**vars(plan.law), "emergence_point": plan.law.elbow},
                "errors": plan.errors, "level": plan.level, "forecast": plan.forecast, "width": plan.width,
                "open": plan.open, "gap": plan.gap, "cannot_be_predicted": plan.is_hopeless,
                "hours": hours and hours.of(plan.sweep), "added": rows, "sweeps": plan.n_sweeps,
                "intervals": plan.n_intervals,
            }
        )  # fmt: skip

    def text(self) -> str:
        """A paragraph for a terminal."""
        return "\n".join(in_line(line) for line in self._lines())

    def _lines(self) -> Iterator[str]:
        plan, sweep, law, e = self.plan, self.plan.sweep, self.plan.law, self.plan.errors
        few = ", and few-shot rows" if sweep.fewshot else ""
        yield (
            f"planned sweep: {len(sweep.losses)} checkpoints x {len(sweep.amounts)} amounts x "
            f"{counted(sweep.draws, 'draw')}: {counted(sweep.n_runs, 'run')}{few}; best loss {min(sweep.losses):.4g}"
        )
        scale = "D" if law.form == "power" else "(ln D)"
        yield (
            f"  believed: E(D) = {law.k:.4g}*{scale}^{law.alpha:.4g} + {law.c:.4g}, so {law.elbow:.4f} at "
            f"{law.target:g}; slope {law.slope:.4g}"
        )
        yield f"  errors: checkpoint {e.checkpoint:.2g}, draw {e.draw:.2g}, rest {e.rest:.2g}"
        if plan.is_hopeless:
            why = (
                f"the best loss stays {plan.gap:.2f} above the emergence point"
                if plan.gap >= FAR - 1e-9
                else f"the best loss is {plan.gap:.2f} from the emergence point, and runs are too noisy or too few"
            )
            yield f"  cannot be predicted: {why}; {plan.forecast.missed:.0%} of predictions miss by more than {MISSED}"
        forecast = plan.forecast
        yield (
            f"  error to expect: {forecast.error:.3f} (median of {plan.n_sweeps} simulated sweeps), 90% within "
            f"{forecast.error_90:.3f}; chance of missing by more than {MISSED}: {forecast.missed:.0%}"
        )
        width = f"{plan.width:.3f} wide" if math.isfinite(plan.width) else "unbounded"
        yield (
            f"  {plan.level:.0%} interval to expect: {width} (median of {plan.n_intervals}), unbounded in "
            f"{plan.open:.0%}"
        )
        if self.hours:
            yield f"  cost: {self.hours.of(sweep):,.2f} CPU hours"
        per = "CPU hour" if self.hours else "run"
        yield f"  one more row of the grid, and by how much predictions spread less (most for each {per} first):"
        for row in self.added:
            cost = f", {self.more_hours(row):,.2f} CPU hours" if self.hours else ""
            yield (
                f"    {self.gain(row):>+6.1%}  {row.name} ({counted(row.runs, 'run')}{cost}); misses "
                f"{row.forecast.missed:.0%}"
            )
        best = self.added[0]
        if self.gain(best) <= 0:
            yield "  none of them helps by more than chance"
        few_flags = [
            f"{name}: fewer than {least}"
            for name, n, least in (
                ("few amounts", len(sweep.amounts), FEW_AMOUNTS),
                ("few checkpoints", len(sweep.losses), FEW_CHECKPOINTS),
            )
            if n < least
        ]
        yield from (f"  {flag}" for flag in few_flags)


def analyse_plan(
    *,
    losses: Sequence[float],
    amounts: Sequence[float],
    draws: int,
    noise: str,
    law: Sequence[float] | None = None,
    target: float | None = None,
    fewshot: bool | None = None,
    hours: Sequence[float] | None = None,
    level: float = LEVEL,
    n_intervals: int = N_INTERVALS,
    seed: int = 0,
    one_by_one: Callable[[Sequence[int]], Iterable[int]] = lambda numbers: numbers,
) -> PlanAnalysis:
    """Simulate a planned sweep.

    Args:
        noise: A law that ``law fit --output`` stored, or standard deviations of a run, a checkpoint, a draw.
        law: Emergence point, elbow at the largest amount, slope, and alpha; the stored one without it.
        target: D_0; that of the stored law, or :data:`LEAST_SUPERVISION`.
        hours: As :class:`Hours`. n_intervals: Simulated sweeps that get an interval. one_by_one: Shows how far it is
            (:func:`emergence.measures.law_plan.plan_sweep`).

    Raises:
        UsageError: A number that cannot be, or no law is given. RunDirectoryError: The stored law cannot be read.
    """
    stored, errors = _errors_of(noise)
    point = stored.point if stored else None
    at = target if target is not None else point.amount if point else LEAST_SUPERVISION
    with_shots = bool(stored is not None and stored.fewshot.any()) if fewshot is None else fewshot
    sweep = _sweep_of(losses, amounts, draws, with_shots)
    if not 1 < at < max(amounts):
        raise UsageError(f"--d0 {at:g}: above 1 and below the largest amount, {max(amounts):g}")
    if hours is not None and not (0 < len(hours) < 4 and all(0 <= h <= MOST_HOURS for h in hours)):
        raise UsageError(
            f"--hours: one to three numbers up to {MOST_HOURS:,.0f}, of a checkpoint, a run, a thousand questions"
        )
    if law is not None and not 3 <= len(law) <= 4:
        raise UsageError("--law: three or four numbers, E0,EMAX,SLOPE[,ALPHA]")
    try:
        if law is not None:
            believed = BelievedLaw.through(law[0], law[1], max(amounts), law[2], (*law, DEFAULT_ALPHA)[3], at)
        elif point is not None and stored is not None and stored.law is not None:
            form: LawForm = "power" if point.is_power else "log_power"
            believed = BelievedLaw(point.k, point.alpha, point.c, stored.law.slope, at, form)
        else:
            raise UsageError("--law is missing: --noise with numbers takes the law that is believed, too")
        plan = plan_sweep(
            sweep, believed, errors, level=level, n_sweeps=SWEEPS_AN_INTERVAL * n_intervals, n_intervals=n_intervals,
            seed=seed, one_by_one=one_by_one,
        )  # fmt: skip
    except ValueError as reason:
        raise UsageError(f"no such sweep or law: {reason}") from None
    return PlanAnalysis(plan, Hours(*hours) if hours else None)


def _errors_of(noise: str) -> tuple[StoredLaw | None, LawErrors]:
    """The stored law that ``noise`` names, if it names one, and the errors."""
    try:
        values = [parsed_number(part) for part in noise.split(",")]
    except ValueError:
        path = Path(noise)
        if not path.is_file():
            raise UsageError(f"--noise {noise}: no such file, and no numbers RUN[,CHECKPOINT[,DRAW]]") from None
        try:
            stored = read_stored_law(path, path.name)
        except EmergenceError as error:
            raise UsageError(f"--noise {error}") from None
        if stored.errors is None:
            raise UsageError(f"--noise {noise}: it has own elbows alone, and no law") from None
        return stored, stored.errors
    rest, checkpoint, draw = (*values, 0.0, 0.0)[:3]
    if len(values) > 3 or not (rest > 0 and all(0 <= value <= 1 for value in values)):
        raise UsageError(f"--noise {noise}: standard deviations up to 1, of a run (above 0), a checkpoint, a draw")
    return None, LawErrors(checkpoint, draw, rest)


def _sweep_of(losses: Sequence[float], amounts: Sequence[float], draws: int, fewshot: bool) -> PlannedSweep:
    for name, values, least in (("losses", losses, 3), ("amounts", amounts, 3)):
        if len(set(values)) != len(values):
            raise UsageError(f"--{name}: one of them comes twice")
        if len(values) < least:
            raise UsageError(f"--{name}: {len(values)}, and a law takes at least {least}")
    if not all(0 < loss <= MOST_LOSS for loss in losses):
        raise UsageError(f"--losses: each above 0 and at most {MOST_LOSS:g}")
    if not all(2 <= amount <= MOST_AMOUNT and amount == int(amount) for amount in amounts):
        raise UsageError(f"--amounts: whole numbers of questions, amounts 2 or more and at most {MOST_AMOUNT:g}")
    if len(losses) * len(amounts) * draws > 20_000:
        raise UsageError("more than 20,000 runs: plan a part of it")
    return PlannedSweep(tuple(sorted(losses)), tuple(sorted(amounts)), draws, fewshot)
