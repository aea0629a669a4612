"""How much sooner a sweep is done with two jobs (``--jobs 2``): seconds by the clock, one thread a job."""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import torch

from benchmarks.materials import Bench
from benchmarks.measure import ratio, ratios, run_command
from benchmarks.report import Comparison, Figure, RowResult
from emergence.environment import usable_cores
from emergence.sweep.record import find_record
from emergence.wording import counted

MARK = 1.8
#: Runs of random trunks, twelve of them on both seeds: there is no pretraining, for which others would wait.
CELLS, TOY_CELLS = "D-R-*", "D-R-F-100"
#: Side of the matrices (they stay in cache) whose products tell what two cores give that share nothing but memory, and
#: how many of them.
SIDE, PRODUCTS = 128, 100_000


def run(bench: Bench) -> RowResult:
    """The same runs, one at a time and two, in turn, and a computation without anything beside it."""
    sweeps: dict[int, list[Swept]] = {1: [], 2: []}
    apart: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(1 if bench.toy else bench.repeats):  # even a toy sweep takes most of a minute
        for jobs in (1, 2):
            sweeps[jobs].append(swept(jobs, TOY_CELLS if bench.toy else CELLS))
            apart[jobs].append(products(jobs, 1 if bench.toy else PRODUCTS) / jobs)
    seconds = {jobs: [one.seconds for one in found] for jobs, found in sweeps.items()}
    return RowResult(
        row="jobs",
        title=f"a sweep of small runs, two at a time on {counted(usable_cores(), 'core')}",
        figures=[
            *(Figure.of(f"sweep --jobs {jobs}", "s", found) for jobs, found in seconds.items()),
            *(Figure.of(f"small products, processes at once: {n}", "s", [s * n for s in apart[n]]) for n in apart),
        ],
        comparisons=[
            Comparison.of(
                "against one at a time", ratios(seconds[1], seconds[2]), MARK, limit=float(min(2, usable_cores()))
            )
        ],
        data="micro-world",
        notes=[
            "seconds by the clock, so other work on the machine counts; one thread a job",
            "the limit is the number of jobs, or of cores; small products in two processes at once gave "
            f"{ratio(apart[1], apart[2]):.3g} times those of one",
            "the profile is of the time of both cores while two jobs run",
        ],
        profile=profile_of(sweeps[1], sweeps[2]),
    )


@dataclass(frozen=True)
class Swept:
    """Seconds of a sweep by the clock, and those of its runs one after the other."""

    seconds: float
    of_runs: float


def profile_of(one: Sequence[Swept], two: Sequence[Swept]) -> list[dict[str, Any]]:
    """What two cores did in the time of the sweeps with two jobs, given those with one beside them."""
    offered = 2 * sum(sweep.seconds for sweep in two)
    alone, together = (sum(sweep.of_runs for sweep in found) for found in (one, two))
    alone = min(alone, together)  # where they were faster side by side, by chance, they took no longer
    parts = {
        "runs, as long as they take one at a time": alone,
        "what they take longer side by side": together - alone,
        "cores without a run: the start, data, the end": max(0.0, offered - together),
    }
    return [{"what": what, "share": round(seconds / offered, 3)} for what, seconds in parts.items()]


def products(jobs: int, count: int) -> float:
    """Seconds by the clock of ``count`` products of small matrices in each of so many processes at once."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=_meet, initargs=(context.Barrier(jobs),)) as pool:
        return max(pool.map(_multiply, [count] * jobs))


def _meet(barrier: Barrier) -> None:
    """Wait until all processes are there, so that each gets one piece of work and all begin together."""
    torch.set_num_threads(1)
    barrier.wait(timeout=300)


def _multiply(count: int) -> float:
    matrix = torch.randn(SIDE, SIDE)
    out = torch.mm(matrix, matrix)  # what is made at the first product is made
    begin = time.perf_counter()
    for _ in range(count):
        torch.mm(matrix, matrix, out=out)
    return time.perf_counter() - begin


def swept(jobs: int, cells: str) -> Swept:
    """All runs of ``matrix-debug`` that ``cells`` names, in a folder of their own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "emergence.cli", "sweep", "start", "matrix-debug", "--only", cells]
        command += ["--jobs", str(jobs), "--runs-dir", folder, "--yes"]
        begin = time.perf_counter()
        run_command(command)
        seconds = time.perf_counter() - begin
        statuses = find_record(Path(folder), None).graph.status.values()
        return Swept(seconds, sum(status.seconds or 0.0 for status in statuses))
