"""QA-SRL 1.0 (He, Lewis and Zettlemoyer 2015): ``.qa`` text files, and rows of the hub's copy.

A sentence is a block, closed by a blank line::

    WIKI1_77 <TAB> number of predicates
    the sentence , tokens between spaces .
    predicate index <TAB> predicate <TAB> number of questions
    wh <TAB> aux <TAB> subj <TAB> verb <TAB> obj <TAB> prep <TAB> obj2 <TAB> ? <TAB> answer ### answer
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from emergence.data.align import split_tokens
from emergence.data.formats.raw import DocumentCounts, RawAnswer, RawQuestion, examples_from_raw
from emergence.data.formats.slots import clean_slots, is_passive, question_text
from emergence.data.formats.textfile import text_lines, whole, words
from emergence.data.records import QAExample
from emergence.errors import DataError

SOURCE = "qasrl"
_HEADER = re.compile(r"([^\t]*[^\t\s])\t([0-9]{1,9})\s*")
_PREDICATE = re.compile(r"([0-9]{1,9})\t([^\t]+)\t([0-9]{1,9})\s*")
_ANSWER_SEPARATOR = "###"

_Lines = Iterator[tuple[int, str]]


def starts_like_qasrl1(text: str) -> bool:
    """Whether a file's first characters are the first lines of a ``.qa`` file: a header, then a predicate."""
    lines = [line.rstrip("\r") for line in text.split("\n")[:40]]
    return bool(_HEADER.fullmatch(lines[0])) and any(_PREDICATE.fullmatch(line) for line in lines[2:])


def read_qasrl1(path: Path) -> Iterator[RawQuestion]:
    """Every question of one ``.qa`` file.

    Raises:
        DataError: A line has the wrong columns, or a count or an index that does not fit. The message has its number.
    """
    lines = text_lines(path)
    for number, line in lines:
        if not line.strip():
            continue
        header = _HEADER.fullmatch(line)
        if header is None:
            hint = "do the counts above fit?" if number > 1 else "docs/data.md shows a valid file of each format"
            raise DataError(f"expected 'sentence id<TAB>number of predicates' ({hint})", path, number)
        sentence_id = header[1].strip()
        number, sentence = _next(lines, path, sentence_id)
        tokens = split_tokens(sentence)
        if not tokens:
            raise DataError(f"the sentence of {sentence_id} is empty", path, number)
        for _ in range(int(header[2])):
            yield from _predicate(lines, path, sentence_id, tokens)


def _predicate(lines: _Lines, path: Path, sentence_id: str, tokens: tuple[str, ...]) -> Iterator[RawQuestion]:
    number, line = _next(lines, path, sentence_id)
    match = _PREDICATE.fullmatch(line)
    if match is None:
        raise DataError("expected 'predicate index<TAB>predicate<TAB>number of questions'", path, number)
    index = int(match[1])
    if index >= len(tokens):
        raise DataError(f"predicate index {index} is outside the sentence of {len(tokens)} tokens", path, number)
    for _ in range(int(match[3])):
        number, line = _next(lines, path, sentence_id)
        cells = line.split("\t")
        if len(cells) != 9 or cells[7].strip() != "?":
            raise DataError(
                f"a question has nine tab-separated columns, seven slots, '?' and the answers; here are {len(cells)}"
                + ("" if len(cells) != 9 else f" and {cells[7]!r} in place of '?'"),
                path,
                number,
            )
        yield _raw(sentence_id, tokens, index, match[2].strip(), cells[:7], cells[8].split(_ANSWER_SEPARATOR))


def _next(lines: _Lines, path: Path, sentence_id: str) -> tuple[int, str]:
    entry = next(lines, None)
    if entry is None:
        raise DataError(f"the file ends inside the block of sentence {sentence_id}: is it cut short?", path)
    return entry


def _raw(
    sentence_id: str,
    tokens: tuple[str, ...],
    index: int,
    predicate: str | None,
    slots: Iterable[str],
    answers: Iterable[str],
) -> RawQuestion:
    cleaned = clean_slots(list(slots))
    return RawQuestion(
        source=SOURCE,
        sentence_id=sentence_id,
        tokens=tokens,
        question=question_text(cleaned),
        answers=tuple(RawAnswer(text=answer) for answer in answers if answer.strip()),
        predicate_index=index,
        predicate=predicate,
        slots=cleaned,
        is_passive=is_passive(cleaned),
    )


def raw_from_rows(rows: Iterable[Mapping[str, Any]]) -> Iterator[RawQuestion]:
    """Every question of rows with the columns sentence, sent_id, predicate_idx, predicate, question, answers.

    Raises:
        DataError: A column is missing, or a question is not seven slots, perhaps followed by ``?``.
    """
    for number, row in enumerate(rows, start=1):
        try:
            cells = [words(cell, "a slot") for cell in row["question"]]
            tokens, index = split_tokens(row["sentence"]), whole(row["predicate_idx"], "predicate_idx")
            sentence_id = words(row["sent_id"], "sent_id")
            answers = [words(answer, "an answer") for answer in row["answers"]]
            predicate = None if row.get("predicate") is None else words(row["predicate"], "predicate")
        except (KeyError, TypeError, ValueError) as exc:
            raise DataError(f"row {number} is no QA-SRL 1.0 row: {type(exc).__name__} {exc}") from exc
        if len(cells) not in (7, 8) or (len(cells) == 8 and cells[7].strip() != "?"):
            raise DataError(f"row {number}: a question has seven slots and '?'; here are {cells}")
        split_answers = [part for answer in answers for part in answer.split(_ANSWER_SEPARATOR)]
        yield _raw(sentence_id, tokens, index, predicate, cells[:7], split_answers)


def examples_from_qasrl1_rows(rows: Iterable[Mapping[str, Any]], split: str) -> tuple[list[QAExample], DocumentCounts]:
    """Examples and filter counts from hub rows of QA-SRL 1.0 (``raw_from_rows`` has their columns)."""
    return examples_from_raw(raw_from_rows(rows), split)
