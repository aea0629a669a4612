"""One call builds what several look for in the cache.

The preparations of a sweep start together and look for the same download, tokenizer and streams. Whoever claims a
folder first builds it, and the others wait until it is on the volume. A claim only saves work: where two calls get one,
because the one that had it ended, both build the same.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import modal

from emergence.data.cache import share_with
from emergence.remote.calls import look_at, patiently
from emergence.remote.mirror import copy_folder
from emergence.remote.volume_cache import VolumeCache

logger = logging.getLogger(__name__)

#: Which call builds which folder of the cache, while it does.
claims = modal.Dict.from_name("emergence-cache-claims", create_if_missing=True)
#: Who waits for another call's folder looks this often, and builds it at last.
LOOK_SECONDS = float(os.environ.get("EMERGENCE_POLL_SECONDS", "10"))
LONGEST_WAIT = 3600.0


class SharedWork(VolumeCache):
    """A cache on a volume whose folders are built by one of the calls that look for them.

    Args:
        local, volume: See :class:`VolumeCache`.
        call: The id of this call.
        commit, reload: Of the volume.
    """

    def __init__(
        self, local: Path, volume: Path, call: str, commit: Callable[[], object], reload: Callable[[], object]
    ) -> None:
        super().__init__(local, volume)
        self.call, self._commit, self._reload = call, commit, reload
        self._claimed: set[str] = set()

    def bring(self, folder: Path) -> None:
        """Copy ``folder`` from the volume, after waiting for the call that builds it. If none does, this call will."""
        end, told = time.monotonic() + LONGEST_WAIT, False
        while not self.there(folder).is_dir():
            other = self._claim(self.name(folder))
            with contextlib.suppress(Exception):  # of whatever type: a reload that fails shows nothing new
                self._reload()
            if other is None or time.monotonic() > end:
                break
            if not told:
                logger.info("waiting for %s, which prepares the same %s", other, folder.parent.name)
            told = True
            time.sleep(LOOK_SECONDS)
        super().bring(folder)
        if folder.is_dir():
            self._release(self.name(folder))

    def keep(self, folder: Path) -> None:
        """Publish ``folder``, and let those go on who wait for it."""
        shutil.rmtree(self.there(folder), ignore_errors=True)  # damaged, else it had been taken
        copy_folder(folder, self.there(folder))
        self._commit()
        self._release(self.name(folder))

    def close(self) -> None:
        """Give back what was to be built and is not."""
        for name in sorted(self._claimed):
            self._release(name)

    def _claim(self, name: str) -> str | None:
        """Claim a folder for this call. Returns the call that has it; None where this one has."""
        if not patiently(lambda: claims.put(name, self.call, skip_if_exists=True)):
            other: str | None = patiently(lambda: claims.get(name))
            if other not in (None, self.call) and look_at(str(other)).state != "ended":
                return other
            patiently(lambda: claims.put(name, self.call))
        self._claimed.add(name)
        return None

    def _release(self, name: str) -> None:
        if name in self._claimed and patiently(lambda: claims.get(name)) == self.call:
            patiently(lambda: claims.pop(name, None))
        self._claimed.discard(name)


@contextlib.contextmanager
def shared(cache: SharedWork) -> Iterator[None]:
    """Look for folders in ``cache``, and keep what is built there, until the block ends."""
    share_with(cache)
    try:
        yield
    finally:
        share_with(None)
        cache.close()
