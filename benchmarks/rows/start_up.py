"""How long help takes, and the refusal of a path that is not there."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from benchmarks.materials import Bench
from benchmarks.measure import ROOT, child_cpu_seconds, hottest_packages
from benchmarks.report import Comparison, Figure, RowResult

ENTRY_POINT = "pretrain_wikitext_finetune_qasrl_modal.py"
BAD_PATH = "emergence run --qa-data, a path that is not there"
CLIENT, PYTHON = "of that, the client alone: modal run --help", "python -c pass"
NOWHERE = ["run", "--qa-data", "/nowhere/at/all"]
MARKS = {"emergence --help": 0.5, BAD_PATH: 0.5, "modal run FILE --help": 1.0}


def run(bench: Bench) -> RowResult:
    """CPU seconds of the commands; beside them what Python, the Modal client and importing torch take alone."""
    scripts = Path(sys.executable).parent
    commands = {
        "emergence --help": [str(scripts / "emergence"), "--help"],
        BAD_PATH: [str(scripts / "emergence"), *NOWHERE],
        "modal run FILE --help": [str(scripts / "modal"), "run", ENTRY_POINT, "--help"],
        CLIENT: [str(scripts / "modal"), "run", "--help"],
        PYTHON: [sys.executable, "-c", "pass"],
        "python -c 'import torch'": [sys.executable, "-c", "import torch"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(bench.repeats + 1):  # the first warms the disk's cache
        for name, command in commands.items():
            spent = child_cpu_seconds(command, refused="--qa-data" in command)
            if number:
                seconds[name].append(spent)
    return RowResult(
        row="start-up",
        title="start-up",
        figures=[Figure.of(name, "CPU s", found) for name, found in seconds.items()],
        comparisons=[
            Comparison.of(
                name,
                seconds[name],
                mark,
                at_least=False,
                unit=" s",
                limit=statistics.median(seconds[CLIENT if name.startswith("modal") else PYTHON]),
            )
            for name, mark in MARKS.items()
        ],
        data="no data",
        notes=[
            "CPU seconds: what an idle machine would take by the clock",
            "the limit is Python's own start, or that of the Modal client without a file, measured in turn",
            "the profile is of the path that is not there, by package",
        ],
        profile=hottest_packages(["-m", "emergence.cli", *NOWHERE], ROOT),
    )
