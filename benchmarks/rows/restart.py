"""From the start of a process to the first update after a checkpoint, on ``tiny`` with cached data."""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.materials import Bench
from benchmarks.measure import ROOT, child_cpu_seconds, hottest_packages
from benchmarks.report import Comparison, Figure, RowResult
from emergence.errors import DataError
from emergence.experiment.run import run_experiment
from emergence.experiment.store import RunStore
from emergence.spec.config import ExperimentConfig
from emergence.spec.experiment import ExperimentSpec
from emergence.training.recording import StopRequested
from emergence.training.schedule import PretrainPlan, plan_pretraining

MARK = 5.0
#: Updates that are made before the first round, at least.
UPDATES_BEFORE = 6
#: What no program that trains with PyTorch does without. (Its own optimisers import its compiler, ours do not.)
LIBRARY = "import torch"


def run(bench: Bench) -> RowResult:
    """CPU seconds to the first update, resumed and from nothing but the files."""
    spec = dataclasses.replace(bench.spec, skip_finetune=True, config=_settings(bench)).checked()
    seconds: dict[str, list[float]] = {"resumed": [], "new": [], "library": []}
    with tempfile.TemporaryDirectory() as folder:
        _advance(spec, Path(folder) / "runs", bench.cache, updates_before(_plan(spec, bench), bench.repeats))
        for number in range(bench.repeats):
            seconds["resumed"].append(_measured(spec, Path(folder) / "runs", bench.cache))
            if number == 0:  # once: it tokenises all of the text
                seconds["new"].append(_measured(spec, Path(folder) / "new", Path(folder) / "cache"))
            seconds["library"].append(child_cpu_seconds([sys.executable, "-c", LIBRARY]))
        profile = hottest_packages(_command(spec, Path(folder) / "runs", bench.cache), ROOT)
    resumed = Figure.of("from a checkpoint, data cached", "CPU s", seconds["resumed"])
    library = Figure.of("of that, importing torch", "CPU s", seconds["library"])
    return RowResult(
        row="restart",
        title="from starting the process to the first update, tiny",
        figures=[
            resumed,
            library,
            Figure.of("a new run, nothing cached", "CPU s", seconds["new"]),
        ],
        comparisons=[
            Comparison.of("CPU seconds", seconds["resumed"], MARK, at_least=False, unit=" s", limit=library.value)
        ],
        data=bench.text_name,
        notes=[
            "one update and saving another checkpoint included",
            "a run long enough to be compiled on a CPU (about 20 minutes) adds its compilation, "
            "which torch caches on disk",
            "the limit is importing torch; the profile is by package",
        ],
        profile=profile,
    )


def _settings(bench: Bench) -> ExperimentConfig:
    config = bench.spec.config
    model, pretrain = config.model, dataclasses.replace(config.pretrain, compile="off")
    if bench.toy:  # short sequences, so that a little text makes enough updates
        model = dataclasses.replace(model, n_layers=1, hidden_size=16, n_heads=2, sequence_length=16)
        pretrain = dataclasses.replace(pretrain, batch_size=1)
    return dataclasses.replace(config, model=model, pretrain=pretrain)


def _plan(spec: ExperimentSpec, bench: Bench) -> PretrainPlan:
    n_sequences = bench.pretraining.train.n_sequences(spec.config.model.sequence_length)
    return plan_pretraining(spec.config.pretrain, n_sequences)


def updates_before(plan: PretrainPlan, rounds: int) -> int:
    """After how many updates the rounds begin, so that none of theirs is evaluated or kept as a snapshot."""
    begins = range(UPDATES_BEFORE, plan.total_steps - rounds)
    quiet = (n for n in begins if plan.evaluation_steps.isdisjoint(range(n + 1, n + rounds + 1)))
    return next(quiet, UPDATES_BEFORE)


def _measured(spec: ExperimentSpec, runs: Path, cache: Path) -> float:
    """CPU seconds of a fresh process that makes one update, going on where an earlier one stopped."""
    return child_cpu_seconds([sys.executable, *_command(spec, runs, cache)])


def _command(spec: ExperimentSpec, runs: Path, cache: Path) -> list[str]:
    return ["-m", __name__, json.dumps(spec.to_dict()), str(runs), str(cache)]


def _advance(spec: ExperimentSpec, runs: Path, cache: Path, updates: int) -> None:
    """Run until ``updates`` more updates are made, and save."""
    runs.mkdir(parents=True, exist_ok=True)
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > updates

    try:
        run_experiment(spec, RunStore(runs), cache_dir=cache, should_stop=should_stop)
    except StopRequested:
        return
    raise DataError("the run ended before it could be stopped: give more text")


if __name__ == "__main__":
    _advance(ExperimentSpec.from_dict(json.loads(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3]), 1)
