"""Test F1 by asked role and by the voice of the predicate, one figure a setting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from emergence.experiment.facts import HEADLINE
from emergence.findings.folder import ResultsFolder
from emergence.findings.two_by_two import RunScores
from emergence.measures.bootstrap import bootstrap_means
from emergence.measures.conditional import BILINEAR, LINEAR
from emergence.measures.emergence_score import CELLS, FROZEN, FROZEN_CELLS, FULL, RANDOM_FROZEN, RANDOM_FULL
from emergence.measures.resampling import ClusterTable
from emergence.report.charts.chart import ChartKind, Charts, Figure, Row
from emergence.report.charts.drawing import COLOURS, error_bars_across, shared_legend
from emergence.report.charts.rows import (
    cell_row,
    cell_words,
    interval_words,
    never,
    slug,
    value_words,
)

#: A smaller group of questions has no bar, but is in the data.
LEAST_QUESTIONS = 10
#: Cell and probe -> colour and marker, in the order in which they are drawn: what is compared stands together.
_SERIES: dict[tuple[str, str | None], tuple[str, str]] = {
    (FROZEN, LINEAR): (COLOURS[0], "o"),
    (RANDOM_FROZEN, LINEAR): (COLOURS[0], "o"),
    (FROZEN, BILINEAR): (COLOURS[1], "s"),
    (RANDOM_FROZEN, BILINEAR): (COLOURS[1], "s"),
    (FULL, None): (COLOURS[2], "^"),
    (RANDOM_FULL, None): (COLOURS[2], "^"),
}


def _collect(folder: ResultsFolder, charts: Charts, n_boot: int) -> None:
    if not folder.settings:
        charts.skip(KIND.name, "no finished run with predictions")
    for set_scores in folder.settings:
        label = set_scores.comparable.label
        runs = [(c, item.scores) for c in CELLS for item in set_scores.comparable.cells.get(c, ()) if item.scores]
        rows = _breakdown(label, runs, n_boot) if runs else []
        caption = (
            f"Token F1 by {_role_words(rows)} and the voice of the predicate; n: test questions. "
            f"{interval_words(rows, ['sentence'])} Filled: pretrained; open: random trunk. Groups of "
            f"fewer than {LEAST_QUESTIONS} are in the data only."
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
    columns: dict[tuple[str, str | None], list[np.ndarray]] = {}
    seeds: dict[tuple[str, str | None], list[str]] = {}
    for cell, run in runs:
        place = {question: i for i, question in enumerate(run.ids)}
        if set(place) != set(first.ids):
            continue
        in_order = [place[question] for question in first.ids]
        probes = ((LINEAR, HEADLINE), (BILINEAR, BILINEAR)) if cell in FROZEN_CELLS else ((None, HEADLINE),)
        for probe, readout in probes:
            if readout in run.scores:
                columns.setdefault((cell, probe), []).append(run.scores[readout]["f1_tokens"][in_order])
                seeds.setdefault((cell, probe), []).append(run.seed_label)
    rows = []
    for kind, values in labels.items():
        names, counts = np.unique(values, return_counts=True)
        for name in names[np.lexsort((names, -counts))]:
            where = np.flatnonzero(np.array(values) == name)
            clusters = np.array(first.sentences)[where]
            names_of = {f"{cell} {probe}": (cell, probe) for cell, probe in columns}
            table = ClusterTable.from_questions(
                {name: np.stack(columns[key])[:, where] for name, key in names_of.items()},
                clusters,
                {name: [f"{key[0]}:{seed}" for seed in seeds[key]] for name, key in names_of.items()},
            )
            for read, mean in bootstrap_means(table, n_boot=n_boot).items():
                cell, probe = names_of[read]
                more = {"by": kind, "group": str(name), "probe": probe}
                rows.append(cell_row(label, cell, mean, mean.n_clusters, **more) | {"n_seeds": len(seeds[cell, probe])})
    return rows


def _role_words(rows: Sequence[Row]) -> str:
    """Words for what the groups are."""
    if any(row["by"] == "asked_role" for row in rows):
        return "the role that the question asks for (from its slots and voice)"
    return "the question's wh-word (these runs are older than asked roles)"


def _draw(figure: Figure, rows: Sequence[Row]) -> None:
    """Draw points by group: frozen beside frozen, and what is pretrained filled."""
    big = [row for row in rows if row["n_questions"] >= LEAST_QUESTIONS]
    groups = [(row["by"], row["group"]) for row in big]
    groups = list(dict.fromkeys(groups))
    if not groups:
        figure.set_figheight(1)
        figure.text(0.5, 0.5, f"no group has {LEAST_QUESTIONS} questions", ha="center")
        return
    series = [read for read in _SERIES if any(_read(row) == read for row in big)]
    apart = sum(kind != groups[0][0] for kind, _ in groups) and 1
    figure.set_figheight(1.1 + 0.115 * (len(groups) + apart) * (len(series) + 1))
    ax = figure.subplots()
    places = {group: -i - (0.7 if group[0] != groups[0][0] else 0) for i, group in enumerate(groups)}
    for i, read in enumerate(series):
        mine = [row for row in big if _read(row) == read]
        colour, marker = _SERIES[read]
        y = [places[row["by"], row["group"]] + 0.8 * (0.5 - (i + 0.5) / len(series)) for row in mine]
        face = "white" if read[0].startswith("random") else colour
        style: dict[str, Any] = {
            "color": colour,
            "marker": marker,
            "markerfacecolor": face,
            "linestyle": "none",
            "elinewidth": 0.8,
        }
        error_bars_across(ax, y, mine, label=_read_words(read), **style)
    counts = {group: next(r["n_questions"] for r in big if (r["by"], r["group"]) == group) for group in groups}
    ax.set_yticks(list(places.values()), [f"{name} (n = {counts[kind, name]:,})" for kind, name in groups])
    for place in places.values():
        ax.axhline(place - 0.5, color="#dddddd", linewidth=0.5)
    ax.grid(axis="y", visible=False)
    ax.set(xlabel="token F1 (test)", xlim=(0, 1.02), ylim=(min(places.values()) - 0.5, 0.5))
    shared_legend(figure, [ax])


def _read(row: Row) -> tuple[str, str | None]:
    return row["cell"], row["probe"]


def _read_words(read: tuple[str, str | None]) -> str:
    return cell_words({"cell": read[0], "probe": read[1]}) + (", linear probe" if read[1] == LINEAR else "")


def _series(rows: Sequence[Row]) -> list[str]:
    keys = [(row["by"], row["group"]) for row in rows]
    phrases = []
    for by, group in dict.fromkeys(keys):
        mine = [row for row, key in zip(rows, keys, strict=True) if key == (by, group)]
        phrases.append(f"{by} {group}: " + ", ".join(f"{cell_words(row)} {value_words(row['f1'])}" for row in mine))
    return phrases


KIND = ChartKind("roles", 70, "roles", _collect, _draw, _series, never)
