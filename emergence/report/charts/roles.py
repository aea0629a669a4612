"""Test F1 by asked role and by the voice of the predicate, one figure a setting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emergence.experiment.facts import HEADLINE
from emergence.findings.folder import ResultsFolder
from emergence.findings.two_by_two import RunScores
from emergence.measures.bootstrap import bootstrap_means
from emergence.measures.emergence_score import CELLS
from emergence.measures.resampling import ClusterTable
from emergence.report.charts.chart import ChartKind, Charts, Figure, Row
from emergence.report.charts.drawing import cell_bars, shared_legend
from emergence.report.charts.rows import (
    cell_row,
    cell_words,
    distinct,
    interval_words,
    never,
    rows_where,
    slug,
    value_words,
)

#: A smaller group of questions has no bar, but is in the data.
LEAST_QUESTIONS = 10


def _collect(folder: ResultsFolder, charts: Charts, n_boot: int) -> None:
    if not folder.settings:
        charts.skip(KIND.name, "no finished run with predictions")
    for set_scores in folder.settings:
        label = set_scores.comparable.label
        runs = [(c, item.scores) for c in CELLS for item in set_scores.comparable.cells.get(c, ()) if item.scores]
        rows = _breakdown(label, runs, n_boot) if runs else []
        caption = (
            f"Token F1 by {_role_words(rows)} and the voice of the predicate; n: test questions. "
            f"{interval_words(rows, ['sentence'])} Groups of fewer than {LEAST_QUESTIONS} are in the data only."
        )
        reason = "no finished run with predictions, or none that tells roles"
        charts.add(KIND, f"By role and voice: {label}", caption, rows, reason, of=slug(label))


def _breakdown(label: str, runs: Sequence[tuple[str, RunScores]], n_boot: int) -> list[Row]:
    """Scores of each group of questions in each cell over the seeds, on the questions of the first run."""
    first = runs[0][1]
    facts = {row["id"]: row for row in first.run.read_predictions()}
    if not all("role" in facts[question] for question in first.ids):
        return []
    # Older predictions have the wh-word alone. The two are never mixed.
    key = "asked_role" if all("asked_role" in facts[question] for question in first.ids) else "role"
    labels = {
        key: [str(facts[q][key] or "other") for q in first.ids],
        "voice": [{True: "passive", False: "active", None: "unknown"}[facts[q].get("passive")] for q in first.ids],
    }
    columns: dict[str, list[np.ndarray]] = {}
    seeds: dict[str, list[str]] = {}
    for cell, run in runs:
        place = {question: i for i, question in enumerate(run.ids)}
        if set(place) == set(first.ids):
            f1 = run.scores[HEADLINE]["f1_tokens"]
            columns.setdefault(cell, []).append(f1[[place[question] for question in first.ids]])
            seeds.setdefault(cell, []).append(run.seed_label)
    rows = []
    for kind, values in labels.items():
        names, counts = np.unique(values, return_counts=True)
        for name in names[np.lexsort((names, -counts))]:
            where = np.flatnonzero(np.array(values) == name)
            clusters = np.array(first.sentences)[where]
            table = ClusterTable.from_questions(
                {cell: np.stack(columns[cell])[:, where] for cell in CELLS if cell in columns},
                clusters,
                {cell: [f"{cell}:{seed}" for seed in seeds[cell]] for cell in columns},
            )
            means = bootstrap_means(table, n_boot=n_boot)
            rows += [
                cell_row(label, cell, mean, mean.n_clusters, by=kind, group=str(name)) for cell, mean in means.items()
            ]
    for row in rows:
        row["n_seeds"] = len(seeds[row["cell"]])
    return rows


def _role_words(rows: Sequence[Row]) -> str:
    """Words for what the groups are."""
    if any(row["by"] == "asked_role" for row in rows):
        return "the role that the question asks for (from its slots and voice)"
    return "the question's wh-word (these runs are older than asked roles)"


def _draw(figure: Figure, rows: Sequence[Row]) -> None:
    big = [row for row in rows if row["n_questions"] >= LEAST_QUESTIONS]
    kinds = {kind: distinct(rows_where(big, by=kind), "group") for kind in ("asked_role", "role", "voice")}
    kinds = {kind: groups for kind, groups in kinds.items() if groups}
    figure.set_figheight(2.8)
    if not kinds:
        figure.text(0.5, 0.5, f"no group has {LEAST_QUESTIONS} questions", ha="center")
        return
    ratios = [len(groups) for groups in kinds.values()]
    axes = figure.subplots(1, len(kinds), sharey=True, width_ratios=ratios, squeeze=False)[0]
    for ax, (kind, groups) in zip(axes, kinds.items(), strict=True):
        named = [(name, rows_where(big, by=kind, group=name)) for name in groups]
        cell_bars(ax, [(f"{name}\nn={mine[0]['n_questions']:,}", mine) for name, mine in named])
        ax.set_xlabel({"asked_role": "asked role", "role": "wh-word", "voice": "voice"}[kind])
    axes[0].set_ylabel("token F1 (test)")
    shared_legend(figure, axes)


def _series(rows: Sequence[Row]) -> list[str]:
    keys = [(row["by"], row["group"]) for row in rows]
    phrases = []
    for by, group in dict.fromkeys(keys):
        mine = [row for row, key in zip(rows, keys, strict=True) if key == (by, group)]
        phrases.append(f"{by} {group}: " + ", ".join(f"{cell_words(row)} {value_words(row['f1'])}" for row in mine))
    return phrases


KIND = ChartKind("roles", 70, "roles", _collect, _draw, _series, never)
