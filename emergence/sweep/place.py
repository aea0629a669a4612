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
        is_rented: Whether a run costs dollars there, and a plan tells GPU hours before hours of one CPU core.
    """

    name: str
    jobs: int
    is_rented: bool

    def at_a_time(self, jobs: int) -> str:
        """What a plan says of ``jobs`` runs at a time."""

    def existing(self, runs_dir: Path) -> Existing:
        """The runs that are done or begun there, by content. ``runs_dir`` is the folder of runs on this machine."""

    def run(self, record: Record, existing: Existing, say: Say) -> None:
        """Run what is left of a sweep to its end, or follow it to its end if it is running.

        The record's graph and file then tell how each task ended. The small files of finished runs are then in the
        record's folder of runs.

        Raises:
            EmergenceError: Nothing could be started, or the sweep was stopped. ``resume`` goes on.
        """

    def refresh(self, record: Record) -> None:
        """Bring the states of a loaded record up to date."""

    def is_running(self, record: Record) -> bool:
        """Whether something executes the sweep now."""

    def cancel(self, record: Record) -> str:
        """Stop a sweep that something else executes. Returns what was done, in words."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: it is done, unless there is an ``error``, it was ``stopped`` or is to be started ``again``.

    Attributes:
        run_id: The run's name, where it was not known at the start. headline: Its scores by name.
        error: What went wrong, in one line. last_lines: The end of what the run said before.
        stopped: The run saved and stopped, because it was asked to.
        again: Nothing was done, for a reason that passes. It is to be started again.
        seconds: How long it took; None where that is unknown.
    """

    run_id: str | None = None
    headline: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    last_lines: Sequence[str] = ()
    stopped: bool = False
    again: bool = False
    seconds: float | None = None


class Runner(Protocol):
    """Starts runs and looks at them. It may note in a task's status how to find the run again."""

    def start(self, task: Task, status: Status, trunk: str | None) -> None:
        """Start a task, or take up the run that works on it already.

        It finds its trunk among all runs, by content; its text must be that of run ``trunk``.
        """

    def look(self, task: Task, status: Status) -> Outcome | None:
        """How a task's run ended; None while it goes on."""

    def wait(self) -> None:
        """Wait until another look may be worth it, for some seconds at most."""

    def stop(self) -> bool:
        """Called at every look once the loop is to stop. Returns whether the loop waits until all runs have ended."""
