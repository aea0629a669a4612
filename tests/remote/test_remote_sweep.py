"""A sweep through the unmodified client against the stand-in: in parallel, one cell failing, the laptop closing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emergence.experiment.store import RunStore
from emergence.findings.table import build_table
from emergence.plain import plain
from tests.remote.standin import StandIn, closure, link_packages
from tests.remote.standin_flags import ROOT, SMALL

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

#: Six cells, one of which asks for more questions than there are.
MATRIX = f"""
name = "small"
data = "microworld"
[[cells]]
size = "tiny"
trunk = ["wiki", "random"]
[[cells]]
size = "tiny"
trunk = "wiki"
train = "frozen"
samples = [10, 100_000]
[set]
{chr(10).join(pair if not pair.endswith("=off") else pair.replace("=off", ' = "off"') for pair in SMALL.split(","))}
"""


@pytest.fixture
def laptop(standin: StandIn, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """``emergence sweep WORDS`` where only this program's base dependencies are installed."""
    (tmp_path / "m.toml").write_text(MATRIX)
    packages = link_packages(tmp_path / "packages", closure("typer") | closure("tqdm"))
    standin.rules.environment["EMERGENCE_POLL_SECONDS"] = "0.3"

    def start(*words: str) -> subprocess.Popen[str]:
        environment = {**standin.environment(), "EMERGENCE_POLL_SECONDS": "0.3"}
        environment["PYTHONPATH"] = f"{ROOT}:{standin.laptop}:{packages}"
        program = "from emergence.cli import run; run()"
        return subprocess.Popen(
            [sys.executable, "-S", "-c", program, "sweep", *words],
            env=environment,
            cwd=tmp_path,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    return start


def finish(process: subprocess.Popen[str], standin: StandIn, seconds: float = 800) -> tuple[int, str]:
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"{process.communicate()}\n{standin.container_output()[-5000:]}") from None
    return process.returncode, out + err


#: The debug matrix, its cells as they are and everything in them small.
DEBUG_MATRIX = ["matrix-debug", *(word for pair in SMALL.split(",") for word in ("--set", pair))]
DEBUG_MATRIX += ["--set", "microworld.train_documents=30", "--set", "pretrain.samples_per_epoch=200"]
#: Two seeds are the whole matrix, 32 cells and 4 pretrainings: EMERGENCE_MATRIX_SEEDS=2.
SEEDS = os.environ.get("EMERGENCE_MATRIX_SEEDS", "1")


def timeless(runs: Path) -> list[dict[str, Any]]:
    """The rows of the results table of a folder of runs, without the runs' names and times."""
    rows = [plain(row) for row in build_table(runs, n_boot=200).rows]
    return [{key: value for key, value in row.items() if key not in ("runs", "seconds")} for row in rows]


