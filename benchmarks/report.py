"""What a row found, as the JSON that ``docs/speed.md`` is made from and as lines for the terminal."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import torch

from benchmarks.marks import Kind, kind_of_result
from emergence.errors import DataError
from emergence.files import make_folder, read_json, write_json_atomic
from emergence.training.precision import held_to

#: Rounds from which their range tells something of the median.
LEAST_ROUNDS = 5
#: Characters of the longest text of a result.
_LONGEST = 1_000


@dataclass(frozen=True)
class Figure:
    """One measured quantity: the median of its samples."""

    name: str
    value: float
    unit: str
    samples: list[float]

    @classmethod
    def of(cls, name: str, unit: str, samples: Sequence[float]) -> Figure:
        return cls(name, statistics.median(samples), unit, list(samples))

    @classmethod
    def rate(cls, name: str, unit: str, seconds_per_unit: Sequence[float]) -> Figure:
        """Units per second, from seconds per unit."""
        return cls.of(name, unit, [1 / s for s in seconds_per_unit])


@dataclass(frozen=True)
class Comparison:
    """One mark: what was compared, the figure found, and the least (or most) it should be.

    Attributes:
        limit: What it would be if ours took nothing but what none of the kind does without: its matrix products, at the
            peak of the same minute, or what a note of the row says. None where nobody measured it.
        rounds: The figure in each round, of which ``value`` is the median; empty where they were not kept.
    """

    what: str
    value: float
    mark: float
    at_least: bool = True
    unit: str = "x"
    limit: float | None = None
    rounds: list[float] = field(default_factory=list)

    @classmethod
    def of(
        cls, what: str, rounds: Sequence[float], mark: float, at_least: bool = True, unit: str = "x",
        limit: float | None = None,
    ) -> Comparison:  # fmt: skip
        """That of a figure measured in rounds."""
        return cls(what, statistics.median(rounds), mark, at_least, unit, limit, list(rounds))

    @property
    def met(self) -> bool:
        return self.value >= self.mark if self.at_least else self.value <= self.mark

    @property
    def verdict(self) -> str:
        """``met``, ``missed``, or ``undetermined`` where the mark lies between the rounds.

        Of five rounds or more the least and the greatest hold the true median between them in 15 of 16 cases and more;
        of fewer they say nothing.
        """
        if len(self.rounds) >= LEAST_ROUNDS and min(self.rounds) < self.mark < max(self.rounds):
            return "undetermined"
        return "met" if self.met else "missed"


@dataclass(frozen=True)
class RowResult:
    """One row of the table.

    Attributes:
        row: Its command-line name. title: What it measures.
        figures: What was measured; comparisons: against the marks.
        data: What it was measured on.
        notes: What a reader must know, one sentence each.
        profile: What ours spends most on: ``what``, ``share`` and, of operations, ``calls``.
        facts: Anything else, plain JSON types.
    """

    row: str
    title: str
    figures: list[Figure]
    comparisons: list[Comparison]
    data: str
    notes: list[str] = field(default_factory=list)
    profile: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def to_dict(self, measured_on: Mapping[str, Any]) -> dict[str, Any]:
        """Plain JSON types, with machine, versions and precision added."""
        out = asdict(self)
        out["comparisons"] = [{**asdict(c), "verdict": c.verdict} for c in self.comparisons]
        return {**out, "date": today(), **measured_on}

    def text(self, toy: bool = False) -> str:
        """For the terminal. A toy meets no mark and misses none."""
        lines = [f"{self.title} ({self.data})"]
        lines += [f"  {figure.name:<44} {number(figure.value):>12} {figure.unit}" for figure in self.figures]
        for c in self.comparisons:
            mark = f"{'>=' if c.at_least else '<='} {number(c.mark)}{c.unit}"
            limit = f", limit {number(c.limit)}{c.unit}" if c.limit is not None else ""
            met = "of no meaning for a toy" if toy else c.verdict
            lines.append(f"  {c.what:<44} {number(c.value):>12}{c.unit}  (mark {mark}: {met}{limit})")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def precision_notes(precision: str, device: torch.device, tuned_peer: bool = False) -> list[str]:
    """What to know about the number format: ours run in float32, too, on a CPU that is not faster in bf16.

    Args:
        tuned_peer: Whether the best-tuned peer is among the parties, which does as ours.
    """
    if precision != "fp32" or device.type != "cpu":
        return []
    ours = "ours and the tuned peer" if tuned_peer else "ours"
    held = held_to()
    where = f"where oneDNN is held to {held}" if held else "where bf16 is not faster"
    return [f"float32 throughout: {ours} choose it {where}"]


def number(value: float) -> str:
    """Three significant digits, thousands separated."""
    if value == 0 or not abs(value) < float("inf"):
        return f"{value:g}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def today() -> str:
    """The date of a result, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%d")


