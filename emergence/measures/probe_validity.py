"""Is the information in the states, or did the probe learn it? Selectivity, description length, depth.

A probe can memorise. Selectivity subtracts what the same probe reaches on a control task that can only
be memorised (Hewitt and Liang 2019); minimum description length asks how many bits the labels cost given
the states, which charges for the probe's effort as well (Voita and Titov 2020).
Defined in docs/methods.md#selectivity and docs/methods.md#mdl.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emergence.measures.bootstrap import N_BOOT, Estimate, bootstrap_statistic
from emergence.measures.resampling import ClusterTable, FloatArray
from emergence.measures.span_scores import PROBABILITY_FLOOR
from emergence.measures.spans import IntArray, SpanPair

#: Block ends of the online code as shares of the training set (Voita and Titov 2020).
MDL_FRACTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
#: The first block is never smaller than this many examples.
MDL_FIRST_BLOCK = 32


@dataclass(frozen=True, eq=False)
class ControlTask:
    """Random answers that are the same for every question of a type, in every split.

    A type is, for instance, (predicate lemma, wh-word). Each draws once a place (offset of the first word
    from the predicate, and length) from the training golds; a probe can learn it by rote alone.

    Attributes:
        offsets: (K,) first word minus predicate, of the training golds.
        lengths: (K,) words of the same golds.
        seed: Another seed is another control task.
    """

    offsets: IntArray
    lengths: IntArray
    seed: int = 0

    def __post_init__(self) -> None:
        if np.shape(self.offsets) != np.shape(self.lengths) or np.size(self.offsets) == 0:
            raise ValueError("a control task needs the offsets and lengths of the training golds")

    def target(self, kind: Hashable) -> tuple[int, int]:
        """Offset and length of a type: a function of the seed and the type alone, whatever the order of the data."""
        digest = hashlib.blake2b(f"{self.seed}\x1f{kind!r}".encode(), digest_size=8).digest()
        drawn = int(np.random.default_rng(int.from_bytes(digest, "big")).integers(len(self.offsets)))
        return int(self.offsets[drawn]), int(self.lengths[drawn])

    def spans(self, kinds: Sequence[Hashable], predicates: ArrayLike, sentence_lengths: ArrayLike) -> SpanPair:
        """The control answers of N questions, clipped to their sentences (inclusive word indices)."""
        words = np.asarray(sentence_lengths, dtype=np.int64)
        known = {kind: self.target(kind) for kind in dict.fromkeys(kinds)}
        places = np.array([known[kind] for kind in kinds], dtype=np.int64).reshape(-1, 2)
        starts = np.clip(np.asarray(predicates, dtype=np.int64) + places[:, 0], 0, words - 1)
        return starts, np.minimum(starts + places[:, 1] - 1, words - 1)


def selectivity(
    task_scores: ArrayLike,
    control_scores: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[Any],
    *,
    n_boot: int = N_BOOT,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Mean task score minus mean control score on the same questions, (N,) or (S, N) each; 0 means rote alone."""
    table = ClusterTable.from_questions({"task": task_scores, "control": control_scores}, clusters)
    return bootstrap_statistic(table, lambda m: m["task"] - m["control"], n_boot=n_boot, seed=seed, level=level)


def mdl_block_ends(n: int, fractions: Sequence[float] = MDL_FRACTIONS) -> IntArray:
    """Ends (exclusive) of the online code's blocks of n shuffled examples; the last is n.

    Small sets get fewer blocks: the first holds at least ``MDL_FIRST_BLOCK`` examples, and later ends
    that would not add an example are dropped.
    """
    if n < 1:
        raise ValueError("description length needs at least one example")
    first = min(n, max(round(fractions[0] * n), MDL_FIRST_BLOCK))
    ends = [first] + [round(f * n) for f in fractions[1:] if round(f * n) > first]
    return np.unique([*ends, n]).astype(np.int64)


@dataclass(frozen=True)
class DescriptionLength:
    """Online code length of the labels given the states.

    Attributes:
        uniform_bits: Without a model, Σ log2 K.
        online_bits: First block at the uniform code, each later one by the probe trained on all before it.
        compression: uniform / online; 1 means that the probe learned nothing.
        n_examples: Labels coded.
        n_clipped: Of them, raised to the probability floor.
    """

    uniform_bits: float
    online_bits: float
    compression: float
    n_examples: int
    n_clipped: int


def online_description_length(
    n_options: ArrayLike, block_ends: ArrayLike, log_probs: Sequence[ArrayLike]
) -> DescriptionLength:
    """The online (prequential) code of Voita and Titov (2020), eq. 3, in bits.

    Args:
        n_options: (N,) possible labels K of each example, in the shuffled order (valid spans, for spans).
        block_ends: (S,) from :func:`mdl_block_ends`.
        log_probs: S − 1 arrays; the i-th holds the natural log-probabilities of the right label of the
            examples in block i + 1, by the probe trained on all blocks up to i. Several golds: log Σ p(g).

    Raises:
        ValueError: blocks and log-probabilities that do not fit together, or a positive log-probability.
    """
    uniform = np.log2(np.asarray(n_options, dtype=np.float64))
    ends = np.asarray(block_ends, dtype=np.int64)
    blocks = [np.asarray(block, dtype=np.float64) for block in log_probs]
    if ends[-1] != len(uniform) or [len(block) for block in blocks] != np.diff(ends).tolist():
        raise ValueError(f"blocks of {np.diff(ends).tolist()} need as many log-probabilities each")
    coded = np.concatenate([*blocks, np.zeros(0)])
    if not (coded <= 1e-9).all():
        raise ValueError("a log-probability is positive or not a number")
    floor = math.log(PROBABILITY_FLOOR)
    uniform_bits = float(uniform.sum())
    online_bits = float(uniform[: ends[0]].sum()) + float(-np.clip(coded, floor, 0.0).sum()) / math.log(2)
    return DescriptionLength(
        uniform_bits=uniform_bits,
        online_bits=online_bits,
        compression=uniform_bits / online_bits if online_bits > 0 else math.inf,
        n_examples=len(uniform),
        n_clipped=int((coded < floor).sum()),
    )


@dataclass(frozen=True, eq=False)
class ExpectedLayer:
    """Where along the layers a score is won.

    Attributes:
        layer: E[l] = Σ lΔ(l) / ΣΔ(l) over l = 1..L; nan where no layer adds anything.
        gains: (L,) Δ(l) = score(≤ l) − score(≤ l − 1), as they were.
        clipped: How much negative Δ was set to 0 for E[l]; large against the gains, E[l] means little.
    """

    layer: float
    gains: FloatArray
    clipped: float


def expected_layer(cumulative_scores: ArrayLike) -> ExpectedLayer:
    """From scores (L + 1,) of probes that read layers 0..l, l = 0..L (Tenney et al. 2019, eq. 4)."""
    gains = np.diff(np.asarray(cumulative_scores, dtype=np.float64))
    kept = np.clip(gains, 0.0, None)
    total = float(kept.sum())
    layer = float((np.arange(1, len(gains) + 1) * kept).sum() / total) if total > 0 else math.nan
    return ExpectedLayer(layer, gains, float((kept - gains).sum()))
