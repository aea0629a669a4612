"""``emergence report`` writes one HTML file that opens anywhere, and its Markdown twin beside the figures.

The HTML file holds its figures as data URIs and loads nothing from outside. Jinja escapes whatever comes from data.
"""

from __future__ import annotations

import base64
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emergence.errors import DataError, require_packages
from emergence.experiment.store import NO_RESULTS
from emergence.files import make_folder, write_atomic
from emergence.findings.folder import read_folder
from emergence.findings.table import table_of
from emergence.measures.bootstrap import N_BOOT
from emergence.measures.clustering import ClusterKind
from emergence.report.blocks import Report
from emergence.report.charts.chart import all_charts
from emergence.report.charts.drawing import render, table_text
from emergence.report.escaping import markdown_escape
from emergence.report.output_files import refuse_output_folder
from emergence.report.sections import report_of
from emergence.wording import in_line, visible

HTML_FILE, MARKDOWN_FILE = "report.html", "report.md"
#: Where the report lies within the results folder.
DEFAULT_FOLDER = "report"


@dataclass(frozen=True)
class WrittenReport:
    """What :func:`write_report` wrote: both files, the names of the figures, and the verdict of each set."""

    html: Path
    markdown: Path
    figures: tuple[str, ...]
    short: tuple[tuple[str, str], ...]

    def text(self) -> str:
        """A line for each verdict and each file."""
        lines = [f"{label}: {verdict}" for label, verdict in self.short]
        lines += [f"report    {self.html}", f"markdown  {self.markdown}, {len(self.figures)} figures"]
        return "\n".join(map(in_line, lines))


def write_report(
    results_dir: Path, out_dir: Path | None = None, *, n_boot: int = N_BOOT, cluster: ClusterKind = "sentence"
) -> WrittenReport:
    """Write ``report.html``, ``report.md`` and its figures (SVG, with their data as CSV).

    Args:
        results_dir: Run directories, downloaded copies and results files.
        out_dir: Where the report goes, by default ``report`` in ``results_dir``.
        n_boot: Number of bootstrap resamples. cluster: What the intervals of the 2x2 and the table resample.

    Raises:
        UsageError: A package of the ``report`` extra is missing.
        DataError: There is no such folder, or nothing in it that a report could tell: no finished result, law or study.
        RunDirectoryError: The report cannot be written.
    """
    require_packages("writing a report", "jinja2", "matplotlib")
    refuse_output_folder(out_dir or results_dir / DEFAULT_FOLDER)
    folder = read_folder(results_dir, n_boot=n_boot, cluster=cluster)
    charts = all_charts(folder, n_boot=n_boot)
    if not folder.scored and not charts.charts:
        reasons = "; ".join(f"{item.name}: {item.reason}" for item in folder.skipped[:5])
        raise DataError(f"no finished results here: {reasons or NO_RESULTS}", results_dir)
    report = report_of(folder, table_of(folder.collection, folder.grouping, folder.scored), charts)
    out_dir = make_folder(out_dir or results_dir / DEFAULT_FOLDER)
    drawings = {}
    for chart in charts.charts:
        drawings[chart.name] = render(chart, ("svg",))["svg"]
        write_atomic(out_dir / f"{chart.name}.svg", drawings[chart.name])
        write_atomic(out_dir / f"{chart.name}.csv", table_text(chart.rows))
    write_atomic(out_dir / HTML_FILE, to_html(report, drawings))
    write_atomic(out_dir / MARKDOWN_FILE, to_markdown(report))
    return WrittenReport(out_dir / HTML_FILE, out_dir / MARKDOWN_FILE, tuple(drawings), report.short)


def to_html(report: Report, drawings: Mapping[str, bytes]) -> str:
    """One file with everything in it.

    Args:
        report: The content. drawings: Name of each picture -> its SVG.
    """
    sources = {name: "data:image/svg+xml;base64," + base64.b64encode(svg).decode() for name, svg in drawings.items()}
    return _render("report.html.jinja", escape=True, report=report, sources=sources)


def to_markdown(report: Report) -> str:
    """GitHub's Markdown, with the pictures as files beside it."""
    return _render("report.md.jinja", escape=False, report=report).rstrip("\n") + "\n"


#: A number with its interval, or an interval alone.
_INTERVAL = re.compile(r"(?:[+-]?\d[\d.,]* )?\[[^\[\]\s]+, [^\[\]\s]+\]")


#: A flag of a command.
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


def _unbroken(text: str) -> Any:
    """Escaped text, as ``markupsafe.Markup``, in which no line breaks within a number and its interval, or a flag."""
    from markupsafe import Markup, escape

    numbered = _INTERVAL.sub(r'<span class="unbroken">\g<0></span>', str(escape(visible(text))))
    return Markup(_FLAG.sub(r'<code class="unbroken">\g<0></code>', numbered))


def _render(template: str, *, escape: bool, **content: Any) -> str:
    return _environment(escape).get_template(template).render(**content)


@functools.cache
def _environment(escape: bool) -> Any:
    """What compiles the templates, each once."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("emergence.report"),
        autoescape=escape,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["md"] = markdown_escape
    environment.filters["unbroken"] = _unbroken
    return environment
