"""What every loop needs beside its mathematics: where to compute, what to tell whom, when to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from emergence.training.checkpoint import Checkpointer, NoCheckpointer
from emergence.training.distributed import Workers
from emergence.training.recording import NoProgress, NullRecorder, Progress, Recorder


@dataclass(frozen=True)
class Context:
    """Where a loop runs and whom it tells; by default on the CPU in float32, alone, telling and keeping nothing.

    Attributes:
        device: Where to compute.
        precision: ``fp32`` or ``bf16`` (autocast; weights, heads and losses stay in float32).
        recorder: Takes the lines of the history and the timings.
        checkpointer: Where the resumable state is; a checkpoint that is there is resumed from.
        should_stop: Asked between two pieces of work; true saves a checkpoint and raises ``StopRequested``.
        progress: Shown to a person.
        workers: This process among those that share the work. Pretraining alone is shared: whoever hands a context
            on to anything else leaves the workers out.
    """

    device: torch.device = field(default=torch.device("cpu"))
    precision: str = "fp32"
    recorder: Recorder = field(default_factory=NullRecorder)
    checkpointer: Checkpointer = field(default_factory=NoCheckpointer)
    should_stop: Callable[[], bool] = lambda: False
    progress: Progress = field(default_factory=NoProgress)
    workers: Workers = field(default_factory=Workers)
