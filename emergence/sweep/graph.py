"""The tasks of a sweep and what depends on what: one pretraining serves all its finetunings.

Pure bookkeeping, the same wherever a sweep runs. Standard library only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from emergence.errors import RunDirectoryError
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.matrix import Cell

State = Literal["waiting", "running", "done", "failed", "blocked", "stopped"]


@dataclass(frozen=True)
class Task:
    """One run of a sweep: a pretraining, or a cell.

    Attributes:
        key: Its content: the pretrain id, or the experiment id. Finished tasks are known by it, never by a name.
        name: The cell's, or ``T-WN-pretrain``; seeds share it.
        spec: The spec of the run to start. Whether a pretraining is done depends on its pretrain id alone.
        needs: Key of the pretraining whose trunk it takes; None where it needs none.
        is_pretraining: Whether it leaves a trunk and nothing else.
    """

    key: str
    name: str
    spec: ExperimentSpec
    needs: str | None = None
    is_pretraining: bool = False

    @property
    def label(self) -> str:
        """``T-WN-F-ALL.0``: name and seed."""
        return f"{self.name}.{self.spec.seed}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; :meth:`from_dict` is the inverse."""
        return {
            "key": self.key,
            "name": self.name,
            "needs": self.needs,
            "is_pretraining": self.is_pretraining,
            "spec": self.spec.to_dict(),
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], source: str = "task") -> Task:
        spec = ExperimentSpec.from_dict(raw["spec"], source)
        return cls(raw["key"], raw["name"], spec, raw["needs"], raw["is_pretraining"])


def build_tasks(cells: Iterable[Cell]) -> list[Task]:
    """Pretrainings first, then the cells, both in the order of ``cells``. Equal experiments are one task."""
    pretrainings: dict[str, Task] = {}
    tasks: dict[str, Task] = {}
    for cell in cells:
        spec, needs = cell.spec, None
        if not (spec.random_baseline or spec.model):
            needs = f"pretrain-{spec.pretrain_id}"
            if needs not in pretrainings:
                alone = spec.pretraining_alone
                name = _pretraining_name(cell.name, alone, pretrainings.values())
                pretrainings[needs] = Task(needs, name, alone, is_pretraining=True)
        tasks.setdefault(spec.experiment_id, Task(spec.experiment_id, cell.name, spec, needs))
    return [*pretrainings.values(), *tasks.values()]


def _pretraining_name(cell: str, spec: ExperimentSpec, others: Iterable[Task]) -> str:
    """``T-WN-pretrain``, with the pretrain id where settings make several of them."""
    name = "-".join([*cell.split("-")[:2], "pretrain"])
    taken = any((task.name, task.spec.seed) == (name, spec.seed) for task in others)
    return f"{name}-{spec.pretrain_id}" if taken else name


@dataclass
class Status:
    """How far a task is.

    Attributes:
        run_id: Name of its run directory, once known.
        seconds: Wall-clock time of the attempt that ended.
        error: What a failed task said, in one line. last_lines: The end of its log.
        log: File name of its log, relative to the record's folder. Only local sweeps have one.
        calls: Ids of Modal function calls that work on it.
        dollars: What its attempts on Modal have cost.
        unknown: Why nothing is known of the last of them just now; None while Modal answers.
        found: Whether it was done before the sweep began.
        headline: Scores by name, for machines that do not have the run directory.
    """

    state: State = "waiting"
    run_id: str | None = None
    seconds: float | None = None
    error: str | None = None
    last_lines: list[str] = dataclasses.field(default_factory=list)
    log: str | None = None
    calls: list[str] = dataclasses.field(default_factory=list)
    unknown: str | None = None
    dollars: float = 0.0
    found: bool = False
    headline: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Status:
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := set(raw) - known:
            raise RunDirectoryError(f"the record has {sorted(unknown)[0]!r}: written by a later version?")
        return cls(**raw)


class Graph:
    """Tasks with their states.

    Args:
        tasks: As :func:`build_tasks` orders them.
        status: State by key. A task without one waits.
    """

    def __init__(self, tasks: Sequence[Task], status: Mapping[str, Status] | None = None) -> None:
        self.tasks = {task.key: task for task in tasks}
        self.status = {key: (status or {}).get(key) or Status() for key in self.tasks}
        #: What tasks are expected to take, by key, where several run at a time: the longest are not left for the end.
        self.expected: Mapping[str, float] = {}

    def ready(self) -> list[Task]:
        """Waiting tasks that can start now. Pretrainings come first, because others wait for them."""
        waiting = (task for key, task in self.tasks.items() if self.status[key].state == "waiting")
        ready = [task for task in waiting if task.needs is None or self.status[task.needs].state == "done"]
        return sorted(ready, key=lambda task: (not task.is_pretraining, -self.expected.get(task.key, 0.0)))

    def trunk_of(self, task: Task) -> str | None:
        """The run whose trunk a task takes; None where it needs none."""
        return None if task.needs is None else self.status[task.needs].run_id

    def in_state(self, *states: State) -> list[Task]:
        return [task for key, task in self.tasks.items() if self.status[key].state in states]

    def fail(self, key: str, error: str, last_lines: Sequence[str] = ()) -> None:
        """Mark a task as failed, and the tasks that need it as blocked."""
        status = self.status[key]
        status.state, status.error, status.last_lines = "failed", error, list(last_lines)
        for task in self.tasks.values():
            if task.needs == key and self.status[task.key].state != "done":
                blocked = self.status[task.key]
                blocked.state, blocked.error = "blocked", f"needs {self.tasks[key].label}, which failed"

    @property
    def unfinished(self) -> list[Task]:
        """Tasks that are neither done nor failed nor blocked."""
        return self.in_state("waiting", "running", "stopped")

    def counts(self) -> dict[str, int]:
        """Number of tasks by state, every state that occurs."""
        counts: dict[str, int] = {}
        for status in self.status.values():
            counts[status.state] = counts.get(status.state, 0) + 1
        return counts
