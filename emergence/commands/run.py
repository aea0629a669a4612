"""The local twin of ``remote/``: runs experiments on this machine and tells the user about it.

Ctrl-C asks the run to save a checkpoint and to exit with code 130, so that it costs nothing. A second one stops at
once, and loses what was done since the last checkpoint.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from emergence.errors import UsageError
from emergence.experiment.result import RunResult
from emergence.experiment.run import run_experiment
from emergence.experiment.stop_switch import StopSwitch
from emergence.experiment.store import CACHE_FOLDER, RunDirectory, RunStore, refuse_if_no_folder
from emergence.report.terminal import describe_result
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.local_time import ask_if_long, core_time, this_machine
from emergence.training.live_sinks import open_sink
from emergence.training.recording import TerminalProgress, plain_messages
from emergence.wording import say


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


def announce(run: RunDirectory, what: str) -> None:
    """Say which run it is, and whether it is new, resumed or finished."""
    doing = {
        "new": "new run",
        "resumed": "going on with",
        "finished": "finished already (start anew with --fresh):",
    }
    say(f"{doing[what]} {run.run_id}", err=True)
