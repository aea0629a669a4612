"""The micro-world's gold: spans are whole constituents, roles are true, questions are those of QA-SRL."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import pytest

from emergence.data.microworld import MicroWorldConfig, generate_qa, qa_sentences
from emergence.data.microworld.events import Draws
from emergence.data.microworld.lexicon import (
    ANIMALS,
    ANY_TIMES,
    FUTURE_TIMES,
    NAMES,
    ORIGINS,
    PAST_TIMES,
    PEOPLE,
    PLACES,
    THINGS,
    TOOLS,
    VERBS,
)
from emergence.data.microworld.questions import Question, ask
from emergence.data.records import QADataset

SMALL = MicroWorldConfig(n_qa_train_documents=300, n_qa_validation_documents=30, n_qa_test_documents=60)


@pytest.fixture(scope="module")
def dataset() -> QADataset:
    return generate_qa(SMALL)


# -- gold spans -------------------------------------------------------------------------------------

_NOUN = "|".join((*PEOPLE, *ANIMALS, *THINGS, *TOOLS))
_SIMPLE_NP = rf"(?:{'|'.join(NAMES)}|(?:[Tt]he|an?)(?: [a-z]+)? (?:{_NOUN})(?: from the (?:{'|'.join(ORIGINS)}))?)"
_NP = re.compile(rf"{_SIMPLE_NP}(?: and {_SIMPLE_NP})?")
_RELATIVE = re.compile(rf"{_SIMPLE_NP} (?:who|that) .+")
_PLACE = re.compile(rf"(?i:in|at|near|behind) the (?:{'|'.join(PLACES)})(?: where .+)?")
_TIME = re.compile("|".join(" ".join(time) for time in ANY_TIMES + PAST_TIMES + FUTURE_TIMES), re.IGNORECASE)


def is_constituent(text: str, role: str) -> bool:
    pattern = {"place": _PLACE, "time": _TIME}.get(role, _NP)
    return bool(pattern.fullmatch(text) or (role in ("agent", "patient", "recipient") and _RELATIVE.fullmatch(text)))


def test_answers_are_whole_constituents(dataset: QADataset) -> None:
    for examples in dataset.splits.values():
        for example in examples:
            role = example.id.rsplit("-", 1)[1]
            assert len({(a.start, a.end) for a in example.answers}) == len(example.answers) >= 1
            for answer in example.answers:
                assert 0 <= answer.start < answer.end < len(example.tokens)  # never the full stop
                assert answer.text == " ".join(example.tokens[answer.start : answer.end])
                assert is_constituent(answer.text, role), (example.id, answer.text)
                assert answer.alignment == "given"
                assert example.predicate_index is not None
                inside = answer.start <= example.predicate_index < answer.end
                # What asks about a clause's verb is never answered by a phrase around that verb.
                assert not inside


def test_frames_point_at_their_verb_and_at_the_participants_of_their_event() -> None:
    for document in qa_sentences(SMALL, "train"):
        for sentence in document:
            for frame in sentence.frames:
                assert sentence.tokens[frame.index].lower() in frame.event.verb[:5]
                for role, spans in frame.roles.items():
                    words = " ".join(sentence.tokens[spans[0][0] : spans[0][1]]).lower()
                    wanted = getattr(frame.event, role)
                    for part in wanted:
                        assert (part if isinstance(part, str) else part.noun).lower() in words


def simple_gold(sentence: str) -> tuple[str, str, str] | None:
    """Agent, verb and patient of a plain active or full passive, read off the surface independently."""
    pasts = {verb.past: verb.base for verb in VERBS if verb.frame == "reversible"}
    participles = {verb.participle: verb.base for verb in VERBS if verb.frame == "reversible"}
    active = re.fullmatch(rf"({_SIMPLE_NP}) ({'|'.join(pasts)}) ({_SIMPLE_NP}) \.", sentence)
    if active:
        return active[1], pasts[active[2]], active[3]
    passive = re.fullmatch(rf"({_SIMPLE_NP}) was ({'|'.join(participles)}) by ({_SIMPLE_NP}) \.", sentence)
    return (passive[3], participles[passive[2]], passive[1]) if passive else None


def test_roles_agree_with_an_independent_reading(dataset: QADataset) -> None:
    checked = Counter[bool]()
    for example in dataset.splits["train"]:
        gold = simple_gold(" ".join(example.tokens))
        role = example.id.rsplit("-", 1)[1]
        if gold is None or role not in ("agent", "patient"):
            continue
        assert example.answers[0].text == gold[0 if role == "agent" else 2]
        assert example.predicate_index is not None
        checked[example.tokens[example.predicate_index - 1] == "was"] += 1
    assert min(checked[False], checked[True]) > 50


# -- questions --------------------------------------------------------------------------------------


def test_questions_of_a_predicate_are_distinct_and_well_formed(dataset: QADataset) -> None:
    by_predicate = defaultdict(list)
    for example in dataset.splits["train"]:
        by_predicate[example.sentence_id, example.predicate_index].append(example.question)
        assert example.slots is not None and len(example.slots) == 7
        words = " ".join(slot for slot in example.slots if slot)
        assert example.question == words[0].upper() + words[1:] + "?"
        assert example.wh in ("who", "what", "where", "when")
        passive_words = {verb.participle for verb in VERBS}
        if example.is_passive:
            assert example.slots[3].split()[-1] in passive_words
    assert all(len(set(questions)) == len(questions) for questions in by_predicate.values())


@pytest.mark.parametrize(
    "question",
    [
        r"Who chased (someone|something)\?",
        r"Wh(o|at) did (someone|something) chase\?",
        r"Wh(o|at) was (someone|something) chased by\?",
        r"Wh(o|at) was \w+\?",
        r"Who did someone \w+ something to\?",
        r"Who was \w+ something\?",
        r"What did someone \w+ something with\?",
        r"What was something \w+ with\?",
        r"Where did (someone|something) \w+( (someone|something))?\?",
        r"When will (someone|something) \w+( (someone|something))?\?",
        r"What was \w+ to someone\?",
    ],
)
def test_the_forms_of_qa_srl_occur(dataset: QADataset, question: str) -> None:
    assert any(re.fullmatch(question, example.question) for example in dataset.splits["train"])


def test_question_voice_does_not_follow_sentence_voice() -> None:
    """Both voices are asked of active and passive clauses (seen through the frames)."""
    asked = Counter[tuple[bool, bool]]()
    draws = Draws(0, 99, 0)
    questions: list[Question]
    for document in qa_sentences(SMALL, "validation"):
        for frame in (frame for sentence in document for frame in sentence.frames):
            if frame.event.verb.frame == "reversible" and "agent" in frame.roles:
                questions = ask(frame, draws)
                asked.update((frame.is_passive, question.is_passive) for question in questions)
    assert min(asked[key] for key in ((False, False), (False, True), (True, False), (True, True))) > 20
