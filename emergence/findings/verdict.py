"""What a comparable set says: do the frozen states tell who did what to whom beyond words and positions, and where.

A probe may score well because its states hold what words and positions tell anybody, or because a probe learns by
itself. So the verdict rests on what the states *add* to a scorer without a language model, and on how much more that
is than a random twin's states add (docs/methods.md#verdict). The probe families tell where: one layer on a word's own
state reads what has been brought to the token; the bilinear probe also sees the question's states.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from emergence.experiment.facts import HEADLINE, Validity
from emergence.findings.comparable import MODES, ComparableSet, missing_cells
from emergence.findings.scores import ReadoutScores, SetScores, score_set
from emergence.measures.bootstrap import Estimate, seed_t_interval
from emergence.measures.conditional import (
    ADDS,
    BILINEAR,
    F1,
    FALSE_CLAIMS,
    FAMILIES,
    LINEAR,
    MARGINS,
    MLP,
    NO_MORE,
    NOT_THERE,
    READS,
    SELECTION,
    SPANS,
    UNDETERMINED,
    FamilyGain,
    Judgement,
    ScoreGains,
    is_below,
    judge_gains,
)
from emergence.measures.emergence_score import FROZEN, FROZEN_CELLS, FULL, RANDOM_FROZEN, EmergenceScore
from emergence.measures.readings import NONE_UP_TO, STRONG_FROM, Reading, describe_score
from emergence.measures.summaries import difference, mean_over_seeds
from emergence.plain import plain
from emergence.wording import gained, shown

AT_THE_TOKEN = "at the token"
NOT_ROUTED = "not routed to the token"

Value = TypeVar("Value")

_PROBE_NAMES = {LINEAR: "the linear probe", BILINEAR: "the bilinear probe", MLP: "the probe with a hidden layer"}
_SCORE_NAMES = {F1: "token F1", SELECTION: "argument selection"}
#: How the first sentence begins, after the scope.
_FINDINGS = {
    READS: "the frozen states tell who did what to whom: a probe that reads them alone chooses the right one of "
    "the sentence's arguments more often than words and positions do",
    ADDS: "the frozen states add to what words and positions tell about who did what to whom",
    SPANS: "the frozen states help to find where answers begin and end, but choosing among the sentence's arguments "
    "shows no gain, so that they tell who did what to whom is not shown",
    NO_MORE: "the frozen states tell no more about who did what to whom than words and positions do",
    NOT_THERE: "nothing about who did what to whom was found in the frozen states, neither beyond words and positions "
    "nor beyond a random twin's states",
    UNDETERMINED: "it is open whether the frozen states tell more about who did what to whom than words and positions "
    "do",
}


@dataclass(frozen=True)
class FamilyFinding:
    """One probe family of a comparable set.

    Attributes:
        family: ``linear`` (the headline), ``bilinear`` or ``mlp``.
        frozen, random_frozen: Test F1 on the pretrained and on the random trunk, each a mean over seeds.
        score: Share of what full finetuning gains over this family's floor; None without that floor or full finetuning.
        reading: The guide's reading of the score; None without a score or without intervals.
        selectivity: ``frozen`` or ``random_frozen`` -> task F1 minus control-task F1, where measured.
        compression: The same keys -> uniform over online code length (1: nothing learned), where measured.
        selectivity_difference: Pretrained minus random trunk, taken as independent. None unless both are measured.
        compression_difference: The same of compression, over seeds; one seed gives no interval.
        gains: Score name -> what this family adds to words and positions.
        flags: ``no_floor``, ``no_full``, ``no_validity``, ``selectivity_not_above_twin`` (its interval reaches 0),
            ``compression_not_above_twin``, and the flags of the score.
    """

    family: str
    frozen: Estimate
    random_frozen: Estimate | None
    score: EmergenceScore | None
    reading: Reading | None
    selectivity: Mapping[str, Estimate]
    compression: Mapping[str, float]
    selectivity_difference: Estimate | None
    compression_difference: Estimate | None
    gains: Mapping[str, FamilyGain]
    flags: tuple[str, ...]

    @property
    def is_vouched(self) -> bool:
        """Whether selectivity or compression is clearly above the random twin's, and neither is flagged as not above.

        A value above zero vouches for nothing, because random trunks have one, too.
        """
        differences = (self.selectivity_difference, self.compression_difference)
        clear = any(contrast is not None and contrast.lo > 0 for contrast in differences)
        return clear and not {"selectivity_not_above_twin", "compression_not_above_twin"} & set(self.flags)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        last = ("selectivity", "compression", "gains", "flags")
        facts = {key: value for key, value in vars(self).items() if key not in last}
        return plain(facts | {key: getattr(self, key) for key in last})


@dataclass(frozen=True)
class Verdict:
    """What one comparable set says, with its evidence.

    Attributes:
        set_label: The comparable set's label.
        outcome: ``READS``, ``ADDS``, ``SPANS``, ``NO_MORE``, ``NOT_THERE`` or ``UNDETERMINED``; see :func:`verdict_of`.
        where: ``AT_THE_TOKEN``, ``NOT_ROUTED`` or ``UNDETERMINED`` for the first two outcomes, None for the others.
        guide: ``strong``, ``partial``, ``none`` or ``undetermined``: the linear probe's score by the guide's scale.
        sentences: Plain English with numbers and intervals, ready to print. The first sentence has the answer.
        families: One finding for each probe family, the linear probe first.
        gains: What the states add, by each score. The verdict rests on them.
        judgement: The outcome with every claim that was tried.
    """

    set_label: str
    outcome: str
    where: str | None
    guide: str
    sentences: tuple[str, ...]
    families: tuple[FamilyFinding, ...]
    gains: tuple[ScoreGains, ...]
    judgement: Judgement

    @property
    def short(self) -> str:
        """``adds to words and positions, not routed to the token``."""
        if self.where is None:
            return self.outcome
        return f"{self.outcome}, {'where: ' if self.where == UNDETERMINED else ''}{self.where}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        names = {"set_label": "set"}
        facts = {names.get(key, key): value for key, value in vars(self).items() if key != "judgement"}
        return plain(facts | {"claims": self.judgement.claims})


def verdict_of(comparable_set: ComparableSet, scores: SetScores | None = None) -> Verdict:
    """The verdict of one comparable set, decided by intervals of differences and never by points.

    The outcome is the one of :func:`measures.conditional.judge_gains`. Files without gains have ``UNDETERMINED``.

    ``READS`` and ``ADDS`` also say where. The rule looks at the families whose claims by argument selection hold:

    1. The linear probe is among them, or the probe with a hidden layer: ``AT_THE_TOKEN``.
    2. Only the bilinear probe is, and it exceeds its random twin by clearly more than the linear probe does:
       ``NOT_ROUTED``.

    In both cases the family's selectivity or compression has to be clearly above the random twin's
    (:attr:`FamilyFinding.is_vouched`). Otherwise the where is ``UNDETERMINED``, and a sentence tells the reason.

    Example: the claims of the linear and the bilinear probe hold. The linear probe's selectivity is 0.10 [0.02, 0.18]
    above the twin's, so the where is ``AT_THE_TOKEN``. With [-0.02, 0.22] it would be ``UNDETERMINED``.

    Args:
        comparable_set: From :func:`emergence.findings.comparable.group_results`.
        scores: Scores of the same set; computed where not given.
    """
    scores = scores or score_set(comparable_set)
    readouts = scores.readouts.values()
    findings = tuple(f for readout in readouts if (f := _finding(comparable_set, readout, scores.gains)))
    by_family = {finding.family: finding for finding in findings}
    judgement = judge_gains(scores.gains)
    where, why = _where(judgement, by_family)
    full = scores.headline.f1.get(FULL)
    linear = by_family.get(LINEAR)
    sentences = [
        _first_sentence(judgement, scores.gains, by_family, full),
        why,
        *_selection_sentences(scores.gains),
        *_claim_sentences(judgement, scores.gains),
        *(_family_sentence(finding) for finding in findings),
        "" if comparable_set.is_published else _guide_sentence(linear),
    ]
    sentences += [f"{MODES[cell]} was not run: {how}" for cell, how in missing_cells(comparable_set).items()]
    return Verdict(
        set_label=comparable_set.label,
        outcome=judgement.outcome,
        where=where,
        guide=linear.reading.verdict if linear and linear.reading else UNDETERMINED,
        sentences=tuple(sentence for sentence in sentences if sentence),
        families=findings,
        gains=scores.gains,
        judgement=judgement,
    )


# Evidence -----------------------------------------------------------------------------------------


def _finding(comparable: ComparableSet, readout: ReadoutScores, gains: Sequence[ScoreGains]) -> FamilyFinding | None:
    """One family's numbers; None where the frozen cell lacks it, or where the read-out is a control and no family."""
    family = LINEAR if readout.readout == HEADLINE else readout.readout
    if FROZEN not in readout.f1 or family not in FAMILIES:
        return None
    selectivity = _by_cell(comparable, family, _mean_selectivity)
    compressions = _by_cell(comparable, family, _compressions)
    contrast = (
        difference(selectivity[FROZEN], selectivity[RANDOM_FROZEN]) if set(FROZEN_CELLS) <= set(selectivity) else None
    )
    shorter = None
    if set(FROZEN_CELLS) <= set(compressions):
        shorter = difference(*(seed_t_interval(compressions[cell]) for cell in FROZEN_CELLS))
    flags = ["no_floor"] if RANDOM_FROZEN not in readout.f1 else []
    flags += ["no_full"] if FULL not in readout.f1 else []
    flags += ["no_validity"] if contrast is None and shorter is None else []
    flags += ["selectivity_not_above_twin"] if contrast and not contrast.lo > 0 else []
    flags += ["compression_not_above_twin"] if shorter and not shorter.point > 0 else []
    flags += readout.probe.flags if readout.probe else []
    return FamilyFinding(
        family=family,
        frozen=readout.f1[FROZEN],
        random_frozen=readout.f1.get(RANDOM_FROZEN),
        score=readout.probe,
        reading=readout.reading,
        selectivity=selectivity,
        compression={cell: sum(values) / len(values) for cell, values in compressions.items()},
        selectivity_difference=contrast,
        compression_difference=shorter,
        gains={one.score: one.families[family] for one in gains if family in one.families},
        flags=tuple(dict.fromkeys(flags)),
    )


