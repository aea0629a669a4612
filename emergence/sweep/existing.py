"""Which tasks of a sweep are done already, by the content of the runs there are.

Standard library only, because ``spec.json`` and results are read and weights are not.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from emergence.errors import EmergenceError
from emergence.experiment.claims import other_run
from emergence.experiment.facts import TrunkOrigin, dig, view_of
from emergence.experiment.result import RunResult
from emergence.experiment.run_directory import TRUNK_FILE
from emergence.experiment.store import RunDirectory, RunStore
from emergence.files import read_json, unseal
from emergence.spec.experiment import ExperimentSpec
from emergence.sweep.graph import Graph, Status, Task


@dataclass
class Existing:
    """Runs by content.

    Attributes:
        finished: Experiment id to the newest run with a result.
        trunks: Pretrain id to the newest run with the trunk of that pretraining.
        begun: Pretrain id to a run that only pretrains and has no trunk or no result yet: the one to go on with.
        unfinished: Experiment id to the newest run without a result.
    """

    finished: dict[str, str] = field(default_factory=dict)
    trunks: dict[str, str] = field(default_factory=dict)
    begun: dict[str, tuple[str, ExperimentSpec]] = field(default_factory=dict)
    unfinished: dict[str, str] = field(default_factory=dict)

    def add(
        self, run_id: str, spec: ExperimentSpec, experiment_id: str, *, has_trunk: bool, stats: Mapping[str, Any] | None
    ) -> None:
        """Take note of one run. Of several with equal content the first stays.

        Args:
            experiment_id: The id that the run was begun with.
            has_trunk: Whether its trunk is there.
            stats: Its result; None without one.
        """
        trunk = view_of(TrunkOrigin, dig(stats, "lineage"))
        if stats is not None:
            self.finished.setdefault(experiment_id, run_id)
            if same := equivalent_cell(spec, trunk):
                self.finished.setdefault(same.experiment_id, run_id)
        else:
            self.unfinished.setdefault(experiment_id, run_id)
        if spec.random_baseline or spec.at_snapshot:
            return
        # A pretraining may have been killed between its trunk and its result.
        if spec.skip_finetune and (stats is None or not has_trunk):
            self.begun.setdefault(spec.pretrain_id, (run_id, spec))
        elif has_trunk and (spec.pretrains or equivalent_cell(spec, trunk)):
            self.trunks.setdefault(spec.pretrain_id, run_id)


def equivalent_cell(spec: ExperimentSpec, trunk: TrunkOrigin) -> ExperimentSpec | None:
    """The cell that a run with ``--skip-pretrain`` amounts to; None if its weights are not the cell's own trunk.

    A snapshot is of the same pretraining and no finished trunk, so the file's name has to be the trunk's.
    """
    if not spec.skip_pretrain or spec.random_baseline or trunk.given("pretrain_id") != spec.pretrain_id:
        return None
    if PurePath(trunk.given("path") or "").name != TRUNK_FILE:
        return None
    return dataclasses.replace(spec, skip_pretrain=False, pretrained_model_path=None)


def existing_runs(store: RunStore) -> Existing:
    """The runs in a folder of runs, by content."""
    existing = Existing()
    # Cells may hold a copy of the trunk: the run that only pretrained comes first.
    for run in sorted(store.runs(), key=lambda run: not run.spec.skip_finetune):
        stats = _stats(run)
        existing.add(run.run_id, run.spec, run.experiment_id, has_trunk=run.trunk_path.is_file(), stats=stats)
    return existing


def _stats(run: RunDirectory) -> dict[str, Any] | None:
    """The result of a run; None where it has none of its own, and nothing in it where that is damaged."""
    if not run.is_finished:
        return None
    stats: dict[str, Any] = {}
    with contextlib.suppress(EmergenceError):  # damaged: the table will say so
        stats = unseal(read_json(run.stats_path), str(run.stats_path))
        if other_run(run, RunResult.from_dict(stats, str(run.stats_path))):
            return None
    return stats


def mark_existing(tasks: Iterable[Task], existing: Existing) -> Graph:
    """The graph with finished tasks marked as done. It omits pretrainings to do that no task to do needs."""
    tasks, status = list(tasks), {}
    for task in tasks:
        where = existing.trunks if task.is_pretraining else existing.finished
        run_id = where.get(task.spec.pretrain_id if task.is_pretraining else task.key)
        if run_id is not None:
            status[task.key] = Status("done", run_id=run_id, found=True)
    needed = {task.needs for task in tasks if task.key not in status}
    kept = [t for t in tasks if not t.is_pretraining or t.key in status or t.key in needed]
    lost = {t.key for t in tasks} - {t.key for t in kept}  # the cells are done, the trunk is gone: nothing to do
    kept = [dataclasses.replace(t, needs=None) if t.needs in lost else t for t in kept]
    return Graph([_begun(task, existing) for task in kept], status)


def _begun(task: Task, existing: Existing) -> Task:
    """The task. A pretraining that an earlier command began keeps the spec that it began with."""
    if task.is_pretraining and task.spec.pretrain_id in existing.begun:
        return dataclasses.replace(task, spec=existing.begun[task.spec.pretrain_id][1])
    return task
