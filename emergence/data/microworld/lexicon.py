"""The words of the micro-world and what it knows about them.

There are about 60 animate nouns, 45 things, 18 places, 16 times and 52 verbs with all five forms. Three kinds of
knowledge give next-token prediction something semantic to learn: selectional preferences (which things can be eaten,
opened, given...), tense (``yesterday`` wants a past), and facts (what each thing is usually opened with, where each
trade usually works, what each animal usually eats).
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = _words("Anna Ben Carla David Emma Frank Grace Henry Ida Jack Kate Leo Mary Nora Oscar Paul")

#: Occupation -> where that person is usually found.
WORKPLACE = {
    "farmer": "barn",
    "shepherd": "field",
    "baker": "bakery",
    "cook": "kitchen",
    "teacher": "school",
    "pupil": "school",
    "doctor": "hospital",
    "nurse": "hospital",
    "sailor": "harbor",
    "fisherman": "lake",
    "gardener": "garden",
    "soldier": "castle",
    "king": "castle",
    "carpenter": "workshop",
    "smith": "workshop",
    "merchant": "market",
    "hunter": "forest",
    "driver": "station",
    "priest": "church",
    "miller": "river",
    "actor": "theater",
    "clerk": "library",
}
PEOPLE = (*WORKPLACE, "boy", "girl", "man", "woman")

#: Animal -> what it usually eats.
FAVOURITE_FOOD = {
    "dog": "sausage",
    "cat": "fish",
    "horse": "apple",
    "goat": "cabbage",
    "fox": "egg",
    "wolf": "sausage",
    "bear": "fish",
    "cow": "cabbage",
    "rabbit": "carrot",
    "mouse": "cheese",
    "monkey": "apple",
    "pig": "pumpkin",
    "donkey": "carrot",
    "goose": "bread",
    "raven": "cheese",
    "squirrel": "egg",
}
ANIMALS = tuple(FAVOURITE_FOOD)

FOOD = _words("bread apple cake cheese carrot fish sausage egg cabbage pumpkin")
OPENABLE = _words("box crate jar chest door gate window drawer")
CUTTABLE = _words("rope log cloth branch bread cake cheese pumpkin")
BREAKABLE = _words("window vase cup mirror plate jar lamp")
FIXABLE = _words("wheel clock roof fence chair table cart gate")
CLEANABLE = _words("table window plate cup cart door floor mirror")
PAINTABLE = _words("fence door wall chair roof gate table")
PORTABLE = _words("letter book ring coin map hat toy basket lamp flower box cup")
TOOLS = _words("key hammer knife saw brush wrench axe stick stone crowbar mop sponge")
THING_CLASSES = {
    "food": FOOD,
    "openable": OPENABLE,
    "cuttable": CUTTABLE,
    "breakable": BREAKABLE,
    "fixable": FIXABLE,
    "cleanable": CLEANABLE,
    "paintable": PAINTABLE,
    "portable": PORTABLE,
}
THINGS = tuple(dict.fromkeys(noun for nouns in THING_CLASSES.values() for noun in nouns))

ANIMATE_ADJECTIVES = _words("old young tall brave tired clever lazy hungry")
THING_ADJECTIVES = _words("red blue small heavy old new big pretty")
ORIGINS = _words("village city north coast mountains island")

#: Place -> its preposition.
PLACE_PREPOSITION = {
    "barn": "in",
    "field": "in",
    "bakery": "in",
    "kitchen": "in",
    "school": "at",
    "hospital": "at",
    "harbor": "at",
    "lake": "near",
    "garden": "in",
    "castle": "in",
    "workshop": "in",
    "market": "at",
    "forest": "in",
    "station": "at",
    "church": "behind",
    "river": "near",
    "theater": "behind",
    "library": "in",
}
PLACES = {noun: (preposition, "the", noun) for noun, preposition in PLACE_PREPOSITION.items()}


def _phrases(text: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(phrase.split()) for phrase in text.split(","))


ANY_TIMES = _phrases(
    "on Monday,on Friday,on Sunday,in the morning,in the evening,at noon,at midnight,in April,after lunch"
)
PAST_TIMES = _phrases("yesterday,last week,last night,during the storm")
FUTURE_TIMES = _phrases("tomorrow,next week,next year")
#: Tense -> the times it goes with.
TIMES_OF_TENSE = {
    "past": ANY_TIMES + PAST_TIMES,
    "progressive": ANY_TIMES + PAST_TIMES,
    "perfect": ANY_TIMES + PAST_TIMES,
    "present": ANY_TIMES,
    "future": ANY_TIMES + FUTURE_TIMES,
}


class Verb(NamedTuple):
    """A verb, its five forms, its frame and what it selects.

    ``frame`` is ``reversible`` (animate chases animate), ``object`` (animate eats thing), ``instrument``
    (person opens thing with tool), ``ditransitive`` (person gives thing to person) or ``intransitive``.
    """

    base: str
    third: str
    past: str
    participle: str
    gerund: str
    frame: str
    objects: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    by_animals: bool = False


def _verbs(frame: str, table: str, by_animals: bool = False) -> list[Verb]:
    """One verb a line: five forms, then optionally the class of its objects and its tools."""
    verbs = []
    for line in table.strip().splitlines():
        forms, *rest = line.split("|")
        base, third, past, participle, gerund = forms.split()
        objects = THING_CLASSES[rest[0].strip()] if rest else ()
        tools = tuple(rest[1].split()) if len(rest) > 1 else ()
        verbs.append(Verb(base, third, past, participle, gerund, frame, objects, tools, by_animals))
    return verbs


REVERSIBLE_VERBS = _verbs(
    "reversible",
    """
    chase chases chased chased chasing
    follow follows followed followed following
    help helps helped helped helping
    see sees saw seen seeing
    watch watches watched watched watching
    push pushes pushed pushed pushing
    greet greets greeted greeted greeting
    catch catches caught caught catching
    warn warns warned warned warning
    visit visits visited visited visiting
    find finds found found finding
    bite bites bit bitten biting
    kick kicks kicked kicked kicking
    save saves saved saved saving
    admire admires admired admired admiring
    wake wakes woke woken waking
    """,
    by_animals=True,
)
OBJECT_VERBS = _verbs(
    "object",
    """
    eat eats ate eaten eating | food
    taste tastes tasted tasted tasting | food
    steal steals stole stolen stealing | food
    carry carries carried carried carrying | portable
    hide hides hid hidden hiding | portable
    drop drops dropped dropped dropping | portable
    """,
    by_animals=True,
) + _verbs(
    "object",
    """
    buy buys bought bought buying | portable
    lose loses lost lost losing | portable
    draw draws drew drawn drawing | fixable
    cook cooks cooked cooked cooking | food
    """,
)
INSTRUMENT_VERBS = _verbs(
    "instrument",
    """
    open opens opened opened opening | openable | key crowbar knife
    cut cuts cut cut cutting | cuttable | knife saw axe
    break breaks broke broken breaking | breakable | hammer stone stick
    fix fixes fixed fixed fixing | fixable | hammer wrench saw
    clean cleans cleaned cleaned cleaning | cleanable | brush mop sponge
    paint paints painted painted painting | paintable | brush sponge stick
    move moves moved moved moving | fixable | crowbar stick wrench
    """,
)
DITRANSITIVE_VERBS = _verbs(
    "ditransitive",
    """
    give gives gave given giving | portable
    send sends sent sent sending | portable
    show shows showed shown showing | portable
    sell sells sold sold selling | portable
    offer offers offered offered offering | portable
    hand hands handed handed handing | portable
    lend lends lent lent lending | portable
    throw throws threw thrown throwing | portable
    """,
)
INTRANSITIVE_VERBS = _verbs(
    "intransitive",
    """
    sleep sleeps slept slept sleeping
    run runs ran run running
    laugh laughs laughed laughed laughing
    wait waits waited waited waiting
    sing sings sang sung singing
    dance dances danced danced dancing
    fall falls fell fallen falling
    swim swims swam swum swimming
    jump jumps jumped jumped jumping
    rest rests rested rested resting
    """,
    by_animals=True,
)
VERBS = (*REVERSIBLE_VERBS, *OBJECT_VERBS, *INSTRUMENT_VERBS, *DITRANSITIVE_VERBS, *INTRANSITIVE_VERBS)

_verbs_of_object: dict[str, list[Verb]] = defaultdict(list)
for _verb in VERBS:
    for _noun in _verb.objects:
        _verbs_of_object[_noun].append(_verb)
#: Thing -> the verbs that take it as direct object.
VERBS_OF_OBJECT = {noun: tuple(verbs) for noun, verbs in _verbs_of_object.items()}


def usual_tool(verb: Verb, thing: str) -> str:
    """The tool this verb usually takes for this thing: a fact of the micro-world."""
    return verb.tools[verb.objects.index(thing) % len(verb.tools)]


def article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
