"""History can be rewound, and progress speaks in lines where there is no terminal."""

from __future__ import annotations

import io
from pathlib import Path
from unittest import mock

import pytest

from emergence.training.recording import StopRequested, TerminalProgress, tracked
from tests.command_lines import typed
from tests.memory_recorder import MemoryRecorder
from tests.planted_runs import write_grid


def test_rewinding_drops_what_came_after() -> None:
    recorder = MemoryRecorder()
    recorder.log("step", loss=2.0)
    position = recorder.position()
    recorder.log("step", loss=1.0)
    recorder.time("step", seconds=3.0)
    recorder.rewind(position)
    assert recorder.history == [{"kind": "step", "loss": 2.0}]
    assert recorder.timings == [{"kind": "step", "seconds": 3.0}]


def test_a_log_file_gets_a_line_now_and_then() -> None:
    now = [0.0]
    stream = io.StringIO()
    progress = TerminalProgress(stream, interval=15.0, clock=lambda: now[0])
    progress.start(total=10_000, unit="tokens", initial=1000, description="pretraining")
    for _ in range(40):
        now[0] += 1.0
        progress.update(100, loss=2.34567)
    progress.close()
    assert stream.getvalue().splitlines() == [
        "pretraining: 2,500 of 10,000 tokens (25%), 100 tokens/s, 75 s left, loss 2.346",
        "pretraining: 4,000 of 10,000 tokens (40%), 100 tokens/s, 60 s left, loss 2.346",
    ]


def test_what_takes_seconds_each_is_told_in_seconds() -> None:
    """And not as 0 a second."""
    now = [0.0]
    stream = io.StringIO()
    progress = TerminalProgress(stream, interval=15.0, clock=lambda: now[0])
    progress.start(total=10, unit="probes", description="probing")
    for _ in range(2):
        now[0] += 16.0
        progress.update(1)
    assert stream.getvalue().splitlines() == [
        "probing: 1 of 10 probes (10%), 16 s each, 2 min left",
        "probing: 2 of 10 probes (20%), 16 s each, 2 min left",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar() -> None:
    stream = Terminal()
    progress = TerminalProgress(stream)
    progress.start(total=100, unit="tokens", description="pretraining")
    progress.update(100, loss=2.34567)
    progress.close()
    assert "pretraining: 100%" in stream.getvalue()


def test_a_requested_stop_has_the_exit_code_of_an_interrupt() -> None:
    assert StopRequested("stopped").exit_code == 130


def test_items_are_told_one_by_one_and_the_bar_is_closed() -> None:
    told = mock.Mock()
    assert list(tracked(told, "ab", "letters", "reading")) == ["a", "b"]
    step = mock.call.update(1)
    assert told.mock_calls == [mock.call.start(2, "letters", description="reading"), step, step, mock.call.close()]
    for _ in tracked(told, "ab", "letters", "reading"):
        break
    assert told.close.call_count == 2


@pytest.mark.parametrize("line", ["figures {runs} --out {new}", "law plan --losses 2.5,2.2,1.8 --amounts 50,200,1000 "
                                  "--noise 0.01 --law 1.7,2.3,0.9 --intervals 5"])  # fmt: skip
def test_slow_commands_say_how_far_they_are(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    write_grid(tmp_path / "runs", {"full": 0.7, "frozen": 0.5})
    started: list[str] = []
    monkeypatch.setattr(TerminalProgress, "start", lambda self, total, unit, **_: started.append(f"{total} {unit}"))
    monkeypatch.setattr(TerminalProgress, "update", lambda self, n, **_: None)
    words = line.format(runs=tmp_path / "runs", new=tmp_path / "new").split()
    assert typed("emergence", *words).code == 0
    assert started and started[-1].split()[1] in ("figures", "intervals"), started
