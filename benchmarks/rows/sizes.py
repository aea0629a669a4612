"""Every size as it would be trained here: tokens per second, share of the peak, memory, and whether data keep up.

Meant for a GPU, in bf16 and compiled, in updates of the configured batch. On a CPU only ``tiny`` runs.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from benchmarks.materials import VOCAB_ROWS, Bench
from benchmarks.measure import (
    Work,
    best_precision,
    hottest,
    interleaved,
    peak_bytes_above,
    ratio,
    repeated,
)
from benchmarks.ours import Pretraining
from benchmarks.report import Comparison, Figure, RowResult, precision_notes
from benchmarks.rows.pretrain import batches, on
from emergence.spec.config import load_config
from emergence.spec.model_size import training_flops_per_token
from emergence.training.cuda_graphs import WARM_UP_CALLS

MARK = 0.5
SIZES = ("tiny", "small", "base", "medium")


def run(bench: Bench) -> RowResult:
    """All sizes on a GPU, the smallest on a CPU."""
    found = [_one(bench, name) for name in (SIZES if bench.device.type == "cuda" else SIZES[:1])]
    return RowResult(
        row="sizes",
        title="sizes as they are trained here",
        figures=[figure for one in found for figure in one["figures"]],
        comparisons=[
            Comparison.of(f"{one['name']}, share of the peak", one["shares"], MARK, unit="", limit=1.0) for one in found
        ],
        data=bench.text_name,
        notes=[
            *precision_notes(best_precision(bench.device), bench.device),
            "waiting for data: time lost against one batch repeated, the difference of two times",
            *(
                ["price of equal bits: time that kernels of one order take beyond others"]
                if bench.device.type == "cuda"
                else []
            ),
            f"the peak: a product of {bench.gemm_side} x {bench.gemm_side} matrices",
            f"the profile is of {SIZES[0]}",
        ],
        profile=found[0]["profile"],
        facts={one["name"]: one["facts"] for one in found},
    )  # fmt: skip


def _one(bench: Bench, name: str) -> dict[str, Any]:
    device, precision = bench.device, best_precision(bench.device)
    config = load_config(name)
    model, vocab = config.model, VOCAB_ROWS
    if bench.toy:
        model, vocab = dataclasses.replace(model, n_layers=1, hidden_size=16, n_heads=2), 448
    settings = dataclasses.replace(config.pretrain, batch_size=2 if bench.toy else config.pretrain.batch_size)
    ours = Pretraining(model, vocab, precision, device, device.type == "cuda", settings)
    fed, ids = on(batches(bench, settings.batch_size), ours.step), next(batches(bench, settings.batch_size))

    def same() -> float:
        ours.step(ids)
        return float(ids[:, 1:].numel())

    for _ in range(WARM_UP_CALLS + 1):  # compiled and captured, and alone on the device
        fed()
    memory = _memory(fed, device) / 1e9
    flops = training_flops_per_token(model, vocab)
    of_update = flops * ids[:, 1:].numel()
    work: dict[str, Work] = {
        "fed": repeated(fed, device, of_update),
        "same": repeated(same, device, of_update),
        "GEMM": bench.gemm(),
    }
    if device.type == "cuda":
        in_any_order = on(batches(bench, settings.batch_size), ours.in_any_order().step)
        work["in any order"] = repeated(in_any_order, device, of_update)
    seconds = interleaved(work, bench.repeats, device)
    shares = [g * flops / s for g, s in zip(seconds["GEMM"], seconds["fed"], strict=True)]
    kind = "memory in all" if device.type == "cuda" else "memory of an update"
    return {
        "name": name,
        "shares": shares,
        "profile": hottest(work["fed"], device),
        "facts": {"micro_batch": ours.micro_batch, "flops_per_token": flops},
        "figures": [
            Figure.rate(name, "tokens/s", seconds["fed"]),
            Figure(f"{name}, {kind}", memory, "GB", [memory]),
            Figure.rate(f"{name}, matrix products alone", "GFLOP/s", [1e9 * g for g in seconds["GEMM"]]),
            Figure.of(f"{name}, waiting for data", "", [1 - 1 / ratio(seconds["fed"], seconds["same"])]),
            *(
                Figure.of(f"{name}, price of equal bits", "", [ratio(seconds["fed"], found) - 1])
                for what, found in seconds.items()
                if what == "in any order"
            ),
        ],
    }  # fmt: skip


def _memory(work: Work, device: torch.device) -> float:
    if device.type != "cuda":
        return float(peak_bytes_above(work))
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return float(torch.cuda.max_memory_allocated(device))
