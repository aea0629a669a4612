"""What ``--snapshot`` means: which weights of a pretraining a run starts from. Standard library only."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from emergence.errors import UsageError

#: The finished trunk, which is every run's where nothing else is asked.
LAST = "last"
#: Most snapshots that a spacing counts.
MOST_SPACED = 200
_SPACED = re.compile(r"([1-9]\d{0,2})of([1-9]\d{0,2})")
_STEP = re.compile(r"0*([1-9]\d{0,11})")
_LOG = re.compile(r"log([1-9]\d{0,2})")


def meant_snapshot(asked: str) -> str:
    """The one way to write what is asked: ``last``, a step (``64``), or ``3of8``, the third of eight in log steps.

    Raises:
        UsageError: It is none of these.
    """
    if step := _STEP.fullmatch(asked):
        return step[1]
    if spaced := _SPACED.fullmatch(asked):
        k, n = int(spaced[1]), int(spaced[2])
        if k <= n and 2 <= n <= MOST_SPACED:
            return LAST if k == n else f"{k}of{n}"
    if asked == LAST:
        return LAST
    raise UsageError(f"--snapshot must be last, a step from 1 on, or one of several such as 3of8, not {asked!r}")


def spaced_snapshots(asked: object) -> list[str] | None:
    """What ``log8`` stands for in a matrix: ``1of8`` to ``7of8``, and ``last``; None if it is not of this form."""
    spaced = _LOG.fullmatch(asked) if isinstance(asked, str) else None
    n = int(spaced[1]) if spaced else 0
    return [*(f"{k}of{n}" for k in range(1, n)), LAST] if 2 <= n <= MOST_SPACED else None


def wanted_of(snapshot: str) -> tuple[int, int] | None:
    """``(3, 8)`` for ``3of8``; None for a step or ``last``."""
    spaced = _SPACED.fullmatch(snapshot)
    return (int(spaced[1]), int(spaced[2])) if spaced else None


def choose_step(steps: Sequence[int], snapshot: str) -> int | None:
    """The step that is meant, of those whose weights were kept; None if it is not among them.

    Of N in log steps the first is the first step that was kept and the last the last one. The others are those nearest
    to even spacing in the log of the step, each of them another.

    Args:
        steps: In any order. Step 0 is the untrained trunk and never meant.
        snapshot: A step, or ``3of8``.
    """
    kept = sorted({step for step in steps if step > 0})
    wanted = wanted_of(snapshot)
    if wanted is None:
        return int(snapshot) if int(snapshot) in kept else None
    k, n = wanted
    if len(kept) < n:
        return None
    x = [math.log(step) for step in kept]
    at = -1
    for i in range(k):
        place = x[0] + (x[-1] - x[0]) * i / (n - 1)
        nearest = min(range(len(x)), key=lambda j: abs(x[j] - place))
        at = min(max(nearest, at + 1), len(kept) - n + i)
    return kept[at]


def spaced_among(snapshot: str, kept: int) -> str | None:
    """For ``3of8`` where only six are kept ``2of6``, the one at the same place among these.

    None for a step, and where fewer than two are kept.
    """
    wanted = wanted_of(snapshot)
    if wanted is None or kept < 2:
        return None
    k, n = wanted
    return f"{1 + round((k - 1) * (kept - 1) / (n - 1))}of{kept}"
