"""The local twin of ``remote/``: runs experiments on this machine and tells the user about it.

Ctrl-C asks the run to save a checkpoint and to exit with code 130, so that it costs nothing. A second one stops at
once, and loses what was done since the last checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from emergence.errors import UsageError
from emergence.experiment.result import RunResult
from emergence.experiment.run import run_experiment
from emergence.experiment.stop_switch import StopSwitch
from emergence.experiment.store import CACHE_FOLDER, RunDirectory, RunStore, refuse_if_no_folder
from emergence.findings.collect import collection_of
from emergence.findings.comparable import group_results
from emergence.findings.two_by_two import Grid, RunScores, build_grid, format_grid
from emergence.findings.verdict import Verdict, verdict_of
from emergence.report.terminal import describe_result, describe_verdict
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.local_time import ask_if_long, core_time, this_machine
from emergence.training.live_sinks import open_sink
from emergence.training.recording import TerminalProgress, plain_messages
from emergence.wording import in_line, say

#: The four cells of ``emergence demo``; the second uses the first one's pretrained trunk.
DEMO_CELLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("pretrain, then train all weights", {}),
    ("linear probe on the frozen pretrained trunk", {"freeze_llm": True}),
    ("train all weights of a random trunk", {"random_baseline": True}),
    ("linear probe on a frozen random trunk", {"random_baseline": True, "freeze_llm": True}),
)


def run_locally(
    spec: ExperimentSpec | None, runs_dir: Path, *, resume: str | None, fresh: bool, sink: str | None, yes: bool = False
) -> RunResult | None:
    """``emergence run``: run one experiment and print what it found.

    Args:
        spec: What to run. None takes the spec of ``resume``.
        runs_dir: Folder of run directories. The first run makes it.
        resume: Run id to go on with.
        fresh: Start anew even where an unfinished or finished twin exists.
        sink: ``tensorboard``, ``wandb`` or ``trackio``, or None.
        yes: Do not ask before a run of more than an hour.
    """
    refuse_if_no_folder(runs_dir)
    store = RunStore(runs_dir)
    if resume is not None:
        if fresh:
            raise UsageError("--resume goes on with a run and --fresh starts a new one: drop one of the two")
        spec = store.open(resume).spec
    if spec is None:
        raise ValueError("neither a spec nor a run to resume")
    with plain_messages(), StopSwitch() as should_stop, open_sink(sink) as wrap_recorder:
        result = run_experiment(
            spec,
            store,
            cache_dir=runs_dir / CACHE_FOLDER,
            run_id=resume,
            fresh=fresh,
            should_stop=should_stop,
            before_reading=partial(_say_how_long, spec, store, is_begun=resume is not None, fresh=fresh, yes=yes),
            on_open=announce,
            progress=TerminalProgress(),
            wrap_recorder=wrap_recorder,
        )
    if result is not None:
        say(describe_result(result, runs_dir))
    return result


def _say_how_long(spec: ExperimentSpec, store: RunStore, *, is_begun: bool, fresh: bool, yes: bool) -> None:
    """Say how long a run takes here, and ask where that is long. Who goes on with one has been asked already.

    Raises:
        UsageError: It takes more than an hour, and the person does not want that.
    """
    if spec.model:  # what a published model needs is known when its files are
        return
    is_begun = is_begun or (not fresh and store.find_unfinished(spec) is not None)
    has_trunk = not fresh and store.find_pretrained(spec.pretrain_id) is not None
    work, machine = core_time(spec, has_trunk=has_trunk), this_machine()
    say(f"estimate: {work.text(machine)}{', less what is done already' * is_begun}", err=True)
    if not is_begun:
        ask_if_long(work, machine, yes)


def run_demo(runs_dir: Path, *, seed: int, fresh: bool) -> Grid:
    """``emergence demo``: all four cells on the micro-world, then the 2x2.

    Args:
        runs_dir: Folder of run directories. Finished cells in it are used as they are.
        seed: Seed of all four runs.
        fresh: Run all cells anew.
    """
    refuse_if_no_folder(runs_dir)
    store, started = RunStore(runs_dir), time.monotonic()
    flags: dict[str, Any] = {"config_name": "debug", "data": "microworld", "seed": seed}
    trunk: str | None = None
    runs = []
    with plain_messages(), StopSwitch() as should_stop:
        for number, (title, extra) in enumerate(DEMO_CELLS, start=1):
            if trunk and not extra.get("random_baseline"):
                extra = {**extra, "skip_pretrain": True, "pretrained_model_path": trunk}
            spec = ExperimentSpec.from_flags(**flags, **extra)
            say(f"\n[{number}/{len(DEMO_CELLS)}] {title}", err=True)
            result = run_experiment(
                spec,
                store,
                cache_dir=runs_dir / CACHE_FOLDER,
                fresh=fresh,
                should_stop=should_stop,
                on_open=announce,
                progress=TerminalProgress(),
            )
            if result is None or result.run_id is None:
                raise UsageError("the demo runs in one process: start it without torchrun")
            run = store.open(result.run_id)
            trunk = trunk or f"{run.run_id}/{run.trunk_path.name}"
            runs.append(RunScores.load(run))
    grid = build_grid(runs)
    say("\n" + format_grid(grid))
    say("\n" + describe_verdict(verdict_of_runs(runs, runs_dir)))
    say("\nrun directories")
    for run_scores in runs:
        say(f"  {in_line(str(run_scores.run.path))}")
    say(f"\n{_report_line(runs_dir)}\n{time.monotonic() - started:.0f} s in all")
    return grid


def _report_line(runs_dir: Path) -> str:
    """Write the report and name its file, or say which packages it lacks."""
    from emergence.report.write import write_report

    try:
        return f"report           {write_report(runs_dir).html}"
    except UsageError as error:
        return f"no report        {error}"


def verdict_of_runs(runs: Sequence[RunScores], root: Path) -> Verdict:
    """The verdict of finished runs that differ in nothing but cell and seed."""
    return verdict_of(group_results(collection_of(runs, root)).sets[0])


def announce(run: RunDirectory, what: str) -> None:
    """Say which run it is, and whether it is new, resumed or finished."""
    doing = {
        "new": "new run",
        "resumed": "going on with",
        "finished": "finished already (start anew with --fresh):",
    }
    say(f"{doing[what]} {run.run_id}", err=True)
