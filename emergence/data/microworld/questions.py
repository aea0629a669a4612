"""Seven-slot QA-SRL questions for a frame (He et al. 2015, Table 1; FitzGerald et al. 2018, Section 2).

Every role that the sentence expresses has one question. The question's voice is drawn apart from the sentence's, so a
passive may be asked about actively, and neither voice nor position gives a role away.
"""

from __future__ import annotations

from typing import NamedTuple

from emergence.data.microworld.clauses import Frame, Spans
from emergence.data.microworld.events import Draws, Group

Slots = tuple[str, str, str, str, str, str, str]

#: How often the question takes the sentence's voice.
SAME_VOICE_PROBABILITY = 0.65

#: Tense -> (auxiliary, main verb form) of a question whose subject is not the wh-word.
_ASKED_ACTIVE = {
    "past": ("did", "base"),
    "present": ("does", "base"),
    "progressive": ("was", "gerund"),
    "perfect": ("had", "participle"),
    "future": ("will", "base"),
}
#: Tense -> (auxiliary, main verb form) of a question that asks for the subject of an active verb.
_ASKED_SUBJECT = _ASKED_ACTIVE | {"past": ("", "past"), "present": ("", "third")}
#: Tense -> (auxiliary, what stands before the participle) of a passive question.
_ASKED_PASSIVE = {
    "past": ("was", ""),
    "present": ("is", ""),
    "progressive": ("was", "being "),
    "perfect": ("had", "been "),
    "future": ("will", "be "),
}


class Question(NamedTuple):
    """A question about one role of one predicate, its slots in ``SLOT_NAMES`` order, and its gold spans."""

    role: str
    slots: Slots
    answers: Spans
    is_passive: bool

    @property
    def text(self) -> str:
        words = " ".join(slot for slot in self.slots if slot)
        return f"{words[0].upper()}{words[1:]}?"


def ask(frame: Frame, draws: Draws) -> list[Question]:
    """One question for each role in the frame, in the order of their answers in the sentence."""
    roles = sorted(frame.roles, key=lambda role: frame.roles[role][0])
    return [ask_role(frame, role, draws) for role in roles]


def ask_role(frame: Frame, role: str, draws: Draws) -> Question:
    """The question about one role that the frame has."""
    passive = _ask_passively(frame, role, draws)
    slots = _passive_slots(frame, role, draws) if passive else _active_slots(frame, role, draws)
    return Question(role, slots, frame.roles[role], passive)


def _ask_passively(frame: Frame, role: str, draws: Draws) -> bool:
    event = frame.event
    if not event.patient or (role == "agent" and event.recipient):
        return False  # there is nothing to promote, or only the clumsy "Who was something given to someone by?"
    if "agent" not in frame.roles:
        return True  # the sentence does not say that someone did it
    return frame.is_passive == draws.chance(SAME_VOICE_PROBABILITY)


def _wh(group: Group) -> str:
    return "who" if group[0].is_person else "what"


def _placeholder(group: Group) -> str:
    return group[0].placeholder if group else ""


def _active_slots(frame: Frame, role: str, draws: Draws) -> Slots:
    event = frame.event
    table = _ASKED_SUBJECT if role == "agent" else _ASKED_ACTIVE
    aux, form = table[event.tense]
    verb: str = getattr(event.verb, form)
    agent, patient, recipient = map(_placeholder, (event.agent, event.patient, event.recipient))
    to = ("to", recipient) if recipient and draws.chance(0.5) else ("", "")
    if role == "agent":
        return _wh(event.agent), aux, "", verb, patient, *to
    if role == "patient":
        return _wh(event.patient), aux, agent, verb, "", *to
    if role == "recipient":
        return _wh(event.recipient), aux, agent, verb, patient, "to", ""
    if role == "instrument":
        return "what", aux, agent, verb, patient, "with", ""
    return "where" if role == "place" else "when", aux, agent, verb, patient, *to


def _passive_slots(frame: Frame, role: str, draws: Draws) -> Slots:
    event = frame.event
    aux, before = _ASKED_PASSIVE[event.tense]
    verb = before + event.verb.participle
    agent, patient, recipient = map(_placeholder, (event.agent, event.patient, event.recipient))
    tail = ("to", recipient) if recipient else ("by", agent) if "agent" in frame.roles else ("", "")
    if not draws.chance(0.4):
        tail = ("", "")
    if role == "agent":
        return _wh(event.agent), aux, patient, verb, "", "by", ""
    if role == "patient":
        return _wh(event.patient), aux, "", verb, "", *tail
    if role == "recipient":
        return _wh(event.recipient), aux, "", verb, patient, "", ""
    if role == "instrument":
        return "what", aux, patient, verb, "", "with", ""
    return "where" if role == "place" else "when", aux, patient, verb, "", *tail
