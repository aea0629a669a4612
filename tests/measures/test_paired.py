"""Paired tests and the design effect: known values, exact enumeration, planted truth."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from emergence.measures import bootstrap
from emergence.measures.paired import (
    compare_paired,
    compare_paired_together,
    design_effect,
    intraclass_correlation,
    mcnemar_exact_p,
    sign_flip_p,
)


def test_known_mcnemar():
    assert mcnemar_exact_p(10, 2) == pytest.approx(0.038574, abs=1e-6)
    assert mcnemar_exact_p(2, 10) == mcnemar_exact_p(10, 2)
    assert mcnemar_exact_p(0, 0) == mcnemar_exact_p(4, 4) == 1.0
    with pytest.raises(ValueError, match="negative"):
        mcnemar_exact_p(-1, 2)


def test_mcnemar_agrees_with_statsmodels():
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    for b, c in ((10, 2), (7, 9), (0, 5)):
        theirs = tables.mcnemar([[20, b], [c, 30]], exact=True).pvalue
        assert mcnemar_exact_p(b, c) == pytest.approx(theirs)


def test_sign_flip_agrees_with_all_sign_patterns():
    d = np.array([0.5, -0.1, 0.3, 0.2, 0.4, -0.2, 0.1, 0.25])
    sums = [abs(np.dot(signs, d)) for signs in itertools.product((-1, 1), repeat=len(d))]
    exact = np.mean(np.array(sums) >= abs(d.sum()) - 1e-12)
    assert sign_flip_p(d, n_permutations=20_000, seed=1) == pytest.approx(exact, abs=0.01)
    assert sign_flip_p(np.zeros(5), n_permutations=99) == 1.0


def test_comparison_finds_a_planted_difference_and_no_other():
    rng = np.random.default_rng(8)
    clusters = np.repeat(np.arange(150), 4)
    easy = rng.normal(size=150)[clusters]
    a = (easy + rng.normal(size=600) > -0.3).astype(float)
    b = (easy + rng.normal(size=600) > 0.3).astype(float)
    found = compare_paired(a, b, clusters, n_boot=1000, n_permutations=999)
    assert found.difference.lo > 0 and found.p_sign_flip < 0.01 and found.p_mcnemar < 0.01
    assert found.only_a - found.only_b == pytest.approx(600 * found.difference.point)
    same = compare_paired(a, a, clusters, n_boot=200, n_permutations=99)
    assert same.p_sign_flip == 1.0 and same.p_mcnemar == 1.0 and same.difference.point == 0.0
    swapped = compare_paired(b, a, clusters, n_boot=1000, n_permutations=999)
    assert swapped.difference.point == -found.difference.point and swapped.p_sign_flip == found.p_sign_flip
    graded = compare_paired(np.stack([a, a]), np.stack([b, b]) / 2, clusters, n_boot=200, n_permutations=99)
    assert graded.p_mcnemar is None and graded.difference.n_seeds == 2
    with pytest.raises(ValueError, match="one shape"):
        compare_paired(a, b[:-1], clusters)


def test_pairs_that_are_compared_together_are_as_alone_and_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, drawn = np.random.default_rng(3), []
    asked = [
        (rng.random((2, 90)), rng.random((2, 90)), np.arange(90) % 30),
        ((rng.random(60) > 0.5) * 1.0, (rng.random(60) > 0.3) * 1.0, np.arange(60) % 20),
        (rng.random(120), rng.random(120), np.arange(120) % 30),
    ]
    options = {"n_boot": 300, "n_permutations": 199, "seed": 4}
    alone = [compare_paired(*pair, **options) for pair in asked]
    original = bootstrap.replicates_together

    def counted(tables, *arguments):
        drawn.append(tables[0].n_clusters)
        return original(tables, *arguments)

    monkeypatch.setattr(bootstrap, "replicates_together", counted)
    assert compare_paired_together(asked, **options) == alone and sorted(drawn) == [20, 30]
    assert [one.difference.n_seeds for one in alone] == [2, 1, 1] and alone[1].p_mcnemar is not None
    assert compare_paired_together([]) == []


def test_design_effect_of_copies_is_the_cluster_size():
    rng = np.random.default_rng(0)
    values, clusters = np.repeat(rng.random(50), 4), np.repeat(np.arange(50), 4)
    assert intraclass_correlation(values, clusters) == pytest.approx(1.0)
    assert design_effect(values, clusters) == pytest.approx(4.0)


def test_design_effect_of_independent_questions_is_about_one():
    rng = np.random.default_rng(0)
    assert design_effect(rng.random(8000), np.repeat(np.arange(2000), 4)) == pytest.approx(1.0, abs=0.06)


def test_planted_intraclass_correlation_is_recovered():
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(3000), rng.integers(1, 8, 3000))
    values = np.sqrt(0.3) * rng.normal(size=3000)[clusters] + np.sqrt(0.7) * rng.normal(size=len(clusters))
    assert intraclass_correlation(values, clusters) == pytest.approx(0.3, abs=0.03)
    assert np.isnan(intraclass_correlation([1.0, 2.0], [0, 1]))
