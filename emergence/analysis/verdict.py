"""What a comparable set says about where the roles are: at the token, in the states but not routed there, or nowhere.

The headline probe is one linear layer on a word's own state, so a low score has two causes that mean different
things. The bilinear probe also sees the question's states: what it reads and the linear one does not is in the
frozen trunk, but the question has not brought it to the word. Each family is held against its own random trunk,
because a richer probe learns more on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from emergence.analysis.comparable import ComparableSet, missing_cells
from emergence.analysis.grid import HEADLINE
from emergence.analysis.set_scores import ReadoutScores, SetScores, score_set
from emergence.measures.bootstrap import Estimate
from emergence.measures.emergence_score import FROZEN, FULL, RANDOM_FROZEN, EmergenceScore
from emergence.measures.readings import NONE_UP_TO, Reading, format_estimate
from emergence.measures.summaries import mean_over_seeds

AT_THE_TOKEN = "readable at the token"
NOT_ROUTED = "there, but not routed to the token"
NOT_THERE = "not there"
UNDETERMINED = "undetermined"

Value = TypeVar("Value")

#: The probe family of the headline read-out.
LINEAR = "linear"
_PROBE_NAMES = {
    LINEAR: "one linear layer on the word's state",
    "bilinear": "the bilinear probe (question against word)",
    "mlp": "one hidden layer on the word's state",
}


@dataclass(frozen=True)
class FamilyFinding:
    """One probe family of a comparable set.

    Attributes:
        family: ``linear`` (the headline), ``bilinear`` or ``mlp``.
        frozen, random_frozen: Test F1 on the pretrained and on the random trunk, mean over seeds.
        score: Share of what full finetuning gains over this family's floor; None without that floor or full finetuning.
        reading: Of the score; None without one or without intervals.
        selectivity: ``frozen`` or ``random_frozen`` -> task F1 minus control-task F1, where measured.
        compression: The same keys -> uniform over online code length (1: nothing learned), where measured.
        flags: ``no_floor``, ``no_full``, ``no_validity``, ``control_not_beaten`` (selectivity not clearly positive),
            ``compresses_no_better_than_random``, and those of the score.
    """

    family: str
    frozen: Estimate
    random_frozen: Estimate | None
    score: EmergenceScore | None
    reading: Reading | None
    selectivity: Mapping[str, Estimate]
    compression: Mapping[str, float]
    flags: tuple[str, ...]

    @property
    def reads(self) -> bool | None:
        """Whether it reads a meaningful share: True strong or partial, False none, None where that is open."""
        if self.reading is None or set(self.reading.could_be) == {"strong", "partial", "none"}:
            return None
        if "none" not in self.reading.could_be:
            return True
        return False if self.reading.could_be == ("none",) else None

    @property
    def is_vouched(self) -> bool:
        """What validity was measured speaks for the states and against the probe's own learning; None counts not."""
        measured = FROZEN in self.selectivity or {FROZEN, RANDOM_FROZEN} <= set(self.compression)
        return measured and not {"control_not_beaten", "compresses_no_better_than_random"} & set(self.flags)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "family": self.family,
            "frozen": self.frozen.to_dict(),
            "random_frozen": self.random_frozen.to_dict() if self.random_frozen else None,
            "score": self.score.to_dict() if self.score else None,
            "reading": self.reading.to_dict() if self.reading else None,
            "selectivity": {cell: estimate.to_dict() for cell, estimate in self.selectivity.items()},
            "compression": dict(self.compression),
            "flags": list(self.flags),
        }


@dataclass(frozen=True)
class Verdict:
    """What one comparable set says, with its evidence.

    Attributes:
        set_label: Of the comparable set.
        headline: ``strong``, ``partial``, ``none`` or ``undetermined``: the reading of the linear probe's score.
        where: ``AT_THE_TOKEN``, ``NOT_ROUTED``, ``NOT_THERE`` or ``UNDETERMINED``; the rule is in :func:`verdict_of`.
        sentences: Plain English with the numbers and intervals, ready to print.
        families: Linear first.
    """

    set_label: str
    headline: str
    where: str
    sentences: tuple[str, ...]
    families: tuple[FamilyFinding, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "set": self.set_label,
            "headline": self.headline,
            "where": self.where,
            "sentences": list(self.sentences),
            "families": [finding.to_dict() for finding in self.families],
        }


