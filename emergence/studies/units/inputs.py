"""What a study of units reads: trunks, questions of two halves, and sentences with their argument words, encoded once.

Half A chooses units, their means and their attributions, half B reports. The halves are documents of the test
questions, which neither the trunk nor the probe was trained on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from emergence.answering.evaluate import choose_max_answer_words
from emergence.answering.few_shot import few_shot_indices
from emergence.answering.sentence_scores import language_model_of
from emergence.data.argument_words import ArgumentWords, argument_words, half_a, role_of
from emergence.data.qa_encoding import EncodedQA, QATokenizer, encode_words
from emergence.data.records import QADataset
from emergence.data.sources import load_qa
from emergence.errors import DataError
from emergence.experiment.inputs import Questions, encode_questions
from emergence.experiment.store import RunDirectory
from emergence.files import content_digest
from emergence.measures.ragged import offsets_of
from emergence.model import Encoder, Trunk, build_trunk
from emergence.model.embedding_rows import redraw_unseen
from emergence.model.unit_hooks import HasUnits
from emergence.spec.config import ProbeConfig
from emergence.spec.experiment import ExperimentSpec
from emergence.studies.probe_sentences import EncodedSentences
from emergence.studies.snapshots.inputs import trunk_at
from emergence.studies.snapshots.result import RANDOM, TRAINED
from emergence.studies.trunks import Timeline, read_timeline, refuse_without_snapshots
from emergence.studies.units.options import UnitOptions
from emergence.training.checkpoint import load_weights

IntArray = npt.NDArray[np.int64]

#: Questions that the probe is fitted on at most.
PROBE_QUESTIONS = 2_000
#: Minimal pairs, and sentences whose loss is measured, at most: they stand beside the scores of the roles.
_PAIRS, _LOSS_SENTENCES = 100, 100
#: A role with fewer questions than this in either half is left out.
LEAST_QUESTIONS = 10
_STREAM = 0x0417


class Model(Encoder, HasUnits, Protocol):
    """A model whose levels and units can be reached."""


@dataclass(frozen=True)
class Loaded:
    """A model on its device, and a function from token ids (B, T) to the nats of each next token, (B, T - 1)."""

    model: Model
    losses: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TrunkToCut:
    """One trunk whose units are examined.

    Attributes:
        name: ``pretrained``, ``pretrain_step_64``, ``random``. kind: ``trained``, ``initial`` or ``random``.
        step, tokens: Of pretraining so far.
        weights: Digest of its weights.
        whole: Whether everything is measured, or just what the trend over training takes.
        load: A function that loads it on a device.
    """

    name: str
    kind: str
    step: int
    tokens: int
    weights: str
    whole: bool
    load: Callable[[torch.device], Loaded]


@dataclass(frozen=True, eq=False)
class Asked:
    """Questions of one half: N questions, the role (N,) that each asks for, and the longest answer looked for."""

    encoded: EncodedQA
    labels: IntArray
    max_answer_words: int


@dataclass(frozen=True, eq=False)
class Work:
    """What all trunks share.

    Attributes:
        trunks: The trunks, the main one first.
        roles: R roles.
        train, validation: Questions that probes are fitted on.
        a, b: Test questions of the two halves. pairs: Role-crossed minimal pairs, if there are any.
        words: Argument words, of sentences that ``sentences`` has encoded.
        probe: Settings of probes. seed: Of the run.
        options: What is asked. device: Where trunks run.
        fingerprint: Identity of the questions and of the tokenizer.
        facts: What a result tells of the data.
    """

    trunks: tuple[TrunkToCut, ...]
    roles: tuple[str, ...]
    train: EncodedQA
    validation: EncodedQA
    a: Asked
    b: Asked
    pairs: EncodedQA | None
    words: ArgumentWords
    sentences: EncodedSentences
    probe: ProbeConfig
    seed: int
    options: UnitOptions
    device: torch.device
    fingerprint: str
    facts: dict[str, Any]

    @property
    def loss_sentences(self) -> IntArray:
        """Sentences of half B whose loss is measured."""
        return np.flatnonzero(~self.words.sentence_in_a)[:_LOSS_SENTENCES]

    @property
    def settings(self) -> dict[str, Any]:
        """Everything besides the trunk that decides a cell."""
        probe = {k: v for k, v in dataclasses.asdict(self.probe).items() if k not in ("families", "cache_gigabytes")}
        options = {k: v for k, v in dataclasses.asdict(self.options).items() if k != "snapshots"}
        return {"data": self.fingerprint, "seed": self.seed, "probe": probe, "options": options}


# A run --------------------------------------------------------------------------------------------


def prepare_run(
    run: RunDirectory,
    options: UnitOptions,
    device: torch.device,
    *,
    qa_data: str | None = None,
    cache_dir: Path | None = None,
) -> Work:
    """Read the trunks of a run, and encode its questions as a frozen run does.

    Raises:
        UsageError: It has no such snapshots, or probed a published model.
        DataError: Its questions cannot be found, or are too few.
    """
    if options.snapshots:
        refuse_without_snapshots(run)
    timeline = read_timeline(run)
    spec = dataclasses.replace(run.spec, freeze_llm=True, finetune_samples=None, qa_data=qa_data or run.spec.qa_data)
    counts = load_weights(timeline.start.path).metadata.get("token_counts")
    counted = None if counts is None else np.asarray(counts, dtype=np.int64)
    dataset = load_qa(spec, cache_dir)
    length = timeline.model.sequence_length
    questions = encode_questions(spec, dataset, timeline.tokenizer, length, counted)
    trunks = _trunks_of(timeline, options, counted)
    return assemble(
        trunks, spec, options, dataset, questions, timeline.tokenizer, timeline.tokenizer.eot, length, device
    )


def _trunks_of(timeline: Timeline, options: UnitOptions, counts: IntArray | None) -> list[TrunkToCut]:
    """The trunk at the start of finetuning, its random twin, then snapshots in their order."""
    seed, tokenizer = timeline.run.spec.seed, timeline.tokenizer

    def loaded(build: Callable[[], Trunk], is_trained: bool) -> Callable[[torch.device], Loaded]:
        def load(device: torch.device) -> Loaded:
            trunk = build().requires_grad_(False)
            if is_trained and counts is not None:
                redraw_unseen(trunk, torch.from_numpy(counts), seed)  # as a run does that probes the trunk
            return Loaded(trunk, language_model_of(trunk, tokenizer, tokenizer.eot, device).losses)

        return load

    def twin() -> Trunk:
        return build_trunk(timeline.model, timeline.vocab_rows, seed=seed, init="normal")

    first = 0 if options.snapshots else timeline.start_index
    points = [trunk_at(point) for point in timeline.checkpoints[first : timeline.start_index + 1]]
    trunks = [
        TrunkToCut(p.name, p.kind, p.step, p.tokens, p.weights, p is points[-1], loaded(p.build, p.kind == TRAINED))
        for p in points
    ]
    random = TrunkToCut(
        "random", RANDOM, 0, 0, f"normal initialisation, seed {seed}", whole=True, load=loaded(twin, False)
    )
    # A start that has not moved may have blocks that do nothing, which is no floor.
    return [trunks[-1], random, *(trunk for trunk in trunks[:-1] if trunk.kind == TRAINED)]


# Any subject --------------------------------------------------------------------------------------


def assemble(
    trunks: Sequence[TrunkToCut],
    spec: ExperimentSpec,
    options: UnitOptions,
    dataset: QADataset,
    questions: Questions,
    tokenizer: QATokenizer,
    before: int,
    max_tokens: int,
    device: torch.device,
) -> Work:
    """All that trunks with one tokenizer share.

    Args:
        before: The token that stands before a sentence.
        max_tokens: Longest sequence that the trunks take.

    Raises:
        DataError: There are too few questions or words.
    """
    encode = encode_words(tokenizer)
    train = [example.tokens for example in dataset.splits["train"]]
    words = argument_words(
        dataset.splits["test"],
        dict.fromkeys(train),
        options.roles,
        lambda sentence: len(encode(sentence)[0]) + 1 <= max_tokens,
    )
    in_a = half_a(example.document_id for example in dataset.splits["test"])
    roles = _roles_asked(questions.test, words.roles, options, in_a)
    limit = choose_max_answer_words(spec.config.finetune.max_answer_words, questions.all_train)
    a, b = (
        _asked(questions.test, roles, options, [e.document_id in in_a for e in questions.test.examples], half, limit)
        for half in (True, False)
    )
    subset = few_shot_indices(len(questions.train), min(PROBE_QUESTIONS, len(questions.train)), spec.seed)
    pairs = questions.pairs
    return Work(
        trunks=tuple(trunks),
        roles=roles,
        train=questions.train.subset(subset),
        validation=questions.validation,
        a=a,
        b=b,
        pairs=None if pairs is None else pairs.subset(np.arange(min(len(pairs), 2 * _PAIRS))),
        words=words,
        sentences=_encoded(words, encode, before, tokenizer.pad),
        probe=spec.config.probe,
        seed=spec.seed,
        options=options,
        device=device,
        fingerprint=content_digest([dataset.fingerprint, spec.layout, list(questions.marks.texts), max_tokens]),
        facts={
            "name": dataset.name,
            "roles": list(roles),
            "questions": {"a": len(a.encoded), "b": len(b.encoded)},
            "words": {role: int((words.label == i).sum()) for i, role in enumerate(words.roles)},
            "left_out": words.left_out | {role: 0 for role in words.roles if role not in roles},
            "ambiguous_words": words.n_ambiguous,
            "layout": spec.layout,
        },
    )


def _roles_asked(
    test: EncodedQA, names: tuple[str, ...], options: UnitOptions, in_a: frozenset[str]
) -> tuple[str, ...]:
    """Roles with enough words and enough questions in both halves."""
    asked = [(role_of(e, options.roles), e.document_id in in_a) for e in test.examples]
    roles = tuple(r for r in names if min(asked.count((r, True)), asked.count((r, False))) >= LEAST_QUESTIONS)
    if len(roles) < 2:
        raise DataError(f"fewer than two roles have {LEAST_QUESTIONS} test questions in each half: give more questions")
    return roles


def _asked(
    test: EncodedQA, roles: tuple[str, ...], options: UnitOptions, in_a: Sequence[bool], half: bool, limit: int
) -> Asked:
    """Questions of one half, as many of each role as there is room for."""
    rng = np.random.default_rng([_STREAM, int(half)])
    label = np.array([roles.index(r) if (r := role_of(e, options.roles)) in roles else -1 for e in test.examples])
    mine = [np.flatnonzero((label == i) & (np.array(in_a) == half)) for i in range(len(roles))]
    room = max(LEAST_QUESTIONS, options.questions // len(roles))
    rows = np.sort(np.concatenate([rng.permutation(each)[:room] for each in mine]))
    return Asked(test.subset(rows), label[rows].astype(np.int64), limit)


def _encoded(
    words: ArgumentWords,
    encode: Callable[[tuple[str, ...]], tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]],
    before: int,
    pad: int,
) -> EncodedSentences:
    """The sentences alone, each after one token, with the places of their argument words."""
    ids, places, owners = [], [], []
    for number, (sentence, at) in enumerate(zip(words.sentences, words.words_at(), strict=True)):
        own, last = encode(sentence)
        ids.append(np.concatenate([[before], own]).astype(np.int64))
        places += [int(last[word]) + 1 for word in at]
        owners += [number] * len(at)
    return EncodedSentences(
        ids=np.concatenate(ids),
        offsets=offsets_of([len(each) for each in ids]),
        predicate_sentences=np.array(owners, dtype=np.int64),
        predicate_positions=np.array(places, dtype=np.int64),
        pad_id=pad,
    )
