"""A sweep's runs as function calls, and the table in which its conductor publishes how they stand."""

from __future__ import annotations

import functools
import logging
import math
import os
import time
from collections.abc import Mapping
from typing import Any

import modal

from emergence.errors import STOPPED
from emergence.remote import locks
from emergence.remote.calls import LONGEST_PAUSE, look_at, patiently
from emergence.remote.locks import RunInUseError
from emergence.sweep.graph import Graph, Status, Task
from emergence.sweep.place import Outcome

logger = logging.getLogger(__name__)

#: A conductor looks at its calls this often.
POLL_SECONDS = float(os.environ.get("EMERGENCE_POLL_SECONDS", "10"))
#: A conductor with a budget counts this often. A run tells its account once a minute, and hears of the end as often.
COUNT_SECONDS = float(os.environ.get("EMERGENCE_COMMIT_SECONDS", "60"))
LAG_SECONDS = 240.0
#: The table of sweeps. It has no transaction, so each key has one kind of writer. Under ``NAME`` stands the ``launch``
#: that conducts the sweep, None after a cancel, which leaves it as ``last``; laptops write it. Under ``NAME/LAUNCH``
#: stands what that launch is to do, and under ``NAME/LAUNCH/states`` how its runs stand, which its conductor writes.
#: The laptop that sees the end of a sweep takes both out, and the next launch those of the one before; ``NAME`` stays.
sweeps = modal.Dict.from_name("emergence-sweeps", create_if_missing=True)


def published(name: str) -> dict[str, Any]:
    """The ``launch`` of a sweep and the ``states`` that its conductor last published; empty where nothing is."""
    about = conducted(name)
    launch = about.get("launch") or about.get("last")
    return {**about, **(patiently(lambda: sweeps.get(f"{name}/{launch}/states")) or {})} if launch else about


def conducted(name: str) -> dict[str, Any]:
    """Which launch conducts a sweep, as laptops have it: ``launch``, and ``last`` after a cancel."""
    return dict(patiently(lambda: sweeps.get(name)) or {})


def publish(name: str, launch: str, states: Mapping[str, Any], stop: str | None = None) -> None:
    """Write how the runs of a launch stand, and why they are to stop."""
    patiently(lambda: sweeps.put(f"{name}/{launch}/states", {"states": states, "stop": stop}))


def forget(name: str, launch: str) -> None:
    """Take a launch that has ended out of the table."""
    for key in (f"{name}/{launch}", f"{name}/{launch}/states"):
        patiently(functools.partial(sweeps.pop, key, None))


def refuse_if_superseded(job: Mapping[str, Any]) -> None:
    """Raise in a container that works for a sweep which was cancelled or launched anew since.

    Raises:
        RunInUseError: Saying so.
    """
    sweep = job.get("sweep")
    if sweep and conducted(sweep["name"]).get("launch") != sweep["launch"]:
        raise RunInUseError(f"the sweep {sweep['name']} was cancelled, or launched anew")


class Calls:
    """A :class:`emergence.sweep.place.Runner` that makes function calls.

    ``jobs`` has each call's job by task key. ``max_cost`` is what all may cost together; None for no end.
    """

    def __init__(self, jobs: Mapping[str, Mapping[str, Any]], prepare: Any, max_cost: float | None = None) -> None:
        self.jobs, self.prepare, self.max_cost = jobs, prepare, max_cost
        #: Why the runs are to save and stop; published, because they look for it there.
        self.reason: str | None = None
        self._pause, self._unanswered = POLL_SECONDS, False
        self._counted = -math.inf

    def start(self, task: Task, status: Status, trunk: str | None) -> None:
        job = {**self.jobs[task.key], "trunk": trunk}
        status.run_id = job["run_id"]
        refuse_if_superseded(job)
        # A conductor that ended before it could publish the call, or whose spawn was answered by an error.
        status.calls = locks.calls_of(job["run_id"])
        if all(look_at(call_id).state == "ended" for call_id in status.calls):
            preparing = self.prepare.with_options(max_containers=job["max_containers"])
            status.calls = [patiently(lambda: preparing.spawn(job)).object_id]
        logger.info("started %s as %s: %s", task.label, status.run_id, status.calls[-1])

    def look(self, task: Task, status: Status) -> Outcome | None:
        look = look_at(status.calls[-1])
        if look.state == "not known" and status.unknown is None:
            logger.warning("%s: Modal does not say how %s stands (%s)", task.label, status.calls[-1], look.why)
        status.unknown = look.why or None
        self._unanswered = self._unanswered or look.state == "not known"
        if look.answer is None:
            return None
        if (follower := self._follower(status, look.answer)) is not None:
            status.calls.append(follower)
            return None
        if look.answer.get("again"):  # refused for want of an answer: no failure of the run's
            self._unanswered = True
            return Outcome(again=True)
        status.dollars = look.answer.get("dollars", self._dollars(task, status))
        if "results" in look.answer:
            return Outcome(headline=look.answer["results"])
        if self.reason is not None and look.answer.get("exit_code") == STOPPED:
            return Outcome(stopped=True)
        lines = str(look.answer["error"]).strip().splitlines() or ["it failed without a word"]
        return Outcome(error=lines[-1], last_lines=lines[-6:] if len(lines) > 1 else [])

    @staticmethod
    def _follower(status: Status, answer: Mapping[str, Any]) -> str | None:
        """The call that carries on where one has ended: the training after the preparation, or who has the run."""
        if "call" in answer:
            return str(answer["call"])
        if "results" in answer or status.run_id is None:
            return None
        others = [each for each in locks.calls_of(status.run_id) if each not in status.calls]
        return next((each for each in reversed(others) if look_at(each).state != "ended"), None)

    def wait(self) -> None:
        self._pause = min(2 * self._pause, LONGEST_PAUSE) if self._unanswered else POLL_SECONDS
        self._unanswered = False
        time.sleep(self._pause)

    def stop(self) -> bool:
        """Whether the runs were asked to stop too. Else calls outlive the conductor, and the next one takes them up."""
        return self.reason is not None

    def is_spent(self, graph: Graph) -> bool:
        """Whether the money is spent, but for what the runs take to hear of it and to save. It counts every minute."""
        if self.max_cost is None or self.reason is not None or time.monotonic() - self._counted < COUNT_SECONDS:
            return self.reason is not None
        self._counted = time.monotonic()
        running = graph.in_state("running")
        going = sum(self._dollars(task, graph.status[task.key]) for task in running)
        ended = sum(status.dollars for status in graph.status.values() if status.state != "running")
        lag = sum(self._price(task) for task in running) * LAG_SECONDS / 3600
        if going + ended + lag >= self.max_cost:
            self.reason = f"${going + ended:.2f} of --max-cost {self.max_cost:g} are spent"
        return self.reason is not None

    def _price(self, task: Task) -> float:
        return float(self.jobs[task.key].get("dollars_per_hour", 0.0))

    def _dollars(self, task: Task, status: Status) -> float:
        """What the attempts of a run cost so far, as its training call keeps account.

        The account of a launch that had the run before stays in the table until the next training begins.
        """
        account = locks.writer_of(status.run_id) if status.run_id else {}
        seconds = account.get("seconds", 0.0) if account.get("holder") in status.calls else 0.0
        return float(seconds) / 3600 * self._price(task)
