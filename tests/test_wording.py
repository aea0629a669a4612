"""What all parts of the program say alike."""

from __future__ import annotations

import io
import json
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
    in_line,
    say,
    shown,
    visible,
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
    assert format_interval(-0.001, -1.0, 1.0) == "0.00 [-1.00, 1.00]"


def test_columns_stand_below_each_other() -> None:
    rows = [("run", "seeds", "hours"), ("T-W", "0", "12.50"), ("a", "0,1", "")]
    assert aligned(rows) == ["run  seeds  hours", "T-W  0      12.50", "a    0,1"]
    assert aligned([("a", "bb"), ("ccc", "d")], left=1) == ["a    bb", "ccc   d"]
    assert aligned([]) == []
    with pytest.raises(ValueError, match="zip"):
        aligned([("a", "b"), ("c",)])


#: What a terminal would obey: colours, a title, a cleared screen, a turned line, a bell, a way back over what was said.
ORDERS = "\x1b[31m\x1b]0;x\x07\x1b[2J\u202e\r\x08\x9b1m\x7f\ufeff\U000e0041\u2028"


def test_nothing_said_gives_a_terminal_orders(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"a\t{ORDERS}b\nc")
    say(f"{ORDERS}\udcff", err=True)
    printed = capsys.readouterr()
    assert printed.out.startswith("a\t\\u001b[31m") and printed.out.endswith("b\nc\n")
    for text in (printed.out, printed.err, in_line(ORDERS), "".join(aligned([[ORDERS, "\n"], ["a", "b"]]))):
        assert not set(ORDERS + "\udcff") & set(text) - set("[31m]0;x2JA")
    assert visible(visible(ORDERS)) == visible(ORDERS)
    assert in_line("a\nb\tc") == "a\\nb\\tc" and len(aligned([["a\nb"]])) == 1
    assert json.loads(visible('"\x7f"')) == "\x7f"  # printed JSON stays JSON


def test_what_an_encoding_lacks_is_spelled_out(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)
    say("é \u4e2d")
    stream.seek(0)
    assert stream.read() == "\\xe9 \\u4e2d\n"
