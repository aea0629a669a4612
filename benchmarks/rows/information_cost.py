"""What an estimate of mutual information costs, and how far off it is: the Gaussian one against the published one.

The cost of a whole study of information emergence is measured as it grows, too.
"""

from __future__ import annotations

import statistics
import tempfile
import tracemalloc
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.drawing import saved_canvas
from benchmarks.materials import Bench
from benchmarks.measure import interleaved, ratio
from benchmarks.peers.mine_published import NARROW, MinePublished, Trace, mine_published
from benchmarks.report import Comparison, Figure, RowResult
from benchmarks.scaling import cost_curve, exponent, told
from emergence.data.token_texts import TokenTexts
from emergence.measures.information import gaussian, gaussian_information
from emergence.studies.information.measure import InformationStudy, ModelToMeasure, Options

MARK = 100.0
PAIRS, DIMENSIONS, STEPS, RATE = 3_000, 32, 1_500, 3e-3
#: Correlations of the pairs, the first of which are independent.
CORRELATIONS = (0.0, 0.5)
#: Steps of the peer that are timed, as a share of its training.
_TIMED = 5


def run(bench: Bench) -> RowResult:
    """CPU seconds and errors of one estimate, then the exponents of a study's cost."""
    n, d, steps = (200, 4, 12) if bench.toy else (PAIRS, DIMENSIONS, STEPS)
    pairs = {rho: correlated(n, d, rho, seed=0) for rho in CORRELATIONS}
    traces = {rho: _published(n, d, rho, steps) for rho in CORRELATIONS}
    estimates = {rho: gaussian(*pairs[rho], noise=0.0) for rho in CORRELATIONS}
    truths = {rho: gaussian_information(rho, d) for rho in CORRELATIONS}
    off = {rho: abs(estimates[rho].value - truths[rho]) for rho in CORRELATIONS}
    theirs = {rho: abs(traces[rho].reported - truths[rho]) for rho in CORRELATIONS}
    peer = MinePublished(*pairs[0.0], steps=steps, rate=RATE)

    def published() -> float:
        for _ in range(_TIMED):
            peer.step()
        return _TIMED / steps  # of one whole estimate

    def ours() -> float:
        for _ in range(10):
            gaussian(*pairs[0.0], noise=0.0)
        return 10.0

    seconds = interleaved({"ours": ours, "published": published}, bench.repeats, bench.device)
    better = all(off[rho] <= theirs[rho] for rho in CORRELATIONS)
    curves = _growth(bench)
    return RowResult(
        row="information-cost",
        title=f"mutual information of {n:,} pairs in {d} dimensions, Gaussian estimate against MINE as published",
        figures=[
            Figure.of("ours", "s", seconds["ours"]),
            Figure.of(f"published, {steps:,} steps", "s", seconds["published"]),
            *(Figure.of(f"ours: error, truth {truths[rho]:.2f} nats", "nats", [off[rho]]) for rho in CORRELATIONS),
            *(
                Figure.of(f"published: error, truth {truths[rho]:.2f} nats", "nats", [theirs[rho]])
                for rho in CORRELATIONS
            ),
        ],
        comparisons=[
            Comparison("at equal or smaller error", ratio(seconds["published"], seconds["ours"]) * better, MARK),
            Comparison("memory of a study against n: exponent", curves.pop("memory"), 1.1, at_least=False, unit=""),
        ],
        data="drawn",
        notes=[
            f"the peer is scaled down: {len(NARROW)} layers and {steps:,} steps at a first rate of {RATE:g} where the "
            "published one has ten, 10,000 and 0.0001, on 300,000 pairs in 768 dimensions; its time is that of "
            f"{_TIMED} steps a round, times their number",
            *(_told(traces[rho], estimates[rho].value, estimates[rho].se, truths[rho], n) for rho in CORRELATIONS),
            "a whole study (four conditions, one block, T = 4, states of a stand-in for a model) grows "
            + ", ".join(f"with {curve['grows_with']} as their power {told(curve)}" for curve in curves.values()),
        ],
        facts={
            "n": n,
            "dimensions": d,
            "ceiling": float(np.log(n)),
            "runs": [
                _traced(rho, traces[rho], estimates[rho].value, estimates[rho].se, truths[rho])
                for rho in CORRELATIONS
            ],
            "growth": list(curves.values()),
        },
    )  # fmt: skip


