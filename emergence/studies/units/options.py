"""What is asked of a study of units, and the flag that names kinds of units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from emergence.errors import UsageError
from emergence.model.unit_hooks import KINDS, Kind


@dataclass(frozen=True, kw_only=True)
class UnitOptions:
    """What is asked.

    Attributes:
        roles: ``gold`` for semantic roles, ``wh`` for wh-words.
        kinds: Kinds of units.
        questions: Questions of each half, shared out evenly among the roles; a role gets ten where it has them.
        draws: Random sets that a set of units is compared with.
        snapshots: Whether the snapshots of pretraining are examined, too.
    """

    roles: Literal["gold", "wh"] = "gold"
    kinds: tuple[Kind, ...] = KINDS
    questions: int = 400
    draws: int = 3
    snapshots: bool = False


def parse_kinds(names: Sequence[str]) -> tuple[Kind, ...]:
    """Kinds of units in their usual order.

    Raises:
        UsageError: One is not known, or there is none.
    """
    if unknown := [name for name in names if name not in KINDS]:
        raise UsageError(f"--kind {unknown[0]}: choose from {', '.join(KINDS)}")
    if not names:
        raise UsageError("--kind needs at least one entry: drop the flag for both")
    return tuple(kind for kind in KINDS if kind in names)
