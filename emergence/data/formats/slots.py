"""QA-SRL question slots: clean values, the question they spell, its voice, the sentence's document.

A QA-SRL question is seven slots (wh, aux, subj, verb, obj, prep, obj2; He et al. 2015, table 2), each
of any number of words, with ``_`` or ``""`` for an empty one.
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
    """Seven slots with single spaces, ``""`` for an empty one (``_``, ``""`` or nothing in the files)."""
    return tuple("" if slot.strip() in _EMPTY else " ".join(slot.split()) for slot in slots)


def question_text(slots: Sequence[str]) -> str:
    """The question that cleaned slots spell: spaced, first letter upper-case, ``?`` at the end."""
    return finish_question(" ".join(slot for slot in slots if slot))


def finish_question(text: str) -> str:
    """``text`` with single spaces, its first letter upper-case and one ``?`` at its end; ``""`` for no words."""
    text = " ".join(text.split()).rstrip("? ")
    return f"{text[0].upper()}{text[1:]}?" if text else ""


def is_passive(slots: Sequence[str]) -> bool | None:
    """Whether the question's verb is passive; None without a verb slot.

    The last word of the verb slot is the main verb. The verb is passive exactly if the auxiliary just
    before it is a form of *be* and the main verb is no ``-ing`` form: no English participle of the
    past ends in ``-ing``. Forms of *not* between them do not count.
    """
    words = [word for word in f"{slots[1]} {slots[3]}".lower().split() if word != "not"]
    if not slots[3] or not words:
        return None
    auxiliaries, main = words[:-1], words[-1]
    if not auxiliaries:
        return False
    return _CONTRACTED_NOT.sub("", auxiliaries[-1]) in _BE and not main.endswith("ing")


def document_of(sentence_id: str) -> str:
    """The document in a QA-SRL Bank sentence id; any other sentence id is its own document."""
    match = _BANK_DOCUMENT.fullmatch(sentence_id)
    return (match[1] or match[2]) if match else sentence_id
