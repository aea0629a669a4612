"""A sweep through the unmodified client against the stand-in: in parallel, one cell failing, the laptop closing."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, SMALL
from standin import StandIn, closure, link_packages

from emergence.experiment.store import RunStore

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
{chr(10).join(pair if not pair.endswith("=off") else 'pretrain.compile = "off"' for pair in SMALL.split(","))}
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


def finish(process: subprocess.Popen[str], standin: StandIn) -> tuple[int, str]:
    try:
        out, err = process.communicate(timeout=800)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"{process.communicate()}\n{standin.container_output()[-5000:]}") from None
    return process.returncode, out + err


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
    assert not standin.server.unknown

    # What is done is not done again; the failing cell alone is tried once more.
    code, text = finish(laptop("m.toml", "--on", "modal", "--jobs", "3"), standin)
    assert code == 1 and "1 run to do (0 pretrainings), 6 done already" in text, text
    assert len(standin.calls("train")) == 6
    code, text = finish(laptop("m.toml", "--on", "modal", "--only", "T-R-*"), standin)
    assert code == 0 and "nothing to do: all 2 runs are done already" in text, text


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