def correlated(n: int, d: int, rho: float, *, seed: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Gaussian pairs (n, d) whose coordinates correlate one by one."""
    rng = np.random.default_rng([seed, round(1000 * rho)])
    x = rng.standard_normal((n, d))
    return x, rho * x + np.sqrt(1 - rho**2) * rng.standard_normal((n, d))


def _published(n: int, d: int, rho: float, steps: int) -> Trace:
    return mine_published(
        *correlated(n, d, rho, seed=0), correlated(n, d, rho, seed=1), steps=steps, rate=RATE, widths=NARROW
    )


def _traced(rho: float, trace: Trace, value: float, se: float, truth: float) -> dict[str, Any]:
    return {
        "correlation": rho,
        "truth": truth,
        "value": value,
        "se": se,
        "in_sample": np.round(trace.in_sample, 3).tolist(),
        "held_out": [None if np.isnan(v) else round(float(v), 3) for v in trace.held_out],
    }


def _told(trace: Trace, value: float, se: float, truth: float, n: int) -> str:
    return (
        f"truth {truth:.2f} nats: the published estimate reports {trace.reported:.2f} (held out at that step "
        f"{trace.held_out_there:.2f}; the ceiling of {n:,} pairs is {np.log(n):.2f}), ours {value:.3f} with standard "
        f"error {se:.3f}"
    )


# How a study grows --------------------------------------------------------------------------------


def _growth(bench: Bench) -> dict[str, Any]:
    """Exponents of time against texts, pooled dimensions and width of the states, and of memory against texts."""
    texts, pooled, widths = (1_000, 2_000, 4_000, 8_000), (16, 32, 64, 128), (64, 128, 256, 512)
    n, width = 4_000, 128
    if bench.toy:
        texts, pooled, widths = (160, 320, 320, 320), (4, 6, 6, 6), (8, 16, 16, 16)
        n, width = 160, 8
    sizes = {
        "texts": {size: (size, min(8, width), width) for size in texts},
        "pooled dimensions": {size: (n, size, width) for size in pooled},
        "width of states": {size: (n, min(8, size), size) for size in widths},
    }
    curves: dict[str, Any] = {
        name: cost_curve(bench, "information emergence", name, {float(s): _study(*of) for s, of in by_size.items()})
        for name, by_size in sizes.items()
    }
    peaks = [_peak(_study(*of)) for of in sizes["texts"].values()]
    return {**curves, "memory": exponent([float(n) for n in sizes["texts"]], peaks)[0]}


class _Averaging:
    """A stand-in for a model: every level is the one before plus its mean over the text so far."""

    n_layers = 2

    def __init__(self, width: int, seed: int = 0) -> None:
        self.hidden_size = width
        self.table = torch.randn(64, width, generator=torch.Generator().manual_seed(seed))

    def hidden_states(self, ids: torch.Tensor) -> list[torch.Tensor]:
        levels = [self.table[ids]]
        for _ in range(self.n_layers):
            means = levels[-1].cumsum(1) / torch.arange(1, ids.shape[1] + 1)[None, :, None]
            levels.append(levels[-1] + means)
        return levels


_NUMBER = count()


def _study(n: int, dimensions: int, width: int) -> Callable[[], object]:
    def draw(n: int, seed: int) -> npt.NDArray[np.int64]:
        return np.random.default_rng(seed).integers(0, 64, (n, 4))

    def work() -> None:
        model = ModelToMeasure("w", "t", 2, width, 16, lambda: _Averaging(width), lambda seed: _Averaging(width, seed))
        texts = TokenTexts("drawn", 4, 10**9, draw, f"drawn {next(_NUMBER)}")  # nothing of an earlier round is there
        options = Options(n=n, seeds=1, dimensions=dimensions, layers=(1,))
        with tempfile.TemporaryDirectory() as folder:
            InformationStudy({"name": "x", "kind": "run"}, model, texts, options, device=torch.device("cpu")).run(
                Path(folder)
            )

    return work


def _peak(work: Callable[[], object]) -> float:
    """The most bytes that arrays and objects took, median of two."""
    found = []
    for _ in range(2):
        tracemalloc.start()
        try:
            work()
            found.append(float(tracemalloc.get_traced_memory()[1]))
        finally:
            tracemalloc.stop()
    return statistics.median(found)


# The figure ---------------------------------------------------------------------------------------

#: Independent pairs so few that a critic learns them by heart.
_FEW, _FEW_STEPS, _FEW_RATE, _FEW_WIDTHS = 300, 600, 1e-2, (96, 48, 24, 1)


def by_heart() -> tuple[dict[str, Any], Trace]:
    """What the published estimate does with few independent pairs, as a run's facts, and its trace."""
    pairs, others = (correlated(_FEW, DIMENSIONS, 0.0, seed=seed) for seed in (0, 1))
    trace = mine_published(*pairs, others, steps=_FEW_STEPS, rate=_FEW_RATE, widths=_FEW_WIDTHS)
    found = gaussian(*pairs, noise=0.0)
    return {**_traced(0.0, trace, found.value, found.se, 0.0), "n": _FEW}, trace


def draw(found: dict[str, Any], file: Path, whole: dict[str, Any] | None = None) -> str:
    """What the published estimator reports while it trains, beside ours; returns a line a panel.

    The first panel is trained now, which takes a second; the others are of stored results: ``whole`` of
    ``benchmarks.mine_campaign``, with the published network and all its steps.
    """
    facts, (few, trace) = found["facts"], by_heart()
    runs = [few, *([whole] if whole else []), *({**one, "n": facts["n"]} for one in facts["runs"])]
    with saved_canvas(file, 2.4 * len(runs), 2.7) as canvas:
        for panel, one in zip(canvas.subplots(1, len(runs)).flat, runs, strict=True):
            _draw_trace(panel, one)
        canvas.axes[0].set_ylabel("nats")
        handles, labels = canvas.axes[0].get_legend_handles_labels()
        canvas.legend(handles, labels, fontsize=7, loc="outside lower center", ncols=6, frameon=False)
    notes = [note for note in found["notes"] if note.startswith("truth")]
    return "\n".join([_told(trace, few["value"], few["se"], 0.0, _FEW), *notes])


def _draw_trace(panel: Any, one: dict[str, Any]) -> None:
    steps, ceiling = one.get("every", 1) * np.arange(len(one["in_sample"])), float(np.log(one["n"]))
    held_out = np.array([np.nan if v is None else v for v in one["held_out"]])
    there = np.isfinite(held_out)
    panel.plot(steps, one["in_sample"], color="#c8c8c8", linewidth=0.5, label="MINE, in-sample")
    panel.plot(steps, np.maximum.accumulate(one["in_sample"]), color="#b0413e", label="its maximum: reported")
    panel.plot(steps[there], held_out[there], color="#c98a2b", linewidth=0.7, label="MINE, other pairs")
    panel.axhspan(one["value"] - 3 * one["se"], one["value"] + 3 * one["se"], color="#1f5f8b", alpha=0.25)
    panel.axhline(one["value"], color="#1f5f8b", linewidth=1, label="Gaussian, 3 SE")
    panel.axhline(one["truth"], color="black", linestyle=":", linewidth=1, label="truth")
    panel.axhline(ceiling, color="black", linestyle="--", linewidth=0.7, label="ceiling, ln n")
    low = max(float(np.nanmin(held_out)), -6.0) if there.any() else -1.0
    high = max(*one["in_sample"], ceiling) + 1
    network = ", as published" if "widths" in one else ""
    panel.set(title=f"truth {one['truth']:.2f}, n = {one['n']:,}{network}", xlabel="step", ylim=(low - 0.5, high))
