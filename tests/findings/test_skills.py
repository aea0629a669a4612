"""``emergence law skills`` on stored predictions: a run, a folder, what has no predicates, and its figure."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from emergence.errors import DataError
from emergence.experiment.store import RunDirectory
from emergence.findings.folder import read_folder
from emergence.findings.skills import analyse_skills
from emergence.report.charts import skills
from emergence.report.charts.chart import Charts
from emergence.report.charts.drawing import draw
from tests.command_lines import typed
from tests.planted_runs import estimates, fake_run, write_run


def planted(root: Path, n: int = 150, *, together: bool = False) -> RunDirectory:
    """A finished run with three questions of each predicate, 80% of them right; ``together`` or independently."""
    run = fake_run(root, "debug", "full", finished=False)
    rng = np.random.default_rng(5)
    right = rng.random((n, 1 if together else 3)) < 0.8
    rows = [
        {"id": f"{v}-{r}", "source": "fake", "sentence_id": f"s{v}", "words": ["w"] * (5 + v % 9), "predicate_index": 1}
        | {"role": role, "passive": False, "asked_role": asked, "question": "Who?", "readouts": {}, "golds": [[0, 1]]}
        | dict.fromkeys(("em", "f1_tokens", "expected_f1"), float(right[v, 0 if together else r]))
        | {"log_prob": -1.0, "prediction": [0, 1], "predicate": "w", "gold_texts": ["w"], "prediction_text": "w"}
        for v in range(n)
        for r, (role, asked) in enumerate((("who", "agent"), ("what", "patient"), ("when", "time")))
    ]
    run.write_predictions(rows)
    columns = {name: [row[name] for row in rows] for name in ("em", "f1_tokens")}
    scores = estimates(columns, [row["sentence_id"] for row in rows])
    from emergence.experiment.result import RunResult

    result = RunResult.from_spec(
        run.spec,
        run.run_id,
        final_validation_f1=0.8,
        test_scores={"scores": scores},
        pretraining={"test": {"nats_per_token": 4.0}},
        data=run.read_data(),
    )
    run.write_stats(result.to_dict())
    return run


def test_a_run_in_words_and_json(tmp_path: Path) -> None:
    run = planted(tmp_path / "runs")
    ended = typed("emergence", "law", "skills", str(run.path))
    assert ended.code == 0 and "(debug, full, loss 4.000), headline: right is f1_tokens of 0.5 or more" in ended.out
    assert "3 of a predicate's questions right" not in ended.out, "150 triples are too few"
    assert "of 450 tuples; independent" in ended.out and "predicates without a wrong answer: 0." in ended.out
    told = json.loads(typed("emergence", "law", "skills", str(run.path), "--json", "--score", "em").out)
    (found,) = told["runs"]
    assert told["kind"] == "emergence-skills" and list(found["failures"]) == ["agent", "patient", "time"]
    assert [rate["k"] for rate in found["rates"]] == [1, 2] and found["rates"][1]["lo"] < 1 < found["rates"][1]["hi"]
    assert found["theta"] == pytest.approx(1 - 0.8**3, abs=0.1)


def test_answers_that_come_together_are_an_association(tmp_path: Path) -> None:
    planted(tmp_path / "runs", 250, together=True)
    (found,) = analyse_skills(tmp_path / "runs").runs
    pairs, triples = found.rates[1:]
    assert pairs.p == triples.p == found.rates[0].p and pairs.p_value <= 0.01 and pairs.lo > 1
    assert triples.by_difficulty == pytest.approx(triples.p)
    assert found.theta <= 0.5 and len(found.bound) == len(found.measured) == 19
    assert found.bound[0]["failure"] >= found.bound[-1]["failure"], "a larger share left out fails less"


def test_what_has_no_predicates_is_named(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "full", 0.5)
    with pytest.raises(DataError, match="its predictions do not tell predicate_index"):
        analyse_skills(tmp_path / "runs")
    run = planted(tmp_path / "runs")
    found = analyse_skills(tmp_path / "runs")
    assert [one.run for one in found.runs] == [run.run_id] and len(found.left_out) == 1
    ended = typed("emergence", "law", "skills", str(run.path), "--readout", "bilinear")
    assert ended.code == 2 and "do not tell bilinear" in ended.err and ended.err.count("\n") == 1


def test_the_figure(tmp_path: Path) -> None:
    planted(tmp_path / "runs", 250, together=True)
    charts = Charts()
    skills.KIND.collect(read_folder(tmp_path / "runs", n_boot=20), charts, 20)
    (chart,) = charts.charts
    assert {row["mark"] for row in chart.rows} == {skills.RATE, skills.CURVE, skills.MEASURED}
    assert "debug, microworld, full: 2 together 0." in chart.alt
    left, right = draw(chart).axes
    assert len(left.lines) == 2 and len(right.lines) == 2
