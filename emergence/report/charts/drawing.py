"""How figures look and how they are written: style, shared parts of drawings, files and the data beside them.

matplotlib is imported in this module alone, and only when something is drawn. Output is deterministic, with fixed ids
in SVG and no dates. Each Okabe-Ito colour has a marker, line or hatch of its own, so that grey prints and colour-blind
readers lose nothing.
"""

from __future__ import annotations

import csv
import io
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from emergence.errors import require_packages
from emergence.files import write_atomic
from emergence.measures.emergence_score import CELLS, FULL
from emergence.report.charts.chart import Chart, Figure, Row
from emergence.report.charts.rows import (
    LINE_NAMES,
    NO_MODEL,
    TRUNK_NAMES,
    WORDS_ALONE,
    numbers,
    rows_where,
)
from emergence.report.escaping import csv_cell, figure_text

#: ``matplotlib.axes.Axes``.
Axes: TypeAlias = Any

#: Widths of one column and of two columns of a paper, in inches.
NARROW, WIDE = 3.5, 7.2
#: Okabe and Ito (2008), without the yellow, which is too faint for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")
CELL_COLOURS = dict(zip(CELLS, ("#0072B2", "#E69F00", "#56B4E9", "#CC79A7"), strict=True))
TRUNK_COLOURS = {"pretrained": "#0072B2", "shuffled text": "#009E73", "random": "#E69F00"}
TRUNK_HATCHES = {"pretrained": "", "shuffled text": "....", "random": "////"}
LINE_STYLES = {NO_MODEL: "--", WORDS_ALONE: ":", FULL: "-."}
FORMATS: dict[str, dict[str, Any]] = {
    "png": {"dpi": 220},
    "pdf": {"metadata": {"CreationDate": None}},
    "svg": {"metadata": {"Date": None}},
}
_RC: Any = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "errorbar.capsize": 2,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "svg.hashsalt": "emergence",
    "pdf.fonttype": 42,
}


# Parts of drawings -------------------------------------------------------------------------------


def shared_legend(figure: Figure, axes: Iterable[Axes]) -> None:
    """Put one legend above all panels, with each label once, in as many columns as fit."""
    entries: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    last = [label for label in entries if label in LINE_NAMES.values() or label.endswith("untrained")]
    entries |= {label: entries.pop(label) for label in last}
    if entries:
        width = figure.get_size_inches()[0]
        columns = max(1, int(width * 17 / (max(map(len, entries)) + 7)))
        rows = math.ceil(len(entries) / columns)
        columns = math.ceil(len(entries) / rows)
        figure.legend(list(entries.values()), list(entries), loc="outside upper center", ncols=columns)


