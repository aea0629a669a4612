"""Losses: next-token cross-entropy without the (R, V) logits in memory, and span cross-entropy.

Axes: R rows (tokens), V vocabulary rows, D hidden size, N questions, W words.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NEVER = float("-inf")


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, chunk_rows: int = 512) -> Tensor:
    """Mean cross-entropy (nats) of ``softmax(hidden @ weight.T)`` against ``targets``.

    At small sizes the vocabulary head is most of the work and its logits most of the memory. The gradients of a
    cross-entropy need nothing from upstream but a scalar. So they are formed chunk by chunk in the forward pass, while
    the chunk's logits are still in cache, and no logits are kept.

    Args:
        hidden: (R, D).
        weight: (V, D).
        targets: (R,) int64 in [0, V).
        chunk_rows: Rows whose logits exist at one time.

    Returns:
        A scalar in float32, differentiable once with respect to ``hidden`` and ``weight``. Under autocast the matrix
        products run in autocast's type. The softmax always runs in float32.
    """
    differentiable = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    return _LinearCrossEntropy.apply(hidden, weight, targets, chunk_rows, differentiable, _matmul_dtype(hidden))


def token_losses(hidden: Tensor, weight: Tensor, targets: Tensor, chunk_rows: int = 512) -> Tensor:
    """Cross-entropy (nats) of every row, (R,) float32, not differentiable. Arguments as above."""
    dtype = _matmul_dtype(hidden)
    losses = torch.empty(hidden.shape[0], device=hidden.device)  # (R,)
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        weight_t = weight.to(dtype).T  # (D, V)
        for start in range(0, hidden.shape[0], chunk_rows):
            rows = slice(start, start + chunk_rows)
            logits = (hidden[rows].to(dtype) @ weight_t).float()  # (r, V)
            of_target = logits.gather(1, targets[rows, None])[:, 0]  # (r,)
            losses[rows] = logits.logsumexp(1) - of_target
    return losses


def _matmul_dtype(hidden: Tensor) -> torch.dtype:
    """The type that matrix products have here: autocast's, if it is on."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


class _LinearCrossEntropy(torch.autograd.Function):
    """The loss and, in the same pass, its gradients (see :func:`linear_cross_entropy`)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        chunk_rows: int,
        differentiable: bool,
        dtype: torch.dtype,
    ) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            if not differentiable:
                return token_losses(hidden.to(dtype), weight, targets, chunk_rows).mean()
            loss, *gradients = _loss_and_gradients(hidden, weight, targets, chunk_rows, dtype)
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        # In place, because nothing else holds them. Their changed versions make autograd refuse a second backward pass.
        return grad_hidden.mul_(grad_loss), grad_weight.mul_(grad_loss), None, None, None, None


def _loss_and_gradients(
    hidden: Tensor, weight: Tensor, targets: Tensor, chunk_rows: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean loss, and its gradients by ``hidden`` (R, D) and by ``weight`` (V, D).

    With e = softmax - onehot(target) of the rows h, the gradients are e W and e^T h. The softmax's denominator is
    divided out after the products, because they have D columns instead of V.
    """
    n_rows = hidden.shape[0]
    matrix = weight.to(dtype)  # (V, D)
    grad_hidden = torch.empty(hidden.shape, dtype=torch.float32, device=hidden.device)  # (R, D)
    grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)  # (V, D)
    total = torch.zeros((), device=hidden.device)
    # All chunks share one buffer. Otherwise memory of this size would be mapped and cleared again for each.
    buffer = grad_weight.new_empty(min(chunk_rows, n_rows), weight.shape[0])  # (r, V)
    for start in range(0, n_rows, chunk_rows):
        rows = slice(start, start + chunk_rows)
        states, target = hidden[rows].to(dtype), targets[rows]  # (r, D), (r,)
        logits = _product(states, matrix.T, buffer[: len(states)])  # (r, V)
        of_target = logits.gather(1, target[:, None])[:, 0]  # (r,)
        peak = logits.amax(1)  # (r,)
        powers = logits.sub_(peak[:, None]).exp_()  # (r, V)
        scale = powers.sum(1)  # (r,)
        total += (scale.log() + peak - of_target).sum()
        powers[torch.arange(len(target), device=target.device), target] -= scale
        errors = powers.to(dtype)  # (r, V), scale times (softmax - onehot)
        grad_hidden[rows] = (errors @ matrix).float() / scale[:, None]  # (r, D)
        scaled = (states.float() / scale[:, None]).to(dtype)  # (r, D)
        if dtype == torch.float32:
            grad_weight.addmm_(errors.T, scaled)  # (V, D)
        else:
            grad_weight += errors.T @ scaled  # (V, D)
    return total / n_rows, grad_hidden.div_(n_rows).to(hidden.dtype), grad_weight.div_(n_rows).to(weight.dtype)


def _product(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """``left @ right`` in float32, written into ``out``, whatever type the product is computed in."""
    return torch.mm(left, right, out=out) if left.dtype == out.dtype else out.copy_(left @ right)


def span_cross_entropy(
    start_logits: Tensor,
    end_logits: Tensor,
    word_mask: Tensor,
    gold_starts: Tensor,
    gold_ends: Tensor,
    gold_mask: Tensor,
    train_gold: str = "first",
) -> Tensor:
    """Mean over questions of -log p(gold span), with p(i, j) = softmax(start)_i softmax(end)_j.

    Args:
        start_logits, end_logits: (N, W), with any value where ``word_mask`` is False.
        word_mask: (N, W) bool, True at the sentence's words.
        gold_starts: (N, G) int64, first word of each gold span. Any valid index will do where ``gold_mask`` is False.
        gold_ends: (N, G) int64, last word (inclusive) of each gold span.
        gold_mask: (N, G) bool. Column 0 is always a gold.
        train_gold: ``first`` scores column 0 alone, ``marginal`` the sum of p over all golds.

    Returns:
        A scalar in nats, float32.
    """
    start_log_p = _masked_log_softmax(start_logits, word_mask)  # (N, W)
    end_log_p = _masked_log_softmax(end_logits, word_mask)  # (N, W)
    golds = start_log_p.gather(1, gold_starts) + end_log_p.gather(1, gold_ends)  # (N, G)
    if train_gold == "first":
        return -golds[:, 0].mean()
    return -golds.masked_fill(~gold_mask, NEVER).logsumexp(1).mean()


def _masked_log_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Log-softmax over the entries of the last axis where ``mask`` is True, and -inf elsewhere."""
    return logits.float().masked_fill(~mask, NEVER).log_softmax(-1)
