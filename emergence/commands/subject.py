"""What a study of a run's trunk or of a published model is about, and where its results go."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emergence.errors import UsageError
from emergence.experiment.store import RunDirectory, find_run, holds_run_files
from emergence.spec.published import weights_file

if TYPE_CHECKING:
    from emergence.studies.study import StudyFiles


def is_model(name: str, runs_dir: Path) -> bool:
    """Whether ``name`` means a published model: a folder with a ``config.json``, a ``.pth`` file, or ``OWNER/NAME``."""
    if weights_file(name) is not None:
        return True
    for path in (Path(name), runs_dir / name):
        if name and path.is_dir():
            return not holds_run_files(path) and (
                (path / "config.json").is_file() or any(path.glob("step*/config.json"))
            )
    # What is below a folder that is here was meant to be here.
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not Path(name).parent.is_dir()


def refuse_missing_subject(name: str, runs_dir: Path) -> None:
    """Refuse what is neither a run nor a published model, before torch is imported for it.

    Raises:
        UsageError: There is no such folder.
    """
    if not is_model(name, runs_dir):
        find_run(name, runs_dir)


def of_model(
    name: str, revision: str | None, precision: str, files: StudyFiles, runs_dir: Path
) -> tuple[dict[str, Any], Path]:
    """What results say of a published model, and the folder of its results beside the runs."""
    at = f"@{revision}" if revision else ""
    home = runs_dir / files.name / folder_name(name.rstrip("/") + at)
    return {"name": f"{name}{at}", "kind": "model", "precision": precision}, home


def suspects_of(name: str, revision: str | None, runs_dir: Path, *, snapshots: bool) -> dict[str, str]:
    """Revisions of a published model that ``emergence revisions`` found suspect, with why; none without ``snapshots``.

    Raises:
        UsageError: One revision is asked for, and all.
    """
    if not snapshots:
        return {}
    if revision is not None:
        raise UsageError("--snapshots are all steps of a model, --revision is one: drop one of the two")
    from emergence.studies.revisions.record import load_revisions

    known = load_revisions(runs_dir, name)
    return known.suspects if known else {}


def of_run(name: str, command: str, files: StudyFiles, runs_dir: Path) -> tuple[RunDirectory, dict[str, Any], Path]:
    """A run, what results say of it, and the folder of its results.

    Args:
        command: As it is typed, for messages: ``emergence ie``.

    Raises:
        UsageError: There is no such run, or it only probes a published model.
    """
    run = RunDirectory.open(find_run(name, runs_dir))
    spec = run.spec
    if spec.model is not None:
        raise UsageError(f"{run.run_id} probes a published model: give that itself, {command} {spec.model}")
    subject = {"name": run.run_id, "kind": "run", "size": spec.config.name, "seed": spec.seed}
    data = {} if spec.random_baseline else {"pretrain_data": spec.pretrain_data}
    return run, {**subject, "initialisation": spec.initialisation, **data}, run.path / files.folder


def folder_name(name: str) -> str:
    """A name as one folder's."""
    return re.sub(r"[^\w.@-]+", "-", name).strip("-.") or "pairs"
