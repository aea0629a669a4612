"""The life of one trunk: its snapshots in pretraining, the trunk at the start of finetuning, and those after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from emergence.answering.stored_heads import trunk_weights
from emergence.data.tokenizer import TextTokenizer
from emergence.errors import RunDirectoryError, UsageError
from emergence.experiment.belonging import RANDOM, load_own
from emergence.experiment.store import RunDirectory
from emergence.model import Trunk, build_trunk
from emergence.spec.config import ModelConfig
from emergence.studies.activations import TrunkSource, weights_key
from emergence.training.checkpoint import WeightsFile, check_numbers, load_into, load_weights

Phase = Literal["pretrain", "start", "finetune"]

#: Facts of a weights file that a reader of a curve wants.
_FACTS = ("step", "tokens_seen", "epoch", "train_loss", "validation_loss", "validation_em", "validation_f1")


@dataclass(frozen=True)
class TimelinePoint:
    """One point in the life of a trunk.

    Attributes:
        name: ``pretrain_step_64``, ``pretrained``, ``finetune_epoch_3``...
        phase: ``start`` is the trunk that finetuning begins with, and the reference of drift.
        path: The weights file.
        source: The trunk that the file holds.
        facts: Step, loss and the like, as far as the file tells.
    """

    name: str
    phase: Phase
    path: Path
    source: TrunkSource
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Timeline:
    """The points of one run in order.

    Attributes:
        run: The run.
        checkpoints: Points of pretraining, then the start, then points of finetuning.
        model, vocab_rows, tokenizer: The architecture, the number of embedding rows and the tokenizer of all points.
    """

    run: RunDirectory
    checkpoints: tuple[TimelinePoint, ...]
    model: ModelConfig
    vocab_rows: int
    tokenizer: TextTokenizer

    @property
    def name(self) -> str:
        return self.run.run_id

    @property
    def facts(self) -> dict[str, Any]:
        """Which run it is, as results of studies tell it."""
        spec = self.run.spec
        return {
            "run_id": self.run.run_id,
            "experiment_id": spec.experiment_id,
            "config_name": spec.config.name,
            "condition": spec.condition,
            "seed": spec.seed,
        }

    @property
    def reference(self) -> str:
        """What points are compared with, in words."""
        return "the start"

    @property
    def n_levels(self) -> int:
        return self.model.n_layers + 1

    @property
    def start_index(self) -> int:
        return next(i for i, point in enumerate(self.checkpoints) if point.phase == "start")

    @property
    def start(self) -> TimelinePoint:
        return self.checkpoints[self.start_index]

    @property
    def last(self) -> TimelinePoint:
        return self.checkpoints[-1]

    @property
    def finetuned(self) -> tuple[TimelinePoint, ...]:
        return self.checkpoints[self.start_index + 1 :]

    @property
    def trunk_never_moved(self) -> bool:
        """Whether there are finetuning checkpoints, and all hold the start's trunk (a frozen run)."""
        return bool(self.finetuned) and all(p.source.key == self.start.source.key for p in self.finetuned)


