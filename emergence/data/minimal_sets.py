"""Role-crossed minimal pairs: two sentences of the same words in which one question has the other answer.

"What was chased?" has one answer in *The dog chased the cat* and another in *The cat chased the dog*. A reader who goes
by the words alone gives both the same answer and gets one wrong, even if it knows which words tend to be chased. So a
pair counts once, and only if both members are right (``measures.minimal_sets``). The crossed roles are agent and
patient, or agent and recipient, and either party could have either role. In the micro-world the grammar writes both
members. In natural sentences two short noun phrases of one kind change places, if a strict rule allows it.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product

from emergence.data.microworld.clauses import ClauseWriter, Frame
from emergence.data.microworld.events import ANIMATE_ENTITIES, THING_ENTITIES, Draws, Entity, Event
from emergence.data.microworld.generate import owner_of
from emergence.data.microworld.grammar import Sentence
from emergence.data.microworld.lexicon import (
    ANIMALS,
    DITRANSITIVE_VERBS,
    NAMES,
    PEOPLE,
    REVERSIBLE_VERBS,
    TIMES_OF_TENSE,
)
from emergence.data.microworld.questions import ask_role
from emergence.data.records import Answer, QADataset, QAExample
from emergence.data.roles import asked_role
from emergence.errors import DataError

#: Of the micro-world's pairs. Pair i has construction i modulo their number, so that all are equally frequent.
CONSTRUCTIONS = ("active", "passive", "cleft", "dative", "recipient_passive")
#: Pairs of a micro-world: enough for an interval of about +-0.05.
N_PAIRS = 400
#: Spawn key of the pairs' random numbers.
_STREAM = 30
#: Longest noun phrase that changes places, in words.
LONGEST_PHRASE = 4

Span = tuple[int, int]


def minimal_pairs(dataset: QADataset, *, n_pairs: int = N_PAIRS) -> list[QAExample]:
    """The pairs that go with a data set. Members ``pair-000123-a`` and ``-b`` follow each other.

    For a micro-world, ``n_pairs`` pairs are generated with its seed. For other data, as many pairs are made of the test
    questions as the rule allows, perhaps none.

    Raises:
        DataError: The provenance of a micro-world does not tell its configuration.
    """
    if dataset.provenance.get("route") != "microworld":
        return natural_pairs(dataset)
    config = dataset.provenance.get("config")
    if not isinstance(config, Mapping) or "seed" not in config:
        raise DataError("a micro-world without its configuration: generate it again with generate_qa")
    return microworld_pairs(n_pairs, seed=int(config["seed"]))


def pair_of(example: QAExample) -> str:
    """The pair that a member belongs to."""
    return example.id[:-2]


def construction_of(example: QAExample) -> str:
    """The construction of a micro-world's pair, ``natural`` for pairs of natural sentences."""
    if not example.source.startswith("microworld"):
        return "natural"
    return CONSTRUCTIONS[int(pair_of(example).rpartition("-")[2]) % len(CONSTRUCTIONS)]


def crossed_span(example: QAExample, partner: QAExample) -> Span:
    """Where the partner's answer, which is wrong here, stands in this member: ``[start, end)``.

    Raises:
        DataError: It stands nowhere or in several places, so these are not members of one pair.
    """
    sought = [word.lower() for word in partner.tokens[partner.answers[0].start : partner.answers[0].end]]
    places = _places([word.lower() for word in example.tokens], sought)
    if len(places) != 1:
        raise DataError(f"{example.id} and {partner.id} are no minimal pair: make them with minimal_pairs")
    return places[0]


def _member(example: QAExample, tokens: Sequence[str], predicate: int, span: Span) -> QAExample:
    answer = Answer(" ".join(tokens[span[0] : span[1]]), *span, "given")
    return replace(example, tokens=tuple(tokens), predicate_index=predicate, answers=(answer,))


def _places(words: Sequence[str], sought: Sequence[str]) -> list[Span]:
    n = len(sought)
    return [(i, i + n) for i in range(len(words) - n + 1) if list(words[i : i + n]) == list(sought)]


# Micro-world --------------------------------------------------------------------------------------


