"""Tables of runs from anywhere: CSV (commas, semicolons or tabs) or JSON, one row a run, refused in one line.

Rows out of a folder of this program's runs have the same form (:mod:`emergence.findings.law_runs`).
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from emergence.errors import DataError
from emergence.files import parse_json, read_regular
from emergence.measures.resampling import FloatArray
from emergence.wording import MOST_CHOICES, did_you_mean, parsed_number

_MOST_BYTES = 64 * 2**20
#: What a table may say for yes and for no.
_YES, _NO = ("1", "true", "yes", "y"), ("0", "false", "no", "n", "")
#: A decimal comma, and no comma of thousands: three digits after it may be either.
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]*,(?![0-9]{3}\b)[0-9]+(e[+-]?[0-9]+)?", re.IGNORECASE | re.ASCII)
#: What no loss exceeds; a perplexity may.
MOST_LOSS = 1e3
#: What losses can be in.
UNITS = ("nats", "bits", "bits_per_byte")


@dataclass(frozen=True)
class LawTable:
    """Rows of a table.

    Attributes:
        path: Where it lies. columns: In its order, in small letters. rows: Column to text or value. lines: Line of
            each row, or its number.
        about: What its rows are, where they are runs of a folder. cure: Which runs a law would take beyond them.
        left_out: Sentences about runs that are in no row.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]
    lines: tuple[int, ...]
    about: str = ""
    cure: str = ""
    left_out: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of its file or folder."""
        return self.path.resolve().name

    def __len__(self) -> int:
        return len(self.rows)

    def has(self, column: str) -> bool:
        return column in self.columns

    def require(self, *columns: str) -> None:
        """Refuse a table that lacks one of the columns.

        Raises:
            DataError: It does; the message has the nearest name, or all.
        """
        for column in columns:
            if column not in self.columns:
                there = ", ".join(self.columns[:MOST_CHOICES])
                hint = did_you_mean(column, self.columns, f"{', '.join(columns)} are needed, and there are {there}")
                raise DataError(f"no column {column}: {hint}", self.path)

    def numbers(self, column: str) -> FloatArray:
        """A column as finite numbers (n,).

        Raises:
            DataError: A cell is empty, no number, or not finite.
        """
        return np.array([self._number(row.get(column), column, i) for i, row in enumerate(self.rows)])

    def flags(self, column: str) -> list[bool]:
        """A column of 1 and 0, true and false, yes and no.

        Raises:
            DataError: A cell is none of them.
        """
        found = []
        for i, row in enumerate(self.rows):
            text = _text(row.get(column)).lower().removesuffix(".0")
            if text not in (*_YES, *_NO):
                raise self.refuse(f"{column} is 1 or 0, not {text[:40]!r}", i)
            found.append(text in _YES)
        return found

    def names(self, column: str) -> list[str]:
        """A column as text; empty where a row says nothing.

        Raises:
            DataError: A cell is a list, an object, true or false.
        """
        for i, row in enumerate(self.rows):
            cell = row.get(column)
            if cell is not None and (isinstance(cell, bool) or not isinstance(cell, str | Real)):
                raise self.refuse(f"{column} is a name or a number, not {str(cell)[:40]!r}", i)
        return [_text(row.get(column)) for row in self.rows]

    def refuse(self, message: str, row: int) -> DataError:
        """An error about a row."""
        return DataError(message, self.path, self.lines[row])

    def _number(self, cell: Any, column: str, row: int) -> float:
        try:
            value = parsed_number(cell)
        except ValueError:
            text = _text(cell)[:40]
            cure = ": write a decimal point, and no separators of thousands" if "," in text else ""
            cure = f": write {text.replace(',', '.')}" if _DECIMAL_COMMA.fullmatch(text) else cure
            raise self.refuse(f"{column} is no number: {text!r}{cure}", row) from None
        if not math.isfinite(value):
            raise self.refuse(f"{column} is {value}: leave out runs without a number", row)
        return value


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()


def read_law_table(path: Path) -> LawTable:
    """The rows of a CSV or JSON file (a list of objects, or ``{"rows": [...]}``).

    Raises:
        DataError: There is no such file, or it is no such table.
    """
    try:
        text = read_regular(path, DataError, _MOST_BYTES).decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError("no such file", path) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", path) from None
    except UnicodeDecodeError:
        raise DataError("not UTF-8 text", path) from None
    table = _from_json(text, path) if text.lstrip()[:1] in ("[", "{") else _from_csv(text, path)
    if not table.rows:
        raise DataError("no rows", path)
    return table


def _from_json(text: str, path: Path) -> LawTable:
    value = parse_json(text, str(path), DataError)
    rows = value.get("rows") if isinstance(value, dict) else value
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError('no table: give a list of objects, or {"rows": [...]}', path)
    if any(len({_column(name) for name in row}) < len(row) for row in rows):
        raise DataError("two columns have one name", path)
    rows = [{_column(name): cell for name, cell in row.items()} for row in rows]
    columns = tuple(dict.fromkeys(key for row in rows for key in row))
    return LawTable(path, columns, tuple(rows), tuple(range(1, len(rows) + 1)))


def _column(name: str) -> str:
    """A column's name, however it is written: ``Loss`` is ``loss``."""
    return name.strip().lower()


def _from_csv(text: str, path: Path) -> LawTable:
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restkey="", restval=None)
    try:
        columns = tuple(_column(name) for name in reader.fieldnames or ())
        rows, lines = [], []
        for row in reader:
            if "" in row and "" not in columns:
                raise DataError("more cells than columns", path, reader.line_num)
            if None in row.values():
                there = sum(cell is not None for cell in row.values())
                raise DataError(f"{there} of {len(columns)} cells: the line ends early", path, reader.line_num)
            rows.append(dict(zip(columns, row.values(), strict=False)))
            lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"no CSV: {error}", path) from None
    if len(set(columns)) != len(columns):
        raise DataError("two columns have one name", path)
    return LawTable(path, columns, tuple(rows), tuple(lines))


def refuse_twins(table: LawTable, keys: Sequence[str]) -> None:
    """Refuse two rows that are alike in all of the columns.

    Raises:
        DataError: There are; it names both lines.
    """
    known: dict[tuple[str, ...], int] = {}
    for i, cells in enumerate(zip(*(table.names(key) for key in keys if table.has(key)), strict=True)):
        if cells in known:
            raise table.refuse(f"the same run as line {table.lines[known[cells]]}: a row stands for one run", i)
        known[cells] = i


def refuse_mixed_units(table: LawTable) -> None:
    """Refuse losses that have no common axis: nats and bits per token mean something else with every tokenizer.

    Raises:
        DataError: A unit that is none, two units, or two tokenizers and losses per token.
    """
    for i, unit in enumerate(table.names("unit")):
        if unit not in ("", *UNITS):
            raise table.refuse(f"unit {unit[:40]!r}: {did_you_mean(unit, UNITS)}", i)
    units = sorted(set(table.names("unit"))) if table.has("unit") else []
    if len(units) > 1:
        named = " and ".join(unit or "no unit" for unit in units)
        raise DataError(f"losses in {named}: a law takes one unit", table.path)
    tokenizers = sorted(set(table.names("tokenizer"))) if table.has("tokenizer") else []
    if len(tokenizers) > 1 and units != ["bits_per_byte"]:
        cure = " (--unit bits_per_byte)" if table.about else ", and unit bits_per_byte"
        raise DataError(
            f"losses per token of {len(tokenizers)} tokenizers ({', '.join(tokenizers)}) on one axis: give bits per "
            f"byte on one text{cure}",
            table.path,
        )
