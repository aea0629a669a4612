"""The data files at a path that a user gave: the file itself, or those of a folder and its subfolders.

A mistyped path may be ``/`` or a home folder. So the search counts what it passes, and gives up with a message before
any file is opened.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from emergence.errors import DataError
from emergence.files import sha256_file

log = logging.getLogger(__name__)

T = TypeVar("T")

#: A folder with more entries than this, at any depth, is taken for something else than data.
MOST_ENTRIES = 50_000


def files_at(root: Path, flag: str, most_files: int = MOST_ENTRIES) -> list[Path]:
    """The file ``root`` itself, or every file below the folder ``root``, sorted. Hidden ones are left out.

    Linked files count, but linked folders are not entered. Devices, pipes and sockets are no files.

    Args:
        root: What the user gave.
        flag: The flag that messages name.
        most_files: A folder of more files is refused.

    Raises:
        DataError: The path does not exist, cannot be read, or holds far too much.
    """
    try:
        if root.is_file():
            return [root]
        if not root.is_dir():
            raise DataError(f"no such file or folder: check {flag}", _shown(root))
        return _below(root, flag, most_files)
    except (OSError, ValueError) as error:  # a name too long, a folder that may not be read, a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot be read: {reason}: check {flag}", _shown(root)) from None


def _below(root: Path, flag: str, most_files: int) -> list[Path]:
    files: list[str] = []
    seen, waiting = 0, [str(root)]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    seen += 1
                    if seen > MOST_ENTRIES or len(files) > most_files:
                        raise DataError(
                            f"holds more than {min(MOST_ENTRIES, most_files):,} files: point {flag} to the data's own "
                            "folder, or put its content into fewer files",
                            root,
                        )
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif entry.is_file():
                        files.append(entry.path)
        except PermissionError:
            if folder == str(root):
                raise
            raise DataError(f"may not be read: make it readable, or point {flag} elsewhere", folder) from None
    return sorted(map(Path, files))


def _shown(path: Path) -> str:
    """The path in a message: in one line, and not longer than a line."""
    text = str(path)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= 200 else f"{text[:100]}...{text[-50:]}"


def without_copies(files: Iterable[tuple[T, Path]]) -> tuple[list[tuple[T, Path]], list[Path]]:
    """``files`` (each with the group it belongs to) without those whose bytes a file before it in the group has.

    Returns:
        The files that are left, and the copies.

    Raises:
        DataError: A file cannot be read.
    """
    kept: list[tuple[T, Path]] = []
    copies: list[Path] = []
    seen: dict[tuple[T, int], list[Path]] = {}
    digests: dict[Path, str] = {}

    def digest(path: Path) -> str:
        if path not in digests:
            digests[path] = sha256_file(path)
        return digests[path]

    for group, path in files:
        try:
            alike = seen.setdefault((group, path.stat().st_size), [])
            is_copy = any(digest(other) == digest(path) for other in alike)  # read only where the sizes agree
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror or error}", path) from None
        if is_copy:
            copies.append(path)
            log.info("%s: a copy of a file read already, left aside", path)
        else:
            alike.append(path)
            kept.append((group, path))
    return kept, copies
