"""Folders of derived files that exist whole or not at all.

Tokenizers, token streams and hub downloads are built in a temporary folder beside their place and
renamed into it, so a killed process leaves nothing half-made that a later one would use, and of two
processes that build the same thing one wins and the other takes the winner's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_STALE_SECONDS = 24 * 3600


def default_cache_dir() -> Path:
    """Where derived data goes unless told otherwise: ``$EMERGENCE_CACHE``, else ``~/.cache/emergence``."""
    given = os.environ.get("EMERGENCE_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "emergence"


@contextlib.contextmanager
def building(folder: Path) -> Iterator[Path]:
    """Yield an empty temporary folder that becomes ``folder`` when the block ends without an error.

    When another process has put ``folder`` there in the meantime, this one's work is dropped.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(folder)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield temporary
        for file in temporary.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        temporary.chmod(0o755)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_stale(folder: Path) -> None:
    """Delete what killed processes left of ``folder`` more than a day ago."""
    for left in folder.parent.glob(f".{folder.name}.*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
