"""What a sweep will do and cost, before it does anything. Standard library only."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from emergence.errors import UsageError
from emergence.spec.cost import Plan, plan_experiment
from emergence.spec.memory import free_memory, refuse_if_too_large, refuse_if_too_large_for
from emergence.sweep.graph import Graph, Task
from emergence.sweep.place import Place
from emergence.wording import aligned, counted

#: FLOP/s that one CPU core sustains in training, roughly, and the seconds that a run takes besides training.
CPU_RATE, CPU_OVERHEAD_SECONDS = 5e10, 10.0


@dataclass(frozen=True)
class Cost:
    """The cost of one task. A trunk that it takes from a pretraining is the pretraining's cost.

    Attributes:
        plan: Tokens, FLOP, and hours and dollars on Modal.
        cpu_hours: Hours on one CPU core.
    """

    task: Task
    plan: Plan
    cpu_hours: float


def cost_of(task: Task, gpu: str | None = None) -> Cost:
    """Estimate one task.

    Raises:
        UsageError: The GPU is unknown.
    """
    spec = task.spec if task.needs is None else dataclasses.replace(task.spec, skip_pretrain=True)
    plan = plan_experiment(spec, gpu)
    return Cost(task, plan, (plan.flop / CPU_RATE + CPU_OVERHEAD_SECONDS) / 3600)


@dataclass(frozen=True)
class SweepPlan:
    """A graph with its costs.

    Attributes:
        left: Costs of the tasks to do. done: Tasks that are done already.
    """

    graph: Graph
    place: Place
    jobs: int
    left: tuple[Cost, ...]
    done: tuple[Task, ...]

    @classmethod
    def of(cls, graph: Graph, place: Place, jobs: int, gpu: str | None = None) -> SweepPlan:
        left = tuple(cost_of(task, gpu) for task in graph.tasks.values() if graph.status[task.key].state != "done")
        return cls(graph, place, jobs, left, tuple(graph.in_state("done")))

    @property
    def dollars(self) -> float:
        return sum(cost.plan.dollars for cost in self.left) if self.place.is_rented else 0.0

    @property
    def hours(self) -> float:
        """Hours of one GPU for all tasks in turn where GPUs are rented, else hours of one CPU core."""
        return sum(self._hours(cost) for cost in self.left)

    @property
    def tokens(self) -> int:
        return sum(cost.plan.pretrain_tokens + cost.plan.finetune_tokens for cost in self.left)

    def _hours(self, cost: Cost) -> float:
        return cost.plan.hours if self.place.is_rented else cost.cpu_hours

    def refuse_if_too_dear(self, max_cost: float | None) -> None:
        """Refuse a sweep whose estimate for all tasks to do is above ``--max-cost``.

        Raises:
            UsageError: It is above.
        """
        if max_cost is not None and self.dollars > max_cost:
            raise UsageError(
                f"the estimate of ${self.dollars:.2f} for {counted(len(self.left), 'run')} is above --max-cost "
                f"{max_cost:g}: raise it, or take fewer cells (--only) or tokens (--set pretrain.samples_per_epoch=N)"
            )

    def refuse_if_too_large(self) -> None:
        """Refuse a sweep with a run that cannot fit the machine, or what it asks of Modal.

        Raises:
            UsageError: One does not fit.
        """
        free = None if self.place.is_rented else free_memory()
        for cost in self.left:
            if self.place.is_rented:
                refuse_if_too_large_for(cost.plan)
            else:
                refuse_if_too_large(cost.plan.spec, free)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for ``--json``."""
        return {
            "on": self.place.name,
            "jobs": self.jobs,
            "tasks": [self._task_dict(cost) for cost in self.left],
            "done": [{"name": t.label, "run_id": self.graph.status[t.key].run_id} for t in self.done],
            "tokens": self.tokens,
            "hours": self.hours,
            "dollars": self.dollars,
        }

    def _task_dict(self, cost: Cost) -> dict[str, Any]:
        needs = cost.task.needs
        return {
            "name": cost.task.label,
            "key": cost.task.key,
            "needs": None if needs is None else self.graph.tasks[needs].label,
            **cost.plan.to_dict(),
            "cpu_hours": cost.cpu_hours,
        }

    def text(self) -> str:
        """A line for every cell, its seeds together, and the total."""
        rented = self.place.is_rented
        titles = ["run", "seeds", "pretraining tokens", "finetuning tokens", "GPU hours" if rented else "core hours"]
        rows = [titles + (["GPU", "dollars"] if rented else [])]
        for name in dict.fromkeys(cost.task.name for cost in self.left):
            costs = [cost for cost in self.left if cost.task.name == name]
            plans = [cost.plan for cost in costs]
            row = [name, _seeds([cost.task.spec.seed for cost in costs])]
            row += [_tokens(sum(plan.pretrain_tokens for plan in plans))]
            row += [_tokens(sum(plan.finetune_tokens for plan in plans))]
            row += [f"{sum(self._hours(cost) for cost in costs):.2f}"]
            row += [plans[0].gpu.modal_name, f"{sum(plan.dollars for plan in plans):.2f}"] if rented else []
            rows.append(row)
        lines = aligned(rows, left=2) if self.left else []
        return "\n".join([*lines, "", self.summary()] if lines else [self.summary()])

    def summary(self) -> str:
        """One sentence: how much is to do, how much is done, and what the rest takes."""
        done = f"{len(self.done)} done already" if self.done else "none done yet"
        if not self.left:
            return f"nothing to do: all {counted(len(self.done), 'run')} are done already"
        pretrainings = sum(cost.task.is_pretraining for cost in self.left)
        parts = [f"{counted(len(self.left), 'run')} to do ({counted(pretrainings, 'pretraining')}), {done}"]
        parts.append(f"{_tokens(self.tokens)} tokens at most")
        if self.place.is_rented:
            date = self.left[0].plan.prices_date
            parts.append(f"{self.hours:.1f} GPU hours, ${self.dollars:.2f} (estimate, list prices of {date})")
        else:
            parts.append(f"about {max(self.hours, 0.01):.2f} core hours (at {CPU_RATE / 1e9:.0f} GFLOP/s a core)")
        parts.append(self.place.at_a_time(self.jobs))
        return "; ".join(parts)


def _seeds(seeds: Sequence[int]) -> str:
    return ",".join(map(str, seeds))


def _tokens(count: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count) if count else "-"
