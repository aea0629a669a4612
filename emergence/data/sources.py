"""What an experiment reads: pretraining streams, tokenizer and questions, by the route its spec names.

Everything derived is cached under a fingerprint of what it was derived from. So a second call, for example after an
interruption, only hashes the source files and maps the streams.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emergence.data.cache import building, default_cache_dir, find
from emergence.data.control_mix import CONTROL_VERSION
from emergence.data.hub import fetch
from emergence.data.microworld import MicroWorldConfig, generate_nq_like, generate_qa, generate_text
from emergence.data.microworld.generate import GENERATOR_VERSION
from emergence.data.nq import NQ_VERSION, NQData, load_nq_path, mix_into, nq_document
from emergence.data.qa_load import fingerprint as qa_fingerprint
from emergence.data.qa_load import load_qa_path
from emergence.data.records import SPLITS, FilterCounts, QADataset, TextDoc
from emergence.data.shuffled_text import SHUFFLE_VERSION, shuffled_stream
from emergence.data.splits import require_splits
from emergence.data.stream import STREAM_VERSION, TokenStream, cached_streams, encode_documents, write_streams
from emergence.data.text import LocalText, TextSplits, load_text_path
from emergence.data.tokenizer import TextTokenizer
from emergence.errors import UsageError, WeightsError
from emergence.files import read_sealed, seal, write_json_atomic
from emergence.spec.config import MicroworldSettings
from emergence.spec.experiment import MIXES, ExperimentSpec

log = logging.getLogger(__name__)

#: The tokenizer learns from every n-th training document, with n as small as this many bytes allow. On 42 MB of books,
#: a tokenizer trained on a quarter of the text gave 0.3 % more tokens than one trained on all of it.
TOKENIZER_SAMPLE_BYTES = 20_000_000
_TOKENIZER_VERSION = 2
#: Decides every split that no file names. It is not the experiment's seed, because runs that differ in seed must share
#: their tokenizer and test questions. Otherwise their scores could not be compared question by question.
SPLIT_SEED = 0


@dataclass(frozen=True)
class PretrainingData:
    """Packed text by split with its tokenizer.

    Attributes:
        fingerprint: sha256 (hexadecimal) of tokenizer and streams. Equal fingerprints mean the same training data.
        provenance: Route, files, carved splits and share of questions, in plain JSON types.
    """

    train: TokenStream
    validation: TokenStream
    test: TokenStream
    tokenizer: TextTokenizer
    fingerprint: str
    provenance: dict[str, Any]

    @cached_property
    def token_counts(self) -> NDArray[np.int64]:
        """How often the training stream holds each token, (V,)."""
        return np.bincount(self.train.tokens, minlength=self.tokenizer.vocab_rows).astype(np.int64)


def prepare_pretraining_data(spec: ExperimentSpec, cache_dir: Path | None = None) -> PretrainingData:
    """Tokenizer and packed streams of an experiment's pretraining text, from the cache where possible.

    The training stream has the same number of tokens with every ``--pretrain-data``. With ``wiki+nq`` part of them are
    questions. With ``wiki+control`` passages of the text stand in the questions' places, and with ``shuffled`` each
    sentence's words are in random order. Tokenizer, validation and test are those of ``wiki`` in all cases.

    Raises:
        DataError: The text cannot be found, read or fetched.
    """
    cache = cache_dir or default_cache_dir()
    text = _text(spec, cache)
    tokenizer = _tokenizer(text, spec.config.model.vocab_size, cache)
    streams, provenance = _streams(text, tokenizer, cache)
    provenance |= text.location()
    if spec.pretrain_data in MIXES:
        control = spec.pretrain_data == "wiki+control"
        mixed = _mixed(streams["train"], _nq(spec, cache), tokenizer, SPLIT_SEED, cache, control)
        streams["train"], provenance["control" if control else "nq"] = mixed
    if spec.pretrain_data == "shuffled":
        streams["train"], provenance["shuffled"] = _shuffled(streams["train"], text, tokenizer, cache)
    provenance["splits"] = {
        split: {"tokens": s.n_tokens, "bytes": s.n_bytes, "words": s.n_words, "documents": s.n_documents}
        for split, s in streams.items()
    }
    parts = [tokenizer.fingerprint, *(streams[split].fingerprint for split in SPLITS)]
    return PretrainingData(**streams, tokenizer=tokenizer, fingerprint=_digest(parts), provenance=provenance)


def prepare_tokenizer(spec: ExperimentSpec, cache_dir: Path | None = None) -> TextTokenizer:
    """The tokenizer of an experiment's pretraining text, for trunks that are never pretrained."""
    cache = cache_dir or default_cache_dir()
    return _tokenizer(_text(spec, cache), spec.config.model.vocab_size, cache)


