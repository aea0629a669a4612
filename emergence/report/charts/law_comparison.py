"""Comparisons of two laws that a folder stores: both emergence points, and the difference of scores at equal loss."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from emergence.findings.folder import ResultsFolder
from emergence.findings.stored_laws import StoredComparison, stored_comparisons
from emergence.report.blocks import Block, Bullets, table
from emergence.report.charts.chart import Chart, ChartKind, Charts, Figure, Row
from emergence.report.charts.drawing import COLOURS, MARKERS, error_bars, error_bars_across, with_unit
from emergence.report.charts.rows import never, numbers, rows_where, slug
from emergence.wording import format_interval

#: Marks of the figure's rows.
POINT, DIFFERENCE, SCORE, TOLD = "emergence point", "A minus B", "score at equal loss", "told"


def _collect(folder: ResultsFolder, charts: Charts, n_boot: int) -> None:
    otherwise = "no comparison of laws is stored here: emergence law compare A B --output FILE"
    found = charts.take(KIND.name, stored_comparisons(folder.collection), otherwise)
    for comparison in found:
        of = slug(comparison.name.removesuffix(".json")) if len(found) > 1 else ""
        caption = (
            f"Left: loss at which {comparison.amount:g} questions are enough, by the laws of A and of B (axis "
            f"reversed: earlier is further left). Right: score of A minus that of B at equal loss. Bars: "
            f"{comparison.level:.0%} intervals."
        )
        charts.add(KIND, "Where a task emerges earlier", caption, list(_rows(comparison)), of=of)


def _rows(found: StoredComparison) -> Iterator[Row]:
    empty: Row = dict.fromkeys(("mark", "name", "about", "amount", "value", "lo", "hi", "verdict", "told"))
    for name, (about, point, lo, hi) in zip("AB", found.sides, strict=True):
        yield {**empty, "mark": POINT, "name": name, "about": about, "value": point, "lo": lo, "hi": hi}
    whole = {"value": found.point, "lo": found.lo, "hi": found.hi, "verdict": found.verdict}
    yield {**empty, "mark": DIFFERENCE, "name": DIFFERENCE, "amount": found.amount, **whole}
    for amount, point, lo, hi, verdict in found.scores:
        yield {**empty, "mark": SCORE, "amount": amount, "value": point, "lo": lo, "hi": hi, "verdict": verdict}
    ends = format_interval(found.point, found.lo, found.hi, 4)
    yield {
        **empty, "mark": TOLD,
        "told": f"{found.verdict}: A minus B is {ends} in loss; earlier is at a higher loss, in weaker models.",
    }  # fmt: skip
    if found.equal_loss is not None:
        yield {
            **empty,
            "mark": TOLD,
            "told": f"Scores are compared at the lowest loss of both, {found.equal_loss:.4g}.",
        }
    for flag in found.flags:
        yield {**empty, "mark": TOLD, "told": f"{flag.replace('_', ' ').capitalize()}."}


def _draw(figure: Figure, rows: Sequence[Row]) -> None:
    points, scores = rows_where(rows, mark=POINT), rows_where(rows, mark=SCORE)
    figure.set_figheight(2.1)
    axes = figure.subplots(1, 2 if scores else 1, squeeze=False)[0]
    for i, row in enumerate(points):
        style = {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": "none"}
        error_bars_across(axes[0], [1 - i], [row], "value", **style)
    ends = [v for row in points for v in (row["value"], row["lo"], row["hi"]) if math.isfinite(v)]
    room = 0.1 * ((max(ends) - min(ends)) or 1.0)
    axes[0].set(xlabel="loss at which it emerges", xlim=(max(ends) + room, min(ends) - room), ylim=(-0.5, 1.5))
    axes[0].set_yticks([1, 0], [f"{row['name']}: {textwrap.shorten(row['about'], 24)}" for row in points])
    if scores:
        style = {"color": COLOURS[6], "marker": MARKERS[0], "linestyle": "none"}
        error_bars(axes[1], numbers(scores, "amount"), scores, "value", **style)
        axes[1].axhline(0, color="black", linewidth=0.8, linestyle=":")
        axes[1].set(xlabel="training questions", ylabel="score, A minus B", xscale="log")
        axes[1].xaxis.set_major_formatter(with_unit)


def _name(row: Row) -> str:
    return row["name"] or f"score, {row['amount']:,g} questions"


def _series(rows: Sequence[Row]) -> list[str]:
    shown = [row for row in rows if row["mark"] != TOLD]
    return [f"{_name(row)}: {format_interval(row['value'], row['lo'], row['hi'], 3)}" for row in shown]


def _tables(chart: Chart, reasons: Sequence[str]) -> Iterable[Block]:
    sides = tuple(f"{row['name']}: {row['about']}" for row in rows_where(chart.rows, mark=POINT))
    yield Bullets((*sides, *(row["told"] for row in rows_where(chart.rows, mark=TOLD))))
    shown = [
        (
            _name(row),
            format_interval(row["value"], row["lo"], row["hi"], 4),
            row["verdict"] or "",
        )
        for row in chart.rows
        if row["mark"] != TOLD
    ]
    yield from table(chart.title, ("", "Value", "Verdict"), shown)


KIND = ChartKind("law_comparison", 98, "laws", _collect, _draw, _series, never, _tables)
