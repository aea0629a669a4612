"""Numerical health of a training loop: what stops it, what it goes back to, and at which rate it tries again."""

from __future__ import annotations

from typing import Literal

from torch import nn

from emergence.errors import EmergenceError

#: ``stop`` at the first number that is not finite, or ``rewind`` to the last checkpoint with a lower learning rate.
OnNan = Literal["stop", "rewind"]

#: What a rewind multiplies the learning rate with, and how many there are before the run stops all the same.
REWIND_FACTOR = 0.5
MOST_REWINDS = 6


class NonFiniteLossError(EmergenceError):
    """A loss, gradient or weight became NaN or infinite; the last good state is in the checkpoint."""


def all_finite(*modules: nn.Module) -> bool:
    """Whether every parameter is finite: a state that is not is never saved."""
    return all(bool(p.isfinite().all()) for module in modules for p in module.parameters())
