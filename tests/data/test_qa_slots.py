"""Slots to questions, voices and documents."""

from __future__ import annotations

import pytest

from emergence.data.formats.slots import clean_slots, document_of, finish_question, is_passive, question_text


@pytest.mark.parametrize(
    ("aux", "verb", "expected"),
    [
        ("is", "named", True),
        ("is", "marking", False),
        ("is", "being served", True),
        ("has", "been serving", False),
        ("has", "been served", True),
        ("might not", "be found", True),
        ("wasn't", "connected", True),
        ("has", "found", False),
        ("", "marks", False),
        ("might", "have been being eaten", True),
        ("is", "not served", True),
        ("is", "", None),
    ],
)
def test_voice_from_slots(aux: str, verb: str, expected: bool | None) -> None:
    assert is_passive(("what", aux, "", verb, "", "", "")) is expected


def test_slots_and_questions_are_spelt_properly() -> None:
    slots = clean_slots(["how  much", "_", '""', "be found", "", " to do ", "something"])
    assert slots == ("how much", "", "", "be found", "", "to do", "something")
    assert question_text(slots) == "How much be found to do something?"
    assert finish_question("who  did it ??") == "Who did it?"
    assert finish_question(" ? ") == ""


def test_documents_of_sentence_ids() -> None:
    assert document_of("Wiki1k:wikinews:1203695:0:1") == "Wiki1k:wikinews:1203695"
    assert document_of("TQA:T_0058_1") == "TQA:T_0058"
    assert document_of("WIKI1_77") == "WIKI1_77"
