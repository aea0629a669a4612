"""What the choice of clusters does to a standard error: sentences, or the documents that they come from.

Sentences of one document share topic, style and annotators. Where documents differ in how hard they are, resampling
sentences understates the error, and the ratio of the two standard errors says by how much (docs/methods.md#intervals).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, Literal

from numpy.typing import ArrayLike, NDArray

from emergence.measures.resampling import ClusterTable

#: What is resampled.
ClusterKind = Literal["sentence", "document"]
Clusters = Sequence[Hashable] | NDArray[Any]


def cluster_standard_error(values: ArrayLike, clusters: Clusters) -> float:
    """Standard error of the mean of values (N,) or, with the mean over seeds taken, (S, N); nan for one cluster.

    Linearised: the root of C / (C − 1) times the sum of squared influences of the clusters.
    """
    table = ClusterTable.from_questions({"x": values}, clusters)
    n = table.n_clusters
    influence = table.influence("x").mean(axis=0)
    return math.sqrt(n / (n - 1) * float((influence**2).sum())) if n > 1 else math.nan


def document_widening(values: ArrayLike, sentences: Clusters, documents: Clusters) -> float:
    """Standard error by documents over that by sentences; nan where there is no spread, or only one document."""
    by_sentence = cluster_standard_error(values, sentences)
    return cluster_standard_error(values, documents) / by_sentence if by_sentence > 0 else math.nan
