"""Intervals for functions of means over questions that share sentences, and over training seeds.

BCa intervals (Efron 1987) from the cluster bootstrap with the delete-one-cluster jackknife, percentile
where BCa has no answer. Several seeds add their own variance. Few clusters and few seeds tell a variance
poorly, and the interval is widened by what that costs (``variance_parts``).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri, stdtrit

from emergence.measures.resampling import (
    ClusterTable,
    FloatArray,
    SeedGroup,
    Statistic,
    cluster_jackknife,
    cluster_replicates,
    pooled_seed_spread,
    replicates_together,
    seed_groups,
)
from emergence.measures.variance_parts import VariancePart, effective_df, t_widening

N_BOOT = 10_000
#: Below this many clusters an interval is flagged ``few_clusters``.
FEW_CLUSTERS = 30
#: Draws that differ from the point by no more than this share of their size are equal to it: only rounding, which
#: depends on the order of sums, tells them apart, and a bias is what lies below.
_TIED = 1e-12
#: Share of undefined draws (a ratio over zero, say) above which there is no interval.
_MAX_UNDEFINED = 0.01


@dataclass(frozen=True)
class Estimate:
    """A number with its interval and all that is needed to distrust it.

    Attributes:
        point: The estimate; nan when undefined, and then a flag says why.
        lo, hi: Interval at ``level``; nan when there is none, infinite when unbounded.
        method: ``bca``, ``percentile``, ``t_seeds``, ``fieller``, ``delta`` or ``none``.
        n: Questions. n_clusters: Sentences (documents, where those are resampled). n_seeds: Training seeds (smallest
            over the parts); the interval of one seed speaks of questions only.
        flags: Reasons for caution, e.g. ``few_clusters``, ``degenerate``, ``undefined``, and ``seed_variance_pooled``
            where other model sizes helped to tell the variance over seeds.
        level: Coverage aimed at.
        se: Standard error, nan when unknown.
        df: Degrees of freedom of ``se`` that the numbers of clusters and seeds leave.
    """

    point: float
    lo: float
    hi: float
    method: str
    n: int
    n_clusters: int
    n_seeds: int = 1
    flags: tuple[str, ...] = ()
    level: float = 0.95
    se: float = math.nan
    df: float = math.inf

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Estimate:
        """The inverse of ``plain``, with nan for None (infinite for ``df``): infinite ends come back as nan."""
        numbers = {k: math.nan if values[k] is None else values[k] for k in ("point", "lo", "hi", "se")}
        df = math.inf if values["df"] is None else values["df"]
        return cls(**{**values, **numbers, "df": df, "flags": tuple(values["flags"])})


@dataclass(frozen=True, eq=False)
class Resamples:
    """One set of resamples of a table; every statistic taken from it sees the same clusters and seeds.

    Attributes:
        table: The scores.
        column_means: Each column's mean (B,) on resampled clusters.
        left_out_column_means: Each column's mean (C,) with one cluster left out.
        groups: Seeds that columns share, with what training them again does.
        peers: The same columns at other model sizes, to pool the variance over seeds with.
        n_boot: B. seed: Where the draws begin.
    """

    table: ClusterTable
    column_means: Mapping[str, FloatArray]
    left_out_column_means: Mapping[str, FloatArray]
    groups: tuple[SeedGroup, ...]
    peers: tuple[ClusterTable, ...]
    n_boot: int
    seed: int

    @classmethod
    def draw(
        cls, table: ClusterTable, n_boot: int = N_BOOT, seed: int = 0, peers: Sequence[ClusterTable] = ()
    ) -> Resamples:
        return cls.draw_together([table], n_boot, seed, peers)[0]

    @classmethod
    def draw_together(
        cls,
        tables: Sequence[ClusterTable],
        n_boot: int = N_BOOT,
        seed: int = 0,
        peers: Sequence[ClusterTable] = (),
    ) -> list[Resamples]:
        """What :meth:`draw` makes of each of several tables with equally many clusters, in a fraction of the time."""
        rng = np.random.default_rng(seed)
        # Statistics take means over seeds, and a table of hundreds of seeds has few columns.
        averaged = [table.over_seeds() for table in tables]
        replicates = replicates_together(averaged, n_boot, rng)
        return [
            cls(
                table=table,
                column_means=means.column_means(resampled),
                left_out_column_means=means.column_means(cluster_jackknife(means)),
                # Each goes on from the clusters' draws.
                groups=seed_groups(table, n_boot, copy.deepcopy(rng)) if table.sharing else (),
                peers=tuple(peers),
                n_boot=n_boot,
                seed=seed,
            )
            for table, means, resampled in zip(tables, averaged, replicates, strict=True)
        ]

    @cached_property
    def rows(self) -> FloatArray:
        """(B, R) mean of each seed of each column, on the same resamples, which come before all that seeds draw."""
        return cluster_replicates(self.table, self.n_boot, np.random.default_rng(self.seed))


@dataclass(frozen=True, eq=False)
class StatisticDraws:
    """A statistic on every resample.

    Attributes:
        point: On the data.
        draws: (B,) with clusters and seeds varied, as wide as ``variance`` says.
        left_out: (C,) with one cluster left out.
        clusters: The part of the variance that is the clusters'. seeds: That of each group of seeds.
        is_pooled: Whether other sizes helped to tell the variance over seeds.
    """

    point: float
    draws: FloatArray
    left_out: FloatArray
    clusters: VariancePart
    seeds: tuple[VariancePart, ...]
    is_pooled: bool = False

    @property
    def variance(self) -> float:
        return sum(part.variance for part in (self.clusters, *self.seeds))

    def df(self, level: float) -> float:
        """See :func:`~emergence.measures.variance_parts.effective_df`."""
        return effective_df((self.clusters, *self.seeds), level)


def statistic_draws(resamples: Resamples, statistic: Statistic) -> StatisticDraws:
    """The statistic on resampled clusters, plus its linearised seed effects under normal weights.

    The variance over clusters is the bootstrap's times C / (C - 1), or the jackknife's where that is larger, as it is
    where a few clusters hold most of the questions.
    """
    table = resamples.table
    point = float(statistic(table.point_means))
    draws = np.array(statistic(resamples.column_means), dtype=np.float64)
    left_out = np.asarray(statistic(resamples.left_out_column_means), dtype=np.float64)
    finite = draws[np.isfinite(draws)]
    resampled = float(finite.var(ddof=1)) if len(finite) > 1 else math.nan
    var_clusters = _cluster_variance(resampled, left_out)
    if resampled > 0:
        draws = point + (draws - point) * math.sqrt(var_clusters / resampled)
    parts, is_pooled = [], False
    if resamples.groups:
        gradient = _gradient(table, statistic)
        for group in resamples.groups:
            spread, helped = pooled_seed_spread(table, group.columns, gradient, resamples.peers)
            if spread.variance != 0:  # 0: a statistic of other columns, or the noise explains the spread
                draws += group.movements(gradient, spread.variance)
            parts.append(VariancePart(spread.variance, spread.df))
            is_pooled |= helped
    clusters = VariancePart(var_clusters, table.cluster_df)
    return StatisticDraws(point, draws, left_out, clusters, tuple(parts), is_pooled)


def _cluster_variance(resampled: float, left_out: FloatArray) -> float:
    """The larger of the bootstrap's variance without its small-sample bias and the jackknife's."""
    n = len(left_out)
    if n < 2:
        return resampled
    jackknife = (n - 1) / n * float(((left_out - left_out.mean()) ** 2).sum())
    resampled *= n / (n - 1)
    return max(resampled, jackknife) if math.isfinite(jackknife) else resampled


def _gradient(table: ClusterTable, statistic: Statistic, step: float = 1e-5) -> dict[str, float]:
    """Central differences of the statistic in every column's mean."""
    point = table.point_means
    names = list(point)
    shift = step * np.repeat(np.eye(len(names)), 2, axis=0) * np.tile([1.0, -1.0], len(names))[:, None]
    moved = np.asarray(statistic({name: point[name] + shift[:, k] for k, name in enumerate(names)}))
    return {name: float(moved[2 * k] - moved[2 * k + 1]) / (2 * step) for k, name in enumerate(names)}


