"""Does pretraining on questions help? ``wiki+nq``, ``wiki`` and the control mix, question by question.

Trunks are compared that differ in pretraining data alone and have seen the same number of tokens, in the same cell of
the 2x2, seed with seed, on the same test questions. A gain of ``wiki+nq`` over ``wiki`` may come from questions or from
short documents among the long ones; ``wiki+control`` has the short documents and no questions (METHODS H9), so
``wiki+nq`` minus ``wiki+control`` is the part of it that questions make.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from emergence.analysis.comparable import MODES, ComparableSet, Grouping, seed_of
from emergence.analysis.grid import HEADLINE
from emergence.analysis.results import Found
from emergence.measures.bootstrap import N_BOOT
from emergence.measures.emergence_score import FROZEN, FULL
from emergence.measures.paired import PairedComparison, compare_paired
from emergence.measures.readings import format_estimate
from emergence.spec import ExperimentSpec, PretrainData

BASE: PretrainData = "wiki"
MIXED: PretrainData = "wiki+nq"
CONTROL: PretrainData = "wiki+control"
#: What is subtracted from what: all that questions change, the part that is theirs, the part that is not.
CONTRASTS: tuple[tuple[PretrainData, PretrainData], ...] = ((MIXED, BASE), (MIXED, CONTROL), (CONTROL, BASE))


@dataclass(frozen=True)
class AblationCell:
    """One cell of the 2x2 after two pretrainings that differ in their data.

    Attributes:
        model: Size, and what is not the default. cell: ``full`` or ``frozen``.
        data, against: Compared, as in ``--pretrain-data``.
        seeds: Compared. tokens: Of pretraining, both.
        mixed, base: Mean token F1 after ``data`` and after ``against``. comparison: The first minus the second.
    """

    model: str
    cell: str
    data: str
    against: str
    seeds: tuple[int, ...]
    tokens: int
    base: float
    mixed: float
    comparison: PairedComparison

    @property
    def contrast(self) -> str:
        """``wiki+nq minus wiki``."""
        return f"{self.data} minus {self.against}"

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "seeds": list(self.seeds), "comparison": self.comparison.to_dict()}


@dataclass(frozen=True)
class Ablation:
    """All comparisons that a folder allows; ``refused``: what looks like one and is none, with the reason.

    ``missing``: a comparison that nobody has run the control for, with what it leaves open.
    """

    cells: tuple[AblationCell, ...]
    refused: tuple[str, ...]
    missing: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        cells = [cell.to_dict() for cell in self.cells]
        return {"cells": cells, "refused": list(self.refused), "missing": list(self.missing)}

    def text(self) -> str:
        """A line each."""
        lines = []
        for data, against in CONTRASTS:
            mine = [c for c in self.cells if (c.data, c.against) == (data, against)]
            if mine:
                how = "token F1, paired by question and seed (p: for these seeds)"
                lines.append(f"data ablation: {mine[0].contrast}, {how}")
            for c in mine:
                what = f"{c.model}, {MODES[c.cell]}, {len(c.seeds)} seed{'s' * (len(c.seeds) != 1)}"
                found = f"{format_estimate(c.comparison.difference, 3)}, p = {c.comparison.p_sign_flip:.3g}"
                lines.append(f"  {what}: {c.mixed:.3f} - {c.base:.3f} = {found}, {c.tokens:,} tokens each")
        lines += [f"  not compared: {reason}" for reason in self.refused]
        return "\n".join([*lines, *(f"  open: {reason}" for reason in self.missing)])


def ablate(grouping: Grouping, *, n_boot: int = N_BOOT) -> Ablation:
    """Compare every two sets that share all but what their text was mixed with."""
    cells: list[AblationCell] = []
    refused: list[str] = []
    missing: list[str] = []
    sets = [found for found in grouping.sets if found.trunk and not found.is_documented_format]
    for data, against in CONTRASTS:
        for mixed in (found for found in sets if _data(found) == data):
            twins = _twins(mixed, against, sets)
            if not twins and against == BASE:
                refused.append(f"{mixed.label}: there is no run on wiki alone with the same settings")
            if not twins and against == CONTROL:
                missing.append(
                    f"{mixed.label}: whether a difference is the questions' own only --pretrain-data {CONTROL} can tell"
                )
            for base in twins:
                found, reasons = _compare_cells(mixed, base, n_boot)
                cells += found
                refused += reasons
    return Ablation(tuple(cells), tuple(refused), tuple(missing))


def _twins(mixed: ComparableSet, against: str, sets: Sequence[ComparableSet]) -> list[ComparableSet]:
    """Sets that differ from ``mixed`` in nothing but their pretraining data being ``against``."""
    same = [found for found in sets if _data(found) == against and found.base == mixed.base]
    return [found for found in same if _settings(found) == _settings(mixed)]


def _specs(found: ComparableSet) -> list[ExperimentSpec]:
    """Specs that say how the set's trunks were pretrained: of runs whose trunk is the one their spec describes."""
    items = [item for cell in (FULL, FROZEN) for item in found.cells.get(cell, ())]
    known = [(item.spec, (item.result.lineage or {}).get("pretrain_id")) for item in items]
    return [spec for spec, trunk in known if spec is not None and trunk in (None, spec.pretrain_id)]


