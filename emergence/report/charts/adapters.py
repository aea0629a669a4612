"""Test F1 of finetuned snapshots against their loss, by what was finetuned, and where it begins to rise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from emergence.findings.folder import ResultsFolder
from emergence.findings.law_runs import LEAST_CHECKPOINTS, LEAST_RUNS, AdapterRun, runs_by_adapter
from emergence.measures.emergence_law import LawData
from emergence.measures.free_elbows import fit_free
from emergence.report.blocks import Block, table
from emergence.report.charts.chart import Chart, ChartKind, Charts, Figure, Row
from emergence.report.charts.drawing import COLOURS, LINES, MARKERS, mean_and_band, panel_grid, shared_legend, with_unit
from emergence.report.charts.rows import distinct, never, rows_where, slug, value_words

#: Marks of the figure's rows.
RUN, ELBOW = "run", "own elbow"
_FEWEST = "it takes finetuned runs with several adapters (--adapter) on at least three snapshots"


def adapter_words(adapter: str) -> str:
    """``all weights``, ``LoRA of rank 1``, ``prefix of 16``."""
    kind, _, size = adapter.partition("-")
    return {"lora": f"LoRA of rank {size}", "prefix": f"prefix of {size}"}.get(kind, "all weights")


def _collect(folder: ResultsFolder, charts: Charts, n_boot: int) -> None:
    found = {
        label: runs
        for label, runs in runs_by_adapter(folder.collection).items()
        if len({run.loss for run in runs}) >= LEAST_CHECKPOINTS
    }
    if not found:
        charts.skip(KIND.name, _FEWEST)
    caption = (
        "Test token F1 of snapshots of one pretraining after finetuning, against their held-out loss (axis reversed), "
        "by what was finetuned; a panel for each number of training questions with several. Lines: mean over draws of "
        "the questions, band: their range. Dotted: own elbow, where F1 begins to rise, fitted with one slope and base "
        "for all panels of an adapter."
    )
    for label, runs in found.items():
        of = slug(label) if len(found) > 1 else ""
        charts.add(KIND, f"What is finetuned: {label}", caption, list(_rows(runs)), of=of)


def _rows(runs: Sequence[AdapterRun]) -> Iterator[Row]:
    adapters = sorted({run.adapter for run in runs}, key=lambda name: (name != "none", name))
    for run in sorted(runs, key=lambda run: (run.amount, adapters.index(run.adapter), -run.loss, run.draw)):
        values: Row = {"mark": RUN, "adapter": adapter_words(run.adapter), "amount": run.amount, "draw": run.draw}
        yield {**values, "loss": run.loss, "f1": run.score, "side": None}
    for adapter in adapters:
        mine = [run for run in runs if run.adapter == adapter]
        if len(mine) < LEAST_RUNS or len({run.loss for run in mine}) < LEAST_CHECKPOINTS or _is_flat(mine):
            continue
        free = fit_free(
            LawData.of(
                np.array([run.loss for run in mine]), np.array([float(run.amount) for run in mine]),
                np.array([run.score for run in mine]), checkpoint=[run.checkpoint for run in mine],
            )
        )  # fmt: skip
        for amount, elbow, before, past in zip(free.amounts, free.elbows, free.before, free.past, strict=True):
            values = {"mark": ELBOW, "adapter": adapter_words(adapter), "amount": int(amount), "draw": None}
            yield {**values, "loss": float(elbow), "f1": None, "side": -1 if past == 0 else 1 if before == 0 else 0}


def _is_flat(runs: Sequence[AdapterRun]) -> bool:
    return float(np.ptp([run.score for run in runs])) == 0.0


def _draw(figure: Figure, rows: Sequence[Row]) -> None:
    runs = rows_where(rows, mark=RUN)
    adapters = distinct(runs, "adapter")
    amounts = [n for n in distinct(runs, "amount") if len(distinct(rows_where(runs, amount=n), "adapter")) > 1]
    runs = [row for row in runs if row["amount"] in amounts]
    panels = panel_grid(figure, [f"{with_unit(float(amount), 0)} questions" for amount in amounts], 1.9)
    for ax, amount in zip(panels, amounts, strict=True):
        for i, adapter in enumerate(adapters):
            mine = rows_where(runs, amount=amount, adapter=adapter)
            if not mine:
                continue
            style: dict[str, Any] = {"color": COLOURS[i % 7], "marker": MARKERS[i % 7], "linestyle": LINES[i % 4]}
            mean_and_band(ax, mine, "loss", "f1", label=adapter, **style)
            for row in rows_where(rows, mark=ELBOW, amount=amount, adapter=adapter, side=0):
                ax.axvline(row["loss"], color=COLOURS[i % 7], linestyle=":", linewidth=0.9)
        if ax.get_subplotspec().is_first_col():
            ax.set_ylabel("token F1 (test)")
    losses = [row["loss"] for row in runs]
    room, top = 0.04 * (max(losses) - min(losses)), 1.05 * max(row["f1"] for row in runs)
    for ax in panels:
        ax.set(xlim=(max(losses) + room, min(losses) - room), ylim=(0, top))
    for ax in panels[-3:]:
        ax.set_xlabel("held-out loss, nats per token")
    shared_legend(figure, panels)


def _at_best(rows: Sequence[Row], amount: Any, adapter: str) -> float | None:
    """Mean F1 at the lowest loss."""
    mine = rows_where(rows, mark=RUN, amount=amount, adapter=adapter)
    best = min((row["loss"] for row in mine), default=None)
    return None if best is None else float(np.mean([row["f1"] for row in mine if row["loss"] == best]))


def _elbow(rows: Sequence[Row], amount: Any, adapter: str) -> str:
    """Where F1 begins to rise, in words."""
    found = rows_where(rows, mark=ELBOW, amount=amount, adapter=adapter)
    if not found:
        return "-"
    beyond = {-1: "below all losses", 1: "above all losses"}.get(found[0]["side"])
    return beyond or f"{found[0]['loss']:.3f}"


def _pairs(rows: Sequence[Row]) -> list[tuple[Any, str]]:
    """Every number of questions with each adapter that it was tried with."""
    return list(dict.fromkeys((row["amount"], row["adapter"]) for row in rows_where(rows, mark=RUN)))


def _series(rows: Sequence[Row]) -> list[str]:
    return [
        f"{with_unit(float(amount), 0)} questions, {adapter}: F1 {value_words(_at_best(rows, amount, adapter))} at the "
        f"lowest loss, own elbow {_elbow(rows, amount, adapter)}"
        for amount, adapter in _pairs(rows)
    ]


def _tables(chart: Chart, reasons: Sequence[str]) -> Iterable[Block]:
    shown = [
        (
            with_unit(float(amount), 0), adapter, value_words(_at_best(chart.rows, amount, adapter)),
            _elbow(chart.rows, amount, adapter),
        )
        for amount, adapter in _pairs(chart.rows)
    ]  # fmt: skip
    return table(chart.title, ("Questions", "Finetuned", "F1 at the lowest loss", "Own elbow, nats"), shown)


KIND = ChartKind("adapters", 96, "laws", _collect, _draw, _series, never, _tables)
