"""The report's tables of scores by asked role along pretraining."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from emergence.analysis.figure_data import BY_ROLE, Charts
from emergence.analysis.report_blocks import Block, table
from emergence.wording import format_interval


def role_curve_blocks(charts: Charts) -> Iterable[Block]:
    """Scores by asked role along the snapshots, a table for each family; nothing where the results tell no roles."""
    for chart in charts.charts:
        rows = [row for row in chart.rows if row.get("mark") == BY_ROLE]
        for family in dict.fromkeys(row["family"] for row in rows):
            mine = [row for row in rows if row["family"] == family]
            steps = sorted({(row["step"], row["tokens"], row["loss"]) for row in mine})
            keys = dict.fromkeys((row["role"], row["score"], row["n_questions"]) for row in mine)
            found = {(row["role"], row["score"], row["step"]): row for row in mine}
            yield from table(
                f"{chart.title}, {family} probe: by the role that the question asks for",
                ("Role", "Score", "n", *(f"{tokens:,.0f} tokens, loss {loss:.2f}" for _, tokens, loss in steps)),
                [
                    (role, score, f"{n:,}", *(_ends_of(found.get((role, score, step))) for step, _, _ in steps))
                    for role, score, n in keys
                ],
            )


def _ends_of(row: Mapping[str, Any] | None) -> str:
    return "" if row is None else format_interval(row["value"], row["lo"], row["hi"], 3)
