"""What a study of units reads: trunks, questions of two halves, and sentences with their argument words, encoded once.

Half A chooses units, their means and their attributions, half B reports. Half B is the test split. The words of half A
are those of training and validation sentences; its questions are those of validation, which the probe is not fitted on.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from emergence.answering.evaluate import choose_max_answer_words
from emergence.answering.few_shot import few_shot_indices
from emergence.answering.sentence_scores import language_model_of, losses_of_logits
from emergence.data.argument_words import ArgumentWords, argument_words, role_of
from emergence.data.qa_encoding import EncodedQA, encode_words
from emergence.data.records import QADataset
from emergence.data.sources import load_qa
from emergence.data.tokenizer import TextTokenizer
from emergence.errors import DataError, UsageError
from emergence.experiment.inputs import Questions, encode_questions, redraw_as_own
from emergence.experiment.store import RunDirectory
from emergence.files import content_digest
from emergence.measures.ragged import offsets_of
from emergence.model import Encoder, Trunk, build_trunk
from emergence.model.embedding_rows import redraw_unseen
from emergence.model.huggingface import HuggingFaceTokenizer, ModelFiles
from emergence.model.unit_hooks import HasUnits
from emergence.spec.config import ProbeConfig
from emergence.spec.experiment import ExperimentSpec
from emergence.studies.probe_sentences import EncodedSentences
from emergence.studies.snapshots.inputs import trunk_at
from emergence.studies.snapshots.result import INITIAL, RANDOM, TRAINED
from emergence.studies.trunks import Timeline, read_timeline, refuse_without_snapshots
from emergence.studies.units.options import UnitOptions
from emergence.studies.units.result import MAIN_SHARE, SHARES
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
        shares: Of the units, how many are cut by role. Snapshots before the last have none, because the trend over
            training takes the counts alone.
        load: A function that loads it on a device.
    """

    name: str
    kind: str
    step: int
    tokens: int
    weights: str
    shares: tuple[float, ...]
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
        a, b: Questions of the two halves. pairs: Role-crossed minimal pairs, if there are any.
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
    spec = dataclasses.replace(run.spec.as_studied(), qa_data=qa_data or run.spec.qa_data)
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
        TrunkToCut(
            p.name, p.kind, p.step, p.tokens, p.weights, _shares(p is points[-1]), loaded(p.build, p.kind == TRAINED)
        )
        for p in points
    ]
    random = TrunkToCut(
        "random", RANDOM, 0, 0, f"normal initialisation, seed {seed}", (MAIN_SHARE,), loaded(twin, False)
    )
    # A start that has not moved may have blocks that do nothing, which is no floor.
    return [trunks[-1], random, *(trunk for trunk in trunks[:-1] if trunk.kind == TRAINED)]


def _shares(is_last: bool) -> tuple[float, ...]:
    return SHARES if is_last else ()


# A published model --------------------------------------------------------------------------------


def prepare_model(
    name: str,
    revision: str | None,
    options: UnitOptions,
    device: torch.device,
    *,
    precision: str = "fp32",
    data: str = "hub",
    qa_data: str | None = None,
    cache_dir: Path | None = None,
    left_out: Collection[str] = (),
) -> Work:
    """Find a published model and its random twin, and encode the questions of ``data`` for it.

    Args:
        revision: Of the model. With ``options.snapshots`` all that name a step are examined, but those ``left_out``.

    Raises:
        UsageError: There is no such model, or its units cannot be reached.
        DataError: The questions cannot be found, or are too few.
    """
    from emergence.model.huggingface import load_model
    from emergence.model.huggingface.files import find_model, list_revisions

    named = [one for one in list_revisions(name) if one not in left_out] if options.snapshots else [revision]
    if not named:
        raise UsageError(f"{name}: no revision is sound, so there is nothing to examine")
    spec = ExperimentSpec.from_flags(model=name, revision=named[-1], freeze_llm=True, data=data, qa_data=qa_data)
    dataset = load_qa(spec, cache_dir)
    main = find_model(name, named[-1])
    loaded = load_model(name, precision=precision, device=device, files=main)
    encoder, tokenizer = loaded.encoder, loaded.tokenizer
    for kind in options.kinds:
        encoder.output_layer(0, kind)  # what cannot be cut is said before anything is computed
    counts = main.own_export.token_counts if main.own_export else None
    questions = encode_questions(spec, dataset, tokenizer, encoder.max_tokens, counts)
    before, length = tokenizer.pad if tokenizer.start is None else tokenizer.start, encoder.max_tokens
    del loaded, encoder
    trunks = [_revision(find_model(name, one), spec, precision, is_last=one == named[-1]) for one in named]
    twin = TrunkToCut(
        "random",
        RANDOM,
        0,
        0,
        f"twin of {trunks[-1].weights}, seed {spec.seed}",
        (MAIN_SHARE,),
        _twin_of(main, spec, precision),
    )
    return assemble(
        [trunks[-1], twin, *trunks[:-1]], spec, options, dataset, questions, tokenizer, before, length, device
    )


