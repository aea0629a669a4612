"""RMSNorm, squared ReLU and attention with their gradients written out, where PyTorch is slow on a CPU.

PyTorch has no fused CPU kernel for the first two. Composed of single operations they pass over memory a dozen times an
update, which at small widths takes longer than the matrix products. Here each needs three or four passes, and the
results are those of the plain forms to rounding. The plain forms still serve compiled code, which fuses them, GPUs,
which have kernels, and other types. Attention has a kernel, which is slow backward in bf16, compiled or not.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(states: Tensor, gain: Tensor, epsilon: float) -> Tensor:
    """``gain * states / sqrt(mean(states^2) + epsilon)`` over the last axis (Zhang & Sennrich 2019).

    Args:
        states: (..., D).
        gain: (D,). A GPU uses it in the type of ``states``, because its kernel needs that.
        epsilon: Keeps a state of zeros finite.
    """
    if _by_hand(states):
        return _RMSNorm.apply(states.float(), gain.float(), epsilon).to(states.dtype)
    return F.rms_norm(states, gain.shape, gain.to(states.dtype), epsilon)


def squared_relu(inner: Tensor) -> Tensor:
    """``max(0, inner)^2`` of any shape (So et al. 2021)."""
    if not torch.is_grad_enabled():
        return F.relu(inner).square_()
    return _SquaredReLU.apply(inner) if _by_hand(inner) else F.relu(inner).square()


def causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention of each position to those up to it; all (B, H, T, K) and of one type."""
    if torch.is_grad_enabled() and all(map(_suits_bf16_attention, (query, key, value))):
        return _BF16Attention.apply(query, key, value)
    return F.scaled_dot_product_attention(query, key, value, is_causal=True)


def _suits_bf16_attention(heads: Tensor) -> bool:
    """What the kernel takes for granted: some numbers, those of a head side by side."""
    on_cpu = heads.device.type == "cpu" and heads.dtype == torch.bfloat16
    return on_cpu and heads.numel() > 0 and heads.stride(-1) == 1


def _by_hand(x: Tensor) -> bool:
    types = (torch.float32, torch.bfloat16)
    return x.device.type == "cpu" and x.dtype in types and not torch.compiler.is_compiling()


class _RMSNorm(torch.autograd.Function):
    """With r = 1 / rms(x) and y = g r x: dx = r (g dy - x r^2 mean(g x dy)), dg = sum of r x dy."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, gain: Tensor, epsilon: float) -> Tensor:
        size = states.shape[-1]
        norm = torch.linalg.vector_norm(states, dim=-1, keepdim=True)  # (..., 1)
        scale = norm.square_().div_(size).add_(epsilon).rsqrt_()  # (..., 1)
        ctx.save_for_backward(states, scale, gain)
        return (states * scale).mul_(gain)  # (..., D)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        states, scale, gain = ctx.saved_tensors
        size = states.shape[-1]
        products = grad * states  # (..., D)
        rows = products.reshape(-1, size)  # (R, D)
        with torch.autocast("cpu", enabled=False):  # also of a backward pass that is called under autocast
            grad_gain = (scale.reshape(1, -1) @ rows)[0]  # (D,)
            inner = (rows @ gain).view(scale.shape)  # (..., 1)
        pull = inner.mul_(scale).mul_(scale).div_(-size)  # (..., 1)
        grad_states = torch.mul(grad, gain, out=products).addcmul_(states, pull).mul_(scale)  # (..., D)
        return grad_states, grad_gain, None


class _SquaredReLU(torch.autograd.Function):
    """With y = max(0, x)^2: dx = 2 max(0, x) dy, which needs the rectified values alone."""

    @staticmethod
    def forward(ctx: Any, inner: Tensor) -> Tensor:
        rectified = F.relu(inner)
        ctx.save_for_backward(rectified)
        return rectified.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (rectified,) = ctx.saved_tensors
        return (grad * rectified).mul_(2.0)


class _BF16Attention(torch.autograd.Function):
    """PyTorch's fused attention, forward in bf16 and backward in float32.

    Its backward kernel takes up to eight times as long in bf16 for 20 to 40 tokens and up to twice as long for 512, and
    its gradients are three times as far from the exact ones.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        mixed, log_sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, True)
        ctx.save_for_backward(query, key, value, mixed, log_sums)
        return mixed  # (B, H, T, K)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        *states, log_sums = ctx.saved_tensors  # four (B, H, T, K), and (B, H, T) in float32
        inputs = [x.float() for x in (grad, *states)]
        backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        return tuple(x.to(grad.dtype) for x in backward(*inputs, log_sums, 0.0, True))
