"""Mutual information against closed forms, and the reasons for which an estimate is refused or doubted."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest

from emergence.measures.information import (
    BITS,
    block_se,
    channel_information,
    fit_pooling,
    gaussian,
    gaussian_information,
    infonce,
    ksg,
    list_entropy,
    over_seeds,
    plug_in_bias,
    usable_information,
)

Pair = tuple[np.ndarray, np.ndarray]


def pairs(n: int, d: int, rho: float, seed: int = 0) -> Pair:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d))
    return x, rho * x + math.sqrt(1 - rho**2) * rng.standard_normal((n, d))


def test_closed_forms() -> None:
    known = {(1, 0.5): 0.14384103622589045, (1, 0.9): 0.8303656034108255, (20, 0.5): 2.876820724517809,
             (20, 0.9): 16.607312068216512, (128, 0.5): 18.411652636913978, (768, 0.1): 3.859328967744557,
             (768, 0.5): 110.46991582148387}  # fmt: skip
    for (d, rho), nats in known.items():
        assert gaussian_information(rho, d) == pytest.approx(nats, rel=1e-12)
    assert BITS * channel_information(1, 1, 10) == pytest.approx(5, rel=1e-12)
    assert BITS * channel_information(3, 0.2, 1000) == pytest.approx(2000, rel=1e-12)


def test_exact_bias() -> None:
    known = {(200, 5): 0.06460595458703366, (1000, 64): 2.1932616241643927, (5000, 128): 1.682156475987199}
    for (n, d), bias in known.items():
        assert plug_in_bias(n, d, d) == pytest.approx(bias, rel=1e-9)
    assert plug_in_bias(3000, 32, 32) == pytest.approx(0.172597, abs=5e-7)


def test_ceilings_of_lists() -> None:
    for (entities, shots), bits in {
        (25, 4): 15.889884170302828,
        (16, 5): 16.99964773652837,
        (15, 5): 16.50563405736141,
    }.items():
        found = list_entropy(entities, shots)
        assert BITS * (found.sequence - found.micro) == pytest.approx(bits, abs=1e-12)


@pytest.mark.parametrize(
    ("n", "d", "rho", "times"),
    [(200, 5, 0.5, 40), (1000, 64, 0.0, 6), (1000, 64, 0.5, 6), (3000, 32, 0.9, 4), (20_000, 64, 0.5, 1)],
)
def test_gaussian_pairs_are_estimated_without_bias(n: int, d: int, rho: float, times: int) -> None:
    found = [gaussian(*pairs(n, d, rho, seed), noise=0, seed=seed) for seed in range(times)]
    assert abs(np.mean([one.value for one in found]) - gaussian_information(rho, d)) < 3 * found[0].se / math.sqrt(
        times
    )
    assert not any({"refused", "not_converged"} & set(one.flags) for one in found)


def test_the_standard_error_is_that_of_the_blocks_and_of_simulation() -> None:
    found = [gaussian(*pairs(3000, 8, 0.9, seed), noise=0, seed=seed) for seed in range(30)]
    simulated = np.std([one.value for one in found], ddof=1)
    assert found[0].se == pytest.approx(math.sqrt(8 * 0.81 / 3000), rel=0.02)
    assert simulated == pytest.approx(found[0].se, rel=0.4)
    assert np.mean([block_se(one.blocks) for one in found]) == pytest.approx(found[0].se, rel=0.3)


def test_independent_pairs_with_heavy_tails_tell_nothing() -> None:
    x, y = np.random.default_rng(0).standard_t(2, (2, 3000, 8))
    found = gaussian(x, y, noise=0, ranks=True)
    assert abs(found.value) < 3 * found.se and abs(found.shuffled) < 3 * found.shuffled_se and found.flags == ()


def test_separate_linear_maps_change_nothing() -> None:
    x, y = pairs(500, 4, 0.7)
    maps = np.random.default_rng(1).standard_normal((2, 4, 4))
    assert gaussian(x @ maps[0] + 3, y @ maps[1], noise=0).value == pytest.approx(
        gaussian(x, y, noise=0).value, abs=1e-9
    )


def test_heavy_tails_are_refused_and_their_ranks_are_not() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 1000, 4)) * np.exp(2.5 * rng.standard_normal((2, 1000, 1)))
    found = gaussian(x, y, noise=0)
    assert "refused" in found.flags and math.isnan(found.value)
    assert gaussian(x, y, noise=0, ranks=True).flags == ()


def test_what_is_doubted() -> None:
    copies = np.repeat(np.random.default_rng(0).standard_normal((25, 4)), 80, axis=0)  # fewer pairs than it seems
    found = gaussian(copies, copies, noise=0.01)
    assert {"not_converged", "above_ceiling"} <= set(found.flags) and found.ceiling == pytest.approx(math.log(2000))
    x, y = pairs(2000, 4, 0.5)
    y[1000:] = y[1000:][::-1]  # the first half is related, the second is not
    assert "se_disagrees" in gaussian(x, y, noise=0).flags
    assert gaussian(x, x, entropy=0.5).ceiling == 0.5
    with pytest.raises(ValueError, match="too few"):
        gaussian(x[:36], y[:36])
    with pytest.raises(ValueError, match="constant"):
        gaussian(np.ones_like(x), y)


def test_the_value_of_a_map_is_that_of_the_noise() -> None:
    x = np.random.default_rng(0).standard_normal((4000, 8))
    values = [gaussian(x, x, noise=noise).value for noise in (0.03, 0.1, 0.3)]
    truth = [gaussian_information(1 / (1 + noise**2), 8) for noise in (0.03, 0.1, 0.3)]
    assert values == pytest.approx(truth, abs=0.2) and values[0] > 2.5 * values[2]


def test_infonce_is_a_bound_and_says_when_it_is_full() -> None:
    def halves(x: np.ndarray, y: np.ndarray) -> tuple[Pair, Pair]:
        return (x[::2], y[::2]), (x[1::2], y[1::2])

    some = infonce(*halves(*pairs(4000, 4, 0.7)), batch=500)
    truth = gaussian_information(0.7, 4)
    assert truth - 0.15 < some.value < truth + 3 * some.se and some.flags == ()
    assert infonce(*halves(*pairs(4000, 16, 0.0)), batch=500).value == pytest.approx(0, abs=0.02)
    full = infonce(*halves(*pairs(4000, 32, 0.95)), batch=500)
    assert full.flags == ("saturated",) and full.value <= full.ceiling == pytest.approx(math.log(500))


def test_nearest_neighbours_take_three_dimensions_at_most() -> None:
    with pytest.raises(ValueError, match="beyond 3"):
        ksg(*pairs(100, 4, 0.5))
    if importlib.util.find_spec("infomeasure") is None:
        pytest.skip("the mi extra is not installed")
    found = ksg(*pairs(2000, 3, 0.5))
    assert found.value == pytest.approx(gaussian_information(0.5, 3), abs=0.08) and abs(found.shuffled) < 0.05


def test_pooling_is_fitted_on_what_is_counted() -> None:
    rng = np.random.default_rng(0)
    states, times = rng.standard_normal((30, 6)) * np.arange(1, 7), rng.integers(0, 5, 30)
    weighted = fit_pooling(states, 2, times.astype(float))
    repeated = fit_pooling(np.repeat(states, times, axis=0), 2)
    np.testing.assert_allclose(np.abs(weighted.of(states)), np.abs(repeated.of(states)), atol=1e-9)
    assert fit_pooling(states, 64).of(states).shape == (30, 6)


def test_usable_information_is_resampled_by_cluster() -> None:
    gained = np.array([0.5, 0.5, 0.1, 0.1, 0.3, 0.3])
    found = usable_information(np.full(6, -2.0), gained - 2, ["a", "a", "b", "b", "c", "c"])
    alone = usable_information(np.full(3, -2.0), gained[::2] - 2, ["a", "b", "c"])
    assert found.point == pytest.approx(0.3) and found.se == pytest.approx(alone.se) and found.n_clusters == 3


def test_seeds_widen_an_interval_that_their_own_errors_do_not_explain() -> None:
    agreeing = over_seeds([1.0, 1.01, 0.99], [0.1, 0.1, 0.1], 50)
    assert agreeing.se == pytest.approx(0.1 / math.sqrt(3)) and agreeing.df == 9
    apart = over_seeds([1.0, 2.0, 3.0, math.nan], [0.1] * 4, 50)
    assert (apart.point, apart.df, apart.n_seeds) == (2.0, 2.0, 3)
    assert apart.hi - apart.point == pytest.approx(4.302653 / math.sqrt(3), rel=1e-5)
    assert over_seeds([math.nan], [0.1], 50).flags == ("refused",)
