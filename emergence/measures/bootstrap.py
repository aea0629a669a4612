"""Intervals for means over questions that share sentences, and over training seeds.

Questions about one sentence are not independent, so whole sentences (clusters) are resampled: each
cluster is reduced to a sum and a count, and a mean is a ratio of sums (METHODS A6). Where there are
several seeds on the same questions, seeds and clusters are crossed and both are resampled. Intervals
are BCa (Efron 1987) with the delete-one-cluster jackknife, percentile where BCa has no answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import t as student_t

FloatArray: TypeAlias = NDArray[np.float64]
#: From column means (each of any common shape) to the statistic of that shape.
Statistic: TypeAlias = Callable[[Mapping[str, FloatArray]], FloatArray]

N_BOOT = 10_000
#: Below this many clusters an interval is flagged ``few_clusters``.
FEW_CLUSTERS = 30
_BLOCK_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class Estimate:
    """A number with its interval and all that is needed to distrust it.

    Attributes:
        point: The estimate; nan when undefined, and then a flag says why.
        lo, hi: Interval at ``level``; nan when there is none, infinite when unbounded.
        method: ``bca``, ``percentile``, ``t_seeds``, ``fieller``, ``delta`` or ``none``.
        n: Questions. n_clusters: Sentences. n_seeds: Training seeds (smallest over the parts).
        flags: Reasons for caution, e.g. ``few_clusters``, ``degenerate``.
        level: Coverage aimed at.
        se: Standard error (SD of the bootstrap replicates), nan when unknown.
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
    se: float = float("nan")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: numbers that are not finite become None (the flags say why)."""
        values = asdict(self)
        values["flags"] = list(self.flags)
        for key in ("point", "lo", "hi", "se"):
            values[key] = values[key] if math.isfinite(values[key]) else None
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Estimate:
        """The inverse of :meth:`to_dict`, with nan for None."""
        numbers = {k: float("nan") if values[k] is None else values[k] for k in ("point", "lo", "hi", "se")}
        return cls(**{**values, **numbers, "flags": tuple(values["flags"])})


@dataclass(frozen=True, eq=False)
class ClusterTable:
    """Scores of N questions reduced to sums per cluster, for several named columns, each over its seeds.

    Attributes:
        sums: (R, C) sums of score; one row for each seed of each column.
        counts: (C,) questions of each cluster, the same for all rows.
        rows: Name to the rows of its seeds.
        seed_labels: Name to the labels of its seeds; columns with the same labels share them (the same
            pretrained weights, say) and are resampled together.
    """

    sums: FloatArray
    counts: FloatArray
    rows: Mapping[str, slice]
    seed_labels: Mapping[str, tuple[str, ...]]

    @classmethod
    def from_questions(
        cls,
        values: Mapping[str, ArrayLike],
        clusters: Sequence[Hashable] | NDArray[Any],
        seed_labels: Mapping[str, Sequence[str]] | None = None,
    ) -> ClusterTable:
        """From per-question scores.

        Args:
            values: Name to scores, (N,) for one seed or (S, N) for S seeds on the same questions.
            clusters: (N,) the cluster (sentence) of each question.
            seed_labels: Name to S labels; by default "0".."S-1", so equal numbers of seeds count as shared.

        Raises:
            ValueError: shapes that disagree, no questions, or a score that is not finite.
        """
        _, index = np.unique(np.asarray(clusters), return_inverse=True)
        counts = np.bincount(index).astype(np.float64)
        sums: list[FloatArray] = []
        rows: dict[str, slice] = {}
        labels: dict[str, tuple[str, ...]] = {}
        for name, column in values.items():
            scores = np.atleast_2d(np.asarray(column, dtype=np.float64))  # (S, N)
            if scores.ndim != 2 or scores.shape[1] != len(index) or scores.size == 0:
                raise ValueError(f"{name}: scores {np.shape(column)} for {len(index)} questions")
            if not np.isfinite(scores).all():
                raise ValueError(f"{name}: a score is not finite; drop and count such questions first")
            rows[name] = slice(len(sums), len(sums) + len(scores))
            sums += [np.bincount(index, weights=row).astype(np.float64) for row in scores]
            given = (seed_labels or {}).get(name, [str(s) for s in range(len(scores))])
            labels[name] = tuple(given)
            if len(labels[name]) != len(scores) or len(set(given)) != len(scores):
                raise ValueError(f"{name}: {len(scores)} seeds need as many different labels, got {labels[name]}")
        return cls(np.array(sums), counts, rows, labels)

    @property
    def n(self) -> int:
        return int(self.counts.sum())

    @property
    def n_clusters(self) -> int:
        return len(self.counts)

    @property
    def n_seeds(self) -> int:
        return min(len(labels) for labels in self.seed_labels.values())

    def row_means(self) -> FloatArray:
        """(R,) mean score of each seed of each column."""
        return np.asarray(self.sums.sum(axis=1) / self.counts.sum())

    def seed_means(self, name: str) -> FloatArray:
        """(S,) mean score of each seed of one column."""
        return self.row_means()[self.rows[name]]

    def column_means(self, row_means: FloatArray, weights: Mapping[tuple[str, ...], FloatArray] | None = None) -> dict:
        """Row means (..., R) to column means (...), seeds weighted by ``weights[labels]`` (..., S)."""
        means = {}
        for name, rows in self.rows.items():
            per_seed = row_means[..., rows]
            w = None if weights is None else weights[self.seed_labels[name]]
            means[name] = per_seed.mean(axis=-1) if w is None else (per_seed * w).sum(axis=-1) / w.sum(axis=-1)
        return means


def cluster_replicates(table: ClusterTable, n_boot: int, rng: np.random.Generator) -> FloatArray:
    """(B, R) row means on B resamples of the clusters, the same resample for all rows."""
    n_clusters = table.n_clusters
    totals = np.vstack([table.sums, table.counts]).T  # (C, R + 1)
    out = np.empty((n_boot, len(table.sums)))
    block = max(1, _BLOCK_ELEMENTS // n_clusters)
    for begin in range(0, n_boot, block):
        size = min(block, n_boot - begin)
        drawn = rng.integers(0, n_clusters, size=(size, n_clusters)) + np.arange(size)[:, None] * n_clusters
        times = np.bincount(drawn.ravel(), minlength=size * n_clusters).reshape(size, n_clusters)
        sums = times.astype(np.float64) @ totals  # (b, R + 1)
        out[begin : begin + size] = sums[:, :-1] / sums[:, -1:]
    return out


def cluster_jackknife(table: ClusterTable) -> FloatArray:
    """(C, R) row means with one cluster left out."""
    left = table.counts.sum() - table.counts
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(((table.sums.sum(axis=1)[:, None] - table.sums) / left).T)


def seed_weights(table: ClusterTable, n_boot: int, rng: np.random.Generator) -> dict[tuple[str, ...], FloatArray]:
    """How often each seed is drawn, (B, S) for each set of labels.

    S − 1 draws from S seeds, which makes the variance of the mean unbiased (Rao and Wu 1988); with the
    usual S draws from three seeds it would be a third too small. One seed is always itself.
    """
    weights = {}
    for labels in dict.fromkeys(table.seed_labels.values()):
        n = len(labels)
        weights[labels] = rng.multinomial(max(n - 1, 1), np.full(n, 1.0 / n), size=n_boot).astype(np.float64)
    return weights


def seed_jackknives(table: ClusterTable, statistic: Statistic) -> list[FloatArray]:
    """For each set of shared seeds, (S,) the statistic with one seed left out."""
    result = []
    for labels in dict.fromkeys(table.seed_labels.values()):
        if len(labels) < 2:
            continue
        n = len(labels)
        weights = {other: np.ones((n, len(other))) for other in table.seed_labels.values()}
        weights[labels] = 1.0 - np.eye(n)
        result.append(statistic(table.column_means(np.tile(table.row_means(), (n, 1)), weights)))
    return result


def bootstrap_statistic(
    table: ClusterTable, statistic: Statistic, *, n_boot: int = N_BOOT, seed: int = 0, level: float = 0.95
) -> Estimate:
    """Interval of a function of column means, e.g. ``lambda m: m["full"] - m["frozen"]``."""
    return bootstrap_statistics(table, {"": statistic}, n_boot=n_boot, seed=seed, level=level)[""]


def bootstrap_means(
    table: ClusterTable, *, n_boot: int = N_BOOT, seed: int = 0, level: float = 0.95
) -> dict[str, Estimate]:
    """Interval of every column's mean, all on the same resamples."""
    statistics: dict[str, Statistic] = {name: _column(name) for name in table.rows}
    return bootstrap_statistics(table, statistics, n_boot=n_boot, seed=seed, level=level)


