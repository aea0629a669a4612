"""``emergence minimal-pairs``: which models are meant, where their scores go, and the work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from emergence.data.sentence_pairs import load_pairs
from emergence.errors import UsageError
from emergence.experiment.stop_switch import StopSwitch
from emergence.experiment.store import CACHE_FOLDER, RunDirectory, find_run, holds_run_files
from emergence.measures.bootstrap import N_BOOT
from emergence.studies.revisions.record import load_revisions
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
    subject: dict[str, Any]
    if is_model(name, runs_dir):
        if snapshots and revision is not None:
            raise UsageError("--snapshots are all steps of a model, --revision is one: drop one of the two")
        suspects = known.suspects if snapshots and (known := load_revisions(runs_dir, name)) else {}
        models = models_of_name(name, revision, snapshots=snapshots, precision=precision, left_out=suspects)
        at = f"@{revision}" if revision else ""
        home = runs_dir / FILES.name / folder_name(name.rstrip("/") + at)
        subject = {"name": f"{name}{at}", "kind": "model", "precision": precision, "left_out": suspects}
        return subject, models, home
    if revision is not None:
        raise UsageError("--revision is of published models; a run has --snapshots")
    run = RunDirectory.open(find_run(name, runs_dir))
    spec = run.spec
    if spec.model is not None:
        raise UsageError(
            f"{run.run_id} probes a published model: give that itself, emergence minimal-pairs {spec.model}"
        )
    subject = {"name": run.run_id, "kind": "run", "size": spec.config.name, "seed": spec.seed}
    subject["initialisation"] = spec.initialisation
    return subject, models_of_run(run, snapshots=snapshots), run.path / FILES.folder


def is_model(name: str, runs_dir: Path) -> bool:
    """Whether ``name`` means a published model: a directory with a ``config.json``, or ``OWNER/NAME`` of the hub."""
    for path in (Path(name), runs_dir / name):
        if name and path.is_dir():
            return not holds_run_files(path) and (
                (path / "config.json").is_file() or any(path.glob("step*/config.json"))
            )
    # What is below a folder that is here was meant to be here.
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not Path(name).parent.is_dir()


def folder_name(name: str) -> str:
    """A name as one folder's."""
    return re.sub(r"[^\w.@-]+", "-", name).strip("-.") or "pairs"
