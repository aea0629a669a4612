"""A recorder whose history and timings a test can look at."""

from __future__ import annotations

from typing import Any

from emergence.training.recording import Position


class MemoryRecorder:
    """Keeps history and timings as lists of dictionaries."""

    def __init__(self) -> None:
        self.history: list[dict[str, Any]] = []
        self.timings: list[dict[str, Any]] = []

    def log(self, kind: str, /, **values: Any) -> None:
        self.history.append({"kind": kind, **values})

    def time(self, kind: str, /, **values: Any) -> None:
        self.timings.append({"kind": kind, **values})

    def position(self) -> int:
        return len(self.history)

    def rewind(self, position: Position) -> None:
        assert isinstance(position, int)
        del self.history[position:]
