"""One bad results file among good ones: named, left out, and no other number changes; names are never orders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emergence.experiment.listing import list_runs
from emergence.files import seal, to_json
from emergence.findings.collect import collect_results
from emergence.findings.table import build_table
from emergence.report.table_formats import format_table
from tests.command_lines import typed
from tests.planted_runs import write_grid, write_guide_file, write_run

PLANTED = {"full": 0.6, "frozen": 0.4, "random_full": 0.3}
ESC = "\x1b[31m\x1b]0;owned\x07"
F1 = ("test_scores", "scores", "f1_tokens")


def put(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    """An edit: ``value`` at ``path``."""

    def edit(stats: dict[str, Any]) -> None:
        at: Any = stats
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value

    return edit


EDITS = {
    "a list for a number": put(*F1, "point", value=[0.5]),
    "a list for an interval's end": put(*F1, "lo", value=[]),
    "a negative F1": put(*F1, "point", value=-0.2),
    "an F1 of a probe above one": put("probes", "readouts", "bilinear", "test", "f1_tokens", "point", value=1.5),
    "a negative F1 on validation": put("final_validation_f1", value=-0.5),
    "an interval turned round": put(*F1, "hi", value=-3.0),
    "a mean without its interval": put(*F1, value={"point": 0.5}),
    "an EM of null flags": put("test_scores", "scores", "em", "flags", value=None),
    "questions counted in text": put("test_scores", "n", value="120"),
    "yes for a count": put("parameters", "total", value=True),
    "parameters that are lists": put("parameters", "trainable", value=[130]),
    "seconds below nothing": put("seconds", "probe", value=-1),
    "numbers as flags": put("flags", value=[1, 2]),
    "objects as flags": put("flags", value=[{}]),
    "a size of a million characters": put("config_name", value="x" * 1_000_000),
    "a read-out of a million characters": put("probes", "readouts", "x" * 1_000_000, value={}),
    "a library of a million characters": put("versions", value={"python": "3" * 1_000_000}),
    "a trunk that is a list": put("lineage", "pretrain_id", value=["a"]),
    "fits that are text": put("probes", "fits", value="fits"),
    "a layer between layers": put("probes", "readouts", "bilinear", "layer", value=1.5),
    "a fingerprint that is an object": put("data", "fingerprints", "tokenizer", value={"a": 1}),
    "a count below nothing": put("data", "filtering", value={"train": {"valid_examples": -1}}),
    "450 brackets": put("data", "text", value=json.loads("[" * 450 + "]" * 450)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("results")
    write_grid(root, PLANTED)
    return root


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_result_is_named_and_costs_no_other(name: str, folder: Path, tmp_path: Path) -> None:
    """It is sealed again, as somebody who edits a file can."""
    run = write_run(tmp_path, "frozen", 0.4, bilinear=0.5)
    stats = json.loads(run.stats_path.read_text())
    EDITS[name](stats)
    bad = folder / "bad.json"
    bad.write_text(to_json(seal(stats)))
    try:
        collection = collect_results(folder)
        assert [(item.name, item.kind) for item in collection.skipped] == [("bad.json", "damaged")]
        assert len(collection.found) == 3 and len(collection.skipped[0].reason) < 2_000
        run.stats_path.write_text(to_json(seal(stats)))
        (summary,) = list_runs(tmp_path)
        assert summary.stage == "damaged" and len(summary.detail) < 2_000
    finally:
        bad.unlink()


@pytest.mark.parametrize(
    "value",
    ["[" * 450 + "]" * 450, "[" * 1_000 + "]" * 1_000, "[" * 100_000, "1" + "0" * 400, "1" + "0" * 5_000, "1e400",
     '"\\ud800"', '"' + "x" * 1_000_000 + '"', "-0.5", "[0.5]", '{"a": 0.5}', "true"],
)  # fmt: skip
def test_a_bad_number_in_a_file_with_the_guides_keys(value: str, folder: Path) -> None:
    bad = folder / "bad.json"
    write_guide_file(bad, 0.123)
    bad.write_text(bad.read_text().replace("0.123", value))
    try:
        table = build_table(folder)
        assert [item.name for item in table.skipped] == ["bad.json"] and len(table.rows) == 4
        assert len(format_table(table, "markdown")) < 20_000
    finally:
        bad.unlink()


def test_names_give_the_terminal_no_orders(folder: Path, tmp_path: Path) -> None:
    """Folders and files are called something hostile, and so is what they hold."""
    hostile = tmp_path / f"runs{ESC}"
    for number, f1 in enumerate(PLANTED.values()):
        write_guide_file(hostile / f"{ESC}\n\r{number}.json", f1, frozen=number == 1, config_name=f"size{ESC}")
    (hostile / f"bad{ESC}\nNot in the table.json").write_text('{"config_name": "' + "\\u001b[31m" + '"}')
    (hostile / f"run{ESC}\n").mkdir()
    (hostile / f"run{ESC}\n" / "spec.json").write_text("{}")
    lines = [["list", "--runs-dir", str(hostile)], ["table", str(hostile)], ["curves", str(hostile)]]
    lines += [["list", "--runs-dir", str(hostile), "--json"], ["table", str(hostile), "--format", "csv"]]
    lines += [["table", f"no{ESC}"], ["list", "--runs-dir", f"no{ESC}"], ["run", "--resume", f"no{ESC}"]]
    for line in lines:
        ended = typed("emergence", *line)
        assert not set("\x1b\x07\r") & set(ended.out + ended.err), line
        assert ended.out + ended.err, line
    assert not [
        line for line in typed("emergence", "list", "--runs-dir", str(hostile)).out.splitlines()[1:] if not line
    ]
