"""Scores of probed snapshots along pretraining: against held-out loss, and against tokens seen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from emergence.findings.folder import ResultsFolder
from emergence.findings.revision_curve import revision_probes
from emergence.findings.scores import SetScores
from emergence.findings.snapshot_curve import EmergenceCurve, emergence_curves, read_snapshot_probes
from emergence.measures.bootstrap import Estimate
from emergence.measures.emergence_score import FULL
from emergence.measures.thresholds import N_DRAWS
from emergence.report.blocks import Block, table
from emergence.report.charts.chart import Chart, ChartKind, Charts, Figure, Row
from emergence.report.charts.drawing import COLOURS, LINES, MARKERS, Axes, reference_lines, shared_legend, with_unit
from emergence.report.charts.rows import NO_MODEL, WORDS_ALONE, distinct, ends_in_words, never, numbers, rows_where
from emergence.studies.snapshots.result import GAIN, title_of
from emergence.wording import counted, format_interval

#: The drawn scores from the top: the headline, and the smooth score, which cannot jump by itself.
DRAWN = {"f1_tokens": "token F1 (test)", "log_prob": "span log-probability (nats)"}
POINT, FLOOR, THRESHOLD = "point", "floor", "threshold"
#: Marks of level lines.
LEVEL = (NO_MODEL, WORDS_ALONE, FULL)
#: Mark of a curve's scores by asked role. A table has them, because eight drawn curves would hide each other.
BY_ROLE = "by_role"


def collect(folder: ResultsFolder, charts: Charts, n_boot: int, *, n_draws: int = N_DRAWS) -> None:
    """The emergence curve of every setting whose snapshots were probed."""
    paths = [on_disk.run.path for on_disk in folder.runs]
    results, problems = read_snapshot_probes(paths)
    results += revision_probes(folder.collection.found)
    for name, reason in problems:
        charts.skip(f"emergence_curve of {name}", reason)
    if not results and not problems:
        charts.skip(KIND.name, "no run's snapshots were probed: emergence probe-snapshots RUN")
    by_label: dict[str, list[EmergenceCurve]] = {}
    for curve in emergence_curves(results, n_boot=n_boot, n_draws=n_draws):
        by_label.setdefault(curve.label, []).append(curve)
    for label, curves in by_label.items():
        of = "".join(c for c in label.replace(", ", "_") if c.isalnum() or c in "_-")
        rows = [row for curve in curves for row in _curve_rows(curve)]
        ends = next((s for s in folder.settings if s.comparable.label == label), None)
        rows += [{**dict.fromkeys(rows[0]), **line} for line in _references(ends)]
        charts.add(KIND, f"Emergence during pretraining: {label}", _caption(curves), rows, of=of)


def _references(scores: SetScores | None) -> Iterator[Row]:
    """Test F1 of the scorer of words and positions, and of full finetuning after the whole pretraining."""
    if scores is None:
        return
    lines = {WORDS_ALONE: scores.comparable.model_free.words, FULL: scores.headline.f1.get(FULL)}
    for mark, estimate in lines.items():
        if estimate:
            yield {"mark": mark, "score": "f1_tokens", "value": estimate.point}


def _caption(curves: Sequence[EmergenceCurve]) -> str:
    first = curves[0]
    level = first.points[0].scores["f1_tokens"].level
    seeds = counted(len(first.runs), "seed")
    verdicts = "; ".join(f"{title_of(curve.family)}: {curve.verdict.verdict}" for curve in curves)
    fitted = f"fitted on {first.training_words}" if first.training_words else ""
    return (
        f"Probes on the frozen trunk of every snapshot, {fitted}layer chosen on validation, against held-out loss "
        f"(axis reversed) and tokens seen. Bands: {level:.0%} intervals, sentences resampled ({first.n_questions:,} "
        f"questions of {first.n_sentences:,} sentences, {seeds}). Thin dashed: random trunks. Log-probabilities are of "
        "the probes alone; the data file has what they add, too. A snapshot of no tokens is not on that axis. Level "
        "lines, where known, with the training questions of the runs themselves: all weights trained after the whole "
        "pretraining, and what needs no language model. Dotted: a break, where a test finds one, and shaded its 95% "
        "interval (of a logistic: the middle of the rise). "
        f"Verdicts, along the loss: {verdicts}."
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
                threshold = by_score[score]
                tau, lo, hi = threshold.place.tau, threshold.place.lo, threshold.place.hi
                place = {"value": tau, "lo": lo, "hi": hi, "p": threshold.test.p}
                mark = THRESHOLD if threshold.is_break else "no_threshold"
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


def _draw(figure: Figure, rows: Sequence[Row]) -> None:
    families = distinct([row for row in rows if row["mark"] not in LEVEL], "family")
    gains = [family for family in families if family.startswith(GAIN)]
    probes = [family for family in families if family not in gains]
    # Gains have a row of their own: next to scores they would lie on 0.
    drawn = [("f1_tokens", probes, DRAWN["f1_tokens"]), ("log_prob", probes, DRAWN["log_prob"])]
    drawn[1:1] = [("f1_tokens", gains, "token F1 added to\nwords and positions")] if gains else []
    figure.set_figheight(0.6 + 2.1 * len(drawn))
    panels = figure.subplots(len(drawn), 2, sharey="row", sharex="col", squeeze=False)
    for (left, right), (score, in_row, words) in zip(panels, drawn, strict=True):
        mine = rows_where(rows, score=score)
        for family in in_row:
            _draw_family((left, right), families.index(family), family, rows_where(mine, family=family))
        levels = [{"cell": row["mark"], "f1": row["value"]} for row in mine if row["mark"] in LEVEL]
        for ax in (left, right):
            reference_lines(ax, levels if in_row is probes else [])
        if score == "f1_tokens":
            left.set_ylim(min(0, *left.get_ylim()), None)
        left.set_ylabel(words)
    panels[-1, 0].set_xlabel("held-out loss (nats per token)")
    panels[-1, 1].set_xlabel("tokens seen")
    panels[0, 0].invert_xaxis()
    panels[0, 1].set_xscale("log")
    panels[0, 1].xaxis.set_major_formatter(with_unit)
    shared_legend(figure, panels.flat)


def _draw_family(axes: tuple[Axes, Axes], i: int, family: str, rows: Sequence[Row]) -> None:
    """Draw one family's points, band, floor and threshold, against loss and against tokens."""
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
                ax.axvline(ends[2], color=colour, linestyle=(0, (1, 1)), linewidth=1.2, label=f"{name}, break")


