"""``emergence figures`` writes every chart as PNG, PDF and SVG, its data as CSV, and the captions of all charts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from emergence.errors import require_packages
from emergence.files import make_folder, write_atomic
from emergence.findings.folder import read_folder
from emergence.measures.bootstrap import N_BOOT
from emergence.report.charts.chart import all_charts
from emergence.report.charts.drawing import FORMATS, save
from emergence.report.escaping import markdown_escape
from emergence.report.output_files import refuse_output_folder
from emergence.training.recording import NoProgress, Progress, tracked
from emergence.wording import counted, in_line


@dataclass(frozen=True)
class FigureReport:
    """What :func:`make_figures` did.

    Attributes:
        out_dir: Where the files are.
        drawn: Name of a figure -> its title.
        skipped: Pairs of a figure's or run's name and why it is not drawn.
        notes: Pairs of a set's label and how far its intervals can be trusted.
    """

    out_dir: Path
    drawn: dict[str, str]
    skipped: tuple[tuple[str, str], ...]
    notes: tuple[tuple[str, str], ...] = ()

    def text(self) -> str:
        """The report on a terminal, one line for each figure, skipped one and note."""
        lines = [f"drawn    {name}: {title}" for name, title in self.drawn.items()]
        lines += [f"skipped  {name}: {reason}" for name, reason in self.skipped]
        lines += [f"note     {name}: {note}" for name, note in self.notes]
        count = counted(len(self.drawn), "figure")
        lines.append(f"{count} in {self.out_dir}, as {', '.join(FORMATS)} and csv; captions.md has the words")
        return "\n".join(map(in_line, lines))


def make_figures(
    results_dir: Path, out_dir: Path | None = None, *, n_boot: int = N_BOOT, progress: Progress = NoProgress()
) -> FigureReport:
    """Every figure that a folder of runs and downloaded results allows.

    Args:
        results_dir: A folder of results files and run directories, even renamed or copied ones; or one run.
        out_dir: Where figures go, by default ``figures`` in ``results_dir``.
        n_boot: Number of bootstrap resamples.
        progress: Shows how many figures are drawn.

    Raises:
        UsageError: matplotlib is not installed.
        DataError: There is no such folder, or no result or run in it.
        RunDirectoryError: The figures cannot be written.
    """
    require_packages("drawing figures", "matplotlib")
    refuse_output_folder(out_dir or results_dir / "figures")
    folder = read_folder(results_dir, n_boot=n_boot)
    folder.refuse_if_empty()
    charts = all_charts(folder, n_boot=n_boot)
    out_dir = make_folder(out_dir or results_dir / "figures")
    for chart in tracked(progress, charts.charts, "figures", "drawing"):
        save(chart, out_dir)
    words = [
        f"## {chart.name}\n\n**{markdown_escape(chart.title)}.** {markdown_escape(chart.caption)}\n"
        for chart in charts.charts
    ]
    write_atomic(out_dir / "captions.md", "\n".join(["# Captions\n", *words]))
    return FigureReport(
        out_dir, {chart.name: chart.title for chart in charts.charts}, tuple(charts.skipped), tuple(charts.notes)
    )
