"""How well the best unit of each block tells each role, one figure a set of roles and kind of units."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from emergence.findings.folder import ResultsFolder
from emergence.report.blocks import Block, table
from emergence.report.charts.chart import Chart, ChartKind, Charts, Figure, Row
from emergence.report.charts.drawing import COLOURS, LINES, MARKERS, panel_grid, shared_legend
from emergence.report.charts.rows import (
    distinct,
    never,
    numbers,
    rows_where,
    short_names,
    slug,
    unit_studies,
    value_words,
)
from emergence.studies.units.result import KIND_NAMES, UnitResult

#: The trunks that are drawn, in words.
TRAINED, TWIN = "trained", "random twin"


def _collect(folder: ResultsFolder, charts: Charts, n_boot: int) -> None:
    results = unit_studies(folder, charts, KIND.name)
    for key in dict.fromkeys(_key(result, kind) for result in results for kind in result.kinds):
        name, roles, kind = key
        mine = [result for result in results if key in _keys(result)]
        rows = [
            {**row, "setting": setting}
            for result, setting in zip(mine, short_names(mine), strict=True)
            for row in _rows(result, kind)
        ]
        caption = (
            f"AUC of each block's best of the {KIND_NAMES[kind]}, chosen on half A (training and validation sentences) "
            "and reported on half B (test): the chance that a word of the role has a higher activation (or lower, if "
            "half A says so) than another argument word. Position, word frequency and part of speech are regressed "
            "out. Dashed: random twin. Dotted: chance."
        )
        charts.add(
            KIND, f"Selectivity of {KIND_NAMES[kind]}: {name}, {roles} roles", caption, rows, of=slug(" ".join(key))
        )


def _key(result: UnitResult, kind: str) -> tuple[str, str, str]:
    return str(result.settings["data"]["name"]), str(result.settings["roles"]), kind


def _keys(result: UnitResult) -> list[tuple[str, str, str]]:
    return [_key(result, kind) for kind in result.kinds]


def _rows(result: UnitResult, kind: str) -> Iterator[Row]:
    for told, trunk in ((TRAINED, result.main), (TWIN, result.random)):
        for found in trunk["units"][kind]["selectivity"]:
            for block in found["by_block"]:
                yield {
                    "name": str(result.subject["name"]),
                    "trunk": told,
                    "role": found["role"],
                    "block": block["block"],
                    "auc": block["best"],
                    "auc_everywhere": found["best"],
                    "confirmed": block["confirmed"],
                    "confirmed_everywhere": found["confirmed"],
                    "confirmed_raw": found["confirmed_raw"],
                    "confirmed_shuffled": found["confirmed_shuffled"],
                    "n_units": trunk["units"][kind]["n_units"],
                }


def _draw(figure: Figure, rows: Sequence[Row]) -> None:
    settings, roles = distinct(rows), distinct(rows, "role")
    axes = panel_grid(figure, settings)
    for ax, setting in zip(axes, settings, strict=True):
        for k, role in enumerate(roles):
            for trunk, line in ((TRAINED, "-"), (TWIN, "--")):
                mine = rows_where(rows, setting=setting, role=role, trunk=trunk)
                style: dict[str, Any] = {"color": COLOURS[k % 7], "marker": MARKERS[k % 7], "linestyle": line}
                style["label"] = role if trunk == TRAINED else "_"
                ax.plot(numbers(mine, "block"), numbers(mine, "auc"), **style)
        ax.axhline(0.5, color="black", linestyle=LINES[3], linewidth=0.8)
        ax.set_xticks(distinct(rows_where(rows, setting=setting), "block"))
        ax.set_xlabel("block")
    axes[0].set_ylabel("AUC, half B")
    shared_legend(figure, axes)


def _series(rows: Sequence[Row]) -> list[str]:
    phrases = []
    for name, trunk in dict.fromkeys((row["name"], row["trunk"]) for row in rows):
        mine = rows_where(rows, name=name, trunk=trunk)
        # The best unit of all blocks is half A's choice as well: the largest of half B would be chosen by what reports.
        best = {role: rows_where(mine, role=role)[0]["auc_everywhere"] for role in distinct(mine, "role")}
        told = ", ".join(f"{role} {value_words(value)}" for role, value in best.items())
        phrases.append(f"{name}, {trunk}, best unit: {told}")
    return phrases


def _tables(chart: Chart, reasons: Sequence[str]) -> Iterable[Block]:
    shown = []
    for name, trunk, role in dict.fromkeys((row["name"], row["trunk"], row["role"]) for row in chart.rows):
        mine = rows_where(chart.rows, name=name, trunk=trunk, role=role)
        first = mine[0]
        counts = (first["confirmed_everywhere"], first["confirmed_raw"], first["confirmed_shuffled"], first["n_units"])
        shown.append((f"{name}, {trunk}", role, value_words(first["auc_everywhere"]), *(f"{n:,}" for n in counts)))
    head = ("Run, trunk", "Role", "Best AUC", "Selective", "With confounds", "Shuffled labels", "Of units")
    yield from table(f"{chart.title}: units chosen on half A and confirmed on half B", head, shown)


KIND = ChartKind("unit_selectivity", 116, "units", _collect, _draw, _series, never, _tables)
