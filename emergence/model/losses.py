"""Losses: next-token cross-entropy without all (R, V) logits in memory at once, and span cross-entropy.

Axes: R rows (tokens), r rows of a chunk, p rows of a piece, V vocabulary rows, D hidden size, N questions, W words,
G golds of a question.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from emergence.spec.model_size import GPU_CHUNK_FACTOR

NEVER = float("-inf")
#: Logits and probabilities of a piece take at most so many bytes on a CPU. Twice and half of it are slower.
_CACHE_BYTES = 2**24


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, chunk_rows: int = 512, compiled: bool = False
) -> Tensor:
    """Mean cross-entropy (nats) of ``softmax(hidden @ weight.T)`` against ``targets``.

    At small sizes the vocabulary head is most of the work and its logits most of the memory. The gradients of a
    cross-entropy need nothing from upstream but a scalar. So they are formed chunk by chunk in the forward pass, on a
    CPU piece by piece of a chunk, while the piece's logits are still in cache, and no logits are kept.

    Args:
        hidden: (R, D).
        weight: (V, D).
        targets: (R,) int64 in [0, V).
        chunk_rows: Rows whose logits exist at one time, at most; on a GPU
            :data:`~emergence.spec.model_size.GPU_CHUNK_FACTOR` times as many.
        compiled: Whether the softmax of a loss with gradients is compiled, which passes over the logits less often than
            the library's own operations do. Both are exact, and they differ in the last digits.

    Returns:
        A scalar in float32, differentiable once with respect to ``hidden`` and ``weight``. Under autocast the matrix
        products run in autocast's type. The softmax always runs in float32.
    """
    differentiable = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    dtype = _matmul_dtype(hidden)
    return _LinearCrossEntropy.apply(hidden, weight, targets, chunk_rows, differentiable, dtype, compiled)


def token_losses(hidden: Tensor, weight: Tensor, targets: Tensor, chunk_rows: int = 512) -> Tensor:
    """Cross-entropy (nats) of every row, (R,) float32, not differentiable. Arguments as above."""
    dtype = _matmul_dtype(hidden)
    losses = torch.empty(hidden.shape[0], device=hidden.device)  # (R,)
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        states, matrix = hidden.to(dtype), _transposed(weight.to(dtype))  # (R, D), (D, V)
        piece, _ = _rows_at_once(len(weight), len(states), chunk_rows, dtype, hidden.device, compiled=False)
        logits_buffer, probabilities = _buffers(piece, matrix, piece)
        for start in range(0, len(states), piece):
            part = slice(start, start + piece)
            logits = torch.mm(states[part], matrix, out=logits_buffer[: len(targets[part])])  # (p, V)
            _, losses[part] = _softmax(logits, targets[part], probabilities)
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
        compiled: bool,
    ) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            if not differentiable:
                return token_losses(hidden.to(dtype), weight, targets, chunk_rows).mean()
            loss, *gradients = _loss_and_gradients(hidden, weight, targets, chunk_rows, dtype, compiled)
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        # In place, because nothing else holds them. Their changed versions make autograd refuse a second backward pass.
        return grad_hidden.mul_(grad_loss), grad_weight.mul_(grad_loss), None, None, None, None, None


def _loss_and_gradients(
    hidden: Tensor, weight: Tensor, targets: Tensor, chunk_rows: int, dtype: torch.dtype, compiled: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean loss, and its gradients by ``hidden`` (R, D) and by ``weight`` (V, D).

    With e = softmax - onehot(target) of the rows h, the gradients are e W and e^T h.
    """
    n_rows, device = hidden.shape[0], hidden.device
    states, matrix = hidden.to(dtype), _transposed(weight.to(dtype))  # (R, D), (D, V)
    grad_hidden = torch.empty(hidden.shape, dtype=torch.float32, device=device)  # (R, D)
    grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=device)  # (V, D)
    total = torch.zeros((), device=device)
    piece, chunk = _rows_at_once(len(weight), n_rows, chunk_rows, dtype, device, compiled)
    errors_buffer, probabilities = _buffers(chunk, matrix, 0 if compiled else piece)
    for first in range(0, n_rows, chunk):
        rows = slice(first, min(first + chunk, n_rows))
        for start in range(rows.start, rows.stop, piece):
            part = slice(start, min(start + piece, rows.stop))
            target = targets[part]  # (p,)
            errors = torch.mm(states[part], matrix, out=errors_buffer[part.start - first : part.stop - first])  # (p, V)
            if compiled and device.type != "cpu":
                losses, *of_rows = _compiled(_row_statistics)(errors, target)  # (p,) each
                _compiled(_errors_in_place)(errors, target, *of_rows)
            else:
                if compiled:
                    losses = _compiled(_softmax_in_place)(errors, target)  # (p,)
                else:
                    found, losses = _softmax(errors, target, probabilities)  # (p, V), (p,)
                    errors.copy_(found)  # nothing, where they are the same
                # The target's probability less one, from its loss: nothing is lost to rounding where it is almost 1.
                errors[torch.arange(len(target), device=device), target] = torch.expm1(-losses).to(dtype)
            total += losses.sum()
            grad_hidden[part] = errors @ matrix.T
        of_chunk = errors_buffer[: rows.stop - first].T  # (V, r)
        if dtype == torch.float32:
            grad_weight.addmm_(of_chunk, states[rows])
        else:
            grad_weight += of_chunk @ states[rows]
    return total / n_rows, grad_hidden.div_(n_rows).to(hidden.dtype), grad_weight.div_(n_rows).to(weight.dtype)


