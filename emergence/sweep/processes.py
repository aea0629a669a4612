"""Processes that run cells beside each other on this machine: how they start, get their jobs, and share the cores."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from emergence.environment import THREAD_VARIABLES, threads_asked_for, usable_cores, variables
from emergence.errors import STOPPED
from emergence.sweep.worker import PRELOAD, serve

#: The server that processes are forked from is asked through a socket in the temporary folder, and the path of a socket
#: has about a hundred characters.
_LONGEST_TEMPORARY_FOLDER = 70


def start_method() -> Any:
    """How processes start: forked from a server that has imported everything, or anew where there is no fork."""
    is_short = len(tempfile.gettempdir()) <= _LONGEST_TEMPORARY_FOLDER
    if "forkserver" not in multiprocessing.get_all_start_methods() or not is_short:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    return context


def prepare() -> None:
    """Have the server that processes are forked from begin its imports, which take seconds."""
    if start_method().get_start_method() == "forkserver":
        from multiprocessing import forkserver  # not on every system

        forkserver.ensure_running()


@dataclass
class Process:
    """A process that does one job after the other (:func:`emergence.sweep.worker.serve`), until one fails.

    Attributes:
        jobs, answers: The ends of its pipes here.
        log: Of the job that it was given last. started: When it got that.
    """

    process: Any
    jobs: Connection
    answers: Connection
    log: Path = Path()
    started: float = 0.0

    @classmethod
    def start(cls, context: Any) -> Process:
        their_jobs, jobs = context.Pipe(duplex=False)
        answers, their_answers = context.Pipe(duplex=False)
        process = context.Process(target=serve, args=(their_jobs, their_answers))
        process.start()
        their_jobs.close()
        their_answers.close()
        return cls(process, jobs, answers)

    def take(self, job: dict[str, Any]) -> None:
        self.log, self.started = Path(job["log"]), time.monotonic()
        with contextlib.suppress(OSError):  # it has died, which its missing answer will tell
            self.jobs.send_bytes(json.dumps(job).encode())

    @property
    def is_alive(self) -> bool:
        return not wait([self.process.sentinel], 0)

    @property
    def news(self) -> list[Any]:
        """What becomes ready when there is an answer, or none will come."""
        return [self.answers, self.process.sentinel]

    def interrupt(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGINT)

    def answer(self) -> dict[str, Any]:
        """The answer to its job, once there are news; an error with ``died`` where it has ended without one."""
        with contextlib.suppress(EOFError, OSError):
            if self.answers.poll():
                answer: dict[str, Any] = json.loads(self.answers.recv_bytes())
                return answer
        self.process.join()
        code = self.process.exitcode
        if code is not None and code < 0:
            cause = f"killed by signal {-code}" + (" (out of memory?)" if code == -signal.SIGKILL else "")
            code = STOPPED if -code in (signal.SIGINT, signal.SIGTERM) else 1
            return {"error": cause, "exit_code": code, "died": True}
        return {"error": f"its process ended with exit code {code}", "exit_code": code or 1, "died": True}

    def close(self) -> None:
        """Let it end, and wait for that."""
        self.jobs.close()
        self.process.join()
        self.answers.close()


def job_of(what: Mapping[str, Any], runs_dir: Path, cwd: str, log: Path) -> dict[str, Any]:
    """A job of a process: ``what`` is to be done (:mod:`emergence.sweep.worker`), and where it works and writes."""
    return {**what, "runs_dir": str(runs_dir.resolve()), "cwd": cwd, "log": str(log.resolve())}


def divided_threads(jobs: int) -> AbstractContextManager[None]:
    """Divide the cores among the jobs, unless the user set the number of threads."""
    if jobs < 2 or any(map(threads_asked_for, THREAD_VARIABLES)):
        return variables({})
    threads = str(max(1, usable_cores() // jobs))
    return variables(dict.fromkeys(THREAD_VARIABLES, threads))
