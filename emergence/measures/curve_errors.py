"""How the errors of a score at K snapshots go together: the covariance that tests of its curve draw from.

All snapshots answer the same questions, so one set of question resamples gives their covariance
(docs/methods.md#emergence-curve). Training seeds add a variance of their own, which few seeds tell badly for each
snapshot: it is taken as one offset a seed for the whole curve and one variance for all snapshots, pooled over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from emergence.measures.bootstrap import Resamples
from emergence.measures.resampling import FloatArray


@dataclass(frozen=True, eq=False)
class CurveErrors:
    """Covariances of K scores.

    Attributes:
        mean: (K, K) of the means over seeds.
        by_seed: (S, K, K) of each seed's own.
        seed_sd: Standard deviation of a snapshot's score that training it again with another seed adds, beside the
            seed's offset of the whole curve; 0 for one seed, which cannot tell.
    """

    mean: FloatArray
    by_seed: FloatArray
    seed_sd: float

    @classmethod
    def of(cls, resamples: Resamples, columns: Sequence[str]) -> CurveErrors:
        """The errors of the columns (one a snapshot, all with the same S seeds) of the resampled table.

        Raises:
            ValueError: columns with different numbers of seeds.
        """
        table = resamples.table
        rows = [np.arange(len(table.sums))[table.rows[name]] for name in columns]
        if len({len(r) for r in rows}) != 1:
            raise ValueError("the snapshots of a curve need the same seeds")
        drawn, means = resamples.rows[:, np.array(rows)], table.row_means()[np.array(rows)]  # (B, K, S), (K, S)
        n_seeds = means.shape[1]
        inflation = _inverse_bias(table.n_clusters, len(rows)) * _inverse_bias(len(drawn), len(rows))
        floor = np.eye(len(rows)) / table.n**2  # what one question changes: no score is known better
        questions = inflation * np.cov(drawn.mean(axis=2), rowvar=False) + floor
        each = np.array([inflation * np.cov(drawn[:, :, s], rowvar=False) + floor for s in range(n_seeds)])
        offset, own = _seed_variances(means, drawn)
        training = offset + own * np.eye(len(rows))
        return cls(questions + training / n_seeds, each + training, float(np.sqrt(own)))


def _inverse_bias(n_clusters: int, k: int) -> float:
    """The inverse of a covariance from C clusters is too large by (C − 1)/(C − K − 2) (Hartlap et al. 2007).

    The same holds for the resamples that the covariance is taken from, where they are few.
    """
    return (n_clusters - 1) / max(1, n_clusters - k - 2)


def _seed_variances(means: FloatArray, drawn: FloatArray) -> tuple[float, float]:
    """Variance of a seed's offset and of its own noise at a snapshot, from seed means (K, S), less what resampling the
    questions (B, K, S) explains."""
    k, n_seeds = means.shape
    if n_seeds < 2:
        return 0.0, 0.0
    offset, own = _parts(means[None])
    drawn_offset, drawn_own = _parts(drawn - drawn.mean(axis=0))
    df = n_seeds - 1
    own_variance = max(0.0, float((own - drawn_own.mean()).sum()) / (df * (k - 1)))
    offset_variance = float((offset - drawn_offset.mean()).sum()) / df - own_variance / k
    return max(0.0, offset_variance), own_variance


def _parts(scores: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(B,) squares of seeds' offsets, and of what is left, of scores (B, K, S)."""
    deviation = scores - scores.mean(axis=2, keepdims=True)
    offset = deviation.mean(axis=1, keepdims=True)
    return (offset**2).sum(axis=(1, 2)), ((deviation - offset) ** 2).sum(axis=(1, 2))
