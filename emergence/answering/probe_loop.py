"""The loop under everything that is fitted on a frozen trunk's cached states: fit, time, save, stop when asked.

Three measurements use it, each when the one before is whole: the probes (:mod:`emergence.answering.probe`), what the
states add to words (:mod:`emergence.answering.conditional`), and validity (:mod:`emergence.answering.probe_validity`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from emergence.answering.probe_data import ProbeData, layer_data
from emergence.answering.probe_fitting import ProbeFit
from emergence.data.qa_encoding import EncodedQA
from emergence.model import Encoder
from emergence.training.context import Context
from emergence.training.loop import resume
from emergence.training.recording import StopRequested

PHASE = "probe"

#: What a measurement makes of one layer's states before it fits anything on them.
Prepared = TypeVar("Prepared")


@dataclass
class ProbeState:
    """All that the three measurements have finished, as plain values.

    One checkpoint holds all of it: the checkpointer keeps the newest two files, so no measurement may have its own.

    Attributes:
        fits: The finished probes.
        conditional: Read-out name to ``ConditionalFit.to_state()``.
        validity: ``"<family> <part>"`` to what was measured.
    """

    fits: list[ProbeFit] = field(default_factory=list)
    conditional: dict[str, Any] = field(default_factory=dict)
    validity: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def resumed(cls, context: Context, fits: Sequence[ProbeFit] = ()) -> ProbeState:
        """What an interrupted call had finished; where no checkpoint is, a start with ``fits``."""
        state = cls(list(fits))
        resume(context, PHASE, state.restore, lambda: state.save(context))
        return state

    def restore(self, content: Mapping[str, Any]) -> None:
        """Take over what :meth:`save` wrote."""
        self.fits = [ProbeFit.from_state(fit) for fit in content["fits"]]
        # Absent in checkpoints of an earlier version.
        self.conditional, self.validity = (dict(content.get(key, {})) for key in ("conditional", "validity"))

    def save(self, context: Context) -> None:
        """Write a checkpoint."""
        content = {
            "fits": [fit.to_state() for fit in self.fits],
            "history": context.recorder.position(),
            "conditional": self.conditional,
            "validity": self.validity,
        }
        context.checkpointer.save(PHASE, len(self.fits) + len(self.conditional) + len(self.validity), content)


@dataclass(frozen=True)
class Piece(Generic[Prepared]):
    """One fit that is still to be made.

    Attributes:
        layer: Whose states it reads.
        name: In words, for the message of a stop: ``linear probe of layer 3``.
        facts: What its line in the timings says beside the seconds.
        fit: Takes the prepared states and keeps the result; returns what is shown beside the progress bar.
    """

    layer: int
    name: str
    facts: Mapping[str, Any]
    fit: Callable[[Prepared], Mapping[str, float]]


def fit_pieces(
    pieces: Sequence[Piece[Prepared]],
    trunk: Encoder,
    splits: Sequence[EncodedQA],
    prepare: Callable[[tuple[ProbeData, ...]], Prepared],
    state: ProbeState,
    context: Context,
    *,
    kind: str,
    gigabytes: float,
    progress: tuple[int, str, str],
) -> None:
    """Make every piece, layer by layer; ``state`` is saved after each.

    Args:
        pieces: In the order in which those of one layer are made.
        trunk: In eval mode, frozen. It runs once over ``splits``, or once a group of layers that fits the cache.
        splits: The questions whose states are read.
        prepare: Called once a layer with the raw states of all splits.
        state: What ``Piece.fit`` adds its result to.
        kind: Of the lines in the timings.
        gigabytes: Largest cache of states.
        progress: All pieces, the finished ones included; their unit; and the title.

    Raises:
        StopRequested: ``should_stop`` was true after a piece; the same call resumes.
    """
    total, unit, title = progress
    context.progress.start(total, unit, total - len(pieces), title)
    for layer, data in layer_data(trunk, splits, sorted({p.layer for p in pieces}), gigabytes, context):
        prepared = prepare(data)
        for piece in (p for p in pieces if p.layer == layer):
            begun = time.monotonic()
            shown = piece.fit(prepared)
            context.recorder.time(kind, **piece.facts, seconds=time.monotonic() - begun)
            context.progress.update(1, **shown)
            state.save(context)
            if context.should_stop():
                context.progress.close()
                raise StopRequested(f"stopped after the {piece.name}; the same command goes on")
    context.progress.close()
