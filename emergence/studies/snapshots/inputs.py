"""What the frozen probe of snapshots reads: a run's trunks, and its questions and held-out text, encoded once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from emergence.answering.evaluate import Columns, choose_max_answer_words, score_logits
from emergence.answering.few_shot import few_shot_indices
from emergence.answering.word_scorer import WordScores, word_scores
from emergence.data.qa_encoding import IntArray
from emergence.data.sources import PretrainingData, load_qa, prepare_pretraining_data
from emergence.data.stream import TokenStream
from emergence.errors import UsageError
from emergence.experiment.claims import own_result
from emergence.experiment.facts import own_scorer
from emergence.experiment.inputs import Questions, encode_questions, marks_of
from emergence.experiment.store import RunDirectory
from emergence.model import Trunk, build_trunk
from emergence.spec.config import ExperimentConfig
from emergence.spec.experiment import ExperimentSpec
from emergence.studies.snapshots.options import DEFAULT_SAMPLES, SnapshotOptions
from emergence.studies.snapshots.result import INITIAL, RANDOM, TRAINED
from emergence.studies.trunks import (
    Timeline,
    TimelinePoint,
    read_timeline,
    refuse_without_snapshots,
    told_progress,
)
from emergence.training.context import Context
from emergence.training.precision import resolve_precision, select_device

#: Change it when a stored cell means something else.
CELL_VERSION = 3


@dataclass(frozen=True)
class TrunkToProbe:
    """One trunk to probe. ``weights`` identifies it, and ``build`` makes it on the CPU."""

    name: str
    kind: str
    step: int
    tokens: int
    weights: str
    build: Callable[[], Trunk]


@dataclass(frozen=True)
class Work:
    """What all snapshots share: the run, and its data, encoded once."""

    timeline: Timeline
    spec: ExperimentSpec
    options: SnapshotOptions
    questions: Questions
    n_train_available: int
    question_fingerprint: str
    text: TokenStream
    context: Context
    token_counts: IntArray
    words: WordScores

    @property
    def families(self) -> tuple[str, ...]:
        return self.options.families or tuple(self.spec.config.probe.families)

    @property
    def layers(self) -> tuple[int, ...]:
        chosen = self.options.layers
        return tuple(range(self.timeline.model.n_layers + 1)) if chosen is None else tuple(sorted(set(chosen)))

    @property
    def max_answer_words(self) -> int:
        return choose_max_answer_words(self.spec.config.finetune.max_answer_words, self.questions.all_train)

    @cached_property
    def words_alone(self) -> Columns:
        """Score -> (N,) of words and positions alone on the test questions, to which the states of each trunk add."""
        return score_logits(self.words.test, self.questions.test, self.max_answer_words).columns()

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Everything besides the weights that decides a cell, and the draws and level of the intervals."""
        probe = dataclasses.asdict(self.spec.config.probe)
        evaluation = self.spec.config.evaluate
        return {
            "cell_version": CELL_VERSION,
            "families": list(self.families),
            "layers": list(self.layers),
            "train_questions": len(self.questions.train),
            "train_questions_available": self.n_train_available,
            "seed": self.spec.seed,
            "layout": self.spec.layout,
            "marks": marks_of(self.spec) if marks_of(self.spec) == "special" else list(self.questions.marks.texts),
            "max_answer_words": self.max_answer_words,
            "probe": {k: v for k, v in probe.items() if k not in ("families", "cache_gigabytes")},
            "questions": self.question_fingerprint,
            "tokenizer": self.timeline.tokenizer.fingerprint,
            "text": self.text.fingerprint,
            "loss_tokens": self.options.loss_tokens,
            "precision": self.context.precision,
            "bootstrap_draws": evaluation.bootstrap_draws,
            "level": 1 - evaluation.alpha,
        }


def timeline_of(run: RunDirectory) -> Timeline:
    """The trunks of a finished run.

    Raises:
        UsageError: It is not finished, or has no snapshots of its pretraining.
        RunDirectoryError: Its result is of another run.
    """
    if not run.is_finished:
        raise UsageError(f"{run.run_id} is not finished: run its command again to go on with it, then probe it")
    own_result(run)
    if run.spec.model is None:
        refuse_without_snapshots(run)
    return read_timeline(run)


