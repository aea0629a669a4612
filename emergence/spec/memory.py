"""Whether an experiment fits a machine, estimated before anything is written.

The estimates count what is certain: weights, gradients, the optimiser's state, and what a pass keeps for going back.
They are compared with what the machine has, or with what Modal was asked for. Standard library only.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from emergence.errors import UsageError
from emergence.spec.cost import Plan
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.model_size import (
    CPU_MICRO_BATCH_TOKENS,
    activation_bytes_per_token,
    count_parameters,
    embedding_rows,
    training_memory_bytes,
)
from emergence.spec.workload import questions_of

_GIB = 2**30
#: What reading a published model takes beside its weights: the program, activations, one layer's states.
BESIDE_PUBLISHED_WEIGHTS = 1_000_000_000
_MEMINFO = Path("/proc/meminfo")
#: Limit and use of a container's memory, in the two layouts that Linux has had.
_CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes that a phase needs at once, on the device that it runs on.

    Attributes:
        phase: In words. weights: Weights, gradients, optimiser. activations: What a pass keeps, and the batch.
        cure: The settings that lower the need.
    """

    phase: str
    weights: int
    activations: int
    cure: str

    @property
    def total(self) -> int:
        return self.weights + self.activations


def memory_need(spec: ExperimentSpec, *, on_gpu: bool) -> MemoryNeed:
    """The phase of ``spec`` that needs most.

    Args:
        on_gpu: On a GPU a micro-batch is found by trying, so one sequence is what pretraining needs at least.
    """
    needs = [_loading(spec)]
    if spec.pretrains and not spec.at_snapshot:
        needs.append(_pretraining(spec, on_gpu=on_gpu))
    if not spec.skip_finetune:
        needs.append(_probing(spec) if spec.freeze_llm else _finetuning(spec))
    return max(needs, key=lambda need: need.total)


def _weight_bytes(spec: ExperimentSpec) -> int:
    model = spec.config.model
    return 4 * count_parameters(model, embedding_rows(model.vocab_size)).total


def _loading(spec: ExperimentSpec) -> MemoryNeed:
    return MemoryNeed("loading the trunk", _weight_bytes(spec), 0, "fewer model.n_layers or a smaller --config-name")


