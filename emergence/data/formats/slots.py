"""QA-SRL question slots: clean values, the question they spell, its voice, the sentence's document.

A QA-SRL question has seven slots: wh, aux, subj, verb, obj, prep, obj2 (He et al. 2015, table 2). A slot has any number
of words, and files write ``_`` or ``""`` for an empty one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_EMPTY = {"", "_", '""'}
_BE = {"be", "been", "being", "is", "are", "was", "were", "am"}
_CONTRACTED_NOT = re.compile(r"n['\u2019]t$")
#: Sentence ids of the QA-SRL Bank that hold their document's id: ``Wiki1k:wikinews:1203695:0:1``, ``TQA:T_0058_1``.
_BANK_DOCUMENT = re.compile(r"(?:(Wiki1k:[^:]+:[^:]+):\d+:\d+|(TQA:.+)_\d+)")


def clean_slots(slots: Sequence[str]) -> tuple[str, ...]:
    """Slots with single spaces. An empty one, which files write as ``_``, ``""`` or nothing, becomes ``""``."""
    return tuple("" if slot.strip() in _EMPTY else " ".join(slot.split()) for slot in slots)


def question_text(slots: Sequence[str]) -> str:
    """The question that cleaned slots spell, finished by :func:`finish_question`."""
    return finish_question(" ".join(slot for slot in slots if slot))


def finish_question(text: str) -> str:
    """``text`` with single spaces, an upper-case first letter and one final ``?``. Without words it is ``""``."""
    text = " ".join(text.split()).rstrip("? ")
    return f"{text[0].upper()}{text[1:]}?" if text else ""


def is_passive(slots: Sequence[str]) -> bool | None:
    """Whether the question's verb is passive; None without a verb slot.

    The last word of the verb slot is the main verb. It is passive exactly if the auxiliary just before it is a form of
    *be* and it does not end in ``-ing``, as no English past participle does. Forms of *not* between the two do not
    count. Examples: "What wasn't eaten?" is passive, "What is he eating?" is not.
    """
    words = [word for word in f"{slots[1]} {slots[3]}".lower().split() if word != "not"]
    if not slots[3] or not words:
        return None
    auxiliaries, main = words[:-1], words[-1]
    if not auxiliaries:
        return False
    return _CONTRACTED_NOT.sub("", auxiliaries[-1]) in _BE and not main.endswith("ing")


def document_of(sentence_id: str) -> str:
    """The document that a QA-SRL Bank sentence id names. Any other sentence is its own document."""
    match = _BANK_DOCUMENT.fullmatch(sentence_id)
    return (match[1] or match[2]) if match else sentence_id
