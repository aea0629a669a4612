"""Words that stand for arguments: their roles, their halves, and what could pass for a role."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from emergence.data.argument_words import ArgumentWords, argument_words, part_of_speech, role_of
from emergence.data.microworld.config import MicroWorldConfig
from emergence.data.microworld.generate import generate_qa, gold_role
from emergence.data.records import QAExample
from emergence.errors import DataError

CONFIG = MicroWorldConfig(n_documents=1, n_qa_train_documents=2, n_qa_validation_documents=1, n_qa_test_documents=40)


def words_of(
    examples: list[QAExample], counted: tuple[tuple[str, ...], ...] = (), roles: str = "gold"
) -> ArgumentWords:
    """Argument words of two halves, the documents with even and with odd numbers."""
    halves = [[e for e in examples if int(e.document_id[-1]) % 2 == odd] for odd in (0, 1)]
    return argument_words(*halves, counted, roles, anything)


def anything(sentence: tuple[str, ...]) -> bool:
    return True


@pytest.fixture(scope="module")
def examples() -> list[QAExample]:
    return generate_qa(CONFIG).splits["test"]


def test_a_word_has_the_role_that_the_grammar_gave_it(examples: list[QAExample]) -> None:
    words = words_of(examples)
    assert {"agent", "patient", "place", "time"} <= set(words.roles) and len(words) > 400
    roles: dict[tuple[tuple[str, ...], int], set[str]] = {}
    for example in examples:
        roles.setdefault((example.tokens, example.answers[0].end - 1), set()).add(gold_role(example))
    for sentence, word, label in zip(words.sentence, words.word, words.label, strict=True):
        assert roles[words.sentences[sentence], word] == {words.roles[label]}
    assert words.n_ambiguous == sum(len(each) > 1 for each in roles.values()) > 0
    places = list(zip(words.sentence.tolist(), words.word.tolist(), strict=True))
    assert places == sorted(set(places)) and sum(map(len, words.words_at())) == len(words)


def test_sentences_are_in_the_half_of_their_questions(examples: list[QAExample]) -> None:
    words = words_of(examples)
    home = {e.tokens: True for e in examples} | {e.tokens: False for e in examples if int(e.document_id[-1]) % 2}
    assert [home[s] for s in words.sentences] == words.sentence_in_a.tolist()
    assert 0.3 < words.in_a.mean() < 0.7 and (words.in_a == words.sentence_in_a[words.sentence]).all()


def test_confounds_are_place_frequency_and_part_of_speech(examples: list[QAExample]) -> None:
    words = words_of(examples, (("The", "baker", "saw", "the", "baker"),))
    assert (words.confounds[:, 0] == words.word).all() and (words.confounds[:, 1] == words.word**2).all()
    last = [words.sentences[s][w] for s, w in zip(words.sentence, words.word, strict=True)]
    bakers = np.array([word == "baker" for word in last])
    assert bakers.any()
    np.testing.assert_allclose(words.confounds[:, 2], np.where(bakers, np.log(3), 0))
    parts = {part_of_speech(word) for word in last}
    assert parts == {"name", "noun", "adverb"} and words.confounds.shape[1] == 3 + len(parts) - 1
    assert [part_of_speech(word) for word in ("Paris", "1984", "quickly", "Monday")] == [
        "name",
        "number",
        "other",
        "noun",
    ]


def test_of_many_sentences_as_many_of_each_half_are_read(
    examples: list[QAExample], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = words_of(examples)
    monkeypatch.setattr("emergence.data.argument_words.MOST_SENTENCES", 90)
    few = words_of(examples)
    assert few.sentence_in_a.sum() == (~few.sentence_in_a).sum() == 90 < len(whole.sentences) / 2
    assert [s for s in whole.sentences if s in set(few.sentences)] == list(few.sentences)


def test_wh_words_can_stand_in_place_of_roles(examples: list[QAExample]) -> None:
    words = words_of(examples, roles="wh")
    assert set(words.roles) >= {"who", "what", "where", "when"}
    assert role_of(examples[0], "wh") == examples[0].wh
    natural = dataclasses.replace(examples[0], source="qasrl", slots=("what", "", "", "fell", "", "", ""))
    assert role_of(natural) == "patient"


def test_too_few_words_are_refused_with_their_counts(examples: list[QAExample]) -> None:
    with pytest.raises(DataError, match=r"20 argument words in each half .* have patient 17, agent 17, "):
        words_of(examples[:60])
    with pytest.raises(DataError, match="have none: give more questions"):
        argument_words(examples, [], [], "gold", lambda sentence: False)
