"""From span logits to a report: scores with intervals, breakdowns, no-model baselines, prediction rows.

Token-index F1 is the headline (docs/methods.md#token-f1). Validation questions choose, test questions report. Every
interval resamples sentences or documents, because the questions of one sentence are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax

from emergence.answering.features import SpanLogits
from emergence.data.qa_encoding import EncodedQA
from emergence.data.records import QAExample
from emergence.data.roles import asked_role
from emergence.measures.argument_selection import ArgumentChoices, argument_choices, selection_chance
from emergence.measures.bootstrap import Estimate, present_means_together
from emergence.measures.chance import heuristic_scores, learn_wh_rule, rule_scores, uniform_chance
from emergence.measures.clustering import ClusterKind, document_widening
from emergence.measures.scoring import SpanScores, answer_length_cap, score_spans
from emergence.measures.span_scores import span_em, span_f1
from emergence.measures.spans import GoldSpans, check_logits, decode_joint
from emergence.plain import plain
from emergence.spec.config import EvaluateConfig

#: Scores of the breakdowns. The average over predicates takes those of them that every question has.
BREAKDOWN_SCORES = ("f1_tokens", "em", "expected_f1", "log_prob", "argument_selection")
#: Scores of a row of ``predictions.jsonl``.
_ROW_SCORES = ("em", "f1_tokens", "log_prob", "expected_f1", "argument_selection")
#: Bins of answer lengths, as the least and most words of the training gold.
LENGTH_BINS = ((1, 1), (2, 3), (4, 7), (8, 15), (16, 10**9))
#: The score by which the best rule, the no-model floor, is chosen.
_FLOOR_SCORE = "f1_tokens"

Breakdown = dict[str, dict[str, dict[str, Estimate]]]
#: Score name to its (N,) values.
Columns = dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model on one split.

    Attributes:
        n, n_clusters, n_documents: Counts of questions, sentences and documents. Older files have None for documents.
        cluster: What the intervals resample, ``sentence`` or ``document``.
        document_widening: Standard error of F1 by documents over that by sentences; None where there is none.
        max_answer_words: Longest span decoded.
        scores: Score name -> mean over questions. The names are ``measures.scoring.SCORE_NAMES`` and
            ``invalid_rate``, the share of questions whose start and end, chosen apart, form no valid span. Only
            questions with another argument count for ``argument_selection``, which is absent where there are none.
        macro: Score name -> mean over predicates. A predicate counts once, however many questions it has.
        by: ``role`` (wh-word), ``asked_role``, ``voice`` or ``answer_words`` -> label -> score -> estimate.
        baselines: Name of a no-model rule -> score -> estimate; empty where none was asked for.
        floor: The baseline with the highest F1 (R_0 of docs/methods.md#no-model-floor); None without baselines.
        n_floored: Questions whose log-probability was raised to the floor of ``log_prob``.
        n_unreachable_questions: Questions all of whose golds are longer than ``max_answer_words``.
    """

    n: int
    n_clusters: int
    max_answer_words: int
    scores: dict[str, Estimate]
    macro: dict[str, Estimate]
    by: Breakdown
    baselines: dict[str, dict[str, Estimate]]
    floor: str | None
    n_floored: int
    n_unreachable_questions: int
    n_documents: int | None = None
    cluster: ClusterKind = "sentence"
    document_widening: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; :meth:`from_dict` is the inverse."""
        nested = ("scores", "macro", "by", "baselines")
        facts = {key: value for key, value in vars(self).items() if key not in nested}
        return plain(facts | {key: getattr(self, key) for key in nested})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Evaluation:
        """The inverse of :meth:`to_dict`."""
        nested = {key: _from_plain(values[key]) for key in ("scores", "macro", "by", "baselines")}
        return cls(**{**values, **nested})


def gold_spans(encoded: EncodedQA) -> GoldSpans:
    """All golds of the questions; the first of each is the one to train on."""
    return GoldSpans(encoded.gold_starts.astype(np.int64), encoded.gold_ends.astype(np.int64), encoded.gold_offsets)


def choose_max_answer_words(setting: int, train: EncodedQA) -> int:
    """Words of the longest span to decode: ``setting``, or for 0 the 99.5th percentile of training answers' lengths.

    Give the whole training split for few-shot runs too, because sizes are comparable only under one cap.
    """
    return setting or answer_length_cap(gold_spans(train))


def score_logits(logits: SpanLogits, encoded: EncodedQA, max_answer_words: int) -> SpanScores:
    """All scores of every question, including string scores and the choice among the sentence's arguments."""
    sentences, choices = [example.tokens for example in encoded.examples], arguments_to_choose(encoded)
    golds = gold_spans(encoded)
    return score_spans(
        logits.start, logits.end, logits.lengths, golds, max_answer_words, sentences=sentences, choices=choices
    )


