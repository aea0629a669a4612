"""Emergence, or an artefact of the metric? (docs/methods.md#metric-mirage; Schaeffer et al. 2023; Snell et al. 2024)

A smooth gain in log-probability can look like a jump through a metric such as exact match. So every metric is tested
for a break, and a discrete metric is held against what its smooth continuous partner predicts. A fixed procedure then
answers emergence, artefact, or neither.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emergence.measures.bootstrap import bootstrap_means, means_together
from emergence.measures.curves import SMOOTH, Points, fit_curve
from emergence.measures.equivalence import NEGLIGIBLE, Equivalence, largest_break
from emergence.measures.resampling import ClusterTable, FloatArray
from emergence.measures.seed_mixture import SeedMixture, seed_mixture
from emergence.measures.thresholds import MIN_DISTINCT_X, N_DRAWS, Break, BreakTest, break_test, fit_break
from emergence.plain import plain
from emergence.wording import counted

ALPHA = 0.05
#: Share of scales at which the discrete metric must follow from its partner for an artefact.
MIN_LINK_COVERAGE = 0.9
#: Continuous metrics that must break together, and seeds in which they must, for emergence.
MIN_BREAKING_METRICS, MIN_BREAKING_SEEDS = 2, 3
_Z95 = 1.959963984540054


def breakthroughness(y: ArrayLike) -> float:
    """sign(argmax − argmin)·(max − min) / √median (y_k − y_{k−1})² of scores (K,) in order of scale.

    BIG-bench calls this an "emergence score" (Srivastava et al. 2022); it is not the S of this project.
    Infinite where more than half of the steps are zero, nan for a constant.
    """
    values = np.asarray(y, dtype=np.float64)
    rise = float(np.sign(values.argmax() - values.argmin()) * np.ptp(values))
    typical = math.sqrt(float(np.median(np.diff(values) ** 2)))
    if typical == 0:
        return math.copysign(math.inf, rise) if rise else math.nan
    return rise / typical


@dataclass(frozen=True, eq=False)
class ToyCurve:
    """The mirage in closed form: one smooth law seen through three metrics.

    Attributes:
        p: Probability of each right token. em: p^L, all L of them. edit: L(1 − p), expected wrong tokens.
    """

    p: FloatArray
    em: FloatArray
    edit: FloatArray


def toy_curve(n_params: ArrayLike, *, c: float, alpha: float, length: int) -> ToyCurve:
    """p = exp(−(N/c)^α) with α < 0, for answers of ``length`` tokens (Schaeffer et al. 2023)."""
    p = np.exp(-((np.asarray(n_params, dtype=np.float64) / c) ** alpha))
    return ToyCurve(p, p**length, length * (1.0 - p))


def holm(p_values: ArrayLike) -> FloatArray:
    """Holm's step-down adjustment of m p-values, in their order."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


@dataclass(frozen=True, eq=False)
class LinkCheck:
    """Does the discrete metric follow from its continuous partner's smooth curve?

    Attributes:
        observed, predicted: (K,) the discrete metric at each scale.
        se: (K,) of their difference.
        coverage: Share of scales whose observed value lies in the 95% band around the predicted one.
    """

    observed: FloatArray
    predicted: FloatArray
    se: FloatArray
    coverage: float

    @classmethod
    def of(cls, observed: ArrayLike, predicted: ArrayLike, se: ArrayLike) -> LinkCheck:
        """From any prediction, e.g. p^L in generative mode."""
        seen, expected, error = (np.asarray(v, dtype=np.float64) for v in (observed, predicted, se))
        return cls(seen, expected, error, float((np.abs(seen - expected) <= _Z95 * error).mean()))


