"""The loop of a sweep, wherever it runs: start what is ready, look at what runs, note how it ended.

Whatever ends the loop, the next one goes on from the states that were noted. Standard library only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from emergence.plain import plain
from emergence.sweep.graph import Graph, Task
from emergence.sweep.place import Outcome, Runner

logger = logging.getLogger(__name__)


def conduct(
    graph: Graph, runner: Runner, limit: int, note: Callable[[Task], None], should_stop: Callable[[], bool]
) -> bool:
    """Bring a sweep to its end.

    Args:
        graph: Tasks and states. Running tasks are taken up.
        limit: Runs at a time.
        note: Stores the states. It is called after every change of a task's status.
        should_stop: Asked after every look at the runs. Once it is true, nothing more is started.

    Returns:
        Whether the sweep is over; False if it was asked to stop before.
    """
    while True:
        for task in graph.in_state("running"):
            _look(graph, task, runner, note)
        stopping = should_stop()
        if not stopping:
            for task in graph.ready()[: max(0, limit - len(graph.in_state("running")))]:
                status = graph.status[task.key]
                status.state, status.error, status.last_lines = "running", None, []
                runner.start(task, status, graph.trunk_of(task))
                note(task)
        if not graph.in_state("running") and (stopping or not graph.ready()):
            return not graph.unfinished
        if stopping and not runner.stop():
            return False
        runner.wait()


def _look(graph: Graph, task: Task, runner: Runner, note: Callable[[Task], None]) -> None:
    status = graph.status[task.key]
    before = plain(status)
    outcome = runner.look(task, status)
    if outcome is not None:
        _settle(graph, task, outcome)
    if plain(status) != before:
        note(task)


def _settle(graph: Graph, task: Task, outcome: Outcome) -> None:
    status = graph.status[task.key]
    status.seconds = outcome.seconds
    if outcome.error is not None:
        graph.fail(task.key, outcome.error, outcome.last_lines)
        logger.info("failed: %s: %s", task.label, outcome.error)
    elif outcome.stopped:
        status.state = "stopped"
    elif outcome.again:
        status.state = "waiting"
    else:
        status.state, status.run_id = "done", outcome.run_id or status.run_id
        status.headline = dict(outcome.headline)
        logger.info("done: %s", task.label)
