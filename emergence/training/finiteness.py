"""Whether every number of a training loop is finite, and the error that says which one is not."""

from __future__ import annotations

from torch import nn

from emergence.errors import EmergenceError


class NonFiniteLossError(EmergenceError):
    """A loss, gradient or weight became NaN or infinite. The last good state is in the checkpoint.

    Attributes:
        step: The update, from 1, in which it became so or was noticed.
    """

    def __init__(self, message: str, step: int = 0) -> None:
        super().__init__(message)
        self.step = step


def all_finite(*modules: nn.Module) -> bool:
    """Whether every parameter is finite. A state that is not finite is never saved."""
    return all(bool(p.isfinite().all()) for module in modules for p in module.parameters())
