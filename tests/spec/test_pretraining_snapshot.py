"""Which snapshot of a pretraining is meant."""

from __future__ import annotations

import pytest

from emergence.spec.pretraining_snapshot import choose_step, spaced_snapshots
from emergence.training.schedule import log_spaced_steps


def test_a_step_is_that_step_if_it_was_kept() -> None:
    assert choose_step([0, 64, 8], "64") == 64
    assert choose_step([0, 64, 8], "32") is None and choose_step([], "32") is None


def test_eight_of_many_are_the_first_the_last_and_between_them_the_nearest_in_log_steps() -> None:
    powers = [2**k for k in range(15)]
    assert [choose_step(powers, f"{k}of8") for k in range(1, 8)] == [1, 4, 16, 64, 256, 1024, 4096]


@pytest.mark.parametrize("total", [12, 60, 500, 4_321])
@pytest.mark.parametrize("kept", [8, 10, 40])
def test_they_always_differ(total: int, kept: int) -> None:
    """Rounding makes the first steps coincide, so even spacing may want one twice."""
    steps = sorted(log_spaced_steps(total, kept) - {0})
    chosen = [choose_step(steps, f"{k}of6") for k in range(1, 6)]
    assert None not in chosen and chosen == sorted(set(chosen)) and chosen[0] == 1 and max(chosen) < total  # type: ignore
    wanted = [total ** (k / 5) for k in range(5)]
    if kept == 40:
        assert all(abs(a - b) <= max(1, 0.15 * b) for a, b in zip(chosen, wanted, strict=True))  # type: ignore
    assert choose_step(steps[:5], "1of6") is None


def test_log8_in_a_matrix_is_seven_and_the_last() -> None:
    assert spaced_snapshots("log8") == [*(f"{k}of8" for k in range(1, 8)), "last"]
    assert spaced_snapshots("log1") is None and spaced_snapshots("last") is None and spaced_snapshots(64) is None
