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
        plan: Tokens, FLOP, and hours and dollars on Modal; without those for a published model of unknown size.
        here: What it takes of one core of this machine; nothing where that is not known.
    """

    task: Task
    plan: Plan
    here: CoreTime

    @property
    def is_known(self) -> bool:
        """Whether anybody can say what it takes before a published model's files are there."""
        return self.plan.hours is not None


def cost_of(task: Task, gpu: str | None = None) -> Cost:
    """Estimate one task.

    Raises:
        UsageError: The GPU is unknown, or there are several for a published model.
    """
    spec = task.spec if task.needs is None else dataclasses.replace(task.spec, skip_pretrain=True)
    plan = plan_experiment(spec, gpu)
    cost = Cost(task, plan, CoreTime())
    return dataclasses.replace(cost, here=core_time(spec)) if cost.is_known else cost


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
        """Of the tasks to do, in turn."""
        return [cost.plan for cost in self.left]

    @property
    def unknown(self) -> int:
        """How many of the tasks to do are of published models of which nobody knows what they take."""
        return sum(not cost.is_known for cost in self.left)

    @property
    def dollars(self) -> float:
        """What the tasks to do cost where they are to run, as far as it is known: nothing on this machine."""
        return self.modal_dollars if self.place.is_rented else 0.0

    @property
    def dollars_to_agree_to(self) -> float | None:
        """The same, for somebody who is asked; None where a part of it is not known."""
        return None if self.unknown and self.place.is_rented else self.dollars

    @property
    def modal_dollars(self) -> float:
        return sum(plan.dollars or 0.0 for plan in self.plans)

    @property
    def modal_hours(self) -> float:
        """Hours of one GPU on Modal for all tasks in turn."""
        return sum(plan.hours or 0.0 for plan in self.plans)

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
        what, cure = f" for {counted(len(self.left), 'run')}", "fewer cells (--only), fewer questions or fewer tokens"
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
            elif plan.spec.model is None:  # whose files tell, when they are read
                refuse_if_too_large(plan.spec, free)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for ``--json``."""
        return {
            "on": self.place.name,
            "jobs": self.jobs,
            "tasks": [self._task_dict(cost) for cost in self.left],
            "done": [{"name": t.label, "run_id": self.graph.status[t.key].run_id} for t in self.done],
            "tokens": self.tokens,
            "dollars": self.dollars_to_agree_to,
            "modal": {"hours": self.modal_hours, "dollars": self.modal_dollars, "unknown_runs": self.unknown},
            "hours_here": _in_hours(self.seconds_here),
        }

    def _task_dict(self, cost: Cost) -> dict[str, Any]:
        needs = cost.task.needs
        about = {
            "name": cost.task.label,
            "key": cost.task.key,
            "needs": None if needs is None else self.graph.tasks[needs].label,
        }
        here = _in_hours(cost.here.on(self.machine)) if cost.is_known else None
        return about | cost.plan.to_dict() | {"hours_here": here}

    def text(self) -> str:
        """A line for every cell, its seeds together, and the total."""
        lines = aligned(self.rows(), left=2) if self.left else []
        return "\n".join([*lines, "", self.summary()] if lines else [self.summary()])

    def rows(self) -> list[list[str]]:
        """The titles of the plan's columns, and a row for each cell."""
        rows = [["run", "seeds", "pretraining tokens", "finetuning tokens", "time here", "GPU hours", "GPU", "dollars"]]
        for name in dict.fromkeys(cost.task.name for cost in self.left):
            costs = [cost for cost in self.left if cost.task.name == name]
            plans, here = [cost.plan for cost in costs], sum((cost.here for cost in costs), CoreTime())
            row = [name, _seeds([cost.task.spec.seed for cost in costs])]
            row += [_tokens(sum(plan.pretrain_tokens for plan in plans))]
            row += [_tokens(sum(plan.finetune_tokens for plan in plans))]
            gpu = plans[0].gpu.modal_name
            if not all(cost.is_known for cost in costs):
                rows.append([*row, "not known", "-", gpu, "-"])
                continue
            row += [time_range(*here.on(self.machine)), f"{sum(plan.hours or 0.0 for plan in plans):.2f}"]
            rows.append([*row, gpu, f"{sum(plan.dollars or 0.0 for plan in plans):.2f}"])
        return rows

    def summary(self) -> str:
        """How much is to do, how much is done, and what the rest takes here and on Modal; the place meant is first."""
        done = f"{len(self.done)} done already" if self.done else "none done yet"
        if not self.left:
            return f"nothing to do: all {counted(len(self.done), 'run')} are done already"
        pretrainings = sum(cost.task.is_pretraining for cost in self.left)
        parts = [f"{counted(len(self.left), 'run')} to do ({counted(pretrainings, 'pretraining')}), {done}"]
        at_a_time = self.place.at_a_time(self.jobs)
        unknown = (
            f"what {counted(self.unknown, 'run')} of published models will take is not known before their files are"
        )
        if self.unknown == len(self.left):
            place = "on Modal    " if self.place.is_rented else "here         $0.00;"
            return "\n".join(["; ".join(parts), f"{place} {unknown}; {at_a_time}"])
        parts.append(f"{_tokens(self.tokens)} tokens at most")
        here = f"here         $0.00, {self.here.text(self.machine)}"
        more = f" and what {counted(self.unknown, 'run')} will cost" if self.unknown else ""
        modal = (
            f"on Modal     ${self.modal_dollars:.2f}{more}, {self.modal_hours:.1f} GPU hours "
            f"(estimate, list prices of {self.plans[0].prices_date})"
        )
        lines = [modal, here] if self.place.is_rented else [here, modal]
        lines[0] += f"; {at_a_time}"
        return "\n".join(["; ".join(parts), *lines, *([f"             {unknown}"] if self.unknown else [])])


def _in_hours(seconds: Sequence[float]) -> list[float]:
    return [value / 3600 for value in seconds]


def _seeds(seeds: Sequence[int]) -> str:
    return ",".join(map(str, seeds))


def _tokens(count: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count) if count else "-"
