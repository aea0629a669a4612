"""Live sinks: a copy of the history's numbers for TensorBoard, Weights & Biases or Trackio.

``history.jsonl`` stays the truth, and a sink only watches. Each needs its own package. A sink that fails during
training is dropped with a warning, and the run goes on.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from emergence.errors import UsageError
from emergence.training.recording import Position, Recorder

logger = logging.getLogger(__name__)

#: Each sink's package.
SINKS = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}

#: Beside the run directories: how far each sink's curves are.
FOLDER = ".live"


class RunLike(Protocol):
    """What a sink wants to know of a run directory."""

    path: Path

    @property
    def run_id(self) -> str: ...


#: Puts a sink around a run's recorder.
WrapRecorder = Callable[[Recorder, Any], Recorder]


class Written:
    """How far each curve of a run has been given to a sink, in a file of its own.

    A sink takes nothing back. So what a run does again, after a stop or a rewind, is not given to it again, or its
    curves would run backwards.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last = self._read()

    def is_new(self, curve: str, place: int) -> bool:
        """Whether ``place`` lies beyond all that was given of ``curve``. Remembers it if so."""
        if place <= self._last.get(curve, -1):
            return False
        self._last[curve] = place
        with suppress(OSError):  # without the file only a resumed run's curves suffer
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(self._last), encoding="utf-8")
        return True

    def _read(self) -> dict[str, int]:
        try:
            stored = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        items = stored.items() if isinstance(stored, dict) else ()
        return {str(curve): place for curve, place in items if isinstance(place, int)}


class SinkRecorder:
    """Passes everything on to ``recorder``, and the numbers of every history line to ``write(step, values)``.

    Lines of one kind are a curve over their step, epoch or layer, and those of a probe's family one of its own. What
    ``written`` knows already is not given again.
    """

    def __init__(
        self, recorder: Recorder, write: Callable[[int, dict[str, float]], None], written: Written | None = None
    ) -> None:
        self._recorder, self._write, self._written = recorder, write, written
        self._broken = False

    def log(self, kind: str, /, **values: Any) -> None:
        self._recorder.log(kind, **values)
        curve = f"{kind}/{values['family']}" if "family" in values else kind
        numbers = {f"{curve}/{k}": float(v) for k, v in values.items() if isinstance(v, int | float)}
        if self._broken or not numbers:
            return
        place = next((int(values[k]) for k in ("step", "epoch", "layer") if k in values), None)
        if place is not None and self._written is not None and not self._written.is_new(curve, place):
            return
        try:
            self._write(place or 0, numbers)
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
        return SinkRecorder(recorder, write, Written(run.path.parent / FOLDER / f"{run.run_id}.{name}.json"))

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

    space = {"space_id": os.environ["TRACKIO_SPACE_ID"]} if os.environ.get("TRACKIO_SPACE_ID") else {}
    trackio.init(project="emergence", name=run.run_id, **space)
    return lambda step, values: trackio.log({**values, "step": step}), trackio.finish


_OPENERS = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}
