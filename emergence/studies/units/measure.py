"""Selectivity, ablations and concentration of the units of one run's trunks (docs/methods.md#units).

A cell of the study is one trunk. Its probe is fitted once, on its last level, so that every unit lies below it, and
stays as it is when units are cut. The trunk that finetuning starts with is measured whole, its random twin with one
share of units cut, and snapshots of pretraining only as far as the trend over training takes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from emergence.answering.probe import probe_all_layers
from emergence.answering.probe_fitting import ProbeFit, readout
from emergence.files import content_digest
from emergence.measures.bootstrap import Estimate, bootstrap_present_means
from emergence.measures.selectivity import (
    Selectivity,
    UnitProbe,
    fewest_for_probe,
    fewest_units,
    matched_units,
    participation_ratio,
    rank_correlation,
    select_units,
    widened,
    without_confounds,
)
from emergence.model.unit_hooks import units_of
from emergence.plain import plain
from emergence.studies.activations import on_device
from emergence.studies.study import Cell, SealedStudy
from emergence.studies.units.inputs import TrunkToCut, Work
from emergence.studies.units.passes import Bench, Outcome, UnitReadings, cut
from emergence.studies.units.result import FILES, MAIN_SHARE, SHARES, SHUFFLED, UnitResult, result_of
from emergence.training.context import Context
from emergence.training.recording import NoProgress, Progress

#: Change it when a stored cell means something else.
CELL_VERSION = 5
#: Resamples of intervals.
N_BOOT = 1_000
#: Units that are cut one by one to check their attributions: as many of the largest, and as many at random.
_CHECKED = 12
#: Draws of questions whose roles are shuffled.
_SHUFFLES = 20
#: Share of a role's best units whose selectivity is averaged.
_TOP = 0.01
_STREAM = 0x0D17
Row = dict[str, Any]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


class UnitStudy(SealedStudy[Row, UnitResult]):
    """A cell is one trunk."""

    files = FILES
    noun = "trunk"
    steps = "trunks"

    def __init__(self, subject: dict[str, Any], work: Work) -> None:
        self._subject, self._work = subject, work

    def cells(self, folder: Path) -> list[Cell[Row]]:
        settings = content_digest([CELL_VERSION, self._work.settings])
        return [
            Cell(
                trunk.name,
                content_digest([settings, trunk.kind, trunk.weights, trunk.shares])[:24],
                partial(measure_trunk, self._work, trunk),
            )
            for trunk in self._work.trunks
        ]

    def restore(self, content: dict[str, Any]) -> Row:
        return content

    def result(self, made: Sequence[Row]) -> UnitResult:
        work = self._work
        rows = [
            {"name": t.name, "kind": t.kind, "step": t.step, "tokens": t.tokens, "weights": t.weights, **row}
            for t, row in zip(work.trunks, made, strict=True)
        ]
        settings = {
            "data": work.facts,
            "roles": work.options.roles,
            "kinds": list(work.options.kinds),
            "questions": work.options.questions,
            "draws": work.options.draws,
            "probe": {"family": "bilinear", "level": "last", "questions": len(work.train)},
            "fingerprint": work.fingerprint,
        }
        return result_of(self._subject, settings, rows)


def measure_trunk(work: Work, trunk: TrunkToCut, progress: Progress = NoProgress()) -> Row:
    """Everything that is measured of one trunk."""
    loaded = trunk.load(work.device)
    on_device(loaded.model, work.device)
    fit = _fitted(work, trunk, loaded.model)
    probe = readout(fit, work.device)
    if isinstance(probe, nn.Module):
        probe.requires_grad_(False)
    bench = Bench(work, loaded, probe)
    read = bench.read([units_of(loaded.model, kind) for kind in work.options.kinds])
    whole = bench.outcome(beside=True)
    clusters = work.b.encoded.clusters
    row = {
        "probe": {"validation_f1": fit.validation_f1, "converged": fit.converged},
        "f1": _means(work, whole.f1, clusters),
        "loss": whole.loss,
        "pairs": None if whole.pairs is None else float(whole.pairs.mean()),
        "units": {each.units.kind: _OneKind(work, trunk, bench, each).row() for each in read},
    }
    kept: Row = plain(row)
    return kept


def _fitted(work: Work, trunk: TrunkToCut, model: Any) -> ProbeFit:
    """The bilinear probe of the last level."""
    report = probe_all_layers(
        model,
        work.train,
        work.validation,
        dataclasses.replace(work.probe, conditional=False),
        Context(device=work.device),
        seed=work.seed,
        max_answer_words=work.b.max_answer_words,
        families=("bilinear",),
        layers=(model.n_layers,),
    )
    return report.best("bilinear")


def _means(work: Work, values: FloatArray, clusters: IntArray) -> dict[str, Estimate]:
    """Means of a value (Q,) of half B's questions by role, with intervals over sentences."""
    labels = work.b.labels
    columns = {role: np.where(labels == i, values, np.nan) for i, role in enumerate(work.roles)}
    return bootstrap_present_means(columns, clusters, n_boot=N_BOOT)


