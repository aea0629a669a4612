"""How few units carry a role, over training and over sizes, with the verdicts: one figure a set of roles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from emergence.findings.folder import ResultsFolder
from emergence.findings.unit_trends import seed_overlaps, unit_verdicts
from emergence.report.blocks import Block, Bullets, table
from emergence.report.charts.chart import Chart, ChartKind, Charts, Figure, Row
from emergence.report.charts.drawing import COLOURS, LINES, MARKERS, shared_legend, with_unit
from emergence.report.charts.rows import (
    distinct,
    never,
    numbers,
    rows_where,
    short_names,
    slug,
    unit_studies,
    value_words,
)
from emergence.studies.units.result import COUNTS, KIND_NAMES, UnitResult

_TITLES = {"half": "half of the effect", "participation": "participation ratio", "probe": "probe, nine tenths"}


def _collect(folder: ResultsFolder, charts: Charts, n_boot: int) -> None:
    results = unit_studies(folder, charts, KIND.name)
    names = dict.fromkeys((str(r.settings["data"]["name"]), str(r.settings["roles"])) for r in results)
    for name, roles in names:
        mine = [r for r in results if (r.settings["data"]["name"], r.settings["roles"]) == (name, roles)]
        verdicts = " | ".join(verdict.sentence for verdict in unit_verdicts(mine))
        overlaps = " | ".join(
            f"{o.label}, {KIND_NAMES[o.kind]}, {o.role}: {o.overlap.shared:.1f} shared, {o.overlap.expected:.1f} by "
            f"chance (smallest p of {o.pairs}: {o.overlap.p:.3g})"
            for o in seed_overlaps(mine)
        )
        rows = [
            {**row, "verdicts": verdicts, "overlaps": overlaps}
            for result, setting in zip(mine, short_names(mine), strict=True)
            for row in _rows(result, setting)
        ]
        caption = (
            "Units that carry a role, counted in three ways, the geometric mean over roles: by cutting units (half of "
            "what cutting all costs in F1), by attributions (participation ratio), by a probe of the most selective "
            "units (nine tenths of the most that any number of them gives). Open marks at step 0: random twin. Dotted: "
            "units in their order for all questions (half), roles shuffled (participation). A count that a role does "
            "not have, because its units carry nothing, is left out of the mean."
        )
        charts.add(
            KIND, f"How few units carry a role: {name}, {roles} roles", caption, rows, of=slug(f"{name} {roles}")
        )


def _rows(result: UnitResult, setting: str) -> Iterator[Row]:
    subject = result.subject
    for trunk in result.trunks:
        for kind in result.kinds:
            found = trunk["units"][kind]
            for count in COUNTS:
                shuffled = [row[count].get("shuffled") for row in found["concentration"]]
                yield {
                    "name": str(subject["name"]),
                    "setting": setting,
                    "size": str(subject.get("size", subject["name"])),
                    "trunk": trunk["name"],
                    "is_random": trunk["kind"] == "random",
                    "step": trunk["step"],
                    "kind": KIND_NAMES[kind],
                    "count": count,
                    "units": _mean(result.count(trunk, kind, count).values()),
                    "share": _mean(result.count(trunk, kind, count, "share").values()),
                    "shuffled": _mean(value for value in shuffled if value is not None),
                    "n_units": found["n_units"],
                    "n_roles": int(np.isfinite(list(result.count(trunk, kind, count).values())).sum()),
                }


def _mean(values: Iterable[float]) -> float | None:
    """The geometric mean of those that there are."""
    kept = [value for value in values if np.isfinite(value) and value > 0]
    return float(np.exp(np.mean(np.log(kept)))) if kept else None


def _draw(figure: Figure, rows: Sequence[Row]) -> None:
    lines = list(dict.fromkeys((row["kind"], row["size"]) for row in rows))
    several = len({size for _, size in lines}) > 1
    figure.set_figheight(2.2 * len(lines) + 0.5)
    axes = figure.subplots(len(lines), len(COUNTS), squeeze=False)
    for line, (kind, size) in zip(axes, lines, strict=True):
        settings = distinct(rows_where(rows, size=size))
        for ax, count in zip(line, COUNTS, strict=True):
            for k, setting in enumerate(settings):
                mine = rows_where(rows, kind=kind, count=count, setting=setting)
                # One colour and one word in the legend for a seed of all sizes.
                label = setting.removeprefix(f"{size}, ") if several else setting
                _draw_setting(ax, mine, label, COLOURS[k % 7], MARKERS[k % 7])
            ax.set_xscale("symlog", linthresh=1)
            ax.set_yscale("log", base=2)
            ax.xaxis.set_major_formatter(with_unit)
            ax.yaxis.set_major_formatter(with_unit)
            ax.set(title=_TITLES[count], xlabel="step of pretraining", ylim=_at_least_fourfold(*ax.get_ylim()))
        line[0].set_ylabel(f"{size}\n{kind} that carry a role" if several else f"{kind} that carry a role")
    shared_legend(figure, axes.flat)


def _at_least_fourfold(low: float, high: float) -> tuple[float, float]:
    """Limits of an axis on which a change by a tenth looks like one."""
    missing = max(1.0, 4 * low / high) ** 0.5
    return low / missing, high * missing


def _draw_setting(ax: Any, rows: Sequence[Row], label: str, colour: str, marker: str) -> None:
    path = sorted(rows_where(rows, is_random=False), key=lambda row: int(row["step"]))
    style: dict[str, Any] = {"color": colour, "marker": marker}
    ax.plot(numbers(path, "step"), numbers(path, "units"), label=label, **style)
    ax.plot(numbers(path, "step"), numbers(path, "shuffled"), color=colour, linestyle=LINES[3])
    twin = rows_where(rows, is_random=True)
    ax.plot(numbers(twin, "step"), numbers(twin, "units"), markerfacecolor="white", linestyle="none", **style)


def _series(rows: Sequence[Row]) -> list[str]:
    phrases = []
    for setting, kind in dict.fromkeys((row["setting"], row["kind"]) for row in rows):
        mine = rows_where(rows, setting=setting, kind=kind, is_random=False)
        last = max(int(row["step"]) for row in mine)
        told = (f"{_TITLES[row['count']]} {value_words(row['units'])}" for row in mine if row["step"] == last)
        phrases.append(f"{setting}, {kind} at step {last:,}: {', '.join(dict.fromkeys(told))}")
    return phrases


def _tables(chart: Chart, reasons: Sequence[str]) -> Iterable[Block]:
    sentences = [part for part in chart.rows[0]["verdicts"].split(" | ") if part]
    if sentences:
        yield Bullets(tuple(sentences))
    shown = []
    for name, trunk, kind in dict.fromkeys((row["name"], row["trunk"], row["kind"]) for row in chart.rows):
        mine = rows_where(chart.rows, name=name, trunk=trunk, kind=kind)
        counts = [part for row in mine for part in (value_words(row["units"]), _share(row["share"]))]
        shown.append((name, trunk, kind, f"{mine[0]['n_units']:,}", *counts))
    titles = (part for count in COUNTS for part in (_TITLES[count].capitalize(), "Share"))
    head = ("Run or model", "Trunk", "Units", "All", *titles)
    yield from table(f"{chart.title}, geometric mean over roles", head, shown)
    overlaps = [part for part in chart.rows[0]["overlaps"].split(" | ") if part]
    if overlaps:
        yield Bullets(tuple(f"Best units that seeds share: {part}" for part in overlaps))


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


KIND = ChartKind("unit_concentration", 118, "units", _collect, _draw, _series, never, _tables)