def arguments_to_choose(encoded: EncodedQA) -> ArgumentChoices:
    """What each question chooses from: its own golds and those of the other questions about its predicate.

    Only questions of ``encoded`` are seen, so it should be a whole split.
    """
    predicates = [
        None if e.predicate_index is None else (e.source, e.sentence_id, e.predicate_index) for e in encoded.examples
    ]
    return argument_choices(gold_spans(encoded), predicates)


def present(value: float) -> float | None:
    """A question's score as JSON has it: None stands for nan, a score that the question does not have."""
    return float(value) if math.isfinite(value) else None


@dataclass(frozen=True)
class QuickScores:
    """What choices on validation look at: mean loss in nats per question, EM and token F1 of the joint decode."""

    loss: float
    em: float
    f1: float


def quick_scores(logits: SpanLogits, golds: GoldSpans, max_answer_words: int, train_gold: str = "first") -> QuickScores:
    """The loss as in training (``model.losses.span_cross_entropy``), and EM and F1 against all golds.

    All three are NaN if a logit is not finite.
    """
    if not (np.isfinite(logits.start).all() and np.isfinite(logits.end).all()):
        return QuickScores(math.nan, math.nan, math.nan)  # whoever trains knows what to say about it
    decoded = decode_joint(logits.start, logits.end, logits.lengths, max_answer_words)
    log_p = gold_log_probs(logits, golds, train_gold)
    return QuickScores(
        -float(log_p.mean()), float(span_em(decoded, golds).mean()), float(span_f1(decoded, golds).mean())
    )


def gold_log_probs(logits: SpanLogits, golds: GoldSpans, train_gold: str) -> npt.NDArray[np.float64]:
    """(N,) log-probability of each question's golds, start and end chosen apart, as in training.

    ``train_gold`` is ``first`` for the first gold, ``marginal`` for the sum over all.
    """
    start, end, _ = check_logits(logits.start, logits.end, logits.lengths)
    start_log_p, end_log_p = log_softmax(start, axis=1), log_softmax(end, axis=1)  # (N, W)
    of_golds = start_log_p[golds.owner, golds.starts] + end_log_p[golds.owner, golds.ends_inclusive]  # (G,)
    if train_gold == "first":
        return np.asarray(of_golds[golds.offsets[:-1]])
    top = golds.max_per_question(of_golds)
    return np.asarray(top + np.log(golds.sum_per_question(np.exp(of_golds - top[golds.owner]))))


def evaluate(
    scores: SpanScores,
    encoded: EncodedQA,
    config: EvaluateConfig,
    *,
    seed: int = 0,
    rules: Mapping[str, Columns] | None = None,
    trained_baselines: Mapping[str, SpanScores] | None = None,
) -> Evaluation:
    """The report of one model on one split.

    Args:
        scores: From :func:`score_logits`.
        encoded: The same questions.
        config: Draws and level of the intervals.
        seed: Seed of the bootstrap. Equal seeds give comparable resamples across models.
        rules: From :func:`baseline_scores`, for the same questions and longest span; None leaves them out.
        trained_baselines: Name -> scores of what was trained without a language model (R_1). They stand beside the
            rules but cannot become the ``floor``, which is the best rule.
    """
    alone = {"": (rules or {}, trained_baselines or {})}
    return evaluate_together({"": scores}, encoded, config, seed=seed, baselines=alone)[""]


def evaluate_together(
    scores: Mapping[str, SpanScores],
    encoded: EncodedQA,
    config: EvaluateConfig,
    *,
    seed: int = 0,
    baselines: Mapping[str, tuple[Mapping[str, Columns], Mapping[str, SpanScores]]] | None = None,
) -> dict[str, Evaluation]:
    """:func:`evaluate` of several read-outs of the same questions, by name: their resamples are drawn once.

    Args:
        scores: Name -> from :func:`score_logits`.
        baselines: Name -> ``rules`` and ``trained_baselines``, of the read-outs that stand beside some.
    """
    intervals = _Intervals(encoded.resampled(config.cluster), config, seed)
    labels = {kind: _groups(of_kind) for kind, of_kind in breakdown_labels(encoded).items()}
    beside = {name: (baselines or {}).get(name, ({}, {})) for name in scores}
    drafts = {
        name: _draft(of_name, encoded, config, intervals, labels, *beside[name]) for name, of_name in scores.items()
    }
    intervals.draw()
    return {name: _with_floor(draft, rules=beside[name][0]) for name, draft in drafts.items()}


