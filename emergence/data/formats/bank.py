"""QA-SRL Bank 2.0 (FitzGerald et al. 2018), QA-SRL Gold Standard and QANom in the Bank's JSON lines.

Every line holds one sentence: ``sentenceId``, ``sentenceTokens``, and ``verbEntries`` with their ``questionLabels``.
A label has the judgements of several annotators, each with end-exclusive spans of tokens. A question counts as
answerable if any annotator judged it so. An answer's votes are the annotators who gave its span. This module also reads
the rows of the Bank's hub copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from emergence.data.align import normalise, split_tokens
from emergence.data.formats.raw import INVALID, DocumentCounts, RawAnswer, RawQuestion, examples_from_raw
from emergence.data.formats.slots import clean_slots, finish_question, is_passive, question_text
from emergence.data.formats.textfile import json_value, text_lines, whole, words
from emergence.data.records import SLOT_NAMES, QAExample
from emergence.errors import DataError

SOURCE = "qasrl-bank"
#: Other data sets in the same format, told apart by who wrote their questions.
_SOURCE_BY_WRITER = {"turk-qasrlgs-": "qasrl-gs", "turk-qanom-": "qanom"}


def read_bank(path: Path) -> Iterator[RawQuestion]:
    """Every question of one ``.jsonl`` or ``.jsonl.gz`` file.

    Raises:
        DataError: A line is no JSON, lacks a field, or points outside its sentence. The message has its number.
    """
    for number, line in text_lines(path):
        if not line.strip():
            continue
        try:
            questions = _sentence(json_value(line, path, number))
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            detail = f"no field {exc}" if isinstance(exc, KeyError) else str(exc)
            raise DataError(f"is no sentence of the QA-SRL Bank 2.0: {detail}", path, number) from exc
        yield from questions


def _sentence(row: Mapping[str, Any]) -> list[RawQuestion]:
    raw_tokens = row["sentenceTokens"]
    if not isinstance(raw_tokens, list) or not raw_tokens or not all(isinstance(word, str) for word in raw_tokens):
        raise ValueError("sentenceTokens is no list of words")
    tokens, identity = tuple(raw_tokens), words(row["sentenceId"], "sentenceId")
    questions = []
    for key, verb in row["verbEntries"].items():
        index = whole(verb.get("verbIndex", key), "verbIndex")
        if not 0 <= index < len(tokens):
            raise ValueError(f"verb index {index} is outside the sentence of {len(tokens)} tokens")
        forms = verb.get("verbInflectedForms") or {}
        for label in verb["questionLabels"].values():
            questions.append(_question(identity, tokens, index, forms, label))
    return questions


def _question(
    sentence_id: str, tokens: tuple[str, ...], index: int, forms: Mapping[str, str], label: Mapping[str, Any]
) -> RawQuestion:
    judgements = label["answerJudgments"]
    answers = _answers(judgements)
    slots = clean_slots([words(label["questionSlots"][name], name) for name in SLOT_NAMES])
    slots = (*slots[:3], inflect(slots[3], forms), *slots[4:])
    passive = label.get("isPassive")
    if not isinstance(passive, bool | None):
        raise ValueError(f"isPassive is {passive!r}, not true or false")
    return RawQuestion(
        source=_source(label.get("questionSources") or ()),
        sentence_id=sentence_id,
        tokens=tokens,
        question=finish_question(label["questionString"]),
        answers=answers,
        predicate_index=index,
        slots=slots,
        is_passive=is_passive(slots) if passive is None else passive,
        problem=INVALID if judgements and not any(map(_is_valid, judgements)) else None,
    )


def _answers(judgements: Iterable[Mapping[str, Any]]) -> tuple[RawAnswer, ...]:
    """Distinct spans of the valid judgements in their order. Votes count annotators, not judgements."""
    voters: dict[tuple[int, int], set[str]] = {}
    for number, judgement in enumerate(judgements):
        if not _is_valid(judgement):
            continue
        for start, end in judgement.get("spans") or ():
            voters.setdefault((whole(start, "a span"), whole(end, "a span")), set()).add(
                str(judgement.get("sourceId", number))
            )
    return tuple(RawAnswer(span=span, given=True, votes=len(names)) for span, names in voters.items())


def _is_valid(judgement: Mapping[str, Any]) -> bool:
    valid = judgement["isValid"]
    if not isinstance(valid, bool):
        raise ValueError(f"isValid is {valid!r}, not true or false")
    return valid


def _source(writers: Iterable[str]) -> str:
    for writer in writers:
        for prefix, source in _SOURCE_BY_WRITER.items():
            if writer.startswith(prefix):
                return source
    return SOURCE


def inflect(verb_slot: str, forms: Mapping[str, str]) -> str:
    """A verb slot with the verb's own form in place of its label: ``been pastParticiple`` is ``been served``."""
    *auxiliaries, label = verb_slot.split() or [""]
    return " ".join([*auxiliaries, forms.get(label, label)])


def raw_from_rows(rows: Iterable[Mapping[str, Any]]) -> Iterator[RawQuestion]:
    """Every question of rows with the hub copies' columns.

    The columns are sentence, sent_id, predicate_idx, question (a string, or 7 or 8 cells), answers and answer_ranges.
    An answer keeps its range if the range spells it. Otherwise it is looked for in the sentence.

    Raises:
        DataError: A column is missing or holds something else.
    """
    for number, row in enumerate(rows, start=1):
        try:
            tokens, index = split_tokens(row["sentence"]), whole(row["predicate_idx"], "predicate_idx")
            cells = row["question"]
            slots = None if isinstance(cells, str) else clean_slots([words(cell, "a slot") for cell in cells][:7])
            answers = _row_answers(row, tokens)
            sentence_id = words(row["sent_id"], "sent_id")
        except (KeyError, TypeError, ValueError) as exc:
            raise DataError(f"row {number} is no QA-SRL Bank row: {type(exc).__name__} {exc}") from exc
        if slots is not None and len(slots) != 7:
            raise DataError(f"row {number}: a question has seven slots; here are {len(slots)}")
        yield RawQuestion(
            source=SOURCE,
            sentence_id=sentence_id,
            tokens=tokens,
            question=finish_question(cells) if slots is None else question_text(slots),
            answers=answers,
            predicate_index=index,
            slots=slots,
            is_passive=row.get("is_passive") if slots is None else is_passive(slots),
        )


def _row_answers(row: Mapping[str, Any], tokens: tuple[str, ...]) -> tuple[RawAnswer, ...]:
    texts = [words(text, "an answer") for text in row["answers"]]
    ranges = row.get("answer_ranges")
    ranges = [] if ranges is None else [(whole(start, "a range"), whole(end, "a range")) for start, end in ranges]
    if len(ranges) != len(texts):
        return tuple(RawAnswer(text=text) for text in texts if text.strip())
    return tuple(
        RawAnswer(text=text, span=(start, end), given=normalise(" ".join(tokens[start:end])) == normalise(text))
        for text, (start, end) in zip(texts, ranges, strict=True)
        if text.strip()
    )


def examples_from_bank_rows(rows: Iterable[Mapping[str, Any]], split: str) -> tuple[list[QAExample], DocumentCounts]:
    """Examples and filter counts from hub rows of QA-SRL Bank 2.0 (``raw_from_rows`` has their columns)."""
    return examples_from_raw(raw_from_rows(rows), split)
