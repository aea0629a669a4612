"""The emergence score of every size, against parameters and against pretraining loss."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from emergence.findings.comparable import confounds_with_size
from emergence.findings.folder import ResultsFolder
from emergence.findings.scores import SetScores
from emergence.measures.readings import SCORE_NAMES, describe_score
from emergence.report.charts.chart import ChartKind, Charts, Figure, Row
from emergence.report.charts.drawing import COLOURS, LINES, MARKERS, error_bars, shared_legend, with_unit
from emergence.report.charts.rows import distinct, interval_words, never, numbers, rows_where, slug, value_words

_AND_LOSS = " and against pretraining loss on held-out text (axis reversed)"


def _collect(folder: ResultsFolder, charts: Charts, n_boot: int) -> None:
    series = folder.grouping.over_sizes()
    drawn = False
    for label, members in series.items():
        rows = [row for s in members for row in _score_rows(folder.scores_of(s), charts)]
        if len({row["setting"] for row in rows}) < 2:
            continue
        clusters = set().union(*(folder.scores_of(s).resampled for s in members))
        unknown = " These files record no counts of parameters: each size is placed at its configuration's."
        nominal = unknown if any(s.is_documented_format for s in members) else ""
        uneven = f" Not size alone: {words}." if (words := confounds_with_size(members)) else ""
        caption = (
            f"Score S = (frozen - floor) / (full - floor) of each size, against non-embedding parameters"
            f"{_AND_LOSS if _has_losses(rows) else ''}. {interval_words(rows, clusters)} The "
            "emergence score has the random trunk probed frozen as floor, the from-scratch score the random trunk "
            f"trained whole.{nominal}{uneven}"
        )
        of = slug(label) if len(series) > 1 else ""
        charts.add(KIND, f"Emergence by scale: {label}", caption, rows, of=of)
        drawn = True
    if not drawn:
        charts.skip(KIND.name, "it takes two sizes with an emergence score that differ in nothing else")


def _score_rows(set_scores: SetScores, charts: Charts) -> Iterator[Row]:
    """The score of one size against each floor."""
    comparable, scores = set_scores.comparable, set_scores.headline
    if scores.basis is None or comparable.n_params is None:
        return
    where = {"setting": comparable.base.size, "non_embedding": comparable.n_params}
    where |= {"pretraining_loss": comparable.held_out_loss}
    for score in (scores.probe, scores.scratch):
        if score is None:
            continue
        e = score.score
        if not score.is_meaningful:
            charts.skip(f"{SCORE_NAMES[score.floor]} of {comparable.label}", describe_score(score))
            continue
        ends = {"score": e.point, "lo": e.lo, "hi": e.hi, "level": e.level, "method": e.method}
        yield {**where, "floor": score.floor, **ends, "n_seeds": e.n_seeds, "flags": " ".join(score.flags)}


def _has_losses(rows: Sequence[Row]) -> bool:
    """Whether there is anything to draw against the loss, which the documented older format does not record."""
    return bool(np.isfinite(numbers(rows, "pretraining_loss")).any())


def _draw(figure: Figure, rows: Sequence[Row]) -> None:
    figure.set_figheight(2.8)
    sides = [("non_embedding", "non-embedding parameters")]
    if _has_losses(rows):
        sides.append(("pretraining_loss", "pretraining loss (nats per token)"))
    axes = figure.subplots(1, len(sides), sharey=True, squeeze=False)[0]
    for ax, (key, words) in zip(axes, sides, strict=True):
        ax.scatter(numbers(rows, key), np.zeros(len(rows)), alpha=0)  # a size without a score keeps its place
        for i, floor in enumerate(distinct(rows, "floor")):
            mine = sorted(rows_where(rows, floor=floor), key=lambda row: row[key])
            colour, face = COLOURS[i], COLOURS[i] if i == 0 else "white"
            style: dict[str, Any] = {"color": colour, "marker": MARKERS[i], "linestyle": LINES[i]}
            x = numbers(mine, key)
            x = x * 1.08**i if key == "non_embedding" else x - 0.012 * i * np.ptp(numbers(rows, key))
            error_bars(ax, x, mine, "score", markerfacecolor=face, label=SCORE_NAMES[floor], **style)
        ax.set(xlabel=words)
        for row in rows_where(rows, floor=rows[0]["floor"]):
            place = {"xycoords": ("data", "axes fraction"), "ha": "center", "va": "bottom", "fontsize": 7}
            ax.annotate(row["setting"], (row[key], 1.01), annotation_clip=False, **place)
        for height in (0.0, 1.0):
            ax.axhline(height, color="black", linewidth=0.6)
        ax.margins(x=0.1)
    axes[0].set_xscale("log")
    sizes = sorted({row["non_embedding"] for row in rows})
    axes[0].set_xticks(sizes, [with_unit(float(f"{size:.3g}"), 0) for size in sizes])
    axes[0].minorticks_off()
    for ax in axes[1:]:
        ax.invert_xaxis()
    finite = [v for key in ("score", "lo", "hi") for v in numbers(rows, key) if math.isfinite(v) and abs(v) < 3]
    axes[0].set_ylim(min([-0.1, *finite]) - 0.05, max([1.1, *finite]) + 0.05)
    axes[0].set_ylabel("score S")
    shared_legend(figure, axes)


def _series(rows: Sequence[Row]) -> list[str]:
    return [f"{row['setting']}, {SCORE_NAMES[row['floor']]}: {value_words(row['score'])}" for row in rows]


KIND = ChartKind("emergence_by_scale", 40, "scale", _collect, _draw, _series, never)