def _by_cell(
    comparable: ComparableSet, family: str, summary: Callable[[Sequence[Validity]], Value | None]
) -> dict[str, Value]:
    """``summary`` over the seeds of both frozen cells, where all of them have this family's validity."""
    by_cell = {}
    for cell in FROZEN_CELLS:
        items = comparable.cells.get(cell, ())
        parts = [part for item in items if (part := item.result.validity(family))]
        value = summary(parts) if parts and len(parts) == len(items) else None
        if value is not None:
            by_cell[cell] = value
    return by_cell


def _mean_selectivity(parts: Sequence[Validity]) -> Estimate | None:
    values = [part.selectivity for part in parts if part.selectivity]
    return mean_over_seeds(values) if len(values) == len(parts) else None


def _compressions(parts: Sequence[Validity]) -> list[float] | None:
    """One compression for each seed; None unless every seed has it."""
    values = [part.compression for part in parts if part.compression is not None]
    return values if len(values) == len(parts) else None


# Where --------------------------------------------------------------------------------------------


def _where(judgement: Judgement, by_family: Mapping[str, FamilyFinding]) -> tuple[str | None, str]:
    """The rule of :func:`verdict_of`, and its conclusion as a sentence."""
    families = {claim.family for claim in judgement.shown(score=SELECTION)}
    if judgement.outcome not in (READS, ADDS):
        return None, ""
    at_token = [name for name in (LINEAR, MLP) if name in families]
    if at_token:
        vouched = [name for name in at_token if name in by_family and by_family[name].is_vouched]
        if not vouched:
            return UNDETERMINED, _why_not_vouched(by_family.get(at_token[0]), at_token[0])
        how = "" if LINEAR in vouched else ", but not linearly: it takes a hidden layer"
        alone = any(claim.kind == READS and claim.family in vouched for claim in judgement.shown(score=SELECTION))
        told = "The word's own state tells whether it is the answer."
        return AT_THE_TOKEN, f"Where: at the token{how}. {told if alone else _part_told(by_family[vouched[0]])}"
    return _not_routed(judgement, by_family.get(BILINEAR), by_family.get(LINEAR))


