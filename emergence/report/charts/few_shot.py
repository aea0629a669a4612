"""Test F1 against the number of training questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from emergence.findings.collect import Found
from emergence.findings.folder import ResultsFolder
from emergence.measures.emergence_score import CELLS
from emergence.report.charts.chart import ChartKind, Charts, Figure, Row
from emergence.report.charts.drawing import (
    CELL_COLOURS,
    LINES,
    MARKERS,
    error_bars,
    mean_and_band,
    panel_grid,
    shared_legend,
    with_unit,
)
from emergence.report.charts.rows import (
    CELL_NAMES,
    cell_row,
    cell_words,
    distinct,
    ends_in_words,
    interval_words,
    numbers,
    of_one_setting,
    rows_where,
)


def _collect(folder: ResultsFolder, charts: Charts, n_boot: int) -> None:
    rows: list[Row] = []
    clusters: set[str] = set()
    for label, members in folder.grouping.over_samples().items():
        items = [(cell, item) for s in members for cell in CELLS for item in s.cells.get(cell, ())]
        mine = [row for cell, item in items if (row := _few_shot_row(label, cell, item))]
        if len({row["samples"] for row in mine}) >= 2:
            rows += sorted(mine, key=lambda row: (CELLS.index(row["cell"]), row["samples"], row["seed"]))
            clusters |= {item.result.scores("test").cluster for _, item in items}
    caption = (
        f"Test token F1 against training questions. {interval_words(rows, clusters)} "
        "Where a number of questions was run with several seeds: their mean, and a band over their range."
    )
    reason = "it takes runs on at least two numbers of training questions (--finetune-samples)"
    charts.add(KIND, "Few-shot learning", caption, rows, reason)


def _few_shot_row(label: str, cell: str, item: Found) -> Row | None:
    estimate = item.result.estimate("test", "f1_tokens") if item.spec else None
    limit, samples = item.result.finetune_samples_limit, item.result.training_questions
    if estimate is None or samples is None:
        return None
    row = cell_row(label, cell, estimate, item.result.scores("test").n_clusters or estimate.n_clusters)
    return {**row, "samples": samples, "limited": limit is not None, "seed": item.result.seed}


def _draw(figure: Figure, rows: Sequence[Row]) -> None:
    labels = distinct(rows)
    panels = panel_grid(figure, labels)
    for ax, label in zip(panels, labels, strict=True):
        for i, cell in enumerate(CELLS):
            mine = rows_where(rows, setting=label, cell=cell)
            counts = sorted({row["samples"] for row in mine})
            points = [rows_where(mine, samples=n) for n in counts]
            if not mine:
                continue
            style: dict[str, Any] = {"color": CELL_COLOURS[cell], "marker": MARKERS[i], "linestyle": LINES[i]}
            mean_and_band(ax, mine, "samples", "f1", label=CELL_NAMES[cell], **style)
            single = [point[0] for point in points if len(point) == 1]
            error_bars(ax, numbers(single, "samples"), single, fmt="none", ecolor=CELL_COLOURS[cell], elinewidth=0.8)
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(with_unit)
        ax.set(xlabel="training questions", ylim=(0, 1))
    for ax in panels:
        if ax.get_subplotspec().is_first_col():
            ax.set_ylabel("token F1 (test)")
    shared_legend(figure, panels)


def _series(rows: Sequence[Row]) -> list[str]:
    return ends_in_words(rows, lambda row: f"{row['setting']}, {cell_words(row)}, F1 by questions", "samples", "f1")


KIND = ChartKind("few_shot", 60, "few-shot", _collect, _draw, _series, of_one_setting)
