"""A document: a small cast, what happens to it, and sentences that tell it, retell it and refer back to it.

An event may be told again in another construction, hinted at before (``Someone chased the cat.``), or its reverse may
be denied (``The cat did not chase the dog.``). So a model that only predicts the next token gains from knowing who did
what to whom.
"""

from __future__ import annotations

from collections.abc import Callable

from emergence.data.microworld.events import (
    ANIMATE_ENTITIES,
    SOMEONE,
    SOMETHING,
    SOMEWHERE,
    THING_ENTITIES,
    TOOL_ENTITIES,
    Draws,
    Entity,
    Event,
    Group,
    Words,
)
from emergence.data.microworld.grammar import Sentence, SentenceBuilder
from emergence.data.microworld.lexicon import (
    ANIMALS,
    DITRANSITIVE_VERBS,
    FAVOURITE_FOOD,
    INSTRUMENT_VERBS,
    INTRANSITIVE_VERBS,
    NAMES,
    OBJECT_VERBS,
    PEOPLE,
    PLACES,
    REVERSIBLE_VERBS,
    TIMES_OF_TENSE,
    VERBS_OF_OBJECT,
    WORKPLACE,
    Verb,
    usual_tool,
)

#: Each frame as often as events have it. Reversible verbs are the heart of the task: only syntax tells their roles.
_FRAMES = ("reversible",) * 9 + ("object",) * 4 + ("instrument",) * 3 + ("ditransitive",) * 4 + ("intransitive",) * 2
_VERBS = {
    "reversible": tuple(REVERSIBLE_VERBS),
    "object": tuple(OBJECT_VERBS),
    "instrument": tuple(INSTRUMENT_VERBS),
    "ditransitive": tuple(DITRANSITIVE_VERBS),
    "intransitive": tuple(INTRANSITIVE_VERBS),
}
_ANIMAL_OBJECT_VERBS = tuple(verb for verb in OBJECT_VERBS if verb.by_animals)
_ALL_PLACES = tuple(PLACES.values())
_TENSES = ("present", "progressive", "perfect", "future")
#: How often a fact of the lexicon (usual tool, workplace, favourite food) holds in an event that it concerns.
FACT_PROBABILITY = 0.7
_RETELL_PROBABILITY = 0.25
_HINT_PROBABILITY = 0.15
_DENIAL_PROBABILITY = 0.07
_HINT_CONSTRUCTIONS = frozenset({"passive", "double_object"})
_HISTORY = 6

Accept = Callable[[str], bool]


