"""How often the 95% intervals of F1 and of the emergence score hold the truth, where the truth was planted.

The simulated questions are like real ones: scores in [0, 1] with many 0s and 1s, several questions a sentence,
sentences and questions that are hard for every cell, training seeds that move whole cells, and pretrained cells
that share the seeds of their pretraining. Some cases are hard on purpose: ten sentences, two seeds, a few sentences
with most of the questions, documents with an effect of their own. Every simulated experiment goes through the
program's own estimator.

    python benchmarks/score_coverage.py --simulations 1000 --seed 0 --json coverage.json

``headline`` is the score's interval that the program quotes (bootstrap, or Fieller's set where the denominator is weak:
the whole line if that set is no interval), ``fieller`` Fieller's set itself, ``delta`` the delta method, for
comparison, ``f1`` the interval of the frozen cell's mean. Exit code 1 if the headline (Fieller's set, for a weak
denominator) or F1 is held in fewer than 92% in a case where the program does not say so itself (``said``).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from emergence.measures.emergence_score import (
    FROZEN,
    FULL,
    RANDOM_FROZEN,
    EmergenceScore,
    analyse_two_by_two,
    two_by_two_table,
)
from emergence.measures.measured_coverage import PROMISED, measured_coverage
from emergence.measures.resampling import ClusterTable

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
LOWEST = 0.92
#: Shares of the variance of how well a question is answered: its sentence, itself, and the seed; the rest is noise.
SENTENCE, QUESTION, SEED = 0.15, 0.35, 0.002
#: Where documents have an effect, taken from the sentences' share.
DOCUMENT = 0.05
#: Questions a sentence: tail index and most of the heavy-tailed kind.
PARETO_TAIL, PARETO_MOST = 1.2, 80


@dataclass(frozen=True)
class Case:
    """A planted truth and the size of the experiment.

    Attributes:
        frozen, full, floor: Expected F1 of the three cells.
        sentences: Clusters, of 1 to 8 questions, or if ``pareto`` of 1 to 80 with a heavy tail.
        seeds: Training seeds of frozen, full and floor; one seed has no seed effect, since its interval claims none.
        weak: The denominator is too small for a bounded interval, so Fieller's set is what must hold.
        documents: With an effect of their own; 0 for none. cluster: What is resampled.
        seed_share: Share of the variance that the seed has. own: Whether frozen and full have seeds of their own.
        peers: Other model sizes, with the same spread over seeds, that it is pooled with.
    """

    name: str
    frozen: float
    full: float
    floor: float
    sentences: int = 200
    seeds: tuple[int, int, int] = (1, 1, 1)
    weak: bool = False
    pareto: bool = False
    documents: int = 0
    cluster: Literal["sentence", "document"] = "sentence"
    seed_share: float = SEED
    own: bool = False
    peers: int = 0

    @property
    def said(self) -> bool:
        """Whether the program says beside the numbers that these intervals hold less than they promise."""
        seeds = 1 + (min(self.seeds) - 1) * (1 + self.peers)  # as many tell the variance as well
        overlooked = self.documents > 0 and self.cluster == "sentence"
        return overlooked or measured_coverage(seeds, self.sentences) < PROMISED

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
    Case("10 sentences", 0.45, 0.70, 0.20, sentences=10),
    Case("12 sentences", 0.30, 0.60, 0.20, sentences=12),
    Case("20 sentences", 0.30, 0.60, 0.20, sentences=20),
    Case("10 sentences, 3 seeds", 0.45, 0.70, 0.20, sentences=10, seeds=(3, 3, 3)),
    Case("2 seeds", 0.45, 0.70, 0.20, seeds=(2, 2, 2)),
    Case("2 seeds, own", 0.45, 0.70, 0.20, seeds=(2, 2, 2), seed_share=0.01, own=True),
    Case("2 seeds, wide", 0.30, 0.60, 0.20, sentences=400, seeds=(2, 2, 2), seed_share=0.05, own=True),
    Case("3 seeds, own", 0.45, 0.70, 0.20, seeds=(3, 3, 3), seed_share=0.01, own=True),
    Case("3 seeds, wide", 0.30, 0.60, 0.20, sentences=400, seeds=(3, 3, 3), seed_share=0.05, own=True),
    Case("5 seeds, own", 0.45, 0.70, 0.20, seeds=(5, 5, 5), seed_share=0.01, own=True),
    Case("3 seeds, pooled", 0.45, 0.70, 0.20, seeds=(3, 3, 3), seed_share=0.01, own=True, peers=1),
    Case("2 seeds, pooled", 0.45, 0.70, 0.20, seeds=(2, 2, 2), seed_share=0.01, own=True, peers=2),
    Case("pareto", 0.45, 0.70, 0.20, sentences=100, pareto=True),
    Case("pareto, 30", 0.30, 0.60, 0.20, sentences=30, pareto=True),
    Case("documents", 0.45, 0.70, 0.20, sentences=184, documents=16),
    Case("documents, clustered", 0.45, 0.70, 0.20, sentences=184, documents=16, cluster="document"),
    Case("small denominator", 0.26, 0.32, 0.20),
    Case("smaller denominator", 0.23, 0.26, 0.20),
    Case("small, 2 seeds", 0.26, 0.32, 0.20, seeds=(2, 2, 2)),
    Case("small, 3 seeds own", 0.26, 0.32, 0.20, seeds=(3, 3, 3), seed_share=0.01, own=True),
)


#: Regimes of ``measures.measured_coverage.MEASURED``, and the shares of the seed over which the lowest counts.
REGIME_SEEDS, REGIME_SENTENCES, REGIME_SHARES = (1, 2, 3, 5), (10, 30, 200), (0.01, 0.05)


@dataclass(frozen=True)
class Experiment:
    """Per-question scores (seeds, N) by cell, and the sentence and document (N,) of each question."""

    cells: dict[str, FloatArray]
    sentences: IntArray
    documents: IntArray


def simulate(case: Case, rng: np.random.Generator) -> Experiment:
    """One experiment.

    Each score is a falling function of a uniform variable (the probability integral of a normal sum of document,
    sentence, question, seed and noise), so that its expectation is the planted mean exactly.
    """
    sizes = rng.integers(1, 9, case.sentences)
    if case.pareto:
        sizes = np.minimum(1 + rng.pareto(PARETO_TAIL, case.sentences), PARETO_MOST).astype(np.int64)
    sentences = np.repeat(np.arange(case.sentences), sizes)
    documents = sentences * max(case.documents, 1) // case.sentences if case.documents else sentences
    of_documents = DOCUMENT if case.documents else 0.0
    shared = math.sqrt(SENTENCE - of_documents) * rng.normal(size=case.sentences)[sentences]
    shared += math.sqrt(of_documents) * rng.normal(size=case.sentences)[documents]
    shared += math.sqrt(QUESTION) * rng.normal(size=len(sentences))  # (N,)
    pretraining = rng.normal(size=max(case.seeds))
    cells = {}
    means = (case.frozen, case.full, case.floor)
    for name, mean, seeds in zip((FROZEN, FULL, RANDOM_FROZEN), means, case.seeds, strict=True):
        seed_share = case.seed_share if seeds > 1 else 0.0
        is_own = case.own or name == RANDOM_FROZEN
        effect = rng.normal(size=seeds) if is_own else pretraining[:seeds]
        noise = math.sqrt(1 - SENTENCE - QUESTION - seed_share) * rng.normal(size=(seeds, len(sentences)))
        cells[name] = answer(ndtr(shared + math.sqrt(seed_share) * effect[:, None] + noise), mean)
    return Experiment(cells, sentences, documents)


def answer(u: FloatArray, mean: float) -> FloatArray:
    """Scores from uniform ``u``: right below a threshold, wrong above another, partly right between, of this mean."""
    half = 0.5 * min(mean, 1.0 - mean)  # half of the answers that could be are only partly right
    return np.clip((mean + half - u) / (2.0 * half), 0.0, 1.0)


def coverage(case: Case, simulations: int, n_boot: int, seed: int) -> dict[str, Any]:
    """Coverage of one case, and how its intervals look."""
    rng = np.random.default_rng([seed, *case.name.encode()])
    held = {"headline": 0, "fieller": 0, "delta": 0, "f1": 0}
    points, widths, f1_widths, undefined = [], [], [], 0
    for trial in range(simulations):
        table, *peers = (_table(case, simulate(case, rng)) for _ in range(1 + case.peers))
        analysis = analyse_two_by_two(table, n_boot=n_boot, seed=trial, peers=peers)
        score, f1 = analysis.probe, analysis.cells[FROZEN]
        assert score is not None  # the floor is there
        for name, holds in _holds(score, case.truth).items():
            held[name] += holds
        held["f1"] += f1.lo <= case.frozen <= f1.hi
        undefined += math.isnan(score.score.point)
        points.append(score.raw)
        widths.append(score.score.hi - score.score.lo)
        f1_widths.append(f1.hi - f1.lo)
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
        "f1_width": float(np.median(f1_widths)),
        "undefined": undefined / simulations,
        "inside": min(judged, shares["f1"]) >= LOWEST,
        "said": case.said,
    }


def _table(case: Case, drawn: Experiment) -> ClusterTable:
    return two_by_two_table(drawn.cells, drawn.documents if case.cluster == "document" else drawn.sentences)


def regimes(simulations: int, n_boot: int, seed: int) -> dict[tuple[int, int], float]:
    """(seeds, sentences) to the lowest coverage of score and F1 over the shares of the seed, seeds a cell's own."""
    lowest: dict[tuple[int, int], float] = {}
    for seeds in REGIME_SEEDS:
        for sentences in REGIME_SENTENCES:
            for share in REGIME_SHARES[: 1 if seeds == 1 else None]:
                name = f"{seeds} seeds, {sentences} sentences, {share}"
                case = Case(name, 0.45, 0.70, 0.20, sentences, (seeds,) * 3, seed_share=share, own=True)
                row = coverage(case, simulations, n_boot, seed)
                held = min(row["headline"], row["f1"])
                lowest[seeds, sentences] = min(held, lowest.get((seeds, sentences), 1.0))
                print(f"{name:<32} score {row['headline']:.3f}  F1 {row['f1']:.3f}", flush=True)
    return lowest


