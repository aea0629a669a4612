"""How much of what matrix products alone reach here pretraining reaches, at widths up to the wide ones."""

from __future__ import annotations

from benchmarks.materials import VOCAB_ROWS, Bench
from benchmarks.measure import Work, best_precision, hottest, interleaved, repeated
from benchmarks.ours import Pretraining, model_config
from benchmarks.report import Comparison, Figure, RowResult, precision_notes
from benchmarks.rows.pretrain import LENGTH, batches, on
from emergence.spec.model_size import training_flops_per_token

MARK = 0.5
#: (blocks, width, heads) and sequences per update (base and medium take 128 and more); compiled on a GPU alone.
WIDTHS = {"2x128": (2, 128, 4, 8), "4x256": (4, 256, 8, 16), "4x512": (4, 512, 8, 16)}


def run(bench: Bench) -> RowResult:
    """Share of the measured peak by shape, forward, backward and head counted once each."""
    widths = {"1x16": (1, 16, 2, 2)} if bench.toy else WIDTHS
    vocab = 448 if bench.toy else VOCAB_ROWS
    precision, device = best_precision(bench.device), bench.device
    work: dict[str, Work] = {"GEMM": bench.gemm()}
    flops = {}
    for name, (*shape, batch) in widths.items():
        config = model_config((shape[0], shape[1], shape[2]))
        ours = Pretraining(config, vocab, precision, device, compiled=device.type == "cuda")
        flops[name] = training_flops_per_token(config, vocab)
        work[name] = repeated(on(batches(bench, batch), ours.step), device, flops[name] * batch * LENGTH)
    seconds = interleaved(work, bench.repeats, device)
    shares = {
        name: [g * flops[name] / s for g, s in zip(seconds["GEMM"], seconds[name], strict=True)] for name in widths
    }
    return RowResult(
        row="gemm-share",
        title="pretraining's share of the measured matrix-product peak",
        figures=[
            Figure.rate("matrix products alone", "GFLOP/s", [1e9 * s for s in seconds["GEMM"]]),
            *(Figure.rate(name, "GFLOP/s", [1e9 * s / flops[name] for s in seconds[name]]) for name in widths),
            *(Figure.of(f"{name}, share", "", found) for name, found in shares.items()),
        ],
        comparisons=[
            Comparison.of(f"{name}, share of the peak", found, MARK, unit="", limit=1.0)
            for name, found in shares.items()
        ],
        data=bench.text_name,
        notes=[
            *precision_notes(precision, device),
            f"the peak: a product of {bench.gemm_side} x {bench.gemm_side} matrices; the optimiser counts as none",
            "on a CPU nothing is compiled here",
            f"the profile is of {next(iter(widths))}",
        ],
        profile=hottest(work[next(iter(widths))], device),
    )
