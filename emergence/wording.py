"""The words that every part of the program says and reads alike: near misses, numbers, durations, estimates, columns.

Nothing reaches a terminal but through :func:`say`, because names of files and words of data may hold orders to it.

Standard library alone, so that anything may import it.
"""

from __future__ import annotations

import difflib
import math
import re
import sys
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any, Protocol

#: Most choices that an error lists, so that a person still reads it.
MOST_CHOICES = 12
#: Control codes but for line feed and tab, half characters, unseen marks, and those that turn the text after them.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\U000e0000-\U000e007f]"
)


#: A number as every program writes it: ASCII digits without separators.
_NUMBER = re.compile(r"[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|nan|inf|infinity)", re.IGNORECASE | re.ASCII)


class HasInterval(Protocol):
    """A number with the ends of its interval, such as an ``Estimate``. An end may be infinite, or nan for none."""

    @property
    def point(self) -> float: ...

    @property
    def lo(self) -> float: ...

    @property
    def hi(self) -> float: ...


def visible(text: str) -> str:
    r"""``text`` with what cannot be seen, or turns what can, spelled out: ``\u202e`` for a right-to-left override."""
    if text.isascii() and text.isprintable():
        return text
    return _UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def in_line(text: str) -> str:
    """``text`` as :func:`visible`, with line feeds and tabs spelled out too: a name cannot begin a line of its own."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def say(text: str, *, err: bool = False, end: str = "\n") -> None:
    """Print ``text``, made :func:`visible`, on standard output or on standard error.

    A character that the terminal's encoding lacks is spelled out instead of ending the program.
    """
    stream = sys.stderr if err else sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    shown = visible(text).encode(encoding, "backslashreplace").decode(encoding)
    print(shown, file=stream, end=end, flush=True)


def says_yes(question: str) -> bool:
    """Ask a person at the terminal. Anything but ``y`` or ``yes`` is a no."""
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def parsed_number(cell: Any) -> float:
    """What somebody wrote as a number, which may be infinite or nan.

    Raises:
        ValueError: It is none. ``float`` takes more: digits of every script, and 1_000.
    """
    if isinstance(cell, bool) or not isinstance(cell, str | Real):
        raise ValueError(f"no number: {cell!r}")
    if isinstance(cell, str) and not _NUMBER.fullmatch(cell.strip(" \t")):
        raise ValueError(f"no number: {cell!r}")
    return float(cell)


def did_you_mean(given: str, known: Iterable[str], otherwise: str | None = None, *, cutoff: float = 0.6) -> str:
    """``did you mean small?`` if a known name is near ``given``, else ``otherwise``, by default a list of choices.

    Args:
        cutoff: Least similarity of a near miss (``difflib``).
    """
    names = list(known)
    if near := difflib.get_close_matches(given, names, n=1, cutoff=cutoff):
        return f"did you mean {near[0]}?"
    more = f" and {len(names) - MOST_CHOICES} more" if len(names) > MOST_CHOICES else ""
    return f"choose from {', '.join(names[:MOST_CHOICES])}{more}" if otherwise is None else otherwise


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 05 min``, ``3.3 days``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds >= 48 * 3600:
        return f"{seconds / 86400:,.1f} days"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60:02d} min"


def time_range(least: float, most: float) -> str:
    """Two durations in seconds in the unit of the longer one: ``3 to 11 h``, ``2.1 to 6 days``, ``under 1 min``."""
    units = ((172_800, 86_400, "days"), (5_400, 3_600, "h"), (90, 60, "min"), (0, 1, "s"))
    _, size, unit = next(entry for entry in units if most >= entry[0])

    def shown(value: float) -> str:
        return f"{value:.1f}".removesuffix(".0") if value < 3 and size > 60 else f"{value:,.0f}"

    low, high = shown(least / size), shown(most / size)
    if low == "0":
        return f"up to {high} {unit}"
    return f"{low} to {high} {unit}" if low != high else f"about {high} {unit}"


def counted(count: int, noun: str) -> str:
    """``1 run``, ``1,200 runs``."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def format_estimate(estimate: HasInterval | None, digits: int = 2, *, signed: bool = False) -> str:
    """``0.50 [0.38, 0.62]``, ``+0.06 [+0.04, +0.08]`` if ``signed``; ``-`` for None."""
    if estimate is None:
        return "-"
    return format_interval(estimate.point, estimate.lo, estimate.hi, digits, signed=signed)


def shown(estimate: HasInterval | None) -> str:
    """``0.281 [0.265, 0.297]``: a score."""
    return format_estimate(estimate, 3)


def gained(estimate: HasInterval | None) -> str:
    """``+0.064 [+0.045, +0.083]``: a difference."""
    return format_estimate(estimate, 3, signed=True)


def format_interval(point: float, lo: float, hi: float, digits: int = 2, *, signed: bool = False) -> str:
    """A number and its interval. Words say what is undefined, unbounded or missing."""

    def shown(value: float) -> str:
        return f"{round(value, digits) + 0.0:{'+' if signed else ''}.{digits}f}"  # the sum turns -0.0 into 0.0

    number = shown(point) if math.isfinite(point) else "undefined"
    if math.isnan(lo) or math.isnan(hi):
        return f"{number} (no interval)"
    if math.isinf(lo) and math.isinf(hi):
        return f"{number} (unbounded)"
    return f"{number} [{shown(lo)}, {shown(hi)}]"


def aligned(rows: Iterable[Sequence[str]], left: int | None = None) -> list[str]:
    """Rows as lines of aligned columns: the first ``left`` (None: all) to the left, the others to the right.

    Raises:
        ValueError: The rows differ in length.
    """
    shown = [[in_line(text) for text in row] for row in rows]
    columns = [
        [text.ljust(width) if left is None or k < left else text.rjust(width) for text in column]
        for k, column in enumerate(zip(*shown, strict=True))
        for width in [max(map(len, column))]
    ]
    return ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]
