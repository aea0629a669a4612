"""Figures of the emergence curve and of the data ablation: the numbers behind them, and what they look like."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from emergence.analysis.data_ablation import MIXED, ORDER, QUESTIONS, SHUFFLED, Plan, ablate
from emergence.analysis.emergence_curve import EmergenceCurve, emergence_curves, read_snapshot_probes
from emergence.analysis.figure_data import BY_ROLE, CELL_NAMES, Charts, Row
from emergence.analysis.figure_panels import (
    CELL_COLOURS,
    COLOURS,
    LINES,
    MARKERS,
    NARROW,
    WIDE,
    Axes,
    Figure,
    distinct,
    error_bars,
    numbers,
    rows_where,
    shared_legend,
    with_unit,
)
from emergence.analysis.figure_runs import ResultsFolder
from emergence.analysis.snapshot_results import GAIN
from emergence.measures.bootstrap import N_BOOT, Estimate
from emergence.measures.emergence_score import FROZEN, FULL
from emergence.measures.thresholds import N_DRAWS
from emergence.wording import counted

#: Drawn scores, from the top: the headline, and the smooth score that cannot jump by itself.
DRAWN = {"f1_tokens": "token F1 (test)", "log_prob": "span log-probability (nats)"}
POINT, FLOOR, NO_MODEL, THRESHOLD = "point", "floor", "no_model", "threshold"


def add_curve_charts(folder: ResultsFolder, out: Charts, *, n_boot: int = N_BOOT, n_draws: int = N_DRAWS) -> None:
    """The emergence curve of every setting whose snapshots were probed, and the data ablation."""
    paths = [found.run.path for found in folder.runs]
    results, problems = read_snapshot_probes(paths)
    for name, reason in problems:
        out.skip(f"emergence_curve of {name}", reason)
    if not results and not problems:
        out.skip("emergence_curve", "no run's snapshots were probed: emergence probe-snapshots RUN")
    by_label: dict[str, list[EmergenceCurve]] = {}
    for curve in emergence_curves(results, n_boot=n_boot, n_draws=n_draws):
        by_label.setdefault(curve.label, []).append(curve)
    for label, curves in by_label.items():
        name = "emergence_curve_" + "".join(c for c in label.replace(", ", "_") if c.isalnum() or c in "_-")
        rows = [row for curve in curves for row in _curve_rows(curve)]
        out.add(name, "emergence_curve", f"Emergence during pretraining: {label}", _caption(curves), rows, "")
    _ablation(folder, out, n_boot)
    _word_order(folder, out, n_boot)


def _caption(curves: Sequence[EmergenceCurve]) -> str:
    first = curves[0]
    level = first.points[0].scores["f1_tokens"].level
    seeds = counted(len(first.runs), "seed")
    verdicts = ", ".join(f"{curve.family} {curve.verdict.verdict}" for curve in curves)
    return (
        f"Probes on the frozen trunk of every snapshot, layer chosen on validation, against held-out loss (axis "
        f"reversed) and tokens seen. Bands: {level:.0%} intervals, sentences resampled ({first.n_questions:,} "
        f"questions of {first.n_sentences:,} sentences, {seeds}). Dashed: random trunks; dotted: best rule without a "
        f"model. Shaded: 95% interval of the break (of a logistic: the middle of the rise), where a test finds one. "
        f"Verdict: {verdicts}."
    )


def _curve_rows(curve: EmergenceCurve) -> list[Row]:
    names = ("mark", "family", "score", "axis", "role", "snapshot", "step", "tokens", "loss", "bits_per_byte")
    empty: Row = {**dict.fromkeys((*names, "value", "lo", "hi", "p", "n_questions")), "family": curve.family}
    rows: list[Row] = []
    for score in DRAWN:
        for point in curve.points:
            where = {"snapshot": point.name, "step": point.step, "tokens": point.tokens, "loss": point.loss}
            values = _ends(point.scores[score])
            rows.append(
                {**empty, "mark": POINT, "score": score, **where, "bits_per_byte": point.bits_per_byte, **values}
            )
        if score in curve.floor:
            rows.append({**empty, "mark": FLOOR, "score": score, **_ends(curve.floor[score])})
        for axis, by_score in curve.thresholds.items():
            if score in by_score:
                found = by_score[score]
                place = {"value": found.place.tau, "lo": found.place.lo, "hi": found.place.hi, "p": found.test.p}
                mark = THRESHOLD if found.found else "no_threshold"
                rows.append({**empty, "mark": mark, "score": score, "axis": axis, **place})
    for role, along_path in curve.by_role.items():
        for score, path in along_path.items():
            for point, estimate in zip(curve.points, path, strict=True):
                where = {"snapshot": point.name, "step": point.step, "tokens": point.tokens, "loss": point.loss}
                values = {**_ends(estimate), "n_questions": estimate.n}
                rows.append({**empty, "mark": BY_ROLE, "role": role, "score": score, **where, **values})
    return [*rows, {**empty, "mark": NO_MODEL, "score": "f1_tokens", "value": curve.no_model}]


def _ends(estimate: Estimate) -> Row:
    return {"value": estimate.point, "lo": estimate.lo, "hi": estimate.hi}


def _ablation(folder: ResultsFolder, out: Charts, n_boot: int) -> None:
    caption = (
        "Token F1 after one pretraining minus after another on the same number of tokens, paired by test question and "
        "seed. Bars: 95% intervals over sentences and seeds. wiki+nq minus wiki, above zero: questions in the text "
        "helped, or the short documents they come in; wiki+control has the short documents, cut from plain text, so "
        "wiki+nq minus wiki+control is the questions' own part."
    )
    rows = _differences(folder, out, "data_ablation", QUESTIONS, MIXED, n_boot)
    if rows:
        out.add("data_ablation", "data_ablation", "Questions in the pretraining text", caption, rows, "")


def _word_order(folder: ResultsFolder, out: Charts, n_boot: int) -> None:
    caption = (
        "Scores after pretraining on text minus after pretraining on the same text with the words of each sentence in "
        "random order, on the same number of tokens, paired by test question and seed. Bars: 95% intervals over "
        "sentences and seeds. Near zero: which words go together is all that the score needs of pretraining."
    )
    rows = _differences(folder, out, "word_order", ORDER, SHUFFLED, n_boot)
    if rows:
        out.add("word_order", "data_ablation", "Word order in the pretraining text", caption, rows, "")


def _differences(folder: ResultsFolder, out: Charts, name: str, plan: Plan, needs: str, n_boot: int) -> list[Row]:
    """A row for each difference; ``panel`` says where it is drawn. ``needs``: Data without which there is none."""
    found = ablate(folder.grouping, plan, n_boot=n_boot)
    if not found.cells and not found.refused:
        out.skip(name, f"no finished run here was pretrained on {needs}")
    for reason in (*found.refused, *found.missing):
        out.skip(name, reason)
    return [
        {
            "setting": cell.model,
            "panel": cell.contrast if plan is QUESTIONS else cell.by,
            "contrast": cell.contrast,
            "measure": cell.measure,
            "score": cell.score,
            "cell": cell.cell,
            "difference": cell.comparison.difference.point,
            "lo": cell.comparison.difference.lo,
            "hi": cell.comparison.difference.hi,
            "p": cell.comparison.p_sign_flip,
            "first": cell.mixed,
            "second": cell.base,
            "tokens": cell.tokens,
            "n_seeds": len(cell.seeds),
        }
        for cell in found.cells
    ]


# Drawings -----------------------------------------------------------------------------------------


def _draw_emergence_curve(figure: Figure, rows: Sequence[Row]) -> None:
    figure.set_size_inches(WIDE, 4.8)
    panels = figure.subplots(len(DRAWN), 2, sharey="row", sharex="col", squeeze=False)
    for (left, right), (score, words) in zip(panels, DRAWN.items(), strict=True):
        mine = rows_where(rows, score=score)
        for i, family in enumerate(distinct(mine, "family")):
            _draw_family((left, right), i, family, rows_where(mine, family=family))
        for row in rows_where(mine, mark=NO_MODEL)[:1]:
            for ax in (left, right):
                ax.axhline(row["value"], color="black", linestyle=":", linewidth=0.9, label="no model")
        left.set_ylabel(words)
    panels[-1, 0].set_xlabel("held-out loss (nats per token)")
    panels[-1, 1].set_xlabel("tokens seen")
    panels[0, 0].invert_xaxis()
    panels[0, 1].set_xscale("log")
    panels[0, 1].xaxis.set_major_formatter(with_unit)
    shared_legend(figure, panels.flat)


def _draw_family(axes: tuple[Axes, Axes], i: int, family: str, rows: Sequence[Row]) -> None:
    """One family's points, band, floor and threshold, against loss and against tokens."""
    colour, name = COLOURS[i], f"{family} probe"
    if family.startswith(GAIN):
        name = f"{family.removeprefix(GAIN)} probe beyond words"
    style: dict[str, Any] = {"color": colour, "marker": MARKERS[i], "linestyle": LINES[0], "label": name}
    for ax, axis in zip(axes, ("loss", "tokens"), strict=True):
        points = sorted((row for row in rows_where(rows, mark=POINT) if row[axis] > 0), key=lambda row: row["step"])
        x = numbers(points, axis)
        order = x.argsort()
        ax.plot(x, numbers(points, "value"), **style)
        band = (numbers(points, "lo")[order], numbers(points, "hi")[order])
        ax.fill_between(x[order], *band, color=colour, alpha=0.2, linewidth=0)
        for row in rows_where(rows, mark=FLOOR):
            ax.axhline(row["value"], color=colour, linestyle="--", linewidth=0.8, label=f"{name}, random trunk")
        for row in rows_where(rows, mark=THRESHOLD, axis=axis):
            ends = [v if axis == "loss" else 10**v for v in (row["lo"], row["hi"], row["value"])]
            if all(math.isfinite(v) for v in ends):
                ax.axvspan(*ends[:2], color=colour, alpha=0.12, linewidth=0)
                ax.axvline(ends[2], color=colour, linestyle="-.", linewidth=0.8)


