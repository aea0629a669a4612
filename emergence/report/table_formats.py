"""The results table as Markdown, LaTeX, CSV and JSON, and fitted to a terminal.

Markdown, LaTeX and a terminal show the guide's columns, and say below them what a reader should know. CSV has one
number in each column and no prose. JSON has everything.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Literal

from emergence.findings.table import ResultsTable, Row, score_text
from emergence.measures.bootstrap import Estimate
from emergence.measures.emergence_score import EmergenceScore
from emergence.report.escaping import csv_cell, latex_escape, markdown_escape
from emergence.report.fitted import fitted_table, fitted_text
from emergence.wording import duration, format_estimate, visible

TableFormat = Literal["markdown", "latex", "csv", "json"]
#: Columns of the printed table that hold words.
_WORDS = 3
#: Columns that a narrow window does without, the first one first.
_SPARE = ("EM (validation)", "F1 (validation)", "From-Scratch Score", "Time", "Trainable", "EM (test)")

_ESTIMATES = ("test_f1", "test_em", "validation_f1", "validation_em", "gap",
              "test_argument_selection", "added_f1", "added_argument_selection")  # fmt: skip
_SCORES = ("score", "score_scratch")


def format_table(table: ResultsTable, style: TableFormat) -> str:
    """The table as text that ends in a newline."""
    styles: dict[str, Callable[[ResultsTable], str]] = {
        "markdown": to_markdown,
        "latex": to_latex,
        "csv": to_csv,
        "json": to_json,
    }
    return styles[style](table)


def printed(table: ResultsTable) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of the printed table."""
    columns = _columns(table)
    return [title for title, _ in columns], [[cell(row) for _, cell in columns] for row in table.rows]


def _columns(table: ResultsTable) -> list[tuple[str, Callable[[Row], str]]]:
    """Titles and cells of the printed table. Test scores and the guide's floor are left out where no row has any."""
    rows = table.rows
    columns: list[tuple[str, Callable[[Row], str]]] = [
        ("Model", lambda r: r.model),
        ("Pretrain", lambda r: r.pretrain),
        ("Mode", lambda r: f"{r.mode}, {r.probe} probe" if r.is_extra_probe else r.mode),
    ]
    if any(row.test_f1 for row in rows):
        columns += [
            ("F1 (test)", lambda r: _estimate(r, r.test_f1)),
            ("EM (test)", lambda r: _estimate(r, r.test_em)),
        ]
    columns += [
        ("F1 (validation)", lambda r: _estimate(r, r.validation_f1, interval=False)),
        ("EM (validation)", lambda r: _estimate(r, r.validation_em, interval=False)),
        ("Emergence Score", lambda r: score_text(r.score) or "-"),
    ]
    if any(row.score_scratch for row in rows):
        columns.append(("From-Scratch Score", lambda r: score_text(r.score_scratch) or "-"))
    columns += [
        ("Trainable", lambda r: "-" if r.trainable is None else f"{r.trainable:,}"),
        ("Time", lambda r: "-" if r.seconds is None else duration(r.seconds)),
        ("Seeds", lambda r: "-" if r.n_seeds is None else str(r.n_seeds)),
    ]
    return columns


def _estimate(row: Row, estimate: Estimate | None, *, interval: bool = True) -> str:
    if not row.was_run:
        return "damaged" if row.is_damaged else "not run"
    return format_estimate(estimate) if interval or estimate is None else f"{estimate.point:.2f}"


def legend(table: ResultsTable) -> list[str]:
    """Sentences that explain the columns."""
    lines = []
    levels = sorted({row.test_f1.level for row in table.rows if row.test_f1})
    if levels:
        shown = " and ".join(f"{level:.0%}" for level in levels)
        by = {unit for scores in table.sets if scores.headline.split == "test" for unit in scores.resampled}
        units = " or ".join(f"{unit}s" for unit in sorted(by, reverse=True))
        lines.append(f"Brackets are {shown} intervals ({units}, and seeds where there are several, resampled).")
    if any(row.n_seeds == 1 for row in table.rows):
        lines.append("With one seed they speak of the test questions, not of training again.")
    if table.has_validation_only:
        lines.append("Rows without test scores are of the older format, whose scores are of the validation questions.")
    lines.append(
        "Emergence Score = (frozen - floor) / (full - floor), not clipped; floor: a random trunk probed frozen "
        "(mode random frozen)."
    )
    if any(row.score_scratch for row in table.rows):
        lines.append(
            "From-Scratch Score: the same with another floor, a random trunk trained whole (mode random, the guide's "
            "baseline)."
        )
    if any(score and not score.is_meaningful for row in table.rows for score in (row.score, row.score_scratch)):
        lines.append(
            "Not meaningful: full finetuning exceeds the floor by too little for a share of it to say anything."
        )
    if any(row.seconds is not None for row in table.rows):
        lines.append("Time: of training and probing, by the clock; without start, reading data and scoring.")
    return lines


