"""Differences between pretrainings on text with and without questions. ``word_order`` is drawn and told alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from emergence.findings.ablation import MIXED, QUESTIONS, Plan, ablate
from emergence.findings.comparable import MODES
from emergence.findings.folder import ResultsFolder
from emergence.measures.emergence_score import FROZEN, FULL
from emergence.report.blocks import Block, Bullets, table
from emergence.report.charts.chart import Chart, ChartKind, Charts, Figure, Row
from emergence.report.charts.drawing import CELL_COLOURS, MARKERS, error_bars, shared_legend
from emergence.report.charts.rows import CELL_NAMES, cell_words, distinct, rows_where, value_words
from emergence.wording import format_interval


def _collect(folder: ResultsFolder, charts: Charts, n_boot: int) -> None:
    caption = (
        "Token F1 after one pretraining minus after another on the same number of tokens, paired by test question and "
        "seed. Bars: 95% intervals over sentences and seeds. wiki+nq minus wiki, above zero: questions in the text "
        "helped, or the short documents they come in; wiki+control has the short documents, cut from plain text, so "
        "wiki+nq minus wiki+control is the questions' own part."
    )
    rows = differences(folder, charts, KIND.name, QUESTIONS, MIXED, n_boot)
    charts.add(KIND, "Questions in the pretraining text", caption, rows)


def differences(folder: ResultsFolder, charts: Charts, name: str, plan: Plan, needs: str, n_boot: int) -> list[Row]:
    """A row for each difference, whose ``panel`` says where it is drawn. ``needs`` names the data that it takes."""
    ablation = ablate(folder.grouping, plan, n_boot=n_boot)
    if not ablation.cells and not ablation.refused:
        charts.skip(name, f"no finished run here was pretrained on {needs}")
    for reason in (*ablation.refused, *ablation.missing):
        charts.skip(name, reason)
    return [
        {
            "setting": cell.model,
            "panel": cell.contrast if plan is QUESTIONS else cell.by,
            "contrast": cell.contrast,
            "measure": cell.measure,
            "score": cell.score,
            "cell": cell.cell,
            "difference": cell.comparison.difference.point,
            "lo": cell.comparison.difference.lo,
            "hi": cell.comparison.difference.hi,
            "p": cell.comparison.p_sign_flip,
            "first": cell.mixed,
            "second": cell.base,
            "tokens": cell.tokens,
            "n_seeds": len(cell.seeds),
        }
        for cell in ablation.cells
    ]


def _draw(figure: Figure, rows: Sequence[Row]) -> None:
    settings, names = distinct(rows), distinct(rows, "panel")
    n_rows = math.ceil(len(names) / 3)
    figure.set_figheight(2.8 * n_rows)
    panels = figure.subplots(n_rows, math.ceil(len(names) / n_rows), sharey=True, squeeze=False)
    for ax in panels.flat[len(names) :]:
        ax.set_visible(False)
    for ax, name in zip(panels.flat, names, strict=False):
        for i, cell in enumerate((FULL, FROZEN)):
            mine = rows_where(rows, cell=cell, panel=name)
            x = [settings.index(row["setting"]) + 0.16 * (i - 0.5) for row in mine]
            style: dict[str, Any] = {"color": CELL_COLOURS[cell], "marker": MARKERS[i], "linestyle": "none"}
            if mine:
                error_bars(ax, x, mine, "difference", label=CELL_NAMES[cell], **style)
        ax.axhline(0, color="black", linewidth=0.7)
        ax.set_xticks(range(len(settings)), [setting.replace(" (", "\n(") for setting in settings])
        ax.set_xlim(-0.5, len(settings) - 0.5)
        ax.set_title(name.replace(" minus ", "\n\N{MINUS SIGN} ").replace(", ", ",\n"))
    is_f1 = all(row["score"] == "f1_tokens" for row in rows)
    for ax in panels[:, 0]:
        ax.set_ylabel("difference in token F1 (test)" if is_f1 else "difference (test)")
    shared_legend(figure, panels.flat)


def _is_narrow(rows: Sequence[Row]) -> bool:
    return len(distinct(rows)) * len(distinct(rows, "panel")) <= 3


def _series(rows: Sequence[Row]) -> list[str]:
    return [f"{row['setting']}, {cell_words(row)}, {_compared(row)}: {value_words(row['difference'])}" for row in rows]


def _compared(row: Row) -> str:
    """What is compared, such as ``wiki+nq minus wiki``, and by what if the contrast alone does not tell."""
    return str(row["contrast"] if row["panel"] == row["contrast"] else f"{row['contrast']}, {row['panel']}")


def _tables(chart: Chart, reasons: Sequence[str]) -> Iterable[Block]:
    caption = "Token F1 after the first pretraining minus after the second"
    return in_numbers(chart, reasons, caption, "Pretraining data", "Difference in F1")


def in_numbers(chart: Chart, reasons: Sequence[str], caption: str, panel: str, difference: str) -> Iterable[Block]:
    """The differences as a table, and what they leave open. ``panel`` and ``difference`` are titles of columns."""
    head = (panel, "Model", "Mode", difference, "First", "Second", "p, these seeds", "Seeds", "Tokens")
    yield from table(
        caption,
        head,
        [
            (
                row["panel"],
                row["setting"],
                MODES[row["cell"]],
                format_interval(row["difference"], row["lo"], row["hi"], 3),
                *(f"{row[name]:.3f}" for name in ("first", "second")),
                f"{row['p']:.2g}",
                row["n_seeds"],
                f"{row['tokens']:,}",
            )
            for row in chart.rows
        ],
    )
    if reasons:
        yield Bullets(tuple(f"Left open: {reason}." for reason in reasons))


KIND = ChartKind("data_ablation", 100, "ablation", _collect, _draw, _series, _is_narrow, _tables)
