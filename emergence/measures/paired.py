"""Comparing two ways of answering the same questions, and what clustering costs.

Pair by item and by pretraining seed: the difference is far steadier than either mean (docs/methods.md#intervals).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emergence.measures.bootstrap import N_BOOT, Estimate, alike, means_together
from emergence.measures.resampling import ClusterTable, FloatArray

N_PERMUTATIONS = 9_999
#: 32 MB of them. Which signs are drawn depends on it.
_SIGNS_AT_A_TIME = 1 << 22


@dataclass(frozen=True)
class PairedComparison:
    """Mean of A minus mean of B on the same questions.

    Attributes:
        difference: With its cluster bootstrap interval.
        p_sign_flip: Two-sided, flipping the sign of whole clusters.
        p_mcnemar: Exact two-sided, for 0/1 scores of one seed; None otherwise. It treats questions as
            independent, so where the design effect is large the sign-flip p is the one to quote.
        only_a, only_b: Questions that only A, only B got right (McNemar's discordant pairs); None with ``p_mcnemar``.
    """

    difference: Estimate
    p_sign_flip: float
    p_mcnemar: float | None
    only_a: int | None
    only_b: int | None


def compare_paired(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[Any],
    *,
    n_boot: int = N_BOOT,
    n_permutations: int = N_PERMUTATIONS,
    seed: int = 0,
    level: float = 0.95,
) -> PairedComparison:
    """Compare two systems question by question.

    Args:
        scores_a, scores_b: (N,), or (S, N) with seed s of A paired to seed s of B.
        clusters: (N,) the sentence of each question.

    Raises:
        ValueError: shapes that disagree, or a score that is not finite.
    """
    asked = [(scores_a, scores_b, clusters)]
    return compare_paired_together(asked, n_boot=n_boot, n_permutations=n_permutations, seed=seed, level=level)[0]


def compare_paired_together(
    asked: Sequence[tuple[ArrayLike, ArrayLike, Sequence[Hashable] | NDArray[Any]]],
    *,
    n_boot: int = N_BOOT,
    n_permutations: int = N_PERMUTATIONS,
    seed: int = 0,
    level: float = 0.95,
) -> list[PairedComparison]:
    """:func:`compare_paired` of many pairs (A, B, clusters), which share all that is drawn for equally many clusters.

    Raises:
        ValueError: As :func:`compare_paired`.
    """
    pairs = [(np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)) for a, b, _ in asked]
    for a, b in pairs:
        if a.shape != b.shape:
            raise ValueError(f"paired scores need one shape, got {a.shape} and {b.shape}")
    tables = [
        ClusterTable.from_questions({"d": a - b}, clusters) for (a, b), (*_, clusters) in zip(pairs, asked, strict=True)
    ]
    differences = means_together(tables, n_boot=n_boot, seed=seed, level=level)
    p_values = [0.0] * len(tables)
    for places in alike([table.n_clusters for table in tables]):
        columns = np.column_stack([tables[k].sums.mean(axis=0) for k in places])  # (C, K)
        for k, p in zip(places, sign_flip_ps(columns, n_permutations=n_permutations, seed=seed), strict=True):
            p_values[k] = float(p)
    return [_compared(of_table["d"], p, a, b) for of_table, p, (a, b) in zip(differences, p_values, pairs, strict=True)]


def _compared(difference: Estimate, p_sign_flip: float, a: FloatArray, b: FloatArray) -> PairedComparison:
    if a.ndim > 1 or not (np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()):
        return PairedComparison(difference, p_sign_flip, None, None, None)
    only_a, only_b = int((a > b).sum()), int((b > a).sum())
    return PairedComparison(difference, p_sign_flip, mcnemar_exact_p(only_a, only_b), only_a, only_b)


def sign_flip_p(cluster_differences: ArrayLike, *, n_permutations: int = N_PERMUTATIONS, seed: int = 0) -> float:
    """Two-sided p = (1 + #{|Σ ±d| ≥ |Σ d|}) / (1 + R) over random signs of whole clusters (C,)."""
    columns = np.asarray(cluster_differences, dtype=np.float64)[:, None]
    return float(sign_flip_ps(columns, n_permutations=n_permutations, seed=seed)[0])


def sign_flip_ps(cluster_differences: ArrayLike, *, n_permutations: int = N_PERMUTATIONS, seed: int = 0) -> FloatArray:
    """(K,) of :func:`sign_flip_p` for each column of differences (C, K), on the same signs."""
    d = np.asarray(cluster_differences, dtype=np.float64)
    observed = np.abs(d.sum(axis=0))
    tolerance = 1e-12 * np.abs(d).sum(axis=0)  # sums that differ by rounding alone are ties
    rng = np.random.default_rng(seed)
    block = max(1, _SIGNS_AT_A_TIME // max(len(d), 1))
    reached = np.zeros(d.shape[1])
    for begin in range(0, n_permutations, block):
        signs = rng.integers(0, 2, size=(min(block, n_permutations - begin), len(d)), dtype=np.int8)
        flipped = 2.0 * (signs.astype(np.float64) @ d) - d.sum(axis=0)  # (b, K)
        reached += (np.abs(flipped) >= observed - tolerance).sum(axis=0)
    return np.asarray((1 + reached) / (1 + n_permutations))


def mcnemar_exact_p(only_a: int, only_b: int) -> float:
    """Exact two-sided McNemar p from the two discordant counts; 1 when there are none."""
    from scipy.stats import binom  # half a second, which most tables and reports do without

    if only_a < 0 or only_b < 0:
        raise ValueError(f"counts cannot be negative, got {only_a} and {only_b}")
    return float(min(1.0, 2.0 * binom.cdf(min(only_a, only_b), only_a + only_b, 0.5)))


def intraclass_correlation(values: ArrayLike, clusters: Sequence[Hashable] | NDArray[Any]) -> float:
    """One-way ANOVA ICC of scores (N,) within clusters; nan when no cluster has two questions or nothing varies."""
    x = np.asarray(values, dtype=np.float64)
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    sizes = np.bincount(index).astype(np.float64)
    n, k = len(x), len(sizes)
    if k < 2 or n <= k:
        return float("nan")
    means = np.bincount(index, weights=x) / sizes
    between = float((sizes * (means - x.mean()) ** 2).sum()) / (k - 1)
    within = float(((x - means[index]) ** 2).sum()) / (n - k)
    typical = (n - float((sizes**2).sum()) / n) / (k - 1)
    total = between + (typical - 1) * within
    return (between - within) / total if total > 0 else float("nan")


def design_effect(values: ArrayLike, clusters: Sequence[Hashable] | NDArray[Any]) -> float:
    """1 + (m̄ − 1)ρ: how many times too small a question-level variance would be (Kish 1965).

    m̄ = Σm²/Σm, the size of the cluster a question finds itself in (the mean size where all are equal).
    """
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    sizes: FloatArray = np.bincount(index).astype(np.float64)
    return float(1.0 + ((sizes**2).sum() / sizes.sum() - 1.0) * intraclass_correlation(values, clusters))
