"""What one pretraining text gives over another: questions in it, or word order, test question by test question.

Trunks are compared that differ in pretraining data alone and have seen the same number of tokens, in the same cell of
the 2x2, seed with seed, on the same test questions. A gain of ``wiki+nq`` over ``wiki`` may come from questions or from
short documents among the long ones; ``wiki+control`` has the short documents and no questions
(docs/methods.md#data-ablation), so ``wiki+nq`` minus ``wiki+control`` is the part of it that questions make. ``wiki``
minus ``shuffled`` is what the order of words gives: the shuffled text has the same words in every sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emergence.experiment.facts import HEADLINE
from emergence.findings.collect import Found
from emergence.findings.comparable import MODES, ComparableSet, Grouping, seed_of
from emergence.findings.two_by_two import RunScores
from emergence.measures.bootstrap import N_BOOT
from emergence.measures.emergence_score import FROZEN, FULL
from emergence.measures.paired import PairedComparison, compare_paired_together
from emergence.plain import plain
from emergence.spec.experiment import ExperimentSpec, PretrainData
from emergence.wording import counted, shown

BASE: PretrainData = "wiki"
MIXED: PretrainData = "wiki+nq"
CONTROL: PretrainData = "wiki+control"
SHUFFLED: PretrainData = "shuffled"
#: Scores that are compared, in words.
SCORES = {"f1_tokens": "token F1", "argument_selection": "argument selection"}


@dataclass(frozen=True)
class Measure:
    """What is compared, question by question.

    Attributes:
        words: For people. readout: Whose scores. minus: Read-out or baseline that is subtracted, if any.
        cells: Cells of the 2x2 that have it.
    """

    words: str
    readout: str = HEADLINE
    minus: str | None = None
    cells: tuple[str, ...] = (FULL, FROZEN)


@dataclass(frozen=True)
class Plan:
    """One question about pretraining data.

    Attributes:
        name: For people. contrasts: What is subtracted from what. measures, scores: By what they are compared.
    """

    name: str
    contrasts: tuple[tuple[PretrainData, PretrainData], ...]
    measures: tuple[Measure, ...]
    scores: tuple[str, ...]


#: All that questions change, the part that is theirs, the part that is not.
QUESTIONS = Plan(
    "data ablation", ((MIXED, BASE), (MIXED, CONTROL), (CONTROL, BASE)), (Measure(HEADLINE),), ("f1_tokens",)
)
#: What is not known from which words go together: by the answers themselves, by the probe that sees the question, and
#: by what that probe adds to a scorer of words and positions (docs/methods.md#conditional-probing).
ORDER = Plan(
    "word order",
    ((BASE, SHUFFLED),),
    (
        Measure(HEADLINE),
        Measure("bilinear probe", "bilinear", cells=(FROZEN,)),
        Measure("bilinear probe's gain over words", "words+bilinear", "words_left", (FROZEN,)),
    ),
    tuple(SCORES),
)


@dataclass(frozen=True)
class AblationCell:
    """One cell of the 2x2 after two pretrainings that differ in their data.

    Attributes:
        model: Size, and what is not the default. cell: ``full`` or ``frozen``.
        data, against: Compared, as in ``--pretrain-data``. measure, score: By what; see :data:`ORDER`, :data:`SCORES`.
        seeds: Compared. tokens: Of pretraining, both.
        mixed, base: Mean after ``data`` and after ``against``. comparison: The first minus the second.
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
    measure: str = HEADLINE
    score: str = "f1_tokens"

    @property
    def contrast(self) -> str:
        """``wiki+nq minus wiki``."""
        return f"{self.data} minus {self.against}"

    @property
    def by(self) -> str:
        """``token F1`` (of the finetuned model, or of the linear probe), ``bilinear probe, token F1``."""
        return SCORES[self.score] if self.measure == HEADLINE else f"{self.measure}, {SCORES[self.score]}"


