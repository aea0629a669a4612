"""Trial: the rule from the wh-word beside full finetuning."""

from __future__ import annotations

import math
from dataclasses import replace

from emergence.findings.folder import ResultsFolder
from emergence.measures.emergence_score import FULL
from emergence.report.charts import two_by_two
from emergence.report.charts.chart import Charts, Row


def _collect(folder: ResultsFolder, out: Charts, n_boot: int) -> None:
    rows: list[Row] = [
        {"setting": s.comparable.label, "cell": FULL, "f1": s.headline.f1[FULL].point, "lo": math.nan, "hi": math.nan}
        for s in folder.scored
        if FULL in s.headline.f1
    ]
    out.add(KIND, "Full finetuning", "Token F1 of full finetuning alone.", rows)


KIND = replace(two_by_two.KIND, name="wh_rule", rank=81, collect=_collect)
