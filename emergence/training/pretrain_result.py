"""What pretraining came to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PretrainResult:
    """What pretraining came to.

    Attributes:
        steps: Updates made. tokens_seen: Targets predicted in them.
        epochs: In units of ``samples_per_epoch``. passes: In units of the text.
        validation_loss: Of the weights the trunk is left with, in nats per token, as measured during training.
        best_validation_loss: The least measured. best_step: Where.
        stopped_early: Whether patience ran out.
        seconds: Wall-clock time in training, over all resumptions. tokens_per_second: Tokens seen over it.
        micro_batch_size: Sequences per forward pass. precision: ``fp32`` or ``bf16``. compiled: torch.compile ran.
        rewinds: Times that training went back to a checkpoint after a number that was not finite.
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
