"""Gains over words and positions: paired, over the same questions; and claims that hold only where all parts do."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from emergence.measures.bootstrap import Estimate
from emergence.measures.conditional import (
    ADDS,
    F1,
    MARGINS,
    NO_MORE,
    NOT_THERE,
    READS,
    SELECTION,
    SPANS,
    STATES_MARGIN,
    UNDETERMINED,
    FamilyGain,
    ScoreGains,
    TrunkScores,
    conditional_gains,
    judge_gains,
)
from emergence.plain import plain

N, SENTENCES = 400, 100
CLUSTERS = np.repeat(np.arange(SENTENCES), N // SENTENCES)


def trunk(rng: np.random.Generator, gain: float, seeds: int = 1, effects: Any = 0.0) -> TrunkScores:
    """Probes alone at 0.3 and 0.5; what both add to words and positions is ``gain``, and ``effects`` by seed."""
    words = np.broadcast_to(0.6 + 0.2 * np.random.default_rng(0).normal(size=N), (seeds, N))
    moved = np.broadcast_to(np.asarray(effects), (seeds,))[:, None]
    noise = lambda: 0.05 * rng.normal(size=(seeds, N))  # noqa: E731
    return TrunkScores(
        words=words,
        rule=np.full((seeds, N), 0.45),
        states={"linear": 0.3 + moved + noise(), "bilinear": 0.5 + moved + noise()},
        with_words={name: words + gain + moved + noise() for name in ("linear", "bilinear")},
        seeds=tuple(map(str, range(seeds))),
    )


def gains_of(pretrained: TrunkScores, twin: TrunkScores | None, **more: Any) -> ScoreGains:
    found = conditional_gains(F1, pretrained, twin, CLUSTERS, n_boot=300, **more)
    assert found is not None
    return found


# Gains -------------------------------------------------------------------------------------------


def test_gains_are_differences_within_a_question() -> None:
    rng = np.random.default_rng(1)
    pretrained, twin = trunk(rng, 0.04), trunk(rng, 0.01)
    found = gains_of(pretrained, twin)
    bilinear = found.families["bilinear"]
    assert bilinear.gain.point == pytest.approx(float((pretrained.with_words["bilinear"] - pretrained.words).mean()))
    assert bilinear.twin_gain and bilinear.twin_gain.point == pytest.approx(0.01, abs=0.01)
    assert bilinear.difference and bilinear.difference.point == pytest.approx(
        bilinear.gain.point - bilinear.twin_gain.point
    )
    # what makes a question hard for words is hard for words and states as well, and cancels
    assert bilinear.gain.se < 0.005 < found.words.se
    assert bilinear.above_rule and bilinear.above_rule.point == pytest.approx(bilinear.states.point - 0.45)
    assert bilinear.above_words.point == pytest.approx(bilinear.states.point - found.words.point)
    assert found.families["linear"].gain_beyond_linear is None and bilinear.gain_beyond_linear is not None
    json.dumps(plain(found), allow_nan=False)


def test_a_question_without_one_of_the_scores_counts_in_none() -> None:
    rng = np.random.default_rng(2)
    pretrained, twin = trunk(rng, 0.04), trunk(rng, 0.0)
    holed = twin.with_words["linear"].copy()
    holed[0, :40] = np.nan
    full, less = (
        gains_of(pretrained, twin),
        gains_of(pretrained, replace(twin, with_words={**twin.with_words, "linear": holed})),
    )
    assert (full.words.n, less.words.n) == (N, N - 40)
    assert less.families["bilinear"].gain.point == pytest.approx(
        float((pretrained.with_words["bilinear"] - pretrained.words)[:, 40:].mean())
    )
    nothing = replace(pretrained, words=np.full((1, N), np.nan))
    assert conditional_gains(F1, nothing, twin, CLUSTERS, n_boot=100) is None


def test_a_family_takes_both_read_outs_and_a_twin_is_optional() -> None:
    rng = np.random.default_rng(3)
    pretrained = trunk(rng, 0.04)
    alone = replace(pretrained, with_words={"bilinear": pretrained.with_words["bilinear"]})
    found = gains_of(alone, None)
    assert list(found.families) == ["bilinear"] and found.families["bilinear"].difference is None
    assert conditional_gains(F1, replace(alone, with_words={}), None, CLUSTERS, n_boot=100) is None


def test_seeds_of_the_two_trunks_are_independent() -> None:
    """Effects of equal labels do not cancel: seed 0 of the random trunks is not seed 0 of the pretrained ones."""
    rng = np.random.default_rng(4)
    effects = (-0.05, 0.0, 0.05)
    pretrained, twin = trunk(rng, 0.05, 3, effects), trunk(rng, 0.0, 3, effects)
    found = gains_of(pretrained, twin).families["bilinear"]
    assert found.difference and found.twin_gain and found.difference.n_seeds == 3
    assert found.difference.se == pytest.approx(np.hypot(found.gain.se, found.twin_gain.se), rel=0.1)
    # families of one trunk share its seeds, so theirs do cancel
    assert found.gain_beyond_linear and found.gain_beyond_linear.se < 0.01 < found.difference.se


# Claims ------------------------------------------------------------------------------------------


def known(point: float, se: float = 0.005, clusters: int = 184) -> Estimate:
    return Estimate(point, point - 1.96 * se, point + 1.96 * se, "bca", 1_043, clusters, se=se)


def family(**points: Any) -> FamilyGain:
    """States 0.5 to 0.3 of the twin, below words and positions, and no gain, unless told otherwise."""
    names = ("states", "gain", "above_words", "above_rule", "twin_states", "twin_gain", "difference", "above_twin")
    usual = dict(zip(names, (0.5, 0.0, -0.1, 0.02, 0.3, 0.0, 0.0, 0.2), strict=True))
    parts = {
        name: value if isinstance(value, Estimate) else known(value) for name, value in {**usual, **points}.items()
    }
    return FamilyGain(**parts, gain_beyond_linear=None, states_beyond_linear=None)


def outcome(selection: dict[str, FamilyGain], f1: dict[str, FamilyGain] | None = None) -> str:
    found = [ScoreGains(SELECTION, known(0.78), None, selection)]
    found += [ScoreGains(F1, known(0.6), known(0.45), f1)] if f1 else []
    return judge_gains(found).outcome


def test_adding_takes_a_gain_above_zero_and_above_the_twins() -> None:
    assert outcome({"bilinear": family(gain=0.03, difference=0.03)}) == ADDS
    assert outcome({"bilinear": family(gain=0.03, difference=0.0)}) == NO_MORE  # the twin gains as much
    assert outcome({"bilinear": family(gain=0.0, difference=0.03)}) == NO_MORE  # the twin is only harmed more


def test_roles_are_claimed_by_argument_selection_alone() -> None:
    """States that know which words are arguments, of whatever role, gain F1 and choose no better among arguments."""
    quiet, loud = family(), family(gain=0.03, difference=0.03)
    assert outcome({"bilinear": loud}, {"bilinear": quiet}) == ADDS
    assert outcome({"bilinear": quiet}, {"bilinear": loud}) == SPANS
    worse = family(gain=-0.04, difference=-0.04)
    assert outcome({"bilinear": worse}, {"bilinear": family(gain=0.13, difference=0.13, above_words=0.1)}) == SPANS


@pytest.mark.parametrize("missing", ["above_words", "above_rule", "above_twin"])
def test_reading_takes_all_of_its_parts(missing: str) -> None:
    above = {"above_words": 0.03, "above_rule": 0.03, "above_twin": 0.2}
    above |= {"gain": 0.03, "difference": 0.03}
    assert outcome({"bilinear": family(**above)}) == READS
    assert outcome({"bilinear": family(**{**above, missing: 0.0})}) == ADDS


def test_more_comparisons_ask_for_more() -> None:
    """z = 2.1 holds alone and not by two scores; what the linear probe is asked costs the bilinear one nothing."""
    barely = family(gain=0.03, difference=known(0.021, 0.01))
    assert outcome({"bilinear": barely}) == outcome({"linear": family(), "bilinear": barely}) == ADDS
    found = [ScoreGains(score, known(0.6), None, {"bilinear": barely}) for score in (F1, SELECTION)]
    judged = judge_gains(found)
    assert not judged.shown() and len(judged.claims) == 4
    first = judged.claims[0]
    assert (first.kind, first.p_adjusted) == (ADDS, pytest.approx(2 * first.p))


def test_a_hidden_layer_may_add_what_the_bilinear_probe_does_not() -> None:
    loud = family(gain=0.03, difference=0.03)
    assert outcome({"linear": family(), "mlp": loud, "bilinear": family()}) == ADDS


def test_the_other_claims_come_after_and_share_what_is_left() -> None:
    """None before the widest family adds; half of the chance where it adds by one of two scores."""
    loud, quiet = family(gain=0.03, difference=0.03), family()
    assert outcome({"linear": loud, "bilinear": quiet}) == NO_MORE
    weak = family(gain=0.03, difference=known(0.0255, 0.01))  # p = 0.0054, alone of the linear probe's and READS
    both, one = (
        judge_gains(
            [
                ScoreGains(F1, known(0.6), None, {"linear": weak, "bilinear": loud}),
                ScoreGains(SELECTION, known(0.78), None, {"bilinear": second}),
            ]
        )
        for second in (loud, quiet)
    )
    mine = [next(c for c in judged.claims if c.family == "linear" and c.kind == ADDS) for judged in (both, one)]
    assert [claim.p_adjusted for claim in mine] == [pytest.approx(4 * mine[0].p), pytest.approx(8 * mine[0].p)]
    assert [claim.is_shown for claim in mine] == [True, False]


def test_few_sentences_ask_for_more() -> None:
    for clusters, expected in ((184, ADDS), (8, UNDETERMINED)):
        gain = known(0.021, 0.01, clusters)
        assert outcome({"bilinear": family(gain=gain, difference=gain)}) == expected


def test_no_more_takes_data_that_exclude_a_gain_by_every_score() -> None:
    sure, unsure = family(), family(gain=known(0.0, 0.03), difference=known(0.0, 0.03))
    assert outcome({"bilinear": sure}, {"bilinear": sure}) == NO_MORE
    assert outcome({"bilinear": sure}, {"bilinear": unsure}) == UNDETERMINED
    assert outcome({"bilinear": family(gain=known(0.0, 0.03))}) == NO_MORE  # the difference excludes it
    assert outcome({"bilinear": family(difference=known(0.0, 0.03))}) == NO_MORE
    for se, expected in ((0.017, NO_MORE), (0.019, UNDETERMINED)):  # 1.65 se against 0.03
        wide = {name: known(0.0, se) for name in ("gain", "difference")}
        assert outcome({"bilinear": family(**wide)}) == expected
    assert MARGINS == {F1: 0.03, SELECTION: 0.03}


def test_the_richest_family_excludes() -> None:
    unsure = family(gain=known(0.0, 0.03), difference=known(0.0, 0.03))
    assert outcome({"linear": unsure, "bilinear": family()}) == NO_MORE
    assert outcome({"linear": family(), "bilinear": unsure}) == UNDETERMINED
    assert outcome({"linear": family(), "mlp": unsure}) == UNDETERMINED


def test_a_fit_that_validation_did_not_take_excludes_nothing() -> None:
    """A gain of 0 without spread is of the fit. The other families' gains say what was excluded, if any was taken."""
    zero = family(gain=known(0.0, 0.0), difference=known(0.0, 0.0))
    assert outcome({"bilinear": zero}) == UNDETERMINED
    assert outcome({"linear": family(), "bilinear": zero}) == NO_MORE
    wide = family(gain=known(0.0, 0.03), difference=known(0.0, 0.03))
    assert outcome({"linear": family(), "bilinear": zero, "mlp": wide}) == UNDETERMINED


def test_not_there_takes_states_like_the_twins_in_every_family() -> None:
    same, above = family(above_twin=0.0), family(above_twin=STATES_MARGIN)
    assert outcome({"linear": same, "bilinear": same}, {"bilinear": same}) == NOT_THERE
    assert STATES_MARGIN == 0.06 and outcome({"bilinear": family(above_twin=0.04)}) == NOT_THERE
    assert outcome({"linear": above, "bilinear": same}) == NO_MORE
    unsure = family(above_twin=known(0.0, 0.04))
    assert outcome({"linear": same, "bilinear": unsure}) == NO_MORE


def test_without_a_twin_or_without_spread_nothing_is_decided() -> None:
    none: dict[str, Any] = dict.fromkeys(("twin_states", "twin_gain", "difference", "above_twin"))
    assert outcome({"bilinear": replace(family(gain=0.05), **none)}) == UNDETERMINED
    assert judge_gains([]).outcome == UNDETERMINED
    exact = known(0.05, 0.0)
    assert outcome({"bilinear": family(gain=exact, difference=exact)}) == UNDETERMINED
