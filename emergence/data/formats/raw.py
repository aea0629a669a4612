"""What every reader yields, and the one place where it becomes ``QAExample`` or a counted drop."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache

from emergence.data.align import AMBIGUOUS, UNALIGNED, Alignment, SentenceIndex, normalise, split_tokens
from emergence.data.formats.slots import document_of
from emergence.data.records import Answer, FilterCounts, QAExample

BAD_PREDICATE = "bad_predicate_index"
DUPLICATE = "duplicate_question"
INVALID = "invalid_by_annotators"
NO_ANSWER = "no_answer"
NO_QUESTION = "no_question"
TOO_LONG = "too_long"
#: No trunk takes as many tokens (``model.sequence_length``), and no sentence has as many characters.
MOST_WORDS, MOST_CHARACTERS = 32_768, 1_000_000


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """One answer as a format gives it: a text to look for, or a span (``end`` exclusive), or both.

    ``given`` says that the source marks the place. Such an answer without a usable span is dropped, not looked for.
    """

    text: str | None = None
    span: tuple[int, int] | None = None
    given: bool = False
    votes: int = 1


@dataclass(frozen=True, slots=True)
class RawQuestion:
    """One question as a format gives it, before alignment. ``problem`` is the reader's reason to drop it."""

    source: str
    sentence_id: str
    tokens: tuple[str, ...]
    question: str
    answers: tuple[RawAnswer, ...]
    predicate_index: int | None = None
    #: The predicate as written, to check the index against. None if the format has no such column.
    predicate: str | None = None
    slots: tuple[str, ...] | None = None
    is_passive: bool | None = None
    document_id: str | None = None
    id: str | None = None
    problem: str | None = None

    @property
    def document(self) -> str:
        return document_of(self.sentence_id) if self.document_id is None else self.document_id


@dataclass(slots=True)
class DocumentCounts(FilterCounts):
    """Filter counts that remember the documents, so that drops follow a document carved off a split."""

    #: document id -> drop reason -> number of questions
    by_document: dict[str, dict[str, int]] = field(default_factory=dict)
    #: Answers that could not be aligned although their question was kept (not question drops), by document.
    answers_dropped: dict[str, int] = field(default_factory=dict)

    def skip_in(self, document_id: str, reason: str) -> None:
        """Count one question of ``document_id`` as dropped for ``reason``."""
        self.skip(reason)
        self._note(document_id, reason)

    def drop_kept_in(self, document_id: str, reason: str) -> None:
        """Move one question of ``document_id`` that an earlier step kept to the drops for ``reason``."""
        self.drop_kept(reason)
        self._note(document_id, reason)

    def _note(self, document_id: str, reason: str) -> None:
        reasons = self.by_document.setdefault(document_id, {})
        reasons[reason] = reasons.get(reason, 0) + 1


def examples_from_raw(raws: Iterable[RawQuestion], split: str) -> tuple[list[QAExample], DocumentCounts]:
    """Align, filter and deduplicate. Every raw question is kept, or counted under one reason.

    A question that repeats another about the same predicate counts as ``duplicate_question``, and its answers are added
    to those of the first. An id that a source gives counts within its context: two translations of one data set may
    share all their ids.
    """
    examples: list[QAExample] = []
    places: dict[tuple[str, str], int] = {}
    counts = DocumentCounts()
    for raw in raws:
        outcome = _example(raw, split)
        if isinstance(outcome, str):
            counts.skip_in(raw.document, outcome)
            continue
        example, lost = outcome
        if lost:
            counts.answers_dropped[raw.document] = counts.answers_dropped.get(raw.document, 0) + lost
        key = example.id, "" if raw.id is None else _context_digest(example)
        if key in places:
            first = places[key]
            examples[first] = merge_answers(examples[first], example)
            counts.skip_in(raw.document, DUPLICATE)
        else:
            places[key] = len(examples)
            examples.append(example)
            counts.keep()
    return _with_own_ids(examples), counts


def _context_digest(example: QAExample) -> str:
    """What an id of the source is about: the same id may stand in several files, over another text."""
    return hashlib.sha256("\x1f".join([*example.tokens, example.question]).encode()).hexdigest()[:8]