class _NothingBeside:
    """A source without further events, because these sentences tell one alone."""

    def event_about(self, entity: Entity, taken: set[str]) -> Event | None:
        return None

    def event_by(self, agent: tuple[Entity, ...], first: Event, taken: set[str]) -> Event | None:
        return None

    def event_beside(self, event: Event, taken: set[str]) -> Event | None:
        return None


def microworld_pairs(n_pairs: int, *, seed: int = 0) -> list[QAExample]:
    """Pairs from the micro-world's own lexicon and clauses. The same seed gives the same pairs, drafted once.

    Both sentences belong to the test split by ``owner_of``, so neither training text nor training questions hold
    them. Each pair asks one question, about one of the two crossed roles.
    """
    return [member for index in range(n_pairs) for member in _drafted(seed, index)]


@functools.lru_cache(maxsize=4_096)  # of some seventy drafts both sentences belong to the test split in one
def _drafted(seed: int, index: int) -> tuple[QAExample, QAExample]:
    draws = Draws(seed, _STREAM, index)
    construction = CONSTRUCTIONS[index % len(CONSTRUCTIONS)]
    while True:
        pair = _draft(construction, draws, seed, index)
        if pair is not None:
            return pair


def _draft(construction: str, draws: Draws, seed: int, index: int) -> tuple[QAExample, QAExample] | None:
    """One pair; None where the draft cannot be used."""
    event, other_role = _crossable(construction, draws)
    if other_role == "patient":
        crossed = event._replace(agent=event.patient, patient=event.agent)
    else:
        crossed = event._replace(agent=event.recipient, recipient=event.agent)
    role = draws.pick(("agent", other_role))
    key = int(draws.unit() * 2**31)
    members = []
    for letter, its_event in (("a", event), ("b", crossed)):
        # The same numbers for both, so that they differ in nothing but the roles.
        sentence, frame = write_clause(construction, its_event, letter == "b", Draws(seed, _STREAM + 1, key))
        if owner_of(sentence.text) != "test" or not {"agent", other_role} <= frame.roles.keys():
            return None
        question = ask_role(frame, role, Draws(seed, _STREAM + 2, key))
        pair = f"pair-{index:06d}"
        example = QAExample(
            id=f"{pair}-{letter}",
            source="microworld-minimal",
            split="test",
            document_id=pair,
            sentence_id=pair,
            tokens=(),
            predicate_index=None,
            question=question.text,
            slots=question.slots,
            answers=(),
            is_passive=question.is_passive,
        )
        members.append(_member(example, sentence.tokens, frame.index, question.answers[0]))
    return members[0], members[1]


def _crossable(construction: str, draws: Draws) -> tuple[Event, str]:
    """An event with two parties of one kind and form, and the role of the second. Either party could do it."""
    dative = construction in ("dative", "recipient_passive")
    nouns = draws.pick((NAMES, PEOPLE) if dative else (NAMES, PEOPLE, ANIMALS))
    first, second = (plain_entity(ANIMATE_ENTITIES[noun], draws) for noun in draws.two(nouns))
    tense = "past" if draws.chance(0.6) else draws.pick(("present", "progressive", "perfect", "future"))
    time = draws.pick(TIMES_OF_TENSE[tense]) if draws.chance(0.3) else ()
    verb = draws.pick(DITRANSITIVE_VERBS if dative else REVERSIBLE_VERBS)
    if not dative:
        return Event(verb, (first,), (second,), time=time, tense=tense), "patient"
    thing = draws.pick(THING_ENTITIES[draws.pick(verb.objects)])
    return Event(verb, (first,), (thing,), (second,), time=time, tense=tense), "recipient"


def plain_entity(entities: Sequence[Entity], draws: Draws) -> Entity:
    """One of ``entities`` with one noun phrase, sometimes with an adjective, so that both members name it alike."""
    entity = draws.pick(entities)
    return entity._replace(forms=entity.forms[1:2] if len(entity.forms) > 1 and draws.chance(0.3) else entity.forms[:1])


