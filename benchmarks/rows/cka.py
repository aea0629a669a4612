"""All CKA pairs of 30 checkpoints x 9 layers against the feature form, pair by pair.

The peer is ``feature_space_linear_cka`` of Kornblith et al.'s published notebook with ``debiased=True``,
which is what most code copies: three products of features a pair.
"""

from __future__ import annotations

from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from benchmarks.materials import Bench
from benchmarks.measure import interleaved, ratio, ratios
from benchmarks.report import Comparison, Figure, RowResult
from emergence.measures.cka import cka_matrix

MARKS = {128: 8.0, 768: 90.0}
ITEMS, ROWS = 30 * 9, 2_000
#: Pairs of the peer's that are measured in a round.
PAIRS = {128: 40, 768: 6}

Array = NDArray[np.float32]


def run(bench: Bench, width: int) -> RowResult:
    """Seconds for the whole matrix, debiased."""
    n_items, n_rows, pairs = (6, 40, 3) if bench.toy else (ITEMS, ROWS, PAIRS[width])
    items = drifting(n_rows, width, n_items)
    total = n_items * (n_items + 1) / 2
    left_right = cycle([(i, j) for i in range(n_items) for j in range(i + 1, n_items)])

    def by_pair() -> float:
        for i, j in (next(left_right) for _ in range(pairs)):
            feature_form(items[i], items[j])
        return pairs / total

    side = 64 if bench.toy else 2048
    left, right = np.random.default_rng(1).standard_normal((2, side, side))

    def products() -> float:
        np.matmul(left, right)
        return 2.0 * side**3

    def batched() -> float:
        cka_matrix(items)
        return 1.0

    # No warm-up: one round is the whole matrix, tens of seconds.
    work = {"pairs": by_pair, "ours": batched, "products": products}
    seconds = interleaved(work, bench.repeats, warm_up=0)
    alone = [s * least_operations(n_items, n_rows, width) for s in seconds["products"]]
    found = cka_matrix(items[:3]).values[0, 1:]
    difference = max(abs(feature_form(items[0], items[i]) - found[i - 1]) for i in (1, 2))
    return RowResult(
        row=f"cka-{width}",
        title=f"debiased CKA, all {total:,.0f} pairs of {n_items} representations, {n_rows:,} rows x {width} features",
        figures=[
            Figure.of("ours, whole matrix", "s", seconds["ours"]),
            Figure.of("pair by pair, feature form", "s", seconds["pairs"]),
            Figure.rate("matrix products alone, float64", "GFLOP/s", [1e9 * s for s in seconds["products"]]),
        ],
        comparisons=[
            Comparison.of(
                "against pair by pair", ratios(seconds["pairs"], seconds["ours"]), MARKS[width],
                limit=ratio(seconds["pairs"], alone),
            )
        ],
        data="a random walk",
        notes=[
            f"the peer's time is that of {pairs} pairs a round, times the number of pairs; float64 in both",
            f"largest difference between the two: {difference:.0e}",
            "the limit is the matrix products of the cheaper form, at the speed of a large one in float64",
        ],
        facts={"operations_of_the_limit": least_operations(n_items, n_rows, width)},
    )  # fmt: skip


def least_operations(n_items: int, n_rows: int, width: int) -> float:
    """Floating-point operations of all pairs by kernel matrices or by features, whichever has fewer.

    Half of what is symmetric is enough: of a kernel matrix, of a product of features with themselves, of the table.
    """
    pairs = n_items * (n_items + 1) / 2
    by_kernels = n_items * n_rows**2 * width + pairs * n_rows**2
    return min(by_kernels, n_items**2 * n_rows * width**2)


def feature_form(x: Array, y: Array) -> float:
    """Debiased linear CKA of one pair."""
    left, right = (z.astype(np.float64) - z.mean(axis=0, dtype=np.float64) for z in (x, y))
    similarity = _similarity(left, right)
    return float(similarity / np.sqrt(_similarity(left, left) * _similarity(right, right)))


def _similarity(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    n = len(x)
    x_rows, y_rows = np.einsum("ij,ij->i", x, x), np.einsum("ij,ij->i", y, y)
    product = float(np.linalg.norm(x.T @ y) ** 2)
    correction = n / (n - 2.0) * x_rows.dot(y_rows) - x_rows.sum() * y_rows.sum() / ((n - 1) * (n - 2))
    return float(product - correction)


def drifting(n_rows: int, width: int, n_items: int) -> list[Array]:
    """A random walk, as checkpoints are, in the type that states are stored in."""
    rng = np.random.default_rng(0)
    items = [rng.standard_normal((n_rows, width), dtype=np.float32)]
    while len(items) < n_items:
        items.append(items[-1] + np.float32(0.2) * rng.standard_normal((n_rows, width), dtype=np.float32))
    return items
