"""Answers from prompts by a run's trunk, or by every snapshot of its pretraining."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from emergence.answering.evaluate import baseline_scores, choose_max_answer_words, gold_spans
from emergence.answering.prompted import Prompt, Prompter, score_prompts
from emergence.data.qa_encoding import EncodedQA
from emergence.data.sources import load_qa
from emergence.data.stream import TokenStream
from emergence.errors import UsageError
from emergence.experiment.inputs import encode_questions
from emergence.experiment.run_directory import RunDirectory
from emergence.files import content_digest
from emergence.measures.measured_coverage import units_of
from emergence.measures.span_tables import golds_log_sum, score_table
from emergence.model import Trunk
from emergence.plain import plain
from emergence.spec.experiment import ExperimentSpec
from emergence.studies.prompted.result import (
    FILES,
    GOLD_NATS,
    PMI,
    RAW,
    SCORES,
    PromptedResult,
    PromptedTrunk,
    summarise,
)
from emergence.studies.snapshots.inputs import held_out_text
from emergence.studies.study import Cell, SealedStudy
from emergence.studies.trunks import (
    Timeline,
    TimelinePoint,
    has_other_questions,
    read_timeline,
    refuse_without_snapshots,
    told_progress,
)
from emergence.training.context import Context
from emergence.training.language_model_eval import evaluate_language_model
from emergence.training.precision import resolve_precision, select_device
from emergence.training.recording import Progress
from emergence.wording import counted

#: Change it when a stored cell means something else.
CELL_VERSION = 2
#: Keeps the choice of test questions apart from all other draws of the same seed.
_STREAM = 0x7E57


@dataclass(frozen=True, kw_only=True)
class PromptedOptions:
    """What to ask, and how.

    Attributes:
        shots: Training questions in a prompt, one number or several.
        questions: Test questions that are asked, drawn with the run's seed; 0 asks all.
        snapshots: Whether every snapshot of pretraining is asked, too.
        qa_data, pretrain_text: Where the run's questions and text lie now, if they were moved.
        cache_dir: Where derived data is kept.
        device: ``cpu``, ``cuda`` or ``cuda:N``. The default is the GPU where there is one.
    """

    shots: tuple[int, ...] = (0, 5)
    questions: int = 0
    snapshots: bool = False
    qa_data: str | None = None
    pretrain_text: str | None = None
    cache_dir: Path | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        if not self.shots or min(self.shots) < 0 or len(set(self.shots)) < len(self.shots):
            raise UsageError("--shots: give whole numbers from 0 on, each once, with commas, e.g. 0,5")
        if self.questions < 0:
            raise UsageError(f"--questions must be 0 (all) or more, not {self.questions}")


def parse_shots(text: str) -> tuple[int, ...]:
    """``0,5`` as numbers.

    Raises:
        UsageError: An entry is no whole number.
    """
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UsageError(f"--shots {text}: give whole numbers with commas, e.g. 0,5") from None


@dataclass(frozen=True)
class Work:
    """What all cells share: the run, and its data.

    Attributes:
        test: The test questions that are asked, and ``numbers`` their places among all test questions.
        train: All training questions, of which prompts take their shots.
        separator: The token that ends sentences and answers, and ``mark`` its text.
        text: Held-out text, on which losses are measured; kept in ``losses`` by the digest of the weights.
        prompts: Shots to the prompts of all questions, which are the same for every trunk.
    """

    timeline: Timeline
    spec: ExperimentSpec
    options: PromptedOptions
    train: EncodedQA
    test: EncodedQA
    numbers: tuple[int, ...]
    n_test: int
    max_answer_words: int
    separator: int
    mark: str
    question_fingerprint: str
    name: str
    text: TokenStream
    context: Context
    losses: dict[str, dict[str, Any]] = field(default_factory=dict)
    prompts: dict[int, list[Prompt | None]] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything besides the weights and the shots that decides a cell, and draws and level of the intervals."""
        evaluation = self.spec.config.evaluate
        return {
            "cell_version": CELL_VERSION,
            "questions": self.question_fingerprint,
            "n_questions": len(self.test),
            "n_test_questions": self.n_test,
            "train_questions": len(self.train),
            "max_answer_words": self.max_answer_words,
            "max_tokens": self.timeline.model.sequence_length,
            "separator": self.mark,
            "seed": self.spec.seed,
            "tokenizer": self.timeline.tokenizer.fingerprint,
            "text": self.text.fingerprint,
            "precision": self.context.precision,
            "bootstrap_draws": evaluation.bootstrap_draws,
            "level": 1 - evaluation.alpha,
        }


