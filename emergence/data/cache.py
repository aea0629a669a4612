"""Folders of derived files that exist whole or not at all.

Tokenizers, token streams and hub downloads are built in a temporary folder beside their place and renamed into it.
So a killed process leaves nothing half-made that a later one would use. Of two processes that build the same thing,
the first to finish wins, and the other takes the winner's.
A machine whose disk is its own alone may share such folders with others (:class:`Elsewhere`): a folder is taken from
there when it is looked for, and kept there when it has been built.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from emergence.files import make_folder, write_error

_STALE_SECONDS = 24 * 3600
#: How a system refuses a write.
_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


class Elsewhere(Protocol):
    """Where other machines keep what they derived."""

    def bring(self, folder: Path) -> None:
        """Put ``folder`` in its place if it is kept there; otherwise whoever asked builds it."""

    def keep(self, folder: Path) -> None:
        """Keep ``folder``, which was just built here."""


_elsewhere: Elsewhere | None = None


def share_with(elsewhere: Elsewhere | None) -> None:
    """Look for folders ``elsewhere``, too, from here on, and keep there what is built; None for this disk alone."""
    global _elsewhere
    _elsewhere = elsewhere


def find(folder: Path) -> bool:
    """Whether a folder of the cache is there. One that is kept elsewhere is brought first."""
    if _elsewhere is not None and not folder.is_dir():
        _elsewhere.bring(folder)
    return folder.is_dir()


def default_cache_dir() -> Path:
    """Where derived data goes unless told otherwise: ``$EMERGENCE_CACHE``, else ``~/.cache/emergence``."""
    folder = os.environ.get("EMERGENCE_CACHE")
    return Path(folder) if folder else Path.home() / ".cache" / "emergence"


@contextlib.contextmanager
def building(folder: Path) -> Iterator[Path]:
    """Yield an empty temporary folder that becomes ``folder`` when the block ends without an error.

    When another process has put ``folder`` there in the meantime, this one's work is dropped.

    Raises:
        RunDirectoryError: The system refused a write of any library. The message names folder and bytes.
    """
    make_folder(folder.parent)
    _remove_stale(folder)
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise write_error(folder, error, None) from error
    try:
        yield temporary
        for file in (path for path in temporary.rglob("*") if path.is_file()):
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        temporary.chmod(0o755)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    except OSError as error:
        if error.errno not in _REFUSALS or not str(error.filename or temporary).startswith(str(folder.parent)):
            raise  # not about writing here: a download, a file that cannot be read
        raise write_error(folder, error, _bytes_in(temporary), at_least=True) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if _elsewhere is not None:
        _elsewhere.keep(folder)


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _remove_stale(folder: Path) -> None:
    """Delete what killed processes left of ``folder`` more than a day ago."""
    for left in folder.parent.glob(f".{folder.name}.*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