def _with_own_ids(examples: list[QAExample]) -> list[QAExample]:
    """The examples, those that share an id told apart by what they are about. The order of files does not matter."""
    times = Counter(example.id for example in examples)
    return [
        replace(example, id=f"{example.id}:{_context_digest(example)}") if times[example.id] > 1 else example
        for example in examples
    ]


def merge_answers(first: QAExample, other: QAExample) -> QAExample:
    """``first`` with the spans of both. A shared span keeps the larger vote, because files may repeat judgements."""
    if first.tokens != other.tokens:
        return first
    merged: dict[tuple[int, int], Answer] = {}
    for answer in first.answers + other.answers:
        known = merged.get((answer.start, answer.end))
        if known is None or answer.votes > known.votes:
            merged[answer.start, answer.end] = answer if known is None else replace(known, votes=answer.votes)
    return replace(first, answers=_ranked(merged.values()))


def _ranked(answers: Iterable[Answer]) -> tuple[Answer, ...]:
    return tuple(sorted(answers, key=lambda answer: -answer.votes))  # stable: source order within equal votes


def _example(raw: RawQuestion, split: str) -> tuple[QAExample, int] | str:
    """The example and how many of its answers were lost, or the reason to drop the question."""
    problem = _problem(raw)
    if problem:
        return problem
    by_span: dict[tuple[int, int], Answer] = {}
    misses = []
    for raw_answer in raw.answers:
        answer = _aligned(raw, raw_answer)
        if isinstance(answer, str):
            misses.append(answer)
            continue
        by_span.setdefault((answer.start, answer.end), answer)
    if not by_span:
        return AMBIGUOUS if AMBIGUOUS in misses else UNALIGNED
    example = QAExample(
        id=raw.id or _question_id(raw),
        source=raw.source,
        split=split,
        document_id=raw.document,
        sentence_id=raw.sentence_id,
        tokens=raw.tokens,
        predicate_index=raw.predicate_index,
        question=raw.question,
        slots=raw.slots,
        answers=_ranked(by_span.values()),
        is_passive=raw.is_passive,
    )
    return example, len(misses)


def _problem(raw: RawQuestion) -> str | None:
    if raw.problem:
        return raw.problem
    index = raw.predicate_index
    if index is not None:
        if not 0 <= index < len(raw.tokens):
            return BAD_PREDICATE
        if raw.predicate and normalise(raw.predicate).casefold() != normalise(raw.tokens[index]).casefold():
            return BAD_PREDICATE
    if not raw.question:
        return NO_QUESTION
    if len(raw.tokens) > MOST_WORDS or len(raw.question) + sum(map(len, raw.tokens)) > MOST_CHARACTERS:
        return TOO_LONG
    return None if raw.answers else NO_ANSWER


def _aligned(raw: RawQuestion, answer: RawAnswer) -> Answer | str:
    if answer.given:
        if answer.span is None or not 0 <= answer.span[0] < answer.span[1] <= len(raw.tokens):
            return UNALIGNED
        start, end = answer.span
        text = " ".join(raw.tokens[start:end]) if answer.text is None else answer.text
        return Answer(text, start, end, "given", answer.votes)
    text = " ".join(split_tokens(answer.text or ""))
    place = _sentence_index(raw.tokens).align(text, raw.predicate_index)
    if isinstance(place, Alignment):
        return Answer(text, place.start, place.end, place.kind, answer.votes)
    return place


@lru_cache(maxsize=64)
def _sentence_index(tokens: tuple[str, ...]) -> SentenceIndex:
    return SentenceIndex(tokens)  # the questions of one sentence stand together in every format


def _question_id(raw: RawQuestion) -> str:
    """The sentence, the predicate and a hash of all that was asked. The order of files does not change it."""
    asked = "\x1f".join([*raw.tokens, str(raw.predicate_index), raw.question, *(raw.slots or ())])
    return f"{raw.sentence_id}:{raw.predicate_index}:{hashlib.sha256(asked.encode()).hexdigest()[:8]}"
