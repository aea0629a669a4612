"""Temporal CKA from flags: the same for ``python temporal_cka_analysis.py`` and in a Modal container."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emergence.errors import RunDirectoryError, UsageError

if TYPE_CHECKING:
    from emergence.analysis.temporal_cka_result import TemporalCKA

#: Flags that name runs.
RUN_FLAGS = ("model_dir", "against", "seed_twin", "control")


def check_analysis_flags(flags: dict[str, Any]) -> None:
    """What can be refused without looking at a run.

    Raises:
        UsageError: An impossible number.
    """
    if not flags["model_dir"]:
        raise UsageError("--model-dir is empty: name a run, see --list-saved")
    if flags["sentences"] < 1 or flags["seed"] < 0:
        raise UsageError("--sentences must be 1 or more, and --seed 0 or more")
    if not 0 < flags["bandwidth"] < float("inf"):
        raise UsageError(f"--bandwidth must be above 0, not {flags['bandwidth']:g}")
    if flags["random_seeds"] < 0:
        raise UsageError(f"--random-seeds must be 0 or more, not {flags['random_seeds']}")


def runs_named(flags: dict[str, Any]) -> list[str]:
    """The runs that an analysis reads."""
    return [flags[name].rstrip("/") for name in RUN_FLAGS if flags[name]]


def analyse(flags: dict[str, Any], find: Callable[[str], Path], cache_dir: Path) -> TemporalCKA:
    """Run the analysis that flags describe; results go into the run's ``analysis/temporal_cka``.

    Args:
        flags: Of ``temporal_cka_analysis.py``.
        find: The run directory that a flag names.
        cache_dir: Where derived data is kept.

    Raises:
        UsageError: Flags that do not fit the run.
        RunDirectoryError: Not a run directory, or one without weights.
    """
    from emergence.analysis.temporal_cka import CKAOptions, analyse_run
    from emergence.experiment.run_directory import RunDirectory
    from emergence.measures.cka import CKAMethod
    from emergence.training.recording import TerminalProgress

    check_analysis_flags(flags)
    paths = {name: find(flags[name]) if flags[name] else None for name in RUN_FLAGS}
    run_dir = paths["model_dir"]
    assert run_dir is not None
    size = RunDirectory.open(run_dir).spec.config.name
    if flags["config_name"] and flags["config_name"] != size:
        raise UsageError(f"{run_dir.name} is a run of size {size}: use --config-name {size}, or leave it out")
    options = CKAOptions(
        sentences=flags["sentences"],
        method=CKAMethod(flags["estimator"], flags["kernel"], flags["bandwidth"]),
        random_seeds=flags["random_seeds"],
        seed_twin=paths["seed_twin"],
        control=paths["control"],
        qa_data=flags["qa_data"] or None,
        cache_dir=cache_dir,
        seed=flags["seed"],
    )
    return analyse_run(run_dir, against=paths["against"], options=options, progress=TerminalProgress())


def local_run(name: str) -> Path:
    """A run directory on this machine: a path, or a name in ``runs``.

    Raises:
        RunDirectoryError: Neither.
    """
    reason = "no such folder here or in runs"
    try:
        for path in (Path(name), Path("runs") / name):
            if path.is_dir():
                return path
    except OSError as error:  # a name too long, no permission
        reason = error.strerror or str(error)
    raise RunDirectoryError(f"--model-dir {name[:200]}: {reason}: fetch it with emergence pull RUN")


def analyse_locally(flags: dict[str, Any]) -> str:
    """The analysis of runs on this machine; returns its summary."""
    from emergence.local import CACHE_FOLDER

    run_dir = local_run(flags["model_dir"])
    return analyse(flags, local_run, run_dir.parent / CACHE_FOLDER).summary()
