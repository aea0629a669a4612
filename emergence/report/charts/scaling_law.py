"""Scaling laws that a folder stores: loss over parameters with the law, and the parameters that a compute buys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from emergence.findings.folder import ResultsFolder
from emergence.findings.stored_laws import StoredScaling, stored_scaling_laws
from emergence.report.blocks import Block, Bullets, table
from emergence.report.charts.chart import Chart, ChartKind, Charts, Figure, Row
from emergence.report.charts.drawing import COLOURS, LINES, MARKERS, shared_legend, with_unit
from emergence.report.charts.rows import distinct, never, numbers, rows_where, slug

#: Marks of the figure's rows.
RUN, CURVE, BEST, ASKED, CONSTANT, TOLD = "run", "law", "least loss", "asked compute", "constant", "told"
_N_PLACES, _MOST_CURVES, _FEW_CURVES = 41, 6, 4


def _collect(folder: ResultsFolder, charts: Charts, n_boot: int) -> None:
    otherwise = "no scaling law is stored here: emergence law scaling TABLE|DIR --output FILE"
    laws = charts.take(KIND.name, stored_scaling_laws(folder.collection), otherwise)
    for law in laws:
        right = "Right: N that spends a compute C = 6·N·D best, and that compute's least loss."
        caption = (
            f"Left: loss of every run against {law.count}, N, on log axes, with the law at some numbers of training "
            f"tokens D. {right if law.fit.has_tokens else ''} Constants have 90% bootstrap intervals of runs."
        )
        of = slug(f"{law.name.removesuffix('.json')} {law.count}") if len(laws) > 1 else ""
        charts.add(KIND, f"Scaling law of {law.table}, N: {law.count}", caption, list(_rows(law)), of=of)


def _rows(law: StoredScaling) -> Iterator[Row]:
    empty: Row = dict.fromkeys(("mark", "params", "tokens", "loss", "compute", "lo", "hi", "name", "value", "told"))
    for n, d, loss in zip(law.runs.params, law.runs.tokens, law.runs.loss, strict=True):
        yield {**empty, "mark": RUN, "params": float(n), "tokens": float(d), "loss": float(loss)}
    places = np.geomspace(law.runs.params.min(), law.runs.params.max(), _N_PLACES)
    different = np.unique(law.runs.tokens)
    if len(different) > _MOST_CURVES:
        different = np.unique(np.quantile(law.runs.tokens, np.linspace(0, 1, _FEW_CURVES), method="nearest"))
    for d in different:
        for n, loss in zip(places, law.fit.predict(places, np.full(_N_PLACES, d)), strict=True):
            yield {**empty, "mark": CURVE, "params": float(n), "tokens": float(d), "loss": float(loss)}
    if law.fit.has_tokens:
        spent = 6 * law.runs.params * law.runs.tokens
        asked = [best[0] for best in law.optima]
        for c in np.geomspace(min(spent.min(), *asked, np.inf), max(spent.max(), *asked, 0.0), _N_PLACES):
            n, d, loss = law.fit.optimal(float(c))
            yield {**empty, "mark": BEST, "compute": float(c), "params": n, "tokens": d, "loss": loss}
        for compute, n, lo, hi, loss in law.optima:
            yield {**empty, "mark": ASKED, "compute": compute, "params": n, "lo": lo, "hi": hi, "loss": loss}
    for name, (lo, hi) in law.intervals.items():
        yield {**empty, "mark": CONSTANT, "name": name, "value": getattr(law.fit, name), "lo": lo, "hi": hi}
    yield from ({**empty, "mark": TOLD, "told": sentence} for sentence in _sentences(law))


def _sentences(law: StoredScaling) -> Iterator[str]:
    yield (
        "It assumes that the loss falls to an unreachable floor E as a power of the parameters and a power of the "
        "tokens, each by itself, with the same constants at sizes that nobody trained."
    )
    if law.held_out:
        worst = max(error for _, error in law.held_out)
        yield (
            f"Fitted to the smaller sizes alone, at {len(law.held_out)} cuts, it predicts the larger ones with a mean "
            f"error of at most {worst:.2%}: what it says of sizes beyond these may be off by as much, or more."
        )
    else:
        yield "Nothing could be held out, so nobody knows how far off it is beyond these sizes."


def _draw(figure: Figure, rows: Sequence[Row]) -> None:
    figure.set_figheight(2.9)
    best = rows_where(rows, mark=BEST)
    axes = figure.subplots(1, 2 if best else 1, squeeze=False)[0]
    runs, curves = rows_where(rows, mark=RUN), rows_where(rows, mark=CURVE)
    axes[0].scatter(numbers(runs, "params"), numbers(runs, "loss"), s=9, color="#888888", label="runs")
    for i, d in enumerate(distinct(curves, "tokens")):
        mine = rows_where(curves, tokens=d)
        style: dict[str, Any] = {"color": COLOURS[i % 7], "linestyle": LINES[i % 4]}
        label = f"D = {float(d):.3g}" if best else "law"
        axes[0].plot(numbers(mine, "params"), numbers(mine, "loss"), **style, label=label)
    axes[0].set(xlabel="parameters, N", ylabel="loss", xscale="log", yscale="log")
    axes[0].yaxis.set_major_formatter(with_unit)
    axes[0].yaxis.set_minor_formatter(with_unit)
    if best:
        axes[1].plot(numbers(best, "compute"), numbers(best, "params"), color="black", label="least loss")
        for row in rows_where(rows, mark=ASKED):
            style = {"color": COLOURS[1], "marker": MARKERS[3], "linestyle": "none", "label": ASKED}
            whiskers = [[row["params"] - row["lo"]], [row["hi"] - row["params"]]]
            axes[1].errorbar([row["compute"]], [row["params"]], yerr=np.maximum(whiskers, 0.0), **style)
        axes[1].set(xlabel="compute, C = 6·N·D", ylabel="parameters, N", xscale="log", yscale="log")
    shared_legend(figure, axes)


def _series(rows: Sequence[Row]) -> list[str]:
    constants = [
        f"{row['name']} {row['value']:.4g} [{row['lo']:.4g}, {row['hi']:.4g}]"
        for row in rows_where(rows, mark=CONSTANT)
    ]
    asked = [
        f"C = {row['compute']:.3g}: N = {row['params']:.3g} [{row['lo']:.3g}, {row['hi']:.3g}], loss {row['loss']:.3f}"
        for row in rows_where(rows, mark=ASKED)
    ]
    return [*constants, *asked]


def _tables(chart: Chart, reasons: Sequence[str]) -> Iterable[Block]:
    yield Bullets(tuple(row["told"] for row in rows_where(chart.rows, mark=TOLD)))
    constants = [
        (row["name"], f"{row['value']:.5g}", f"{row['lo']:.5g}", f"{row['hi']:.5g}")
        for row in rows_where(chart.rows, mark=CONSTANT)
    ]
    yield from table(f"{chart.title}: constants", ("Constant", "Fitted", "from", "to"), constants)


KIND = ChartKind("scaling_law", 97, "laws", _collect, _draw, _series, never, _tables)
