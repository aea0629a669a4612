"""What finetuning came to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EpochScores:
    """One epoch: mean training loss, and validation loss (both nats per question), exact match and token F1."""

    epoch: int
    train_loss: float
    validation_loss: float
    validation_em: float
    validation_f1: float


@dataclass(frozen=True)
class FinetuneResult:
    """What finetuning did.

    Attributes:
        epochs: Every epoch's scores.
        best: The epoch with the highest validation F1 (on a tie the lower loss), whose weights were kept.
        steps: Optimiser steps taken.
        stopped_early: Whether patience ran out before the last epoch.
        seconds: Wall-clock, added up over resumes.
        questions_per_second: Training questions over those seconds, validation included in the time.
        rewinds: Times that training went back to a checkpoint after a number that was not finite.
    """

    epochs: tuple[EpochScores, ...]
    best: EpochScores
    steps: int
    stopped_early: bool
    seconds: float
    questions_per_second: float
    rewinds: int = 0
