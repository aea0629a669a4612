"""How often runs and published models find the better of two sentences likelier, one figure a set of pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from emergence.findings.folder import ResultsFolder
from emergence.measures.bootstrap import Estimate
from emergence.measures.sentence_pairs import CHANCE, WITH_BOS, WITHOUT_BOS
from emergence.report.blocks import Block, table
from emergence.report.charts.chart import Chart, ChartKind, Charts, Figure, Row
from emergence.report.charts.drawing import COLOURS, LINES, MARKERS, error_bars, shared_legend, with_unit
from emergence.report.charts.rows import distinct, never, numbers, rows_where, slug, studies, value_words
from emergence.studies.sentence_pairs.result import FILES, PairStudyResult, read_result
from emergence.wording import format_interval

ALL, WHOLE = "all pairs", "whole items"
#: With more kinds, all pairs alone are drawn. The data has them.
_MOST_KINDS = 4


def _collect(folder: ResultsFolder, charts: Charts, n_boot: int) -> None:
    results = studies(
        folder, charts, KIND.name, FILES, read_result, "no sentence pairs were scored: emergence minimal-pairs RUN"
    )
    sets: dict[str, list[PairStudyResult]] = {}
    for result in results:
        sets.setdefault(f"{result.settings['name']}\n{result.settings['fingerprint']}", []).append(result)
    names = Counter(key.partition("\n")[0] for key in sets)
    for key, mine in sets.items():
        name, _, fingerprint = key.partition("\n")
        label = name if names[name] == 1 else f"{name} {fingerprint[:8]}"  # two sets under one name
        rows = [row for result, subject in zip(mine, _subjects(mine), strict=True) for row in _rows(result, subject)]
        caption = (
            "Share of pairs whose good sentence the language model finds likelier than the bad one, by all tokens "
            "(with BOS; without where a model has none). Dotted: chance of a pair. Bars: 95% intervals over pairs, or "
            "items of several pairs; whole items: every pair of the item is right (chance of two: 0.25). Right: along "
            "pretraining, where snapshots were scored."
        )
        charts.add(KIND, f"Sentence pairs: {label}", caption, rows, of=slug(label))


def _subjects(results: Sequence[PairStudyResult]) -> list[str]:
    """Short names: size, initialisation and other text than wiki of a run, the last part of a model's name.

    Whole names where those agree.
    """
    short = [_short(result.subject) for result in results]
    counts = Counter(short)
    return [name if counts[name] == 1 else str(r.subject["name"]) for name, r in zip(short, results, strict=True)]


def _short(subject: dict[str, Any]) -> str:
    if subject.get("kind") == "run":
        data = subject.get("pretrain_data", "wiki")  # absent in results of an earlier version
        return ", ".join([subject["size"], subject["initialisation"], *([data] if data != "wiki" else [])])
    return str(subject["name"]).rstrip("/").rpartition("/")[2]


def _rows(result: PairStudyResult, subject: str) -> Iterator[Row]:
    last = result.models[-1].name
    for model, found in zip(result.models, result.summaries, strict=True):
        groups = {ALL: found["accuracy"], **found["by_kind"]}
        if found["whole_items"]:
            groups[WHOLE] = found["whole_items"]
        for group, by_rule in groups.items():
            for rule, stored in by_rule.items():
                estimate = Estimate.from_dict(stored)
                yield {
                    "subject": subject,
                    "name": str(result.subject["name"]),
                    "trunk": model.name,
                    "is_last": model.name == last,
                    "tokens": model.tokens_seen,
                    "group": group,
                    "rule": rule,
                    "accuracy": estimate.point,
                    "lo": estimate.lo,
                    "hi": estimate.hi,
                    "n": found["n_items"] if group == WHOLE else estimate.n,
                }


def _main_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows of each subject by its main rule."""
    with_bos = {row["subject"] for row in rows if row["rule"] == WITH_BOS}
    return [row for row in rows if row["rule"] == (WITH_BOS if row["subject"] in with_bos else WITHOUT_BOS)]


def _draw(figure: Figure, rows: Sequence[Row]) -> None:
    main = _main_rows(rows)
    last = [row for row in main if row["is_last"]]
    groups, subjects = distinct(last, "group"), distinct(main, "subject")
    groups = groups if len(groups) <= _MOST_KINDS + 2 else [ALL]
    moving = [row for row in main if row["group"] == ALL and row["tokens"]]
    curves = {s: mine for s in subjects if len(mine := rows_where(moving, subject=s)) >= 3}
    figure.set_figheight(2.8)
    axes = figure.subplots(1, 1 + bool(curves), sharey=True, squeeze=False)[0]
    for i, group in enumerate(groups):
        mine = rows_where(last, group=group)
        x = np.array([subjects.index(row["subject"]) for row in mine]) + (i - (len(groups) - 1) / 2) * 0.12
        style: dict[str, Any] = {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": "none", "label": group}
        error_bars(axes[0], x, mine, "accuracy", **style)
    axes[0].set_xticks(range(len(subjects)), [subject.replace(", ", "\n") for subject in subjects])
    axes[0].set(ylabel="pairs right", ylim=(0, 1.02), xlim=(-0.6, len(subjects) - 0.4))
    for k, (subject, mine) in enumerate(curves.items()):
        style = {
            "color": COLOURS[k % 7],
            "marker": MARKERS[k % 7],
            "linestyle": LINES[k % 4],
            "label": f"{subject}: {ALL}",
        }
        error_bars(axes[1], numbers(mine, "tokens"), mine, "accuracy", **style)
    if curves:
        axes[1].set_xscale("log")
        axes[1].xaxis.set_major_formatter(with_unit)
        axes[1].set_xlabel("tokens of pretraining")
    for ax in axes:
        ax.axhline(CHANCE, color="black", linestyle=":", linewidth=0.8)
    shared_legend(figure, axes)


def _series(rows: Sequence[Row]) -> list[str]:
    last = [row for row in _main_rows(rows) if row["is_last"]]
    phrases = []
    for subject in distinct(last, "subject"):
        mine = rows_where(last, subject=subject)
        phrases.append(f"{subject}: " + ", ".join(f"{row['group']} {value_words(row['accuracy'])}" for row in mine))
    return phrases


def _tables(chart: Chart, reasons: Sequence[str]) -> Iterable[Block]:
    last = [row for row in chart.rows if row["is_last"]]
    head = ("Run or model", "Trunk", "Pairs", "n", "With BOS", "Without BOS")
    shown = []
    for name, group in dict.fromkeys((row["name"], row["group"]) for row in last):
        by_rule = {row["rule"]: row for row in rows_where(last, name=name, group=group)}
        any_row = next(iter(by_rule.values()))
        numbers_ = (_in_words(by_rule.get(rule)) for rule in (WITH_BOS, WITHOUT_BOS))
        shown.append((name, any_row["trunk"], group, f"{any_row['n']:,}", *numbers_))
    return table(f"{chart.title}: share of pairs that are right (chance {CHANCE:.3f})", head, shown)


def _in_words(row: Row | None) -> str:
    return "-" if row is None else format_interval(row["accuracy"], row["lo"], row["hi"], 3)


KIND = ChartKind("sentence_pairs", 105, "pairs", _collect, _draw, _series, never, _tables)
