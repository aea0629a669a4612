"""The rows of the table, by command-line name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module

import torch

from benchmarks.materials import Bench
from benchmarks.report import RowResult

#: Row name -> module and its argument; in the order of the table.
ROWS: dict[str, tuple[str, tuple[object, ...]]] = {
    "time-to-loss-tiny": ("time_to_loss", ("tiny",)),
    "time-to-loss-small": ("time_to_loss", ("small",)),
    "pretrain-2x128": ("pretrain", ("2x128",)),
    "pretrain-4x256": ("pretrain", ("4x256",)),
    "gemm-share": ("gemm_share", ()),
    "memory": ("memory", ()),
    "finetune": ("finetune", ()),
    "probe": ("probe", ()),
    "cka-128": ("cka", (128,)),
    "cka-768": ("cka", (768,)),
    "bits-per-byte": ("bits_per_byte", ()),
    "tokenise": ("tokenise", ()),
    "answers": ("answers", ()),
    "jobs": ("jobs", ()),
    "start-up": ("start_up", ()),
    "restart": ("restart", ()),
    "sizes": ("sizes", ()),
    "information-cost": ("information_cost", ()),
}

#: Rows that compute on the GPU with ``--device cuda``; the others would be a CPU's under its name. ``restart`` starts
#: commands, which take a GPU where there is one.
ON_GPU = frozenset(
    {
        "time-to-loss-tiny", "time-to-loss-small", "pretrain-2x128", "pretrain-4x256", "gemm-share", "memory",
        "finetune", "probe", "bits-per-byte", "restart", "sizes",
    }
)  # fmt: skip


def run_row(name: str, bench: Bench) -> RowResult:
    """Measure one row."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()  # compiles only so many nets of a class otherwise, and then none, silently
    module, arguments = ROWS[name]
    run: Callable[..., RowResult] = import_module(f"benchmarks.rows.{module}").run
    return run(bench, *arguments)