def prepare(run: RunDirectory, options: PromptedOptions) -> Work:
    """Read what is asked of a run.

    Raises:
        UsageError: It has no snapshots, or fewer training questions than shots.
        RunDirectoryError: It has no trunk yet.
        DataError: Questions or text cannot be found.
    """
    if options.snapshots:
        refuse_without_snapshots(run)
    timeline = read_timeline(run)
    config = run.spec.config
    config = dataclasses.replace(config, evaluate=dataclasses.replace(config.evaluate, minimal_pairs=0))
    spec = dataclasses.replace(run.spec.as_studied(), qa_data=options.qa_data or run.spec.qa_data, config=config)
    dataset = load_qa(spec, options.cache_dir)
    text = held_out_text(timeline, options.cache_dir, options.pretrain_text)
    limit = timeline.model.sequence_length
    # Encoding drops the questions that no run can read, and tells the mark that this text has between its parts.
    questions = encode_questions(spec, dataset, timeline.tokenizer, limit, text.token_counts)
    if max(options.shots) > len(questions.all_train):
        raise UsageError(f"--shots {max(options.shots)}: there are {len(questions.all_train)} training questions")
    numbers = _asked(len(questions.test), options.questions, spec.seed)
    device = select_device(options.device)
    return Work(
        timeline=timeline,
        spec=spec,
        options=options,
        train=questions.all_train,
        test=questions.test.subset(numbers),
        numbers=tuple(numbers),
        n_test=len(questions.test),
        max_answer_words=choose_max_answer_words(config.finetune.max_answer_words, questions.all_train),
        separator=questions.marks.separator,
        mark=questions.marks.texts[0],
        question_fingerprint=dataset.fingerprint,
        name=dataset.name,
        text=text.test,
        context=Context(device=device, precision=resolve_precision(config.pretrain.precision, device)),
    )


def _asked(n_questions: int, limit: int, seed: int) -> list[int]:
    order = np.random.default_rng([seed, _STREAM]).permutation(n_questions)
    return sorted(order[: limit or n_questions].tolist())


class PromptedStudy(SealedStudy[PromptedTrunk, PromptedResult]):
    """A cell is one trunk's answers from prompts of one number of shots."""

    files = FILES
    noun = "trunk"
    steps = "questions"

    def __init__(self, work: Work, subject: dict[str, Any]) -> None:
        self._work, self._subject = work, subject
        timeline = work.timeline
        first = 0 if work.options.snapshots else timeline.start_index
        self._points = timeline.checkpoints[first : timeline.start_index + 1]

    def cells(self, folder: Path) -> list[Cell[PromptedTrunk]]:
        settings = content_digest(self._work.settings)
        return [
            Cell(
                f"{point.name}, {counted(shots, 'shot')}",
                content_digest([settings, shots, point.source.key])[:24],
                partial(_answer, self._work, point, shots),
                len(self._work.test),
            )
            for shots in self._work.options.shots
            for point in self._points
        ]

    def restore(self, content: dict[str, Any]) -> PromptedTrunk:
        return PromptedTrunk.from_dict(content)

    def result(self, made: Sequence[PromptedTrunk]) -> PromptedResult:
        work, evaluation = self._work, self._work.spec.config.evaluate
        points = [point for _ in work.options.shots for point in self._points]
        # Trunks that share a cell may differ in name, so the name is not taken from the cell.
        trunks = [dataclasses.replace(cell, name=told_progress(p)[0]) for cell, p in zip(made, points, strict=True)]
        clusters = work.test.clusters
        return PromptedResult(
            subject=self._subject,
            settings=work.settings,
            notes=tuple(_notes(work, trunks)),
            ids=tuple(example.id for example in work.test.examples),
            clusters=clusters,
            no_model=_no_model(work, trunks),
            trunks=tuple(trunks),
            estimates=tuple(
                summarise(trunk, clusters, n_boot=evaluation.bootstrap_draws, level=1 - evaluation.alpha)
                for trunk in trunks
            ),
        )


