"""Probing a frozen trunk: every family at every layer, on states cached once.

Validation F1, the score that is reported, chooses the layer. The last layer is reported beside it. A killed call
resumes with the next family and layer, and ends with the same bits.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from emergence.answering.evaluate import gold_spans
from emergence.answering.features import SpanLogits, predict_readouts
from emergence.answering.probe_data import ProbeData, Standardisation, predict_cached, standardise_
from emergence.answering.probe_fitting import FAMILIES, ProbeFit, fit_probe, readout
from emergence.answering.probe_loop import Piece, ProbeState, fit_pieces
from emergence.answering.stored_states import StoredStates
from emergence.data.qa_encoding import EncodedQA
from emergence.errors import EmergenceError
from emergence.model import Encoder
from emergence.spec.config import ProbeConfig
from emergence.training.context import Context

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProbeReport:
    """The fits of all families and layers."""

    fits: tuple[ProbeFit, ...]

    def of(self, family: str) -> list[ProbeFit]:
        """One family's fits, by layer."""
        return sorted((fit for fit in self.fits if fit.family == family), key=lambda fit: fit.layer)

    def best(self, family: str) -> ProbeFit:
        """The fit of the layer with the highest validation F1, and on a tie of the lower layer."""
        return max(self.of(family), key=lambda fit: (fit.validation_f1, -fit.layer))

    def last(self, family: str) -> ProbeFit:
        """The fit of the last layer."""
        return self.of(family)[-1]


def probe_all_layers(
    trunk: Encoder,
    train: EncodedQA,
    validation: EncodedQA,
    config: ProbeConfig,
    context: Context,
    *,
    seed: int,
    max_answer_words: int,
    families: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
) -> ProbeReport:
    """Fit every family at every layer of a frozen trunk (in eval mode, on the context's device).

    The trunk runs once over the questions, or once for each group of layers that fits
    ``config.cache_gigabytes``. Each finished fit is checkpointed, and a resumed call goes on with the next.

    Args:
        families: The families to fit, by default ``config.families``.
        layers: The levels of states to probe, by default all L + 1.
        context: Its recorder gets one history line ``probe`` for each fit.

    Raises:
        StopRequested: ``should_stop`` was true after a fit; the same call resumes.
        EmergenceError: There are no questions.
    """
    if not len(train) or not len(validation):
        raise EmergenceError("probing needs training and validation questions: give more data, or longer sequences")
    families = config.families if families is None else families
    if unknown := set(families) - set(FAMILIES):
        raise ValueError(f"unknown probe families {sorted(unknown)}")
    wanted = range(trunk.n_layers + 1) if layers is None else sorted(set(layers))
    state = ProbeState.resumed(context)
    done = {(fit.family, fit.layer) for fit in state.fits}

    def fit(family: str, layer: int, prepared: tuple[ProbeData, ProbeData, Standardisation]) -> dict[str, float]:
        fitted = fit_probe(family, *prepared, config, layer, max_answer_words, seed)
        state.fits.append(fitted)
        context.recorder.log("probe", **{key: value for key, value in fitted.summary().items() if key != "path"})
        logger.info("%s probe, layer %d: validation F1 %.3f", family, layer, fitted.validation_f1)
        return {"layer": layer, "f1": fitted.validation_f1}

    missing = [(family, layer) for layer in wanted for family in families if (family, layer) not in done]
    pieces = [
        Piece(
            layer, f"{family} probe of layer {layer}", {"family": family, "layer": layer}, partial(fit, family, layer)
        )
        for family, layer in missing
    ]
    fit_pieces(
        pieces, trunk, (train, validation), _standardised, state, context,
        kind="probe", gigabytes=config.cache_gigabytes, progress=(len(wanted) * len(families), "probes", "probing"),
    )  # fmt: skip
    return ProbeReport(tuple(state.fits))


def _standardised(data: Sequence[ProbeData]) -> tuple[ProbeData, ProbeData, Standardisation]:
    train, validation = data
    return train, validation, standardise_(train.features, validation.features)


def predict_probes(trunk: Encoder, fits: Sequence[ProbeFit], encoded: EncodedQA, context: Context) -> list[SpanLogits]:
    """Logits of several fitted probes, in the order of ``fits``. The trunk runs once, or its states are read."""
    if isinstance(trunk, StoredStates):
        return _predict_stored(trunk, fits, encoded, context)
    readouts = {str(i): (fit.layer, readout(fit, context.device)) for i, fit in enumerate(fits)}
    logits = predict_readouts(trunk, readouts, encoded, context)
    return [logits[name] for name in readouts]


def _predict_stored(
    trunk: StoredStates, fits: Sequence[ProbeFit], encoded: EncodedQA, context: Context
) -> list[SpanLogits]:
    """As :func:`predict_probes`, a layer at a time."""
    logits: dict[int, SpanLogits] = {}
    for layer in sorted({fit.layer for fit in fits}):
        states = trunk.layer(encoded, layer, context.device)
        data = ProbeData(states, gold_spans(encoded))
        for i, fit in enumerate(fits):
            if fit.layer == layer:
                logits[i] = predict_cached(readout(fit, context.device), data)
        del states, data  # before the next layer's are read
    return [logits[i] for i in range(len(fits))]
