"""Distances of fits from exact optima, which are those of another optimiser, too."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from benchmarks.probe_optima import OFFSETS, STATES, above_optimum, measure, plant
from emergence.answering.probe_fitting import SpanObjective


@pytest.mark.parametrize("offset", ["none", "nearly linear"])
def test_the_optimum_is_that_of_another_optimiser(offset: str) -> None:
    data = plant("correlated", offset, 40, 8, np.random.default_rng(0))
    objective, ridge = SpanObjective(data), 1e-2
    start = objective.start
    other = minimize(objective, start, args=(ridge,), jac=True, method="BFGS", options={"gtol": 1e-6})
    gap, alone = above_optimum(data, start, ridge)
    assert gap == pytest.approx(objective(start, ridge)[0] - other.fun, abs=1e-5) and gap > 0.1
    penalties = objective.penalty(start, ridge) - objective.penalty(other.x, ridge)
    assert alone == pytest.approx(gap - penalties, abs=1e-3)


def test_fits_of_a_few_problems() -> None:
    found = measure(2)
    assert found["fits"] == 16 and found["worst"] < 1e-4 and found["flagged"] == 0
    assert len(set(STATES)) == 6 and len(set(OFFSETS)) == 7  # so that 42 problems hold every pair of the two
