"""Does ``emergence law plan`` say how wide the interval of a sweep will be? Against fresh sweeps with a planted law.

    python -m benchmarks.law_plan --worlds 60 --json law_plan.json

The plan knows the law and the errors. The fresh sweeps come from the generator of ``benchmarks.law_coverage``, which
shares no code with the plan's, and each has its errors estimated and its interval calibrated as a person's table has.
The last case has no checkpoint within 0.3 nats of the emergence point: the plan must say that it cannot be predicted.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import law_coverage as planted
from emergence.files import to_json
from emergence.measures.emergence_law import LawData, LawModel, fit_law
from emergence.measures.law_errors import LawErrors, fit_errors
from emergence.measures.law_intervals import calibrated_profile
from emergence.measures.law_plan import MISSED, BelievedLaw, LawPlan, PlannedSweep, plan_sweep

#: How far a predicted width may be off.
CLOSE = 0.20
LAW = BelievedLaw(planted.K, planted.ALPHA, planted.C, planted.SLOPE, planted.SHOTS)


@dataclass(frozen=True)
class Case:
    """A planned sweep, and the kind of world it is run in; ``n_losses``: its weakest checkpoints."""

    name: str
    world: planted.Case
    n_losses: int = len(planted.LOSSES)


_BY_NAME = {case.name: case for case in planted.CASES}
CASES = (
    *(Case(name, _BY_NAME[name]) for name in ("independent noise", "two draws", "checkpoint and draw effects")),
    Case("too weak checkpoints", _BY_NAME["independent noise"], 5),
)


def plan_of(case: Case, n_intervals: int) -> LawPlan:
    """What the plan says before."""
    losses = tuple(float(x) for x in planted.LOSSES[: case.n_losses])
    sweep = PlannedSweep(losses, tuple(float(d) for d in planted.AMOUNTS), case.world.draws, fewshot=True)
    errors = LawErrors(planted.NOISE * case.world.checkpoint, planted.NOISE * case.world.draw, planted.NOISE)
    return plan_sweep(sweep, LAW, errors, n_sweeps=5 * n_intervals, n_intervals=n_intervals, seed=1)


def fresh(case: Case, world: int, n_draws: int) -> tuple[float, float]:
    """Width and estimate of one fresh sweep."""
    data: LawData = planted.sweep(case.world, np.random.default_rng([world, 7, *case.name.encode()]))
    data = data.rows(np.isin(data.loss, planted.LOSSES[: case.n_losses]))
    fit = fit_law(LawModel(data, "log_power", planted.SHOTS))
    profile = calibrated_profile(fit, fit_errors(fit), level=planted.LEVEL, n_draws=n_draws, seed=world)
    return profile.hi - profile.lo, fit.elbow


def run(worlds: int, n_draws: int, say: Callable[[str], None], cases: Sequence[Case] = CASES) -> list[dict[str, Any]]:
    """A line for each case."""
    lines = []
    for case in cases:
        plan = plan_of(case, worlds)
        found = np.array([fresh(case, world, n_draws) for world in range(worlds)])
        width, missed = float(np.median(found[:, 0])), float((abs(found[:, 1] - planted.TRUTH) > MISSED).mean())
        line = {"case": case.name, "worlds": worlds, "planned_width": plan.width, "width": width}
        line |= {"off": plan.width / width - 1 if math.isfinite(width) else None}
        line |= {"planned_missed": plan.forecast.missed, "missed": missed, "cannot_be_predicted": plan.is_hopeless}
        lines.append(line)
        say(
            f"{case.name:<30} width {plan.width:.3f} planned, {width:.3f} found; missed by {MISSED} "
            f"{plan.forecast.missed:.0%} planned, {missed:.0%} found{'; cannot be predicted' * plan.is_hopeless}"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", type=int, default=60, help="fresh sweeps of each case, and intervals of the plan")
    parser.add_argument("--draws", type=int, default=99, help="bootstrap draws of a fresh sweep's interval")
    parser.add_argument("--json", type=Path, help="write the table there")
    options = parser.parse_args(arguments)
    lines = run(options.worlds, options.draws, lambda text: print(text))
    if options.json:
        options.json.write_text(to_json({"draws": options.draws, "rows": lines}, indent=2) + "\n")
    near = [line for line in lines if not line["cannot_be_predicted"]]
    far = [line for line in lines if line["case"] == "too weak checkpoints"]
    is_good = all(abs(line["off"]) <= CLOSE for line in near) and all(line["cannot_be_predicted"] for line in far)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
