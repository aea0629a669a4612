"""How long a GPU takes, from what its data sheet says and what was measured on one.

A pass of pretraining takes its floating-point operations at the peak, the bytes that it moves at the memory's speed,
and its launches. Two factors and a time were fitted on 2026-11-27 to seven shapes, 2x128 to ``medium``, on one H100
(commit 2f3c528), and are within a tenth of what each took (docs/methods.md#cost). Other GPUs are foretold from their
data sheets. Standard library only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from emergence.spec.config import ModelConfig, PretrainConfig
from emergence.spec.model_size import (
    count_parameters,
    embedding_rows,
    halve_until,
    training_flops_per_token,
    training_memory_bytes,
)

#: The others' estimates follow from their data sheets alone.
MEASURED_GPUS = ("H100", "H100!")
#: One GPU that holds the whole batch replays updates of fewer floating-point operations as CUDA graphs.
REPLAY_BELOW_FLOPS = 5e12
#: How many times as long as at the data sheet's peak and speed.
OPERATIONS_FACTOR, TRAFFIC_FACTOR = 1.5, 2.65
#: Seconds of a pass besides, for every block and two more.
PASS_SECONDS = 2.2e-4
#: The same for its launches from Python where it is not replayed, which hide behind computing: as on the machine of
#: that H100, read off ``tiny`` and ``small``.
LAUNCH_SECONDS = 1.6e-3
#: Seconds of an update of finetuning: 0.094 and 0.107 at 2x128 and 4x256 there, which computed 1% of them.
FINETUNING_UPDATE_SECONDS = 0.1
#: How many times as long computing takes that is not compiled: 1.7 and 2.1 times at 2x128 and 4x256.
UNCOMPILED_FACTOR = 2.0
#: How many times as long matrix products take in float32, and as many bytes are moved, on GPUs that have bf16.
FLOAT32_FACTORS = (8.0, 2.0)
WITHOUT_BF16 = ("T4",)
#: ``compile = auto`` compiles on a GPU when a run has more floating-point operations than this. Compiling took half a
#: minute beside that H100, where it pays from 1e15 to 3e15 on; on slower GPUs it does earlier.
COMPILE_ABOVE_FLOPS = 1e15
#: Bytes that a pass moves for every token, block and unit of width, and for every token and row of the vocabulary,
#: whose logits of two bytes are written twice and read four times.
_BYTES_OF_BLOCK, _BYTES_OF_HEAD = 120, 12
#: Each further device adds this share of the first one's speed, because gradients have to be exchanged.
EXTRA_DEVICE = 0.8


@dataclass(frozen=True)
class Gpu:
    """One line of the price table, times a count. Price, peak, speed and size of the memory are those of one."""

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
    batch = math.ceil(pretrain.batch_size / gpu.count)  # of one device
    has_bf16 = gpu.name not in WITHOUT_BF16
    precision = "bf16" if has_bf16 and pretrain.precision != "fp32" else "fp32"
    micro_batch = _micro_batch(model, pretrain, batch, rows, gpu, precision)
    passes = math.ceil(batch / micro_batch) * tokens / (pretrain.batch_size * model.sequence_length)
    replayed = gpu.count == 1 and gpu_replays(pretrain.compile, model, rows, batch, micro_batch)
    flop = tokens * training_flops_per_token(model, rows)
    of_products, of_traffic = (1.0, 1.0) if precision == "bf16" else FLOAT32_FACTORS
    of_products = of_products if has_bf16 else 1.0  # its peak is that of float32
    computed = _computing(model, of_products * flop, tokens, _BYTES_OF_HEAD * rows, gpu, of_traffic)
    if not gpu_compiles(pretrain.compile, flop / gpu.count):
        computed *= UNCOMPILED_FACTOR
    computed = computed / (1 + EXTRA_DEVICE * (gpu.count - 1)) + PASS_SECONDS * (model.n_layers + 2) * passes
    launches = LAUNCH_SECONDS * (model.n_layers + 2) * passes
    return computed if replayed else max(computed, launches)


def gpu_compiles(setting: str, flops: float) -> bool:
    """Whether a GPU compiles a run of which it computes so many floating-point operations.

    Args:
        setting: ``pretrain.compile``.
    """
    return flops > COMPILE_ABOVE_FLOPS if setting == "auto" else setting == "on"


def gpu_replays(setting: str, model: ModelConfig, vocab_rows: int, batch_size: int, micro_batch: int) -> bool:
    """Whether a GPU that is alone replays updates: it holds the whole batch, and launching it takes long.

    A larger update gains little, and its graph holds on to the memory of a pass.

    Args:
        setting: ``pretrain.compile``, which must not be off.
        batch_size: Sequences of an update. micro_batch: Of a pass.
    """
    flops = batch_size * model.sequence_length * training_flops_per_token(model, vocab_rows)
    return setting != "off" and micro_batch >= batch_size and flops < REPLAY_BELOW_FLOPS


def finetuning_seconds(model: ModelConfig, tokens: int, updates: float, gpu: Gpu) -> float:
    """Seconds of so many updates of finetuning on ``tokens`` tokens in all, on one GPU."""
    flop = 6.0 * tokens * count_parameters(model, embedding_rows(model.vocab_size)).non_embedding
    return max(_computing(model, flop, tokens, 0, gpu), FINETUNING_UPDATE_SECONDS * updates)


def operations_seconds(flop: float, gpu: Gpu) -> float:
    """Seconds of matrix products alone, on one GPU: of a model whose shape nobody knows."""
    return OPERATIONS_FACTOR * flop / (gpu.tflops * 1e12)


def _computing(
    model: ModelConfig, flop: float, tokens: int, bytes_of_head: int, gpu: Gpu, traffic: float = 1.0
) -> float:
    """Seconds on one GPU of so many operations on ``tokens`` tokens.

    Args:
        bytes_of_head: What the head moves for each token. traffic: How many times as many bytes all move as in bf16.
    """
    moved = traffic * tokens * (_BYTES_OF_BLOCK * model.n_layers * model.hidden_size + bytes_of_head)
    return operations_seconds(flop, gpu) + TRAFFIC_FACTOR * moved / (gpu.terabytes_per_second * 1e12)


def _micro_batch(model: ModelConfig, pretrain: PretrainConfig, batch: int, rows: int, gpu: Gpu, precision: str) -> int:
    """Sequences of a pass: those of the device's batch, halved until they should fit its memory."""

    def fits(size: int) -> bool:
        needed = training_memory_bytes(model, rows, pretrain, size, precision, on_gpu=True)
        return needed <= gpu.memory_gigabytes * 1e9

    return halve_until(min(pretrain.micro_batch_size or batch, batch), fits)
