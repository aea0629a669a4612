"""Probing a frozen trunk: every family at every layer, on states cached once.

The layer is chosen by validation F1, the score that is reported; the last layer is always there beside
it. A killed call resumes with the next family and layer and ends identical.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from emergence.answering.features import SpanLogits, predict_readouts
from emergence.answering.probe_data import layer_data, standardise_
from emergence.answering.probe_fitting import FAMILIES, ProbeFit, fit_probe, readout
from emergence.data.qa_encoding import EncodedQA
from emergence.errors import EmergenceError
from emergence.model import Encoder
from emergence.spec.config import ProbeConfig
from emergence.training.context import Context
from emergence.training.recording import StopRequested

logger = logging.getLogger(__name__)

PHASE = "probe"


@dataclass(frozen=True)
class ProbeReport:
    """The fits of all families and layers."""

    fits: tuple[ProbeFit, ...]

    def of(self, family: str) -> list[ProbeFit]:
        """One family's fits, by layer."""
        return sorted((fit for fit in self.fits if fit.family == family), key=lambda fit: fit.layer)

    def best(self, family: str) -> ProbeFit:
        """The layer with the highest validation F1, the score that is reported; the lower layer on a tie."""
        return max(self.of(family), key=lambda fit: (fit.validation_f1, -fit.layer))

    def last(self, family: str) -> ProbeFit:
        """The last layer's fit."""
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
    ``config.cache_gigabytes``. Each finished fit is checkpointed; a resumed call goes on with the next.

    Args:
        families: ``config.families`` by default.
        layers: Levels of states; all L + 1 by default.
        context: Its recorder gets one history line ``probe`` for each fit.

    Raises:
        StopRequested: ``should_stop`` was true after a fit; the same call resumes.
        EmergenceError: No questions.
    """
    if not len(train) or not len(validation):
        raise EmergenceError("probing needs training and validation questions: give more data, or longer sequences")
    families = config.families if families is None else families
    if unknown := set(families) - set(FAMILIES):
        raise ValueError(f"unknown probe families {sorted(unknown)}")
    wanted = range(trunk.n_layers + 1) if layers is None else sorted(set(layers))
    fits = _resume(context)
    done = {(fit.family, fit.layer) for fit in fits}
    missing = {layer: [f for f in families if (f, layer) not in done] for layer in wanted}
    missing = {layer: left for layer, left in missing.items() if left}
    context.progress.start(len(wanted) * len(families), "probes", len(fits), "probing")
    states = layer_data(trunk, (train, validation), list(missing), config.cache_gigabytes, context)
    for layer, (of_train, of_validation) in states:
        statistics = standardise_(of_train.features, of_validation.features)
        for family in missing[layer]:
            begun = time.monotonic()
            fit = fit_probe(family, of_train, of_validation, statistics, config, layer, max_answer_words, seed)
            fits.append(fit)
            context.recorder.log("probe", **{key: value for key, value in fit.summary().items() if key != "path"})
            context.recorder.time("probe", family=family, layer=layer, seconds=time.monotonic() - begun)
            logger.info("%s probe, layer %d: validation F1 %.3f", family, layer, fit.validation_f1)
            context.progress.update(1, layer=layer, f1=fit.validation_f1)
            save_progress(context, fits)
            if context.should_stop():
                context.progress.close()
                raise StopRequested(f"stopped after the {family} probe of layer {layer}; the same command goes on")
    context.progress.close()
    return ProbeReport(tuple(fits))


def predict_probes(trunk: Encoder, fits: Sequence[ProbeFit], encoded: EncodedQA, context: Context) -> list[SpanLogits]:
    """Logits of several fitted probes in one pass over the trunk, in the order of ``fits``."""
    readouts = {str(i): (fit.layer, readout(fit, context.device)) for i, fit in enumerate(fits)}
    found = predict_readouts(trunk, readouts, encoded, context)
    return [found[str(i)] for i in range(len(fits))]


def save_progress(
    context: Context,
    fits: Sequence[ProbeFit],
    conditional: Mapping[str, Any] | None = None,
    validity: Mapping[str, Any] | None = None,
) -> None:
    """Checkpoint the finished fits, what the states add to words, and what was measured of validity, in one file.

    The checkpointer keeps the newest two files whatever their phase, so none may stand alone. They are made in this
    order, each when the one before is whole.
    """
    parts = {"conditional": dict(conditional or {}), "validity": dict(validity or {})}
    state = {"fits": [fit.to_state() for fit in fits], "history": context.recorder.position(), **parts}
    context.checkpointer.save(PHASE, len(fits) + sum(map(len, parts.values())), state)


def _resume(context: Context) -> list[ProbeFit]:
    """The fits that an interrupted call had finished."""
    found = context.checkpointer.load(PHASE)
    if found is None:
        save_progress(context, [])  # so that later history can be taken back
        return []
    context.recorder.rewind(found.state["history"])
    return [ProbeFit.from_state(state) for state in found.state["fits"]]
