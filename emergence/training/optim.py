"""Muon for the trunk's matrices, AdamW for the rest.

Muon is written out here, because ``torch.optim.Muon`` always iterates in bf16, matrix by matrix. With emulated bf16,
that cost 135 ms a step on one thread and 210 ms on two, for three blocks of width 128. This is 6 to 20% of a step of
8,192 tokens. In float32 it is 27 ms. On a GPU, stacking matrices of one shape replaces hundreds of small kernels by a
few. The update is the same, and a test compares the two.
"""

from __future__ import annotations

import inspect
import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from emergence.model import Trunk
from emergence.spec.config import PretrainConfig
from emergence.training.cuda_graphs import Replayed

#: Coefficients of the quintic Newton-Schulz iteration and their number of steps (Jordan et al. 2024).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
#: Muon's momentum where it warms up from (Jordan et al. 2024, the records of modded-nanogpt).
FIRST_MOMENTUM = 0.85
ADAMW_BETA2 = 0.95


class _Untraced(torch.optim.Optimizer):
    """An optimiser that no compiler traces: its methods as torch has them beneath the ones that keep a tracer out.

    Those import ``torch._dynamo``, a second in every process that trains, be anything compiled or not. Where torch does
    not wrap them, they are taken as they are.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)


class AdamW(_Untraced, torch.optim.AdamW):
    """torch's (Loshchilov and Hutter 2019), to the bit; see :class:`_Untraced`."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every weight that has a gradient."""
        _adamw_step(self)


#: Without torch's wrapper for gradients that flow through an update, which this program never asks for.
_adamw_step = inspect.unwrap(torch.optim.AdamW.step)


class Muon(_Untraced):
    """Momentum, orthogonalised by Newton-Schulz (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/).

    After decoupled weight decay, each matrix (A, B) moves by ``lr * sqrt(max(1, A / B))`` times the
    semi-orthogonal matrix that is (roughly) the nearest to its Nesterov momentum.

    Args:
        params: Matrices.
        lr: Learning rate, a number or a scalar where the weights are.
        momentum: Share of the old momentum that is kept.
        weight_decay: Share of a weight that an update takes away, in units of ``lr``.
        warmup: Updates over which the momentum rises in a line to ``momentum``, from 0.85 or what is less. Early
            gradients are soon out of date. 0: it never changes.
        dtype: What the iteration computes in.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float | Tensor,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        warmup: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(
            list(params),
            {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "warmup": warmup, "updates": 0},
        )
        self._dtype = dtype

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take in what was saved, by versions too that knew no warm-up."""
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("warmup", 0)
            group.setdefault("updates", 0)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            momentum = momentum_after(group["updates"], group["momentum"], group["warmup"])
            if group["warmup"]:  # nothing else asks for it, and what is replayed counts nothing
                group["updates"] += 1
            by_shape: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    # A GPU has fewer launches where tall and wide matrices of the same sides go together, all of them
                    # wide. A CPU would wait for the copies.
                    sides = tuple(weight.shape) if weight.device.type == "cpu" else tuple(sorted(weight.shape))
                    by_shape[sides].append(weight)
            for sides, weights in by_shape.items():
                is_tall = [weight.shape != sides for weight in weights]
                momenta = self._nesterov_momenta(weights, momentum)
                wide = torch.stack([one.mT if tall else one for one, tall in zip(momenta, is_tall, strict=True)])
                moves = orthogonalise(wide, self._dtype) * -group["lr"]  # (N, *sides)
                steps = [move.mT if tall else move for move, tall in zip(moves, is_tall, strict=True)]
                torch._foreach_mul_(steps, [math.sqrt(max(1.0, w.shape[0] / w.shape[1])) for w in weights])
                if group["weight_decay"]:
                    torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(weights, steps)

    def _nesterov_momenta(self, weights: list[Tensor], momentum: float) -> list[Tensor]:
        """Nesterov momentum of each, of its shape, after taking in the gradients."""
        for weight in weights:
            if "momentum_buffer" not in self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        buffers = [self.state[weight]["momentum_buffer"] for weight in weights]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        return list(torch._foreach_lerp(gradients, buffers, momentum))


