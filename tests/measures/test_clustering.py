"""Standard errors by sentences and by documents."""

from __future__ import annotations

import math

import numpy as np
import pytest

from emergence.measures.bootstrap import bootstrap_means
from emergence.measures.clustering import cluster_standard_error, document_widening
from emergence.measures.resampling import ClusterTable

SENTENCES = np.repeat(np.arange(160), 5)
DOCUMENTS = SENTENCES // 10


def _values(of_documents: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shared = 0.2 * rng.normal(size=160)[SENTENCES] + of_documents * rng.normal(size=16)[DOCUMENTS]
    return shared + 0.3 * rng.normal(size=len(SENTENCES))


def test_the_standard_error_is_the_bootstraps() -> None:
    values = _values(0.0, 0)
    table = ClusterTable.from_questions({"x": values}, SENTENCES)
    assert cluster_standard_error(values, SENTENCES) == pytest.approx(
        bootstrap_means(table, n_boot=4000)["x"].se, rel=0.03
    )
    assert math.isnan(cluster_standard_error(values, np.zeros(len(values))))


def test_several_seeds_are_taken_as_their_mean() -> None:
    values = np.stack([_values(0.0, seed) for seed in range(3)])
    assert cluster_standard_error(values, SENTENCES) == pytest.approx(
        cluster_standard_error(values.mean(axis=0), SENTENCES)
    )


def test_documents_widen_only_where_they_differ() -> None:
    plain, planted = (
        np.mean([document_widening(_values(size, seed), SENTENCES, DOCUMENTS) for seed in range(40)])
        for size in (0.0, 0.2)
    )
    assert plain == pytest.approx(1.0, abs=0.1)
    expected = math.sqrt((0.04 / 16 + 0.04 / 160 + 0.09 / 800) / (0.04 / 160 + 0.04 / 160 + 0.09 / 800))
    assert planted == pytest.approx(expected, rel=0.15)
    assert math.isnan(document_widening(np.ones(len(SENTENCES)), SENTENCES, DOCUMENTS))
