"""What the break test finds, and how often its intervals and bounds hold the truth, where the truth was planted.

    python benchmarks/break_coverage.py --json benchmarks/results/campaigns/break_coverage.json

Three parts. ``intervals``: how often the 95% profile interval of a ReLU's break holds it, with known, correlated and
estimated errors (demanded: 93% to 97%). ``bounds``: how often the equivalence bound is at least the planted step
(demanded: 93%). ``verdicts``: what is called ``emergent`` in worlds of three seeds, two continuous metrics and
a discrete one, whose snapshots share their questions; covariances are estimated, as from real questions (demanded:
smooth S-curves at most 5%, logistics of at most 10% width at least 90%). Exit code 1 if a demand is not met. About six
minutes of one core.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from emergence.measures.curves import LOGISTIC_WIDTH
from emergence.measures.equivalence import STEP_WIDTH, largest_break
from emergence.measures.mirage import MetricCurve, diagnose
from emergence.measures.thresholds import fit_break

FloatArray = NDArray[np.float64]
LOWEST, HIGHEST = 0.93, 0.97
MOST_FALSE, LEAST_FOUND = 0.05, 0.90
#: Of the verdict worlds, in shares of the rise: standard error of a snapshot, by its questions (0.85 of the variance
#: shared by all snapshots), and by its seed; sentences behind the covariance.
QUESTIONS_SE, SHARED, SEED_SD, SENTENCES, SEEDS, POINTS = 0.04, 0.85, 0.02, 150, 3, 12
METRICS = {"log_prob": True, "expected_f1": True, "em": False}


def logistic(width: float) -> Callable[[FloatArray, float], FloatArray]:
    """S-curve over x in [0, 1] with this 10-90% width and a given middle."""
    return lambda x, middle: expit(LOGISTIC_WIDTH / width * (x - middle))


def risen(curve: FloatArray) -> FloatArray:
    """From 0 at the first point to 1 at the last."""
    return (curve - curve[0]) / (curve[-1] - curve[0])


# Intervals ----------------------------------------------------------------------------------------


def interval_case(points: int, place: float, noise: float, errors: str, simulations: int, seed: int) -> dict[str, Any]:
    """Coverage of the ReLU's break; ``noise`` is a standard error in shares of the rise."""
    rng = np.random.default_rng([seed, points, int(1000 * place), int(1000 * noise), *errors.encode()])
    x = np.linspace(0.0, 1.0, points)
    truth = np.maximum(x - place, 0.0) / (1.0 - place)
    joint = np.eye(points)
    if errors == "correlated":
        joint = 0.3 * np.eye(points) + 0.7 * np.exp(-2.0 * np.abs(x[:, None] - x))
    covariance = noise**2 * joint
    root = np.linalg.cholesky(covariance)
    held, widths = 0, []
    for _ in range(simulations):
        y = truth + root @ rng.normal(size=points)
        found = fit_break(x, y, sign=1, covariance=None if errors == "estimated" else covariance)
        held += found.lo <= place <= found.hi
        widths.append(found.hi - found.lo)
    share = held / simulations
    return {
        "points": points,
        "place": place,
        "noise": noise,
        "errors": errors,
        "coverage": share,
        "median_width": float(np.median(widths)),
        "inside": LOWEST <= share <= HIGHEST,
    }


# Bounds -------------------------------------------------------------------------------------------


def bound_case(points: int, step: float, noise: float, simulations: int, seed: int) -> dict[str, Any]:
    """How often the bound is at least the planted share of the rise in one step on some smooth curve."""
    rng = np.random.default_rng([seed, points, int(1000 * step), int(1000 * noise)])
    x = np.linspace(0.0, 1.0, points)
    smooth = [lambda x, _: x, logistic(0.4), logistic(1.0), lambda x, _: np.expm1(3.0 * x)]
    bounds = []
    for _ in range(simulations):
        curve = risen(smooth[rng.integers(4)](x, rng.uniform(0.2, 0.8)))
        jump = risen(logistic(STEP_WIDTH)(x, rng.uniform(0.15, 0.85)))
        y = (1 - step) * curve + step * jump + noise * rng.normal(size=points)
        bounds.append(largest_break(x, y, np.full(points, noise), sign=1).upper)
    share = float(np.mean(np.array(bounds) >= step))
    row = {"points": points, "step": step, "noise": noise, "coverage": share, "median_bound": float(np.median(bounds))}
    return {**row, "inside": share >= LOWEST}


# Verdicts -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """A planted curve, and what is demanded of the share called ``emergent``; None demands nothing."""

    name: str
    curve: Callable[[FloatArray, float], FloatArray]
    smooth: bool | None


