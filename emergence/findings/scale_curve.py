"""The emergence score across model sizes: against parameters, with and without embeddings, and against loss.

A handful of sizes cannot show a threshold: below five different ones no curve is fitted, and below six no break may
be claimed (docs/methods.md#emergence-curve). The dense curve is that of the snapshots
(:mod:`emergence.findings.snapshot_curve`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from emergence.findings.comparable import BaseKey, ComparableSet, confounds_with_size, training_words
from emergence.findings.scores import SetScores
from emergence.measures.bootstrap import Estimate
from emergence.measures.emergence_score import FULL
from emergence.measures.equivalence import Equivalence, largest_break
from emergence.measures.mirage import ALPHA
from emergence.measures.readings import describe_score
from emergence.measures.thresholds import N_DRAWS, Break, BreakTest, Crossing, break_test, crossing_interval, fit_break
from emergence.plain import plain
from emergence.wording import counted, format_estimate

#: Different sizes a fit takes (docs/methods.md#emergence-curve).
LEAST_SIZES = 5
#: Axis -> (direction of progress, attribute of a point, whether it is taken as log10).
AXES = {
    "non_embedding": (1, "n_non_embedding", True),
    "total": (1, "n_total", True),
    "loss": (-1, "loss", False),
}
_Z95 = 1.959963984540054


@dataclass(frozen=True)
class ScalePoint:
    """The emergence score of one size.

    Attributes:
        label: The comparable set's label. n_non_embedding, n_total: Counts of parameters.
        loss: Held-out nats per token, averaged over the trunks' seeds; nan where it is not recorded.
        score: Against the frozen random trunk. scratch: Against the random trunk trained whole, where that was run.
    """

    label: str
    n_non_embedding: int
    n_total: int
    loss: float
    score: Estimate
    scratch: Estimate | None


@dataclass(frozen=True)
class ScaleFit:
    """A threshold of the score along one axis: a ReLU's break, its test, the largest break that is not excluded, and
    where S crosses one half. Errors count as independent: each size's score is estimated from a set of its own."""

    place: Break
    test: BreakTest
    largest: Equivalence
    half: Crossing

    def to_dict(self) -> dict[str, Any]:
        return plain({"largest_break" if key == "largest" else key: value for key, value in vars(self).items()})


@dataclass(frozen=True)
class ScaleCurve:
    """Sizes of one pretraining data, layout, number of questions and set of test questions.

    Attributes:
        label: What they share. points: Smallest first.
        fits: Axis -> fit. refused: Axis -> why there is none.
        left_out: Sets without a usable score, with the reason.
        confounds_with_size: What the sizes differ in beside size, in words; empty if that is nothing that is known of.
    """

    label: str
    points: tuple[ScalePoint, ...]
    fits: dict[str, ScaleFit]
    refused: dict[str, str]
    left_out: tuple[str, ...]
    confounds_with_size: str = ""

    def text(self) -> str:
        """A few lines for a terminal."""
        lines = [f"emergence score across sizes, {self.label}"]
        for p in self.points:
            loss = f"{p.loss:.3f} nats/token" if math.isfinite(p.loss) else "loss not recorded"
            lines.append(f"  {p.label:<18} N = {p.n_non_embedding:>12,}  {loss}  S = {format_estimate(p.score)}")
        for axis, fit in self.fits.items():
            tau, lo, hi = (10**v if AXES[axis][2] else v for v in (fit.place.tau, fit.place.lo, fit.place.hi))
            what = "break" if fit.test.p < ALPHA else "no break to claim; the best"
            few = ", too few sizes to claim it" if fit.test.flags else ""
            lines.append(
                f"  {axis}: {what} at {tau:,.3g} [{lo:,.3g}, {hi:,.3g}], p = {fit.test.p:.3g}{few}; steps above "
                f"{fit.largest.upper:.0%} of the rise excluded"
            )
        for reason, axes in _reasons(self.refused).items():
            lines.append(f"  no fit against {', '.join(axes)}: {reason}")
        lines += [f"  not size alone: {self.confounds_with_size}"] if self.confounds_with_size else []
        return "\n".join([*lines, *(f"  left out: {reason}" for reason in self.left_out)])


def _reasons(refused: dict[str, str]) -> dict[str, list[str]]:
    by_reason: dict[str, list[str]] = {}
    for axis, reason in refused.items():
        by_reason.setdefault(reason, []).append(axis)
    return by_reason


