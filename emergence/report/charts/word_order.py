"""Differences between pretrainings on text and on the same text with its words in random order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from emergence.findings.ablation import ORDER, SHUFFLED
from emergence.findings.folder import ResultsFolder
from emergence.report.blocks import Block
from emergence.report.charts import data_ablation
from emergence.report.charts.chart import Chart, Charts


def _collect(folder: ResultsFolder, charts: Charts, n_boot: int) -> None:
    caption = (
        "Scores after pretraining on text minus after pretraining on the same text with the words of each sentence in "
        "random order, on the same number of tokens, paired by test question and seed. Bars: 95% intervals over "
        "sentences and seeds. Near zero: which words go together is all that the score needs of pretraining."
    )
    rows = data_ablation.differences(folder, charts, KIND.name, ORDER, SHUFFLED, n_boot)
    charts.add(KIND, "Word order in the pretraining text", caption, rows)


def _tables(chart: Chart, reasons: Sequence[str]) -> Iterable[Block]:
    caption = "Text in its own order minus text in random order"
    return data_ablation.in_numbers(chart, reasons, caption, "Compared by", "Difference")


KIND = replace(data_ablation.KIND, name="word_order", rank=110, place="order", collect=_collect, tables=_tables)
