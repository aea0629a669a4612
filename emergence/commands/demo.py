"""``emergence demo``: the four cells on the micro-world, then the 2x2 and the verdict.

The random trunks wait for nobody's pretraining. Where there are two cores, a second process runs them beside the
pretrained ones, which takes three quarters of the time of one after the other.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from emergence.commands.run import announce
from emergence.environment import threads_asked_for, usable_cores
from emergence.errors import EmergenceError, UsageError
from emergence.experiment.run import run_experiment
from emergence.experiment.stop_switch import StopSwitch
from emergence.experiment.store import CACHE_FOLDER, RunDirectory, RunStore, refuse_if_no_folder
from emergence.files import make_folder, read_regular
from emergence.findings.collect import collection_of
from emergence.findings.comparable import group_results
from emergence.findings.two_by_two import Grid, RunScores, build_grid, format_grid
from emergence.findings.verdict import Verdict, verdict_of
from emergence.report.terminal import describe_verdict
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.local_time import CoreTime, core_time, this_machine
from emergence.sweep.processes import Process, divided_threads, job_of, prepare, start_method
from emergence.training.recording import TerminalProgress, plain_messages
from emergence.wording import in_line, say

#: What the four cells share, and the flags of each. The second uses the first one's trunk.
SHARED: dict[str, Any] = {"config_name": "debug", "data": "microworld"}
CELLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("pretrain, then train all weights", {}),
    ("linear probe on the frozen pretrained trunk", {"freeze_llm": True}),
    ("train all weights of a random trunk", {"random_baseline": True}),
    ("linear probe on a frozen random trunk", {"random_baseline": True, "freeze_llm": True}),
)
#: Seconds between two looks at what a process beside this one says.
POLL_SECONDS = 0.5


def run_demo(runs_dir: Path, *, seed: int, fresh: bool) -> Grid:
    """Run what is not finished of the four cells, and tell what they say together.

    Args:
        runs_dir: Folder of run directories. Finished cells in it are used as they are.
        seed: Seed of all four runs.
        fresh: Run all cells anew.

    Raises:
        UsageError: It was started by torchrun, or the folder cannot be one.
        EmergenceError: A cell failed, or was asked to stop and has saved where it is. The same call goes on. Of a cell
            in the second process it is told when its turn comes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("the demo has four runs, each in one process: start it without torchrun")
    refuse_if_no_folder(runs_dir)
    store, started = RunStore(runs_dir), time.monotonic()
    trunk: str | None = None
    runs = []
    left = _left(store, seed, fresh)
    _say_how_long(left)
    with plain_messages(), StopSwitch() as should_stop, _beside(store, left, fresh, should_stop) as beside:
        for number, (title, extra) in enumerate(CELLS, start=1):
            is_beside = number in beside.unfollowed
            say(f"\n[{number}/{len(CELLS)}] {title}{', in a second process' * is_beside}", err=True)
            run_id = beside.follow(number) if is_beside else None
            if run_id is None:
                result = run_experiment(
                    _spec(seed, extra, trunk),
                    store,
                    cache_dir=runs_dir / CACHE_FOLDER,
                    fresh=fresh,
                    should_stop=should_stop,
                    on_open=beside.start_and_announce,
                    progress=TerminalProgress(),
                )
                assert result is not None and result.run_id is not None  # there is one process
                run_id = result.run_id
            run = store.open(run_id)
            trunk = trunk or _trunk_of(run)
            runs.append(RunScores.load(run))
    grid = build_grid(runs)
    say("\n" + format_grid(grid))
    say("\n" + describe_verdict(verdict_of_runs(runs, runs_dir)))
    say("\nrun directories")
    for run_scores in runs:
        say(f"  {in_line(str(run_scores.run.path))}")
    say(f"\n{_report_line(runs_dir)}\n{time.monotonic() - started:.0f} s in all")
    return grid


def _say_how_long(left: Mapping[int, ExperimentSpec]) -> None:
    """Say how long the cells that are left take here."""
    if left:
        work = sum((core_time(spec, has_trunk=spec.freeze_llm) for spec in left.values()), CoreTime())  # one pretrains
        say(f"estimate: {work.text(this_machine())}", err=True)


def _left(store: RunStore, seed: int, fresh: bool) -> dict[int, ExperimentSpec]:
    """The cells that are not finished, by their numbers."""
    first = None if fresh else store.find_finished(_spec(seed, CELLS[0][1]))
    trunk = _trunk_of(first) if first else None
    specs = {number: _spec(seed, flags, trunk) for number, (_, flags) in enumerate(CELLS, start=1)}
    return {number: spec for number, spec in specs.items() if fresh or store.find_finished(spec) is None}


def verdict_of_runs(runs: Sequence[RunScores], root: Path) -> Verdict:
    """The verdict of finished runs that differ in nothing but cell and seed."""
    return verdict_of(group_results(collection_of(runs, root)).sets[0])


