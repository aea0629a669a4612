"""What every loop needs beside its mathematics: where to compute, whom to tell, when to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from emergence.training.checkpoint import Checkpointer, NoCheckpointer
from emergence.training.distributed import Workers
from emergence.training.recording import NoProgress, NullRecorder, Progress, Recorder


@dataclass(frozen=True)
class Context:
    """Where a loop runs and whom it tells. By default it runs alone on the CPU in float32, and nothing is told or kept.

    Attributes:
        device: Where to compute.
        precision: ``fp32`` or ``bf16`` (autocast; weights, heads and losses stay in float32).
        recorder: Takes the lines of the history and the timings.
        checkpointer: Keeps the resumable state. A loop goes on from the checkpoint that is there.
        should_stop: Asked between two pieces of work. If true, a checkpoint is saved and ``StopRequested`` raised.
        alive: Called within work that does not stop in the middle, after each batch, for whoever looks after the run.
        progress: Shown to a person.
        workers: This process among those that share the work. Only pretraining is shared, so a context that is handed
            on to anything else leaves the workers out.
    """

    device: torch.device = field(default=torch.device("cpu"))
    precision: str = "fp32"
    recorder: Recorder = field(default_factory=NullRecorder)
    checkpointer: Checkpointer = field(default_factory=NoCheckpointer)
    should_stop: Callable[[], bool] = lambda: False
    alive: Callable[[], object] = lambda: None
    progress: Progress = field(default_factory=NoProgress)
    workers: Workers = field(default_factory=Workers)
