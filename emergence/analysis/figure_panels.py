"""What each figure looks like, from the rows of its chart. Axes come from the caller: no import of matplotlib here.

Okabe-Ito colours, each with a marker, line or hatch of its own, so that grey prints and colour-blind readers
lose nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from emergence.analysis.figure_cka import ROWS_IN_WORDS
from emergence.analysis.figure_data import CELL_NAMES, LEAST_QUESTIONS, NO_MODEL, SHUFFLED_CELLS, WORDS_ALONE, Row
from emergence.measures.emergence_score import CELLS, FROZEN, FULL, RANDOM_FROZEN
from emergence.measures.readings import SCORE_NAMES

#: ``matplotlib.axes.Axes`` and ``matplotlib.figure.Figure``, which only ``figures.py`` imports.
Axes: TypeAlias = Any
Figure: TypeAlias = Any

#: Inches: one column and two columns of a paper.
NARROW, WIDE = 3.5, 7.2
#: Okabe and Ito (2008), without the yellow, which is too faint for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")
_BAR_CELLS = (*CELLS, *SHUFFLED_CELLS.values())
CELL_COLOURS = dict(zip(_BAR_CELLS, ("#0072B2", "#E69F00", "#56B4E9", "#CC79A7", "#009E73", "#D55E00"), strict=True))
CELL_HATCHES = dict(zip(_BAR_CELLS, ("", "////", "....", "xxxx", "\\\\\\\\", "++++"), strict=True))


# Parts that several figures share ----------------------------------------------------------------


def numbers(rows: Iterable[Row], key: str) -> npt.NDArray[np.float64]:
    return np.array([math.nan if row[key] is None else row[key] for row in rows], dtype=float)


def distinct(rows: Iterable[Row], key: str = "setting") -> list[str]:
    """Distinct values in order of appearance."""
    return list(dict.fromkeys(row[key] for row in rows))


def rows_where(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def shared_legend(figure: Figure, axes: Iterable[Axes]) -> None:
    """One legend above all panels, each label once, in as many columns as fit."""
    entries: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    last = [label for label in entries if label in ("no model", "words and positions") or label.endswith("untrained")]
    entries |= {label: entries.pop(label) for label in last}
    if entries:
        width = figure.get_size_inches()[0]
        columns = max(1, int(width * 17 / (max(map(len, entries)) + 7)))
        rows = math.ceil(len(entries) / columns)
        columns = math.ceil(len(entries) / rows)
        figure.legend(list(entries.values()), list(entries), loc="outside upper center", ncols=columns)


def with_unit(value: float, _: int) -> str:
    """``500``, ``20k``, ``1.5M``."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"


def error_bars(ax: Axes, x: Any, rows: Sequence[Row], key: str = "f1", **style: Any) -> None:
    """Points with their intervals; no whisker where there is no interval, off the axes where it is unbounded."""
    y, lo, hi = (numbers(rows, name) for name in (key, "lo", "hi"))
    below, above = np.nan_to_num(y - lo, nan=0.0, posinf=1e3), np.nan_to_num(hi - y, nan=0.0, posinf=1e3)
    ax.errorbar(x, y, yerr=np.maximum([below, above], 0.0), **style)


def _cell_bars(ax: Axes, groups: Sequence[tuple[str, list[Row]]]) -> None:
    """Groups of bars, one a cell, with intervals."""
    present = [cell for cell in CELL_NAMES if any(rows_where(rows, cell=cell) for _, rows in groups)]
    width = 0.8 / len(present)
    for i, cell in enumerate(present):
        found = [
            (g, rows_where(rows, cell=cell)[0]) for g, (_, rows) in enumerate(groups) if rows_where(rows, cell=cell)
        ]
        x = np.array([g for g, _ in found]) + (i - (len(present) - 1) / 2) * width
        rows = [row for _, row in found]
        style: dict[str, Any] = {
            "color": CELL_COLOURS[cell],
            "hatch": CELL_HATCHES[cell],
            "edgecolor": "black",
            "linewidth": 0.6,
        }
        ax.bar(x, numbers(rows, "f1"), width * 0.92, label=CELL_NAMES[cell], **style)
        error_bars(ax, x, rows, fmt="none", ecolor="black", elinewidth=0.8)
    ax.set_xticks(range(len(groups)), [name for name, _ in groups])
    ax.grid(axis="x", visible=False)
    ax.set_ylim(0, 1)


