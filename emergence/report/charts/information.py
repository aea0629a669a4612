"""Information emergence minus that of each control, block by block, one figure a set of texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from emergence.findings.folder import ResultsFolder
from emergence.report.blocks import Block, Bullets, table
from emergence.report.charts.chart import Chart, ChartKind, Charts, Figure, Row
from emergence.report.charts.drawing import COLOURS, LINES, MARKERS, error_bars, shared_legend
from emergence.report.charts.rows import distinct, named_apart, never, numbers, rows_where, slug, studies, value_words
from emergence.studies.information.result import CONTROLS, FILES, MODEL, InformationResult, read_result
from emergence.wording import format_interval


def _collect(folder: ResultsFolder, charts: Charts, n_boot: int) -> None:
    results = studies(
        folder, charts, KIND.name, FILES, read_result, "no information emergence was estimated: emergence ie RUN"
    )
    results = named_apart(results, lambda r: (r.settings["texts"], r.settings["length"]), InformationResult.asked)
    for texts in dict.fromkeys(str(result.settings["texts"]) for result in results):
        mine = sorted((r for r in results if r.settings["texts"] == texts), key=lambda r: int(r.settings["length"]))
        caption = (
            "Information emergence of a model minus that of a control: a random twin, the tokens of every text in "
            "random order, tokens drawn one by one. Bits, Gaussian estimate; bars: 95% intervals over seeds, or within "
            "them. What the first block reads is the last token, whatever the weights: block 0 tells of the text. "
            "Dotted: no difference."
        )
        rows = [row for result in mine for row in _rows(result)]
        charts.add(KIND, f"Information emergence: {texts}", caption, rows, of=slug(texts))


def _rows(result: InformationResult) -> Iterator[Row]:
    phrase, sentences = result.conclusion
    shared = {"name": str(result.subject["name"]), "length": int(result.settings["length"]), "n": result.n}
    for i, layer in enumerate(result.layers):
        raw = result.emergence.raw(MODEL, i, result.n)
        for control in CONTROLS:
            found = result.emergence.difference(control, i, result.n)
            yield {
                **shared,
                "block": layer,
                "minus": control,
                "delta": found.point,
                "lo": found.lo,
                "hi": found.hi,
                "n_seeds": found.n_seeds,
                "raw": raw.point,
                "flags": ", ".join(result.flags(i)).replace("_", " "),
                "conclusion": " ".join([f"{phrase}.", *sentences]),
            }


def _label(row: Row) -> str:
    return f"{row['name']}, {row['length']} tokens"


def _draw(figure: Figure, rows: Sequence[Row]) -> None:
    figure.set_figheight(2.6)
    axes = figure.subplots(1, len(CONTROLS), squeeze=False)[0]
    labels = list(dict.fromkeys(_label(row) for row in rows))
    for ax, control in zip(axes, CONTROLS, strict=True):
        for k, label in enumerate(labels):
            mine = [row for row in rows_where(rows, minus=control) if _label(row) == label]
            style: dict[str, Any] = {"color": COLOURS[k % 7], "marker": MARKERS[k % 7], "linestyle": LINES[k % 4]}
            error_bars(ax, numbers(mine, "block"), mine, "delta", **style, label=label)
        ax.axhline(0, color="black", linestyle=":", linewidth=0.8)
        ax.set_xticks(distinct(rows, "block"))
        ax.set(xlabel="block", title=f"minus {control}")
    axes[0].set_ylabel("ΔIE, bits")
    shared_legend(figure, axes)


def _series(rows: Sequence[Row]) -> list[str]:
    phrases = []
    for label in dict.fromkeys(_label(row) for row in rows):
        mine = [row for row in rows if _label(row) == label]
        last = [row for row in mine if row["block"] == mine[-1]["block"]]
        told = ", ".join(f"minus {row['minus']} {value_words(row['delta'])}" for row in last)
        phrases.append(f"{label}, block {last[0]['block']}: {told} bits")
    return phrases


def _tables(chart: Chart, reasons: Sequence[str]) -> Iterable[Block]:
    yield Bullets(tuple(f"{label}: {told}" for label, told in {_label(r): r["conclusion"] for r in chart.rows}.items()))
    shown = []
    for label, block in dict.fromkeys((_label(row), row["block"]) for row in chart.rows):
        mine = [row for row in rows_where(chart.rows, block=block) if _label(row) == label]
        apart = (format_interval(row["delta"], row["lo"], row["hi"], 2, signed=True) for row in mine)
        shown.append((label, str(block), *apart, f"({value_words(mine[0]['raw'])})", mine[0]["flags"]))
    head = ("Run or model", "Block", *(f"Minus {control}" for control in CONTROLS), "(Raw)", "Flags")
    yield from table(f"{chart.title}, bits; the raw value says mostly how much noise was added", head, shown)


KIND = ChartKind("information", 114, "information", _collect, _draw, _series, never, _tables)
