"""Index arithmetic of ragged arrays against lists of lists."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from emergence.measures.ragged import offsets_of, rows_at, within_rows

ROWS = st.lists(st.lists(st.integers(-9, 9), max_size=5), max_size=8)


@given(ROWS)
def test_offsets_and_places_are_those_of_the_lists(rows: list[list[int]]) -> None:
    flat = [value for row in rows for value in row]
    offsets = offsets_of([len(row) for row in rows])
    assert offsets.dtype == np.int64 and len(offsets) == len(rows) + 1 and offsets[-1] == len(flat)
    assert [flat[first:stop] for first, stop in pairwise(offsets)] == rows
    assert within_rows(offsets).tolist() == [k for row in rows for k in range(len(row))]


@given(ROWS, st.data())
def test_rows_are_taken_in_any_order_and_more_than_once(rows: list[list[int]], data: st.DataObject) -> None:
    numbers = st.lists(st.integers(0, len(rows) - 1), max_size=10) if rows else st.just([])
    index = np.array(data.draw(numbers), dtype=np.int64)
    flat = np.array([value for row in rows for value in row], dtype=np.int64)
    where, offsets = rows_at(offsets_of([len(row) for row in rows]), index)
    assert where.dtype == offsets.dtype == np.int64
    assert flat[where].tolist() == [value for n in index for value in rows[n]]
    assert offsets.tolist() == offsets_of([len(rows[n]) for n in index]).tolist()
