"""Validation F1 of every probe family by layer, on pretrained and on random trunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from emergence.findings.folder import ResultsFolder
from emergence.measures.emergence_score import FROZEN, FROZEN_CELLS, RANDOM_FROZEN
from emergence.report.charts.chart import ChartKind, Charts, Figure, Row
from emergence.report.charts.drawing import COLOURS, MARKERS, panel_grid, shared_legend
from emergence.report.charts.rows import cell_words, distinct, ends_in_words, numbers, of_one_setting, rows_where


def _collect(folder: ResultsFolder, charts: Charts, n_boot: int) -> None:
    rows: list[Row] = []
    for set_scores in folder.settings:
        label, mine = set_scores.comparable.label, []
        for cell in FROZEN_CELLS:
            for item in set_scores.comparable.cells.get(cell, ()):
                where = {"setting": label, "cell": cell, "seed": item.result.seed}
                mine += [{**where, **asdict(fit)} for fit in item.result.fits]
        rows += mine
        if mine and not any(row["cell"] == RANDOM_FROZEN for row in mine):
            charts.skip(f"floor of probing_layers: {label}", "no random trunk was probed (--random-baseline)")
    caption = (
        "Validation token F1 of probes on frozen states by layer (0: embeddings). Filled, solid: pretrained. "
        "Open, dashed: random trunk. Bands: range over seeds."
    )
    charts.add(KIND, "Probes by layer", caption, rows, "no frozen run here has its layers on record")


def _draw(figure: Figure, rows: Sequence[Row]) -> None:
    labels = distinct(rows)
    panels = panel_grid(figure, labels)
    families = distinct(rows, "family")
    for ax, label in zip(panels, labels, strict=True):
        for i, family in enumerate(families):
            for cell in FROZEN_CELLS:
                mine = rows_where(rows, setting=label, family=family, cell=cell)
                layers = sorted({row["layer"] for row in mine})
                scores = [numbers(rows_where(mine, layer=layer), "validation_f1") for layer in layers]
                if not scores:
                    continue
                solid = cell == FROZEN
                name = f"{family}, {'pretrained' if solid else 'random'}"
                style: dict[str, Any] = {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": "-" if solid else "--"}
                face = COLOURS[i] if solid else "white"
                ax.plot(layers, [s.mean() for s in scores], markerfacecolor=face, label=name, **style)
                ends = [s.min() for s in scores], [s.max() for s in scores]
                ax.fill_between(layers, *ends, color=COLOURS[i], alpha=0.2, linewidth=0)
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

    return ends_in_words(rows, name, "layer", "validation_f1")


KIND = ChartKind("probing_layers", 50, "probes", _collect, _draw, _series, of_one_setting)