def _holds(score: EmergenceScore, truth: float) -> dict[str, bool]:
    return {
        "headline": score.score.lo <= truth <= score.score.hi,
        "fieller": score.fieller.contains(truth),
        "delta": score.delta.lo <= truth <= score.delta.hi,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--simulations", type=int, default=1000, help="experiments a case")
    parser.add_argument("--draws", type=int, default=1000, help="bootstrap resamples an experiment")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", nargs="*", default=None, metavar="NAME", help="only these")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the table there too")
    parser.add_argument("--regimes", action="store_true", help="measure the table by seeds and sentences instead")
    options = parser.parse_args()
    if options.regimes:
        print({key: round(held, 3) for key, held in regimes(options.simulations, options.draws, options.seed).items()})
        return 0
    heads = f"{'headline':>9} {'fieller':>8} {'delta':>6} {'f1':>6} {'width':>7} {'f1 width':>9} {'undefined':>10}"
    print(f"{'case':<22} {'truth':>6} {heads}")
    rows, started = [], time.monotonic()
    for case in CASES:
        if options.cases and case.name not in options.cases:
            continue
        row = coverage(case, options.simulations, options.draws, options.seed)
        rows.append(row)
        width = "inf" if row["median_width"] is None else f"{row['median_width']:.3f}"
        print(
            f"{row['case']:<22} {row['truth']:>6.2f} {row['headline']:>9.3f} {row['fieller']:>8.3f} "
            f"{row['delta']:>6.3f} {row['f1']:>6.3f} {width:>7} {row['f1_width']:>9.3f} {row['undefined']:>10.1%}"
            f"{'' if row['inside'] else '  below, and said' if row['said'] else '  outside'}",
            flush=True,
        )
    seconds = time.monotonic() - started
    print(f"{options.simulations} simulations a case, {options.draws} resamples each, {seconds:.0f} s")
    if options.json:
        settings = {"simulations": options.simulations, "draws": options.draws, "seed": options.seed}
        options.json.write_text(json.dumps({**settings, "seconds": seconds, "rows": rows}, indent=2) + "\n")
    return 0 if all(row["inside"] or row["said"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
