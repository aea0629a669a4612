"""``emergence units``: which trunks are meant, where the result goes, and the work."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from emergence.commands.subject import of_run
from emergence.experiment.stop_switch import StopSwitch
from emergence.experiment.store import CACHE_FOLDER, RunDirectory
from emergence.files import content_digest
from emergence.spec.experiment import pretrain_label
from emergence.spec.model_size import count_parameters
from emergence.studies.units.inputs import prepare_run
from emergence.studies.units.measure import UnitStudy
from emergence.studies.units.options import UnitOptions
from emergence.studies.units.result import FILES, UnitResult
from emergence.training.precision import select_device
from emergence.training.recording import TerminalProgress, plain_messages


def examine_units(
    name: str,
    runs_dir: Path,
    options: UnitOptions,
    *,
    qa_data: str | None = None,
    out: Path | None = None,
    device: str | None = None,
) -> UnitResult:
    """Units of a run's trunk that tell roles, beside its random twin; the result is written.

    Raises:
        UsageError: There is no such run, or it has no such snapshots.
        DataError: Its questions cannot be found, or are too few.
    """
    on = select_device(device)
    run, subject, home = of_run(name, "emergence units", FILES, runs_dir)
    with plain_messages(), StopSwitch() as should_stop:
        work = prepare_run(run, options, on, qa_data=qa_data, cache_dir=runs_dir / CACHE_FOLDER)
        study = UnitStudy({**subject, **_series(run)}, work)
        return study.run(out or home / options.roles, TerminalProgress(), should_stop)


def _series(run: RunDirectory) -> dict[str, Any]:
    """What results of other seeds and sizes of the run have in common with it, and its size."""
    spec = run.spec
    rows = spec.config.model.vocab_size
    return {
        "series": content_digest([dataclasses.replace(spec, seed=0).pretrain_id, spec.random_baseline]),
        "text": pretrain_label(spec),
        "n_params": count_parameters(spec.config.model, rows).non_embedding,
    }
