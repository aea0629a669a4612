"""What happens in the micro-world: entities, events, and the stream of random numbers behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from emergence.data.microworld.lexicon import (
    ANIMALS,
    ANIMATE_ADJECTIVES,
    NAMES,
    ORIGINS,
    PEOPLE,
    THING_ADJECTIVES,
    THINGS,
    TOOLS,
    Verb,
    article,
)

T = TypeVar("T")
Words = tuple[str, ...]


class Draws:
    """Uniform numbers of one document, drawn in blocks. A call costs 0.1 us instead of numpy's 1 us.

    Every document has its own stream, keyed by ``(seed, stream, index)``. So the size of one split changes nothing in
    another, and a larger corpus begins with the smaller one.
    """

    __slots__ = ("_block", "_generator")

    def __init__(self, seed: int, stream: int, index: int) -> None:
        sequence = np.random.SeedSequence(seed, spawn_key=(stream, index))
        self._generator = np.random.Generator(np.random.PCG64(sequence))
        self._block: list[float] = []

    def unit(self) -> float:
        if not self._block:
            self._block = self._generator.random(256).tolist()
        return self._block.pop()

    def chance(self, probability: float) -> bool:
        return self.unit() < probability

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.unit() * len(options))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        return sorted(items, key=lambda _: self.unit())

    def two(self, options: Sequence[T]) -> tuple[T, T]:
        """Two different options. Both orders are equally probable."""
        first = int(self.unit() * len(options))
        second = int(self.unit() * (len(options) - 1))
        return options[first], options[second + (second >= first)]


class Entity(NamedTuple):
    """Someone or something. ``forms`` are the noun phrases that can name it, shortest first."""

    noun: str
    forms: tuple[Words, ...]
    is_animate: bool = False
    is_person: bool = False
    is_name: bool = False

    @property
    def placeholder(self) -> str:
        return "someone" if self.is_person else "something"


Group = tuple[Entity, ...]

SOMEONE = Entity("someone", (("someone",),), is_animate=True, is_person=True)
SOMETHING = Entity("something", (("something",),))
SOMEWHERE: Words = ("somewhere",)


class Event(NamedTuple):
    """One happening. A group of two is a coordination (``the dog and the cat``)."""

    verb: Verb
    agent: Group
    patient: Group = ()
    recipient: Group = ()
    instrument: Group = ()
    place: Words = ()
    time: Words = ()
    tense: str = "past"
    negated: bool = False


def _animate(noun: str, adjective: str, origin: str) -> Entity:
    long = ("the", adjective, noun, "from", "the", origin)
    return Entity(noun, (("the", noun), long[:3], long), is_animate=True, is_person=noun in PEOPLE)


def _thing(noun: str, adjective: str) -> Entity:
    return Entity(noun, (("the", noun), ("the", adjective, noun)))


def _tool(noun: str, adjective: str) -> Entity:
    return Entity(noun, ((article(noun), noun), (article(adjective), adjective, noun)))


#: Noun -> the entities it can head: one for each adjective (and origin). They are built once.
ANIMATE_ENTITIES: dict[str, list[Entity]] = {
    noun: [_animate(noun, adjective, origin) for adjective in ANIMATE_ADJECTIVES for origin in ORIGINS]
    for noun in (*PEOPLE, *ANIMALS)
} | {noun: [Entity(noun, ((noun,),), is_animate=True, is_person=True, is_name=True)] for noun in NAMES}
THING_ENTITIES = {noun: [_thing(noun, adjective) for adjective in THING_ADJECTIVES] for noun in THINGS}
TOOL_ENTITIES = {noun: [_tool(noun, adjective) for adjective in THING_ADJECTIVES] for noun in TOOLS}
