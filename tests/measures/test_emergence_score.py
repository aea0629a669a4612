"""The score, its floors and its intervals: known answers, planted truth, and where it must say undefined."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from emergence.measures.bootstrap import Resamples, interval, statistic_draws
from emergence.measures.emergence_score import (
    CELLS,
    RatioMoments,
    analyse_two_by_two,
    compute_emergence_gap,
    compute_emergence_score,
    score_flags,
    two_by_two_table,
)
from emergence.measures.ratio import delta_se, fieller_set
from emergence.measures.readings import (
    SCORE_NAMES,
    SizeScore,
    describe_score,
    read_score,
    read_sizes,
)
from emergence.plain import plain

V = 0.02**2


def cells(rng, means, *, n_clusters=150, seeds=1, sd_seed=0.0, noise=0.25):
    """Per-question scores of each cell (S, N) with shared sentence effects; the seed effects of F and U are shared."""
    clusters = np.repeat(np.arange(n_clusters), rng.integers(1, 7, n_clusters))
    sentence = 0.15 * rng.normal(size=n_clusters)[clusters]
    pretraining = sd_seed * rng.normal(size=(seeds, 1))
    scores = {}
    for name, mean in means.items():
        seed = pretraining if name in ("full", "frozen") else sd_seed * rng.normal(size=(seeds, 1))
        scores[name] = mean + sentence + seed + noise * rng.normal(size=(seeds, len(clusters)))
    return scores, clusters


def analysis(means, seed=0, n_boot=1000, **options):
    scores, clusters = cells(np.random.default_rng(seed), means, **options)
    return analyse_two_by_two(two_by_two_table(scores, clusters), n_boot=n_boot)


def test_known_score_gap_delta_and_fieller():
    assert compute_emergence_score(0.40, 0.60, 0.20) == pytest.approx(0.5)
    assert compute_emergence_gap(0.60, 0.40) == pytest.approx(0.2)
    moments = RatioMoments.from_covariance(0.40, 0.60, 0.20, np.diag([V] * 3))
    assert moments.se == pytest.approx(0.06123724356957946) and moments.se**2 == pytest.approx(0.00375)
    assert moments.raw - 1.959964 * moments.se == pytest.approx(0.3800, abs=5e-5)
    fieller = moments.fieller()
    assert fieller.gamma == pytest.approx(0.019207294103470624)
    assert (fieller.lo, fieller.hi) == pytest.approx((0.37880767668052656, 0.6211923233194735))
    assert fieller.describe() == "[0.379, 0.621]"


def test_known_unbounded_fieller():
    unbounded = fieller_set(0.02, 0.03, 2 * V, 2 * V, V)
    assert unbounded.kind == "unbounded" and unbounded.gamma > 1 and unbounded.contains(1e9)
    leading = 0.03**2 * (1 - unbounded.gamma)  # d² − z²V_dd, the quadratic's leading coefficient
    assert leading == pytest.approx(-0.0021731670565553005)
    assert "unbounded" in unbounded.describe()


def test_every_kind_of_fieller_set_is_the_set_it_claims():
    rng = np.random.default_rng(0)
    kinds = set()
    for _ in range(300):
        n, d = rng.normal(size=2) * rng.choice([0.1, 1, 3])
        root = rng.normal(size=(2, 2)) * 0.5
        v = root @ root.T
        result = fieller_set(n, d, v[0, 0], v[1, 1], v[0, 1])
        kinds.add(result.kind)
        assert result.contains(n / d)
        for s in rng.normal(size=20) * 5:
            rejected = abs(n - s * d) > 1.959963984540054 * math.sqrt(v[0, 0] - 2 * s * v[0, 1] + s * s * v[1, 1])
            assert result.contains(s) != rejected
    assert kinds == {"bounded", "unbounded", "complement"}
    half = fieller_set(1.0, 2.0, 0.0, 1.0, 0.0, quantile=2.0)  # the quadratic term vanishes: -4 S + 1 <= 0
    assert half.kind == "half_line" and half.lo == 0.25 and "from" in half.describe() and half.contains(9)
    assert fieller_set(1.0, math.nan, 1, 1, 0).kind == "undefined"
    assert math.isnan(delta_se(1.0, 0.0, 1, 1, 0))


def test_moments_follow_the_algebra_of_correlated_cells():
    root = np.random.default_rng(0).normal(size=(3, 3)) * 0.01
    v = root @ root.T
    moments = RatioMoments.from_covariance(0.4, 0.6, 0.2, v)
    draws = np.random.default_rng(1).multivariate_normal([0.4, 0.6, 0.2], v, 40_000)
    n, d = draws[:, 0] - draws[:, 2], draws[:, 1] - draws[:, 2]
    np.testing.assert_allclose(np.cov(n, d), [[moments.v_nn, moments.v_nd], [moments.v_nd, moments.v_dd]], rtol=0.05)
    assert moments.se == pytest.approx((n / d).std(), rel=0.03)


@pytest.mark.parametrize(
    ("frozen", "full", "expected"),
    [
        ((5, 15, 65, 73), (25, 45, 70, 75), (0.20, 0.33, 0.93, 0.97)),
        ((5, 8, 12, 15), (25, 45, 70, 75), (0.20, 0.18, 0.17, 0.20)),
        ((5, 20, 40, 55), (25, 45, 70, 75), (0.20, 0.44, 0.57, 0.73)),
    ],
)
def test_known_scenarios_of_the_guide(frozen, full, expected):
    scores = [compute_emergence_score(f / 100, u / 100, 0.0) for f, u in zip(frozen, full, strict=True)]
    assert scores == pytest.approx(expected, abs=0.005)


def test_score_is_never_clipped_and_undefined_without_headroom():
    assert compute_emergence_score(0.1, 0.6, 0.2) == pytest.approx(-0.25)
    assert compute_emergence_score(0.7, 0.6, 0.2) == pytest.approx(1.25)
    for arguments in ((0.4, 0.2, 0.2), (0.4, 0.1, 0.2), (0.4, math.nan, 0.2)):
        assert math.isnan(compute_emergence_score(*arguments))


def test_two_by_two_recovers_planted_cells_and_keeps_the_floors_apart():
    means = {"full": 0.7, "frozen": 0.45, "random_full": 0.5, "random_frozen": 0.2}
    result = analysis(means, n_clusters=400)
    assert result.probe.score.lo < 0.5 < result.probe.score.hi and result.probe.score.method == "bca"
    assert result.scratch.raw == pytest.approx(-0.25, abs=0.1) and "below_zero" in result.scratch.flags
    assert result.gap.point == pytest.approx(0.25, abs=0.03)
    assert result.interaction.point == pytest.approx(result.pretraining_benefit.point - result.readable_benefit.point)
    assert result.probe.raw == pytest.approx(
        compute_emergence_score(*(result.cells[c].point for c in ("frozen", "full", "random_frozen")))
    )
    assert result.probe.fieller.lo == pytest.approx(result.probe.score.lo, abs=0.02)
    assert result.probe.delta.hi == pytest.approx(result.probe.score.hi, abs=0.02)
    assert "single_seed" in result.probe.flags
    json.dumps(plain(result), allow_nan=False)


def test_shared_questions_narrow_the_interval():
    scores, clusters = cells(np.random.default_rng(3), {"full": 0.7, "frozen": 0.5, "random_frozen": 0.2}, noise=0.05)
    result = analyse_two_by_two(two_by_two_table(scores, clusters), n_boot=1000)
    v = np.diag([result.cells[c].se ** 2 for c in ("frozen", "full", "random_frozen")])
    assert result.probe.score.se < 0.5 * RatioMoments.from_covariance(0.5, 0.7, 0.2, v).se


def test_weak_denominator_is_undefined_with_fiellers_set():
    means = {"full": 0.21, "frozen": 0.205, "random_frozen": 0.2}
    result = analysis(means, n_clusters=60).probe
    assert math.isnan(result.score.point) and result.score.method == "fieller"
    assert {"denominator_uncertain", "denominator_not_positive"} & set(result.flags)
    assert result.fieller.kind in ("unbounded", "complement")
    assert math.isinf(result.score.lo) and math.isinf(result.score.hi)
    assert math.isfinite(result.above_floor.lo)
    below = analysis({"full": 0.1, "frozen": 0.3, "random_frozen": 0.4}).probe
    assert "denominator_not_positive" in below.flags and math.isnan(below.score.point) and math.isfinite(below.raw)
    json.dumps(plain(result), allow_nan=False)
    json.dumps(plain(below), allow_nan=False)


def test_score_interval_covers_the_planted_score():
    """A small version of the simulation in benchmarks/: five seeds, 80 sentences."""
    rng = np.random.default_rng(17)
    means = {"full": 0.6, "frozen": 0.4, "random_frozen": 0.2}
    hits = 0
    for trial in range(150):
        scores, clusters = cells(rng, means, n_clusters=80, seeds=5, sd_seed=0.01)
        score = analyse_two_by_two(two_by_two_table(scores, clusters), n_boot=400, seed=trial).probe.score
        hits += score.lo <= 0.5 <= score.hi
    assert 0.90 <= hits / 150 <= 0.99


def test_missing_cells_are_left_out_and_wrong_ones_refused():
    result = analysis({"full": 0.7, "frozen": 0.5, "random_full": 0.3})
    assert result.probe is None and result.interaction is None and result.scratch.raw > 0
    assert set(result.cells) == {"full", "frozen", "random_full"} < set(CELLS)
    with pytest.raises(ValueError, match="cells must include"):
        two_by_two_table({"full": [1.0]}, [0])
    with pytest.raises(ValueError, match="cells must include"):
        two_by_two_table({"full": [1.0], "frozen": [1.0], "random": [1.0]}, [0])


def test_seed_labels_pair_pretrained_cells_only():
    scores, clusters = cells(
        np.random.default_rng(0), {"full": 0.7, "frozen": 0.5, "random_frozen": 0.2}, seeds=3, sd_seed=0.1
    )
    table = two_by_two_table(scores, clusters)
    assert table.seed_labels["full"] == table.seed_labels["frozen"] != table.seed_labels["random_frozen"]
    result = analyse_two_by_two(table, n_boot=500)
    assert result.gap.se < 0.3 * result.cells["full"].se  # shared pretraining cancels in the gap
    assert result.readable_benefit.se > 0.7 * math.hypot(*(result.cells[c].se for c in ("frozen", "random_frozen")))
    assert result.seed_sd["full"] > 0.01 and result.gap.n_seeds == 3


# ----------------------------------------------------------------------------------------- readings
def _score(point, *, half=0.05, floor=0.2, full=0.7):
    """An EmergenceScore with a chosen point, through the real estimator."""
    frozen = floor + point * (full - floor)
    result = analysis({"full": full, "frozen": frozen, "random_frozen": floor}, n_clusters=300, noise=half, n_boot=300)
    return result.probe, result.cells["full"]


@pytest.mark.parametrize(("point", "verdict"), [(0.95, "strong"), (0.5, "partial"), (0.1, "none"), (-0.3, "none")])
def test_reading_of_clear_scores(point, verdict):
    score, full = _score(point)
    reading = read_score(score, full, no_model_floor=0.4)
    assert reading.verdict == verdict and reading.could_be == (verdict,)
    assert any(line.startswith("emergence score ") for line in reading.evidence)
    assert any("gate of 0.40" in line and "clears" in line for line in reading.evidence)


def test_reading_is_undetermined_where_it_must_be():
    score, full = _score(0.75)
    assert read_score(score, full).could_be == ("strong", "partial")
    assert read_score(score, full).verdict == "undetermined"
    strong, full = _score(0.95)
    assert read_score(strong, full, no_model_floor=0.8).verdict == "undetermined"
    weak = analysis({"full": 0.21, "frozen": 0.2, "random_frozen": 0.2}, n_clusters=60)
    reading = read_score(weak.probe, weak.cells["full"])
    assert reading.verdict == "undetermined" and len(reading.could_be) == 3
    assert any("nothing to have a share of" in line for line in reading.evidence)


@pytest.mark.parametrize("means", [(0.529, 0.30, 0.50), (0.45, 0.30, 0.50)])
def test_a_share_of_next_to_nothing_is_flagged_and_told_as_differences(means):
    """The full cell a hair above its floor, however exactly known, or below it."""
    full, frozen, floor = means
    score = analysis({"full": full, "frozen": frozen, "random_full": floor}, n_clusters=3_000).scratch
    assert "headroom_small" in score.flags and not score.is_meaningful and math.isfinite(score.raw)
    text = describe_score(score)
    assert text.startswith("not meaningful: full finetuning ") and f"{score.raw:.2f}" not in text
    assert f"{score.headroom.point:.3f} [" in text and f"{score.above_floor.point:.3f} [" in text
    assert plain(score)["raw"] == score.raw


def test_headroom_that_is_large_but_unsure_is_small_against_its_interval():
    unsure = RatioMoments(n=0.1, d=0.2, v_nn=0.01, v_dd=0.02, v_nd=0.0)
    sure = RatioMoments(n=0.1, d=0.2, v_nn=0.0001, v_dd=0.0001, v_nd=0.0)
    flags = [score_flags(moments, moments.fieller(), 1, 0.95) for moments in (unsure, sure)]
    assert ["headroom_small" in found for found in flags] == [True, False]


def test_the_two_scores_have_two_names():
    result = analysis({"full": 0.7, "frozen": 0.45, "random_full": 0.5, "random_frozen": 0.2}, n_clusters=100)
    assert SCORE_NAMES[result.probe.floor] == "emergence score"
    assert SCORE_NAMES[result.scratch.floor] == "from-scratch score"


def _sizes(points):
    sizes = []
    for k, point in enumerate(points):
        score, full = _score(point)
        sizes.append(SizeScore(f"size{k}", 10.0**k, score, read_score(score, full)))
    return sizes


def test_scale_reading_of_the_guides_scenarios():
    a = read_sizes(_sizes((0.20, 0.33, 0.93, 0.97)))
    assert (a.verdict, a.pattern, a.step_at) == ("scale-dependent", "step", "size2")
    assert any("cannot establish a threshold" in line for line in a.evidence)
    b = read_sizes(_sizes((0.15, 0.15, 0.15, 0.15)))
    assert (b.verdict, b.pattern) == ("none", "flat")
    c = read_sizes(list(reversed(_sizes((0.20, 0.44, 0.57, 0.73)))))
    assert (c.verdict, c.pattern, c.step_at) == ("scale-dependent", "gradual", None)
    json.dumps(plain(c), allow_nan=False)


def test_scale_reading_refuses_few_sizes_and_falls():
    assert read_sizes(_sizes((0.2, 0.9))).verdict == "undetermined"
    fall = read_sizes(_sizes((0.2, 0.9, 0.5)))
    assert fall.verdict == "undetermined" and any("falls at size2" in line for line in fall.evidence)


def test_the_parts_of_a_score_are_those_of_its_cells():
    """Draws are shared among the parts, and each part has its own."""
    means = {"full": 0.52, "frozen": 0.60, "random_frozen": 0.50}
    scores, clusters = cells(np.random.default_rng(3), means, seeds=3, sd_seed=0.02)
    table = two_by_two_table(scores, clusters)
    found = analyse_two_by_two(table, n_boot=1000).probe
    resamples = Resamples.draw(table, 1000)
    of_floor = interval(resamples, lambda m: m["frozen"] - m["random_frozen"])
    of_full = interval(resamples, lambda m: m["full"] - m["random_frozen"])
    assert found.above_floor == of_floor and found.headroom == of_full and of_floor.point > of_full.point
    draws = statistic_draws(resamples, lambda m: m["full"] - m["random_frozen"]).draws
    assert found.bad_denominators == (draws <= 0).mean() > 0
