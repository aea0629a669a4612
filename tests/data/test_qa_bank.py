"""QA-SRL Bank 2.0 JSON lines: spans, votes, validity, voices, and damage with its line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from emergence.data.formats import bank
from emergence.data.formats.raw import examples_from_raw
from emergence.data.formats.recognise import recognise
from emergence.data.formats.slots import question_text
from emergence.errors import DataError
from tests.data.qa_files import read_all, write

FORMS = {
    "stem": "serve",
    "presentSingular3rd": "serves",
    "presentParticiple": "serving",
    "past": "served",
    "pastParticiple": "served",
}


def judgement(name: str, *spans: tuple[int, int]) -> dict[str, Any]:
    return {"sourceId": name, "isValid": True, "spans": [list(span) for span in spans]}


#: Its spans must not count (the release leaves them out).
INVALID_JUDGEMENT = {"sourceId": "z", "isValid": False, "spans": [[3, 4]]}


def bank_sentence(*judgements: dict[str, Any], writer: str = "turk-qasrl2.0-1", index: int = 2) -> dict[str, Any]:
    slots = dict(zip(("wh", "aux", "subj", "verb", "obj", "prep", "obj2"), ["what", "is", *"_____"], strict=True))
    label = {
        "questionString": "What is being served?",
        "questionSources": [writer],
        "answerJudgments": list(judgements),
        "questionSlots": slots | {"verb": "being pastParticiple"},
        "isPassive": True,
    }
    verb = {"verbIndex": index, "verbInflectedForms": FORMS, "questionLabels": {label["questionString"]: label}}
    return {
        "sentenceId": "Wiki1k:wikinews:1203695:0:1",
        "sentenceTokens": ["Soup", "is", "served", "today"],
        "verbEntries": {str(index): verb},
    }


def bank_file(path: Path, *sentences: dict[str, Any]) -> Path:
    return write(path, "".join(json.dumps(sentence) + "\n" for sentence in sentences))


def test_bank_spans_are_end_exclusive_and_ranked_by_annotators(tmp_path: Path) -> None:
    sentence = bank_sentence(
        judgement("a", (3, 4)),
        judgement("b", (0, 1)),
        judgement("c", (0, 1), (0, 2)),
        judgement("c", (0, 1)),
        INVALID_JUDGEMENT,
    )
    (example,) = read_all(bank_file(tmp_path / "x", sentence))
    assert [(a.text, a.start, a.end, a.votes, a.alignment) for a in example.answers] == [
        ("Soup", 0, 1, 2, "given"),
        ("today", 3, 4, 1, "given"),
        ("Soup is", 0, 2, 1, "given"),
    ]
    assert example.slots == ("what", "is", "", "being served", "", "", "")
    assert question_text(example.slots) == example.question == "What is being served?"
    assert (example.document_id, example.is_passive) == ("Wiki1k:wikinews:1203695", True)


@pytest.mark.parametrize(
    ("judgements", "reason"),
    [
        ([INVALID_JUDGEMENT], "invalid_by_annotators"),
        ([], "no_answer"),
        ([judgement("a")], "no_answer"),
        ([judgement("a", (2, 9))], "unaligned_span"),
        ([judgement("a", (2, 2)), INVALID_JUDGEMENT], "unaligned_span"),
    ],
)
def test_bank_questions_without_a_usable_answer_are_counted(tmp_path: Path, judgements: list[Any], reason: str) -> None:
    file = bank_file(tmp_path / "x", bank_sentence(*judgements), bank_sentence(judgement("a", (0, 1))))
    examples, counts = examples_from_raw(bank.read_bank(file), "train")
    assert len(examples) == 1
    assert counts.skipped == {reason: 1}
    counts.check()


@pytest.mark.parametrize(
    ("writer", "source"),
    [
        ("turk-qasrl2.0-3", "qasrl-bank"),
        ("turk-qasrlgs-6", "qasrl-gs"),
        ("turk-qanom-4", "qanom"),
        ("model-x", "qasrl-bank"),
    ],
)
def test_bank_format_tells_its_data_sets_apart(tmp_path: Path, writer: str, source: str) -> None:
    (example,) = read_all(bank_file(tmp_path / "x", bank_sentence(judgement("a", (0, 1)), writer=writer)))
    assert example.source == source


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"sentenceId": "x", ', "is not JSON"),
        ("[1, 2]", "is no sentence of the QA-SRL Bank"),
        ('{"sentenceId": "x", "sentenceTokens": ["a"]}', "no field 'verbEntries'"),
        ('{"sentenceId": "x", "sentenceTokens": "a b", "verbEntries": {}}', "no list of words"),
        (
            json.dumps(bank_sentence(judgement("a", (0, 1)), index=4)),
            "verb index 4 is outside the sentence of 4 tokens",
        ),
        (json.dumps(bank_sentence({"sourceId": "a", "isValid": True, "spans": [[1]]})), "not enough values"),
    ],
)
def test_bank_damage_names_the_line(tmp_path: Path, line: str, message: str) -> None:
    good = json.dumps(bank_sentence(judgement("a", (0, 1))))
    file = write(tmp_path / "dev.jsonl.gz", gzip.compress(f"{good}\n{line}\n".encode()))
    assert recognise(file).name == "qasrl-bank-jsonl"  # type: ignore[union-attr]
    with pytest.raises(DataError, match=message) as error:
        list(bank.read_bank(file))
    assert (error.value.path, error.value.line) == (file, 2)


def test_bank_hub_rows_trust_a_range_only_where_it_spells_the_answer() -> None:
    row = {
        "sentence": "a dog saw a dog",
        "sent_id": "TQA:T_0058_1",
        "predicate_idx": 2,
        "question": ["who", "_", "_", "saw", "_", "_", "something", "?"],
        "answers": ["a dog", "saw"],
        "answer_ranges": [[3, 5], [0, 1]],
    }
    (example,), _ = bank.examples_from_bank_rows([row], "test")
    assert [(a.start, a.end, a.alignment) for a in example.answers] == [(3, 5, "given"), (2, 3, "unique")]
    assert example.document_id == "TQA:T_0058"
