"""Numerical health of a training loop: whether every number is finite, and the error that says which is not."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from emergence.errors import EmergenceError


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