def write_clause(construction: str, event: Event, is_second: bool, draws: Draws) -> tuple[Sentence, Frame]:
    """The sentence that tells one event alone, and its frame.

    A cleft keeps its focus, so its second member is an object relative.
    """
    writer = ClauseWriter(draws, _NothingBeside(), difficulty=1.0)
    if construction == "cleft":
        frame = _cleft(writer, event, is_second)
    elif construction in ("active", "dative"):
        frame = writer.active(event, writer.noun_phrase(event.agent))
    else:
        promoted = "recipient" if construction == "recipient_passive" else "patient"
        frame = writer.passive(event, promoted, writer.noun_phrase(getattr(event, promoted)))
    tokens = [*writer.tokens, "."]
    tokens[0] = tokens[0][0].upper() + tokens[0][1:]
    return Sentence(tokens, writer.frames, writer.constructions, []), frame


def _cleft(writer: ClauseWriter, event: Event, is_second: bool) -> Frame:
    """``It was the dog that chased the cat`` and ``It was the dog that the cat chased``."""
    writer.tokens.extend(("It", "was"))
    focus = writer.noun_phrase(event.patient if is_second else event.agent)
    writer.tokens.append("that")
    if not is_second:
        return writer.active(event, focus)
    return writer.active(event, writer.noun_phrase(event.agent), gap=focus)


# Natural sentences --------------------------------------------------------------------------------


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_DETERMINERS = _words("the a an this that its his her their our my another")
_PLURAL_DETERMINERS = _words("the these those its his her their our my some many several")
#: Words that no simple noun phrase holds: pronouns, and what would move its head away from its last word.
_NOT_INSIDE = _words(
    "of in to and or that who which for with by from as on at than but not he she it they we you i him them us me who "
    "what one ones itself himself themselves other others"
)
#: Plurals without an s.
_PLURALS = _words("men women children people police")
#: Last words that end no noun phrase, or whose form does not tell singular from plural.
_NOT_HEADS = _words("data media series species same rest most all some many any more less few several much")
#: What may follow a whole phrase, besides the predicate: the end of a clause, an auxiliary, a subordinator, or a
#: preposition that can follow any noun.
_CLOSERS = _words(
    ". ; ? ! is are was were has have had will would can could may might must should did does do to not n't 'll also "
    "because after before while if until since during again today yesterday earlier later in at on by when"
)
#: After a comma these begin something else. Any other word may go on about the phrase, or with a list.
_AFTER_COMMA = _words("but while because although though after when so if whereas")
#: A phrase after one of these may be part of a larger one, so it does not change places.
_PREPOSITIONS = _words(
    "of in on at from for with to than as like between among about into through over under without within against "
    "during including and or , '' ``"
)
#: A phrase without a determiner is known to begin after one of these.
_OPENERS = _words("that when while after before because if by but")
#: Their second argument says what the first one is.
_COPULAS = _words(
    "become becomes became becoming remain remains remained remaining including include includes included seem seems "
    "seemed"
)