def with_unit(value: float, _: int) -> str:
    """A number with its unit, such as ``500``, ``20k`` or ``1.5M``."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"


def error_bars(ax: Axes, x: Any, rows: Sequence[Row], key: str = "f1", **style: Any) -> None:
    """Draw points with their intervals. A whisker leaves the axes where its interval is unbounded."""
    ax.errorbar(x, numbers(rows, key), yerr=_whiskers(rows, key), **style)


def error_bars_across(ax: Axes, y: Any, rows: Sequence[Row], key: str = "f1", **style: Any) -> None:
    """:func:`error_bars` with values along the x axis."""
    ax.errorbar(numbers(rows, key), y, xerr=_whiskers(rows, key), **style)


def _whiskers(rows: Sequence[Row], key: str) -> Any:
    """(2, N) how far the intervals reach below and above the values."""
    middle, lo, hi = (numbers(rows, name) for name in (key, "lo", "hi"))
    below, above = np.nan_to_num(middle - lo, nan=0.0, posinf=1e3), np.nan_to_num(hi - middle, nan=0.0, posinf=1e3)
    return np.maximum([below, above], 0.0)


def mean_and_band(ax: Axes, rows: Sequence[Row], x: str, y: str, *, band: bool = True, **style: Any) -> None:
    """Draw the mean over seeds against ``x``, and the range of the seeds as a band where there are several."""
    places = sorted({row[x] for row in rows if row[y] is not None})
    values = [numbers(rows_where(rows, **{x: place}), y) for place in places]
    (line,) = ax.plot(places, [float(np.nanmean(v)) for v in values], **style)
    if band and max(map(len, values), default=0) > 1:
        ends = [float(np.nanmin(v)) for v in values], [float(np.nanmax(v)) for v in values]
        ax.fill_between(places, *ends, color=line.get_color(), alpha=0.2, linewidth=0)


def trunk_bars(ax: Axes, groups: Mapping[str, Sequence[Row]]) -> None:
    """Draw groups of bars with intervals. In each group those of the trunks stand side by side."""
    trunks = [
        t for t in TRUNK_COLOURS if any(TRUNK_NAMES[row["cell"]] == t for rows in groups.values() for row in rows)
    ]
    width = 0.8 / len(trunks)
    for i, trunk in enumerate(trunks):
        bars = [(g, row) for g, rows in enumerate(groups.values()) for row in rows if TRUNK_NAMES[row["cell"]] == trunk]
        x = np.array([g for g, _ in bars]) + (i - (len(trunks) - 1) / 2) * width
        rows = [row for _, row in bars]
        colour, hatch = TRUNK_COLOURS[trunk], TRUNK_HATCHES[trunk]
        style: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "black", "linewidth": 0.6}
        ax.bar(x, numbers(rows, "f1"), width * 0.92, label=trunk, **style)
        error_bars(ax, x, rows, fmt="none", ecolor="black", elinewidth=0.8)
    ax.set_xticks(range(len(groups)), list(groups))
    ax.grid(axis="x", visible=False)
    ax.set_ylim(0, 1)


def reference_lines(ax: Axes, rows: Sequence[Row]) -> None:
    """Draw a level line for everything in ``rows`` that is one."""
    for cell, words in (*LINE_NAMES.items(), (FULL, "all weights trained")):
        for row in rows_where(rows, cell=cell)[:1]:
            ax.axhline(row["f1"], color="black", linestyle=LINE_STYLES[cell], linewidth=0.9, label=words)


def panel_grid(figure: Figure, labels: Sequence[str], height: float = 2.4) -> list[Axes]:
    """One panel for each setting, three in a row, with a common y axis."""
    columns = 2 if len(labels) == 4 else min(3, len(labels))
    rows = math.ceil(len(labels) / columns)
    figure.set_figheight(height * rows + 0.5)
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    panels = list(axes)
    for ax in panels[len(labels) :]:
        ax.set_visible(False)
    for ax, label in zip(panels, labels, strict=False):
        ax.set_title(label, loc="left")
    return panels[: len(labels)]


# Files -------------------------------------------------------------------------------------------


def save(chart: Chart, folder: Path) -> None:
    """Write ``<name>.png``, ``.pdf``, ``.svg`` and ``.csv``."""
    for ending, content in render(chart).items():
        write_atomic(folder / f"{chart.name}.{ending}", content)
    write_atomic(folder / f"{chart.name}.csv", table_text(chart.rows))


def render(chart: Chart, endings: Iterable[str] = FORMATS) -> dict[str, bytes]:
    """The figure in each format, without its caption: papers and the report set that in their own type."""
    require_packages("drawing figures", "matplotlib")
    import matplotlib

    files = {}
    with matplotlib.rc_context(_RC), warnings.catch_warnings():
        # A name in a script that the font lacks is shown as boxes; the rows beside the figure have it whole.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = draw(chart)
        figure.get_layout_engine().execute(figure)  # once, and not again for every format
        figure.set_layout_engine("none")
        for ending in endings:
            buffer = io.BytesIO()
            figure.savefig(buffer, format=ending, **FORMATS[ending])
            files[ending] = buffer.getvalue()
    return files


def table_text(rows: Sequence[Row]) -> str:
    """The rows as CSV. Numbers have all their digits, and missing ones are empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        values = (row.get(name) for name in names)
        writer.writerow(["" if v is None or (isinstance(v, float) and math.isnan(v)) else csv_cell(v) for v in values])
    return buffer.getvalue()


def draw(chart: Chart) -> Figure:
    """The figure of one chart."""
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    figure.set_figwidth(WIDE if chart.is_wide else NARROW)
    chart.kind.draw(figure, [_plain(row) for row in chart.rows])
    for ax in figure.axes:
        low, high = sorted(ax.get_ylim())
        if ax.get_ylabel() and ax.get_yscale() == "linear" and not low <= 0 <= high:
            ax.set_ylabel(f"{ax.get_ylabel()}\n(not from 0)")
    return figure


def _plain(row: Row) -> Row:
    return {name: figure_text(value) if isinstance(value, str) else value for name, value in row.items()}
