"""The result of pretraining, without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PretrainResult:
    """What one pretraining did, and how good its trunk is.

    Attributes:
        steps: Updates made. tokens_seen: Targets predicted in them.
        epochs: Sequences seen, in units of ``samples_per_epoch``. passes: The same in units of the whole text.
        validation_loss: Of the trunk's final weights, in nats per token, as measured during training.
        best_validation_loss: The least that was measured. best_step: The step where it was.
        stopped_early: Whether patience ran out.
        seconds: Wall-clock time in training, over all resumptions. tokens_per_second: ``tokens_seen`` over it.
        micro_batch_size: Sequences per forward pass. precision: ``fp32`` or ``bf16``. compiled: By torch.compile.
        rewinds: How often training went back to a checkpoint after a number that was not finite.
    """

    steps: int
    tokens_seen: int
    epochs: float
    passes: float
    validation_loss: float
    best_validation_loss: float
    best_step: int
    stopped_early: bool
    seconds: float
    tokens_per_second: float
    micro_batch_size: int
    precision: str
    compiled: bool
    rewinds: int = 0