def verdict_of(comparable_set: ComparableSet, scores: SetScores | None = None) -> Verdict:
    """The verdict of one comparable set, decided by intervals and never by points.

    A probe family *reads* the roles where the interval of its score, against its own random trunk and full
    finetuning, lies wholly above ``NONE_UP_TO`` of the way (the guide's strong or partial), and does not where
    it lies wholly below (the guide's none). The gate of the guide applies: where full finetuning itself is too
    low, or not clearly above the floor, nothing is decided.

    1. The linear probe reads: ``AT_THE_TOKEN``.
    2. It does not, the bilinear probe does, and the bilinear probe's validity vouches for it (selectivity clearly
       positive, compression better than on the random trunk; at least one measured, neither against):
       ``NOT_ROUTED``.
    3. It does not, nor does the bilinear one, but one hidden layer does: ``AT_THE_TOKEN``, though not linearly.
    4. Neither linear nor bilinear reads: ``NOT_THERE``, as far as these probes see.
    5. Anything else, an interval across the border, a missing cell, family or validity: ``UNDETERMINED``.

    Args:
        comparable_set: From ``analysis.comparable.group_results``.
        scores: Of the same set, where they are there already; computed by default.
    """
    scores = scores or score_set(comparable_set)
    findings = tuple(
        found for readout in scores.readouts.values() if (found := _finding(comparable_set, readout)) is not None
    )
    by_family = {finding.family: finding for finding in findings}
    linear = by_family.get(LINEAR)
    headline = linear.reading.verdict if linear and linear.reading else UNDETERMINED
    where, why = _where(by_family)
    full = scores.headline.f1.get(FULL)
    sentences = [_headline_sentence(linear, full), *(_family_sentence(f) for f in findings), why]
    sentences += [f"{cell.replace('_', ' ')} was not run: {how}" for cell, how in missing_cells(comparable_set).items()]
    return Verdict(comparable_set.label, headline, where, tuple(s for s in sentences if s), findings)


# Evidence -----------------------------------------------------------------------------------------


def _finding(comparable: ComparableSet, readout: ReadoutScores) -> FamilyFinding | None:
    """One family's numbers; None where the frozen cell does not have it."""
    family = LINEAR if readout.readout == HEADLINE else readout.readout
    if FROZEN not in readout.f1:
        return None
    selectivity = _by_cell(comparable, family, _mean_selectivity)
    compression = _by_cell(comparable, family, _mean_compression)
    flags = ["no_floor"] if RANDOM_FROZEN not in readout.f1 else []
    flags += ["no_full"] if FULL not in readout.f1 else []
    flags += ["no_validity"] if not selectivity and not compression else []
    if FROZEN in selectivity and not selectivity[FROZEN].lo > 0:
        flags.append("control_not_beaten")
    if {FROZEN, RANDOM_FROZEN} <= set(compression) and compression[FROZEN] <= compression[RANDOM_FROZEN]:
        flags.append("compresses_no_better_than_random")
    flags += readout.probe.flags if readout.probe else []
    return FamilyFinding(
        family=family,
        frozen=readout.f1[FROZEN],
        random_frozen=readout.f1.get(RANDOM_FROZEN),
        score=readout.probe,
        reading=readout.reading,
        selectivity=selectivity,
        compression=compression,
        flags=tuple(dict.fromkeys(flags)),
    )


def _by_cell(
    comparable: ComparableSet, family: str, mean: Callable[[Sequence[Mapping[str, Any]]], Value | None]
) -> dict[str, Value]:
    """``mean`` over the seeds of both frozen cells, where all of them have this family's validity."""
    found = {}
    for cell in (FROZEN, RANDOM_FROZEN):
        items = comparable.cells.get(cell, ())
        parts = [((item.result.probes or {}).get("validity") or {}).get(family) for item in items]
        value = mean([part for part in parts if part]) if parts and all(parts) else None
        if value is not None:
            found[cell] = value
    return found


def _mean_selectivity(parts: Sequence[Mapping[str, Any]]) -> Estimate | None:
    values = [part.get("selectivity") for part in parts]
    return mean_over_seeds([Estimate.from_dict(value) for value in values if value]) if all(values) else None


def _mean_compression(parts: Sequence[Mapping[str, Any]]) -> float | None:
    """Bits of all seeds together."""
    codes = [part.get("mdl") for part in parts]
    if not all(codes):
        return None
    online = sum(code["online_bits"] for code in codes if code)
    return float(sum(code["uniform_bits"] for code in codes if code) / online) if online > 0 else None


# The rule -----------------------------------------------------------------------------------------


