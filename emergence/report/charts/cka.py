"""Temporal CKA of runs and of published models' revisions: heatmaps, and drift from the start or the last revision."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from emergence.errors import RunDirectoryError
from emergence.findings.folder import ResultsFolder
from emergence.report.charts.chart import ChartKind, Charts, Figure, Row
from emergence.report.charts.drawing import COLOURS, LINES, MARKERS, Axes, error_bars, shared_legend
from emergence.report.charts.rows import distinct, never, numbers, rows_where
from emergence.studies.cka.result import FILES, read_result

ROWS_IN_WORDS = {"sentence/raw": "sentences (mean over tokens)", "predicate/raw": "predicate tokens"}

Arrays = Mapping[str, npt.NDArray[np.float64]]


def _collect(folder: ResultsFolder, charts: Charts, n_boot: int) -> None:
    """Heatmaps and drift curves of every run and every model that was analysed."""
    places = {on_disk.name: on_disk.run.path / FILES.folder for on_disk in folder.runs}
    # Of published models, whose results lie beside the runs.
    places |= {path.name: path for path in sorted((folder.root / FILES.name).glob("*")) if path.is_dir()}
    places = {name: where for name, where in places.items() if (where / FILES.json_file).is_file()}
    for name, where in places.items():
        try:
            content, arrays = read_result(where)
        except RunDirectoryError as error:
            charts.skip(f"{KIND.name}_{name}", str(error))
            continue
        _charts_of(name, content, arrays, charts)
    if not places:
        charts.skip(KIND.name, "no run was analysed: python temporal_cka_analysis.py --model-dir RUN")


def _charts_of(name: str, content: Mapping[str, Any], arrays: Arrays, charts: Charts) -> None:
    run, settings = content["runs"][0], content["settings"]
    n = f"{content['probe']['sentences']:,} sentences, {content['probe']['predicates']:,} predicates"
    how = f"{settings['estimator'].capitalize()} {settings['kernel']} CKA on {n}."
    frozen = " The trunk was frozen: similarity 1 after the start is so by construction." * run["trunk_never_moved"]
    caption = f"{how} Level 0: embeddings.{frozen} Grey: undefined."
    rows = [row for view in ROWS_IN_WORDS for row in _heatmaps(view, run, arrays)]
    reason = "the analysis holds neither sentence nor predicate rows"
    charts.add(KIND, "Levels against each other", caption, rows, reason, of=f"heatmaps_{name}")
    reference = _reference(run)
    whole = "the start of finetuning" if reference == "the start" else reference
    left_out = "".join(f" {note[0].upper()}{note[1:]}." for note in content["notes"] if note.startswith("left out: "))
    caption = (
        f"{how} Each checkpoint against {whole}. Bars: {settings['level']:.0%} intervals over "
        f"sentences. Grey: mean similarity of the same levels to {settings['random_seeds']} untrained trunks.{frozen}"
        f"{left_out}"
    )
    rows = [row for view in ROWS_IN_WORDS for row in _drift(view, run, arrays)]
    title = "Drift from the start of finetuning" if reference == "the start" else "The way to the last revision"
    charts.add(_DRIFT, title, caption, rows, "no drift curves", of=f"drift_{name}")
    if len(content["runs"]) > 1:
        other = content["runs"][1]["run_id"]
        rows = [row for view in ROWS_IN_WORDS for row in _cross(view, arrays)]
        title, caption = f"Levels against those of {other}", f"{how} Level 0: embeddings."
        charts.add(KIND, title, caption, rows, "nothing to compare", of=f"against_{name}")


def _reference(run: Mapping[str, Any]) -> str:
    """What points are compared with; older files are all of runs."""
    return str(run.get("reference", "the start"))


def _heatmaps(view: str, run: Mapping[str, Any], arrays: Arrays) -> Iterator[Row]:
    if f"run/{view}/layers" not in arrays:
        return
    start, names = run["start_index"], [point["name"] for point in run["checkpoints"]]
    layers, from_start = arrays[f"run/{view}/layers"], arrays[f"run/{view}/from_start"]
    at = "the start" if _reference(run) == "the start" else _short(names[start])
    short = at.removeprefix("the ")
    panels = {short: (layers[start], f"level at {at}", f"level at {at}")}
    if start > 0:
        panels[f"{_short(names[0])} to {short}"] = (from_start[0], f"level at {at}", f"level at {_short(names[0])}")
    if len(names) > start + 1:
        last = _short(names[-1])
        panels[f"{short} to {last}"] = (from_start[-1], f"level at {at}", f"level at {last}")
        panels[last] = (layers[-1], f"level at {last}", f"level at {last}")
    for panel, (matrix, rows, columns) in panels.items():
        yield from _cells(view, panel, matrix, rows, columns)


def _cross(view: str, arrays: Arrays) -> Iterator[Row]:
    for end, words in (("start", "where both began"), ("last", "where both ended")):
        if f"cross/{view}/{end}" in arrays:
            yield from _cells(view, words, arrays[f"cross/{view}/{end}"], "level of this run", "level of the other")


def _cells(view: str, panel: str, matrix: npt.NDArray[np.float64], rows: str, columns: str) -> Iterator[Row]:
    for (i, j), value in np.ndenumerate(matrix):
        place = {"view": view, "panel": panel, "row_axis": rows, "column_axis": columns, "row": i, "column": j}
        yield {**place, "cka": float(value)}


def _drift(view: str, run: Mapping[str, Any], arrays: Arrays) -> Iterator[Row]:
    if f"run/{view}/drift" not in arrays:
        return
    drift, lo, hi = (arrays[f"run/{view}/{key}"] for key in ("drift", "drift_lo", "drift_hi"))
    random, noise = arrays[f"run/{view}/random"], arrays[f"run/{view}/noise"]
    for (t, level), value in np.ndenumerate(drift):
        point = run["checkpoints"][t]
        yield {
            "view": view,
            "index": t,
            "checkpoint": point["name"],
            "phase": point["phase"],
            "level": level,
            "cka": float(value),
            "lo": float(lo[t, level]),
            "hi": float(hi[t, level]),
            "untrained": float(random[:, t, level].mean()) if len(random) else math.nan,
            "noise": float(noise[t, level]),
        }


def _short(name: str) -> str:
    """``finetune_epoch_3`` as ``epoch 3``, ``pretrain_step_64`` as ``step 64``."""
    return name.removeprefix("finetune_").removeprefix("pretrain_").replace("_", " ")


def _draw_heatmaps(figure: Figure, rows: Sequence[Row]) -> None:
    views, panels = distinct(rows, "view"), distinct(rows, "panel")
    figure.set_figheight((0.85 * figure.get_figwidth() / len(panels) + 0.6) * len(views))
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
    figure.set_figheight(2.7 * len(views) + 0.3)
    axes = figure.subplots(len(views), 2, squeeze=False)
    shown = sorted({0, n_levels // 2, n_levels - 1})
    for (left, right), view in zip(axes, views, strict=True):
        mine = rows_where(rows, view=view)
        matrix = np.stack([numbers(rows_where(mine, level=level), "cka") for level in range(n_levels)])
        reference = rows_where(rows_where(mine, level=0), phase="start")[0]
        start = "the start" if reference["checkpoint"] == "pretrained" else reference["checkpoint"]
        figure.colorbar(_heatmap(left, matrix), ax=left, label=f"CKA with {start}")
        left.set_ylabel("level (0: embeddings)")
        left.set_title(ROWS_IN_WORDS[view], loc="left")
        for i, level in enumerate(shown):
            of_level = rows_where(mine, level=level)
            name = "embeddings" if level == 0 else f"level {level}"
            style: dict[str, Any] = {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": LINES[i]}
            error_bars(right, numbers(of_level, "index"), of_level, "cka", label=name, **style)
            floor: dict[str, Any] = {"color": "#888888", "marker": MARKERS[i], "linestyle": LINES[i], "linewidth": 0.7}
            untrained = numbers(of_level, "untrained")
            right.plot(numbers(of_level, "index"), untrained, markersize=2.5, label=f"{name}, untrained", **floor)
        right.axvline(reference["index"], color="black", linewidth=0.7)
        right.set(ylabel=f"CKA with {start}", ylim=(min(0.0, float(np.nanmin(matrix))) - 0.03, 1.03))
        for ax in (left, right):
            _checkpoint_ticks(ax, [row["checkpoint"] for row in rows_where(mine, level=0)])
    shared_legend(figure, [axes[0, 1]])


def _checkpoint_ticks(ax: Axes, names: Sequence[str]) -> None:
    every = math.ceil(len(names) / 12)
    places = range(0, len(names), every)
    short = [names[i].replace("pretrain_", "").replace("finetune_", "").replace("_", " ") for i in places]
    ax.set_xticks(places, short, rotation=45, ha="right", rotation_mode="anchor")


def _has_one_panel(rows: Sequence[Row]) -> bool:
    return len(distinct(rows, "panel")) == 1


def _series(rows: Sequence[Row]) -> list[str]:
    values = [row["cka"] for row in rows if row["cka"] is not None and math.isfinite(row["cka"])]
    return [f"CKA from {min(values):.2f} to {max(values):.2f} over {len(values)} values" if values else "all undefined"]


KIND = ChartKind("cka", 120, "cka", _collect, _draw_heatmaps, _series, _has_one_panel)
_DRIFT = replace(KIND, draw=_draw_drift, is_narrow=never)