def prepare(timeline: Timeline, options: SnapshotOptions) -> Work:
    """Read and encode questions and text. Layers are checked here, where the model is known."""
    if bad := [layer for layer in options.layers or () if not 0 <= layer <= timeline.model.n_layers]:
        raise UsageError(f"--layers {bad[0]}: this model's layers are 0 (embeddings) to {timeline.model.n_layers}")
    spec = timeline.run.spec.as_studied()
    spec = dataclasses.replace(spec, qa_data=options.qa_data or spec.qa_data, config=_probed_as_today(spec))
    dataset = load_qa(spec, options.cache_dir)
    text = held_out_text(timeline, options.cache_dir, options.pretrain_text)
    length = spec.config.model.sequence_length
    questions = encode_questions(spec, dataset, timeline.tokenizer, length, text.token_counts)
    n = len(questions.all_train)
    limit = min(DEFAULT_SAMPLES, n) if options.samples is None else options.samples or None
    train = questions.all_train.subset(few_shot_indices(n, limit, spec.seed))
    questions, device = dataclasses.replace(questions, train=train), select_device(options.device)
    return Work(
        timeline=timeline,
        spec=spec,
        options=options,
        questions=questions,
        n_train_available=n,
        question_fingerprint=dataset.fingerprint,
        text=text.test,
        token_counts=text.token_counts,
        words=_words(spec, questions, options.cache_dir),
        context=Context(device=device, precision=resolve_precision(spec.config.pretrain.precision, device)),
    )


def _probed_as_today(spec: ExperimentSpec) -> ExperimentConfig:
    """The run's configuration, in which what states add is always measured, however old the run is.

    A run that only pretrained never probed, so its probes train on the golds that finetuning trains on.
    """
    probe = dataclasses.replace(spec.config.probe, conditional=True)
    if spec.skip_finetune:
        probe = dataclasses.replace(probe, train_gold=spec.config.finetune.train_gold)
    return dataclasses.replace(spec.config, probe=probe)


def _words(spec: ExperimentSpec, questions: Questions, cache_dir: Path | None) -> WordScores:
    """The scores of R_1, to which the states of every snapshot may add."""
    max_answer_words = choose_max_answer_words(spec.config.finetune.max_answer_words, questions.all_train)
    splits = questions.train, questions.validation, questions.test
    return word_scores(*splits, variant=own_scorer(spec.layout), max_answer_words=max_answer_words, cache_dir=cache_dir)


def held_out_text(timeline: Timeline, cache_dir: Path | None, pretrain_text: str | None = None) -> PretrainingData:
    """The run's text without NQ questions. They are in training alone, so the test split is the same.

    Args:
        pretrain_text: Where it lies now, if it was moved.

    Raises:
        UsageError: It gives another tokenizer than the run's.
    """
    spec = timeline.run.spec
    text = dataclasses.replace(
        spec, pretrain_data="wiki", nq_data=None, pretrain_text=pretrain_text or spec.pretrain_text
    )
    data = prepare_pretraining_data(text, cache_dir)
    if data.tokenizer.fingerprint != timeline.tokenizer.fingerprint:
        raise UsageError(
            f"the pretraining text gives another tokenizer than that of {timeline.run.run_id}, so losses could not be "
            "compared: say where its own text lies with --pretrain-text"
        )
    return data


def trunks_to_probe(work: Work) -> list[TrunkToProbe]:
    """The start, every ``every``-th snapshot, the trained trunk, and random trunks."""
    timeline, model, rows = work.timeline, work.timeline.model, work.timeline.vocab_rows
    trunks = [trunk_at(point) for point in timeline.checkpoints[: timeline.start_index + 1]]
    if trunks[0].step != 0:

        def first() -> Trunk:
            return build_trunk(model, rows, seed=work.spec.seed)

        trunks.insert(
            0, TrunkToProbe("initial", INITIAL, 0, 0, f"{model.init} initialisation, seed {work.spec.seed}", first)
        )
    kept = [trunk for i, trunk in enumerate(trunks) if i % work.options.every == 0 or i == len(trunks) - 1]
    for k in range(work.options.random_trunks):
        seed = work.spec.seed + k

        def draw(seed: int = seed) -> Trunk:
            return build_trunk(model, rows, seed=seed, init="normal")

        kept.append(TrunkToProbe(f"random_{k}", RANDOM, 0, 0, f"normal initialisation, seed {seed}", draw))
    return kept


def trunk_at(point: TimelinePoint) -> TrunkToProbe:
    """The trunk of one place on a run's way, with its step."""
    step, tokens = (count or 0 for count in told_progress(point)[1:])

    def build() -> Trunk:
        trunk = point.source.build()
        assert isinstance(trunk, Trunk)
        return trunk

    return TrunkToProbe(point.name, TRAINED if step else INITIAL, step, tokens, point.source.key, build)
