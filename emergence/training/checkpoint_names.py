"""How checkpoint files are named. No torch is imported, so ``emergence list`` reads progress without it.

``000012-pretrain-000002400.pth`` is the twelfth checkpoint of the run, taken in phase ``pretrain`` after 2,400 steps.
The counter, not a clock, says which is newest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_PATTERN = re.compile(r"(?P<sequence>\d{6,})-(?P<phase>[a-z][a-z0-9_-]*)-(?P<step>\d{9,})\.pth")


@dataclass(frozen=True, order=True)
class CheckpointName:
    """The parts of a checkpoint's file name. They are ordered by age."""

    sequence: int
    phase: str
    step: int

    def __str__(self) -> str:
        name = f"{self.sequence:06d}-{self.phase}-{self.step:09d}.pth"
        if not _PATTERN.fullmatch(name):
            raise ValueError(f"not a checkpoint name: {name!r}")
        return name


def parse_checkpoint_name(name: str) -> CheckpointName | None:
    """The parts of ``name``, or None if it is no checkpoint's."""
    match = _PATTERN.fullmatch(name)
    return CheckpointName(int(match["sequence"]), match["phase"], int(match["step"])) if match else None
