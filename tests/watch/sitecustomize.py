"""Python imports this by itself at its start wherever this folder is on its path: the watch over unpickling.

``tests/conftest.py`` puts it there, so that scripts, sweep workers and other processes that a test starts are watched
too. What some pickle named is appended to the file ``EMERGENCE_UNPICKLED``.
"""

from __future__ import annotations

import os
import sys
from typing import Any

#: Processes talking to their own children; no file is read there.
_PROCESS_PIPES = ("/multiprocessing/", "/concurrent/futures/", "/execnet/", "/xdist/", "/modal/", "/torch/distributed/",
                  "/torch/_inductor/compile_worker/")  # fmt: skip
#: Off where the process is a test's own: its conftest watches by itself.
ACTIVE = "EMERGENCE_UNPICKLED" in os.environ


def unpickled(event: str, args: tuple[Any, ...]) -> str | None:
    """``module.class in file`` if a class is being found for a pickle that is no message between processes."""
    if event != "pickle.find_class":
        return None
    frame, files = sys._getframe(2), []
    while frame is not None:
        files.append(frame.f_code.co_filename.replace("\\", "/"))
        if "/_pytest/" in files[-1]:  # what called the test (a worker's pipe, too) is not what it read
            break
        frame = frame.f_back  # type: ignore[assignment]
    if any(part in file for file in files for part in _PROCESS_PIPES):
        return None
    return f"{args[0]}.{args[1]} in {files[0]}"


def _note(event: str, args: tuple[Any, ...]) -> None:
    if ACTIVE and event == "pickle.find_class" and (found := unpickled(event, args)):
        with open(os.environ["EMERGENCE_UNPICKLED"], "a", encoding="utf-8") as file:  # noqa: PTH123
            file.write(found + "\n")


if ACTIVE:
    sys.addaudithook(_note)