def read_timeline(run: RunDirectory) -> Timeline:
    """The checkpoints of a run, finished or not.

    A pretraining snapshot with the weights of the start is left out, because the start stands for it. The file
    ``toy_llm_qasrl_finetuned.pth`` is left out where it repeats the snapshot of an epoch.

    Raises:
        RunDirectoryError: There is no trunk to begin with.
        UsageError: The run probed a published model.
        WeightsError: A file is damaged, or of another run.
    """
    if run.spec.model:
        raise UsageError(
            f"{run.run_id} probed a published model, whose history are its revisions: emergence probe --revisions, or "
            "emergence cka --model"
        )
    if not run.trunk_path.is_file():
        raise RunDirectoryError(
            f"{run.path} has no {run.trunk_path.name} yet: let the run finish pretraining, then compare"
        )
    weights = load_own(run, run.trunk_path)
    start = _checkpoint("pretrained", "start", run.trunk_path, weights)
    points: dict[str, list[TimelinePoint]] = {"pretrain": [], "finetune": []}
    for snapshot in run.snapshots():
        phase: Phase = "pretrain" if snapshot.phase == "pretrain" else "finetune"
        points[phase].append(_checkpoint(snapshot.path.stem, phase, snapshot.path, load_own(run, snapshot.path)))
    if run.finetuned_path.is_file():
        best = _checkpoint("finetuned", "finetune", run.finetuned_path, load_own(run, run.finetuned_path))
        if best.source.key not in {point.source.key for point in points["finetune"]}:
            points["finetune"].append(best)
    return Timeline(
        run,
        (*_in_order(points["pretrain"], {start.source.key}), start, *points["finetune"]),
        weights.model,
        weights.vocab_rows,
        TextTokenizer.from_json(weights.tokenizer_json, str(run.trunk_path)),
    )


def refuse_without_snapshots(run: RunDirectory) -> None:
    """Refuse a run that kept no snapshots of its pretraining.

    Raises:
        UsageError: In one line with the cure.
    """
    if not any(snapshot.phase == "pretrain" for snapshot in run.snapshots()):
        hint = "give the run that pretrained it" if not run.spec.pretrains else "pretrain with pretrain.step_snapshots"
        raise UsageError(f"{run.run_id} has no pretraining snapshots (pretrain_*.pth): {hint}")


def told_progress(point: TimelinePoint) -> tuple[str, int | None, int | None]:
    """Name, steps and tokens of pretraining at a point, as far as its file tells; a random start is ``random``."""
    step, tokens = point.facts.get("step"), point.facts.get("tokens_seen")
    if point.phase == "start":
        metadata = load_weights(point.path).metadata
        if metadata.get("stage") == RANDOM:
            return "random", 0, 0
        pretraining = metadata.get("pretraining") or {}
        step, tokens = pretraining.get("steps"), pretraining.get("tokens_seen")
    return point.name, step, tokens


def has_other_questions(run: RunDirectory, fingerprint: str) -> bool:
    """Whether ``run`` tells which questions it read and these have another ``fingerprint``."""
    try:
        known = run.read_data()["fingerprints"].get("questions")
    except (RunDirectoryError, KeyError):
        return False
    return known not in (None, fingerprint)


def trunk_of(model: ModelConfig, vocab_rows: int, state: Mapping[str, Tensor], origin: str | Path) -> Trunk:
    """A trunk with the weights of ``state``, whose heads are left out.

    Raises:
        WeightsError: The weights do not fit, or are no finite float32 numbers. The message names ``origin``, where they
            came from.
    """
    trunk, weights = build_trunk(model, vocab_rows, seed=0), trunk_weights(state)
    load_into(trunk, weights, origin)
    check_numbers(weights, origin)
    return trunk


def _checkpoint(name: str, phase: Phase, path: Path, weights: WeightsFile) -> TimelinePoint:
    """What identifies the file ``path``. Its weights are not kept, but read again when they are wanted."""

    def build() -> Trunk:
        again = load_weights(path)
        return trunk_of(again.model, again.vocab_rows, again.state_dict, path)

    source = TrunkSource(weights_key(weights.state_dict), weights.model.n_layers + 1, weights.model.hidden_size, build)
    facts = {key: weights.metadata[key] for key in _FACTS if weights.metadata.get(key) is not None}
    return TimelinePoint(name, phase, path, source, facts)


def _in_order(points: list[TimelinePoint], known: set[str]) -> list[TimelinePoint]:
    """Pretraining snapshots by step, each set of weights once. Epoch ends and log-spaced steps are one series."""
    ordered, seen = [], set(known)
    for point in sorted(points, key=lambda p: (p.facts.get("step", 0), p.name)):
        if point.source.key not in seen:
            seen.add(point.source.key)
            ordered.append(point)
    return ordered