class Story:
    """Tells one document sentence by sentence.

    Args:
        draws: The document's own random numbers.
        difficulty: From 0 to 1. Scales the probability of every construction beyond simple clauses.
        hints: Whether vague and negated sentences occur. They answer no question, so only plain text has them.
        held_out: (verb, construction) pairs that must not occur.
    """

    def __init__(
        self, draws: Draws, difficulty: float, hints: bool, held_out: frozenset[tuple[str, str]] = frozenset()
    ) -> None:
        self._draws = draws
        self._difficulty = difficulty
        self._hints = hints
        self._held_out = held_out
        self._cast = self._draw_cast()
        self._people = tuple(entity for entity in self._cast if entity.is_person)
        self._props: dict[str, Entity] = {}
        self._places = tuple(draws.pick(_ALL_PLACES) for _ in range(2))
        self._history: list[Event] = []
        #: The event that the last sentence hinted at and the next must tell.
        self._due: Event | None = None

    def tell(self, n_sentences: int, accept: Accept) -> list[Sentence]:
        """The next sentences. A draft is thrown away if ``accept`` refuses its text, or if it was already said."""
        sentences: list[Sentence] = []
        said: set[str] = set()
        while len(sentences) < n_sentences:
            event, hint = self._next_event(last=len(sentences) == n_sentences - 1)
            sentence = self._draft(event, hint)
            text = sentence.text
            if text in said or not accept(text):
                continue
            said.add(text)
            sentences.append(sentence)
            self._due = event if hint else None
            self._remember([] if hint else [event, *sentence.events])
        return sentences

    # -- what comes next ----------------------------------------------------------------------------

    def _draft(self, event: Event, hint: Event | None) -> Sentence:
        only = _HINT_CONSTRUCTIONS if hint else None
        return SentenceBuilder(self._draws, self, self._difficulty, only, self._held_out).build(hint or event)

    def _next_event(self, last: bool) -> tuple[Event, Event | None]:
        """The event of the next sentence and, if it is only hinted at, the hint."""
        if self._due is not None:
            return self._due, None
        if self._history and self._draws.chance(_RETELL_PROBABILITY):
            return self._abridged(self._draws.pick(self._history)), None
        event = self._new_event()
        if not self._hints or last:
            return event, None
        draw = self._draws.unit()
        if draw < _HINT_PROBABILITY:
            return event, self._vague(event)
        if draw < _HINT_PROBABILITY + _DENIAL_PROBABILITY:
            return event, self._denied(event)
        return event, None

    def _remember(self, events: list[Event]) -> None:
        self._history.extend(event for event in events if not any(event is old for old in self._history))
        del self._history[:-_HISTORY]

    def _abridged(self, event: Event) -> Event:
        """An old event, retold with fewer details."""
        keep = self._draws.chance
        return event._replace(
            instrument=event.instrument if keep(0.5) else (),
            place=event.place if keep(0.4) else (),
            time=event.time if keep(0.4) else (),
        )

    def _vague(self, event: Event) -> Event:
        """The event with one participant or its place left open."""
        bare = event._replace(instrument=(), time=())
        draw = self._draws.unit()
        if draw < 0.4 or not event.patient:
            return bare._replace(agent=(SOMEONE if event.agent[0].is_person else SOMETHING,))
        if draw < 0.8 or not event.place:
            return bare._replace(patient=(SOMEONE if event.patient[0].is_person else SOMETHING,))
        return bare._replace(place=SOMEWHERE)

    def _denied(self, event: Event) -> Event:
        """An event that did not happen: the reverse, or the same by someone else."""
        other = self._others(event)
        agent = event.patient if event.verb.frame == "reversible" else (self._draws.pick(other),) if other else ()
        patient = event.agent if event.verb.frame == "reversible" else event.patient
        if not agent:
            return self._vague(event)
        return event._replace(
            agent=agent, patient=patient, instrument=(), place=(), time=(), tense="past", negated=True
        )

    # -- new events ---------------------------------------------------------------------------------

    def _draw_cast(self) -> tuple[Entity, ...]:
        """A name, a person and two more entities, all of different nouns."""
        draws = self._draws
        nouns = {draws.pick(NAMES), draws.pick(PEOPLE)}
        while len(nouns) < 4:
            nouns.add(draws.pick(ANIMALS if draws.chance(0.7) else NAMES if draws.chance(0.5) else PEOPLE))
        # Sorted because the order of a set of strings differs between processes.
        return tuple(draws.pick(ANIMATE_ENTITIES[noun]) for noun in sorted(nouns))

    def _new_event(self, agent: Group = (), verb: Verb | None = None, patient: Group = ()) -> Event:
        """An event with these parts. Empty ones are drawn to suit."""
        draws = self._draws
        verb = verb or draws.pick(_VERBS[draws.pick(_FRAMES)])
        if verb.frame == "reversible":
            agent, patient = self._reversible(verb, agent, patient)
        agent = agent or self._coordinated(verb, (draws.pick(self._cast if verb.by_animals else self._people),), ())
        recipient: Group = ()
        if verb.frame == "ditransitive":
            recipient = (draws.pick([entity for entity in self._people if entity not in agent]),)
        if verb.objects and not patient:
            patient = (self._thing(self._object_noun(verb, agent[0])),)
        instrument: Group = ()
        if verb.tools and draws.chance(0.6):
            usual = draws.chance(FACT_PROBABILITY)
            noun = usual_tool(verb, patient[0].noun) if usual else draws.pick(verb.tools)
            instrument = (self._tool(noun),)
        tense = draws.pick(_TENSES) if draws.chance(0.35 * self._difficulty) else "past"
        time = draws.pick(TIMES_OF_TENSE[tense]) if draws.chance(0.3) else ()
        place = self._place(verb, agent[0]) if draws.chance(0.35) else ()
        return Event(verb, agent, patient, recipient, instrument, place, time, tense)

    def _reversible(self, verb: Verb, agent: Group, patient: Group) -> tuple[Group, Group]:
        """Two parties drawn without regard to who does what, so that only syntax tells."""
        draws = self._draws
        if not agent and not patient:
            first, second = draws.two(self._cast)
            agent, patient = (first,), (second,)
            if draws.chance(0.5):
                return self._coordinated(verb, agent, patient), patient
            return agent, self._coordinated(verb, patient, agent)
        other = (draws.pick([entity for entity in self._cast if entity not in agent + patient]),)
        return agent or other, patient or other

    def _coordinated(self, verb: Verb, group: Group, opposite: Group) -> Group:
        """``group``, perhaps joined by a second entity of the same kind (``the dog and the cat``)."""
        if not self._draws.chance(0.15 * self._difficulty) or (verb.base, "coordinated_noun_phrase") in self._held_out:
            return group
        kin = [e for e in self._cast if e.is_person == group[0].is_person and e not in group + opposite]
        # A third person must be left to receive what two give.
        if not kin or (verb.frame == "ditransitive" and len(kin) < 2):
            return group
        return *group, self._draws.pick(kin)

    def _object_noun(self, verb: Verb, agent: Entity) -> str:
        favourite = FAVOURITE_FOOD.get(agent.noun)
        if verb.base == "eat" and favourite and self._draws.chance(FACT_PROBABILITY):
            return favourite
        known = [noun for noun in self._props if noun in verb.objects]
        return self._draws.pick(known if known and self._draws.chance(0.5) else verb.objects)

    def _thing(self, noun: str) -> Entity:
        """The thing of this noun. It keeps its adjective throughout a document."""
        if noun not in self._props:
            self._props[noun] = self._draws.pick(THING_ENTITIES[noun])
        return self._props[noun]

    def _tool(self, noun: str) -> Entity:
        return self._draws.pick(TOOL_ENTITIES[noun])

    def _place(self, verb: Verb, agent: Entity) -> Words:
        """Where it happens: mostly at the agent's work, but a reversible verb's place must not tell its agent."""
        workplace = WORKPLACE.get(agent.noun)
        if workplace and verb.frame != "reversible" and self._draws.chance(FACT_PROBABILITY):
            return PLACES[workplace]
        return self._draws.pick(self._places)

    # -- events for subordinate clauses (clauses.EventSource) -----------------------------------------

    def event_about(self, entity: Entity, taken: set[str]) -> Event | None:
        group = (entity,)
        if self._draws.chance(0.6):
            known = [
                event
                for event in self._history
                if event.verb.base not in taken
                and (event.agent == group or (event.patient == group and not event.recipient))
            ]
            if known:
                return self._draws.pick(known)
        if entity.is_animate and entity in self._cast:
            by_entity = self._draws.chance(0.5)
            verb = self._draws.pick(_VERBS["reversible"])
            event = self._new_event(group if by_entity else (), verb, () if by_entity else group)
        elif entity.noun in VERBS_OF_OBJECT:
            event = self._new_event((), self._draws.pick(VERBS_OF_OBJECT[entity.noun]), group)
        else:
            return None
        return event if event.verb.base not in taken else None

    def event_by(self, agent: Group, first: Event, taken: set[str]) -> Event | None:
        if not all(entity in self._cast for entity in agent):
            return None
        # Agents of other verbs are mostly people: letting them chase someone too would tell roles by noun.
        if first.verb.frame == "reversible" and self._draws.chance(0.6):
            frame = "reversible"
        else:
            frame = self._draws.pick(("intransitive", "object", "instrument") if len(agent) == 1 else ("intransitive",))
        verbs = _VERBS[frame]
        if frame not in ("reversible", "intransitive") and not agent[0].is_person:
            verbs = _ANIMAL_OBJECT_VERBS
        verb = self._draws.pick(verbs)
        if verb.base in taken or (len(agent) > 1 and (verb.base, "coordinated_noun_phrase") in self._held_out):
            return None
        return self._new_event(agent, verb)

    def event_beside(self, event: Event, taken: set[str]) -> Event | None:
        others = self._others(event)
        verb = self._draws.pick(_VERBS["intransitive"])
        if not others or verb.base in taken:
            return None
        return self._new_event((self._draws.pick(others),), verb)

    def _others(self, event: Event) -> list[Entity]:
        involved = event.agent + event.patient + event.recipient
        candidates = self._cast if event.verb.by_animals else self._people
        return [entity for entity in candidates if entity not in involved]
