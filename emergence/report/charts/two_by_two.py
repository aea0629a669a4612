"""The 2x2 of every setting as bars: test F1 of frozen and trained, of pretrained and random trunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from emergence.experiment.facts import HEADLINE
from emergence.findings.ablation import without_order
from emergence.findings.folder import ResultsFolder
from emergence.findings.scores import SetScores
from emergence.measures.conditional import BILINEAR, LINEAR
from emergence.measures.emergence_score import FROZEN, FROZEN_CELLS
from emergence.measures.measured_coverage import units_of
from emergence.report.charts.chart import ChartKind, Charts, Figure, Row
from emergence.report.charts.drawing import panel_grid, reference_lines, shared_legend, trunk_bars
from emergence.report.charts.rows import (
    CELL_NAMES,
    FROZEN_BARS,
    SHUFFLED_CELLS,
    cell_row,
    cell_words,
    distinct,
    interval_words,
    model_free_rows,
    of_one_setting,
    rows_where,
    value_words,
)

_SHUFFLED_WORDS = " Shuffled text: pretrained on the same text with the words of each sentence in random order."


def _collect(folder: ResultsFolder, charts: Charts, n_boot: int) -> None:
    rows: list[Row] = []
    clusters: set[str] = set()
    twins = without_order(folder.grouping)
    shown_elsewhere = {id(twin) for twin in twins.values()}
    for set_scores in (s for s in folder.settings if id(s.comparable) not in shown_elsewhere):
        twin = twins.get(id(set_scores.comparable))
        mine = [*_bars(set_scores, folder.scores_of(twin) if twin else None)]
        rows += mine
        clusters |= set_scores.resampled
        if mine:
            blank = dict.fromkeys(mine[0])
            lines = model_free_rows(set_scores.comparable.model_free, setting=set_scores.comparable.label)
            rows += [{**blank, **line} for line in lines]
    charts.add(
        KIND,
        "Frozen and trained, pretrained and random",
        f"Token F1 on test questions ({_counts(rows)}). {interval_words(rows, clusters)}"
        " Lines need no language model: the best rule, and a scorer that is trained on words and positions."
        + (_SHUFFLED_WORDS if any(row["cell"] in SHUFFLED_CELLS.values() for row in rows) else ""),
        rows,
        "no finished run with test scores",
    )


def _counts(rows: Sequence[Row]) -> str:
    """Counts of every setting, such as ``tiny: 1,200 questions of 300 sentences, 20 documents; ...``"""
    counts: dict[str, tuple[int, str]] = {}
    for row in rows:
        if row.get("n_questions"):
            counts.setdefault(row["setting"], (row["n_questions"], units_of(row["n_sentences"], row["n_documents"])))
    return "; ".join(f"{label}: {n:,} questions of {units}" for label, (n, units) in counts.items())


def _bars(set_scores: SetScores, shuffled: SetScores | None) -> Iterator[Row]:
    """A row for each trunk and read-out. Linear and bilinear probes read the frozen ones."""
    label, (n_sentences, n_documents) = set_scores.comparable.label, set_scores.units
    for probe, readout in ((LINEAR, HEADLINE), (BILINEAR, BILINEAR)):
        ours, theirs = (s.readouts.get(readout) if s else None for s in (set_scores, shuffled))
        f1 = {cell: mean for cell, mean in (ours.f1 if ours else {}).items() if cell in FROZEN_CELLS or probe == LINEAR}
        f1 |= {
            name: theirs.f1[cell]
            for cell, name in SHUFFLED_CELLS.items()
            if theirs and cell in theirs.f1 and (cell == FROZEN or probe == LINEAR)
        }
        for cell in CELL_NAMES:
            if cell in f1:
                of = probe if cell in FROZEN_BARS else None
                yield cell_row(label, cell, f1[cell], n_sentences, probe=of) | {"n_documents": n_documents}


def _draw(figure: Figure, rows: Sequence[Row]) -> None:
    labels = distinct(rows)
    panels = panel_grid(figure, labels)
    for ax, label in zip(panels, labels, strict=True):
        mine = rows_where(rows, setting=label)
        bars = [row for row in mine if row["cell"] in CELL_NAMES]
        groups = {
            "linear probe": [row for row in bars if row["cell"] in FROZEN_BARS and row.get("probe") != BILINEAR],
            "bilinear probe": [row for row in bars if row.get("probe") == BILINEAR],
            "all weights\ntrained": [row for row in bars if row["cell"] not in FROZEN_BARS],
        }
        trunk_bars(ax, {name: group for name, group in groups.items() if group})
        reference_lines(ax, [row for row in mine if row not in bars])
    for ax in panels:
        if ax.get_subplotspec().is_first_col():
            ax.set_ylabel("token F1")
    shared_legend(figure, panels)


def _series(rows: Sequence[Row]) -> list[str]:
    return [f"{row['setting']}, {cell_words(row)}: {value_words(row['f1'])}" for row in rows]


KIND = ChartKind("two_by_two", 30, "grid", _collect, _draw, _series, of_one_setting)
