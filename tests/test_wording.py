"""What all parts of the program say alike."""

from __future__ import annotations

import math

import pytest

from emergence.measures.bootstrap import Estimate
from emergence.wording import (
    aligned,
    counted,
    did_you_mean,
    duration,
    format_estimate,
    format_interval,
    gained,
    shown,
)


def test_a_near_miss_is_named_and_otherwise_what_there_is() -> None:
    assert did_you_mean("smal", ["tiny", "small"]) == "did you mean small?"
    assert did_you_mean("huge", iter(["tiny", "small"])) == "choose from tiny, small"
    assert did_you_mean("huge", ["tiny"], "see --help") == "see --help"
    assert did_you_mean("tiles", ["tiny"], cutoff=0.4) == "did you mean tiny?"
    assert did_you_mean("tiles", ["tiny"], cutoff=0.5) == "choose from tiny"
    assert did_you_mean("tiny", map(str, range(400))).endswith("10, 11 and 388 more")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 s"), (45.2, "45 s"), (89.4, "89 s"), (725, "12 min"), (3580, "1 h 00 min"), (11_100, "3 h 05 min"),
     (172_799, "48 h 00 min"), (172_800, "2.0 days"), (281_880, "3.3 days"), (8.64e8, "10,000.0 days")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_counts() -> None:
    assert [counted(n, "run") for n in (0, 1, 2, 1200)] == ["0 runs", "1 run", "2 runs", "1,200 runs"]


def test_estimates() -> None:
    nan, inf = math.nan, math.inf
    assert format_estimate(Estimate(0.5, 0.4, 0.6, "bca", 1, 1)) == "0.50 [0.40, 0.60]"
    assert format_estimate(Estimate(nan, -inf, inf, "fieller", 1, 1)) == "undefined (unbounded)"
    assert format_estimate(Estimate(0.5, nan, nan, "none", 1, 1)) == "0.50 (no interval)"
    assert format_estimate(None) == shown(None) == gained(None) == "-"
    assert shown(Estimate(0.5, 0.4, 0.6, "bca", 1, 1)) == "0.500 [0.400, 0.600]"
    assert gained(Estimate(0.05, -0.00001, 0.1, "bca", 1, 1)) == "+0.050 [+0.000, +0.100]"
    assert format_interval(-0.001, -1.0, 1.0) == "-0.00 [-1.00, 1.00]"


def test_columns_stand_below_each_other() -> None:
    rows = [("run", "seeds", "hours"), ("T-W", "0", "12.50"), ("a", "0,1", "")]
    assert aligned(rows) == ["run  seeds  hours", "T-W  0      12.50", "a    0,1"]
    assert aligned([("a", "bb"), ("ccc", "d")], left=1) == ["a    bb", "ccc   d"]
    assert aligned([]) == []
    with pytest.raises(ValueError, match="zip"):
        aligned([("a", "b"), ("c",)])
