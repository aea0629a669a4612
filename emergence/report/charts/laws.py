"""Emergence laws that a folder stores: scores over the loss with the law, and elbows over the amount of questions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from emergence.findings.folder import ResultsFolder
from emergence.findings.stored_laws import StoredLaw, stored_laws
from emergence.report.blocks import Block, Bullets, table
from emergence.report.charts.chart import Chart, ChartKind, Charts, Figure, Row
from emergence.report.charts.drawing import COLOURS, MARKERS, error_bars, shared_legend, with_unit
from emergence.report.charts.rows import distinct, never, numbers, rows_where, slug

#: Marks of the figure's rows.
RUN, CURVE, OWN, LAW, LAW_AT, POINT = "run", "curve", "own elbow", "law", "elbow by the law", "emergence point"
TRAINED, TOLD = "trained range", "told"
_N_PLACES = 61


def _collect(folder: ResultsFolder, charts: Charts, n_boot: int) -> None:
    otherwise = "no law is stored here: emergence law fit TABLE|DIR --output FILE in this folder"
    laws = charts.take(KIND.name, stored_laws(folder.collection), otherwise)
    for law in laws:
        fit = "own elbows" if law.point is None else "the law"
        band = ""
        if law.point is not None:
            band = (
                f" Diamond and band: the emergence point at {law.point.amount:g} {law.what}, with its "
                f"{law.point.level:.0%} interval."
            )
        caption = (
            f"Left: score of every run against its pretraining loss (axis reversed), with {fit} of each number of "
            "training questions. Right: where the score begins to rise, for each number by itself (marks; a triangle "
            f"points to where an elbow lies beyond the losses) and by the law (line).{band} Grey: the losses that were "
            "trained."
        )
        of = slug(law.name.removesuffix(".json")) if len(laws) > 1 else ""
        about = f" ({law.about})" if law.about else ""
        charts.add(KIND, f"Emergence law of {law.table}{about}", caption, list(_rows(law)), of=of)


def _rows(law: StoredLaw) -> Iterator[Row]:
    empty: Row = dict.fromkeys(("mark", "amount", "fewshot", "loss", "score", "lo", "hi", "side", "told"))
    for i in range(len(law.loss)):
        values = {"amount": law.amount[i], "fewshot": int(law.fewshot[i]), "loss": law.loss[i], "score": law.score[i]}
        yield {**empty, "mark": RUN, **{key: float(value) for key, value in values.items()}}
    low, high = float(law.loss.min()), float(law.loss.max())
    yield {**empty, "mark": TRAINED, "loss": low, "lo": low, "hi": high}
    curve = law.law or law.free
    for amount, elbow in zip(curve.amounts, curve.elbows, strict=True):
        places = np.unique(np.append(np.linspace(low, high, _N_PLACES), np.clip(elbow, low, high)))
        for loss, score in zip(places, curve.score(float(elbow), places, law.link), strict=True):
            yield {**empty, "mark": CURVE, "amount": float(amount), "loss": float(loss), "score": float(score)}
    for amount, elbow, side in zip(law.free.amounts, law.free.elbows, law.side, strict=True):
        place = float(np.clip(elbow, low, high)) if side else float(elbow)
        yield {**empty, "mark": OWN, "amount": float(amount), "loss": place, "side": int(side)}
    if law.point is not None:
        for amount, elbow in zip(law.free.amounts, law.point.elbow(law.free.amounts), strict=True):
            yield {**empty, "mark": LAW_AT, "amount": float(amount), "loss": float(elbow)}
        amounts = np.geomspace(law.point.amount, law.free.amounts.max(), _N_PLACES)
        for amount, elbow in zip(amounts, law.point.elbow(amounts), strict=True):
            yield {**empty, "mark": LAW, "amount": float(amount), "loss": float(elbow)}
        ends = {"loss": law.point.loss, "lo": law.point.lo, "hi": law.point.hi}
        yield {**empty, "mark": POINT, "amount": law.point.amount, **ends}
    yield from ({**empty, "mark": TOLD, "told": sentence} for sentence in law.sentences())


def _draw(figure: Figure, rows: Sequence[Row]) -> None:
    figure.set_figheight(3.1)
    left, right = figure.subplots(1, 2)
    points, trained = rows_where(rows, mark=POINT), rows_where(rows, mark=TRAINED)[0]
    ends = [float(v) for row in (*points, *rows_where(rows, mark=OWN)) for v in numbers([row], "loss")]
    ends += [v for row in points for key in ("lo", "hi") for v in numbers([row], key) if np.isfinite(v)]
    low, high = min(trained["lo"], *ends), max(trained["hi"], *ends)
    low, high = low - 0.04 * (high - low), high + 0.04 * (high - low)
    amounts = distinct(rows_where(rows, mark=OWN), "amount")
    styles = {a: {"color": COLOURS[i % 6], "marker": MARKERS[i % 7]} for i, a in enumerate(amounts)}
    _scores(left, rows, styles)
    _elbows(right, rows, styles)
    for row in points:
        lo, hi = np.clip([row["lo"], row["hi"]], low, high)
        left.axvspan(lo, hi, color=COLOURS[6], alpha=0.16, linewidth=0, label="interval of the point")
        left.axvline(row["loss"], color=COLOURS[6], linewidth=0.8)
        right.axhspan(lo, hi, color=COLOURS[6], alpha=0.16, linewidth=0)
    grey: dict[str, Any] = {"color": "#888888", "alpha": 0.12, "linewidth": 0, "zorder": 0}
    left.axvspan(trained["lo"], trained["hi"], **grey, label="losses trained")
    right.axhspan(trained["lo"], trained["hi"], **grey)
    left.set(xlabel="pretraining loss", ylabel="score", xlim=(high, low))
    right.set(xlabel="training questions", ylabel="loss at which it emerges", ylim=(high, low))
    right.set_xscale("log")
    right.xaxis.set_major_formatter(with_unit)
    shared_legend(figure, [left, right])


def _scores(ax: Any, rows: Sequence[Row], styles: dict[Any, dict[str, Any]]) -> None:
    few = rows_where(rows, mark=RUN, fewshot=1)
    if few:
        shots = ", ".join(f"{n:g}" for n in distinct(few, "amount"))
        style: dict[str, Any] = {"color": COLOURS[6], "marker": "*", "markerfacecolor": "white", "linestyle": "none"}
        ax.plot(numbers(few, "loss"), numbers(few, "score"), **style, label=f"{shots} shots", markersize=6)
    for amount, style in styles.items():
        mine = rows_where(rows, mark=RUN, amount=amount, fewshot=0)
        label = f"{with_unit(amount, 0)} questions"
        ax.plot(numbers(mine, "loss"), numbers(mine, "score"), **style, linestyle="none", markersize=3.2, label=label)
        curve = rows_where(rows, mark=CURVE, amount=amount)
        ax.plot(numbers(curve, "loss"), numbers(curve, "score"), color=style["color"], linewidth=0.9)


def _elbows(ax: Any, rows: Sequence[Row], styles: dict[Any, dict[str, Any]]) -> None:
    for row in rows_where(rows, mark=OWN):
        style = {**styles[row["amount"]], "linestyle": "none"}
        if row["side"]:  # the axis is reversed: lower losses are up
            style |= {"marker": "^" if row["side"] < 0 else "v", "markerfacecolor": "white"}
        ax.plot(row["amount"], row["loss"], **style)
    law = rows_where(rows, mark=LAW)
    if law:
        ax.plot(numbers(law, "amount"), numbers(law, "loss"), color="black", linewidth=1.0, label="law")
    for row in rows_where(rows, mark=POINT):
        style = {"color": "black", "marker": "D", "markersize": 5, "linestyle": "none", "label": POINT}
        error_bars(ax, [row["amount"]], [row], "loss", **style)


def _series(rows: Sequence[Row]) -> list[str]:
    own = rows_where(rows, mark=OWN)
    phrases = [f"{with_unit(row['amount'], 0)} questions: own elbow {_own_elbow(row)}" for row in own]
    for row in rows_where(rows, mark=POINT):
        ends = ", ".join(f"{row[key]:.3f}" if np.isfinite(row[key]) else "unbounded" for key in ("lo", "hi"))
        phrases.append(f"emergence point at {row['amount']:g}: {row['loss']:.3f} [{ends}]")
    return phrases


def _own_elbow(row: Row) -> str:
    return f"{ {-1: 'below ', 1: 'above ', 0: ''}[row['side']] }{row['loss']:.3f}"


def _loss(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.3f}"


def _tables(chart: Chart, reasons: Sequence[str]) -> Iterable[Block]:
    yield Bullets(tuple(row["told"] for row in rows_where(chart.rows, mark=TOLD)))
    own = rows_where(chart.rows, mark=OWN)
    law = {row["amount"]: row["loss"] for row in rows_where(chart.rows, mark=LAW_AT)}
    rows = [(with_unit(row["amount"], 0), _own_elbow(row), _loss(law.get(row["amount"]))) for row in own]
    yield from table(f"{chart.title}: where the score begins to rise", ("Questions", "Own elbow", "By the law"), rows)


KIND = ChartKind("laws", 95, "laws", _collect, _draw, _series, never, _tables)
