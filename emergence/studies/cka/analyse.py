"""Temporal CKA from flags, for ``python temporal_cka_analysis.py`` and for a Modal container alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from emergence.errors import UsageError
from emergence.spec.flags import REQUIRED, flag

if TYPE_CHECKING:
    from emergence.studies.cka.result import TemporalCKA


@dataclass(frozen=True, kw_only=True)
class AnalysisFlags:
    """The flags of ``temporal_cka_analysis.py``. Names of runs are folders here, or runs on the volume."""

    model_dir: str = flag(REQUIRED, "Run to analyse.", metavar="RUN")
    config_name: str = flag("", "Size that the run has to have.")
    against: str | None = flag(None, "Compare with this run.", metavar="RUN")
    sentences: int = flag(2_000, "Most probe sentences.")
    estimator: Literal["debiased", "biased"] = flag("debiased", "biased: only to reproduce papers.")
    kernel: Literal["linear", "rbf"] = flag("linear", "Of the similarities between sentences.")
    bandwidth: float = flag(0.4, "Of rbf: sigma over the median distance between different rows.")
    random_seeds: int = flag(5, "Untrained trunks to compare with.")
    seed_twin: str | None = flag(None, "Run that finetuned the same trunk under another seed.", metavar="RUN")
    control: str | None = flag(None, "Run that finetuned the same trunk on control labels.", metavar="RUN")
    qa_data: str | None = flag(None, "Where the questions lie now.")
    seed: int = flag(0, "Of the choice of sentences and of all resampling.")
    gpu: str = flag("A10G", "On Modal.")

    def check(self) -> None:
        """Refuse what can be refused without looking at a run.

        Raises:
            UsageError: An impossible value.
        """
        if not self.model_dir:
            raise UsageError("--model-dir is empty: name a run, see --list-saved")
        if self.sentences < 1 or self.seed < 0:
            raise UsageError("--sentences must be 1 or more, and --seed 0 or more")
        if not 0 < self.bandwidth < float("inf"):
            raise UsageError(f"--bandwidth must be above 0, not {self.bandwidth:g}")
        if self.random_seeds < 0:
            raise UsageError(f"--random-seeds must be 0 or more, not {self.random_seeds}")

    def runs(self) -> list[str]:
        """The runs that the analysis reads."""
        return [run.rstrip("/") for run in (self.model_dir, self.against, self.seed_twin, self.control) if run]


def analyse(
    flags: AnalysisFlags,
    find: Callable[[str], Path],
    cache_dir: Path,
    should_stop: Callable[[], bool] = lambda: False,
) -> TemporalCKA:
    """Run the analysis that ``flags`` describe, and write it into the run's ``analysis/temporal_cka``.

    Args:
        flags: What to analyse, and how.
        find: A function from the name that a flag has to the run directory.
        cache_dir: Where derived data is kept.
        should_stop: Asked after each trunk. True ends the analysis; the same call goes on.

    Raises:
        StopRequested: ``should_stop`` was true.
        UsageError: The flags do not fit the run.
        RunDirectoryError: A flag names no run directory, or one without weights.
    """
    from emergence.experiment.run_directory import RunDirectory
    from emergence.measures.cka import CKAMethod
    from emergence.studies.cka.temporal import CKAOptions, analyse_run
    from emergence.training.recording import TerminalProgress

    flags.check()
    run_dir = find(flags.model_dir)
    against, seed_twin, control = (
        find(run) if run else None for run in (flags.against, flags.seed_twin, flags.control)
    )
    size = RunDirectory.open(run_dir).spec.config.name
    if flags.config_name and flags.config_name != size:
        raise UsageError(f"{run_dir.name} is a run of size {size}: use --config-name {size}, or leave it out")
    options = CKAOptions(
        sentences=flags.sentences,
        method=CKAMethod(flags.estimator, flags.kernel, flags.bandwidth),
        random_seeds=flags.random_seeds,
        seed_twin=seed_twin,
        control=control,
        qa_data=flags.qa_data or None,
        cache_dir=cache_dir,
        seed=flags.seed,
    )
    return analyse_run(run_dir, against=against, options=options, progress=TerminalProgress(), should_stop=should_stop)


def analyse_locally(flags: AnalysisFlags, runs_dir: Path = Path("runs")) -> str:
    """The summary of an analysis of runs on this machine. Ctrl-C stops it after a trunk, and the same call goes on.

    Raises:
        StopRequested: It was stopped.
    """
    from emergence.experiment.stop_switch import StopSwitch
    from emergence.experiment.store import CACHE_FOLDER, find_run
    from emergence.training.recording import plain_messages

    find = partial(find_run, runs_dir=runs_dir)
    cache = find(flags.model_dir).parent / CACHE_FOLDER
    with plain_messages(), StopSwitch() as should_stop:
        return analyse(flags, find, cache, should_stop).summary()