def _revision(files: ModelFiles, spec: ExperimentSpec, precision: str, *, is_last: bool) -> TrunkToCut:
    def load(device: torch.device) -> Loaded:
        from emergence.model.huggingface import load_model

        loaded = load_model(files.name, precision=precision, device=device, files=files)
        redraw_as_own(spec, loaded)
        return Loaded(loaded.encoder, losses_of_logits(loaded.encoder.logits))

    told = files.progress
    step, tokens = int(told.get("steps") or 0), int(told.get("tokens_seen") or 0)
    kind = INITIAL if told.get("steps") == 0 else TRAINED
    return TrunkToCut(files.revision or "main", kind, step, tokens, files.digest_in(precision), _shares(is_last), load)


def _twin_of(files: ModelFiles, spec: ExperimentSpec, precision: str) -> Callable[[torch.device], Loaded]:
    def load(device: torch.device) -> Loaded:
        from emergence.model.huggingface import random_twin

        encoder = random_twin(files.name, seed=spec.seed, precision=precision, device=device, files=files).encoder
        return Loaded(encoder, losses_of_logits(encoder.logits))

    return load


# Any subject --------------------------------------------------------------------------------------


def assemble(
    trunks: Sequence[TrunkToCut],
    spec: ExperimentSpec,
    options: UnitOptions,
    dataset: QADataset,
    questions: Questions,
    tokenizer: TextTokenizer | HuggingFaceTokenizer,
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
        dataset.splits["train"] + dataset.splits["validation"],
        dataset.splits["test"],
        dict.fromkeys(train),
        options.roles,
        lambda sentence: len(encode(sentence)[0]) + 1 <= max_tokens,
    )
    roles = _roles_asked((questions.validation, questions.test), words.roles, options)
    limit = choose_max_answer_words(spec.config.finetune.max_answer_words, questions.all_train)
    a, b = (_asked(split, roles, options, limit) for split in (questions.validation, questions.test))
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
        fingerprint=content_digest(
            [dataset.fingerprint, tokenizer.fingerprint, spec.layout, list(questions.marks.texts), max_tokens]
        ),
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


def _roles_asked(halves: Sequence[EncodedQA], names: tuple[str, ...], options: UnitOptions) -> tuple[str, ...]:
    """Roles with enough words and enough questions in both halves."""
    counts = [Counter(role_of(e, options.roles) for e in half.examples) for half in halves]
    roles = tuple(role for role in names if min(count[role] for count in counts) >= LEAST_QUESTIONS)
    if len(roles) < 2:
        raise DataError(
            f"fewer than two roles have {LEAST_QUESTIONS} validation and {LEAST_QUESTIONS} test questions: give more"
        )
    return roles


def _asked(half: EncodedQA, roles: tuple[str, ...], options: UnitOptions, limit: int) -> Asked:
    """Questions of one half, as many of each role as there is room for."""
    rng = np.random.default_rng(_STREAM)
    label = np.array([roles.index(r) if (r := role_of(e, options.roles)) in roles else -1 for e in half.examples])
    room = max(LEAST_QUESTIONS, options.questions // len(roles))
    rows = np.sort(np.concatenate([rng.permutation(np.flatnonzero(label == i))[:room] for i in range(len(roles))]))
    return Asked(half.subset(rows), label[rows].astype(np.int64), limit)


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
