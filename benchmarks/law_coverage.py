"""How often the intervals of the emergence law hold the truth, where the truth was planted.

    python -m benchmarks.law_coverage --worlds 200 --store law_coverage.jsonl
    python -m benchmarks.law_coverage --store law_coverage.jsonl --worlds 0      the table of what is there

Every world is a sweep of eight checkpoints, six finetuning amounts and few-shot rows at D_0 = 5 with a law that is
known (docs/laws.md). Beside the headlined interval, the calibrated profile, stand an uncalibrated one by the F
distribution and what the paper does: percentiles of a bootstrap of runs within amounts, or of whole draws of finetuning
data. A world that is in the store is not computed again, so the command goes on after an interruption.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emergence.files import to_json
from emergence.measures.emergence_law import LawData, LawModel, fit_law
from emergence.measures.law_errors import fit_errors
from emergence.measures.law_intervals import bootstrap_runs, calibrated_profile, f_profile

FloatArray = NDArray[np.float64]
LOSSES = np.array([2.5, 2.35, 2.2, 2.1, 2.0, 1.92, 1.85, 1.78])
AMOUNTS = (50, 100, 200, 500, 1000, 6000)
SHOTS = 5.0
SLOPE, BASE, SHIFT, K, ALPHA, C = 0.9, 0.25, -0.02, 0.05, 1.2, 1.60
TRUTH = K * math.log(SHOTS) ** ALPHA + C
NOISE = 0.01
LEVEL = 0.90
#: Coverage within which an interval is what it says.
HONEST = (0.86, 0.94)
METHODS = ("calibrated", "profile_f", "bootstrap_runs", "bootstrap_draws")


@dataclass(frozen=True)
class Case:
    """A kind of world.

    Attributes:
        draws: Draws of finetuning data at each amount. t: Degrees of freedom of the noise, infinite for a normal.
        width: Of a softplus in place of the hinge, in nats; 0 for the hinge.
        checkpoint, draw: Standard deviations of the two effects, in those of the noise.
    """

    name: str
    draws: int = 1
    t: float = math.inf
    width: float = 0.0
    checkpoint: float = 0.0
    draw: float = 0.0


CASES = (
    Case("independent noise"),
    Case("two draws", draws=2),
    Case("t(3) noise", t=3.0),
    Case("soft elbow", width=0.03),
    Case("checkpoint and draw effects", draws=2, checkpoint=1.0, draw=1.0),
)


def sweep(case: Case, rng: np.random.Generator) -> LawData:
    """The runs of one world."""
    n = len(LOSSES)
    amount = np.repeat([SHOTS, *np.repeat(AMOUNTS, case.draws)], n)
    draw = np.repeat([0, *np.tile(np.arange(case.draws), len(AMOUNTS))], n)
    fewshot = np.arange(len(amount)) < n
    loss = np.tile(LOSSES, len(amount) // n)
    past = K * np.log(amount) ** ALPHA + C - loss
    rise = np.logaddexp(0, past / case.width) * case.width if case.width else np.maximum(past, 0)
    noise = rng.standard_normal(len(loss))
    if math.isfinite(case.t):
        noise = rng.standard_t(case.t, len(loss)) / math.sqrt(case.t / (case.t - 2))
    noise += case.checkpoint * np.tile(rng.standard_normal(n), len(loss) // n)
    effects = np.append(0.0, rng.standard_normal(case.draws * len(AMOUNTS)))
    noise += case.draw * np.repeat(effects, n)
    score = SLOPE * rise + BASE + SHIFT * fewshot + NOISE * noise
    return LawData.of(loss, amount, score, fewshot=fewshot, draw=draw)


def intervals(data: LawData, n_draws: int, seed: int) -> dict[str, tuple[float, float]]:
    """The 90% intervals of E_0 by each method."""
    fit = fit_law(LawModel(data, "log_power", SHOTS))
    profile = calibrated_profile(fit, fit_errors(fit), level=LEVEL, n_draws=n_draws, seed=seed)
    found = {"estimate": (fit.elbow, fit.elbow), "calibrated": (profile.lo, profile.hi)}
    found["profile_f"] = f_profile(fit, level=LEVEL)
    rng = np.random.default_rng(seed)
    for name, whole in (("bootstrap_runs", False), ("bootstrap_draws", True)):
        if not whole or data.draw.max() >= 2 * len(AMOUNTS) - 1:
            lo, hi = np.quantile(bootstrap_runs(fit, n_draws, rng, whole_draws=whole), [0.05, 0.95])
            found[name] = float(lo), float(hi)
    return found


def run(
    store: Path, worlds: int, n_draws: int, say: Callable[[str], None], cases: Sequence[Case] = CASES
) -> list[dict[str, Any]]:
    """The worlds of every case, those that the store lacks computed and added to it."""
    rows = [json.loads(line) for line in store.read_text().splitlines()] if store.exists() else []
    known = {(row["case"], row["world"]) for row in rows}
    for world in range(worlds):
        for case in cases:
            if (case.name, world) in known:
                continue
            data = sweep(case, np.random.default_rng([world, *case.name.encode()]))
            row = {"case": case.name, "world": world, "draws": n_draws, **intervals(data, n_draws, world)}
            with store.open("a") as file:
                file.write(json.dumps(row) + "\n")
            rows.append(row)
        if world % 20 == 19:
            say(f"world {world + 1}")
    return rows


def table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Coverage of each method by case, with the median width where the interval is bounded."""
    out = []
    for case in CASES:
        mine = [row for row in rows if row["case"] == case.name]
        if not mine:
            continue
        error = np.array([row["estimate"][0] for row in mine]) - TRUTH
        line: dict[str, Any] = {
            "case": case.name,
            "worlds": len(mine),
            "missed_by_0.1": float((abs(error) > 0.1).mean()),
        }
        for method in METHODS:
            ends = np.array([row[method] for row in mine if method in row]).reshape(-1, 2)
            if len(ends):
                line[method] = float(((ends[:, 0] <= TRUTH) & (ends[:, 1] >= TRUTH)).mean())
                line[f"{method}_width"] = float(np.median(ends[:, 1] - ends[:, 0]))
                line[f"{method}_open"] = float((~np.isfinite(ends)).any(axis=1).mean())
        out.append(line)
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", type=int, default=200, help="worlds of each case")
    parser.add_argument("--draws", type=int, default=99, help="bootstrap draws")
    parser.add_argument(
        "--case", action="append", choices=[case.name for case in CASES], help="only these (may repeat)"
    )
    parser.add_argument("--store", type=Path, default=Path("law_coverage.jsonl"), help="worlds that are done")
    parser.add_argument("--json", type=Path, help="write the table there")
    options = parser.parse_args(arguments)
    cases = [case for case in CASES if not options.case or case.name in options.case]
    rows = run(options.store, options.worlds, options.draws, lambda text: print(text, file=sys.stderr), cases)
    lines = table(rows)
    print(
        f"{'coverage of 90% intervals':<30} {'worlds':>6}  " + "  ".join(f"{name:>15}" for name in METHODS) + "   width"
    )
    for line in lines:
        shares = "  ".join(f"{line[name]:>15.3f}" if name in line else f"{'-':>15}" for name in METHODS)
        honest = "" if HONEST[0] <= line["calibrated"] <= HONEST[1] else "  outside"
        print(f"{line['case']:<30} {line['worlds']:>6}  {shares}  {line['calibrated_width']:6.3f}{honest}")
    if options.json:
        options.json.write_text(to_json({"draws": options.draws, "rows": lines}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