SHAPES = (
    Shape("logistic, 5% wide", logistic(0.05), False),
    Shape("logistic, 10% wide", logistic(0.10), False),
    Shape("logistic, 40% wide", logistic(0.40), True),
    Shape("logistic, 60% wide", logistic(0.60), True),
    Shape("logistic, 100% wide", logistic(1.00), True),
    Shape("line", lambda x, _: x, True),
    Shape("Gompertz, 60% wide", lambda x, middle: np.exp(-np.exp(-3.084 / 0.6 * (x - middle))), None),
    Shape("logistic, 20% wide", logistic(0.20), None),
    Shape("ReLU", lambda x, middle: np.maximum(x - middle, 0.0), None),
)


def question_covariance(points: int) -> FloatArray:
    """Of a snapshot's mean over questions; what all share is the larger part."""
    return np.asarray(QUESTIONS_SE**2 * (SHARED * np.ones((points, points)) + (1 - SHARED) * np.eye(points)))


def world(shape: Shape, points: int, rng: np.random.Generator) -> tuple[FloatArray, list[MetricCurve]]:
    """Places and metrics of one simulated experiment, with covariances as :class:`CurveErrors` would estimate them."""
    x = np.linspace(0.0, 1.0, points)
    truth = risen(shape.curve(x, rng.uniform(0.3, 0.7)))
    joint = question_covariance(points)
    root = np.linalg.cholesky(joint)
    metrics = []
    for name, continuous in METRICS.items():
        seeds = SEED_SD * rng.normal(size=(SEEDS, points))
        y = truth + root @ rng.normal(size=points) + seeds
        sentences = root @ rng.normal(size=(points, SENTENCES))
        questions = np.cov(sentences) * (SENTENCES - 1) / (SENTENCES - points - 2)
        rest = seeds - seeds.mean(axis=0) - seeds.mean(axis=1, keepdims=True) + seeds.mean()
        own = (rest**2).sum() / ((SEEDS - 1) * (points - 1)) * np.eye(points)
        mean = questions + own / SEEDS
        each = np.tile(questions + own, (SEEDS, 1, 1))
        se = np.sqrt(np.diag(mean))
        metrics.append(MetricCurve(name, continuous, y, se, covariance=mean, seed_covariances=each))
    return x, metrics


def verdict_case(shape: Shape, points: int, simulations: int, draws: int, seed: int) -> dict[str, Any]:
    """Shares of the verdicts; shapes of which nothing is demanded get a quarter of the worlds."""
    simulations = simulations if shape.smooth is not None else max(1, simulations // 4)
    rng = np.random.default_rng([seed, points, *shape.name.encode()])
    found: Counter[str] = Counter()
    for trial in range(simulations):
        x, metrics = world(shape, points, rng)
        found[diagnose(x, metrics, sign=1, n_draws=draws, seed=trial).verdict] += 1
    shares = {name: count / simulations for name, count in found.most_common()}
    emergent = shares.get("emergent", 0.0)
    inside = {True: emergent <= MOST_FALSE, False: emergent >= LEAST_FOUND, None: True}[shape.smooth]
    return {
        "shape": shape.name,
        "points": points,
        "worlds": simulations,
        "verdicts": shares,
        "emergent": emergent,
        "inside": inside,
    }


# All ----------------------------------------------------------------------------------------------


def run(part: str, simulations: int, draws: int, seed: int) -> list[dict[str, Any]]:
    """The rows of one part, printed as they come."""
    cases: list[Callable[[], dict[str, Any]]] = []
    if part == "intervals":
        grid = product((8, 12), (0.3, 0.5, 0.7), (0.02, 0.05), ("known", "correlated", "estimated"))
        cases = [partial(interval_case, *case, simulations, seed) for case in grid]
    if part == "bounds":
        steps = product((8, 12), (0.0, 0.1, 0.3), (0.003, 0.01, 0.03))
        cases = [partial(bound_case, *case, simulations, seed) for case in steps]
    if part == "verdicts":
        cases = [partial(verdict_case, shape, POINTS, simulations, draws, seed) for shape in SHAPES]
    rows = []
    for case in cases:
        rows.append(case())
        print(part, json.dumps(rows[-1]), flush=True)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--intervals", type=int, default=1000, help="simulations of each interval case")
    parser.add_argument("--bounds", type=int, default=150, help="simulations of each bound case")
    parser.add_argument("--verdicts", type=int, default=200, help="worlds of each shape")
    parser.add_argument("--draws", type=int, default=199, help="bootstrap draws of each test (the program takes 2,000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the rows there too")
    options = parser.parse_args()
    started = time.process_time()
    simulations = {part: getattr(options, part) for part in ("verdicts", "intervals", "bounds")}
    rows = {part: run(part, n, options.draws, options.seed) for part, n in simulations.items() if n}
    if options.json:
        today = datetime.date.today().isoformat()
        settings = {"date": today, "simulations": simulations, "draws": options.draws, "seed": options.seed}
        seconds = round(time.process_time() - started)
        options.json.write_text(json.dumps({**settings, "cpu_seconds": seconds, **rows}, indent=1) + "\n")
    return 0 if all(row["inside"] for part in rows.values() for row in part) else 1


if __name__ == "__main__":
    sys.exit(main())
