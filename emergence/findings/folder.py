"""What figures and the report read of a folder: results grouped as in the table, scored once, and training histories.

Grouping is ``comparable.group_results`` alone, so a figure never puts side by side what the table keeps apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from emergence.errors import DataError
from emergence.experiment.store import RunDirectory
from emergence.findings.collect import Collection, Skipped, collect_results
from emergence.findings.comparable import ComparableSet, Grouping, TrunkKey, group_results
from emergence.findings.scores import SetScores, score_sets
from emergence.findings.two_by_two import CELL_OF_CONDITION
from emergence.measures.bootstrap import N_BOOT
from emergence.measures.clustering import ClusterKind
from emergence.spec.experiment import pretrain_label


@dataclass(frozen=True, eq=False)
class RunOnDisk:
    """A run directory under the folder, finished or not.

    Attributes:
        name: Its name in the collection. label: Its comparable set's; size and pretraining where it is in none.
        run: The directory. is_drawn: Whether its curves stand beside others': its result is in a comparable set,
            or it has none yet.
    """

    name: str
    label: str
    run: RunDirectory
    is_drawn: bool

    @property
    def cell(self) -> str | None:
        """Its cell of the 2x2; None for a run that only pretrained."""
        return CELL_OF_CONDITION.get(self.run.spec.condition)

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """As :meth:`RunDirectory.read_curves`, from the disk once for all who draw it."""
        return self.run.read_curves()


@dataclass(frozen=True, eq=False)
class ResultsFolder:
    """What a folder holds.

    Attributes:
        collection: Results as found. grouping: The same in comparable sets.
        scored: Scores of every set, in the sets' order.
        runs: Run directories: those in a set in the sets' order, then the others.
    """

    collection: Collection
    grouping: Grouping
    scored: tuple[SetScores, ...]
    runs: tuple[RunOnDisk, ...]

    @property
    def root(self) -> Path:
        return self.collection.root

    @property
    def main(self) -> tuple[SetScores, ...]:
        """The sets with all training questions, or with the most that were tried where no run had all.

        Snapshots of a pretraining are left out where its last trunk is there, and other draws of the questions and
        adapters where the nested draw and the whole trunk are.
        """
        return tuple(s for s in self.scored if not any(_is_more(other, s) for other in self.scored))

    @property
    def settings(self) -> tuple[SetScores, ...]:
        """The main sets with test scores."""
        return tuple(s for s in self.main if not s.comparable.is_documented_format)

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What is in no set, by name."""
        return tuple(dict.fromkeys([*self.collection.skipped, *self.grouping.skipped]))

    def refuse_if_empty(self) -> None:
        """Refuse a folder with nothing in it that can be read or named.

        Raises:
            DataError: It holds no result, no run, and nothing that was told of some.
        """
        if not (self.scored or self.runs or self.skipped or self.collection.told):
            raise DataError("no runs or results here: give the folder that holds them", self.root)

    def scores_of(self, comparable: ComparableSet) -> SetScores:
        return next(scores for scores in self.scored if scores.comparable is comparable)


def _is_more(other: SetScores, than: SetScores) -> bool:
    """Whether a set is ``than`` with more training questions, and with a trunk pretrained (longer) if it had one."""
    a, b = other.comparable, than.comparable
    shared = {"samples": None, "subset": 0, "adapter": "none"}
    if replace(a.base, **shared) != replace(b.base, **shared):  # type: ignore[arg-type]
        return False
    if b.trunk not in (None, a.trunk) and not _is_snapshot_of(b.trunk, a.trunk):
        return False
    return _place(a) > _place(b)


def _place(s: ComparableSet) -> tuple[bool, float, int, bool]:
    samples = math.inf if s.base.samples is None else s.base.samples
    return s.base.adapter == "none", samples, -s.base.subset, s.trunk is None or not s.trunk.is_snapshot


def _is_snapshot_of(trunk: TrunkKey, last: TrunkKey | None) -> bool:
    """Whether ``trunk`` is within the pretraining that ends in ``last``."""
    if last is None or not trunk.is_snapshot or last.is_snapshot:
        return False
    return (trunk.pretraining_text, trunk.pretraining_settings) == (last.pretraining_text, last.pretraining_settings)


def read_folder(root: Path, *, n_boot: int = N_BOOT, cluster: ClusterKind = "sentence") -> ResultsFolder:
    """Read, group and score every result under ``root`` (or ``root`` itself, if it is a run).

    Args:
        cluster: What the intervals resample.

    Raises:
        DataError: There is no such folder.
    """
    collection = collect_results(root)
    grouping = group_results(collection)
    scored = tuple(score_sets(grouping, n_boot=n_boot, cluster=cluster))
    return ResultsFolder(collection, grouping, scored, tuple(_runs(collection, grouping)))


def _runs(collection: Collection, grouping: Grouping) -> Iterator[RunOnDisk]:
    """Every readable run directory once; damaged ones are in the collection's list already."""
    labels: dict[str, str] = {}
    for s in grouping.sets:
        for item in s.results():  # a random trunk serves several sets: the first names it
            labels.setdefault(item.name, s.label)
    curves_only = [item.name for item in collection.skipped if item.kind in ("unfinished", "pretraining")]
    for name in dict.fromkeys([*labels, *(item.name for item in collection.found), *curves_only]):
        run = collection.run(name)
        if run is not None:
            label = labels.get(name) or f"{run.spec.config.name}, {pretrain_label(run.spec)}"
            yield RunOnDisk(name, label, run, name in labels or name in curves_only)
