"""What a place must offer so that a sweep can run there: this machine, Modal, or another one.

The command asks a :class:`Place`. The loop of :mod:`emergence.sweep.conductor` drives a :class:`Runner`, in this
process or where the place lets it run. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from emergence.sweep.existing import Existing
from emergence.sweep.graph import Status, Task
from emergence.sweep.record import Record

#: Where progress goes, a line at a time.
Say = Callable[[str], None]


class Place(Protocol):
    """Somewhere a sweep can run.

    Attributes:
        name: What ``--on`` calls it; stored in records.
        jobs: Runs at a time where ``--jobs`` does not say.
        is_rented: Whether a plan counts GPU hours and dollars there, or hours of one CPU core.
    """

    name: str
    jobs: int
    is_rented: bool

    def at_a_time(self, jobs: int) -> str:
        """The words for ``jobs`` runs side by side."""

    def existing(self, runs_dir: Path) -> Existing:
        """What is done and begun there, by content; ``runs_dir`` is the folder of runs on this machine."""

    def run(self, record: Record, existing: Existing, say: Say) -> None:
        """Run what is left of a sweep, or follow it where it is running, to its end.

        The record's graph and file then tell how each task ended, and the small files of what is done are in the
        record's folder of runs.

        Raises:
            EmergenceError: Nothing could be started, or the sweep was stopped; ``resume`` goes on.
        """

    def refresh(self, record: Record) -> None:
        """Bring the states of a loaded record up to date."""

    def is_running(self, record: Record) -> bool:
        """Whether something executes the sweep now."""

    def cancel(self, record: Record) -> str:
        """Stop a sweep that something else executes; says what was done."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: it is done, unless there is an ``error`` or it was ``stopped``.

    Attributes:
        run_id: Its name, where it was not known at the start. headline: Its scores by name.
        error: One line. last_lines: The end of what it said before.
        stopped: It saved and stopped, because it was asked to.
        seconds: How long it took, where that is known.
    """

    run_id: str | None = None
    headline: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    last_lines: Sequence[str] = ()
    stopped: bool = False
    seconds: float | None = None


class Runner(Protocol):
    """Runs that are started and looked at. It may write in a task's status how to find its run again."""

    def start(self, task: Task, status: Status, trunk: str | None) -> None:
        """Start a task with the trunk of run ``trunk``, or take up the run that works on it already."""

    def look(self, task: Task, status: Status) -> Outcome | None:
        """How a task's run ended; None while it goes on."""

    def wait(self) -> None:
        """Return when it may be worth to look again, after some seconds at most."""

    def stop(self) -> bool:
        """Hear, at every look, that the loop is to stop; returns whether it waits until all runs have ended."""
