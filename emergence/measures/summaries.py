"""The emergence score where only means and standard errors are left, not the scores of single questions.

Cells are then taken as independent. They share their test questions, so their errors go together and
the paired interval (``emergence_score.analyse_two_by_two``) is the narrower one; this one errs on the
wide side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.special import ndtri

from emergence.measures.bootstrap import Estimate
from emergence.measures.emergence_score import RANDOM_FROZEN, EmergenceScore, RatioMoments, score_flags
from emergence.measures.variance_parts import VariancePart, effective_df, t_widening


def mean_over_seeds(estimates: Sequence[Estimate], peers: Sequence[Sequence[Estimate]] = ()) -> Estimate:
    """Mean of one score over S training seeds on the same test questions.

    One seed keeps its own interval. For several, the question part of the variance is the mean of theirs (all
    saw the same questions, so it does not shrink with S); the seeds add their variance over S, known
    from S − 1 degrees of freedom.

    Args:
        estimates: One for each seed.
        peers: The same of the same cell at other model sizes: their variance over seeds is averaged in by degrees
            of freedom, which add up (``seed_variance_pooled``).
    """
    if len(estimates) == 1:
        return estimates[0]
    first, n_seeds = estimates[0], len(estimates)
    points = [np.array([e.point for e in group]) for group in (estimates, *peers) if len(group) > 1]
    df = sum(len(group) - 1 for group in points)
    of_seeds = sum((len(group) - 1) * float(group.var(ddof=1)) for group in points) / df / n_seeds
    of_clusters = first.df if math.isfinite(first.df) else max(1, first.n_clusters - 1)  # older files: infinite
    of_questions = VariancePart(float(np.mean([e.se**2 for e in estimates])), of_clusters)
    variance = of_questions.variance + of_seeds
    df_of_both = effective_df((of_questions, VariancePart(of_seeds, df)), first.level)
    point = float(points[0].mean())
    lo, hi, method, se = _normal(point, variance, df_of_both, first.level)
    flags = dict.fromkeys(flag for e in estimates for flag in e.flags)
    flags |= {"seed_variance_pooled": None} if len(points) > 1 else {}
    counts = (first.n, first.n_clusters, n_seeds)
    return Estimate(point, lo, hi, method, *counts, tuple(flags), first.level, se, df_of_both)


def difference(a: Estimate, b: Estimate) -> Estimate:
    """a − b with the two taken as independent."""
    df = min(a.df, b.df)
    lo, hi, method, se = _normal(a.point - b.point, a.se**2 + b.se**2, df, a.level)
    n, clusters, seeds = (min(getattr(a, k), getattr(b, k)) for k in ("n", "n_clusters", "n_seeds"))
    return Estimate(a.point - b.point, lo, hi, method, n, clusters, seeds, (), a.level, se, df)


def score_from_summaries(
    frozen: Estimate, full: Estimate, random: Estimate, *, floor: str = RANDOM_FROZEN
) -> EmergenceScore:
    """S = (F − R) / (U − R) with Fieller's set, the three cells independent (docs/methods.md#emergence-score).

    Without standard errors (nan) there is a point and no interval, flagged ``no_interval``.

    Args:
        floor: Which random cell ``random`` is, ``random_frozen`` or ``random_full``.
    """
    variances = np.diag([frozen.se**2, full.se**2, random.se**2])
    moments = RatioMoments.from_covariance(frozen.point, full.point, random.point, variances)
    moments = replace(moments, df=min(frozen.df, full.df, random.df))
    level, n_seeds = full.level, min(e.n_seeds for e in (frozen, full, random))
    fieller = moments.fieller(level)
    flags = score_flags(moments, fieller, n_seeds, level)
    if not math.isfinite(moments.se):
        flags.append("no_interval")
    undefined = {"denominator_not_positive", "denominator_uncertain"} & set(flags)
    lo, hi = fieller.lo, fieller.hi
    if fieller.kind == "complement":  # not an interval: its ends are in ``fieller``
        lo, hi = -math.inf, math.inf
    headroom = difference(full, random)
    score = replace(
        headroom,
        point=math.nan if undefined else moments.raw,
        lo=lo,
        hi=hi,
        method="none" if fieller.kind == "undefined" else "fieller",
        n_seeds=n_seeds,
        flags=tuple(flags),
        se=moments.se,
        df=moments.df,
    )
    half = moments.quantile(level) * moments.se
    delta = replace(score, point=moments.raw, lo=moments.raw - half, hi=moments.raw + half, method="delta")
    return EmergenceScore(
        floor=floor,
        score=score,
        raw=moments.raw,
        delta=delta,
        fieller=fieller,
        above_floor=difference(frozen, random),
        headroom=headroom,
        bad_denominators=math.nan,
        flags=tuple(flags),
    )


def _normal(point: float, variance: float, df: float, level: float) -> tuple[float, float, str, float]:
    """Ends, method and standard error of a symmetric interval; nan and ``none`` without a variance."""
    if not math.isfinite(variance):
        return math.nan, math.nan, "none", math.nan
    se = math.sqrt(variance)
    half = float(ndtri((1 + level) / 2)) * t_widening(df, level) * se
    return point - half, point + half, "delta", se
