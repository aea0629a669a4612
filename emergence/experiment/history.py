"""The file-backed :class:`~emergence.training.recording.Recorder`.

``history.jsonl`` holds only what the seed decides. It is cut back to the checkpoint on resuming, so an interrupted run
writes the same bytes as one that was not. ``timings.jsonl`` only grows. No file stays open.

The recorder keeps a running digest of what it wrote. Checkpoints and trunks store it with their position. So a digit
that changes on the disk before the run is sealed shows when the run goes on, or at its end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emergence.errors import RunDirectoryError
from emergence.files import append_line, drop_torn_line, read_regular, sync_file, to_json, truncate_file

if TYPE_CHECKING:
    from emergence.training.recording import Position

#: What readers take from a line, by its kind; null where a number was not finite.
_NUMBERS = {
    "pretrain_step": ("step", "tokens", "loss"),
    "pretrain_evaluation": ("step", "tokens", "validation_loss"),
    "finetune_epoch": ("epoch", "train_loss", "validation_loss", "validation_f1"),
}
#: The same of the timings. Other kinds are for people.
_TIMES = {
    **dict.fromkeys(("pretrain_end", "states"), ("seconds", "tokens_per_second")),
    **dict.fromkeys(("finetune_epoch", "finetune_search"), ("seconds",)),
    **dict.fromkeys(("probe", "probe_conditional", "probe_validity"), ("seconds",)),
}


class FileRecorder:
    """Appends JSON lines to the two files of a run. A last line that a crash cut is dropped on opening.

    A position is ``{"bytes": ..., "sha256": ...}``, of all the history up to it. Older files have the number of bytes.
    """

    def __init__(self, history: Path, timings: Path) -> None:
        self._history, self._timings = history, timings
        drop_torn_line(history)
        drop_torn_line(timings)
        self._follow(self._content())

    def log(self, kind: str, /, **values: Any) -> None:
        """Append one history line. A number that is not finite becomes null."""
        line = to_json({"kind": kind, **values})
        append_line(self._history, line)
        self._digest.update(line.encode() + b"\n")
        self._bytes += len(line.encode()) + 1

    def time(self, kind: str, /, **values: Any) -> None:
        """Append one line of wall-clock facts, with the time of day (UTC)."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        append_line(self._timings, to_json({"kind": kind, "at": now, **values}))

    def position(self) -> Position:
        """Bytes of history and their sha256, as written; all of them are on disk when this returns.

        Raises:
            RunDirectoryError: The file on disk is longer or shorter than what was written.
        """
        if self._bytes or self._history.exists():
            size = self._history.stat().st_size if self._history.exists() else 0
            if size != self._bytes:
                raise RunDirectoryError(
                    f"{self._history} was changed while the run was writing it: {size:,} bytes instead of "
                    f"{self._bytes:,}; start the run again, which checks it against its last checkpoint"
                )
            sync_file(self._history)
        return {"bytes": self._bytes, "sha256": self._digest.hexdigest()}

    def rewind(self, position: Position) -> None:
        """Drop the history after ``position``.

        Raises:
            RunDirectoryError: What comes before it is not what was written.
        """
        content = self._content()
        check_position(content, position, self._history)
        kept = _bytes_of(position)
        if len(content) > kept:
            truncate_file(self._history, kept)
        self._follow(content[:kept])

    def _content(self) -> bytes:
        return read_regular(self._history) if self._history.exists() else b""

    def _follow(self, content: bytes) -> None:
        self._digest, self._bytes = hashlib.sha256(content), len(content)


def check_position(content: bytes, position: Position, source: Path) -> None:
    """Refuse a history whose beginning is not the one that ``position`` was taken of.

    Raises:
        RunDirectoryError: There is less of it, it is other bytes, or the position is not the end of a line.
    """
    kept = _bytes_of(position)
    digest = position.get("sha256") if isinstance(position, Mapping) else None
    torn = len(content) < kept or (kept > 0 and content[kept - 1 : kept] != b"\n")
    if torn or (digest is not None and hashlib.sha256(content[:kept]).hexdigest() != digest):
        raise RunDirectoryError(
            f"{source} is damaged: its first {kept:,} bytes are not those that the run wrote before it saved its "
            "state: restore the file, or start the run anew with --fresh"
        )


def _bytes_of(position: Position) -> int:
    return position if isinstance(position, int) else int(position["bytes"])


def check_history(lines: Sequence[Mapping[str, Any]], source: Path) -> None:
    """Refuse lines without a kind, or without the numbers that readers take from lines of their kind.

    Raises:
        RunDirectoryError: A line is damaged. The message names file and line.
    """
    _check_lines(lines, source, _NUMBERS, "a history")


def check_timings(lines: Sequence[Mapping[str, Any]], source: Path) -> None:
    """Refuse lines of wall-clock facts in the same way. None of their numbers may be null.

    Raises:
        RunDirectoryError: A line is damaged. The message names file and line.
    """
    _check_lines([{k: v for k, v in line.items() if v is not None} for line in lines], source, _TIMES, "the timings")


def _check_lines(
    lines: Sequence[Mapping[str, Any]], source: Path, numbers: Mapping[str, tuple[str, ...]], of: str
) -> None:
    for number, line in enumerate(lines, start=1):
        kind = line.get("kind")
        values = [line.get(key, "") for key in numbers.get(str(kind), ())]
        if not isinstance(kind, str) or any(
            isinstance(v, bool) or not isinstance(v, int | float | None) for v in values
        ):
            raise RunDirectoryError(f"{source}:{number}: damaged or edited: not a line of {of}")