def _panel_grid(figure: Figure, labels: Sequence[str], height: float = 2.4) -> list[Axes]:
    """One panel a setting, three in a row, with a common y axis."""
    columns = 2 if len(labels) == 4 else min(3, len(labels))
    rows = math.ceil(len(labels) / columns)
    figure.set_size_inches(NARROW if columns == 1 else WIDE, height * rows + 0.5)
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    panels = list(axes)
    for ax in panels[len(labels) :]:
        ax.set_visible(False)
    for ax, label in zip(panels, labels, strict=False):
        ax.set_title(label, loc="left")
    return panels[: len(labels)]


# Drawings ----------------------------------------------------------------------------------------


def _draw_pretraining(figure: Figure, rows: Sequence[Row]) -> None:
    figure.set_size_inches(NARROW, 2.6)
    ax = figure.subplots()
    for i, label in enumerate(distinct(rows)):
        colour, marker, line = COLOURS[i % 7], MARKERS[i % 7], LINES[i % 4]
        for k, run in enumerate(distinct(rows_where(rows, setting=label), "run")):
            mine = [row for row in rows_where(rows, run=run) if row["tokens"] > 0]
            train, held_out = rows_where(mine, split="train"), rows_where(mine, split="validation")
            ax.plot(numbers(train, "tokens"), numbers(train, "loss"), color=colour, linewidth=0.4, alpha=0.55)
            name = f"{label} (held-out text)" if k == 0 else None
            style: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": line, "label": name}
            every = max(1, len(held_out) // 15)
            ax.plot(numbers(held_out, "tokens"), numbers(held_out, "loss"), markevery=every, **style)
            for row in [row for row in rows_where(rows, run=run, split="validation") if row["tokens"] == 0]:
                ax.axhline(row["loss"], color=colour, linestyle=":", linewidth=0.8)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(with_unit)
    ax.set(xlabel="tokens seen", ylabel="loss (nats per token)")
    shared_legend(figure, [ax])


def _draw_finetuning(figure: Figure, rows: Sequence[Row]) -> None:
    figure.set_size_inches(WIDE, 2.6)
    left, right = figure.subplots(1, 2)
    settings = distinct(rows)
    for run in distinct(rows, "run"):
        mine = rows_where(rows, run=run)
        i, cell = settings.index(mine[0]["setting"]), mine[0]["cell"]
        line = "-" if cell == FULL else "--"
        name = f"{mine[0]['setting']}: {CELL_NAMES[cell]}"
        filled = "white" if cell != FULL else COLOURS[i % 7]
        style: dict[str, Any] = {"color": COLOURS[i % 7], "linestyle": line}
        marked = {**style, "marker": MARKERS[i % 7], "markerfacecolor": filled, "label": name}
        epochs = numbers(mine, "epoch")
        left.plot(epochs, numbers(mine, "train_loss"), linewidth=0.6, **style)
        left.plot(epochs, numbers(mine, "validation_loss"), **marked)
        right.plot(epochs, numbers(mine, "validation_f1"), **marked)
    left.set(xlabel="epoch", ylabel="loss (nats per question)")
    right.set(xlabel="epoch", ylabel="token F1 (validation)", ylim=(0, 1))
    for ax in (left, right):
        ax.locator_params(axis="x", integer=True)
    shared_legend(figure, [right])


def _draw_two_by_two(figure: Figure, rows: Sequence[Row]) -> None:
    settings = distinct(rows)
    figure.set_size_inches(NARROW if len(settings) <= 2 else WIDE, 2.9)
    ax = figure.subplots()
    _cell_bars(ax, [(label, rows_where(rows, setting=label)) for label in settings])
    for i, label in enumerate(settings):
        for row in rows_where(rows, setting=label, cell=NO_MODEL):
            name = None if "no model" in ax.get_legend_handles_labels()[1] else "no model"
            ax.plot([i - 0.45, i + 0.45], [row["f1"]] * 2, color="black", linestyle="--", linewidth=0.9, label=name)
        for row in rows_where(rows, setting=label, cell=WORDS_ALONE):
            name = None if "words and positions" in ax.get_legend_handles_labels()[1] else "words and positions"
            ax.plot([i - 0.45, i + 0.45], [row["f1"]] * 2, color="black", linestyle=":", linewidth=1.2, label=name)
    ax.set(ylabel="token F1")
    shared_legend(figure, [ax])


def _draw_emergence(figure: Figure, rows: Sequence[Row]) -> None:
    figure.set_size_inches(WIDE, 2.8)
    axes = figure.subplots(1, 2, sharey=True)
    sides = (("non_embedding", "non-embedding parameters"), ("pretraining_loss", "pretraining loss (nats per token)"))
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
    axes[1].invert_xaxis()
    finite = [v for key in ("score", "lo", "hi") for v in numbers(rows, key) if math.isfinite(v) and abs(v) < 3]
    axes[0].set_ylim(min([-0.1, *finite]) - 0.05, max([1.1, *finite]) + 0.05)
    axes[0].set_ylabel("score S")
    shared_legend(figure, axes)


def _draw_probing(figure: Figure, rows: Sequence[Row]) -> None:
    labels = distinct(rows)
    panels = _panel_grid(figure, labels)
    families = distinct(rows, "family")
    for ax, label in zip(panels, labels, strict=True):
        for i, family in enumerate(families):
            for cell in (FROZEN, RANDOM_FROZEN):
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


def _draw_few_shot(figure: Figure, rows: Sequence[Row]) -> None:
    labels = distinct(rows)
    panels = _panel_grid(figure, labels)
    for ax, label in zip(panels, labels, strict=True):
        for i, cell in enumerate(CELLS):
            mine = rows_where(rows, setting=label, cell=cell)
            counts = sorted({row["samples"] for row in mine})
            points = [rows_where(mine, samples=n) for n in counts]
            if not mine:
                continue
            style: dict[str, Any] = {"color": CELL_COLOURS[cell], "marker": MARKERS[i], "linestyle": LINES[i]}
            means = [float(np.mean(numbers(point, "f1"))) for point in points]
            ax.plot(counts, means, label=CELL_NAMES[cell], **style)
            ends = [numbers(p, "f1").min() for p in points], [numbers(p, "f1").max() for p in points]
            ax.fill_between(counts, *ends, color=CELL_COLOURS[cell], alpha=0.25, linewidth=0)
            single = [point[0] for point in points if len(point) == 1]
            error_bars(ax, numbers(single, "samples"), single, fmt="none", ecolor=CELL_COLOURS[cell], elinewidth=0.8)
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(with_unit)
        ax.set(xlabel="training questions", ylim=(0, 1))
    for ax in panels:
        if ax.get_subplotspec().is_first_col():
            ax.set_ylabel("token F1 (test)")
    shared_legend(figure, panels)


def _draw_breakdown(figure: Figure, rows: Sequence[Row]) -> None:
    big = [row for row in rows if row["n_questions"] >= LEAST_QUESTIONS]
    kinds = {kind: distinct(rows_where(big, by=kind), "group") for kind in ("asked_role", "role", "voice")}
    kinds = {kind: groups for kind, groups in kinds.items() if groups}
    figure.set_size_inches(WIDE, 2.8)
    if not kinds:
        figure.text(0.5, 0.5, f"no group has {LEAST_QUESTIONS} questions", ha="center")
        return
    ratios = [len(groups) for groups in kinds.values()]
    axes = figure.subplots(1, len(kinds), sharey=True, width_ratios=ratios, squeeze=False)[0]
    for ax, (kind, groups) in zip(axes, kinds.items(), strict=True):
        found = [(name, rows_where(big, by=kind, group=name)) for name in groups]
        _cell_bars(ax, [(f"{name}\nn={mine[0]['n_questions']:,}", mine) for name, mine in found])
        ax.set_xlabel({"asked_role": "asked role", "role": "wh-word", "voice": "voice"}[kind])
    axes[0].set_ylabel("token F1 (test)")
    shared_legend(figure, axes)


def _draw_heatmaps(figure: Figure, rows: Sequence[Row]) -> None:
    views, panels = distinct(rows, "view"), distinct(rows, "panel")
    width = NARROW if len(panels) == 1 else WIDE
    figure.set_size_inches(width, (0.85 * width / len(panels) + 0.6) * len(views))
    axes = figure.subplots(len(views), len(panels), squeeze=False)
    for i, view in enumerate(views):
        for j, panel in enumerate(panels):
            mine = rows_where(rows, view=view, panel=panel)
            matrix = np.full((1 + max(r["row"] for r in mine), 1 + max(r["column"] for r in mine)), math.nan)
            for row in mine:
                matrix[row["row"], row["column"]] = row["cka"]
            image = _heatmap(axes[i, j], matrix)
            axes[i, j].set(xlabel=mine[0]["column_axis"], ylabel=mine[0]["row_axis"])
            axes[i, j].set_title(ROWS_IN_WORDS[view] if j == 0 else "", loc="left")
    figure.colorbar(image, ax=axes, label="CKA", shrink=0.8)


def _heatmap(ax: Axes, matrix: npt.NDArray[np.float64]) -> Any:
    """An image with a value in each cell where there is room."""
    ax.set_facecolor("#cccccc")  # shows where there is no value
    image = ax.imshow(matrix, vmin=0, vmax=1, cmap="cividis", origin="lower", aspect="auto", interpolation="nearest")
    ax.grid(visible=False)
    ax.locator_params(axis="x", integer=True)
    ax.locator_params(axis="y", integer=True)
    if matrix.shape[0] <= 7 and matrix.shape[1] <= 7:
        for (i, j), value in np.ndenumerate(matrix):
            if math.isfinite(value):
                ax.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=6, color="wk"[int(value > 0.5)])
    return image


