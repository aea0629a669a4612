"""The rows for a GPU run there, on a pretended one, where their figures mean nothing; the others are refused there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks.materials import Bench
from benchmarks.report import Figure, RowResult, load_newest
from benchmarks.rows import ON_GPU, ROWS, memory
from tests.pretend_gpu import pretend_gpu

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

QUICK = {"finetune", "memory", "probe"}
#: The processes that it starts do not have the pretended GPU.
STARTS_COMMANDS = "restart"


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in sorted(ON_GPU - {STARTS_COMMANDS})
    ],
)
def test_a_row_runs_on_a_gpu(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "in_child", lambda function, *arguments: function(*arguments))
    with pretend_gpu() as operations:
        flags = ["--toy", "--device", "cuda", "--repeats", "1", "--results", str(tmp_path)]
        assert command.main([name, *flags]) == 0
    assert operations.ran > 100
    (found,) = load_newest(tmp_path).values()
    assert found["row"] == name and found["machine"]["kind"] == "GPU" and found["machine"]["gpu"] == "pretended GPU"


@pytest.mark.parametrize("name", sorted(set(ROWS) - ON_GPU))
def test_a_row_that_computes_on_the_cpu_is_not_told_as_a_gpus(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pretend_gpu():
        assert command.main([name, "--toy", "--device", "cuda", "--results", str(tmp_path / "none")]) == 2
    assert f"{name} computes on the CPU alone: leave out --device cuda" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_all_of_a_gpu_are_those_that_compute_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def run_row(name: str, bench: Bench) -> RowResult:
        ran.append(f"{name} {os.environ.get('CUDA_VISIBLE_DEVICES')}")
        return RowResult(name, "a title", [Figure.of("ours", "s", [1.0])], [], "data")

    monkeypatch.setattr(command, "run_row", run_row)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pretend_gpu():
        assert command.main(["all", "--toy", "--device", "cuda", "--results", str(tmp_path)]) == 0
    assert ran == [f"{name} None" for name in ROWS if name in ON_GPU]
    ran.clear()
    assert command.main(["all", "--toy", "--results", str(tmp_path)]) == 0
    assert ran == [f"{name} " for name in ROWS]  # commands that a row starts find no GPU
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
