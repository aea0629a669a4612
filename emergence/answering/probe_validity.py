"""Does a probe read the states, or did it learn the answers itself? (docs/methods.md#selectivity, docs/methods.md#mdl)

Two answers are measured for every probe family, at its reported layer. *Selectivity* is its test score minus that of
the same probe on a control task that can only be learned by rote (Hewitt and Liang 2019). *Description length* is the
bits of the training answers given the states, by the online code (Voita and Titov 2020), for the task and for the
control. Everything but the trunk's seed is fixed, so that runs differ in their states alone.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from emergence.answering.evaluate import gold_spans
from emergence.answering.features import SpanLogits
from emergence.answering.probe import ProbeReport
from emergence.answering.probe_data import ProbeData, Standardisation, predict_cached, standardise_
from emergence.answering.probe_fitting import (
    Probe,
    ProbeFit,
    SpanObjective,
    copy_weights,
    fit_probe,
    linear_head,
    mean_loss,
    new_optimizer,
    new_probe,
    probe_seed,
    reader,
    readout,
    train_epoch,
)
from emergence.answering.probe_loop import Piece, ProbeState, fit_pieces
from emergence.data.qa_encoding import EncodedQA
from emergence.measures.bootstrap import Estimate
from emergence.measures.probe_validity import (
    ControlTask,
    DescriptionLength,
    mdl_block_ends,
    online_description_length,
    selectivity,
)
from emergence.measures.span_scores import gold_log_prob, span_f1
from emergence.measures.spans import GoldSpans, decode_joint, n_valid_spans
from emergence.model import Encoder
from emergence.plain import plain
from emergence.spec.config import EvaluateConfig, ProbeConfig
from emergence.training.context import Context

logger = logging.getLogger(__name__)

#: Seeds of the control answers and of the online code's order of questions. They are the same for all runs.
_CONTROL_SEED = _ORDER_SEED = 0
#: The code's probes choose among their rounds by the loss on this many validation questions.
_VALIDATION_QUESTIONS = 512
#: A round has at least this many steps: it is one epoch, or several over a short prefix.
_STEPS_PER_ROUND = 5
#: What is measured for each family, in this order.
_PARTS = ("mdl", "control", "control_mdl")


@dataclass(frozen=True)
class ProbeValidity:
    """How far one family's score comes from the states.

    The control parts are None where a question has no predicate for the control answers to lie around.

    Attributes:
        family, layer: The probe's family, and the layer that validation chose for it.
        task_f1, control_f1: Mean test token F1 on the task and on the control task.
        selectivity: Their difference, with its cluster interval. It is about 0 where the probe learned by rote.
        seen_types: Share of test questions whose control type occurs in training. Rote reaches no others.
        mdl, control_mdl: Code lengths of the training answers of the task and of the control task.
    """

    family: str
    layer: int
    task_f1: float
    control_f1: float | None
    selectivity: Estimate | None
    seen_types: float | None
    mdl: DescriptionLength
    control_mdl: DescriptionLength | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        order = ("layer", "task_f1", "control_f1", "seen_types", "selectivity", "mdl", "control_mdl")
        return plain({key: getattr(self, key) for key in order})


def control_golds(splits: Sequence[EncodedQA]) -> tuple[tuple[GoldSpans, ...], float] | None:
    """The control answers of all splits, and the share of the last split's types that the first has.

    A type is the pair of lower-case predicate and wh-word. The answers' places are drawn from the golds of the first
    split. The result is None where some question has no predicate.
    """
    places: list[npt.NDArray[np.int64]] = []
    for split in splits:
        indices = [example.predicate_index for example in split.examples]
        if None in indices:
            return None
        places.append(np.array(indices, dtype=np.int64))
    kinds = [_kinds(split) for split in splits]
    first = splits[0].first_golds
    task = ControlTask(first[:, 0] - places[0], first[:, 1] - first[:, 0] + 1, _CONTROL_SEED)
    spans = (task.spans(kind, where, split.n_words) for kind, where, split in zip(kinds, places, splits, strict=True))
    golds = tuple(GoldSpans(starts, ends, np.arange(len(starts) + 1)) for starts, ends in spans)
    known = set(kinds[0])
    return golds, float(np.mean([kind in known for kind in kinds[-1]]))


def online_code(
    fit: ProbeFit, train: ProbeData, validation: ProbeData, config: ProbeConfig, *, max_coded_words: int, seed: int
) -> DescriptionLength:
    """Bits that send the training answers, block after block, to somebody who has the states.

    Each block is coded by a probe that was trained on all questions before it. Its training starts from the weights of
    the probe before. The ridge of a linear probe is a Gaussian prior, which is kept: on m of n questions the ridge is
    n / m times that of ``fit``. The other families keep their best round on validation.

    Args:
        fit: The finished probe, which gives family, layer and ridge.
        train, validation: Questions with standardised states.
        config: Its ``mdl_epochs`` and the optimiser's settings are used.
        max_coded_words: Words of the longest span that can be sent; no answer may be longer.
        seed: Seed of the initial weights and the batches.
    """
    order = np.random.default_rng(_ORDER_SEED).permutation(len(train))
    ends = mdl_block_ends(len(train))
    learner: _LinearLearner | _MinibatchLearner
    if fit.family == "linear":
        learner = _LinearLearner(fit, config, len(train))
    else:
        learner = _MinibatchLearner(fit, config, train, validation, seed)
    blocks, clipped = [], 0
    for end, next_end in pairwise(ends.tolist()):
        probe = learner.learn(train.take(order[:end]))
        block = train.take(order[end:next_end])
        logits = predict_cached(reader(probe), block)
        coded = gold_log_prob(logits.start, logits.end, logits.lengths, block.golds, max_coded_words)
        blocks.append(coded.log_prob)
        clipped += coded.n_floored
    length = online_description_length(n_valid_spans(train.lengths[order], max_coded_words), ends, blocks)
    return replace(length, n_clipped=clipped)


class _LinearLearner:
    """The linear probe of a growing prefix. Each optimum is the start of the next."""

    def __init__(self, fit: ProbeFit, config: ProbeConfig, n: int) -> None:
        self._ridge, self._iterations, self._n = fit.ridge or 0.0, config.max_iterations, n
        self._train_gold = config.train_gold
        self._weights: npt.NDArray[np.float64] | None = None

    def learn(self, prefix: ProbeData) -> Probe:
        objective = SpanObjective(prefix, self._train_gold)
        start = objective.start if self._weights is None else self._weights
        self._weights = objective.minimum(start, self._ridge * self._n / len(prefix), self._iterations).x
        return linear_head(self._weights, objective.hidden_size, prefix.features.words.device)


class _MinibatchLearner:
    """A bilinear or mlp probe of a growing prefix. It keeps its best round, or what it was before if that is better."""

    def __init__(self, fit: ProbeFit, config: ProbeConfig, train: ProbeData, validation: ProbeData, seed: int) -> None:
        device, size = train.features.words.device, int(train.features.words.shape[1])
        self._seed, self._config = probe_seed(seed, fit.layer, fit.family), config
        self._probe = new_probe(fit.family, size, config.bilinear_rank, self._seed).to(device)
        few = np.unique(np.linspace(0, len(validation) - 1, _VALIDATION_QUESTIONS).round().astype(np.int64))
        self._validation = validation.take(few)

    def learn(self, prefix: ProbeData) -> Probe:
        config, probe = self._config, self._probe
        optimizer = new_optimizer(probe, config)
        repeats = math.ceil(_STEPS_PER_ROUND / math.ceil(len(prefix) / config.batch_size))
        gold = config.train_gold
        best, weights = mean_loss(probe, self._validation, gold), copy_weights(probe)
        for epoch in range(config.mdl_epochs * repeats):
            train_epoch(probe, optimizer, prefix, config, self._seed, epoch, config.mdl_epochs * repeats)
            if (epoch + 1) % repeats == 0 and (loss := mean_loss(probe, self._validation, gold)) < best:
                best, weights = loss, copy_weights(probe)
        probe.load_state_dict(weights)
        return probe


@dataclass(frozen=True)
class _Task:
    """The questions of all splits at one layer, with the golds to learn. The test states stay raw."""

    train: ProbeData
    validation: ProbeData
    test: ProbeData

    def control(self, golds: Sequence[GoldSpans]) -> _Task:
        parts = (self.train, self.validation, self.test)
        return _Task(*(replace(part, golds=gold) for part, gold in zip(parts, golds, strict=True)))


def measure_validity(
    trunk: Encoder,
    report: ProbeReport,
    splits: tuple[EncodedQA, EncodedQA, EncodedQA],
    test_logits: Mapping[str, SpanLogits],
    config: ProbeConfig,
    evaluate: EvaluateConfig,
    context: Context,
    *,
    seed: int,
    max_answer_words: int,
) -> dict[str, ProbeValidity]:
    """Selectivity and description length of every family of ``report``, at its chosen layer.

    Args:
        trunk: A frozen trunk in eval mode. It runs once over the questions.
        report: The fits.
        splits: Training, validation and test questions.
        test_logits: Family -> logits of its chosen fit on the test questions.
        config: Settings of the probes. The control fits use them too, and the linear one the ridge chosen on the task.
        evaluate: Draws and level of the selectivity's interval.
        context: Its checkpointer holds the fits, and each measured part of this call beside them.
        seed: The seed that the fits were made with.
        max_answer_words: Longest span decoded.

    Raises:
        StopRequested: ``should_stop`` was true after a part; the same call resumes.
    """
    best = {family: report.best(family) for family in dict.fromkeys(fit.family for fit in report.fits)}
    control = control_golds(splits)
    kinds = _PARTS if control else _PARTS[:1]
    state = ProbeState.resumed(context, report.fits)

    def measure(family: str, part: str, prepared: tuple[_Task, Standardisation]) -> dict[str, float]:
        task, statistics = prepared
        posed = task.control(control[0]) if control and part.startswith("control") else task
        state.validity[f"{family} {part}"] = _measure(
            part, best[family], posed, statistics, config, max_answer_words, _longest_answer(splits[0]), seed
        )
        return {}

    pieces = [
        Piece(fit.layer, f"{part} of the {family} probe", {"family": family, "part": part},
              partial(measure, family, part))
        for family, fit in best.items()
        for part in kinds
        if f"{family} {part}" not in state.validity
    ]  # fmt: skip
    fit_pieces(
        pieces, trunk, splits, _standardised, state, context, kind="probe_validity", gigabytes=config.cache_gigabytes,
        progress=(len(best) * len(kinds), "fits", "probe validity"),
    )  # fmt: skip
    seen_types = control[1] if control else None
    return {
        family: _summary(fit, state.validity, test_logits[family], splits[2], seen_types, evaluate, max_answer_words)
        for family, fit in best.items()
    }


def _standardised(data: Sequence[ProbeData]) -> tuple[_Task, Standardisation]:
    task = _Task(*data)
    return task, standardise_(task.train.features, task.validation.features)


def _measure(
    part: str,
    fit: ProbeFit,
    task: _Task,
    statistics: Standardisation,
    config: ProbeConfig,
    max_answer_words: int,
    max_coded_words: int,
    seed: int,
) -> Any:
    """One part of one family as plain values: control scores of every question, or a description length."""
    if part != "control":
        code = online_code(fit, task.train, task.validation, config, max_coded_words=max_coded_words, seed=seed)
        return asdict(code)
    same = config if fit.ridge is None else replace(config, ridges=(fit.ridge,))
    learned = fit_probe(fit.family, task.train, task.validation, statistics, same, fit.layer, max_answer_words, seed)
    logits = predict_cached(readout(learned, task.test.features.words.device), task.test)
    return _f1(logits, task.test.golds, max_answer_words).tolist()


def _summary(
    fit: ProbeFit,
    measured: Mapping[str, Any],
    logits: SpanLogits,
    test: EncodedQA,
    seen: float | None,
    evaluate: EvaluateConfig,
    max_answer_words: int,
) -> ProbeValidity:
    of_task = _f1(logits, gold_spans(test), max_answer_words)
    control = measured.get(f"{fit.family} control")
    contrast = code = None
    if control is not None:
        options = {"n_boot": evaluate.bootstrap_draws, "level": 1 - evaluate.alpha}
        clusters = test.resampled(evaluate.cluster)
        contrast = selectivity(of_task, control, clusters, **options)  # type: ignore[arg-type]
        code = DescriptionLength(**measured[f"{fit.family} control_mdl"])
    mdl = DescriptionLength(**measured[f"{fit.family} mdl"])
    logger.info(
        "%s probe, layer %d: selectivity %s, compression %.2f",
        fit.family, fit.layer, f"{contrast.point:.3f}" if contrast else "unknown", mdl.compression,
    )  # fmt: skip
    mean = None if control is None else float(np.mean(control))
    return ProbeValidity(fit.family, fit.layer, float(of_task.mean()), mean, contrast, seen, mdl, code)


def _f1(logits: SpanLogits, golds: GoldSpans, max_answer_words: int) -> npt.NDArray[np.float64]:
    """(N,) token F1 of the decoded spans."""
    return span_f1(decode_joint(logits.start, logits.end, logits.lengths, max_answer_words), golds)


def _kinds(split: EncodedQA) -> list[Hashable]:
    """(N,) control types of questions that all have a predicate."""
    return [(e.tokens[e.predicate_index].lower(), e.wh) for e in split.examples if e.predicate_index is not None]


def _longest_answer(train: EncodedQA) -> int:
    """Words of the longest training answer, which the code must be able to send."""
    return int((train.gold_ends - train.gold_starts).max()) + 1
