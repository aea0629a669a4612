"""All scores of one span head on one set of questions, per question, ready for a bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from emergence.measures.argument_selection import ArgumentChoices, select_arguments
from emergence.measures.span_scores import (
    boundary_offset,
    expected_f1,
    gold_log_prob,
    span_brier,
    span_edit_distance,
    span_em,
    span_f1,
    span_iou,
)
from emergence.measures.spans import (
    BoolArray,
    FloatArray,
    GoldSpans,
    IntArray,
    decode_independent,
    decode_joint,
    empty_where_invalid,
)
from emergence.measures.strings import string_em, string_f1

#: Columns of :class:`SpanScores` that are averaged into a result; the string ones only where texts were given, the
#: choice among arguments only where candidates were.
SCORE_NAMES = (
    "em",
    "f1_tokens",
    "argument_selection",
    "iou",
    "log_prob",
    "expected_f1",
    "brier",
    "boundary_offset",
    "edit_distance",
    "f1_tokens_independent",
    "em_string",
    "f1_string",
)


@dataclass(frozen=True, eq=False)
class SpanScores:
    """Scores of N questions; every array is (N,) and higher is better unless it says otherwise.

    Attributes:
        starts, ends: The jointly decoded span, word indices, inclusive.
        em, f1_tokens, iou: Of the joint decode, by word index, best over golds (F1 is the headline).
        argument_selection: Whether the gold beats the sentence's other arguments, nan where there is none
            (docs/methods.md#argument-selection); None where no candidates were given.
        log_prob: Span log-probability of the golds in nats, floored (see ``span_scores.GoldLogProb``).
        expected_f1: Mean F1 of spans drawn from the head's distribution.
        em_string, f1_string: SQuAD style; None where no texts were given.
        independent_valid: Whether start and end chosen apart form a valid span.
        f1_tokens_independent: F1 of that choice, 0 where invalid.
        brier: Span Brier score, in [0, 2]; lower is better.
        boundary_offset, edit_distance: Words, smallest over golds; lower is better.
        n_floored, n_unreachable_golds, n_unreachable_questions: What the floor and the length cap did.
        max_answer_words: The length cap in words.
    """

    starts: IntArray
    ends: IntArray
    em: FloatArray
    f1_tokens: FloatArray
    iou: FloatArray
    argument_selection: FloatArray | None
    log_prob: FloatArray
    expected_f1: FloatArray
    em_string: FloatArray | None
    f1_string: FloatArray | None
    independent_valid: BoolArray
    f1_tokens_independent: FloatArray
    brier: FloatArray
    boundary_offset: FloatArray
    edit_distance: FloatArray
    n_floored: int
    n_unreachable_golds: int
    n_unreachable_questions: int
    max_answer_words: int

    def __len__(self) -> int:
        return len(self.em)

    @property
    def invalid_rate(self) -> float:
        """Share of questions whose independent start and end form no valid span (nan without questions)."""
        return float(1.0 - self.independent_valid.mean()) if len(self) else float("nan")

    def columns(self) -> dict[str, FloatArray]:
        """Name to (N,) values of every score there is, in the order of ``SCORE_NAMES``."""
        named = {name: getattr(self, name) for name in SCORE_NAMES}
        return {name: values for name, values in named.items() if values is not None}

    def means(self) -> dict[str, float]:
        """Mean over the questions that have it (micro) of every score there is, and the ``invalid_rate``."""
        present = {name: values[np.isfinite(values)] for name, values in self.columns().items()}
        averages = {name: float(values.mean()) for name, values in present.items() if len(values)}
        return {**averages, "invalid_rate": self.invalid_rate}


def score_spans(
    start: ArrayLike,
    end: ArrayLike,
    lengths: ArrayLike,
    golds: GoldSpans,
    max_answer_words: int,
    *,
    sentences: Sequence[Sequence[str]] | None = None,
    gold_texts: Sequence[Sequence[str]] | None = None,
    choices: ArgumentChoices | None = None,
) -> SpanScores:
    """Decode and score N questions.

    Args:
        start, end: Logits (N, W) over the words of each sentence, padded with anything.
        lengths: (N,) words of each sentence.
        golds: Gold spans of the N questions.
        max_answer_words: Longest span in words (convention: 99.5th percentile of the training golds).
        sentences: The words of each sentence, for the string scores.
        gold_texts: Gold answer strings; by default the gold spans' words.
        choices: The arguments of each question's sentence to choose from, for ``argument_selection``.
    """
    prediction = decode_joint(start, end, lengths, max_answer_words)
    independent = decode_independent(start, end, lengths, max_answer_words)
    likelihood = gold_log_prob(start, end, lengths, golds, max_answer_words)
    em_string = f1_string = None
    if sentences is not None:
        texts = gold_texts if gold_texts is not None else _gold_texts(sentences, golds)
        em_string, f1_string = _string_scores(prediction, sentences, texts)
    return SpanScores(
        starts=prediction[0],
        ends=prediction[1],
        em=span_em(prediction, golds),
        f1_tokens=span_f1(prediction, golds),
        iou=span_iou(prediction, golds),
        argument_selection=None if choices is None else select_arguments(start, end, lengths, choices),
        log_prob=likelihood.log_prob,
        expected_f1=expected_f1(start, end, lengths, golds, max_answer_words),
        em_string=em_string,
        f1_string=f1_string,
        independent_valid=independent[2],
        f1_tokens_independent=span_f1(empty_where_invalid(*independent), golds),
        brier=span_brier(start, end, lengths, golds, max_answer_words),
        boundary_offset=boundary_offset(prediction, golds),
        edit_distance=span_edit_distance(prediction, golds),
        n_floored=likelihood.n_floored,
        n_unreachable_golds=likelihood.n_unreachable_golds,
        n_unreachable_questions=likelihood.n_unreachable_questions,
        max_answer_words=max_answer_words,
    )


def answer_length_cap(golds: GoldSpans, percentile: float = 99.5) -> int:
    """The cap M of docs/methods.md#token-f1: that percentile of the training golds' lengths in words, rounded up."""
    return int(np.ceil(np.percentile(golds.ends_inclusive - golds.starts + 1, percentile)))


def _gold_texts(sentences: Sequence[Sequence[str]], golds: GoldSpans) -> list[list[str]]:
    texts: list[list[str]] = [[] for _ in sentences]
    for owner, start, end in zip(golds.owner, golds.starts, golds.ends_inclusive, strict=True):
        texts[owner].append(" ".join(sentences[owner][start : end + 1]))
    return texts


def _string_scores(
    prediction: tuple[IntArray, IntArray], sentences: Sequence[Sequence[str]], gold_texts: Sequence[Sequence[str]]
) -> tuple[FloatArray, FloatArray]:
    em, f1 = np.zeros(len(sentences)), np.zeros(len(sentences))
    for n, (start, end, words, golds) in enumerate(zip(*prediction, sentences, gold_texts, strict=True)):
        text = " ".join(words[start : end + 1])
        em[n], f1[n] = string_em(text, golds), string_f1(text, golds)
    return em, f1