def _where(by_family: Mapping[str, FamilyFinding]) -> tuple[str, str]:
    """The rule of :func:`verdict_of`, and its conclusion as a sentence."""
    linear, bilinear, mlp = (by_family.get(name) for name in (LINEAR, "bilinear", "mlp"))
    if linear is None or linear.reads is None:
        return UNDETERMINED, "Where the roles are is open: " + _why_open(linear, "the linear probe")
    if linear.reads:
        return AT_THE_TOKEN, "The roles are readable at the token: the word's own state tells whether it is the answer."
    if bilinear is not None and bilinear.reads:
        return _not_routed(bilinear, mlp)
    if mlp is not None and mlp.reads:
        return AT_THE_TOKEN, "The roles are readable at the token, but not linearly: it takes a hidden layer."
    if bilinear is None or bilinear.reads is None:
        return UNDETERMINED, "Not readable at the token; whether it is elsewhere in the states is open: " + _why_open(
            bilinear, "the bilinear probe"
        )
    return (
        NOT_THERE,
        f"Not there, as far as these probes see: none reads {NONE_UP_TO:.0%} of the way from its random floor to full.",
    )


def _not_routed(bilinear: FamilyFinding, mlp: FamilyFinding | None) -> tuple[str, str]:
    if not bilinear.is_vouched:
        reasons = {
            "no_validity": "selectivity and description length were not measured; run the frozen cells again with "
            "--fresh",
            "control_not_beaten": "it learns arbitrary answers as well as the real ones",
            "compresses_no_better_than_random": "its code is no shorter than on a random trunk",
        }
        why = "; ".join(text for flag, text in reasons.items() if flag in bilinear.flags)
        why = why or "its validity was measured on one trunk alone"
        return UNDETERMINED, f"Whether it is the trunk or the bilinear probe that knows the roles is open: {why}."
    text = (
        "The roles are there, but not routed to the token by the question: only a probe that compares the question's "
        "states with the word's finds them."
    )
    if mlp is not None and mlp.reads:
        text += " Part of them is at the token too, but not linearly."
    return NOT_ROUTED, text


def _why_open(finding: FamilyFinding | None, name: str) -> str:
    if finding is None:
        return f"{name} was not fitted."
    if "no_full" in finding.flags:
        return "there is no full finetuning to compare with."
    if "no_floor" in finding.flags:
        return f"{name} was not fitted on a random trunk."
    if finding.reading is None:
        return "these files hold no intervals."
    if any(flag.startswith("denominator") for flag in finding.flags):
        return f"full finetuning does not clearly exceed the floor of {name}."
    if len(finding.reading.could_be) == 3:
        gates = (text for text in finding.reading.evidence if "clearly exceed the gate" in text)
        return next(gates, f"the score of {name} could be anything") + "."
    return f"the interval of the score of {name} reaches across {NONE_UP_TO:g}."


# Sentences ----------------------------------------------------------------------------------------


def _headline_sentence(linear: FamilyFinding | None, full: Estimate | None) -> str:
    if linear is None or linear.score is None:
        return "No emergence score: it takes full, frozen and random frozen runs on the same test questions."
    verdict = linear.reading.verdict if linear.reading else UNDETERMINED
    could_be = linear.reading.could_be if linear.reading else ()
    between = f" (could be {' or '.join(could_be)})" if len(could_be) > 1 else ""
    against = f", where full finetuning reaches F1 {format_estimate(full, 3)}" if full else ""
    return f"Emergence: {verdict}{between}. The score is {format_estimate(linear.score.score)}{against}."


def _family_sentence(finding: FamilyFinding) -> str:
    """What a family reads, of how much, and whether it is the probe's own doing."""
    name = _PROBE_NAMES.get(finding.family, f"the {finding.family} probe")
    parts = [f"{name[0].upper()}{name[1:]} reads F1 {format_estimate(finding.frozen, 3)} off the frozen trunk"]
    if finding.random_frozen:
        parts.append(f"{format_estimate(finding.random_frozen, 3)} off a random one")
    if finding.score and finding.family != LINEAR:
        parts.append(f"a score of {format_estimate(finding.score.score)}")
    text = ", ".join(parts)
    more = []
    if FROZEN in finding.selectivity:
        more.append(f"selectivity {format_estimate(finding.selectivity[FROZEN], 3)}")
    if FROZEN in finding.compression:
        random = finding.compression.get(RANDOM_FROZEN)
        against = f" (random trunk {random:.2f})" if random is not None else ""
        more.append(f"compression {finding.compression[FROZEN]:.2f}{against}")
    return text + (f"; {', '.join(more)}." if more else ".")
