"""Drives a sweep's calls on Modal, told without Modal: start what is ready, look at what runs, note how it ended.

It runs in a small container of its own, so that nothing depends on a laptop staying open. Whatever ends that
container, the next one goes on from the published states; calls it had started meanwhile it finds by their runs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from emergence.plain import plain
from emergence.sweep.graph import Graph, Status, Task

logger = logging.getLogger(__name__)


class Calls(Protocol):
    """Function calls."""

    def start(self, job: Mapping[str, Any]) -> str:
        """Start one run; returns the id of its call."""

    def find(self, run_id: str) -> list[str]:
        """Ids of the calls that are working on a run already."""

    def answer(self, call_id: str) -> dict[str, Any] | None:
        """What a call returned: ``call`` (id of one that carries on), ``results``, or ``error``; None: going."""


def conduct(
    sweep: Mapping[str, Any],
    states: Mapping[str, Any],
    calls: Calls,
    publish: Callable[[dict[str, Any]], None],
    should_stop: Callable[[], bool],
    pause: float,
) -> bool:
    """Bring a sweep to its end.

    Args:
        sweep: ``tasks`` (:meth:`Task.to_dict`), ``jobs`` by key (what each call gets), ``limit`` (calls at a time).
        states: As last published, by key.
        publish: Puts the states of all tasks where others can read them.
        pause: Seconds between two looks.

    Returns:
        Whether it is over; False when it was asked to stop before.
    """
    tasks = [Task.from_dict(raw) for raw in sweep["tasks"]]
    graph = Graph(tasks, {key: Status.from_dict(raw) for key, raw in states.items()})
    while True:
        before = _plain(graph)
        for task in graph.in_state("running"):
            _settle(graph, task, calls)
        for task in graph.ready()[: max(0, sweep["limit"] - len(graph.in_state("running")))]:
            _start(graph, task, sweep["jobs"][task.key], calls)
            publish(_plain(graph))
        if _plain(graph) != before or not states:
            publish(_plain(graph))
            states = before
        if not graph.in_state("running") and not graph.ready():
            return True
        if should_stop():
            return False
        time.sleep(pause)


def _plain(graph: Graph) -> dict[str, Any]:
    return plain(graph.status)


def _start(graph: Graph, task: Task, job: Mapping[str, Any], calls: Calls) -> None:
    status = graph.status[task.key]
    status.state, status.run_id = "running", job["run_id"]
    status.calls = calls.find(job["run_id"]) or [calls.start({**job, "trunk": graph.trunk_of(task)})]
    logger.info("started %s as %s: %s", task.label, job["run_id"], status.calls[-1])


def _settle(graph: Graph, task: Task, calls: Calls) -> None:
    status = graph.status[task.key]
    answer = calls.answer(status.calls[-1])
    if answer is None:
        return
    if "call" in answer:
        status.calls.append(answer["call"])
    elif "results" in answer:
        status.state, status.headline = "done", dict(answer["results"])
        logger.info("done: %s", task.label)
    else:
        lines = str(answer["error"]).strip().splitlines() or ["it failed without a word"]
        graph.fail(task.key, lines[-1], lines[-6:] if len(lines) > 1 else [])
        logger.info("failed: %s: %s", task.label, lines[-1])
