"""Data-parallel training on the GPUs of one host, started by torchrun.

Each of n workers holds the whole trunk and takes every n-th sequence of the global batch. Gradients are summed once per
update, after all micro-batches. A model of this size needs no more. The trunk stays unwrapped, so its states, its
compilation and its checkpoints are those of a single process.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn


@dataclass(frozen=True)
class Workers:
    """This process among ``size`` equal ones. By default it is alone."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this worker is the one that writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Return once every worker has called this."""
        if self.size > 1:
            dist.barrier()

    def shard(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """This worker's part of ``indices``. Every index is in the part of one worker."""
        return indices[self.rank :: self.size]

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its sum over the workers."""
        if self.size == 1:
            return
        weights = list(parameters)
        for weight in weights:
            if weight.grad is None:  # this worker had no sequence in the batch
                weight.grad = torch.zeros_like(weight)
        flat = torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None])
        dist.all_reduce(flat)
        parts = flat.split([weight.numel() for weight in weights])
        for weight, part in zip(weights, parts, strict=True):
            weight.grad = part.view_as(weight)

    def sum(self, values: Sequence[float], device: torch.device) -> list[float]:
        """The sum of each value over the workers."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(tensor)
        return [float(value) for value in tensor]


@contextmanager
def workers_from_environment() -> Iterator[Workers]:
    """Join the group that torchrun describes in the environment. Without one there is a single worker."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Workers()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Workers(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()
