"""What a sweep will do and cost, before it does anything. Standard library only."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from emergence.spec.cost import Plan, plan_experiment, refuse_above, refuse_not_on_modal
from emergence.spec.local_time import CoreTime, Machine, core_time, this_machine
from emergence.spec.memory import free_memory, refuse_if_too_large, refuse_if_too_large_for
from emergence.sweep.graph import Graph, Task
from emergence.sweep.place import Place
from emergence.wording import aligned, counted, time_range


@dataclass(frozen=True)
class Cost:
    """The cost of one task. A trunk that it takes from a pretraining is the pretraining's cost.

    Attributes:
        plan: Tokens, FLOP, and hours and dollars on Modal. A published model has none: it is probed on the machine it
            lies on, and what that takes is known when its files are.
        here: What it takes of one core of this machine; nothing where that is not known.
    """

    task: Task
    plan: Plan | None
    here: CoreTime


def cost_of(task: Task, gpu: str | None = None) -> Cost:
    """Estimate one task.

    Raises:
        UsageError: The GPU is unknown.
    """
    if task.spec.model:
        return Cost(task, None, CoreTime())
    spec = task.spec if task.needs is None else dataclasses.replace(task.spec, skip_pretrain=True)
    plan = plan_experiment(spec, gpu)
    return Cost(task, plan, core_time(spec))


@dataclass(frozen=True)
class SweepPlan:
    """A graph with its costs.

    Attributes:
        left: Costs of the tasks to do. done: Tasks that are done already.
        machine: This machine, for the estimate of what they would take here.
    """

    graph: Graph
    place: Place
    jobs: int
    left: tuple[Cost, ...]
    done: tuple[Task, ...]
    machine: Machine

    @classmethod
    def of(cls, graph: Graph, place: Place, jobs: int, gpu: str | None = None) -> SweepPlan:
        tasks = [task for task in graph.tasks.values() if graph.status[task.key].state != "done"]
        if place.is_rented:
            for task in tasks:
                refuse_not_on_modal(task.spec)
        left = tuple(cost_of(task, gpu) for task in tasks)
        return cls(graph, place, jobs, left, tuple(graph.in_state("done")), this_machine())

    @property
    def plans(self) -> list[Plan]:
        """What can be estimated of the tasks to do: all but published models."""
        return [cost.plan for cost in self.left if cost.plan is not None]

    @property
    def dollars(self) -> float:
        """What the tasks to do cost where they are to run: nothing on this machine."""
        return self.modal_dollars if self.place.is_rented else 0.0

    @property
    def modal_dollars(self) -> float:
        return sum(plan.dollars for plan in self.plans)

    @property
    def modal_hours(self) -> float:
        """Hours of one GPU on Modal for all tasks in turn."""
        return sum(plan.hours for plan in self.plans)

    @property
    def here(self) -> CoreTime:
        """What all tasks to do take of this machine's cores."""
        return sum((cost.here for cost in self.left), CoreTime())

    @property
    def seconds_here(self) -> tuple[float, float]:
        """Seconds that all tasks to do take on this machine, at least and at most."""
        return self.here.on(self.machine)

    @property
    def tokens(self) -> int:
        return sum(plan.pretrain_tokens + plan.finetune_tokens for plan in self.plans)

    def refuse_if_too_dear(self, max_cost: float | None) -> None:
        """Refuse a sweep whose estimate for all tasks to do is above ``--max-cost``.

        Raises:
            UsageError: It is above, or ``--max-cost`` is no amount.
        """
        what, cure = f" for {counted(len(self.left), 'run')}", "fewer cells (--only)"
        refuse_above(max_cost, self.dollars, what, cure)

    def refuse_if_too_large(self) -> None:
        """Refuse a sweep with a run that cannot fit the machine, or what it asks of Modal.

        Raises:
            UsageError: One does not fit.
        """
        free = None if self.place.is_rented else free_memory()
        for plan in self.plans:
            if self.place.is_rented:
                refuse_if_too_large_for(plan)
            else:
                refuse_if_too_large(plan.spec, free)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for ``--json``."""
        return {
            "on": self.place.name,
            "jobs": self.jobs,
            "tasks": [self._task_dict(cost) for cost in self.left],
            "done": [{"name": t.label, "run_id": self.graph.status[t.key].run_id} for t in self.done],
            "tokens": self.tokens,
            "dollars": self.dollars,
            "modal": {"hours": self.modal_hours, "dollars": self.modal_dollars},
            "hours_here": _in_hours(self.seconds_here),
        }

    def _task_dict(self, cost: Cost) -> dict[str, Any]:
        needs, spec = cost.task.needs, cost.task.spec
        about = {
            "name": cost.task.label,
            "key": cost.task.key,
            "needs": None if needs is None else self.graph.tasks[needs].label,
        }
        if cost.plan is None:
            published = {"model": spec.model, "revision": spec.revision, "condition": spec.condition}
            return about | published | {"experiment_id": spec.experiment_id, "hours_here": None}
        return about | cost.plan.to_dict() | {"hours_here": _in_hours(cost.here.on(self.machine))}

    def text(self) -> str:
        """A line for every cell, its seeds together, and the total."""
        lines = aligned(self.rows(), left=2) if self.left else []
        return "\n".join([*lines, "", self.summary()] if lines else [self.summary()])

    def rows(self) -> list[list[str]]:
        """The titles of the plan's columns, and a row for each cell."""
        rows = [["run", "seeds", "pretraining tokens", "finetuning tokens", "time here", "GPU hours", "GPU", "dollars"]]
        for name in dict.fromkeys(cost.task.name for cost in self.left):
            costs = [cost for cost in self.left if cost.task.name == name]
            plans, here = [cost.plan for cost in costs if cost.plan], sum((cost.here for cost in costs), CoreTime())
            row = [name, _seeds([cost.task.spec.seed for cost in costs])]
            if not plans:
                rows.append([*row, "-", "-", "not known", *["-"] * 3])
                continue
            row += [_tokens(sum(plan.pretrain_tokens for plan in plans))]
            row += [_tokens(sum(plan.finetune_tokens for plan in plans))]
            row += [time_range(*here.on(self.machine)), f"{sum(plan.hours for plan in plans):.2f}"]
            rows.append([*row, plans[0].gpu.modal_name, f"{sum(plan.dollars for plan in plans):.2f}"])
        return rows

    def summary(self) -> str:
        """How much is to do, how much is done, and what the rest takes here and on Modal; the place meant is first."""
        done = f"{len(self.done)} done already" if self.done else "none done yet"
        if not self.left:
            return f"nothing to do: all {counted(len(self.done), 'run')} are done already"
        pretrainings = sum(cost.task.is_pretraining for cost in self.left)
        parts = [f"{counted(len(self.left), 'run')} to do ({counted(pretrainings, 'pretraining')}), {done}"]
        at_a_time = self.place.at_a_time(self.jobs)
        published = len(self.left) - len(self.plans)
        is_open = f"what {counted(published, 'run')} of published models will take is not known before their files are"
        if not self.plans:
            return "\n".join(["; ".join(parts), f"here         $0.00; {is_open}; {at_a_time}"])
        parts.append(f"{_tokens(self.tokens)} tokens at most")
        here = f"here         $0.00, {self.here.text(self.machine)}"
        modal = (
            f"on Modal     ${self.modal_dollars:.2f}, {self.modal_hours:.1f} GPU hours "
            f"(estimate, list prices of {self.plans[0].prices_date})"
        )
        lines = [modal, here] if self.place.is_rented else [here, modal]
        lines[0] += f"; {at_a_time}"
        return "\n".join(["; ".join(parts), *lines, *([f"             {is_open}"] if published else [])])


def _in_hours(seconds: Sequence[float]) -> list[float]:
    return [value / 3600 for value in seconds]


def _seeds(seeds: Sequence[int]) -> str:
    return ",".join(map(str, seeds))


def _tokens(count: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count) if count else "-"
