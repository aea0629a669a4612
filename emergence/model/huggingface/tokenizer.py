"""The tokenizer of a published model: words to tokens, and ordinary tokens that can stand for marks.

Any fast tokenizer will do. One that cuts a word the same way alone and in running text (GPT-2's and its kind) encodes
word by word, as this program's own does, so no token reaches from one word into the next. Any other (the SentencePiece
kind, which puts a space before every text) sees the whole sentence, and offsets say which tokens a word has. A token
that reaches over the end of a word counts as the word's last, because its state is the first to have seen all of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from emergence.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Int32Array = npt.NDArray[np.int32]

#: Pieces of running text that tell the two kinds apart; they are encoded alone and together. A clitic such as ``n't``
#: is not among them, because every tokenizer cuts it elsewhere.
_PIECES = (" The", " dog", "'s", " owners", ",", " who", " see", " it", ".", " Naïve", " 1984", " 東京")
_CONTEXT = ("a", "b")


class HuggingFaceTokenizer:
    """What encoding questions needs of a fast tokenizer.

    Args:
        tokenizer: As transformers loads it. From here on it spells out special tokens that a text holds.
        name: Of the model, for messages.

    Attributes:
        bos: The token that the tokenizer puts before every text, because its model was trained so; None for none.
        start: The token that can stand before a text: ``bos``, or else the one named so, or the end of a text (GPT-2).
        by_word: Whether words are encoded one by one.
        keeps_text: Whether a text decodes to itself. If not, the tokenizer changes what it reads (lower case, spaces).
        vocab_size, vocab_rows: Number of tokens; an embedding may have more rows.
        largest_id: Of all tokens; ids may have gaps.
        fingerprint: sha256 (hexadecimal) of its canonical JSON.
        n_late: Words seen so far whose last token reaches over their end.

    Raises:
        UsageError: The tokenizer is a slow one, which has no offsets.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str = "this model") -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise UsageError(
                f"{name} has a slow tokenizer ({type(tokenizer).__name__}), which cannot say where its tokens lie: "
                "give a model with a tokenizer.json"
            )
        self.name = name
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = True
        alone, with_specials = (self._backend.encode("a", add_special_tokens=on).ids for on in (False, True))
        added = len(with_specials) - len(alone)
        self.bos: int | None = with_specials[0] if added > 0 and with_specials[0] != alone[0] else None
        known = (self.bos, tokenizer.bos_token_id, tokenizer.eos_token_id)
        self.start: int | None = next((int(token) for token in known if token is not None), None)
        unknown = tokenizer.unk_token_id
        self._unknown: int | None = None if unknown is None else int(unknown)
        self.vocab_size: int = self._backend.get_vocab_size(with_added_tokens=True)
        self.largest_id: int = max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1)
        self.vocab_rows = self.vocab_size
        text = "".join(_PIECES)
        together = self._ids(text)
        apart = [token for piece in _PIECES for token in self._ids(piece)]
        self.keeps_text = self._backend.decode(together, skip_special_tokens=False) == text
        self.by_word = together == apart and self.keeps_text
        self.n_late = 0
        canonical = json.dumps(json.loads(self.to_json()), sort_keys=True, separators=(",", ":"))
        self.fingerprint: str = hashlib.sha256(canonical.encode()).hexdigest()
        self._words: dict[str, Int32Array] = {}

    @property
    def pad(self) -> int:
        """A token to fill batches up with. It is never seen, so any will do."""
        return 0

    @property
    def sep(self) -> int:
        raise self._no_marks()

    @property
    def pred(self) -> int:
        raise self._no_marks()

    def to_json(self) -> str:
        """The ``tokenizers`` library's JSON."""
        return str(self._backend.to_str())

    def facts(self) -> dict[str, Any]:
        """What a result records of it, in plain JSON types."""
        return {
            "fingerprint": self.fingerprint,
            "tokens": self.vocab_size,
            "bos": None if self.bos is None else self._backend.id_to_token(self.bos),
            "words_encoded": "one by one" if self.by_word else "in running text, by offsets",
            "keeps_text": self.keeps_text,
            "words_read_late": self.n_late,
        }

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of every text, without special tokens."""
        encoded = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return [list(one.ids) for one in encoded]

    def encode_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids of a text, without special tokens, and the characters that each stands for, as ``[start, end)``."""
        encoded = self._backend.encode(text, add_special_tokens=False)
        return list(encoded.ids), list(encoded.offsets)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids. Special tokens are spelled out."""
        return str(self._backend.decode([int(i) for i in ids], skip_special_tokens=False))

    def encode_words(self, pieces: Sequence[str]) -> tuple[Int32Array, Int32Array, Int32Array]:
        """A sentence whose words stand as in running text: ``[" He", " did", "n't"]``.

        Returns:
            Token ids (T,). Then for each word the place (W,) of the first token that begins in it or after, and of its
            last token, the first to have seen all of it.
        """
        if self.by_word:
            words = [self._word(piece) for piece in pieces]
            ends = np.cumsum([len(word) for word in words], dtype=np.int32)
            starts = np.concatenate([np.zeros(1, dtype=np.int32), ends[:-1]])
            return np.concatenate(words), starts, ends - np.int32(1)
        text = "".join(pieces)
        skipped = len(text) - len(text.lstrip(" "))  # the tokenizer puts one there itself
        ids, spans = self.encode_spans(text[skipped:])
        if not ids:
            raise UsageError(f"{self.name}: its tokenizer makes no token of {text[:60]!r}")
        word_ends = np.cumsum([len(piece) for piece in pieces]) - skipped
        lengths = [len(piece) - len(piece.lstrip(" ")) for piece in pieces]
        word_starts = np.concatenate([[0], word_ends[:-1] + lengths[1:]])
        token_ends = np.maximum.accumulate([end for _, end in spans])
        # The space before a word belongs to it, be it a token of its own or not.
        seen = text[skipped:]
        token_starts = [end - len(seen[start:end].lstrip(" ")) for start, end in spans]
        last = np.searchsorted(token_ends, word_ends, side="left").clip(max=len(ids) - 1)
        # The bytes of one character all stand for it, so a word that ends with them ends with the last.
        ends_there = np.searchsorted(token_ends, word_ends, side="right") - 1
        last = np.where(token_ends[last] == word_ends, ends_there, last)
        first = np.searchsorted(np.maximum.accumulate(token_starts), word_starts, side="left")
        self.n_late += int((token_ends[last] > word_ends).sum())
        return np.asarray(ids, dtype=np.int32), first.astype(np.int32), last.astype(np.int32)

    def mark(self, text: str) -> int | None:
        """The one token that stands for ``text`` between two letters; None if there is no such token."""
        before, after = _CONTEXT
        ids, spans = self.encode_spans(before + text + after)
        inner = text.strip(" ") or text
        begin = len(before) + text.index(inner)
        end = begin + len(inner)
        over = [(i, s) for i, s in zip(ids, spans, strict=True) if s[0] < end and s[1] > begin and s[0] < s[1]]
        if len(over) != 1 or over[0][0] == self._unknown:
            return None
        token, (start, stop) = over[0]
        return token if len(before) <= start and stop <= end else None

    def _ids(self, text: str) -> list[int]:
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def _word(self, piece: str) -> Int32Array:
        if piece not in self._words:
            self._words[piece] = np.asarray(self._ids(piece), dtype=np.int32)
        return self._words[piece]

    def _no_marks(self) -> UsageError:
        return UsageError(f"{self.name} has no marks of its own: drop --set finetune.marks=special")
