"""What a report says, for tests that look at no picture."""

from __future__ import annotations

from pathlib import Path

from emergence.findings.folder import read_folder
from emergence.findings.table import table_of
from emergence.report.charts.chart import all_charts
from emergence.report.sections import report_of
from emergence.report.write import to_markdown


def told(root: Path, *, n_boot: int) -> str:
    """The report's Markdown; its figures are collected and not drawn."""
    folder = read_folder(root, n_boot=n_boot)
    charts = all_charts(folder, n_boot=n_boot)
    return to_markdown(report_of(folder, table_of(folder.collection, folder.grouping, folder.scored), charts))