def _transposed(weight: Tensor) -> Tensor:
    """The weight (V, D) as the products for logits read it, (D, V).

    Products in bf16 turn it in memory. So it is turned once and not again by each of them.
    """
    return weight.T if weight.dtype == torch.float32 else weight.T.contiguous()


def _buffers(rows: int, matrix: Tensor, rows_of_softmax: int) -> tuple[Tensor, Tensor]:
    """Room for logits (rows, V) in the products' type, and for probabilities in float32; one if they are alike.

    All pieces share it. Otherwise memory of this size would be mapped and cleared again for each.
    """
    logits = torch.empty(rows, matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    if logits.dtype == torch.float32:
        return logits, logits
    return logits, torch.empty(rows_of_softmax, matrix.shape[1], device=matrix.device)


def _softmax(logits: Tensor, target: Tensor, room: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities (p, V) in float32 and losses (p,).

    Args:
        logits: (p, V). In float32 the probabilities take their place.
        target: (p,).
        room: For the probabilities otherwise, (p or more, V).
    """
    peak, of_target = logits.amax(1).float(), logits.gather(1, target[:, None])[:, 0].float()  # (p,)
    if logits.dtype == torch.float32:
        probabilities = torch.softmax(logits, 1, out=logits)
    else:
        probabilities = room[: len(target)].copy_(logits)
        torch.softmax(probabilities, 1, out=probabilities)
    # In this order, because a common offset of the logits, however large, goes away exactly.
    return probabilities, (peak - of_target) - probabilities.amax(1).log()


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled once for all sizes: torch compiles none any more after eight of one function."""
    return torch.compile(function, dynamic=True)


def _softmax_in_place(logits: Tensor, target: Tensor) -> Tensor:
    """Turn logits (p, V) into probabilities. Returns losses (p,) in float32."""
    log_p = torch.log_softmax(logits.float(), 1)  # computed twice rather than kept, once the compiler has it
    losses = -log_p.gather(1, target[:, None])[:, 0]
    logits.copy_(log_p.exp())
    return losses


def _row_statistics(logits: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """Loss, peak, log of the sum of exp(logit - peak), and error at the target, (p,) each, of logits (p, V)."""
    numbers = logits.float()
    peak = numbers.amax(1)
    log_sum = (numbers - peak[:, None]).exp().sum(1).log()
    losses = log_sum - (numbers.gather(1, target[:, None])[:, 0] - peak)
    return losses, peak, log_sum, torch.expm1(-losses)


def _errors_in_place(logits: Tensor, target: Tensor, peak: Tensor, log_sum: Tensor, target_error: Tensor) -> None:
    """Turn logits (p, V) into probabilities less one at the target, from :func:`_row_statistics`.

    For a GPU, where writing the targets afterwards takes launches. On a CPU it takes a fifth longer than that. It is
    compiled apart from what it starts from, which would otherwise be computed again for every number.
    """
    probabilities = ((logits.float() - peak[:, None]) - log_sum[:, None]).exp()
    is_target = torch.arange(logits.shape[1], device=logits.device) == target[:, None]  # (p, V)
    logits.copy_(torch.where(is_target, target_error[:, None], probabilities))


def _rows_at_once(
    vocab_rows: int, n_rows: int, chunk_rows: int, dtype: torch.dtype, device: torch.device, compiled: bool
) -> tuple[int, int]:
    """Rows of a softmax, and rows of a product for the gradient of the weight, of ``n_rows`` in all.

    On a CPU the softmax reads what is still in cache, while a product in bf16 costs a pass over the gradient in
    float32, so there are fewer of them. On a GPU few launches are fast.
    """
    if device.type != "cpu":
        chunk_rows = max(1, min(chunk_rows * GPU_CHUNK_FACTOR, n_rows))
        return chunk_rows, chunk_rows
    chunk_rows = min(chunk_rows, n_rows)
    is_float32 = dtype == torch.float32
    # Probabilities take the place of logits in float32 and once compiled. Otherwise there are both, of
    # 2 and 4 bytes, and room to spare.
    bytes_each = 4 if is_float32 else 2 if compiled else 8
    piece = max(1, min(chunk_rows, _CACHE_BYTES // (vocab_rows * bytes_each)))
    return piece, piece if is_float32 else chunk_rows


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
