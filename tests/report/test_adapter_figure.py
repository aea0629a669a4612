"""Finetuned snapshots with several adapters: one figure, with the elbow of each that was planted."""

from __future__ import annotations

from pathlib import Path

import pytest

from emergence.findings.folder import read_folder
from emergence.findings.law_runs import runs_by_adapter
from emergence.report.charts import adapters
from emergence.report.charts.chart import Charts
from emergence.report.charts.drawing import draw, render
from tests.planted_runs import write_run
from tests.report.told import told

LOSSES = {64: 4.4, 128: 4.1, 512: 3.8, 2048: 3.5, 8192: 3.2}
AMOUNTS = (30, 300)
#: Adapter and amount to the loss at which the score begins to rise; far below the losses: never.
ELBOWS = {
    ("none", 30): 3.7, ("none", 300): 4.0, ("lora-1", 30): 3.6, ("lora-1", 300): 3.9,
    ("prefix-16", 30): 1.0, ("prefix-16", 300): 3.6,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("adapters")
    for (adapter, amount), elbow in ELBOWS.items():
        for steps, loss in LOSSES.items():
            write_run(
                root, "full", 0.1 + 0.4 * max(elbow - loss, 0.0), loss=loss, steps=steps, snapshot=str(steps),
                adapter=adapter, finetune_samples=amount,
            )  # fmt: skip
    return root


def collected(folder: Path) -> Charts:
    charts = Charts()
    adapters.KIND.collect(read_folder(folder, n_boot=20), charts, 20)
    return charts


def test_one_figure_has_every_adapter_and_its_elbows(folder: Path) -> None:
    (chart,) = collected(folder).charts
    runs = [row for row in chart.rows if row["mark"] == adapters.RUN]
    assert len(runs) == len(ELBOWS) * len(LOSSES)
    assert list(dict.fromkeys(row["adapter"] for row in runs)) == ["all weights", "LoRA of rank 1", "prefix of 16"]
    found = {
        (row["adapter"], row["amount"]): (row["loss"], row["side"])
        for row in chart.rows
        if row["mark"] == adapters.ELBOW
    }
    for (adapter, amount), elbow in ELBOWS.items():
        loss, side = found[adapters.adapter_words(adapter), amount]
        assert side == (-1 if elbow < 3 else 0)
        assert side or loss == pytest.approx(elbow, abs=0.05)
    assert render(chart, ["svg"])
    panels = draw(chart).axes
    assert [ax.get_title(loc="left") for ax in panels] == ["30 questions", "300 questions"]
    assert all(ax.get_xlim()[0] > ax.get_xlim()[1] for ax in panels), "losses fall"
    assert "prefix of 16: F1 0.10 at the lowest loss, own elbow below all losses" in chart.alt


def test_the_report_tells_it_and_one_adapter_alone_makes_no_figure(folder: Path, tmp_path: Path) -> None:
    text = told(folder, n_boot=20)
    assert "What is finetuned: wiki" in text and "| 300 | LoRA of rank 1 | 0.38 | 3.9" in text
    for path in folder.iterdir():
        if "prefix" in path.name:
            (tmp_path / "one").mkdir(exist_ok=True)
            (tmp_path / "one" / path.name).symlink_to(path)
    charts = collected(tmp_path / "one")
    assert not charts.charts and "several adapters" in (charts.reason(("adapters",)) or "")
    assert not runs_by_adapter(read_folder(tmp_path / "one", n_boot=20).collection)