@dataclass(frozen=True, eq=False)
class _RoleOrder:
    """Units in the order of their selectivity for one role; ``name`` is the role, or what stands for none."""

    name: str
    order: IntArray


class _OneKind:
    """The units of one kind of one trunk."""

    def __init__(self, work: Work, trunk: TrunkToCut, bench: Bench, read: UnitReadings) -> None:
        self._work, self._shares, self._bench, self._read = work, trunk.shares, bench, read
        self._n = len(read.units)
        self._rng = np.random.default_rng(_STREAM)

    def row(self) -> Row:
        words = self._work.words
        left = np.empty_like(self._read.at_words)
        first = self._read.units.first
        for block in map(slice, first[:-1], first[1:]):  # a block at a time, because residuals take more memory
            left[:, block] = without_confounds(self._read.at_words[:, block], words.confounds, words.in_a)
        selectivity, shuffled = select_units(left, [words.label, self._shuffled()], words.in_a, len(words.roles))
        raw = select_units(self._read.at_words, [words.label], words.in_a, len(words.roles))[0]
        orders = [_RoleOrder(role, selectivity.order(words.roles.index(role))) for role in self._work.roles]
        return {
            "n_units": self._n,
            "per_block": list(self._read.units.per_block),
            "selectivity": [self._selectivity(role, selectivity, raw, shuffled) for role in self._work.roles],
            "ablation": self._ablations(orders, _RoleOrder(SHUFFLED, shuffled.order(0))),
            "check": self._check() if self._shares == SHARES else None,
            "concentration": self._concentration(orders),
        }

    # Selectivity ---------------------------------------------------------------------------------

    def _shuffled(self) -> IntArray:
        """Labels of the words, shuffled within each half."""
        words = self._work.words
        labels = words.label.copy()
        for half in (words.in_a, ~words.in_a):
            labels[half] = self._rng.permutation(labels[half])
        return labels

    def _selectivity(self, role: str, found: Selectivity, raw: Selectivity, shuffled: Selectivity) -> Row:
        words, blocks = self._work.words, self._read.units.blocks
        r = words.roles.index(role)
        order, reported = found.order(r), found.reported[r]
        of_role = words.label == r
        top = order[: _count(_TOP, self._n)]
        return {
            "role": role,
            "words": {"a": int(of_role[words.in_a].sum()), "b": int(of_role[~words.in_a].sum())},
            "chosen": int(found.chosen[r].sum()),
            "confirmed": int(found.confirmed[r].sum()),
            "confirmed_raw": int(raw.confirmed[r].sum()),
            "confirmed_shuffled": int(shuffled.confirmed[r].sum()),
            "best": float(reported[order[0]]),
            "best_raw": float(raw.reported[r][raw.order(r)[0]]),
            "top": float(reported[top].mean()),
            "by_block": [
                {
                    "block": block,
                    "confirmed": int(found.confirmed[r][blocks == block].sum()),
                    "best": float(reported[next(u for u in order if blocks[u] == block)]),
                }
                for block in range(len(self._read.units.per_block))
            ],
            "units": order[: _count(MAIN_SHARE, self._n)].tolist(),
        }

    # Ablations -----------------------------------------------------------------------------------

    def _ablations(self, orders: Sequence[_RoleOrder], shuffled: _RoleOrder) -> list[Row]:
        """What cutting the best units of each role costs each role, beyond matched random units."""
        cuts = [(chosen, share, "mean") for chosen in orders for share in self._shares]
        if MAIN_SHARE in self._shares:
            cuts.append((shuffled, MAIN_SHARE, "mean"))
        if self._shares == SHARES:
            cuts += [(chosen, MAIN_SHARE, "zero") for chosen in orders]
        made = [self._ablation(*each) for each in cuts]
        for row, _ in made:
            alike = [drawn for other, drawn in made if (other["share"], other["with"]) == (row["share"], row["with"])]
            row["effects"] = {
                role: widened(effect, [[each[role] for each in drawn] for drawn in alike])
                for role, effect in row["effects"].items()
            }
        return [row for row, _ in made]

    def _ablation(self, chosen: _RoleOrder, share: float, how: str) -> tuple[Row, list[dict[str, float]]]:
        """One cut, with intervals over sentences alone; and F1 by role of every random draw."""
        n, read = _count(share, self._n), self._read
        units = chosen.order[:n]
        rng = np.random.default_rng([_STREAM, n, int(units[0])])
        draws, beside = range(self._work.options.draws), share == MAIN_SHARE
        matched = [matched_units(units, read.sizes, read.units.blocks, rng) for _ in draws]
        without = self._outcome(units, how, beside=beside)
        random = [self._outcome(each, how, beside=beside) for each in matched]
        whole = self._bench.outcome(beside=True)
        effect = np.mean([each.f1 for each in random], axis=0) - without.f1
        size = float(read.sizes[units].mean())
        row = {
            "cut": chosen.name,
            "share": share,
            "n": n,
            "with": how,
            "matched_size": float(np.mean([read.sizes[each].mean() for each in matched])) / size if size > 0 else None,
            "effects": _means(self._work, effect, self._work.b.encoded.clusters),
            "drops": _by_role(self._work, whole.f1 - without.f1),
            "loss": without.loss - float(np.mean([each.loss for each in random])) if beside else None,
            "pairs": _pairs_lost(without, random) if beside else None,
        }
        return row, [_by_role(self._work, each.f1) for each in random]

    def _outcome(self, units: IntArray, how: str = "mean", *, beside: bool = False, role: int | None = None) -> Outcome:
        return self._bench.outcome(cut(self._read, units, how), beside=beside, role=role)

    def _check(self) -> Row:
        """Attributions of single units against what cutting them does, on half B."""
        mean, halfway = (each.mean(axis=0) for each in (self._read.attributions, self._read.halfway))
        order = np.argsort(-np.abs(mean), kind="stable")
        rest = order[_CHECKED:]
        some = np.concatenate([order[:_CHECKED], self._rng.permutation(rest)[:_CHECKED]]).astype(np.int64)
        whole = self._bench.outcome(beside=True)
        true = [float((whole.log_p - self._outcome(some[i : i + 1]).log_p).mean()) for i in range(len(some))]
        return {
            "n": len(some),
            "rank_correlation": rank_correlation(mean[some], true),
            "rank_correlation_halfway": rank_correlation(halfway[some], true),
        }

    # Concentration -------------------------------------------------------------------------------

    def _concentration(self, orders: Sequence[_RoleOrder]) -> list[Row]:
        """The three counts of every role."""
        whole, without = self._bench.outcome(beside=True), self._outcome(np.arange(self._n))
        everything = _means(self._work, whole.f1 - without.f1, self._work.b.encoded.clusters)
        of_any = _supporting(self._read.halfway.mean(axis=0))
        probe = UnitProbe(self._read.at_words, self._work.words.in_a)
        rows = []
        for i, chosen in enumerate(orders):
            total = everything[chosen.name]
            asked = self._work.a.labels == i
            target = total.point / 2 if total.lo > 0 else math.nan
            half, tried = self._half(_supporting(self._read.halfway[asked].mean(axis=0)), i, target)
            rows.append(
                {
                    "role": chosen.name,
                    "all": total,
                    "half": {**self._counted(half), "curve": tried, "shuffled": self._half(of_any, i, target)[0]},
                    "participation": {
                        **self._counted(self._participation(np.flatnonzero(asked))),
                        "shuffled": self._shuffled_participation(int(asked.sum())),
                    },
                    "probe": self._probe(probe, chosen),
                }
            )
        return rows

    def _half(self, order: IntArray, role: int, target: float) -> tuple[float, Any]:
        """How many of the units at the head of ``order`` carry half of what all carry."""
        whole = self._bench.outcome(role=role).f1

        def lost(k: int) -> float:
            return float((whole - self._outcome(order[:k], role=role).f1).mean())

        return fewest_units(lost, self._n, target)

    def _participation(self, questions: IntArray) -> float:
        clusters = self._work.a.encoded.clusters
        return participation_ratio(self._read.attributions[questions], clusters[questions])

    def _shuffled_participation(self, n: int) -> float:
        """The participation ratio of as many questions whose roles are shuffled, the mean over draws that have one."""
        n_questions = len(self._read.attributions)
        drawn = [self._participation(self._rng.permutation(n_questions)[:n]) for _ in range(_SHUFFLES)]
        told = [value for value in drawn if math.isfinite(value)]
        return float(np.mean(told)) if told else math.nan

    def _probe(self, probe: UnitProbe, chosen: _RoleOrder) -> Row:
        words = self._work.words
        is_role = words.label == words.roles.index(chosen.name)
        n, tried, everything = fewest_for_probe(probe, is_role, chosen.order)
        return {
            **self._counted(n),
            "curve": tried,
            "f1": everything,
            "base": probe.base(is_role),
            "f1_shuffled": probe.f1(chosen.order, self._rng.permutation(is_role)),
        }

    def _counted(self, n: float) -> Row:
        return {"n": n, "share": n / self._n}


def _count(share: float, n_units: int) -> int:
    """How many units a share is: one at least."""
    return max(1, round(share * n_units))


def _supporting(attributions: FloatArray) -> IntArray:
    """Units by how much of the right answers' log-probability hangs on them, the most first."""
    return np.argsort(-attributions, kind="stable").astype(np.int64)


def _by_role(work: Work, values: FloatArray) -> dict[str, float]:
    return {role: float(values[work.b.labels == i].mean()) for i, role in enumerate(work.roles)}


def _pairs_lost(without: Outcome, random: Sequence[Outcome]) -> Estimate | None:
    """How many more minimal pairs are right with random units cut than with the selected ones."""
    if without.pairs is None:
        return None
    lost = np.mean([each.pairs for each in random if each.pairs is not None], axis=0) - without.pairs
    return bootstrap_present_means({"pairs": lost}, np.arange(len(lost)), n_boot=N_BOOT)["pairs"]