def _column(name: str) -> Statistic:
    return lambda means: means[name]


def bootstrap_statistics(
    table: ClusterTable,
    statistics: Mapping[str, Statistic],
    *,
    n_boot: int = N_BOOT,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Estimate]:
    """Intervals of several functions of the column means, all on the same resamples of clusters and seeds."""
    means = bootstrap_draws(table, n_boot, seed)
    point_means = table.column_means(table.row_means())
    left_out = table.column_means(cluster_jackknife(table))
    estimates = {}
    for name, statistic in statistics.items():
        jackknives = [np.asarray(statistic(left_out)), *seed_jackknives(table, statistic)]
        point, draws = float(statistic(point_means)), np.asarray(statistic(means))
        estimates[name] = interval_from_draws(point, draws, jackknives, table, level)
    return estimates


def bootstrap_draws(table: ClusterTable, n_boot: int, seed: int) -> dict[str, FloatArray]:
    """Name to (B,) replicates of every column's mean over resampled clusters and seeds."""
    rng = np.random.default_rng(seed)
    rows = cluster_replicates(table, n_boot, rng)
    return table.column_means(rows, seed_weights(table, n_boot, rng))


def interval_from_draws(
    point: float, draws: FloatArray, jackknives: Sequence[FloatArray], table: ClusterTable, level: float = 0.95
) -> Estimate:
    """BCa interval from replicates and jackknives; percentile where BCa is degenerate, none where nothing varies."""
    flags = ["few_clusters"] if table.n_clusters < FEW_CLUSTERS else []
    finite = draws[np.isfinite(draws)]
    if len(finite) < len(draws):
        flags.append("undefined_draws")
    if table.n_clusters < 2 or not math.isfinite(point) or len(finite) < 0.99 * len(draws):
        flags.append("too_few_clusters" if table.n_clusters < 2 else "undefined")
        lo = hi = se = float("nan")
        method = "none"
    else:
        lo, hi, method = _bca(point, finite, jackknives, level)
        se = float(finite.std(ddof=1))
        if lo == hi:
            flags.append("degenerate")
    return Estimate(point, lo, hi, method, table.n, table.n_clusters, table.n_seeds, tuple(flags), level, se)


