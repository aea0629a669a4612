"""Loss against tokens seen, of every run that pretrained a trunk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from emergence.findings.folder import ResultsFolder
from emergence.report.charts.chart import ChartKind, Charts, Figure, Row
from emergence.report.charts.drawing import COLOURS, LINES, MARKERS, mean_and_band, shared_legend, with_unit
from emergence.report.charts.rows import (
    always,
    distinct,
    ends_in_words,
    histories,
    no_history,
    numbers,
    rows_where,
    seed_words,
)


def _collect(folder: ResultsFolder, charts: Charts, n_boot: int) -> None:
    rows: list[Row] = []
    drawn: dict[str, str] = {}
    for on_disk, history in histories(folder, charts):
        spec = on_disk.run.spec
        if not any(line["kind"].startswith("pretrain_") for line in history):
            continue
        if drawn.setdefault(spec.pretrain_id, on_disk.name) != on_disk.name:
            charts.skip(f"pretraining of {on_disk.name}", f"the same as that of {drawn[spec.pretrain_id]}")
            continue
        for line in history:
            which = {"pretrain_step": "train", "pretrain_evaluation": "validation"}.get(line["kind"])
            loss = line.get("loss") if which == "train" else line.get("validation_loss")
            if which and loss is not None:
                where: Row = {"setting": on_disk.label, "run": on_disk.name, "seed": spec.seed}
                rows.append({**where, "split": which, "step": line["step"], "tokens": line["tokens"], "loss": loss})
    caption = (
        "Cross-entropy of the next token against tokens seen. Thin: training batches. Thick, with markers: "
        f"held-out text; dotted: before the first step.{seed_words(rows, 'split')}"
    )
    charts.add(KIND, "Pretraining", caption, rows, no_history(folder, "no run here pretrained a trunk"))


def _draw(figure: Figure, rows: Sequence[Row]) -> None:
    figure.set_figheight(2.6)
    ax = figure.subplots()
    for i, label in enumerate(distinct(rows)):
        colour, marker, line = COLOURS[i % 7], MARKERS[i % 7], LINES[i % 4]
        mine = [row for row in rows_where(rows, setting=label) if row["tokens"] > 0]
        held_out = rows_where(mine, split="validation")
        style: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": line}
        for run in distinct(mine, "run"):
            train = rows_where(mine, split="train", run=run)
            ax.plot(numbers(train, "tokens"), numbers(train, "loss"), color=colour, linewidth=0.4, alpha=0.55)
        every = max(1, len({row["tokens"] for row in held_out}) // 15)
        mean_and_band(ax, held_out, "tokens", "loss", markevery=every, label=f"{label} (held-out text)", **style)
        for row in rows_where(rows, setting=label, split="validation", tokens=0):
            ax.axhline(row["loss"], color=colour, linestyle=":", linewidth=0.8)
    ax.plot([], [], color="black", linewidth=0.4, alpha=0.55, label="training batches")
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(with_unit)
    ax.set(xlabel="tokens seen", ylabel="loss (nats per token)")
    shared_legend(figure, [ax])


def _series(rows: Sequence[Row]) -> list[str]:
    held_out = [row for row in rows if row["split"] == "validation"] or list(rows)
    return ends_in_words(held_out, lambda row: f"{row['setting']}, loss by tokens", "tokens", "loss")


KIND = ChartKind("pretraining_loss", 10, "training", _collect, _draw, _series, always)
