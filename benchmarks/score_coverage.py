"""How often the 95% interval of the emergence score holds the truth, where the truth was planted.

The simulated questions are like real ones: scores in [0, 1] with many 0s and 1s, several questions a sentence,
sentences and questions that are hard for every cell, training seeds that move whole cells, and pretrained cells
that share the seeds of their pretraining. Every simulated experiment goes through the program's own estimator.

    python benchmarks/score_coverage.py --simulations 2000 --seed 0 --json coverage.json

``headline`` is the interval that the program quotes (bootstrap, or Fieller's set where the denominator is weak: the
whole line if that set is no interval), ``fieller`` Fieller's set itself, ``delta`` the delta method, for comparison.
Exit code 1 if the headline (Fieller's set, for a weak denominator) is outside 93% to 97% in any case.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from emergence.measures.emergence_score import (
    FROZEN,
    FULL,
    RANDOM_FROZEN,
    EmergenceScore,
    estimate_emergence_score,
    two_by_two_table,
)

FloatArray = NDArray[np.float64]
LOWEST, HIGHEST = 0.93, 0.97
#: Shares of the variance of how well a question is answered: its sentence, itself, and the seed; the rest is noise.
SENTENCE, QUESTION, SEED = 0.15, 0.35, 0.002


@dataclass(frozen=True)
class Case:
    """A planted truth and the size of the experiment.

    Attributes:
        frozen, full, floor: Expected F1 of the three cells.
        sentences: Clusters, of 1 to 8 questions.
        seeds: Training seeds of frozen, full and floor; one seed has no seed effect, since its interval claims none.
        weak: The denominator is too small for a bounded interval, so Fieller's set is what must hold.
    """

    name: str
    frozen: float
    full: float
    floor: float
    sentences: int = 200
    seeds: tuple[int, int, int] = (1, 1, 1)
    weak: bool = False

    @property
    def truth(self) -> float:
        return (self.frozen - self.floor) / (self.full - self.floor)


CASES = (
    Case("half", 0.45, 0.70, 0.20),
    Case("near 0", 0.22, 0.70, 0.20),
    Case("below 0", 0.15, 0.60, 0.25),
    Case("near 1", 0.68, 0.70, 0.20),
    Case("exactly 1", 0.70, 0.70, 0.20),
    Case("high floor", 0.42, 0.60, 0.30),
    Case("few sentences", 0.45, 0.70, 0.20, sentences=50),
    Case("real size", 0.30, 0.70, 0.23, sentences=400),
    Case("5 seeds", 0.45, 0.70, 0.20, seeds=(5, 5, 5)),
    Case("5, 3, 5 seeds", 0.45, 0.70, 0.20, seeds=(5, 3, 5)),
    Case("3 seeds", 0.45, 0.70, 0.20, seeds=(3, 3, 3)),
    Case("3 seeds, near 0", 0.22, 0.70, 0.20, seeds=(3, 3, 3)),
    Case("3 seeds, near 1", 0.68, 0.70, 0.20, seeds=(3, 3, 3)),
    Case("weak", 0.215, 0.24, 0.20, weak=True),
    Case("hopeless", 0.205, 0.21, 0.20, weak=True),
    Case("weak, 3 seeds", 0.215, 0.24, 0.20, seeds=(3, 3, 3), weak=True),
)


def simulate(case: Case, rng: np.random.Generator) -> tuple[dict[str, FloatArray], NDArray[np.int64]]:
    """Per-question scores (seeds, N) of the three cells, and the sentence (N,) of each question.

    Each score is a falling function of a uniform variable (the probability integral of a normal sum of sentence,
    question, seed and noise), so that its expectation is the planted mean exactly.
    """
    sizes = rng.integers(1, 9, case.sentences)
    sentences = np.repeat(np.arange(case.sentences), sizes)
    shared = math.sqrt(SENTENCE) * rng.normal(size=case.sentences)[sentences]
    shared += math.sqrt(QUESTION) * rng.normal(size=len(sentences))  # (N,)
    pretraining = rng.normal(size=max(case.seeds))
    cells = {}
    means = (case.frozen, case.full, case.floor)
    for name, mean, seeds in zip((FROZEN, FULL, RANDOM_FROZEN), means, case.seeds, strict=True):
        seed_share = SEED if seeds > 1 else 0.0
        effect = pretraining[:seeds] if name != RANDOM_FROZEN else rng.normal(size=seeds)
        noise = math.sqrt(1 - SENTENCE - QUESTION - seed_share) * rng.normal(size=(seeds, len(sentences)))
        cells[name] = answer(ndtr(shared + math.sqrt(seed_share) * effect[:, None] + noise), mean)
    return cells, sentences


def answer(u: FloatArray, mean: float) -> FloatArray:
    """Scores from uniform ``u``: right below a threshold, wrong above another, partly right between, of this mean."""
    half = 0.5 * min(mean, 1.0 - mean)  # half of the answers that could be are only partly right
    return np.clip((mean + half - u) / (2.0 * half), 0.0, 1.0)


def coverage(case: Case, simulations: int, n_boot: int, seed: int) -> dict[str, Any]:
    """Coverage of one case, and how its intervals look."""
    rng = np.random.default_rng([seed, *case.name.encode()])
    held = {"headline": 0, "fieller": 0, "delta": 0}
    points, widths, undefined = [], [], 0
    for trial in range(simulations):
        cells, sentences = simulate(case, rng)
        score = estimate_emergence_score(two_by_two_table(cells, sentences), n_boot=n_boot, seed=trial)
        for name, holds in _holds(score, case.truth).items():
            held[name] += holds
        undefined += math.isnan(score.score.point)
        points.append(score.raw)
        widths.append(score.score.hi - score.score.lo)
    shares = {name: count / simulations for name, count in held.items()}
    judged = shares["fieller" if case.weak else "headline"]
    return {
        "case": case.name,
        "truth": case.truth,
        "sentences": case.sentences,
        "seeds": list(case.seeds),
        "weak": case.weak,
        **shares,
        "monte_carlo_se": math.sqrt(judged * (1 - judged) / simulations),
        "median_point": float(np.median(points)),
        "median_width": float(np.median(widths)) if math.isfinite(float(np.median(widths))) else None,
        "undefined": undefined / simulations,
        "inside": LOWEST <= judged <= HIGHEST,
    }


def _holds(score: EmergenceScore, truth: float) -> dict[str, bool]:
    return {
        "headline": score.score.lo <= truth <= score.score.hi,
        "fieller": score.fieller.contains(truth),
        "delta": score.delta.lo <= truth <= score.delta.hi,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--simulations", type=int, default=2000, help="experiments a case")
    parser.add_argument("--draws", type=int, default=1000, help="bootstrap resamples an experiment")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", nargs="*", default=None, metavar="NAME", help="only these")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the table there too")
    options = parser.parse_args()
    print(f"{'case':<16} {'truth':>6} {'headline':>9} {'fieller':>8} {'delta':>6} {'width':>7} {'undefined':>10}")
    rows, started = [], time.monotonic()
    for case in CASES:
        if options.cases and case.name not in options.cases:
            continue
        row = coverage(case, options.simulations, options.draws, options.seed)
        rows.append(row)
        width = "inf" if row["median_width"] is None else f"{row['median_width']:.3f}"
        print(
            f"{row['case']:<16} {row['truth']:>6.2f} {row['headline']:>9.3f} {row['fieller']:>8.3f} "
            f"{row['delta']:>6.3f} {width:>7} {row['undefined']:>10.1%}{'' if row['inside'] else '  outside'}",
            flush=True,
        )
    seconds = time.monotonic() - started
    print(f"{options.simulations} simulations a case, {options.draws} resamples each, {seconds:.0f} s")
    if options.json:
        settings = {"simulations": options.simulations, "draws": options.draws, "seed": options.seed}
        options.json.write_text(json.dumps({**settings, "seconds": seconds, "rows": rows}, indent=2) + "\n")
    return 0 if all(row["inside"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