def _spec(seed: int, flags: dict[str, Any], trunk: str | None = None) -> ExperimentSpec:
    """The spec of a cell. The probe on the pretrained trunk takes ``trunk``, once there is one."""
    if trunk and flags.get("freeze_llm") and not flags.get("random_baseline"):
        flags = {**flags, "skip_pretrain": True, "pretrained_model_path": trunk}
    return ExperimentSpec.from_flags(**SHARED, seed=seed, **flags)


def _trunk_of(run: RunDirectory) -> str:
    return f"{run.run_id}/{run.trunk_path.name}"


def _report_line(runs_dir: Path) -> str:
    """Write the report and name its file, or say which packages it lacks."""
    from emergence.report.write import write_report

    try:
        return f"report           {write_report(runs_dir).html}"
    except UsageError as error:
        return f"no report        {error}"


@contextlib.contextmanager
def _beside(
    store: RunStore, left: Mapping[int, ExperimentSpec], fresh: bool, should_stop: Callable[[], bool]
) -> Iterator[_Beside]:
    """The random cells of those ``left``, for a second process that shares the cores with this one.

    Where no other is left, the first of them runs here. There is no second process on one core, and a GPU is not
    shared. Both processes have their part of the cores whatever is left to do, because another number of threads would
    round otherwise.
    """
    import torch

    cells = {number: spec for number, spec in left.items() if spec.random_baseline}
    if cells and cells.keys() == left.keys():
        del cells[min(cells)]
    is_shared = usable_cores() > 1 and not torch.cuda.is_available()
    with divided_threads(2 if is_shared else 1), _threads_of_environment():
        beside = _Beside(store, cells if is_shared else {}, fresh, should_stop)
        if beside.unfollowed:
            prepare()
        try:
            yield beside
        finally:
            beside.close()


@contextlib.contextmanager
def _threads_of_environment() -> Iterator[None]:
    """Give torch as many threads as the environment says now: it looked when it was imported."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads_asked_for() or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Beside:
    """Cells in a second process. It says what it does in logs, which are shown when their turn comes.

    Attributes:
        unfollowed: Number of each cell that it runs and whose end was not waited for yet, and what it is.
    """

    def __init__(
        self, store: RunStore, cells: dict[int, ExperimentSpec], fresh: bool, should_stop: Callable[[], bool]
    ) -> None:
        self.unfollowed = dict(cells)
        self._store, self._fresh, self._should_stop = store, fresh, should_stop
        self._process: Process | None = None

    def start_and_announce(self, run: RunDirectory, what: str) -> None:
        """Say which run is open, and start: its data has been made, so that none is made twice from now on."""
        announce(run, what)
        if self._process is None and self.unfollowed and not self._should_stop():
            make_folder(self._store.root / CACHE_FOLDER)
            self._process = Process.start(start_method())
            for number, spec in self.unfollowed.items():
                cell = {"spec": spec.to_dict(), "trunk": None, "fresh": self._fresh, "brief": True}
                self._process.take(job_of(cell, self._store.root, str(Path.cwd()), self._log(number)))

    def follow(self, number: int) -> str | None:
        """Show what a cell says until it has ended; returns the name of its run.

        Where the process has died, out of memory perhaps, or never started, the cells left are to run here: None.

        Raises:
            EmergenceError: It failed, or has stopped because ``should_stop`` was true.
        """
        process = self._process
        if process is None:  # a stop was asked for before it could start, and a run here hears of it
            self.unfollowed.clear()
            return None
        shown, is_asked = 0, False
        while not wait(process.news, POLL_SECONDS):
            shown = self._show(number, shown)
            if self._should_stop() and not is_asked:
                process.interrupt()
                is_asked = True
        answer = process.answer()
        self._show(number, shown, is_over=True)
        del self.unfollowed[number]
        if "error" in answer:
            self.unfollowed.clear()  # its process has ended with it
            if answer.get("died") and not self._should_stop():
                say(f"the second process: {answer['error']}; this one goes on alone", err=True)
                return None
            code = int(answer["exit_code"])
            raise UsageError(answer["error"]) if code == UsageError.exit_code else EmergenceError(answer["error"], code)
        return str(answer["run_id"])

    def close(self) -> None:
        """Wait for the process to end. Cells that nobody has followed save where they are and stop first."""
        if self._process is not None:
            if self.unfollowed:
                self._process.interrupt()
            self._process.close()
            for number, _ in enumerate(CELLS, start=1):
                self._log(number).unlink(missing_ok=True)

    def _log(self, number: int) -> Path:
        return self._store.root / CACHE_FOLDER / f"demo-{os.getpid()}-{number}.log"

    def _show(self, number: int, shown: int, *, is_over: bool = False) -> int:
        """Show a log from byte ``shown`` on, in whole lines unless it is over; returns where the next ones begin."""
        log = self._log(number)
        content = read_regular(log) if log.exists() else b""
        end = len(content) if is_over else max(shown, content.rfind(b"\n") + 1)
        for line in content[shown:end].decode(errors="replace").splitlines():
            say(line, err=True)
        return end
