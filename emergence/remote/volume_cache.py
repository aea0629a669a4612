"""The cache of a container, whose disk is its own, and its copy on the data volume.

A container takes from the volume what it looks for, folder by folder: a tokenizer, token streams, word scores, a
download. What it built is published at the end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from emergence.files import make_folder
from emergence.remote.mirror import copy_folder


class VolumeCache:
    """An :class:`emergence.data.cache.Elsewhere`: the folder ``volume`` of a volume, for the cache in ``local``."""

    def __init__(self, local: Path, volume: Path) -> None:
        self.local, self.volume = local, volume

    def bring(self, folder: Path) -> None:
        """Copy ``folder`` from the volume, if it is there. Of several workers of a container one copies."""
        if self.there(folder).is_dir():
            with _alone(self.local / ".locks" / self.name(folder).replace("/", "-")):
                if not folder.is_dir():
                    copy_folder(self.there(folder), folder)

    def keep(self, folder: Path) -> None:
        """Leave ``folder`` to :func:`emergence.remote.container.keep_derived`."""

    def name(self, folder: Path) -> str:
        """The name of a folder within the cache: ``streams/0123...``."""
        return folder.relative_to(self.local).as_posix()

    def there(self, folder: Path) -> Path:
        """Its place on the volume."""
        return self.volume / self.name(folder)


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold the file ``lock`` against the other processes of this container."""
    import fcntl  # containers are Linux; a laptop that imports this need not be

    make_folder(lock.parent)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
