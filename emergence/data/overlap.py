"""How many question sentences also stand, word for word, in the pretraining text.

The text does not hold the labels. But a trunk that has read a test sentence knows its words better than one that has
not, so the count belongs beside the score.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from emergence.data.qa_encoding import word_pieces
from emergence.data.stream import TokenStream
from emergence.data.tokenizer import TextTokenizer

_WINDOW = 8
_CHUNK = 4_000_000
#: Odd multipliers of a polynomial hash modulo 2^64. Every hit is afterwards compared token by token.
_POWERS = np.array([pow(0x9E3779B97F4A7C15, k, 1 << 64) for k in range(_WINDOW)], dtype=np.uint64)


def sentences_in_stream(sentences: Iterable[Sequence[str]], stream: TokenStream, tokenizer: TextTokenizer) -> int:
    """Count the distinct sentences that occur verbatim in a stream.

    The first word is left out of the comparison, because at the start of a line it is encoded without its space.
    Sentences of fewer than ``_WINDOW`` further tokens never count, because they occur by chance.

    Args:
        sentences: Word tokens of each sentence, in the manner of the Penn Treebank.
        stream: Tokens of ``tokenizer``.
    """
    by_hash: dict[int, list[NDArray[np.uint16]]] = {}
    for words in dict.fromkeys(tuple(words) for words in sentences):
        ids = tokenizer.encode_batch(["".join(word_pieces(words)[1:])])[0]
        if len(ids) >= _WINDOW:
            by_hash.setdefault(int(_hashes(ids[:_WINDOW])[0]), []).append(ids)
    count = 0
    likely = np.zeros(1 << 16, dtype=bool)  # a table of the first 16 bits leaves few hashes to look up
    likely[[key >> 48 for key in by_hash]] = True
    for start in range(0, stream.n_tokens, _CHUNK):
        hashes = _hashes(np.asarray(stream.tokens[start : start + _CHUNK + _WINDOW - 1]))
        for place in np.flatnonzero(likely[hashes >> np.uint64(48)]):
            waiting = by_hash.get(int(hashes[place]), [])
            if not waiting:
                continue
            at = start + int(place)
            here = [ids for ids in waiting if np.array_equal(stream.tokens[at : at + len(ids)], ids)]
            count += len(here)
            by_hash[int(hashes[place])] = [ids for ids in waiting if not any(ids is other for other in here)]
    return count


def _hashes(ids: NDArray[np.uint16]) -> NDArray[np.uint64]:
    """Hash of every window of ``_WINDOW`` tokens, (n - _WINDOW + 1,)."""
    n = len(ids) - _WINDOW + 1
    total = np.zeros(max(n, 0), dtype=np.uint64)
    for k in range(_WINDOW if n > 0 else 0):
        total += ids[k : k + n].astype(np.uint64) * _POWERS[k]
    return total
