"""Validation F1 as a 2x2, from results files with the guide's keys alone. It is drawn and told like the 2x2."""

from __future__ import annotations

import math
from dataclasses import replace

from emergence.findings.folder import ResultsFolder
from emergence.measures.emergence_score import CELLS
from emergence.report.charts import two_by_two
from emergence.report.charts.chart import Charts, Row


def _collect(folder: ResultsFolder, charts: Charts, n_boot: int) -> None:
    rows: list[Row] = []
    for set_scores in folder.scored:
        comparable = set_scores.comparable
        if not comparable.is_documented_format:
            continue
        if comparable.base.samples is not None:
            charts.skip(comparable.label, "older format, few-shot: its seed is unknown")
            continue
        for cell in CELLS:
            if cell in set_scores.headline.f1:
                f1 = set_scores.headline.f1[cell].point
                rows.append({"setting": comparable.label, "cell": cell, "f1": f1, "lo": math.nan, "hi": math.nan})
    caption = (
        "Token F1 on validation questions, from results files that hold the guide's keys alone: no intervals, and "
        "nothing says whether the runs saw the same questions."
    )
    charts.add(KIND, "Validation F1, older results files", caption, rows)


KIND = replace(two_by_two.KIND, name="validation_f1", rank=80, collect=_collect)
