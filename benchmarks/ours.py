"""Our side of the rows: the package's own parts, put together as its loops do."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from emergence.answering.features import span_logits
from emergence.answering.finetune import build_optimizer, gold_tensors
from emergence.data.qa_encoding import EncodedQA, IntArray
from emergence.model import SpanHead, Trunk, build_trunk, span_cross_entropy
from emergence.spec.config import ModelConfig, PretrainConfig, load_config
from emergence.training import execution
from emergence.training.context import Context
from emergence.training.determinism import in_one_order, make_deterministic
from emergence.training.execution import Forward, Gradients, choose_micro_batch, compile_trunk, is_replayed, step_loss
from emergence.training.optim import Optimizers, build_optimizers, clip_gradients

#: What the table is measured at: (blocks, width, heads).
SHAPES = {"2x128": (2, 128, 4), "4x256": (4, 256, 8)}


def model_config(shape: tuple[int, int, int], length: int = 512) -> ModelConfig:
    n_layers, hidden_size, n_heads = shape
    return ModelConfig(n_layers=n_layers, hidden_size=hidden_size, n_heads=n_heads, sequence_length=length)


@dataclass
class Pretraining:
    """One update of the pretraining loop: loss, gradients, clipping, Muon and AdamW."""

    config: ModelConfig
    vocab_rows: int
    precision: str
    device: torch.device
    compiled: bool = False
    settings: PretrainConfig = field(default_factory=lambda: load_config("tiny").pretrain)
    seed: int = 0
    ordered: bool = True  # as runs are

    def __post_init__(self) -> None:
        self.context = Context(self.device, self.precision)
        self.trunk: Trunk = build_trunk(self.config, self.vocab_rows, seed=self.seed).to(self.device)
        self.optimizers: Optimizers = build_optimizers(self.trunk, self.settings, self.precision)
        self.forward: Forward = compile_trunk(self.trunk) if self.compiled else self.trunk
        self.gradients: Gradients | None = None
        self.micro_batch = 0

    def step(self, ids: Tensor, window: int = 0) -> None:
        """Learn from ids (B, T+1), in micro-batches as the loop takes them.

        Args:
            window: Tokens of context, 0 for whole sequences (:func:`step_loss`).
        """
        with _as_in_a_run(self.device, step_loss if self.ordered else _in_any_order):
            if self.gradients is None or self.gradients.window != window:
                self.gradients = self._choose(len(ids), window)
            self.gradients(ids, of=len(ids)).tolist()  # as the loop does, to see that they are finite
            self.optimizers.step()
            self.optimizers.zero_grad()

    def in_any_order(self) -> Pretraining:
        """The same trunk, whose backward pass has whatever kernels there are."""
        other = copy.copy(self)
        other.ordered, other.gradients = False, None
        other.optimizers = build_optimizers(self.trunk, self.settings, self.precision)
        return other

    def _choose(self, batch: int, window: int) -> Gradients:
        micro = self.micro_batch = self.micro_batch or choose_micro_batch(
            self.trunk, self.settings, batch, self.context
        )
        replayed = is_replayed(self.trunk, self.settings.compile, batch, micro, self.context)
        if replayed:
            self.optimizers.replay()
        return Gradients(self.forward, self.trunk, self.settings, micro, self.context, replayed=replayed, window=window)


@contextmanager
def _as_in_a_run(device: torch.device, loss_of: Callable[..., Tensor] = step_loss) -> Iterator[None]:
    """A GPU as a run has it: deterministic. A CPU is that in any case."""
    if device.type == "cpu":
        yield
        return
    before, fill = torch.get_deterministic_debug_mode(), torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    cudnn = torch.backends.cuda.cudnn_sdp_enabled()
    make_deterministic()
    try:
        with mock.patch.object(execution, "step_loss", loss_of):
            yield
    finally:
        torch.set_deterministic_debug_mode(before)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
        torch.backends.cuda.enable_cudnn_sdp(cudnn)


def _in_any_order(*arguments: Any) -> Tensor:
    """A loss from which on a backward pass need not be deterministic. Forward it is, or all is compiled again."""
    loss = step_loss(*arguments)
    loss.register_hook(lambda _: torch.set_deterministic_debug_mode("default"))
    return loss


@dataclass
class Finetuning:
    """One update of the finetuning loop."""

    config: ModelConfig
    vocab_rows: int
    precision: str
    device: torch.device

    def __post_init__(self) -> None:
        self.context = Context(self.device, self.precision)
        self.settings = load_config("tiny").finetune
        self.trunk = build_trunk(self.config, self.vocab_rows, seed=0, init="normal").to(self.device)
        self.head = SpanHead(self.config.hidden_size).to(self.device)
        self.optimizer = build_optimizer(self.trunk, self.head, self.settings)

    def step(self, data: EncodedQA, index: IntArray) -> None:
        """Learn from the questions at ``index``."""
        with _as_in_a_run(self.device):
            batch, golds = data.padded_batch(index), self.settings.train_gold
            with in_one_order(self.device):
                start, end = span_logits(self.trunk, self.head, batch, self.context)
                loss = span_cross_entropy(start, end, *gold_tensors(batch, self.device), train_gold=golds)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
            clip_gradients([*self.trunk.parameters(), *self.head.parameters()], self.settings.grad_clip)
            self.optimizer.step()
