"""Pretraining text as one packed stream of uint16 tokens on disk, read through a memory map.

Documents stand one after another, each closed by ``<|endoftext|>``. Sequences are cut from the stream without padding.
The documents' ends and sizes are stored beside the tokens, so that a loss can be given per byte and bootstrapped over
documents.
"""

from __future__ import annotations

import hashlib
import io
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emergence.data.cache import building, find
from emergence.data.records import SPLITS, TextDoc
from emergence.data.tokenizer import TextTokenizer
from emergence.errors import DataError
from emergence.files import atomic_writer, read_sealed, seal, sha256_file, write_atomic, write_json_atomic

log = logging.getLogger(__name__)

#: Change it when the layout of the files or the meaning of their content changes.
STREAM_VERSION = 2
_TOKEN = np.dtype("<u2")
_ORDER_STREAM = 0x0DE4  # keeps the order's random numbers apart from others drawn from the same seed


@dataclass(frozen=True, eq=False)
class TokenStream:
    """Packed tokens of one split.

    Attributes:
        tokens: (n_tokens,) uint16, usually a read-only memory map.
        document_ends: (n_documents,) int64, index just after each document's ``<|endoftext|>``.
        document_bytes: (n_documents,) int64, UTF-8 bytes of each document's text.
        document_words: (n_documents,) int64, white-space separated words of each document's text.
        fingerprint: sha256 (hexadecimal) of the tokens' bytes.
    """

    tokens: NDArray[np.uint16]
    document_ends: NDArray[np.int64]
    document_bytes: NDArray[np.int64]
    document_words: NDArray[np.int64]
    fingerprint: str

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)

    @property
    def n_bytes(self) -> int:
        """UTF-8 bytes of all documents' text (``<|endoftext|>`` counts none)."""
        return int(self.document_bytes.sum())

    @property
    def n_words(self) -> int:
        return int(self.document_words.sum())

    @property
    def n_documents(self) -> int:
        return len(self.document_ends)

    @classmethod
    def from_tokens(cls, tokens: ArrayLike, n_bytes: int | None = None, n_words: int = 0) -> TokenStream:
        """A stream in memory. Documents end at ``<|endoftext|>`` and share bytes and words by their length.

        Args:
            tokens: (n_tokens,) token ids.
            n_bytes: Bytes of the text; one per token unless given.
            n_words: Words of the text.
        """
        array = np.asarray(tokens).astype(_TOKEN)
        ends = np.flatnonzero(array == TextTokenizer.eot) + 1
        if len(array) and (not len(ends) or ends[-1] != len(array)):
            ends = np.append(ends, len(array))
        fingerprint = hashlib.sha256(array.tobytes()).hexdigest()
        return cls(
            tokens=array,
            document_ends=ends.astype(np.int64),
            document_bytes=_shared_out(ends, len(array) if n_bytes is None else n_bytes),
            document_words=_shared_out(ends, n_words),
            fingerprint=fingerprint,
        )

    def n_sequences(self, length: int) -> int:
        """How many sequences of ``length`` inputs and their targets the stream holds without overlap of inputs."""
        return max(0, (self.n_tokens - 1) // length)

    def get(self, indices: ArrayLike, length: int) -> NDArray[np.int64]:
        """Sequences by number. Sequence i is tokens ``i * length`` to ``i * length + length`` inclusive.

        Args:
            indices: (B,) sequence numbers below ``n_sequences(length)``.
            length: Inputs per sequence.

        Returns:
            (B, length + 1) ids. Columns ``:-1`` are the inputs, columns ``1:`` the targets.
        """
        starts = np.asarray(indices, dtype=np.int64) * length  # (B,)
        return self.tokens[starts[:, None] + np.arange(length + 1)].astype(np.int64)  # (B, length + 1)


def _shared_out(ends: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Share ``total`` out in whole parts by document length. Rounding the running sum keeps the total exact."""
    running = np.round(ends * (total / max(ends[-1], 1) if len(ends) else 0)).astype(np.int64)
    return np.diff(running, prepend=0)


def epoch_order(n_sequences: int, seed: int, pass_index: int) -> NDArray[np.int64]:
    """The order of the sequences in one pass over the stream: a permutation that the arguments alone decide."""
    return np.random.default_rng([_ORDER_STREAM, seed, pass_index]).permutation(n_sequences)


class SequenceOrder:
    """Sequence numbers for any stretch of training. Every pass over the text has an order of its own.

    ``order.take(position, count)`` depends on its arguments alone, so training can resume anywhere.
    """

    def __init__(self, n_sequences: int, seed: int) -> None:
        if n_sequences < 1:
            raise DataError(
                "the pretraining text is shorter than one sequence: give more text or a smaller model.sequence_length"
            )
        self.n_sequences, self.seed = n_sequences, seed
        self._pass: tuple[int, NDArray[np.int64]] | None = None

    def take(self, position: int, count: int) -> NDArray[np.int64]:
        """(count,) sequence numbers from the ``position``-th sequence of training on."""
        numbers = np.empty(count, dtype=np.int64)
        filled = 0
        while filled < count:
            pass_index, offset = divmod(position + filled, self.n_sequences)
            if self._pass is None or self._pass[0] != pass_index:
                self._pass = (pass_index, epoch_order(self.n_sequences, self.seed, pass_index))
            part = self._pass[1][offset : offset + count - filled]
            numbers[filled : filled + len(part)] = part
            filled += len(part)
        return numbers


# On disk ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EncodedDocument:
    """One document as it goes into a stream: its ids with the closing ``<|endoftext|>``, its bytes and words."""

    ids: NDArray[np.uint16]
    n_bytes: int
    n_words: int


def encode_documents(documents: Iterable[TextDoc], tokenizer: TextTokenizer) -> Iterator[EncodedDocument]:
    """Encode a stream of documents one at a time, each closed by ``<|endoftext|>``."""
    for document in documents:
        ids = np.append(tokenizer.encode_batch([document.text])[0], _TOKEN.type(tokenizer.eot))
        yield EncodedDocument(ids, len(document.text.encode()), len(document.text.split()))


def cut_to_budget(
    documents: Iterable[EncodedDocument], n_tokens: int, tokenizer: TextTokenizer
) -> Iterator[EncodedDocument]:
    """Documents up to exactly ``n_tokens`` tokens, the last one cut. If they have fewer tokens, all of them."""
    for document in documents:
        if len(document.ids) > n_tokens:
            text = tokenizer.decode(document.ids[:n_tokens].tolist())
            document = EncodedDocument(document.ids[:n_tokens], len(text.encode()), len(text.split()))
        yield document
        n_tokens -= len(document.ids)
        if not n_tokens:
            return


def cached_streams(folder: Path, write: Callable[[Path], None]) -> tuple[dict[str, TokenStream], dict[str, Any]]:
    """Streams and provenance in ``folder``, which ``write`` makes if it is absent or damaged."""
    stored = load_streams(folder)
    if stored is None:
        write(folder)
        stored = load_streams(folder)
    if stored is None:
        raise DataError("token streams vanished while being written: is another program cleaning the cache?", folder)
    return stored


def write_streams(
    folder: Path, splits: Mapping[str, Iterable[EncodedDocument]], describe: Callable[[], Mapping[str, Any]]
) -> None:
    """Write one stream per split into ``folder``, which appears complete or not at all.

    Args:
        folder: Its place in the cache. If it appears meanwhile, it is left as it is.
        splits: Encoded documents by split name, consumed one at a time.
        describe: Called at the end. It returns the streams' provenance in plain JSON types.

    Raises:
        DataError: A split has no documents.
    """
    with building(folder) as temporary:
        meta: dict[str, Any] = {"version": STREAM_VERSION, "splits": {}}
        for split, documents in splits.items():
            meta["splits"][split] = _write_split(temporary, split, documents)
        meta["provenance"] = dict(describe())
        write_json_atomic(temporary / "meta.json", seal(meta))


def _write_split(folder: Path, split: str, documents: Iterable[EncodedDocument]) -> dict[str, Any]:
    digest = hashlib.sha256()
    n_tokens = 0
    table: list[tuple[int, int, int]] = []
    with atomic_writer(folder / f"{split}.bin") as file:
        for document in documents:
            data = document.ids.astype(_TOKEN, copy=False).tobytes()
            file.write(data)
            digest.update(data)
            n_tokens += len(document.ids)
            table.append((n_tokens, document.n_bytes, document.n_words))
    if not table:
        raise DataError(f"the {split} split of the pretraining text has no documents")
    array = np.array(table, dtype="<i8")  # (n_documents, 3): end, bytes, words
    saved = io.BytesIO()  # because NumPy itself would not say why a file could not be written
    np.save(saved, array, allow_pickle=False)
    write_atomic(folder / f"{split}.documents.npy", saved.getvalue())
    return {
        "documents_sha256": sha256_file(folder / f"{split}.documents.npy"),
        "sha256": digest.hexdigest(),
        "n_tokens": n_tokens,
        "n_bytes": int(array[:, 1].sum()),
        "n_words": int(array[:, 2].sum()),
        "n_documents": len(table),
    }


def load_streams(folder: Path) -> tuple[dict[str, TokenStream], dict[str, Any]] | None:
    """Streams by split and their provenance, or None if they are absent or damaged.

    Every load compares the sha256 of every file with what was written. A folder that differs is removed with a warning,
    so that the caller builds it again.
    """
    if not find(folder):
        return None
    try:
        meta = read_sealed(folder / "meta.json", DataError)
        if meta["version"] != STREAM_VERSION:
            raise ValueError(f"version {meta['version']}")
        present = [split for split in SPLITS if split in meta["splits"]]
        return {split: _load_split(folder, split, meta["splits"][split]) for split in present}, meta["provenance"]
    except (DataError, OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s: damaged token streams (%s), building them again", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _load_split(folder: Path, split: str, facts: Mapping[str, Any]) -> TokenStream:
    file = folder / f"{split}.bin"
    size = file.stat().st_size
    if size != facts["n_tokens"] * _TOKEN.itemsize:
        raise ValueError(f"{file.name} has {size} bytes for {facts['n_tokens']} tokens")
    for name, digest in ((file.name, "sha256"), (f"{split}.documents.npy", "documents_sha256")):
        if sha256_file(folder / name) != facts[digest]:
            raise ValueError(f"{name} does not match its sha256")
    table = np.load(folder / f"{split}.documents.npy", allow_pickle=False)
    if table.shape != (facts["n_documents"], 3) or int(table[:, 1].sum()) != facts["n_bytes"]:
        raise ValueError(f"{split}.documents.npy does not fit meta.json")
    tokens = np.memmap(file, dtype=_TOKEN, mode="r")
    ends, sizes, words = (np.ascontiguousarray(column) for column in table.T)
    return TokenStream(tokens, ends, sizes, words, str(facts["sha256"]))
