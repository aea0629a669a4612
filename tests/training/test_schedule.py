"""The plan adds up, and learning rates have the shape they are named after."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emergence.spec.config import PretrainConfig
from emergence.training.schedule import context_window, learning_rate_factor, log_spaced_steps, plan_pretraining


def config(**changes: Any) -> PretrainConfig:
    return PretrainConfig(**{"samples_per_epoch": 1000, "batch_size": 10, **changes})


def test_a_plan_by_samples() -> None:
    plan = plan_pretraining(config(epochs=2, evaluations_per_epoch=4, step_snapshots=3), n_sequences=10_000)
    assert plan.total_steps == 200
    assert plan.epoch_steps == (100, 200)
    assert plan.snapshot_steps == {0, 1, 14, 200}
    assert plan.evaluation_steps == {0, 1, 14, 25, 50, 75, 100, 125, 150, 175, 200}


def test_the_text_caps_the_plan() -> None:
    plan = plan_pretraining(config(samples_per_epoch=200_000, max_passes=1.5), n_sequences=105)
    assert plan.total_steps == 15  # 157 sequences, of which 7 do not fill a batch
    assert plan.epoch_steps == (15,)
    less_than_a_batch = plan_pretraining(config(), n_sequences=4)
    assert (less_than_a_batch.batch_size, less_than_a_batch.total_steps) == (4, 1)


@given(
    epochs=st.integers(1, 5),
    samples=st.integers(1, 3000),
    batch=st.integers(1, 64),
    passes=st.floats(0.01, 4),
    sequences=st.integers(1, 5000),
    snapshots=st.integers(0, 20),
)
def test_any_plan_is_sound(
    epochs: int, samples: int, batch: int, passes: float, sequences: int, snapshots: int
) -> None:
    settings = config(
        epochs=epochs, samples_per_epoch=samples, batch_size=batch, max_passes=passes, step_snapshots=snapshots
    )
    plan = plan_pretraining(settings, sequences)
    seen = plan.total_steps * plan.batch_size
    assert 1 <= seen <= max(1, min(epochs * samples, passes * sequences))
    assert plan.epoch_steps[-1] == plan.total_steps
    assert list(plan.epoch_steps) == sorted(set(plan.epoch_steps))
    assert {0, plan.total_steps} <= plan.evaluation_steps
    assert plan.snapshot_steps | set(plan.epoch_steps) <= plan.evaluation_steps
    assert all(0 <= step <= plan.total_steps for step in plan.evaluation_steps)


def test_log_spacing_is_even_in_the_logarithm() -> None:
    assert log_spaced_steps(1000, 4) == {0, 1, 10, 100, 1000}
    assert log_spaced_steps(1000, 0) == frozenset()
    assert log_spaced_steps(3, 10) == {0, 1, 2, 3}


def test_wsd_warms_up_stays_and_decays_to_nothing() -> None:
    settings = config(warmup_fraction=0.1, decay_fraction=0.4)
    factors = [learning_rate_factor(step, settings, 100) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert factors[10:60] == [1.0] * 50
    assert factors[60:] == pytest.approx([(100 - step) / 40 for step in range(60, 100)])


def test_cosine_falls_from_one_to_nothing() -> None:
    settings = config(schedule="cosine", warmup_fraction=0.2)
    factors = [learning_rate_factor(step, settings, 100) for step in range(100)]
    assert factors[20] == 1.0
    assert factors[60] == pytest.approx(0.5)
    assert factors[20:] == sorted(set(factors[20:]), reverse=True)
    assert 0 < factors[-1] < 0.001


def test_windows_come_first_and_whole_sequences_last() -> None:
    settings = config(initial_context=64, initial_context_fraction=0.2)  # 1.6 updates, rounded
    assert [context_window(step, settings, 8) for step in range(8)] == [64, 64, *[0] * 6]
    assert not any(context_window(step, config(), 8) for step in range(8)), "whole sequences are the default"


@pytest.mark.parametrize("schedule", ["wsd", "cosine"])
def test_every_update_of_the_shortest_runs_has_a_learning_rate(schedule: str) -> None:
    for total in (1, 2, 3, 10):
        settings = config(schedule=schedule, warmup_fraction=0.5, decay_fraction=0.5)
        assert all(0 < learning_rate_factor(step, settings, total) <= 1 for step in range(total))
