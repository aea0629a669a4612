"""Role-crossed pairs of sentences from the micro-world: the same words, agent and patient exchanged.

*The teacher was eating the bread* is good, *The bread was eating the teacher* is bad, because the verb takes a living
agent and a thing as its patient. So that no knowledge of which words stand beside each other can tell, every item
comes twice, active and passive, in tenses whose first auxiliary is the same in both (was eating / was being eaten, had
eaten / had been eaten, will eat / will be eaten). Both pairs of an item differ in nothing but which of its two noun
phrases stands first, and the one that is good first in the active is bad first in the passive. Therefore any unigram
model ties in every pair, and any bigram model is right in just one of an item's two. That is checked before the set is
used.
"""

from __future__ import annotations

import re

import numpy as np

from emergence.data.microworld.config import MicroWorldConfig
from emergence.data.microworld.events import ANIMATE_ENTITIES, THING_ENTITIES, Draws, Event
from emergence.data.microworld.generate import generate_text, owner_of
from emergence.data.microworld.lexicon import ANIMALS, INSTRUMENT_VERBS, OBJECT_VERBS, PEOPLE
from emergence.data.minimal_sets import plain_entity, write_clause
from emergence.data.sentence_pairs import ROLES, PairSet, SentencePair
from emergence.errors import DataError
from emergence.measures.ngrams import NGramModel
from emergence.measures.sentence_pairs import CHANCE, preferred

#: Items of two pairs each: enough for an interval of about +-0.05.
N_ITEMS = 250
#: Tenses in which active and passive begin with the same auxiliary.
TENSES = ("progressive", "perfect", "future")
#: Documents of the micro-world's text that the two baselines are fitted to.
N_DOCUMENTS = 500
#: How far a baseline may be from one half.
TOLERANCE = 0.01
_STREAM = 40
_WORDS = re.compile(r"\w+|[^\w\s]")


def role_pairs(n_items: int = N_ITEMS, *, seed: int = 0) -> PairSet:
    """The pairs, active and passive of an item one after the other. The same seed gives the same pairs.

    The good sentences belong to the test split (``owner_of``), so no text of any micro-world holds them.

    Raises:
        DataError: A unigram or a bigram model tells good from bad (:func:`baselines`).
    """
    pairs: list[SentencePair] = []
    taken: set[str] = set()
    draws = Draws(seed, _STREAM, 0)
    while len(pairs) < 2 * n_items:
        item = _item(draws)
        if item[0].item not in taken and all(owner_of(pair.good) == "test" for pair in item):
            taken.add(item[0].item)
            pairs += item
    return refuse_if_words_suffice(PairSet(ROLES, tuple(pairs), {"seed": seed, "n_items": n_items}))


class _NothingOptional(Draws):
    """Numbers by which a writer leaves out whatever it may leave out, and never the agent of a passive."""

    __slots__ = ()

    def __init__(self) -> None:
        pass

    def unit(self) -> float:
        return 0.99


def _item(draws: Draws) -> list[SentencePair]:
    """The two pairs of one item."""
    verb = draws.pick((*OBJECT_VERBS, *INSTRUMENT_VERBS))
    agent = plain_entity(ANIMATE_ENTITIES[draws.pick((*PEOPLE, *ANIMALS) if verb.by_animals else PEOPLE)], draws)
    thing = plain_entity(THING_ENTITIES[draws.pick(verb.objects)], draws)
    good = Event(verb, (agent,), (thing,), tense=draws.pick(TENSES))
    bad = good._replace(agent=good.patient, patient=good.agent)
    name = f"{agent.noun} {verb.base} {thing.noun}"
    pairs = []
    for construction in ("active", "passive"):
        told, crossed = (write_clause(construction, event, False, _NothingOptional())[0] for event in (good, bad))
        pairs.append(SentencePair(told.text, crossed.text, construction, name))
    return pairs


def refuse_if_words_suffice(pairs: PairSet) -> PairSet:
    """The same pairs, with the accuracy of both baselines among their facts.

    Raises:
        DataError: One of the two is not within 0.01 of one half.
    """
    found = baselines(pairs)
    for name, accuracy in found.items():
        if abs(accuracy - CHANCE) > TOLERANCE:
            raise DataError(
                f"{pairs.name}: a {name} model is right in {accuracy:.3f} of {len(pairs.pairs)} pairs, and a set that "
                "is to show roles must leave it at 0.500: words, or words beside each other, give the answer away"
            )
    return PairSet(pairs.name, pairs.pairs, {**pairs.facts, "baselines": found})


def baselines(pairs: PairSet) -> dict[str, float]:
    """Share of the pairs that a unigram and a bigram model of the micro-world's text are right in.

    A tie counts one half.
    """
    config = MicroWorldConfig(n_documents=N_DOCUMENTS, n_validation_documents=0, n_test_documents=0)
    texts = [document.text for document in generate_text(config)["train"]]
    sentences = [_words(sentence) for text in texts for sentence in re.split(r"(?<=\.) ", text)]
    found = {}
    for name, order in (("unigram", 1), ("bigram", 2)):
        model = NGramModel.fit(sentences, order)
        good, bad = (
            np.array([model.log_prob(_words(getattr(pair, side))) for pair in pairs.pairs]) for side in ("good", "bad")
        )
        found[name] = float(preferred(good, bad).mean())
    return found


def _words(sentence: str) -> list[str]:
    return _WORDS.findall(sentence)
