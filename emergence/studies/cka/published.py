"""Temporal CKA over the revisions of a published model: a training history like a run's, compared with its last point.

Nothing is finetuned, so the last revision is the reference, as the trunk that finetuning starts from is a run's. The
result has the schema of a run's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from emergence.errors import UsageError
from emergence.model import Encoder
from emergence.model.huggingface import ModelFiles, find_model, load_model, random_twin
from emergence.model.huggingface.loading import ModelSizes, load_tokenizer, refuse_if_too_large, sizes_of
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.published import size_name
from emergence.studies.activations import TrunkSource
from emergence.studies.cka.nulls import FIRST_RANDOM_SEED
from emergence.studies.cka.result import TemporalCKA
from emergence.studies.cka.temporal import CKAOptions, CKAStudy, choose_probe, subject_of
from emergence.studies.cka.views import Cast
from emergence.studies.probe_sentences import encode_sentences
from emergence.studies.trunks import TimelinePoint
from emergence.training.recording import NoProgress, Progress
from emergence.wording import counted

#: A history takes a way from somewhere to somewhere.
LEAST_REVISIONS = 2
#: The condition that results tell of a model's history.
CONDITION = "published"
_NOT_FINETUNED = "a published model is not finetuned here"


@dataclass(frozen=True)
class RevisionHistory:
    """Revisions of one model in the order of their steps; see :class:`emergence.studies.cka.result.History`."""

    model: str
    checkpoints: tuple[TimelinePoint, ...]
    n_levels: int
    finetuned: tuple[TimelinePoint, ...] = field(default=())

    @property
    def name(self) -> str:
        return self.model

    @property
    def facts(self) -> dict[str, Any]:
        name = size_name(self.model)
        return {
            "run_id": self.model, "experiment_id": None, "config_name": name, "condition": CONDITION, "seed": None,
        }  # fmt: skip

    @property
    def reference(self) -> str:
        return f"the last revision, {self.checkpoints[-1].name}"

    @property
    def start_index(self) -> int:
        return len(self.checkpoints) - 1

    @property
    def trunk_never_moved(self) -> bool:
        return False


def analyse_revisions(
    spec: ExperimentSpec,
    revisions: Sequence[str],
    out_dir: Path,
    *,
    options: CKAOptions,
    left_out: Mapping[str, str] | None = None,
    progress: Progress = NoProgress(),
    should_stop: Callable[[], bool] = lambda: False,
) -> TemporalCKA:
    """Temporal CKA of revisions of ``spec``'s model. It is also written to ``out_dir``.

    Args:
        spec: Its model, the precision of its weights, and the questions that sentences are taken from.
        revisions: Sound ones, in the order of their steps.
        options: How they are compared. Twins and control runs are of runs alone.
        left_out: Suspect revisions and what is wrong with them, which the result names.
        progress, should_stop: As for :func:`emergence.studies.cka.temporal.analyse_run`.

    Raises:
        UsageError: There are fewer than two revisions, one cannot be read, or they differ in shape or tokenizer.
        DataError, StopRequested: As for a run.
    """
    model, precision = spec.model or "", spec.config.probe.weights
    if len(revisions) < LEAST_REVISIONS:
        there = counted(len(revisions), "sound revision")
        raise UsageError(f"{model}: {there}, and a history takes {LEAST_REVISIONS} at least")
    files = [find_model(model, revision) for revision in revisions]
    refuse_if_too_large(files[-1], precision)
    sizes, tokenizer = sizes_of(files[-1]), load_tokenizer(files[-1])
    for one in files[:-1]:
        if sizes_of(one) != sizes or load_tokenizer(one).fingerprint != tokenizer.fingerprint:
            raise UsageError(f"{one.label} has another shape or tokenizer than {revisions[-1]}: leave it out")
    points = tuple(_point(one, sizes, precision) for one in files)
    points = (*points[:-1], replace(points[-1], phase="start"))
    probe, notes, _ = choose_probe(spec, [(tokenizer, sizes.max_tokens)], options)
    notes += [f"left out: {name}: {why}" for name, why in (left_out or {}).items()]
    twins = tuple(_twin(files[-1], sizes, precision, FIRST_RANDOM_SEED + i) for i in range(options.random_seeds))
    cast = Cast(tuple(point.source for point in points), len(points) - 1, twins, noise={})
    missing = dict.fromkeys(("noise", "twin", "control"), _NOT_FINETUNED)
    if options.random_seeds < 1:
        missing["random"] = "no untrained trunks were asked for"
    history = RevisionHistory(model.rstrip("/"), points, sizes.n_levels)
    subject = subject_of(history, encode_sentences(probe.sentences, tokenizer), cast, missing)
    return CKAStudy([subject], probe, notes, options, should_stop).run(out_dir, progress, should_stop)


def _point(files: ModelFiles, sizes: ModelSizes, precision: str) -> TimelinePoint:
    build = partial(_encoder, files, precision)
    source = TrunkSource(files.digest_in(precision), sizes.n_levels, sizes.hidden_size, build)
    told, names = files.progress, {"steps": "step", "tokens_seen": "tokens_seen"}
    facts = {ours: told[theirs] for theirs, ours in names.items() if theirs in told}
    return TimelinePoint(files.revision or "main", "pretrain", files.folder, source, facts)


def _encoder(files: ModelFiles, precision: str) -> Encoder:
    return load_model(files.name, precision=precision, files=files).encoder


def _twin(files: ModelFiles, sizes: ModelSizes, precision: str, seed: int) -> TrunkSource:
    def build() -> Encoder:
        return random_twin(files.name, seed=seed, precision=precision, files=files).encoder

    return TrunkSource(f"random|{files.config}|{precision}|{seed}", sizes.n_levels, sizes.hidden_size, build)
