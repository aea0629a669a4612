"""Fixtures that all tests share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

try:
    import torch
except ImportError:
    pass
else:
    torch.set_num_threads(1)  # results that do not depend on the machine, and no fighting over its cores


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets, where there is one: ``EMERGENCE_SHARED_DATA`` or ``../shared/data``."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("EMERGENCE_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip("no real data here: set EMERGENCE_SHARED_DATA to a folder that holds some")
    return folder


#: Classes that some pickle named while being read, with the file of code that read it.
_UNPICKLED: list[str] = []
#: Processes talking to their own children; no file is read there.
_PROCESS_PIPES = ("/multiprocessing/", "/concurrent/futures/", "/execnet/", "/xdist/", "/modal/")


def _note_unpickling(event: str, args: tuple[Any, ...]) -> None:
    if event != "pickle.find_class":
        return
    frame, files = sys._getframe(1), []
    while frame is not None:
        files.append(frame.f_code.co_filename.replace("\\", "/"))
        if "/_pytest/" in files[-1]:  # what called the test (a worker's pipe, too) is not what it read
            break
        frame = frame.f_back  # type: ignore[assignment]
    if not any(part in file for file in files for part in _PROCESS_PIPES):
        _UNPICKLED.append(f"{args[0]}.{args[1]} in {files[0]}")


sys.addaudithook(_note_unpickling)


@pytest.fixture(autouse=True)
def nothing_is_unpickled() -> Iterator[list[str]]:
    """No file that a test makes the program read may be unpickled (torch's safe loader finds no classes)."""
    _UNPICKLED.clear()
    yield _UNPICKLED
    assert not _UNPICKLED, f"unpickled: {_UNPICKLED}"
