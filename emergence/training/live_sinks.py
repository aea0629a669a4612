"""Live sinks: a copy of the history's numbers for TensorBoard, Weights & Biases or Trackio.

``history.jsonl`` stays the truth, and a sink only watches. Each needs its own package. A sink that fails during
training is dropped with a warning, and the run goes on.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from emergence.errors import UsageError
from emergence.training.recording import Position, Recorder

logger = logging.getLogger(__name__)

#: Each sink's package.
SINKS = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}


class RunLike(Protocol):
    """What a sink wants to know of a run directory."""

    path: Path

    @property
    def run_id(self) -> str: ...


#: Puts a sink around a run's recorder.
WrapRecorder = Callable[[Recorder, Any], Recorder]


class SinkRecorder:
    """Passes everything on to ``recorder``, and the numbers of every history line to ``write(step, values)``."""

    def __init__(self, recorder: Recorder, write: Callable[[int, dict[str, float]], None]) -> None:
        self._recorder, self._write = recorder, write
        self._broken = False

    def log(self, kind: str, /, **values: Any) -> None:
        self._recorder.log(kind, **values)
        numbers = {f"{kind}/{k}": float(v) for k, v in values.items() if isinstance(v, int | float)}
        if self._broken or not numbers:
            return
        step = next((int(values[k]) for k in ("step", "epoch", "layer") if k in values), 0)
        try:
            self._write(step, numbers)
        except Exception as error:  # a broken sink (network, disk) must not end a training run
            self._broken = True
            logger.warning("the live log failed and is off for the rest of this run: %s", error)

    def time(self, kind: str, /, **values: Any) -> None:
        self._recorder.time(kind, **values)

    def position(self) -> Position:
        return self._recorder.position()

    def rewind(self, position: Position) -> None:
        self._recorder.rewind(position)


@contextmanager
def open_sink(name: str | None) -> Iterator[WrapRecorder]:
    """A function that puts the sink ``name`` around a run's recorder. The sink is closed at the end.

    Raises:
        UsageError: The sink is unknown, or its package is not installed.
    """
    if name is None:
        yield lambda recorder, run: recorder
        return
    if name not in SINKS:
        raise UsageError(f"--log must be one of {', '.join(SINKS)}, not {name!r}")
    if importlib.util.find_spec(SINKS[name]) is None:
        raise UsageError(f"--log {name} needs the package {SINKS[name]}: pip install {SINKS[name]}")
    closers: list[Callable[[], None]] = []

    def wrap(recorder: Recorder, run: RunLike) -> Recorder:
        write, close = _OPENERS[name](run)
        closers.append(close)
        return SinkRecorder(recorder, write)

    try:
        yield wrap
    finally:
        for close in closers:
            close()


def _tensorboard(run: RunLike) -> tuple[Callable[[int, dict[str, float]], None], Callable[[], None]]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(run.path.parent / ".tensorboard" / run.run_id))

    def write(step: int, values: dict[str, float]) -> None:
        for key, value in values.items():
            writer.add_scalar(key, value, step)

    return write, writer.close


def _wandb(run: RunLike) -> tuple[Callable[[int, dict[str, float]], None], Callable[[], None]]:
    import wandb

    live = wandb.init(project="emergence", name=run.run_id, id=run.run_id, resume="allow")
    return lambda step, values: live.log({**values, "step": step}), live.finish


def _trackio(run: RunLike) -> tuple[Callable[[int, dict[str, float]], None], Callable[[], None]]:
    import trackio

    trackio.init(project="emergence", name=run.run_id)
    return lambda step, values: trackio.log({**values, "step": step}), trackio.finish


_OPENERS = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}
