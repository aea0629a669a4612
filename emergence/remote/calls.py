"""What is known of a function call on Modal, and patience with a server that does not answer.

A call has ended when there is a result, when its result has expired, when Modal does not know it, or when an exception
came out of the function. Any other error tells of the way to the server alone. Whoever takes it for the end of the
call leaves a GPU billing, or lets a second writer into a run.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import modal

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: The first pause before what failed is tried again, and the longest; each is twice the one before.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
#: How long an answer is waited for in a container, whose work is dear, and on a laptop, where a person waits.
CONTAINER_PATIENCE, LAPTOP_PATIENCE = 600.0, 10.0


class CallError(RuntimeError):
    """What ended a function, as its caller sees it: of this type whatever it was, so that no caller mistakes an error
    that the function met on its own way to the server for one on the caller's."""

    @classmethod
    def of(cls, error: Exception) -> CallError:
        return cls(f"{type(error).__name__}: {error}")


#: Errors of Modal's client that are about the call itself: it has ended, or Modal does not know it.
_OF_THE_CALL = (
    CallError,
    modal.exception.OutputExpiredError,
    modal.exception.FunctionTimeoutError,
    modal.exception.NotFoundError,
    modal.exception.InternalFailure,
    modal.exception.RemoteError,
    modal.exception.DeserializationError,
)
#: How the client begins what it says of a result or an exception that came and cannot be read here. The same type has
#: a download that failed.
_CAME = ("Could not deserialize", "Got remote exception")
#: The packages between the client and the server.
_ON_THE_WAY = {"aiohttp", "asyncio", "grpclib", "h2", "http", "ssl"}


@dataclass(frozen=True)
class Look:
    """How a call stands.

    Attributes:
        state: ``not known`` where the server gave no answer about it.
        answer: What an ended call returned; its exception as ``error``. None for any other call.
        why: Why it is not known: one line.
    """

    state: Literal["going", "ended", "not known"]
    answer: dict[str, Any] | None = None
    why: str = ""


def look_at(call_id: str) -> Look:
    """How a call stands; returns at once. What is raised is this process's own end, such as an interrupt."""
    try:
        return Look("ended", modal.FunctionCall.from_id(call_id).get(timeout=0))
    except BaseException as error:  # a call may have ended in an interrupt of its own, which the client raises again
        line = f"{type(error).__name__}: {error}"
        if is_of_the_call(error):
            return Look("ended", {"error": line, "exit_code": 1})
        if not isinstance(error, Exception):
            raise
        return Look("going") if isinstance(error, TimeoutError) else Look("not known", why=line)


def is_of_the_call(error: BaseException) -> bool:
    """Whether an error is known to be how a call ended, or to say that Modal does not know the call.

    Whatever is not known to be so may have happened on the way: to a socket, a download, the client's own loop.
    """
    if hasattr(error, "__line_cache__"):  # the client's mark on what a container raised, before our own code ran too
        return True
    if isinstance(error, modal.exception.ExecutionError):
        return str(error).startswith(_CAME)
    return isinstance(error, _OF_THE_CALL)


def says_nothing(error: Exception) -> bool:
    """Whether an error tells of the way to Modal's server alone, so that the same may succeed a little later."""
    if is_of_the_call(error):
        return False
    packages = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return isinstance(error, (modal.exception.Error, OSError)) or bool(packages & _ON_THE_WAY)


def patiently(action: Callable[[], T], seconds: float | None = None) -> T:
    """Do what needs the server, again and again while the error :func:`says_nothing`; the last error is raised.

    Args:
        action: Harmless when it is done twice: the first answer may have been lost.
        seconds: How long to try; by default as long as it is worth where this runs.
    """
    if seconds is None:
        seconds = LAPTOP_PATIENCE if modal.is_local() else CONTAINER_PATIENCE
    end = time.monotonic() + float(os.environ.get("EMERGENCE_PATIENCE_SECONDS", seconds))
    pause = FIRST_PAUSE
    while True:
        try:
            return action()
        except Exception as error:
            if not says_nothing(error) or time.monotonic() + pause > end:
                raise
            logger.warning("Modal did not answer (%s: %s); trying again", type(error).__name__, error)
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def cancel_call(call_id: str) -> str | None:
    """Cancel a call; returns why that is not known to be done, None where the server said so or the call has ended."""
    try:
        patiently(lambda: modal.FunctionCall.from_id(call_id).cancel())
    except Exception as error:
        known = isinstance(error, modal.exception.NotFoundError) or look_at(call_id).state == "ended"
        return None if known else f"{type(error).__name__}: {error}"
    return None