def _bca(point: float, draws: FloatArray, jackknives: Sequence[FloatArray], level: float) -> tuple[float, float, str]:
    tail = np.array([(1 - level) / 2, (1 + level) / 2])
    below = ((draws < point).mean() + (draws <= point).mean()) / 2
    acceleration = _acceleration(jackknives)
    if not 0.0 < below < 1.0 or not math.isfinite(acceleration):
        lo, hi = np.quantile(draws, tail)
        return float(lo), float(hi), "percentile"
    z0 = ndtri(below)
    shifted = z0 + ndtri(tail)
    lo, hi = np.quantile(draws, ndtr(z0 + shifted / (1 - acceleration * shifted)))
    return float(lo), float(hi), "bca"


def _acceleration(jackknives: Sequence[FloatArray]) -> float:
    """Efron's a; several independent factors (clusters, seeds) add their third and second moments."""
    third = second = 0.0
    for left_out in jackknives:
        n = len(left_out)
        influence = (n - 1) / n * (left_out.mean() - left_out)
        third += float((influence**3).sum())
        second += float((influence**2).sum())
    return third / (6.0 * second**1.5) if second > 0 else float("nan")


def seed_t_interval(seed_means: ArrayLike, level: float = 0.95) -> Estimate:
    """Student-t interval of the mean over S training seeds (S − 1 df); beside the bootstrap when S < 5.

    ``n`` and ``n_clusters`` are 0: the interval speaks of seeds only, for these test questions.
    """
    means = np.asarray(seed_means, dtype=np.float64)
    n = len(means)
    point = float(means.mean()) if n else float("nan")
    if n < 2:
        return Estimate(point, float("nan"), float("nan"), "none", 0, 0, n, ("single_seed",), level)
    se = float(means.std(ddof=1) / math.sqrt(n))
    half = float(student_t.ppf((1 + level) / 2, n - 1)) * se
    return Estimate(point, point - half, point + half, "t_seeds", 0, 0, n, (), level, se)