def file_name(result: Mapping[str, Any]) -> str:
    """Of a row's JSON: a kind of machine has one a day."""
    return f"{result['row']}_{kind_of_result(result).replace(' ', '-')}_{result['date']}.json"


def save(result: Mapping[str, Any], file: Path) -> None:
    """Write one row's JSON."""
    make_folder(file.parent)
    write_json_atomic(file, result)


def load_newest(folder: Path) -> dict[str, dict[str, Any]]:
    """The newest result of every row in a folder, by row and kind of machine."""
    newest: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob("*.json")):
        result = read_json(file, DataError)
        if not is_result(result):
            raise DataError("no result of these benchmarks", file)
        check(result, file)
        key = f"{result['row']}@{kind_of_result(result)}"
        if key not in newest or _rank(result) >= _rank(newest[key]):
            newest[key] = result
    return newest


def _rank(result: Mapping[str, Any]) -> tuple[bool, str]:
    """A measurement comes before any toy, then the newer one."""
    return not result.get("toy", False), result["date"]


def is_result(found: object) -> bool:
    """Whether parsed JSON is a row's result, or that of how costs grow."""
    return isinstance(found, dict) and {"row", "device", "machine", "date"} <= found.keys()


def check(result: Mapping[str, Any], file: Path) -> None:
    """Refuse what the page could not be made of.

    Raises:
        DataError: A part is missing or of another type; a text is no plain line; the kind of machine is unknown; the
            value is not what its samples say.
    """
    try:
        if kind_of_result(result) not in get_args(Kind):
            raise DataError(f"of an unknown kind of machine, {kind_of_result(result)[:40]!r}", file)
        _line(result["row"])
        datetime.strptime(_line(result["date"]), "%Y-%m-%d")
        if result["row"] == "scaling":
            for curve in _list(result["curves"]):
                _line(curve["cost"]), _line(curve["grows_with"])
                _numbers(curve["sizes"]), _number(curve["exponent"]), _number(curve["standard_error"])
            return
        _line(result["title"]), _line(result["data"]), _line(result["precision"])
        for figure in _list(result["figures"]):
            _line(figure["name"]), _line(figure["unit"], empty=True)
            if not _is_median(_number(figure["value"]), figure["samples"]):
                raise ValueError(f"{figure['name']} is not the median of its samples")
        for c in _list(result["comparisons"]):
            _line(c["what"]), _line(c["unit"], empty=True), _number(c["value"]), _number(c["mark"])
            if not isinstance(c["at_least"], bool):
                raise TypeError("at_least is true or false")
            if (rounds := _list(c.get("rounds", []))) and not _is_median(_number(c["value"]), rounds):
                raise ValueError(f"{c['what']} is not the median of its rounds")
            if c.get("limit") is not None and _number(c["limit"]) < 0:
                raise ValueError("a limit is below zero")
        for entry in _list(result["profile"]):
            _line(entry["what"])
            # A toy's may be of next to nothing.
            is_share = 0 <= _number(entry["share"]) <= 1 or result.get("toy") is True
            if not is_share or not isinstance(entry.get("calls", 0), int):
                raise ValueError("a share or a number of calls that can be none")
        for note in _list(result["notes"]):
            _line(note)
        for name, version in dict(result["versions"]).items():
            _line(name), _line(version)
        about = result["machine"]
        for text in (about["cpu"], *(about[key] for key in ("gpu", "held_to") if key in about)):
            _line(text)
        if not isinstance(result.get("toy", False), bool) or not isinstance(result.get("commit") or "", str):
            raise TypeError("toy is true or false, commit a text")
        _number(about["cores"]), _number(about.get("memory_gigabytes", 1)), _number(about.get("threads", 1))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as reason:
        raise DataError(f"no result of these benchmarks, or damaged ({reason!r})"[:200], file) from None


def _line(value: Any, empty: bool = False) -> str:
    """A text that stands in a cell of a table."""
    if not isinstance(value, str) or not (value or empty):
        raise TypeError(f"{str(value)[:40]!r} is no text")
    if not value.isprintable() or "|" in value or len(value) > _LONGEST:
        raise ValueError(f"{value[:40]!r} is no plain line")
    return value


def _is_median(value: float, samples: Any) -> bool:
    return math.isclose(value, statistics.median(_numbers(samples)), rel_tol=1e-6, abs_tol=1e-12)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError(f"{str(value)[:40]!r} is no number")
    return float(value)


def _numbers(values: Any) -> list[float]:
    if not _list(values):
        raise ValueError("no numbers")
    return [_number(value) for value in values]


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{str(value)[:40]!r} is no list")
    return value
