"""Kill or fail a program at any of its writes, inside the test process.

:func:`killed_at` makes the n-th change to the disk the last thing that happens: from then on every
further one raises too, because a dead process does not clean up either.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

#: The system calls by which Python code of this project changes the disk.
CHANGES = ("write", "fsync", "replace", "unlink", "ftruncate", "truncate", "mkdir", "rmdir")


class Killed(BaseException):
    """Stands for SIGKILL: nothing that handles errors handles it."""


class Changes:
    """Counts changes to the disk and fires at one of them."""

    def __init__(self, at: int, after: bool, fire: Callable[[], None]) -> None:
        self.at, self.after, self.fire, self.count = at, after, fire, 0

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            if self.count > self.at or (self.count == self.at and not self.after):
                self.fire()
            result = call(*args, **kwargs)
            if self.count == self.at:
                self.fire()
            return result

        return changed


@contextlib.contextmanager
def _injected(changes: Changes) -> Iterator[Changes]:
    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGES:
            # A killed process loses nothing that the system holds, so waiting for the disk would test nothing.
            patch.setattr(os, name, changes.wrap(getattr(os, name) if name != "fsync" else lambda descriptor: None))
        yield changes


def _kill() -> None:
    raise Killed


def killed_at(n: int, *, after: bool = False) -> contextlib.AbstractContextManager[Changes]:
    """Die at the ``n``-th change to the disk (from 1), before it happens or just ``after`` it."""
    return _injected(Changes(n, after, _kill))


def counted() -> contextlib.AbstractContextManager[Changes]:
    """Only count the changes (and do not wait for the disk)."""
    return _injected(Changes(1 << 60, False, _kill))


@contextlib.contextmanager
def failing(call: str, number: int) -> Iterator[None]:
    """Every ``os.<call>`` fails with the system error ``number`` (ENOSPC, EIO, EACCES...)."""

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise OSError(number, os.strerror(number))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, call, fail)
        yield


@contextlib.contextmanager
def failing_at(n: int, number: int) -> Iterator[None]:
    """Only the ``n``-th change to the disk fails, with the system error ``number``."""
    count = 0

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == n:
                raise OSError(number, os.strerror(number))
            return call(*args, **kwargs)

        return changed

    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGES:
            patch.setattr(os, name, wrap(getattr(os, name) if name != "fsync" else lambda descriptor: None))
        yield
