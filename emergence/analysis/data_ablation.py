"""Does pretraining on questions help? ``wiki+nq`` against ``wiki`` at one token budget, question by question.

Trunks are compared that differ in pretraining data alone and have seen the same number of tokens, in the same cell of
the 2x2, seed with seed, on the same test questions. A gain may come from the form of questions or from other text
having gone; only a control mix with as many tokens of something else could tell (METHODS H9).
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


@dataclass(frozen=True)
class AblationCell:
    """One cell of the 2x2 with and without questions in the pretraining text.

    Attributes:
        model: Size, and what is not the default. cell: ``full`` or ``frozen``.
        seeds: Compared. tokens: Of pretraining, both.
        base, mixed: Mean token F1. comparison: Mixed minus base.
    """

    model: str
    cell: str
    seeds: tuple[int, ...]
    tokens: int
    base: float
    mixed: float
    comparison: PairedComparison

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "seeds": list(self.seeds), "comparison": self.comparison.to_dict()}


@dataclass(frozen=True)
class Ablation:
    """All comparisons that a folder allows; ``refused``: what looks like one and is none, with the reason."""

    cells: tuple[AblationCell, ...]
    refused: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"cells": [cell.to_dict() for cell in self.cells], "refused": list(self.refused)}

    def text(self) -> str:
        """A line each."""
        lines = ["data ablation: wiki+nq minus wiki, token F1, paired by question and seed"] if self.cells else []
        for c in self.cells:
            what = f"{c.model}, {MODES[c.cell]}, {len(c.seeds)} seed{'s' * (len(c.seeds) != 1)}"
            found = f"{format_estimate(c.comparison.difference, 3)}, p = {c.comparison.p_sign_flip:.3g}"
            lines.append(f"  {what}: {c.mixed:.3f} - {c.base:.3f} = {found}, {c.tokens:,} tokens each")
        return "\n".join([*lines, *(f"  not compared: {reason}" for reason in self.refused)])


def ablate(grouping: Grouping, *, n_boot: int = N_BOOT) -> Ablation:
    """Compare every set pretrained on ``wiki+nq`` with those that share all but the data."""
    cells: list[AblationCell] = []
    refused: list[str] = []
    sets = [found for found in grouping.sets if found.trunk and not found.is_documented_format]
    for mixed in (found for found in sets if _data(found) == MIXED):
        twins = [found for found in sets if _data(found) == BASE and found.base == mixed.base]
        twins = [found for found in twins if _settings(found) == _settings(mixed)]
        if not twins:
            refused.append(f"{mixed.label}: there is no run on wiki alone with the same settings")
        for base in twins:
            for cell in (FULL, FROZEN):
                found = _compare(base, mixed, cell, n_boot)
                if isinstance(found, AblationCell):
                    cells.append(found)
                elif found:
                    refused.append(f"{mixed.label}, {MODES[cell]}: {found}")
    return Ablation(tuple(cells), tuple(refused))


def _specs(found: ComparableSet) -> list[ExperimentSpec]:
    """Specs that say how the set's trunks were pretrained: of runs whose trunk is the one their spec describes."""
    items = [item for cell in (FULL, FROZEN) for item in found.cells.get(cell, ())]
    known = [(item.spec, (item.result.lineage or {}).get("pretrain_id")) for item in items]
    return [spec for spec, trunk in known if spec is not None and trunk in (None, spec.pretrain_id)]


def _data(found: ComparableSet) -> str | None:
    """``wiki`` or ``wiki+nq``; None where nothing says."""
    return next((spec.pretrain_data for spec in _specs(found)), None)


def _settings(found: ComparableSet) -> str:
    """Identity of the pretraining but for seed and questions in the text."""
    return str(replace(_specs(found)[0], seed=0, pretrain_data=BASE, nq_data=None).pretrain_id)


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
    comparison = compare_paired(scores["mixed"], scores["base"], first.sentences, n_boot=n_boot)
    means = {name: float(values.mean()) for name, values in scores.items()}
    tokens = next(b for b in budgets if b is not None)
    return AblationCell(mixed.model, cell, tuple(seeds), tokens, means["base"], means["mixed"], comparison)


def _by_seed(items: Sequence[Found]) -> dict[int, Found]:
    return {seed: i for i in items if i.scores is not None and (seed := seed_of(i)) is not None}


def _tokens(item: Found) -> int | None:
    """Pretraining tokens that the trunk has seen."""
    seen: Mapping[str, Any] = item.result.pretraining or {}
    return int(seen["tokens_seen"]) if seen.get("tokens_seen") is not None else None


def _f1(item: Found) -> dict[str, float]:
    assert item.scores is not None
    return dict(zip(item.scores.ids, item.scores.scores[HEADLINE]["f1_tokens"].tolist(), strict=True))
