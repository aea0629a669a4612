"""A table of real text (docs/laws.md, What real text gives): no law, and the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emergence.errors import DataError
from emergence.findings.laws import analyse_law
from tests.command_lines import typed

TABLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "tiny_books_law.csv"


def test_own_elbows_are_told_and_a_law_is_refused_with_the_reason() -> None:
    free = analyse_law(TABLE, form="free")
    assert len(free.data) == 80 and free.data.amounts.tolist() == [10, 30, 100, 300, 1000, 3000]
    assert free.best_loss == pytest.approx(4.3476) and len(np.unique(free.data.loss)) == 8
    assert int(((free.free.before > 0) & (free.free.past > 0)).sum()) == 1
    with pytest.raises(
        DataError, match=r"1 of 6 amounts have an elbow .* one base for all amounts \(0\.187 to 0\.469\)"
    ):
        analyse_law(TABLE, n_draws=19)
    ended = typed("emergence", "law", "fit", str(TABLE))
    assert ended.code == 2 and ended.err.count("\n") == 1


def test_the_page_has_the_tables_means() -> None:
    free = analyse_law(TABLE, form="free").data
    page = (TABLE.parents[1] / "laws.md").read_text(encoding="utf-8")
    for amount in free.amounts:
        means = [
            f"{free.score[(free.amount == amount) & (free.loss == loss)].mean():.3f}"
            for loss in sorted(set(free.loss), reverse=True)
        ]
        assert f"| {amount:,.0f} | {' | '.join(means)} |" in page
