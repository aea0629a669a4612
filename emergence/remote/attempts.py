"""An end to the attempts at a run: whether they get on, what they cost, and whether anything moves at all.

Modal retries whatever failed, at full price, and restarts a lost container without end. Therefore an attempt is counted
when it starts. A run that three attempts in a row did not bring to a newer checkpoint is given up. A run that has cost
what it may cost saves and stops. An attempt in which nothing moves is ended. This needs no Modal and no torch.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from emergence.training.checkpoint_names import parse_checkpoint_name

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: Attempts in a row that bring no newer checkpoint, before a run is given up.
FRUITLESS_ATTEMPTS = 3
#: An attempt in which nothing moves for this long hangs.
SILENT_SECONDS = float(os.environ.get("EMERGENCE_SILENT_SECONDS", "1800"))
#: What hangs has this long to come back after it was interrupted; then it has as long again to publish, and is killed.
GRACE_SECONDS = float(os.environ.get("EMERGENCE_GRACE_SECONDS", "120"))
#: A run stops this long before its money is spent, so that saving and publishing are paid for.
SAVING_SECONDS = 120.0
#: The exit code of a container that had to be killed from inside.
HUNG = 70


def steps_of(folder: Path) -> dict[str, int]:
    """How far a run directory is: the newest checkpoint's step by phase, and 1 for each file that ends a phase."""
    steps: dict[str, int] = {}
    for path in folder.glob("checkpoint/*.pth"):
        if name := parse_checkpoint_name(path.name):
            steps[name.phase] = max(name.step, steps.get(name.phase, 0))
    return {**steps, **{path.name: 1 for path in folder.glob("toy_llm_*.pth")}}


@dataclass
class Account:
    """What the lock table keeps of a run's attempts, from its launch on.

    Attributes:
        call, holder: The call that trains, and its launch.
        attempts: How many were started.
        fruitless: How many of the last ones in a row brought nothing newer. The one that goes on counts until it does.
        steps: The largest steps that were seen, by phase.
        seconds: What the attempts took together, to the minute.
        last: How the last one ended: one line.
    """

    call: str
    holder: str
    attempts: int = 0
    fruitless: int = 0
    steps: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    last: str = ""

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Account:
        return cls(**{key: value for key, value in raw.items() if key in cls.__dataclass_fields__})

    def begin(self, steps: Mapping[str, int]) -> None:
        """Count an attempt that starts where the volume holds ``steps``."""
        self.see(steps)
        self.attempts += 1
        self.fruitless += 1
        self.last = "its container was lost without a word"  # until it says otherwise

    def see(self, steps: Mapping[str, int]) -> None:
        """Take note of how far the run is. With anything newer than before, the attempts so far were not in vain."""
        if any(step > self.steps.get(phase, 0) for phase, step in steps.items()):
            self.fruitless = 0
        self.steps = {phase: max(steps.get(phase, 0), self.steps.get(phase, 0)) for phase in {*steps, *self.steps}}

    def forgive(self) -> None:
        """Do not count the attempt that goes on, because it is ended from outside."""
        self.fruitless = max(0, self.fruitless - 1)

    @property
    def is_hopeless(self) -> bool:
        """Whether as many attempts as a run has in a row brought nothing newer."""
        return self.fruitless >= FRUITLESS_ATTEMPTS

    def dollars(self, per_hour: float) -> float:
        """What the attempts cost so far."""
        return self.seconds / 3600 * per_hour


class HungError(Exception):
    """Raised in the main thread of an attempt in which nothing moves any more."""


