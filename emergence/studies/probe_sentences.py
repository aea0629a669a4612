"""The sentences on which representations are compared: the same for every checkpoint and every run.

They come from the test and validation questions, which no finetuning has seen. They stand alone after
``<|endoftext|>``, as documents begin in pretraining, without question or predicate marker. So every trunk of a run,
before and after finetuning, reads the same ordinary text. Before a published model's sentences stands the token that
begins its texts, if it has one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from emergence.data.qa_encoding import encode_words
from emergence.data.records import QADataset
from emergence.data.tokenizer import TextTokenizer
from emergence.errors import DataError
from emergence.measures.ragged import offsets_of

if TYPE_CHECKING:
    from emergence.model.huggingface import HuggingFaceTokenizer

IntArray = npt.NDArray[np.int64]

#: Sentences are drawn from these splits. Training sentences are left out, because finetuning moved the states on them.
PROBE_SPLITS = ("test", "validation")
#: Fewer sentences than this give no interval.
LEAST_SENTENCES = 20


@dataclass(frozen=True)
class ProbeSentence:
    """One sentence, and the indices of the words that were asked about as predicates."""

    tokens: tuple[str, ...]
    predicates: tuple[int, ...]


@dataclass(frozen=True)
class ProbeSet:
    """Sentences in random order.

    Attributes:
        sentences: The chosen ones, all different.
        available: How many different sentences the splits hold.
    """

    sentences: tuple[ProbeSentence, ...]
    available: int

    @property
    def fingerprint(self) -> str:
        """The hexadecimal sha256 of sentences and predicates."""
        content = json.dumps([[s.tokens, s.predicates] for s in self.sentences], separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class EncodedSentences:
    """N sentences as one tokenizer sees them.

    Attributes:
        ids: Token ids of all sentences, each after the token that begins a text, if there is one.
        offsets: (N+1,) places in ``ids``: sentence i is ``ids[offsets[i]:offsets[i + 1]]``.
        predicate_sentences: (P,) the sentence of each predicate, ascending.
        predicate_positions: (P,) the place in its sentence of each predicate's last token, which has seen all of it.
        pad_id: The token that fills batches.
        n_before: How many tokens stand before a sentence, 0 or 1.
    """

    ids: IntArray
    offsets: IntArray
    predicate_sentences: IntArray
    predicate_positions: IntArray
    pad_id: int
    n_before: int = 1

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> IntArray:
        """(N,) number of tokens of each sentence, including the one before it."""
        return np.diff(self.offsets)

    @property
    def fingerprint(self) -> str:
        """The hexadecimal sha256 of all that decides a trunk's states and which of them are read."""
        digest = hashlib.sha256()
        for array in (self.ids, self.offsets, self.predicate_sentences, self.predicate_positions):
            digest.update(np.ascontiguousarray(array, dtype="<i8").tobytes())
            digest.update(b"|")
        if self.n_before != 1:
            digest.update(b"nothing before")
        return digest.hexdigest()

    def padded(self, index: IntArray) -> tuple[IntArray, npt.NDArray[np.bool_]]:
        """Right-padded ids (B, T) of some sentences, and a mask (B, T) of the sentences' own tokens."""
        lengths = self.lengths[index]
        column = np.arange(int(lengths.max()))
        inside = column < lengths[:, None]  # (B, T)
        ids = np.full(inside.shape, self.pad_id, dtype=np.int64)
        ids[inside] = np.concatenate([self.ids[self.offsets[i] : self.offsets[i + 1]] for i in index])
        return ids, inside & (column >= self.n_before)


def choose_sentences(dataset: QADataset, n: int, seed: int) -> ProbeSet:
    """At most ``n`` different sentences of test and validation, drawn at random.

    Raises:
        DataError: There are fewer than 20.
    """
    predicates: dict[tuple[str, ...], set[int]] = {}
    for split in PROBE_SPLITS:
        for example in dataset.splits.get(split, []):
            asked = predicates.setdefault(example.tokens, set())
            if example.predicate_index is not None:
                asked.add(example.predicate_index)
    available = [ProbeSentence(tokens, tuple(sorted(asked))) for tokens, asked in predicates.items()]
    if min(n, len(available)) < LEAST_SENTENCES:
        raise DataError(
            f"{min(n, len(available))} sentences are too few to compare representations: {LEAST_SENTENCES} at least"
        )
    order = np.random.default_rng([seed, 0xC4A]).permutation(len(available))[:n]
    return ProbeSet(tuple(available[i] for i in order), len(available))


def encode_sentences(
    sentences: Sequence[ProbeSentence], tokenizer: TextTokenizer | HuggingFaceTokenizer
) -> EncodedSentences:
    """Encode sentences as those of questions are encoded: word by word, or as a published tokenizer cuts them."""
    start = tokenizer.eot if isinstance(tokenizer, TextTokenizer) else tokenizer.start
    encode, before = encode_words(tokenizer), [] if start is None else [start]
    parts: list[npt.NDArray[np.int64]] = []
    owners: list[int] = []
    positions: list[int] = []
    for number, sentence in enumerate(sentences):
        ids, last = encode(sentence.tokens)
        parts.append(np.concatenate([np.array(before, dtype=np.int64), ids]))
        owners += [number] * len(sentence.predicates)
        positions += [len(before) + int(last[i]) for i in sentence.predicates]
    return EncodedSentences(
        ids=np.concatenate(parts),
        offsets=offsets_of([len(part) for part in parts]),
        predicate_sentences=np.array(owners, dtype=np.int64),
        predicate_positions=np.array(positions, dtype=np.int64),
        pad_id=tokenizer.pad,
        n_before=len(before),
    )


def fitting(
    sentences: Sequence[ProbeSentence], tokenizer: TextTokenizer | HuggingFaceTokenizer, max_tokens: int
) -> npt.NDArray[np.bool_]:
    """(N,) whether a sentence has at most ``max_tokens`` tokens, including the one before it."""
    return encode_sentences(sentences, tokenizer).lengths <= max_tokens
