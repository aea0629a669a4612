"""What a training loop reports, and how it is asked to stop.

History and timings are kept apart. A history line holds only what the seed decides, so a run that was killed and
resumed writes the same history, byte for byte, as one that was not. Wall-clock facts go to the timings, where nobody
compares them.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TextIO, TypeVar

from tqdm import tqdm

from emergence.errors import STOPPED, EmergenceError
from emergence.wording import duration, visible

#: Where a history stands: what a recorder gave, for that recorder to take back; plain values. 0 is the beginning.
Position = int | Mapping[str, Any]


class StopRequested(EmergenceError):
    """Training was asked to stop, and saved a checkpoint. The same command resumes it. The exit code is 130."""

    exit_code = STOPPED


Item = TypeVar("Item")


class Recorder(Protocol):
    """Where the lines of a run go."""

    def log(self, kind: str, /, **values: Any) -> None:
        """Append one deterministic history line (plain JSON values)."""

    def time(self, kind: str, /, **values: Any) -> None:
        """Append one line of wall-clock facts."""

    def position(self) -> Position:
        """How much history there is, and what it must read. A checkpoint stores this."""

    def rewind(self, position: Position) -> None:
        """Drop the history after ``position``, which was logged after the checkpoint that is resumed."""


class NullRecorder:
    """Records nothing. Workers other than the first have it."""

    def log(self, kind: str, /, **values: Any) -> None:
        pass

    def time(self, kind: str, /, **values: Any) -> None:
        pass

    def position(self) -> Position:
        return 0

    def rewind(self, position: Position) -> None:
        pass


class Progress(Protocol):
    """Shows a person how far a loop has come."""

    def start(self, total: int, unit: str, initial: int = 0, description: str = "") -> None:
        """Begin. A resumed run has done ``initial`` of ``total`` units before."""

    def update(self, n: int, /, **values: float) -> None:
        """Note that ``n`` more units are done, and show ``values`` beside the bar."""

    def close(self) -> None:
        """End."""


class NoProgress:
    """Shows nothing."""

    def start(self, total: int, unit: str, initial: int = 0, description: str = "") -> None:
        pass

    def update(self, n: int, /, **values: float) -> None:
        pass

    def close(self) -> None:
        pass


def tracked(progress: Progress, items: Sequence[Item], unit: str, description: str) -> Iterator[Item]:
    """The items one after another, with a step of ``progress`` after each."""
    progress.start(len(items), unit, description=description)
    try:
        for item in items:
            yield item
            progress.update(1)
    finally:
        progress.close()


class TerminalProgress:
    """A tqdm bar on a terminal. Elsewhere (a log file, Modal's logs) it is a plain line every ``interval`` seconds.

    Both show the rate in units per second and the time left.
    """

    def __init__(
        self, stream: TextIO | None = None, interval: float = 15.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._interval, self._clock = interval, clock
        self._bar: tqdm[Any] | None = None
        self._total = self._done = self._initial = 0
        self._unit = self._description = ""
        self._started = self._spoke = 0.0

    def start(self, total: int, unit: str, initial: int = 0, description: str = "") -> None:
        self.close()
        self._total, self._done, self._initial = total, initial, initial
        self._unit, self._description = unit, description
        self._started = self._spoke = self._clock()
        if self._stream.isatty():
            self._bar = tqdm(
                total=total, initial=initial, unit=unit, desc=description, unit_scale=True, dynamic_ncols=True,
                file=self._stream,
            )  # fmt: skip

    def update(self, n: int, /, **values: float) -> None:
        self._done += n
        if self._bar is not None:
            self._bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()}, refresh=False)
            self._bar.update(n)
        elif self._clock() - self._spoke >= self._interval:
            self._spoke = self._clock()
            self._stream.write(self._line(values) + "\n")
            self._stream.flush()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _line(self, values: dict[str, float]) -> str:
        elapsed = self._clock() - self._started
        rate = (self._done - self._initial) / elapsed if elapsed > 0 else 0.0
        left = f", {duration((self._total - self._done) / rate)} left" if rate > 0 else ""
        shown = "".join(f", {name} {value:.4g}" for name, value in values.items())
        share = f" ({self._done / self._total:.0%})" if self._total else ""
        done = f"{self._done:,} of {self._total:,} {self._unit}{share}"
        # Fits and probes take seconds each.
        speed = f"{rate:,.0f} {self._unit}/s" if rate >= 10 or not rate else f"{1 / rate:.2g} s each"
        return f"{self._description}: {done}, {speed}{left}{shown}"


class _VisibleFormatter(logging.Formatter):
    """Messages quote paths and names, which may hold orders to a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


@contextmanager
def plain_messages() -> Iterator[None]:
    """Show the package's log messages and warnings as plain lines on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(_VisibleFormatter("%(message)s"))
    logger = logging.getLogger("emergence")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logging.captureWarnings(True)
    warnings_logger = logging.getLogger("py.warnings")
    warnings_logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            yield
    finally:
        logger.removeHandler(handler)
        warnings_logger.removeHandler(handler)
        logging.captureWarnings(False)
        logger.setLevel(level)
