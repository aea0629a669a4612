"""Spans as index pairs: gold spans, the distribution a span head defines, decoding.

A span is a pair of WORD indices, its first and its last word: both ends are inclusive. Files and
``data.records.Answer`` have exclusive ends; ``Answer.span`` converts. A span head gives each word a start and an end
logit; the valid spans of a sentence of ``W`` words are ``0 <= i <= j < min(W, i + max_answer_words)``, and
``p(i, j)`` is the softmax of ``start[i] + end[j]`` over them (joint normalisation). Everything is
vectorised over a padded batch; what stands in the padding never matters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emergence.measures.ragged import offsets_of, rows_at

FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]
BoolArray: TypeAlias = NDArray[np.bool_]
#: Starts and inclusive ends, each (N,). ``end < start`` is the empty span (an invalid decode).
SpanPair: TypeAlias = tuple[IntArray, IntArray]

#: Elements of one working block; bounds memory whatever the batch.
_BLOCK_ELEMENTS = 1 << 20


@dataclass(frozen=True, eq=False)
class GoldSpans:
    """All gold spans of N questions, ragged: question n owns ``starts[offsets[n]:offsets[n + 1]]``.

    Attributes:
        starts: (G,) first word of each gold span.
        ends_inclusive: (G,) last word of each gold span.
        offsets: (N + 1,) where each question's golds begin.

    Raises:
        ValueError: a question without a gold (drop and count those before scoring, a zero would be a
            claim about the model), a gold that ends before it starts, or the same gold twice.
    """

    starts: IntArray
    ends_inclusive: IntArray
    offsets: IntArray

    def __post_init__(self) -> None:
        for name in ("starts", "ends_inclusive", "offsets"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.int64))
        starts, ends, offsets = self.starts, self.ends_inclusive, self.offsets
        if starts.shape != ends.shape or starts.ndim != 1 or offsets.ndim != 1 or len(offsets) == 0:
            raise ValueError(f"gold spans need flat arrays, got {starts.shape}, {ends.shape}, {offsets.shape}")
        if offsets[0] != 0 or offsets[-1] != len(starts) or (np.diff(offsets) < 0).any():
            raise ValueError("gold offsets must rise from 0 to the number of spans")
        if (np.diff(offsets) == 0).any():
            raise ValueError(f"question {int(np.argmin(np.diff(offsets)))} has no gold span; drop and count it")
        if (starts < 0).any() or (ends < starts).any():
            raise ValueError("a gold span starts before word 0 or ends before it starts")
        order = np.lexsort((ends, starts, self.owner))
        same = [np.diff(a[order]) == 0 for a in (self.owner, starts, ends)]
        if (same[0] & same[1] & same[2]).any():
            raise ValueError("a question has the same gold span twice; its probability would count double")

    @classmethod
    def from_lists(cls, spans: Sequence[Sequence[tuple[int, int]]]) -> GoldSpans:
        """From one list of ``(start, end_inclusive)`` per question; repeated spans are merged."""
        unique = [list(dict.fromkeys((int(s), int(e)) for s, e in golds)) for golds in spans]
        flat = np.array([span for golds in unique for span in golds], dtype=np.int64).reshape(-1, 2)
        return cls(flat[:, 0], flat[:, 1], offsets_of([len(golds) for golds in unique]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def counts(self) -> IntArray:
        """(N,) golds per question."""
        return np.diff(self.offsets)

    @cached_property
    def owner(self) -> IntArray:
        """(G,) the question of each gold."""
        return np.repeat(np.arange(len(self)), self.counts)

    def max_per_question(self, values: FloatArray) -> FloatArray:
        """(G,) -> (N,): maximum over each question's golds."""
        return np.maximum.reduceat(values, self.offsets[:-1]) if len(values) else values[:0]

    def min_per_question(self, values: FloatArray) -> FloatArray:
        """(G,) -> (N,): minimum over each question's golds."""
        return np.minimum.reduceat(values, self.offsets[:-1]) if len(values) else values[:0]

    def sum_per_question(self, values: FloatArray) -> FloatArray:
        """(G,) -> (N,): sum over each question's golds."""
        return np.add.reduceat(values, self.offsets[:-1]) if len(values) else values[:0]

    def reachable(self, lengths: ArrayLike, max_answer_words: int) -> BoolArray:
        """(G,) whether each gold is a valid span: in the sentence, at most ``max_answer_words`` long."""
        inside = self.ends_inclusive < np.asarray(lengths)[self.owner]
        return np.asarray(inside & (self.ends_inclusive - self.starts < max_answer_words))

    def take(self, rows: ArrayLike) -> GoldSpans:
        """The golds of the questions ``rows`` (indices or a mask), in that order."""
        index, offsets = rows_at(self.offsets, np.arange(len(self))[np.asarray(rows)])
        return GoldSpans(self.starts[index], self.ends_inclusive[index], offsets)

    def first(self) -> GoldSpans:
        """Each question's first gold alone, the one with most votes."""
        at = self.offsets[:-1]
        return GoldSpans(self.starts[at], self.ends_inclusive[at], np.arange(len(self) + 1))

    def padded(self) -> tuple[IntArray, IntArray, BoolArray]:
        """First words, last words and mask (N, G), G the most golds of a question; padding repeats the first gold."""
        column = np.arange(int(self.counts.max(initial=1)))
        mask = column < self.counts[:, None]
        rows = self.offsets[:-1, None] + np.where(mask, column, 0)
        return self.starts[rows], self.ends_inclusive[rows], mask


