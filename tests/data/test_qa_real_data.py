"""The real files, where they are at hand: known counts, and spans that the source itself confirms."""

from __future__ import annotations

from pathlib import Path

import pytest

from emergence.data.formats.slots import is_passive, question_text
from emergence.data.qa_load import load_every_format, load_qa_path
from emergence.data.records import SPLITS, QADataset


def totals(dataset: QADataset) -> tuple[int, int]:
    """Questions read and kept, over all splits."""
    for split in SPLITS:
        dataset.filtering[split].check()
        assert dataset.filtering[split].kept == len(dataset.splits[split])
    return sum(c.total for c in dataset.filtering.values()), sum(c.kept for c in dataset.filtering.values())


def needed(shared_data: Path, name: str) -> Path:
    if not (shared_data / name).exists():
        pytest.skip(f"no {name} here")
    return shared_data / name


@pytest.fixture(scope="module")
def bank(shared_data: Path) -> QADataset:
    return load_qa_path(needed(shared_data, "qasrl_bank_v2"))


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("qasrl1_wiki_dummy", [(5, 5)]),
        ("qasrl1_sample", [(35, 35)]),
        ("qasrl_gs", [(7188, 7183), (7183, 7183)]),
        ("qanom", [(5457, 5457)]),
        ("squad_v1_1_sample", [(632, 626)]),
    ],
)
def test_known_counts(shared_data: Path, name: str, counts: list[tuple[int, int]]) -> None:
    assert [totals(dataset) for dataset in load_every_format(needed(shared_data, name))] == counts


def test_text_and_parquet_of_the_same_rows_are_the_same_data(shared_data: Path) -> None:
    text, parquet = load_every_format(needed(shared_data, "qasrl_bank_v2_as_qasrl1"))
    assert [len(text.splits[split]) for split in SPLITS] == [11896, 1024, 1043]
    assert text.fingerprint == parquet.fingerprint


def test_alignment_finds_the_spans_that_the_bank_gives(shared_data: Path, bank: QADataset) -> None:
    """Text answers derived from the Bank against the Bank's own spans: unique ones all right, repeated ones mostly."""
    assert totals(bank) == (38487, 38487)
    examples = [example for split in SPLITS for example in bank.splits[split]]
    assert all(question_text(e.slots) == e.question for e in examples if e.slots)
    assert sum(is_passive(e.slots) != e.is_passive for e in examples if e.slots) <= 1  # "What was bornin?"
    given = {(e.sentence_id, e.predicate_index, e.question): {(a.start, a.end) for a in e.answers} for e in examples}
    text = load_qa_path(needed(shared_data, "qasrl_bank_v2_as_qasrl1"))
    right = {"unique": [0, 0], "nearest": [0, 0]}
    for split in SPLITS:
        for example in text.splits[split]:
            spans = given[example.sentence_id, example.predicate_index, example.question]
            for answer in example.answers:
                right[answer.alignment][(answer.start, answer.end) in spans] += 1
    assert right["unique"][False] == 0
    assert right["nearest"][True] / sum(right["nearest"]) > 0.9


def test_the_gold_standard_reuses_sentences_of_the_bank(shared_data: Path, bank: QADataset) -> None:
    gold = load_qa_path(needed(shared_data, "qasrl_gs"))
    known = {key for split in SPLITS for e in bank.splits[split] for key in (e.sentence_id, e.tokens)}
    assert all(e.sentence_id in known or e.tokens in known for split in SPLITS for e in gold.splits[split])