def _part_told(family: FamilyFinding) -> str:
    """How much more a word's own state tells than words and positions do."""
    gain = family.gains[SELECTION].gain
    small = f", less than {MARGINS[SELECTION]:g}" if gain.hi < MARGINS[SELECTION] else ""
    return (
        "The word's own state tells a part of it: on top of words and positions "
        f"{_PROBE_NAMES[family.family]} adds {gained(gain)} argument selection{small}."
    )


def _not_routed(judgement: Judgement, bilinear: FamilyFinding | None, linear: FamilyFinding | None) -> tuple[str, str]:
    if linear is None or not linear.gains:
        return UNDETERMINED, "Where: open. The linear probe was not fitted on top of words and positions."
    if bilinear is None or not bilinear.is_vouched:
        return UNDETERMINED, _why_not_vouched(bilinear, BILINEAR)
    if not any(
        _is_beyond_linear(bilinear.gains[claim.score], claim.kind) for claim in judgement.shown(score=SELECTION)
    ):
        return UNDETERMINED, (
            "Where: open. The bilinear probe finds it, and the linear probe does not clearly find less."
        )
    return NOT_ROUTED, (
        "Where: there, but not routed to the token by the question. Only the probe that compares the question's states "
        "with the word's finds it."
    )


def _is_beyond_linear(gain: FamilyGain, kind: str) -> bool:
    beyond = gain.states_beyond_linear if kind == READS else gain.gain_beyond_linear
    return beyond is not None and beyond.lo > 0


