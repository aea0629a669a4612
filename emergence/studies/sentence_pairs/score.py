"""The sentence pairs of a run's trunk, of its snapshots, or of the revisions of a published model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from emergence.answering.sentence_scores import LanguageModel, language_model_of, losses_of_logits, score_pairs
from emergence.data.sentence_pairs import PairSet
from emergence.experiment.run_directory import RunDirectory
from emergence.files import content_digest
from emergence.measures.sentence_pairs import SentencePairScores
from emergence.model import Trunk
from emergence.studies.sentence_pairs.result import FILES, PairStudyResult, ScoredModel
from emergence.studies.study import Cell, SealedStudy
from emergence.studies.trunks import Timeline, TimelinePoint, read_timeline, refuse_without_snapshots, told_progress
from emergence.training.recording import Progress

#: Change it when a stored cell means something else.
CELL_VERSION = 1
Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class ModelToScore:
    """One model.

    Attributes:
        name, step, tokens_seen, weights: As :class:`ScoredModel` has them.
        tokenizer: Fingerprint of its tokenizer.
        bos: The token that stands before a sentence; None for none.
        load: A function that brings it to a device.
    """

    name: str
    step: int | None
    tokens_seen: int | None
    weights: str
    tokenizer: str
    bos: int | None
    load: Callable[[torch.device], LanguageModel]


def models_of_run(run: RunDirectory, *, snapshots: bool = False) -> list[ModelToScore]:
    """The trunk that a run starts finetuning from, and before it the snapshots of its pretraining.

    Raises:
        UsageError: The run has no snapshots. RunDirectoryError: It has no trunk yet.
        WeightsError: A file is damaged, or of another run.
    """
    if snapshots:
        refuse_without_snapshots(run)
    timeline = read_timeline(run)
    first = 0 if snapshots else timeline.start_index
    return [_trunk_at(timeline, point) for point in timeline.checkpoints[first : timeline.start_index + 1]]


def _trunk_at(timeline: Timeline, point: TimelinePoint) -> ModelToScore:
    tokenizer = timeline.tokenizer
    name, step, tokens = told_progress(point)

    def load(device: torch.device) -> LanguageModel:
        trunk = point.source.build()
        assert isinstance(trunk, Trunk)
        return language_model_of(trunk, tokenizer, tokenizer.eot, device)

    return ModelToScore(name, step, tokens, point.source.key, tokenizer.fingerprint, tokenizer.eot, load)


def models_of_name(
    name: str,
    revision: str | None = None,
    *,
    snapshots: bool = False,
    precision: Precision = "fp32",
    left_out: Collection[str] = (),
) -> list[ModelToScore]:
    """A published model at one revision, or at all that name a step of its training, but for those ``left_out``.

    Raises:
        UsageError: There is no such model, it cannot be read, or it has no such revisions.
    """
    from emergence.model.huggingface.files import list_revisions

    revisions = [one for one in list_revisions(name) if one not in left_out] if snapshots else [revision]
    return [_model_of(name, one, precision) for one in revisions]


def _model_of(name: str, revision: str | None, precision: Precision) -> ModelToScore:
    from emergence.model.huggingface import find_model, load_model
    from emergence.model.huggingface.loading import load_tokenizer

    files = find_model(name, revision)
    tokenizer = load_tokenizer(files)

    def load(device: torch.device) -> LanguageModel:
        loaded = load_model(name, revision, precision=precision, device=device, files=files)
        encoder = loaded.encoder
        rows = int(encoder.model.get_input_embeddings().weight.shape[0])
        losses = losses_of_logits(encoder.logits)
        return LanguageModel(losses, loaded.tokenizer, tokenizer.start, encoder.max_tokens, device, rows)

    weights, told = files.digest_in(precision), files.progress
    return ModelToScore(
        name=revision or "main",
        step=told.get("steps"),
        tokens_seen=told.get("tokens_seen"),
        weights=weights,
        tokenizer=tokenizer.fingerprint,
        bos=tokenizer.start,
        load=load,
    )


class SentencePairStudy(SealedStudy[ScoredModel, PairStudyResult]):
    """A cell is one model's scores of a set of pairs."""

    files = FILES
    noun = "model"
    steps = "sentences"

    def __init__(
        self,
        subject: dict[str, Any],
        models: Sequence[ModelToScore],
        pairs: PairSet,
        *,
        device: torch.device,
        n_boot: int,
        level: float = 0.95,
    ) -> None:
        self._subject, self._models, self._pairs = subject, models, pairs
        self._device, self._n_boot, self._level = device, n_boot, level

    def cells(self, folder: Path) -> list[Cell[ScoredModel]]:
        shared = [CELL_VERSION, self._pairs.fingerprint]
        return [
            Cell(
                model.name,
                content_digest([*shared, model.weights, model.tokenizer, model.bos])[:24],
                partial(self._score, model),
                2 * len(self._pairs.pairs) * (1 + (model.bos is not None)),
            )
            for model in self._models
        ]

    def _score(self, model: ModelToScore, progress: Progress) -> ScoredModel:
        scores = score_pairs(model.load(self._device), self._pairs.pairs, progress)
        return ScoredModel(model.name, model.step, model.tokens_seen, model.weights, model.bos, scores)

    def restore(self, content: dict[str, Any]) -> ScoredModel:
        stored = content.pop("scores")
        arrays = {
            part: {context: np.array(values, dtype=np.float64) for context, values in stored[part].items()}
            for part in ("nats", "n_tokens")
        }
        n_bytes = np.array(stored["n_bytes"], dtype=np.float64)
        scores = SentencePairScores(
            **arrays, n_bytes=n_bytes, clusters=tuple(stored["clusters"]), kinds=tuple(stored["kinds"])
        )
        return ScoredModel(**content, scores=scores)

    def result(self, made: Sequence[ScoredModel]) -> PairStudyResult:
        # Models that share a cell may differ in name, so the name is not taken from the cell.
        named = tuple(
            ScoredModel(model.name, model.step, model.tokens_seen, cell.weights, cell.bos, cell.scores)
            for cell, model in zip(made, self._models, strict=True)
        )
        settings = {"name": self._pairs.name, "fingerprint": self._pairs.fingerprint, "facts": self._pairs.facts}
        return PairStudyResult(
            self._subject,
            settings,
            named,
            tuple(model.scores.summary(n_boot=self._n_boot, level=self._level) for model in named),
        )
