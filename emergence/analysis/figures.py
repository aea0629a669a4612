"""Drawing: every chart as PNG, PDF and SVG with its data as CSV. The one module that knows matplotlib.

What is drawn is in ``figure_data`` and ``figure_cka``, how in ``figure_panels``. Output is deterministic: no dates,
fixed ids in SVG.
"""

from __future__ import annotations

import csv
import io
import math
import textwrap
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emergence.analysis.escaping import csv_cell, figure_text, markdown_escape
from emergence.analysis.figure_cka import add_cka_charts
from emergence.analysis.figure_curves import CURVE_DRAWINGS, add_curve_charts
from emergence.analysis.figure_data import Chart, Charts, Row, prepare_charts
from emergence.analysis.figure_panels import DRAWINGS
from emergence.analysis.figure_runs import ResultsFolder, read_folder
from emergence.errors import UsageError
from emergence.files import make_folder, write_atomic
from emergence.measures.bootstrap import N_BOOT
from emergence.wording import counted

try:
    import matplotlib
    from matplotlib.figure import Figure
except ModuleNotFoundError as missing:
    raise UsageError(f"drawing figures needs {missing.name}: pip install 'emergence[report]'") from None

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


@dataclass(frozen=True)
class FigureReport:
    """What :func:`make_figures` did.

    Attributes:
        out_dir: Where the files are.
        drawn: Figure name to its title.
        skipped: Name of a figure or run, and why it is not drawn.
    """

    out_dir: Path
    drawn: dict[str, str]
    skipped: tuple[tuple[str, str], ...]

    def text(self) -> str:
        """A line each."""
        lines = [f"drawn    {name}: {title}" for name, title in self.drawn.items()]
        lines += [f"skipped  {name}: {reason}" for name, reason in self.skipped]
        count = counted(len(self.drawn), "figure")
        return "\n".join(
            [*lines, f"{count} in {self.out_dir}, as {', '.join(FORMATS)} and csv; captions.md has the words"]
        )


def make_figures(results_dir: Path, out_dir: Path | None = None, *, n_boot: int = N_BOOT) -> FigureReport:
    """Every figure that a folder of runs and downloaded results allows.

    Args:
        results_dir: Run directories, renamed or copied ones among them, and results files; or one run.
        out_dir: Where figures go; by default ``figures`` in ``results_dir``.
        n_boot: Bootstrap resamples.

    Raises:
        DataError: No such folder.
        RunDirectoryError: The figures cannot be written.
    """
    folder = read_folder(results_dir, n_boot=n_boot)
    found = all_charts(folder, n_boot=n_boot)
    out = make_folder(out_dir or results_dir / "figures")
    for chart in found.charts:
        save(chart, out)
    words = [
        f"## {chart.name}\n\n**{markdown_escape(chart.title)}.** {markdown_escape(chart.caption)}\n"
        for chart in found.charts
    ]
    write_atomic(out / "captions.md", "\n".join(["# Captions\n", *words]))
    return FigureReport(out, {chart.name: chart.title for chart in found.charts}, tuple(found.skipped))


def all_charts(folder: ResultsFolder, *, n_boot: int = N_BOOT) -> Charts:
    """Every chart of a folder, those of snapshot probes, data ablation and temporal CKA included."""
    found = prepare_charts(folder, n_boot=n_boot)
    add_curve_charts(folder, found, n_boot=n_boot)
    add_cka_charts(folder, found)
    return found


def save(chart: Chart, folder: Path) -> None:
    """Write ``<name>.png``, ``.pdf``, ``.svg`` and ``.csv``."""
    for ending, content in render(chart).items():
        write_atomic(folder / f"{chart.name}.{ending}", content)
    write_atomic(folder / f"{chart.name}.csv", table_text(chart.rows))


def render(chart: Chart, endings: Iterable[str] = FORMATS, *, caption: bool = True) -> dict[str, bytes]:
    """The figure in each format, laid out once for all of them; ``caption`` puts the words below it."""
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
    """CSV of the rows: numbers with all their digits, empty where there is none."""
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
    figure = Figure(layout="constrained")
    {**DRAWINGS, **CURVE_DRAWINGS}[chart.kind](figure, [_plain(row) for row in chart.rows])
    if caption:
        _write_caption(figure, chart)
    return figure


def _plain(row: Row) -> Row:
    return {name: figure_text(value) if isinstance(value, str) else value for name, value in row.items()}


def _write_caption(figure: Figure, chart: Chart) -> None:
    """Title and caption below everything else, in space of their own."""
    width, height = figure.get_size_inches()
    per_line = int(width * 72 / (_CAPTION_POINTS * 0.54))
    title = textwrap.wrap(figure_text(chart.title), per_line)
    lines = [*title, *textwrap.wrap(figure_text(chart.caption), per_line)]
    line = _CAPTION_POINTS * 1.3 / 72
    space = line * len(lines) + 0.1
    total = height + space
    figure.set_size_inches(width, total)
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(rect=(0, space / total, 1, height / total))  # type: ignore[call-arg]
    for i, words in enumerate(lines):
        weight = "bold" if i < len(title) else "normal"
        y = (space - 0.05 - (i + 0.5) * line) / total
        figure.text(0.05 / width, y, words, fontsize=_CAPTION_POINTS, va="center", weight=weight)
