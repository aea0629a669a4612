"""Gold Standard CSV: ranges, its sentences beside it, counted drops, and damage with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from emergence.data.formats import gold_csv
from emergence.data.formats.raw import examples_from_raw
from emergence.data.formats.recognise import recognise
from emergence.errors import DataError
from tests.data.qa_files import read_all, write

GOLD_HEADER = (
    "qasrl_id,verb_idx,verb,question,is_redundant,answer_range,answer,wh,subj,obj,obj2,aux,prep,verb_prefix,is_passive"
)
GOLD_ROW = (
    "Wiki1k:wikinews:1:0:0,2,served,What might not be served?,False,3:4~!~0:1,today~!~Caf?,what,,,,might,,not~!~be,True"
)
SENTENCES = 'qasrl_id,tokens,sentence\nWiki1k:wikinews:1:0:0,Café is served today,"Café, is served today"\n'


def gold_files(folder: Path, *rows: str, header: str = GOLD_HEADER) -> Path:
    write(folder / "sentences" / "wikinews.dev.full.csv", SENTENCES)
    return write(folder / "gold" / "wikinews.dev.gold.csv", "\n".join([header, *rows]) + "\n")


def test_gold_csv_takes_ranges_and_finds_its_sentences_beside_it(tmp_path: Path) -> None:
    (example,) = read_all(gold_files(tmp_path, GOLD_ROW))
    assert [(a.text, a.start, a.end) for a in example.answers] == [("today", 3, 4), ("Café", 0, 1)]
    assert example.slots == ("what", "might", "", "not be served", "", "", "")
    assert example.is_passive is True
    assert example.source == "qasrl-gs"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (GOLD_ROW.replace("3:4~!~0:1,today~!~Caf?", ","), "no_answer"),
        (GOLD_ROW.replace("3:4~!~0:1,today~!~Caf?", "1:2,today"), "unaligned_span"),
        (GOLD_ROW.replace(",False,", ",True,"), "redundant_question"),
        (GOLD_ROW.replace(",served,", ",cooked,"), "bad_predicate_index"),
        (GOLD_ROW, "duplicate_question"),
    ],
)
def test_gold_csv_counts_every_drop(tmp_path: Path, row: str, reason: str) -> None:
    _, counts = examples_from_raw(gold_csv.read_gold_csv(gold_files(tmp_path, GOLD_ROW, row)), "train")
    assert (counts.total, counts.kept, counts.skipped) == (2, 1, {reason: 1})


@pytest.mark.parametrize(
    ("row", "header", "line", "message"),
    [
        (GOLD_ROW, GOLD_HEADER.replace("answer_range", "range"), 1, "lacks the column answer_range"),
        (GOLD_ROW.replace(",2,served", ",9,served"), GOLD_HEADER, 3, "verb_idx '9' is no index into 4 tokens"),
        (GOLD_ROW.replace("3:4", "3-4"), GOLD_HEADER, 3, "answer_range '3-4' is no start:end"),
        (GOLD_ROW.replace(":1:0:0", ":2:0:0"), GOLD_HEADER, 3, "in none of the sentences CSV"),
        (GOLD_ROW + ",more", GOLD_HEADER, 3, "columns of the header"),
    ],
)
def test_gold_csv_damage_names_the_line(tmp_path: Path, row: str, header: str, line: int, message: str) -> None:
    file = gold_files(tmp_path, GOLD_ROW, row, header=header)
    assert recognise(file).name == "qasrl-gold-csv"  # type: ignore[union-attr]
    with pytest.raises(DataError, match=message) as error:
        list(gold_csv.read_gold_csv(file))
    assert error.value.line == line


def test_gold_csv_without_sentences_says_what_is_missing(tmp_path: Path) -> None:
    file = write(tmp_path / "gold" / "a.csv", f"{GOLD_HEADER}\n{GOLD_ROW}\n")
    with pytest.raises(DataError, match="needs its sentences"):
        list(gold_csv.read_gold_csv(file))
