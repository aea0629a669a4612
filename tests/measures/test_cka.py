"""CKA: known answers, two derivations against each other and against ckatorch, invariances, bias, flags."""

from __future__ import annotations

import importlib
import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from emergence.measures.cka import CKAMethod, cka, cka_matrix, hsic_matrix

DEBIASED, BIASED = CKAMethod(), CKAMethod("biased")
METHODS = [DEBIASED, BIASED, CKAMethod(kernel="rbf"), CKAMethod("biased", "rbf", 0.8)]

X = np.array([[1.0, 0], [0, 1], [2, 1], [1, 3], [4, 2]])
Y = np.array([[0.0, 1, 1, 3, 2]]).T


def related(n: int, widths: tuple[int, ...], seed: int = 0, noise: float = 1.0) -> list[NDArray[np.float64]]:
    """Representations of the same inputs: random projections of shared factors, plus noise."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n, 5))
    return [factors @ rng.normal(size=(5, d)) + noise * rng.normal(size=(n, d)) for d in widths]


def orthonormal_columns(n: int, p: int) -> NDArray[np.float64]:
    """Centred columns with XᵀX = I."""
    raw = np.random.default_rng(1).normal(size=(n, p))
    return np.linalg.qr(raw - raw.mean(axis=0))[0]


# Known answers ------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["gram", "feature"])
def test_fixed_case(side: str) -> None:
    hsic = hsic_matrix([X, Y], side=side)
    assert [hsic[0, 1], hsic[0, 0], hsic[1, 1]] == pytest.approx([1.2, 56 / 15, 7 / 6], abs=1e-13)
    assert cka_matrix([X, Y], side=side).values[0, 1] == pytest.approx(0.5749889, abs=1e-7)
    assert cka_matrix([X, Y], BIASED, side=side).values[0, 1] == pytest.approx(0.5356946, abs=1e-7)


def test_rescaled_columns() -> None:
    x = orthonormal_columns(40, 2)
    assert cka(x, x * [1.0, 2.0], BIASED) == pytest.approx(0.8574929257125441, abs=1e-12)


@pytest.mark.parametrize(("k", "p"), [(1, 2), (3, 7)])
def test_subset_of_columns(k: int, p: int) -> None:
    x = orthonormal_columns(40, p)
    assert cka(x, x[:, :k], BIASED) == pytest.approx(math.sqrt(k / p), abs=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_self_similarity_is_one(method: CKAMethod) -> None:
    (x,) = related(50, (20,))
    assert cka(x, x.copy(), method) == pytest.approx(1.0, abs=1e-12)


# Two derivations, and the definition ------------------------------------------------------------


@pytest.mark.parametrize("method", [DEBIASED, BIASED])
@pytest.mark.parametrize("n", [12, 200])
def test_features_equal_gram(method: CKAMethod, n: int) -> None:
    items = related(n, (3, 40, 17, 1))
    by_gram = cka_matrix(items, method, side="gram", block_bytes=3000).values
    by_features = cka_matrix(items, method, side="feature", block_bytes=3000).values
    np.testing.assert_allclose(by_gram, by_features, rtol=0, atol=1e-12)
    np.testing.assert_allclose(by_gram, cka_matrix(items, method).values, rtol=0, atol=1e-12)


def hsic1_by_definition(k: NDArray[np.float64], l: NDArray[np.float64]) -> float:  # noqa: E741
    """Song et al. (2012), equation 5, term by term."""
    k, l, n = k.copy(), l.copy(), len(k)  # noqa: E741
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l, 0)
    one = np.ones(n)
    total = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    return float((np.trace(k @ l) + total - 2 / (n - 2) * one @ k @ l @ one) / (n * (n - 3)))


def hsic0_by_definition(k: NDArray[np.float64], l: NDArray[np.float64]) -> float:  # noqa: E741
    n = len(k)
    h = np.eye(n) - 1 / n
    return float(np.trace(k @ h @ l @ h) / (n - 1) ** 2)


def rbf(x: NDArray[np.float64], c: float) -> NDArray[np.float64]:
    distances = np.linalg.norm(x[:, None] - x[None], axis=2)
    sigma = c * np.median(distances[np.triu_indices(len(x), 1)])
    return np.exp(-(distances**2) / (2 * sigma**2))


@pytest.mark.parametrize("method", METHODS)
def test_against_the_definition(method: CKAMethod) -> None:
    x, y = (z + 3.0 for z in related(30, (4, 9)))  # not centred
    k, l = (z @ z.T if method.kernel == "linear" else rbf(z, method.bandwidth) for z in (x, y))  # noqa: E741
    definition = hsic1_by_definition if method.debiased else hsic0_by_definition
    hsic = hsic_matrix([x, y], method, side="gram", block_bytes=8 * 30 * 2 * 7)
    assert hsic[0, 1] == pytest.approx(definition(k, l), rel=1e-10)
    assert hsic[0, 0] == pytest.approx(definition(k, k), rel=1e-10)


@pytest.fixture(scope="module")
def ckatorch() -> ModuleType:
    """The oracle; imported late because it brings plotting libraries along."""
    return importlib.import_module("ckatorch")


def test_against_ckatorch(ckatorch: ModuleType) -> None:
    items = related(60, (8, 30, 100))
    tensors = [torch.from_numpy(x) for x in items]
    for method in (DEBIASED, BIASED):
        ours = cka_matrix(items, method).values
        for i, j in ((0, 1), (0, 2), (1, 2)):
            # With method="hsic" it would ignore `unbiased`.
            theirs = ckatorch.cka_base(tensors[i], tensors[j], unbiased=method.debiased, method="fro_norm")
            assert ours[i, j] == pytest.approx(float(theirs), abs=1e-12)


def test_rbf_against_ckatorch(ckatorch: ModuleType) -> None:
    x, y = related(41, (8, 8))
    k = []
    for z in (x, y):
        squares = torch.cdist(torch.from_numpy(z), torch.from_numpy(z)) ** 2
        distances = squares[tuple(torch.triu_indices(41, 41, 1))].sqrt()
        # Its bandwidth is a fraction of the median squared distance, the zeros of the diagonal among them.
        k.append(0.4 * float(np.median(distances)) / math.sqrt(float(torch.median(squares))))
    grams = [ckatorch.rbf_kernel(torch.from_numpy(z), c)[None] for z, c in zip((x, y), k, strict=True)]
    hsic = hsic_matrix([x, y], CKAMethod(kernel="rbf", bandwidth=0.4))
    assert hsic[0, 1] == pytest.approx(float(ckatorch.hsic1(*grams)), rel=1e-9)


def test_wide_rbf_is_linear() -> None:
    x, y = related(60, (8, 12))
    assert cka(x, y, CKAMethod(kernel="rbf", bandwidth=300.0)) == pytest.approx(cka(x, y), abs=1e-4)


# Minibatches ------------------------------------------------------------------------------------


def test_minibatches_sum_before_the_ratio(ckatorch: ModuleType) -> None:
    x, y = related(110, (6, 9))
    batched = cka_matrix([x, y], batch_rows=25)
    parts = torch.from_numpy(np.stack([z[:100].reshape(4, 25, -1)[:, :, :6] for z in (x, y)]))
    assert batched.n == 100
    assert cka_matrix([x, y[:, :6]], batch_rows=25).values[0, 1] == pytest.approx(
        float(ckatorch.cka_batch(parts[0], parts[1])), abs=1e-12
    )
    ratios = [cka(x[i : i + 25], y[i : i + 25]) for i in range(0, 100, 25)]
    assert abs(np.mean(ratios) - batched.values[0, 1]) > 1e-6


def test_minibatch_agrees_with_full_sample_in_the_long_run() -> None:
    x, y = related(4096, (6, 9))
    assert cka_matrix([x, y], batch_rows=256).values[0, 1] == pytest.approx(cka(x, y), abs=0.01)


def test_minibatch_refuses_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="debiased"):
        cka_matrix([X, Y], BIASED, batch_rows=4)
    with pytest.raises(ValueError, match="batches of 6"):
        cka_matrix([X, Y], batch_rows=6)


# Invariances ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_invariant_to_rotation_scale_and_shift(method: CKAMethod) -> None:
    x, y = related(80, (10, 6))
    rng = np.random.default_rng(2)
    rotation = np.linalg.qr(rng.normal(size=(10, 10)))[0]
    moved = -3.7 * x @ rotation + rng.normal(size=10)
    assert cka(moved, y, method) == pytest.approx(cka(x, y, method), abs=1e-12)
    assert cka(y, x, method) == pytest.approx(cka(x, y, method), abs=1e-14)


def test_not_invariant_to_invertible_maps() -> None:
    x, y = related(80, (10, 6))
    assert abs(cka(x * np.geomspace(0.1, 10, 10), y) - cka(x, y)) > 0.01


def test_rows_in_another_order_on_both_sides_change_nothing() -> None:
    x, y = related(80, (10, 6))
    order = np.random.default_rng(0).permutation(80)
    assert cka(x[order], y[order]) == pytest.approx(cka(x, y), abs=1e-13)


# Bias ------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "p", "q", "expected"), [(50, 64, 64, 0.5614), (100, 10, 10, 0.0909), (60, 20, 90, None)])
def test_bias_of_independent_representations(n: int, p: int, q: int, expected: float | None) -> None:
    rng = np.random.default_rng(5)
    draws = 60
    items = [rng.normal(size=(n, d)) for d in [p] * draws + [q] * draws]
    expected = expected or math.sqrt(p * q / ((p + n) * (q + n)))
    pairs = (np.arange(draws), np.arange(draws, 2 * draws))
    assert cka_matrix(items, BIASED).values[pairs].mean() == pytest.approx(expected, abs=0.01)
    debiased = cka_matrix(items).values[pairs]
    assert abs(debiased.mean()) < 4 * debiased.std() / math.sqrt(draws)
    assert debiased.std() == pytest.approx(math.sqrt(2) / n, rel=0.35)
    assert debiased.min() < 0


def test_debiased_does_not_depend_on_the_number_of_rows() -> None:
    small = np.mean([cka(*related(40, (60, 60), seed, 5.0)) for seed in range(40)])
    large = np.mean([cka(*related(600, (60, 60), seed, 5.0)) for seed in range(5)])
    biased = np.mean([cka(*related(40, (60, 60), seed, 5.0), BIASED) for seed in range(40)])
    assert abs(small - large) < 0.05 < biased - large


# What cannot be computed is said ------------------------------------------------------------------


def test_flags_instead_of_numbers() -> None:
    x, y = related(30, (5, 5))
    broken, constant, empty = x.copy(), np.full((30, 3), 0.1), x.copy()
    broken[3, 2] = np.nan
    empty[:] = 0
    found = cka_matrix([x, broken, constant, y, empty])
    assert found.flags == ("", "non_finite", "no_variance", "", "no_variance")
    assert np.isnan(found.values[[1, 2, 4]]).all() and np.isnan(found.values[:, [1, 2, 4]]).all()
    assert found.values[0, 3] == pytest.approx(cka(x, y), abs=1e-13)


def test_denominator_that_is_not_positive() -> None:
    # One row apart from n - 1 equal ones: its kernel matrix has no off-diagonal structure left.
    x, y = np.zeros((30, 1)), np.random.default_rng(0).normal(size=(30, 2))
    x[0] = 1.0
    for method in (DEBIASED, CKAMethod(kernel="rbf")):
        found = cka_matrix([x, y], method)
        assert found.flags == ("denominator_not_positive", "")
        assert math.isnan(found.values[0, 1])


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1e4, 1e7, 1e12])
@pytest.mark.parametrize("method", [DEBIASED, BIASED, CKAMethod(kernel="rbf")])
@pytest.mark.parametrize("side", ["auto", "gram"])
def test_a_pair_does_not_depend_on_the_scale_of_a_third(scale: float, method: CKAMethod, side: Any) -> None:
    """A late layer of a trunk may be ten thousand times as large as its embeddings, or have one blown-up feature."""
    x, y = related(60, (8, 8))
    blown_up = x.copy()
    blown_up[:, 0] *= scale
    alone = cka_matrix([x, y], method, side=side)
    for third in (x * scale, blown_up):
        together = cka_matrix([x, y, third], method, side=side)
        assert together.flags == ("", "", "")
        np.testing.assert_allclose(together.values[:2, :2], alone.values, rtol=1e-12)
    for pair in ([x * scale, y], [x, y * scale], [x * scale, y * scale]):
        np.testing.assert_allclose(cka_matrix(pair, method, side=side).values, alone.values, rtol=1e-9)
    batches = cka_matrix([x, y, x * scale], DEBIASED, batch_rows=20)
    assert batches.flags == ("", "", "")
    np.testing.assert_allclose(batches.values[:2, :2], cka_matrix([x, y], DEBIASED, batch_rows=20).values, rtol=1e-12)


def test_shapes_and_sizes() -> None:
    with pytest.raises(ValueError, match="same rows"):
        cka(X, Y[:4])
    with pytest.raises(ValueError, match="at least 4 rows"):
        cka(X[:3], Y[:3])
    assert cka(X[:3], Y[:3], BIASED) > 0
    with pytest.raises(ValueError, match="linear kernel only"):
        hsic_matrix([X, Y], CKAMethod(kernel="rbf"), side="feature")
    with pytest.raises(ValueError, match="bandwidth"):
        CKAMethod(bandwidth=0)


def test_many_items_in_half_precision_and_any_block_size() -> None:
    items = [x.astype(np.float16) for x in related(70, (5, 9, 4, 30, 2))]
    one = cka_matrix(items, side="gram").values
    np.testing.assert_allclose(one, cka_matrix(items, side="gram", block_bytes=1).values, rtol=0, atol=1e-13)
    assert one.dtype == np.float64
