"""Full finetuning with settings found on validation: the ceiling must be tuned (docs/methods.md#the-ceiling).

The search is successive halving over learning rate and embedding scale, with one grid for pretrained and random
trunks. The plan of :mod:`emergence.spec.search_budget` bounds it by two finetunings. Every trial is a complete training
on a fixed subset of the training questions, so its learning rate reaches zero. Short trainings favour high rates and
fresh embeddings, because these move fast. So each rung also keeps the best of the slower settings, and the last rung
is half a finetuning. A run that is killed in the search goes on in the middle of its trial, to the same bits.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from emergence.answering.finetune import PHASE as FINETUNE_PHASE
from emergence.answering.finetune import SaveModel, finetune
from emergence.answering.finetune_result import FinetuneResult, SearchResult, Setting, Trial
from emergence.data.qa_encoding import EncodedQA
from emergence.model import SpanHead, Trunk
from emergence.model.embedding_rows import fresh_scale, rescale_embedding
from emergence.spec.config import FinetuneConfig
from emergence.spec.experiment import OnNan
from emergence.spec.search_budget import (
    EMBEDDINGS,
    FRESH,
    LR_FACTORS,
    PRETRAINED,
    Rung,
    finetuning_passes,
    plan_rungs,
)
from emergence.training.checkpoint import Checkpoint, Checkpointer
from emergence.training.context import Context
from emergence.training.finiteness import NonFiniteLossError
from emergence.training.loop import resume
from emergence.training.recording import Position, Progress, Recorder

logger = logging.getLogger(__name__)

PHASE = "finetune_search"
#: What the configuration itself asks for.
DEFAULT = Setting(1.0, PRETRAINED)
#: Where a better setting may lie, by flag of a result.
_BEYOND = {"search_edge": "finetune.lr=...", "best_epoch_is_last": "finetune.epochs=..."}


def finetune_tuned(
    trunk: Trunk,
    head: SpanHead,
    train: EncodedQA,
    validation: EncodedQA,
    config: FinetuneConfig,
    context: Context,
    *,
    seed: int,
    max_answer_words: int,
    save_snapshot: SaveModel | None = None,
    on_nan: OnNan = "stop",
) -> FinetuneResult:
    """:func:`~emergence.answering.finetune.finetune`, after a search for its settings if ``config.search`` is ``on``.

    The history gets a line ``finetune_search`` for every finished trial. The errors are those of ``finetune``.
    """
    trunk, head = trunk.to(context.device), head.to(context.device)
    searched = None
    if config.search == "on" and len(train) and len(validation):
        searched = _carried(context.checkpointer)
        if searched is None:
            search = _Search(trunk, head, train, validation, config, context, seed, max_answer_words)
            searched = search.run()
        config = settle(trunk, config, searched.chosen, searched.embedding_scale)
    result = finetune(
        trunk,
        head,
        train,
        validation,
        config,
        context,
        seed=seed,
        max_answer_words=max_answer_words,
        save_snapshot=save_snapshot,
        on_nan=on_nan,
        carried=searched.to_dict() if searched else None,
    )
    result = replace(result, search=searched)
    if result.flags:
        told = " and ".join(result.flags).replace("_", " ")
        settings = " --set ".join(_BEYOND[flag] for flag in result.flags)
        logger.warning("finetuning: %s; a better setting may lie beyond (--set %s)", told, settings)
    return result


def grid(embedding_scale: float | None) -> list[Setting]:
    """The settings that the search starts from: six, or three where there is one scale. The default comes first."""
    scales = EMBEDDINGS if embedding_scale is not None else (PRETRAINED,)
    points = [Setting(factor, scale) for scale in scales for factor in LR_FACTORS]
    return sorted(points, key=lambda point: point != DEFAULT)


def settle(trunk: Trunk, config: FinetuneConfig, setting: Setting, embedding_scale: float | None) -> FinetuneConfig:
    """Bring ``trunk`` to the setting's embedding scale, in place, and return the configuration with its rates."""
    if setting.embedding != PRETRAINED and embedding_scale is not None:
        rescale_embedding(trunk, embedding_scale)
    factor = setting.lr_factor
    return replace(config, lr=config.lr * factor, head_lr=config.head_lr * factor)