def isotonic_link(
    x: ArrayLike,
    continuous: ArrayLike,
    discrete: ArrayLike,
    clusters: Sequence[Any] | NDArray[Any],
    *,
    sign: int,
    n_boot: int = N_DRAWS,
    seed: int = 0,
) -> LinkCheck:
    """Predict the discrete metric at each scale from the partner's smooth curve.

    An isotonic map from partner to metric is learned on the questions at all OTHER scales; the questions of
    this scale are moved to where the smooth fit puts their mean, and mapped. If the metric only thresholds
    a smooth quantity, the map is the same at every scale and the prediction holds.

    Args:
        x: (K,) scales; at least three different.
        continuous: (K, N) or (K, S, N) per question, e.g. span log-probability.
        discrete: Same shape, e.g. exact match.
        clusters: (N,) sentence of each question.
        sign: +1 where progress raises x, −1 where it lowers it.
        n_boot, seed: Resamples and seed of the standard errors.
    """
    partner, metric = (np.asarray(v, dtype=np.float64) for v in (continuous, discrete))
    if partner.shape != metric.shape or partner.ndim not in (2, 3) or len(partner) != np.size(x):
        raise ValueError(f"partner {partner.shape} and metric {metric.shape} must be (K, N) or (K, S, N), K = x")
    partner, metric = (v.reshape(len(v), -1, v.shape[-1]) for v in (partner, metric))  # (K, S, N)
    scales = {str(k): values for k, values in enumerate(partner)}
    means = bootstrap_means(ClusterTable.from_questions(scales, clusters), n_boot=n_boot, seed=seed)
    points = np.array([[means[k].point, means[k].se] for k in scales])
    smooth = _best_smooth(x, points[:, 0], points[:, 1], sign)
    predicted, by_shift = np.zeros(len(partner)), np.zeros(len(partner))
    residuals = []
    for k in range(len(partner)):
        mapped = _isotonic_map(np.delete(partner, k, axis=0), np.delete(metric, k, axis=0))
        moved = partner[k] + smooth[k] - points[k, 0]
        residuals.append(ClusterTable.from_questions({"r": metric[k] - mapped(moved)}, clusters))
        predicted[k] = mapped(moved).mean()
        by_shift[k] = (mapped(moved + points[k, 1]).mean() - mapped(moved - points[k, 1]).mean()) / 2
    by_questions = [means["r"].se for means in means_together(residuals, n_boot=n_boot, seed=seed)]
    return LinkCheck.of(metric.mean(axis=(1, 2)), predicted, np.hypot(by_questions, by_shift))


def _best_smooth(x: ArrayLike, y: FloatArray, se: FloatArray, sign: int) -> FloatArray:
    """(K,) the smooth family with the lowest AICc at x."""
    points = Points.of(x, y, np.maximum(se, 1e-12), sign)
    best = min((fit_curve(family, points) for family in SMOOTH), key=lambda fit: (fit.aicc, fit.rss))
    return best.predict(x)