def bootstrap_statistic(
    table: ClusterTable, statistic: Statistic, *, n_boot: int = N_BOOT, seed: int = 0, level: float = 0.95
) -> Estimate:
    """Interval of a function of column means, e.g. ``lambda m: m["full"] - m["frozen"]``."""
    return interval(Resamples.draw(table, n_boot, seed), statistic, level)


def bootstrap_means(
    table: ClusterTable,
    *,
    n_boot: int = N_BOOT,
    seed: int = 0,
    level: float = 0.95,
    peers: Sequence[ClusterTable] = (),
) -> dict[str, Estimate]:
    """Interval of every column's mean, all on the same resamples."""
    resamples = Resamples.draw(table, n_boot, seed, peers)
    return {name: interval(resamples, column(name), level) for name in table.rows}


def means_together(
    tables: Sequence[ClusterTable], *, n_boot: int = N_BOOT, seed: int = 0, level: float = 0.95
) -> list[dict[str, Estimate]]:
    """:func:`bootstrap_means` of each of several tables, which share draws where they have equally many clusters."""
    means: list[dict[str, Estimate]] = [{} for _ in tables]
    for places in alike([table.n_clusters for table in tables]):
        drawn = Resamples.draw_together([tables[k] for k in places], n_boot, seed)
        for k, resamples in zip(places, drawn, strict=True):
            means[k] = {name: interval(resamples, column(name), level) for name in tables[k].rows}
    return means


