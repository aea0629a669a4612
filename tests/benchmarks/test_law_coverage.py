"""The worlds of the law's coverage: planted as said, resumed, counted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.law_coverage import CASES, NOISE, TRUTH, main, sweep, table


def test_truth_is_that_of_the_law() -> None:
    assert pytest.approx(1.6885072969) == TRUTH


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_worlds_have_the_noise_they_say(case) -> None:
    """Few-shot rows lie on the base, but for the foot of a soft elbow."""
    rows = [sweep(case, np.random.default_rng(seed)) for seed in range(300)]
    assert len(rows[0]) == 8 * (1 + 6 * case.draws)
    first = np.array([data.score[0] for data in rows])
    assert first.std() == pytest.approx(NOISE * np.sqrt(1 + case.checkpoint**2), rel=0.3)
    pairs = np.array([data.score[[8, 9]] for data in rows])  # one draw, two checkpoints
    assert np.corrcoef(pairs.T)[0, 1] == pytest.approx(case.draw**2 / (1 + case.checkpoint**2 + case.draw**2), abs=0.15)


def test_what_is_stored_is_not_computed_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, out = tmp_path / "worlds.jsonl", tmp_path / "table.json"
    words = ["--draws", "19", "--store", str(store), "--case", "two draws", "--json", str(out)]
    assert main(["--worlds", "1", *words]) == 0
    before = store.read_text()
    assert main(["--worlds", "1", *words]) == 0
    assert store.read_text() == before
    row = json.loads(before)
    assert row["calibrated"][0] < row["estimate"][0] < row["calibrated"][1]
    assert json.loads(out.read_text())["rows"][0]["worlds"] == 1
    assert "two draws" in capsys.readouterr().out


def test_coverage_counts_open_intervals_as_holding() -> None:
    rows = [
        {
            "case": "soft elbow",
            "estimate": [TRUTH, TRUTH],
            "calibrated": ends,
            "profile_f": ends,
            "bootstrap_runs": ends,
        }
        for ends in ([-np.inf, 1.7], [1.6, 1.65], [1.6, 1.7], [1.7, np.inf])
    ]
    line = table(rows)[0]
    assert (line["calibrated"], line["calibrated_open"], line["missed_by_0.1"]) == (0.5, 0.5, 0.0)
