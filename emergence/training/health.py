"""Numerical health of a training loop: what stops it, what it goes back to, and at which rate it tries again.

A checkpoint never holds a number that is not finite. ``--on-nan rewind`` goes back to the checkpoint that the
settings place before the failure (not to one that a signal happened to leave later, so that interruptions change
nothing), halves the learning rate for the rest of the loop, and gives up after :data:`MOST_REWINDS` times.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emergence.errors import EmergenceError
from emergence.spec import OnNan
from emergence.training.checkpoint import Checkpoint, Checkpointer

logger = logging.getLogger(__name__)

#: What a rewind multiplies the learning rate with, and how many there are before the run stops all the same.
REWIND_FACTOR = 0.5
MOST_REWINDS = 6


class NonFiniteLossError(EmergenceError):
    """A loss, gradient or weight became NaN or infinite; the last good state is in the checkpoint.

    Attributes:
        step: The update (from 1) that showed it or made it.
    """

    def __init__(self, message: str, step: int = 0) -> None:
        super().__init__(message)
        self.step = step


def all_finite(*modules: nn.Module) -> bool:
    """Whether every parameter is finite: a state that is not is never saved."""
    return all(bool(p.isfinite().all()) for module in modules for p in module.parameters())


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale all gradients down to a global norm of ``limit`` (0: leave them); returns the norm before, a scalar."""
    weights = [weight for weight in parameters if weight.grad is not None]
    norm = torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
    if limit > 0:
        torch.nn.utils.clip_grads_with_norm_(weights, limit, norm)
    return norm


@dataclass(frozen=True)
class Recovery:
    """What a training loop does about a number that is not finite.

    Attributes:
        phase: Of its checkpoints. checkpointer: Where they are.
        on_nan: ``stop`` or ``rewind``.
        intervals: Steps between the checkpoints that the settings ask for; each counted from step 0.
        cure: What else a person can do, for the message.
    """

    phase: str
    checkpointer: Checkpointer
    on_nan: OnNan
    intervals: tuple[int, ...]
    cure: str

    def point(self, step: int) -> int:
        """The step of the last checkpoint at or before ``step`` that the settings ask for."""
        return max(step - step % interval for interval in self.intervals)

    def checkpoint(self, error: NonFiniteLossError, rewinds: int) -> Checkpoint | None:
        """What to go back to after ``rewinds`` earlier ones; None if that is not asked for, or was in vain so often."""
        if self.on_nan == "stop" or rewinds >= MOST_REWINDS:
            return None
        found = self.checkpointer.load(self.phase, up_to=self.point(max(error.step - 1, 0)))
        if found is not None:
            rate = REWIND_FACTOR ** (rewinds + 1)
            logger.warning("%s; going on from step %d at %g of the learning rate", error, found.step, rate)
        return found

    def final(self, error: NonFiniteLossError, rewinds: int) -> NonFiniteLossError:
        """``error`` with what was tried, what is kept and what to do now."""
        kept = self.checkpointer.newest_step(self.phase)
        tried = f"; given up after {rewinds} rewinds" if rewinds else ""
        state = "" if kept is None else f"; the state of step {kept} is kept"
        again = ""
        if kept is not None and self.on_nan == "stop":
            again = "add --on-nan rewind to go on from the last checkpoint at half the learning rate, or "
        return NonFiniteLossError(f"{error}{tried}{state}: {again}{self.cure}", error.step)
