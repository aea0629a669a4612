"""``emergence units``: which trunks or models are meant, where the result goes, and the work."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from emergence.commands.subject import is_model, of_model, of_run, suspects_of
from emergence.errors import UsageError
from emergence.experiment.stop_switch import StopSwitch
from emergence.experiment.store import CACHE_FOLDER, RunDirectory
from emergence.files import content_digest
from emergence.spec.experiment import pretrain_label
from emergence.spec.model_size import count_parameters
from emergence.studies.sentence_pairs.score import Precision
from emergence.studies.units.inputs import Work, prepare_model, prepare_run
from emergence.studies.units.measure import UnitStudy
from emergence.studies.units.options import UnitOptions
from emergence.studies.units.result import FILES, UnitResult
from emergence.training.precision import select_device
from emergence.training.recording import TerminalProgress, plain_messages


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnitRequest:
    """What is examined, and where things are.

    Attributes:
        options: What is asked.
        qa_data: Where the questions lie; None for those of the run.
        data: Of a published model, the source of its questions; None for the hub.
        revision, precision: Of a published model.
        out: Where the result goes; None for the run, or a folder beside the runs.
        device: ``cpu``, ``cuda`` or ``cuda:N``. The default is the GPU where there is one.
    """

    options: UnitOptions
    qa_data: str | None = None
    data: str | None = None
    revision: str | None = None
    precision: Precision = "fp32"
    out: Path | None = None
    device: str | None = None


def examine_units(name: str, runs_dir: Path, request: UnitRequest) -> UnitResult:
    """Units of a run's trunk or of a published model that tell roles, beside its random twin; the result is written.

    Raises:
        UsageError: It is neither, or has no such snapshots or revision.
        DataError: Its questions cannot be found, or are too few.
    """
    prepare = _of_model if is_model(name, runs_dir) else _of_run
    with plain_messages(), StopSwitch() as should_stop:
        subject, work, home = prepare(name, runs_dir, request)
        out = request.out or home / _folder(request.options)
        return UnitStudy(subject, work).run(out, TerminalProgress(), should_stop)


def _folder(options: UnitOptions) -> str:
    """A folder for each of what is asked; with the usual kinds and questions it is called as the roles."""
    usual, parts = UnitOptions(), [str(options.roles)]
    parts += list(options.kinds) if options.kinds != usual.kinds else []
    parts += [f"q{options.questions}"] if options.questions != usual.questions else []
    parts += [f"draws{options.draws}"] if options.draws != usual.draws else []
    return "-".join(parts)


def _of_run(name: str, runs_dir: Path, request: UnitRequest) -> tuple[dict[str, Any], Work, Path]:
    if request.revision is not None or request.data is not None:
        flag = "--revision" if request.revision is not None else "--data"
        raise UsageError(f"{flag} is of published models: drop it for a run")
    run, subject, home = of_run(name, "emergence units", FILES, runs_dir)
    on, cache = select_device(request.device), runs_dir / CACHE_FOLDER
    work = prepare_run(run, request.options, on, qa_data=request.qa_data, cache_dir=cache)
    return {**subject, **_series(run)}, work, home


def _of_model(name: str, runs_dir: Path, request: UnitRequest) -> tuple[dict[str, Any], Work, Path]:
    suspects = suspects_of(name, request.revision, runs_dir, snapshots=request.options.snapshots)
    subject, home = of_model(name, request.revision, request.precision, FILES, runs_dir)
    work = prepare_model(
        name,
        request.revision,
        request.options,
        select_device(request.device),
        precision=request.precision,
        data=request.data or "hub",
        qa_data=request.qa_data,
        cache_dir=runs_dir / CACHE_FOLDER,
        left_out=suspects,
    )
    return {**subject, "left_out": suspects}, work, home


def _series(run: RunDirectory) -> dict[str, Any]:
    """What results of other seeds and sizes of the run have in common with it, and its size."""
    spec = run.spec
    rows = spec.config.model.vocab_size
    return {
        "series": content_digest([dataclasses.replace(spec, seed=0).pretrain_id, spec.random_baseline]),
        "text": pretrain_label(spec),
        "n_params": count_parameters(spec.config.model, rows).non_embedding,
    }
