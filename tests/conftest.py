"""Fixtures that all tests share."""

from __future__ import annotations

import atexit
import functools
import gc
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.testing

try:
    import torch
except ImportError:
    pass
else:
    torch.set_num_threads(1)  # results that do not depend on the machine, and no fighting over its cores


gc.set_threshold(50_000)  # as the command line does: a look for cycles every 700 objects is a tenth of the time


# Only a power cut loses what a disk was not waited for, and no test has one. What waits, and for what, tests watch.
os.fsync = lambda _descriptor: None
# The commands' tree is always the same, and building it anew for every invocation takes seconds in all.
typer.testing._get_command = functools.cache(typer.testing._get_command)  # type: ignore[attr-defined]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-help", action="store_true", help="rewrite tests/help: the stored --help of all commands")


def pytest_collection_finish() -> None:
    """Modules, tests and what they hold stay to the end, so nothing is gained by looking through them again."""
    gc.collect()
    gc.freeze()


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
#: The same of the processes that tests start (see ``tests/watch``); a file for every process that runs tests.
_UNPICKLED_FILE = Path(tempfile.mkdtemp(prefix="unpickled-")) / "classes.txt"
_UNPICKLED_FILE.touch()


def _watch_processes() -> Callable[[str, tuple[Any, ...]], str | None]:
    """Have Python processes started from now on watched; returns the watch itself."""
    folder = Path(__file__).resolve().parent / "watch"
    here = sys.modules.get("sitecustomize")
    if here is not None and hasattr(here, "ACTIVE"):  # a worker of pytest-xdist, started by a watched process
        here.ACTIVE = False  # type: ignore[attr-defined]
    found = importlib.util.spec_from_file_location("watch_over_unpickling", folder / "sitecustomize.py")
    assert found and found.loader
    os.environ.pop("EMERGENCE_UNPICKLED", None)
    watch = importlib.util.module_from_spec(found)
    found.loader.exec_module(watch)
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != str(folder)]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *paths])
    os.environ["EMERGENCE_UNPICKLED"] = str(_UNPICKLED_FILE)
    unpickled: Callable[[str, tuple[Any, ...]], str | None] = watch.unpickled
    return unpickled


_unpickled = _watch_processes()


def _note_unpickling(event: str, args: tuple[Any, ...]) -> None:
    if event == "pickle.find_class" and (found := _unpickled(event, args)):
        _UNPICKLED.append(found)


sys.addaudithook(_note_unpickling)
atexit.register(shutil.rmtree, _UNPICKLED_FILE.parent, ignore_errors=True)


@pytest.fixture(autouse=True)
def nothing_is_unpickled() -> Iterator[list[str]]:
    """No file that a test makes the program read, here or in a process it starts, may be unpickled.

    (torch's safe loader finds no classes.)
    """
    _UNPICKLED.clear()
    yield _UNPICKLED
    if _UNPICKLED_FILE.stat().st_size:
        _UNPICKLED.extend(_UNPICKLED_FILE.read_text(encoding="utf-8").splitlines())
        _UNPICKLED_FILE.write_text("")
    assert not _UNPICKLED, f"unpickled: {_UNPICKLED}"
