"""How far the linear probe's fits end from their optima: ``python -m benchmarks.probe_optima [--json FILE]``.

Problems are planted: states of several shapes, with and without an offset. The optimum is Newton's, in float64, by the
Hessian in closed form, of each boundary by itself.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emergence.answering.features import LayerFeatures
from emergence.answering.probe_data import ProbeData, standardise_
from emergence.answering.probe_fitting import SpanObjective
from emergence.experiment.source_commit import source_commit
from emergence.files import write_json_atomic
from emergence.measures.resampling import FloatArray
from emergence.measures.spans import GoldSpans

RIDGES = (100.0, 10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
QUESTIONS, DIMENSIONS = (20, 40, 80, 150, 300), (8, 16, 32, 64, 128, 200)
STATES = ("correlated", "independent", "nearly collinear", "low rank", "heavy tails", "outliers")
OFFSETS = ("none", "noise", "the answer and noise", "linear in the states", "nearly linear", "a large mean", "constant")


def plant(states: str, offset: str, n: int, size: int, rng: np.random.Generator) -> ProbeData:
    """``n`` questions of 2 to 18 words whose boundaries a noisy linear map of the states draws."""
    offsets = np.concatenate([[0], rng.integers(2, 19, n).cumsum()])
    m = int(offsets[-1])
    normal = rng.normal(size=(m, size))
    x = {
        "correlated": lambda: normal @ np.diag(np.geomspace(3, 0.03, size)) @ rng.normal(size=(size, size)),
        "independent": lambda: normal,
        "nearly collinear": lambda: rng.normal(size=(m, 1)) + 1e-3 * normal,
        "low rank": lambda: rng.normal(size=(m, max(2, size // 8))) @ rng.normal(size=(max(2, size // 8), size)),
        "heavy tails": lambda: rng.standard_t(1.5, size=(m, size)),
        "outliers": lambda: normal + 1000.0 * (rng.random((m, 1)) < 0.01),
    }[states]()
    x = (x - x.mean(0)) / x.std(0)
    pull = x @ (rng.normal(size=(size, 2)) * rng.choice([0.05, 0.25, 1.0]))
    drawn = pull + rng.choice([0.1, 1.0]) * rng.gumbel(size=(m, 2))
    golds = []
    for begin, end in pairwise(offsets.tolist()):
        start = int(drawn[begin:end, 0].argmax())
        golds.append([(start, start + int(drawn[begin + start : end, 1].argmax()))])
    spans = GoldSpans.from_lists(golds)
    noise, answers = rng.normal(size=(m, 2)), np.zeros((m, 2))
    answers[spans.starts + offsets[:-1], 0] = answers[spans.ends_inclusive + offsets[:-1], 1] = 1.0
    linear = 2.0 * x @ rng.normal(size=(size, 2)) / np.sqrt(size)
    logits = {
        "none": None, "noise": noise, "the answer and noise": noise + 2 * answers, "linear in the states": linear,
        "nearly linear": linear + 0.1 * noise, "a large mean": 1000 + noise + answers, "constant": 5 + 1e-6 * noise,
    }[offset]  # fmt: skip
    features = LayerFeatures(torch.tensor(x, dtype=torch.float32), torch.zeros(n, 2 * size), offsets)
    standardise_(features)
    return ProbeData(features, spans, None if logits is None else torch.tensor(logits, dtype=torch.float32))


def above_optimum(data: ProbeData, flat: FloatArray, ridge: float) -> tuple[float, float]:
    """By how many nats per question fitted values (as of ``SpanObjective``) lie above the optimum.

    Returns:
        Of the loss with its penalty, which is never negative, and of the loss alone.
    """
    size = int(data.features.words.shape[1])
    columns, offset = data.features.words.double().numpy(), data.offset
    gap = alone = 0.0
    for side, golds in enumerate((data.golds.starts, data.golds.ends_inclusive)):
        x, at = columns, flat[side : 2 * size : 2]
        penalty = np.full(size, ridge)
        if offset is not None:
            x, at = np.column_stack([columns, offset[:, side].double().numpy()]), np.append(at, flat[2 * size + side])
            penalty = np.append(penalty, 0.0)
        optimum = _newton(x, data.features.word_offsets, golds, penalty, at)
        (value, _), (best, _) = (_loss(x, data.features.word_offsets, golds, w) for w in (at, optimum))
        alone += value - best
        gap += value - best + 0.5 * float(penalty @ (at**2 - optimum**2))
    return max(gap, 0.0), alone


def _loss(x: FloatArray, offsets: np.ndarray, golds: np.ndarray, w: FloatArray) -> tuple[float, FloatArray]:
    """Mean negative log-likelihood of one boundary, and the probability of each word (sum of W,)."""
    counts, logits = np.diff(offsets), x @ w
    below = logits - np.repeat(np.maximum.reduceat(logits, offsets[:-1]), counts)
    totals = np.repeat(np.add.reduceat(np.exp(below), offsets[:-1]), counts)
    rows = golds + offsets[:-1]
    return float((np.log(totals) - below)[rows].mean()), np.exp(below) / totals


def _newton(x: FloatArray, offsets: np.ndarray, golds: np.ndarray, penalty: FloatArray, at: FloatArray) -> FloatArray:
    """Where one boundary's loss and penalty are lowest, from ``at`` on."""
    n, rows = len(offsets) - 1, golds + offsets[:-1]
    # Units in which the curvature is about 1 keep the products in order.
    unit = 1 / np.sqrt((x**2).mean(0) + penalty + 1e-300)

    def value(w: FloatArray) -> float:
        return _loss(x, offsets, golds, w)[0] + 0.5 * float(penalty @ w**2)

    for _ in range(200):
        _, share = _loss(x, offsets, golds, at)
        gradient = (x.T @ share - x[rows].sum(0)) / n + penalty * at
        means = np.add.reduceat(x * share[:, None], offsets[:-1])
        hessian = ((x.T * share) @ x - means.T @ means) / n + np.diag(penalty)
        scaled = hessian * unit[:, None] * unit + 1e-13 * np.eye(len(at))
        step = unit * np.linalg.solve(scaled, unit * gradient)
        gain, length = float(gradient @ step), 1.0
        while length > 1e-9 and value(at - length * step) > value(at) - 1e-4 * length * gain:
            length /= 2
        if gain < 1e-13 or length <= 1e-9:
            break
        at = at - length * step
    return at