def wait_for(condition: Callable[[], Any], standin: StandIn, seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, standin.container_output()[-5000:]
        time.sleep(0.05)


def test_a_sweep_in_parallel_with_a_failing_cell_and_a_closed_laptop(
    standin: StandIn, laptop: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    first = laptop("m.toml", "--on", "modal", "--jobs", "3")
    wait_for(lambda: standin.calls("train") or first.poll() is not None, standin)
    assert first.poll() is None, first.communicate()
    first.kill()  # the laptop closes while the first runs are training
    first.communicate()

    code, text = finish(laptop("status", "--json"), standin)
    told = json.loads(text)
    assert code == 0 and told["running"] and told["counts"]["running"] >= 1

    code, text = finish(laptop("resume"), standin)  # only follows: there is one conductor
    assert "running already" in text and len(standin.calls("conduct")) == 1, text
    assert code == 1 and "failed       T-W-Z-100000.0: --finetune-samples must be between 1 and" in text, text
    assert "again        emergence sweep resume small-" in text

    store = RunStore(standin.volume("llm-models"))
    finished = [run for run in store.runs() if run.is_finished]
    assert sorted(run.spec.condition for run in finished) == sorted(
        ["pretrain-only", "full", "frozen", "frozen", "random", "random-frozen"]
    )
    trunks = {run.spec.pretrain_id: run.run_id for run in finished if run.spec.skip_finetune}
    for run in finished:  # one pretraining served all its finetunings
        stats = json.loads(run.stats_path.read_text())
        if not run.spec.random_baseline and not run.spec.skip_finetune:
            assert stats["lineage"]["run_id"] == trunks[run.spec.pretrain_id]
        if not run.spec.skip_finetune:  # and its small files are here
            assert (tmp_path / "runs" / run.run_id / "predictions.jsonl").is_file()
    limits = {c.function.definition.autoscaler_settings.max_containers for c in standin.calls("train")}
    assert len(standin.calls("train")) == 6 and limits <= {0, 3}
    for work in ("training the tokenizer", "encoding the pretraining text"):  # one preparation does it for all
        assert standin.container_output().count(work) == 1, standin.container_output()
    assert not any("encoding the pretraining text" in each.text for each in standin.containers("train"))
    assert not standin.server.unknown

    # What is done is not done again; the failing cell alone is tried once more.
    code, text = finish(laptop("m.toml", "--on", "modal", "--jobs", "3"), standin)
    assert code == 1 and "1 run to do (0 pretrainings), 6 done already" in text, text
    assert len(standin.calls("train")) == 6
    code, text = finish(laptop("m.toml", "--on", "modal", "--only", "T-R-*"), standin)
    assert code == 0 and "nothing to do: all 2 runs are done already" in text, text


@pytest.mark.timeout(3600)
def test_the_debug_matrix_in_parallel_with_a_failing_cell_ends_as_it_does_on_this_machine(
    standin: StandIn, laptop: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    standin.rules.most_deaths = 0
    doomed = b"_n100_frozen_random_2"  # the beginning of a run's name: D-R-Z-100, seed 0
    standin.rules.interfere = lambda c: signal.SIGKILL if c.name == "train" and doomed in c.call.input.args else None
    code, text = finish(laptop(*DEBUG_MATRIX, "--seeds", SEEDS, "--on", "modal", "--jobs", "4"), standin, 3000)
    assert code == 1 and text.count("failed       ") == 1 and "failed       D-R-Z-100.0: " in text, text
    code, text = finish(laptop("status", "--json"), standin)
    told = json.loads(text)
    assert told["counts"] == {"done": 18 * int(SEEDS) - 1, "failed": 1} and not told["running"]
    assert standin.most_at_once("train") > 1, "in parallel"
    started = len(standin.calls("train"))

    standin.rules.interfere = lambda container: None
    code, text = finish(laptop("resume"), standin)
    assert code == 0 and "1 run to do (0 pretrainings)" in text, text
    assert len(standin.calls("train")) == started + 1, "the failed one alone"
    code, text = finish(laptop(*DEBUG_MATRIX, "--seeds", SEEDS, "--on", "modal"), standin)
    assert code == 0 and f"nothing to do: all {18 * int(SEEDS)} runs are done already" in text, text

    here = [sys.executable, "-c", "from emergence.cli import run; run()", "sweep", *DEBUG_MATRIX, "--seeds", SEEDS]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*here, "--runs-dir", "local"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stderr
    assert timeless(tmp_path / "runs") == timeless(tmp_path / "local")
    assert len(timeless(tmp_path / "runs")) >= 16 and not standin.server.unknown


def test_cancel_ends_all_calls_and_resume_goes_on(
    standin: StandIn, laptop: Callable[..., subprocess.Popen[str]]
) -> None:
    words = ("m.toml", "--on", "modal", "--only", "T-W-?-ALL")
    first = laptop(*words)
    wait_for(lambda: standin.calls("train") or first.poll() is not None, standin)
    code, text = finish(laptop("cancel"), standin)
    assert code == 0 and "calls cancelled" in text
    code, text = finish(first, standin)
    assert code == 0 and "no cell is done" in text, text
    wait_for(lambda: all(call.done.is_set() for call in standin.server.calls.values()), standin)
    runs = RunStore(standin.volume("llm-models")).runs()  # the pretraining may have ended before it could be cancelled
    assert {run.spec.condition for run in runs if run.is_finished} <= {"pretrain-only"}
    code, text = finish(laptop("resume"), standin)
    assert code == 0 and "3 left" not in text.splitlines()[-1], text
    finished = [run for run in RunStore(standin.volume("llm-models")).runs() if run.is_finished]
    assert sorted(run.spec.condition for run in finished) == ["frozen", "full", "pretrain-only"]
