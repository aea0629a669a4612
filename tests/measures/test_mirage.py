"""Artefact or emergence: known answers, and planted worlds of each kind."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.break_coverage import SHAPES, bound_case, verdict_case
from emergence.measures.equivalence import largest_break
from emergence.measures.mirage import (
    LinkCheck,
    MetricCurve,
    breakthroughness,
    diagnose,
    holm,
    isotonic_link,
    toy_curve,
)
from emergence.measures.seed_mixture import seed_mixture
from emergence.plain import plain


def test_known_breakthroughness():
    assert breakthroughness([0, 0.1, 0.2, 0.9]) == pytest.approx(9)
    assert breakthroughness([0, 0.3, 0.6, 0.9]) == pytest.approx(3)
    assert breakthroughness([0.9, 0.6, 0.3, 0]) == pytest.approx(-3)
    assert breakthroughness([0, 0, 0, 0.9]) == math.inf and math.isnan(breakthroughness([0.3, 0.3, 0.3]))


def test_known_toy_curve():
    toy = toy_curve([1e6, 1e7, 1e8, 1e9], c=1e7, alpha=-0.5, length=5)
    assert toy.p == pytest.approx([0.0423, 0.3679, 0.7289, 0.9048], abs=5e-5)
    assert toy.em == pytest.approx([1.3e-7, 0.00674, 0.2057, 0.6065], abs=5e-5)
    assert toy.edit == pytest.approx([4.788, 3.161, 1.356, 0.476], abs=5e-4)


def test_known_powers_of_token_accuracy():
    for p, em in ((0.9, 0.5904900000000001), (0.99, 0.9509900498999999)):
        cross_entropy = -math.log(p)  # choose N so that p is exactly this
        toy = toy_curve([1e7 * cross_entropy**-2], c=1e7, alpha=-0.5, length=5)
        assert toy.em[0] == pytest.approx(em)
    assert toy_curve([1e7 * math.log(1 / 0.9) ** -2], c=1e7, alpha=-0.5, length=5).edit[0] == pytest.approx(0.5)


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]).tolist() == [1.0, 1.0]


X = np.linspace(5, 9, 10)


def _world(rng, latent, *, seeds=3, noise=0.0, spread=0.5):
    """Span log-probability and exact match of 400 questions (100 sentences) whose skill is ``latent`` (K,)."""
    clusters = np.repeat(np.arange(100), 4)
    hardness = spread * (rng.normal(size=100)[clusters] + rng.normal(size=400))
    skill = latent[:, None, None] - hardness + noise * rng.normal(size=(len(latent), seeds, 400))
    return skill, (skill > 0).astype(float), clusters


def _curves(skill, em, **extra):
    def curve(name, values, continuous):
        # The seeds differ by question noise only; that, not the shared questions, scatters the curve.
        se = values.std(axis=(1, 2)) / np.sqrt(values[0].size)
        return MetricCurve(name, continuous, values.mean(axis=2).T, np.maximum(se, 1e-4))

    curves = [curve("log_prob", skill, True), curve("em", em, False)]
    return curves + [curve(name, values, True) for name, values in extra.items()]


def test_a_smooth_skill_behind_a_threshold_is_an_artefact():
    rng = np.random.default_rng(0)
    skill, em, clusters = _world(rng, np.linspace(-5, 2.5, 10), noise=0.05, spread=0.15)
    link = isotonic_link(X, skill, em, clusters, sign=1, n_boot=300)
    assert link.coverage >= 0.9
    curves = _curves(skill, em)
    verdict = diagnose(X, curves, sign=1, link=link, n_draws=199)
    assert verdict.verdict == "artefact", verdict.reasons
    assert verdict.metrics["em"].breaks and not verdict.metrics["log_prob"].breaks
    assert verdict.metrics["log_prob"].equivalence.negligible
    assert diagnose(X, curves, sign=1, n_draws=199).verdict == "undetermined"
    json.dumps(plain(verdict), allow_nan=False)


def test_an_artefact_takes_a_partner_whose_break_is_excluded_not_one_without_a_significant_break():
    rng = np.random.default_rng(0)
    skill, em, clusters = _world(rng, np.linspace(-5, 2.5, 10), noise=0.05, spread=0.15)
    link = isotonic_link(X, skill, em, clusters, sign=1, n_boot=300)
    sure, discrete = _curves(skill, em)
    vague = replace(sure, se=np.full(10, 0.5))
    verdict = diagnose(X, [vague, discrete], sign=1, link=link, n_draws=199)
    assert verdict.verdict == "undetermined" and "less than 10%" in verdict.reasons[-1]
    assert not verdict.metrics["log_prob"].breaks and verdict.metrics["log_prob"].equivalence.upper > 0.1
    other = replace(sure, name="other")  # the partner is the one named, whatever the rest allows
    named = diagnose(X, [vague, other, replace(discrete, partner="other")], sign=1, link=link, n_draws=199)
    assert named.verdict == "artefact", named.reasons


def test_a_real_break_in_two_continuous_metrics_is_emergence():
    rng = np.random.default_rng(1)
    latent = -3 + 2.0 * np.maximum(X - 7.2, 0)
    skill, em, _ = _world(rng, latent, noise=0.3)
    curves = _curves(skill, em, margin=0.3 * skill + 0.02 * rng.normal(size=skill.shape))
    verdict = diagnose(X, curves, sign=1, n_draws=199)
    assert verdict.verdict == "emergent", verdict.reasons
    place = verdict.metrics["log_prob"].place
    assert place.lo <= 7.2 <= place.hi
    mirrored = diagnose(-X, curves, sign=-1, n_draws=199)
    assert mirrored.verdict == "emergent" and mirrored.metrics["log_prob"].place.tau == pytest.approx(-place.tau)
    one_seed = _curves(skill[:, :1], em[:, :1], margin=0.3 * skill[:, :1])
    assert diagnose(X, one_seed, sign=1, n_draws=199).verdict == "undetermined"


def test_lower_is_better_metrics_are_turned():
    latent = -3 + 2.0 * np.maximum(X - 7.2, 0)
    y = np.tile(latent, (3, 1)) + 0.01 * np.random.default_rng(0).normal(size=(3, 10))
    curves = [MetricCurve("a", True, y, np.full(10, 0.01)), MetricCurve("b", True, -y, np.full(10, 0.01), False)]
    assert diagnose(X, curves, sign=1, n_draws=199).verdict == "emergent"


def test_gradual_only_where_a_break_is_excluded_and_few_scales_are_undetermined():
    y = np.linspace(0.1, 0.4, 10) + 0.001 * np.random.default_rng(2).normal(size=(3, 10))
    sure = [MetricCurve("f1", True, y, np.full(10, 0.001)), MetricCurve("em", False, y / 2, np.full(10, 0.001))]
    verdict = diagnose(X, sure, sign=1, n_draws=199)
    assert verdict.verdict == "gradual", verdict.reasons
    vague = [sure[0], MetricCurve("em", False, y / 2, np.full(10, 0.02))]
    verdict = diagnose(X, vague, sign=1, n_draws=199)
    bound = verdict.metrics["em"].equivalence.upper
    assert verdict.verdict == "no break shown" and f"more than {bound:.0%}" in verdict.reasons[-1]
    flat = [MetricCurve("f1", True, np.zeros((3, 10)), np.full(10, 0.02))]
    assert diagnose(X, flat, sign=1, n_draws=99).verdict == "no break shown", "what does not rise is not gradual"
    few = [MetricCurve("f1", True, y[:, :4], np.full(4, 0.005))]
    verdict = diagnose(X[:4], few, sign=1, n_draws=99)
    assert verdict.verdict == "undetermined" and "4 scales" in verdict.reasons[-1]


def test_two_kinds_of_seeds_outrank_emergence():
    """Each seed jumps, half of them late: the mean over seeds is of neither kind."""
    rng = np.random.default_rng(5)

    def metrics(places):
        y = np.array([np.maximum(X - place, 0) for place in places]) + 0.01 * rng.normal(size=(len(places), 10))
        return [MetricCurve(name, True, y + 0.01 * rng.normal(size=y.shape), np.full(10, 0.01)) for name in "ab"]

    assert diagnose(X, metrics([7.0] * 8), sign=1, n_draws=199).verdict == "emergent"
    mixed = diagnose(X, metrics([7.0] * 5 + [7.8] * 3), sign=1, n_draws=199)
    assert mixed.verdict == "seed_mixture", mixed.reasons
    assert mixed.mixtures["a"].n_seeds == 8 and "two kinds" in mixed.reasons[-1]
    json.dumps(plain(mixed), allow_nan=False)
    few = diagnose(X, metrics([7.0] * 2 + [7.8] * 2), sign=1, n_draws=199)
    assert few.mixtures == {} and few.verdict != "seed_mixture"


def test_seed_mixture_keeps_its_size_and_sees_two_kinds():
    rng = np.random.default_rng(6)
    for n_seeds in (5, 10):
        null = [seed_mixture(rng.normal(size=(n_seeds, 6))) for _ in range(400)]
        assert np.mean([m.p < 0.05 for m in null]) == pytest.approx(0.05, abs=0.03)
    apart = rng.normal(size=(10, 6)) * 0.1 + np.repeat([0.0, 1.0], [6, 4])[:, None] * np.array([0, 0, 0, 1, 0.5, 0])
    found = seed_mixture(apart)
    assert found.p < 0.01 and found.at == 3
    assert seed_mixture(apart[:4]) is None and seed_mixture(np.ones((6, 4))) is None


_QUICK = ("logistic, 10% wide", "logistic, 40% wide")


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(s, id=s.name, marks=() if s.name in _QUICK else pytest.mark.slow)
        for s in SHAPES
        if s.smooth is not None
    ],
)
def test_emergent_is_for_narrow_rises_and_not_for_wide_ones(shape):
    row = verdict_case(shape, 12, simulations=10, draws=99, seed=3)
    assert row["emergent"] <= 0.1 if shape.smooth else row["emergent"] >= 0.8


def test_equivalence_bound_holds_the_planted_step():
    for step in (0.1, 0.3):
        assert bound_case(12, step, 0.01, simulations=40, seed=2)["coverage"] >= 0.875
    assert bound_case(12, 0.0, 0.003, simulations=20, seed=2)["median_bound"] < 0.05
    falling = largest_break(X, -X, sign=1)
    assert (falling.share, falling.upper, falling.negligible) == (0.0, 1.0, False)


def test_link_fails_where_the_metric_moves_on_its_own():
    rng = np.random.default_rng(3)
    skill, em, clusters = _world(rng, np.linspace(-1, 1, 10), seeds=1)
    em[6:] = 1.0  # from here on right whatever the log-probability says
    assert isotonic_link(X, skill, em, clusters, sign=1, n_boot=200).coverage < 0.9
    with pytest.raises(ValueError, match="must be"):
        isotonic_link(X[:3], skill, em, clusters, sign=1)


def test_coverage_of_a_given_prediction():
    toy = toy_curve(10.0 ** np.arange(6, 10), c=1e7, alpha=-0.5, length=5)
    link = LinkCheck.of(toy.em + np.array([0, 0.01, 0, 0.5]), toy.p**5, np.full(4, 0.01))
    assert link.coverage == 0.75
