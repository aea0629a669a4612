"""The verdict's picture: what the states add to words and positions, on the pretrained trunk and on its random twin."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from emergence.findings.folder import ResultsFolder
from emergence.findings.scores import SetScores
from emergence.measures.bootstrap import Estimate
from emergence.measures.conditional import F1, MARGINS, SELECTION
from emergence.report.charts.chart import ChartKind, Charts, Figure, Row
from emergence.report.charts.drawing import COLOURS, MARKERS, error_bars_across, shared_legend
from emergence.report.charts.rows import distinct, numbers, of_one_setting, rows_where, value_words

#: Score -> its words. A panel each.
PANELS = {F1: "token F1", SELECTION: "argument selection"}
#: Trunk -> its words in the legend.
TRUNKS = {"pretrained": "pretrained trunk", "random": "random twin"}
#: So many sets are drawn. The others are in the data.
MOST_SETS = 12
#: Sets of fewer test questions are in the data alone: one of three questions would stretch the axis of all.
LEAST_QUESTIONS = 10
_OF_LINE: dict[str, Any] = {"xycoords": ("axes fraction", "data")}


def _collect(folder: ResultsFolder, charts: Charts, n_boot: int) -> None:
    rows = [row for set_scores in folder.settings for row in _rows(set_scores)]
    level = next((row["level"] for row in rows if row["level"]), 0.95)
    more = f" The first {MOST_SETS} sets; the data file has all." if len(distinct(rows)) > MOST_SETS else ""
    caption = (
        "What each probe's states add to a scorer of words and positions alone, on the test questions. Filled: "
        f"pretrained trunk; open: its random twin. Bars: {level:.0%} intervals, paired by question. Grey: gains of "
        f"less than {MARGINS[F1]:g}, which may be there and are small. States that tell who did what to whom add on "
        "the pretrained trunk, and more than on its twin." + more
    )
    reason = "no frozen run here measured what its states add to words and positions"
    charts.add(KIND, "What the states add", caption, rows, reason)


def _rows(set_scores: SetScores) -> Iterator[Row]:
    """A row for each score, probe family and trunk."""
    for gains in set_scores.gains:
        for family, gain in gains.families.items():
            for trunk, estimate in (("pretrained", gain.gain), ("random", gain.twin_gain)):
                if estimate is not None:
                    where = {"setting": set_scores.comparable.label, "score": gains.score, "family": family}
                    yield {**where, "trunk": trunk, **_ends(estimate)}


def _ends(estimate: Estimate) -> Row:
    ends = {"gain": estimate.point, "lo": estimate.lo, "hi": estimate.hi, "level": estimate.level}
    return {**ends, "n_questions": estimate.n, "n_seeds": estimate.n_seeds}


def _interval(row: Row) -> str:
    return f" [{row['lo']:.2f}, {row['hi']:.2f}]" if math.isfinite(row["lo"]) and math.isfinite(row["hi"]) else ""


def _draw(figure: Figure, rows: Sequence[Row]) -> None:
    rows = [row for row in rows if row["n_questions"] >= LEAST_QUESTIONS]
    drawn = distinct(rows)[:MOST_SETS]
    rows = [row for row in rows if row["setting"] in drawn]
    if not rows:
        figure.set_figheight(1)
        figure.text(0.5, 0.5, f"no set has {LEAST_QUESTIONS} questions", ha="center")
        return
    lines = list(dict.fromkeys((row["setting"], row["family"]) for row in rows))
    starts = [i for i, (setting, _) in enumerate(lines) if i == 0 or setting != lines[i - 1][0]]
    place = {line: -i - 0.9 * sum(start <= i for start in starts) for i, line in enumerate(lines)}
    figure.set_figheight(1.0 + 0.2 * (len(lines) + 0.9 * len(starts)))
    panels = figure.subplots(1, len(PANELS), sharey=True)
    for ax, (score, words) in zip(panels, PANELS.items(), strict=True):
        ax.axvspan(-MARGINS[score], MARGINS[score], color="#eeeeee", linewidth=0)
        ax.axvline(0, color="black", linewidth=0.7)
        for i, (trunk, name) in enumerate(TRUNKS.items()):
            if not rows_where(rows, trunk=trunk):
                continue  # nor does the legend name it
            mine = rows_where(rows, score=score, trunk=trunk)
            y = [place[row["setting"], row["family"]] + 0.17 * (1 - 2 * i) for row in mine]
            face = COLOURS[i] if trunk == "pretrained" else "white"
            style = {"color": COLOURS[i], "marker": MARKERS[i], "markerfacecolor": face, "linestyle": "none"}
            error_bars_across(ax, y, mine, "gain", label=name, **style)
        ax.set(xlabel=f"added {words}", ylim=(min(place.values()) - 0.7, 0.1))
        ax.grid(axis="y", visible=False)
        finite = [abs(v) for key in ("gain", "lo", "hi") for v in numbers(rows, key) if math.isfinite(v)]
        ax.set_xlim(-1.1 * max([MARGINS[score], *finite]), 1.1 * max([MARGINS[score], *finite]))
    panels[0].set_yticks(list(place.values()), [family for _, family in lines])
    if len(starts) == 1:
        panels[0].set_title(lines[0][0], loc="left")
    for start in starts if len(starts) > 1 else ():
        at = (0, place[lines[start]] + 0.95)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        heading: dict[str, Any] = {"va": "center", "fontweight": "bold", "bbox": box}
        panels[0].annotate(lines[start][0], at, xytext=(4, 0), textcoords="offset points", **_OF_LINE, **heading)
    shared_legend(figure, panels)


def _series(rows: Sequence[Row]) -> list[str]:
    return [
        f"{row['setting']}, {row['family']} probe, {TRUNKS[row['trunk']]}: {value_words(row['gain'])}"
        f"{_interval(row)} {PANELS[row['score']]}"
        for row in rows
    ]


KIND = ChartKind("gains", 5, "verdict", _collect, _draw, _series, of_one_setting)
