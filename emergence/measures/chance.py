"""What can be scored without a model: a uniform guess, and rules that know only where the predicate is.

R_0, the no-model floor, is the best of these (docs/methods.md#no-model-floor). Everything comes per question, so that
it can be bootstrapped on the same clusters as the models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from emergence.measures.span_scores import PROBABILITY_FLOOR, expected_f1, span_em, span_f1
from emergence.measures.spans import FloatArray, GoldSpans, IntArray, SpanPair, n_valid_spans


@dataclass(frozen=True, eq=False)
class UniformChance:
    """Expected scores of a span drawn uniformly from the valid ones, exact; every array is (N,).

    Attributes:
        em: Share of the valid spans that are golds.
        f1: Mean F1 over the valid spans, best over golds for each.
        log_prob: log of ``em`` in nats, floored like a model's.
    """

    em: FloatArray
    f1: FloatArray
    log_prob: FloatArray


def uniform_chance(lengths: ArrayLike, golds: GoldSpans, max_answer_words: int) -> UniformChance:
    """Uniform-span chance by enumeration over the valid spans of each sentence."""
    words = np.asarray(lengths, dtype=np.int64)
    flat = np.zeros((len(words), int(words.max(initial=1))))
    hits = golds.sum_per_question(golds.reachable(words, max_answer_words).astype(np.float64))
    em = hits / n_valid_spans(words, max_answer_words)
    return UniformChance(
        em=em,
        f1=expected_f1(flat, flat, words, golds, max_answer_words),
        log_prob=np.log(np.maximum(em, PROBABILITY_FLOOR)),
    )


@dataclass(frozen=True)
class Placement:
    """A span placed by the predicate: ``length`` words, the nearest of them ``gap`` words away on one side.

    ``length`` None runs to the edge of the sentence. What would stick out is clipped to the sentence.
    """

    side: str  # "left" or "right"
    gap: int = 1
    length: int | None = 1

    def spans(self, lengths: ArrayLike, predicates: ArrayLike) -> SpanPair:
        """Spans of N questions from sentence lengths (N,) and predicate word indices (N,)."""
        words, predicate = _check_predicates(lengths, predicates)
        reach = words if self.length is None else self.length
        if self.side == "left":
            ends = np.maximum(predicate - self.gap, 0)
            return np.maximum(ends - reach + 1, 0), ends
        starts = np.minimum(predicate + self.gap, words - 1)
        return starts, np.minimum(starts + reach - 1, words - 1)


#: Rules that are fixed beforehand; a right or left neighbour is the word next to the predicate.
FIXED_PLACEMENTS = {
    "left_word": Placement("left"),
    "right_word": Placement("right"),
    "all_left": Placement("left", length=None),
    "all_right": Placement("right", length=None),
}


def _check_predicates(lengths: ArrayLike, predicates: ArrayLike) -> tuple[IntArray, IntArray]:
    words, predicate = np.asarray(lengths, dtype=np.int64), np.asarray(predicates, dtype=np.int64)
    if words.shape != predicate.shape or ((predicate < 0) | (predicate >= words)).any():
        raise ValueError("every question needs a predicate index inside its sentence")
    return words, predicate


def heuristic_spans(lengths: ArrayLike, predicates: ArrayLike) -> dict[str, SpanPair]:
    """The fixed rules' predictions: the whole sentence, and words next to the predicate."""
    words, predicate = _check_predicates(lengths, predicates)
    whole = (np.zeros_like(words), words - 1)
    return {"whole_sentence": whole} | {n: p.spans(words, predicate) for n, p in FIXED_PLACEMENTS.items()}


def heuristic_scores(lengths: ArrayLike, predicates: ArrayLike, golds: GoldSpans) -> dict[str, dict[str, FloatArray]]:
    """Name of the fixed rule to its per-question ``f1_tokens`` and ``em``."""
    return {name: rule_scores(spans, golds) for name, spans in heuristic_spans(lengths, predicates).items()}


def rule_scores(spans: SpanPair, golds: GoldSpans) -> dict[str, FloatArray]:
    """Per-question ``f1_tokens`` and ``em`` of a rule's predictions."""
    return {"f1_tokens": span_f1(spans, golds), "em": span_em(spans, golds)}


@dataclass(frozen=True)
class WhRule:
    """Where the answer stands for each wh-word and form of question, learned on training questions.

    The form is any label read off the question alone: its voice, or better its voice and whether the
    subject slot is filled ("Who ate something?" against "What did someone eat?"). On QA-SRL Bank 2.0 the
    former scores F1 0.39, the latter 0.52: quote the stronger as the no-model floor.

    Attributes:
        by_wh_form: (wh, form) to placement, where training had enough such questions.
        by_wh: wh to placement, for the rest.
        overall: For wh-words never seen often enough.
    """

    by_wh_form: dict[tuple[str, str], Placement]
    by_wh: dict[str, Placement]
    overall: Placement

    def placement(self, wh: str, form: str) -> Placement:
        return self.by_wh_form.get((wh, form), self.by_wh.get(wh, self.overall))

    def spans(self, lengths: ArrayLike, predicates: ArrayLike, wh: Sequence[str], form: Sequence[str]) -> SpanPair:
        """Predicted spans of N questions."""
        words, predicate = _check_predicates(lengths, predicates)
        starts, ends = np.zeros_like(words), np.zeros_like(words)
        keys = [self.placement(w, v) for w, v in zip(wh, form, strict=True)]
        for placement in set(keys):
            rows = np.array([key == placement for key in keys])
            starts[rows], ends[rows] = placement.spans(words[rows], predicate[rows])
        return starts, ends


def learn_wh_rule(
    lengths: ArrayLike,
    predicates: ArrayLike,
    wh: Sequence[str],
    form: Sequence[str],
    golds: GoldSpans,
    *,
    max_gap: int = 6,
    max_length: int = 10,
    min_count: int = 20,
) -> WhRule:
    """The placement with the highest mean training F1 for each (wh, form), each wh, and overall.

    Args:
        lengths, predicates: (N,) words of the sentence, and the predicate's index in it.
        wh, form: N labels each, see :class:`WhRule`.
        golds: Training golds.
        max_gap, max_length: Largest gap and fixed length tried, in words; running to the edge is tried too.
        min_count: Fewest training questions for a row of its own.
    """
    candidates = [
        Placement(side, gap, length)
        for side in ("left", "right")
        for gap in range(1, max_gap + 1)
        for length in (*range(1, max_length + 1), None)
    ]
    f1 = np.stack([span_f1(c.spans(lengths, predicates), golds) for c in candidates])  # (candidates, N)
    pairs = list(zip(wh, form, strict=True))

    def best(member: np.ndarray) -> Placement:
        return candidates[int(f1[:, member].mean(axis=1).argmax())]

    def table(labels: Sequence[Any]) -> dict[Any, Placement]:
        members = {label: np.array([other == label for other in labels]) for label in sorted(set(labels))}
        return {label: best(member) for label, member in members.items() if member.sum() >= min_count}

    return WhRule(table(pairs), table(list(wh)), best(np.ones(len(golds), dtype=bool)))
