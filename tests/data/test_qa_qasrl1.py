"""QA-SRL 1.0 text and hub rows: what a good file gives, and that damage is named with its line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from emergence.data.formats import qasrl1
from emergence.data.formats.raw import examples_from_raw
from emergence.data.formats.recognise import recognise
from emergence.data.records import Answer
from emergence.errors import DataError
from tests.data.qa_files import QA, hub_rows, read_all, write


def test_qasrl1_reads_slots_answers_and_counts_every_drop(tmp_path: Path) -> None:
    file = write(tmp_path / "any.name", QA)
    examples, counts = examples_from_raw(qasrl1.read_qasrl1(file), "train")
    first, second = examples
    assert recognise(file).name == "qasrl1-text"  # type: ignore[union-attr]
    assert first.question == "Who built something?"
    assert first.answers == (Answer("many people", 4, 6, "nearest"),)
    assert second.slots == ("what", "was", "", "built", "", "by", "someone")
    assert [answer.text for answer in second.answers] == ["Rome"]
    assert (first.is_passive, second.is_passive) == (False, True)
    assert (first.document_id, first.predicate_index, first.source) == ("WIKI1_77", 2, "qasrl")
    assert counts.to_dict() == {
        "total_raw_examples": 4,
        "valid_examples": 2,
        "skipped_ambiguous_span": 0,
        "skipped_no_answer": 1,
        "skipped_unaligned_span": 1,
    }
    assert counts.answers_dropped == {"WIKI1_77": 1}


@pytest.mark.parametrize(
    "content",
    [
        QA.replace("\n", "\r\n").encode(),
        b"\xef\xbb\xbf" + QA.encode(),
        gzip.compress(QA.encode()),
        QA.rstrip().encode(),
    ],
    ids=["crlf", "bom", "gzip", "no final line end"],
)
def test_line_ends_marks_and_packing_do_not_matter(tmp_path: Path, content: bytes) -> None:
    assert read_all(write(tmp_path / "a.qa", content)) == read_all(write(tmp_path / "b.qa", QA))


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("WIKI1_77\t1\n", "WIKI1_77\n", 1, "number of predicates"),
        ("WIKI1_77\t1\n", "WIKI1_77\t2\n", 7, "predicate index"),
        ("2\tbuilt\t3", "2\tbuilt\t2", 6, "number of predicates"),
        ("2\tbuilt\t3", "11\tbuilt\t3", None, None),  # the last word: a counted drop, see below
        ("2\tbuilt\t3", "12\tbuilt\t3", 3, "predicate index 12 is outside the sentence of 12 tokens"),
        ("2\tbuilt\t3", "two\tbuilt\t3", 3, "predicate index"),
        ("\t_\t_\tbuilt\tsomething", "\t_\tbuilt\tsomething", 4, "nine tab-separated columns"),
        ("\t?\tmany people", "\t?\tmany\tpeople", 4, "here are 10"),
        ("\t?\tmany people", "\t!\tmany people", 4, "in place of '?'"),
        ("It rained .", "", 9, "is empty"),
        ("\tsnow\n\n\n", "\tsn\0ow\n", 11, "NUL"),
    ],
)
def test_qasrl1_damage_names_the_line(
    tmp_path: Path, old: str, new: str, line: int | None, message: str | None
) -> None:
    assert old in QA
    file = write(tmp_path / "wiki1.train.qa", QA.replace(old, new, 1))
    if message is None:
        assert examples_from_raw(qasrl1.read_qasrl1(file), "train")[1].skipped["bad_predicate_index"] == 3
        return
    with pytest.raises(DataError, match=message.replace("?", r"\?")) as error:
        list(qasrl1.read_qasrl1(file))
    assert (error.value.path, error.value.line) == (file, line)
    assert str(error.value).startswith(f"{file}:{line}: ")


def test_a_file_cut_short_bad_utf8_and_bad_gzip_are_named(tmp_path: Path) -> None:
    for name, content, message in [
        ("short.qa", QA[: QA.index("what\twas")].encode(), "ends inside the block of sentence WIKI1_77"),
        ("latin.qa", QA.replace("nonsense", "é").encode("latin-1"), ":5: is not UTF-8"),
        ("cut.qa", gzip.compress(QA.encode())[:-12], "damaged gzip"),
        ("empty.qa", b"", "empty"),
    ]:
        with pytest.raises(DataError, match=message):
            list(qasrl1.read_qasrl1(write(tmp_path / name, content)))


def test_a_question_asked_twice_counts_once_and_lends_its_answers(tmp_path: Path) -> None:
    doubled = QA.replace("2\tbuilt\t3\n", "2\tbuilt\t4\nwho\t_\t_\tbuilt\tsomething\t_\t_\t?\tpeople ### many people\n")
    examples, counts = examples_from_raw(qasrl1.read_qasrl1(write(tmp_path / "a.qa", doubled)), "train")
    assert counts.skipped["duplicate_question"] == 1
    assert [answer.text for answer in examples[0].answers] == ["people", "many people"]
    counts.check()


def test_hub_rows_equal_the_text_file(tmp_path: Path) -> None:
    examples, counts = qasrl1.examples_from_qasrl1_rows(hub_rows(), "train")
    assert examples == read_all(write(tmp_path / "a.qa", QA))[:1]
    assert counts.skipped == {"bad_predicate_index": 1}
    with pytest.raises(DataError, match=r"row 1 is no QA-SRL 1\.0 row: KeyError 'answers'"):
        qasrl1.examples_from_qasrl1_rows([{k: v for k, v in hub_rows()[0].items() if k != "answers"}], "train")
    with pytest.raises(DataError, match="row 1: a question has seven slots"):
        qasrl1.examples_from_qasrl1_rows([hub_rows()[0] | {"question": ["who", "built"]}], "train")
