"""The three records every data route turns into, whatever the format on disk.

``TextDoc`` feeds pretraining, ``QAPair`` is NQ-open (questions without passages), and ``QAExample``
is one QA-SRL (or SQuAD) question with its answers as spans of word tokens.

Spans in files, and so in an ``Answer``, have exclusive ends. Encoded questions and all that is computed from them have
inclusive ends (:mod:`emergence.measures.spans`). ``Answer.span`` converts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

SPLITS = ("train", "validation", "test")

#: Why a question may be dropped, in words; what follows a colon is the cure.
DROP_REASONS = {
    "ambiguous_span": "the answer stands in several places and nothing tells which is meant",
    "unaligned_span": "no answer is a sequence of whole words of the sentence",
    "no_answer": "without an answer",
    "no_question": "without a question",
    "duplicate_question": "asked before, its answers added to those of the first",
    "bad_predicate_index": "the predicate's place is not where the file says",
    "invalid_by_annotators": "judged invalid by its annotators",
    "redundant_question": "marked redundant by its annotators",
    "not_verbal": "about a noun that means no action",
    "document_in_other_split": "its document is in a later split",
    "too_long": "longer than the model's sequences: raise model.sequence_length",
    "answer_outside": "the answer lies outside its sentence",
}

#: The seven QA-SRL question slots, in order (He et al. 2015; FitzGerald et al. 2018).
SLOT_NAMES = ("wh", "aux", "subj", "verb", "obj", "prep", "obj2")


@dataclass(frozen=True, slots=True)
class TextDoc:
    """One document of running text. ``text`` is natural text (detokenised, no ``@-@``)."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class QAPair:
    """A question with its answer strings and no passage (NQ-open)."""

    id: str
    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as a span of word tokens: ``tokens[start:end]`` (``end`` is exclusive).

    ``alignment`` says how the span was found. It is ``given`` if the data set marks the span, ``unique`` for the only
    match of whole tokens, and ``nearest`` for the match nearest to the predicate among several. ``+casefold`` follows
    if case had to be ignored, ``+trimmed`` if trailing punctuation had to be cut off, as in ``unique+trimmed``, and
    ``+marks`` if sentence and answer spell brackets or quotes differently.
    """

    text: str
    start: int
    end: int
    alignment: str
    #: How many annotators gave this span (1 where the source does not say).
    votes: int = 1

    @property
    def span(self) -> tuple[int, int]:
        """The first and the last word, both inclusive."""
        return self.start, self.end - 1


@dataclass(frozen=True, slots=True)
class QAExample:
    """One question about one predicate of one sentence, with all its gold answers.

    Attributes:
        id: Unique within the data set, stable across runs.
        source: Data set name, e.g. ``qasrl``, ``qasrl-bank``, ``qasrl-gs``, ``qanom``, ``squad``, ``microworld``.
        split: One of ``SPLITS``.
        document_id: Documents never straddle splits.
        sentence_id: The cluster of every bootstrap: questions of one sentence are not independent.
        tokens: Word tokens of the sentence, as in the source (PTB style).
        predicate_index: Index into ``tokens`` of the asked predicate; None for SQuAD.
        question: Natural-language question ending in ``?``.
        slots: The seven slots in ``SLOT_NAMES`` order, ``""`` for an empty one; None where there are none.
        answers: One or more distinct spans, by votes and then in source order. The first is the one to train on.
        is_passive: Whether the question's verb is passive; None where it cannot be told.
    """

    id: str
    source: str
    split: str
    document_id: str
    sentence_id: str
    tokens: tuple[str, ...]
    predicate_index: int | None
    question: str
    slots: tuple[str, ...] | None
    answers: tuple[Answer, ...]
    is_passive: bool | None = None

    @property
    def wh(self) -> str:
        """The wh-word in lower case (``who``, ``how much``, ...): the role label of every breakdown."""
        if self.slots is not None and self.slots[0]:
            return self.slots[0].lower()
        first = self.question.split(maxsplit=1)
        return first[0].lower() if first else ""


@dataclass(slots=True)
class FilterCounts:
    """How many raw questions were read, kept, and dropped for each reason. Kept and dropped add up to all read."""

    total: int = 0
    kept: int = 0
    skipped: dict[str, int] = field(default_factory=dict)

    def keep(self) -> None:
        self.total += 1
        self.kept += 1

    def skip(self, reason: str) -> None:
        self.total += 1
        self.skipped[reason] = self.skipped.get(reason, 0) + 1

    def drop_kept(self, reason: str, count: int = 1) -> None:
        """Move ``count`` examples that an earlier step kept to ``skipped[reason]``."""
        self.kept -= count
        self.skipped[reason] = self.skipped.get(reason, 0) + count

    def check(self) -> None:
        """Raise ``AssertionError`` unless kept and skipped add up to the total."""
        if self.kept + sum(self.skipped.values()) != self.total or min(self.skipped.values(), default=0) < 0:
            raise AssertionError(f"filter counts do not add up: {self}")

    def in_words(self) -> str:
        """``11,489 of 11,896 questions kept; dropped 407: longer than ...``, the most frequent reason first."""
        dropped = sorted(((n, reason) for reason, n in self.skipped.items() if n), key=lambda item: (-item[0], item[1]))
        told = "; ".join(f"dropped {n:,}: {DROP_REASONS.get(reason, reason)}" for n, reason in dropped)
        return f"{self.kept:,} of {self.total:,} questions kept" + (f"; {told}" if told else "")

    def to_dict(self) -> dict[str, int]:
        """The documented keys: ``total_raw_examples``, ``valid_examples``, ``skipped_<reason>``..."""
        self.check()
        counts = {"total_raw_examples": self.total, "valid_examples": self.kept, "skipped_ambiguous_span": 0}
        counts.update({f"skipped_{reason}": n for reason, n in sorted(self.skipped.items())})
        return counts

    @classmethod
    def merge(cls, parts: Iterable[FilterCounts]) -> FilterCounts:
        merged = cls()
        for part in parts:
            merged.total += part.total
            merged.kept += part.kept
            for reason, n in part.skipped.items():
                merged.skipped[reason] = merged.skipped.get(reason, 0) + n
        return merged


@dataclass(slots=True)
class QADataset:
    """All examples of one data route by split, with what was dropped and where it came from."""

    name: str
    splits: dict[str, list[QAExample]]
    filtering: dict[str, FilterCounts]
    #: sha256 over the content of all kept examples: the data's identity.
    fingerprint: str
    #: Human-readable notes: which route or files were used, which splits were carved off and how.
    provenance: dict[str, object] = field(default_factory=dict)