def natural_pairs(dataset: QADataset) -> list[QAExample]:
    """Pairs from the test questions: two phrases of one predicate change places, and the question stays.

    The predicate has a question for its agent and one for its patient, both *who* or both *what*. Each has an answer
    that is a short noun phrase without a pronoun: a name, a phrase with a determiner, or a bare plural. The two have
    the same number, stand apart, and occur once. Nothing before or after continues a phrase. Each of the two questions
    then gives a pair, and ``document_id`` is the source sentence that they share. Example: *The dog chased the cat*
    and *The cat chased the dog* with "What was chased?", and again with "What chased something?".
    """
    names = _name_words(example.tokens for examples in dataset.splits.values() for example in examples)
    by_predicate: dict[tuple[str, int], dict[str, QAExample]] = {}
    for example in dataset.splits.get("test", []):
        role = asked_role(example)
        if example.predicate_index is not None and role in ("agent", "patient"):
            key = (example.sentence_id, example.predicate_index)
            by_predicate.setdefault(key, {}).setdefault(role, example)
    pairs: list[QAExample] = []
    for asked in by_predicate.values():
        for role, spans in zip(asked, _crossable_spans(asked, names), strict=False):
            pairs += _swapped_pair(asked[role], spans, names, len(pairs) // 2)
    return pairs


def _crossable_spans(asked: Mapping[str, QAExample], names: frozenset[str]) -> list[tuple[Span, Span]]:
    """For each asked role, its phrase and the other's: the first answers that the rule allows, empty for none."""
    if len(asked) < 2 or len({example.wh for example in asked.values()}) > 1:
        return []
    example, *_ = asked.values()
    answers = [[(answer.start, answer.end) for answer in e.answers] for e in asked.values()]
    for one, other in product(*answers):
        first, second = min(one, other), max(one, other)
        if _may_swap(example.tokens, example.predicate_index or 0, first, second, names):
            return [(one, other), (other, one)]
    return []


def _may_swap(tokens: Sequence[str], predicate: int, first: Span, second: Span, names: frozenset[str]) -> bool:
    inside = any(start <= predicate < end for start, end in (first, second))
    if first[1] > second[0] or inside or tokens[predicate].lower() in _COPULAS:
        return False
    lower = [word.lower() for word in tokens]
    numbers = [_number(tokens, span, names, predicate) for span in (first, second)]
    alone = all(len(_places(lower, lower[a:b])) == 1 for a, b in (first, second))
    return numbers[0] is not None and numbers[0] == numbers[1] and alone


def _number(tokens: Sequence[str], span: Span, names: frozenset[str], predicate: int) -> str | None:
    """``singular`` or ``plural`` of a simple noun phrase; None for anything else."""
    start, end = span
    words = list(tokens[start:end])
    before = tokens[start - 1].lower() if start else ""
    if len(words) > LONGEST_PHRASE or not (end == predicate or _is_whole(tokens[end:])) or before in _PREPOSITIONS:
        return None
    is_open = start == 0 or before in _OPENERS or start - 1 == predicate
    if all(word in names for word in words):
        return "singular" if is_open and not words[-1].endswith("s") else None
    if start == 0 and words[0] not in names:
        words[0] = words[0].lower()
    if not all(re.fullmatch(r"[a-z]+", word) or word in names for word in words) or words[-1].lower() in _NOT_HEADS:
        return None
    if not _NOT_INSIDE.isdisjoint(words):
        return None
    plural = words[-1] in _PLURALS or (words[-1].endswith("s") and not words[-1].endswith(("ss", "us", "is")))
    if len(words) > 1 and words[0] in (_PLURAL_DETERMINERS if plural else _DETERMINERS):
        return "plural" if plural else "singular"
    return "plural" if plural and is_open and words[0] not in _DETERMINERS else None


def _is_whole(rest: Sequence[str]) -> bool:
    """Whether a phrase before these words ends where its answer does."""
    after = [word.lower() for word in rest[:2]] or ["."]
    if after[0] == ",":
        return len(after) > 1 and after[1] in _AFTER_COMMA
    return after[0] in _CLOSERS or (after[0].endswith("ly") and rest[0].islower())


def _name_words(sentences: Iterable[tuple[str, ...]]) -> frozenset[str]:
    """Words that stand within sentences, and have a capital wherever they do."""
    inside: Counter[str] = Counter()
    for tokens in dict.fromkeys(sentences):
        inside.update(tokens[1:])
    return frozenset(w for w in inside if re.fullmatch(r"[A-Z][A-Za-z.-]+", w) and w.lower() not in inside)


def _swapped_pair(
    example: QAExample, spans: tuple[Span, Span], names: frozenset[str], index: int
) -> tuple[QAExample, QAExample]:
    """``spans``: the phrase that answers the question, and the one it changes places with."""
    mine, (a, b), (c, d) = spans[0], *sorted(spans)
    tokens = list(example.tokens)
    if a == 0 and tokens[0] not in names:
        tokens[0] = tokens[0].lower()
    swapped = [*tokens[:a], *tokens[c:d], *tokens[b:c], *tokens[a:b], *tokens[d:]]
    swapped[0] = swapped[0][0].upper() + swapped[0][1:]
    longer = (d - c) - (b - a)
    predicate = example.predicate_index or 0
    pair = f"pair-{index:06d}"
    # The role keeps its place in the sentence, and the other phrase stands there now.
    place = (a, a + d - c) if mine == (a, b) else (c + longer, d)
    common = replace(
        example, source=f"{example.source}-minimal", document_id=example.sentence_id, sentence_id=pair, split="test"
    )
    return (
        _member(replace(common, id=f"{pair}-a"), example.tokens, predicate, mine),
        _member(replace(common, id=f"{pair}-b"), swapped, predicate + longer * (b <= predicate < c), place),
    )
