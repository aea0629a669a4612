"""The numbers behind the temporal CKA figures, from what ``temporal_cka_analysis.py`` left in a run directory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emergence.analysis.figure_data import Charts, Row
from emergence.analysis.figure_runs import ResultsFolder
from emergence.errors import RunDirectoryError

#: As ``emergence.analysis.temporal_cka.RESULT_FOLDER``, which cannot be imported without torch.
RESULT_FOLDER = Path("analysis") / "temporal_cka"
ROWS_IN_WORDS = {"sentence/raw": "sentences (mean over tokens)", "predicate/raw": "predicate tokens"}

Arrays = Mapping[str, npt.NDArray[np.float64]]


def add_cka_charts(folder: ResultsFolder, out: Charts) -> None:
    """Heatmaps and drift curves of every run that was analysed."""
    from emergence.analysis.temporal_cka_result import JSON_FILE, read_result

    found_any = False
    for found in folder.runs:
        where = found.run.path / RESULT_FOLDER
        if not (where / JSON_FILE).is_file():
            continue
        found_any = True
        try:
            content, arrays = read_result(where)
        except RunDirectoryError as error:
            out.skip(f"cka_{found.name}", str(error))
            continue
        _charts_of(found.name, content, arrays, out)
    if not found_any:
        out.skip("cka", "no run was analysed: python temporal_cka_analysis.py --model-dir RUN")


def _charts_of(name: str, content: Mapping[str, Any], arrays: Arrays, out: Charts) -> None:
    run, settings = content["runs"][0], content["settings"]
    n = f"{content['probe']['sentences']:,} sentences, {content['probe']['predicates']:,} predicates"
    how = f"{settings['estimator'].capitalize()} {settings['kernel']} CKA on {n}."
    frozen = " The trunk was frozen: similarity 1 after the start is so by construction." * run["trunk_never_moved"]
    out.add(
        f"cka_heatmaps_{name}",
        "heatmaps",
        "Levels against each other",
        f"{how} Level 0: embeddings.{frozen} Grey: undefined.",
        [row for view in ROWS_IN_WORDS for row in _heatmaps(view, run, arrays)],
        "the analysis holds neither sentence nor predicate rows",
    )
    caption = (
        f"{how} Each checkpoint against the start of finetuning. Bars: {settings['level']:.0%} intervals over "
        f"sentences. Grey: mean similarity of the same levels to {settings['random_seeds']} untrained trunks.{frozen}"
    )
    rows = [row for view in ROWS_IN_WORDS for row in _drift(view, run, arrays)]
    out.add(f"cka_drift_{name}", "drift", "Drift from the start of finetuning", caption, rows, "no drift curves")
    if len(content["runs"]) > 1:
        other = content["runs"][1]["run_id"]
        rows = [row for view in ROWS_IN_WORDS for row in _cross(view, arrays)]
        title = f"Levels against those of {other}"
        out.add(f"cka_against_{name}", "heatmaps", title, f"{how} Level 0: embeddings.", rows, "nothing to compare")


def _heatmaps(view: str, run: Mapping[str, Any], arrays: Arrays) -> Iterator[Row]:
    if f"run/{view}/layers" not in arrays:
        return
    start, names = run["start_index"], [point["name"] for point in run["checkpoints"]]
    layers, from_start = arrays[f"run/{view}/layers"], arrays[f"run/{view}/from_start"]
    panels = {"start": (layers[start], "level at the start", "level at the start")}
    if start > 0:
        panels[f"{_short(names[0])} to start"] = (from_start[0], "level at the start", f"level at {_short(names[0])}")
    if len(names) > start + 1:
        last = _short(names[-1])
        panels[f"start to {last}"] = (from_start[-1], "level at the start", f"level at {last}")
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
