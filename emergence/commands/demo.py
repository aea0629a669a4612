"""``emergence demo``: the four cells on the micro-world, then the 2x2 and the verdict.

The random trunks wait for nobody's pretraining. Where there are two cores, a second process runs them beside the
pretrained ones, which takes two thirds of the time of one after the other.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from emergence.commands.run import announce
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
from emergence.sweep.processes import Process, divided_threads, start_method
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
        EmergenceError: A cell failed, or was asked to stop and has saved where it is. The same call goes on.
    """
    refuse_if_no_folder(runs_dir)
    store, started = RunStore(runs_dir), time.monotonic()
    trunk: str | None = None
    runs = []
    with plain_messages(), StopSwitch() as should_stop, _Beside(store, seed, fresh) as beside:
        for number, (title, extra) in enumerate(CELLS, start=1):
            if trunk and not extra.get("random_baseline"):
                extra = {**extra, "skip_pretrain": True, "pretrained_model_path": trunk}
            is_beside = number in beside.waiting
            say(f"\n[{number}/{len(CELLS)}] {title}{', in a second process' * is_beside}", err=True)
            if is_beside:
                run_id: str | None = beside.follow(number, should_stop)
            else:
                result = run_experiment(
                    _spec(seed, extra),
                    store,
                    cache_dir=runs_dir / CACHE_FOLDER,
                    fresh=fresh,
                    should_stop=should_stop,
                    on_open=beside.start_and_announce,
                    progress=TerminalProgress(),
                )
                run_id = result.run_id if result else None
            if run_id is None:
                raise UsageError("the demo runs in one process: start it without torchrun")
            run = store.open(run_id)
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


def verdict_of_runs(runs: Sequence[RunScores], root: Path) -> Verdict:
    """The verdict of finished runs that differ in nothing but cell and seed."""
    return verdict_of(group_results(collection_of(runs, root)).sets[0])


def _spec(seed: int, flags: dict[str, Any]) -> ExperimentSpec:
    return ExperimentSpec.from_flags(**SHARED, seed=seed, **flags)


def _report_line(runs_dir: Path) -> str:
    """Write the report and name its file, or say which packages it lacks."""
    from emergence.report.write import write_report

    try:
        return f"report           {write_report(runs_dir).html}"
    except UsageError as error:
        return f"no report        {error}"


class _Beside:
    """The random cells in a second process that shares the cores with this one. There is none on one core or a GPU.

    It starts once the first cell has read its data, so that nothing is made twice. It says what it does in a log, which
    is shown when its turn comes.

    Attributes:
        waiting: Numbers of the cells that it runs and that were not followed yet.
    """

    def __init__(self, store: RunStore, seed: int, fresh: bool) -> None:
        self._store, self._fresh = store, fresh
        self._process: Process | None = None
        self._shown = 0
        specs = {n: _spec(seed, extra) for n, (_, extra) in enumerate(CELLS, start=1) if "random_baseline" in extra}
        left = {n: spec for n, spec in specs.items() if fresh or store.find_finished(spec) is None}
        self.waiting: dict[int, ExperimentSpec] = left if _has_a_core_to_spare() else {}
        self._threads = divided_threads(2 if self.waiting else 1)

    def __enter__(self) -> _Beside:
        self._threads.__enter__()
        self._own_threads = _use_threads_of_environment() if self.waiting else None
        return self

    def __exit__(self, *error: object) -> None:
        """Where cells are left to follow, they save where they are."""
        if self._process is not None:
            if self.waiting:
                self._process.interrupt()
            self._process.close()
        if self._own_threads is not None:
            import torch

            torch.set_num_threads(self._own_threads)
        self._threads.__exit__(None, None, None)

    def start_and_announce(self, run: RunDirectory, what: str) -> None:
        """The first cell is open: its data has been read."""
        announce(run, what)
        if self._process is None and self.waiting:
            make_folder(self._store.root / CACHE_FOLDER)
            self._process = Process.start(start_method())
            for number, spec in self.waiting.items():
                self._log(number).unlink(missing_ok=True)
                where = {"runs_dir": str(self._store.root.resolve()), "cwd": str(Path.cwd())}
                job = {"spec": spec.to_dict(), "trunk": None, "fresh": self._fresh, "brief": True}
                self._process.take({**job, **where, "log": str(self._log(number).resolve())})

    def follow(self, number: int, should_stop: Any) -> str:
        """Show what a cell says until it has ended; returns the name of its run.

        Raises:
            EmergenceError: It failed, or has stopped because ``should_stop`` was true.
        """
        process = self._process
        assert process is not None  # the first cell is open
        self._shown, is_asked = 0, False
        while not (is_over := bool(wait(process.news, POLL_SECONDS))):
            self._show(number)
            if should_stop() and not is_asked:
                process.interrupt()
                is_asked = True
        assert is_over
        answer = process.answer()
        self._show(number)
        del self.waiting[number]
        if "error" in answer:
            self.waiting.clear()  # its process has ended with it
            code = int(answer["exit_code"])
            raise UsageError(answer["error"]) if code == UsageError.exit_code else EmergenceError(answer["error"], code)
        return str(answer["run_id"])

    def _log(self, number: int) -> Path:
        return self._store.root / CACHE_FOLDER / f"demo-{number}.log"

    def _show(self, number: int) -> None:
        log = self._log(number)
        content = read_regular(log) if log.exists() else b""
        end = content.rfind(b"\n") + 1
        sys.stderr.write(content[self._shown : end].decode(errors="replace"))
        self._shown = max(self._shown, end)


def _has_a_core_to_spare() -> bool:
    import torch

    return (os.cpu_count() or 1) > 1 and not torch.cuda.is_available()


def _use_threads_of_environment() -> int | None:
    """This process has begun with a thread for each core. Returns how many it had; None where it keeps them."""
    import torch

    threads = os.environ.get("OMP_NUM_THREADS", "")
    if not threads.isdigit() or int(threads) < 1:
        return None
    before = torch.get_num_threads()
    torch.set_num_threads(int(threads))
    return before
