"""The 2x2 of every setting as bars: test F1 of frozen and trained, of pretrained and random trunks."""

from __future__ import annotations

from collections.abc import Sequence

from emergence.findings.ablation import without_order
from emergence.findings.folder import ResultsFolder
from emergence.measures.emergence_score import CELLS
from emergence.measures.measured_coverage import units_of
from emergence.report.charts.chart import ChartKind, Charts, Figure, Row
from emergence.report.charts.drawing import cell_bars, shared_legend
from emergence.report.charts.rows import (
    NO_MODEL,
    SHUFFLED_CELLS,
    WORDS_ALONE,
    cell_row,
    cell_words,
    distinct,
    interval_words,
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
        label = set_scores.comparable.label
        n_sentences, n_documents = set_scores.units
        twin = twins.get(id(set_scores.comparable))
        f1 = {cell: set_scores.headline.f1[cell] for cell in CELLS if cell in set_scores.headline.f1}
        shuffled = folder.scores_of(twin).headline.f1 if twin else {}
        f1 |= {name: shuffled[cell] for cell, name in SHUFFLED_CELLS.items() if cell in shuffled}
        mine = [cell_row(label, cell, mean, n_sentences) | {"n_documents": n_documents} for cell, mean in f1.items()]
        rows += mine
        clusters |= set_scores.resampled
        free = set_scores.comparable.model_free
        if free.floor and mine:
            rows.append({**dict.fromkeys(mine[0]), "setting": label, "cell": NO_MODEL, "f1": free.floor[1].point})
        if free.words and mine:
            rows.append({**dict.fromkeys(mine[0]), **cell_row(label, WORDS_ALONE, free.words, n_sentences)})
    charts.add(
        KIND,
        "Frozen and trained, pretrained and random",
        f"Token F1 on test questions ({_counts(rows)}). {interval_words(rows, clusters)}"
        " Dashed: the best rule without a model; dotted: words and positions, trained without one."
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


def _draw(figure: Figure, rows: Sequence[Row]) -> None:
    settings = distinct(rows)
    figure.set_figheight(2.9)
    ax = figure.subplots()
    cell_bars(ax, [(label, rows_where(rows, setting=label)) for label in settings])
    for i, label in enumerate(settings):
        for row in rows_where(rows, setting=label, cell=NO_MODEL):
            name = None if "no model" in ax.get_legend_handles_labels()[1] else "no model"
            ax.plot([i - 0.45, i + 0.45], [row["f1"]] * 2, color="black", linestyle="--", linewidth=0.9, label=name)
        for row in rows_where(rows, setting=label, cell=WORDS_ALONE):
            name = None if "words and positions" in ax.get_legend_handles_labels()[1] else "words and positions"
            ax.plot([i - 0.45, i + 0.45], [row["f1"]] * 2, color="black", linestyle=":", linewidth=1.2, label=name)
    ax.set(ylabel="token F1")
    shared_legend(figure, [ax])


def _series(rows: Sequence[Row]) -> list[str]:
    return [f"{row['setting']}, {cell_words(row)}: {value_words(row['f1'])}" for row in rows]


def _is_narrow(rows: Sequence[Row]) -> bool:
    return len(distinct(rows)) <= 2


KIND = ChartKind("two_by_two", 30, "grid", _collect, _draw, _series, _is_narrow)
