"""The file-backed :class:`~emergence.training.recording.Recorder`.

``history.jsonl`` holds only what the seed decides. It is cut back to the checkpoint on resuming, so an interrupted run
writes the same bytes as one that was not. ``timings.jsonl`` only grows. No file stays open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emergence.errors import RunDirectoryError
from emergence.files import append_line, drop_torn_line, sync_file, to_json, truncate_file

#: What readers take from a line, by its kind; null where a number was not finite.
_NUMBERS = {
    "pretrain_step": ("step", "tokens", "loss"),
    "pretrain_evaluation": ("step", "tokens", "validation_loss"),
    "finetune_epoch": ("epoch", "train_loss", "validation_loss", "validation_f1"),
}


class FileRecorder:
    """Appends JSON lines to the two files of a run. A last line that a crash cut is dropped on opening."""

    def __init__(self, history: Path, timings: Path) -> None:
        self._history, self._timings = history, timings
        drop_torn_line(history)
        drop_torn_line(timings)

    def log(self, kind: str, /, **values: Any) -> None:
        """Append one history line. A number that is not finite becomes null."""
        append_line(self._history, to_json({"kind": kind, **values}))

    def time(self, kind: str, /, **values: Any) -> None:
        """Append one line of wall-clock facts, with the time of day (UTC)."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        append_line(self._timings, to_json({"kind": kind, "at": now, **values}))

    def position(self) -> int:
        """Bytes of history, all of them on disk when this returns."""
        if not self._history.exists():
            return 0
        sync_file(self._history)
        return self._history.stat().st_size

    def rewind(self, position: int) -> None:
        """Drop the history after byte ``position``.

        Raises:
            RunDirectoryError: There is less history than that, or ``position`` is not the end of a line.
        """
        content = self._history.read_bytes() if self._history.exists() else b""
        if len(content) < position or (position > 0 and content[position - 1 : position] != b"\n"):
            raise RunDirectoryError(
                f"{self._history} is damaged: its checkpoint was taken after {position:,} bytes, of which this is no "
                f"continuation; delete {self._history.parent / 'checkpoint'} to start the phase again"
            )
        if len(content) > position:
            truncate_file(self._history, position)


def check_history(lines: Sequence[Mapping[str, Any]], source: Path) -> None:
    """Refuse lines without a kind, or without the numbers that readers take from lines of their kind.

    Raises:
        RunDirectoryError: A line is damaged. The message names file and line.
    """
    for number, line in enumerate(lines, start=1):
        kind = line.get("kind")
        values = [line.get(key, "") for key in _NUMBERS.get(str(kind), ())]
        if not isinstance(kind, str) or any(
            isinstance(v, bool) or not isinstance(v, int | float | None) for v in values
        ):
            raise RunDirectoryError(f"{source}:{number}: damaged or edited: not a line of a history")