@dataclass(frozen=True)
class Ablation:
    """All comparisons that a folder allows; ``refused``: what looks like one and is none, with the reason.

    ``missing``: a comparison that nobody has run the control for, with what it leaves open. ``plan``: What was asked.
    """

    cells: tuple[AblationCell, ...]
    refused: tuple[str, ...]
    missing: tuple[str, ...] = ()
    plan: Plan = QUESTIONS

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return plain({"cells": self.cells, "refused": self.refused, "missing": self.missing})

    def text(self) -> str:
        """A line each."""
        lines = []
        for data, against in self.plan.contrasts:
            mine = [c for c in self.cells if (c.data, c.against) == (data, against)]
            for k, c in enumerate(mine):
                if k == 0 or (c.measure, c.score) != (mine[k - 1].measure, mine[k - 1].score):
                    how = f"{c.by}, paired by question and seed (p: for these seeds)"
                    lines.append(f"{self.plan.name}: {c.contrast}, {how}")
                what = f"{c.model}, {MODES[c.cell]}, {counted(len(c.seeds), 'seed')}"
                difference = f"{shown(c.comparison.difference)}, p = {c.comparison.p_sign_flip:.3g}"
                lines.append(f"  {what}: {c.mixed:.3f} - {c.base:.3f} = {difference}, {c.tokens:,} tokens each")
        lines += [f"  not compared: {reason}" for reason in self.refused]
        return "\n".join([*lines, *(f"  open: {reason}" for reason in self.missing)])


def ablate(grouping: Grouping, plan: Plan = QUESTIONS, *, n_boot: int = N_BOOT) -> Ablation:
    """Compare every two sets that share all but what their text is, as ``plan`` says."""
    cells: list[AblationCell] = []
    refused: list[str] = []
    missing: list[str] = []
    sets = _with_trunk(grouping)
    for data, against in plan.contrasts:
        for mixed in (s for s in sets if _data(s) == data):
            twins = _twins(mixed, against, sets)
            if not twins and against == BASE:
                refused.append(f"{mixed.label}: there is no run on wiki alone with the same settings")
            if not twins and against == CONTROL:
                missing.append(
                    f"{mixed.label}: whether a difference is the questions' own only --pretrain-data {CONTROL} can tell"
                )
            for base in twins:
                compared, reasons = _compare_cells(mixed, base, plan, n_boot)
                cells += compared
                refused += reasons
        if data == BASE:  # the other way round: most runs on wiki have nobody to be compared with, and need nobody
            alone = [s for s in sets if _data(s) == against and not _twins(s, BASE, sets)]
            refused += [f"{s.label}: there is no run on wiki alone with the same settings" for s in alone]
    order = [(measure.words, score) for measure in plan.measures for score in plan.scores]
    cells.sort(key=lambda c: (plan.contrasts.index((c.data, c.against)), order.index((c.measure, c.score))))
    return Ablation(tuple(cells), tuple(refused), tuple(missing), plan)


def without_order(grouping: Grouping) -> dict[int, ComparableSet]:
    """For each set on plain text, by its ``id``, the set on shuffled text with equal settings and steps."""
    sets = _with_trunk(grouping)
    pairs = ((s, twin) for s in sets if _data(s) == BASE for twin in _twins(s, SHUFFLED, sets))
    return {id(s): twin for s, twin in pairs if _steps(s) == _steps(twin)}


def _with_trunk(grouping: Grouping) -> list[ComparableSet]:
    return [s for s in grouping.sets if s.trunk and not s.is_documented_format]


def _steps(s: ComparableSet) -> str | None:
    return s.trunk.pretraining_steps if s.trunk else None


def _twins(mixed: ComparableSet, against: str, sets: Sequence[ComparableSet]) -> list[ComparableSet]:
    """Sets that differ from ``mixed`` in nothing but their pretraining data being ``against``."""
    same = [s for s in sets if _data(s) == against and s.base == mixed.base]
    return [s for s in same if _settings(s) == _settings(mixed)]


def _specs(s: ComparableSet) -> list[ExperimentSpec]:
    """Specs of the runs whose trunk is the one that their spec describes."""
    items = [item for cell in (FULL, FROZEN) for item in s.cells.get(cell, ())]
    known = [(item.spec, item.result.trunk.pretrain_id) for item in items]
    return [spec for spec, trunk in known if spec is not None and trunk in (None, spec.pretrain_id)]


def _data(s: ComparableSet) -> str | None:
    """As in ``--pretrain-data``; None where nothing says."""
    return next((spec.pretrain_data for spec in _specs(s)), None)


