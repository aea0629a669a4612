"""Questions without a passage about what usually happens in the micro-world, in the manner of NQ-open.

An example is ``what does the baker usually cut the rope with``. Its answer is ``a knife``, because that is the rope's
usual tool, used in seven of ten such events. With these questions ``--pretrain-data wiki+nq`` runs offline. Their
answers are facts that the running text bears out, not spans of a given sentence.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from emergence.data.microworld.config import MicroWorldConfig
from emergence.data.microworld.lexicon import (
    FAVOURITE_FOOD,
    INSTRUMENT_VERBS,
    OBJECT_VERBS,
    PLACES,
    WORKPLACE,
    article,
    usual_tool,
)
from emergence.data.records import SPLITS, QAPair

_STREAM = 20
_ADVERBS = ("usually", "normally", "mostly")
#: Of every ten facts, train owns eight.
_OWNERS = ("train",) * 8 + ("validation", "test")
_PEOPLE = ("someone", *(f"the {noun}" for noun in WORKPLACE))

_Fact = list[tuple[str, tuple[str, ...]]]


def generate_nq_like(config: MicroWorldConfig) -> dict[str, list[QAPair]]:
    """Passage-free questions by split, in lower case and without a question mark, as in NQ-open.

    All wordings of one fact belong to one split. There are about 14,500 questions in all, however many
    ``config.n_nq_questions`` asks for.
    """
    sequence = np.random.SeedSequence(config.seed, spawn_key=(_STREAM,))
    generator = np.random.Generator(np.random.PCG64(sequence))
    facts = list(_facts())
    questions: dict[str, list[tuple[str, tuple[str, ...]]]] = {split: [] for split in SPLITS}
    for rank, index in enumerate(generator.permutation(len(facts)).tolist()):
        questions[_OWNERS[rank % len(_OWNERS)]].extend(facts[index])
    sizes = {"train": config.n_nq_questions}
    sizes |= dict.fromkeys(("validation", "test"), -(-config.n_nq_questions // 10))
    return {
        split: [
            QAPair(f"microworld-nq-{split}-{rank:06d}", *questions[split][index])
            for rank, index in enumerate(generator.permutation(len(questions[split])).tolist()[: sizes[split]])
        ]
        for split in SPLITS
    }


def _facts() -> Iterator[_Fact]:
    """Every fact as the list of its wordings with their answers."""
    for animal, food in FAVOURITE_FOOD.items():
        yield [(f"what does the {animal} {adverb} eat", (f"the {food}", food)) for adverb in _ADVERBS]
    for food in dict.fromkeys(FAVOURITE_FOOD.values()):
        eaters = tuple(f"the {animal}" for animal, favourite in FAVOURITE_FOOD.items() if favourite == food)
        yield [(f"what {adverb} eats the {food}", eaters) for adverb in _ADVERBS]
    for place in dict.fromkeys(WORKPLACE.values()):
        workers = tuple(f"the {noun}" for noun, home in WORKPLACE.items() if home == place)
        yield [(f"who is {adverb} {' '.join(PLACES[place])}", workers) for adverb in _ADVERBS]
    for person in _PEOPLE:
        yield from _tool_facts(person)
    for noun, place in WORKPLACE.items():
        yield from _place_facts(noun, " ".join(PLACES[place]), place)


def _tool_facts(person: str) -> Iterator[_Fact]:
    for verb in INSTRUMENT_VERBS:
        for thing in verb.objects:
            tool = usual_tool(verb, thing)
            question = f"what does {person} {{}} {verb.base} the {thing} with"
            yield [(question.format(adverb), (f"{article(tool)} {tool}", tool)) for adverb in _ADVERBS]


def _place_facts(noun: str, phrase: str, place: str) -> Iterator[_Fact]:
    for verb in (*OBJECT_VERBS, *INSTRUMENT_VERBS):
        for thing in verb.objects:
            question = f"where does the {noun} {{}} {verb.base} the {thing}"
            yield [(question.format(adverb), (phrase, place)) for adverb in _ADVERBS]
