"""The emergence law: known answers, errors that go together, intervals that may be open."""

from __future__ import annotations

import math

import numpy as np
import pytest

from emergence.measures.emergence_law import LawData, LawModel, fit_law
from emergence.measures.free_elbows import fit_free
from emergence.measures.law_errors import LawErrors, fit_errors
from emergence.measures.law_intervals import bootstrap_runs, calibrated_profile, f_profile
from emergence.measures.law_posterior import log_posterior
from emergence.measures.simplex import minimise

LOSSES = np.array([2.5, 2.35, 2.2, 2.1, 2.0, 1.92, 1.85, 1.78])
AMOUNTS = (50, 100, 200, 500, 1000, 6000)
TRUTH = 1.6885072969317054


def elbow(amount):
    return 0.05 * np.log(amount) ** 1.2 + 1.60


def planted(sigma: float = 0.0, seed: int = 1, draws: int = 1, losses=LOSSES) -> LawData:
    """Eight checkpoints, six amounts, few-shot rows first (they are drawn first, too)."""
    n = len(losses)
    amount = np.repeat(np.array([5, *np.repeat(AMOUNTS, draws)], dtype=float), n)
    loss, few = np.tile(losses, len(amount) // n), amount == 5
    score = 0.9 * np.maximum(elbow(amount) - loss, 0) + 0.25 - 0.02 * few
    score = score + sigma * np.random.default_rng(seed).standard_normal(len(score))
    return LawData.of(
        loss, amount, score, fewshot=few, draw=np.repeat([0, *np.tile(range(draws), 6)], n) if draws > 1 else None
    )


def test_formula_as_published() -> None:
    assert elbow(np.array([5, 10, 50, 6000])) == pytest.approx([TRUTH, 1.7360281622, 1.8569518118, 2.2704463624])
    model = LawModel(planted(), "log_power", 5.0)
    theta = np.array([TRUTH, elbow(6000), math.log(1.2)])
    assert model.elbows(theta) == pytest.approx(elbow(np.array([*AMOUNTS, 5])), abs=1e-12)
    at = np.flatnonzero((model.data.amount == 500) & (model.data.loss == 1.85))
    assert 0.9 * model.hinge(theta)[at] + 0.25 == pytest.approx(0.4730036780 - 0.9 * 0.05)  # known at a loss of 1.8


@pytest.mark.parametrize("form", ["log_power", "nofewshot"])
def test_without_noise_the_truth_comes_back(form: str) -> None:
    fit = fit_law(LawModel(planted(), form, 5.0))  # type: ignore[arg-type]
    assert fit.elbow == pytest.approx(TRUTH, abs=1e-8)
    assert (fit.alpha, fit.slope, fit.base) == pytest.approx((1.2, 0.9, 0.25), abs=1e-6)
    assert fit.constants == pytest.approx((0.05, 1.60), abs=1e-6)
    if form == "log_power":
        assert fit.shift == pytest.approx(-0.02, abs=1e-8)


def test_power_law_comes_back() -> None:
    data = planted()
    law = 1.5 + 0.2 * data.amount**0.17
    data = data.scored(0.8 * np.maximum(law - data.loss, 0) + 0.1)
    fit = fit_law(LawModel(data, "power", 5.0))
    assert fit.elbow == pytest.approx(1.5 + 0.2 * 5**0.17, abs=1e-8)
    assert fit.alpha == pytest.approx(0.17, abs=1e-6)


def test_noisy_case_in_the_order_given() -> None:
    fit = fit_law(LawModel(planted(0.01), "log_power", 5.0))
    assert fit.elbow == pytest.approx(1.7176, abs=5e-5)
    assert fit.alpha == pytest.approx(1.325, abs=5e-4)


def test_free_elbows() -> None:
    free = fit_free(planted())
    assert free.elbows == pytest.approx(elbow(np.array(AMOUNTS)), abs=1e-4)
    assert free.slope == pytest.approx(0.9, abs=1e-3)
    assert free.past.tolist() == [2, 2, 3, 4, 5, 6]


def test_weights_count_as_copies() -> None:
    """A run of half the variance counts twice."""
    data, rng = planted(0.01), np.random.default_rng(0)
    counts = rng.integers(1, 3, len(data))
    doubled = data.rows(np.repeat(np.arange(len(data)), counts))
    weighted = LawData.of(data.loss, data.amount, data.score, fewshot=data.fewshot, se=1 / np.sqrt(counts))
    fits = [fit_law(LawModel(each, "log_power", 5.0)).elbow for each in (doubled, weighted)]
    assert fits[0] == pytest.approx(fits[1], abs=1e-6)
    model = LawModel(data, "log_power", 5.0)
    theta, _ = model.search(data.score[None], counts=counts[None].astype(float))
    assert theta[0, 0] == pytest.approx(fits[0], abs=1e-3)


def test_reml_finds_checkpoints_and_draws() -> None:
    model = LawModel(planted(0.0, draws=2), "log_power", 5.0)
    fitted = fit_law(model).fitted
    truth, found = LawErrors(0.02, 0.015, 0.01), []
    for score in truth.draws(model, fitted, 16, np.random.default_rng(0)):
        errors = fit_errors(fit_law(LawModel(model.data.scored(score), "log_power", 5.0)))
        found.append((errors.checkpoint**2, errors.draw**2, errors.rest**2))
    assert np.sqrt(np.mean(found, axis=0)) == pytest.approx([0.02, 0.015, 0.01], rel=0.2)


def test_draws_have_the_variances_they_are_told() -> None:
    model = LawModel(planted(0.0, draws=2), "log_power", 5.0)
    drawn = LawErrors(0.03, 0.02, 0.01).draws(model, np.zeros(len(model.data)), 4000, np.random.default_rng(0))
    covariance = np.cov(drawn, rowvar=False)
    data = model.data
    first = np.flatnonzero(data.amount == 50)[0]
    same_checkpoint = np.flatnonzero((data.loss == data.loss[first]) & (data.amount == 6000))[0]
    same_draw = np.flatnonzero(data.draw == data.draw[first])[1]
    few = np.flatnonzero(data.fewshot)
    assert covariance[first, first] == pytest.approx(0.0014, rel=0.1)
    assert covariance[first, same_checkpoint] == pytest.approx(0.0009, rel=0.1)
    assert covariance[first, same_draw] == pytest.approx(0.0004, rel=0.2)
    assert abs(covariance[few[0], few[1]]) < 1e-4  # few-shot rows have no draw


def test_interval_is_the_profile_at_its_critical_value() -> None:
    fit = fit_law(LawModel(planted(0.01), "log_power", 5.0))
    profile = calibrated_profile(fit, n_draws=99)
    assert profile.lo < fit.elbow < profile.hi
    assert (profile.lo, profile.hi) == pytest.approx((1.68, 1.75), abs=0.02)
    at_ends = np.interp([profile.lo, profile.hi], profile.e, profile.excess)
    assert at_ends == pytest.approx(profile.critical, rel=1e-6)
    assert profile.quantiles()[0.05] == pytest.approx(profile.lo, abs=1e-9)
    below = profile.share_below(np.array([1.5, profile.lo - 1e-3, fit.elbow, profile.hi + 1e-3]))
    assert below == pytest.approx([0.0, 0.05, 0.5, 0.95], abs=0.02)


def test_effects_widen_the_calibrated_interval_alone() -> None:
    fit = fit_law(LawModel(planted(0.01, draws=2), "log_power", 5.0))
    plain, wide = (
        calibrated_profile(fit, errors, n_draws=99) for errors in (LawErrors(0, 0, 0.01), LawErrors(0.02, 0.02, 0.01))
    )
    assert wide.critical > 2 * plain.critical
    lo, hi = f_profile(fit)
    assert hi - lo == pytest.approx(plain.hi - plain.lo, rel=0.3)


def test_what_the_data_do_not_bound_is_open() -> None:
    data = planted(0.02, losses=np.array([2.5, 2.4, 2.3, 2.2, 2.1, 2.05]))
    fit = fit_law(LawModel(data, "log_power", 5.0))
    profile = calibrated_profile(fit, n_draws=39)
    assert profile.lo == -math.inf or profile.lo < 1.2
    assert LawErrors(0, 0, 0).draws(fit.model, fit.fitted, 1, np.random.default_rng(0))[0] == pytest.approx(fit.fitted)


def test_bootstrap_of_runs_refits_what_was_drawn() -> None:
    fit = fit_law(LawModel(planted(0.01, draws=2), "log_power", 5.0))
    runs = bootstrap_runs(fit, 39, np.random.default_rng(0))
    assert abs(np.median(runs) - fit.elbow) < 0.03
    whole = bootstrap_runs(fit, 39, np.random.default_rng(0), whole_draws=True)
    assert 1e-4 < whole.std() < 0.1


def test_posterior_density_by_numbers() -> None:
    """The closed form against a sum over slope and noise."""
    fit = fit_law(LawModel(planted(0.05), "nofewshot", 5.0))
    thetas = fit.theta + np.array([[0, 0, 0], [0.02, -0.01, 0.1], [-0.05, 0.02, -0.2]])
    data, model = fit.model.data, fit.model
    slopes, sigmas = np.linspace(0, 3, 1500), np.geomspace(0.02, 0.2, 600)
    found = []
    for theta in thetas:
        phi, y = (model.centre(v, data.weight) for v in (model.hinge(theta), data.score))
        squares = ((y - slopes[:, None] * phi) ** 2).sum(axis=1)
        logs = -squares[:, None] / (2 * sigmas**2) - (len(y) - 1) * np.log(sigmas)  # the base takes one degree
        found.append(np.log(np.exp(logs - 100).sum()) - 0.5 * theta[2] ** 2)  # ∝ d ln σ
    closed = log_posterior(fit, thetas)
    assert closed - closed[0] == pytest.approx(np.array(found) - found[0], abs=1e-2)
    assert log_posterior(fit, np.array([[2.0, 1.9, 0.0]]))[0] == -math.inf


def test_simplex_finds_many_minima_at_once() -> None:
    rng = np.random.default_rng(0)
    at = rng.normal(size=(20, 3))
    scale = np.array([1.0, 30.0, 0.1])

    def bowls(x, which):
        return ((x - at[which]) ** 2 * scale).sum(axis=1) + 1.0

    found, values = minimise(bowls, np.zeros((20, 3)), np.full(3, 0.5), iterations=400, tolerance=1e-12)
    np.testing.assert_allclose(found, at, atol=1e-4)
    np.testing.assert_allclose(values, 1.0, atol=1e-9)


def test_refusals() -> None:
    data = planted()
    with pytest.raises(ValueError, match="three amounts"):
        LawModel(data.rows(data.amount <= 100), "log_power", 5.0)
    with pytest.raises(ValueError, match="D_0"):
        LawModel(data, "log_power", 6000.0)
    with pytest.raises(ValueError, match="2 or more"):
        LawData.of([2.0], [1.0], [0.5])
    with pytest.raises(ValueError, match="finite"):
        LawData.of([math.nan], [10.0], [0.5])
    with pytest.raises(ValueError, match="standard errors"):
        LawData.of([2.0], [10.0], [0.5], se=[0.0])


def test_draws_are_counted_within_their_amount_and_few_shot_rows_are_none() -> None:
    amount = [5, 5, 5, 5, 100, 100, 900]
    few = [1, 1, 0, 0, 0, 0, 0]
    data = LawData.of(np.arange(7) / 7 + 1, amount, np.arange(7) / 7, fewshot=few, draw=[0, 0, 3, 1, 2, 1, 0])
    assert data.draw_order.tolist() == [-1, -1, 1, 0, 1, 0, 0]
