"""A sweep on this machine: tasks run in processes of their own, some at a time.

Everything that must survive is in the run directories and in the record. So this process may be killed at any moment,
and the same command goes on.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from emergence.errors import STOPPED, EmergenceError, RunDirectoryError, UsageError
from emergence.experiment.locks import RunLock, read_holder
from emergence.experiment.stop_switch import StopSwitch
from emergence.experiment.store import RunStore
from emergence.files import make_folder
from emergence.sweep.conductor import conduct
from emergence.sweep.existing import Existing, existing_runs
from emergence.sweep.graph import Status, Task
from emergence.sweep.place import Outcome, Say
from emergence.sweep.plan import cost_of
from emergence.sweep.processes import Process, divided_threads, job_of, start_method
from emergence.sweep.record import FOLDER, Record
from emergence.sweep.worker import last_lines
from emergence.wording import duration

#: Seconds between two looks at signals, and the longest silence towards the user.
POLL_SECONDS, SILENCE_SECONDS = 0.5, 60.0


class LocalPlace:
    """:class:`emergence.sweep.place.Place` on this machine."""

    name, jobs, is_rented = "local", 1, False

    def at_a_time(self, jobs: int) -> str:
        return f"{jobs} at a time on this machine"

    def existing(self, runs_dir: Path) -> Existing:
        return existing_runs(RunStore(runs_dir))

    def run(self, record: Record, existing: Existing, say: Say) -> None:
        """Execute what is left.

        Raises:
            UsageError: Data is missing or too small. No run has been started.
            RunDirectoryError: Another sweep works in this folder.
            EmergenceError: SIGINT or SIGTERM came, and the runs have saved where they are. Exit code 130.
        """
        folder = make_folder(record.runs_dir / FOLDER)
        # One sweep a folder: two would start the same pretraining side by side before either could see the other's.
        if holder := read_holder(folder):
            raise RunDirectoryError(
                f"another sweep works in {record.runs_dir}: {holder}: wait for it (emergence sweep status), "
                "stop it (emergence sweep cancel), or use another --runs-dir"
            )
        with RunLock(folder), divided_threads(record.jobs):
            make_folder(record.logs)
            record.save()
            context = start_method()
            with StopSwitch(lambda: None, counts_only=True) as stop:
                runner = _LocalRunner(record, context, stop, say, _check(record, context, stop, say))
                if record.jobs > 1:
                    record.graph.expected = runner.work
                try:
                    over = conduct(record.graph, runner, record.jobs, runner.note, stop)
                finally:
                    runner.close()
                if not over:
                    left, total = len(record.graph.unfinished), len(record.graph.tasks)
                    message = f"stopped with {left} of {total} runs left: `emergence sweep resume` goes on"
                    raise EmergenceError(message, STOPPED)

    def refresh(self, record: Record) -> None:
        if read_holder(record.runs_dir / FOLDER) is None:
            for task in record.graph.in_state("running"):
                record.graph.status[task.key].state = "stopped"

    def is_running(self, record: Record) -> bool:
        # One local sweep a folder, so a running one is the one with running tasks.
        return read_holder(record.runs_dir / FOLDER) is not None and bool(record.graph.in_state("running"))

    def cancel(self, record: Record) -> str:
        """Ask the sweep's process to stop. Its runs save first."""
        holder = read_holder(record.runs_dir / FOLDER)
        if holder is None or not record.graph.in_state("running"):
            return f"{record.name} is not running: nothing to cancel"
        os.kill(holder.pid, signal.SIGINT)
        return f"asked {holder} to save and stop; `emergence sweep resume` goes on"


def _job(record: Record, log: str, **what: Any) -> dict[str, Any]:
    """The job of a process of the sweep: ``what`` is to be done, and where the process works and writes."""
    return job_of(what, record.runs_dir, record.cwd, record.logs / log)


def _check(record: Record, context: Any, stop: StopSwitch, say: Say) -> list[Process]:
    """Read the data of all tasks to do. The sweep is refused if any of it is wrong.

    Returns:
        The process that has read them, if there were any.
    """
    graph = record.graph
    specs = [(task.label, task.spec.to_dict()) for task in graph.unfinished if not task.is_pretraining]
    if not specs:
        return []
    done = [task for task in graph.in_state("done") if task.is_pretraining]
    trunks = {task.spec.pretrain_id: graph.status[task.key].run_id for task in done}
    say("reading the data")
    reader = Process.start(context)
    reader.take(_job(record, "data.log", specs=specs, trunks=trunks))
    while not wait(reader.news, POLL_SECONDS):
        if stop():
            reader.process.kill()  # nothing to save: what is complete in the cache stays
            reader.process.join()
            raise EmergenceError("stopped before any run was started", STOPPED)
    answer = reader.answer()
    if "error" in answer:
        reader.close()
        error = UsageError(answer["error"]) if answer["exit_code"] == UsageError.exit_code else None
        raise error or EmergenceError(f"reading the data failed: {answer['error']}; see {reader.log}")
    return [reader]