def _series(rows: Sequence[Row]) -> list[str]:
    points = [row for row in rows if row["mark"] == POINT and row["loss"] is not None]
    return ends_in_words(points, lambda row: f"{row['family']} probe, {row['score']} by tokens", "tokens", "value")


def _tables(chart: Chart, reasons: Sequence[str]) -> Iterable[Block]:
    """Scores by asked role along the snapshots, a table for each family. Results without roles have none."""
    rows = rows_where(chart.rows, mark=BY_ROLE)
    for family in distinct(rows, "family"):
        mine = rows_where(rows, family=family)
        steps = sorted({(row["step"], row["tokens"], row["loss"]) for row in mine})
        keys = dict.fromkeys((row["role"], row["score"], row["n_questions"]) for row in mine)
        by_place = {(row["role"], row["score"], row["step"]): row for row in mine}
        yield from table(
            f"{chart.title}, {family} probe: by the role that the question asks for",
            ("Role", "Score", "n", *(f"{tokens:,.0f} tokens, loss {loss:.2f}" for _, tokens, loss in steps)),
            [
                (role, score, f"{n:,}", *(_ends_of(by_place.get((role, score, step))) for step, _, _ in steps))
                for role, score, n in keys
            ],
        )


def _ends_of(row: Mapping[str, Any] | None) -> str:
    return "" if row is None else format_interval(row["value"], row["lo"], row["hi"], 3)


KIND = ChartKind("emergence_curve", 90, "curve", collect, _draw, _series, never, _tables)
