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

import grpclib
import modal
from grpclib.exceptions import StreamTerminatedError

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: The first pause before what failed is tried again, and the longest; each is twice the one before.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
#: How long an answer is waited for in a container, whose work is dear, and on a laptop, where a person waits.
CONTAINER_PATIENCE, LAPTOP_PATIENCE = 600.0, 10.0
#: Errors of Modal's client that are about the call itself: it has ended, or Modal does not know it.
_OF_THE_CALL = (
    modal.exception.OutputExpiredError,
    modal.exception.FunctionTimeoutError,
    modal.exception.NotFoundError,
    modal.exception.InternalFailure,
    modal.exception.RemoteError,
    modal.exception.ExecutionError,  # a result or exception came that cannot be deserialized here
    modal.exception.DeserializationError,
)


class CallError(RuntimeError):
    """What ended a function, as its caller sees it: of this type whatever it was, so that no caller mistakes an error
    that the function met on its own way to the server for one on the caller's."""

    @classmethod
    def of(cls, error: Exception) -> CallError:
        return cls(f"{type(error).__name__}: {error}")


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
    """How a call stands; returns at once, and raises nothing."""
    try:
        return Look("ended", dict(modal.FunctionCall.from_id(call_id).get(timeout=0)))
    except TimeoutError:
        return Look("going")
    except Exception as error:
        line = f"{type(error).__name__}: {error}"
        return Look("not known", why=line) if says_nothing(error) else Look("ended", {"error": line, "exit_code": 1})


def says_nothing(error: Exception) -> bool:
    """Whether an error tells of the way to Modal's server alone, and nothing of what was asked about."""
    if isinstance(error, _OF_THE_CALL):
        return False
    return isinstance(error, (modal.exception.Error, grpclib.GRPCError, StreamTerminatedError, OSError))


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
    """Cancel a call; returns why it could not be done, None where it is or the call is unknown."""
    try:
        patiently(modal.FunctionCall.from_id(call_id).cancel)
    except modal.exception.NotFoundError:
        return None
    except Exception as error:
        if not says_nothing(error):
            return None
        return f"{type(error).__name__}: {error}"
    return None
