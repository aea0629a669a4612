"""How sure is a CKA, and could it be chance? Delete-half intervals and permutations of whole sentences.

An ordinary bootstrap repeats rows, and a repeated row is perfectly similar to its copy, which inflates
every kernel matrix. Halves drawn without replacement repeat nothing, and the spread over halves of n
sentences is that of the estimate on all n: (1/h)(1 - h/n) = 1/n for h = n/2. All halves of a pair cost one
matrix product with its kernel matrices. Rows of one sentence stay together in both procedures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from emergence.measures.cka import BLOCK_BYTES, CKAMethod, FloatArray, Gram, hsic_from_sums

#: Halves of fewer sentences than this tell nothing.
_LEAST_BLOCKS = 20


@dataclass(frozen=True, eq=False)
class DeleteHalf:
    """CKA of P pairs on random halves of the sentences.

    Attributes:
        values: (P, D) on each of D halves; nan where undefined.
        points: (P,) on all rows.
        inflation: Brings the spread over halves to that of all rows (1 for an even number of sentences).
        n_blocks: Sentences.
    """

    values: FloatArray
    points: FloatArray
    inflation: float
    n_blocks: int

    @property
    def standard_errors(self) -> FloatArray:
        """(P,) of the CKA on all rows."""
        return np.asarray(self.values.std(axis=1, ddof=1) * self.inflation)

    def intervals(self, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
        """Lower and upper ends, (P,) each: normal on Fisher's z scale, because CKA is a correlation."""
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = np.arctanh(self.values).std(axis=1, ddof=1) * self.inflation
            half = float(ndtri((1 + level) / 2)) * spread
            centre = np.arctanh(self.points)
            lo, hi = np.tanh(centre - half), np.tanh(centre + half)
        # Identical representations: every half gives exactly one, which z cannot express.
        certain = (self.values >= 1.0 - 1e-12).all(axis=1)
        return np.where(certain, self.points, lo), np.where(certain, self.points, hi)


def delete_half(
    items: Sequence[NDArray[np.generic]],
    pairs: Sequence[tuple[int, int]],
    blocks: ArrayLike,
    method: CKAMethod = CKAMethod(),
    *,
    draws: int = 200,
    seed: int = 0,
    block_bytes: int = BLOCK_BYTES,
) -> DeleteHalf:
    """CKA of pairs of representations on random halves of the sentences, the same halves for all pairs.

    Args:
        items: M arrays (n, d), finite.
        pairs: P pairs of indices into ``items``.
        blocks: (n,) the sentence of each row.
        method: Which CKA.
        draws: D halves.
        seed: Of the halves.
        block_bytes: Memory for kernel blocks.

    Raises:
        ValueError: Fewer than 20 sentences.
    """
    _, index = np.unique(np.asarray(blocks), return_inverse=True)
    n_blocks, n = int(index.max()) + 1, len(index)
    if n_blocks < _LEAST_BLOCKS:
        raise ValueError(f"{n_blocks} sentences are too few to draw halves of: {_LEAST_BLOCKS} at least")
    kept = n_blocks // 2
    order = np.random.default_rng(seed).random((draws, n_blocks)).argsort(axis=1)
    masks = np.concatenate([np.ones((1, n)), (order < kept)[:, index].astype(np.float64)])  # (1 + D, n): all, halves
    grams = [Gram(x, method) for x in items]
    wanted = sorted({tuple(sorted(pair)) for pair in pairs} | {(i, i) for pair in pairs for i in pair})
    hsic = _hsic_on_subsets(grams, wanted, masks, method, block_bytes)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.array([hsic[min(i, j), max(i, j)] / np.sqrt(hsic[i, i] * hsic[j, j]) for i, j in pairs])
    values[~np.isfinite(values)] = np.nan
    return DeleteHalf(values[:, 1:], values[:, 0], math.sqrt(kept / (n_blocks - kept)), n_blocks)


