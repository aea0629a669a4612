"""How the passes of an update are executed: compiled or not, in how large pieces, and replayed on a GPU or not."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable

import torch
from torch import Tensor

from emergence.errors import EmergenceError
from emergence.model import Trunk, linear_cross_entropy
from emergence.spec.config import PretrainConfig
from emergence.spec.gpu_time import gpu_compiles, gpu_replays
from emergence.spec.local_time import COMMON_CORE
from emergence.spec.model_size import CPU_MICRO_BATCH_TOKENS, halve_until, training_flops_per_token
from emergence.training.context import Context
from emergence.training.cuda_graphs import Replayed
from emergence.training.determinism import in_one_order
from emergence.training.optim import clip_gradients
from emergence.training.precision import autocast

logger = logging.getLogger(__name__)

#: ``compile = auto`` compiles on a CPU when the run would take longer than this (compiling costs most of a minute).
COMPILE_ABOVE_SECONDS = 1200.0
Forward = Callable[[Tensor], Tensor]


def step_loss(forward: Forward, trunk: Trunk, ids: Tensor, chunk_rows: int, precision: str, window: int = 0) -> Tensor:
    """Mean next-token loss (nats) of packed sequences ``ids`` (B, T+1).

    Args:
        window: W tokens, 0 for whole sequences. Each sequence is cut into T/W windows that do not attend to each other.
            All T targets count. Positions start anew in every window, which rotary ones do not show.

    Raises:
        ValueError: W does not divide T. A window would hold the ends of two sequences.
    """
    if window and (ids.shape[1] - 1) % window:
        raise ValueError(f"windows of {window} tokens in sequences of {ids.shape[1] - 1}")
    with autocast(ids.device, precision):
        inputs = ids[:, :-1].reshape(-1, window) if window else ids[:, :-1]
        states = forward(inputs)  # (B, T, D), or (B T/W, W, D)
        # On a CPU it gains nothing in float32.
        compiled = forward is not trunk and (precision == "bf16" or ids.device.type != "cpu")
        targets = ids[:, 1:].flatten()
        return linear_cross_entropy(states.flatten(0, 1), trunk.unembedding, targets, chunk_rows, compiled)


class Gradients:
    """The forward and backward passes of an update, up to clipped gradients in the trunk's weights.

    Args:
        forward: The trunk's forward pass, compiled or not.
        trunk: Must be on the context's device.
        config: Its ``loss_chunk_rows`` and ``grad_clip`` are used.
        micro_batch: Sequences per pass.
        context: Its device, precision and workers are used.
        replayed: Whether it replays a CUDA graph (:func:`is_replayed`). Every call must then have the same number of
            sequences, all of the update's.
        window: Tokens of context (:func:`step_loss`), 0 for whole sequences.
    """

    def __init__(
        self, forward: Forward, trunk: Trunk, config: PretrainConfig, micro_batch: int, context: Context, *,
        replayed: bool = False, window: int = 0,
    ) -> None:  # fmt: skip
        self.window = window
        self._forward, self._trunk, self._config = forward, trunk, config
        self._micro_batch, self._context = micro_batch, context
        self._replayed = Replayed() if replayed else None
        self._ids: Tensor | None = None
        # Of the last call, and always in the same place once it is captured.
        self._result: Tensor
        self._gradients: list[Tensor | None] = []

    def __call__(self, ids: Tensor, of: int) -> Tensor:
        """Compute the gradients of what ids (b, T+1) contribute to the mean loss over ``of`` sequences.

        Returns:
            (2,) on the device: this worker's part of the loss, and the norm of all workers' gradients before clipping.
            A replayed call writes over what the one before returned.
        """
        if self._replayed is None:
            return self._compute(ids, of)
        if of != len(ids):
            raise ValueError(f"{len(ids)} of {of} sequences: a replayed update has them all")
        if self._ids is None:
            self._ids = torch.empty_like(ids, device=self._context.device)
        self._ids.copy_(ids)
        self._replayed(self._of_held_ids)
        for weight, gradient in zip(self._trunk.parameters(), self._gradients, strict=True):
            weight.grad = gradient
        return self._result

    def _of_held_ids(self) -> None:
        assert self._ids is not None
        self._result = self._compute(self._ids, len(self._ids))
        self._gradients = [weight.grad for weight in self._trunk.parameters()]

    def _compute(self, ids: Tensor, of: int) -> Tensor:
        context, weights = self._context, list(self._trunk.parameters())
        self._trunk.zero_grad(set_to_none=True)
        total = torch.zeros((), device=context.device)
        for at in range(0, len(ids), self._micro_batch):
            part = ids[at : at + self._micro_batch].to(context.device)  # (b, T+1)
            with in_one_order(context.device):
                rows, precision = self._config.loss_chunk_rows, context.precision
                loss = step_loss(self._forward, self._trunk, part, rows, precision, self.window)
                loss = loss * (len(part) / of)
                loss.backward()
            total += loss.detach()
        context.workers.sum_gradients(weights)
        return torch.stack([total, clip_gradients(weights, self._config.grad_clip)])


def choose_micro_batch(trunk: Trunk, config: PretrainConfig, batch_size: int, context: Context) -> int:
    """Sequences per forward pass, of this worker's ``batch_size`` per update.

    A configured number is taken. Otherwise the batch is halved on a GPU until a trial pass fits, and on a CPU until it
    has at most :data:`CPU_MICRO_BATCH_TOKENS` tokens.

    Raises:
        EmergenceError: Not even one sequence fits the GPU.
    """
    if config.micro_batch_size:
        return min(config.micro_batch_size, batch_size)
    if context.device.type == "cpu":
        return halve_until(batch_size, lambda size: size * trunk.config.sequence_length <= CPU_MICRO_BATCH_TOKENS)
    # The optimisers allocate their state only at the first update. Its place is kept free meanwhile.
    reserved = [torch.empty_like(weight) for weight in trunk.parameters() for _ in range(2)]

    def fits(size: int) -> bool:
        try:
            run_once(trunk, trunk, size, config.loss_chunk_rows, context)
        except torch.OutOfMemoryError:
            return False
        finally:
            trunk.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
        return True

    size = halve_until(batch_size, fits)
    if size == 1 and not fits(1):
        raise EmergenceError(
            f"one sequence of {trunk.config.sequence_length} tokens does not fit the GPU: "
            "take a larger GPU, or lower model.sequence_length or pretrain.loss_chunk_rows"
        )
    del reserved
    return size


def run_once(
    forward: Forward, trunk: Trunk, batch_size: int, chunk_rows: int, context: Context, window: int = 0
) -> None:
    """One forward and backward pass on arbitrary ids, as training will run it."""
    ids = torch.arange(trunk.config.sequence_length + 1, device=context.device) % trunk.vocab_rows  # (T+1,)
    # The ids are copied, not expanded as a view, because the compiler specialises on memory layout.
    with in_one_order(context.device):  # the compiler guards on it, and would compile all again in training
        step_loss(forward, trunk, ids.repeat(batch_size, 1), chunk_rows, context.precision, window).backward()


def choose_forward(
    trunk: Trunk, config: PretrainConfig, tokens: int, micro_batch: int, context: Context
) -> tuple[Forward, bool]:
    """The trunk's forward pass, compiled if that pays, and whether it is compiled.

    Compilation is tried on a real pass of every shape that training has, before it begins. If it fails, training goes
    on uncompiled with a warning. The trunk itself stays as it is, with the same parameters and names.

    Args:
        trunk: Must be on the context's device.
        config: Its ``compile``, ``loss_chunk_rows`` and ``initial_context`` are used.
        tokens: How many tokens this worker will train on.
        micro_batch: Sequences per pass.
        context: Its device and precision are used.
    """
    flops = tokens * training_flops_per_token(trunk.config, trunk.vocab_rows)
    if not wants_compilation(config.compile, context.device, flops):
        return trunk, False
    compiled = compile_trunk(trunk)
    try:
        for window in {config.initial_context, 0}:
            run_once(compiled, trunk, micro_batch, config.loss_chunk_rows, context, window)
    except Exception as error:  # the compiler's failures have no common class
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        logger.warning("torch.compile failed, training uncompiled: %s", reason)
        return trunk, False
    finally:
        trunk.zero_grad(set_to_none=True)
    return compiled, True


def compile_trunk(trunk: Trunk) -> Forward:
    """The forward pass, compiled at its first call for every shape; the trunk itself stays as it is."""
    if trunk.position is None:
        trunk.rotation(1, trunk.embedding.weight.device)  # so that compiled code finds the angles computed
    forward: Forward = torch.compile(trunk, dynamic=False)
    return forward


def wants_compilation(setting: str, device: torch.device, flops: float) -> bool:
    """Whether to try ``torch.compile`` for a run of so many floating-point operations."""
    if device.type != "cpu":
        return gpu_compiles(setting, flops)
    if setting != "auto":
        return setting == "on"
    seconds = flops / (COMMON_CORE * torch.get_num_threads())
    return seconds > COMPILE_ABOVE_SECONDS and cpp_compiler() is not None


def is_replayed(trunk: Trunk, setting: str, batch_size: int, micro_batch: int, context: Context) -> bool:
    """Whether updates replay CUDA graphs: on one GPU alone, where :func:`~emergence.spec.gpu_time.gpu_replays`."""
    is_alone = context.device.type == "cuda" and context.workers.size == 1
    return is_alone and gpu_replays(setting, trunk.config, trunk.vocab_rows, batch_size, micro_batch)


def cpp_compiler() -> str | None:
    """The path of a C++ compiler that torch.compile takes; None without one."""
    names = (os.environ.get("CXX", ""), "g++", "clang++")
    return next((path for name in names if name and (path := shutil.which(name))), None)
