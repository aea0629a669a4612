"""Planted pairs of sweeps: one earlier, the other earlier, and neither; and axes that two tables do not share."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emergence.errors import DataError, UsageError
from emergence.findings.law_comparison import LawComparison, compare_laws
from emergence.findings.law_table import read_law_table
from emergence.findings.laws import LawAnalysis, analyse_law
from emergence.measures.emergence_law import LawFit
from emergence.measures.law_comparison import point_difference
from emergence.measures.law_intervals import Profile
from tests.command_lines import typed
from tests.findings.test_laws import LOSSES, Rows, written

AMOUNTS = (50, 200, 1000, 6000)


def sweep(shift: float = 0.0, seed: int = 0, sigma: float = 0.01, amounts=AMOUNTS, **columns: Any) -> Rows:
    """Runs of a corpus whose elbows all lie ``shift`` higher."""
    rng = np.random.default_rng(seed)
    return [
        {
            "loss": loss,
            "amount": amount,
            "score": 0.9 * max(0.05 * math.log(amount) ** 1.2 + 1.60 + shift - loss, 0) + 0.25 + sigma * rng.normal(),
            **columns,
        }
        for amount in amounts
        for loss in LOSSES
    ]


Analysed = Callable[[Rows], LawAnalysis]


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Analysed:
    """What a table says, asked once for all tests that compare it."""
    folder = tmp_path_factory.mktemp("tables")
    known: dict[str, LawAnalysis] = {}

    def of(rows: Rows) -> LawAnalysis:
        key = json.dumps(rows)
        if key not in known:
            known[key] = analyse_law(written(folder / f"{len(known)}.csv", rows), n_draws=39)
        return known[key]

    return of


def compared(analysed: Analysed, a: Rows, b: Rows) -> LawComparison:
    return compare_laws(analysed(a), analysed(b), n_draws=99)


def test_the_earlier_one_is_named_both_ways(analysed: Analysed) -> None:
    earlier, later = sweep(0.12, 1, text="news"), sweep(0.0, 2, text="news")
    found, turned = compared(analysed, earlier, later), compared(analysed, later, earlier)
    assert (found.verdict, turned.verdict) == ("A earlier", "B earlier")
    assert found.point.lo < 0.12 < found.point.hi and found.flags == ()
    assert turned.point.point == pytest.approx(-found.point.point, abs=1e-9)
    assert set(found.scores) == set(AMOUNTS) and found.loss == 1.78
    assert all(each.lo < 0.9 * 0.12 < each.hi and each.sign == 1 for each in found.scores.values())
    text = found.text()
    assert text.startswith("A earlier: ") and "score at loss 1.78, 6,000 questions: A minus B +0.1" in text


def test_no_difference_is_claimed_where_there_is_none(analysed: Analysed) -> None:
    verdicts = [compared(analysed, sweep(0, 10 + k), sweep(0, 50 + k)).verdict for k in range(4)]
    assert verdicts.count("undetermined") >= 3, "each claims one with a chance of 10%"
    noisy = compared(analysed, sweep(0.03, 3, 0.03), sweep(0.0, 4, 0.03))
    assert noisy.verdict == "undetermined" and noisy.point.lo < 0 < noisy.point.hi
    assert "text_not_named: the tables do not name the text" in noisy.text()


def test_scores_are_those_of_the_laws(analysed: Analysed) -> None:
    found = compared(analysed, sweep(0.1, 1, 0.0), sweep(0.0, 2, 0.0))
    assert [each.point for each in found.scores.values()] == pytest.approx([0.09] * 4, abs=1e-6)
    assert found.point.point == pytest.approx(0.1, abs=1e-6)


def test_without_common_amounts_or_losses(analysed: Analysed) -> None:
    apart = compared(analysed, sweep(0.1, 1), sweep(0.0, 2, amounts=(100, 500, 3000)))
    assert list(apart.scores) == [548.0], "the middle of what both span"
    far = [row | {"loss": row["loss"] + 2} for row in sweep(0.0, 2)]
    found = compared(analysed, sweep(0.1, 1), far)
    assert found.scores == {} and "no_common_losses" in found.flags and found.verdict == "B earlier"
    json.dumps(found.to_dict(), allow_nan=False)


def test_an_open_end_opens_the_difference() -> None:
    def side(elbow: float, lo: float, hi: float) -> tuple[Any, Any]:
        fit, profile = object.__new__(LawFit), object.__new__(Profile)
        object.__setattr__(fit, "theta", np.array([elbow, 0, 0]))
        object.__setattr__(profile, "lo", lo)
        object.__setattr__(profile, "hi", hi)
        return fit, profile

    (a, p), (b, q) = side(1.9, 1.87, 1.94), side(1.7, -math.inf, 1.74)
    found = point_difference(a, b, p, q)
    assert (found.point, found.lo, found.hi) == pytest.approx((0.2, 0.15, math.inf)) and found.sign == 1
    (b, q) = side(1.7, 1.6, math.inf)
    assert point_difference(a, b, p, q).sign == 0


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ({"unit": "nats"}, {"unit": "bits_per_byte"}, "different units"),
        ({"tokenizer": "x"}, {"tokenizer": "y"}, "different tokenizers"),
        ({"text": "news"}, {"text": "web"}, "different texts"),
    ],
)
def test_no_common_axis(a: dict[str, str], b: dict[str, str], words: str, analysed: Analysed, tmp_path: Path) -> None:
    law = analysed(sweep(0.0, 2))
    tables = (read_law_table(written(tmp_path / f"{k}.csv", sweep(0.0, 2, **more))) for k, more in enumerate((a, b)))
    one, other = (replace(law, table=table) for table in tables)
    with pytest.raises(DataError, match=words) as caught:
        compare_laws(one, other, n_draws=99)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


def test_other_targets(analysed: Analysed, tmp_path: Path) -> None:
    other = analyse_law(written(tmp_path / "b.csv", sweep(0, 2)), n_draws=19, target=20)
    with pytest.raises(UsageError, match="A predicts at 10, B at 20: give one --d0"):
        compare_laws(analysed(sweep(0.0, 2)), other, n_draws=19)


def test_command(tmp_path: Path) -> None:
    tables = [str(written(tmp_path / f"{k}.csv", sweep(0.2 * k, k))) for k in range(2)]
    ended = typed("emergence", "law", "compare", *tables, "--draws", "19", "--json")
    told = json.loads(ended.out)
    assert ended.code == 0 and told["verdict"] == "B earlier" and told["difference"]["hi"] < 0
    assert told["a"]["table"] == "0.csv" and len(told["scores"]) == 4
