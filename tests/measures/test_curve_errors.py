"""The covariance of a curve's errors: what was planted comes back, and tests that use it keep their size."""

from __future__ import annotations

import numpy as np
import pytest

from emergence.measures.bootstrap import Resamples
from emergence.measures.curve_errors import CurveErrors, _inverse_bias
from emergence.measures.resampling import ClusterTable

K, SEEDS, SENTENCES = 8, 3, 200


def errors(
    rng: np.random.Generator, *, seeds: int = SEEDS, shared: float = 1.0, own: float = 0.0, offset: float = 0.0
) -> CurveErrors:
    """Of one question a sentence, each with a part that all snapshots share and one of its own."""
    common = shared * rng.normal(size=SENTENCES)
    scores = {str(k): common + 0.5 * rng.normal(size=SENTENCES) + own * rng.normal(size=(seeds, 1)) for k in range(K)}
    tilt = offset * rng.normal(size=(seeds, 1))
    table = ClusterTable.from_questions({k: v + tilt for k, v in scores.items()}, np.arange(SENTENCES))
    return CurveErrors.of(Resamples.draw(table, 500, seed=0), list(scores))


def test_questions_that_all_snapshots_share_go_together() -> None:
    found = errors(np.random.default_rng(0), seeds=1)
    sd = np.sqrt(np.diag(found.mean))
    off = (found.mean / np.outer(sd, sd))[~np.eye(K, dtype=bool)]
    assert off.mean() == pytest.approx(1 / 1.25, abs=0.1) and found.seed_sd == 0.0
    assert sd.mean() == pytest.approx(np.sqrt(1.25 / SENTENCES * _inverse_bias(SENTENCES, K)), rel=0.15)
    assert found.by_seed.shape == (1, K, K)


def test_seeds_add_their_own_variance_once() -> None:
    rng = np.random.default_rng(1)
    drawn = [errors(rng, own=0.2, offset=0.4) for _ in range(30)]
    assert np.mean([d.seed_sd**2 for d in drawn]) == pytest.approx(0.04, rel=0.2)
    without = errors(np.random.default_rng(2))
    added = np.mean([d.by_seed[0] - d.mean for d in drawn], axis=0)  # two thirds of what seeds add
    assert np.diag(added).mean() == pytest.approx((0.04 + 0.16) * 2 / 3, rel=0.4)
    assert added[~np.eye(K, dtype=bool)].mean() == pytest.approx(0.16 * 2 / 3, rel=0.5)
    assert without.seed_sd < 0.02, "question noise is not counted as the seeds'"


def test_too_few_sentences_for_the_snapshots_make_the_errors_large() -> None:
    assert _inverse_bias(200, 8) == pytest.approx(199 / 190) and _inverse_bias(9, 8) == 8.0


def test_snapshots_need_the_same_seeds() -> None:
    table = ClusterTable.from_questions({"0": np.zeros((2, 9)), "1": np.zeros((3, 9))}, np.arange(9))
    with pytest.raises(ValueError, match="same seeds"):
        CurveErrors.of(Resamples.draw(table, 50), ["0", "1"])
