"""Parquet files, and the questions of those with the hub's columns for QA-SRL 1.0, QA-SRL Bank 2.0 or SQuAD."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from emergence.data.formats import bank, qasrl1, squad
from emergence.data.formats.raw import RawQuestion
from emergence.data.formats.textfile import refuse_odd_characters
from emergence.errors import DataError

MAGIC = b"PAR1"
#: Rows read at a time, and the limits of what is taken for data. A few bytes can stand for any number of rows.
_BATCH_ROWS, _MOST_ROWS, _MOST_BATCH_BYTES = 1024, 10**9, 1 << 29
_QASRL_COLUMNS = {"sentence", "sent_id", "predicate_idx", "question", "answers"}
_SQUAD_COLUMNS = {"id", "context", "question", "answers"}


def parquet_shape(path: Path) -> str | None:
    """``qasrl1``, ``bank`` or ``squad`` by the columns; None for any other table."""
    columns = set(open_parquet(path).schema_arrow.names)
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
        yield from readers[shape](_checked_rows(path))
    except DataError as exc:
        if exc.path is not None:
            raise
        raise DataError(str(exc), path) from exc


def _checked_rows(path: Path) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(parquet_rows(open_parquet(path), path), start=1):
        refuse_odd_characters(row, path, number)
        yield row


def open_parquet(path: Path, needed: Iterable[str] = ()) -> Any:
    """A ``pyarrow.parquet.ParquetFile`` with the columns ``needed``.

    Raises:
        DataError: The file is damaged or lacks a column.
    """
    try:
        import pyarrow.parquet as pq
    except ImportError as exc:
        raise DataError("reading parquet needs pyarrow: install the local extra of this project", path) from exc
    try:
        parquet = pq.ParquetFile(path)
        columns = parquet.schema_arrow.names
    except Exception as exc:  # a dozen classes, of pyarrow and of Python
        raise _damaged(path, exc) from exc
    if (rows := parquet.metadata.num_rows) > _MOST_ROWS:
        raise DataError(f"says that it has {rows:,} rows, more than any data of this kind", path)
    missing = [name for name in needed if name not in columns]
    if missing:
        raise DataError(f"has no column {' or '.join(missing)} (its columns: {', '.join(columns)})", path)
    return parquet


def parquet_rows(parquet: Any, path: Path, columns: Iterable[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of an open file. One batch at a time is in memory.

    Raises:
        DataError: The file is damaged.
    """
    names = None if columns is None else list(columns)
    try:
        batches = parquet.iter_batches(batch_size=_BATCH_ROWS, columns=names)
    except Exception as exc:
        raise _damaged(path, exc) from exc
    while True:
        try:
            batch = next(batches, None)
            if batch is not None and batch.nbytes > _MOST_BATCH_BYTES:
                raise DataError(
                    f"{_BATCH_ROWS:,} rows of it take {batch.nbytes >> 20:,} MiB: this is no such data", path
                )
            rows = None if batch is None else batch.to_pylist()
        except DataError:
            raise
        except Exception as exc:
            raise _damaged(path, exc) from exc
        if rows is None:
            return
        yield from rows


def _damaged(path: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return DataError(f"damaged parquet data ({reason}): fetch the file again", path)
