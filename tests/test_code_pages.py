"""A console that lacks a character never ends a command: Windows' code pages, and plain ASCII."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from emergence.experiment.store import RunStore
from tests.command_lines import typed
from tests.planted_runs import F1, fake_run

HELPS = sorted((Path(__file__).parent / "help").iterdir())
PAGES = ("cp1252", "cp437", "cp932", "ascii")
#: Latin, Greek, Arabic, Chinese, and an emoji outside the basic plane.
NAME = "läufe_Ωμέγα_العربية_语_\N{BRAIN}"
QUESTIONS = "MINE_1\t1\nدار المعلم Ωμέγα sold 语 .\n3\tsold\t1\nwho\t_\t_\tsold\tsomething\t_\t_\t?\tدار المعلم\n\n"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 2x2, whose test questions and folder have words that no code page has."""
    root = tmp_path_factory.mktemp("pages") / NAME
    for condition in F1:
        fake_run(root, "debug", condition)
    for run in RunStore(root).runs():
        stats, rows = json.loads(run.stats_path.read_text(encoding="utf-8")), run.read_predictions()
        run.write_predictions([{**row, "question": f"من {row['question']} Ω?"} for row in rows])
        run.write_stats(stats)
    return root


def ends(encoding: str, words: Sequence[str]) -> str:
    """What a command says on such a console: lines, and no traceback."""
    done = typed(*words, encoding=encoding)
    checked = {"verify-run", "compare"} & {*words}  # planted runs are not what they claim
    allowed = (0, 1, 2) if checked else (0, 2)
    assert done.code in allowed and "Traceback" not in done.err + done.out, done.err
    assert "UnicodeEncodeError" not in done.err + done.out
    return done.out + done.err


@pytest.mark.parametrize("encoding", PAGES)
def test_commands_that_print_names_and_questions(encoding: str, runs: Path, tmp_path: Path) -> None:
    frozen = next(run for run in RunStore(runs).runs() if run.spec.condition == "frozen")
    for words in (
        ("list", "--runs-dir", str(runs)),
        ("table", str(runs)),
        ("table", str(runs), "--format", "csv"),
        ("compare", str(frozen.path), str(frozen.path)),
        ("verify-run", str(runs)),
        ("config", "debug"),
        ("report", str(tmp_path / NAME)),
        ("ask", str(tmp_path / NAME), "دار المعلم 语 .", "Who sold Ω?"),
    ):
        told = ends(encoding, ("emergence", *words))
        assert told.strip(), words
    assert "\\u" in ends(encoding, ("emergence", "report", str(tmp_path / NAME))), "spelled out, not left out"


@pytest.mark.parametrize("encoding", PAGES)
def test_alignment_of_questions_in_any_script(encoding: str, tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "train.qa").write_text(QUESTIONS, encoding="utf-8")
    done = typed("verify_qasrl_alignment.py", "--qa-data", str(tmp_path / NAME), encoding=encoding)
    assert done.code == 0 and "0 misaligned" in done.out, "exit code 1 would mean that a span is off"


def test_help_is_plain() -> None:
    for path in HELPS:
        assert path.read_text(encoding="utf-8").isascii(), path.name
