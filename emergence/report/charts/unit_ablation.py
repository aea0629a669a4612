"""What cutting the units of each role costs each role, a matrix for each run and kind of units."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from emergence.findings.folder import ResultsFolder
from emergence.measures.bootstrap import Estimate
from emergence.report.blocks import Block, table
from emergence.report.charts.chart import Chart, ChartKind, Charts, Figure, Row
from emergence.report.charts.drawing import panel_grid
from emergence.report.charts.rows import distinct, never, numbers, rows_where, slug, unit_studies, value_words
from emergence.studies.units.result import KIND_NAMES, UnitResult
from emergence.wording import format_interval


def _collect(folder: ResultsFolder, charts: Charts, n_boot: int) -> None:
    results = unit_studies(folder, charts, KIND.name)
    for result in results:
        data = f"{result.settings['data']['name']}, {result.settings['roles']} roles"
        numbers_cut = {kind: result.ablations(result.main, kind)[0]["n"] for kind in result.kinds}
        cut = (
            f"{n} of {result.main['units'][kind]['n_units']:,} {KIND_NAMES[kind]}" for kind, n in numbers_cut.items()
        )
        caption = (
            f"Token F1 that questions about a column's role lose if the units most selective for a row's role "
            f"({' and '.join(cut)}) give their mean over positions of the same class, beyond as many random units "
            "matched in activation size and block. Black frame: the interval is above 0; it counts what another random "
            "set would differ by. Choice on half A, effects on half B. Last row: units that shuffled labels choose. "
            "Two rows may cut the same units. Colours from minus to plus the largest effect of the panel."
        )
        rows = [row for kind in result.kinds for row in _rows(result, kind)]
        name = str(result.subject["name"])
        charts.add(KIND, f"Cutting units: {name}, {data}", caption, rows, of=slug(f"{name} {data}"))


def _rows(result: UnitResult, kind: str) -> Iterator[Row]:
    for row in result.ablations(result.main, kind):
        for role in result.roles:
            found = Estimate.from_dict(row["effects"][role])
            yield {
                "kind": KIND_NAMES[kind],
                "cut": row["cut"],
                "asked": role,
                "n_units": row["n"],
                "share": row["share"],
                "lost": found.point,
                "lo": found.lo,
                "hi": found.hi,
                "n_questions": found.n,
                "loss": row["loss"],
                "pairs": None if row["pairs"] is None else row["pairs"]["point"],
            }


def _draw(figure: Figure, rows: Sequence[Row]) -> None:
    kinds, asked = distinct(rows, "kind"), distinct(rows, "asked")
    axes = panel_grid(figure, kinds, 2.8)
    for ax, kind in zip(axes, kinds, strict=True):
        mine = rows_where(rows, kind=kind)
        cut = distinct(mine, "cut")
        lost = np.array([[numbers(rows_where(mine, cut=c, asked=a), "lost")[0] for a in asked] for c in cut])
        most = max(float(np.nanmax(np.abs(lost))), 0.05)
        ax.imshow(lost, cmap="PuOr_r", vmin=-most, vmax=most, aspect="auto")
        for i, c in enumerate(cut):
            for j, a in enumerate(asked):
                (row,) = rows_where(mine, cut=c, asked=a)
                is_sure = row["lo"] is not None and row["lo"] > 0
                box = {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "black", "linewidth": 0.7}
                text = f"{round(lost[i, j], 2) + 0.0:+.2f}"
                colour = "white" if abs(lost[i, j]) > 0.6 * most and not is_sure else "black"
                style = {"ha": "center", "va": "center", "fontsize": 6, "color": colour}
                ax.text(j, i, text, bbox=box if is_sure else None, **style)
        ax.set_xticks(range(len(asked)), asked, rotation=45, ha="right")
        ax.set_yticks(range(len(cut)), cut)
        ax.set_xlabel("asked role")
        ax.grid(visible=False)
    axes[0].set_ylabel("units cut")


def _series(rows: Sequence[Row]) -> list[str]:
    phrases = []
    for kind in distinct(rows, "kind"):
        own = [row for row in rows_where(rows, kind=kind) if row["cut"] == row["asked"]]
        others = [row for row in rows_where(rows, kind=kind) if row["cut"] != row["asked"]]
        told = ", ".join(f"{row['asked']} {value_words(row['lost'])}" for row in own)
        phrases.append(
            f"{kind}, own role: {told}; other roles on average {value_words(np.nanmean(numbers(others, 'lost')))}"
        )
    return phrases


def _tables(chart: Chart, reasons: Sequence[str]) -> Iterable[Block]:
    asked = distinct(chart.rows, "asked")
    shown = []
    for kind, cut in dict.fromkeys((row["kind"], row["cut"]) for row in chart.rows):
        mine = rows_where(chart.rows, kind=kind, cut=cut)
        effects = (format_interval(row["lost"], row["lo"], row["hi"], 2, signed=True) for row in mine)
        loss, pairs = mine[0]["loss"], mine[0]["pairs"]
        beside = (f"{loss:+.3f}", "-" if pairs is None else f"{pairs:+.2f}")
        shown.append((f"{kind}, {mine[0]['n_units']:,}: {cut}", *effects, *beside))
    head = ("Units cut", *(f"F1 of {role}" for role in asked), "Loss, nats", "Pairs right")
    yield from table(f"{chart.title}: lost beyond matched random units", head, shown)


KIND = ChartKind("unit_ablation", 117, "units", _collect, _draw, _series, never, _tables)
