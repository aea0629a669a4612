"""The words that every part of the program says alike: near misses, durations, counts, estimates, aligned columns.

Standard library alone, so that anything may import it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from typing import Protocol

#: Most choices that an error lists, so that a person still reads it.
MOST_CHOICES = 12


class HasInterval(Protocol):
    """A number with the ends of its interval, such as an ``Estimate``. An end may be infinite, or nan for none."""

    @property
    def point(self) -> float: ...

    @property
    def lo(self) -> float: ...

    @property
    def hi(self) -> float: ...


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

    def shown(value: float) -> str:  # the sum turns -0.0 into 0.0
        return f"{round(value, digits) + 0.0:+.{digits}f}" if signed else f"{value:.{digits}f}"

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
    columns = [
        [text.ljust(width) if left is None or k < left else text.rjust(width) for text in column]
        for k, column in enumerate(zip(*rows, strict=True))
        for width in [max(map(len, column))]
    ]
    return ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]