def _answer(work: Work, point: TimelinePoint, shots: int, progress: Progress) -> PromptedTrunk:
    trunk = point.source.build()
    assert isinstance(trunk, Trunk)
    trunk = trunk.to(work.context.device).eval()
    chunk = work.spec.config.pretrain.loss_chunk_rows
    key = point.source.key
    if key not in work.losses:
        work.losses[key] = plain(
            evaluate_language_model(trunk, work.text, trunk.config.sequence_length, work.context, chunk)
        )
    prompts = _prompts(work, shots)
    fits = np.array([i for i, prompt in enumerate(prompts) if prompt is not None], dtype=np.int64)
    if not len(fits):
        raise UsageError(
            f"--shots {shots}: no prompt fits the {trunk.config.sequence_length} tokens of this trunk: ask with fewer"
        )
    scored = [prompt for prompt in prompts if prompt is not None]
    tables = score_prompts(trunk, scored, work.separator, work.max_answer_words, work.context, chunk, progress.update)
    scores, predictions = _scores(*tables, work.test, fits)
    name, step, tokens = told_progress(point)
    return PromptedTrunk(name, shots, step, tokens, key, work.losses[key], scores, predictions)


def _prompts(work: Work, shots: int) -> list[Prompt | None]:
    if shots not in work.prompts:
        tokenizer = work.timeline.tokenizer
        prompter = Prompter(
            work.train.examples,
            tokenizer,
            bos=tokenizer.eot,
            separator=work.separator,
            mark=work.mark,
            n_shots=shots,
            max_answer_words=work.max_answer_words,
            max_tokens=work.timeline.model.sequence_length,
            seed=work.spec.seed,
        )
        asked = zip(work.test.examples, work.numbers, strict=True)
        work.prompts[shots] = [prompter(example, n) for example, n in asked]
    return work.prompts[shots]


def _scores(
    raw: np.ndarray, without: np.ndarray, test: EncodedQA, fits: np.ndarray
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Scores and spans of all test questions by rule, from the tables of those that fit."""
    lengths, golds = test.n_words[fits], gold_spans(test).take(fits)
    scores: dict[str, dict[str, np.ndarray]] = {}
    predictions: dict[str, np.ndarray] = {}
    with np.errstate(invalid="ignore"):  # -inf less -inf, where there is no span
        tables = {RAW: raw, PMI: raw - without}
    for rule, table in tables.items():
        (starts, ends), columns = score_table(table, lengths, golds)
        scores[rule] = {name: _of_all(columns[name], fits, len(test)) for name in SCORES}
        predictions[rule] = np.full((len(test), 2), -1, dtype=np.int64)
        predictions[rule][fits] = np.stack([starts, ends], axis=1)
    nats = golds_log_sum(raw, golds)
    scores[RAW][GOLD_NATS] = _of_all(np.where(np.isfinite(nats), nats, np.nan), fits, len(test))
    return scores, predictions


def _of_all(values: np.ndarray, fits: np.ndarray, n: int) -> np.ndarray:
    whole = np.full(n, np.nan)
    whole[fits] = values
    return whole


def _no_model(work: Work, trunks: Sequence[PromptedTrunk]) -> dict[str, Any]:
    """Means of the rules without a model, over the questions that every trunk was asked with every number of shots."""
    asked = [i for i in range(len(work.test)) if all(trunk.predictions[RAW][i, 0] >= 0 for trunk in trunks)]
    rules = baseline_scores(work.test.subset(asked or range(len(work.test))), work.train, work.max_answer_words)
    means = {name: {score: float(values.mean()) for score, values in of.items()} for name, of in rules.items()}
    best = max(means, key=lambda name: means[name]["f1_tokens"])
    return {"rule": best, **means[best], "uniform_f1": means["uniform"]["f1_tokens"]}


def _notes(work: Work, trunks: Sequence[PromptedTrunk]) -> list[str]:
    test = work.test
    notes = [f"test questions of {units_of(len(set(test.clusters.tolist())), len(set(test.documents.tolist())))}"]
    if len(test) < work.n_test:
        notes.append(f"{len(test):,} of {work.n_test:,} test questions are asked (seed {work.spec.seed})")
    for shots, answered in {trunk.shots: trunk.n_answered for trunk in trunks}.items():
        if answered < len(test):
            left, room = counted(len(test) - answered, "question"), work.timeline.model.sequence_length
            notes.append(f"{counted(shots, 'shot')}: {left} left out, whose prompt does not fit {room} tokens")
    if has_other_questions(work.timeline.run, work.question_fingerprint):
        notes.append("the questions are not those of the run")
    return notes
