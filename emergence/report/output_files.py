"""Where a person wants a table, a report or figures: what is there already is not lost.

A run directory holds what its manifest lists and nothing else. A device or a pipe is written to, and never replaced.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path

from emergence.errors import UsageError
from emergence.experiment.manifest import MANIFEST_FILE
from emergence.experiment.run_directory import SPEC_FILE
from emergence.experiment.store import run_files
from emergence.files import may_write, write_atomic

#: How long a pipe may wait for its reader.
PIPE_SECONDS = 10.0
#: How a table of results begins in every style, and how laws and their comparisons do. A command writes over its own
#: kind alone.
TABLES = (
    "| Model | Pretrain | Mode |",
    "set_label,model,pretrain,mode,",
    "% needs \\usepackage{booktabs}\n\\begin{tabular}{",
    '{\n  "kind": "emergence-results-table",',
)
LAWS = ('{\n  "kind": "emergence-emergence_law",',)
SCALING_LAWS = ('{\n  "kind": "emergence-scaling_law",',)
LAW_COMPARISONS = ('{\n  "kind": "emergence-law_comparison",',)


def refuse_output_file(path: Path, own_kind: tuple[str, ...]) -> None:
    """Refuse a file that cannot be written, or should not be, before anything is computed for it.

    Args:
        own_kind: How files of the kind that is going to be written begin.

    Raises:
        UsageError: It is a folder, its folder is missing or read-only, it holds something of another kind, or it would
            stand in a run directory or below.
    """
    target = _resolved(path)
    if target.is_dir():
        raise UsageError(f"{path} is a folder: name a file")
    if not target.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {target.parent}: make it, or name another")
    _refuse_read_only(target if target.exists() else target.parent, path)
    _refuse_run_directory(target.parent, path)
    if target.is_file() and not _may_be_written_anew(target, own_kind):
        raise UsageError(f"{path} holds something else than this command writes: move it away, or name another")


def refuse_output_folder(path: Path) -> None:
    """The same for a folder of files.

    Raises:
        UsageError: A file is in its place or above it, nobody may write there, or it is a run directory or in one.
    """
    target = _resolved(path)
    nearest = next(folder for folder in (target, *target.parents) if folder.exists())
    if not nearest.is_dir():
        whole = nearest == target
        raise UsageError(f"{path}{'' if whole else f': {nearest}'} is not a folder: name another")
    _refuse_read_only(nearest, path)
    _refuse_run_directory(target, path)


def write_output(path: Path, text: str) -> None:
    """Write a table or law: a file atomically, the file that a link leads to, and a device or pipe as it is.

    Raises:
        RunDirectoryError: The system refused. UsageError: A device or pipe takes nothing.
    """
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        try:
            _write_into(path, text)
        except OSError as error:
            why = "nobody reads this pipe" if error.errno == errno.ENXIO else error.strerror or str(error)
            raise UsageError(f"{path}: {why}: name another") from None
    else:
        write_atomic(path.resolve(), text)


def _write_into(path: Path, text: str) -> None:
    """Write into a device or pipe. A pipe that nobody reads within seconds is an error, and is not waited for."""
    last = time.monotonic() + PIPE_SECONDS
    while True:
        try:
            opened = os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
            break
        except OSError as error:
            if error.errno != errno.ENXIO or time.monotonic() > last:
                raise
            time.sleep(0.05)
    os.set_blocking(opened, True)
    with os.fdopen(opened, "w", encoding="utf-8") as stream:
        stream.write(text)


def _may_be_written_anew(target: Path, own_kind: tuple[str, ...]) -> bool:
    try:
        with target.open("rb") as file:
            head = file.read(128).decode("utf-8", "replace")
    except OSError:  # nobody can see what it holds, and it may be written to
        return True
    return not head or head.startswith(own_kind)


def _refuse_read_only(nearest: Path, path: Path) -> None:
    if not may_write(nearest):
        raise UsageError(f"{path}: {nearest} may not be written to: name another place")


def _resolved(path: Path) -> Path:
    """``path`` without links, if the system can have such a name at all."""
    try:
        target = path.resolve()
        target.exists()
    except (OSError, ValueError, RuntimeError) as error:  # the last for links that lead to themselves
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{str(path)[:80]}: {reason}: name another") from None
    return target


def _refuse_run_directory(folder: Path, path: Path) -> None:
    """Refuse a run directory and everything below it. One file named like a run's makes none of what is far above."""
    is_run = any((folder / name).exists() for name in (SPEC_FILE, MANIFEST_FILE))
    if is_run or any(len(run_files(above)) > 1 for above in folder.parents):
        raise UsageError(
            f"{path} is in a run directory, which holds nothing but the run's own files: name another place"
        )
