"""How long a GPU takes, from what its data sheet says and what was measured on one.

An update of pretraining is a sum: its floating-point operations at the peak, the bytes that it moves at the memory's
speed, and its launches. The three factors were fitted to seven shapes, 2x128 to ``medium``, on one H100, and the sum is
within a tenth of every one of them (docs/methods.md#cost). Other GPUs are foretold from their data sheets. Standard
library only.
"""

from __future__ import annotations

from dataclasses import dataclass

from emergence.spec.config import ModelConfig, PretrainConfig
from emergence.spec.model_size import (
    count_parameters,
    embedding_rows,
    training_flops_per_token,
    training_memory_bytes,
)

#: How many times as long as at the data sheet's peak and speed.
OPERATIONS_FACTOR, TRAFFIC_FACTOR = 1.5, 2.65
#: Seconds of a pass for every block, and for two more, that are not computing: replayed or compiled, and launched one
#: by one from Python, as finetuning is.
COMPILED_SECONDS, EAGER_SECONDS = 2.2e-4, 3.5e-3
#: Numbers of two bytes that a pass moves for every token, block and unit of width; and bytes for every token and row of
#: the vocabulary, whose logits are written twice and read four times.
_MOVED, _MOVED_BY_HEAD = 60, 12
#: Each further device adds this share of the first one's speed, because gradients have to be exchanged.
EXTRA_DEVICE = 0.8


@dataclass(frozen=True)
class Gpu:
    """One line of the price table, times a count. Peak, speed and size of the memory are those of one."""

    name: str
    count: int
    dollars_per_hour: float
    tflops: float
    terabytes_per_second: float
    memory_gigabytes: int

    @property
    def modal_name(self) -> str:
        return self.name if self.count == 1 else f"{self.name}:{self.count}"


def pretraining_seconds(model: ModelConfig, pretrain: PretrainConfig, tokens: int, gpu: Gpu) -> float:
    """Seconds of pretraining on ``tokens`` tokens, evaluations and checkpoints not counted."""
    rows = embedding_rows(model.vocab_size)
    micro_batch = _micro_batch(model, pretrain, rows, gpu)
    passes = tokens / (micro_batch * model.sequence_length)
    head = _MOVED_BY_HEAD * rows * tokens
    seconds = _seconds(model, tokens * training_flops_per_token(model, rows), tokens, head, gpu)
    return (seconds + COMPILED_SECONDS * (model.n_layers + 2) * passes) / (1 + EXTRA_DEVICE * (gpu.count - 1))


def finetuning_seconds(model: ModelConfig, tokens: int, updates: float, gpu: Gpu) -> float:
    """Seconds of so many updates of finetuning on ``tokens`` tokens in all, on one GPU."""
    flop = 6.0 * tokens * count_parameters(model, embedding_rows(model.vocab_size)).non_embedding
    return _seconds(model, flop, tokens, 0, gpu) + EAGER_SECONDS * (model.n_layers + 2) * updates


def operations_seconds(flop: float, gpu: Gpu) -> float:
    """Seconds of matrix products alone, of a model whose shape nobody knows."""
    return OPERATIONS_FACTOR * flop / (gpu.tflops * 1e12)


def _seconds(model: ModelConfig, flop: float, tokens: int, moved: int, gpu: Gpu) -> float:
    moved += 2 * _MOVED * model.n_layers * model.hidden_size * tokens
    return operations_seconds(flop, gpu) + TRAFFIC_FACTOR * moved / (gpu.terabytes_per_second * 1e12)


def _micro_batch(model: ModelConfig, pretrain: PretrainConfig, rows: int, gpu: Gpu) -> int:
    """Sequences of a pass: the batch, halved until it should fit."""
    size = pretrain.micro_batch_size or pretrain.batch_size
    while size > 1 and training_memory_bytes(model, rows, pretrain, size, "bf16") > gpu.memory_gigabytes * 1e9:
        size = -(-size // 2)
    return size
