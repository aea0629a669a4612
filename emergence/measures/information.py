"""Mutual information of paired states: four estimators, and what must hold before a value of one is believed.

Information is in nats here. A value comes with its ceiling, its standard error by two ways, the same estimate on halves
and quarters of the pairs, and an estimate on pairs that were shuffled, which must find nothing (docs/methods.md,
Information emergence).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh, solve_triangular, svd
from scipy.special import gammaln, logsumexp, ndtri, psi

from emergence.measures.bootstrap import Estimate
from emergence.measures.variance_parts import t_widening

FloatArray = npt.NDArray[np.float64]

#: Bits in a nat.
BITS = 1 / math.log(2)
#: Added noise as a share of the RMS of pooled states: the default, and others that show what it does to the value.
NOISE = 0.1
OTHER_NOISE = (0.03, 0.3)
#: Pairs that an estimate takes for each pooled dimension.
PAIRS_PER_DIMENSION = 20
#: Estimates that are refused or doubted lie this many standard errors off.
SHUFFLED_LIMIT, CONVERGED_LIMIT = 3.0, 2.0
#: The share of log K from which InfoNCE says little more than log K.
SATURATED = 0.8
#: The kNN estimator reads far too little in more dimensions than these.
KSG_DIMENSIONS = 3
REFUSED = "refused"
_BLOCKS = 4
_TEMPERATURES = (0.0, 0.05, 0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Information:
    """One estimate of mutual information, in nats.

    Attributes:
        value: The estimate; nan if the row is refused.
        se: Its standard error, nan where the estimator has none.
        ceiling: What no estimate from ``n`` pairs can certify to exceed: min(log n, the entropy of what is told).
        n: Pairs.
        blocks: The estimate on each of four disjoint quarters; empty for estimators without it.
        half, quarter: Mean estimate on halves and on quarters.
        shuffled, shuffled_se: The estimate with shuffled pairs.
        flags: ``refused`` (shuffled pairs show information), ``not_converged`` (halves or quarters are more than 2
            standard errors off), ``above_ceiling``, ``saturated``, ``se_disagrees`` (quarters vary twice as much as
            ``se`` says).
    """

    value: float
    se: float
    ceiling: float
    n: int
    blocks: tuple[float, ...] = ()
    half: float = math.nan
    quarter: float = math.nan
    shuffled: float = math.nan
    shuffled_se: float = math.nan
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Pooling:
    """A projection (D, r) on principal directions about a mean (D,)."""

    mean: FloatArray
    directions: FloatArray

    def of(self, states: npt.ArrayLike) -> FloatArray:
        """States (N, D) pooled to (N, r)."""
        return (np.asarray(states, dtype=np.float64) - self.mean) @ self.directions


def fit_pooling(states: npt.ArrayLike, dimensions: int, weights: FloatArray | None = None) -> Pooling:
    """The first principal directions of states (N, D), each counted ``weights`` (N,) times."""
    x = np.asarray(states, dtype=np.float64)
    share = np.full(len(x), 1 / len(x)) if weights is None else weights / weights.sum()
    mean = share @ x
    centred = x - mean
    covariance = (centred * share[:, None]).T @ centred
    d = len(mean)
    return Pooling(mean, eigh(covariance, subset_by_index=(d - min(dimensions, d), d - 1))[1][:, ::-1])


# Closed forms ------------------------------------------------------------------------------------


def gaussian_information(rho: float, dimensions: int = 1) -> float:
    """Mutual information of ``dimensions`` independent Gaussian pairs of correlation ``rho``."""
    return -0.5 * dimensions * math.log1p(-(rho**2))


def channel_information(power: float, noise: float, dimensions: int = 1) -> float:
    """Information through an additive Gaussian channel."""
    return 0.5 * dimensions * math.log1p(power / noise)


@lru_cache(maxsize=256)
def plug_in_bias(n: int, dx: int, dy: int) -> float:
    """How much too high the plug-in estimate of ``n`` Gaussian pairs is on average, exactly, at any correlation.

    The expected log determinant of a Wishart matrix is a sum of digammas; this is what of them does not cancel.
    """
    terms = psi((n - np.arange(1, dx + dy + 1)) / 2)
    return float(terms[:dx].sum() + terms[:dy].sum() - terms.sum()) / 2


@dataclass(frozen=True)
class ListEntropy:
    """Entropies of lists of distinct entities with a comma after each, all orders equally likely.

    Attributes:
        sequence: Of the whole list. micro: Mean over its tokens. Their difference is the information emergence of any
            network that keeps distinct lists distinct.
    """

    sequence: float
    micro: float


def list_entropy(entities: int, shots: int) -> ListEntropy:
    """Lists of ``shots`` of ``entities``."""
    return ListEntropy(float(gammaln(entities + 1) - gammaln(entities - shots + 1)), math.log(entities) / 2)


def ceiling_of(n: int, entropy: float | None = None) -> float:
    """What ``n`` samples can certify at most of something with this ``entropy``, if it is known."""
    return math.log(n) if entropy is None else min(math.log(n), entropy)


# Gaussian ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Moments:
    """Number of pairs, mean (dx + dy,) and scatter matrix: what a Gaussian estimate needs of them."""

    n: int
    mean: FloatArray
    scatter: FloatArray

    @classmethod
    def of(cls, pairs: FloatArray) -> _Moments:
        mean = pairs.mean(axis=0)
        centred = pairs - mean
        return cls(len(pairs), mean, centred.T @ centred)

    def __add__(self, other: _Moments) -> _Moments:
        n, apart = self.n + other.n, other.mean - self.mean
        between = np.outer(apart, apart) * (self.n * other.n / n)
        return _Moments(n, self.mean + apart * (other.n / n), self.scatter + other.scatter + between)

    def estimate(self, dx: int) -> tuple[float, float]:
        """Bias-corrected information and its standard error, √(Σρ²/n)."""
        rho = _Canonical.of(self.scatter, dx).rho
        bias = plug_in_bias(self.n, dx, len(self.mean) - dx)
        return float(-0.5 * np.log1p(-(rho**2)).sum() - bias), math.sqrt(float((rho**2).sum()) / self.n)


@dataclass(frozen=True, eq=False)
class _Canonical:
    """Canonical correlations ``rho`` (k,), and what the maps onto the canonical variables are made of."""

    rho: FloatArray
    lx: npt.NDArray[np.floating]
    ly: npt.NDArray[np.floating]
    u: FloatArray
    vt: FloatArray

    @classmethod
    def of(cls, scatter: FloatArray, dx: int) -> _Canonical:
        try:
            lx = np.linalg.cholesky(scatter[:dx, :dx])
            ly = np.linalg.cholesky(scatter[dx:, dx:])
        except np.linalg.LinAlgError:
            raise ValueError("a direction of these states is constant") from None
        cross = solve_triangular(lx, scatter[:dx, dx:], lower=True)
        cross = solve_triangular(ly, cross.T, lower=True).T
        u, rho, vt = svd(cross, full_matrices=False)
        return cls(np.minimum(rho, 1 - 1e-12), lx, ly, u, vt)

    def maps(self) -> tuple[FloatArray, FloatArray]:
        """(dx, k) and (dy, k), onto the canonical variables but for √n."""
        return (
            solve_triangular(self.lx, self.u, lower=True, trans="T"),
            solve_triangular(self.ly, self.vt.T, lower=True, trans="T"),
        )


def with_noise(states: FloatArray, share: float, rng: np.random.Generator) -> FloatArray:
    """States (N, r) with Gaussian noise of ``share`` of their RMS about the mean, the same in every direction."""
    if share == 0:
        return states
    rms = math.sqrt(float(states.var(axis=0).mean()))
    return states + share * rms * rng.standard_normal(states.shape)


def normal_scores(states: FloatArray) -> FloatArray:
    """Every column (N,) replaced by the normal quantiles of its ranks: information stays, heavy tails do not."""
    from scipy.stats import rankdata  # half a second, which most tables and reports do without

    ranks: FloatArray = rankdata(states, axis=0)
    scores: FloatArray = ndtri((ranks - 0.5) / len(states))
    return scores


def gaussian(
    x: FloatArray,
    y: FloatArray,
    *,
    noise: float = NOISE,
    ranks: bool = False,
    entropy: float | None = None,
    seed: int = 0,
) -> Information:
    """Information of N pairs if they were Gaussian, corrected for bias.

    Exact on average for Gaussian pairs at any N; for others it is what a linear reader finds.

    Args:
        x, y: (N, dx) and (N, dy).
        noise: Share of the RMS that is added to both sides as noise. It makes the information of a map finite, and for
            a map the value is mostly the noise.
        ranks: Whether every column is replaced by its normal scores first.
        entropy: In nats, of what the pairs tell of, if it is known.
        seed: Of noise and shuffling.

    Raises:
        ValueError: A quarter of the pairs is no more than dx + dy + 1, or states are constant.
    """
    n, dx = len(x), x.shape[1]
    rng = np.random.default_rng([seed, 0x6A])  # a stream of its own, lest noise repeat what pairs were drawn with
    if n // _BLOCKS <= dx + y.shape[1] + 1:
        raise ValueError(f"{n} pairs are too few for {dx} and {y.shape[1]} dimensions")
    if not (np.ptp(x, axis=0).any() and np.ptp(y, axis=0).any()):
        raise ValueError("these states are constant")
    if ranks:
        x, y = normal_scores(x), normal_scores(y)
    pairs = np.hstack([with_noise(x, noise, rng), with_noise(y, noise, rng)])
    moments = [_Moments.of(block) for block in np.array_split(pairs, _BLOCKS)]
    halves = [moments[0] + moments[1], moments[2] + moments[3]]
    value, se = (halves[0] + halves[1]).estimate(dx)
    quarters = [one.estimate(dx) for one in moments]
    apart = np.hstack([pairs[:, :dx], pairs[rng.permutation(n), dx:]])
    shuffled, shuffled_se = _Moments.of(apart).estimate(dx)
    half = float(np.mean([one.estimate(dx)[0] for one in halves]))
    blocks = tuple(value for value, _ in quarters)
    quarter = float(np.mean(blocks))
    # Independent pairs: an estimate varies as 1/n, so the mean of four quarters varies twice as much as the whole.
    widest = max(se, math.sqrt(sum(one**2 for _, one in quarters)) / _BLOCKS)
    ceiling = ceiling_of(n, entropy)
    found = {
        REFUSED: abs(shuffled) > SHUFFLED_LIMIT * shuffled_se,
        "not_converged": max(abs(half - value), abs(quarter - value)) > CONVERGED_LIMIT * widest,
        "above_ceiling": value > ceiling,
        "se_disagrees": block_se(blocks) > 2 * widest,
    }
    flags = tuple(flag for flag, holds in found.items() if holds)
    shown = math.nan if REFUSED in flags else value
    return Information(shown, se, ceiling, n, blocks, half, quarter, shuffled, shuffled_se, flags)


def block_se(blocks: Sequence[float]) -> float:
    """Standard error of the mean of equal blocks, by how they vary."""
    return float(np.std(blocks, ddof=1)) / math.sqrt(len(blocks))


# InfoNCE -----------------------------------------------------------------------------------------


def infonce(
    fitted: tuple[FloatArray, FloatArray], held_out: tuple[FloatArray, FloatArray], *, batch: int = 1024
) -> Information:
    """A lower bound on the information of N held-out pairs, whatever their distribution, that cannot exceed log K.

    The critic is the log density ratio of Gaussian pairs with the canonical correlations of half the fitted pairs,
    times the temperature that serves the other half best. The bound holds for any critic, so none is trained by
    gradient.

    Args:
        fitted, held_out: (x, y) of the pairs that the critic sees, and of those that the value is of.
        batch: K, among how many candidates the partner has to be found. Fewer held-out pairs are one batch.
    """
    x, y = fitted
    dx, middle = x.shape[1], len(x) // 2
    moments = _Moments.of(np.hstack([x[:middle], y[:middle]]))
    canonical = _Canonical.of(moments.scatter, dx)
    rho, (to_u, to_v) = canonical.rho, canonical.maps()
    scale = math.sqrt(moments.n)

    def batches(x: FloatArray, y: FloatArray, temperatures: Sequence[float]) -> FloatArray:
        """log K minus the cross-entropy of every batch, at every temperature: (temperatures, batches)."""
        size = min(batch, len(x))
        u = (x - moments.mean[:dx]) @ to_u * (scale * rho / (1 - rho**2))
        v = (y - moments.mean[dx:]) @ to_v * scale
        norms = 0.5 * (v**2) @ (rho**2 / (1 - rho**2))
        found = []
        for begin in range(0, len(x) - size + 1, size):
            rows = slice(begin, begin + size)
            scores = u[rows] @ v[rows].T - norms[rows]  # (K, K); what depends on x alone cancels
            found.append([math.log(size) - _cross_entropy(t * scores) for t in temperatures])
        return np.array(found).T

    chosen = int(batches(x[middle:], y[middle:], _TEMPERATURES).mean(axis=1).argmax())
    values = batches(*held_out, _TEMPERATURES[chosen : chosen + 1])[0]
    log_k, value = math.log(min(batch, len(held_out[0]))), float(values.mean())
    se = block_se(values.tolist()) if len(values) > 1 else math.nan
    flags = ("saturated",) if value > SATURATED * log_k else ()
    return Information(value, se, log_k, len(held_out[0]), flags=flags)


def _cross_entropy(scores: FloatArray) -> float:
    return float((logsumexp(scores, axis=1) - np.diagonal(scores)).mean())


# Nearest neighbours, usable information ----------------------------------------------------------


def ksg(x: FloatArray, y: FloatArray, *, k: int = 5, seed: int = 0) -> Information:
    """Information by k nearest neighbours (Kraskov et al. 2004), a check in few dimensions that assumes no shape.

    Raises:
        ValueError: There are more than 3 dimensions on a side, where it reads far too little.
        ImportError: infomeasure is not installed (the ``mi`` extra).
    """
    if max(x.shape[1], y.shape[1]) > KSG_DIMENSIONS:
        raise ValueError(f"nearest neighbours see too little beyond {KSG_DIMENSIONS} dimensions")
    import infomeasure

    def estimate(y: FloatArray) -> float:
        return float(infomeasure.mutual_information(x, y, approach="metric", k=k, noise_level=0))

    shuffled = estimate(y[np.random.default_rng(seed).permutation(len(y))])
    return Information(estimate(y), math.nan, math.log(len(x)), len(x), shuffled=shuffled)


def usable_information(
    without: npt.ArrayLike, with_states: npt.ArrayLike, clusters: Sequence[str], level: float = 0.95
) -> Estimate:
    """What states let a family of probes say of labels: H_V(label) - H_V(label | states) (Xu et al. 2020).

    Args:
        without, with_states: (N,) log-probabilities in nats that a probe of the family gives every held-out label,
            without states and with them.
        clusters: (N,) what each label belongs to. The interval is normal, over clusters.
    """
    gained = np.asarray(with_states, dtype=np.float64) - np.asarray(without, dtype=np.float64)
    of_cluster = np.unique(np.asarray(clusters), return_inverse=True)[1]
    sums = np.bincount(of_cluster, gained - gained.mean())
    c = len(sums)
    se = math.sqrt(float((sums**2).sum()) * c / (c - 1)) / len(gained) if c > 1 else math.nan
    return _with_interval(float(gained.mean()), se, math.inf, "delta", len(gained), c, 1, level)


# Differences -------------------------------------------------------------------------------------


def over_seeds(
    values: npt.ArrayLike, errors: npt.ArrayLike, n: int, level: float = 0.95, *, of_one: bool = False
) -> Estimate:
    """The mean of S values, one a seed, with an interval by Student's t.

    Its variance is the larger of two: that of the seeds (S - 1 degrees of freedom) and that within them, which quarters
    of the pairs tell (3 S). With one seed there is the second alone.

    Args:
        values, errors: (S,) of every seed, and its standard error. Seeds whose value is nan are left out.
        n: Pairs of one seed.
        of_one: Whether the question is if a fixed network could be one more draw of what differs by seed, and not
            what their mean is. Then the variance of the seeds is S + 1 times as large, and one seed has no interval.
    """
    every, each_error = np.asarray(values, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    kept = np.isfinite(every)
    told, se = every[kept], each_error[kept]
    s = len(told)
    if s == 0:
        return Estimate(math.nan, math.nan, math.nan, "none", n, n, 0, (REFUSED,), level)
    variance, df = float((se**2).mean()) / s, (_BLOCKS - 1.0) * s
    between = float(told.var(ddof=1)) / s * (s + 1 if of_one else 1) if s > 1 else 0.0
    if of_one and s == 1:
        variance = math.nan
    if between > variance:
        variance, df = between, s - 1.0
    return _with_interval(float(told.mean()), math.sqrt(variance), df, "t_seeds", n, n, s, level)


def _with_interval(
    point: float, se: float, df: float, method: str, n: int, n_clusters: int, n_seeds: int, level: float
) -> Estimate:
    half = se * t_widening(df, level) * float(ndtri((1 + level) / 2))
    return Estimate(point, point - half, point + half, method, n, n_clusters, n_seeds, (), level, se, df)
