"""Known answers that the tests of single modules do not hold.

Most are in ``test_strings``, ``test_spans``, ``test_mirage``, ``test_paired``, ``test_emergence_score``,
``test_probe_validity``, ``test_thresholds``, ``test_cka`` and ``test_similarity``, bits per byte in
``test_language_model_eval``; here is the rest, and the two derivations of CKA written out independently of the
program.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq

from emergence.measures.chance import uniform_chance
from emergence.measures.cka import CKAMethod, cka, cka_matrix
from emergence.measures.curves import Points, fit_curve
from emergence.measures.emergence_score import RatioMoments, compute_emergence_gap, compute_emergence_score
from emergence.measures.mirage import toy_curve
from emergence.measures.probe_validity import expected_layer
from emergence.measures.ratio import fieller_set
from emergence.measures.span_scores import span_f1, span_iou
from emergence.measures.spans import GoldSpans

BIASED = CKAMethod("biased")

# A7 ------------------------------------------------------------------------------------------------


def test_toy_curve_to_its_last_digit() -> None:
    toy = toy_curve([1e6, 1e7, 1e8, 1e9], c=1e7, alpha=-0.5, length=5)
    assert toy.em == pytest.approx([1.3e-7, 0.00674, 0.2057, 0.6065], rel=0.05)  # the first relatively, too
    assert toy.em[1] == pytest.approx(math.exp(-5), rel=1e-12)
    assert toy.edit == pytest.approx(5 * (1 - toy.p), rel=1e-12)


def test_uniform_chance_of_a_long_sentence_per_cap() -> None:
    golds = GoldSpans.from_lists([[(3, 4)]])
    assert [uniform_chance([20], golds, cap).em[0] for cap in (30, 10)] == pytest.approx([1 / 210, 1 / 155])


def test_f1_is_a_function_of_iou() -> None:
    rng = np.random.default_rng(0)
    starts, lengths = rng.integers(0, 12, (2, 60)), rng.integers(1, 8, (2, 60))
    golds = GoldSpans.from_lists([[(int(s), int(s + n - 1))] for s, n in zip(starts[0], lengths[0], strict=True)])
    predicted = (starts[1], starts[1] + lengths[1] - 1)
    iou = span_iou(predicted, golds)
    np.testing.assert_allclose(span_f1(predicted, golds), 2 * iou / (1 + iou))


# B6 ------------------------------------------------------------------------------------------------


def test_score_delta_and_fieller_from_independent_runs() -> None:
    frozen, full, floor, se = 0.40, 0.60, 0.20, 0.02
    assert compute_emergence_score(frozen, full, floor) == pytest.approx(0.5)
    assert compute_emergence_gap(full, frozen) == pytest.approx(0.2)
    moments = RatioMoments.from_covariance(frozen, full, floor, np.eye(3) * se**2)
    half = moments.quantile(0.95) * moments.se
    assert (moments.raw - half, moments.raw + half) == pytest.approx((0.3800, 0.6200), abs=5e-5)
    found = moments.fieller()
    assert (found.lo, found.hi) == pytest.approx((0.3788, 0.6212), abs=5e-5)


def test_discriminant_of_the_unbounded_set() -> None:
    n, d, v, z2 = 0.02, 0.03, 0.02**2, 1.959963984540054**2
    leading, middle, constant = d * d - z2 * 2 * v, n * d - z2 * v, n * n - z2 * 2 * v
    assert leading == pytest.approx(-0.0021731670565553005)
    assert middle**2 - leading * constant == pytest.approx(-4.932049878533866e-06)
    assert fieller_set(n, d, 2 * v, 2 * v, v).kind == "unbounded"


def test_hinge_has_slope_one_half() -> None:
    """L = 3.0 to 2.0, y rising from 2.5 on: tau 2.5, A 0.5, B 0.1, no residual."""
    points = Points.of([3.0, 2.8, 2.6, 2.4, 2.2, 2.0], [0.1, 0.1, 0.1, 0.15, 0.25, 0.35], None, -1)
    fit = fit_curve("relu", points)
    assert fit.parameters == pytest.approx({"B": 0.1, "A": 0.5, "tau": 2.5}, abs=1e-6) and fit.rss < 1e-12


@pytest.mark.parametrize("layer", [1, 2, 3, 5])
def test_all_gain_at_one_layer_is_expected_there(layer: int) -> None:
    assert expected_layer(np.where(np.arange(6) >= layer, 0.6, 0.3)).layer == pytest.approx(layer)


# C2 and C5 -----------------------------------------------------------------------------------------


def by_features(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Kornblith et al. (2019), through the d x d side."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    return float(np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


def by_gram(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """The same through the n x n side, with centring matrices."""
    h = np.eye(len(x)) - 1 / len(x)
    k, l = h @ x @ x.T @ h, h @ y @ y.T @ h  # noqa: E741 - the field's letters
    return float(np.trace(k @ l) / math.sqrt(np.trace(k @ k) * np.trace(l @ l)))


def by_gram_debiased(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """U-centred kernel matrices (Székely and Rizzo 2014): the other derivation of HSIC1."""

    def centred(z: NDArray[np.float64]) -> NDArray[np.float64]:
        n, k = len(z), z @ z.T
        np.fill_diagonal(k, 0.0)
        sums = k.sum(axis=1)
        k = k - (sums[:, None] + sums[None, :]) / (n - 2) + sums.sum() / ((n - 1) * (n - 2))
        np.fill_diagonal(k, 0.0)
        return np.asarray(k)

    k, l = centred(x), centred(y)  # noqa: E741
    return float((k * l).sum() / math.sqrt((k * k).sum() * (l * l).sum()))


@pytest.mark.parametrize(("n", "p", "q"), [(5, 2, 1), (40, 6, 90), (120, 30, 8)])
def test_two_derivations_agree_with_each_other_and_the_program(n: int, p: int, q: int) -> None:
    rng = np.random.default_rng(n)
    shared = rng.normal(size=(n, 3))
    x, y = (shared @ rng.normal(size=(3, d)) + rng.normal(size=(n, d)) + 2.0 for d in (p, q))
    assert by_features(x, y) == pytest.approx(by_gram(x, y), abs=1e-12)
    for side in ("gram", "feature"):
        assert cka_matrix([x, y], BIASED, side=side).values[0, 1] == pytest.approx(by_gram(x, y), abs=1e-12)
        assert cka_matrix([x, y], side=side).values[0, 1] == pytest.approx(by_gram_debiased(x, y), abs=1e-12)


@pytest.mark.parametrize(
    ("n", "p", "q", "predicted", "draws"),
    [
        (50, 64, 64, 0.5614035087719298, 60),
        (100, 768, 768, 0.8847926267281107, 6),
        (100, 10, 10, 0.09090909090909091, 60),
        (200, 128, 512, 0.5297403408465295, 12),
        (1000, 128, 128, 0.11347517730496454, 6),
    ],
)
def test_bias_of_the_usual_estimator_and_of_ours(n: int, p: int, q: int, predicted: float, draws: int) -> None:
    assert math.sqrt(p * q / ((p + n) * (q + n))) == pytest.approx(predicted, rel=1e-12)
    rng = np.random.default_rng(n + p)
    pairs = [(rng.normal(size=(n, p)), rng.normal(size=(n, q))) for _ in range(draws)]
    biased = np.array([cka(x, y, BIASED) for x, y in pairs])
    debiased = np.array([cka(x, y) for x, y in pairs])
    assert biased.mean() == pytest.approx(predicted, abs=4 * biased.std(ddof=1) / math.sqrt(draws) + 1e-3)
    assert abs(debiased.mean()) < 4 * math.sqrt(2) / n / math.sqrt(draws)


def test_bias_follows_the_participation_ratio() -> None:
    """Anisotropic states of participation ratios 18.03 and 13.81, n = 200: predicted .0731."""

    def spectrum(ratio: float) -> NDArray[np.float64]:
        def excess(decay: float) -> float:
            values = np.exp(-decay * np.arange(200))
            return float(values.sum() ** 2 / (values**2).sum()) - ratio

        return np.exp(-brentq(excess, 1e-3, 2.0) * np.arange(200))

    x_ratio, y_ratio, n = 18.03, 13.81, 200
    assert ((1 + n / x_ratio) * (1 + n / y_ratio)) ** -0.5 == pytest.approx(0.0731, abs=5e-5)
    rng = np.random.default_rng(0)
    scales = [np.sqrt(spectrum(ratio)) for ratio in (x_ratio, y_ratio)]
    values = [cka(*(rng.normal(size=(n, 200)) * s for s in scales), BIASED) for _ in range(40)]
    assert np.mean(values) == pytest.approx(0.0731, abs=0.003)


@pytest.mark.parametrize(("k", "p"), [(1, 2), (1, 5), (4, 9)])
def test_some_of_orthonormal_columns(k: int, p: int) -> None:
    raw = np.random.default_rng(p).normal(size=(60, p))
    x = np.linalg.qr(raw - raw.mean(axis=0))[0]
    assert cka(x, x[:, :k], BIASED) == pytest.approx(math.sqrt(k / p), abs=1e-12)
    scale = np.arange(1.0, p + 1)
    expected = (scale**2).sum() / math.sqrt(p * (scale**4).sum())
    assert cka(x, x * scale, BIASED) == pytest.approx(expected, abs=1e-12)
