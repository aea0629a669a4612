"""Splits: named by files, completed by document, kept apart, with every count in its place."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emergence.data.formats.raw import DocumentCounts
from emergence.data.qa_load import build_dataset
from emergence.data.records import SPLITS, Answer, QAExample
from emergence.data.splits import (
    SplitPart,
    complete_splits,
    require_splits,
    separate_documents,
    split_of_path,
)
from emergence.errors import DataError


def example(document: str, number: int = 0, split: str = "train", tokens: tuple[str, ...] = ("a", "b")) -> QAExample:
    return QAExample(
        id=f"{document}:{number}",
        source="qasrl",
        split=split,
        document_id=document,
        sentence_id=f"{document}:0",
        tokens=tokens,
        predicate_index=0,
        question="Who?",
        slots=None,
        answers=(Answer("b", 1, 2, "unique"),),
    )


def part(sizes: dict[str, int], split: str = "train", drops: Iterable[str] = ()) -> SplitPart:
    """``sizes`` kept questions by document, and one dropped question for each entry of ``drops``."""
    examples = [example(document, n, split) for document, size in sizes.items() for n in range(size)]
    counts = DocumentCounts(total=len(examples), kept=len(examples))
    for document in drops:
        counts.skip_in(document, "no_answer")
    return examples, counts


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("wiki1.train.qa", "train"),
        ("wiki1.dev.qa", "validation"),
        ("dev.jsonl.gz", "validation"),
        ("wikinews.dev.gold.csv", "validation"),
        ("valid_0.jsonl", "validation"),
        ("train-00000-of-00001.parquet", "train"),
        ("TEST.QA", "test"),
        ("plain_text/validation/0000.parquet", "validation"),
        ("test/all/0000.parquet", "test"),
        ("test/train.qa", "train"),
        ("wiki1.sample.qa", None),
        ("squad-v1.1.json", None),
        ("latest.qa", None),
        ("train_and_test.qa", None),
    ],
)
def test_names_of_files_and_folders_name_splits(path: str, split: str | None) -> None:
    assert split_of_path(PurePath(path)) == split


sizes = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=3), st.integers(1, 9), min_size=1, max_size=30)


@settings(max_examples=100, deadline=None)
@given(
    sizes, st.sampled_from(SPLITS), st.integers(0, 5), st.lists(st.text("abcxyz", min_size=1, max_size=2), max_size=9)
)
def test_carving_loses_nothing_and_keeps_documents_whole(
    sizes: dict[str, int], donor: str, seed: int, drops: list[str]
) -> None:
    examples, counts = part(sizes, donor, drops)
    completed, report = complete_splits({donor: (examples, counts)}, seed)
    assert set(completed) == set(SPLITS)
    assert sorted(e.id for kept, _ in completed.values() for e in kept) == sorted(e.id for e in examples)
    assert sum(c.total for _, c in completed.values()) == counts.total
    assert sum(c.skipped.get("no_answer", 0) for _, c in completed.values()) == len(drops)
    homes: dict[str, str] = {}
    for split, (kept, own) in completed.items():
        own.check()
        assert own.kept == len(kept)
        assert {e.split for e in kept} <= {split}
        assert all(homes.setdefault(e.document_id, split) == split for e in kept)
    assert report["from"] == donor
    for split in SPLITS:
        assert report[split]["questions"] == len(completed[split][0])  # type: ignore[index]
        assert bool(completed[split][0]) or len(sizes) < 3


def test_shares_are_eighty_ten_ten_and_scaled_to_what_is_missing() -> None:
    many = {f"d{n}": 1 + n % 5 for n in range(400)}
    total = sum(many.values())
    completed, _ = complete_splits({"validation": part(many, "validation")}, 0)
    shares = [len(completed[split][0]) / total for split in SPLITS]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.01)
    completed, report = complete_splits({"train": part(many), "validation": part({"v": 7}, "validation")}, 0)
    assert len(completed["test"][0]) / total == pytest.approx(1 / 9, abs=0.01)
    assert len(completed["validation"][0]) == 7
    assert "validation" not in report


def test_drops_follow_their_documents() -> None:
    documents = {f"d{n}": 2 for n in range(20)}
    completed, _ = complete_splits({"train": part(documents, drops=[*documents, "never kept"])}, 3)
    for split, (kept, counts) in completed.items():
        own = {e.document_id for e in kept}
        assert counts.skipped["no_answer"] == len(own) + (split == "train")


def test_carving_depends_on_the_seed_and_not_on_the_order() -> None:
    documents = {f"d{n}": 1 for n in range(50)}
    backwards = dict(reversed(documents.items()))

    def test_documents(sizes: dict[str, int], seed: int) -> set[str]:
        return {e.document_id for e in complete_splits({"train": part(sizes)}, seed)[0]["test"][0]}

    assert test_documents(documents, 0) == test_documents(backwards, 0)
    assert test_documents(documents, 0) != test_documents(documents, 1)


def test_complete_splits_are_left_alone() -> None:
    parts = {split: part({f"{split}-doc": 2}, split) for split in SPLITS}
    assert complete_splits(parts, 0) == (parts, {})


def test_a_document_of_a_later_split_is_dropped_from_the_earlier_one_and_counted() -> None:
    parts = {
        "train": part({"a": 3, "b": 2}),
        "validation": part({"b": 1, "c": 1}, "validation"),
        "test": part({"c": 4}, "test"),
    }
    separated = separate_documents(parts)
    assert {split: {e.document_id for e in kept} for split, (kept, _) in separated.items()} == {
        "train": {"a"},
        "validation": {"b"},
        "test": {"c"},
    }
    assert separated["train"][1].skipped == {"document_in_other_split": 2}
    assert separated["validation"][1].skipped == {"document_in_other_split": 1}
    for _, counts in separated.values():
        counts.check()


def test_a_split_without_a_document_of_its_own_is_an_error() -> None:
    with pytest.raises(DataError, match="every document of the train split"):
        separate_documents({"train": part({"a": 3}), "test": part({"a": 1}, "test")})


def test_files_that_number_their_sentences_anew_do_not_overlap() -> None:
    def numbered(split: str, word: str) -> SplitPart:
        base = example("1", split=split, tokens=(word, "b"))
        only = QAExample(**{name: getattr(base, name) for name in base.__slots__} | {"sentence_id": "1"})
        return [only], DocumentCounts(total=1, kept=1)

    separated = separate_documents({"train": numbered("train", "x"), "test": numbered("test", "y")})
    assert [len(kept) for kept, _ in separated.values()] == [1, 1]
    with pytest.raises(DataError):
        separate_documents({"train": numbered("train", "x"), "test": numbered("test", "x")})


def test_empty_splits_are_refused_only_where_they_are_needed() -> None:
    dataset = build_dataset("tiny", {"train": part({"a": 3})})
    require_splits(dataset, "train")
    with pytest.raises(DataError, match="tiny has no question in its validation and test split"):
        require_splits(dataset)