def _settings(s: ComparableSet) -> str:
    """The ``pretrain_id`` with seed and data mix set aside."""
    return str(replace(_specs(s)[0], seed=0, pretrain_data=BASE, nq_data=None).pretrain_id)


def _compare_cells(
    mixed: ComparableSet, base: ComparableSet, plan: Plan, n_boot: int
) -> tuple[list[AblationCell], list[str]]:
    """The comparisons of full and frozen cells, and the reasons of those that there cannot be."""
    cells: list[AblationCell] = []
    refused = []
    for cell in (FULL, FROZEN):
        compared = _compare(base, mixed, cell, plan, n_boot)
        if isinstance(compared, str):
            refused.append(f"{mixed.label} and {_data(base)}, {MODES[cell]}: {compared}")
        else:
            cells += compared
    return cells, refused


def _compare(base: ComparableSet, mixed: ComparableSet, cell: str, plan: Plan, n_boot: int) -> list[AblationCell] | str:
    """A comparison for each measure and score that both have, or why there is none."""
    if cell not in base.cells and cell not in mixed.cells:
        return []
    ours, theirs = _by_seed(mixed.cells.get(cell, ())), _by_seed(base.cells.get(cell, ()))
    seeds = sorted(set(ours) & set(theirs))
    if not seeds:
        return "no seed was run with both"
    runs = [[by_seed[seed] for seed in seeds] for by_seed in (ours, theirs)]
    budgets = {item.result.pretrained.tokens_seen for items in runs for item in items}
    if len(budgets) != 1 or None in budgets:
        seen = " and ".join("unknown" if b is None else f"{b:,}" for b in sorted(budgets, key=lambda b: b or 0))
        return f"pretrained on different numbers of tokens ({seen})"
    first = _scores(runs[0][0])
    if any(set(_scores(item).ids) != set(first.ids) for items in runs for item in items):
        return "not the same test questions"
    tokens = next(b for b in budgets if b is not None)
    where: dict[str, Any] = {"model": mixed.model, "cell": cell, "seeds": tuple(seeds), "tokens": tokens}
    where |= {"data": str(_data(mixed)), "against": str(_data(base))}
    asked = [(measure, score) for measure in plan.measures if cell in measure.cells for score in plan.scores]
    measured = [(measure, score, sides) for measure, score in asked if (sides := _sides(runs, measure, score))]
    return [
        AblationCell(
            **where,
            mixed=float(ours.mean()),
            base=float(theirs.mean()),
            comparison=comparison,
            measure=measure.words,
            score=score,
        )
        for (measure, score, (ours, theirs, _)), comparison in zip(
            measured, compare_paired_together([sides for *_, sides in measured], n_boot=n_boot), strict=True
        )
    ]


def _sides(
    runs: Sequence[Sequence[Found]], measure: Measure, score: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.str_]] | None:
    """Scores (S, N) of both sides and the sentences (N,), of the questions that have the score in all runs.

    None where the files do not have the scores, or no question does.
    """
    first = _scores(runs[0][0])
    values = [[_values(item, measure, score, first.ids) for item in items] for items in runs]
    if any(column is None for side in values for column in side):
        return None
    both = np.array(values, dtype=np.float64)  # (2, S, N)
    known = np.isfinite(both).all(axis=(0, 1))  # (N,) a question may have no other argument to choose from
    if not known.any():
        return None
    ours, theirs = both[:, :, known]
    return ours, theirs, np.asarray(first.sentences)[known]


def _by_seed(items: Sequence[Found]) -> dict[int, Found]:
    return {seed: i for i in items if i.scores is not None and (seed := seed_of(i)) is not None}


def _scores(item: Found) -> RunScores:
    assert item.scores is not None  # _by_seed leaves the others out
    return item.scores


def _values(item: Found, measure: Measure, score: str, ids: Sequence[str]) -> NDArray[np.float64] | None:
    """(N,) of one run in the order of ``ids``; None where its files do not have them."""
    run = _scores(item)
    names = [name for name in (measure.readout, measure.minus) if name]
    columns = [run.scores[name][score] for name in names if score in run.scores.get(name, {})]
    if len(columns) < len(names):
        return None
    place = {question: i for i, question in enumerate(run.ids)}
    whole = columns[0] - (columns[1] if measure.minus else 0.0)  # (N,)
    return np.asarray(whole, dtype=np.float64)[[place[question] for question in ids]]