def n_valid_spans(lengths: ArrayLike, max_answer_words: int) -> IntArray:
    """(N,) valid spans of sentences of ``lengths`` words: W·m − m(m − 1)/2 with m = min(W, max_answer_words)."""
    words = np.asarray(lengths, dtype=np.int64)
    longest = np.minimum(words, max_answer_words)
    return words * longest - longest * (longest - 1) // 2


def check_logits(start: ArrayLike, end: ArrayLike, lengths: ArrayLike) -> tuple[FloatArray, FloatArray, IntArray]:
    """Logits (N, W) as float64 with −inf in the padding, and lengths (N,).

    Raises:
        ValueError: shapes that disagree, a sentence without words, or a logit of a word that is not finite.
    """
    words = np.asarray(lengths, dtype=np.int64)
    first = np.asarray(start)
    if first.ndim != 2 or np.shape(end) != first.shape or words.shape != first.shape[:1]:
        raise ValueError(f"start {first.shape}, end {np.shape(end)} and lengths {words.shape} do not fit together")
    if len(words) and (words.min() < 1 or words.max() > first.shape[1]):
        raise ValueError(f"lengths must lie in 1..{first.shape[1]}, got {words.min()}..{words.max()}")
    inside = np.arange(first.shape[1]) < words[:, None]  # (N, W)
    masked = []
    for name, logits in (("start", first), ("end", np.asarray(end))):
        values = np.where(inside, logits.astype(np.float64), -np.inf)
        if not np.isfinite(values[inside]).all():
            raise ValueError(f"a {name} logit of a word of the sentence is not finite")
        masked.append(values)
    return masked[0], masked[1], words


def decode_joint(start: ArrayLike, end: ArrayLike, lengths: ArrayLike, max_answer_words: int) -> SpanPair:
    """The valid span with the highest ``start[i] + end[j]``, exactly; ties go to the smallest i, then smallest j.

    Args:
        start, end: Logits (N, W), padded with anything.
        lengths: (N,) words of each sentence.
        max_answer_words: Longest span in words.
    """
    first, last, _ = check_logits(start, end, lengths)
    best, best_offset = _best_per_start(first, last, max_answer_words)
    starts = best.argmax(axis=1) if best.shape[1] else np.zeros(0, dtype=np.int64)
    return starts.astype(np.int64), (starts + best_offset[np.arange(len(starts)), starts]).astype(np.int64)


