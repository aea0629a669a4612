"""Ragged arrays: N rows of any length, one after another in a flat array, and where each begins.

``offsets`` (N + 1,) rises from 0 to the length of the flat array; row ``n`` is ``flat[offsets[n] : offsets[n + 1]]``.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

IntArray: TypeAlias = NDArray[np.int64]


def offsets_of(counts: ArrayLike) -> IntArray:
    """(N + 1,) offsets of rows with ``counts`` (N,) elements."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def within_rows(offsets: IntArray) -> IntArray:
    """(offsets[-1],) each element's place in its row, from 0."""
    return np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))


def rows_at(offsets: IntArray, index: IntArray) -> tuple[IntArray, IntArray]:
    """Where the elements of the rows at ``index`` (B,) stand in the flat array, row after row, and those rows' offsets.

    A row may be asked for more than once.
    """
    taken = offsets_of(np.diff(offsets)[index])
    return np.repeat(offsets[:-1][index] - taken[:-1], np.diff(taken)) + np.arange(taken[-1]), taken
