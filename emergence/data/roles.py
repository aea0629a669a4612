"""Which argument a question asks for: its semantic role, read off the seven slots and the voice.

A wh-word is no role: *what* begins half of all QA-SRL questions, and asks for patients, agents and more. The slots tell
more (He et al. 2015; FitzGerald et al. 2018). An empty subject slot is the argument asked for, and a stranded
preposition names the relation. No answer is looked at, so the label does not depend on any model.

Roles are coarse, in the sense of Dowty's (1991) proto-roles. *Agent* is the asked subject of an active verb, because
English puts the argument with most of an agent's properties there, experiencers and causes included. The exceptions are
verbs whose only argument merely undergoes something (Levin and Rappaport Hovav 1995): what fell is a patient.
"""

from __future__ import annotations

from emergence.data.records import QAExample

ROLES = ("agent", "patient", "recipient", "place", "time", "manner", "cause", "instrument", "other")

_ADJUNCTS = {
    "where": "place",
    "when": "time",
    "how long": "time",
    "how often": "time",
    "how": "manner",
    "why": "cause",
}
#: Without slots only these words settle the role. "How" does not, because it opens "how many" and "how far" as well.
_ALONE = {"where": "place", "when": "time", "why": "cause"}
#: What may stand in the last slot without being an object of the verb.
_NO_OBJECT = ("", "somewhere", "do", "doing")


def _forms(regular: str, irregular: str = "") -> frozenset[str]:
    """Every inflected form: of regular verbs by rule, of irregular ones as listed."""
    forms = set(irregular.split())
    for base in regular.split():
        stem = base[:-1] if base.endswith("e") else base
        past = base[:-1] + "ied" if base[-1] == "y" and base[-2] not in "aeiou" else stem + "ed"
        hissing = base.endswith(("sh", "ch", "ss", "x"))
        third = past[:-1] + "s" if past.endswith("ied") else base + ("es" if hissing else "s")
        forms |= {base, third, past, (base if base.endswith("ee") else stem) + "ing"}
    return frozenset(forms)


#: Verbs of existence, occurrence, death or falling. No subject of theirs acts.
_UNDERGOES = _forms(
    "appear belong cease collapse consist decline depend disappear emerge ensue exist happen persist remain result "
    "survive vanish",
    "arise arises arose arisen arising die dies died dying fall falls fell fallen falling "
    "occur occurs occurred occurring recur recurs recurred recurring sink sinks sank sunk sinking "
    "stem stems stemmed stemming",
)
#: Verbs of the causative alternation. A thing is their patient ("what opened?"), a person their agent ("who started?").
_ALTERNATES = _forms(
    "accelerate burn change close continue crash decrease develop dissolve end evolve expand explode finish improve "
    "increase intensify melt move open originate start surge turn worsen",
    "begin begins began begun beginning break breaks broke broken breaking drop drops dropped dropping "
    "freeze freezes froze frozen freezing grow grows grew grown growing rise rises rose risen rising "
    "shrink shrinks shrank shrunk shrinking spread spreads spreading stop stops stopped stopping",
)
#: Verbs whose first of two objects receives. Other verbs name or judge it ("what was called something?").
_TRANSFERS = _forms(
    "afford allocate allow ask assign award bequeath deny guarantee grant hand lease loan offer owe pass promise "
    "serve show",
    "allot allots allotted allotting bring brings brought bringing deal deals dealt dealing "
    "feed feeds fed feeding give gives gave given giving "
    "lend lends lent lending pay pays paid paying sell sells sold selling send sends sent sending shown "
    "teach teaches taught teaching tell tells told telling throw throws threw thrown throwing",
)
#: Verbs whose subject receives: "who received something?"
_RECEIVES = _forms("inherit receive")
#: Verbs after which "with" and "to" join two of a kind, so that they mark neither a tool nor a recipient.
_JOINS = _forms(
    "agree associate combine compare concern connect contrast discuss exchange include incorporate involve link marry "
    "merge mix relate replace share"
)
#: The annotation parses "according to" as a verb, but it is nobody's act.
_NO_VERB = _forms("accord")


def asked_role(example: QAExample) -> str:
    """The role of the argument that the question asks for: one of :data:`ROLES`.

    *Where*, *when*, *why* and *how* tell it by themselves. For *who* and *what*, the asked slot, the voice and a
    stranded preposition decide. Examples: "Who chased something?" agent, "What was chased?" patient, "Who was something
    given to?" recipient. ``other`` are *who* and *what* without slots (SQuAD) or without a known voice, every extent
    ("how much"), and every preposition that names no role of this list.
    """
    wh = example.wh
    if example.slots is None:
        return _ALONE.get(wh, "other")
    if wh in _ADJUNCTS:
        return _ADJUNCTS[wh]
    if wh not in ("who", "whom", "what") or example.is_passive is None:
        return "other"
    _, _, subject, verb, *_ = (slot.lower() for slot in example.slots)
    verb = verb.split()[-1] if verb else ""
    if verb in _NO_VERB:
        return "other"
    if not subject:
        return _asked_subject(example, verb)
    return _asked_object(example, verb) if not example.slots[5] else _asked_after_preposition(example, verb)


def _asked_subject(example: QAExample, verb: str) -> str:
    """``Who chased something?``, ``What was given to someone?``, ``Who was given something?``, ``What fell?``"""
    assert example.slots is not None
    obj = example.slots[4]
    if example.is_passive:
        return "recipient" if obj and verb in _TRANSFERS else "patient"
    if not obj and (verb in _UNDERGOES or (verb in _ALTERNATES and example.wh == "what")):
        return "patient"
    return "recipient" if verb in _RECEIVES else "agent"


def _asked_object(example: QAExample, verb: str) -> str:
    """No preposition: ``What did someone eat?``, ``What was someone given?``. Of two, a person receives."""
    assert example.slots is not None
    *_, obj, _, obj2 = example.slots
    other_object = obj or ("" if obj2 in _NO_OBJECT else obj2)  # annotators put it into either slot
    if not other_object and not example.is_passive:
        return "patient"
    if verb not in _TRANSFERS:
        return "other"  # "what was something called?" asks for a name
    return "patient" if example.wh == "what" else "recipient"


def _asked_after_preposition(example: QAExample, verb: str) -> str:
    """With a stranded preposition: ``What was something cut with?``, ``Who did someone give something to?``"""
    assert example.slots is not None
    _, _, subject, _, obj, preposition, obj2 = example.slots
    person, passive = example.wh != "what", bool(example.is_passive)
    if obj2 or preposition.endswith(("do", "doing")):
        # The preposition has its object, so the verb's own is asked for: "What did someone base on something?"
        return "other" if obj or passive else "patient"
    if preposition == "by":
        return "agent" if passive else "other"
    if verb in _JOINS:
        return "other"
    if preposition == "to":
        return "recipient" if person else "other"
    if preposition == "for" and (obj or passive):
        return "recipient" if person else "cause"
    if preposition == "with" and not person and (obj or (passive and subject == "something")):
        return "instrument"
    return "other"
