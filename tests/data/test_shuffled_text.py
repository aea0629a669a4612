"""Text without word order: the same words in every sentence, everything else in its place, the order gone."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emergence.data.records import TextDoc
from emergence.data.shuffled_text import shuffle_words, shuffled_documents, shuffled_stream
from emergence.data.stream import EncodedDocument, TokenStream, encode_documents
from emergence.data.tokenizer import TextTokenizer

WORDS = [f"{stem}{ending}" for stem in ("lob", "bak", "riv", "tow", "fis") for ending in ("er", "ing", "en", "al", "o")]


def text_of(seed: int, n_sentences: int = 30) -> str:
    rng = np.random.default_rng(seed)
    sentences = (" ".join(rng.choice(WORDS, size=12)).capitalize() + "." for _ in range(n_sentences))
    return " ".join(sentences)


DOCUMENTS = [TextDoc(str(k), text_of(k)) for k in range(20)]
TOKENIZER = TextTokenizer.train((document.text for document in DOCUMENTS), 400)


def shuffled(text: str, seed: int = 0) -> str:
    return shuffle_words(text, np.random.default_rng(seed))


def bag(sentence: str) -> list[str]:
    return sorted(re.findall(r"\w+", sentence))


def test_every_sentence_keeps_its_words_and_its_end() -> None:
    text = text_of(1)
    before, after = text.split(". "), shuffled(text).split(". ")
    assert list(map(bag, after)) == list(map(bag, before)) and len(after) == 30
    assert all(a != b for a, b in zip(before, after, strict=True))


def test_everything_between_the_words_stays_in_its_place() -> None:
    text = 'A Title\n\n"Ann, the  baker\'s wife (who\nsaw 3.5 fish)," said Bob -- "went home!" Did she?\n\nShe did.\n'
    found = shuffled(text, 3)
    assert found != text
    assert re.sub(r"\w(?:\S*\w)?", "w", found) == re.sub(r"\w(?:\S*\w)?", "w", text)
    assert {"baker's", "3.5"} <= set(re.findall(r"\w(?:\S*\w)?", found)), "a word is one word with the marks inside it"


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One two three. Four five six.", 2),
        ("One two three! Four five six?", 2),
        ('One "two three." Four five six.', 2),
        ("One two three\n\nFour five six", 2),
        ("One two three\nfour five six", 1),
        ("One two Mr. Four five six.", 1),
        ("One 2.5 three, four; five: six.", 1),
    ],
)
def test_where_a_sentence_ends(text: str, sentences: int) -> None:
    """The first word of the text comes as far as its sentence goes."""
    words = text.split()
    where = {next(i for i, w in enumerate(shuffled(text, seed).split()) if "One" in w) for seed in range(200)}
    assert where == set(range(len(words) // sentences))


def test_the_order_is_gone() -> None:
    """Of the pairs of neighbours hardly more survive than two words of 12 stand side by side by chance (1 in 12)."""
    words = [f"w{i}" for i in range(12 * 400)]
    text = " ".join(" ".join(words[k : k + 12]) + "." for k in range(0, len(words), 12))
    pairs = set(itertools.pairwise(words))
    kept = sum(pair in pairs for pair in itertools.pairwise(re.findall(r"\w+", shuffled(text))))
    assert kept / len(pairs) < 0.11
    first = {shuffled("a b c", seed) for seed in range(200)}
    assert len(first) == 6, "every order occurs"


def test_it_is_a_function_of_the_seed_and_the_documents_number() -> None:
    def texts(documents: list[TextDoc], seed: int) -> list[str]:
        return [document.text for document in shuffled_documents(documents, seed)]

    assert texts(DOCUMENTS, 0) == texts(DOCUMENTS, 0) != texts(DOCUMENTS, 1)
    twice = texts([DOCUMENTS[0], DOCUMENTS[0]], 0)
    assert twice[0] != twice[1], "a document that stands twice is not shuffled alike"
    assert texts(DOCUMENTS[:3], 0) == texts(DOCUMENTS, 0)[:3]
    assert shuffled("The cow saw the bear. Ann ran to the river.", 7) == "the bear The saw cow. ran river the to Ann."


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="ab .!?,\n\t'\"é_1-", max_size=60), seed=st.integers(0, 5))
def test_any_text_keeps_its_characters(text: str, seed: int) -> None:
    found = shuffled(text, seed)
    assert sorted(found) == sorted(text)
    assert [c for c in found if c.isspace()] == [c for c in text if c.isspace()]


# Budget -------------------------------------------------------------------------------------------


def stream_of(n_tokens: int, documents: list[TextDoc]) -> tuple[list[EncodedDocument], dict[str, Any]]:
    base = TokenStream.from_tokens(np.zeros(n_tokens, dtype=np.uint16))
    report: dict[str, Any] = {}
    return list(shuffled_stream(base, lambda: documents, TOKENIZER, 0, report)), report


@pytest.mark.parametrize("difference", [-700, -1, 0, 1, 700])
def test_the_budget_is_the_plain_texts_whatever_the_length(difference: int) -> None:
    whole = list(encode_documents(shuffled_documents(DOCUMENTS, 0), TOKENIZER))
    ids = np.concatenate([document.ids for document in whole])
    found, report = stream_of(len(ids) + difference, DOCUMENTS)
    got = np.concatenate([document.ids for document in found])
    assert got.tolist() == np.concatenate([ids, ids])[: len(ids) + difference].tolist(), (
        "what lacks comes from the start"
    )
    assert report["shuffled_tokens"] == len(ids)
    assert (report["tokens_left_out"], report["tokens_used_twice"]) == (max(-difference, 0), max(difference, 0))
    assert report["validation_and_test"] == "in their own order"


def test_a_text_shorter_than_half_the_budget_is_used_several_times() -> None:
    found, report = stream_of(1000, [TextDoc("0", "One two three.")])
    assert sum(len(document.ids) for document in found) == 1000
    assert report["tokens_used_twice"] == 1000 - report["shuffled_tokens"]
