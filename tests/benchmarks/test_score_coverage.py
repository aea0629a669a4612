"""The coverage benchmark plants what it says it plants; its full run takes minutes, this a second."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.score_coverage import CASES, answer, coverage, simulate
from emergence.measures.clustering import document_widening
from emergence.measures.emergence_score import FROZEN, FULL, RANDOM_FROZEN


@pytest.mark.parametrize("mean", [0.05, 0.2, 0.5, 0.7])
def test_scores_of_a_uniform_variable_have_the_planted_mean(mean: float) -> None:
    u = (np.arange(100_000) + 0.5) / 100_000
    scores = answer(u, mean)
    assert scores.mean() == pytest.approx(mean, abs=1e-6) and scores.min() == 0 and scores.max() == 1


def test_cells_have_their_means_and_share_what_is_hard() -> None:
    case = next(case for case in CASES if case.name == "5, 3, 5 seeds")
    rng = np.random.default_rng(0)
    drawn = [simulate(case, rng).cells for _ in range(40)]
    for name, planted, seeds in zip((FROZEN, FULL, RANDOM_FROZEN), (0.45, 0.70, 0.20), case.seeds, strict=True):
        assert drawn[0][name].shape[0] == seeds
        assert np.mean([cells[name].mean() for cells in drawn]) == pytest.approx(planted, abs=0.02)
    together = [np.corrcoef(cells[FROZEN][0], cells[FULL][0])[0, 1] for cells in drawn]
    assert np.mean(together) > 0.2


def test_documents_have_an_effect_and_heavy_tails_their_large_sentences() -> None:
    rng = np.random.default_rng(1)
    cases = {case.name: case for case in CASES}
    drawn = [simulate(cases["documents"], rng) for _ in range(40)]
    assert len(set(drawn[0].documents.tolist())) == 16 and len(set(drawn[0].sentences.tolist())) == 184
    widening = [document_widening(one.cells[FROZEN], one.sentences, one.documents) for one in drawn]
    assert np.mean(widening) > 1.2
    most = [np.bincount(simulate(cases["pareto"], rng).sentences).max() for _ in range(20)]
    assert np.median(most) > 25


@pytest.mark.parametrize("name", ["10 sentences", "3 seeds, wide", "pareto, 30", "documents, clustered"])
def test_hard_regimes_cover(name: str) -> None:
    """Each covered fewer than 92% before the widths were those of few clusters and few seeds."""
    row = coverage(next(case for case in CASES if case.name == name), simulations=150, n_boot=200, seed=3)
    assert min(row["headline"], row["f1"]) >= 0.90


def test_pooling_over_sizes_narrows_and_still_covers() -> None:
    cases = {case.name: case for case in CASES}
    alone, pooled = (coverage(cases[name], 150, 200, 4) for name in ("3 seeds, own", "3 seeds, pooled"))
    assert pooled["f1_width"] < 0.9 * alone["f1_width"] and pooled["f1"] >= 0.90


def test_what_the_program_says_itself() -> None:
    cases = {case.name: case for case in CASES}
    assert cases["documents"].said and not cases["documents, clustered"].said


def test_a_small_run_covers() -> None:
    weak = next(case for case in CASES if case.weak)
    for case in (CASES[0], weak):
        row = coverage(case, simulations=60, n_boot=200, seed=1)
        assert 0.85 <= row["fieller" if case.weak else "headline"] <= 1.0
        assert row["truth"] == pytest.approx(case.truth) and (row["undefined"] > 0) == case.weak
        json.dumps(row, allow_nan=False)
