"""SQuAD v1.1 and v2 (Rajpurkar et al. 2016, 2018): the JSON files, and rows of the hub's copy.

The context is cut into words in the manner of the Penn Treebank: clitics and punctuation stand apart, numbers and
hyphenated words stay whole. An answer must begin and end at word boundaries. Its text stays as in the source, without
the spaces that joining its tokens would add.
"""

from __future__ import annotations

import hashlib
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from emergence.data.formats.raw import DocumentCounts, RawAnswer, RawQuestion, examples_from_raw
from emergence.data.formats.slots import finish_question
from emergence.data.formats.textfile import json_value, whole, whole_text, words
from emergence.data.records import QAExample
from emergence.errors import DataError
from emergence.wording import counted

log = logging.getLogger(__name__)

SOURCE = "squad"
#: Soft hyphen, joiners: they stand within a word and are no letters.
_JOINERS = "\u00ad\u200c\u200d\u2060"
#: Combining marks stand below this code point, but for those of private use.
_MARKS_END = 0x1F000


def read_squad(path: Path) -> Iterator[RawQuestion]:
    """Every question of one SQuAD JSON file.

    Raises:
        DataError: The file is no JSON (with the line), or an article, paragraph or question lacks a field.
    """
    content = json_value(whole_text(path), path)
    try:
        yield from raw_from_rows(_rows(content))
    except (KeyError, TypeError, AttributeError) as exc:
        detail = f"no field {exc}" if isinstance(exc, KeyError) else str(exc)
        raise DataError(f"is no SQuAD file: {detail}", path) from exc
    except DataError as exc:
        raise DataError(str(exc), path) from exc


def _rows(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                yield {
                    "id": question["id"],
                    "title": article.get("title", ""),
                    "context": paragraph["context"],
                    "question": question["question"],
                    "answers": question.get("answers"),
                }


def _texts_and_starts(answers: Any) -> tuple[list[str], list[int]]:
    """Answers in any shape that copies of SQuAD have: lists side by side, a list of pairs, one pair, or none.

    Raises:
        KeyError, TypeError, ValueError: They have another shape.
    """
    if answers is None:
        return [], []
    if isinstance(answers, Mapping):
        texts, starts = answers["text"], answers["answer_start"]
        if isinstance(texts, str):
            texts, starts = [texts], [starts]
        texts, starts = list(texts or ()), list(() if starts is None else starts)
    else:
        texts, starts = [pair["text"] for pair in answers], [pair["answer_start"] for pair in answers]
    if len(texts) != len(starts):
        raise ValueError(f"{len(texts)} answers, but {len(starts)} places")
    return [words(text, "an answer") for text in texts], [whole(start, "answer_start") for start in starts]


def raw_from_rows(rows: Iterable[Mapping[str, Any]]) -> Iterator[RawQuestion]:
    """Every question of rows with the hub's columns: id, title, context, question, answers {text, answer_start}.

    Answers may have any shape of :func:`_texts_and_starts`, and places may be counted in bytes or UTF-16 units.

    Raises:
        DataError: A column is missing or holds something else.
    """
    counted_in: Counter[str] = Counter()
    for number, row in enumerate(rows, start=1):
        try:
            context, question = words(row["context"], "context"), words(row["question"], "question")
            texts, starts = _texts_and_starts(row["answers"])
            identity, title = str(row["id"]), words(row.get("title") or "", "title")
        except (KeyError, TypeError, ValueError) as exc:
            detail = f"no field {exc}" if isinstance(exc, KeyError) else str(exc)
            raise DataError(f"question {number} is no SQuAD question: {detail}") from exc
        tokens, begins, ends = _words(context)
        paragraph = hashlib.sha256(context.encode()).hexdigest()[:12]
        title = title or paragraph
        starts = [_in_characters(context, start, text, counted_in) for start, text in zip(starts, texts, strict=True)]
        yield RawQuestion(
            source=SOURCE,
            sentence_id=f"{title}#{paragraph}",
            document_id=title,
            tokens=tokens,
            question=finish_question(question),
            answers=tuple(_answers(context, texts, starts, begins, ends, counted_in)),
            id=f"{SOURCE}:{identity}",
        )
    moved = counted_in.pop(_ELSEWHERE, 0)
    if moved:
        log.info("%s not where the file says, but once in the context: read there", counted(moved, "answer"))
    for unit, n in counted_in.items():
        log.info("%d answers have their place counted in %s, not in characters: read as such", n, unit)


def _in_characters(context: str, start: int, text: str, counted_in: Counter[str]) -> int:
    """The character at which an answer begins, if its place is counted in another unit and is right in that one."""
    if context.isascii() or context.startswith(text, start):
        return start
    for unit, encoding, width in (("bytes of UTF-8", "utf-8", 1), ("units of UTF-16", "utf-16-le", 2)):
        before = context.encode(encoding)[: start * width].decode(encoding, "ignore")
        whole = len(before.encode(encoding)) == start * width  # else it would begin within a character
        if whole and context.startswith(text, len(before)):
            counted_in[unit] += 1
            return len(before)
    return start


def _answers(
    context: str,
    texts: list[str],
    starts: list[int],
    begins: dict[int, int],
    ends: dict[int, int],
    counted_in: Counter[str],
) -> Iterator[RawAnswer]:
    """Answers with their spans of words. One whose place is wrong is taken where its text stands, if that is once."""
    for (start, text), votes in Counter(zip(starts, texts, strict=True)).items():
        place = start
        if context[start : start + len(text)] != text and text and context.count(text) == 1:
            place = context.index(text)
        end = place + len(text)
        whole = context[place:end] == text and place in begins and end in ends
        counted_in[_ELSEWHERE] += whole and place != start
        start = place
        yield RawAnswer(text, (begins[start], ends[end]) if whole else None, given=True, votes=votes)


#: Among the units in which places are counted: none.
_ELSEWHERE = "elsewhere"


@cache
def _word_pattern() -> re.Pattern[str]:
    """A word: a clitic, or letters and digits with the marks that belong to them, or one character of punctuation.

    Marks are all that Unicode counts as combining: accents, and the vowels of Arabic, Hebrew or Indic scripts.
    """
    marks = {code for code in range(0x300, _MARKS_END) if unicodedata.category(chr(code)).startswith("M")}
    first = sorted(code for code in marks if code - 1 not in marks)
    last = sorted(code for code in marks if code + 1 not in marks)
    ranges = "".join(f"{chr(a)}-{chr(b)}" for a, b in zip(first, last, strict=True))
    letter = rf"\w[{ranges}{_JOINERS}]*"
    return re.compile(rf"['\u2019](?:s|re|ve|m|d|ll)\b|(?:{letter})+(?:[.,:\u2013-](?:{letter})+)*|[^\w\s]", re.I)


def split_words(text: str) -> tuple[str, ...]:
    """Running text as words: clitics and punctuation stand apart."""
    return _words(text)[0]


@lru_cache(maxsize=4)
def _words(context: str) -> tuple[tuple[str, ...], dict[int, int], dict[int, int]]:
    """The words, and the word index at each word's first character, and past each word's last character."""
    matches = list(_word_pattern().finditer(context))
    begins = {match.start(): i for i, match in enumerate(matches)}
    ends = {match.end(): i + 1 for i, match in enumerate(matches)}
    return tuple(match.group() for match in matches), begins, ends


def examples_from_squad_rows(rows: Iterable[Mapping[str, Any]], split: str) -> tuple[list[QAExample], DocumentCounts]:
    """Examples and filter counts from hub rows of SQuAD (``raw_from_rows`` has their columns)."""
    return examples_from_raw(raw_from_rows(rows), split)