def to_markdown(table: ResultsTable) -> str:
    """A GitHub table, its legend and notes."""
    head, rows = printed(table)
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(map(markdown_escape, row)) + " |" for row in rows]
    lines += ["", " ".join(legend(table)), ""]
    lines += [f"- {markdown_escape(note)}" for note in table.notes()]
    return "\n".join(lines).rstrip("\n") + "\n"


def to_terminal(table: ResultsTable, width: int | None = None) -> str:
    """The same fitted to a window of ``width`` columns, by default the terminal's."""
    head, rows = printed(table)
    parts = [
        fitted_table(head, rows, left=_WORDS, spare=_SPARE, width=width),
        fitted_text([" ".join(legend(table))], width=width),
        fitted_text(table.notes(), bullet="- ", width=width),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def to_latex(table: ResultsTable) -> str:
    r"""A ``tabular`` for ``\usepackage{booktabs}``, with the notes as comments."""
    columns = _columns(table)
    lines = ["% needs \\usepackage{booktabs}", "\\begin{tabular}{" + "l" * len(columns) + "}", "\\toprule"]
    lines += [" & ".join(latex_escape(title) for title, _ in columns) + " \\\\", "\\midrule"]
    before = None
    for row in table.rows:
        group = (row.model, row.layout, row.finetune_samples, row.config_name)
        lines += ["\\midrule"] if before not in (None, group) else []
        before = group
        lines.append(" & ".join(latex_escape(cell(row)) for _, cell in columns) + " \\\\")
    lines += ["\\bottomrule", "\\end{tabular}"]
    lines += [f"% {' '.join(visible(note).split())}" for note in [*legend(table), *table.notes()]]
    return "\n".join(lines) + "\n"


def to_csv(table: ResultsTable) -> str:
    """CSV with one number in each column, which is empty where there is none."""
    text = io.StringIO()
    first = (
        "set_label",
        "model",
        "pretrain",
        "mode",
        "probe",
        "config_name",
        "layout",
        "finetune_samples",
        "was_run",
        "n_seeds",
    )
    last = ("score_split", "score_basis", "trainable", "seconds")
    ends = [f"{name}_{end}" for name in (*_ESTIMATES, *_SCORES) for end in ("point", "lo", "hi")]
    flags = [f"{name}_flags" for name in _SCORES]
    writer = csv.DictWriter(text, [*first, *ends, *flags, *last, "runs"], lineterminator="\n")
    writer.writeheader()
    for row in table.rows:
        values = {name: getattr(row, name) for name in (*first, *last)}
        for name in (*_ESTIMATES, *_SCORES):
            values |= _csv_numbers(name, getattr(row, name))
        cells = {**values, "runs": " ".join(row.runs)}
        writer.writerow({name: csv_cell(value) for name, value in cells.items()})
    return text.getvalue()


def _csv_numbers(name: str, value: Estimate | EmergenceScore | None) -> dict[str, object]:
    """Column -> point or end of an interval. Infinite ends are ``inf``, and missing numbers are empty."""
    estimate = value.score if isinstance(value, EmergenceScore) else value
    if estimate is None:
        return {}
    numbers = {f"{name}_{end}": getattr(estimate, end) for end in ("point", "lo", "hi")}
    shown: dict[str, object] = {key: "" if number != number else number for key, number in numbers.items()}
    return shown | ({f"{name}_flags": " ".join(value.flags)} if isinstance(value, EmergenceScore) else {})


def to_json(table: ResultsTable) -> str:
    """The whole table as strict JSON."""
    return json.dumps(table.to_dict(), indent=2, allow_nan=False) + "\n"
