"""A sample of the campaign by somebody who knows the formats: nothing escapes, nothing is accepted in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.hostile_campaign import SHARES, attacks, campaign, judge, prepare
from benchmarks.hostile_cases import Attack


def test_a_sample_of_every_kind(tmp_path: Path) -> None:
    made = prepare(tmp_path)
    report = campaign(attacks(16, 7, made), made)
    assert report["problems"] == []
    assert report["attacks"] == 16 and set(report["held"]) == set(SHARES)


@pytest.mark.parametrize(
    ("words", "attack", "problem"),
    [
        (["table", "{folder}"], {"says": "bad.json", "ends": (0,)}, "not named"),
        (["config", "tiny"], {}, "accepted in silence"),
        (["config", "nope"], {"ends": (0,)}, "exit code 2"),
        (["config", "tiny"], {"ends": (0,), "check": lambda out: "wrong"}, "wrong"),
    ],
)
def test_what_the_campaign_calls_a_problem(
    words: list[str], attack: dict[str, object], problem: str, tmp_path: Path
) -> None:
    (tmp_path / "good.json").write_text(
        '{"config_name": "tiny", "freeze_llm": true, "random_baseline": false, "final_validation_f1": 0.5}'
    )
    assert judge(Attack("json", "x", words, **attack), tmp_path) == problem  # type: ignore[arg-type]
