"""What a frozen trunk's states tell beyond words and positions, and what the data allow to claim.

R_1 is a scorer of words and positions without any language model. A probe may be good only because its states hold
what R_1 knows as well, so the question is what the states *add*: gain = score(R_1 + states) - score(R_1). A probe
also learns by itself, so every gain is held against the same probe's gain on a random twin, question by question.
Defined in docs/methods.md#conditional-probing, the claims in docs/methods.md#verdict.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from emergence.measures.bootstrap import N_BOOT, Estimate, Resamples, interval
from emergence.measures.mirage import holm
from emergence.measures.resampling import ClusterTable, FloatArray

LINEAR, BILINEAR, MLP = "linear", "bilinear", "mlp"
FAMILIES = (LINEAR, BILINEAR, MLP)
F1, SELECTION = "f1_tokens", "argument_selection"
SCORES = (F1, SELECTION)
#: Read-outs of a family on top of a scorer without a language model (R_1), by the scorer. In the echo layout a state
#: has seen the next word, so R_1 knows it, too.
WITH_WORDS = {"left": "words+{family}", "both": "words_both+{family}"}

READS = "reads roles"
ADDS = "adds to words and positions"
SPANS = "finds answers better, roles not shown"
NO_MORE = "no more than words and positions tell"
NOT_THERE = "not there"
UNDETERMINED = "undetermined"

#: Chance of any false claim, over all claims together: that of the lower end of one 95% interval.
FALSE_CLAIMS = 0.025
#: A gain worth having. "No more than words and positions tell" takes data that exclude one of this size, at 95%.
MARGINS: Mapping[str, float] = {F1: 0.03, SELECTION: 0.03}
#: The same for states alone against the twin's, which are known less exactly than gains.
STATES_MARGIN = 0.06
_EXCLUDED_AT = 0.95


@dataclass(frozen=True, eq=False)
class TrunkScores:
    """Per-question scores of the probes on one kind of trunk, over S seeds and N questions.

    Attributes:
        words: (S, N) scores of R_1. rule: (S, N) scores of the wh rule; None where it has no such score.
        states: Family -> (S, N) scores of the probe on the states alone.
        with_words: Family -> (S, N) scores of the probe on top of R_1.
        seeds: S labels. Equal labels mean the same seed only within one kind of trunk.
    """

    words: FloatArray
    rule: FloatArray | None
    states: Mapping[str, FloatArray]
    with_words: Mapping[str, FloatArray]
    seeds: tuple[str, ...]

    @property
    def families(self) -> tuple[str, ...]:
        """Families that were fitted both alone and on top of R_1."""
        return tuple(name for name in FAMILIES if name in self.states and name in self.with_words)

    def columns(self) -> dict[str, FloatArray]:
        """Everything that is averaged, by name. A gain is a difference within a question."""
        columns = {"words": self.words} | ({} if self.rule is None else {"rule": self.rule})
        for name in self.families:
            columns |= {f"states {name}": self.states[name], f"gain {name}": self.with_words[name] - self.words}
        return columns


@dataclass(frozen=True)
class FamilyGain:
    """One probe family by one score, all with paired intervals. What needs a random twin is None without one.

    Attributes:
        states, twin_states: The probe on states alone, on the pretrained and on the random trunk.
        gain, twin_gain: What the states of each trunk add to R_1. difference: ``gain`` minus ``twin_gain``.
        above_words, above_rule, above_twin: ``states`` minus R_1, minus the wh rule, and minus ``twin_states``.
        gain_beyond_linear, states_beyond_linear: ``difference`` and ``above_twin``, minus the linear probe's.
    """

    states: Estimate
    gain: Estimate
    above_words: Estimate
    above_rule: Estimate | None
    twin_states: Estimate | None
    twin_gain: Estimate | None
    difference: Estimate | None
    above_twin: Estimate | None
    gain_beyond_linear: Estimate | None
    states_beyond_linear: Estimate | None


@dataclass(frozen=True)
class ScoreGains:
    """All families by one score: ``words`` is R_1, ``rule`` the wh rule."""

    score: str
    words: Estimate
    rule: Estimate | None
    families: Mapping[str, FamilyGain]

    @property
    def richest(self) -> str:
        """The family that can find the most: bilinear where it was fitted."""
        return next(name for name in (BILINEAR, MLP, LINEAR) if name in self.families)


def conditional_gains(
    score: str,
    pretrained: TrunkScores,
    twin: TrunkScores | None,
    clusters: Sequence[Hashable] | NDArray[Any],
    *,
    n_boot: int = N_BOOT,
    seed: int = 0,
    level: float = 0.95,
) -> ScoreGains | None:
    """Gains of every family, on the same resamples of sentences and seeds.

    A question counts only if every column has a finite score for it. Example: argument selection is nan for a question
    whose sentence has no other argument. The result is None if no question counts, or if no family was fitted on top
    of R_1.

    Args:
        score: The score's name. clusters: (N,) the sentence of each question.
        pretrained, twin: Scores on both trunks, whose seeds are independent of each other.
    """
    trunks = {"pretrained": pretrained} | ({"random": twin} if twin is not None and twin.families else {})
    columns = {f"{kind} {name}": rows for kind, trunk in trunks.items() for name, rows in trunk.columns().items()}
    kept = np.all([np.isfinite(rows).all(axis=0) for rows in columns.values()], axis=0)  # (N,)
    if not pretrained.families or not kept.any():
        return None
    labels = {name: [f"{name.split()[0]}:{s}" for s in trunks[name.split()[0]].seeds] for name in columns}
    table = ClusterTable.from_questions(
        {name: rows[:, kept] for name, rows in columns.items()}, np.asarray(clusters)[kept], labels
    )
    measured = _Measured(Resamples.draw(table, n_boot, seed), level)
    families = {name: _family(measured, name) for name in pretrained.families}
    words = measured.signed({"pretrained words": 1})
    assert words is not None  # every trunk has it
    return ScoreGains(score, words, measured.signed({"pretrained rule": 1}), families)


@dataclass(frozen=True, eq=False)
class _Measured:
    resamples: Resamples
    level: float

    def signed(self, signs: Mapping[str, int]) -> Estimate | None:
        """The interval of a signed sum of columns; None where one is absent."""
        table = self.resamples.table
        if not set(signs) <= set(table.rows):
            return None
        estimate = interval(
            self.resamples, lambda m: np.asarray(sum(sign * m[name] for name, sign in signs.items())), self.level
        )
        return replace(estimate, n_seeds=min(len(table.seed_labels[name]) for name in signs))


def _family(measured: _Measured, name: str) -> FamilyGain:
    states, gain = f"pretrained states {name}", f"pretrained gain {name}"
    twin_states, twin_gain = f"random states {name}", f"random gain {name}"
    alone, added = measured.signed({states: 1}), measured.signed({gain: 1})
    above_words = measured.signed({states: 1, "pretrained words": -1})
    assert alone and added and above_words  # the caller goes through the families that are there

    def beyond_linear(kind: str) -> Estimate | None:
        mine, its = (f"{trunk} {kind} {name}" for trunk in ("pretrained", "random"))
        linear, its_linear = (f"{trunk} {kind} {LINEAR}" for trunk in ("pretrained", "random"))
        return None if name == LINEAR else measured.signed({mine: 1, its: -1, linear: -1, its_linear: 1})

    return FamilyGain(
        states=alone,
        gain=added,
        above_words=above_words,
        above_rule=measured.signed({states: 1, "pretrained rule": -1}),
        twin_states=measured.signed({twin_states: 1}),
        twin_gain=measured.signed({twin_gain: 1}),
        difference=measured.signed({gain: 1, twin_gain: -1}),
        above_twin=measured.signed({states: 1, twin_states: -1}),
        gain_beyond_linear=beyond_linear("gain"),
        states_beyond_linear=beyond_linear("states"),
    )


# What may be claimed -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """One thing that could be claimed of one family by one score.

    Attributes:
        kind: ``READS`` (the probe alone beats R_1, the wh rule and its twin) or ``ADDS`` (the gain beats 0 and its
            twin's).
        p: One-sided p of the claim: the largest of its parts, because all of them have to hold.
        p_adjusted: The same, corrected for all claims; see :func:`judge_gains`.
        is_shown: ``p_adjusted`` is at most ``FALSE_CLAIMS``.
    """

    kind: str
    family: str
    score: str
    p: float
    p_adjusted: float
    is_shown: bool


@dataclass(frozen=True)
class Judgement:
    """The outcome and every claim that was tried for it."""

    outcome: str
    claims: tuple[Claim, ...]

    def shown(self, kind: str | None = None, score: str | None = None) -> tuple[Claim, ...]:
        """The claims that hold, of one kind and by one score where these are given."""
        return tuple(c for c in self.claims if c.is_shown and kind in (None, c.kind) and score in (None, c.score))


def judge_gains(gains: Sequence[ScoreGains]) -> Judgement:
    """The outcome by F1 and argument selection together.

    1. ``READS`` or ``ADDS``, if such a claim by argument selection holds for some family. If claims hold by F1 alone,
       the outcome is ``SPANS``. States that know which words are arguments, of whatever role, gain in F1 too, because
       F1 counts where answers begin and end.
    2. ``NO_MORE``, if by every score the data exclude that the richest family (bilinear, where fitted) adds a gain of
       ``MARGINS``, to R_1 or beyond the twin's; where validation took nothing of that family, all others that it took
       have to exclude it. ``NOT_THERE``, if they also exclude for every family that its states
       alone tell ``STATES_MARGIN`` more than the twin's.
    3. ``UNDETERMINED`` otherwise, and always without a random twin.

    The chance of any false claim is ``FALSE_CLAIMS`` at most, by Bonferroni gatekeeping. The widest families (bilinear,
    hidden layer) are asked first whether they add, because they add whatever a narrower family adds or a probe alone
    reads. The other claims share, by Holm, the part of the chance that first claims held.

    Example: two wide families by two scores make four first claims, each tested at ``FALSE_CLAIMS`` / 4. If two of
    them hold, the other claims have ``FALSE_CLAIMS`` / 2 together.
    """
    claims = _claims(gains)
    for kind in (READS, ADDS):
        if any(claim.is_shown and claim.kind == kind and claim.score == SELECTION for claim in claims):
            return Judgement(kind, claims)
    if any(claim.is_shown for claim in claims):
        return Judgement(SPANS, claims)
    if not claims or not all(_excludes_gain(one) for one in gains):
        return Judgement(UNDETERMINED, claims)
    alone = [family.above_twin for one in gains for family in one.families.values()]
    is_empty = all(is_below(estimate, STATES_MARGIN) for estimate in alone)
    return Judgement(NOT_THERE if is_empty else NO_MORE, claims)


def _claims(gains: Sequence[ScoreGains]) -> tuple[Claim, ...]:
    first: list[tuple[str, str, str, float]] = []
    others: list[tuple[str, str, str, float]] = []
    for one in gains:
        for name, family in one.families.items():
            if family.difference is None or family.above_twin is None:
                continue
            beats = [family.above_words, family.above_twin, *([family.above_rule] if family.above_rule else [])]
            adds = (ADDS, name, one.score, _p_all_above([family.gain, family.difference]))
            (first if name in _widest(one) else others).append(adds)
            others.append((READS, name, one.score, _p_all_above(beats)))
    adjusted = [min(1.0, len(first) * p) for *_, p in first]
    won = sum(p <= FALSE_CLAIMS for p in adjusted) / max(len(first), 1)
    adjusted += [min(1.0, p / won) if won else 1.0 for p in (holm([p for *_, p in others]) if others else ())]
    return tuple(
        Claim(kind, family, score, p, float(after), bool(after <= FALSE_CLAIMS))
        for (kind, family, score, p), after in zip([*first, *others], adjusted, strict=True)
    )


def _widest(score_gains: ScoreGains) -> list[str]:
    """Fitted families that no other one contains: the bilinear probe and the hidden layer, else the linear probe."""
    return [name for name in (BILINEAR, MLP) if name in score_gains.families] or [LINEAR]


def _excludes_gain(score_gains: ScoreGains) -> bool:
    """Whether the richest family shows that no gain worth having was missed; where it says nothing, all others have to.

    A gain of exactly 0 without spread comes from a fit that validation did not take. It tells of the fit, so it
    excludes nothing.
    """
    margin, families = MARGINS[score_gains.score], score_gains.families
    richest = families[score_gains.richest]
    telling = [family for family in (richest,) if family.gain.se > 0] or [f for f in families.values() if f.gain.se > 0]
    return bool(telling) and all(
        any(is_below(estimate, margin) for estimate in (family.gain, family.difference)) for family in telling
    )


def _p_all_above(estimates: Sequence[Estimate]) -> float:
    """One-sided p of "not all of them are above 0", which is the largest p (intersection-union test)."""
    return max(_p_above(estimate) for estimate in estimates)


def _p_above(estimate: Estimate) -> float:
    if not (math.isfinite(estimate.point) and estimate.se > 0):
        return 1.0  # no spread, no evidence
    return float(stdtr(_df(estimate), -estimate.point / estimate.se))


def is_below(estimate: Estimate | None, margin: float) -> bool:
    """Whether the data exclude a value of ``margin`` or more: the one-sided 95% bound is below it."""
    if estimate is None or not math.isfinite(estimate.point) or not math.isfinite(estimate.se):
        return False
    return bool(estimate.point + float(stdtrit(_df(estimate), _EXCLUDED_AT)) * estimate.se < margin)


def _df(estimate: Estimate) -> float:
    """Degrees of freedom of the seeds, and never more than the sentences leave."""
    return min(estimate.df, max(estimate.n_clusters - 1, 1))
