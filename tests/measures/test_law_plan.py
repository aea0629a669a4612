"""Simulated sweeps: what they say of a known law, and what one more row of the grid changes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from emergence.measures.law_errors import LawErrors
from emergence.measures.law_plan import BelievedLaw, PlannedSweep, plan_sweep, rows_to_add

LOSSES, AMOUNTS = (2.5, 2.2, 2.0, 1.85, 1.78), (50.0, 200.0, 1000.0, 6000.0)
LAW = BelievedLaw(0.05, 1.2, 1.60, 0.9, 5.0)
SWEEP = PlannedSweep(LOSSES, AMOUNTS, 1, fewshot=True)


def test_a_law_through_its_ends() -> None:
    again = BelievedLaw.through(LAW.elbow, float(LAW.elbows(np.array([6000.0]))[0]), 6000, 0.9, 1.2, 5.0)
    assert (again.k, again.c, again.elbow) == pytest.approx((0.05, 1.60, 1.688507), abs=1e-6)
    with pytest.raises(ValueError, match="elbows rise"):
        BelievedLaw.through(2.0, 1.9, 6000, 0.9, 1.2, 5.0)


def test_runs_of_a_sweep() -> None:
    data = PlannedSweep(LOSSES, AMOUNTS, 2, fewshot=True).data(BelievedLaw.through(1.8, 2.3, 6000, 0.9, 1.2, 5.0))
    assert (~data.fewshot).sum() == 40 and data.fewshot.sum() == 4, "the checkpoint past emergence is not prompted"
    assert len(set(zip(data.amount[~data.fewshot], data.draw[~data.fewshot], strict=True))) == 8
    assert data.score.min() == 0 and data.score.max() == pytest.approx(0.9 * (2.3 - 1.78))


def test_without_noise_nothing_is_missed() -> None:
    plan = plan_sweep(SWEEP, LAW, LawErrors(0.0, 0.0, 1e-5), n_sweeps=8, n_intervals=2, n_calibration=19)
    assert plan.forecast.error < 1e-3 and plan.forecast.missed == 0 and not plan.is_hopeless
    assert plan.width < 5e-3 and plan.open == 0


def test_more_noise_and_shared_noise_spread_predictions() -> None:
    kinds = {"little": LawErrors(0, 0, 0.005), "much": LawErrors(0, 0, 0.02), "shared": LawErrors(0.02, 0.02, 0.005)}
    found = {
        name: plan_sweep(SWEEP, LAW, errors, n_sweeps=30, n_intervals=1, n_calibration=19).forecast
        for name, errors in kinds.items()
    }
    assert found["little"].spread < 0.5 * found["much"].spread
    assert found["little"].error < found["shared"].error


def test_losses_far_above_the_point_are_hopeless_and_a_better_checkpoint_helps_most() -> None:
    weak = PlannedSweep((2.5, 2.3, 2.15, 2.05, 2.0), AMOUNTS, 1, fewshot=True)
    plan = plan_sweep(weak, LAW, LawErrors(0.0, 0.0, 0.01), n_sweeps=60, n_intervals=1, n_calibration=19)
    assert plan.gap == pytest.approx(2.0 - LAW.elbow) and plan.is_hopeless and plan.forecast.missed > 0.5
    assert min(plan.added, key=lambda row: row.forecast.spread).name == "a checkpoint of loss 1.95, better than all"
    assert plan.added[0].forecast.spread < plan.forecast.spread


def test_rows_that_can_be_added() -> None:
    names = [name for name, _ in rows_to_add(SWEEP, 5.0)]
    assert names == [
        "another draw at every amount",
        "a checkpoint of loss 1.71, better than all",
        "a checkpoint of loss 2.35, in the widest gap",
        "25 questions, fewer than all",
        "12,000 questions, more than all",
        "2,449 questions, in the widest gap",
    ]
    assert not any("fewer" in name for name, _ in rows_to_add(SWEEP, 20.0)), "25 is no more than 20 and some"
    assert [each.n_runs - SWEEP.n_runs for _, each in rows_to_add(SWEEP, 5.0)] == [20, 4, 4, 5, 5, 5]


def test_one_seed_says_the_same() -> None:
    one, two = (
        plan_sweep(SWEEP, LAW, LawErrors(0.01, 0.01, 0.01), n_sweeps=10, n_intervals=1, n_calibration=19) for _ in "ab"
    )
    assert one == two and math.isfinite(one.width)
