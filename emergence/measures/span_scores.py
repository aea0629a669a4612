"""Scores of predicted spans and of whole span distributions against several golds.

Each discrete measure has a continuous partner (exact match and span log-probability, F1 and expected
F1), because a jump in a discrete one alone may be made by the metric (Schaeffer et al. 2023).
Indices, not strings: a word repeated elsewhere in the sentence earns nothing. Defined in docs/methods.md#token-f1 and
docs/methods.md#other-scores-of-an-answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from emergence.measures.spans import (
    FloatArray,
    GoldSpans,
    IntArray,
    SpanPair,
    check_logits,
    iter_probability_bands,
    log_normaliser,
)

#: Probabilities below this are raised to it in logarithms, and counted.
PROBABILITY_FLOOR = 1e-12


def _against_golds(pred: SpanPair, golds: GoldSpans) -> tuple[IntArray, IntArray, IntArray, IntArray, IntArray]:
    """Per gold (G,): predicted start and end, overlap, predicted length, gold length, in words."""
    starts, ends = (np.asarray(a, dtype=np.int64) for a in pred)
    if starts.shape != (len(golds),) or ends.shape != (len(golds),):
        raise ValueError(f"{len(golds)} questions but predictions of shape {starts.shape} and {ends.shape}")
    starts, ends = starts[golds.owner], ends[golds.owner]
    overlap = np.minimum(ends, golds.ends_inclusive) - np.maximum(starts, golds.starts) + 1
    length = np.maximum(ends - starts + 1, 0)
    return starts, ends, np.where(length > 0, overlap, 0).clip(min=0), length, golds.ends_inclusive - golds.starts + 1


def span_f1(pred: SpanPair, golds: GoldSpans) -> FloatArray:
    """(N,) token-index F1 = 2|P∩G| / (|P| + |G|), best over golds; the empty span scores 0."""
    _, _, overlap, length, gold_length = _against_golds(pred, golds)
    return golds.max_per_question(2.0 * overlap / (length + gold_length))


def span_iou(pred: SpanPair, golds: GoldSpans) -> FloatArray:
    """(N,) |P∩G| / |P∪G| over word indices, best over golds; F1 = 2·IoU / (1 + IoU)."""
    _, _, overlap, length, gold_length = _against_golds(pred, golds)
    return golds.max_per_question(overlap / (length + gold_length - overlap))


def span_em(pred: SpanPair, golds: GoldSpans) -> FloatArray:
    """(N,) 1.0 where the predicted indices are exactly those of a gold."""
    starts, ends, _, _, _ = _against_golds(pred, golds)
    return golds.max_per_question(((starts == golds.starts) & (ends == golds.ends_inclusive)).astype(np.float64))


def boundary_offset(pred: SpanPair, golds: GoldSpans) -> FloatArray:
    """(N,) |i* − i_g| + |j* − j_g| in words, smallest over golds (meaningful for non-empty predictions)."""
    starts, ends, _, _, _ = _against_golds(pred, golds)
    distance = np.abs(starts - golds.starts) + np.abs(ends - golds.ends_inclusive)
    return golds.min_per_question(distance.astype(np.float64))


def span_edit_distance(pred: SpanPair, golds: GoldSpans) -> FloatArray:
    """(N,) Levenshtein distance between the index sequences P and G, smallest over golds.

    Closed form: every match of two intervals lies on one diagonal of the edit graph, so a path either
    uses it, at |i − i_g| + |j − j_g| indels, or substitutes throughout, at max(|P|, |G|).
    """
    starts, ends, _, length, gold_length = _against_golds(pred, golds)
    shifted = np.abs(starts - golds.starts) + np.abs(ends - golds.ends_inclusive)
    replaced = np.maximum(length, gold_length)
    distance = np.where(length > 0, np.minimum(shifted, replaced), gold_length)
    return golds.min_per_question(distance.astype(np.float64))


@dataclass(frozen=True, eq=False)
class GoldLogProb:
    """Span log-probabilities (nats), and what the floor and the length cap did to them.

    Attributes:
        log_prob: (N,) log Σ_g p(g), never below ``log(PROBABILITY_FLOOR)``.
        n_floored: Questions raised to the floor.
        n_unreachable_golds: Golds that are no valid span (longer than the cap or outside the sentence): p(g) = 0.
        n_unreachable_questions: Questions all of whose golds are unreachable.
    """

    log_prob: FloatArray
    n_floored: int
    n_unreachable_golds: int
    n_unreachable_questions: int


def gold_log_prob(
    start: ArrayLike, end: ArrayLike, lengths: ArrayLike, golds: GoldSpans, max_answer_words: int
) -> GoldLogProb:
    """log of the probability that the span distribution gives to the golds together.

    Args:
        start, end: Logits (N, W), padded with anything.
        lengths: (N,) words of each sentence.
        golds: The N questions' gold spans.
        max_answer_words: Longest span in words.
    """
    log_p, reachable = _log_prob_per_gold(start, end, lengths, golds, max_answer_words)
    top = golds.max_per_question(log_p)
    some = np.isfinite(top)
    safe_top = np.where(some, top, 0.0)
    total = golds.sum_per_question(np.exp(log_p - safe_top[golds.owner]))
    log_prob = np.where(some, safe_top + np.log(np.where(some, total, 1.0)), -np.inf)
    floor = np.log(PROBABILITY_FLOOR)
    return GoldLogProb(
        log_prob=np.minimum(np.maximum(log_prob, floor), 0.0),  # rounding may leave 1e-16 above 0
        n_floored=int((log_prob < floor).sum()),
        n_unreachable_golds=int((~reachable).sum()),
        n_unreachable_questions=int((~some).sum()),
    )


def _log_prob_per_gold(
    start: ArrayLike, end: ArrayLike, lengths: ArrayLike, golds: GoldSpans, max_answer_words: int
) -> tuple[FloatArray, np.ndarray]:
    """(G,) log p(g), −inf for unreachable golds, and which are reachable."""
    first, last, words = check_logits(start, end, lengths)
    if len(words) != len(golds):
        raise ValueError(f"{len(words)} sentences but golds of {len(golds)} questions")
    reachable = golds.reachable(words, max_answer_words)
    log_p = np.full(len(golds.starts), -np.inf)
    owner = golds.owner[reachable]
    scores = first[owner, golds.starts[reachable]] + last[owner, golds.ends_inclusive[reachable]]
    log_p[reachable] = scores - log_normaliser(first, last, max_answer_words)[owner]
    return log_p, reachable


def expected_f1(
    start: ArrayLike, end: ArrayLike, lengths: ArrayLike, golds: GoldSpans, max_answer_words: int
) -> FloatArray:
    """(N,) Σ_{i,j} p(i, j)·F1((i, j), G) with F1 the best over golds: exact, and linear in p."""
    result = np.zeros(len(golds))
    for rows, p in iter_probability_bands(start, end, lengths, max_answer_words):  # p (r, W, M)
        result[rows] = (p * f1_of_every_span(golds, rows, *p.shape[1:])).sum(axis=(1, 2))
    return result


def f1_of_every_span(golds: GoldSpans, rows: IntArray, width: int, longest: int) -> FloatArray:
    """(r, W, M) F1 of span i..i+k against the golds of question rows[r], best over golds."""
    i = np.arange(width, dtype=np.int32)[:, None]
    j = i + np.arange(longest, dtype=np.int32)
    length = j - i + 1
    best = np.zeros((len(rows), width, longest))
    for rank in range(int(golds.counts[rows].max())):  # the rank-th gold of every question that has one
        has = np.flatnonzero(golds.counts[rows] > rank)
        gold = golds.offsets[rows[has]] + rank
        s = golds.starts[gold].astype(np.int32)[:, None, None]
        e = golds.ends_inclusive[gold].astype(np.int32)[:, None, None]
        overlap = np.maximum(np.minimum(j, e) - np.maximum(i, s) + 1, 0)
        best[has] = np.maximum(best[has], 2.0 * overlap / (length + (e - s + 1)))
    return best


def span_brier(
    start: ArrayLike, end: ArrayLike, lengths: ArrayLike, golds: GoldSpans, max_answer_words: int
) -> FloatArray:
    """(N,) Brier score of the span distribution, 1 − 2p(g) + Σp², smallest over golds; in [0, 2]."""
    log_p, _ = _log_prob_per_gold(start, end, lengths, golds, max_answer_words)
    squares = np.zeros(len(golds))
    for rows, p in iter_probability_bands(start, end, lengths, max_answer_words):
        squares[rows] = np.einsum("rik,rik->r", p, p)
    return 1.0 - 2.0 * np.exp(golds.max_per_question(log_p)) + squares
