"""Tuples of right answers and the skill theory's curve, against closed forms and planted worlds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from emergence.measures.skills import RoleAnswers, beta_binomial, failure_bound, joined_failure, tuple_rates


def answers(right: np.ndarray, roles: int = 3) -> RoleAnswers:
    """One predicate a row of (V, m)."""
    v, m = right.shape
    predicate = np.repeat(np.arange(v), m)
    return RoleAnswers.of(right.ravel(), predicate, np.tile(np.arange(m) % roles, v), 10 + predicate % 7, predicate)


def test_counted_by_hand() -> None:
    found = RoleAnswers.of([1, 1, 1, 1, 0], list("aaabb"), ["x"] * 5, [9] * 5, list("aaabb"))
    rates = tuple_rates(found, least=1, n_null=9, n_boot=9)
    assert [rate.p for rate in rates] == pytest.approx([0.8, 0.75, 1.0])
    assert [rate.n for rate in rates] == [5, 4, 1] and [rate.n_predicates for rate in rates] == [2, 2, 1]
    assert rates[1].p1 == pytest.approx((3 * 2 + 1) / (3 * 2 + 2)), "as tuples count it"
    assert found.all_right == 0.5


def test_the_order_of_questions_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    right, predicate, role = rng.random(300) < 0.6, rng.integers(0, 90, 300), rng.integers(0, 4, 300)
    order = rng.permutation(300)
    one, two = (
        tuple_rates(RoleAnswers.of(right[o], predicate[o], role[o], predicate[o] % 9, predicate[o]), least=20)
        for o in (np.arange(300), order)
    )
    assert [(r.p, r.p1, r.n) for r in one] == [(r.p, r.p1, r.n) for r in two]
    assert [r.by_role for r in one] == pytest.approx([r.by_role for r in two])


def test_independent_answers_have_no_association() -> None:
    rates = tuple_rates(answers(np.random.default_rng(0).random((3000, 4)) < 0.8), n_null=199)
    assert [rate.p for rate in rates] == pytest.approx([0.8, 0.64, 0.512, 0.4096], abs=0.02)
    for rate in rates[1:]:
        assert rate.association == pytest.approx(1, abs=0.02) and rate.lo < 1 < rate.hi and rate.p_value > 0.05
        assert rate.by_difficulty == pytest.approx(rate.p, abs=0.01)


def test_predicates_that_are_all_or_nothing() -> None:
    right = np.repeat(np.random.default_rng(1).random((500, 1)) < 0.8, 3, axis=1)
    rates = tuple_rates(answers(right), n_null=99)
    assert len({round(rate.p, 12) for rate in rates}) == 1 and rates[2].p_value <= 0.02
    assert rates[2].association == pytest.approx(1 / rates[2].p1 ** 2)


def test_difficulty_explains_beta_binomial_predicates() -> None:
    rng = np.random.default_rng(2)
    rates = tuple_rates(answers(rng.random((6000, 3)) < rng.beta(4, 1, (6000, 1))), n_null=99)
    assert [rate.p for rate in rates] == pytest.approx([0.8, 0.6667, 0.5714], abs=0.015)
    assert rates[2].by_difficulty == pytest.approx(rates[2].p, abs=0.01) and rates[1].p_value <= 0.02


def test_roles_of_unequal_difficulty_are_no_association() -> None:
    shares = np.array([0.95, 0.5, 0.2])
    rates = tuple_rates(answers(np.random.default_rng(4).random((2000, 3)) < shares), n_null=199)
    assert rates[2].by_role == pytest.approx(0.095, abs=0.01) and rates[2].p == pytest.approx(0.095, abs=0.015)
    assert rates[2].association < 0.7 and rates[2].p_value > 0.02


def test_beta_binomial() -> None:
    assert [beta_binomial(0.8, 2 / 3, k) for k in (1, 2, 3)] == pytest.approx([0.8, 2 / 3, 4 / 7])
    assert beta_binomial(0.8, 0.64, 4) == pytest.approx(0.4096)
    assert beta_binomial(0.8, 0.8, 4) == 0.8 and beta_binomial(0.8, 0.5, 3) == pytest.approx(0.512)


@pytest.mark.parametrize(
    ("theta", "skills", "betas"),
    [
        (0.05, 2, (16.358744, 9.482323, None, None)),
        (0.05, 4, (11.063337, 6.867326, 4.271973, None)),
        (0.05, 8, (7.519653, 4.933434, 3.298110, 1.901123)),
        (0.05, 16, (5.245721, 3.631931, 2.587938, 1.673521)),
        (0.1, 8, (6.755950, 4.501908, 3.067163, 1.833369)),
        (0.025, 8, (8.222298, 5.325794, 3.504135, 1.954470)),
    ],
)
def test_curve_to_the_digits(theta: float, skills: float, betas: tuple[float | None, ...]) -> None:
    for alpha, beta in zip((0.05, 0.1, 0.2, 0.5), betas, strict=True):
        share, by_counting = failure_bound(theta, skills, alpha)
        assert by_counting == (beta is None)
        assert share == pytest.approx(min(1, theta * (1 / alpha if beta is None else beta)), abs=1e-7)


def test_the_curve_solves_the_published_equation() -> None:
    def h(p: float) -> float:
        return -p * math.log2(p) - (1 - p) * math.log2(1 - p)

    theta, k, alpha = 0.05, 8, 0.1
    ba = failure_bound(theta, k, alpha)[0] / theta * alpha
    left = h(theta) + k * theta * (h(ba) - ba * math.log2(1 / alpha) - (1 - ba) * math.log2(1 / (1 - alpha)))
    assert left == pytest.approx(0, abs=1e-10)
    with pytest.raises(ValueError, match="theta"):
        failure_bound(0.6, 8, 0.1)


def test_joined_texts() -> None:
    assert [joined_failure(0.05, t) for t in (1, 2, 4)] == pytest.approx([0.05, 0.0975, 0.18549375])