def alike(values: Sequence[Hashable]) -> list[list[int]]:
    """The places of equal values, for each value."""
    places: dict[Hashable, list[int]] = {}
    for place, value in enumerate(values):
        places.setdefault(value, []).append(place)
    return list(places.values())


def bootstrap_present_means(
    columns: Mapping[str, FloatArray],
    clusters: NDArray[Any],
    *,
    n_boot: int = N_BOOT,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Estimate]:
    """Interval of every column's mean over the questions that have a value in it.

    Args:
        columns: Name to scores, (N,), nan where a question has none.
        clusters: (N,) the sentence of each question.
        n_boot: Resamples. seed: Equal ones give columns with values at the same questions the same resamples.
        level: Coverage aimed at.

    Returns:
        Without the columns that have no value at all.
    """
    return present_means_together([(columns, clusters)], n_boot=n_boot, seed=seed, level=level)[0]


def present_means_together(
    asked: Sequence[tuple[Mapping[str, FloatArray], NDArray[Any]]],
    *,
    n_boot: int = N_BOOT,
    seed: int = 0,
    level: float = 0.95,
) -> list[dict[str, Estimate]]:
    """:func:`bootstrap_present_means` of many columns and clusters, which share draws wherever these are the same."""
    tables: list[ClusterTable] = []
    owners: list[int] = []
    for owner, (columns, clusters) in enumerate(asked):
        of_owner = _tables_of_present(columns, clusters)
        tables += of_owner
        owners += [owner] * len(of_owner)
    means: list[dict[str, Estimate]] = [{} for _ in asked]
    for owner, of_table in zip(owners, means_together(tables, n_boot=n_boot, seed=seed, level=level), strict=True):
        means[owner] |= of_table
    return [
        {name: found[name] for name in columns if name in found}
        for found, (columns, _) in zip(means, asked, strict=True)
    ]


def _tables_of_present(columns: Mapping[str, FloatArray], clusters: NDArray[Any]) -> list[ClusterTable]:
    """A table of the columns that have values at the same questions, for each such set of questions."""
    together: dict[bytes, dict[str, FloatArray]] = {}
    for name, values in columns.items():
        together.setdefault(np.isfinite(values).tobytes(), {})[name] = values
    tables = []
    for mask, same in together.items():
        rows = np.frombuffer(mask, dtype=np.bool_)
        if rows.any():
            kept = {name: values[rows] for name, values in same.items()}
            tables.append(ClusterTable.from_questions(kept, clusters[rows]))
    return tables


def column(name: str) -> Statistic:
    """The statistic that is one column's mean."""
    return lambda means: means[name]


def interval(resamples: Resamples, statistic: Statistic, level: float = 0.95) -> Estimate:
    """BCa interval of a statistic; percentile where BCa is degenerate, none where it is undefined."""
    return interval_of_draws(resamples.table, statistic_draws(resamples, statistic), level)