def measure(problems: int, seed: int = 0) -> dict[str, Any]:
    """Distances of all fits from their optima, and what was flagged; each problem at every ridge, strongest first."""
    rng = np.random.default_rng(seed)
    fits: list[dict[str, Any]] = []
    for k in range(problems):
        states, offset = STATES[k % len(STATES)], OFFSETS[k % len(OFFSETS)]
        n, size = int(rng.choice(QUESTIONS)), int(rng.choice(DIMENSIONS))
        data = plant(states, offset, n, size, rng)
        objective = SpanObjective(data)
        flat = objective.start
        for ridge in RIDGES:
            found = objective.minimum(flat, ridge, 2_000)
            flat = found.x
            gap, alone = above_optimum(data, flat, ridge)
            fits.append(
                {
                    "states": states, "offset": offset, "n": n, "dimensions": size, "ridge": ridge, "gap": gap,
                    "without_penalty": alone,
                    "converged": bool(found.success), "evaluations": int(found.nfev),
                }
            )  # fmt: skip
    gaps = np.array([fit["gap"] for fit in fits])
    return {
        "problems": problems,
        "fits": len(fits),
        "median": float(np.median(gaps)),
        "worst": float(gaps.max()),
        "worst_without_penalty": max(abs(fit["without_penalty"]) for fit in fits),
        "flagged": sum(not fit["converged"] for fit in fits),
        "flagged_within_1e-6": sum(not fit["converged"] and fit["gap"] < 1e-6 for fit in fits),
        "unflagged_above_1e-5": sum(fit["converged"] and fit["gap"] > 1e-5 for fit in fits),
        "unflagged_above_1e-4": sum(fit["converged"] and fit["gap"] > 1e-4 for fit in fits),
        "evaluations": sum(fit["evaluations"] for fit in fits),
        "by_states": {
            states: {
                "worst": max(fit["gap"] for fit in fits if fit["states"] == states),
                "unflagged_above_1e-5": sum(
                    fit["converged"] and fit["gap"] > 1e-5 for fit in fits if fit["states"] == states
                ),
            }
            for states in dict.fromkeys(fit["states"] for fit in fits)
        },
        "farthest": sorted(fits, key=lambda fit: -fit["gap"])[:10],
        "seed": seed,
        **source_commit(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.probe_optima", description=__doc__)
    parser.add_argument("--problems", type=int, default=126)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcome there too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(options.problems, options.seed)
    for name, value in found.items():
        if name != "farthest":
            print(f"{name}: {value:.3g}" if isinstance(value, float) else f"{name}: {value}")
    for fit in found["farthest"]:
        print(fit)
    if options.json:
        write_json_atomic(options.json, found)


if __name__ == "__main__":
    main()
