"""Scores of a distribution over spans that is given span by span, as a language model gives it.

A span head gives each word a start and an end logit; a language model gives each span a log-probability of its own.
The table of N sentences is (N, W, M): entry [n, i, k] is of the span i..i+k, and −inf where there is no such span.
The scores are those of :mod:`emergence.measures.span_scores`, and equal them where a table is start[i] + end[j].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from emergence.measures.span_scores import PROBABILITY_FLOOR, f1_of_every_span, span_em, span_f1
from emergence.measures.spans import FloatArray, GoldSpans, IntArray, SpanPair

#: Questions whose spans are compared with the golds at one time.
_BLOCK = 256


def check_table(table: ArrayLike, lengths: ArrayLike) -> tuple[FloatArray, IntArray]:
    """The table (N, W, M) with −inf outside the sentences, and their lengths (N,).

    Raises:
        ValueError: Shapes disagree, or the value of a span is not finite.
    """
    words = np.asarray(lengths, dtype=np.int64)
    values = np.asarray(table, dtype=np.float64)
    if values.ndim != 3 or words.shape != values.shape[:1]:
        raise ValueError(f"a table {values.shape} and lengths {words.shape} do not fit together")
    if len(words) and (words.min() < 1 or words.max() > values.shape[1]):
        raise ValueError(f"lengths must lie in 1..{values.shape[1]}, got {words.min()}..{words.max()}")
    ends = np.arange(values.shape[1])[:, None] + np.arange(values.shape[2])  # (W, M)
    inside = ends[None] < words[:, None, None]
    if not np.isfinite(values[inside]).all():
        raise ValueError("the value of a span of the sentence is not finite")
    return np.where(inside, values, -np.inf), words


def decode_table(table: FloatArray) -> SpanPair:
    """The span with the highest value; ties go to the smallest start, then to the smallest end."""
    flat = table.reshape(len(table), -1)
    best = flat.argmax(axis=1) if flat.shape[1] else np.zeros(0, dtype=np.int64)
    starts, offsets = np.divmod(best, table.shape[2])
    return starts.astype(np.int64), (starts + offsets).astype(np.int64)


def golds_log_sum(table: FloatArray, golds: GoldSpans) -> FloatArray:
    """(N,) log of the summed exponentials over each question's golds; −inf if none is in the table."""
    offset = golds.ends_inclusive - golds.starts
    known = (golds.starts < table.shape[1]) & (offset < table.shape[2])
    values = np.full(len(golds.starts), -np.inf)
    values[known] = table[golds.owner[known], golds.starts[known], offset[known]]
    top = golds.max_per_question(values)
    safe = np.where(np.isfinite(top), top, 0.0)
    total = golds.sum_per_question(np.exp(values - safe[golds.owner]))
    return np.where(np.isfinite(top), safe + np.log(np.where(total > 0, total, 1.0)), -np.inf)


def score_table(table: ArrayLike, lengths: ArrayLike, golds: GoldSpans) -> tuple[SpanPair, dict[str, FloatArray]]:
    """The decoded spans of N questions, and their scores by name, each (N,).

    The scores are ``em``, ``f1_tokens``, and of the table's softmax over all spans ``log_prob`` (log of the golds'
    probability together, floored) and ``expected_f1``.
    """
    values, _ = check_table(table, lengths)
    prediction = decode_table(values)
    shifted = values - values.max(axis=(1, 2), keepdims=True)
    p = np.exp(shifted)
    total = p.sum(axis=(1, 2))
    p /= total[:, None, None]
    log_prob = golds_log_sum(shifted - np.log(total)[:, None, None], golds)
    expected = np.zeros(len(golds))
    for first in range(0, len(golds), _BLOCK):
        rows = np.arange(first, min(first + _BLOCK, len(golds)))
        expected[rows] = (p[rows] * f1_of_every_span(golds, rows, *p.shape[1:])).sum(axis=(1, 2))
    return prediction, {
        "em": span_em(prediction, golds),
        "f1_tokens": span_f1(prediction, golds),
        "log_prob": np.minimum(np.maximum(log_prob, np.log(PROBABILITY_FLOOR)), 0.0),
        "expected_f1": expected,
    }
