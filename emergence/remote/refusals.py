"""Why Modal cannot be asked or did not answer, in one line with its cure instead of the client's traceback.

The client's classes are looked up where it has been imported, so that this costs nothing elsewhere and needs no
``modal``.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from emergence.errors import (
    STOPPED,
    EmergenceError,
    UnreachableError,
    UsageError,
    machine_errors_in_one_line,
    missing_package,
    one_line,
)
from emergence.wording import say

#: How long a server may take to accept a connection before it counts as not there. (The client tries for a minute.)
CONNECT_SECONDS = 5.0
#: What to do by the name of the client's exception; the first class of an exception's family that has a line counts.
_CURES = {
    "ConnectionError": "check the network, then the same command again",
    "VersionError": "pip install -U 'modal>=1.6,<1.7'",
    "PermissionDeniedError": "the token's workspace may not do this: `modal profile list` shows the workspaces",
    "NotFoundError": "Modal has nothing of that name in this workspace: `modal profile list` shows the workspaces",
    "ResourceExhaustedError": "a limit of the workspace: wait, or see modal.com/settings",
    "ImageBuildError": "the image could not be built: the lines above say why; the same command tries again",
    "Error": "the same command again goes on from here",
    "GRPCError": "the same command again goes on from here",
    "StreamTerminatedError": "the same command again goes on from here",
}


def refusal(error: BaseException) -> EmergenceError | None:
    """What to tell a person of ``error`` in one line; None for a defect of this program, which keeps its traceback."""
    if isinstance(error, EmergenceError):
        return error
    if isinstance(error, ImportError):
        return missing_package(error)
    family = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.split(".")[0] in ("modal", "grpclib")}
    said = " ".join(str(error).split()) or type(error).__name__
    if "AuthError" in family:
        return _token_refused(said)
    if "DeprecationError" in family:
        return None
    cure = next((cure for name, cure in _CURES.items() if name in family), None)
    if cure is None:
        return None
    kind = UnreachableError if "ConnectionError" in family else EmergenceError
    return kind(f"Modal: {said.removesuffix('.')} ({type(error).__name__}): {cure}")


def _token_refused(said: str) -> EmergenceError:
    if "missing" in said.lower():
        return UnreachableError("this machine has no Modal token: modal token new", UsageError.exit_code)
    return UnreachableError(f"Modal does not take this machine's token ({said}): modal token new", UsageError.exit_code)


def refuse_if_unreachable(server_urls: str) -> None:
    """Try to connect to one of Modal's servers (``server_url`` of the client's settings: one URL, or several).

    Raises:
        UnreachableError: None accepts a connection within :data:`CONNECT_SECONDS`.
    """
    problem = ""
    for text in server_urls.split(","):
        url = urlsplit(text.strip())
        if url.scheme not in ("http", "https") or url.hostname is None:
            return  # of a kind that the client knows better
        try:
            port = url.port or (443 if url.scheme == "https" else 80)
            socket.create_connection((url.hostname, port), CONNECT_SECONDS).close()
            return
        except OSError as error:
            problem = problem or f"{text.strip()}: {error.strerror or error}"
    raise UnreachableError(f"Modal cannot be reached ({problem}): {_CURES['ConnectionError']}")


def has_credentials(setting: Callable[[str], Any]) -> bool:
    """Whether the client's settings name a token; without one the client says so before it connects."""
    return any(setting(name) for name in ("token_id", "oauth_refresh_token"))


def end_with(error: BaseException) -> None:
    """Print the one line of ``error`` and end the process; return where there is none."""
    refused = refusal(error)
    if refused is not None:
        is_said = refused.exit_code == STOPPED and str(refused).startswith("stopped")
        prefix = "" if is_said else "stopped: " if refused.exit_code == STOPPED else "error: "
        say(f"{prefix}{refused}", err=True)
        sys.exit(refused.exit_code)


@contextmanager
def ending_in_one_line() -> Iterator[None]:
    """Around a whole command: what a person, Modal or the system can cause ends the process with one line.

    A defect of this program keeps its traceback.
    """
    try:
        with machine_errors_in_one_line():
            yield
    except KeyboardInterrupt:
        end_with(interrupted())
    except OSError as error:
        say(f"error: {one_line(str(error.filename or 'the system refused'))}: {error.strerror or error}", err=True)
        sys.exit(1)
    except Exception as error:
        end_with(error)
        raise


def interrupted() -> EmergenceError:
    """What Ctrl-C amounts to where nothing catches it to save."""
    return EmergenceError("stopped; the same command begins again, or goes on from what was saved", STOPPED)