def _data(found: ComparableSet) -> str | None:
    """``wiki``, ``wiki+nq`` or ``wiki+control``; None where nothing says."""
    return next((spec.pretrain_data for spec in _specs(found)), None)


def _settings(found: ComparableSet) -> str:
    """Identity of the pretraining but for seed and what its text is mixed with."""
    return str(replace(_specs(found)[0], seed=0, pretrain_data=BASE, nq_data=None).pretrain_id)


def _compare_cells(mixed: ComparableSet, base: ComparableSet, n_boot: int) -> tuple[list[AblationCell], list[str]]:
    """The comparisons of full and frozen cells, and the reasons of those that there cannot be."""
    cells, refused = [], []
    for cell in (FULL, FROZEN):
        found = _compare(base, mixed, cell, n_boot)
        if isinstance(found, AblationCell):
            cells.append(found)
        elif found:
            refused.append(f"{mixed.label} and {_data(base)}, {MODES[cell]}: {found}")
    return cells, refused


def _compare(base: ComparableSet, mixed: ComparableSet, cell: str, n_boot: int) -> AblationCell | str | None:
    """The comparison, or why there is none; None where neither set has the cell."""
    if cell not in base.cells and cell not in mixed.cells:
        return None
    ours, theirs = _by_seed(mixed.cells.get(cell, ())), _by_seed(base.cells.get(cell, ()))
    seeds = sorted(set(ours) & set(theirs))
    if not seeds:
        return "no seed was run with both"
    budgets = {_tokens(by_seed[seed]) for by_seed in (ours, theirs) for seed in seeds}
    if len(budgets) != 1 or None in budgets:
        seen = " and ".join("unknown" if b is None else f"{b:,}" for b in sorted(budgets, key=lambda b: b or 0))
        return f"pretrained on different numbers of tokens ({seen})"
    first = ours[seeds[0]].scores
    assert first is not None
    if any(set(_f1(by_seed[seed])) != set(first.ids) for by_seed in (ours, theirs) for seed in seeds):
        return "not the same test questions"
    scores = {
        name: np.array([[_f1(by_seed[seed])[question] for question in first.ids] for seed in seeds])
        for name, by_seed in (("mixed", ours), ("base", theirs))
    }
    return AblationCell(
        model=mixed.model,
        cell=cell,
        data=str(_data(mixed)),
        against=str(_data(base)),
        seeds=tuple(seeds),
        tokens=next(b for b in budgets if b is not None),
        base=float(scores["base"].mean()),
        mixed=float(scores["mixed"].mean()),
        comparison=compare_paired(scores["mixed"], scores["base"], first.sentences, n_boot=n_boot),
    )


def _by_seed(items: Sequence[Found]) -> dict[int, Found]:
    return {seed: i for i in items if i.scores is not None and (seed := seed_of(i)) is not None}


def _tokens(item: Found) -> int | None:
    """Pretraining tokens that the trunk has seen."""
    seen: Mapping[str, Any] = item.result.pretraining or {}
    return int(seen["tokens_seen"]) if seen.get("tokens_seen") is not None else None


def _f1(item: Found) -> dict[str, float]:
    assert item.scores is not None
    return dict(zip(item.scores.ids, item.scores.scores[HEADLINE]["f1_tokens"].tolist(), strict=True))
