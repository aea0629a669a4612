"""The emergence curve of pretraining: probe scores of a run's snapshots against loss and tokens.

Where does the frozen trunk's score begin to rise, how surely, and is it the trunk or the metric that jumps?
docs/methods.md#thresholds and docs/methods.md#metric-mirage have the rules. All snapshots answer the same
questions, so their errors go together: one set of resamples of the sentences gives their covariance, seeds add their
own, and fits, intervals and tests use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from emergence.errors import RunDirectoryError
from emergence.measures.bootstrap import N_BOOT, Estimate, Resamples, column, interval, means_together
from emergence.measures.conditional import F1, SELECTION
from emergence.measures.curve_errors import CurveErrors
from emergence.measures.curves import CurveFit
from emergence.measures.equivalence import Equivalence, largest_break
from emergence.measures.mirage import Diagnosis, LinkCheck, MetricCurve, diagnose, isotonic_link
from emergence.measures.resampling import ClusterTable
from emergence.measures.thresholds import (
    N_DRAWS,
    TESTED_BREAKS,
    Break,
    BreakTest,
    Crossing,
    break_test,
    crossing_interval,
    fit_break,
    fit_families,
)
from emergence.plain import plain
from emergence.studies.snapshots.result import (
    CURVE_SCORES,
    FILES,
    GAIN,
    FloatArray,
    SnapshotProbes,
    read_result,
    title_of,
)
from emergence.wording import counted, shown

#: Axis -> (direction of progress, words).
AXES = {
    "loss": (-1, "held-out loss (nats per token)"),
    "tokens": (1, "log10 tokens seen"),
}
#: The kinds of break that are looked for, in words.
BREAK_NAMES = {"relu": "bend", "narrow_logistic": "narrow rise"}
#: What is fitted: all scores along the loss, the headline and its smooth partner along the tokens. Steps are tokens in
#: another unit, so their threshold would be the same one.
FITTED = {"loss": CURVE_SCORES, "tokens": (F1, "log_prob")}
#: Discrete scores with the continuous partner each should follow from, if it only thresholds that
#: (docs/methods.md#metric-mirage).
PARTNERS = {"em": "log_prob", F1: "expected_f1"}
LOWER_IS_BETTER = ("brier",)
#: A curve takes this many different x (``measures.curves.Points``).
LEAST_POINTS = 3
#: Scores of the curves by asked role; the second where the results have it.
ROLE_SCORES = (F1, SELECTION)
#: A role that fewer test questions ask for has no curve.
LEAST_ROLE_QUESTIONS = 30


@dataclass(frozen=True)
class Threshold:
    """Whether and where one score turns along one axis.

    Attributes:
        axis: One of ``AXES``. score: One of ``CURVE_SCORES``; Brier scores turned, so that more is better.
        test: Parametric bootstrap of "no break".
        breaks: ``relu`` and ``narrow_logistic``: place with its 95% profile interval.
        fits: Every family's curve of token F1, lowest AICc first; empty for other scores.
        largest: The largest break that the data do not exclude.
    """

    axis: str
    score: str
    test: BreakTest
    breaks: dict[str, Break]
    fits: dict[str, CurveFit]
    largest: Equivalence

    @property
    def is_break(self) -> bool:
        """A break, by enough different x to claim one."""
        return self.test.p < 0.05 and "few_x" not in self.test.flags

    @property
    def place(self) -> Break:
        return self.breaks[self.test.breaking]

    def to_dict(self) -> dict[str, Any]:
        return plain(
            {
                "axis": self.axis,
                "score": self.score,
                "break": self.is_break,
                "test": self.test,
                "breaks": self.breaks,
                "fits": self.fits,
                "largest_break": self.largest,
            }
        )


@dataclass(frozen=True)
class CurvePoint:
    """One snapshot, over the seeds: progress in three units, scores with intervals."""

    name: str
    step: int
    tokens: float
    loss: float
    bits_per_byte: float
    scores: dict[str, Estimate]


@dataclass(frozen=True)
class EmergenceCurve:
    """One probe family along the pretraining of one setting.

    Attributes:
        label: Size and pretraining data. family: The probe family. runs: Run ids, one a seed.
        points: By step. n_questions, n_sentences: Behind every score.
        floor: Score -> mean of the random trunks; empty without one. no_model: F1 of the best rule without a model.
        thresholds: Axis -> score -> threshold; empty with too few points.
        halfway: Axis -> where F1 has risen half the way to the last point, from the floor or without one from the first
            point, by isotonic fit.
        verdict: On the loss axis; the words are those of :class:`~emergence.measures.mirage.Diagnosis`.
        links: Discrete score -> share of snapshots at which its continuous partner predicts it.
        notes: What a reader should know.
        n_training, n_available: Training questions of the probes, and those that there were; None where unknown.
        by_role: Asked role -> score -> an estimate for each point; roles of at least ``LEAST_ROLE_QUESTIONS``
            questions, the most frequent first. Empty where the results do not tell roles.
    """

    label: str
    family: str
    runs: tuple[str, ...]
    points: tuple[CurvePoint, ...]
    n_questions: int
    n_sentences: int
    floor: dict[str, Estimate]
    no_model: float
    thresholds: dict[str, dict[str, Threshold]]
    halfway: dict[str, Crossing]
    verdict: Diagnosis
    links: dict[str, float]
    notes: tuple[str, ...]
    n_training: int | None = None
    n_available: int | None = None
    by_role: dict[str, dict[str, tuple[Estimate, ...]]] = field(default_factory=dict)

    @property
    def training_words(self) -> str:
        """``2,000 of 7,014 training questions, `` where that is known, else nothing."""
        n, available = self.n_training, self.n_available
        if n is None:
            return ""
        of = f" of {available:,}" if available is not None and available > n else ""
        return f"{n:,}{of} training questions, "

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        first = {key: getattr(self, key) for key in ("label", "family", "runs", "n_questions", "n_sentences")}
        names = {"no_model": "no_model_f1"}
        return plain(first | {names.get(key, key): value for key, value in vars(self).items()})

    def text(self) -> str:
        """A few lines for a terminal."""
        n = f"{self.n_questions:,} test questions, {self.training_words}{counted(len(self.runs), 'seed')}"
        first, last = (point.scores[F1] for point in (self.points[0], self.points[-1]))
        lines = [
            f"{self.label}, {title_of(self.family)}: {len(self.points)} snapshots, {n}",
            f"  token F1   {shown(first)} at {self.points[0].loss:.2f} nats/token to "
            f"{shown(last)} at {self.points[-1].loss:.2f}",
        ]
        if self.floor:
            lines.append(f"  floor      {shown(self.floor['f1_tokens'])} (random trunks)")
        for axis, by_score in self.thresholds.items():
            lines.append(f"  {axis + ':':<10} {_threshold_words(by_score['f1_tokens'], self.halfway.get(axis))}")
        highest = max(self.points, key=lambda point: point.scores[F1].point)
        if highest.scores[F1].lo > self.points[-1].scores[F1].hi:
            lines.append(
                f"  highest    {shown(highest.scores[F1])} at {highest.tokens:,.0f} tokens, above the last snapshot"
            )
        lines.append(f"  verdict    {self.verdict.verdict} along the loss: {'; '.join(self.verdict.reasons)}")
        lines += _role_lines(self.by_role)
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def _role_lines(by_role: dict[str, dict[str, tuple[Estimate, ...]]]) -> list[str]:
    """First and last snapshot by asked role."""
    lines = []
    for role, by_score in by_role.items():
        ends = [
            f"{name} {shown(path[0])} to {shown(path[-1])} (n = {path[-1].n:,})"
            for score, name in zip(ROLE_SCORES, ("F1", "argument selection"), strict=True)
            if (path := by_score.get(score))
        ]
        lines.append(f"  {role + ':':<12}{'; '.join(ends)}")
    return lines


def _threshold_words(threshold: Threshold, halfway: Crossing | None) -> str:
    place = threshold.place
    half = f"; half of the rise at {_place(halfway.x, threshold.axis)}" if halfway else ""
    p = f"(p = {threshold.test.p:.3g})"
    if not threshold.is_break:
        upper = threshold.largest.upper
        excluded = f"steps above {upper:.0%} of the rise excluded" if upper < 1 else "a step of no size is excluded"
        return f"F1 no break to claim {p}; {excluded}{half}"
    where = f"{BREAK_NAMES[threshold.test.breaking]} at {_place(place.tau, threshold.axis)}"
    ends = f"[{_place(place.lo, threshold.axis)}, {_place(place.hi, threshold.axis)}]"
    flags = f" ({', '.join(flag.replace('_', ' ') for flag in place.flags)})" if place.flags else ""
    return f"F1 break {p}: {where} {ends}{flags}{half}"


def _place(x: float, axis: str) -> str:
    if not np.isfinite(x):
        return "nowhere" if np.isnan(x) else "beyond the data"
    return f"{x:.2f}" if axis == "loss" else f"{10**x:,.0f}"


def read_snapshot_probes(run_dirs: Sequence[Path]) -> tuple[list[SnapshotProbes], list[tuple[str, str]]]:
    """Results of all runs that have them; name and reason of those that cannot be read."""
    results, problems = [], []
    for path in run_dirs:
        if (path / FILES.folder / FILES.json_file).is_file():
            try:
                results.append(read_result(path / FILES.folder))
            except RunDirectoryError as error:
                problems.append((path.name, str(error)))
    return results, problems


def emergence_curves(
    results: Sequence[SnapshotProbes], *, n_boot: int = N_BOOT, n_draws: int = N_DRAWS, seed: int = 0
) -> list[EmergenceCurve]:
    """A curve for every setting and probe family; runs that differ in seed alone are its seeds.

    Args:
        results: From :func:`read_result`.
        n_boot: Resamples of sentences. n_draws: Draws of the break tests. seed: Where all of them begin.
    """
    groups: dict[str, list[SnapshotProbes]] = {}
    for result in results:
        group = groups.setdefault(result.run["series"], [])
        if result.run["seed"] not in {other.run["seed"] for other in group}:
            group.append(result)
    first = [group[0].run for group in groups.values()]
    labels = [f"{run['config_name']}, {run.get('text', run['pretrain_data'])}" for run in first]
    curves = []
    for label, group in zip(labels, groups.values(), strict=True):
        name = label if labels.count(label) == 1 else f"{label} ({group[0].run['run_id']})"
        curves += [_curve(name, group, scored, n_boot, n_draws, seed) for scored in _scored(group, n_boot, seed)]
    return curves


def _curve(
    label: str, group: Sequence[SnapshotProbes], scored: _Scored, n_boot: int, n_draws: int, seed: int
) -> EmergenceCurve:
    steps, points, errors, floor = scored.steps, scored.points, scored.errors, scored.floor
    first, family = group[0], scored.family
    notes = [] if len(group) >= 3 else [f"{counted(len(group), 'seed')}: emergent takes three"]
    dropped = {s.step for r in group for s in r.path_of_training} - set(steps)
    notes += [f"steps that not every seed has are left out: {sorted(dropped)}"] if dropped else []
    thresholds: dict[str, dict[str, Threshold]] = {}
    halfway: dict[str, Crossing] = {}
    for axis, (sign, _) in AXES.items():
        x, rows = along(points, axis)
        if len(np.unique(x)) < LEAST_POINTS:
            notes.append(f"{axis}: {len(np.unique(x))} different values, too few for a curve")
            continue
        chosen = [points[row] for row in rows]
        joint = {score: errors[score].mean[np.ix_(rows, rows)] for score in CURVE_SCORES}
        thresholds[axis] = {
            score: _threshold(axis, score, x, chosen, joint[score], n_draws, seed) for score in FITTED[axis]
        }
        halfway |= _halfway(axis, sign, x, chosen, joint[F1], floor, n_draws, seed)
    verdict, links = _diagnose(points, errors, scored.stacked, first.clusters, n_boot, n_draws, seed)
    return EmergenceCurve(
        label=label,
        family=family,
        runs=tuple(result.run["run_id"] for result in group),
        points=tuple(points),
        n_questions=len(first.ids),
        n_sentences=len(np.unique(first.clusters)),
        floor=floor,
        no_model=0.0 if family.startswith(GAIN) else float(first.no_model[F1]),
        thresholds=thresholds,
        halfway=halfway,
        verdict=verdict,
        links=links,
        notes=tuple(notes),
        n_training=first.settings.get("train_questions"),
        n_available=first.settings.get("train_questions_available"),
        by_role=scored.by_role,
    )


# The data -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scored:
    """One probe family at the steps that all seeds have, with everything that sentences are resampled for.

    Attributes:
        stacked: Score -> (K, S, N). points: By step. errors: Score -> how the errors of the points go together.
        floor, by_role: As in :class:`EmergenceCurve`.
    """

    family: str
    steps: list[int]
    stacked: dict[str, FloatArray]
    points: list[CurvePoint]
    errors: dict[str, CurveErrors]
    floor: dict[str, Estimate]
    by_role: dict[str, dict[str, tuple[Estimate, ...]]]


def _scored(group: Sequence[SnapshotProbes], n_boot: int, seed: int) -> list[_Scored]:
    """All families, whose resamples are drawn once."""
    families = group[0].families
    by_step = [{s.step: s for s in result.path_of_training} for result in group]
    steps = sorted(set.intersection(*(set(snapshots) for snapshots in by_step)))
    stacked = {
        family: {
            score: np.array([[snapshots[step].scores[family][score] for snapshots in by_step] for step in steps])
            for score in CURVE_SCORES
        }
        for family in families
    }
    seeds = [str(result.run["seed"]) for result in group]
    tables = []
    for family in families:
        columns = {f"{k}/{score}": values[k] for score, values in stacked[family].items() for k in range(len(steps))}
        tables.append(ClusterTable.from_questions(columns, group[0].clusters, dict.fromkeys(columns, seeds)))
    floors, by_role = _floors(group, n_boot, seed), _by_role(group, steps, n_boot, seed)
    names = {score: [f"{k}/{score}" for k in range(len(steps))] for score in CURVE_SCORES}
    return [
        _Scored(
            family,
            steps,
            stacked[family],
            [_point(group, step, k, resamples) for k, step in enumerate(steps)],
            {score: CurveErrors.of(resamples, of_score) for score, of_score in names.items()},
            floors.get(family, {}),
            by_role[family],
        )
        for family, resamples in zip(families, Resamples.draw_together(tables, n_boot, seed), strict=True)
    ]


def _point(group: Sequence[SnapshotProbes], step: int, k: int, resamples: Resamples) -> CurvePoint:
    same = [next(s for s in result.path_of_training if s.step == step) for result in group]
    return CurvePoint(
        name=same[0].name,
        step=step,
        tokens=float(np.mean([s.tokens for s in same])),
        loss=float(np.mean([s.loss["nats_per_token"] for s in same])),
        bits_per_byte=float(np.mean([s.loss["bits_per_byte"] for s in same])),
        scores={score: interval(resamples, column(f"{k}/{score}")) for score in CURVE_SCORES},
    )


def _floors(group: Sequence[SnapshotProbes], n_boot: int, seed: int) -> dict[str, dict[str, Estimate]]:
    """Family -> score -> mean of the random trunks; empty without one."""
    trunks = {s.weights: s for result in group for s in result.random}
    families = group[0].families if trunks else []
    columns = (
        {score: np.array([s.scores[family][score] for s in trunks.values()]) for score in CURVE_SCORES}
        for family in families
    )
    tables = [ClusterTable.from_questions(of_family, group[0].clusters) for of_family in columns]
    return dict(zip(families, means_together(tables, n_boot=n_boot, seed=seed), strict=True))


def _by_role(
    group: Sequence[SnapshotProbes], steps: Sequence[int], n_boot: int, seed: int
) -> dict[str, dict[str, dict[str, tuple[Estimate, ...]]]]:
    """Family -> what :class:`EmergenceCurve` holds; a score that a question does not have (NaN) leaves it out."""
    first, seeds = group[0], [str(result.run["seed"]) for result in group]
    names, counts = np.unique(np.array(first.roles, dtype=str), return_counts=True)
    places: list[tuple[str, str, str]] = []
    tables: list[ClusterTable] = []
    for family in first.families:
        by_step = [{s.step: s.scores[family] for s in result.path_of_training} for result in group]
        stacked = {
            score: np.array([[snapshots[step][score] for snapshots in by_step] for step in steps])  # (K, S, N)
            for score in ROLE_SCORES
            if all(score in snapshots[step] for snapshots in by_step for step in steps)
        }
        for role in names[np.lexsort((names, -counts))]:
            for score, values in stacked.items():
                rows = (np.array(first.roles) == role) & np.isfinite(values).all(axis=(0, 1))
                if rows.sum() >= LEAST_ROLE_QUESTIONS:
                    columns = {str(k): point[:, rows] for k, point in enumerate(values)}
                    labels = dict.fromkeys(columns, seeds)
                    tables.append(ClusterTable.from_questions(columns, first.clusters[rows], labels))
                    places.append((family, str(role), score))
    curves: dict[str, dict[str, dict[str, tuple[Estimate, ...]]]] = {family: {} for family in first.families}
    for (family, role, score), means in zip(places, means_together(tables, n_boot=n_boot, seed=seed), strict=True):
        curves[family].setdefault(role, {})[score] = tuple(means.values())
    return curves


def along(points: Sequence[CurvePoint], axis: str) -> tuple[FloatArray, list[int]]:
    """x of the points that have a place on ``axis`` (step 0 has none on a logarithmic one), and which they are."""
    if axis == "loss":
        return np.array([point.loss for point in points]), list(range(len(points)))
    rows = [row for row, point in enumerate(points) if point.tokens > 0]
    return np.log10([points[row].tokens for row in rows]), rows


def _turned(points: Sequence[CurvePoint], score: str) -> FloatArray:
    """Means, more is better."""
    sign = -1.0 if score in LOWER_IS_BETTER else 1.0
    return sign * np.array([point.scores[score].point for point in points])


# Thresholds and verdict ---------------------------------------------------------------------------


def _threshold(
    axis: str,
    score: str,
    x: FloatArray,
    points: Sequence[CurvePoint],
    covariance: FloatArray,
    n_draws: int,
    seed: int,
) -> Threshold:
    y = _turned(points, score)
    errors: dict[str, Any] = {"covariance": covariance, "sign": AXES[axis][0]}
    return Threshold(
        axis,
        score,
        break_test(x, y, n_draws=n_draws, seed=seed, **errors),
        {family: fit_break(x, y, family=family, **errors) for family in TESTED_BREAKS},
        fit_families(x, y, **errors) if score == F1 else {},
        largest_break(x, y, **errors),
    )


def _halfway(
    axis: str,
    sign: int,
    x: FloatArray,
    points: Sequence[CurvePoint],
    covariance: FloatArray,
    floor: dict[str, Estimate],
    n_draws: int,
    seed: int,
) -> dict[str, Crossing]:
    y = _turned(points, F1)
    bottom = floor[F1].point if floor else float(y[0])
    if y[-1] <= bottom:
        return {}
    level = (bottom + y[-1]) / 2
    return {axis: crossing_interval(x, y, sign=sign, level=level, covariance=covariance, n_draws=n_draws, seed=seed)}


def _diagnose(
    points: Sequence[CurvePoint],
    errors: dict[str, CurveErrors],
    stacked: dict[str, FloatArray],
    clusters: Any,
    n_boot: int,
    n_draws: int,
    seed: int,
) -> tuple[Diagnosis, dict[str, float]]:
    """On the loss axis. Of two discrete scores, the link that holds at fewer snapshots speaks for both."""
    sign, x = AXES["loss"][0], np.array([point.loss for point in points])
    if len(np.unique(x)) < LEAST_POINTS:
        reason = f"{len(np.unique(x))} different losses: probe more snapshots (--every) or keep more (step_snapshots)"
        return Diagnosis("undetermined", (reason,), {}, None, {}), {}
    checks: dict[str, LinkCheck] = {
        discrete: isotonic_link(x, stacked[partner], stacked[discrete], clusters, sign=sign, n_boot=n_boot, seed=seed)
        for discrete, partner in PARTNERS.items()
    }
    metrics = [
        MetricCurve(
            score,
            score not in PARTNERS,
            stacked[score].mean(axis=2).T,
            np.sqrt(np.diag(errors[score].mean)),
            higher_is_better=score not in LOWER_IS_BETTER,
            covariance=errors[score].mean,
            seed_covariances=errors[score].by_seed,
            partner=PARTNERS.get(score, ""),
        )
        for score in CURVE_SCORES
    ]
    weakest = min(checks.values(), key=lambda check: check.coverage)
    verdict = diagnose(x, metrics, sign=sign, link=weakest, n_draws=n_draws, seed=seed)
    return verdict, {score: check.coverage for score, check in checks.items()}
