"""How figures look and how they are written: style, shared parts of drawings, files and the data beside them.

matplotlib is imported in this module alone, and only when something is drawn. Output is deterministic, with fixed ids
in SVG and no dates. Each Okabe-Ito colour has a marker, line or hatch of its own, so that grey prints and colour-blind
readers lose nothing.
"""

from __future__ import annotations

import csv
import io
import math
import textwrap
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from emergence.errors import require_packages
from emergence.files import write_atomic
from emergence.measures.emergence_score import CELLS
from emergence.report.charts.chart import Chart, Figure, Row
from emergence.report.charts.rows import CELL_NAMES, SHUFFLED_CELLS, numbers, rows_where
from emergence.report.escaping import csv_cell, figure_text

#: ``matplotlib.axes.Axes``.
Axes: TypeAlias = Any

#: Widths of one column and of two columns of a paper, in inches.
NARROW, WIDE = 3.5, 7.2
#: Okabe and Ito (2008), without the yellow, which is too faint for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")
_BAR_CELLS = (*CELLS, *SHUFFLED_CELLS.values())
CELL_COLOURS = dict(zip(_BAR_CELLS, ("#0072B2", "#E69F00", "#56B4E9", "#CC79A7", "#009E73", "#D55E00"), strict=True))
CELL_HATCHES = dict(zip(_BAR_CELLS, ("", "////", "....", "xxxx", "\\\\\\\\", "++++"), strict=True))
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
_CAPTION_POINTS = 6.5


# Parts of drawings -------------------------------------------------------------------------------


def shared_legend(figure: Figure, axes: Iterable[Axes]) -> None:
    """Put one legend above all panels, with each label once, in as many columns as fit."""
    entries: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    last = [label for label in entries if label in ("no model", "words and positions") or label.endswith("untrained")]
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
    y, lo, hi = (numbers(rows, name) for name in (key, "lo", "hi"))
    below, above = np.nan_to_num(y - lo, nan=0.0, posinf=1e3), np.nan_to_num(hi - y, nan=0.0, posinf=1e3)
    ax.errorbar(x, y, yerr=np.maximum([below, above], 0.0), **style)


def cell_bars(ax: Axes, groups: Sequence[tuple[str, list[Row]]]) -> None:
    """Draw groups of bars with intervals, one bar for each cell."""
    present = [cell for cell in CELL_NAMES if any(rows_where(rows, cell=cell) for _, rows in groups)]
    width = 0.8 / len(present)
    for i, cell in enumerate(present):
        bars = [
            (g, rows_where(rows, cell=cell)[0]) for g, (_, rows) in enumerate(groups) if rows_where(rows, cell=cell)
        ]
        x = np.array([g for g, _ in bars]) + (i - (len(present) - 1) / 2) * width
        rows = [row for _, row in bars]
        style: dict[str, Any] = {
            "color": CELL_COLOURS[cell],
            "hatch": CELL_HATCHES[cell],
            "edgecolor": "black",
            "linewidth": 0.6,
        }
        ax.bar(x, numbers(rows, "f1"), width * 0.92, label=CELL_NAMES[cell], **style)
        error_bars(ax, x, rows, fmt="none", ecolor="black", elinewidth=0.8)
    ax.set_xticks(range(len(groups)), [name for name, _ in groups])
    ax.grid(axis="x", visible=False)
    ax.set_ylim(0, 1)


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


def render(chart: Chart, endings: Iterable[str] = FORMATS, *, caption: bool = True) -> dict[str, bytes]:
    """The figure in each format, laid out once for all. With ``caption`` its words stand below it."""
    require_packages("drawing figures", "matplotlib")
    import matplotlib

    files = {}
    with matplotlib.rc_context(_RC), warnings.catch_warnings():
        # A name in a script that the font lacks is shown as boxes; the rows beside the figure have it whole.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = draw(chart, caption=caption)
        figure.draw_without_rendering()
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


def draw(chart: Chart, *, caption: bool = True) -> Figure:
    """The figure of one chart."""
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    figure.set_figwidth(WIDE if chart.is_wide else NARROW)
    chart.kind.draw(figure, [_plain(row) for row in chart.rows])
    if caption:
        _write_caption(figure, chart)
    return figure


def _plain(row: Row) -> Row:
    return {name: figure_text(value) if isinstance(value, str) else value for name, value in row.items()}


def _write_caption(figure: Figure, chart: Chart) -> None:
    """Write title and caption below everything else, in space of their own."""
    width, height = figure.get_size_inches()
    per_line = int(width * 72 / (_CAPTION_POINTS * 0.54))
    title = textwrap.wrap(figure_text(chart.title), per_line)
    lines = [*title, *textwrap.wrap(figure_text(chart.caption), per_line)]
    line = _CAPTION_POINTS * 1.3 / 72
    space = line * len(lines) + 0.1
    total = height + space
    figure.set_size_inches(width, total)
    engine = figure.get_layout_engine()
    engine.set(rect=(0, space / total, 1, height / total))
    for i, words in enumerate(lines):
        weight = "bold" if i < len(title) else "normal"
        y = (space - 0.05 - (i + 0.5) * line) / total
        figure.text(0.05 / width, y, words, fontsize=_CAPTION_POINTS, va="center", weight=weight)