class _LocalRunner:
    """A :class:`emergence.sweep.place.Runner` with a process for each of so many tasks, which tells how far it is.

    A process that has pretrained or failed runs nothing more: what it compiled or broke is nobody else's.
    """

    def __init__(self, record: Record, context: Any, stop: StopSwitch, say: Say, idle: Sequence[Process] = ()) -> None:
        self.record, self.graph, self.context, self.say = record, record.graph, context, say
        self.stop_switch, self.forwarded = stop, 0
        self.running: dict[str, Process] = {}
        self.idle = list(idle)
        self.work = {task.key: cost_of(task).here.least for task in self.graph.unfinished}
        self.total, self.begun = len(self.graph.tasks), time.monotonic()
        self.spoke = time.monotonic()

    def start(self, task: Task, status: Status, trunk: str | None) -> None:
        status.log = re.sub(r"[^A-Za-z0-9_.=+-]", "_", task.label) + ".log"
        job = _job(self.record, status.log, spec=task.spec.to_dict(), trunk=trunk)
        while self.idle and not self.idle[-1].is_alive:
            self.idle.pop().close()
        process = self.idle.pop() if self.idle else Process.start(self.context)
        process.take(job)
        self.running[task.key] = process

    def look(self, task: Task, status: Status) -> Outcome | None:
        item = self.running[task.key]
        if not wait(item.news, 0):
            return None
        del self.running[task.key]
        answer, seconds = item.answer(), time.monotonic() - item.started
        if "error" in answer or task.is_pretraining:
            item.close()
        else:
            self.idle.append(item)
        if "error" not in answer:
            return Outcome(answer["run_id"], answer["headline"], seconds=seconds)
        if answer["exit_code"] == STOPPED and self.stop_switch():
            return Outcome(stopped=True, seconds=seconds)
        return Outcome(error=answer["error"], last_lines=last_lines(item.log), seconds=seconds)

    def wait(self) -> None:
        wait([each for item in self.running.values() for each in item.news], POLL_SECONDS)
        if time.monotonic() - self.spoke > SILENCE_SECONDS:
            took = {key: duration(time.monotonic() - item.started) for key, item in self.running.items()}
            names = ", ".join(f"{self.graph.tasks[key].label} {clock}" for key, clock in took.items())
            self._tell(f"running: {names}{self._left()}")

    def stop(self) -> bool:
        """Pass on each Ctrl-C once. At the first the runs save and stop, at a second they stop at once."""
        while self.forwarded < self.stop_switch.requests:
            self.forwarded += 1
            for item in self.running.values():
                item.interrupt()
        return True

    def close(self) -> None:
        """Let all processes end. Those that still run, where an error ended the sweep, finish what they have."""
        for process in self.running.values():
            process.jobs.close()
        while self.idle:
            self.idle.pop().close()

    def note(self, task: Task) -> None:
        """Store the states, and tell of a task that has ended."""
        self.record.save()
        if self.graph.status[task.key].state != "running":
            self._report(task)

    def _report(self, task: Task) -> None:
        status, counts = self.graph.status[task.key], self.graph.counts()
        done = counts.get("done", 0)
        failed = f", {counts['failed']} failed" if "failed" in counts else ""
        head = f"[{done}/{self.total}{failed}] {task.label}"
        took = duration(status.seconds or 0.0)
        if status.state == "done":
            f1 = status.headline.get("test_f1")
            score = "" if f1 is None else f", F1 {f1:.3f}"
            self._tell(f"{head}: {took}{score}{self._left()}")
        elif status.state == "stopped":
            self._tell(f"{head}: stopped, saved")
        else:
            blocked = sum(1 for t in self.graph.in_state("blocked") if t.needs == task.key)
            waits = f"; {blocked} runs that need it are left out" if blocked else ""
            self._tell(f"{head}: FAILED after {took}: {status.error}{waits}")

    def _left(self) -> str:
        """``; 13 left, about 12 min``, from what this call has done so far."""
        unfinished = self.graph.unfinished
        left = sum(self.work[task.key] for task in unfinished)
        done = sum(self.work.values()) - left
        if not unfinished:
            return ""
        estimate = f", about {duration((time.monotonic() - self.begun) / done * left)}" if done > 0 else ""
        return f"; {len(unfinished)} left{estimate}"

    def _tell(self, text: str) -> None:
        self.spoke = time.monotonic()
        self.say(text)
