"""Sentences planted in a stream are found, others are not."""

from __future__ import annotations

import numpy as np
import pytest

from emergence.data import overlap
from emergence.data.overlap import sentences_in_stream
from emergence.data.records import TextDoc
from emergence.data.stream import TokenStream, encode_documents
from emergence.data.tokenizer import TextTokenizer

SENTENCES = [
    f"Lobster {i} did n't eat the fish , although it was number {i * 7} of the day .".split() for i in range(40)
]
NATURAL = [f"Lobster {i} didn't eat the fish, although it was number {i * 7} of the day." for i in range(40)]
TOKENIZER = TextTokenizer.train(NATURAL, 300)


def stream_of(*texts: str) -> TokenStream:
    documents = encode_documents((TextDoc(str(i), text) for i, text in enumerate(texts)), TOKENIZER)
    return TokenStream.from_tokens(np.concatenate([document.ids for document in documents]))


@pytest.mark.parametrize("chunk", [7, 50, 4_000_000])
def test_planted_sentences_are_counted_once(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "_CHUNK", chunk)
    stream = stream_of(NATURAL[3], "He said: " + NATURAL[5] + " " + NATURAL[3], "Title\n" + NATURAL[8])
    assert sentences_in_stream([*SENTENCES, *SENTENCES], stream, TOKENIZER) == 3


def test_beginnings_other_words_and_short_sentences_do_not_count() -> None:
    stream = stream_of(NATURAL[3][:-12], NATURAL[4].replace("fish", "dish"), "It is.")
    assert sentences_in_stream([*SENTENCES, ["It", "is", "."]], stream, TOKENIZER) == 0
    assert sentences_in_stream([], stream, TOKENIZER) == sentences_in_stream(SENTENCES, stream_of("x"), TOKENIZER) == 0
