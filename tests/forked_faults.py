"""Kill or fail a whole run at any of its changes to the disk, each attempt in a forked child.

A child is forked after the imports, so an attempt costs what the run costs. Every ``write`` of a file opened for
writing, every ``fsync``, rename, ``unlink``, truncation and folder made or removed is a *point*; at the chosen
one the child dies as by SIGKILL (``os._exit``: no handler, no buffer flushed), half-way through the write where it is
one, or the system call fails with an error number. The parent only forks and compares.
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fault_injection import CHANGES

#: Exit code of a child that was killed at its point (as a shell reports SIGKILL).
KILLED = 137
#: Exit code of a child that ended with an error of the program: one line, no traceback.
REFUSED = 2
#: Exit code of a child that ended with anything else, which would be a defect.
CRASHED = 70


@dataclass(frozen=True)
class Fault:
    """What happens at which point.

    Attributes:
        point: From 1; 0 for nowhere (the points are only counted).
        number: System error to fail with (``errno.ENOSPC``...); None to die.
        lasting: Whether every later write fails too (a disk stays full), or this one alone.
        delay: Seconds that every point takes (a slow disk).
        jump: Seconds that the clock jumps at the point, instead of a failure.
    """

    point: int = 0
    number: int | None = None
    lasting: bool = False
    delay: float = 0.0
    jump: float = 0.0


@dataclass
class Attempt:
    """How a child ended.

    Attributes:
        code: 0, ``KILLED``, ``REFUSED``, ``CRASHED``, or minus the signal.
        points: ``(call, file name)`` of every point it came to.
        message: The error's line, or a traceback.
        value: What the action returned (JSON).
        seconds: Wall-clock.
    """

    code: int
    points: list[tuple[str, str]] = field(default_factory=list)
    message: str = ""
    value: Any = None
    seconds: float = 0.0


def attempt(action: Callable[[], Any], fault: Fault | None = None, kill_after: float | None = None) -> Attempt:
    """Run ``action`` in a forked child under ``fault``.

    Args:
        action: Returns plain JSON values.
        fault: None for none.
        kill_after: Seconds after which the child gets SIGKILL, wherever it is.
    """
    read_end, write_end = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        _in_child(action, fault or Fault(), write_end)
    os.close(write_end)
    if kill_after is not None:
        _kill_later(child, kill_after)
    with os.fdopen(read_end, "rb") as pipe:
        told = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    seconds = time.monotonic() - started
    report = json.loads(told) if told else {}
    points = [(call, name) for call, name in report.get("points", [])]
    return Attempt(code, points, report.get("message", ""), report.get("value"), seconds)


def _kill_later(child: int, seconds: float) -> None:
    """Wait for the child's end or the moment to kill it, whichever comes first; it is not reaped here."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(min(left, 0.005))
    os.kill(child, signal.SIGKILL)


def _in_child(action: Callable[[], Any], fault: Fault, pipe: int) -> None:
    """The child's life; never returns."""
    disk = _Disk(fault, pipe)
    code, report = 0, {}
    try:
        devnull = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(devnull, stream)
        disk.install()
        report["value"] = action()
    except BaseException as error:
        from emergence.errors import EmergenceError

        code = REFUSED if isinstance(error, EmergenceError) else CRASHED
        report["message"] = str(error) if code == REFUSED else traceback.format_exc()
    disk.tell(report)
    os._exit(code)


class _Disk:
    """Stands between a child and the disk."""

    def __init__(self, fault: Fault, pipe: int) -> None:
        self.fault, self.pipe = fault, pipe
        self.points: list[tuple[str, str]] = []
        self.calls = {name: getattr(os, name) for name in CHANGES}
        self.open = io.open

    def install(self) -> None:
        for name in CHANGES:
            setattr(os, name, self._wrapped(name))
        io.open = builtins.open = self._open  # type: ignore[assignment]

    def tell(self, report: dict[str, Any]) -> None:
        data = json.dumps({**report, "points": self.points}).encode()
        while data:
            data = data[self.calls["write"](self.pipe, data) :]

    def reach(self, call: str, name: str) -> str:
        """Count a point; returns ``pass`` or ``die``, or raises the system's error."""
        self.points.append((call, name))
        if self.fault.delay:
            time.sleep(self.fault.delay)
        here, now = self.fault.point, len(self.points)
        if not here or now < here or (now > here and not self.fault.lasting):
            return "pass"
        if self.fault.jump:
            clock = time.time
            time.time = lambda: clock() + self.fault.jump
            return "pass"
        if self.fault.number is None:
            return "die"
        if call in ("unlink", "rmdir", "truncate", "ftruncate") and self.fault.number == errno.ENOSPC:
            return "pass"  # freeing room never lacks room
        on_descriptor = call in ("write", "fsync", "ftruncate")  # where the system does not know a name
        raise OSError(self.fault.number, os.strerror(self.fault.number), *(() if on_descriptor else (name,)))

    def die(self) -> None:
        self.tell({})
        os._exit(KILLED)

    def _wrapped(self, name: str) -> Callable[..., Any]:
        call = self.calls[name]

        def changed(*args: Any, **kwargs: Any) -> Any:
            if name == "write" and args[0] <= 2:
                return call(*args, **kwargs)
            if self.reach(name, _name_of(name, args)) == "die":
                if name == "write":  # half of it came through
                    call(args[0], bytes(args[1])[: len(args[1]) // 2])
                self.die()
            # A killed process loses nothing that the system holds, so waiting for the disk would test nothing.
            return None if name == "fsync" else call(*args, **kwargs)

        return changed

    def _open(self, file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if isinstance(file, int) or not set(mode) & set("wax+") or str(file).startswith("/dev/"):
            return self.open(file, mode, *args, **kwargs)
        raw = _Raw(self, os.fspath(file), mode.replace("b", "").replace("t", ""))
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        named = dict(zip(("buffering", "encoding", "errors", "newline"), args, strict=False)) | kwargs
        return io.TextIOWrapper(buffered, named.get("encoding"), named.get("errors"), named.get("newline"))


class _Raw(io.FileIO):
    """A file whose writes are points."""

    def __init__(self, disk: _Disk, file: str, mode: str) -> None:
        super().__init__(file, mode)
        self._disk = disk

    def write(self, data: Any) -> int:
        if self._disk.reach("write", os.path.basename(str(self.name))) == "die":  # noqa: PTH119
            super().write(bytes(data)[: len(data) // 2])
            self._disk.die()
        return super().write(data) or 0


def _name_of(call: str, args: tuple[Any, ...]) -> str:
    """The file that a call is about; of a rename, its target."""
    place = args[1] if call == "replace" else args[0]
    if isinstance(place, int):
        try:
            place = os.readlink(f"/proc/self/fd/{place}")  # noqa: PTH115
        except OSError:
            return str(place)
    return os.path.basename(place)  # noqa: PTH119


def content_of(folder: Path) -> dict[str, str]:
    """What an interruption must not change: sha256 of weights, history, predictions and tokenizer, by file name."""
    from emergence.files import sha256_file

    kept = [p for p in folder.iterdir() if p.suffix == ".pth" or p.name in ("history.jsonl", "predictions.jsonl")]
    return {path.name: sha256_file(path) for path in [*kept, folder / "tokenizer.json"]}


if sys.platform == "win32":
    raise ImportError("forked_faults needs fork")