def _why_not_vouched(finding: FamilyFinding | None, family: str) -> str:
    reasons = {
        "no_validity": "selectivity and description length were not measured on both trunks; run the frozen cells "
        "again with --fresh",
        "selectivity_not_above_twin": "its selectivity is not clearly above that on the random twin",
        "compression_not_above_twin": "its code is no shorter than on the random twin",
    }
    flags = finding.flags if finding else ("no_validity",)
    why = "; ".join(text for flag, text in reasons.items() if flag in flags)
    return f"Where: open, because nothing vouches for {_PROBE_NAMES[family]}: {why or _ONE_MODEL}."


_ONE_MODEL = "compression is known for one seed alone, without an interval, and selectivity not at all"


# Sentences ----------------------------------------------------------------------------------------


def _first_sentence(
    judgement: Judgement,
    gains: Sequence[ScoreGains],
    by_family: Mapping[str, FamilyFinding],
    full: Estimate | None,
) -> str:
    """The answer with every number it rests on."""
    f1 = next((one for one in gains if one.score == F1), None)
    levels = []
    for name in (LINEAR, MLP, BILINEAR):
        if name in by_family and (name != MLP or BILINEAR not in by_family):
            finding = by_family[name]
            twin = f" (random twin {shown(finding.random_frozen)})" if finding.random_frozen else ""
            levels.append(f"{shown(finding.frozen)} with {_PROBE_NAMES[name]}{twin}")
    others = [f"{shown(f1.words)} from words and positions (no language model)"] if f1 else []
    others += [f"{shown(f1.rule)} from the wh rule"] if f1 and f1.rule else []
    others += [f"{shown(full)} after full finetuning"] if full else []
    text = f"{_scope(gains, by_family)}, {_FINDINGS[judgement.outcome]}{_why_open(gains, by_family)}"
    if levels:
        text += f": token F1 is {' and '.join(levels)}"
        text += f", against {_listed(others)}" if others else ""
    added = [
        f"{gained(gain.gain)} {_SCORE_NAMES[one.score]}"
        + (f" (random twin {_twin_gain(gain.twin_gain)})" if gain.twin_gain else "")
        for one in gains
        if (gain := one.families.get(one.richest))
    ]
    if added:
        name = _PROBE_NAMES[gains[0].richest]
        text += f"; on top of words and positions the states add, by {name}, {_listed(added)}"
    return text + "."


def _twin_gain(gain: Estimate) -> str:
    """The gain, or a phrase where validation kept words and positions alone, which makes the zero exact."""
    nothing = gain.point == 0 and gain.lo == gain.hi == 0
    return "nothing: validation kept words and positions alone" if nothing else gained(gain)


def _scope(gains: Sequence[ScoreGains], by_family: Mapping[str, FamilyFinding]) -> str:
    seeds = [one.words.n_seeds for one in gains] or [finding.frozen.n_seeds for finding in by_family.values()]
    twins = [family.difference.n_seeds for one in gains for family in one.families.values() if family.difference]
    n = min([*seeds, *twins], default=1)
    return "For this trained model" if n == 1 else f"Over trainings ({n} seeds)"