def load_qa(spec: ExperimentSpec, cache_dir: Path | None = None) -> QADataset:
    """The questions of an experiment; see :func:`load_qa_route`."""
    return load_qa_route(
        spec.data, spec.finetune_data, spec.qa_data, SPLIT_SEED, spec.config.microworld, cache_dir=cache_dir
    )


def load_qa_route(
    route: str,
    finetune_data: str,
    qa_data: str | None,
    seed: int,
    microworld: MicroworldSettings | None = None,
    *,
    cache_dir: Path | None = None,
) -> QADataset:
    """Questions by route.

    Args:
        route: ``hub`` or ``microworld``.
        finetune_data: ``qasrl``, ``qasrl-bank``, ``squad`` or ``qasrl+squad``. With ``qasrl+squad``, training has both,
            while validation and test have QA-SRL alone.
        qa_data: A local path, which replaces the route.
        seed: Decides which documents form the splits that no file names.

    Raises:
        DataError: The data cannot be found, read or fetched, or leaves a split without questions.
        UsageError: The micro-world was asked for SQuAD.
    """
    cache = cache_dir or default_cache_dir()
    if qa_data:
        dataset = _local_qa(Path(qa_data), finetune_data, seed)
    elif route == "microworld":
        if finetune_data != "qasrl":
            raise UsageError(
                f"--finetune-data {finetune_data} is not in the micro-world: use --data hub or --qa-data PATH"
            )
        dataset = generate_qa(_world(microworld or MicroworldSettings()))
    else:
        parts = [_hub_qa(name, seed, cache) for name in finetune_data.split("+")]
        dataset = parts[0] if len(parts) == 1 else _with_extra_training(*parts)
    require_splits(dataset)
    return dataset


# Questions ----------------------------------------------------------------------------------------


def _local_qa(path: Path, finetune_data: str, seed: int) -> QADataset:
    if finetune_data == "qasrl+squad":
        qasrl, squad = (load_qa_path(path, seed=seed, families=(family,)) for family in ("qasrl", "squad"))
        return _with_extra_training(qasrl, squad)
    return load_qa_path(path, seed=seed, families=("squad",) if finetune_data == "squad" else None)


def _hub_qa(name: str, seed: int, cache: Path) -> QADataset:
    folder, note = fetch(name, cache)
    dataset = load_qa_path(folder, seed=seed)
    dataset.provenance |= {"route": "hub", "hub": note}
    return dataset


def _with_extra_training(main: QADataset, extra: QADataset) -> QADataset:
    """``main`` with the training questions of ``extra`` added to its own."""
    splits = dict(main.splits) | {"train": main.splits["train"] + extra.splits["train"]}
    counts = FilterCounts.merge([main.filtering["train"], extra.filtering["train"]])
    provenance: dict[str, object] = {main.name: main.provenance, extra.name: extra.provenance}
    provenance["merged"] = f"training questions of both, validation and test of {main.name} alone"
    filtering = dict(main.filtering) | {"train": counts}
    return QADataset(f"{main.name}+{extra.name}", splits, filtering, qa_fingerprint(splits), provenance)


# Text ---------------------------------------------------------------------------------------------


class _GeneratedText:
    """Pretraining text of the micro-world, written only when its streams are not in the cache."""

    def __init__(self, world: MicroWorldConfig) -> None:
        self.world = world

    @property
    def fingerprint(self) -> str:
        return _digest(["microworld", GENERATOR_VERSION, asdict(self.world)])

    @cached_property
    def _documents(self) -> dict[str, list[TextDoc]]:
        return generate_text(self.world)

    def size(self, split: str) -> int:
        return sum(len(document.text) for document in self._documents[split])

    def documents(self, split: str, every: int = 1) -> Iterator[TextDoc]:
        return iter(self._documents[split][::every])

    def provenance(self) -> dict[str, Any]:
        return {"generator_version": GENERATOR_VERSION, "config": asdict(self.world)}

    def location(self) -> dict[str, Any]:
        return {"route": "microworld"}


def _text(spec: ExperimentSpec, cache: Path) -> TextSplits:
    if spec.pretrain_text:
        return load_text_path(spec.pretrain_text, SPLIT_SEED)
    if spec.data == "microworld":
        return _GeneratedText(_world(spec.config.microworld))
    folder, note = fetch("wikitext-103", cache)
    text: LocalText = load_text_path(folder, SPLIT_SEED)
    text.hub_note = note
    return text


