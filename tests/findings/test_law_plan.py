"""``emergence law plan``: in words and JSON, from a kept law or from numbers, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from emergence.findings import law_plan
from emergence.measures.law_plan import plan_sweep
from tests.command_lines import typed
from tests.findings.test_laws import sweep, written

SWEEP = ("--losses", "2.5,2.2,2.0,1.85,1.78", "--amounts", "50,200,1000,6000", "--intervals", "5")
NUMBERS = ("--noise", "0.01", "--law", "1.6885,2.27,0.9", "--d0", "5", "--fewshot")


@pytest.fixture(autouse=True)
def few_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two in place of the five that are asked for, which are the fewest: each takes the draws of a whole law."""

    def plan_with_two(*args: Any, **more: Any) -> Any:
        assert more["n_intervals"] == 5
        return plan_sweep(*args, **more | {"n_intervals": 2})

    monkeypatch.setattr(law_plan, "plan_sweep", plan_with_two)


def plan(*more: str) -> tuple[int, str, str]:
    return typed("emergence", "law", "plan", *SWEEP, *more)


def test_from_numbers_with_costs() -> None:
    code, out, err = plan(*NUMBERS, "--hours", "1,0.1,0.01")
    assert code == 0 and not err
    assert "planned sweep: 5 checkpoints x 4 amounts x 1 draw: 20 runs, and few-shot rows; best loss 1.78" in out
    assert "so 1.6885 at 5" in out and "errors: checkpoint 0, draw 0, rest 0.01" in out
    assert "cost: 7.36 CPU hours" in out  # 5 checkpoints, 20 runs, 36,250 questions
    assert "most for each CPU hour first" in out and "90% interval to expect: 0." in out
    assert "few amounts: fewer than 5" in out and "cannot be predicted" not in out


def test_from_a_kept_law(tmp_path: Path) -> None:
    table = str(written(tmp_path / "sweep.csv", sweep()))
    assert typed("emergence", "law", "fit", table, "--draws", "19", "--output", str(tmp_path / "law.json")).code == 0
    law = json.loads((tmp_path / "law.json").read_text())
    code, out, _ = plan("--noise", str(tmp_path / "law.json"), "--json")
    told = json.loads(out)
    assert code == 0 and told["kind"] == "emergence-law_plan" and told["hours"] is None
    assert told["law"]["emergence_point"] == pytest.approx(law["law"]["emergence_point"])
    assert told["law"]["target"] == 5 and told["sweep"]["fewshot"], "as the kept law"
    assert told["errors"] == law["errors"]
    worth = [row["worth"] for row in told["added"]]
    assert worth == sorted(worth, reverse=True) and told["added"][0]["runs"] > 0


def test_a_sweep_that_cannot_say() -> None:
    line = ("--losses", "2.5,2.3,2.15,2.05,2.0", "--amounts", "50,200,1000,6000", "--intervals", "5")
    ended = typed("emergence", "law", "plan", *line, *NUMBERS)
    assert "cannot be predicted: the best loss stays 0.31 above the emergence point" in ended.out


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--noise", "0.01"), "--law is missing"),
        (("--noise", "0"), "above 0"),
        (("--noise", "0.01,-1"), "standard deviations"),
        (("--noise", "0.01", "--law", "1.69,2.27"), "three or four numbers"),
        (("--noise", "0.01", "--law", "2.3,1.9,0.9"), "elbows rise"),
        (("--noise", "0.01", "--law", "1.69,x,0.9"), "--law 1.69,x,0.9: numbers"),
        (("--noise", "0.01", "--law", "1.69,2.27,0.9", "--d0", "7000"), "--d0 7000: above 1 and below"),
        (("--noise", "0.01", "--law", "1.69,2.27,0.9", "--hours", "1,2,3,4"), "one to three numbers"),
        (("--losses", "2.5,2.2", *NUMBERS), "--losses: 2, and a law takes at least 3"),
        (("--losses", "2.5,2.2,2.2", *NUMBERS), "comes twice"),
        (("--amounts", "1,50,100", *NUMBERS), "amounts 2 or more"),
        (("--losses", "2.5,inf,2.1", *NUMBERS), "not a finite number"),
        (("--noise", "law.json"), "no such file"),
        (("--noise", "1_0", "--law", "1.69,2.27,0.9"), "no such file"),
        (("--noise", "1e300", "--law", "1.69,2.27,0.9"), "up to 1"),
        (("--noise", "0.01", "--law", "1,2,3,4,5"), "three or four numbers"),
        (("--noise", "0.01", "--law", "1_0,20,3"), "numbers with commas"),
        ((*NUMBERS, "--d0", "0"), "--d0 0: above 1 and below"),
        (("--amounts", "50.5,200,1000", *NUMBERS), "whole numbers"),
        (("--amounts", "50,200,1e300", *NUMBERS), "at most 1e+12"),
        (("--losses", "2.5,2.2,1e6", *NUMBERS), "at most 1000"),
        (("--hours", "1e308,1,1", *NUMBERS), "up to 1,000,000"),
        (("--seed", "-5", *NUMBERS), "--seed"),
    ],
)
def test_what_cannot_be_planned_is_one_line(more: tuple[str, ...], words: str) -> None:
    code, out, err = plan(*more)
    assert code == 2 and not out and words in err and err.count("\n") == 1


def test_own_elbows_alone_plan_nothing(tmp_path: Path) -> None:
    table, kept = str(written(tmp_path / "sweep.csv", sweep())), str(tmp_path / "free.json")
    assert typed("emergence", "law", "fit", table, "--form", "free", "--output", kept).code == 0
    assert "own elbows alone" in plan("--noise", kept)[2]
