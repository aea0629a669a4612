"""NQ-open: its two formats, splits, its form as text, and faults by file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emergence.data.nq import load_nq_path, nq_document
from emergence.data.records import SPLITS, QAPair
from emergence.errors import DataError

ROWS = [{"question": f"who wrote book {i}", "answer": [f"Ann {i}", "Ann"]} for i in range(100)]


def write_lines(path: Path, rows: list[dict[str, object]] | None = None) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in (ROWS if rows is None else rows)), encoding="utf-8")
    return path


def test_json_lines_and_parquet_hold_the_same_pairs(tmp_path: Path) -> None:
    lines = load_nq_path(write_lines(tmp_path / "NQ-open.train.jsonl"), 0)
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "train.parquet")
    rows = load_nq_path(tmp_path / "train.parquet", 0)
    assert lines.splits == rows.splits and lines.fingerprint == rows.fingerprint
    assert lines.splits["train"][3] == QAPair("nq-train-000004", "who wrote book 3", ("Ann 3", "Ann"))


def test_splits_by_name_with_files_to_ignore(tmp_path: Path) -> None:
    write_lines(tmp_path / "NQ-open.train.jsonl")
    write_lines(tmp_path / "NQ-open.dev.jsonl", ROWS[:7])
    (tmp_path / "route.json").write_text("{}")
    (tmp_path / "SOURCE.txt").write_text("a note")
    data = load_nq_path(tmp_path, 0)
    assert {split: len(pairs) for split, pairs in data.splits.items()} == {"train": 100, "validation": 7}
    assert data.provenance["pairs"] == {"train": 100, "validation": 7} and "carved" not in data.provenance


def test_a_validation_file_alone_gives_training_pairs(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "NQ-open.dev.jsonl")
    data = load_nq_path(path, 0)
    assert [len(data.splits[split]) for split in SPLITS] == [90, 5, 5]
    assert {pair.question for pairs in data.splits.values() for pair in pairs} == {row["question"] for row in ROWS}
    assert data.provenance["carved"] == {"from": "validation", "by": "question", "seed": 0}
    assert load_nq_path(path, 0).fingerprint == data.fingerprint != load_nq_path(path, 1).fingerprint


def test_a_pair_as_text() -> None:
    for question in ("who wrote it", "who wrote it?", " who wrote it ? "):
        assert nq_document(QAPair("x", question, (" Ann ", "Bob"))).text == "who wrote it? Ann"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "nq.jsonl:2: is not JSON"),
        ("[1]", "nq.jsonl:2: .*question"),
        ('{"question": "", "answer": ["a"]}', "nq.jsonl:2: .*question"),
        ('{"question": "q", "answer": [1]}', "nq.jsonl:2: .*answer"),
        ('{"query": "q", "answers": ["a"]}', "nq.jsonl:2: .*question"),
    ],
)
def test_malformed_rows_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "nq.jsonl"
    path.write_text('{"question": "q", "answer": "a"}\n' + line + "\n")
    with pytest.raises(DataError, match=message):
        load_nq_path(path, 0)


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--nq-data"):
        load_nq_path(tmp_path / "absent", 0)
    with pytest.raises(DataError, match="no NQ-open data"):
        load_nq_path(tmp_path, 0)
    (tmp_path / "nq.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="no rows"):
        load_nq_path(tmp_path, 0)
    pq.write_table(pa.table({"question": ["q"]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="no column answer"):
        load_nq_path(tmp_path / "x.parquet", 0)


def test_real_nq_open(shared_data: Path) -> None:
    data = load_nq_path(shared_data / "nq_open", 0)
    assert sum(map(len, data.splits.values())) == 3610
