"""A sweep on this machine: a process a task, some at a time, in the order of what depends on what.

Everything that must survive is in the run directories and in the record; this process may be killed at any
moment, and the same command goes on.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from emergence.errors import STOPPED, EmergenceError, RunDirectoryError, UsageError
from emergence.experiment.locks import RunLock, read_holder
from emergence.experiment.stop_switch import StopSwitch
from emergence.files import make_folder
from emergence.sweep.graph import Task
from emergence.sweep.plan import cost_of
from emergence.sweep.record import FOLDER, Record
from emergence.sweep.worker import PRELOAD, check_inputs, last_lines, run_cell
from emergence.wording import duration

#: How often signals are looked at, and how long nothing may be said.
POLL_SECONDS, SILENCE_SECONDS = 0.5, 60.0
#: What the libraries below torch and numpy take their number of threads from.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

Say = Callable[[str], None]


class SweepStopped(EmergenceError):
    """The sweep was asked to stop, and its runs have saved where they are. Exit code 130."""

    exit_code = STOPPED


def run_local(record: Record, say: Say) -> None:
    """Execute what is left of ``record``; its graph and file tell how each task ended.

    Raises:
        UsageError: Data that is missing or too small; no run has been started.
        RunDirectoryError: Another sweep works in this folder.
        SweepStopped: After SIGINT or SIGTERM.
    """
    folder = make_folder(record.runs_dir / FOLDER)
    # One sweep a folder: two would start the same pretraining side by side before either could see the other's.
    if holder := read_holder(folder):
        raise RunDirectoryError(
            f"another sweep works in {record.runs_dir}: {holder}: wait for it (emergence sweep status), "
            "stop it (emergence sweep cancel), or use another --runs-dir"
        )
    with RunLock(folder), _divided_threads(record.jobs):
        make_folder(record.logs)
        record.save()
        context = _processes()
        with StopSwitch(lambda: None, counts_only=True) as stop:
            _check(record, context, stop, say)
            _Executor(record, context, stop, say).run()


def _processes() -> Any:
    """Forked from a server with everything imported where the system can, else started anew."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    return context


@dataclass
class _Running:
    """A task's process."""

    task: Task
    process: Any
    answers: Connection
    log: Path
    started: float

    @classmethod
    def start(cls, context: Any, target: Any, task: Task | None, job: dict[str, Any]) -> _Running:
        reader, writer = context.Pipe(duplex=False)
        process = context.Process(target=target, args=(job, writer), daemon=False)
        process.start()
        writer.close()
        return cls(task, process, reader, Path(job["log"]), time.monotonic())  # type: ignore[arg-type]

    def interrupt(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGINT)

    def answer(self) -> dict[str, Any]:
        """What the process told, once it has ended; an error of ours where it told nothing."""
        self.process.join()
        told: dict[str, Any] = {}
        with contextlib.suppress(EOFError, OSError):
            if self.answers.poll():
                told = json.loads(self.answers.recv_bytes())
        self.answers.close()
        code = self.process.exitcode
        if not told and code is not None and code < 0:
            cause = f"killed by signal {-code}" + (" (out of memory?)" if code == -signal.SIGKILL else "")
            return {"error": cause, "exit_code": STOPPED if -code in (signal.SIGINT, signal.SIGTERM) else 1}
        return told or {"error": f"its process ended with exit code {code}", "exit_code": code or 1}


def _check(record: Record, context: Any, stop: StopSwitch, say: Say) -> None:
    """Read the data of everything that is left, in a process of its own; refuse the sweep if any is wrong."""
    tasks = record.graph.unfinished
    job = {
        "specs": [(task.label, task.spec.to_dict()) for task in tasks if not task.is_pretraining],
        "runs_dir": str(record.runs_dir.resolve()),
        "cwd": record.cwd,
        "trunks": {
            task.spec.pretrain_id: record.graph.status[task.key].run_id
            for task in record.graph.in_state("done")
            if task.is_pretraining
        },
        "log": str(record.logs.resolve() / "data.log"),
    }
    if not job["specs"]:
        return
    say("reading the data")
    running = _Running.start(context, check_inputs, None, job)
    while not wait([running.process.sentinel], POLL_SECONDS):
        if stop():
            running.process.kill()  # nothing to save: what is complete in the cache stays
            running.process.join()
            raise SweepStopped("stopped before any run was started")
    answer = running.answer()
    if "error" in answer:
        error = UsageError(answer["error"]) if answer["exit_code"] == UsageError.exit_code else None
        raise error or EmergenceError(f"reading the data failed: {answer['error']}; see {running.log}")


