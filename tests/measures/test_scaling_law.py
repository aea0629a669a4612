"""Scaling laws: constants as published, planted laws, what cannot be told apart."""

from __future__ import annotations

import math

import numpy as np
import pytest

from emergence.measures.scaling_law import (
    MOST_CONDITION,
    ScalingData,
    ScalingFit,
    bootstrap_scaling,
    condition_number,
    effective_tokens,
    fit_scaling,
    huber,
    rolling_hold_out,
    separating_run,
)

BESIROGLU = ScalingFit(1.8172, 482.01, 2085.43, 0.3478, 0.3658, 0.0, 1.0)
HOFFMANN = ScalingFit(1.69, 406.4, 410.7, 0.34, 0.28, 0.0, 1.0)
N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e8, 1e10, 4)))


def planted(sigma: float = 0.0, law: ScalingFit = BESIROGLU) -> ScalingData:
    noise = sigma * np.random.default_rng(0).standard_normal(len(N))
    return ScalingData(N, D, law.predict(N, D) * np.exp(noise))


def test_formulas_as_published() -> None:
    n, d = np.array([5e5, 2e6, 5e7, 1e8, 1e9, 7e10]), np.array([1e8, 1e8, 1e8, 1e8, 2e10, 1.4e12])
    assert BESIROGLU.predict(n, d) == pytest.approx([9.3107, 7.3892, 5.3002, 5.0833, 2.5301, 1.9739], abs=5e-5)
    assert HOFFMANN.predict(n, d) == pytest.approx([8.7447, 6.9816, 5.0335, 4.8277, 2.5800, 1.9366], abs=5e-5)
    assert BESIROGLU.optimal(5.76e23) == pytest.approx((7.225e10, 1.3287e12, 1.97444), rel=1e-4)
    assert BESIROGLU.optimal(1e18) == pytest.approx((8.053e7, 2.0696e9, 3.49049), rel=1e-4)


def test_a_planted_law_comes_back() -> None:
    fit = fit_scaling(planted())
    assert (fit.e, fit.a, fit.b, fit.alpha, fit.beta) == pytest.approx(
        (1.8172, 482.01, 2085.43, 0.3478, 0.3658), rel=1e-6
    )
    assert fit.objective < 1e-20
    assert fit.condition < MOST_CONDITION / 10


def test_one_data_size_has_no_term_of_tokens() -> None:
    n = np.geomspace(1e6, 1e9, 7)
    fit = fit_scaling(ScalingData(n, np.full(7, 1e9), 2.0 + 300 * n**-0.3))
    assert (fit.e, fit.a, fit.alpha) == pytest.approx((2.0, 300.0, 0.3), rel=1e-5)
    assert not fit.has_tokens and math.isnan(fit.beta)
    assert fit.predict(1e8, 5.0) == pytest.approx(2.0 + 300 * 1e8**-0.3)


def test_gradient_is_that_of_the_value() -> None:
    data, x, counts = planted(0.01), np.array([0.6, 6.0, 0.33, 7.6, 0.37]), np.arange(len(N)) % 3.0
    _, gradient = data.value(x, counts)
    for k, step in enumerate(1e-6 * np.eye(5)):
        numeric = (data.value(x + step, counts)[0] - data.value(x - step, counts)[0]) / 2e-6
        assert gradient[k] == pytest.approx(numeric, rel=1e-5, abs=1e-6)
    assert huber(np.array([5e-4, -3e-3])) == pytest.approx([1.25e-7, 1e-3 * 2.5e-3])


def test_outliers_hardly_count() -> None:
    data = planted()
    data.target[3] += 0.5
    fit = fit_scaling(data)
    assert (fit.e, fit.alpha, fit.beta) == pytest.approx((1.8172, 0.3478, 0.3658), rel=3e-3)


def test_bootstrap_draws_runs() -> None:
    data = planted(0.003)
    fit = fit_scaling(data)
    draws = bootstrap_scaling(data, fit, 20, np.random.default_rng(0))
    alphas = np.array([each.alpha for each in draws])
    assert 1e-4 < alphas.std() < 0.05 and abs(alphas.mean() - fit.alpha) < 0.02


def test_sizes_and_tokens_that_go_together_are_found() -> None:
    n = np.geomspace(1e6, 1e9, 12)
    data = ScalingData(n, 20 * n, BESIROGLU.predict(n, 20 * n))
    assert (
        condition_number(data, np.array([math.log(1.8172), math.log(482.01), 0.3478, math.log(2085.43), 0.3658])) > 3e3
    )
    fit = fit_scaling(data)
    assert fit.condition > MOST_CONDITION
    more_n, more_d, condition = separating_run(data, fit)
    assert (more_n in (n[0], n[-1])) and more_d in (20 * n[0], 20 * n[-1]) and more_d != pytest.approx(20 * more_n)
    assert condition < fit.condition


def test_what_is_above_is_predicted_from_below() -> None:
    held = rolling_hold_out(planted())
    assert held and all(h.error < 1e-6 for h in held)
    sizes = np.unique(N)
    assert [(h.below, h.n, h.n_above) for h in held] == [(pytest.approx(sizes[4]), 20, 4)]
    assert held[0].reach == pytest.approx(sizes[5] / sizes[4])
    bent = ScalingData(N, D, BESIROGLU.predict(N, D) * np.where(sizes[5] * 0.99 < N, 1.1, 1.0))
    assert rolling_hold_out(bent)[0].bias == pytest.approx(-1 / 11, abs=1e-3)


def test_repeated_tokens_are_worth_less() -> None:
    assert effective_tokens([1e8, 5e7], [1e8, 1e8]) == pytest.approx([1e8, 5e7])
    assert effective_tokens([2e8, 1e12], [1e8, 1e8]) == pytest.approx(
        [1e8 * (1 + 15.4 * (1 - math.exp(-1 / 15.4))), 1e8 * 16.4], rel=1e-6
    )


def test_refusals() -> None:
    with pytest.raises(ValueError, match="4 sizes"):
        ScalingData([1e6, 2e6, 3e6, 4e6], [1e8] * 4, [3.0] * 4)
    with pytest.raises(ValueError, match="above 0"):
        ScalingData([1e6, 2e6, 3e6, 4e6, -5e6], [1e8] * 5, [3.0] * 5)
