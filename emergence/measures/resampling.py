"""Reducing questions to clusters, and resampling clusters and seeds.

Questions about one sentence are not independent, so whole sentences (clusters) are resampled: each is
reduced to a sum and a count, and a mean is a ratio of sums (docs/methods.md#intervals). Several training seeds on the
same questions are crossed with the clusters and bring a variance of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray: TypeAlias = NDArray[np.float64]
#: From column means (each of any common shape) to the statistic of that shape.
Statistic: TypeAlias = Callable[[Mapping[str, FloatArray]], FloatArray]

#: Random numbers drawn at a time: what stays in cache takes half the time of what does not.
_BLOCK_ELEMENTS = 1 << 17


@dataclass(frozen=True, eq=False)
class ClusterTable:
    """Scores of N questions reduced to sums per cluster, for several named columns, each over its seeds.

    Attributes:
        sums: (R, C) sums of score; one row for each seed of each column.
        counts: (C,) questions of each cluster, the same for all rows.
        rows: Name to the rows of its seeds.
        seed_labels: Name to the labels of its seeds; columns with the same labels share them (the same
            pretrained weights, say), so that their seed effects go together.
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
            seed_labels: Name to S labels; by default "0".."S-1", so columns share seeds of the same place.

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
            labels[name] = tuple((seed_labels or {}).get(name, [str(s) for s in range(len(scores))]))
            if len(labels[name]) != len(scores) or len(set(labels[name])) != len(scores):
                raise ValueError(f"{name}: {len(scores)} seeds need as many different labels, got {labels[name]}")
        return cls(np.array(sums), counts, rows, labels)

    @property
    def n(self) -> int:
        return int(self.counts.sum())

    @property
    def n_clusters(self) -> int:
        return len(self.counts)

    @cached_property  # every statistic asks
    def cluster_df(self) -> float:
        """Degrees of freedom of a variance over clusters: (Σm)² / Σm² − 1 for m questions a cluster, 1 at least.

        So many equally large clusters, less one, would tell it as well (Satterthwaite, the variance growing with m).
        """
        return max(1.0, self.n**2 / float((self.counts**2).sum()) - 1)

    @property
    def n_seeds(self) -> int:
        return min(len(labels) for labels in self.seed_labels.values())

    def row_means(self) -> FloatArray:
        """(R,) mean score of each seed of each column."""
        return np.asarray(self.sums.sum(axis=1) / self.counts.sum())

    @cached_property  # every statistic asks
    def point_means(self) -> Mapping[str, FloatArray]:
        """Each column's mean on the data, averaged over seeds."""
        return self.column_means(self.row_means())

    def influence(self, name: str) -> FloatArray:
        """(S, C) of each cluster on the mean of each seed of a column; the squares of a row add up to its variance."""
        return np.asarray((self.sums[self.rows[name]] - self.seed_means(name)[:, None] * self.counts) / self.n)

    def seed_means(self, name: str) -> FloatArray:
        """(S,) mean score of each seed of one column."""
        return np.asarray(self.sums[self.rows[name]].sum(axis=1) / self.counts.sum())

    def over_seeds(self) -> ClusterTable:
        """The same with one row a column, the mean over its seeds: all that a mean over them needs."""
        sums = np.array([self.sums[rows].mean(axis=0) for rows in self.rows.values()])
        return ClusterTable(
            sums,
            self.counts,
            {name: slice(k, k + 1) for k, name in enumerate(self.rows)},
            dict.fromkeys(self.rows, ("mean",)),
        )

    @cached_property  # every statistic asks
    def sharing(self) -> dict[tuple[str, ...], tuple[str, ...]]:
        """Columns that share seeds, sorted, to the seeds of any of them; a column with one seed is in none."""
        together: list[tuple[list[str], list[str]]] = []
        for name in self.rows:
            labels = list(self.seed_labels[name])
            if len(labels) < 2:
                continue
            touching = [group for group in together if set(group[1]) & set(labels)]
            together = [group for group in together if group not in touching]
            columns = [column for group in touching for column in group[0]]
            known = [label for group in touching for label in group[1]]
            together.append(([*columns, name], list(dict.fromkeys([*known, *labels]))))
        return {tuple(sorted(columns)): tuple(labels) for columns, labels in together}

    def column_means(self, row_means: FloatArray) -> dict[str, FloatArray]:
        """Row means (..., R) to column means (...), averaged over seeds."""
        means = {name: np.asarray(row_means[..., rows].mean(axis=-1)) for name, rows in self.rows.items()}
        for values in means.values():
            values.flags.writeable = False  # every statistic reads the same ones
        return means


def cluster_replicates(table: ClusterTable, n_boot: int, rng: np.random.Generator) -> FloatArray:
    """(B, R) row means on B resamples of the clusters, the same resample for all rows."""
    return replicates_together([table], n_boot, rng)[0]