class _Executor:
    """The loop that starts, watches and settles tasks."""

    def __init__(self, record: Record, context: Any, stop: StopSwitch, say: Say) -> None:
        self.record, self.graph, self.context, self.say = record, record.graph, context, say
        self.stop, self.forwarded = stop, 0
        self.running: list[_Running] = []
        self.weights = {task.key: cost_of(task).cpu_hours for task in self.graph.unfinished}
        self.total, self.begun = len(self.graph.tasks), time.monotonic()
        self.spoke = time.monotonic()

    def run(self) -> None:
        """Until nothing is running and nothing can be started."""
        while True:
            if not self.stop():
                self._start_what_can_be()
            if not self.running:
                break
            ended = wait([item.process.sentinel for item in self.running], POLL_SECONDS)
            for item in [item for item in self.running if item.process.sentinel in ended]:
                self.running.remove(item)
                self._settle(item)
            self._forward_requests()
            if time.monotonic() - self.spoke > SILENCE_SECONDS:
                names = ", ".join(f"{i.task.label} {duration(time.monotonic() - i.started)}" for i in self.running)
                self._tell(f"running: {names}{self._left()}")
        if self.stop() and self.graph.unfinished:
            left = len(self.graph.unfinished)
            raise SweepStopped(f"stopped with {left} of {self.total} runs left: `emergence sweep resume` goes on")

    def _start_what_can_be(self) -> None:
        for task in self.graph.ready()[: max(0, self.record.jobs - len(self.running))]:
            status = self.graph.status[task.key]
            log = self.record.logs.resolve() / (re.sub(r"[^A-Za-z0-9_.=+-]", "_", task.label) + ".log")
            status.state, status.log, status.error, status.last_lines = "running", log.name, None, []
            job = {
                "spec": task.spec.to_dict(),
                "trunk": self.graph.trunk_of(task),
                "runs_dir": str(self.record.runs_dir.resolve()),
                "cwd": self.record.cwd,
                "log": str(log),
            }
            self.record.save()
            self.running.append(_Running.start(self.context, run_cell, task, job))

    def _settle(self, item: _Running) -> None:
        answer, status = item.answer(), self.graph.status[item.task.key]
        status.seconds = time.monotonic() - item.started
        if "error" not in answer:
            status.state, status.run_id, status.headline = "done", answer["run_id"], answer["headline"]
        elif answer["exit_code"] == STOPPED and self.stop():
            status.state = "stopped"
        else:
            self.graph.fail(item.task.key, answer["error"], last_lines(item.log))
        self.record.save()
        self._report(item)

    def _report(self, item: _Running) -> None:
        status, counts = self.graph.status[item.task.key], self.graph.counts()
        done = counts.get("done", 0)
        failed = f", {counts['failed']} failed" if "failed" in counts else ""
        head = f"[{done}/{self.total}{failed}] {item.task.label}"
        took = duration(status.seconds or 0.0)
        if status.state == "done":
            f1 = status.headline.get("test_f1")
            score = "" if f1 is None else f", F1 {f1:.3f}"
            self._tell(f"{head}: {took}{score}{self._left()}")
        elif status.state == "stopped":
            self._tell(f"{head}: stopped, saved")
        else:
            blocked = sum(1 for t in self.graph.in_state("blocked") if t.needs == item.task.key)
            waits = f"; {blocked} runs that need it are left out" if blocked else ""
            self._tell(f"{head}: FAILED after {took}: {status.error}{waits}")

    def _left(self) -> str:
        """``; 13 left, about 12 min``, from what this call has done so far."""
        unfinished = self.graph.unfinished
        left = sum(self.weights[task.key] for task in unfinished)
        done = sum(self.weights.values()) - left
        if not unfinished:
            return ""
        estimate = f", about {duration((time.monotonic() - self.begun) / done * left)}" if done > 0 else ""
        return f"; {len(unfinished)} left{estimate}"

    def _forward_requests(self) -> None:
        """Pass on each Ctrl-C once: the first saves and stops, a second one stops at once."""
        while self.forwarded < self.stop.requests:
            self.forwarded += 1
            for item in self.running:
                item.interrupt()

    def _tell(self, text: str) -> None:
        self.spoke = time.monotonic()
        self.say(text)


@contextlib.contextmanager
def _divided_threads(jobs: int) -> Iterator[None]:
    """Divide the cores among the jobs, unless the user set the number of threads."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    if jobs > 1 and before["OMP_NUM_THREADS"] is None:
        threads = str(max(1, (os.cpu_count() or 1) // jobs))
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, threads))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