class Attempt:
    """Looks after one attempt from threads beside it. It is entered in the main thread, where the work is.

    Args:
        account: Of the run. Its ``seconds`` grow.
        life: Anything that differs from what it was at the last look when the attempt gets on.
        dollars_per_hour, max_cost: The price, and what the attempts of the launch may cost together; None for no end.
        heartbeat: Called every ``beat_seconds``. It returns why the attempt is to stop; None while it may go on.
        publish: Tried for a while before a container is killed.
        silent_seconds, grace_seconds, beat_seconds: See the constants of this module.

    Attributes:
        reason: Why the attempt is to save and stop; None while it may go on.
        hung: Whether nothing moved for too long.
    """

    def __init__(
        self,
        account: Account,
        life: Callable[[], object],
        *,
        dollars_per_hour: float = 0.0,
        max_cost: float | None = None,
        heartbeat: Callable[[], str | None] = lambda: None,
        publish: Callable[[], object] = lambda: None,
        silent_seconds: float = SILENT_SECONDS,
        grace_seconds: float = GRACE_SECONDS,
        beat_seconds: float = 60.0,
    ) -> None:
        self.account, self._life, self._heartbeat, self._publish = account, life, heartbeat, publish
        self._price, self._max_cost = dollars_per_hour, max_cost
        self._silent, self._grace, self._beat_every = silent_seconds, grace_seconds, beat_seconds
        self._before, self._began = account.seconds, time.monotonic()
        self.reason: str | None = None
        self.hung = False
        self._over = threading.Event()
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._watch, self._beat)]
        self.count()

    def count(self) -> None:
        """Bring the account up to date, and see whether the money is spent, but for what it takes to save."""
        self.account.seconds = self._before + time.monotonic() - self._began
        spent, saving = self.account.dollars(self._price), self._price * SAVING_SECONDS / 3600
        if self.reason is None and self._max_cost is not None and spent + saving >= self._max_cost:
            self.reason = f"${spent:.2f} of --max-cost {self._max_cost:g} are spent"

    def should_stop(self) -> bool:
        """Whether the run is to save and stop, for a ``reason``."""
        self.count()
        return self.reason is not None

    def __enter__(self) -> Attempt:
        self._handler = signal.signal(signal.SIGUSR2, self._raise)  # SIGUSR1 is Modal's own
        self._main = threading.get_ident()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        signal.signal(signal.SIGUSR2, self._handler)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if not self._over.is_set():
            raise HungError(self.account.last)

    def _beat(self) -> None:
        while not self._over.wait(self._beat_every):
            # The newer word is the truer: who has lost the run saves nothing more, whatever it was about to stop for.
            self.reason = _quietly(self._heartbeat) or self.reason

    def _watch(self) -> None:
        seen, since = _quietly(self._life), time.monotonic()
        while not self._over.wait(min(5.0, self._silent / 10)):
            self.count()
            life = _quietly(self._life)
            if life is not None and life != seen:  # a look that failed is no sign of life
                seen, since = life, time.monotonic()
            elif time.monotonic() - since > self._silent:
                self._end()
                return

    def _end(self) -> None:
        """Interrupt the main thread. If that does not help, publish what there is and end the process."""
        self.hung = True
        self.account.last = f"nothing moved for {self._silent / 60:.3g} minutes, neither a step nor a file"
        logger.error("%s: ending this attempt", self.account.last)
        signal.pthread_kill(self._main, signal.SIGUSR2)
        if self._over.wait(self._grace):
            return
        logger.error("the work does not come back: publishing what there is, and ending the container")
        for last in (self._heartbeat, self._publish):
            thread = threading.Thread(target=_quietly, args=(last,), daemon=True)
            thread.start()
            thread.join(self._grace)
        if not self._over.is_set():
            os._exit(HUNG)


def _quietly(action: Callable[[], T]) -> T | None:
    try:
        return action()
    except Exception:
        logger.warning("beside an attempt", exc_info=True)
        return None


def heard(pulse: Path, should_stop: Callable[[], bool]) -> Callable[[], bool]:
    """``should_stop`` that leaves a sign of life in the file ``pulse`` when it is asked, once a second at most."""
    last = 0.0

    def asked() -> bool:
        nonlocal last
        if time.monotonic() - last > 1.0:
            last = time.monotonic()
            pulse.touch()
        return should_stop()

    return asked
