"""The control of wiki+nq: the same lengths at the same places, the text's own end and nothing else."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from emergence.data.control_mix import control_passages
from emergence.data.nq import mix_into
from emergence.data.records import TextDoc
from emergence.data.stream import EncodedDocument, TokenStream, encode_documents
from emergence.data.tokenizer import TextTokenizer

SENTENCES = [f"Lobster {i} ate the fish of town {i % 7}. A baker saw it from bridge {i}.\n" for i in range(300)]
TOKENIZER = TextTokenizer.train(SENTENCES, 400)
QUESTIONS = [f"who ate the fish of town {'very ' * (i % 5)}near {i}? Ann" for i in range(40)]


def stream(sentences_each: int) -> TokenStream:
    texts = ("".join(SENTENCES[k : k + sentences_each]) for k in range(0, len(SENTENCES), sentences_each))
    documents = encode_documents((TextDoc(str(k), text) for k, text in enumerate(texts)), TOKENIZER)
    return TokenStream.from_tokens(np.concatenate([document.ids for document in documents]))


def mixed(base: TokenStream, control: bool, seed: int = 0) -> tuple[list[EncodedDocument], dict[str, Any]]:
    questions = list(encode_documents((TextDoc(f"q{i}", text) for i, text in enumerate(QUESTIONS)), TOKENIZER))
    report: dict[str, Any] = {}
    return list(mix_into(base, questions, TOKENIZER, seed, report, control=control)), report


def test_it_differs_from_the_questions_in_what_the_short_documents_say_alone() -> None:
    base = stream(10)
    asked, told = mixed(base, control=False)
    plain, told_plain = mixed(base, control=True)
    assert [len(document.ids) for document in plain] == [len(document.ids) for document in asked]
    differs = [a.ids.tolist() != p.ids.tolist() for a, p in zip(asked, plain, strict=True)]
    assert differs == [TOKENIZER.decode(document.ids).startswith("who ate") for document in asked]
    assert sum(differs) == len(QUESTIONS) == told_plain["passages"]
    assert {key: told_plain[key] for key in told} == told
    assert told_plain["passage_tokens_used_twice"] < 0.1 * told["nq_tokens"]


def test_the_passages_are_the_text_that_the_questions_displace() -> None:
    base = stream(10)
    asked, report = mixed(base, control=False)
    plain, _ = mixed(base, control=True)
    displaced = TOKENIZER.decode(base.tokens[base.n_tokens - report["nq_tokens"] :])
    kept, passages = "", []
    for question, document in zip(asked, plain, strict=True):
        text = TOKENIZER.decode(document.ids)
        if question.ids.tolist() == document.ids.tolist():
            kept += text
        else:
            passages.append(text.removesuffix("<|endoftext|>"))
    assert kept + displaced == TOKENIZER.decode(base.tokens), "nothing else is lost, nothing stands twice"
    for passage, following in itertools.pairwise(passages):
        assert passage in displaced and "who" not in passage and "?" not in passage
        assert passage[0].isspace() or passage.startswith("Lobster"), "a passage begins with a word"
        assert displaced.find(passage) != displaced.find(following)


def test_it_is_a_function_of_text_and_seed() -> None:
    def ids(seed: int) -> list[int]:
        return np.concatenate([document.ids for document in mixed(stream(10), True, seed)[0]]).tolist()

    assert ids(0) == ids(0) != ids(1)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(2, 60), max_size=12), sentences=st.sampled_from([1, 3, 50]))
def test_every_length_is_met_whatever_the_documents_are_like(lengths: list[int], sentences: int) -> None:
    base, report = stream(sentences), dict[str, Any]()
    passages = control_passages(base, lengths, TOKENIZER, report) if lengths else []
    assert [len(passage.ids) for passage in passages] == lengths
    for passage in passages:
        assert np.flatnonzero(passage.ids == TOKENIZER.eot).tolist() == [len(passage.ids) - 1]
        assert passage.n_bytes == len(TOKENIZER.decode(passage.ids[:-1]).encode())
    assert report.get("passage_tokens_used_twice", 0) <= sum(lengths)


def test_the_stream_with_questions_is_what_it_was_before_there_was_a_control() -> None:
    """Runs on wiki+nq are found again by the fingerprint of this stream."""
    documents = [np.append(np.arange(4, 4 + 40 + k, dtype=np.uint16), np.uint16(TOKENIZER.eot)) for k in range(30)]
    base = TokenStream.from_tokens(np.concatenate(documents))
    asked = [EncodedDocument(np.array([300, 301 + k, 0], dtype=np.uint16), 3, 1) for k in range(50)]
    found = np.concatenate([document.ids for document in mix_into(base, asked, TOKENIZER, 0, {})])
    assert hashlib.sha256(found.astype("<u2").tobytes()).hexdigest()[:16] == "c9b2c154e8e42b48"
