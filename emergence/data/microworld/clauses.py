"""Noun phrases, verb groups and verb phrases, written left to right with the span of every role.

A :class:`ClauseWriter` notes, for each predicate, where the phrase of each role begins and ends. Nothing is parsed or
searched for afterwards, so the roles are gold by construction.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from emergence.data.microworld.events import SOMEWHERE, Draws, Entity, Event, Group

Span = tuple[int, int]
#: Acceptable answers for one role. The first is the one to train on: the bare noun phrase stands before the one with
#: its relative clause, and a coordination before its members.
Spans = tuple[Span, ...]

#: Tense -> auxiliaries and form of the verb. A passive has the auxiliaries alone, before the participle.
_ACTIVE = {
    "past": ((), "past"),
    "present": ((), "third"),
    "progressive": (("was",), "gerund"),
    "perfect": (("had",), "participle"),
    "future": (("will",), "base"),
}
_PASSIVE = {
    "past": ("was",),
    "present": ("is",),
    "progressive": ("was", "being"),
    "perfect": ("had", "been"),
    "future": ("will", "be"),
}
_PLURAL = {"was": "were", "is": "are"}


@dataclass(slots=True)
class Frame:
    """One predicate with its gold roles: agent, patient, recipient, instrument, place, time."""

    event: Event
    index: int
    is_passive: bool
    roles: dict[str, Spans] = field(default_factory=dict)


class EventSource(Protocol):
    """What a sentence asks of its document: further events for its other clauses."""

    def event_about(self, entity: Entity, taken: set[str]) -> Event | None:
        """An event, old or new, with ``entity`` as its only agent or patient and a verb that is not in ``taken``."""

    def event_by(self, agent: Group, first: Event, taken: set[str]) -> Event | None:
        """A new event with this agent, to be told after ``first`` in the same sentence."""

    def event_beside(self, event: Event, taken: set[str]) -> Event | None:
        """A new intransitive event of someone who has no part in ``event``."""


class ClauseWriter:
    """Tokens and frames of the sentence so far, and the clauses that can extend it.

    ``difficulty`` scales the probability of every complex construction. ``only``, unless None, names the constructions
    that are allowed. ``held_out`` forbids single (verb, construction) pairs.
    """

    def __init__(
        self,
        draws: Draws,
        source: EventSource,
        difficulty: float,
        only: frozenset[str] | None = None,
        held_out: frozenset[tuple[str, str]] = frozenset(),
    ) -> None:
        self._draws = draws
        self._source = source
        self._difficulty = difficulty
        self._only = only
        self._held_out = held_out
        self.tokens: list[str] = []
        self.frames: list[Frame] = []
        self.constructions: set[str] = set()
        #: Events told in subordinate or coordinated clauses.
        self.events: list[Event] = []
        self._verbs: set[str] = set()

    def _may(self, construction: str, probability: float, event: Event) -> bool:
        """Draw whether to use a construction here, if it is possible at all."""
        if not self._draws.chance(self._difficulty * probability) or event.negated:
            return False
        if self._only is not None and construction not in self._only:
            return False
        return (event.verb.base, construction) not in self._held_out

    def _tell(self, event: Event) -> None:
        self.events.append(event)
        self._verbs.add(event.verb.base)

    # -- phrases ------------------------------------------------------------------------------------

    def _entity(self, entity: Entity, modifier: bool) -> Span:
        forms = entity.forms
        form = forms[0]
        if len(forms) > 1:
            draw = self._draws.unit()
            if modifier and len(forms) > 2 and draw < 0.12 * self._difficulty and self._only is None:
                form = forms[2]
                self.constructions.add("modified_noun_phrase")
            elif draw > 0.6:
                form = forms[1]
        start = len(self.tokens)
        self.tokens.extend(form)
        return start, len(self.tokens)

    def noun_phrase(self, group: Group) -> Spans:
        """Write a noun phrase. The spans of a coordination are the whole first, then its members."""
        first = self._entity(group[0], modifier=len(group) == 1)
        if len(group) == 1:
            return (first,)
        self.constructions.add("coordinated_noun_phrase")
        self.tokens.append("and")
        second = self._entity(group[1], modifier=False)
        return (first[0], second[1]), first, second

    def with_relative(self, group: Group, event: Event, probability: float) -> Spans:
        """Write a noun phrase, perhaps with a relative clause about its referent."""
        spans = self.noun_phrase(group)
        if len(group) > 1 or self._only is not None or not self._draws.chance(self._difficulty * probability):
            return spans
        other = self._source.event_about(group[0], self._verbs)
        return spans if other is None else self._relative(group[0], other, spans)

    def _relative(self, entity: Entity, event: Event, spans: Spans) -> Spans:
        """Write ``who chased the cat``. Names take commas, and their clause is no part of the answer."""
        kind = "subject" if event.agent == (entity,) else "passive" if self._draws.chance(0.3) else "object"
        if not self._held_out.isdisjoint({(event.verb.base, kind), (event.verb.base, f"{kind}_relative")}):
            return spans
        self.constructions.add(f"{kind}_relative")
        self._tell(event)
        event = self._with_few_adjuncts(event)
        if entity.is_name:
            self.tokens.append(",")
        self.tokens.append("who" if entity.is_name or (entity.is_person and self._draws.chance(0.7)) else "that")
        if kind == "subject":
            self.active(event, spans)
        elif kind == "passive":
            self.passive(event, "patient", spans)
        else:
            self.active(event, self.noun_phrase(event.agent), gap=spans)
        if entity.is_name:
            self.tokens.append(",")
            return spans
        return *spans, (spans[0][0], len(self.tokens))

    def _with_few_adjuncts(self, event: Event) -> Event:
        place = event.place if self._draws.chance(0.3) else ()
        time = event.time if self._draws.chance(0.3) else ()
        return event._replace(place=place, time=time)

    # -- verb phrases -------------------------------------------------------------------------------

    def _verb_group(self, event: Event, is_passive: bool, plural: bool) -> Frame:
        verb = event.verb
        words: tuple[str, ...]
        if event.negated:
            words, form = ("did", "not"), verb.base
        elif is_passive:
            words, form = _PASSIVE[event.tense], verb.participle
        else:
            words, name = _ACTIVE[event.tense]
            form = verb.base if plural and name == "third" else getattr(verb, name)
        self.tokens.extend([_PLURAL.get(word, word) for word in words] if plural else words)
        frame = Frame(event, len(self.tokens), is_passive)
        self.tokens.append(form)
        self.frames.append(frame)
        return frame

    def active(self, event: Event, agent: Spans, *, gap: Spans = (), closes: bool = False) -> Frame:
        """Write an active verb phrase, which ends the sentence if it ``closes``. A patient elsewhere is its ``gap``."""
        frame = self._verb_group(event, False, len(event.agent) > 1)
        frame.roles["agent"] = agent
        if event.recipient:
            self._datives(frame, event, gap)
        elif gap:
            frame.roles["patient"] = gap
        elif event.patient and closes:
            spans = self.with_relative(event.patient, event, 0.15)
            frame.roles["patient"] = spans
            if len(self.tokens) > spans[0][1]:  # an adverbial after the relative clause could belong to either verb
                event = event._replace(instrument=(), place=(), time=())
        elif event.patient:
            frame.roles["patient"] = self.noun_phrase(event.patient)
        self.constructions.add("transitive" if event.patient else "intransitive")
        self._adjuncts(frame, event, ["instrument", "place", "time"], closes)
        return frame

    def _datives(self, frame: Frame, event: Event, gap: Spans) -> None:
        """``gave the boy the ring`` or ``gave the ring to the boy``."""
        if not gap and self._may("double_object", 0.5, event):
            self.constructions.add("double_object")
            frame.roles["recipient"] = self.noun_phrase(event.recipient)
            frame.roles["patient"] = self.noun_phrase(event.patient)
            return
        self.constructions.add("to_dative")
        frame.roles["patient"] = gap or self.noun_phrase(event.patient)
        self.tokens.append("to")
        frame.roles["recipient"] = self.noun_phrase(event.recipient)

    def passive(self, event: Event, promoted: str, subject: Spans, *, closes: bool = False) -> Frame:
        """Write a passive verb phrase. Its subject is the ``promoted`` role: ``patient`` or ``recipient``."""
        group: Group = getattr(event, promoted)
        frame = self._verb_group(event, True, len(group) > 1)
        frame.roles[promoted] = subject
        self.constructions.add("passive")
        if promoted == "recipient":
            self.constructions.add("recipient_passive")
            frame.roles["patient"] = self.noun_phrase(event.patient)
        elif event.recipient:
            self.tokens.append("to")
            frame.roles["recipient"] = self.noun_phrase(event.recipient)
        adjuncts = ["agent", "instrument", "place", "time"]
        if self._draws.chance(0.25):
            self.constructions.add("short_passive")
            adjuncts.remove("agent")
        self._adjuncts(frame, event, adjuncts, closes)
        return frame

    def _adjuncts(self, frame: Frame, event: Event, names: list[str], closes: bool) -> None:
        """Write by-phrase, instrument, place and time, in any order if the difficulty allows."""
        present = [name for name in names if getattr(event, name)]
        if len(present) > 1 and self._draws.chance(self._difficulty):
            present = self._draws.shuffled(present)
        for position, name in enumerate(present):
            if name in ("place", "time"):
                frame.roles[name] = self._adverbial(event, name, closes and position == len(present) - 1)
                continue
            self.tokens.append("by" if name == "agent" else "with")
            frame.roles[name] = self.noun_phrase(getattr(event, name))
            if name == "instrument":
                self.constructions.add("instrument")

    def _adverbial(self, event: Event, name: str, closes: bool) -> Spans:
        start = len(self.tokens)
        self.tokens.extend(getattr(event, name))
        self.constructions.add(name)
        spans = ((start, len(self.tokens)),)
        if name == "time" or not closes or event.place == SOMEWHERE or not self._may("place_relative", 0.25, event):
            return spans
        beside = self._source.event_beside(event, self._verbs)
        if beside is None:
            return spans
        self.constructions.add("place_relative")
        self._tell(beside)
        self.tokens.append("where")
        self.active(beside._replace(place=(), time=()), self.noun_phrase(beside.agent))
        return *spans, (start, len(self.tokens))