def _with_floor(found: Evaluation, rules: Mapping[str, Columns]) -> Evaluation:
    best = max(rules, key=lambda name: found.baselines[name][_FLOOR_SCORE].point, default=None)
    return replace(found, floor=best)


def _draft(
    scores: SpanScores,
    encoded: EncodedQA,
    config: EvaluateConfig,
    intervals: _Intervals,
    labels: Mapping[str, Mapping[str, npt.NDArray[np.int64]]],
    rules: Mapping[str, Columns],
    trained_baselines: Mapping[str, SpanScores],
) -> Evaluation:
    """An evaluation whose estimates are asked for and not there yet, nor the floor, which is the best of them."""
    columns = {**scores.columns(), "invalid_rate": 1.0 - scores.independent_valid.astype(np.float64)}
    breakdown = {name: columns[name] for name in BREAKDOWN_SCORES if name in columns}
    of_all = {name: values for name, values in breakdown.items() if name != "argument_selection"}
    baselines = {rule: intervals.ask(by_score) for rule, by_score in rules.items()}
    for name, trained in trained_baselines.items():
        kept = {key: values for key, values in trained.columns().items() if key in BREAKDOWN_SCORES}
        baselines[name] = intervals.ask(kept)
    widening = document_widening(scores.f1_tokens, encoded.clusters, encoded.documents)
    return Evaluation(
        n=len(encoded),
        n_clusters=len(set(encoded.clusters.tolist())),
        max_answer_words=scores.max_answer_words,
        scores=intervals.ask(columns),
        macro=intervals.ask(*_by_predicate(of_all, encoded, intervals.clusters)),
        by={
            kind: {
                label: intervals.ask(
                    {name: values[rows] for name, values in breakdown.items()}, intervals.clusters[rows]
                )
                for label, rows in of_kind.items()
            }
            for kind, of_kind in labels.items()
        },
        baselines=baselines,
        floor=None,
        n_floored=scores.n_floored,
        n_unreachable_questions=scores.n_unreachable_questions,
        n_documents=len(np.unique(encoded.documents)),
        cluster=config.cluster,
        document_widening=widening if math.isfinite(widening) else None,
    )


def baseline_scores(encoded: EncodedQA, train: EncodedQA, max_answer_words: int) -> dict[str, Columns]:
    """Per-question F1 and EM of the rules that need no model, by name (docs/methods.md#no-model-floor).

    ``uniform`` draws a span at random. Where every question has a predicate (not in SQuAD), fixed rules around it
    follow, and ``wh_rule``, which learns on ``train`` where the answer to each kind of question stands.
    """
    golds = gold_spans(encoded)
    chance = uniform_chance(encoded.n_words, golds, max_answer_words)
    rows = {"uniform": {"f1_tokens": chance.f1, "em": chance.em}}
    where, where_train = _predicates(encoded), _predicates(train)
    if where is None or where_train is None:
        whole = (np.zeros_like(encoded.n_words), encoded.n_words - 1)
        return {**rows, "whole_sentence": rule_scores(whole, golds)}
    rows |= heuristic_scores(encoded.n_words, where, golds)
    rule = learn_wh_rule(train.n_words, where_train, *_wh_and_form(train), gold_spans(train))
    return {**rows, "wh_rule": rule_scores(rule.spans(encoded.n_words, where, *_wh_and_form(encoded)), golds)}


def breakdown_labels(encoded: EncodedQA) -> dict[str, list[str]]:
    """Kind of breakdown (``role``, ``asked_role``, ``voice``, ``answer_words``) to the label of every question."""
    voices = {True: "passive", False: "active", None: "unknown"}
    first = encoded.first_golds
    return {
        "role": [example.wh for example in encoded.examples],
        "asked_role": [asked_role(example) for example in encoded.examples],
        "voice": [voices[example.is_passive] for example in encoded.examples],
        "answer_words": [_length_label(n) for n in (first[:, 1] - first[:, 0] + 1).tolist()],
    }


