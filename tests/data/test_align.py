"""Answers to spans: whole tokens, the right occurrence, and nothing found that is not there."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emergence.data.align import AMBIGUOUS, UNALIGNED, Alignment, SentenceIndex, _starts, split_tokens

SENTENCE = ["The", "cat", "saw", "the", "catalogue", ",", "and", "the", "dog", "saw", "The", "cat", "again", "."]
# "The" 0, "saw" 2, "the" 3, "catalogue" 4, "the" 7, "dog" 8, "saw" 9, "The" 10, "again" 12, "." 13


def align(answer: str, predicate: int | None = 2, tokens: list[str] | None = None) -> Alignment | str:
    return SentenceIndex(tokens or SENTENCE).align(answer, predicate)


def test_matches_whole_tokens_never_substrings() -> None:
    assert align("catalogue") == Alignment(4, 5, "unique")
    assert align("log") == UNALIGNED
    assert align("the cat", None, ["the", "catalogue", "of", "the", "cat"]) == Alignment(3, 5, "unique")


def test_the_exact_match_beats_a_nearer_one_in_other_case() -> None:
    assert align("the dog") == Alignment(7, 9, "unique")
    assert align("the", 0) == Alignment(3, 4, "nearest")  # "The" at 0 is nearer, but not exact
    assert align("THE DOG") == Alignment(7, 9, "unique+casefold")


@pytest.mark.parametrize(("predicate", "start"), [(2, 0), (9, 10), (12, 10), (0, 0)])
def test_several_occurrences_give_the_one_nearest_the_predicate(predicate: int, start: int) -> None:
    assert align("The cat", predicate) == Alignment(start, start + 2, "nearest")


def test_equal_distance_gives_the_left_one_and_a_span_over_the_predicate_has_distance_zero() -> None:
    assert align("x", 1, ["x", "p", "x"]) == Alignment(0, 1, "nearest")
    assert align("a p", 5, ["a", "p", "z", "z", "a", "p"]) == Alignment(4, 6, "nearest")


def test_without_a_predicate_a_repeated_answer_is_ambiguous() -> None:
    assert align("The cat", None) == AMBIGUOUS
    assert align("again", None) == Alignment(12, 13, "unique")


def test_trailing_punctuation_is_cut_only_where_it_must_be() -> None:
    assert align("again .") == Alignment(12, 14, "unique")
    assert align("the dog .") == Alignment(7, 9, "unique+trimmed")
    assert align("The Dog.") == Alignment(7, 9, "unique+casefold+trimmed")
    assert align("the U.S.A.!", 0, ["in", "the", "U.S.A."]) == Alignment(1, 3, "unique+trimmed")
    assert align(". . .", 0, ["a", "."]) == Alignment(1, 2, "unique+trimmed")


@pytest.mark.parametrize("answer", ["", "   ", "elephant", "cat the", "The cat saw the catalogue , and more"])
def test_what_is_not_there_is_not_found(answer: str) -> None:
    assert align(answer) == UNALIGNED


def test_unicode_forms_and_zero_width_characters_do_not_matter() -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert composed != decomposed
    for tokens, answer in (
        ([composed, "x"], decomposed),
        ([decomposed, "x"], composed),
        (["ca\u200bfé", "x"], "café\ufeff"),
    ):
        assert align(answer, 1, tokens) == Alignment(0, 1, "unique")
    assert align("a b", 0, ["a", "\u200b", "b"]) == Alignment(0, 3, "unique")


def test_sentences_are_cut_at_ascii_white_space_only() -> None:
    assert split_tokens(" a  b\u00a0c\td ") == ("a", "b\u00a0c", "d")


words = st.lists(st.sampled_from(["a", "b", "A", "ab", ",", "."]), min_size=1, max_size=12)


@settings(max_examples=300, deadline=None)
@given(words, st.data())
def test_a_planted_span_is_found_and_no_equal_span_is_nearer(tokens: list[str], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(tokens) - 1))
    end = data.draw(st.integers(start + 1, len(tokens)))
    predicate = data.draw(st.integers(0, len(tokens) - 1))
    place = SentenceIndex(tokens).align(" ".join(tokens[start:end]), predicate)
    assert isinstance(place, Alignment)
    assert tokens[place.start : place.end] == tokens[start:end]

    def gap(first: int) -> int:
        return min(abs(i - predicate) for i in range(first, first + end - start))

    twins = [i for i in range(len(tokens)) if tokens[i : i + end - start] == tokens[start:end]]
    assert gap(place.start) == min(map(gap, twins))
    assert place.kind == ("unique" if len(twins) == 1 else "nearest")


@given(
    st.lists(st.sampled_from("ab"), min_size=1, max_size=12), st.lists(st.sampled_from("ab"), min_size=1, max_size=4)
)
def test_every_occurrence_is_found(tokens: list[str], sought: list[str]) -> None:
    n = len(sought)
    expected = [i for i in range(len(tokens) - n + 1) if tokens[i : i + n] == sought]
    assert list(_starts(tokens, sought)) == expected


@pytest.mark.parametrize(
    ("tokens", "answer"),
    [(["w"] * 30_000, "w " * 15_000), (["w"] * 30_000, "w " * 15_000 + "b"), (["w"] * 300, "w" + " ." * 15_000)],
)
def test_a_very_long_sentence_costs_no_time(tokens: list[str], answer: str) -> None:
    began = time.process_time()
    for _ in range(3):
        SentenceIndex(tokens).align(answer, 2)
    assert time.process_time() - began < 2.0
