"""How much of what full finetuning reaches is already in the frozen weights.

S = (F − R) / (U − R) and g = U − F, with F the pretrained trunk probed frozen, U the same trunk finetuned
whole, and R a floor. Two floors, never mixed up: the random trunk probed frozen (primary: the same
trainable parameters as F) and the random trunk trained whole (the experiment guide's literal baseline,
a strong one). S is not confined to [0, 1] and is never clipped (docs/methods.md#emergence-score).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from emergence.measures.bootstrap import (
    N_BOOT,
    Estimate,
    Resamples,
    StatisticDraws,
    column,
    interval,
    interval_of_draws,
    statistic_draws,
)
from emergence.measures.ratio import Fieller, delta_se, fieller_set
from emergence.measures.resampling import ClusterTable, FloatArray
from emergence.measures.variance_parts import t_widening
from emergence.plain import plain

#: The four cells: {pretrained, random} initialisation x {full training, frozen probe}.
FULL, FROZEN, RANDOM_FULL, RANDOM_FROZEN = "full", "frozen", "random_full", "random_frozen"
CELLS = (FULL, FROZEN, RANDOM_FULL, RANDOM_FROZEN)
#: Cells whose trunk is probed and not trained: the pretrained trunk and its random twin.
FROZEN_CELLS = (FROZEN, RANDOM_FROZEN)
#: Least U − R that a share of it means anything, in units of F1.
MIN_HEADROOM = 0.1
#: Share of bootstrap draws with a denominator ≤ 0 from which Fieller's set replaces the bootstrap.
MAX_BAD_DENOMINATORS = 0.01


def compute_emergence_score(f1_frozen: float, f1_full: float, f1_random: float) -> float:
    """S = (frozen − random) / (full − random), not clipped.

    Returns nan when full does not exceed random: there is then nothing for the frozen trunk to have a
    share of. Below 0 the frozen trunk is under the floor, above 1 over full finetuning.
    """
    denominator = float(f1_full) - float(f1_random)
    if not denominator > 0:
        return math.nan
    return (float(f1_frozen) - float(f1_random)) / denominator


def compute_emergence_gap(f1_full: float, f1_frozen: float) -> float:
    """g = full − frozen: what finetuning the trunk adds, in units of F1."""
    return float(f1_full) - float(f1_frozen)


@dataclass(frozen=True)
class RatioMoments:
    """S = n/d with the variances of n = F − R and d = U − R: the algebra of docs/methods.md#emergence-score.

    ``df`` is the degrees of freedom that the seeds leave (infinite for a normal approximation).
    """

    n: float
    d: float
    v_nn: float
    v_dd: float
    v_nd: float
    df: float = math.inf

    @classmethod
    def from_covariance(cls, f1_frozen: float, f1_full: float, f1_random: float, covariance: ArrayLike) -> RatioMoments:
        """From the covariance (3, 3) of (frozen, full, random); diagonal for independent runs."""
        v = np.asarray(covariance, dtype=np.float64)
        return cls(
            n=f1_frozen - f1_random,
            d=f1_full - f1_random,
            v_nn=float(v[0, 0] + v[2, 2] - 2 * v[0, 2]),
            v_dd=float(v[1, 1] + v[2, 2] - 2 * v[1, 2]),
            v_nd=float(v[0, 1] - v[0, 2] - v[1, 2] + v[2, 2]),
        )

    @property
    def raw(self) -> float:
        """n/d whatever the sign of d; nan for d = 0."""
        return self.n / self.d if self.d else math.nan

    @property
    def se(self) -> float:
        """Standard error of n/d, by the delta method."""
        return delta_se(self.n, self.d, self.v_nn, self.v_dd, self.v_nd)

    def quantile(self, level: float) -> float:
        return float(ndtri((1 + level) / 2)) * t_widening(self.df, level)

    def fieller(self, level: float = 0.95) -> Fieller:
        return fieller_set(self.n, self.d, self.v_nn, self.v_dd, self.v_nd, self.quantile(level))


@dataclass(frozen=True)
class EmergenceScore:
    """The score against one floor, with every interval and its reasons for caution.

    Attributes:
        floor: ``random_frozen`` (primary) or ``random_full``.
        score: The headline. nan, with a flag, where it is undefined; its interval then is Fieller's set.
        raw: n/d whatever the denominator (nan for 0), never to be quoted without the flags.
        delta: Delta-method interval, for comparison.
        fieller: Fieller's set, for comparison or, where the denominator is weak, as the headline.
        above_floor: F − R. headroom: U − R, the denominator.
        bad_denominators: Share of bootstrap draws with U − R ≤ 0; nan without a bootstrap.
        flags: The flags of :func:`score_flags`, and those of ``score``.
    """

    floor: str
    score: Estimate
    raw: float
    delta: Estimate
    fieller: Fieller
    above_floor: Estimate
    headroom: Estimate
    bad_denominators: float
    flags: tuple[str, ...]

    @property
    def is_meaningful(self) -> bool:
        """Whether there is enough between floor and full finetuning to have a share of."""
        return "headroom_small" not in self.flags

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return plain(vars(self) | {"fieller": {**vars(self.fieller), "text": self.fieller.describe()}})


def _score(resamples: Resamples, floor: str, level: float) -> EmergenceScore:
    def above_floor(m: Mapping[str, FloatArray]) -> FloatArray:
        return np.asarray(m[FROZEN] - m[floor])

    def headroom(m: Mapping[str, FloatArray]) -> FloatArray:
        return np.asarray(m[FULL] - m[floor])

    def ratio(m: Mapping[str, FloatArray]) -> FloatArray:
        d = headroom(m)
        return np.divide(above_floor(m), d, out=np.full(d.shape, np.nan), where=d != 0)

    n_seeds = min(len(resamples.table.seed_labels[c]) for c in (FROZEN, FULL, floor))
    boot = replace(interval(resamples, ratio, level), n_seeds=n_seeds)
    n, d = statistic_draws(resamples, above_floor), statistic_draws(resamples, headroom)
    moments = _moments(n, d, statistic_draws(resamples, lambda m: above_floor(m) - headroom(m)), level)
    bad = float((d.draws <= 0).mean())
    fieller = moments.fieller(level)
    flags = score_flags(moments, fieller, n_seeds, level)
    score = _headline(boot, moments, fieller, bad, flags)
    half = moments.quantile(level) * moments.se
    return EmergenceScore(
        floor=floor,
        score=score,
        raw=moments.raw,
        delta=replace(
            score,
            point=moments.raw,
            lo=moments.raw - half,
            hi=moments.raw + half,
            method="delta",
            se=moments.se,
            df=moments.df,
        ),
        fieller=fieller,
        above_floor=replace(interval_of_draws(resamples.table, n, level), n_seeds=n_seeds),
        headroom=replace(interval_of_draws(resamples.table, d, level), n_seeds=n_seeds),
        bad_denominators=bad,
        flags=tuple(dict.fromkeys((*score.flags, *flags))),
    )


def _moments(n: StatisticDraws, d: StatisticDraws, gap: StatisticDraws, level: float) -> RatioMoments:
    """Variances of n and d, and their covariance from that of n − d."""
    bound = math.sqrt(n.variance * d.variance)  # estimates of three variances need not agree exactly
    v_nd = min(max((n.variance + d.variance - gap.variance) / 2, -bound), bound)
    return RatioMoments(n.point, d.point, n.variance, d.variance, v_nd, min(n.df(level), d.df(level)))


def score_flags(moments: RatioMoments, fieller: Fieller, n_seeds: int, level: float) -> list[str]:
    """Reasons for caution with n/d (docs/methods.md#emergence-score)."""
    flags = []
    if moments.d <= 0:
        flags.append("denominator_not_positive")
    elif moments.d < moments.quantile(level) * math.sqrt(moments.v_dd):
        flags.append("denominator_uncertain")
    elif moments.raw < 0:
        flags.append("below_zero")
    elif moments.raw > 1:
        flags.append("above_one")
    if moments.d < MIN_HEADROOM or "denominator_uncertain" in flags:
        flags.append("headroom_small")
    if fieller.kind in ("unbounded", "complement", "half_line"):
        flags.append(f"interval_{fieller.kind}")
    if n_seeds == 1:
        flags.append("single_seed")
    return flags


def _headline(boot: Estimate, moments: RatioMoments, fieller: Fieller, bad: float, flags: list[str]) -> Estimate:
    """The bootstrap's interval, or Fieller's set around an undefined or weak ratio."""
    undefined = {"denominator_not_positive", "denominator_uncertain"} & set(flags)
    if bad <= MAX_BAD_DENOMINATORS and not undefined:
        return replace(boot, point=moments.raw, flags=tuple(dict.fromkeys((*boot.flags, *flags))))
    lo, hi = fieller.lo, fieller.hi
    if fieller.kind == "complement":  # not an interval: the ends are in ``fieller``
        lo, hi = -math.inf, math.inf
    kept = tuple(flag for flag in boot.flags if flag.endswith(("few_clusters", "seed_variance_pooled")))
    point = math.nan if undefined else moments.raw
    return replace(
        boot, point=point, lo=lo, hi=hi, method="fieller", se=moments.se, df=moments.df, flags=(*kept, *flags)
    )


@dataclass(frozen=True)
class TwoByTwo:
    """All of one size's emergence claim: four cells, both scores, and what they leave open.

    Attributes:
        cells: Cell name to its mean score.
        seed_sd: Cell name to the SD over its seeds (nan for one).
        probe: S against the random trunk probed frozen: primary. None without that cell.
        scratch: S against the random trunk trained whole: the guide's. None without that cell.
        gap: g = U − F.
        pretraining_benefit: U − R_ft: what pretraining gives full finetuning. None without that cell.
        readable_benefit: F − R_pf: what pretraining gives the linear probe. None without that cell.
        interaction: (U − R_ft) − (F − R_pf): how much of the benefit needs trained weights. None unless all four.
    """

    cells: dict[str, Estimate]
    seed_sd: dict[str, float]
    probe: EmergenceScore | None
    scratch: EmergenceScore | None
    gap: Estimate
    pretraining_benefit: Estimate | None
    readable_benefit: Estimate | None
    interaction: Estimate | None


def two_by_two_table(
    scores: Mapping[str, ArrayLike],
    clusters: Sequence[Hashable] | NDArray[Any],
    seed_labels: Mapping[str, Sequence[str]] | None = None,
) -> ClusterTable:
    """Per-question scores of the cells (names from ``CELLS``), (N,) or (S, N), on the same N questions.

    Equal labels in the two pretrained cells mean the same pretraining (by default the s-th seed of each), so that
    what it does to both goes together; one may have more seeds than the other. Random cells share none.
    """
    unknown = set(scores) - set(CELLS)
    if unknown or not {FULL, FROZEN} <= set(scores):
        raise ValueError(f"cells must include {FULL} and {FROZEN} and be of {CELLS}, got {sorted(scores)}")
    return cells_table(scores, clusters, seed_labels)


def cells_table(
    scores: Mapping[str, ArrayLike],
    clusters: Sequence[Hashable] | NDArray[Any],
    seed_labels: Mapping[str, Sequence[str]] | None = None,
) -> ClusterTable:
    """:func:`two_by_two_table` of whatever cells there are, as a peer of another size may lack some."""
    labels = {}
    for name, values in scores.items():
        prefix = "pretrained" if name in (FULL, FROZEN) else name
        given = (seed_labels or {}).get(name, [str(s) for s in range(len(np.atleast_2d(np.asarray(values))))])
        labels[name] = [f"{prefix}:{label}" for label in given]
    return ClusterTable.from_questions(scores, clusters, labels)


def analyse_two_by_two(
    table: ClusterTable,
    *,
    n_boot: int = N_BOOT,
    seed: int = 0,
    level: float = 0.95,
    peers: Sequence[ClusterTable] = (),
) -> TwoByTwo:
    """Both scores, the gap, the benefits and their interaction, all on the same resamples.

    Args:
        table: From :func:`two_by_two_table`; the random cells may be absent, and so are then their parts.
        peers: The same of other model sizes, which help to tell the variance over seeds (``seed_variance_pooled``).
    """
    resamples = Resamples.draw(table, n_boot, seed, peers)
    present = [c for c in CELLS if c in table.rows]

    def combine(signs: Mapping[str, float]) -> Estimate | None:
        """The interval of a signed sum of cells; None where a cell is absent."""
        if not set(signs) <= set(present):
            return None
        n_seeds = min(len(table.seed_labels[c]) for c in signs)
        total = interval(resamples, lambda m: np.asarray(sum(sign * m[c] for c, sign in signs.items())), level)
        return replace(total, n_seeds=n_seeds)

    gap = combine({FULL: 1, FROZEN: -1})
    assert gap is not None  # both cells are required by two_by_two_table
    return TwoByTwo(
        cells={c: replace(interval(resamples, column(c), level), n_seeds=len(table.seed_labels[c])) for c in present},
        seed_sd={c: _sd(table.seed_means(c)) for c in present},
        probe=_score(resamples, RANDOM_FROZEN, level) if RANDOM_FROZEN in present else None,
        scratch=_score(resamples, RANDOM_FULL, level) if RANDOM_FULL in present else None,
        gap=gap,
        pretraining_benefit=combine({FULL: 1, RANDOM_FULL: -1}),
        readable_benefit=combine({FROZEN: 1, RANDOM_FROZEN: -1}),
        interaction=combine({FULL: 1, RANDOM_FULL: -1, FROZEN: -1, RANDOM_FROZEN: 1}),
    )


def _sd(seed_means: FloatArray) -> float:
    return float(seed_means.std(ddof=1)) if len(seed_means) > 1 else math.nan
