"""The function calls that work on runs: which call holds a run, how a call ended, and a sweep's runs as calls."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import Any

import modal

from emergence.errors import RunDirectoryError
from emergence.sweep.graph import Status, Task
from emergence.sweep.place import Outcome

logger = logging.getLogger(__name__)

#: A conductor looks at its calls this often.
POLL_SECONDS = float(os.environ.get("EMERGENCE_POLL_SECONDS", "10"))

#: The lock table, which all launches share: the calls that hold a run, by its name.
locks = modal.Dict.from_name("emergence-run-locks", create_if_missing=True)


def answer_of(call_id: str) -> dict[str, Any] | None:
    """What a call returned, or its exception as ``error``; None while it is going."""
    try:
        return dict(modal.FunctionCall.from_id(call_id).get(timeout=0))
    except TimeoutError:
        return None
    except Exception as error:  # it failed for good, was cancelled, or is so old that Modal forgot it
        return {"error": f"{type(error).__name__}: {error}", "exit_code": 1}


def reserve(run_id: str, call_id: str) -> dict[str, Any]:
    """Make ``call_id`` the only launch that may write a run. Returns the run's entry in the lock table.

    Raises:
        RunDirectoryError: Another launch holds the run and is still going.
    """
    mine = {"holder": call_id, "train": None, "fruitless": 0}
    if locks.put(run_id, mine, skip_if_exists=True):
        return mine
    entry = dict(locks.get(run_id) or {})
    if entry.get("holder") == call_id:
        return entry
    refuse_if_going(run_id, entry)
    locks.pop(run_id, None)
    if not locks.put(run_id, mine, skip_if_exists=True):
        raise RunDirectoryError(f"{run_id} was taken by another launch a moment ago: wait for it")
    return mine


def refuse_if_going(run_id: str, entry: dict[str, Any]) -> None:
    """Refuse a run that a launch holds. ``entry`` is the run's in the lock table.

    Raises:
        RunDirectoryError: One of its calls has not ended. The message names it.
    """
    for call_id in (entry.get("train"), entry.get("holder")):
        if call_id and is_going(call_id):
            raise RunDirectoryError(
                f"{run_id} is being written by {call_id}: wait for it, or stop its app (modal app list)"
            )


def is_going(call_id: str) -> bool:
    """Whether a function call has not ended yet."""
    return answer_of(call_id) is None


class Calls:
    """A :class:`emergence.sweep.place.Runner` that makes function calls. ``jobs`` has each call's job by task key."""

    def __init__(self, jobs: Mapping[str, Mapping[str, Any]], prepare: Any) -> None:
        self.jobs, self.prepare = jobs, prepare

    def start(self, task: Task, status: Status, trunk: str | None) -> None:
        job = {**self.jobs[task.key], "trunk": trunk}
        status.run_id = job["run_id"]
        entry = locks.get(status.run_id) or {}  # a conductor that ended before it could publish the call
        status.calls = [call_id for call_id in (entry.get("holder"), entry.get("train")) if call_id]
        if not any(is_going(call_id) for call_id in status.calls):
            call = self.prepare.with_options(max_containers=job["max_containers"]).spawn(job)
            status.calls = [call.object_id]
        logger.info("started %s as %s: %s", task.label, status.run_id, status.calls[-1])

    def look(self, task: Task, status: Status) -> Outcome | None:
        answer = answer_of(status.calls[-1])
        if answer is None:
            return None
        if "call" in answer:  # prepared: another call carries on
            status.calls.append(answer["call"])
            return None
        if "results" in answer:
            return Outcome(headline=answer["results"])
        lines = str(answer["error"]).strip().splitlines() or ["it failed without a word"]
        return Outcome(error=lines[-1], last_lines=lines[-6:] if len(lines) > 1 else [])

    def wait(self) -> None:
        time.sleep(POLL_SECONDS)

    def stop(self) -> bool:
        """False: there is nothing to wait for, since calls outlive the conductor and the next one takes them up."""
        return False