def momentum_after(updates: int, momentum: float, warmup: int) -> float:
    """Muon's momentum for the update after so many."""
    if updates >= warmup:
        return momentum
    first = min(FIRST_MOMENTUM, momentum)
    return first + (momentum - first) * updates / warmup


def orthogonalise(matrices: Tensor, dtype: torch.dtype, epsilon: float = 1e-7) -> Tensor:
    """Push the singular values of matrices (N, A, B) to about 1 (0.7 to 1.2), and keep the singular vectors.

    It computes in ``dtype``.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.to(dtype)
    x = x.mT if tall else x
    # Dividing by the Frobenius norm bounds the largest singular value by 1.
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=epsilon)
    a, b, c = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


class Optimizers:
    """All optimisers of one trunk as one. Their learning rates are one common factor times their peaks.

    On a GPU the rates are scalars there, so that an update can be replayed.

    Args:
        optimizers: With their peaks as rates.
        device: Of the weights.
    """

    def __init__(self, optimizers: list[torch.optim.Optimizer], device: torch.device) -> None:
        self._optimizers, self._device = optimizers, device
        self._peaks = [group["lr"] for group in self._groups()]
        self._replayed: Replayed | None = None
        self._place_rates()

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]

    def _place_rates(self) -> None:
        if self._device.type == "cpu":
            return
        for group in self._groups():
            group["lr"] = torch.tensor(group["lr"], device=self._device)
            if "capturable" in group:
                group["capturable"] = True

    def set_factor(self, factor: float) -> None:
        """Set every learning rate to ``factor`` times its peak."""
        for group, peak in zip(self._groups(), self._peaks, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(factor * peak)
            else:
                group["lr"] = factor * peak

    def replay(self) -> None:
        """Replay updates from now on. The gradients must then always be in the same place.

        An update that depends on more than gradients and rates, which is one of a momentum that warms up, is not.
        """
        if not any(group.get("warmup") for group in self._groups()):
            self._replayed = Replayed()

    def step(self) -> None:
        if self._replayed is None:
            self._step_each()
        else:
            self._replayed(self._step_each)

    def _step_each(self) -> None:
        for optimizer in self._optimizers:
            optimizer.step()

    def zero_grad(self) -> None:
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """State of every optimiser, for a checkpoint, alike on every device."""
        states = [optimizer.state_dict() for optimizer in self._optimizers]
        for state in states:
            for group in state["param_groups"]:
                group["lr"] = float(group["lr"])
                if "capturable" in group:
                    group["capturable"] = False
        return states

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Restore :meth:`state_dict`."""
        for optimizer, state in zip(self._optimizers, states, strict=True):
            optimizer.load_state_dict(state)
        self._place_rates()
        if self._replayed is not None:
            self._replayed = Replayed()  # the state is in another place now


def build_optimizers(trunk: Trunk, config: PretrainConfig, precision: str) -> Optimizers:
    """The configured optimisers. Weight decay applies to matrices, embeddings included, but not to norm gains.

    Args:
        precision: ``fp32`` or ``bf16``: what Muon's iteration computes in. Weights and states are float32 in any case.
    """
    blocks = [weight for weight in trunk.blocks.parameters() if weight.ndim == 2]
    muon = blocks if config.optimizer == "muon" else []
    taken = {id(weight) for weight in muon}
    rest = [weight for weight in trunk.parameters() if id(weight) not in taken]
    groups = [
        {"params": [weight for weight in rest if weight.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [weight for weight in rest if weight.ndim < 2], "weight_decay": 0.0},
    ]
    betas = (config.adamw_beta1, ADAMW_BETA2)
    adamw = AdamW([group for group in groups if group["params"]], lr=config.adamw_lr, betas=betas, fused=True)
    optimizers: list[torch.optim.Optimizer] = [adamw]
    if muon:
        optimizers.append(
            Muon(
                muon,
                lr=config.muon_lr,
                momentum=config.muon_momentum,
                weight_decay=config.weight_decay,
                warmup=config.muon_momentum_warmup,
                dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
            )
        )
    return Optimizers(optimizers, rest[0].device)


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale all gradients down to a global norm of ``limit`` (0: leave them). Returns the norm before, a scalar."""
    weights = [weight for weight in parameters if weight.grad is not None]
    norm = torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
    if limit > 0:
        torch.nn.utils.clip_grads_with_norm_(weights, limit, norm)
    return norm
