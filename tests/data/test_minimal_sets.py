"""Minimal pairs: same words, same question, crossed answers; the rule for natural sentences, case by case."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from emergence.data.formats.slots import is_passive, question_text
from emergence.data.microworld import MicroWorldConfig, generate_qa, owner_of
from emergence.data.minimal_sets import (
    CONSTRUCTIONS,
    construction_of,
    crossed_span,
    microworld_pairs,
    minimal_pairs,
    natural_pairs,
    pair_of,
)
from emergence.data.records import Answer, FilterCounts, QADataset, QAExample
from emergence.data.roles import asked_role
from emergence.errors import DataError

N = 100
SMALL = MicroWorldConfig(n_qa_train_documents=2, n_qa_validation_documents=1, n_qa_test_documents=1, seed=3)


@pytest.fixture(scope="module")
def pairs() -> list[tuple[QAExample, QAExample]]:
    members = microworld_pairs(N, seed=3)
    return list(zip(members[::2], members[1::2], strict=True))


def answer(example: QAExample) -> str:
    return " ".join(example.tokens[example.answers[0].start : example.answers[0].end]).lower()


def at(example: QAExample, span: tuple[int, int]) -> str:
    return " ".join(example.tokens[slice(*span)]).lower()


def test_members_have_the_same_words_and_question_and_crossed_answers(pairs: list) -> None:
    for a, b in pairs:
        assert sorted(a.tokens) == sorted(b.tokens) and a.tokens != b.tokens  # capitals included
        assert (a.question, a.slots, a.is_passive) == (b.question, b.slots, b.is_passive)
        assert answer(a) != answer(b)
        assert at(a, crossed_span(a, b)) == answer(b) and at(b, crossed_span(b, a)) == answer(a)
        assert a.answers[0].text.lower() == answer(a) and len(a.answers) == len(b.answers) == 1


def test_a_bag_of_words_gives_both_members_one_answer_and_gets_one(pairs: list) -> None:
    """Any function of question and bag: here the alphabetically first of the two phrases."""
    for a, b in pairs:
        said = min(answer(a), answer(b))
        assert (said == answer(a)) + (said == answer(b)) == 1


def test_the_predicate_is_marked_in_both(pairs: list) -> None:
    for a, b in pairs:
        assert a.tokens[a.predicate_index] == b.tokens[b.predicate_index]


def test_identities_tell_the_pair(pairs: list) -> None:
    assert [a.id for a, _ in pairs] == [f"pair-{i:06d}-a" for i in range(N)]
    for a, b in pairs:
        assert pair_of(a) == pair_of(b) == a.sentence_id == b.sentence_id == a.document_id and b.id.endswith("-b")
        assert a.source == "microworld-minimal" and a.split == "test"


def test_constructions_and_roles_are_all_there(pairs: list) -> None:
    counts = Counter(construction_of(a) for a, _ in pairs)
    assert counts == dict.fromkeys(CONSTRUCTIONS, N // len(CONSTRUCTIONS))
    roles = Counter((construction_of(a), asked_role(a)) for a, _ in pairs)
    for construction in CONSTRUCTIONS:
        other = "recipient" if construction in ("dative", "recipient_passive") else "patient"
        assert roles[construction, "agent"] > 2 and roles[construction, other] > 2
        assert roles[construction, "agent"] + roles[construction, other] == counts[construction]


def test_a_cleft_keeps_its_focus_and_differs_in_order_alone(pairs: list) -> None:
    for a, b in pairs:
        if construction_of(a) == "cleft":
            that = a.tokens.index("that")
            assert a.tokens[: that + 1] == b.tokens[: that + 1] and a.tokens[:2] == ("It", "was")
            assert a.predicate_index < b.predicate_index


def test_no_member_can_be_in_the_training_text(pairs: list) -> None:
    for members in pairs:
        for example in members:
            assert owner_of(" ".join(example.tokens).replace(" .", ".")) == "test"


def test_the_seed_decides_and_more_pairs_begin_with_fewer() -> None:
    assert microworld_pairs(5, seed=3) == microworld_pairs(10, seed=3)[:10]
    assert microworld_pairs(5, seed=4) != microworld_pairs(5, seed=3)


def test_a_micro_world_gets_the_pairs_of_its_seed() -> None:
    dataset = generate_qa(SMALL)
    assert minimal_pairs(dataset, n_pairs=5) == microworld_pairs(5, seed=3)
    with pytest.raises(DataError, match="generate"):
        minimal_pairs(replace(dataset, provenance={"route": "microworld"}))


def test_what_is_no_pair_is_refused(pairs: list) -> None:
    with pytest.raises(DataError, match="no minimal pair"):
        crossed_span(pairs[0][0], pairs[1][0])


# Natural sentences --------------------------------------------------------------------------------

FILLER = "We know Anna and Ben and Paris well ."
AGENT, PATIENT = "who | _ | _ | {verb} | someone | _ | _", "who | did | someone | {verb} | _ | _ | _"


def natural(sentence: str, verb: str, agent: str, patient: str, wh: tuple[str, str] = ("who", "who")) -> QADataset:
    """A sentence with one question for the agent and one for the patient of ``verb``."""
    tokens = tuple(sentence.split())
    examples = []
    for role, slots, words, word in (("agent", AGENT, agent, wh[0]), ("patient", PATIENT, patient, wh[1])):
        filled = tuple("" if s == "_" else s for s in slots.format(verb=verb).replace("who", word, 1).split(" | "))
        phrase = words.split()
        start = next(i for i in range(len(tokens)) if list(tokens[i : i + len(phrase)]) == phrase)
        spans = (Answer(words, start, start + len(phrase), "given"),)
        question, voice = question_text(filled), is_passive(filled)
        examples.append(
            QAExample(role, "bank", "test", "d", "s", tokens, tokens.index(verb), question, filled, spans, voice)
        )
    filler = replace(examples[0], id="f", tokens=tuple(FILLER.split()), split="train", predicate_index=1)
    splits = {"train": [filler], "validation": [], "test": examples}
    return QADataset("bank", splits, {s: FilterCounts() for s in splits}, "x", {"route": "local"})


def crossed(*args: str, **more: object) -> list[str]:
    return [" ".join(e.tokens) for e in natural_pairs(natural(*args, **more))[1::2]]  # type: ignore[arg-type]


def test_two_phrases_change_places_and_questions_stay() -> None:
    dataset = natural("The old dog chased the cat because it ran .", "chased", "The old dog", "the cat")
    members = minimal_pairs(dataset)
    assert [e.id for e in members] == ["pair-000000-a", "pair-000000-b", "pair-000001-a", "pair-000001-b"]
    for a, b in zip(members[::2], members[1::2], strict=True):
        assert " ".join(b.tokens) == "The cat chased the old dog because it ran ." and a.question == b.question
        assert b.predicate_index is not None and b.tokens[b.predicate_index] == "chased"
        assert (a.document_id, a.sentence_id) == ("s", pair_of(a))
        assert a.source == "bank-minimal" and construction_of(a) == "natural"
        assert at(a, crossed_span(a, b)) == answer(b) != answer(a)
    assert [(e.answers[0].text) for e in members] == ["The old dog", "The cat", "the cat", "the old dog"]


def test_names_keep_their_capital_and_common_nouns_do_not() -> None:
    assert crossed("Anna saw Ben .", "saw", "Anna", "Ben")[0] == "Ben saw Anna ."
    assert crossed("Dogs chased cats .", "chased", "Dogs", "cats")[0] == "Cats chased dogs ."
    assert crossed("The dog saw Anna .", "saw", "The dog", "Anna")[0] == "Anna saw the dog ."


@pytest.mark.parametrize(
    ("sentence", "verb", "agent", "patient"),
    [
        ("The dog chased him .", "chased", "The dog", "him"),  # a pronoun has case
        ("The dog chased the cats .", "chased", "The dog", "the cats"),  # number: the verb may agree
        ("The dog chased the women .", "chased", "The dog", "the women"),
        ("The dog chased the cat who ran .", "chased", "The dog", "the cat"),  # the phrase goes on
        ("The dog chased the cat , who ran .", "chased", "The dog", "the cat"),
        ("The dog chased the cat of Anna .", "chased", "The dog", "the cat"),
        ("The dog chased the cat coast .", "chased", "The dog", "the cat"),
        ("The tail of the dog hit the cat .", "hit", "the dog", "the cat"),  # part of a larger one
        ("The dog chased the dog .", "chased", "The dog", "the dog"),  # not two phrases
        ("The cat saw the dog and the dog ran .", "saw", "The cat", "the dog"),  # which one?
        ("The dog became the cat .", "became", "The dog", "the cat"),  # no two participants
        ("The very big old brown dog chased the cat .", "chased", "The very big old brown dog", "the cat"),
        ("Great Anna saw Ben .", "saw", "Anna", "Ben"),  # a title or first name would stay behind
    ],
)
def test_what_the_rule_refuses(sentence: str, verb: str, agent: str, patient: str) -> None:
    assert crossed(sentence, verb, agent, patient) == []


@pytest.mark.parametrize("rest", [", but ran .", "yesterday .", "quickly .", "in April .", ", while Anna ran ."])
def test_where_a_phrase_is_whole(rest: str) -> None:
    found = crossed(f"The dog chased the cat {rest}", "chased", "The dog", "the cat")
    assert found[0] == f"The cat chased the dog {rest}"


def test_a_later_answer_serves_where_the_first_is_no_simple_phrase() -> None:
    dataset = natural("The dog of Anna chased the cat .", "chased", "The dog of Anna", "the cat")
    assert natural_pairs(dataset) == []
    agent, patient = dataset.splits["test"]
    shorter = replace(agent, answers=(*agent.answers, Answer("Anna", 3, 4, "given")))
    assert natural_pairs(replace(dataset, splits={**dataset.splits, "test": [shorter, patient]})) == []  # after "of"
    dataset = natural("She knows that the dog chased the cat .", "chased", "She knows that the dog", "the cat")
    agent, patient = dataset.splits["test"]
    shorter = replace(agent, answers=(*agent.answers, Answer("the dog", 3, 5, "given")))
    members = natural_pairs(replace(dataset, splits={**dataset.splits, "test": [shorter, patient]}))
    assert [" ".join(e.tokens) for e in members[1::2]] == ["She knows that the cat chased the dog ."] * 2
    assert members[0].answers == (Answer("the dog", 3, 5, "given"),)


def test_who_does_not_change_places_with_what() -> None:
    args = ("The dog chased the cat .", "chased", "The dog", "the cat")
    assert len(crossed(*args, wh=("what", "what"))) == 2 and crossed(*args, wh=("who", "what")) == []


def test_only_test_questions_are_used() -> None:
    dataset = natural("The dog chased the cat .", "chased", "The dog", "the cat")
    moved = replace(dataset, splits={"train": dataset.splits["test"], "validation": [], "test": []})
    assert minimal_pairs(dataset) and minimal_pairs(moved) == []
