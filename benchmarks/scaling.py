"""How every cost grows with its size, with the exponent of the fitted power law, and the figure of it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.drawing import saved_canvas
from benchmarks.materials import VOCAB_ROWS, Bench
from benchmarks.measure import Work, best_precision, interleaved
from benchmarks.ours import Finetuning, Pretraining, model_config
from benchmarks.report import today
from benchmarks.rows.cka import drifting
from benchmarks.rows.pretrain import batches
from benchmarks.rows.probe import fit
from emergence.answering.finetune import training_batches
from emergence.data.qa_encoding import encode_qa
from emergence.data.records import TextDoc
from emergence.data.stream import encode_documents
from emergence.measures.cka import cka_matrix
from emergence.model import build_trunk
from emergence.spec.model_size import count_parameters

_SHAPE = (2, 64, 4)


def measure_scaling(bench: Bench) -> dict[str, Any]:
    """CPU seconds at several sizes of every cost; each size once a round."""
    curves = [_tokens, _parameters, _finetune_examples, _probe_examples, _cka_items, _text]
    found = [make(bench) for make in curves]
    return {"row": "scaling", "curves": [cost_curve(bench, *parts) for parts in found], "date": today()}


def cost_curve(bench: Bench, cost: str, grows_with: str, pieces: dict[float, Callable[[], object]]) -> dict[str, Any]:
    """CPU seconds of every size, and the exponent of their growth."""

    def once(piece: Callable[[], object]) -> Work:
        def work() -> float:
            piece()
            return 1.0

        return work

    seconds = interleaved(
        {str(size): once(piece) for size, piece in pieces.items()}, max(1, bench.repeats // 2), bench.device
    )
    sizes, medians = list(pieces), [statistics.median(found) for found in seconds.values()]
    slope, error = exponent(sizes, medians)
    return {
        "cost": cost,
        "grows_with": grows_with,
        "sizes": sizes,
        "seconds": medians,
        "exponent": slope,
        "standard_error": error,
    }  # fmt: skip


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float | None]:
    """b of seconds = a * size^b by least squares on logarithms, and its standard error (None of two sizes)."""
    x, y = np.log(sizes) - np.mean(np.log(sizes)), np.log(seconds)
    slope = float(x @ y / (x @ x))
    if len(x) < 3:
        return slope, None
    residuals = y - y.mean() - slope * x
    return slope, float(np.sqrt(residuals @ residuals / (len(x) - 2) / (x @ x)))


def told(curve: dict[str, Any]) -> str:
    """The exponent with its standard error."""
    error = curve["standard_error"]
    return f"{curve['exponent']:.2f}" + ("" if error is None else f" ± {error:.2f}")


def _sizes(bench: Bench, *sizes: int) -> tuple[int, ...]:
    return sizes[:2] if bench.toy else sizes


def _vocab(bench: Bench) -> int:
    return 448 if bench.toy else VOCAB_ROWS


def _tokens(bench: Bench) -> tuple[str, str, dict[float, Callable[[], object]]]:
    ours = Pretraining(model_config(_SHAPE), _vocab(bench), best_precision(bench.device), bench.device)
    pieces: dict[float, Callable[[], object]] = {}
    for batch in _sizes(bench, 1, 2, 4, 8):
        ids = next(batches(bench, batch))
        pieces[float(ids[:, 1:].numel())] = lambda ids=ids: ours.step(ids)  # type: ignore[misc]
    return "pretraining, an update at 2x64", "tokens", pieces


def _parameters(bench: Bench) -> tuple[str, str, dict[float, Callable[[], object]]]:
    pieces: dict[float, Callable[[], object]] = {}
    ids = next(batches(bench, 1)) % 448
    for width in _sizes(bench, 64, 128, 256, 512):
        config = model_config((4, width, 4))
        # A small vocabulary, so that the trunk is what grows.
        ours = Pretraining(config, 448, best_precision(bench.device), bench.device)
        pieces[float(count_parameters(config, 448).non_embedding)] = lambda ours=ours: ours.step(ids)  # type: ignore[misc]
    return "pretraining, 512 tokens, 4 blocks", "non-embedding parameters", pieces


def _finetune_examples(bench: Bench) -> tuple[str, str, dict[float, Callable[[], object]]]:
    data, _ = encode_qa(bench.qa["train"], bench.pretraining.tokenizer, "question-first", 512)
    ours = Finetuning(model_config(_SHAPE), _vocab(bench), best_precision(bench.device), bench.device)

    def epoch(n: int) -> None:
        few = data.subset(np.arange(n))
        one_pass = islice(training_batches(few, ours.settings, seed=0, epoch=0), -(-n // ours.settings.batch_size))
        for index in one_pass:
            ours.step(few, index)

    sizes = [n for n in _sizes(bench, 64, 128, 256, 512) if n <= len(data)]
    return "finetuning, a pass at 2x64", "examples", {float(n): lambda n=n: epoch(n) for n in sizes}  # type: ignore[misc]


def _probe_examples(bench: Bench) -> tuple[str, str, dict[float, Callable[[], object]]]:
    tokenizer, device = bench.pretraining.tokenizer, bench.device
    data, _ = encode_qa(bench.qa["train"], tokenizer, "question-first", 512, "text")
    few, _ = encode_qa(bench.qa["validation"][:50], tokenizer, "question-first", 512, "text")
    trunk = build_trunk(model_config(_SHAPE), _vocab(bench), seed=0, init="normal").eval().to(device)
    sizes = [n for n in _sizes(bench, 64, 250, 500, 1000, 2000) if n <= len(data)]

    def probe(n: int) -> None:
        fit(trunk, data.subset(np.arange(n)), few, best_precision(device), device, (1e-2,))

    return "linear probe of one layer at 2x64", "examples", {float(n): lambda n=n: probe(n) for n in sizes}  # type: ignore[misc]


def _cka_items(bench: Bench) -> tuple[str, str, dict[float, Callable[[], object]]]:
    items = drifting(500, 64, 240)
    sizes = _sizes(bench, 15, 30, 60, 120, 240)
    pieces: dict[float, Callable[[], object]] = {float(m): lambda m=m: cka_matrix(items[:m]) for m in sizes}  # type: ignore[misc]
    return "CKA of all pairs, 500 rows x 64", "layers x checkpoints", pieces


def _text(bench: Bench) -> tuple[str, str, dict[float, Callable[[], object]]]:
    tokenizer, text = bench.pretraining.tokenizer, "\n".join(bench.paragraphs)
    for document in encode_documents([TextDoc("all", text[:1_000_000])], tokenizer):
        assert len(document.ids)
    sizes = [n for n in _sizes(bench, 125_000, 250_000, 500_000, 1_000_000) if n <= len(text)] or [
        len(text) // 2,
        len(text),
    ]

    def encode(n: int) -> None:
        list(encode_documents([TextDoc("part", text[:n])], tokenizer))

    return "tokenising, words already met", "characters", {float(n): lambda n=n: encode(n) for n in sizes}  # type: ignore[misc]


def _short(size: float) -> str:
    """A size for an axis: 512, 4.1k, 12.6M."""
    for unit, suffix in ((1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{size / unit:.3g}{suffix}"
    return f"{size:.3g}"


def draw(found: dict[str, Any], file: Path) -> str:
    """One small log-log panel a cost, with its fitted line; returns a line about it."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    curves = found["curves"]
    with saved_canvas(file, 7.2, 2.2 * math.ceil(len(curves) / 3)) as canvas:
        panels = canvas.subplots(math.ceil(len(curves) / 3), 3).flat
        for panel, curve in zip(panels, curves, strict=False):
            sizes, seconds = np.array(curve["sizes"]), np.array(curve["seconds"])
            slope = curve["exponent"]
            level = np.exp(np.mean(np.log(seconds) - slope * np.log(sizes)))
            panel.loglog(sizes, level * sizes**slope, color="#999999", linewidth=1)
            panel.loglog(sizes, seconds, "o", color="#1f5f8b", markersize=4)
            panel.set(title=curve["cost"], xlabel=curve["grows_with"], ylabel="CPU seconds")
            panel.title.set_fontsize(7.5)
            panel.set_xticks(sizes[[0, len(sizes) // 2, -1]], [_short(sizes[i]) for i in (0, len(sizes) // 2, -1)])
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            for axis in (panel.xaxis, panel.yaxis):
                axis.set_minor_formatter(NullFormatter())
            panel.text(0.05, 0.9, f"exponent {told(curve)}", transform=panel.transAxes, va="top")
    return "\n".join(f"{c['cost']}: exponent {told(c)} ({c['grows_with']})" for c in curves)
