"""One switch for runs, sweeps and containers: what a signal does, and that handlers come back."""

from __future__ import annotations

import os
import signal

import pytest

from emergence.experiment.stop_switch import StopSwitch

BOTH = (signal.SIGINT, signal.SIGTERM)


def ask(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in BOTH]


@pytest.mark.parametrize("first", BOTH)
def test_the_first_request_saves_and_a_second_ctrl_c_interrupts(
    first: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before = handlers()
    with pytest.raises(KeyboardInterrupt), StopSwitch() as stop:
        assert not stop()
        ask(first)
        assert stop() and "stopping at the next step, to save what is done" in capsys.readouterr().err
        ask(signal.SIGTERM)  # who asks for an orderly end twice gets one
        assert stop() and stop.requests == 2
        ask(signal.SIGINT)
    assert handlers() == before


def test_a_sweeps_switch_counts_and_never_raises() -> None:
    before = handlers()
    with StopSwitch(lambda: None, counts_only=True) as stop:
        for number in (*BOTH, signal.SIGINT):
            ask(number)
        assert stop() and stop.requests == 3
    assert handlers() == before


def test_a_containers_switch_has_a_time_limit_and_leaves_sigterm_alone() -> None:
    heard: list[str] = []
    before = handlers()
    with StopSwitch(lambda: heard.append("hurry"), signals=[signal.SIGINT], seconds=-1) as stop:
        assert stop() and not stop.requests and signal.getsignal(signal.SIGTERM) == before[1]
        ask(signal.SIGINT)
        assert stop.requests == 1 and heard == ["hurry"]
    assert handlers() == before
