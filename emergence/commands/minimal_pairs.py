"""``emergence minimal-pairs``: which models are meant, where their scores go, and the work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emergence.commands.subject import folder_name, is_model, of_model, of_run, suspects_of
from emergence.data.sentence_pairs import load_pairs
from emergence.errors import UsageError
from emergence.experiment.stop_switch import StopSwitch
from emergence.experiment.store import CACHE_FOLDER
from emergence.measures.bootstrap import N_BOOT
from emergence.studies.sentence_pairs.result import FILES, PairStudyResult
from emergence.studies.sentence_pairs.score import (
    ModelToScore,
    Precision,
    SentencePairStudy,
    models_of_name,
    models_of_run,
)
from emergence.training.precision import select_device
from emergence.training.recording import TerminalProgress, plain_messages


def score_minimal_pairs(
    name: str,
    data: str,
    runs_dir: Path,
    *,
    snapshots: bool = False,
    revision: str | None = None,
    out: Path | None = None,
    precision: Precision = "fp32",
    device: str | None = None,
) -> PairStudyResult:
    """Score a set of pairs by a run or a published model, and write the result.

    Raises:
        UsageError: It is neither, or has no such snapshots or revision.
        DataError: There are no such pairs.
    """
    on = select_device(device)
    pairs = load_pairs(data, runs_dir / CACHE_FOLDER)
    subject, models, home = _subject(name, runs_dir, snapshots, revision, precision)
    study = SentencePairStudy(subject, models, pairs, device=on, n_boot=N_BOOT)
    with plain_messages(), StopSwitch() as should_stop:
        return study.run(out or home / folder_name(pairs.name), TerminalProgress(), should_stop)


def _subject(
    name: str, runs_dir: Path, snapshots: bool, revision: str | None, precision: Precision
) -> tuple[dict[str, Any], list[ModelToScore], Path]:
    """What is scored, its models, and the folder of its results."""
    if is_model(name, runs_dir):
        suspects = suspects_of(name, revision, runs_dir, snapshots=snapshots)
        models = models_of_name(name, revision, snapshots=snapshots, precision=precision, left_out=suspects)
        subject, home = of_model(name, revision, precision, FILES, runs_dir)
        return {**subject, "left_out": suspects}, models, home
    if revision is not None:
        raise UsageError("--revision is of published models; a run has --snapshots")
    run, subject, home = of_run(name, "emergence minimal-pairs", FILES, runs_dir)
    return subject, models_of_run(run, snapshots=snapshots), home
