"""One writer per run directory, and no lock that outlives its holder.

The lock is a small file that names its holder. On the holder's machine its process is looked up, so a killed run can be
resumed at once. Another machine on a shared disk sees only the file's age, which the holder renews. The file's
temporary suffix keeps it out of manifests and copies.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType

from emergence.errors import RunDirectoryError
from emergence.files import TEMPORARY_SUFFIX, read_json, sweep_temporary, to_json, write_atomic

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".writer.lock" + TEMPORARY_SUFFIX

#: A holder on another machine that has not renewed its lock for this long is gone.
STALE_SECONDS = 180.0
RENEW_SECONDS = 30.0


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock.

    Attributes:
        pid: Process id.
        started: When the system started that process, in clock ticks since boot. It tells a reused pid apart.
        host: Host name.
        machine: Identity of the boot and process namespace that ``pid`` belongs to; empty where unknown.
        since: Local time at which the lock was taken, for people.
    """

    pid: int
    started: str
    host: str
    machine: str
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class RunLock:
    """Context manager around everything that writes to ``folder``.

    Raises:
        RunDirectoryError: On entering, if another process holds the lock. The message names it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / LOCK_FILE
        self._holder: Holder | None = None
        self._released = threading.Event()

    def __enter__(self) -> RunLock:
        me = _this_process()
        with _critical_section(self._folder):
            if other := read_holder(self._folder):
                raise RunDirectoryError(
                    f"{self._folder.name} is being written by {other}: wait for it or stop it "
                    f"(if it is gone for certain, delete {self._path})"
                )
            sweep_temporary(self._folder)  # whoever left these is dead
            write_atomic(self._path, to_json(asdict(me)))
        self._holder = me
        self._released.clear()
        threading.Thread(target=self._renew, name="run-lock", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        with _critical_section(self._folder), contextlib.suppress(OSError):
            if _read(self._path) == self._holder:
                self._path.unlink()

    def _renew(self) -> None:
        while not self._released.wait(RENEW_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(self._path)


def read_holder(folder: Path) -> Holder | None:
    """The process that writes to ``folder`` now; None if there is none, or if the lock's holder is gone."""
    path = folder / LOCK_FILE
    try:
        # abs: a clock that jumped must not make a lock eternal.
        fresh = abs(time.time() - path.stat().st_mtime) < STALE_SECONDS
    except OSError:
        return None
    holder = _read(path)
    if holder is None:
        return None
    me = _this_process()
    if (holder.host, holder.machine) == (me.host, me.machine):
        if me.machine:
            return holder if _process_start(holder.pid) == holder.started else None
        if not _may_exist(holder.pid):
            return None
    return holder if fresh else None


def _read(path: Path) -> Holder | None:
    """The holder that a lock file names. Locks are written whole, so an unreadable one is nobody's."""
    try:
        holder = Holder(**read_json(path))
    except (RunDirectoryError, TypeError):
        return None
    return holder if isinstance(holder.pid, int) else None


def _this_process() -> Holder:
    pid, now = os.getpid(), datetime.now().strftime("%Y-%m-%d %H:%M:%S")
    return Holder(pid, _process_start(pid) or "", socket.gethostname(), _machine(), now)


def _machine() -> str:
    """Identity of the running kernel and process namespace (Linux); containers of one host differ in it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _process_start(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot (Linux); None if it does not live, or is a zombie."""
    try:
        # The second field is the command in parentheses and may hold anything, so count from its end.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else fields[19]


def _may_exist(pid: int) -> bool:
    """Whether a process of this number may exist, where ``/proc`` cannot say."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@contextlib.contextmanager
def _critical_section(folder: Path) -> Iterator[None]:
    """Only one process of this machine at a time decides about the lock. The system releases it on a crash."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows cannot open folders
        yield
        return
    except OSError as error:
        raise RunDirectoryError(f"cannot open {folder}: {error.strerror or error}") from error
    try:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a network disk without file locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