def _draw_ablation(figure: Figure, rows: Sequence[Row]) -> None:
    settings, names = distinct(rows), distinct(rows, "panel")
    n_rows = math.ceil(len(names) / 3)
    figure.set_size_inches(NARROW if is_narrow_ablation(rows) else WIDE, 2.8 * n_rows)
    panels = figure.subplots(n_rows, math.ceil(len(names) / n_rows), sharey=True, squeeze=False)
    for ax in panels.flat[len(names) :]:
        ax.set_visible(False)
    for ax, name in zip(panels.flat, names, strict=False):
        for i, cell in enumerate((FULL, FROZEN)):
            mine = rows_where(rows, cell=cell, panel=name)
            x = [settings.index(row["setting"]) + 0.16 * (i - 0.5) for row in mine]
            style: dict[str, Any] = {"color": CELL_COLOURS[cell], "marker": MARKERS[i], "linestyle": "none"}
            if mine:
                error_bars(ax, x, mine, "difference", label=CELL_NAMES[cell], **style)
        ax.axhline(0, color="black", linewidth=0.7)
        ax.set_xticks(range(len(settings)), [setting.replace(" (", "\n(") for setting in settings])
        ax.set_xlim(-0.5, len(settings) - 0.5)
        ax.set_title(name.replace(" minus ", "\n\N{MINUS SIGN} ").replace(", ", ",\n"))
    is_f1 = all(row["score"] == "f1_tokens" for row in rows)
    for ax in panels[:, 0]:
        ax.set_ylabel("difference in token F1 (test)" if is_f1 else "difference (test)")
    shared_legend(figure, panels.flat)


def is_narrow_ablation(rows: Sequence[Row]) -> bool:
    """Whether one column of a paper holds the figure."""
    return len(distinct(rows)) * len(distinct(rows, "panel")) <= 3


CURVE_DRAWINGS: dict[str, Callable[[Figure, Sequence[Row]], None]] = {
    "emergence_curve": _draw_emergence_curve,
    "data_ablation": _draw_ablation,
}