def replicates_together(tables: Sequence[ClusterTable], n_boot: int, rng: np.random.Generator) -> list[FloatArray]:
    """:func:`cluster_replicates` of each of several tables with equally many clusters, to the bit.

    A resample does not depend on what is averaged. Drawing it takes twenty times as long as a table's means on it.

    Raises:
        ValueError: The numbers of clusters differ.
    """
    n_clusters = tables[0].n_clusters
    if any(table.n_clusters != n_clusters for table in tables):
        raise ValueError("tables with other numbers of clusters cannot be resampled together")
    totals = [np.vstack([table.sums, table.counts]).T for table in tables]  # (C, R + 1) each
    out = [np.empty((n_boot, len(table.sums))) for table in tables]
    block = max(1, _BLOCK_ELEMENTS // n_clusters)
    for begin in range(0, n_boot, block):
        size = min(block, n_boot - begin)
        drawn = rng.integers(0, n_clusters, size=(size, n_clusters)) + np.arange(size)[:, None] * n_clusters
        times = np.bincount(drawn.ravel(), minlength=size * n_clusters).reshape(size, n_clusters).astype(np.float64)
        for means, of_clusters in zip(out, totals, strict=True):
            sums = times @ of_clusters  # (b, R + 1)
            means[begin : begin + size] = sums[:, :-1] / sums[:, -1:]
    return out


def cluster_jackknife(table: ClusterTable) -> FloatArray:
    """(C, R) row means with one cluster left out (nan where nothing is left)."""
    left = table.counts.sum() - table.counts
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(((table.sums.sum(axis=1)[:, None] - table.sums) / left).T)


@dataclass(frozen=True, eq=False)
class SeedGroup:
    """Seeds that some columns share, all of them or a part, and what training them again does to the columns' means.

    Each of the L seeds has B standard normal weights, which stand for training it again. They are not kept, since
    hundreds of seeds would fill the memory: all that is asked of them is how far they move a sum of columns.

    Attributes:
        columns: Names of the K columns with these seeds, each with two of them or more, sorted.
        deviations: (L, K) of each seed in each column (:func:`_deviations`).
        moved: (B, K) how far the mean of each column moves, weights (B, L) times ``deviations``.
        moved_anyhow: (B,) standard normal: weights times a direction of length 1 that the scores do not tell. It is for
            seeds that agree here where other sizes show that seeds differ.
    """

    columns: tuple[str, ...]
    deviations: FloatArray
    moved: FloatArray
    moved_anyhow: FloatArray

    def movements(self, gradient: Mapping[str, float], variance: float) -> FloatArray:
        """(B,) how far a statistic moves, scaled to a variance.

        Args:
            gradient: Name of every column to the derivative of the statistic in its mean. variance: Over its seeds.
        """
        slope = np.array([gradient[name] for name in self.columns])
        of_seeds = _weighted(self.deviations, slope)  # (L,)
        length = float(np.sqrt((of_seeds**2).sum()))
        if length == 0:
            return np.asarray(self.moved_anyhow * np.sqrt(variance))
        return np.asarray(self.moved @ (slope * (np.sqrt(variance) / length)))


def seed_groups(table: ClusterTable, n_boot: int, rng: np.random.Generator) -> tuple[SeedGroup, ...]:
    """Columns with two seeds or more, put together wherever they share one (frozen with five, full with three of
    them, say), each group with ``n_boot`` (B) weights a seed."""
    groups = []
    for columns, labels in table.sharing.items():
        deviations = _deviations(table, columns, labels)
        unit = np.resize([1.0, -1.0], len(labels)) / np.sqrt(len(labels))  # any direction would do
        directions = np.column_stack([deviations, unit])  # (L, K + 1)
        moved = np.empty((n_boot, len(columns) + 1))
        block = max(1, _BLOCK_ELEMENTS // len(labels))
        for begin in range(0, n_boot, block):
            rows = moved[begin : begin + block]
            np.matmul(rng.standard_normal((len(rows), len(labels))), directions, out=rows)
        groups.append(SeedGroup(columns, deviations, moved[:, :-1], moved[:, -1]))
    return tuple(groups)


@dataclass(frozen=True)
class SeedSpread:
    """How far the seeds of a group move a statistic.

    Attributes:
        total: The variance that the spread of seed means shows, the noise of the questions included.
        noise: That noise, which resampling the clusters has counted already.
        df: Degrees of freedom: one less than the seeds of the column with the fewest of those that the statistic
            depends on, summed over sizes where they are pooled.
    """

    total: float
    noise: float
    df: int

    @property
    def variance(self) -> float:
        """The seeds' own; nan where the statistic has no slope."""
        return float(np.maximum(0.0, self.total - self.noise))


def _deviations(table: ClusterTable, columns: Sequence[str], labels: Sequence[str]) -> FloatArray:
    """(L, K) of the mean of each seed from the mean of its column over sqrt(S (S - 1)); 0 where a column lacks it.

    The squares of a column's add up to the variance of a mean over its S seeds, unbiased for any S >= 2 (resampling
    three seeds with replacement would fall short by a third).
    """
    deviations = np.zeros((len(labels), len(columns)))
    for k, name in enumerate(columns):
        means, n_seeds = table.seed_means(name), len(table.seed_labels[name])
        deviations[_places(table, name, labels), k] = (means - means.mean()) / np.sqrt(n_seeds * (n_seeds - 1))
    return deviations


def _places(table: ClusterTable, name: str, labels: Sequence[str]) -> list[int]:
    """Where the S seeds of a column stand among the L labels."""
    place = {label: k for k, label in enumerate(labels)}
    return [place[label] for label in table.seed_labels[name]]


def _weighted(deviations: FloatArray, slope: FloatArray) -> FloatArray:
    """(L,) of (L, K) and (K,). Unlike a matrix product it is 0 where two columns cancel, not what rounding leaves."""
    return np.asarray((deviations * slope).sum(axis=1))


def seed_spread(
    table: ClusterTable,
    columns: Sequence[str],
    labels: Sequence[str],
    gradient: Mapping[str, float],
    n_seeds: Mapping[str, int] | None = None,
) -> SeedSpread:
    """The spread of a statistic over seeds.

    Where columns share only some seeds, their covariance comes out a little too small (by 9% for three shared of five).

    The spread of seed means over a finite test set has two parts: the seeds' own, and seed-by-question
    noise, which resampling the clusters has already put into the interval. Counting the second twice is
    the pigeonhole bootstrap's excess (Owen 2007); it is estimated from the clusters' influence, to be taken out.

    Args:
        table: The scores.
        columns, labels: From :attr:`ClusterTable.sharing`.
        gradient: Name to derivative of the statistic in that column's mean.
        n_seeds: Name to the seeds of the mean whose variance is asked for; by default as many as there are.
    """
    own = {name: len(table.seed_labels[name]) for name in columns}
    asked = {name: gradient[name] * np.sqrt(own[name] / (n_seeds or own)[name]) for name in columns}
    of_seeds = _weighted(_deviations(table, columns, labels), np.array([asked[name] for name in columns]))
    total = float((of_seeds**2).sum())
    by_cluster = np.zeros((len(labels), table.n_clusters))
    for name in columns:
        if asked[name]:
            of_clusters = table.influence(name)
            scale = asked[name] / np.sqrt(own[name] * (own[name] - 1))
            by_cluster[_places(table, name, labels)] += scale * (of_clusters - of_clusters.mean(axis=0))
    correction = table.n_clusters / max(1, table.n_clusters - 1)
    df = min((own[name] for name in columns if asked[name]), default=min(own.values())) - 1
    return SeedSpread(total, float((by_cluster**2).sum()) * correction, df)


def seed_df(table: ClusterTable, name: str, peers: Sequence[ClusterTable]) -> int:
    """Degrees of freedom of the variance over seeds of one column, as :func:`pooled_seed_spread` pools it; 0 for one
    seed."""
    group = next((columns for columns in table.sharing if name in columns), None)
    gradient = {column: float(column == name) for column in table.rows}
    return pooled_seed_spread(table, group, gradient, peers)[0].df if group else 0


def pooled_seed_spread(
    table: ClusterTable, columns: Sequence[str], gradient: Mapping[str, float], peers: Sequence[ClusterTable]
) -> tuple[SeedSpread, bool]:
    """The spread of a statistic over seeds, and whether other tables helped to tell it.

    Few seeds tell a variance poorly. Other model sizes whose same columns share seeds in the same way are taken to
    have the same variance: estimates are averaged by their degrees of freedom, which add up. Columns (cells of the
    2x2) are never pooled with each other: their spreads differ fourfold (docs/methods.md#intervals).

    Args:
        table: The scores. columns: Of one of its groups of seeds. gradient: Name to derivative of the statistic in that
            column's mean.
        peers: Tables of other sizes with columns of the same names.
    """
    group = tuple(columns)
    n_seeds = {name: len(table.seed_labels[name]) for name in group}
    spreads = [
        seed_spread(one, group, labels, gradient, n_seeds)
        for one in (table, *peers)
        if (labels := one.sharing.get(group))
    ]
    if len(spreads) == 1 or not any(gradient[name] for name in group):
        return spreads[0], False
    df = sum(spread.df for spread in spreads)
    total, noise = (sum(s.df * getattr(s, part) for s in spreads) / df for part in ("total", "noise"))
    return SeedSpread(total, noise, df), True