def _why_open(gains: Sequence[ScoreGains], by_family: Mapping[str, FamilyFinding]) -> str:
    if not gains and not by_family:
        return " (no frozen trunk was probed: run the same command with --freeze-llm)"
    if not gains:
        return (
            " (these files hold no scores of words and positions: run again with this version to measure what words "
            "and positions tell)"
        )
    if all(family.difference is None for one in gains for family in one.families.values()):
        return " (there is no random twin to hold them against: run the frozen probe with --random-baseline)"
    return ""


def _selection_sentences(gains: Sequence[ScoreGains]) -> list[str]:
    for one in gains:
        if one.score == SELECTION:
            parts = [
                f"{_PROBE_NAMES[name]} {shown(family.states)}"
                + (f" (random twin {shown(family.twin_states)})" if family.twin_states else "")
                for name, family in one.families.items()
            ]
            return [
                f"Choosing among the sentence's arguments (argument selection, {one.words.n:,} questions): "
                f"words and positions {shown(one.words)}, {', '.join(parts)}."
            ]
    return []


def _claim_sentences(judgement: Judgement, gains: Sequence[ScoreGains]) -> list[str]:
    """What holds of what was tried, and what is excluded."""
    lines = []
    margins = " or ".join(f"{MARGINS[one.score]:g} {_SCORE_NAMES[one.score]}" for one in gains)
    if judgement.claims:
        words = {READS: "alone above words and positions", ADDS: "adds to words and positions"}
        held = [
            f"{_PROBE_NAMES[c.family]} {words[c.kind]} by {_SCORE_NAMES[c.score]} (adjusted p = {c.p_adjusted:.2g})"
            for c in judgement.shown()
        ]
        lines.append(
            f"Of {len(judgement.claims)} comparisons, {len(held) or 'none'} "
            f"hold{'' if len(held) != 1 else 's'} at {FALSE_CLAIMS:.1%}, adjusted for all of them"
            + (f": {'; '.join(held)}." if held else ".")
        )
    if judgement.outcome in (NO_MORE, NOT_THERE):
        lines += [_excluded(one) for one in gains]
    elif judgement.outcome == UNDETERMINED and judgement.claims:
        lines.append(
            f"Nothing added is shown, and a gain of {margins} is not excluded either: more test questions or seeds "
            "would decide."
        )
    return lines


def _excluded(score_gains: ScoreGains) -> str:
    """Which of the two is below the margin, the gain or what pretraining makes of it."""
    gain = score_gains.families[score_gains.richest]
    margin, name = MARGINS[score_gains.score], _SCORE_NAMES[score_gains.score]
    parts = [
        text
        for text, estimate in (
            (f"the states add {margin:g} {name}", gain.gain),
            (f"they add {margin:g} more than a random twin's", gain.difference),
        )
        if is_below(estimate, margin)
    ]
    return f"The data exclude that {' and that '.join(parts)} (one-sided, 95%)." if parts else ""


def _family_sentence(finding: FamilyFinding) -> str:
    """What a family adds, and whether it is the probe's own doing."""
    parts = [
        f"adds {gained(gain.difference)} {_SCORE_NAMES[score]} more than on its random twin"
        for score, gain in finding.gains.items()
        if gain.difference
    ]
    if finding.selectivity_difference:
        parts.append(f"selectivity is {gained(finding.selectivity_difference)} above the twin's")
    if finding.compression_difference:
        compression, twin = (finding.compression[cell] for cell in FROZEN_CELLS)
        unsure = "" if math.isfinite(finding.compression_difference.lo) else ", no interval"
        parts.append(f"compression {compression:.2f} (random twin {twin:.2f}{unsure})")
    name = _PROBE_NAMES[finding.family]
    return f"{name[0].upper()}{name[1:]}: {'; '.join(parts)}." if parts else ""


def _guide_sentence(linear: FamilyFinding | None) -> str:
    """The guide's reading of the linear probe's score, for those who ask for it."""
    if linear is None or linear.score is None:
        return "By the guide's scale: no emergence score; it takes full, frozen and random frozen runs on one test set."
    reading = linear.reading.in_words() if linear.reading else UNDETERMINED
    scale = f"strong from {STRONG_FROM:.2f} up, none up to {NONE_UP_TO:.2f}"
    score = describe_score(linear.score)
    return f"By the guide's scale: {reading}; emergence score {score} ({scale})."


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
