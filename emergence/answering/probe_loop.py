"""The loop under everything that is fitted on a frozen trunk's cached states: fit, time, save, stop when asked.

Three measurements use it, one after the other: the probes (:mod:`emergence.answering.probe`), what states add to words
(:mod:`emergence.answering.conditional`), and the validity of probes (:mod:`emergence.answering.probe_validity`).
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

    One checkpoint holds all of it. No measurement may have its own, because the checkpointer keeps two files only.

    Attributes:
        fits: The finished probes.
        conditional: Name of a read-out -> ``ConditionalFit.to_state()``.
        validity: ``"<family> <part>"`` -> what was measured.
    """

    fits: list[ProbeFit] = field(default_factory=list)
    conditional: dict[str, Any] = field(default_factory=dict)
    validity: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def resumed(cls, context: Context, fits: Sequence[ProbeFit] = ()) -> ProbeState:
        """What an interrupted call had finished. Without a checkpoint it is ``fits`` alone."""
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
            "precision": context.precision,
            "conditional": self.conditional,
            "validity": self.validity,
        }
        context.checkpointer.save(PHASE, len(self.fits) + len(self.conditional) + len(self.validity), content)


@dataclass(frozen=True)
class Piece(Generic[Prepared]):
    """One fit that is still to be made.

    Attributes:
        layer: The layer whose states it reads.
        name: What the message of a stop calls it, such as ``linear probe of layer 3``.
        facts: What its line in the timings says beside the seconds.
        fit: A function of the prepared states. It keeps the result and returns what the progress bar shows.
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
    """Make every piece, layer by layer, and save ``state`` after each.

    Args:
        pieces: The fits to make. Those of one layer are made in this order.
        trunk: A frozen trunk in eval mode. It runs once over ``splits`` for each group of layers that fits the cache.
        splits: The questions whose states are read.
        prepare: A function that is called once for each layer, with the raw states of all splits.
        state: What ``Piece.fit`` adds its result to.
        kind: The kind of the lines in the timings.
        gigabytes: The largest cache of states.
        progress: The number of all pieces, with those finished before; their unit; and the title.

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
        del data, prepared  # before the next layer's are read, lest two be in memory
    context.progress.close()
