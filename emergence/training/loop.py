"""What pretraining and finetuning share: resuming, going back after a NaN, the clock, and stopping when asked.

A checkpoint never holds a number that is not finite. ``--on-nan rewind`` goes back to the last checkpoint before the
failure that the settings ask for. It does not take one that a signal happened to leave later, so interruptions change
nothing. It halves the learning rate for the rest of the loop, and gives up after :data:`MOST_REWINDS` times.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from emergence.spec.experiment import OnNan
from emergence.training.checkpoint import Checkpoint
from emergence.training.context import Context
from emergence.training.finiteness import NonFiniteLossError, all_finite
from emergence.training.recording import StopRequested

logger = logging.getLogger(__name__)

#: What a rewind multiplies the learning rate by, and how many rewinds there are before the run gives up.
REWIND_FACTOR = 0.5
MOST_REWINDS = 6


@dataclass(kw_only=True)
class LoopState:
    """What every loop's checkpoint holds: the ``seconds`` of training and the ``rewinds`` before it."""

    seconds: float = 0.0
    rewinds: int = 0


class TrainingLoop(ABC):
    """A loop that a kill, a signal or a NaN interrupts without changing what it ends with.

    A subclass does the training. It says where it is, what it needs to go on from there, and what comes next.

    Args:
        context: Where it runs and whom it tells.
        modules: What is trained.
        on_nan: Whether to ``stop`` or ``rewind`` at a loss, gradient or weight that is not finite.
        intervals: The settings ask for a checkpoint at every multiple of one of these, in steps.
        cure: What else a person can do about such a number, for the message.
    """

    #: The name of its checkpoints and history lines, and its name in messages.
    phase: ClassVar[str]
    title: ClassVar[str]
    state: LoopState

    def __init__(
        self, context: Context, modules: Sequence[nn.Module], on_nan: OnNan, intervals: Sequence[int], cure: str
    ) -> None:
        self.context = context
        self._modules, self._on_nan, self._intervals, self._cure = modules, on_nan, intervals, cure
        self._since = time.monotonic()
        self._saved: object = None
        #: The number format; ``bf16, then fp32`` where it went on on another machine.
        self.precision = context.precision

    # What a subclass says ---------------------------------------------------------------------------

    @property
    @abstractmethod
    def step(self) -> int:
        """Updates made."""

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether nothing is left to do."""

    @property
    @abstractmethod
    def extent(self) -> tuple[int, str, int]:
        """How much there is to do in all, in what unit, and how much of it is done."""

    @abstractmethod
    def advance(self) -> None:
        """Make one or several updates. Raises ``NonFiniteLossError``, and calls :meth:`stop_if_asked`."""

    @abstractmethod
    def content(self) -> dict[str, Any]:
        """All that decides what happens next. Raises ``NonFiniteLossError``."""

    @abstractmethod
    def restore(self, content: dict[str, Any]) -> None:
        """Take over what :meth:`content` once gave."""

    @property
    def place(self) -> tuple[int, ...]:
        """Where the loop is. A checkpoint is saved only if this has changed since the last one."""
        return (self.step,)

    def prepare(self, *, resumed: bool) -> None:  # noqa: B027 (not every loop has something to prepare)
        """Called once, before the first checkpoint is saved."""

    def begin(self) -> None:  # noqa: B027
        """Called when the loop starts, resumes or goes on after a rewind."""

    def where(self, step: int) -> str:
        """``step`` in words, for messages."""
        return f"{self.title} step {step}"

    # The loop ---------------------------------------------------------------------------------------

    def run(self) -> None:
        """Go on from the newest checkpoint, if there is one, to the end.

        Raises:
            NonFiniteLossError: A number is not finite. The message names the step and what is kept.
            StopRequested: The context asked for it. A checkpoint is saved.
        """
        self._resume()
        self.context.progress.start(*self.extent, self.title)
        try:
            while not self.finished:
                try:
                    self.advance()
                except NonFiniteLossError as error:
                    self._rewind(error)
        finally:
            self.context.progress.close()

    def stop_if_asked(self, message: str) -> None:
        """Save a checkpoint and raise ``StopRequested``, if any worker is asked to stop."""
        context = self.context
        if context.workers.sum([float(context.should_stop())], context.device)[0]:
            self.save()
            raise StopRequested(message)

    def seconds(self) -> float:
        """Wall-clock time in training, over all resumptions."""
        return self.state.seconds + time.monotonic() - self._since

    @property
    def rate_factor(self) -> float:
        """What the rewinds leave of the learning rate."""
        return REWIND_FACTOR**self.state.rewinds

    # Checkpoints ------------------------------------------------------------------------------------

    def save(self) -> None:
        """Save a checkpoint, unless one of this state is saved or another worker does it."""
        if not self.context.workers.is_first or self._saved == self._mark():
            return
        content = {
            **self.content(),
            "history": self.context.recorder.position(),
            "precision": self.precision,
        }
        self.refuse_unless_finite()
        self.context.checkpointer.save(self.phase, self.step, content, rewind_to=self._due(self.step))
        self._saved = self._mark()

    def _resume(self) -> None:
        if resume(self.context, self.phase, self._restore, self._save_start):
            self.prepare(resumed=True)
        self.begin()

    def _save_start(self) -> None:
        self.prepare(resumed=False)
        self.save()

    def _restore(self, content: dict[str, Any]) -> None:
        self.restore(content)
        self.precision = _number_formats(content, self.context)
        self._saved = self._mark()

    def _mark(self) -> tuple[int, ...]:
        return (*self.place, self.state.rewinds)

    def _due(self, step: int) -> int:
        """The step of the last checkpoint at or before ``step`` that the settings ask for."""
        return max(step - step % interval for interval in self._intervals)

    # Numbers that are not finite --------------------------------------------------------------------

    def failure(self, what: str, step: int) -> NonFiniteLossError:
        """The error to raise about ``step``."""
        return NonFiniteLossError(f"{self.where(step)}: {what}", step)

    def refuse_unless_finite(self) -> None:
        """Raise ``NonFiniteLossError`` for a weight that is not finite."""
        if not all_finite(*self._modules):
            raise self.failure("a weight is not finite", self.step)

    def _rewind(self, error: NonFiniteLossError) -> None:
        """Go back to the last checkpoint with half the learning rate.

        Raises:
            NonFiniteLossError: No rewind was asked for, or too many were in vain. The last good state is kept.
        """
        rewinds, checkpoint = self.state.rewinds, None
        if self._on_nan == "rewind" and rewinds < MOST_REWINDS:
            checkpoint = _load(self.context, self.phase, up_to=self._due(max(error.step - 1, 0)))
        if checkpoint is None:
            if error.step > self.step:  # the update was not made, so all before it is well
                self.save()
            raise self._final(error) from None
        seconds = self.seconds()
        _take_up(self.context, checkpoint, self._restore)
        self.state.rewinds, self.state.seconds, self._since = rewinds + 1, seconds, time.monotonic()
        logger.warning("%s; going on from step %d at %g of the learning rate", error, checkpoint.step, self.rate_factor)
        self.context.recorder.log(
            f"{self.phase}_rewind", step=self.step, failed_step=error.step, rewinds=self.state.rewinds
        )
        self.save()
        self.begin()

    def _final(self, error: NonFiniteLossError) -> NonFiniteLossError:
        """``error`` with what was tried, what is kept and what to do now."""
        kept, rewinds = self.context.checkpointer.newest_step(self.phase), self.state.rewinds
        tried = f"; given up after {rewinds} rewinds" if rewinds else ""
        state = "" if kept is None else f"; the state of step {kept} is kept"
        again = ""
        if kept is not None and self._on_nan == "stop":
            again = "add --on-nan rewind to go on from the last checkpoint at half the learning rate, or "
        return NonFiniteLossError(f"{error}{tried}{state}: {again}{self._cure}", error.step)


def resume(
    context: Context, phase: str, restore: Callable[[dict[str, Any]], None], save_start: Callable[[], None]
) -> bool:
    """Go on from the newest checkpoint of ``phase``, if there is one. Returns whether there was.

    Args:
        context: Its history is cut back to where it stood when the checkpoint was saved.
        phase: The phase that the checkpoints are of.
        restore: Takes over the checkpoint's state.
        save_start: Called if there is no checkpoint. It saves one of the start, so that history written before the next
            checkpoint can be taken back.
    """
    checkpoint = _load(context, phase)
    if checkpoint is None:
        save_start()
        return False
    before = checkpoint.state.get("precision")
    if before is not None and _number_formats(checkpoint.state, context) != before:
        logger.warning(
            "what is done already was computed in %s, the rest will be in %s, which is faster on this machine: go on "
            "where it began, or start all that is compared with it anew, with --set pretrain.precision=fp32",
            before, context.precision,
        )  # fmt: skip
    _take_up(context, checkpoint, restore)
    return True


def _number_formats(content: Mapping[str, Any], context: Context) -> str:
    """What a phase is computed in, once it goes on from ``content``: ``bf16``, or ``bf16, then fp32``."""
    now = context.precision
    before = str(content.get("precision", now))  # absent in checkpoints of an earlier version
    return before if before.endswith(now) else f"{before}, then {now}"


def _load(context: Context, phase: str, up_to: int | None = None) -> Checkpoint | None:
    context.workers.wait()  # until the first has saved what it may still be saving
    checkpoint = context.checkpointer.load(phase, up_to)
    context.workers.wait()  # until all have read it, before the first saves another
    return checkpoint


def _take_up(context: Context, checkpoint: Checkpoint, restore: Callable[[dict[str, Any]], None]) -> None:
    restore(checkpoint.state)
    context.recorder.rewind(checkpoint.state["history"])
