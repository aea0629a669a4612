"""Scores of role-crossed minimal pairs: one point for a pair, and only if both members are right.

The members of a pair have the same words and the same question, and the right answer of one is the wrong one of the
other. A reader that ignores word order answers both with the same phrase, so it has one of two right and no pair: its
score is exactly 0, however good its guess. Coins thrown for each member by itself get both right in a quarter.
What position alone tells is not excluded; score the trained baseline on the same pairs.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from emergence.measures.bootstrap import N_BOOT, Estimate, bootstrap_means
from emergence.measures.resampling import ClusterTable
from emergence.measures.spans import BoolArray, FloatArray, IntArray, SpanPair, check_logits, decode_joint
from emergence.plain import plain

#: Both right by independent guessing between two phrases.
CHANCE = 0.25
#: Both right by any reader that ignores the order of words.
ORDER_FREE = 0.0
#: What :meth:`MinimalPairScores.estimates` holds.
SCORE_NAMES = ("both_right", "both_exact", "one_right")


@dataclass(frozen=True, eq=False)
class MinimalPairScores:
    """Scores of P pairs; the columns are the two members.

    Attributes:
        selected: (P, 2) whether a member's own answer scores higher than its partner's.
        exact: (P, 2) whether the decoded span is exactly the member's answer.
        clusters: (P,) what is resampled: pairs, or the sentences they were made of.
        kinds: (P,) label of each pair for :meth:`by_kind`.
        n_incomplete: Pairs left out because a member could not be read.
    """

    selected: BoolArray
    exact: BoolArray
    clusters: tuple[Hashable, ...]
    kinds: tuple[str, ...]
    n_incomplete: int = 0

    def __post_init__(self) -> None:
        n = len(self.clusters)
        if self.selected.shape != (n, 2) or self.exact.shape != (n, 2) or len(self.kinds) != n:
            raise ValueError(f"{n} pairs, but scores {self.selected.shape} and {self.exact.shape}")

    def __len__(self) -> int:
        return len(self.clusters)

    @property
    def both_right(self) -> FloatArray:
        """(P,) 1.0 where both members prefer their own answer: the score of the pair."""
        return (self.selected[:, 0] & self.selected[:, 1]).astype(np.float64)

    @property
    def both_exact(self) -> FloatArray:
        """(P,) 1.0 where both members are answered word for word."""
        return (self.exact[:, 0] & self.exact[:, 1]).astype(np.float64)

    @property
    def one_right(self) -> FloatArray:
        """(P,) 1.0 where just one member prefers its own answer, as whoever ignores order does in every pair."""
        return (self.selected[:, 0] ^ self.selected[:, 1]).astype(np.float64)

    def estimate(
        self, name: str = "both_right", *, n_boot: int = N_BOOT, seed: int = 0, level: float = 0.95
    ) -> Estimate:
        """Mean of one of ``SCORE_NAMES`` over pairs, with its interval."""
        return self._estimates([name], np.ones(len(self), dtype=bool), n_boot, seed, level)[name]

    def by_kind(self, *, n_boot: int = N_BOOT, seed: int = 0, level: float = 0.95) -> dict[str, Estimate]:
        """Both right, by kind."""
        kinds = np.array(self.kinds)
        chosen = {kind: kinds == kind for kind in dict.fromkeys(self.kinds)}
        name = "both_right"
        return {kind: self._estimates([name], rows, n_boot, seed, level)[name] for kind, rows in chosen.items()}

    def to_dict(self, *, n_boot: int = N_BOOT, seed: int = 0, level: float = 0.95) -> dict[str, Any]:
        """JSON-ready; ``scores`` and ``by_kind`` are empty without pairs."""
        everything = np.ones(len(self), dtype=bool)
        estimates = self._estimates(SCORE_NAMES, everything, n_boot, seed, level) if len(self) else {}
        kinds = self.by_kind(n_boot=n_boot, seed=seed, level=level)
        return {
            "n_pairs": len(self),
            "n_incomplete": self.n_incomplete,
            "chance": CHANCE,
            "order_free": ORDER_FREE,
            "scores": plain(estimates),
            "by_kind": plain(kinds),
        }

    def _estimates(
        self, names: Sequence[str], rows: BoolArray, n_boot: int, seed: int, level: float
    ) -> dict[str, Estimate]:
        seen: dict[Hashable, int] = {}
        clusters = np.array([seen.setdefault(cluster, len(seen)) for cluster in self.clusters], dtype=np.int64)
        columns = {name: getattr(self, name)[rows] for name in names}
        return bootstrap_means(
            ClusterTable.from_questions(columns, clusters[rows]), n_boot=n_boot, seed=seed, level=level
        )


def score_pairs(
    start: ArrayLike,
    end: ArrayLike,
    lengths: ArrayLike,
    own: SpanPair,
    crossed: SpanPair,
    *,
    clusters: Sequence[Hashable],
    kinds: Sequence[str],
    max_answer_words: int,
    n_incomplete: int = 0,
) -> MinimalPairScores:
    """Score P pairs whose members stand one after the other, a before b.

    Args:
        start, end: Logits (2P, W), padded with anything.
        lengths: (2P,) words of each sentence.
        own, crossed: First and last word (inclusive) of each member's right and wrong phrase, (2P,) each.
        clusters, kinds: (P,) see :class:`MinimalPairScores`.
        max_answer_words: Longest span decoded, in words.
        n_incomplete: Handed on.

    A tie is wrong: a reader without a preference knows nothing.
    """
    first, last, words = check_logits(start, end, lengths)
    prefers = _span_score(first, last, own) > _span_score(first, last, crossed)  # log Z is common to both
    decoded = decode_joint(start, end, words, max_answer_words)
    exact = (decoded[0] == np.asarray(own[0])) & (decoded[1] == np.asarray(own[1]))
    pairs = [np.asarray(values).reshape(-1, 2) for values in (prefers, exact)]
    return MinimalPairScores(pairs[0], pairs[1], tuple(clusters), tuple(kinds), n_incomplete)


def _span_score(first: FloatArray, last: FloatArray, spans: tuple[IntArray, IntArray]) -> FloatArray:
    rows = np.arange(len(first))
    scores: FloatArray = first[rows, np.asarray(spans[0])] + last[rows, np.asarray(spans[1])]
    return scores