def _isotonic_map(source: FloatArray, target: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """The rising step function of least squares from all of ``source`` to ``target``, linear between steps."""
    from scipy.optimize import isotonic_regression  # a tenth of a second, which most tables do without

    at, index, counts = np.unique(source, return_inverse=True, return_counts=True)  # ties share one value
    means = np.bincount(index.ravel(), weights=target.ravel()) / counts
    fitted = isotonic_regression(means, weights=counts.astype(np.float64)).x
    return lambda values: np.asarray(np.interp(values, at, fitted))


@dataclass(frozen=True, eq=False)
class MetricCurve:
    """One metric over K scales or checkpoints.

    Attributes:
        name: The metric's name.
        continuous: Whether it changes smoothly with the model's probabilities (log-probability, expected F1).
        y: (S, K) per seed, or (K,).
        se: (K,) standard error of the mean over seeds.
        higher_is_better: False for Brier scores, distances, losses.
        covariance: (K, K) of the errors of the mean over seeds, instead of ``se``.
        seed_covariances: (S, K, K) of each seed's errors; without them a seed is judged by its own scatter.
        partner: The continuous metric that a discrete one would follow from; empty stands for all of them.
    """

    name: str
    continuous: bool
    y: ArrayLike
    se: ArrayLike
    higher_is_better: bool = True
    covariance: ArrayLike | None = None
    seed_covariances: ArrayLike | None = None
    partner: str = ""

    @property
    def by_seed(self) -> FloatArray:
        """(S, K), turned so that higher is better."""
        return np.atleast_2d(np.asarray(self.y, dtype=np.float64)) * (1.0 if self.higher_is_better else -1.0)


@dataclass(frozen=True)
class MetricBreak:
    """The break test of one metric on the mean over seeds, and the seeds that break by themselves.

    ``equivalence`` is the largest break that the data do not exclude. ``partner`` is that of the :class:`MetricCurve`.
    """

    continuous: bool
    test: BreakTest
    p_holm: float
    breaks: bool
    place: Break
    seeds_breaking: tuple[int, ...]
    n_seeds: int
    equivalence: Equivalence
    partner: str = ""

    def to_dict(self) -> dict[str, Any]:
        return plain(
            {
                "continuous": self.continuous,
                "p": self.test.p,
                "p_holm": self.p_holm,
                "breaks": self.breaks,
                "smooth_family": self.test.smooth,
                "break_family": self.test.breaking,
                "place": self.place,
                "seeds_breaking": self.seeds_breaking,
                "n_seeds": self.n_seeds,
                "largest_break": self.equivalence,
            }
        )


@dataclass(frozen=True)
class Diagnosis:
    """What a curve's rise is, with the reasons.

    Attributes:
        verdict: ``artefact``, ``emergent``, ``seed_mixture``, ``gradual``, ``no break shown`` or ``undetermined``.
        reasons: A sentence for each step of the decision. metrics: Name of a metric -> its break test.
        link_coverage: The coverage of the link check; None without one.
        mixtures: Continuous metric -> its test of two kinds of seeds. Empty below five seeds.
    """

    verdict: str
    reasons: tuple[str, ...]
    metrics: dict[str, MetricBreak]
    link_coverage: float | None
    mixtures: dict[str, SeedMixture]

    def to_dict(self) -> dict[str, Any]:
        return plain({"seed_mixtures" if key == "mixtures" else key: value for key, value in vars(self).items()})


def diagnose(
    x: ArrayLike,
    metrics: Sequence[MetricCurve],
    *,
    sign: int,
    link: LinkCheck | None = None,
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> Diagnosis:
    """The decision procedure of docs/methods.md#metric-mirage.

    Args:
        x: (K,) losses (preferred) or log10 N. Fewer than six different ones force ``undetermined``.
        metrics: Discrete and continuous metrics on the same x.
        sign: +1 where progress raises x, −1 where it lowers it.
        link: The link check of the discrete metric; without it nothing is called an artefact.
        n_draws, seed: Draws and seed of the parametric bootstrap.
    """
    tests = [
        break_test(x, m.by_seed.mean(axis=0), m.se, sign=sign, covariance=m.covariance, n_draws=n_draws, seed=seed + k)
        for k, m in enumerate(metrics)
    ]
    adjusted = holm([test.p for test in tests])
    breaks = {
        metric.name: _metric_break(x, metric, test, float(p), sign, n_draws, seed)
        for metric, test, p in zip(metrics, tests, adjusted, strict=True)
    }
    tested = {m.name: seed_mixture(m.by_seed) for m in metrics if m.continuous}
    mixtures = {name: mixture for name, mixture in tested.items() if mixture is not None}
    verdict, reasons = _decide(np.asarray(x, dtype=np.float64), breaks, link, mixtures)
    return Diagnosis(verdict, tuple(reasons), breaks, None if link is None else link.coverage, mixtures)


def _metric_break(
    x: ArrayLike, metric: MetricCurve, test: BreakTest, p_holm: float, sign: int, n_draws: int, seed: int
) -> MetricBreak:
    """Test the mean over seeds, and, where it breaks, each seed."""
    curves = metric.by_seed
    errors: dict[str, Any] = {"covariance": metric.covariance, "sign": sign}
    mean = curves.mean(axis=0)
    place = fit_break(x, mean, metric.se, family=test.breaking, **errors)
    bound = largest_break(x, mean, metric.se, **errors)
    seeds: tuple[int, ...] = ()
    if p_holm < ALPHA:
        own = [None] * len(curves) if metric.seed_covariances is None else np.asarray(metric.seed_covariances)
        each = [
            break_test(x, y, sign=sign, covariance=covariance, n_draws=min(n_draws, 499), seed=seed)
            for y, covariance in zip(curves, own, strict=True)
        ]
        seeds = tuple(s for s, t in enumerate(each) if t.p < ALPHA)
    return MetricBreak(
        metric.continuous, test, p_holm, p_holm < ALPHA, place, seeds, len(curves), bound, metric.partner
    )


def _decide(
    x: FloatArray, breaks: dict[str, MetricBreak], link: LinkCheck | None, mixtures: dict[str, SeedMixture]
) -> tuple[str, list[str]]:
    smooth = [n for n, m in breaks.items() if m.continuous and m.breaks]
    jumpy = [n for n, m in breaks.items() if not m.continuous and m.breaks]
    reasons = [
        f"{n}: p = {m.test.p:.3g} (Holm {m.p_holm:.3g}), {'breaks' if m.breaks else 'no break'}"
        for n, m in breaks.items()
    ]
    n_distinct = len(np.unique(x))
    if n_distinct < MIN_DISTINCT_X:
        return "undetermined", [*reasons, f"{counted(n_distinct, 'scale')}; a break takes at least {MIN_DISTINCT_X}"]
    two_kinds = _two_kinds_of_seeds(mixtures)
    if two_kinds:
        at = ", ".join(f"{n} at x = {x[mixtures[n].at]:.3g} (p = {mixtures[n].p:.2g})" for n in two_kinds)
        return "seed_mixture", [*reasons, f"seeds are of two kinds, so their mean is of neither: {at}"]
    if not smooth and not jumpy:
        return _without_a_break(breaks, reasons)
    if not smooth:
        return _of_discrete_breaks({n: breaks[n] for n in jumpy}, breaks, link, reasons)
    seeds = _seeds_breaking_together({n: breaks[n] for n in smooth})
    reasons.append(f"continuous metrics that break: {', '.join(smooth)}; two at one place in {seeds} seeds")
    return ("emergent" if seeds >= MIN_BREAKING_SEEDS else "undetermined"), reasons


def _two_kinds_of_seeds(mixtures: dict[str, SeedMixture]) -> list[str]:
    adjusted = holm([mixture.p for mixture in mixtures.values()])
    return [name for name, p in zip(mixtures, adjusted, strict=True) if p < ALPHA]


def _without_a_break(breaks: dict[str, MetricBreak], reasons: list[str]) -> tuple[str, list[str]]:
    """``gradual`` only if every metric excludes a break worth the name."""
    widest = max(breaks, key=lambda name: breaks[name].equivalence.upper)
    bound = breaks[widest].equivalence
    what = (
        f"no metric breaks; a step of more than {bound.upper:.0%} of the rise is excluded (least surely in {widest})"
        if bound.upper < 1
        else f"no metric breaks, and no size of break is excluded in {widest}"
    )
    return ("gradual" if bound.negligible else "no break shown"), [*reasons, what]


def _of_discrete_breaks(
    jumpy: dict[str, MetricBreak], breaks: dict[str, MetricBreak], link: LinkCheck | None, reasons: list[str]
) -> tuple[str, list[str]]:
    """An artefact only if the metric follows from its partner, and the partner's own break is excluded."""
    if link is None:
        return "undetermined", [*reasons, "only discrete metrics break, but the link to a partner was not checked"]
    reasons = [*reasons, f"the continuous partner predicts the discrete metric at {link.coverage:.0%} of the scales"]
    if link.coverage < MIN_LINK_COVERAGE:
        return "undetermined", reasons
    continuous = [n for n, m in breaks.items() if m.continuous]
    named = {m.partner for m in jumpy.values()}
    partners = continuous if "" in named else sorted(named)
    open_ones = [n for n in partners if not breaks[n].equivalence.negligible]
    bounds = ", ".join(f"{n} {breaks[n].equivalence.upper:.0%}" for n in partners)
    reasons.append(f"largest step that the partner does not exclude, of its rise: {bounds}")
    if open_ones or not partners:
        return "undetermined", [*reasons, f"an artefact takes less than {NEGLIGIBLE:.0%}"]
    return "artefact", reasons


def _seeds_breaking_together(smooth: dict[str, MetricBreak]) -> int:
    """Most seeds in which some ``MIN_BREAKING_METRICS`` metrics with overlapping places all break."""
    most = 0
    for anchor in smooth.values():
        together = [m for m in smooth.values() if m.place.lo <= anchor.place.hi and anchor.place.lo <= m.place.hi]
        counts = [sum(s in m.seeds_breaking for m in together) for s in anchor.seeds_breaking]
        most = max(most, sum(c >= MIN_BREAKING_METRICS for c in counts))
    return most
