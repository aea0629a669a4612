"""Folders of files to one data set: nothing twice, nothing lost, the same whatever the order of files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emergence.data.qa_load import build_dataset, load_every_format, load_qa_path
from emergence.data.records import SPLITS, FilterCounts, QADataset
from emergence.errors import DataError
from tests.data.qa_files import QA, hub_rows, write


def block(number: int, answer: str = "Rome") -> str:
    return f"S{number}\t1\nRome fell in {number} .\n1\tfell\t1\nwhat\t_\t_\tfell\t_\t_\t_\t?\t{answer}\n\n"


def blocks(*numbers: int) -> str:
    return "".join(map(block, numbers))


def sentences(dataset: QADataset) -> dict[str, set[str]]:
    return {split: {e.sentence_id for e in examples} for split, examples in dataset.splits.items()}


def squad_file(path: Path) -> Path:
    qas = [{"id": "q", "question": "Who?", "answers": [{"text": "Rome", "answer_start": 0}]}]
    return write(path, json.dumps({"data": [{"title": "T", "paragraphs": [{"context": "Rome fell.", "qas": qas}]}]}))


def test_files_named_by_split_are_read_as_such(tmp_path: Path) -> None:
    for name, numbers in {"wiki.train.qa": (1, 2), "wiki.dev.qa": (3,), "test/more.qa": (4,)}.items():
        write(tmp_path / name, blocks(*numbers))
    write(tmp_path / "README.txt", "not data")
    write(tmp_path / ".cache" / "x.train.qa", blocks(9))
    dataset = load_qa_path(tmp_path)
    assert sentences(dataset) == {"train": {"S1", "S2"}, "validation": {"S3"}, "test": {"S4"}}
    assert dataset.name == "qasrl"
    assert dataset.provenance["carved"] == {}
    assert dataset.provenance["ignored_files"] == ["README.txt"]
    assert dataset.provenance["files"] == {
        "train": ["wiki.train.qa"],
        "validation": ["wiki.dev.qa"],
        "test": [str(Path("test/more.qa"))],
    }
    json.dumps(dataset.provenance)


def test_one_unnamed_file_is_split_by_document_and_said_so(tmp_path: Path) -> None:
    dataset = load_qa_path(write(tmp_path / "some.text", blocks(*range(40))))
    assert {split: len(dataset.splits[split]) for split in SPLITS} == {"train": 32, "validation": 4, "test": 4}
    assert dataset.provenance["carved"] == {
        "from": "train",
        "by": "document",
        "seed": 0,
        "train": {"documents": 32, "questions": 32},
        "validation": {"documents": 4, "questions": 4},
        "test": {"documents": 4, "questions": 4},
    }
    assert dataset.provenance["files_without_split_name"] == ["some.text"]
    assert sentences(load_qa_path(tmp_path, seed=1)) != sentences(dataset)


def test_two_formats_of_the_same_rows_count_once(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    write(tmp_path / "wiki.train.qa", QA)
    pq.write_table(pa.Table.from_pylist(hub_rows()), tmp_path / "train.parquet")
    squad_file(tmp_path / "squad.json")
    dataset = load_qa_path(tmp_path)
    assert dataset.provenance["formats"] == ["qasrl1-text"]
    assert dataset.provenance["left_aside_other_formats"] == ["squad.json", "train.parquet"]
    assert sum(counts.total for counts in dataset.filtering.values()) == 4
    both = load_qa_path(tmp_path, families=("qasrl", "squad"))
    assert both.provenance["formats"] == ["qasrl1-text", "squad-json"]
    assert both.name == "qasrl+squad"
    assert load_qa_path(tmp_path, families=("squad",)).name == "squad"
    assert [d.provenance["formats"] for d in load_every_format(tmp_path)] == [
        ["qasrl1-text"],
        ["qasrl1-parquet"],
        ["squad-json"],
    ]


def test_the_same_questions_in_two_files_count_as_duplicates(tmp_path: Path) -> None:
    write(tmp_path / "a.train.qa", blocks(1, 2, 3))
    write(tmp_path / "b.train.qa", blocks(1, 2, 3) + "\n")  # other bytes: not a copy of the file
    dataset = load_qa_path(tmp_path)
    assert sum(len(examples) for examples in dataset.splits.values()) == 3
    assert sum(counts.skipped.get("duplicate_question", 0) for counts in dataset.filtering.values()) == 3
    for counts in dataset.filtering.values():
        counts.check()


def test_the_fingerprint_is_of_the_content_alone(tmp_path: Path) -> None:
    one, two, other = tmp_path / "one", tmp_path / "two", tmp_path / "other"
    write(one / "train.qa", blocks(1, 2, 3, 4))
    write(two / "z.train.qa", blocks(2, 1))
    write(two / "a.train.qa", blocks(4, 3))
    write(other / "train.qa", blocks(1, 2, 3) + block(4, "4"))
    assert load_qa_path(one).fingerprint == load_qa_path(two).fingerprint == load_qa_path(one).fingerprint
    assert load_qa_path(one).fingerprint != load_qa_path(other).fingerprint
    assert len(load_qa_path(one).fingerprint) == 64


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "recognised are: QA-SRL 1.0 text"),
        ({"notes.txt": "hello\n"}, "recognised are: QA-SRL 1.0 text"),
        ({"train.qa": blocks(1), "test.qa": ""}, "test.qa: the file is empty"),
        ({"train.qa": "no header here\n"}, "train.qa:1: expected"),
        ({"train.qa": "\n\n"}, "no usable question"),
        ({"train.qa": block(1, "elephant")}, "no usable question .*unaligned_span"),
    ],
)
def test_folders_that_cannot_be_used_say_why(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, content in files.items():
        write(tmp_path / name, content)
    with pytest.raises(DataError, match=message) as error:
        load_qa_path(tmp_path)
    assert str(error.value).startswith(str(tmp_path))


def test_a_path_that_is_not_there_and_a_family_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        load_qa_path(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no squad data"):
        load_qa_path(write(tmp_path / "a.qa", blocks(1)), families=("squad",))


def test_merging_keeps_every_count(tmp_path: Path) -> None:
    qasrl = load_qa_path(write(tmp_path / "a.qa", blocks(*range(9)) + block(10, "elephant")))
    squad = load_qa_path(squad_file(tmp_path / "squad.json"))
    merged = FilterCounts.merge(part.filtering[split] for part in (qasrl, squad) for split in SPLITS)
    merged.check()
    assert merged.total == sum(part.filtering[split].total for part in (qasrl, squad) for split in SPLITS)
    assert merged.skipped["unaligned_span"] == 1


def test_nothing_at_all_is_no_data_set() -> None:
    with pytest.raises(DataError, match="there was no question at all"):
        build_dataset("empty", {})