def scale_curves(scored: Sequence[SetScores], *, n_draws: int = N_DRAWS, seed: int = 0) -> list[ScaleCurve]:
    """One curve for every kind of comparable set of which some size has a full and a frozen run.

    Args:
        scored: Sets with their scores (:attr:`emergence.findings.folder.ResultsFolder.scored`).
        n_draws, seed: Draws and seed of the tests and the crossing's interval.
    """
    series: dict[tuple[Any, ...], list[SetScores]] = {}
    for scores in scored:
        comparable = scores.comparable
        if comparable.trunk is not None and not comparable.is_documented_format:
            series.setdefault((comparable.pretrain, *_shared(comparable.base)), []).append(scores)
    return [
        _scale_curve(_label(key, sets[0].comparable), sets, n_draws, seed)
        for key, sets in series.items()
        if any(s.headline.basis for s in sets)
    ]


def _shared(base: BaseKey) -> tuple[Any, ...]:
    """What sizes must share for their scores to form one curve."""
    return base.layout, base.samples, base.subset, base.adapter, base.questions, base.evaluation_settings


def _label(key: tuple[Any, ...], first: ComparableSet) -> str:
    return ", ".join([str(key[0]), first.base.layout, *training_words(first.base)])


def _scale_curve(label: str, scored: Sequence[SetScores], n_draws: int, seed: int) -> ScaleCurve:
    points, left_out, drawn = [], [], []
    for scores in scored:
        point = _point(scores)
        if isinstance(point, str):
            left_out.append(f"{scores.comparable.label}: {point}")
        else:
            points.append(point)
            drawn.append(scores.comparable)
    curve = scale_curve_of(label, points, left_out, n_draws=n_draws, seed=seed)
    return replace(curve, confounds_with_size=confounds_with_size(drawn))


def scale_curve_of(
    label: str, points: Sequence[ScalePoint], left_out: Sequence[str] = (), *, n_draws: int = N_DRAWS, seed: int = 0
) -> ScaleCurve:
    """Fits along every axis that has enough different sizes."""
    points = sorted(points, key=lambda p: p.n_non_embedding)
    fits, refused = {}, {}
    for axis in AXES:
        fit = _fit(points, axis, n_draws, seed)
        if isinstance(fit, str):
            refused[axis] = fit
        else:
            fits[axis] = fit
    return ScaleCurve(label, tuple(points), fits, refused, tuple(left_out))


def _point(scores: SetScores) -> ScalePoint | str:
    """The point of one size, or why it has none."""
    probe, scratch = scores.headline.probe, scores.headline.scratch
    if probe is None:
        return "no score: it takes full, frozen and random frozen runs"
    if not probe.is_meaningful:
        return f"its emergence score is {describe_score(probe)}"
    results = [item.result for item in scores.comparable.cells[FULL]]
    counts = [[r.n_parameters(kind) for kind in ("non_embedding", "total")] for r in results]
    n_non_embedding, n_total = next((pair for pair in counts if None not in pair), (None, None))
    if n_non_embedding is None or n_total is None:
        return "its parameters are not recorded"
    return ScalePoint(
        label=scores.comparable.model,
        n_non_embedding=n_non_embedding,
        n_total=n_total,
        loss=scores.comparable.held_out_loss,
        score=probe.score,
        scratch=scratch.score if scratch and scratch.is_meaningful else None,
    )


def _standard_error(estimate: Estimate) -> float:
    """Its own, or that of a normal interval as wide; nan where there is neither."""
    return estimate.se if math.isfinite(estimate.se) else (estimate.hi - estimate.lo) / (2 * _Z95)


def _fit(points: Sequence[ScalePoint], axis: str, n_draws: int, seed: int) -> ScaleFit | str:
    sign, attribute, logarithmic = AXES[axis]
    rows = [(float(getattr(p, attribute)), p.score.point, _standard_error(p.score)) for p in points]
    usable = np.array([row for row in rows if np.isfinite(row).all() and row[2] > 0]).reshape(-1, 3)
    x, y, se = usable.T
    if len(np.unique(x)) < LEAST_SIZES:
        return f"{counted(len(np.unique(x)), 'size')}: a fit takes at least {LEAST_SIZES}"
    x = np.log10(x) if logarithmic else x
    return ScaleFit(
        fit_break(x, y, se, sign=sign),
        break_test(x, y, se, sign=sign, n_draws=n_draws, seed=seed),
        largest_break(x, y, se, sign=sign),
        crossing_interval(x, y, se, sign=sign, n_draws=n_draws, seed=seed),
    )
