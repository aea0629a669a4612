"""Whether a language model gives the better sentence of a pair the higher probability, by every rule in use.

Tools disagree on two things, so both are reported both ways. A sentence is scored *with BOS*, all its tokens after the
token that stands before a text, or *without*, its first token being given. Its score is the sum over its tokens, or
their mean. A pair is right where the good sentence scores higher; a tie counts one half. Defined in
docs/methods.md#sentence-pairs.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from emergence.measures.bootstrap import N_BOOT, Estimate, bootstrap_means
from emergence.measures.resampling import ClusterTable
from emergence.plain import plain

FloatArray = npt.NDArray[np.float64]

WITH_BOS, WITHOUT_BOS = "with_bos", "without_bos"
CONTEXTS = (WITH_BOS, WITHOUT_BOS)
#: Ends the name of a rule that takes the mean over tokens in place of the sum.
PER_TOKEN = "_per_token"
#: A pair by a model without a preference.
CHANCE = 0.5


@dataclass(frozen=True, eq=False)
class SentencePairScores:
    """Log-probabilities of P pairs. Columns are the good sentence and the bad one.

    Attributes:
        nats: Context (``with_bos``, ``without_bos``) -> (P, 2) log-probability of the scored tokens. The first is
            missing for a model that has no token to stand before a text.
        n_tokens: Context -> (P, 2) tokens scored.
        n_bytes: (P, 2) bytes of the sentence in UTF-8.
        clusters: (P,) what is resampled: pairs, or the items that several pairs are made of.
        kinds: (P,) label of each pair for the breakdown.
    """

    nats: Mapping[str, FloatArray]
    n_tokens: Mapping[str, FloatArray]
    n_bytes: FloatArray
    clusters: tuple[Hashable, ...]
    kinds: tuple[str, ...]

    def __post_init__(self) -> None:
        n = len(self.clusters)
        arrays = (self.n_bytes, *self.nats.values(), *self.n_tokens.values())
        if not n or len(self.kinds) != n or any(array.shape != (n, 2) for array in arrays):
            raise ValueError(f"{n} pairs, {len(self.kinds)} kinds, arrays {[array.shape for array in arrays]}")
        if self.nats.keys() != self.n_tokens.keys() or not set(self.nats) <= set(CONTEXTS):
            raise ValueError(f"contexts {sorted(self.nats)} and {sorted(self.n_tokens)}")

    def __len__(self) -> int:
        return len(self.clusters)

    @property
    def rules(self) -> tuple[str, ...]:
        """Names of the rules: ``with_bos``, ``with_bos_per_token``, ``without_bos``, ``without_bos_per_token``."""
        return tuple(f"{context}{per}" for context in self.nats for per in ("", PER_TOKEN))

    def scores(self, rule: str) -> FloatArray:
        """(P, 2) what the rule compares."""
        context = rule.removesuffix(PER_TOKEN)
        if rule == context:
            return self.nats[context]
        return self.nats[context] / np.maximum(self.n_tokens[context], 1)

    def right(self, rule: str) -> FloatArray:
        """(P,) 1.0 where the good sentence scores higher, 0.5 for a tie, 0.0 where the bad one does."""
        return preferred(*self.scores(rule).T)

    def bits_per_byte(self, context: str) -> FloatArray:
        """(P,) log2-probability per byte of the good sentence minus that of the bad one."""
        each = self.nats[context] / (math.log(2) * self.n_bytes)
        difference: FloatArray = each[:, 0] - each[:, 1]
        return difference

    def whole_items(self, rule: str) -> tuple[FloatArray, npt.NDArray[np.int64]]:
        """(C,) 1.0 where every pair of an item is right, and (C,) the number of its pairs."""
        index: dict[Hashable, int] = {}
        rows = np.array([index.setdefault(cluster, len(index)) for cluster in self.clusters], dtype=np.int64)
        sizes = np.bincount(rows)
        return (np.bincount(rows, self.right(rule) == 1.0) == sizes).astype(np.float64), sizes

    def summary(self, *, n_boot: int = N_BOOT, seed: int = 0, level: float = 0.95) -> dict[str, Any]:
        """JSON-ready: accuracy by rule, over all and by kind, and the difference per byte by context.

        ``whole_items`` is there where items have several pairs.
        """

        def estimates(columns: Mapping[str, FloatArray], clusters: npt.NDArray[Any]) -> dict[str, Estimate]:
            table = ClusterTable.from_questions(columns, clusters)
            return bootstrap_means(table, n_boot=n_boot, seed=seed, level=level)

        names: dict[Hashable, int] = {}
        clusters = np.array([names.setdefault(cluster, len(names)) for cluster in self.clusters])
        right = {rule: self.right(rule) for rule in self.rules}
        accuracy = estimates(right, clusters)
        kinds = np.array(self.kinds)
        by_kind = {
            kind: estimates({rule: values[kinds == kind] for rule, values in right.items()}, clusters[kinds == kind])
            for kind in dict.fromkeys(self.kinds)
        }
        whole = {rule: self.whole_items(rule) for rule in self.rules}
        several = bool((whole[self.rules[0]][1] > 1).any())
        items = estimates({rule: right for rule, (right, _) in whole.items()}, np.arange(len(names))) if several else {}
        per_byte = estimates({context: self.bits_per_byte(context) for context in self.nats}, clusters)
        return plain(
            {
                "n_pairs": len(self),
                "n_items": len(names),
                "chance": CHANCE,
                "accuracy": accuracy,
                "by_kind": by_kind,
                "whole_items": items,
                "bits_per_byte_difference": per_byte,
            }
        )


def preferred(good: FloatArray, bad: FloatArray) -> FloatArray:
    """1.0 where ``good`` is higher, 0.5 where the two are equal, else 0.0."""
    result: FloatArray = (good > bad) + 0.5 * (good == bad)
    return result
