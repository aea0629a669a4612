"""The Python interface: run an experiment, load runs, put the 2x2 together, give the verdict.

All names are in the package itself::

    import emergence

    full = emergence.run(data="microworld", config_name="debug")
    frozen = emergence.run(data="microworld", config_name="debug", freeze_llm=True)
    print(full.result.estimate("test", "f1_tokens"))
    print(emergence.score(full, frozen).analysis.gap)
    print(emergence.verdict("runs").short)

User errors are an :class:`emergence.errors.EmergenceError` with one line that names the cure.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emergence.errors import DataError, UsageError
from emergence.experiment.asking import AskedQuestion
from emergence.experiment.asking import ask as ask_run
from emergence.experiment.facts import HEADLINE
from emergence.experiment.run import run_experiment
from emergence.experiment.run_directory import RunDirectory
from emergence.experiment.store import CACHE_FOLDER, RunStore, find_run
from emergence.findings.collect import Collection, collect_results, collection_of
from emergence.findings.comparable import ComparableSet, group_results
from emergence.findings.paired_runs import RunComparison, compare_runs
from emergence.findings.two_by_two import Grid, RunScores, build_grid
from emergence.findings.verdict import Verdict, verdict_of
from emergence.measures.clustering import ClusterKind
from emergence.spec.experiment import ExperimentSpec

#: A run: loaded, or where it lies.
Run = RunScores | str | Path

__all__ = ["ask", "compare", "load", "run", "score", "verdict"]


def run(*, runs_dir: str | Path = "runs", fresh: bool = False, settings: Sequence[str] = (), **flags: Any) -> RunScores:
    """Run an experiment on this machine, or go on with it; a finished one is only loaded.

    Args:
        runs_dir: Folder of the run directories; made if it is missing.
        fresh: Start anew, and take no trunk from another run.
        settings: ``section.key=value`` in place of the configuration's values.
        **flags: The flags of ``emergence run`` with underscores: ``config_name``, ``data``, ``freeze_llm``, ``seed``...

    Raises:
        UsageError: The flags contradict each other, or it only pretrains and so has no scores.
        ConfigError: A setting is impossible.
        DataError: The data is missing or malformed.
    """
    spec = ExperimentSpec.from_flags(set_values=settings, **flags)
    if spec.skip_finetune:
        raise UsageError("skip_finetune only pretrains, and there are no scores to return: use `emergence run`")
    store = RunStore(Path(runs_dir))
    result = run_experiment(spec, store, cache_dir=store.root / CACHE_FOLDER, fresh=fresh)
    if result is None or result.run_id is None:
        raise UsageError("emergence.run runs in one process: start it without torchrun")
    return RunScores.load(store.open(result.run_id))


def load(where: str | Path, runs_dir: str | Path = "runs") -> RunScores:
    """A finished run: its directory (``.run``), result (``.result``) and scores of every test question (``.scores``).

    Args:
        where: The run directory, or its name in ``runs_dir``.

    Raises:
        UsageError: There is no such folder.
        DataError: The run is not finished.
        RunDirectoryError: A file of it is damaged, or its result does not follow from the others.
    """
    return RunScores.checked(RunDirectory.open(find_run(str(where), Path(runs_dir))))


def score(
    *runs: Run, readout: str = HEADLINE, score_name: str = "f1_tokens", cluster: ClusterKind = "sentence"
) -> Grid:
    """The 2x2 of runs that differ in nothing but cell and seed: emergence score and gap with intervals.

    Args:
        *runs: At least a full and a frozen run.
        readout: The frozen cells' read-out: ``headline`` (linear), ``bilinear``, ...
        score_name: ``f1_tokens``, ``em``, ``argument_selection``, ``expected_f1`` or ``log_prob``.
        cluster: What intervals resample whole, ``sentence`` or ``document``.

    Raises:
        DataError: No full or no frozen run, or they share no test questions.
    """
    return build_grid(list(map(_loaded, runs)), readout=readout, score_name=score_name, cluster=cluster)


def compare(a: Run, b: Run, *readouts: str, cluster: ClusterKind = "sentence") -> RunComparison:
    """The paired difference of two runs, question by question.

    Args:
        *readouts: One name for both runs, or one for A and one for B; none compares what both have.

    Raises:
        UsageError: A run lacks the read-out.
        DataError: The runs share no test question.
    """
    return compare_runs(_loaded(a), _loaded(b), readouts, cluster=cluster)


def verdict(*where: Run) -> Verdict:
    """What comparable runs say: do the frozen states tell who did what to whom beyond words and positions.

    Args:
        *where: A results folder, or runs that differ in nothing but cell and seed.

    Raises:
        DataError: No results, or results of several comparable sets. The message names them.
    """
    if len(where) == 1 and not isinstance(where[0], RunScores):
        collection = collect_results(Path(where[0]))
    else:
        collection = collection_of([_loaded(run) for run in where])
    return verdict_of(_only_set(collection))


def ask(run: Run, sentence: str, question: str, *, predicate: str | None = None, top: int = 3) -> AskedQuestion:
    """Likely answers to a question of one's own, by every read-out that a finished run has stored.

    Args:
        predicate: The verb asked about; None seeks it by its spelling.
        top: Spans of each read-out.

    Raises:
        UsageError: Nothing to ask, no predicate to be seen, or too long.
        RunDirectoryError: The run has nothing to ask.
    """
    return ask_run(_loaded(run).run, sentence, question, predicate=predicate, top=top)


def _loaded(run: Run) -> RunScores:
    return run if isinstance(run, RunScores) else load(run)


def _only_set(collection: Collection) -> ComparableSet:
    sets = group_results(collection).sets
    if len(sets) != 1:
        labels = ", ".join(comparable.label for comparable in sets)
        names = f"{len(sets)} comparable sets ({labels}): give the runs of one" if sets else "no finished run"
        raise DataError(f"holds {names}; a verdict is about one", collection.root)
    return sets[0]