def _best_per_start(first: FloatArray, last: FloatArray, max_answer_words: int) -> tuple[FloatArray, IntArray]:
    """Best score over the ends of each start, and its offset j − i: both (N, W)."""
    if max_answer_words < 1:
        raise ValueError(f"max_answer_words must be at least 1, got {max_answer_words}")
    width = first.shape[1]
    best = first + last
    offset = np.zeros(best.shape, dtype=np.int64)
    for k in range(1, min(max_answer_words, width)):
        score = first[:, : width - k] + last[:, k:]
        better = score > best[:, : width - k]  # strict: the smaller end keeps a tie
        best[:, : width - k][better] = score[better]
        offset[:, : width - k][better] = k
    return best, offset


def decode_independent(
    start: ArrayLike, end: ArrayLike, lengths: ArrayLike, max_answer_words: int
) -> tuple[IntArray, IntArray, BoolArray]:
    """Start and end chosen apart by argmax, and whether the pair is a valid span (N,).

    Invalid when the end precedes the start or the span is longer than ``max_answer_words``; the share of those is
    how far the head is from having learned spans.
    """
    first, last, _ = check_logits(start, end, lengths)
    starts = first.argmax(axis=1).astype(np.int64)
    ends = last.argmax(axis=1).astype(np.int64)
    return starts, ends, (starts <= ends) & (ends - starts < max_answer_words)


def invalid_rate(start: ArrayLike, end: ArrayLike, lengths: ArrayLike, max_answer_words: int) -> float:
    """Share of sentences whose independently chosen start and end do not form a valid span."""
    valid = decode_independent(start, end, lengths, max_answer_words)[2]
    return float(1.0 - valid.mean()) if len(valid) else float("nan")


def empty_where_invalid(starts: IntArray, ends: IntArray, valid: BoolArray) -> SpanPair:
    """Invalid decodes become the empty span, which scores 0 against every gold."""
    return np.where(valid, starts, 0), np.where(valid, ends, -1)


def log_normaliser(first: FloatArray, last: FloatArray, max_answer_words: int) -> FloatArray:
    """(N,) log Σ exp(start[i] + end[j]) over valid spans; the logits come from :func:`check_logits`."""
    top = _best_per_start(first, last, max_answer_words)[0].max(axis=1)
    width = first.shape[1]
    total = np.zeros(len(first))
    shifted = first - top[:, None]
    for k in range(min(max_answer_words, width)):
        total += np.exp(shifted[:, : width - k] + last[:, k:]).sum(axis=1)
    return np.asarray(top + np.log(total))


def iter_probability_bands(
    start: ArrayLike, end: ArrayLike, lengths: ArrayLike, max_answer_words: int
) -> Iterator[tuple[IntArray, FloatArray]]:
    """Yields ``(rows, p)`` with ``p[r, i, k]`` = p(span i..i+k of question rows[r]), zero where there is no such span.

    Blocks hold sentences of similar length, so that little of the (rows, words, max_answer_words) band is padding.
    """
    first, last, words = check_logits(start, end, lengths)
    order = np.argsort(words, kind="stable")
    begin = 0
    while begin < len(order):
        stop, width = _block_end(words[order], begin, max_answer_words)
        rows = order[begin:stop]
        longest = min(max_answer_words, width)
        a = first[rows, :width]
        b = np.pad(last[rows, :width], ((0, 0), (0, longest - 1)), constant_values=-np.inf)
        scores = a[:, :, None] + np.lib.stride_tricks.sliding_window_view(b, longest, axis=1)  # (r, W, M)
        scores -= scores.max(axis=(1, 2), keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=(1, 2), keepdims=True)
        yield rows, scores
        begin = stop


def _block_end(sorted_words: IntArray, begin: int, max_answer_words: int) -> tuple[int, int]:
    """The largest block of sentences from ``begin`` on that stays within the element budget, and its width."""
    remaining = sorted_words[begin:]
    elements = np.arange(1, len(remaining) + 1) * remaining * np.minimum(remaining, max_answer_words)
    size = max(1, int(np.searchsorted(elements, _BLOCK_ELEMENTS, side="right")))
    return begin + size, int(remaining[size - 1])
