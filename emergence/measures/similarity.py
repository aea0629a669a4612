"""Companions of CKA, and CKA read against a random network (docs/methods.md#temporal-cka).

CKA weighs directions by their variance, so a few large ones can hide the rest. The angular Procrustes
distance (Williams et al. 2021) asks for the best rotation of one representation onto the other; the
mutual nearest neighbours (Huh et al. 2024) look at small distances only.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emergence.measures.cka import BLOCK_BYTES, FloatArray

#: Above this CKA with a random network there is no room left to exceed it.
RANDOM_CEILING = 0.95
#: Squared distances closer than this share of the mean squared norm are equal.
_TIE = 1e-9


def angular_procrustes(x: ArrayLike, y: ArrayLike) -> float:
    """Angle in radians, 0 to pi/2, between two representations (n, d1), (n, d2) after the best rotation.

    arccos of the nuclear norm of XᵀY for centred X, Y of unit Frobenius norm; the squared Procrustes distance
    is 2 - 2 cos. It has no debiased form: with few rows for its width it comes out too small. nan for a side
    that is constant or not finite.
    """
    left, right = _unit(x), _unit(y)
    if left is None or right is None:
        return math.nan
    nuclear = float(np.linalg.svd(left.T @ right, compute_uv=False).sum())
    return math.acos(min(1.0, nuclear))


def nearest_neighbours(x: ArrayLike, k: int = 10) -> NDArray[np.int64]:
    """The k nearest other rows (Euclidean) of each row, (n, k), in no order; of equally near ones the first.

    Equal rows (the embeddings of one token type, say) are common, and rounding must not choose among them.

    Raises:
        ValueError: Not 1 <= k < n.
    """
    rows = np.asarray(x, dtype=np.float64)
    n = len(rows)
    if not 1 <= k < n:
        raise ValueError(f"{k} neighbours of {n} rows: must be between 1 and {n - 1}")
    rows = rows - rows.mean(axis=0)
    squares = (rows**2).sum(axis=1)
    grain = max(_TIE * float(squares.mean()), np.finfo(np.float64).tiny)
    nearest = np.empty((n, k), dtype=np.int64)
    step = max(1, BLOCK_BYTES // (16 * n))
    for first in range(0, n, step):
        last = min(first + step, n)
        distances = squares[first:last, None] + squares[None, :] - 2.0 * (rows[first:last] @ rows.T)  # (b, n)
        distances = np.rint(distances / grain) * n + np.arange(n)  # whole numbers, below 2^53 where they matter
        distances[np.arange(last - first), np.arange(first, last)] = np.inf
        nearest[first:last] = np.argpartition(distances, k - 1, axis=1)[:, :k]
    return nearest


def mutual_neighbours(left: NDArray[np.int64], right: NDArray[np.int64]) -> float:
    """Mean share of nearest neighbours (n, k) that two representations have in common; chance is k / (n - 1)."""
    return float((left[:, :, None] == right[:, None, :]).any(axis=2).mean())


def excess_over_random(value: ArrayLike, random: ArrayLike) -> FloatArray:
    """(CKA - CKA with random networks) / (1 - CKA with random networks); nan where the latter is above 0.95.

    Two networks that see the same tokens are alike before either has learned anything.
    """
    value, random = np.asarray(value, dtype=np.float64), np.asarray(random, dtype=np.float64)
    room = np.where(random > RANDOM_CEILING, np.nan, 1.0 - random)
    return np.asarray((value - random) / room)


def _unit(x: ArrayLike) -> FloatArray | None:
    """Centred, with unit Frobenius norm; None where that is impossible."""
    rows = np.asarray(x, dtype=np.float64)
    if not np.isfinite(rows).all():
        return None
    centred = rows - rows.mean(axis=0)
    norm = float(np.linalg.norm(centred))
    return centred / norm if norm > 1e-12 * float(np.linalg.norm(rows)) else None
