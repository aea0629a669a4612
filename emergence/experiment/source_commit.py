"""Which commit of this program a number was made with, and whether its files differed from it.

A checkout knows it from git. A container is told by the launch, because only the files are sent there. An installed
wheel has a version and no commit. Standard library only.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Set where the program runs without its checkout: the JSON of :func:`source_commit` at the launch.
VARIABLE = "EMERGENCE_SOURCE"
#: Git is given up after so many seconds: no number waits for a slow disk.
PATIENCE_SECONDS = 5.0


@functools.cache
def source_commit() -> dict[str, Any]:
    """``commit`` (40 hexadecimal digits) and ``modified`` (whether files of the package differ from it).

    Both are None where they cannot be told.
    """
    sent = os.environ.get(VARIABLE)
    return _as_sent(sent) if sent else commit_of(Path(__file__).resolve().parents[1])


def commit_of(package: Path) -> dict[str, Any]:
    """:func:`source_commit` of the checkout that ``package`` is a folder of.

    A package that git does not track, in a virtual environment say, has none, whatever repository lies around it.
    """
    unknown = {"commit": None, "modified": None}
    if not (package.parent / ".git").exists():
        return unknown
    commit = _git(package, "rev-parse", "HEAD")
    tracked = _git(package, "ls-files", "--", "__init__.py")
    if not commit or not tracked:
        return unknown
    changes = _git(package, "status", "--porcelain", "--untracked-files=normal", "--", ".")
    return {"commit": commit, "modified": None if changes is None else bool(changes)}


def _as_sent(text: str) -> dict[str, Any]:
    try:
        sent = json.loads(text)
    except ValueError:
        sent = None
    sent = sent if isinstance(sent, Mapping) else {}
    commit, modified = sent.get("commit"), sent.get("modified")
    is_commit = isinstance(commit, str) and re.fullmatch("[0-9a-f]{40}", commit)
    return {"commit": commit if is_commit else None, "modified": modified if isinstance(modified, bool) else None}


def _git(folder: Path, *words: str) -> str | None:
    """What git prints; None if it is not installed, refuses, or takes too long."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return answer.stdout.strip()
