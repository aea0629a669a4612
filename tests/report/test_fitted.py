"""Tables on a terminal fit its window; in a pipe they are what they always were."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emergence.report import output_files
from emergence.report.fitted import fitted_table, fitted_text
from tests.command_lines import ROOT, typed
from tests.planted_runs import write_grid

pytest.importorskip("numpy")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    write_grid(tmp_path / "runs", {"full": 0.7, "frozen": 0.5})
    return tmp_path / "runs"


def at_a_window(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    for where in ("cli", "commands.sweep"):
        monkeypatch.setattr(f"emergence.{where}.is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))


@pytest.mark.parametrize("columns", [70, 140])
@pytest.mark.parametrize("command", [("table", "{runs}"), ("list", "--runs-dir", "{runs}"), ("sweep", "--dry-run")])
def test_tables_fit_the_window(
    command: tuple[str, ...], columns: int, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_a_window(monkeypatch, columns)
    shown = typed("emergence", *(word.format(runs=runs) for word in command)).out
    lines = shown.splitlines()
    assert max(map(len, lines)) <= columns and "|" not in shown, shown
    assert ("T-W-F-ALL" if command[0] == "sweep" else "frozen") in shown, shown


@given(st.data())
def test_no_column_that_is_shown_loses_a_word(data: st.DataObject) -> None:
    cell = st.lists(st.text("ab,[]", min_size=1, max_size=7), max_size=4).map(" ".join)
    titles = [f"{'t' * data.draw(st.integers(1, 6))}{n}" for n in range(data.draw(st.integers(1, 9)))]
    rows = [[data.draw(cell) for _ in titles] for _ in range(data.draw(st.integers(1, 3)))]
    width = data.draw(st.integers(20, 120))
    lines = fitted_table(titles, rows, left=2, spare=titles[3:6], width=width).splitlines()
    told = next((n for n, line in enumerate(lines) if line.startswith("(not shown")), len(lines))
    assert max(map(len, lines[:told])) <= width
    kept = [n for n, title in enumerate(titles) if title not in " ".join(lines[told:])]
    words = {n: [word for text in (titles[n], *(row[n] for row in rows)) for word in text.split()] for n in kept}
    if sum(max(map(len, words[n])) + 1 for n in kept) - 1 <= width:
        shown = Counter(word for line in lines[:told] for word in line.split())
        assert Counter(word for n in kept for word in words[n]) <= shown


def test_markdown_comes_in_a_pipe_or_when_it_is_asked_for(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    piped = typed("emergence", "table", str(runs)).out
    at_a_window(monkeypatch, 80)
    as_json = typed("emergence", "table", str(runs), "--format", "json").out
    assert json.loads(as_json)["rows"] and typed("emergence", "table", str(runs), "--json").out == as_json
    both = typed("emergence", "table", str(runs), "--json", "--format", "csv")
    assert both.code == 2 and "--json is --format json" in both.err
    assert piped.startswith("| Model |") and typed("emergence", "table", str(runs), "--format", "markdown").out == piped
    file = runs.parent / "t.md"
    assert typed("emergence", "table", str(runs), "--output", str(file)).code == 0 and file.read_text() == piped


def test_the_name_of_the_file_says_the_style(runs: Path, tmp_path: Path) -> None:
    for suffix, begins in (
        (".csv", "set_label,"),
        (".tex", "\\begin{"),
        (".json", "{"),
        (".md", "| Model"),
        ("", "| Model"),
    ):
        file = tmp_path / f"table{suffix}"
        assert typed("emergence", "table", str(runs), "--output", str(file)).code == 0
        assert begins in file.read_text()[:200], suffix
    assert typed("emergence", "table", str(runs), "--format", "markdown", "--output", str(tmp_path / "t.csv")).code == 0
    assert (tmp_path / "t.csv").read_text().startswith("| Model")


def test_cells_are_neither_markup_nor_orders_to_the_terminal() -> None:
    shown = fitted_table(["[bold]name", "n"], [["[red]x[/red]\x1b[31m", "1"], ["two\nlines", "22"]], left=1, width=60)
    assert all(text in shown for text in ("[bold]name", "[red]x[/red]\\u001b[31m", "two\\nlines"))
    assert "\x1b" not in shown
    assert [line[-2:] for line in shown.splitlines()[-2:]] == [" 1", "22"], "numbers stand to the right"


def test_a_narrow_window_does_without_spare_columns_and_says_so() -> None:
    titles, rows = ["run", "long title", "spare"], [["a" * 20, "b" * 10, "c" * 10]]
    assert "spare" in fitted_table(titles, rows, left=1, spare=["spare"], width=44).splitlines()[0]
    shown = fitted_table(titles, rows, left=1, spare=["spare"], width=40)
    assert "spare" not in shown.splitlines()[0] and "a" * 20 in shown and shown.endswith("narrow:\nspare)")


def test_a_code_page_without_lines_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", type("Old", (), {"encoding": "cp1252", "isatty": lambda self: True})())
    fitted_table(["a", "b"], [["1", "2"]], left=1, width=60).encode("cp1252")


def test_notes_hang_behind_their_bullet() -> None:
    assert fitted_text(["one two three", "four"], bullet="- ", width=9) == "- one two\n  three\n- four"


#: What is none of a command's own, though it may begin like it.
OTHERS = (
    "# What I found\n",
    "| Model | price |\n|---|---|\n",
    "set_label,weight,reps\n",
    "% needs \\usepackage{booktabs}\n\\section{My chapter}\n",
    '{\n  "kind": "emergence-diary"\n}',
    '{\n  "kind": "emergence-units",\n  "schema_version": 1\n}',
)


@pytest.mark.parametrize("content", OTHERS)
def test_a_file_of_something_else_is_never_overwritten(content: str, runs: Path, tmp_path: Path) -> None:
    mine = tmp_path / "notes.md"
    mine.write_text(content)
    for command in (("table", str(runs)), ("law", "fit", str(runs))):
        ended = typed("emergence", *command, "--output", str(mine))
        assert ended.code == 2 and "notes.md holds something else" in ended.err and ended.err.count("\n") == 1
    assert mine.read_text() == content


def test_tables_and_laws_are_written_over_their_own_kind(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    styles = ("markdown", "csv", "latex", "json")
    for style in (*styles, *styles):  # each over the one before
        ended = typed("emergence", "table", str(runs), "--format", style, "--output", str(tmp_path / "table"))
        assert ended.code == 0, (style, ended.err)
    assert (tmp_path / "table").read_text().startswith('{\n  "kind": "emergence-')
    fit = ("law", "fit", str(ROOT / "docs" / "examples" / "made_up_law.csv"), "--draws", "19", "--output")
    for _ in range(2):
        assert typed("emergence", *fit, str(tmp_path / "law.json")).code == 0
    assert typed("emergence", "table", str(runs), "--output", str(tmp_path / "law.json")).code == 2
    assert typed("emergence", *fit, str(tmp_path / "table")).code == 2
    loop = tmp_path / "loop.md"
    loop.symlink_to(loop)
    for command in (("table", str(runs), "--output"), ("figures", str(runs), "--out"), fit):
        ended = typed("emergence", *command, str(loop))
        assert ended.code == 2 and ended.err.count("\n") == 1, ended
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received: list[str] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_text()))
    reader.start()
    assert typed("emergence", *fit, str(pipe)).code == 0
    reader.join(10)
    monkeypatch.setattr(output_files, "PIPE_SECONDS", 0.0)
    unread = typed("emergence", *fit, str(pipe))
    assert unread.code == 2 and "nobody reads this pipe" in unread.err
    assert received and '"emergence-emergence_law"' in received[0] and stat.S_ISFIFO(pipe.stat().st_mode)