def survivors(trials: Sequence[Trial], keep: int) -> list[Setting]:
    """The ``keep`` settings of a rung that go on, ranked by validation F1 and on a tie by the lower loss.

    The best setting goes on first. Then follow the best that moves less than it (a lower rate, or the same rate
    without its fresh embedding), the best with a lower rate, the best with the other embedding, and the next by rank.
    Example: (x 3, fresh) is best and two go on. The second is the best of (x 3, pretrained), all x 1 and all x 0.3.
    """
    ranked = sorted(trials, key=_badness)
    best = ranked[0]
    slower = [t for t in ranked if (t.lr_factor, t.embedding == FRESH) < (best.lr_factor, best.embedding == FRESH)]
    lower = [t for t in ranked if t.lr_factor < best.lr_factor]
    other = [t for t in ranked if t.embedding != best.embedding]
    order = [best, *slower[:1], *lower[:1], *other[:1], *ranked]
    kept = set(list(dict.fromkeys(trial.setting for trial in order))[:keep])
    return [trial.setting for trial in ranked if trial.setting in kept]


def edges_of(chosen: Setting) -> tuple[str, ...]:
    """``lr_factor`` where the chosen one is the least or the greatest of the grid. The embeddings have no ends."""
    return ("lr_factor",) if chosen.lr_factor in (min(LR_FACTORS), max(LR_FACTORS)) else ()


def _badness(trial: Trial) -> tuple[float, float]:
    return -trial.validation_f1, math.inf if trial.validation_loss is None else trial.validation_loss


def _carried(checkpointer: Checkpointer) -> SearchResult | None:
    """The search that the finetuning under way started from; None if no finetuning has started."""
    newest = checkpointer.load(FINETUNE_PHASE)
    raw = newest.state.get("carried") if newest is not None else None
    return SearchResult.from_dict(raw) if raw is not None else None


@dataclass
class _Search:
    """A search. Its only state is the finished trials, which decide what comes next, and the trial under way."""

    trunk: Trunk
    head: SpanHead
    train: EncodedQA
    validation: EncodedQA
    config: FinetuneConfig
    context: Context
    seed: int
    max_answer_words: int
    trials: list[Trial] = field(default_factory=list)
    seconds: float = 0.0

    def run(self) -> SearchResult:
        # An embedding that is not trained stays as it is, whatever its scale.
        scale = fresh_scale(self.trunk) if self.trunk.embedding.weight.requires_grad else None
        settings = grid(scale)
        rungs = plan_rungs(len(self.train), self.config, len(settings))
        self.order = np.random.default_rng([self.seed, 0x5EA]).permutation(len(self.train))
        self.total = sum(rung.candidates for rung in rungs)
        resume(self.context, PHASE, self._restore, self._save)
        for rung in rungs:
            done = [trial for trial in self.trials if trial.rung == rung.number]
            for setting in settings[len(done) :]:
                done.append(self._try(setting, rung, scale))
            after = next((r.candidates for r in rungs if r.number > rung.number), 1)
            settings = survivors(done, after)
        return self._result(settings[0], rungs, scale)

    def _try(self, setting: Setting, rung: Rung, scale: float | None) -> Trial:
        """One complete training on the rung's subset, scored on all validation questions at its end."""
        clock = time.monotonic()
        trunk, head = copy.deepcopy(self.trunk), copy.deepcopy(self.head)
        steps = rung.steps(self.config.batch_size)
        # All passes are one epoch, so that validation questions are scored once and the rate falls to zero.
        config = replace(settle(trunk, self.config, setting, scale), epochs=1, min_steps_per_epoch=steps, patience=0)
        f1, loss = 0.0, None
        try:
            result = finetune(
                trunk,
                head,
                self.train.subset(np.sort(self.order[: rung.questions])),
                self.validation,
                config,
                self._trial_context(),
                seed=self.seed,
                max_answer_words=self.max_answer_words,
                announce=False,
            )
            f1, loss = result.best.validation_f1, result.best.validation_loss
        except NonFiniteLossError as error:
            logger.info("search: %s", error)
        trial = Trial(**asdict(setting), rung=rung.number, steps=steps, questions=rung.questions,
                      validation_f1=f1, validation_loss=loss)  # fmt: skip
        self.trials.append(trial)
        self.seconds += time.monotonic() - clock
        self.context.recorder.log("finetune_search", **asdict(trial))
        self.context.recorder.time("finetune_search", trial=len(self.trials), seconds=self.seconds)
        logger.info("search: rate x %g, %s embedding, %d steps: validation F1 %.3f",
                    setting.lr_factor, setting.embedding, steps, f1)  # fmt: skip
        self._save()
        return trial

    def _result(self, chosen: Setting, rungs: Sequence[Rung], scale: float | None) -> SearchResult:
        passes = sum(rung.question_passes for rung in rungs)
        share = passes / finetuning_passes(len(self.train), self.config)
        steps = sum(trial.steps for trial in self.trials)
        logger.info("search: chose rate x %g, %s embedding after %.2f finetunings' worth of training",
                    chosen.lr_factor, chosen.embedding, share)  # fmt: skip
        edges = edges_of(chosen) if rungs else ()
        return SearchResult(tuple(self.trials), chosen, edges, steps, share, scale)

    # State -----------------------------------------------------------------------------------------

    def _restore(self, content: dict[str, Any]) -> None:
        self.trials = [Trial(**trial) for trial in content["trials"]]
        self.seconds = content["seconds"]

    def _save(self) -> None:
        self.context.checkpointer.save(PHASE, self._steps_done(), self._progress_made())

    def _steps_done(self) -> int:
        return sum(trial.steps for trial in self.trials)

    def _progress_made(self) -> dict[str, Any]:
        trials = [asdict(trial) for trial in self.trials]
        history, precision = self.context.recorder.position(), self.context.precision
        return {"trials": trials, "seconds": self.seconds, "history": history, "precision": precision, "trial": None}

    def _trial_context(self) -> Context:
        """The search's context, as a trial within it sees it."""
        whole = self.context
        return replace(
            whole,
            recorder=_SilentRecorder(whole.recorder),
            checkpointer=_TrialCheckpointer(whole.checkpointer, self._progress_made(), self._steps_done()),
            progress=_NamedProgress(whole.progress, f"search, training {len(self.trials) + 1} of {self.total}"),
        )


