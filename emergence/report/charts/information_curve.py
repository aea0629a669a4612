"""Information emergence minus that of each control, snapshot by snapshot, one figure a set of texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from emergence.findings.folder import ResultsFolder
from emergence.findings.trunk_studies import read_studies
from emergence.report.blocks import Block, Bullets, table
from emergence.report.charts.chart import Chart, ChartKind, Charts, Figure, Row
from emergence.report.charts.drawing import COLOURS, LINES, MARKERS, error_bars, shared_legend, with_unit
from emergence.report.charts.rows import named_apart, never, numbers, rows_where, slug, value_words
from emergence.studies.information.curve import FILES, InformationCurve, read_result
from emergence.studies.information.result import CONTROLS
from emergence.wording import format_interval


def _collect(folder: ResultsFolder, charts: Charts, n_boot: int) -> None:
    curves = charts.take(KIND.name, read_studies(folder, FILES, read_result))
    curves = named_apart(curves, lambda c: (c.settings["texts"], c.settings["length"]), InformationCurve.asked)
    for texts in dict.fromkeys(str(curve.settings["texts"]) for curve in curves):
        mine = sorted((c for c in curves if c.settings["texts"] == texts), key=lambda c: int(c.settings["length"]))
        caption = (
            "Mean information emergence over the blocks after the first, minus that of a control, at every snapshot of "
            "pretraining. Bits, Gaussian estimate; bars: 95% intervals over seeds, or within them. All snapshots read "
            "the same texts and have the same random twins. Dotted: no difference."
        )
        rows = [row for curve in mine for row in _rows(curve)]
        charts.add(KIND, f"Information emergence along pretraining: {texts}", caption, rows, of=slug(texts))


def _rows(curve: InformationCurve) -> Iterator[Row]:
    shared = {"name": str(curve.subject["name"]), "length": int(curve.settings["length"]), "n": curve.n}
    for place, result in zip(curve.places, curve.results, strict=True):
        for control in CONTROLS:
            found = result.emergence.difference(control, None, curve.n)
            yield {
                **shared,
                "snapshot": place.name,
                "step": place.step,
                "tokens": place.tokens_seen,
                "minus": control,
                "delta": found.point,
                "lo": found.lo,
                "hi": found.hi,
                "n_seeds": found.n_seeds,
                "raw": result.emergence.raw_mean,
                "change": curve.told(control),
            }


def _label(row: Row) -> str:
    return f"{row['name']}, {row['length']} tokens"


def _draw(figure: Figure, rows: Sequence[Row]) -> None:
    figure.set_figheight(2.6)
    axes = figure.subplots(1, len(CONTROLS), squeeze=False)[0]
    labels = list(dict.fromkeys(_label(row) for row in rows))
    for ax, control in zip(axes, CONTROLS, strict=True):
        for k, label in enumerate(labels):
            mine = [row for row in rows_where(rows, minus=control) if _label(row) == label and row["step"] is not None]
            style: dict[str, Any] = {"color": COLOURS[k % 7], "marker": MARKERS[k % 7], "linestyle": LINES[k % 4]}
            if mine:
                error_bars(ax, numbers(mine, "step"), mine, "delta", **style, label=label)
        ax.axhline(0, color="black", linestyle=":", linewidth=0.8)
        ax.set_xscale("symlog", linthresh=1)
        ax.set_xlim(-0.3, 2.0 * max((row["step"] for row in rows if row["step"] is not None), default=1) + 1)
        ax.xaxis.set_major_formatter(with_unit)
        ax.set(xlabel="steps of pretraining", title=f"minus {control}")
    axes[0].set_ylabel("ΔIE, bits")
    shared_legend(figure, axes)


def _series(rows: Sequence[Row]) -> list[str]:
    phrases = []
    for label in dict.fromkeys(_label(row) for row in rows):
        mine = [row for row in rows if _label(row) == label]
        ends = [mine[0]["snapshot"], mine[-1]["snapshot"]]
        told = [
            f"minus {control} from {value_words(of[0]['delta'])} to {value_words(of[-1]['delta'])}"
            for control in CONTROLS
            if (of := rows_where(mine, minus=control))
        ]
        phrases.append(f"{label}, {ends[0]} to {ends[1]}: {', '.join(told)} bits")
    return phrases


def _tables(chart: Chart, reasons: Sequence[str]) -> Iterable[Block]:
    told = []
    for label, control in dict.fromkeys((_label(row), row["minus"]) for row in chart.rows):
        mine = [row for row in rows_where(chart.rows, minus=control) if _label(row) == label]
        told.append(
            f"{label}, minus {control}, from {mine[0]['snapshot']} to {mine[-1]['snapshot']}: {mine[0]['change']}"
        )
    yield Bullets(tuple(told))
    shown = []
    for label, snapshot in dict.fromkeys((_label(row), row["snapshot"]) for row in chart.rows):
        mine = [row for row in rows_where(chart.rows, snapshot=snapshot) if _label(row) == label]
        apart = (format_interval(row["delta"], row["lo"], row["hi"], 2, signed=True) for row in mine)
        step = "-" if mine[0]["step"] is None else f"{mine[0]['step']:,}"
        shown.append((label, snapshot, step, *apart, f"({value_words(mine[0]['raw'])})"))
    head = ("Run or model", "Snapshot", "Step", *(f"Minus {control}" for control in CONTROLS), "(Raw)")
    yield from table(f"{chart.title}, bits; the raw value says mostly how much noise was added", head, shown)


KIND = ChartKind("information_curve", 115, "information", _collect, _draw, _series, never, _tables)
