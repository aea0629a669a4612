"""The experiment guide's reading of a score, with the evidence, and "undetermined" where that is all there is.

Frozen about equal to full is strong emergence, frozen about equal to the floor is none, and a frozen score
that grows with the model is scale-dependent. "About" is fixed here once: from ``STRONG_FROM`` on and up to
``NONE_UP_TO``, for the whole interval and not just the point.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from scipy.special import ndtri

from emergence.measures.bootstrap import Estimate
from emergence.measures.emergence_score import RANDOM_FROZEN, RANDOM_FULL, EmergenceScore
from emergence.wording import format_estimate

#: By floor: what the two scores are called wherever a person reads them, and the floor in words.
SCORE_NAMES = {RANDOM_FROZEN: "emergence score", RANDOM_FULL: "from-scratch score"}
FLOORS = {RANDOM_FROZEN: "random trunk, probed frozen", RANDOM_FULL: "random trunk, trained whole (from scratch)"}
#: The guide's "near 1" and "near 0". Its scenarios: .93 and .97 strong, .73 partial, .17 to .20 none.
STRONG_FROM = 0.75
NONE_UP_TO = 0.25
#: The guide's gate: full finetuning must reach this F1 before any score is read.
FULL_GATE = 0.20
#: Share of the whole rise that makes a single step stand out (the guide's scenario A: .78; C: .45).
STEP_SHARE = 0.6
#: Fewest sizes for a trend, and for any claim of a threshold (docs/methods.md#reading).
MIN_SIZES, MIN_SIZES_FOR_THRESHOLD = 3, 6


@dataclass(frozen=True)
class Reading:
    """A verdict and what it rests on.

    Attributes:
        verdict: ``strong``, ``partial``, ``none`` or ``undetermined``; for several sizes also ``scale-dependent``.
        could_be: The verdicts that the interval leaves open (one, when determined).
        evidence: Sentences with the numbers, ready to print.
    """

    verdict: str
    could_be: tuple[str, ...]
    evidence: tuple[str, ...]

    def in_words(self) -> str:
        """The verdict, what it could be, and the gate if that leaves it open. Example: ``none``."""
        open_ = f" (could be {' or '.join(self.could_be)})" if len(self.could_be) > 1 else ""
        gate = next((f" ({text})" for text in self.evidence if "does not clearly exceed" in text), "")
        return f"{self.verdict}{open_}{gate}"


def describe_score(score: EmergenceScore, digits: int = 2) -> str:
    """``0.50 [0.38, 0.62]``; where full finetuning hardly exceeds the floor the reason and both differences instead.

    A share of next to nothing is noise, whatever it comes to; the number itself stays in the files.
    """
    if not score.is_meaningful:
        exceeds = "exceeds this floor by only" if score.headroom.point > 0 else "does not exceed this floor:"
        return (
            f"not meaningful: full finetuning {exceeds} {format_estimate(score.headroom, 3)} "
            f"(frozen minus floor: {format_estimate(score.above_floor, 3)})"
        )
    if "no_interval" in score.flags:
        return f"{score.score.point:.{digits}f} (no interval)"
    return format_estimate(score.score, digits)


def read_score(score: EmergenceScore, full: Estimate, *, no_model_floor: float | None = None) -> Reading:
    """Strong, partial, none or undetermined for one size.

    Args:
        score: Against either floor.
        full: F1 of full finetuning, for the gate: its lower bound must clear ``FULL_GATE`` and the no-model floor.
        no_model_floor: R_0, F1 of the best rule without a model; None leaves that part of the gate out, and says so.
    """
    evidence = [
        f"{SCORE_NAMES[score.floor]} {describe_score(score)} ({score.score.method})",
        f"frozen minus floor {format_estimate(score.above_floor)}, full minus floor {format_estimate(score.headroom)}",
    ]
    gate_passed = _check_gate(full, no_model_floor, evidence)
    if not score.is_meaningful:
        evidence.append("full finetuning hardly exceeds the floor, so there is next to nothing to have a share of")
    if "single_seed" in score.flags:
        evidence.append("one training seed: the interval speaks of test questions, not of training again")
    lo, hi = score.score.lo, score.score.hi
    if not gate_passed or not score.is_meaningful or math.isnan(lo) or math.isnan(hi):
        return Reading("undetermined", ("strong", "partial", "none"), tuple(evidence))
    could_be = _zones(lo, hi)
    if len(could_be) > 1:
        evidence.append(f"the interval reaches from {could_be[-1]} to {could_be[0]}")
        return Reading("undetermined", could_be, tuple(evidence))
    return Reading(could_be[0], could_be, tuple(evidence))


def _check_gate(full: Estimate, no_model_floor: float | None, evidence: list[str]) -> bool:
    bar = max(FULL_GATE, no_model_floor if no_model_floor is not None else FULL_GATE)
    known = "" if no_model_floor is not None else " (no rule without a model was measured)"
    passed = bool(full.lo >= bar) if no_model_floor is None else bool(full.lo >= FULL_GATE and full.lo > no_model_floor)
    clears = "clears" if passed else "does not clearly exceed"
    evidence.append(f"full finetuning, {format_estimate(full)}, {clears} the gate of {bar:.2f}{known}")
    return passed


def _zones(lo: float, hi: float) -> tuple[str, ...]:
    """The verdicts that an interval touches, strongest first."""
    touched = (
        ("strong", hi >= STRONG_FROM),
        ("partial", hi > NONE_UP_TO and lo < STRONG_FROM),
        ("none", lo <= NONE_UP_TO),
    )
    return tuple(verdict for verdict, inside in touched if inside)


@dataclass(frozen=True)
class SizeScore:
    """One model size: its name, parameter count (non-embedding), score and reading."""

    label: str
    n_params: float
    score: EmergenceScore
    reading: Reading


@dataclass(frozen=True)
class ScaleReading:
    """The reading over several sizes.

    Attributes:
        verdict: ``scale-dependent`` when the score clearly rises, else the verdict that all sizes share, else
            ``undetermined``.
        pattern: ``step``, ``gradual`` or ``flat``: how the rise is spread over the sizes; None when undetermined.
        step_at: The size after the largest single rise, for ``step``.
        rise: Score of the largest size minus that of the smallest; None with fewer than two defined scores.
        evidence: Sentences with the numbers.
    """

    verdict: str
    pattern: str | None
    step_at: str | None
    rise: Estimate | None
    evidence: tuple[str, ...]


def read_sizes(sizes: Sequence[SizeScore]) -> ScaleReading:
    """Does the score grow with the model?

    The rise from the smallest to the largest size must exclude zero and no size may clearly fall below the
    one before. Sizes are compared as if independent, which errs on the wide side where they share test
    questions.
    """
    ordered = sorted(sizes, key=lambda size: size.n_params)
    evidence = [f"{s.label}: score {format_estimate(s.score.score)}, {s.reading.verdict}" for s in ordered]
    usable = [s for s in ordered if math.isfinite(s.score.score.point) and math.isfinite(s.score.score.se)]
    if len(usable) < len(ordered):
        lost = ", ".join(s.label for s in ordered if s not in usable)
        evidence.append(f"no score or no standard error for {lost}: left out")
    rise = _difference(usable[0], usable[-1]) if len(usable) > 1 else None
    if rise is None or len(usable) < MIN_SIZES:
        evidence.append(f"{len(usable)} sizes with a score; a trend needs {MIN_SIZES}")
        return ScaleReading("undetermined", None, None, rise, tuple(evidence))
    evidence.append(f"rise from {usable[0].label} to {usable[-1].label} {format_estimate(rise)}")
    steps = [_difference(a, b) for a, b in pairwise(usable)]
    falls = [b.label for b, step in zip(usable[1:], steps, strict=True) if step.hi < 0]
    if falls:
        evidence.append(f"the score clearly falls at {', '.join(falls)}")
    if rise.lo > 0 and not falls:
        return _rising(usable, steps, rise, evidence)
    verdicts = {s.reading.verdict for s in usable}
    shared = verdicts.pop() if len(verdicts) == 1 else "undetermined"
    flat = "flat" if shared != "undetermined" and not falls else None
    return ScaleReading(shared if not falls else "undetermined", flat, None, rise, tuple(evidence))


def _rising(usable: list[SizeScore], steps: list[Estimate], rise: Estimate, evidence: list[str]) -> ScaleReading:
    largest = max(range(len(steps)), key=lambda k: steps[k].point)
    share = steps[largest].point / rise.point
    label = usable[largest + 1].label
    evidence.append(f"the largest step, to {label}, makes up {share:.0%} of the rise")
    if share < STEP_SHARE:
        return ScaleReading("scale-dependent", "gradual", None, rise, tuple(evidence))
    if len(usable) < MIN_SIZES_FOR_THRESHOLD:
        evidence.append(f"{len(usable)} sizes cannot establish a threshold (that takes {MIN_SIZES_FOR_THRESHOLD})")
    return ScaleReading("scale-dependent", "step", label, rise, tuple(evidence))


def _difference(a: SizeScore, b: SizeScore) -> Estimate:
    """Score of b minus that of a, normal approximation, as if independent."""
    first, second = a.score.score, b.score.score
    se = math.hypot(first.se, second.se)
    point = second.point - first.point
    half = float(ndtri((1 + second.level) / 2)) * se
    n, clusters, seeds = (min(getattr(first, k), getattr(second, k)) for k in ("n", "n_clusters", "n_seeds"))
    return Estimate(point, point - half, point + half, "delta", n, clusters, seeds, (), second.level, se)
