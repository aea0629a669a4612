"""Tuples of a predicate's questions that are right throughout, and failures by role beside the skill theory's curve."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from emergence.errors import EmergenceError
from emergence.findings.folder import ResultsFolder
from emergence.findings.skills import SkillAnalysis, skills_of
from emergence.measures.emergence_score import FROZEN, FULL
from emergence.measures.skills import LEAST_TUPLES
from emergence.report.charts.chart import ChartKind, Charts, Figure, Row
from emergence.report.charts.drawing import COLOURS, MARKERS, shared_legend
from emergence.report.charts.rows import distinct, never, numbers, rows_where, value_words

RATE, CURVE, MEASURED = "tuples", "theory", "roles"
#: The figure shows no p-value, so few permutations do.
_N_NULL = 19
_TOO_FEW = f"it takes predictions of {LEAST_TUPLES} questions with their predicates"


def _collect(folder: ResultsFolder, charts: Charts, n_boot: int) -> None:
    rows: list[Row] = []
    for scores in folder.main:
        for cell in (FULL, FROZEN):
            for item in scores.comparable.cells.get(cell, ())[:1]:
                if item.scores is not None:
                    with contextlib.suppress(EmergenceError):  # too few questions, or none with a predicate
                        rows += _rows(scores.comparable.label, skills_of(item.scores.run, item.result, n_null=_N_NULL))
    caption = (
        "Left: share of k questions of one predicate that are right together (token F1 of 0.5 or more; solid), and "
        "as it would be if answers were independent (dashed); what lies between them is association. Right: if a "
        "share alpha of the asked roles is left out, those with most wrong answers, of every other role at most "
        "this share is wrong (solid). Dashed: the curve of Arora and Goyal (2023) for the share of predicates with "
        "a wrong answer, where that is at most one half. So few roles illustrate it, no more. One seed of each "
        "condition."
    )
    charts.add(KIND, "Questions of one predicate", caption, rows, _TOO_FEW)


def _rows(label: str, found: SkillAnalysis) -> Iterator[Row]:
    run = f"{label}, {found.label.partition(', ')[2]}"
    names = ("mark", "x", "share", "independent", "association", "lo", "hi", "n")
    empty: Row = {"run": run, **dict.fromkeys(names)}
    for rate in found.rates:
        values = {"share": rate.p, "independent": rate.p1**rate.k, "association": rate.association}
        yield {**empty, "mark": RATE, "x": rate.k, **values, "lo": rate.lo, "hi": rate.hi, "n": rate.n}
    for mark, points in ((CURVE, found.bound), (MEASURED, found.measured)):
        for point in points:
            yield {**empty, "mark": mark, "x": point["alpha"], "share": point["failure"]}


def _draw(figure: Figure, rows: Sequence[Row]) -> None:
    figure.set_figheight(2.9)
    left, right = figure.subplots(1, 2)
    for i, run in enumerate(distinct(rows, "run")):
        style: dict[str, Any] = {"color": COLOURS[i % 7]}
        mine = rows_where(rows, run=run, mark=RATE)
        left.plot(numbers(mine, "x"), numbers(mine, "share"), **style, marker=MARKERS[i % 7], label=run)
        left.plot(numbers(mine, "x"), numbers(mine, "independent"), **style, linestyle="--", linewidth=0.8)
        for mark, line in ((MEASURED, "-"), (CURVE, "--")):
            points = rows_where(rows, run=run, mark=mark)
            right.plot(numbers(points, "x"), numbers(points, "share"), **style, linestyle=line, linewidth=1.0)
    left.set_xticks(sorted({row["x"] for row in rows_where(rows, mark=RATE)}))
    left.set(xlabel="questions of one predicate, k", ylabel="share right throughout", ylim=(0, 1))
    left.set_title("dashed: if answers were independent", loc="left")
    right.set(xlabel="share of roles left out, alpha", ylabel="share wrong, at most", ylim=(0, 1), xlim=(0, 1))
    right.set_title("dashed: the curve of Arora and Goyal", loc="left")
    shared_legend(figure, [left])


def _series(rows: Sequence[Row]) -> list[str]:
    return [
        f"{row['run']}: {row['x']} together {value_words(row['share'])}, independent {value_words(row['independent'])}"
        for row in rows_where(rows, mark=RATE)
        if row["x"] > 1
    ]


KIND = ChartKind("skills", 75, "roles", _collect, _draw, _series, never)
