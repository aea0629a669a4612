"""How long a user waits for an answer: the table and the report of many runs, and the whole demonstration."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.materials import Bench
from benchmarks.measure import ROOT, child_cpu_seconds, hottest_packages
from benchmarks.report import Comparison, Figure, RowResult
from emergence.environment import usable_cores
from emergence.errors import EmergenceError

#: Runs that are planted, four to a seed, and fewer ones, whose memory the others are compared with.
RUNS, FEWER = 400, 100
#: CPU seconds of a table and of a report of so many runs, and memory of the many against that of the fewer.
MARKS = {"table": 3.0, "report": 5.0}
MEMORY_MARK = 1.3
#: A program that only reads a folder's files and parses their JSON.
_READ_ALONE = """
import json, pathlib, sys
for file in pathlib.Path(sys.argv[1]).rglob("*.json*"):
    text = file.read_text(encoding="utf-8")
    for part in text.splitlines() if file.suffix == ".jsonl" else [text]:
        json.loads(part)
"""
#: Starts a program, waits for its end, and tells its exit code, its CPU seconds, those by the clock and its memory.
_STARTER = """
import json, os, subprocess, sys, time
begin = time.perf_counter()
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
_, status, used = os.wait4(subprocess.Popen(sys.argv[1:], **quiet).pid, 0)
code, clock = os.waitstatus_to_exitcode(status), time.perf_counter() - begin
print(json.dumps([code, used.ru_utime + used.ru_stime, clock, used.ru_maxrss]))
"""


@dataclass(frozen=True)
class Spent:
    """What a command took: CPU seconds, user and system, seconds by the clock, and the most memory."""

    seconds: float
    by_the_clock: float
    megabytes: float


def run(bench: Bench) -> RowResult:
    """CPU seconds and memory of the commands, each in a process of its own."""
    many, few = (8, 4) if bench.toy else (RUNS, FEWER)
    spent: dict[str, list[Spent]] = {"table": [], "report": [], f"table of {few}": []}
    alone: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        plant(root / "many", many)
        plant(root / "few", few)
        reading = [sys.executable, "-c", _READ_ALONE, str(root / "many")]
        for _ in range(bench.repeats):
            spent["table"].append(measured("table", str(root / "many")))
            spent["report"].append(measured("report", str(root / "many"), "--out", str(root / "report")))
            spent[f"table of {few}"].append(measured("table", str(root / "few")))
            alone.append(child_cpu_seconds(reading))
        report = ["-m", "emergence.cli", "report", str(root / "many"), "--out", str(root / "report")]
        profile = hottest_packages(report, ROOT)
        demo = [] if bench.toy else [measured("demo", "--runs-dir", str(root / "demo"))]
    growth = [
        more.megabytes / less.megabytes
        for more, less in zip(spent["table"], spent[f"table of {few}"], strict=True)
    ]  # fmt: skip
    return RowResult(
        row="answers",
        title=f"table and report of {many} runs",
        figures=[
            *(Figure.of(f"emergence {name}", "CPU s", [one.seconds for one in found]) for name, found in spent.items()),
            Figure.of("reading the files and parsing their JSON alone", "CPU s", alone),
            Figure.of("memory of the table", "MB", [one.megabytes for one in spent["table"]]),
            # The demonstration has two processes, and one that is not waited for is in nobody's CPU seconds.
            *([Figure.of("emergence demo, by the clock", "s", [one.by_the_clock for one in demo])] if demo else []),
        ],
        comparisons=[
            *(
                Comparison.of(
                    name, [one.seconds for one in spent[name]], mark, at_least=False, unit=" s",
                    limit=statistics.median(alone),
                )
                for name, mark in MARKS.items()
            ),
            Comparison.of(
                f"memory of the table, {few} runs = 1", growth, MEMORY_MARK, at_least=False,
                limit=1.0,
            ),
        ],
        data=f"{many} planted runs of 120 questions",
        notes=[
            "the limit of time is reading all files and parsing their JSON with Python's own reader, without a check",
            "CPU seconds: what an idle machine would take by the clock",
            f"the demonstration, on the micro-world, is timed once, on {usable_cores()} of {os.cpu_count()} cores",
            "memory grows by what is kept of a run, its result and 8 bytes a score of each question: a frozen run of "
            "the demonstration, of 3,242 questions and nine read-outs, keeps 1.2 MB of scores and 0.5 MB of result",
            "the profile is of the report, which reads what the table reads, by package",
        ],
        profile=profile,
    )  # fmt: skip


def plant(root: Path, n_runs: int) -> None:
    """Runs of the four cells, a seed after the other, with predictions as real ones have them."""
    from tests.planted_runs import Added, write_run

    added = Added({"linear": (0.03, 0.03), "bilinear": (0.05, 0.08)})
    root.mkdir()
    for seed in range(n_runs // 4):
        for cell, f1 in {"full": 0.7, "frozen": 0.5, "random_full": 0.5, "random_frozen": 0.3}.items():
            of_frozen = {"bilinear": f1, "added": added} if cell.endswith("frozen") else {}
            write_run(root, cell, f1, seed=seed, documents=20, **of_frozen)


def measured(*arguments: str) -> Spent:
    """What ``emergence`` with these arguments takes."""
    return spent_by([sys.executable, "-m", "emergence.cli", *arguments])


def spent_by(command: list[str]) -> Spent:
    """What a command takes that a small process starts.

    A process counts what its parent had in memory as its own, up to the program that it becomes.

    Raises:
        EmergenceError: It failed.
    """
    done = subprocess.run(
        [sys.executable, "-S", "-c", _STARTER, *command], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    code, *spent = json.loads(done.stdout)
    if code:
        raise EmergenceError(f"{' '.join(command)[:200]} ended with exit code {code}")
    seconds, by_the_clock, most = spent
    return Spent(seconds, by_the_clock, most * (1 if sys.platform == "darwin" else 1024) / 1e6)
