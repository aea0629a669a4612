"""Parquet files in the shape of the hub's copies of QA-SRL 1.0, QA-SRL Bank 2.0 and SQuAD."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from emergence.data.formats import bank, qasrl1, squad
from emergence.data.formats.raw import RawQuestion
from emergence.errors import DataError

MAGIC = b"PAR1"
_QASRL_COLUMNS = {"sentence", "sent_id", "predicate_idx", "question", "answers"}
_SQUAD_COLUMNS = {"id", "context", "question", "answers"}


def parquet_shape(path: Path) -> str | None:
    """``qasrl1``, ``bank`` or ``squad`` by the columns; None for any other table."""
    columns = set(_open(path).schema_arrow.names)
    if columns >= _QASRL_COLUMNS:
        return "bank" if "answer_ranges" in columns else "qasrl1"
    return "squad" if columns >= _SQUAD_COLUMNS else None


def read_parquet(path: Path) -> Iterator[RawQuestion]:
    """Every question of one parquet file.

    Raises:
        DataError: The file is damaged, or a row does not fit its columns.
    """
    readers = {"qasrl1": qasrl1.raw_from_rows, "bank": bank.raw_from_rows, "squad": squad.raw_from_rows}
    shape = parquet_shape(path)
    if shape is None:
        raise DataError("has not the columns of any question-answering data set", path)
    try:
        yield from readers[shape](_rows(path))
    except DataError as exc:
        if exc.path is not None:
            raise
        raise DataError(str(exc), path) from exc


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        for batch in _open(path).iter_batches():
            yield from batch.to_pylist()
    except (OSError, ValueError) as exc:
        raise DataError(f"damaged parquet data ({exc}): fetch the file again", path) from exc


def _open(path: Path) -> Any:
    try:
        import pyarrow.parquet as pq
    except ImportError as exc:
        raise DataError("reading parquet needs pyarrow: install the local extra of this project", path) from exc
    try:
        return pq.ParquetFile(path)
    except (OSError, ValueError) as exc:  # pyarrow's ArrowInvalid is a ValueError
        raise DataError(f"damaged parquet data ({exc}): fetch the file again", path) from exc
