"""Whether roles come to be carried by more or by fewer units, over training and over model sizes.

A verdict takes three seeds and the agreement of three counts, each with an interval over seeds. Over sizes all three
must also agree in equal numbers and in equal shares of units, because wider networks have more units.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np

from emergence.measures.selectivity import (
    LEAST_SEEDS,
    UNDETERMINED,
    Overlap,
    Series,
    Trend,
    overlap_of,
    trend_over,
    verdict_of,
)
from emergence.studies.units.result import COUNTS, KIND_NAMES, UnitResult
from emergence.wording import counted, format_interval

Against = Literal["training", "size"]
#: What is counted: the units themselves and, over sizes, their share of all units.
_MEASURED = {"training": ("n",), "size": ("n", "share")}


@dataclass(frozen=True)
class UnitVerdict:
    """What the seeds of one setting say of one kind of units.

    Attributes:
        label: The setting in words. kind: ``mlp`` or ``head``. against: ``training`` or ``size``.
        seeds: Of the results.
        trends: (Count, ``n`` or ``share``) -> its trend.
    """

    label: str
    kind: str
    against: Against
    seeds: tuple[int, ...]
    trends: dict[tuple[str, str], Trend]

    @property
    def verdict(self) -> str:
        """``more distributed``, ``more concentrated``, ``no trend`` or ``undetermined``."""
        return verdict_of(list(self.trends.values()))

    @property
    def sentence(self) -> str:
        """The verdict with its numbers, and with what keeps it open."""
        numbers = ", ".join(
            f"{name}{' (share)' if what == 'share' else ''} {_factor(trend)}"
            for (name, what), trend in self.trends.items()
        )
        over = "pretraining" if self.against == "training" else "sizes"
        told = f"{self.label}, {KIND_NAMES[self.kind]} over {over}, {counted(len(self.seeds), 'seed')}: {self.verdict}"
        return f"{told} ({numbers}{self._why()})"

    def _why(self) -> str:
        if self.verdict != UNDETERMINED:
            return ""
        if min(trend.change.n_seeds for trend in self.trends.values()) < LEAST_SEEDS:
            return f"; a verdict takes {LEAST_SEEDS} seeds"
        directions = {trend.direction for trend in self.trends.values()}
        return "; intervals hold both" if None in directions else "; the counts disagree"


def _factor(trend: Trend) -> str:
    """The change of a count as a factor with its interval."""
    found = trend.change
    if not math.isfinite(found.point):
        return "undefined"
    return "times " + format_interval(2**found.point, 2**found.lo, 2**found.hi)


def unit_verdicts(results: Iterable[UnitResult]) -> list[UnitVerdict]:
    """Verdicts of all settings, over training where snapshots were examined, and over sizes where there are two."""
    runs = _each_trunk_once(r for r in results if r.subject["kind"] == "run" and r.main["kind"] == "trained")
    verdicts = []
    for label, mine in _groups(runs, "series").items():
        with_snapshots = [result for result in mine if len(result.path_of_training) > 2]
        verdicts += _verdicts(label, with_snapshots, "training")
    for label, mine in _groups(runs, "text").items():
        if len({result.subject["n_params"] for result in mine}) > 1:
            verdicts += _verdicts(label, mine, "size")
    return verdicts


def _each_trunk_once(results: Iterable[UnitResult]) -> list[UnitResult]:
    """Of results on one trunk and one set of roles the one with the most trunks; a full and a frozen run share one."""
    best: dict[tuple[str, str], UnitResult] = {}
    for result in results:
        key = (result.main["weights"], result.settings["roles"])
        if key not in best or len(result.trunks) > len(best[key].trunks):
            best[key] = result
    return list(best.values())


def _groups(results: Sequence[UnitResult], key: str) -> dict[str, list[UnitResult]]:
    """Results that differ in seed alone (``series``), or in seed and size (``text``), by a label in words."""
    groups: dict[tuple[Any, ...], list[UnitResult]] = {}
    for result in results:
        data = result.settings["data"]
        shared = (result.subject[key], data["name"], data["layout"], result.settings["roles"])
        groups.setdefault(shared, []).append(result)
    labels: dict[str, list[UnitResult]] = {}
    for mine in groups.values():
        subject, settings = mine[0].subject, mine[0].settings
        size = [str(subject["size"])] if key == "series" else []
        words = ", ".join([*size, subject["text"], f"{settings['data']['name']} {settings['roles']} roles"])
        labels.setdefault(words if words not in labels else f"{words} {subject[key][:8]}", []).extend(mine)
    return labels


def _verdicts(label: str, results: Sequence[UnitResult], against: Against) -> list[UnitVerdict]:
    seeds = tuple(sorted({int(result.subject["seed"]) for result in results}))
    kinds = [kind for kind in KIND_NAMES if results and all(kind in result.kinds for result in results)]
    found = []
    for kind in kinds:
        trends = {
            (name, what): trend_over([_parts(results, seed, against, kind, name, what) for seed in seeds])
            for name in COUNTS
            for what in _MEASURED[against]
        }
        found.append(UnitVerdict(label, kind, against, seeds, trends))
    return found


def _shared_roles(results: Sequence[UnitResult]) -> list[str]:
    """Roles that all results have: one may have too few words or questions where sequences are short."""
    return [role for role in results[0].roles if all(role in result.roles for result in results)]


def _parts(results: Sequence[UnitResult], seed: int, against: Against, kind: str, name: str, what: str) -> list[Series]:
    """A seed's count of every role, over the steps of its run or over its sizes."""
    mine = [result for result in results if result.subject["seed"] == seed]
    roles = _shared_roles(results)
    if against == "training":
        by_role = mine[0].by_role(kind, name)
        return [by_role[role] for role in roles]
    sizes = [math.log10(result.subject["n_params"]) for result in mine]
    counts = [result.count(result.main, kind, name, what) for result in mine]
    return [(sizes, [each[role] for each in counts]) for role in roles]


@dataclass(frozen=True)
class SeedOverlap:
    """Best units of one role that the networks of two seeds share, the mean over pairs of seeds.

    Attributes:
        label, kind, role: Of what. pairs: Of seeds. overlap: Mean numbers, and the smallest p times the pairs.
    """

    label: str
    kind: str
    role: str
    pairs: int
    overlap: Overlap


def seed_overlaps(results: Iterable[UnitResult]) -> list[SeedOverlap]:
    """For every setting with several seeds, which best units they share by number, against chance."""
    runs = _each_trunk_once(r for r in results if r.subject["kind"] == "run" and r.main["kind"] == "trained")
    found = []
    for label, mine in _groups(runs, "series").items():
        by_seed = list({result.subject["seed"]: result for result in mine}.values())
        for kind in KIND_NAMES if len(by_seed) > 1 else ():
            if all(kind in result.kinds for result in by_seed):
                found += [_overlap(label, kind, role, by_seed) for role in _shared_roles(by_seed)]
    return found


def _overlap(label: str, kind: str, role: str, results: Sequence[UnitResult]) -> SeedOverlap:
    units = [
        next(row["units"] for row in result.main["units"][kind]["selectivity"] if row["role"] == role)
        for result in results
    ]
    per_block = results[0].main["units"][kind]["per_block"]
    pairs = [overlap_of(one, other, per_block) for one, other in combinations(units, 2)]
    mean = float(np.mean([pair.shared for pair in pairs]))
    p = min(1.0, len(pairs) * min(pair.p for pair in pairs))
    expected = float(np.mean([pair.expected for pair in pairs]))
    return SeedOverlap(label, kind, role, len(pairs), Overlap(mean, expected, p))