def prediction_rows(scores: SpanScores, encoded: EncodedQA) -> list[dict[str, Any]]:
    """One JSON-ready row per question for ``predictions.jsonl``; spans are ``[start, end)`` in words."""
    rows, chance = [], selection_chance(arguments_to_choose(encoded))
    columns = scores.columns()
    for i, example in enumerate(encoded.examples):
        start, end = int(scores.starts[i]), int(scores.ends[i]) + 1
        row = {
            "id": example.id,
            "source": example.source,
            "sentence_id": example.sentence_id,
            "document_id": example.document_id,
            "words": list(example.tokens),
            "predicate_index": example.predicate_index,
            "predicate": None if example.predicate_index is None else example.tokens[example.predicate_index],
            "question": example.question,
            "role": example.wh,
            "asked_role": asked_role(example),
            "passive": example.is_passive,
            "golds": [[a.start, a.end] for a in example.answers],
            "gold_texts": [a.text for a in example.answers],
            "prediction": [start, end],
            "prediction_text": " ".join(example.tokens[start:end]),
        }
        numbers = {name: present(columns[name][i]) for name in _ROW_SCORES if name in columns}
        rows.append(row | numbers | {"argument_chance": present(chance[i])})
    return rows


class _Intervals:
    """Means over the questions that have a value, with cluster intervals, all from one seed and drawn together.

    Attributes:
        clusters: (N,) what is resampled, of each question.
    """

    def __init__(self, clusters: npt.NDArray[np.int64], config: EvaluateConfig, seed: int) -> None:
        self.clusters, self._config, self._seed = clusters, config, seed
        self._asked: list[tuple[Columns, npt.NDArray[np.int64]]] = []
        self._answers: list[dict[str, Estimate]] = []

    def ask(self, columns: Columns, clusters: npt.NDArray[np.int64] | None = None) -> dict[str, Estimate]:
        """The columns' estimates, which :meth:`draw` puts in; ``clusters`` are those of all questions by default."""
        self._asked.append((columns, self.clusters if clusters is None else clusters))
        self._answers.append({})
        return self._answers[-1]

    def draw(self) -> None:
        """Answer all that was asked."""
        config = self._config
        options = {"n_boot": config.bootstrap_draws, "seed": self._seed}
        found = present_means_together(self._asked, level=1 - config.alpha, **options)
        for answer, means in zip(self._answers, found, strict=True):
            answer |= means
        self._asked, self._answers = [], []


def mean_estimates(columns: Columns, encoded: EncodedQA, config: EvaluateConfig, seed: int = 0) -> dict[str, Estimate]:
    """Means of per-question columns (N,) over the questions that have a value, with the intervals of an evaluation."""
    intervals = _Intervals(encoded.resampled(config.cluster), config, seed)
    means = intervals.ask(columns)
    intervals.draw()
    return means


def _by_predicate(
    columns: Columns, encoded: EncodedQA, clusters: npt.NDArray[np.int64]
) -> tuple[Columns, npt.NDArray[np.int64]]:
    """Means within each predicate, and its own of ``clusters`` (N,). Questions without one are averaged by sentence."""
    seen: dict[tuple[int, int | None], int] = {}
    keys = ((int(c), e.predicate_index) for c, e in zip(encoded.clusters, encoded.examples, strict=True))
    owner = np.array([seen.setdefault(key, len(seen)) for key in keys], dtype=np.int64)
    counts = np.bincount(owner)
    means = {name: np.bincount(owner, weights=values) / counts for name, values in columns.items()}
    return means, clusters[np.unique(owner, return_index=True)[1]]


def _groups(labels: Sequence[str]) -> dict[str, npt.NDArray[np.int64]]:
    """Rows of each label, the most frequent label first."""
    array = np.array(labels, dtype=object)
    names, counts = np.unique(array.astype(str), return_counts=True)
    order = np.lexsort((names, -counts))
    return {str(names[i]): np.flatnonzero(array == names[i]) for i in order}


def _length_label(n_words: int) -> str:
    low, high = next(b for b in LENGTH_BINS if n_words <= b[1])
    return f"{low}" if low == high else f"{low}+" if high == LENGTH_BINS[-1][1] else f"{low}-{high}"


def _predicates(encoded: EncodedQA) -> npt.NDArray[np.int64] | None:
    """Predicate word indices (N,), or None where some question has none."""
    indices = [example.predicate_index for example in encoded.examples]
    return None if None in indices else np.array(indices, dtype=np.int64)


def _wh_and_form(encoded: EncodedQA) -> tuple[list[str], list[str]]:
    """What the wh-rule may read off questions: the wh-words, and the forms (voice, and whether there is a subject)."""
    return [e.wh for e in encoded.examples], [_form(e) for e in encoded.examples]


def _form(example: QAExample) -> str:
    subject = "?" if example.slots is None else "subject" if example.slots[2] else "no subject"
    return f"passive={example.is_passive}, {subject}"


def _from_plain(value: Mapping[str, Any]) -> Any:
    if "point" in value and "n_clusters" in value:
        return Estimate.from_dict(value)
    return {key: _from_plain(v) for key, v in value.items()}
