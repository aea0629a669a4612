"""The coverage benchmark plants what it says it plants; its full run takes minutes, this a second."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.score_coverage import CASES, answer, coverage, simulate
from emergence.measures.emergence_score import FROZEN, FULL, RANDOM_FROZEN


@pytest.mark.parametrize("mean", [0.05, 0.2, 0.5, 0.7])
def test_scores_of_a_uniform_variable_have_the_planted_mean(mean: float) -> None:
    u = (np.arange(100_000) + 0.5) / 100_000
    scores = answer(u, mean)
    assert scores.mean() == pytest.approx(mean, abs=1e-6) and scores.min() == 0 and scores.max() == 1


def test_cells_have_their_means_and_share_what_is_hard() -> None:
    case = next(case for case in CASES if case.name == "5, 3, 5 seeds")
    rng = np.random.default_rng(0)
    drawn = [simulate(case, rng)[0] for _ in range(40)]
    for name, planted, seeds in zip((FROZEN, FULL, RANDOM_FROZEN), (0.45, 0.70, 0.20), case.seeds, strict=True):
        assert drawn[0][name].shape[0] == seeds
        assert np.mean([cells[name].mean() for cells in drawn]) == pytest.approx(planted, abs=0.02)
    together = [np.corrcoef(cells[FROZEN][0], cells[FULL][0])[0, 1] for cells in drawn]
    assert np.mean(together) > 0.2


def test_a_small_run_covers() -> None:
    weak = next(case for case in CASES if case.weak)
    for case in (CASES[0], weak):
        row = coverage(case, simulations=60, n_boot=200, seed=1)
        assert 0.85 <= row["fieller" if case.weak else "headline"] <= 1.0
        assert row["truth"] == pytest.approx(case.truth) and (row["undefined"] > 0) == case.weak
        json.dumps(row, allow_nan=False)
