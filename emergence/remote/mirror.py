"""A run directory on fast local disk, published to a slow shared volume off the training path.

On Modal a run works on the container's own disk, because a volume may not have open files while it commits. Every
``min_seconds`` a background thread of :class:`VolumeMirror` copies what changed to the volume and commits. Training
never waits for it. Files are copied in an order that lets a run resume from every published state, although the run
goes on writing meanwhile.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from emergence.files import TEMPORARY_SUFFIX, sweep_temporary

logger = logging.getLogger(__name__)

#: Files that are written when a run is complete. They are published after everything that they vouch for.
LAST = ("MANIFEST.json", "finetune_stats.json")


def _state(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _publishing_order(name: str) -> tuple[int, str]:
    """Checkpoints, weights, the rest, the result. A history that is ahead of its checkpoint is cut back."""
    if name in LAST:
        return 3 + LAST.index(name), name
    return (0 if name.startswith("checkpoint/") else 1 if name.endswith(".pth") else 2), name


def copy_file(source: Path, target: Path) -> None:
    """Copy a file. A reader of ``target`` sees the old file or the new one, and nothing stays open or lies about.

    The source may go away in the middle: a run deletes its older checkpoints while they are copied.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}{TEMPORARY_SUFFIX}")
    try:
        shutil.copyfile(source, beside)
        shutil.copystat(source, beside)
        beside.replace(target)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def copy_tree(source: Path, target: Path) -> int:
    """Copy the files of ``source`` that ``target`` lacks or holds in another state. Returns bytes copied."""
    copied = 0
    for name in sorted(_names(source)):
        if not (target / name).exists() or _state(target / name) != _state(source / name):
            copy_file(source / name, target / name)
            copied += (target / name).stat().st_size
    return copied


def copy_new_folders(source: Path, target: Path) -> int:
    """Copy the folders of files that ``target`` lacks, each whole or not at all. Returns bytes copied.

    It is meant for caches, whose folders never change once they exist. Only folders that hold files themselves count.
    Hidden ones are left out, because they are still being built.
    """
    copied = 0
    for name in sorted({Path(file).parent.as_posix() for file in _names(source)} - {"."}):
        if not any(part.startswith(".") for part in Path(name).parts) and not (target / name).exists():
            copied += copy_folder(source / name, target / name)
    return copied


def copy_folder(source: Path, target: Path) -> int:
    """Copy the files of a folder to one that is not there, whole or not at all. Returns bytes copied."""
    copied = 0
    beside = target.with_name(f".{target.name}{TEMPORARY_SUFFIX}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    for file in source.iterdir():
        if file.is_file() and not file.is_symlink():
            copy_file(file, beside / file.name)
            copied += file.stat().st_size
    beside.replace(target)
    return copied


class VolumeMirror:
    """Publishes one local folder to one folder of a volume.

    Args:
        local: The folder that is written to. It may not exist yet.
        remote: Its copy on the volume.
        commit: Makes the volume's content visible and durable (``modal.Volume.commit``).
        may_publish: Asked before each publication; once it is False nothing is written to the volume any more.
        min_seconds: Time between the starts of two background publications; a checkpoint is published as
            soon as that time is over, and without one the history still is, so that others see progress.
    """

    #: The interval until something was published, so that a new run is soon seen on the volume.
    FIRST_SECONDS = 5.0

    def __init__(
        self,
        local: Path,
        remote: Path,
        commit: Callable[[], None],
        min_seconds: float = 60.0,
        may_publish: Callable[[], bool] = lambda: True,
    ) -> None:
        self.local, self.remote, self._commit, self.min_seconds = local, remote, commit, min_seconds
        self._may_publish = may_publish
        self.publications, self.forbidden = 0, False
        self._published: dict[str, tuple[int, int]] = {}
        self._gone: set[str] = set()
        self._busy = threading.Lock()
        self._wanted = threading.Event()
        self._urgent = threading.Event()
        self._closing = False
        if remote.exists():
            sweep_temporary(remote)  # what a killed predecessor was copying
        self._thread = threading.Thread(target=self._loop, name="volume-mirror", daemon=True)
        self._thread.start()

    def request(self) -> None:
        """Ask for a publication soon, and return at once. A checkpointer's ``on_commit`` is this."""
        self._wanted.set()

    def hurry(self) -> None:
        """Ask for a publication now, whatever the interval, and return at once. A signal handler may call this."""
        self._urgent.set()
        self._wanted.set()

    def publish(self, final: bool = False) -> int:
        """Copy what changed and commit, in this thread. Returns the number of files published.

        Args:
            final: Nothing is written to the folder any more, so what is missing in it is gone for good.

        Raises:
            OSError, RuntimeError: The copy or the commit failed. The next call tries again.
        """
        with self._busy:
            # Copying alone would be too much: Modal commits what lies on a volume by itself, too.
            self.forbidden = self.forbidden or not self._may_publish()
            if self.forbidden:
                return 0
            names = _names(self.local)
            changed = self._copy_changes(names)
            deleted = self._delete_gone(names, final)
            if changed or deleted:
                self._commit()
                self._published.update(changed)
                self.publications += 1
            return len(changed)

    def close(self) -> None:
        """Stop the thread and publish the final state, trying a failing commit again for half a minute."""
        self._closing = True
        self._wanted.set()
        self._urgent.set()
        self._thread.join()
        for pause in (1.0, 2.0, 4.0, 8.0, 16.0, None):
            try:
                self.publish(final=True)
                return
            except Exception:  # of whatever type the client of a volume raises
                if pause is None:
                    raise
                logger.warning("could not publish %s; trying again", self.local.name, exc_info=True)
                time.sleep(pause)

    def _loop(self) -> None:
        while True:
            self._wanted.wait(self.min_seconds if self.publications else min(self.min_seconds, self.FIRST_SECONDS))
            if self._closing:
                return
            self._wanted.clear()
            self._urgent.clear()
            started = time.monotonic()
            try:
                self.publish()
            except Exception:  # the thread must outlive a volume's bad minute; close() reports what lasts
                logger.warning("could not publish %s; the next checkpoint tries again", self.local.name, exc_info=True)
            self._urgent.wait(max(0.0, self.min_seconds - (time.monotonic() - started)))

    def _copy_changes(self, names: set[str]) -> dict[str, tuple[int, int]]:
        changed = {}
        for name in sorted(names, key=_publishing_order):
            source = self.local / name
            with suppress(FileNotFoundError):  # an old checkpoint, deleted while we copied
                state = _state(source)
                if self._published.get(name) != state:
                    copy_file(source, self.remote / name)
                    changed[name] = state
        return changed

    def _delete_gone(self, names: set[str], final: bool) -> int:
        """Delete on the volume what is gone here, at the second look.

        The first look may have just missed the file whose arrival made the gone one superfluous.
        """
        gone = _names(self.remote) - names
        now = gone if final else gone & self._gone
        for name in now:
            (self.remote / name).unlink(missing_ok=True)
            self._published.pop(name, None)
        self._gone = gone - now
        return len(now)

    def adopt(self) -> None:
        """Count as published what both sides have in the same state, after a run was restored from the volume."""
        for name in _names(self.local) & _names(self.remote):
            if (state := _state(self.local / name)) == _state(self.remote / name):
                self._published[name] = state


def _names(folder: Path) -> set[str]:
    """Relative names of the files below ``folder``, without those still being written."""
    names = set()
    for path in folder.rglob("*"):
        # A link may lead anywhere; no run holds one.
        if not path.name.endswith(TEMPORARY_SUFFIX) and path.is_file() and not path.is_symlink():
            names.add(path.relative_to(folder).as_posix())
    return names
