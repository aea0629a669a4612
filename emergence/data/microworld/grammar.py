"""From an event to a sentence: declaratives, clefts, subordination, coordination, fronted adverbials."""

from __future__ import annotations

from dataclasses import dataclass

from emergence.data.microworld.clauses import ClauseWriter, Frame, Spans
from emergence.data.microworld.events import SOMEWHERE, Event, Group

_SUBORDINATORS = ("when", "while", "after", "before")


@dataclass(slots=True)
class Sentence:
    """One sentence.

    Attributes:
        tokens: Words and punctuation. frames: One for each predicate, in their order.
        constructions: Names of those used. events: Those told in subordinate or coordinated clauses.
    """

    tokens: list[str]
    frames: list[Frame]
    constructions: set[str]
    events: list[Event]

    @property
    def text(self) -> str:
        return " ".join(self.tokens).replace(" ,", ",").replace(" .", ".")


class SentenceBuilder(ClauseWriter):
    """Writes one sentence. Every sentence needs a builder of its own."""

    def build(self, event: Event) -> Sentence:
        """The sentence that tells ``event``, perhaps with other events in subordinate clauses."""
        self._verbs.add(event.verb.base)
        single = len(event.patient) == 1 and not event.recipient
        if single and self._may("cleft", 0.1, event):
            self._cleft(event)
        elif single and not event.patient[0].is_animate and self._may("pseudo_cleft", 0.12, event):
            self._pseudo_cleft(event)
        else:
            self._declarative(event)
        if self.tokens[-1] == ",":
            self.tokens.pop()
        self.tokens.append(".")
        self.tokens[0] = self.tokens[0][0].upper() + self.tokens[0][1:]
        return Sentence(self.tokens, self.frames, self.constructions, self.events)

    def _cleft(self, event: Event) -> None:
        """``It was the dog that chased the cat`` or ``It was the cat that the dog chased``."""
        self.constructions.add("cleft")
        self.tokens.extend(("It", "was"))
        by_agent = len(event.agent) == 1 and self._draws.chance(0.5)
        focus = event.agent if by_agent else event.patient
        spans = self.noun_phrase(focus)
        self.tokens.append("who" if focus[0].is_person and self._draws.chance(0.5) else "that")
        if by_agent:
            self.active(event, spans)
        elif self._may("passive", 0.3, event):
            self.passive(event, "patient", spans)
        else:
            self.active(event, self.noun_phrase(event.agent), gap=spans)

    def _pseudo_cleft(self, event: Event) -> None:
        """``What Anna opened with a key was the crate``."""
        self.constructions.add("pseudo_cleft")
        self.tokens.append("What")
        frame = self.active(event._replace(time=()), self.noun_phrase(event.agent), gap=((0, 0),))
        self.tokens.append("was")
        frame.roles["patient"] = self.noun_phrase(event.patient)

    def _declarative(self, event: Event) -> None:
        subordinate = None
        if self._may("subordinate_clause", 0.1, event):
            subordinate = self._source.event_beside(event, self._verbs)
        if subordinate is None:
            self._main_clause(event, closes=True)
            return
        # The clause says when, so a second time would make "When ...?" ambiguous.
        event = event._replace(time=())
        if self._draws.chance(0.5):
            self._subordinate(subordinate)
            self.tokens.append(",")
            self._main_clause(event, closes=False)
        else:
            self._main_clause(event, closes=False)
            self._subordinate(subordinate)

    def _subordinate(self, event: Event) -> None:
        self.constructions.add("subordinate_clause")
        self._tell(event)
        self.tokens.append(self._draws.pick(_SUBORDINATORS))
        self.active(event._replace(time=(), place=()), self.noun_phrase(event.agent))

    def _main_clause(self, event: Event, closes: bool) -> None:
        event, role, fronted = self._front_adjunct(event)
        promoted = self._promoted(event)
        subject: Group = getattr(event, promoted or "agent")
        second = None
        if closes and self._may("coordinated_verb_phrase", 0.15, event):
            second = self._source.event_by(subject, event, self._verbs)
        if second is not None:
            self._verbs.add(second.verb.base)
            event = event._replace(place=(), time=())
        spans = self.with_relative(subject, event, 0.22)
        last = closes and second is None
        if promoted:
            frames = [self.passive(event, promoted, spans, closes=last)]
        else:
            frames = [self.active(event, spans, closes=last)]
        if second is not None:
            frames.append(self._second_verb_phrase(second, event.tense, spans, role))
        for frame in frames if role != "instrument" else frames[:1]:
            if role:
                frame.roles.setdefault(role, fronted)

    def _second_verb_phrase(self, event: Event, tense: str, agent: Spans, fronted: str) -> Frame:
        """``... and bit the farmer``, which shares subject, tense and fronted adverbial with the first."""
        self.constructions.add("coordinated_verb_phrase")
        self._tell(event)
        if fronted == "time" or event.tense != tense:
            event = event._replace(time=())
        if fronted == "place":
            event = event._replace(place=())
        self.tokens.append("and")
        return self.active(event._replace(tense=tense), agent)

    def _front_adjunct(self, event: Event) -> tuple[Event, str, Spans]:
        """Perhaps write one adverbial before the subject. Returns the event without it, its role and its spans."""
        fronted = [name for name in ("place", "time") if getattr(event, name)]
        if not fronted or event.place == SOMEWHERE or not self._may("fronted_adjunct", 0.5, event):
            return event, "", ()
        role = self._draws.pick(fronted)
        spans = self._adverbial(event, role, closes=False)
        self.constructions.add("fronted_adjunct")
        self.tokens.append(",")
        return event._replace(place=()) if role == "place" else event._replace(time=()), role, spans

    def _promoted(self, event: Event) -> str:
        """The role that becomes the subject of a passive; empty for an active sentence."""
        if not event.patient or not self._may("passive", 0.35, event):
            return ""
        if not event.recipient or (event.verb.base, "recipient_passive") in self._held_out:
            return "patient"
        return self._draws.pick(("patient", "recipient"))
