"""What is far too much is refused at once, before memory or time is spent on it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from emergence.data import file_search
from emergence.data.file_search import files_at
from emergence.data.wikitext import plain_heading
from emergence.errors import ConfigError, DataError, EmergenceError, UsageError, one_line
from emergence.findings import collect as results
from emergence.findings.collect import collect_results
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.matrix import matrix_from_dict

CELLS = [{"size": "debug", "trunk": "random", "train": "frozen"}]


@pytest.mark.parametrize("seed", [-1, 2**32, 10**30])
def test_seeds_that_no_generator_takes(seed: int) -> None:
    with pytest.raises(UsageError, match="--seed must be between"):
        ExperimentSpec.from_flags(config_name="debug", seed=seed)
    with pytest.raises(ConfigError, match=r"microworld\.seed"):
        ExperimentSpec.from_flags(config_name="debug", set_values=[f"microworld.seed={seed}"])


def test_paths_that_no_file_can_keep() -> None:
    """A folder's name may hold bytes that are no UTF-8; a stored spec that says otherwise would be another spec."""
    for flag in ("qa_data", "pretrain_text", "nq_data"):
        with pytest.raises(UsageError, match="not UTF-8"):
            ExperimentSpec.from_flags(config_name="debug", **{flag: "data/\udcff"})


def test_matrices_without_end() -> None:
    axes = {f"finetune.{key}": list(range(1, 200)) for key in ("epochs", "batch_size", "patience")}
    table = {**CELLS[0], "set": {"finetune": {key.partition(".")[2]: values for key, values in axes.items()}}}
    with pytest.raises(ConfigError, match="7,880,599 cells"):
        matrix_from_dict({"cells": [table]}, "m.toml", "m")
    with pytest.raises(UsageError, match="--seeds must be between 1 and 1,000"):
        matrix_from_dict({"cells": CELLS}, "m.toml", "m").select(seeds=10**9)


def test_folders_that_are_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        (tmp_path / f"{number}.json").write_text("{}")
    monkeypatch.setattr(file_search, "MOST_ENTRIES", 20)
    monkeypatch.setattr(results, "MOST_CANDIDATES", 20)
    with pytest.raises(DataError, match=r"more than 20 files: point --qa-data to"):
        files_at(tmp_path, "--qa-data")
    with pytest.raises(DataError, match="more than 20 results and JSON files: give the folder of the run directories"):
        collect_results(tmp_path)
    monkeypatch.setattr(results, "MOST_ENTRIES", 10)
    with pytest.raises(DataError, match="more than 10 files"):
        collect_results(tmp_path)


def test_what_is_no_file_is_passed_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")  # reading it would wait for ever
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "nowhere").symlink_to("/no/such/file")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a.txt").write_text("a")
    (tmp_path / "a.txt").write_text("a")
    assert files_at(tmp_path, "--x") == [tmp_path / "a.txt"]
    assert [skipped.kind for skipped in collect_results(tmp_path).skipped] == ["foreign"]
    for path in (tmp_path / "pipe.json", tmp_path / "nowhere", tmp_path / ("x" * 300), Path("/dev/zero")):
        with pytest.raises(DataError, match="check --x"):
            files_at(path, "--x")


def test_headings_of_equals_signs_take_no_time() -> None:
    line = " " + "= " * 100_000  # a pattern that goes back for every level would take hours
    assert plain_heading(line).count("=") > 99_000


@pytest.mark.parametrize("text", ["a\nb", "a\r\n\tb", "\x1b[31mred", "\u202eabc", "\ud800", "x" * 100_000, "a\u2028b"])
def test_every_error_is_one_line_of_bounded_length(text: str) -> None:
    for message in (str(EmergenceError(text)), str(DataError(text, f"/{text}", 3)), one_line(text)):
        assert message.isprintable() and len(message) < 2_100
        message.encode()


@pytest.mark.parametrize("value", [[[]], {}, 3, None, "no such"])
def test_recipes_of_any_type_are_refused(value: object) -> None:
    """Found by fuzzing: a list is no key of a dictionary."""
    raw = ExperimentSpec.from_flags(config_name="debug").to_dict()
    raw["config"]["recipe"] = value
    with pytest.raises(ConfigError, match="recipe must be one of"):
        ExperimentSpec.from_dict(raw)