def _nq(spec: ExperimentSpec, cache: Path) -> NQData:
    if spec.nq_data:
        return load_nq_path(spec.nq_data, SPLIT_SEED)
    if spec.data == "microworld":
        world = _world(spec.config.microworld)
        identity = _digest(["microworld-nq", GENERATOR_VERSION, asdict(world)])
        return NQData(generate_nq_like(world), identity, {"route": "microworld"})
    folder, note = fetch("nq-open", cache)
    data = load_nq_path(folder, SPLIT_SEED)
    data.provenance.update({"route": "hub", "hub": note})
    return data


def _world(settings: MicroworldSettings) -> MicroWorldConfig:
    held_out = min(MicroWorldConfig.n_validation_documents, settings.text_documents)  # no more than is learnt from
    return MicroWorldConfig(
        n_documents=settings.text_documents,
        n_validation_documents=held_out,
        n_test_documents=held_out,
        n_qa_train_documents=settings.train_documents,
        n_qa_validation_documents=settings.validation_documents,
        n_qa_test_documents=settings.test_documents,
        difficulty=settings.difficulty,
        seed=settings.seed,
    )


# Derived data in the cache ------------------------------------------------------------------------


def _tokenizer(text: TextSplits, vocab_size: int, cache: Path) -> TextTokenizer:
    folder = cache / "tokenizers" / _digest([_TOKENIZER_VERSION, text.fingerprint, vocab_size, TOKENIZER_SAMPLE_BYTES])
    file = folder / "tokenizer.json"
    if find(folder):
        try:
            return TextTokenizer.from_json(str(read_sealed(file, WeightsError)["tokenizer"]), str(file))
        except (WeightsError, KeyError) as error:
            log.warning("%s: damaged (%s), training it again", file, error)
            shutil.rmtree(folder, ignore_errors=True)
    every = max(1, -(-text.size("train") // TOKENIZER_SAMPLE_BYTES))
    part = "the" if every == 1 else f"one of every {every:,}"
    log.info("training the tokenizer on %s training documents", part)
    tokenizer = TextTokenizer.train((document.text for document in text.documents("train", every)), vocab_size)
    with building(folder) as temporary:
        write_json_atomic(temporary / file.name, seal({"tokenizer": tokenizer.to_json()}))
    return tokenizer


def _streams(text: TextSplits, tokenizer: TextTokenizer, cache: Path) -> tuple[dict[str, TokenStream], dict[str, Any]]:
    def write(folder: Path) -> None:
        log.info("encoding the pretraining text into %s", folder)
        splits = {split: encode_documents(text.documents(split), tokenizer) for split in SPLITS}
        write_streams(folder, splits, text.provenance)

    key = [STREAM_VERSION, text.fingerprint, tokenizer.fingerprint]
    return cached_streams(cache / "streams" / _digest(key), write)


def _mixed(
    base: TokenStream, nq: NQData, tokenizer: TextTokenizer, seed: int, cache: Path, control: bool
) -> tuple[TokenStream, dict[str, Any]]:
    """The training stream with questions in it, or passages in their place, and what to report about them."""

    def write(folder: Path) -> None:
        report: dict[str, Any] = {}
        questions = encode_documents(map(nq_document, nq.splits["train"]), tokenizer)
        mixed = mix_into(base, questions, tokenizer, seed, report, control=control)
        write_streams(folder, {"train": mixed}, lambda: report)

    key = [STREAM_VERSION, NQ_VERSION, base.fingerprint, nq.fingerprint, tokenizer.fingerprint, seed]
    key += ["control", CONTROL_VERSION] if control else []
    streams, report = cached_streams(cache / "streams" / _digest(key), write)
    return streams["train"], {**nq.provenance, **report}


def _shuffled(
    base: TokenStream, text: TextSplits, tokenizer: TextTokenizer, cache: Path
) -> tuple[TokenStream, dict[str, Any]]:
    """The training stream without word order, and what to report about it."""

    def write(folder: Path) -> None:
        log.info("shuffling the words of the pretraining text into %s", folder)
        report: dict[str, Any] = {}
        shuffled = shuffled_stream(base, lambda: text.documents("train"), tokenizer, SPLIT_SEED, report)
        write_streams(folder, {"train": shuffled}, lambda: report)

    key = ["shuffled", STREAM_VERSION, SHUFFLE_VERSION, base.fingerprint, text.fingerprint, tokenizer.fingerprint]
    streams, report = cached_streams(cache / "streams" / _digest([*key, SPLIT_SEED]), write)
    return streams["train"], report


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
