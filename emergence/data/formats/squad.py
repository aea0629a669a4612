"""SQuAD v1.1 and v2 (Rajpurkar et al. 2016, 2018): the JSON files, and rows of the hub's copy.

The context is cut into words in the manner of the Penn Treebank: clitics and punctuation stand apart, numbers and
hyphenated words stay whole. An answer must begin and end at word boundaries. Its text stays as in the source, without
the spaces that joining its tokens would add.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from emergence.data.formats.raw import DocumentCounts, RawAnswer, RawQuestion, examples_from_raw
from emergence.data.formats.slots import finish_question
from emergence.data.formats.textfile import json_value, text_lines, whole, words
from emergence.data.records import QAExample
from emergence.errors import DataError

SOURCE = "squad"
#: A letter with its decomposed accents, and with the joiners and soft hyphens that follow it within a word.
_LETTER = r"\w[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f\u00ad\u200c\u200d\u2060]*"
_WORD = re.compile(
    rf"['\u2019](?:s|re|ve|m|d|ll)\b|(?:{_LETTER})+(?:[.,:\u2013-](?:{_LETTER})+)*|[^\w\s]", re.IGNORECASE
)


def read_squad(path: Path) -> Iterator[RawQuestion]:
    """Every question of one SQuAD JSON file.

    Raises:
        DataError: The file is no JSON (with the line), or an article, paragraph or question lacks a field.
    """
    text = "\n".join(line for _, line in text_lines(path))
    content = json_value(text, path)
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
                answers = question.get("answers") or []
                yield {
                    "id": question["id"],
                    "title": article.get("title", ""),
                    "context": paragraph["context"],
                    "question": question["question"],
                    "answers": {
                        "text": [answer["text"] for answer in answers],
                        "answer_start": [answer["answer_start"] for answer in answers],
                    },
                }


def raw_from_rows(rows: Iterable[Mapping[str, Any]]) -> Iterator[RawQuestion]:
    """Every question of rows with the hub's columns: id, title, context, question, answers {text, answer_start}.

    Raises:
        DataError: A column is missing or holds something else.
    """
    for number, row in enumerate(rows, start=1):
        try:
            context, question = words(row["context"], "context"), words(row["question"], "question")
            texts = [words(text, "an answer") for text in row["answers"]["text"]]
            starts = [whole(start, "answer_start") for start in row["answers"]["answer_start"]]
            if len(texts) != len(starts):
                raise ValueError(f"{len(texts)} answers, but {len(starts)} places")
            identity, title = str(row["id"]), words(row.get("title") or "", "title")
        except (KeyError, TypeError, ValueError) as exc:
            raise DataError(f"question {number} is no SQuAD question: {type(exc).__name__} {exc}") from exc
        tokens, begins, ends = _words(context)
        paragraph = hashlib.sha256(context.encode()).hexdigest()[:12]
        title = title or paragraph
        yield RawQuestion(
            source=SOURCE,
            sentence_id=f"{title}#{paragraph}",
            document_id=title,
            tokens=tokens,
            question=finish_question(question),
            answers=tuple(_answers(context, texts, starts, begins, ends)),
            id=f"{SOURCE}:{identity}",
        )


def _answers(
    context: str, texts: list[str], starts: list[int], begins: dict[int, int], ends: dict[int, int]
) -> Iterator[RawAnswer]:
    for (start, text), votes in Counter(zip(starts, texts, strict=True)).items():
        end = start + len(text)
        whole = context[start:end] == text and start in begins and end in ends
        yield RawAnswer(text, (begins[start], ends[end]) if whole else None, given=True, votes=votes)


def split_words(text: str) -> tuple[str, ...]:
    """Running text as words: clitics and punctuation stand apart."""
    return _words(text)[0]


@lru_cache(maxsize=4)
def _words(context: str) -> tuple[tuple[str, ...], dict[int, int], dict[int, int]]:
    """The words, and the word index at each word's first character, and past each word's last character."""
    matches = list(_WORD.finditer(context))
    begins = {match.start(): i for i, match in enumerate(matches)}
    ends = {match.end(): i + 1 for i, match in enumerate(matches)}
    return tuple(match.group() for match in matches), begins, ends


def examples_from_squad_rows(rows: Iterable[Mapping[str, Any]], split: str) -> tuple[list[QAExample], DocumentCounts]:
    """Examples and filter counts from hub rows of SQuAD (``raw_from_rows`` has their columns)."""
    return examples_from_raw(raw_from_rows(rows), split)
