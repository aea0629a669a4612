"""Loss and validation F1 by epoch, of every run that trained all weights on the questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from emergence.findings.folder import ResultsFolder
from emergence.measures.emergence_score import FULL
from emergence.report.charts.chart import ChartKind, Charts, Figure, Row
from emergence.report.charts.drawing import COLOURS, MARKERS, mean_and_band, shared_legend
from emergence.report.charts.rows import (
    CELL_NAMES,
    cell_words,
    distinct,
    ends_in_words,
    histories,
    never,
    no_history,
    rows_where,
    seed_words,
)


def _collect(folder: ResultsFolder, charts: Charts, n_boot: int) -> None:
    rows: list[Row] = []
    main = {set_scores.comparable.label for set_scores in folder.main}
    for on_disk, history in histories(folder, charts):
        spec = on_disk.run.spec
        if not on_disk.is_drawn or (spec.finetune_samples is not None and on_disk.label not in main):
            continue
        for line in history:
            if line["kind"] != "finetune_epoch":
                continue
            values = {key: line[key] for key in ("epoch", "train_loss", "validation_loss", "validation_f1")}
            where: Row = {"setting": on_disk.label, "cell": on_disk.cell, "run": on_disk.name, "seed": spec.seed}
            rows.append({**where, **values})
    caption = (
        "Finetuning with all weights trained, by epoch. Left: negative log-likelihood of the answer span; "
        "thin without markers: training. Right: token F1 on validation questions."
        f"{seed_words(rows, 'cell')}"
    )
    charts.add(KIND, "Finetuning", caption, rows, no_history(folder, "no run here finetuned all weights"))


def _draw(figure: Figure, rows: Sequence[Row]) -> None:
    figure.set_figheight(2.6)
    left, right = figure.subplots(1, 2)
    settings = distinct(rows)
    for setting, cell in dict.fromkeys((row["setting"], row["cell"]) for row in rows):
        mine = rows_where(rows, setting=setting, cell=cell)
        i = settings.index(setting)
        line = "-" if cell == FULL else "--"
        name = f"{setting}: {CELL_NAMES[cell]}"
        filled = "white" if cell != FULL else COLOURS[i % 7]
        style: dict[str, Any] = {"color": COLOURS[i % 7], "linestyle": line}
        marked = {**style, "marker": MARKERS[i % 7], "markerfacecolor": filled, "label": name}
        # A single epoch is a point, which a line does not show.
        point = "." if len({row["epoch"] for row in mine}) == 1 else ""
        mean_and_band(left, mine, "epoch", "train_loss", band=False, linewidth=0.6, marker=point, **style)
        mean_and_band(left, mine, "epoch", "validation_loss", **marked)
        mean_and_band(right, mine, "epoch", "validation_f1", **marked)
    left.plot([], [], color="black", linewidth=0.6, label="training loss")
    left.set(xlabel="epoch", ylabel="loss (nats per question)")
    right.set(xlabel="epoch", ylabel="token F1 (validation)", ylim=(0, 1))
    for ax in (left, right):
        ax.locator_params(axis="x", integer=True, min_n_ticks=1)
    shared_legend(figure, [right, left])


def _series(rows: Sequence[Row]) -> list[str]:
    return ends_in_words(rows, lambda r: f"{r['setting']}, {cell_words(r)}, F1 by epoch", "epoch", "validation_f1")


KIND = ChartKind("finetuning", 20, "training", _collect, _draw, _series, never)
