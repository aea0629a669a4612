"""Figures in words: what a reader who cannot see a figure is told of it, from its own rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from emergence.analysis.figure_data import CELL_NAMES, NO_MODEL, WORDS_ALONE, Chart, Row
from emergence.measures.readings import SCORE_NAMES

#: Series told one by one; more are counted.
_MOST = 12


def alt_text(chart: Chart) -> str:
    """One or two sentences with the figure's numbers, or their range where there are many."""
    series = _SERIES.get(chart.kind)
    if series is None:
        return f"{chart.title}. {len(chart.rows):,} values, in the data file."
    told = list(dict.fromkeys(series(chart.rows)))
    more = f"; and {len(told) - _MOST} more, see the data file" if len(told) > _MOST else ""
    return f"{chart.title}. {'; '.join(told[:_MOST])}{more}."


def is_wide(chart: Chart) -> bool:
    """Whether the figure spans two columns of a paper: more than a phone shows at a legible size."""
    settings = len({row.get("setting") for row in chart.rows})
    narrow = {
        "pretraining": True,
        "two_by_two": settings <= 2,
        "data_ablation": settings * len({row.get("panel") for row in chart.rows}) <= 3,
        "probing": settings == 1,
        "few_shot": settings == 1,
    }
    panels = len({row["panel"] for row in chart.rows}) if chart.kind == "heatmaps" else 0
    return not (narrow.get(chart.kind, False) or panels == 1)


def _cell(row: Row) -> str:
    others = {NO_MODEL: "no model", WORDS_ALONE: "words and positions"}
    return others.get(row["cell"]) or CELL_NAMES[row["cell"]]


def _value(value: Any) -> str:
    return "undefined" if value is None or not math.isfinite(value) else f"{value:.2f}"


def _bars(rows: Sequence[Row]) -> list[str]:
    return [f"{row['setting']}, {_cell(row)}: {_value(row['f1'])}" for row in rows]


def _groups(rows: Sequence[Row]) -> list[str]:
    keys = [(row["by"], row["group"]) for row in rows]
    told = []
    for by, group in dict.fromkeys(keys):
        mine = [row for row, key in zip(rows, keys, strict=True) if key == (by, group)]
        told.append(f"{by} {group}: " + ", ".join(f"{_cell(row)} {_value(row['f1'])}" for row in mine))
    return told


def _ends(rows: Sequence[Row], name: Callable[[Row], str], x: str, y: str) -> list[str]:
    """First and last point of every series."""
    told = []
    for label, group in groupby(sorted(rows, key=name), key=name):
        points = sorted((row for row in group if row[y] is not None), key=lambda row: row[x])
        if points:
            first, last = points[0], points[-1]
            told.append(f"{label}: {_value(first[y])} at {first[x]:,} to {_value(last[y])} at {last[x]:,}")
    return told


def _pretraining(rows: Sequence[Row]) -> list[str]:
    held_out = [row for row in rows if row["split"] == "validation"] or list(rows)
    return _ends(held_out, lambda row: f"{row['setting']}, loss by tokens", "tokens", "loss")


def _finetuning(rows: Sequence[Row]) -> list[str]:
    return _ends(rows, lambda row: f"{row['setting']}, {_cell(row)}, F1 by epoch", "epoch", "validation_f1")


def _probing(rows: Sequence[Row]) -> list[str]:
    return _ends(rows, lambda r: f"{r['setting']}, {r['family']}, {_cell(r)}, F1 by layer", "layer", "validation_f1")


def _few_shot(rows: Sequence[Row]) -> list[str]:
    return _ends(rows, lambda row: f"{row['setting']}, {_cell(row)}, F1 by questions", "samples", "f1")


def _emergence(rows: Sequence[Row]) -> list[str]:
    return [f"{row['setting']}, {SCORE_NAMES[row['floor']]}: {_value(row['score'])}" for row in rows]


def _cka(rows: Sequence[Row]) -> list[str]:
    values = [row["cka"] for row in rows if row["cka"] is not None and math.isfinite(row["cka"])]
    return [f"CKA from {min(values):.2f} to {max(values):.2f} over {len(values)} values" if values else "all undefined"]


def _curve(rows: Sequence[Row]) -> list[str]:
    points = [row for row in rows if row["mark"] == "point" and row["loss"] is not None]
    return _ends(points, lambda row: f"{row['family']} probe, {row['score']} by tokens", "tokens", "value")


def _ablation(rows: Sequence[Row]) -> list[str]:
    return [f"{row['setting']}, {_cell(row)}, {_compared(row)}: {_value(row['difference'])}" for row in rows]


def _compared(row: Row) -> str:
    """``wiki+nq minus wiki``, and by what where it is not told by the contrast alone."""
    return str(row["contrast"] if row["panel"] == row["contrast"] else f"{row['contrast']}, {row['panel']}")


_SERIES: dict[str, Callable[[Sequence[Row]], list[str]]] = {
    "two_by_two": _bars,
    "breakdown": _groups,
    "pretraining": _pretraining,
    "finetuning": _finetuning,
    "probing": _probing,
    "few_shot": _few_shot,
    "emergence": _emergence,
    "heatmaps": _cka,
    "drift": _cka,
    "emergence_curve": _curve,
    "data_ablation": _ablation,
}
