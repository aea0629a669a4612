"""The benchmark of plans, on the case that takes the fewest worlds to tell."""

from __future__ import annotations

from benchmarks.law_coverage import TRUTH
from benchmarks.law_plan import CASES, LAW, run


def test_too_weak_checkpoints_cannot_be_predicted() -> None:
    said: list[str] = []
    (line,) = run(2, 19, said.append, CASES[3:])
    assert line["cannot_be_predicted"] and line["planned_missed"] > 0.4 and line["width"] > 0.1
    assert said[0].endswith("; cannot be predicted") and LAW.elbow == TRUTH
