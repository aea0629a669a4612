"""How much sooner a sweep is done with two jobs (``--jobs 2``): seconds by the clock, one thread a job."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.materials import Bench
from benchmarks.measure import ratio
from benchmarks.report import Comparison, Figure, RowResult
from emergence.errors import EmergenceError
from emergence.sweep.local import THREAD_VARIABLES

MARK = 1.8
#: Runs of random trunks, twelve of them on both seeds: there is no pretraining, for which others would wait.
CELLS, TOY_CELLS = "D-R-*", "D-R-F-100"


def run(bench: Bench) -> RowResult:
    """The same runs, one at a time and two, in turn."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(bench.repeats):
        for jobs, found in seconds.items():
            found.append(swept(jobs, TOY_CELLS if bench.toy else CELLS))
    return RowResult(
        row="jobs",
        title=f"a sweep of small runs, two at a time on {os.cpu_count()} cores",
        figures=[Figure.of(f"sweep --jobs {jobs}", "s", found) for jobs, found in seconds.items()],
        comparisons=[Comparison("against one at a time", ratio(seconds[1], seconds[2]), MARK)],
        data="micro-world",
        notes=["seconds by the clock, so other work on the machine counts; one thread a job"],
    )


def swept(jobs: int, cells: str) -> float:
    """Seconds until all runs of ``matrix-debug`` that ``cells`` names are done, in a folder of their own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "emergence.cli", "sweep", "start", "matrix-debug", "--only", cells]
        begin = time.perf_counter()
        done = subprocess.run(
            [*command, "--jobs", str(jobs), "--runs-dir", folder, "--yes"],
            cwd=Path(__file__).resolve().parents[2],
            env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode:
            raise EmergenceError(f"sweep --jobs {jobs}: {done.stderr.strip().splitlines()[-1]}")
        return time.perf_counter() - begin
