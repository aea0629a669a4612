"""What newcomers and attackers typed: refused in one line with the cure and exit code 2, and nothing is lost."""

from __future__ import annotations

import importlib.util
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

import emergence
from tests.command_lines import Ended, typed
from tests.planted_runs import write_grid, write_run

pytest.importorskip("matplotlib")


def refused(*words: str, says: str) -> None:
    ended = typed("emergence", *words)
    assert ended.code == 2 and says in ended.err and ended.err.count("\n") == 1, ended


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    write_grid(tmp_path / "runs", {"full": 0.7, "frozen": 0.5})
    return tmp_path / "runs"


def test_the_version_is_one_line() -> None:
    assert typed("emergence", "--version") == Ended(0, f"emergence {emergence.__version__}\n", "")


# What is no run ------------------------------------------------------------------------------------


def test_a_report_beside_runs_is_no_damaged_run(runs: Path) -> None:
    for name in ("report", "figures", "notes"):
        (runs / name).mkdir()
        (runs / name / "file.csv").write_text("a,b\n")
    (runs / "killed").mkdir()  # as it began
    listed = typed("emergence", "list", "--runs-dir", str(runs)).out
    assert "report" not in listed and "figures" not in listed and "notes" not in listed and "killed" in listed


@pytest.mark.parametrize("command", [("verify-run",), ("ask", "A .", "Who?"), ("compare", "RUN"), ("probe-snapshots",)])
def test_what_is_no_run_is_said(command: tuple[str, ...], runs: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    run = next(path.name for path in runs.iterdir())

    def line(where: str) -> list[str]:
        return [command[0], where, *(run if word == "RUN" else word for word in command[1:])] + (
            [] if command[0] == "verify-run" else ["--runs-dir", str(runs)]
        )

    refused(*line(str(tmp_path / "empty")), says="give a" if command[0] == "verify-run" else "is not a run directory")
    refused(*line(str(tmp_path / "notes.txt")), says="a file: give the run directory")
    if command[0] != "verify-run":
        refused(*line(str(runs)), says=f"is not a run directory: give one, such as {runs / run}")
        refused(*line(run[:-1]), says=f"did you mean {run}?")


def test_resuming_a_run_that_is_not_there_can_be_mended(runs: Path) -> None:
    refused("run", "--resume", "nothing", "--runs-dir", str(runs), says="holds no run 'nothing'")


@pytest.mark.parametrize(
    "flags", [("--seed", "1"), ("--freeze-llm",), ("--set", "finetune.epochs=9"), ("--config-name", "small")]
)
def test_resuming_is_with_the_runs_own_spec(flags: tuple[str, ...], runs: Path) -> None:
    """Flags that would be passed over are refused, as on Modal."""
    refused("run", "--resume", "RUN", *flags, "--runs-dir", str(runs), says=f"own spec: drop {flags[0]}")


@pytest.mark.parametrize("command", [("run", "--config-name", "debug", "--data", "microworld"), ("demo",)])
def test_a_file_in_the_place_of_the_runs_is_refused_before_any_work(command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for where in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        refused(*command, "--runs-dir", str(where), says="another")
    assert content(tmp_path) == {"file": b"mine"}


@pytest.mark.parametrize("command", ["figures", "curves", "table", "report"])
def test_an_empty_folder_is_refused_and_stays_empty(command: str, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    refused(command, str(tmp_path / "results"), says="here")
    assert list(tmp_path.rglob("*")) == [tmp_path / "results"]


def test_a_sweep_says_at_once_what_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "numpy" else there(name, *rest)
    )
    words = ["sweep", "matrix-debug", "--runs-dir", str(tmp_path / "runs")]
    refused(*words, says="needs numpy: pip install -e '.[local]'")
    assert not (tmp_path / "runs").exists()
    assert typed("emergence", *words, "--dry-run").code == 0


# What is there already -----------------------------------------------------------------------------


def test_no_table_report_or_figure_is_written_into_a_run(runs: Path) -> None:
    before, run = content(runs), next(runs.iterdir())
    for name in ("finetune_stats.json", "spec.json", "new.md"):
        refused("table", str(runs), "--output", str(run / name), says="is in a run directory")
    refused("report", str(runs), "--out", str(run), says="is in a run directory")
    for command in ("report", "figures"):
        refused(command, str(run), says="is one run, which holds nothing but its own files: name a folder with --out")
    refused("figures", str(runs), "--out", str(run), says="is in a run directory")
    (run / "sub" / "sub").mkdir(parents=True)
    for below in (run / "sub", run / "sub" / "sub", run / "new" / "sub"):
        refused("report", str(runs), "--out", str(below), says="is in a run directory")
        refused("figures", str(runs), "--out", str(below), says="is in a run directory")
    for below in (run / "sub" / "t.md", run / "sub" / "sub" / "t.md"):
        refused("table", str(runs), "--output", str(below), says="is in a run directory")
    assert content(runs) == before


def test_a_file_with_the_name_of_a_runs_makes_no_run_of_all_that_is_below(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text("{}")  # of something else
    (tmp_path / "some" / "where").mkdir(parents=True)
    assert typed("emergence", "table", str(runs), "--output", str(tmp_path / "some" / "where" / "t.md")).code == 0


@pytest.mark.parametrize(
    "line",
    ["report RUNS --out", "figures RUNS --out", "table RUNS --output", "law fit RUNS --output", "export RUN --to",
     "pull RUN --to", "minimal-pairs RUN --out", "verify --data microworld --json"],
)  # fmt: skip
def test_an_empty_name_is_not_the_folder_that_is_typed_in(
    line: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    words = line.replace("RUNS", str(runs)).replace("RUN", str(next(runs.iterdir()))).split()
    refused(*words, "", says=f"{words[-1]}: an empty name")
    assert list((tmp_path / "here").iterdir()) == []
    refused("compare", "", "", "--runs-dir", str(runs), says="error: an empty name: no such folder")


def test_a_table_needs_a_place(runs: Path, tmp_path: Path) -> None:
    refused("table", str(runs), "--output", str(tmp_path), says="is a folder: name a file")
    refused("table", str(runs), "--output", str(tmp_path / "no" / "t.md"), says="there is no folder")
    (tmp_path / "file").write_text("mine")
    refused("report", str(runs), "--out", str(tmp_path / "file"), says=f"error: {tmp_path / 'file'} is not a folder")
    refused("figures", str(runs), "--out", str(tmp_path / "file" / "x"), says="is not a folder")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_pipes_and_links_are_written_to_and_not_replaced(runs: Path, tmp_path: Path) -> None:
    pipe, link, target = tmp_path / "pipe", tmp_path / "link.md", tmp_path / "target.md"
    os.mkfifo(pipe)
    received: list[str] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_text()))
    reader.start()
    assert typed("emergence", "table", str(runs), "--output", str(pipe)).code == 0
    reader.join(10)
    assert received and "|" in received[0] and stat.S_ISFIFO(pipe.stat().st_mode)
    target.write_text("| Model | Pretrain | Mode | of an older table |\n")
    link.symlink_to(target)
    assert typed("emergence", "table", str(runs), "--output", str(link)).code == 0
    assert link.is_symlink() and target.read_text() == received[0]


# Odd questions --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("The \udcff cut .", "Who cut?"), "is no text in UTF-8"),
        (("The baker cut .", "Who \udcff?"), "is no text in UTF-8"),
        (("The baker cut .", "Who cut?", "--predicate", "9" * 5000), "not a word of the sentence"),
        (("The baker cut .", "Who cut?", "--predicate", "٣"), "not a word of the sentence"),
        (("The baker cut .", "Who cut?", "--predicate", "0"), "the sentence has 4 words"),
    ],
)
def test_odd_questions_are_one_line(words: tuple[str, ...], says: str, asked: Any) -> None:
    ended = typed("emergence", "ask", str(asked), *words)
    assert ended.code == 2 and says in ended.err and ended.err.count("\n") == 1


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from emergence.model import build_trunk
    from emergence.training.checkpoint import WeightsFile, save_weights

    run = write_run(tmp_path_factory.mktemp("asked"), "frozen", 0.5)
    model = run.spec.config.model
    save_weights(run.finetuned_path, WeightsFile(build_trunk(model, 300, seed=0).state_dict(), model, 300, "{}", {}))
    return run.path


def test_a_mistyped_command_is_answered_with_the_one_that_is_meant() -> None:
    """By Typer, from 0.20 on, which pyproject.toml asks for."""
    refused("rnu", says="Did you mean 'run'?")
    refused("minimal-pair", says="Did you mean 'minimal-pairs'?")


def test_what_people_name_a_configuration_and_an_empty_folder(tmp_path: Path) -> None:
    refused("config", "configs/tiny.toml", says="did you mean tiny?")
    for command in ("table", "report"):
        refused(command, str(tmp_path), says="no finished results here: emergence run makes one")


def test_list_says_where_runs_are(tmp_path: Path) -> None:
    """``make demo`` puts its runs into ``runs/demo``, and people type ``emergence list runs``."""
    write_run(tmp_path / "runs" / "demo", "full", 0.7)
    ended = typed("emergence", "list", str(tmp_path / "runs"))
    assert ended.code == 0 and ended.out.endswith(f"emergence list {tmp_path / 'runs' / 'demo'}\n")
    refused("list", str(tmp_path / "nowhere"), says="no such folder")
