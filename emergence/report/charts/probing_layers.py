"""Validation F1 of every probe family by layer, on pretrained and on random trunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from emergence.experiment.facts import HEADLINE, words_of_layout
from emergence.findings.comparable import ComparableSet
from emergence.findings.folder import ResultsFolder
from emergence.findings.scores import cell_estimate
from emergence.measures.emergence_score import FROZEN, FROZEN_CELLS, FULL, RANDOM_FROZEN
from emergence.report.charts.chart import ChartKind, Charts, Figure, Row
from emergence.report.charts.drawing import COLOURS, MARKERS, mean_and_band, panel_grid, reference_lines, shared_legend
from emergence.report.charts.rows import (
    NO_MODEL,
    WORDS_ALONE,
    cell_words,
    distinct,
    ends_in_words,
    of_one_setting,
    rows_where,
    seed_words,
    value_words,
)

#: In the column of probe families, what is a level line.
REFERENCE = "reference"


def _collect(folder: ResultsFolder, charts: Charts, n_boot: int) -> None:
    rows: list[Row] = []
    for set_scores in folder.settings:
        label, mine = set_scores.comparable.label, []
        for cell in FROZEN_CELLS:
            for item in set_scores.comparable.cells.get(cell, ()):
                where = {"setting": label, "cell": cell, "seed": item.result.seed}
                mine += [{**where, **asdict(fit)} for fit in item.result.fits]
        rows += mine
        if mine:
            rows += [{**dict.fromkeys(mine[0]), **line} for line in _references(set_scores.comparable)]
        if mine and not any(row["cell"] == RANDOM_FROZEN for row in mine):
            charts.skip(f"floor of probing_layers: {label}", "no random trunk was probed (--random-baseline)")
    full = "all weights trained, and " if any(FULL in s.comparable.cells_to_run for s in folder.settings) else ""
    fitted = [row for row in rows if row["family"] != REFERENCE]
    caption = (
        "Validation token F1 of probes on frozen states by layer (0: embeddings). Filled, solid: pretrained. "
        f"Open, dashed: random trunk. Level lines, on the same questions: {full}what needs no "
        f"language model.{seed_words(fitted, 'cell')}"
    )
    charts.add(KIND, "Probes by layer", caption, rows, "no frozen run here has its layers on record")


def _references(comparable: ComparableSet) -> Iterator[Row]:
    """Validation F1 of full finetuning, and of the best rule and the scorer, which need no language model."""
    full = comparable.cells.get(FULL, ())
    ceiling = cell_estimate(full, "validation", "f1_tokens", HEADLINE) if full else None
    probed = next(item.result for cell in FROZEN_CELLS for item in comparable.cells.get(cell, ()))
    scores, rule = probed.scores("validation"), probed.no_model_floor
    lines = {
        FULL: ceiling,
        NO_MODEL: scores.baseline(rule[0]) if rule else None,
        WORDS_ALONE: scores.baseline(words_of_layout(probed.layout)),
    }
    for cell, estimate in lines.items():
        if estimate:
            yield {"setting": comparable.label, "cell": cell, "family": REFERENCE, "validation_f1": estimate.point}


def _draw(figure: Figure, rows: Sequence[Row]) -> None:
    labels = distinct(rows)
    panels = panel_grid(figure, labels)
    families = [family for family in distinct(rows, "family") if family != REFERENCE]
    for ax, label in zip(panels, labels, strict=True):
        for i, family in enumerate(families):
            for cell in FROZEN_CELLS:
                mine = rows_where(rows, setting=label, family=family, cell=cell)
                if not mine:
                    continue
                solid = cell == FROZEN
                name = f"{family}, {'pretrained' if solid else 'random'}"
                style: dict[str, Any] = {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": "-" if solid else "--"}
                face = COLOURS[i] if solid else "white"
                mean_and_band(ax, mine, "layer", "validation_f1", markerfacecolor=face, label=name, **style)
        lines = rows_where(rows, setting=label, family=REFERENCE)
        reference_lines(ax, [{**row, "f1": row["validation_f1"]} for row in lines])
        ax.locator_params(axis="x", integer=True)
        ax.set(xlabel="layer (0: embeddings)")
    panels[0].set_ylim(0, None)
    for ax in panels:
        if ax.get_subplotspec().is_first_col():
            ax.set_ylabel("token F1 (validation)")
    shared_legend(figure, panels)


def _series(rows: Sequence[Row]) -> list[str]:
    def name(row: Row) -> str:
        return f"{row['setting']}, {row['family']}, {cell_words(row)}, F1 by layer"

    lines = [row for row in rows if row["family"] == REFERENCE]
    told = ends_in_words([row for row in rows if row not in lines], name, "layer", "validation_f1")
    return told + [f"{row['setting']}, {cell_words(row)}: {value_words(row['validation_f1'])}" for row in lines]


KIND = ChartKind("probing_layers", 50, "probes", _collect, _draw, _series, of_one_setting)
