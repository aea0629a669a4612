"""Which of the sentence's arguments answers the question, with boundaries taken out.

The candidates of a question are its own golds and the golds of the other questions about the same predicate, so that
a head need not find phrases: it has to tell who did it from whom it was done to. Knowledge of phrases cannot pass for
knowledge of roles here. Defined in docs/methods.md#argument-selection.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_softmax

from emergence.measures.ragged import offsets_of
from emergence.measures.spans import FloatArray, GoldSpans, IntArray, check_logits

_Span = tuple[int, int]


@dataclass(frozen=True, eq=False)
class ArgumentChoices:
    """Candidate spans of N questions, ragged: question n owns ``starts[offsets[n]:offsets[n + 1]]``.

    Attributes:
        starts, ends_inclusive: (C,) first and last word of each candidate.
        clusters: (C,) its cluster within the question: 0 the question's own golds, 1, 2, ... other arguments.
        owner: (C,) its question.
        offsets: (N + 1,) where each question's candidates begin.
        n_clusters: (N,) clusters of each question, its own golds' included.
    """

    starts: IntArray
    ends_inclusive: IntArray
    clusters: IntArray
    owner: IntArray
    offsets: IntArray
    n_clusters: IntArray

    def __len__(self) -> int:
        return len(self.n_clusters)


def argument_choices(golds: GoldSpans, predicates: Sequence[Hashable | None]) -> ArgumentChoices:
    """The candidates of N questions.

    Golds of other questions about the same predicate that overlap a gold of the question itself are left
    out; the others are merged where they overlap, directly or through a third, into one cluster.

    Args:
        golds: Gold spans of the N questions.
        predicates: What each question asks about, equal for questions about one occurrence of a predicate in
            one sentence; None for a question without a predicate, which then has its own golds alone.

    Raises:
        ValueError: Not one predicate for each question.
    """
    if len(predicates) != len(golds):
        raise ValueError(f"{len(predicates)} predicates for {len(golds)} questions")
    spans = list(zip(golds.starts.tolist(), golds.ends_inclusive.tolist(), strict=True))
    own = [spans[first:stop] for first, stop in zip(golds.offsets[:-1], golds.offsets[1:], strict=True)]
    about: dict[Hashable, dict[_Span, None]] = {}
    for predicate, own_golds in zip(predicates, own, strict=True):
        if predicate is not None:
            about.setdefault(predicate, {}).update(dict.fromkeys(own_golds))
    rows: list[tuple[int, int, int, int]] = []
    for question, (predicate, own_golds) in enumerate(zip(predicates, own, strict=True)):
        rows += [(question, start, end, 0) for start, end in own_golds]
        everything = () if predicate is None else about[predicate]
        others = [span for span in everything if not any(_overlap(span, gold) for gold in own_golds)]
        rows += [(question, *span, cluster) for span, cluster in _merged(others)]
    owner, starts, ends, clusters = np.array(rows, dtype=np.int64).reshape(-1, 4).T.copy()
    offsets = offsets_of(np.bincount(owner, minlength=len(golds)))
    n_clusters = np.maximum.reduceat(clusters, offsets[:-1]) + 1 if len(golds) else clusters
    return ArgumentChoices(starts, ends, clusters, owner, offsets, n_clusters)


def _overlap(one: _Span, other: _Span) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


def _merged(spans: Sequence[_Span]) -> list[tuple[_Span, int]]:
    """The spans in order with the number, from 1, of the cluster that overlaps merge them into."""
    out: list[tuple[_Span, int]] = []
    cluster, reach = 0, -1
    for span in sorted(spans):
        if span[0] > reach:
            cluster += 1
        reach = max(reach, span[1])
        out.append((span, cluster))
    return out


def select_arguments(start: ArrayLike, end: ArrayLike, lengths: ArrayLike, choices: ArgumentChoices) -> FloatArray:
    """Whether each question's best gold beats every other argument, (N,): 1 or 0, nan without another argument.

    A span scores log softmax(start)_i + log softmax(end)_j; the best span of a cluster stands for it. A tie is wrong.

    Args:
        start, end: Logits (N, W), padded with anything.
        lengths: (N,) words of each sentence.
        choices: The candidates of the same N questions.

    Raises:
        ValueError: Logits of another number of questions, or that are not finite.
    """
    first, last, _ = check_logits(start, end, lengths)
    if len(first) != len(choices):
        raise ValueError(f"logits of {len(first)} questions, choices of {len(choices)}")
    start_log_p, end_log_p = log_softmax(first, axis=1), log_softmax(last, axis=1)
    scores = start_log_p[choices.owner, choices.starts] + end_log_p[choices.owner, choices.ends_inclusive]
    own, others = (_best(scores, kind, choices) for kind in (choices.clusters == 0, choices.clusters > 0))
    return np.where(choices.n_clusters > 1, (own > others).astype(np.float64), np.nan)


def _best(scores: FloatArray, kind: ArrayLike, choices: ArgumentChoices) -> FloatArray:
    """The highest score of the candidates of one kind, (N,)."""
    values = np.where(kind, scores, -np.inf)
    return np.asarray(np.maximum.reduceat(values, choices.offsets[:-1]) if len(choices) else values)


def selection_chance(choices: ArgumentChoices) -> FloatArray:
    """What a blind choice among the arguments gets right, (N,): 1 / (1 + other clusters), nan without another."""
    return np.where(choices.n_clusters > 1, 1.0 / choices.n_clusters, np.nan)
