"""Centred kernel alignment (CKA): how alike two representations of the same inputs are (Kornblith et al. 2019).

CKA is the correlation of two centred kernel matrices. The usual estimator is biased upwards by width over
sample size (docs/methods.md#temporal-cka), so the default is the debiased one of Song et al. (2012), HSIC1. Both are
inner products once the kernel matrices are centred the right way (Székely and Rizzo 2014: U-centring), so all pairs
of M representations cost one matrix product of their flattened kernel matrices, built a block of rows at a time. All
arithmetic is in float64, whatever the type of the states.

Axes: n rows (inputs), d features, M representations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

#: Bytes of the blocks of flattened kernel matrices.
BLOCK_BYTES = 512 << 20
#: Taller blocks would waste the lower halves of the squares on the diagonal.
_MOST_ROWS = 512
#: A debiased term this small beside the largest that its biased twin can be is rounding error, not signal.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class CKAMethod:
    """Which CKA.

    Attributes:
        estimator: ``debiased`` (HSIC1; may be negative) or ``biased`` (only to reproduce papers).
        kernel: ``linear``, or ``rbf``: exp(-|x - y|² / (2 sigma²)).
        bandwidth: sigma over the median distance between different rows (rbf; 0.2, 0.4 and 0.8 are usual).
    """

    estimator: Literal["debiased", "biased"] = "debiased"
    kernel: Literal["linear", "rbf"] = "linear"
    bandwidth: float = 0.4

    def __post_init__(self) -> None:
        if self.estimator not in ("debiased", "biased") or self.kernel not in ("linear", "rbf"):
            raise ValueError(f"no such CKA: {self.estimator} {self.kernel}")
        if not self.bandwidth > 0:
            raise ValueError(f"the bandwidth must be positive, not {self.bandwidth}")

    @property
    def debiased(self) -> bool:
        return self.estimator == "debiased"

    @property
    def least_rows(self) -> int:
        return 4 if self.debiased else 2


@dataclass(frozen=True, eq=False)
class CKAMatrix:
    """CKA of all pairs of M representations.

    Attributes:
        values: (M, M), symmetric, 1 on the diagonal; nan where either side is flagged.
        hsic: (M, M), what the values are made of (a sum over batches with ``batch_rows``).
        flags: Why a representation has no CKA (``non_finite``, ``no_variance``, ``denominator_not_positive``);
            an empty string for those that have.
        n: Rows used.
    """

    values: FloatArray
    hsic: FloatArray
    flags: tuple[str, ...]
    n: int


def cka(x: ArrayLike, y: ArrayLike, method: CKAMethod = CKAMethod()) -> float:
    """CKA of two representations (n, d1) and (n, d2) of the same n inputs; nan where it is undefined."""
    return float(cka_matrix([np.asarray(x), np.asarray(y)], method).values[0, 1])


def cka_matrix(
    items: Sequence[NDArray[np.generic]],
    method: CKAMethod = CKAMethod(),
    *,
    batch_rows: int | None = None,
    side: Literal["auto", "gram", "feature"] = "auto",
    block_bytes: int = BLOCK_BYTES,
) -> CKAMatrix:
    """CKA of all pairs of representations, of any widths, of the same n inputs in the same order.

    Args:
        items: M arrays (n, d); memory maps are read in parts.
        method: Which CKA.
        batch_rows: Minibatch CKA (Nguyen et al. 2021): HSIC1 is summed over batches of this many rows, a
            short last one dropped, and the ratio formed once. Rows must be in random order.
        side: ``feature`` forms XᵀY for every pair, ``gram`` the kernel matrices; equal up to rounding.
        block_bytes: Memory for kernel blocks.

    Raises:
        ValueError: Shapes that do not fit, or too few rows (debiased: 4).
    """
    n = _check_shapes(items, method)
    flags = [_flag(np.asarray(x, dtype=np.float64)) for x in items]
    usable = [i for i, flag in enumerate(flags) if not flag]
    hsic = np.full((len(items), len(items)), np.nan)
    largest = np.full(len(items), np.nan)
    used = n
    if usable:
        spans = _batches(n, batch_rows, method)
        used = spans[-1].stop
        hsic[np.ix_(usable, usable)] = sum(
            hsic_matrix([items[i][span] for i in usable], method, side=side, block_bytes=block_bytes) for span in spans
        )
        largest[usable] = [sum(_largest_hsic(items[i][span], method) for span in spans) for i in usable]
    values, flags = _ratios(hsic, largest, flags)
    return CKAMatrix(values, hsic, tuple(flags), used)


def hsic_matrix(
    items: Sequence[NDArray[np.generic]],
    method: CKAMethod = CKAMethod(),
    *,
    side: Literal["auto", "gram", "feature"] = "auto",
    block_bytes: int = BLOCK_BYTES,
) -> FloatArray:
    """HSIC of all pairs, (M, M): HSIC1 (debiased), or tr(KHLH) / (n - 1)² (biased); arguments as :func:`cka_matrix`."""
    n = _check_shapes(items, method)
    if side == "auto":
        side = "feature" if method.kernel == "linear" and _feature_side_is_cheaper(items) else "gram"
    if side == "feature":
        return _hsic_by_features(items, method, block_bytes)
    grams = [Gram(x, method) for x in items]
    rows = max(1, min(_MOST_ROWS, block_bytes // (8 * n * len(grams))))
    total = np.zeros((len(grams), len(grams)))
    buffer = np.empty((len(grams), rows * n))
    for first in range(0, n, rows):
        last = min(first + rows, n)
        flat = buffer[:, : (last - first) * (n - first)]
        block = flat.reshape(len(grams), last - first, n - first)
        for out, gram in zip(block, grams, strict=True):
            gram.centred(first, last, out)
        # The upper triangle stands for both; the diagonal, which counts once, for the biased form alone.
        square = np.triu(np.ones((last - first, last - first)), 1)
        np.fill_diagonal(square, 0.0 if method.debiased else math.sqrt(0.5))
        block[:, :, : last - first] *= square
        total += 2.0 * (flat @ flat.T)
    return total / _scale(n, method)


class Gram:
    """The kernel matrix (n, n) of one representation, a block of rows at a time and never whole.

    With the debiased estimator its diagonal is zero, as HSIC1 asks.
    """

    def __init__(self, x: NDArray[np.generic], method: CKAMethod) -> None:
        self._x, self.method, self.n = x, method, len(x)
        self._mean = np.asarray(x, dtype=np.float64).mean(axis=0)  # (d,)
        self._squares = (self._rows(0, self.n) ** 2).sum(axis=1)  # (n,)
        self._scale = _median_distance(self._rows(0, self.n)) * method.bandwidth if method.kernel == "rbf" else None
        #: Row sums (n,) of the kernel matrix.
        self.sums = self._row_sums()

    def block(self, first: int, last: int) -> FloatArray:
        """Rows ``first:last``, (b, n); the features are centred, which changes no result."""
        out = np.empty((last - first, self.n))
        self._kernel(first, last, 0, out)
        if self.method.debiased:
            out[np.arange(last - first), np.arange(first, last)] = 0.0
        return out

    def centred(self, first: int, last: int, out: FloatArray) -> None:
        """Rows ``first:last`` from the diagonal on, into (b, n - first), centred so that HSIC is an inner product.

        Biased: HKH. Debiased: U-centred, whose diagonal does not count.
        """
        n, total = self.n, float(self.sums.sum())
        if self.method.debiased:
            share, constant = self.sums / (n - 2), total / ((n - 1) * (n - 2))
        else:
            share, constant = self.sums / n, total / n**2
        self._kernel(first, last, first, out)
        out -= share[first:last, None]
        out -= share[first:] - constant

    def _kernel(self, first: int, last: int, column: int, out: FloatArray) -> None:
        np.matmul(self._rows(first, last), self._rows(column, self.n).T, out=out)
        if self._scale is not None:
            out *= -2.0
            out += self._squares[first:last, None]
            out += self._squares[column:]  # squared distances
            np.maximum(out, 0.0, out=out)
            out *= -1.0 / (2.0 * self._scale**2)
            np.exp(out, out=out)

    def _rows(self, first: int, last: int) -> FloatArray:
        return np.asarray(self._x[first:last], dtype=np.float64) - self._mean

    def _row_sums(self) -> FloatArray:
        if self._scale is None:  # the centred features sum to zero, so the whole row does
            return -self._squares if self.method.debiased else np.zeros(self.n)
        step = max(1, BLOCK_BYTES // (8 * self.n))
        blocks = [self.block(first, min(first + step, self.n)).sum(axis=1) for first in range(0, self.n, step)]
        return np.concatenate(blocks)


def hsic_from_sums(
    products: FloatArray,
    row_products: FloatArray,
    left_total: FloatArray,
    right_total: FloatArray,
    n: FloatArray | int,
    method: CKAMethod,
) -> FloatArray:
    """HSIC from sums over two kernel matrices: HSIC1 of Song et al. (2012, eq. 5), or the biased form.

    Args:
        products: Sum of K * L over all entries; with the debiased estimator all diagonals are zero.
        row_products: Inner product of their row sums, 1ᵀKL1.
        left_total: Sum of K. right_total: Sum of L.
        n: Rows.
        method: Which estimator.
    """
    if method.debiased:
        inner = products + left_total * right_total / ((n - 1) * (n - 2)) - 2.0 * row_products / (n - 2)
    else:
        inner = products + left_total * right_total / n**2 - 2.0 * row_products / n
    return np.asarray(inner / _scale(n, method))


# By features ------------------------------------------------------------------------------------


def _hsic_by_features(items: Sequence[NDArray[np.generic]], method: CKAMethod, block_bytes: int) -> FloatArray:
    """The same through XᵀY: with centred features all row sums of a linear kernel are known."""
    if method.kernel != "linear":
        raise ValueError("the feature form exists for the linear kernel only")
    n = len(items[0])
    total = np.empty((len(items), len(items)))
    groups = _groups(items, max(1, block_bytes // (16 * n)))
    for a, left in enumerate(groups):
        x, x_starts = _stacked(items, left)  # (n, sum of d)
        for right in groups[a:]:
            y, y_starts = _stacked(items, right)  # (n, sum of d)
            squared = (x.T @ y) ** 2
            sums = np.add.reduceat(np.add.reduceat(squared, x_starts, axis=0), y_starts, axis=1)
            if method.debiased:
                p, q = (np.add.reduceat(z * z, s, axis=1) for z, s in ((x, x_starts), (y, y_starts)))  # (n, group)
                shared = p.T @ q
                sums = hsic_from_sums(sums - shared, shared, -p.sum(0)[:, None], -q.sum(0)[None, :], n, method)
            else:
                sums = sums / _scale(n, method)
            total[left.start : left.stop, right.start : right.stop] = sums
            total[right.start : right.stop, left.start : left.stop] = sums.T
    return total


def _stacked(items: Sequence[NDArray[np.generic]], group: range) -> tuple[FloatArray, NDArray[np.int64]]:
    """Centred features side by side, and the first column of each."""
    parts = [np.asarray(items[i], dtype=np.float64) for i in group]
    widths = [part.shape[1] for part in parts]
    stacked = np.concatenate([part - part.mean(axis=0) for part in parts], axis=1)
    return stacked, np.cumsum([0, *widths[:-1]])


def _groups(items: Sequence[NDArray[np.generic]], most_columns: int) -> list[range]:
    """Consecutive items, together at most ``most_columns`` wide (or one item)."""
    groups, first, width = [], 0, 0
    for i, item in enumerate(items):
        if i > first and width + item.shape[1] > most_columns:
            groups.append(range(first, i))
            first, width = i, 0
        width += item.shape[1]
    return [*groups, range(first, len(items))]


def _feature_side_is_cheaper(items: Sequence[NDArray[np.generic]]) -> bool:
    """Operations of M² products of n x d features against M kernel matrices and the products of their halves."""
    n, m = len(items[0]), len(items)
    width = sum(x.shape[1] for x in items) / m
    return m * width**2 < n * (width + m / 2)


# Checks -----------------------------------------------------------------------------------------


def _check_shapes(items: Sequence[NDArray[np.generic]], method: CKAMethod) -> int:
    if not items or any(x.ndim != 2 or len(x) != len(items[0]) for x in items):
        raise ValueError(f"CKA needs matrices with the same rows, not {[x.shape for x in items]}")
    n = len(items[0])
    if n < method.least_rows:
        raise ValueError(f"{method.estimator} CKA needs at least {method.least_rows} rows, not {n}")
    return n


def _flag(x: FloatArray) -> str:
    if not np.isfinite(x).all():
        return "non_finite"
    spread = float(((x - x.mean(axis=0)) ** 2).sum())
    return "" if spread > 1e-24 * float((x**2).sum()) else "no_variance"


def _batches(n: int, batch_rows: int | None, method: CKAMethod) -> list[slice]:
    if batch_rows is None:
        return [slice(0, n)]
    if batch_rows < method.least_rows or batch_rows > n:
        raise ValueError(f"batches of {batch_rows} rows: must be between {method.least_rows} and {n}")
    if not method.debiased:
        raise ValueError("minibatch CKA needs the debiased estimator: the bias would not average out")
    return [slice(first, first + batch_rows) for first in range(0, n - batch_rows + 1, batch_rows)]


def _largest_hsic(x: NDArray[np.generic], method: CKAMethod) -> float:
    """What the HSIC of a representation with itself cannot exceed: the squared trace of its kernel matrix, scaled.

    The bound is the representation's own, so that no other in the same call decides whether it has a CKA.
    """
    if method.kernel == "rbf":
        return float(len(x) ** 2 / _scale(len(x), method))  # ones on the diagonal
    values = np.asarray(x, dtype=np.float64)
    return float(((values - values.mean(axis=0)) ** 2).sum() ** 2 / _scale(len(x), method))


def _ratios(hsic: FloatArray, largest: FloatArray, flags: list[str]) -> tuple[FloatArray, list[str]]:
    """HSIC to CKA; a diagonal that is not positive beside ``largest`` (M,) makes its row and column nan."""
    own = np.diagonal(hsic).copy()
    bad = np.isnan(own) | (own <= _ROUNDING * largest)
    flags = [flag or ("denominator_not_positive" if b else "") for flag, b in zip(flags, bad, strict=True)]
    root = np.sqrt(np.where(bad, np.nan, own))
    values = hsic / root[:, None] / root[None, :]
    np.fill_diagonal(values, np.where(bad, np.nan, 1.0))
    return values, flags


def _scale(n: FloatArray | int, method: CKAMethod) -> FloatArray | int:
    return n * (n - 3) if method.debiased else (n - 1) ** 2


def _median_distance(x: FloatArray) -> float:
    """Median Euclidean distance between different rows; nan where it is zero and gives no scale."""
    squares = (x**2).sum(axis=1)
    parts = []
    step = max(1, BLOCK_BYTES // (8 * len(x)))
    for first in range(0, len(x), step):
        last = min(first + step, len(x))
        distances = squares[first:last, None] + squares[None, first:] - 2.0 * (x[first:last] @ x[first:].T)
        parts.append(distances[np.triu_indices(last - first, 1, len(x) - first)])
    # The root of the median square is not the median root for an even count, so take roots first.
    median = float(np.median(np.sqrt(np.maximum(np.concatenate(parts), 0.0))))
    return median if median > 0.0 else math.nan