def _draw_drift(figure: Figure, rows: Sequence[Row]) -> None:
    views, n_levels = distinct(rows, "view"), 1 + max(row["level"] for row in rows)
    figure.set_size_inches(WIDE, 2.7 * len(views) + 0.3)
    axes = figure.subplots(len(views), 2, squeeze=False)
    shown = sorted({0, n_levels // 2, n_levels - 1})
    for (left, right), view in zip(axes, views, strict=True):
        mine = rows_where(rows, view=view)
        matrix = np.stack([numbers(rows_where(mine, level=level), "cka") for level in range(n_levels)])
        figure.colorbar(_heatmap(left, matrix), ax=left, label="CKA with the start")
        left.set_ylabel("level (0: embeddings)")
        left.set_title(ROWS_IN_WORDS[view], loc="left")
        for i, level in enumerate(shown):
            at = rows_where(mine, level=level)
            name = "embeddings" if level == 0 else f"level {level}"
            style: dict[str, Any] = {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": LINES[i]}
            error_bars(right, numbers(at, "index"), at, "cka", label=name, **style)
            floor: dict[str, Any] = {"color": "#888888", "marker": MARKERS[i], "linestyle": LINES[i], "linewidth": 0.7}
            right.plot(
                numbers(at, "index"), numbers(at, "untrained"), markersize=2.5, label=f"{name}, untrained", **floor
            )
        start = rows_where(rows_where(mine, level=0), phase="start")[0]["index"]
        right.axvline(start, color="black", linewidth=0.7)
        right.set(ylabel="CKA with the start", ylim=(min(0.0, float(np.nanmin(matrix))) - 0.03, 1.03))
        for ax in (left, right):
            _checkpoint_ticks(ax, [row["checkpoint"] for row in rows_where(mine, level=0)])
    shared_legend(figure, [axes[0, 1]])


def _checkpoint_ticks(ax: Axes, names: Sequence[str]) -> None:
    every = math.ceil(len(names) / 12)
    places = range(0, len(names), every)
    short = [names[i].replace("pretrain_", "").replace("finetune_", "").replace("_", " ") for i in places]
    ax.set_xticks(places, short, rotation=45, ha="right", rotation_mode="anchor")


DRAWINGS: dict[str, Callable[[Figure, Sequence[Row]], None]] = {
    "pretraining": _draw_pretraining,
    "finetuning": _draw_finetuning,
    "two_by_two": _draw_two_by_two,
    "emergence": _draw_emergence,
    "probing": _draw_probing,
    "few_shot": _draw_few_shot,
    "breakdown": _draw_breakdown,
    "heatmaps": _draw_heatmaps,
    "drift": _draw_drift,
}
