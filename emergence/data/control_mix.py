"""Short documents without questions, for ``--pretrain-data wiki+control``: the control of ``wiki+nq``.

The questions push the end of the text out of the token budget. The control keeps exactly that text, cut into passages.
Every question has one passage, which is as long in tokens and stands at the question's place. So ``wiki+control``
differs from ``wiki+nq`` only in what the short documents say, and from ``wiki`` only in how the same text is arranged.
The control cannot tell the form of questions from their topics and facts, because no encyclopedia's text shares those
(docs/methods.md#data-ablation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emergence.data.stream import EncodedDocument, TokenStream
from emergence.data.tokenizer import TextTokenizer

#: Change it when the same text and the same lengths give other passages.
CONTROL_VERSION = 1
#: Tokens among which the beginning of a passage is looked for.
_LOOK_AHEAD = 512


@dataclass(frozen=True)
class _Text:
    """Text without the tokens that end documents.

    Attributes:
        ids: (n,) tokens.
        room: (n,) tokens from each one to the end of its document, itself included.
        starts: (n,) whether a passage may begin here: at the beginning of a word.
    """

    ids: NDArray[np.uint16]
    room: NDArray[np.int64]
    starts: NDArray[np.bool_]


def control_passages(
    base: TokenStream, lengths: Sequence[int], tokenizer: TextTokenizer, report: dict[str, Any]
) -> list[EncodedDocument]:
    """Cut the end of ``base`` into passages, in its order.

    Each passage begins with a word and lies within one document, if one nearby has the room. The text that this skips
    is made up for from the beginning, so some text may occur twice.

    Args:
        base: The text alone. The passages are cut from its last ``sum(lengths)`` tokens.
        lengths: Tokens of each passage, the closing ``<|endoftext|>`` included.
        report: Receives the number of passages and of tokens that were used twice.
    """
    text = _text_of(np.asarray(base.tokens[base.n_tokens - sum(lengths) :]), tokenizer)
    used = np.zeros(len(text.ids), dtype=np.int64)
    passages, position = [], 0
    for length in lengths:
        begin = _next_start(text, position, length - 1)
        places = np.arange(begin, begin + length - 1) % len(text.ids)
        np.add.at(used, places, 1)
        ids = np.append(text.ids[places], np.uint16(tokenizer.eot))
        words = tokenizer.decode(ids[:-1].tolist())
        passages.append(EncodedDocument(ids, len(words.encode()), len(words.split())))
        position = begin + length - 1
    report |= {"passages": len(passages), "passage_tokens_used_twice": int(np.maximum(used - 1, 0).sum())}
    return passages


def _text_of(tokens: NDArray[np.uint16], tokenizer: TextTokenizer) -> _Text:
    is_text = tokens != tokenizer.eot
    document = np.cumsum(~is_text)[is_text]  # (n,) number of each token's document
    last = np.searchsorted(document, document, side="right")  # (n,) just after the document's last token
    ids = tokens[is_text]
    begins_word = np.array([tokenizer.decode([token])[:1].isspace() for token in range(tokenizer.vocab_size)])
    begins_document = np.diff(document, prepend=0) > 0  # the first may stand in the middle of a word
    return _Text(ids, last - np.arange(len(ids)), begins_word[ids] | begins_document)


def _next_start(text: _Text, position: int, length: int) -> int:
    """Where the next passage begins, at or soon after ``position``; ``position`` itself if nothing near fits."""
    near = np.arange(position, position + _LOOK_AHEAD) % len(text.ids)
    fits = text.starts[near] & (text.room[near] >= length)
    return position + int(fits.argmax())  # the first True, or 0 where there is none