class _TrialCheckpointer(Checkpointer):
    """Keeps a trial's state within the state of the search, under the phase of the search.

    The start and the end of a trial are not saved, because the finished trials on disk say as much.
    """

    def __init__(self, inner: Checkpointer, progress: dict[str, Any], steps_before: int) -> None:
        self._inner, self._progress, self._before = inner, progress, steps_before

    def save(self, phase: str, step: int, state: dict[str, Any], rewind_to: int | None = None) -> Path | None:  # type: ignore[override]
        if not step > 0 or state["epoch"]:
            return None
        trial = {key: value for key, value in state.items() if key != "precision"}  # the search tells it once
        return self._inner.save(PHASE, self._before + step, {**self._progress, "trial": trial})

    def load(self, phase: str | None = None, up_to: int | None = None) -> Checkpoint | None:
        newest = self._inner.load(PHASE)
        if newest is None or newest.state["trial"] is None or newest.state["trials"] != self._progress["trials"]:
            return None
        return Checkpoint(FINETUNE_PHASE, newest.step - self._before, newest.state["trial"])

    def newest_step(self, phase: str) -> int | None:
        return None


class _SilentRecorder:
    """A trial writes nothing of its own, but its checkpoints hold where the run's history stood."""

    def __init__(self, inner: Recorder) -> None:
        self._inner = inner

    def log(self, kind: str, /, **values: Any) -> None:
        pass

    def time(self, kind: str, /, **values: Any) -> None:
        pass

    def position(self) -> Position:
        return self._inner.position()

    def rewind(self, position: Position) -> None:
        self._inner.rewind(position)


class _NamedProgress:
    """Says which trial the steps belong to."""

    def __init__(self, inner: Progress, description: str) -> None:
        self._inner, self._description = inner, description

    def start(self, total: int, unit: str, initial: int = 0, description: str = "") -> None:
        self._inner.start(total, unit, initial, self._description)

    def update(self, n: int, /, **values: float) -> None:
        self._inner.update(n, **values)

    def close(self) -> None:
        self._inner.close()