def _pretraining(spec: ExperimentSpec, *, on_gpu: bool) -> MemoryNeed:
    model, pretrain = spec.config.model, spec.config.pretrain
    micro = pretrain.micro_batch_size or (1 if on_gpu else max(1, CPU_MICRO_BATCH_TOKENS // model.sequence_length))
    micro = min(micro, pretrain.batch_size)
    rows = embedding_rows(model.vocab_size)
    precision = "bf16" if on_gpu else "fp32"
    total = training_memory_bytes(model, rows, pretrain, micro, precision, on_gpu=on_gpu)
    at_rest = training_memory_bytes(model, rows, pretrain, 0, precision, on_gpu=on_gpu)
    batch = 8 * pretrain.batch_size * (model.sequence_length + 1)  # token ids of one step
    cure = "a smaller --config-name, fewer model.n_layers, or a smaller pretrain.batch_size or micro_batch_size"
    return MemoryNeed("pretraining", at_rest, total - at_rest + batch, cure)


def _finetuning(spec: ExperimentSpec) -> MemoryNeed:
    """AdamW holds two numbers a weight beside weight and gradient, and the best epoch's weights are kept."""
    questions, tokens = _questions(spec)
    batch = min(spec.config.finetune.batch_size, questions)
    activations = batch * tokens * activation_bytes_per_token(spec.config.model, "bf16")
    cure = "a smaller --config-name, fewer model.n_layers, or a smaller finetune.batch_size"
    return MemoryNeed("finetuning", 5 * _weight_bytes(spec), activations, cure)


def _probing(spec: ExperimentSpec) -> MemoryNeed:
    """A bilinear probe has two matrices for start and end each, with AdamW's two numbers a weight and a gradient."""
    model, probe = spec.config.model, spec.config.probe
    rank = probe.bilinear_rank if "bilinear" in probe.families else 0
    cure = "a smaller --config-name, fewer model.n_layers, or a smaller probe.bilinear_rank"
    return MemoryNeed("probing", _weight_bytes(spec) + 4 * 4 * 4 * model.hidden_size * rank, 0, cure)


def _questions(spec: ExperimentSpec) -> tuple[int, int]:
    """Training questions, and tokens of one with its sentence, roughly."""
    count, tokens = questions_of(spec)
    if spec.qa_data:  # how many there are is not known yet
        count = spec.finetune_samples or 10**9
    return count, min(tokens, spec.config.model.sequence_length)


# What there is -------------------------------------------------------------------------------------


def free_memory() -> int | None:
    """Bytes that this machine, or the container this runs in, has left; None where the system does not tell."""
    free = [_meminfo(), *(_left(limit, use) for limit, use in _CGROUPS)]
    if known := [number for number in free if number is not None]:
        return min(known)
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # no such call on Windows
        return None


def _meminfo() -> int | None:
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
    except (OSError, ValueError, IndexError):
        return None


def _left(limit: Path, use: Path) -> int | None:
    try:
        return max(0, int(limit.read_text(encoding="ascii")) - int(use.read_text(encoding="ascii")))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return None


def refuse_if_too_large(spec: ExperimentSpec, free: int | None, gpu: int | None = None, where: str = "here") -> None:
    """Refuse an experiment that cannot fit.

    Args:
        free: Bytes of ordinary memory; None if unknown. gpu: Bytes of the GPU; None where there is none.
        where: Whose memory that is.

    Raises:
        UsageError: The message names the phase, what it needs, what there is, and the settings that lower it.
    """
    need = memory_need(spec, on_gpu=gpu is not None)
    most, what = (gpu, "GPU memory") if gpu is not None else (free, "memory")
    if most is None or need.total <= most:
        loading = _loading(spec)
        if free is None or loading.total <= free:
            return
        need, most, what = loading, free, "memory"
    raise UsageError(
        f"{need.phase} needs about {need.total / _GIB:,.1f} GiB (weights and optimiser {need.weights / _GIB:,.1f}, "
        f"activations and batch {need.activations / _GIB:,.1f}), and {where} are {most / _GIB:,.1f} GiB of {what}: "
        f"take {need.cure}, or a machine with more"
    )


def refuse_published_too_large(spec: ExperimentSpec, weights: int | None, memory: int, gpu: int) -> None:
    """Refuse a published model that a container on Modal cannot hold.

    Args:
        weights: How many it has; None where nobody knows yet. memory, gpu: Bytes of the container and of its GPU.

    Raises:
        UsageError: It names the need, what there is, and the cure.
    """
    need = (weights or 0) * (2 if spec.config.probe.weights == "bf16" else 4) + BESIDE_PUBLISHED_WEIGHTS
    lacks = [
        (f"the container has {memory / _GIB:.0f}", f"--set compute.memory_gigabytes={math.ceil(need / _GIB)}", memory),
        (f"the GPU {gpu / _GIB:.0f}", "a larger --gpu", gpu),
    ]
    short = [(has, cure) for has, cure, most in lacks if weights is not None and need > most]
    if short:
        half = "" if spec.config.probe.weights == "bf16" else ", or --set probe.weights=bf16 for half"
        raise UsageError(
            f"{spec.model} needs about {need / _GIB:.1f} GiB of memory ({weights:,} weights), and "
            f"{' and '.join(has for has, _ in short)} GiB: take {' and '.join(cure for _, cure in short)}{half}"
        )


def refuse_if_too_large_for(plan: Plan) -> None:
    """Refuse a launch on Modal that fits neither the GPU it asks for nor the memory of its container.

    Raises:
        UsageError: As :func:`refuse_if_too_large`.
    """
    memory = int(plan.spec.config.compute.memory_gigabytes * _GIB)
    if plan.spec.model:
        refuse_published_too_large(plan.spec, plan.parameters, memory, plan.gpu.memory_gigabytes * _GIB)
        return
    refuse_if_too_large(plan.spec, memory, plan.gpu.memory_gigabytes * _GIB, f"on a {plan.gpu.modal_name}")