def interval_of_draws(table: ClusterTable, drawn: StatisticDraws, level: float = 0.95) -> Estimate:
    """:func:`interval` of a statistic whose draws are there."""
    finite = drawn.draws[np.isfinite(drawn.draws)]
    flags = ["few_clusters"] if table.n_clusters < FEW_CLUSTERS else []
    flags += ["seed_variance_pooled"] if drawn.is_pooled else []
    lo = hi = se = math.nan
    df, method = math.inf, "none"
    if table.n_clusters < 2:
        flags.append("too_few_clusters")
    elif not math.isfinite(drawn.point) or len(finite) < (1 - _MAX_UNDEFINED) * len(drawn.draws):
        flags.append("undefined")
    else:
        df, se = drawn.df(level), math.sqrt(drawn.variance)
        acceleration = _acceleration(drawn.left_out)
        acceleration *= math.sqrt(drawn.clusters.variance / drawn.variance) ** 3 if drawn.variance > 0 else math.nan
        widened = drawn.point + (finite - drawn.point) * t_widening(df, level)
        lo, hi, method = _bca(drawn.point, widened, acceleration, level)
        flags += ["degenerate"] if lo == hi else []
    return Estimate(drawn.point, lo, hi, method, table.n, table.n_clusters, table.n_seeds, tuple(flags), level, se, df)


def _bca(point: float, draws: FloatArray, acceleration: float, level: float) -> tuple[float, float, str]:
    """Both ends and ``bca``, or ``percentile`` where BCa has no answer, from draws (B,)."""
    tail = np.array([(1 - level) / 2, (1 + level) / 2])
    difference = draws - point
    difference[np.abs(difference) <= _TIED * max(abs(point), float(np.abs(draws).max()))] = 0.0
    below = ((difference < 0).mean() + (difference <= 0).mean()) / 2
    if not 0.0 < below < 1.0 or not math.isfinite(acceleration):
        lo, hi = _quantiles(draws, tail)
        return lo, hi, "percentile"
    z0 = ndtri(below)
    shifted = z0 + ndtri(tail)
    lo, hi = _quantiles(draws, ndtr(z0 + shifted / (1 - acceleration * shifted)))
    return lo, hi, "bca"


def _quantiles(values: FloatArray, probabilities: FloatArray) -> list[float]:
    """``np.quantile`` by linear interpolation, to the bit and to the signs of zeros.

    numpy's own takes five times as long for 200 values and a third longer for 10,000, and a result has hundreds of
    intervals.

    Args:
        values: (B,) finite. probabilities: (K,) within 0 and 1.
    """
    last = len(values) - 1
    places = [last * probability for probability in probabilities.tolist()]
    below = [int(place) if place < last else -1 for place in places]  # as numpy counts: at the end from the end
    above = [k + 1 if k >= 0 else -1 for k in below]
    ordered = np.partition(values, sorted({0, last, *(k % len(values) for k in (*below, *above))}))
    found = []
    for place, k, next_k in zip(places, below, above, strict=True):
        low, high, along = float(ordered[k]), float(ordered[next_k]), place - k
        found.append(high - (high - low) * (1 - along) if along >= 0.5 else low + (high - low) * along)
    return found


def _acceleration(left_out: FloatArray) -> float:
    """Efron's a from the jackknife (C,): a sixth of the skewness of the clusters' influence, whatever its scale."""
    influence = left_out.mean() - left_out
    largest = float(np.abs(influence).max(initial=0.0))
    if not largest > 0:
        return math.nan
    influence = influence / largest  # the powers of very small numbers would be 0
    return float((influence**3).sum()) / (6.0 * float((influence**2).sum()) ** 1.5)


def seed_t_interval(seed_means: ArrayLike, level: float = 0.95) -> Estimate:
    """Student-t interval of the mean over S training seeds (S − 1 df), for what has no questions to resample.

    ``n`` and ``n_clusters`` are 0: the interval speaks of seeds only, for these test questions.
    """
    means = np.asarray(seed_means, dtype=np.float64)
    n = len(means)
    point = float(means.mean()) if n else math.nan
    if n < 2:
        return Estimate(point, math.nan, math.nan, "none", 0, 0, n, ("single_seed",), level)
    se = float(means.std(ddof=1) / math.sqrt(n))
    half = float(stdtrit(n - 1, (1 + level) / 2)) * se
    return Estimate(point, point - half, point + half, "t_seeds", 0, 0, n, (), level, se, n - 1)
