"""Some random schedules of the Modal campaign: ``python -m benchmarks.modal_campaign`` tries hundreds."""

from __future__ import annotations

import pytest

from benchmarks.modal_campaign import KINDS, try_one
from emergence.remote import attempts, runner
from emergence.remote.calls import Look, look_at

pytestmark = pytest.mark.filterwarnings("ignore:.*is executing locally and will not have access to the mounted Volume")


@pytest.mark.parametrize("seed", [8, 3, 4, 5], ids=lambda seed: KINDS[seed % len(KINDS)])
def test_nothing_is_lost_written_twice_or_left_billing(seed: int) -> None:
    outcome = try_one(seed)
    assert outcome["wrong"] == [] and outcome["publications"] > 5 and outcome["attempts"] > 5


def test_the_schedules_see_an_error_that_is_taken_for_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(call_id: str) -> Look:
        look = look_at(call_id)
        return Look("ended", {"error": look.why, "exit_code": 1}) if look.state == "not known" else look

    monkeypatch.setattr(runner, "look_at", look)
    assert any("failed by an error of the server" in line for line in try_one(8)["wrong"])


def test_the_schedules_see_a_crash_that_is_retried_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts.Account, "see", lambda self, steps: setattr(self, "fruitless", 0))
    assert any("had 11 attempts" in line for line in try_one(3)["wrong"])