def _hsic_on_subsets(
    grams: Sequence[Gram],
    pairs: Sequence[tuple[int, ...]],
    masks: FloatArray,
    method: CKAMethod,
    block_bytes: int,
) -> dict[tuple[int, ...], FloatArray]:
    """HSIC of every pair on every subset of rows: pair to (S,) for masks (S, n) of zeros and ones."""
    n = masks.shape[1]
    totals = np.zeros((len(grams), len(masks)))
    products = {pair: np.zeros(len(masks)) for pair in pairs}
    row_products = {pair: np.zeros(len(masks)) for pair in pairs}
    rows = max(1, block_bytes // (8 * (n + len(masks)) * len(grams)))
    for first in range(0, n, rows):
        last = min(first + rows, n)
        inside = masks[:, first:last].T  # (b, S)
        blocks = [gram.block(first, last) for gram in grams]  # of (b, n)
        sums = [(block @ masks.T) * inside for block in blocks]  # of (b, S): row sums within each subset
        for i, total in enumerate(sums):
            totals[i] += total.sum(axis=0)
        upper = np.triu(np.full((last - first, n - first), 2.0), 1)  # of the products only half is needed
        np.fill_diagonal(upper, 1.0)
        for i, j in pairs:
            both = blocks[i][:, first:] * blocks[j][:, first:] * upper  # (b, n - first)
            products[i, j] += ((both @ masks[:, first:].T) * inside).sum(axis=0)
            row_products[i, j] += (sums[i] * sums[j]).sum(axis=0)
    size = masks.sum(axis=1)  # (S,)
    return {
        (i, j): hsic_from_sums(products[i, j], row_products[i, j], totals[i], totals[j], size, method) for i, j in pairs
    }


# Permutations -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class PermutationTest:
    """Is there any correspondence between two representations beyond chance?

    Attributes:
        observed: CKA as observed (of the leading components, where only those were used).
        p_value: (1 + permutations that reach it) / (1 + permutations).
        null_mean, null_high: Mean and 95 % quantile of the permuted values.
        n_permutations: How many were drawn.
        fixed_rows: Rows that no permutation moves, because no other sentence has as many.
        components: Principal components kept of each side; None for all.
    """

    observed: float
    p_value: float
    null_mean: float
    null_high: float
    n_permutations: int
    fixed_rows: int
    components: int | None


def permutation_test(
    x: NDArray[np.generic],
    y: NDArray[np.generic],
    blocks: ArrayLike,
    method: CKAMethod = CKAMethod(),
    *,
    n_permutations: int = 999,
    components: int | None = None,
    seed: int = 0,
) -> PermutationTest:
    """Permute the sentences of one side, each only with sentences of as many rows, so that the test is exact.

    Args:
        x, y: (n, d1), (n, d2) of the same inputs, finite.
        blocks: (n,) the sentence of each row, rows of a sentence in the same order throughout.
        method: Which CKA.
        n_permutations: How many.
        components: Use the leading principal components of each side only. The test stays exact, for that
            statistic, and its cost no longer grows with the square of the width (linear kernel only).
        seed: Of the permutations.
    """
    rng = np.random.default_rng(seed)
    groups = _blocks_by_size(np.asarray(blocks))
    fixed = sum(group.size for group in groups if len(group) == 1)
    statistic = _Permutable(x, y, method, components)
    observed = statistic(np.arange(len(x)))
    null = np.array([statistic(_shuffled(groups, len(x), rng)) for _ in range(n_permutations)])
    p_value = (1 + int((null >= observed - 1e-12 * abs(observed)).sum())) / (1 + n_permutations)
    high = float(np.quantile(null, 0.95))
    return PermutationTest(observed, p_value, float(null.mean()), high, n_permutations, fixed, statistic.components)


class _Permutable:
    """CKA of x with a row-permuted y; only the numerator depends on the permutation."""

    def __init__(
        self, x: NDArray[np.generic], y: NDArray[np.generic], method: CKAMethod, components: int | None
    ) -> None:
        self.method, self.n = method, len(x)
        self.components = components if method.kernel == "linear" else None
        if method.kernel == "linear":
            self.x, self.y = (_leading(np.asarray(z, dtype=np.float64), self.components) for z in (x, y))
            self.p, self.q = (self.x**2).sum(axis=1), (self.y**2).sum(axis=1)  # (n,)
        else:
            self.left, self.right = Gram(x, method), Gram(y, method)
            self.k, self.l = self.left.block(0, self.n), self.right.block(0, self.n)  # (n, n)
        every = np.arange(self.n)
        self.norm = math.sqrt(self._hsic(every, "xx") * self._hsic(every, "yy"))

    def __call__(self, order: NDArray[np.int64]) -> float:
        return self._hsic(order, "xy") / self.norm if self.norm > 0 else math.nan

    def _hsic(self, order: NDArray[np.int64], sides: str) -> float:
        if self.method.kernel == "linear":
            return self._linear(order, sides)
        k, l = (self.k if side == "x" else self.l for side in sides)  # noqa: E741 - the field's letters
        sums = [(self.left if side == "x" else self.right).sums for side in sides]
        products = np.asarray(np.vdot(k, l[np.ix_(order, order)]))
        row_products = np.asarray(sums[0] @ sums[1][order])
        totals = np.asarray(sums[0].sum()), np.asarray(sums[1].sum())
        return float(hsic_from_sums(products, row_products, *totals, self.n, self.method))

    def _linear(self, order: NDArray[np.int64], sides: str) -> float:
        a, b = (self.x if side == "x" else self.y for side in sides)
        p, q = (self.p if side == "x" else self.q for side in sides)
        products = np.asarray(((a.T @ b[order]) ** 2).sum())
        if not self.method.debiased:
            return float(products / (self.n - 1) ** 2)
        shared = np.asarray(p @ q[order])
        totals = np.asarray(-p.sum()), np.asarray(-q.sum())
        return float(hsic_from_sums(products - shared, shared, *totals, self.n, self.method))


def _leading(x: FloatArray, components: int | None) -> FloatArray:
    """Centred features, rotated to their leading principal components where only those are wanted."""
    x = x - x.mean(axis=0)
    if components is None or components >= x.shape[1]:
        return x
    _, directions = np.linalg.eigh(x.T @ x)  # ascending
    return np.asarray(x @ directions[:, -components:])


def _blocks_by_size(blocks: NDArray[np.generic]) -> list[NDArray[np.int64]]:
    """Row numbers of the sentences of each size, (sentences, size) for every size."""
    _, index = np.unique(blocks, return_inverse=True)
    members = np.split(np.argsort(index, kind="stable"), np.cumsum(np.bincount(index))[:-1])
    by_size: dict[int, list[NDArray[np.int64]]] = {}
    for rows in members:
        by_size.setdefault(len(rows), []).append(rows)
    return [np.stack(rows) for _, rows in sorted(by_size.items())]


def _shuffled(groups: Sequence[NDArray[np.int64]], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    order = np.empty(n, dtype=np.int64)
    for rows in groups:
        order[rows] = rows[rng.permutation(len(rows))]
    return order
