"""What do a trunk's states add to words and positions? Conditional probing (Hewitt et al. 2021).

A probe reads words and positions off any states, even a random trunk's, so a score above a rule is no evidence.
Here the scorer without a language model (R_1, :mod:`emergence.answering.word_scorer`) goes first. Its start and end
logits stand under the probe as an offset with one free scale for each boundary, and the probe is fitted on top. What
the two score together beyond the scorer alone is what the states add. On a random trunk it is what any states add.

The scorer's logits on training questions are cross-fitted. In-sample ones are over-confident, and the probe would
learn to distrust the states.

A control stands beside these: a bilinear probe on token embeddings and the relative position to the predicate. It
shows what a trunk knows before its first block, alone and on top of words and positions
(docs/methods.md#conditional-probing).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import log_softmax
from torch import Tensor

from emergence.answering.features import LayerFeatures, SpanLogits
from emergence.answering.probe import ProbeReport
from emergence.answering.probe_data import ProbeData, predict_cached, standardise_
from emergence.answering.probe_fitting import fit_nested_probe, fit_probe, readout
from emergence.answering.probe_loop import Piece, ProbeState, fit_pieces
from emergence.answering.word_scorer import WordScores
from emergence.data.qa_encoding import EncodedQA
from emergence.measures.conditional import WITH_WORDS
from emergence.measures.ragged import within_rows
from emergence.model import Encoder
from emergence.spec.config import ProbeConfig
from emergence.training.context import Context

logger = logging.getLogger(__name__)

#: Name of the control read-out, which reads embeddings and the relative position.
EMBEDDING_POSITION = "embedding_position"
#: Relative positions are clipped to this many words from the predicate.
FARTHEST = 12


@dataclass(frozen=True)
class ConditionalFit:
    """One conditional probe, or the control, and its logits for every validation and test question.

    Attributes:
        name: The read-out, such as ``words+bilinear``. family, layer: The probe's family, and the layer that it reads.
        scorer: ``left`` or ``both``; None for the control.
        validation, test: Logits of scorer and probe together.
        facts: Validation scores of the fit, its ridge and scales, and whether it converged.
    """

    name: str
    family: str
    layer: int
    scorer: str | None
    validation: SpanLogits
    test: SpanLogits
    facts: dict[str, Any]

    def to_state(self) -> dict[str, Any]:
        """The fit as a checkpoint holds it; :meth:`from_state` is the inverse, bit for bit."""
        logits = {
            split: {key: torch.from_numpy(getattr(of_split, key)) for key in ("start", "end", "lengths")}
            for split, of_split in (("validation", self.validation), ("test", self.test))
        }
        return {**{k: getattr(self, k) for k in ("name", "family", "layer", "scorer", "facts")}, **logits}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ConditionalFit:
        logits = {
            split: SpanLogits(*(state[split][key].numpy() for key in ("start", "end", "lengths")))
            for split in ("validation", "test")
        }
        return cls(**{**state, **logits})


def measure_conditional(
    trunk: Encoder,
    report: ProbeReport,
    splits: tuple[EncodedQA, EncodedQA, EncodedQA],
    scorers: Mapping[str, WordScores],
    config: ProbeConfig,
    context: Context,
    *,
    seed: int,
    max_answer_words: int,
    main: str = "left",
    control: bool = True,
) -> dict[str, ConditionalFit]:
    """Fit the families on top of the scorers, each at the layer that validation chose for it, and the control.

    Args:
        trunk: A frozen trunk in eval mode. It runs once over the questions.
        report: The probes that read states alone. Their layers are used.
        splits: Training, validation and test questions.
        scorers: ``left`` and perhaps ``both``, with cross-fitted logits of the training questions.
        config: Settings of the probes.
        context: Its checkpointer holds the fits of ``report``, and each finished fit of this call beside them.
        seed: Seed of the initial weights and batches.
        max_answer_words: Longest span decoded on validation.
        main: The scorer under every family: ``left``, or ``both`` where a state has seen the next word, as in the
            echo layout. The other scorer gets the bilinear probe alone, or the first family if that was not fitted.
        control: Whether the control is fitted too.

    Raises:
        StopRequested: ``should_stop`` was true after a fit; the same call resumes.
    """
    wanted = _wanted(report, scorers, main, splits if control else (), config.nested)
    state = ProbeState.resumed(context, report.fits)

    def fit(name: str, parts: Sequence[ProbeData]) -> dict[str, float]:
        which = wanted[name]
        data = _with_positions(parts, splits) if which.positions else parts
        data = data if which.scorer is None else _with_offsets(data, scorers[which.scorer])
        fitted = _fit(name, which, data, config, max_answer_words, seed)
        state.conditional[name] = fitted.to_state()
        return {}

    pieces = [
        Piece(which.layer, f"{name} probe", {"name": name}, partial(fit, name))
        for name, which in wanted.items()
        if name not in state.conditional
    ]
    fit_pieces(
        pieces, trunk, splits, _standardised, state, context,
        kind="probe_conditional", gigabytes=config.cache_gigabytes, progress=(len(wanted), "fits", "what states add"),
    )  # fmt: skip
    return {name: ConditionalFit.from_state(state.conditional[name]) for name in wanted}


def scorer_logits(scores: WordScores, lengths: npt.NDArray[np.int64], split: str) -> npt.NDArray[np.float32]:
    """(sum of W, 2) log-probabilities of each word to start and to end the answer, normalised over its sentence.

    Raises:
        ValueError: The scorer's questions have other lengths than ``lengths`` (N,).
    """
    logits: SpanLogits = getattr(scores, split)
    if not np.array_equal(logits.lengths, lengths):
        raise ValueError("the scorer's logits are of other questions")
    inside = np.arange(logits.start.shape[1]) < lengths[:, None]  # (N, W)
    columns = [
        log_softmax(np.where(inside, values.astype(np.float64), -np.inf), axis=1)[inside]
        for values in (logits.start, logits.end)
    ]
    return np.stack(columns, axis=1).astype(np.float32)


@dataclass(frozen=True)
class _Wanted:
    """A read-out to fit: family, layer, the scorer under it, and whether relative positions stand beside the states."""

    family: str
    layer: int
    scorer: str | None
    positions: bool = False


def _wanted(
    report: ProbeReport, scorers: Mapping[str, WordScores], main: str, splits: Sequence[EncodedQA], nested: bool
) -> dict[str, _Wanted]:
    """The read-outs to fit by name. Earlier versions had no control on top of words and positions."""
    families = tuple(dict.fromkeys(fit.family for fit in report.fits))
    richest = "bilinear" if "bilinear" in families else families[0]
    wanted = {
        WITH_WORDS[scorer].format(family=family): _Wanted(family, report.best(family).layer, scorer)
        for scorer in scorers
        for family in (families if scorer == main else (richest,))
    }
    if splits and all(example.predicate_index is not None for split in splits for example in split.examples):
        wanted[EMBEDDING_POSITION] = _Wanted(richest, 0, None, positions=True)
        if main in scorers and nested:
            name = WITH_WORDS[main].format(family=EMBEDDING_POSITION)
            wanted[name] = _Wanted(richest, 0, main, positions=True)
    return wanted


def _standardised(parts: Sequence[ProbeData]) -> Sequence[ProbeData]:
    """All parts, standardised in place with the statistics of the first."""
    standardise_(*(part.features for part in parts))
    return parts


def _with_offsets(parts: Sequence[ProbeData], scores: WordScores) -> list[ProbeData]:
    return [
        replace(
            part, offset=torch.from_numpy(scorer_logits(scores, part.lengths, split)).to(part.features.words.device)
        )
        for part, split in zip(parts, ("train", "validation", "test"), strict=True)
    ]


def _with_positions(parts: Sequence[ProbeData], splits: Sequence[EncodedQA]) -> Sequence[ProbeData]:
    """The standardised states, widened by one column for each relative position to the predicate."""
    extended = []
    for part, split in zip(parts, splits, strict=True):
        predicates = np.array([example.predicate_index for example in split.examples], dtype=np.int64)
        relative = within_rows(part.features.word_offsets)
        relative = np.clip(relative - np.repeat(predicates, part.lengths), -FARTHEST, FARTHEST) + FARTHEST
        columns = torch.nn.functional.one_hot(torch.from_numpy(relative), 2 * FARTHEST + 1)
        words = torch.cat([part.features.words.float(), columns.to(part.features.words)], dim=1)
        questions = _widened(part.features.questions, columns.shape[1])
        extended.append(replace(part, features=LayerFeatures(words, questions, part.features.word_offsets)))
    return _standardised(extended)


def _widened(questions: Tensor, more: int) -> Tensor:
    """Question states (N, 2D) with zero columns for a probe of width D + more: (N, 2 (D + more))."""
    mean, last = questions.chunk(2, dim=1)
    empty = questions.new_zeros(len(questions), more)
    return torch.cat([mean, empty, last, empty], dim=1)


def _fit(
    name: str, which: _Wanted, parts: Sequence[ProbeData], config: ProbeConfig, max_answer_words: int, seed: int
) -> ConditionalFit:
    train, validation, test = parts
    family, layer = which.family, which.layer
    if config.nested and family == "bilinear" and which.scorer is not None:
        options = {"layer": layer, "max_answer_words": max_answer_words, "seed": seed}
        fit = fit_nested_probe(train, validation, config, **options)
    else:
        fit = fit_probe(family, train, validation, None, config, layer, max_answer_words, seed)
    device = train.features.words.device
    scales = None if fit.scales is None else torch.tensor(fit.scales, device=device)
    of_validation, of_test = (predict_cached(readout(fit, device), part, scales) for part in (validation, test))
    kept = ("n_trainable", "ridge", "validation_loss", "validation_f1", "iterations", "converged", "scales")
    facts = {key: getattr(fit, key) for key in kept} | {"remarks": list(fit.remarks)}
    facts["scales"] = None if fit.scales is None else list(fit.scales)
    logger.info("%s, layer %d: validation F1 %.3f", name, layer, fit.validation_f1)
    return ConditionalFit(name, family, layer, which.scorer, of_validation, of_test, facts)
