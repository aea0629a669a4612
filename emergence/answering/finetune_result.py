"""What finetuning came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from emergence.plain import plain


@dataclass(frozen=True)
class EpochScores:
    """The scores of one epoch: mean losses in nats per question, and exact match and token F1 on validation."""

    epoch: int
    train_loss: float
    validation_loss: float
    validation_em: float
    validation_f1: float


@dataclass(frozen=True)
class Setting:
    """One point of the search's grid: a factor of both learning rates, and the name of an embedding scale."""

    lr_factor: float
    embedding: str


@dataclass(frozen=True)
class Trial:
    """A setting that was tried.

    Attributes:
        rung: The rung of the ladder that it was tried on, from 1.
        steps, questions: Optimiser steps, and the size of the subset that they went over.
        validation_f1: Token F1 at the end of the trial; 0 where it diverged.
        validation_loss: Nats per question at the end of the trial; None where it diverged.
    """

    lr_factor: float
    embedding: str
    rung: int
    steps: int
    questions: int
    validation_f1: float
    validation_loss: float | None

    @property
    def setting(self) -> Setting:
        return Setting(self.lr_factor, self.embedding)


@dataclass(frozen=True)
class SearchResult:
    """What the search for settings tried and chose, on validation questions alone.

    Attributes:
        trials: All trials in the order of training. There are none where a finetuning is too short to be searched.
        chosen: The best setting of the last rung.
        edges: Names of what was chosen at an end of its range, so that a better value may lie beyond.
        steps: Optimiser steps of all trials.
        share_of_one_finetuning: Question passes of all trials over those of one finetuning; at most 2.
        embedding_scale: The factor that ``fresh`` multiplies the embedding with. It is None where ``fresh`` is no
            other setting: for a random trunk, or one whose embeddings are not normed on entry. The grid is then half.
    """

    trials: tuple[Trial, ...]
    chosen: Setting
    edges: tuple[str, ...]
    steps: int
    share_of_one_finetuning: float
    embedding_scale: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types for ``finetune_stats.json``; :meth:`from_dict` is the inverse."""
        return plain({"candidates" if key == "trials" else key: value for key, value in vars(self).items()})

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> SearchResult:
        """The inverse of :meth:`to_dict`."""
        return cls(
            trials=tuple(Trial(**trial) for trial in raw["candidates"]),
            chosen=Setting(**raw["chosen"]),
            edges=tuple(raw["edges"]),
            steps=raw["steps"],
            share_of_one_finetuning=raw["share_of_one_finetuning"],
            embedding_scale=raw["embedding_scale"],
        )


@dataclass(frozen=True)
class FinetuneResult:
    """What finetuning did.

    Attributes:
        epochs: Every epoch's scores.
        best: The epoch whose weights were kept: highest validation F1, and on a tie the lower loss.
        steps: Optimiser steps without those of the search.
        stopped_early: Whether patience ran out before the last epoch.
        seconds: Wall-clock seconds, added up over resumes, without those of the search.
        questions_per_second: Training questions over those seconds, which include validation.
        rewinds: How often training went back to a checkpoint after a number that was not finite.
        search: How the settings were found; None where they were given.
    """

    epochs: tuple[EpochScores, ...]
    best: EpochScores
    steps: int
    stopped_early: bool
    seconds: float
    questions_per_second: float
    rewinds: int = 0
    search: SearchResult | None = None

    @property
    def flags(self) -> list[str]:
        """Warnings of a searched finetuning: settings beyond the grid, or more epochs, may be better.

        Settings that were given have no flags, because they are what was asked for.
        """
        if self.search is None:
            return []
        last = self.best.epoch == self.epochs[-1].epoch and not self.stopped_early
        return [*(["search_edge"] if self.search.edges else []), *(["best_epoch_is_last"] if last else [])]
