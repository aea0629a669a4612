"""The one way in which signals ask a run, a sweep or a container to stop. Standard library only."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable, Sequence


def _announce() -> None:
    sys.stderr.write("stopping at the next step, to save what is done (Ctrl-C again: stop at once)\n")


class StopSwitch:
    """The ``should_stop`` of work inside ``with StopSwitch() as stop``. It is true once a stop was asked for.

    The first signal only sets the switch, so that the work can save where it is. A second SIGINT (Ctrl-C) raises
    KeyboardInterrupt where the work is. The former handlers are back when the block ends, however it ends. The block
    has to be entered in the main thread.

    Args:
        on_request: Called at every request that does not raise.
        signals: What counts as a request.
        seconds: The switch also sets itself this long after it was made.
        counts_only: No signal raises. A sweep passes each request on to its runs and waits for them.

    Attributes:
        requests: Number of signals so far; zero where only the time is over.
    """

    def __init__(
        self,
        on_request: Callable[[], None] = _announce,
        *,
        signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
        seconds: float = math.inf,
        counts_only: bool = False,
    ) -> None:
        self._on_request, self._signals, self._counts_only = on_request, signals, counts_only
        self._deadline = time.monotonic() + seconds
        self.requests = 0

    def __call__(self) -> bool:
        return self.requests > 0 or time.monotonic() > self._deadline

    def __enter__(self) -> StopSwitch:
        self._before = {number: signal.signal(number, self._handle) for number in self._signals}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:
        if self.requests and number == signal.SIGINT and not self._counts_only:
            raise KeyboardInterrupt
        self.requests += 1
        self._on_request()
