"""One byte-level BPE for all model sizes, trained once on the pretraining text and stored with every run.

It works on bytes (GPT-2's scheme), so every text has an encoding and decodes to itself. Training depends on the text
alone, not on the number of threads, and a fingerprint identifies the result. Four special tokens come first, and only
this program can place them. The literal text ``<|endoftext|>`` in a document is encoded as ordinary characters.

Text is first cut into pieces: a word with its leading space, a number, a run of marks, white space. Merges never cross
a piece, so the pieces of a text can be looked up in a table of those already seen. This is ten times faster than
encoding running text, with the same result.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from emergence.errors import WeightsError
from emergence.files import parse_json
from emergence.spec.model_size import embedding_rows

#: End of document, question/sentence separator, predicate marker, padding: ids 0 to 3.
SPECIAL_TOKENS = ("<|endoftext|>", "<|sep|>", "<|pred|>", "<|pad|>")
#: Specials and the 256 byte symbols, below which no byte-level vocabulary can go.
MIN_VOCAB_SIZE = len(SPECIAL_TOKENS) + 256
_MAX_VOCAB_SIZE = 65_535

# Letters and white space are spelled out as ranges (every alphabetic block, without the punctuation
# and symbol blocks between them) because `\w` and `\s` differ between Python's `re` and the library's engine.
_LETTERS = (
    "A-Za-z\u00aa\u00b5\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u1fff"
    "\u2c00-\u2dff\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0010ffff"
)
_BREAKS = "\t\n\r\f\v"
#: Contractions; words, numbers and marks with one leading space; line breaks; spaces (one stays with the next word).
PIECE_PATTERN = (
    f"['\u2019](?:s|t|re|ve|m|ll|d)(?![{_LETTERS}])| ?[{_LETTERS}]+| ?[0-9]+"
    f"| ?[^{_LETTERS}0-9 {_BREAKS}]+|[{_BREAKS}]+| +(?![^ {_BREAKS}])| +"
)
_PIECES = re.compile(PIECE_PATTERN)
#: Most pieces that are remembered. A fuller table starts afresh, so memory stays bounded.
_MOST_PIECES = 500_000
_ID_BYTES = np.dtype("<u2")


class TextTokenizer:
    """A trained byte-level BPE.

    Attributes:
        vocab_size: Number of tokens. A small text may yield fewer than were asked for.
        vocab_rows: Rows of the embedding matrix: ``vocab_size`` rounded up to a multiple of 64.
        fingerprint: sha256 (hexadecimal) of the canonical JSON.
    """

    eot, sep, pred, pad = range(len(SPECIAL_TOKENS))

    def __init__(self, tokenizer: Tokenizer) -> None:
        ids = [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS]
        if ids != list(range(len(SPECIAL_TOKENS))):
            raise WeightsError(f"not a tokenizer of this program: {SPECIAL_TOKENS} have ids {ids}, not 0 to 3")
        self._tokenizer = tokenizer
        # Special tokens are placed by id, never by their spelling in some document.
        self._tokenizer.encode_special_tokens = True
        self.vocab_size: int = tokenizer.get_vocab_size()
        if self.vocab_size > _MAX_VOCAB_SIZE:
            raise WeightsError(f"tokenizer: {self.vocab_size} tokens do not fit uint16 ids")
        self.vocab_rows: int = embedding_rows(self.vocab_size)
        self._table = _PieceTable(tokenizer)
        canonical = json.dumps(json.loads(self.to_json()), sort_keys=True, separators=(",", ":"))
        self.fingerprint: str = hashlib.sha256(canonical.encode()).hexdigest()

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> TextTokenizer:
        """Train on documents. The same texts give the same tokenizer.

        Args:
            texts: Documents, consumed once as a stream.
            vocab_size: Most tokens, at least ``MIN_VOCAB_SIZE``. There are fewer if no further pair occurs twice.
        """
        if not MIN_VOCAB_SIZE <= vocab_size <= _MAX_VOCAB_SIZE:
            raise ValueError(f"vocab_size must be between {MIN_VOCAB_SIZE} and {_MAX_VOCAB_SIZE}, not {vocab_size}")
        tokenizer = _byte_level(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(_batched(texts), trainer=trainer)
        return cls(tokenizer)

    @classmethod
    def from_json(cls, text: str, source: str = "tokenizer") -> TextTokenizer:
        """Rebuild from :meth:`to_json`.

        Only vocabulary and merges are taken from the file, and both are checked. The library's own reader would panic
        at a damaged file, or take memory without end.

        Raises:
            WeightsError: ``text`` is no tokenizer of this program. The message names its ``source``.
        """
        raw = parse_json(text, f"{source}: not a tokenizer file", WeightsError)
        try:
            pattern = raw["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        except (KeyError, TypeError, IndexError):
            pattern = None
        if pattern != PIECE_PATTERN:
            raise WeightsError(f"{source}: a tokenizer that cuts words in another way than this program's")
        vocabulary, merges = _checked_parts(raw.get("model"), source)
        try:
            tokenizer = _byte_level(models.BPE(vocab=vocabulary, merges=merges))
            tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
        except Exception as error:  # the Rust library raises bare Exception
            raise WeightsError(f"{source}: not a tokenizer file: {error}") from None
        return cls(tokenizer)

    def to_json(self) -> str:
        """The ``tokenizers`` library's JSON, readable by that library alone."""
        return str(self._tokenizer.to_str())

    def encode(self, text: str) -> list[int]:
        """Token ids of one text. No special token is added or recognised."""
        return self._encode(text).tolist()

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint16]]:
        """Like :meth:`encode` for many texts at once."""
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> NDArray[np.uint16]:
        if len(self._table) > _MOST_PIECES:
            self._table.clear()
        return np.frombuffer(b"".join(map(self._table.__getitem__, _PIECES.findall(text))), dtype=_ID_BYTES)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids: the inverse of :meth:`encode`. Special tokens are spelled out."""
        return str(self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False))


def _byte_level(model: models.BPE) -> Tokenizer:
    """A tokenizer that cuts text into this program's pieces and shows ``model`` their bytes."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECE_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _checked_parts(model: Any, source: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a stored model.

    Raises:
        WeightsError: The ids have gaps, a byte has no symbol, or a merge is of unknown tokens.
    """
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    merges = model.get("merges") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict) or not isinstance(merges, list):
        raise WeightsError(f"{source}: not a tokenizer file: it has no vocabulary or no merges")
    ids = list(vocabulary.values())
    if not all(type(i) is int for i in ids) or sorted(ids) != list(range(len(ids))):
        raise WeightsError(f"{source}: damaged: the ids of its {len(ids)} tokens are not 0, 1, 2...")
    if any(symbol not in vocabulary for symbol in pre_tokenizers.ByteLevel.alphabet()):
        raise WeightsError(f"{source}: damaged: a byte has no symbol in its vocabulary")
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else merge for merge in merges]  # either is in use
    for pair in pairs:
        known = isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(part, str) for part in pair)
        if not known or any(part not in vocabulary for part in (*pair, "".join(pair))):
            raise WeightsError(f"{source}: damaged: it merges {str(pair)[:60]}, which it has no tokens for")
    return vocabulary, [(first, second) for first, second in pairs]


class _PieceTable(dict[str, bytes]):
    """Token ids of every piece met so far, as the bytes of a uint16 array."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, piece: str) -> bytes:
        ids = np.array(self._tokenizer.encode(piece, add_special_tokens=False).ids, dtype=_ID_BYTES).tobytes()
        self[piece] = ids
        return ids


def _batched(texts: Iterable[str], characters: int = 1_000_000) -> Iterator[list[str]]:
    """Lists of texts of about ``characters`` in all, because the library's threads work on lists."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
