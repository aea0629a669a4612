"""Which units tell a role, how surely, and how few of them carry it (docs/methods.md#units).

A unit is chosen on half A of the words and reported on half B, because a unit that was chosen for its value on some
words has too high a value on those. Axes: n argument words, U units, R roles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve
from scipy.special import ndtr, ndtri

from emergence.measures.bootstrap import Estimate, seed_t_interval
from emergence.measures.variance_parts import t_widening

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

#: Expected share of false ones among the units that are called selective.
FALSE_DISCOVERIES = 0.05
#: Units that are ranked at a time, because ranks take several times the memory of activations.
_CHUNK = 4_096
#: A random unit stands for a chosen one if its activation size is among the nearest so many of its layer.
_NEAREST = 5
#: How often questions are halved, and the fewest sentences that are.
_HALVINGS, _FEWEST_CLUSTERS = 20, 4
#: Ridges of the probe of k units, as shares of the number of words. The units are standardised.
_RIDGES = (0.1, 1.0, 10.0)
#: A probe of all units that gains less than this over none tells nothing of how many it takes.
LEAST_GAIN = 0.05
#: The share of that gain which the best units must reach.
PROBE_SHARE = 0.9
#: Fewest seeds of a verdict, and fewest points of a seed whose order is tested.
LEAST_SEEDS, LEAST_POINTS = 3, 4
#: Changes within a factor of two over the whole range are none (log2).
NO_CHANGE = 1.0
MORE_DISTRIBUTED, MORE_CONCENTRATED = "more distributed", "more concentrated"
NO_TREND, UNDETERMINED = "no trend", "undetermined"


# Selectivity --------------------------------------------------------------------------------------


def without_confounds(values: npt.ArrayLike, confounds: npt.ArrayLike, in_a: BoolArray) -> FloatArray:
    """What least squares on half A leaves unexplained, on both halves.

    Args:
        values: (n, U) activations.
        confounds: (n, C) what must not explain them. A constant is added.
        in_a: (n,) half A, which the coefficients are fitted on.

    Returns:
        (n, U) residuals.
    """
    x = np.asarray(confounds, dtype=np.float64)
    design = np.column_stack([np.ones(len(x)), (x - x[in_a].mean(axis=0)) / np.maximum(x[in_a].std(axis=0), 1e-9)])
    y = np.asarray(values, dtype=np.float64)
    coefficients = np.linalg.lstsq(design[in_a], y[in_a], rcond=None)[0]  # (C + 1, U)
    left = y - design @ coefficients
    # What is explained to rounding has no order of its own.
    explained = np.abs(left).max(axis=0) <= 1e-9 * np.maximum(np.abs(y).max(axis=0), 1e-30)
    left[:, explained] = 0.0
    return np.asarray(left)


def roles_auc(ranks: FloatArray, labels: IntArray, n_roles: int) -> tuple[FloatArray, FloatArray]:
    """The probability that a word of a role has a higher activation than another word, ties counting half.

    Args:
        ranks: (n, U) ranks of every unit's activations over the words, ties by their mean.
        labels: (n,) role of each word, 0 to R - 1.

    Returns:
        (R, U) the AUC, and (R, U) its z of Mann and Whitney with the exact variance of tied ranks. A unit that is the
        same at all words has 0.5 and 0. A role without words, or without others, has nan.
    """
    n = len(labels)
    member = (labels[:, None] == np.arange(n_roles)).astype(np.float64)  # (n, R)
    ones = member.sum(axis=0)[:, None]  # (R, 1)
    others = n - ones
    spread = ((ranks - (n + 1) / 2) ** 2).sum(axis=0)  # (U,)
    with np.errstate(divide="ignore", invalid="ignore"):
        u = member.T @ ranks - ones * (ones + 1) / 2  # (R, U)
        auc = u / (ones * others)
        sd = np.sqrt(ones * others * spread / (n * (n - 1)))
        z = np.where(sd > 0, (u - ones * others / 2) / sd, 0.0)
    empty = (ones == 0) | (others == 0)
    return np.where(empty, np.nan, auc), np.where(empty, np.nan, z)


def benjamini_hochberg(p: npt.ArrayLike, q: float = FALSE_DISCOVERIES) -> BoolArray:
    """Which of the p-values (U,) are discoveries at false-discovery rate ``q`` (Benjamini and Hochberg 1995)."""
    values = np.nan_to_num(np.asarray(p, dtype=np.float64), nan=1.0)
    order = np.argsort(values, kind="stable")
    below = values[order] <= q * np.arange(1, len(values) + 1) / max(len(values), 1)
    found = np.zeros(len(values), dtype=np.bool_)
    if below.any():
        found[order[: int(np.flatnonzero(below)[-1]) + 1]] = True
    return found


@dataclass(frozen=True, eq=False)
class Selectivity:
    """How well each unit tells each role.

    Attributes:
        auc_a, auc_b: (R, U) AUC on half A, which chooses, and on half B, which reports.
        chosen: (R, U) discoveries on half A, in either direction.
        confirmed: (R, U) those of them that are discoveries on half B among the chosen, in the direction of half A.
    """

    auc_a: FloatArray
    auc_b: FloatArray
    chosen: BoolArray
    confirmed: BoolArray

    @property
    def reported(self) -> FloatArray:
        """(R, U) AUC on half B in the direction of half A: below 0.5 where the halves disagree."""
        side = np.where(self.auc_a < 0.5, -1.0, 1.0)
        return np.asarray(0.5 + side * (self.auc_b - 0.5))

    def order(self, role: int) -> IntArray:
        """(U,) the units by their distance from chance on half A, the farthest first."""
        return np.argsort(-np.abs(np.nan_to_num(self.auc_a[role], nan=0.5) - 0.5), kind="stable").astype(np.int64)


def select_units(
    values: npt.ArrayLike,
    labelings: Sequence[IntArray],
    in_a: BoolArray,
    n_roles: int,
    q: float = FALSE_DISCOVERIES,
) -> list[Selectivity]:
    """Choose units on half A and report them on half B, by each labeling of the words; they are ranked once.

    Args:
        values: (n, U) activations, or what confounds left of them.
        labelings: The role (n,) of each word, 0 to R - 1, and what else is to be told.
        in_a: (n,) half A.
    """
    from scipy.stats import rankdata  # half a second, which most tables and reports do without

    array = np.asarray(values)
    parts = []  # (chunk, half, labeling, 2, R, units of the chunk)
    for first in range(0, array.shape[1], _CHUNK):
        halves = []
        for rows in (in_a, ~in_a):
            ranks = rankdata(array[rows, first : first + _CHUNK], axis=0)
            halves.append([roles_auc(ranks, labels[rows], n_roles) for labels in labelings])
        parts.append(halves)
    of_a, of_b = np.concatenate(parts, axis=-1)
    return [selected(a[0], a[1], b[0], b[1], q) for a, b in zip(of_a, of_b, strict=True)]


def selected(
    auc_a: FloatArray, z_a: FloatArray, auc_b: FloatArray, z_b: FloatArray, q: float = FALSE_DISCOVERIES
) -> Selectivity:
    """What :func:`roles_auc` of the two halves, (R, U) each, allows to select."""
    chosen, confirmed = np.zeros(auc_a.shape, dtype=np.bool_), np.zeros(auc_a.shape, dtype=np.bool_)
    for role in range(len(auc_a)):
        chosen[role] = benjamini_hochberg(2 * ndtr(-np.abs(z_a[role])), q)
        at = np.flatnonzero(chosen[role])
        confirmed[role, at] = benjamini_hochberg(ndtr(-np.sign(z_a[role, at]) * z_b[role, at]), q)
    return Selectivity(auc_a, auc_b, chosen, confirmed)


def matched_units(units: IntArray, sizes: FloatArray, layers: IntArray, rng: np.random.Generator) -> IntArray:
    """As many other units, drawn among those of like activation size in the same layer.

    Args:
        units: (k,) units to be matched, which are never drawn.
        sizes: (U,) mean absolute activation. layers: (U,) block of each unit.

    Returns:
        (k,) different units. Where a layer has none left, another layer's nearest stand in; fewer than k where all
        units are taken.
    """
    free = np.ones(len(sizes), dtype=np.bool_)
    free[units] = False
    drawn: list[int] = []
    for unit in units:
        of_layer = np.flatnonzero((layers == layers[unit]) & free)
        pool = of_layer if len(of_layer) else np.flatnonzero(free)
        if not len(pool):
            break
        near = pool[np.argsort(np.abs(sizes[pool] - sizes[unit]), kind="stable")[:_NEAREST]]
        drawn.append(int(rng.choice(near)))
        free[drawn[-1]] = False
    return np.array(drawn, dtype=np.int64)


def widened(effect: Estimate, draws: Sequence[Sequence[float]]) -> Estimate:
    """An effect whose interval counts what another random set of units would differ by.

    The selected units could be one more random set, so the variance between sets counts 1 + 1/draws times. It is that
    within the draws of all cuts of one size, taken together, as Student's t.

    Args:
        effect: Random minus selected, with an interval over sentences. draws: F1 of the random sets of every cut.
    """
    df = sum(len(each) - 1 for each in draws)
    if df < 1:
        return replace(effect, lo=math.nan, hi=math.nan)
    pooled = math.sqrt(sum(float(np.var(each)) * len(each) for each in draws) / df * (1 + 1 / len(draws[0])))
    half = pooled * t_widening(df, effect.level) * float(ndtri((1 + effect.level) / 2))
    lo = effect.point - math.hypot(effect.point - effect.lo, half)
    return replace(effect, lo=lo, hi=effect.point + math.hypot(effect.hi - effect.point, half))


@dataclass(frozen=True)
class Overlap:
    """How many units two sets share, how many two random sets of these sizes would, and the chance of so many."""

    shared: float
    expected: float
    p: float


def overlap_of(one: Sequence[int], other: Sequence[int], per_block: Sequence[int]) -> Overlap:
    """The overlap of two sets of units against chance (hypergeometric within blocks, one-sided).

    Two networks choose from the same blocks without sharing a unit, so chance keeps how many each takes from each.

    Args:
        per_block: Units of each block, which are numbered block by block.
    """
    from scipy.stats import hypergeom  # half a second, which most tables and reports do without

    a, b = np.unique(np.asarray(one, dtype=np.int64)), np.unique(np.asarray(other, dtype=np.int64))
    ends = np.cumsum(per_block)
    of_a, of_b = (np.bincount(np.searchsorted(ends, set_, side="right"), minlength=len(ends)) for set_ in (a, b))
    chance = np.ones(1)  # of 0, 1, ... shared ones
    for n, k, m in zip(per_block, of_a, of_b, strict=True):
        chance = np.convolve(chance, hypergeom.pmf(np.arange(min(k, m) + 1), n, k, m))
    shared = len(np.intersect1d(a, b))
    expected = float((of_a * of_b / np.asarray(per_block)).sum())
    return Overlap(shared, expected, float(min(chance[shared:].sum(), 1.0)))


# Concentration ------------------------------------------------------------------------------------


def participation_ratio(attributions: npt.ArrayLike, clusters: npt.ArrayLike, seed: int = 0) -> float:
    """(sum |a|)^2 / sum a^2 of the units' mean attributions a: k where k units have equal ones and the others none.

    Noise of the means would count as units, the more the more units there are: 20 carriers among 1,536 units read 450
    by their means over 40 questions with half their size as noise. So the questions are halved: |a| is the mean over
    one half with the sign that it has on the other, a^2 the product of both, and in the square of the sum a unit's
    product with itself is that product, too. Then units of mean 0 add nothing on average (19 there).

    Args:
        attributions: (Q, U) of every question.
        clusters: (Q,) sentences of the questions; a sentence is in one half.
        seed: Of the halves, which are drawn :data:`_HALVINGS` times.

    Returns:
        The ratio; nan where there are fewer than four sentences, or where the units' means over the halves do not agree
        beyond chance (correlation below three standard errors, 3 / sqrt(U), or below one half of few units).
    """
    each = np.asarray(attributions, dtype=np.float64)
    of = np.unique(np.asarray(clusters), return_inverse=True)[1].reshape(-1)
    n_units, n_clusters = each.shape[1], int(of.max(initial=-1)) + 1
    if n_clusters < _FEWEST_CLUSTERS or n_units < 2:
        return math.nan
    rng, above, below, agreement = np.random.default_rng([0x9A, seed]), 0.0, 0.0, 0.0
    for _ in range(_HALVINGS):
        in_one = (rng.permutation(n_clusters) % 2 == 0)[of]
        one, other = each[in_one].mean(axis=0), each[~in_one].mean(axis=0)
        products = one * other
        sums = float((np.sign(one) * other).sum() * (np.sign(other) * one).sum())
        above += sums - float(np.abs(products).sum()) + float(products.sum())
        below += float(products.sum())
        both = float(one.std() * other.std())
        agreement += float(((one - one.mean()) * (other - other.mean())).mean()) / both if both > 0 else 0.0
    is_told = agreement / _HALVINGS >= min(3 / math.sqrt(n_units), 0.5)
    return above / below if is_told and above > 0 and below > 0 else math.nan


def rank_correlation(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Spearman's correlation; nan where one of the two does not vary."""
    from scipy.stats import spearmanr  # half a second, which most tables and reports do without

    a, b = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if len(a) < 3 or not np.ptp(a) > 0 or not np.ptp(b) > 0:
        return math.nan
    return float(spearmanr(a, b).statistic)


Curve = tuple[tuple[int, float], ...]


def fewest_units(value: Callable[[int], float], n_units: int, target: float) -> tuple[float, Curve]:
    """How many of the best units reach a value, tried at 1, 2, 4, ... until it is reached.

    Args:
        value: A function of k, the number of best units.
        target: What must be reached. With nan nothing is tried.

    Returns:
        The number, interpolated between the last two that were tried, with nan where even all units do not reach it;
        and what was tried.
    """
    tried: list[tuple[int, float]] = []
    if not math.isfinite(target):
        return math.nan, ()
    k = 1
    while True:
        tried.append((k, value(k)))
        if tried[-1][1] >= target:
            break
        if k >= n_units:
            return math.nan, tuple(tried)
        k = min(2 * k, n_units)
    if len(tried) == 1:
        return 1.0, tuple(tried)
    (low, below), (high, above) = tried[-2:]
    return low + (high - low) * (target - below) / (above - below), tuple(tried)


@dataclass(frozen=True, eq=False)
class UnitProbe:
    """Ridge probes that tell a role from the others by the activations of some units, fitted on half A.

    Attributes:
        values: (n, U) activations.
        in_a: (n,) half A.
    """

    values: npt.NDArray[np.floating]
    in_a: BoolArray

    @cached_property
    def _standard(self) -> npt.NDArray[np.floating]:
        mean, sd = self.values[self.in_a].mean(axis=0), self.values[self.in_a].std(axis=0)
        # What varies by rounding alone, as constant units do in float32, stays next to 0.
        return np.asarray((self.values - mean) / np.where(sd > 1e-5 * np.abs(mean) + 1e-12, sd, 1.0))

    @cached_property
    def _parts(self) -> tuple[IntArray, IntArray]:
        """Words of half A in two parts, which score each other."""
        a = np.flatnonzero(self.in_a)
        return a[: len(a) // 2], a[len(a) // 2 :]

    @cached_property
    def _alike_by_all(self) -> FloatArray:
        return self._alike_by(np.arange(self.values.shape[1]))

    def _alike_by(self, units: IntArray) -> FloatArray:
        """(n, words of half A) products of the words' activations of some units."""
        some = self._standard[:, units]
        return np.asarray(some @ some[self.in_a].T, dtype=np.float64)

    def base(self, is_role: BoolArray) -> float:
        """F1 on half B of calling every word the role, the best there is without any unit."""
        share = float(is_role[~self.in_a].mean())
        return 2 * share / (1 + share)

    def f1(self, units: IntArray, is_role: BoolArray) -> float:
        """F1 on half B of telling the words (n,) of a role by some units."""
        return self.curve(units, is_role, [len(units)])[0][1]

    def curve(self, order: IntArray, is_role: BoolArray, sizes: Sequence[int]) -> Curve:
        """:meth:`f1` of the first k units of an order, for each of the rising ``sizes`` k.

        Products of a few units are a part of those of more, and products of words by many units a sum of those by
        fewer, so each is computed once.
        """
        n_few = sum(k <= len(self._parts[0]) for k in sizes)
        return (
            *self._curve_by_units(order, is_role, sizes[:n_few]),
            *self._curve_by_words(order, is_role, sizes[n_few:]),
        )

    def _curve_by_units(self, order: IntArray, is_role: BoolArray, sizes: Sequence[int]) -> Iterator[tuple[int, float]]:
        """Solves for the units' weights, which are no more than the words."""
        if not sizes:
            return
        y, (one, other) = is_role.astype(np.float64), self._parts
        x = np.asarray(self._standard[:, order[: sizes[-1]]], dtype=np.float64)
        products = [x[part].T @ x[part] for part in (one, other)]
        products.append(products[0] + products[1])
        fitted = (one, other, np.concatenate([one, other]))
        targets = [x[part].T @ (y[part] - y[part].mean()) for part in fitted]
        for k in sizes:
            fits = [
                _ridge_scores(p[:k, :k], t[:k], len(part), x[:, :k], float(y[part].mean()))
                for p, t, part in zip(products, targets, fitted, strict=True)
            ]
            yield k, self._f1_of(fits, is_role)

    def _curve_by_words(self, order: IntArray, is_role: BoolArray, sizes: Sequence[int]) -> Iterator[tuple[int, float]]:
        """The same by way of the words, which are fewer than the units."""
        y, n_one = is_role.astype(np.float64), len(self._parts[0])
        alike, done = np.zeros((len(y), int(self.in_a.sum()))), 0
        for k in sizes:
            alike = self._alike_by_all if k == self.values.shape[1] else alike + self._alike_by(order[done:k])
            done = k
            fits = []
            for part in (slice(n_one), slice(n_one, None), slice(None)):  # of half A
                own = y[self.in_a][part]
                mean = float(own.mean())
                fits.append(_ridge_scores(alike[self.in_a][part, part], own - mean, len(own), alike[:, part], mean))
            yield k, self._f1_of(fits, is_role)

    def _f1_of(self, fits: Sequence[Callable[[float], FloatArray]], is_role: BoolArray) -> float:
        """F1 on half B by what was fitted on each part of half A and on all of it.

        Ridge and threshold are chosen on half A, on scores of each part of it by what the other part was fitted on,
        because many units fit the words that they are fitted on, whatever they tell.

        Args:
            fits: For each a function from a ridge to the scores (n,) of all words.
        """
        held = np.zeros((len(_RIDGES), len(is_role)))  # of half A alone
        for ridge, scores in zip(_RIDGES, held, strict=True):
            for fit, other in zip(fits[:2], self._parts[::-1], strict=True):
                scores[other] = fit(ridge)[other]
        a = self.in_a
        best = int(np.argmin([((scores[a] - is_role[a]) ** 2).mean() for scores in held]))
        threshold = _best_threshold(held[best, a], is_role[a])
        return _f1(fits[2](_RIDGES[best])[~a] >= threshold, is_role[~a])


def _ridge_scores(
    products: FloatArray, target: FloatArray, n: int, features: FloatArray, mean: float
) -> Callable[[float], FloatArray]:
    """A function from a ridge, as a share of ``n``, to scores of all words by weights that solve for ``target``."""

    def scores(ridge: float) -> FloatArray:
        damped = products + ridge * n * np.eye(len(products))
        return np.asarray(mean + features @ solve(damped, target, assume_a="pos"))

    return scores


def fewest_for_probe(probe: UnitProbe, is_role: BoolArray, order: IntArray) -> tuple[float, Curve, float]:
    """How many of the best units give the probe nine tenths of the most that any number of them gives it over none.

    The most, not what all give: a ridge probe of many units fits noise, and with units that tell nothing the F1 of all
    of them falls, and nine tenths of it would take ever fewer.

    Returns:
        The number, nan where no number gives much; what was tried; and the F1 of all units.
    """
    base = probe.base(is_role)
    sizes = [*(2**k for k in range(len(order).bit_length()) if 2**k < len(order)), len(order)]
    curve = probe.curve(order, is_role, sizes)
    gain = max(value for _, value in curve) - base
    if gain < LEAST_GAIN:
        return math.nan, curve, curve[-1][1]
    reached = dict(curve)
    n, _ = fewest_units(lambda k: reached[k], len(order), base + PROBE_SHARE * gain)
    return n, curve, curve[-1][1]


def _best_threshold(scores: FloatArray, positive: BoolArray) -> float:
    """The score from which on calling words positive has the highest F1."""
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(positive[order])
    f1 = 2 * hits / (np.arange(1, len(scores) + 1) + positive.sum())
    f1[:-1][ranked[:-1] == ranked[1:]] = -1.0  # no threshold parts words with the same score
    return float(ranked[int(np.argmax(f1))])


def _f1(called: BoolArray, positive: BoolArray) -> float:
    both = int(called.sum() + positive.sum())
    return 2 * float((called & positive).sum()) / both if both else math.nan


# Trends -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trend:
    """How a count of units goes with size or with training.

    Attributes:
        change: Change of log2 of the count over the whole range of x, the mean over seeds with Student's t.
        p: Two-sided, of Kendall's rank correlation within seeds; nan where no seed has four points.
    """

    change: Estimate
    p: float

    @property
    def direction(self) -> int | None:
        """1 for more units, -1 for fewer, 0 for no more than a factor of two either way; None if that is open."""
        found = self.change
        if not (math.isfinite(found.lo) and math.isfinite(found.hi)) or found.n_seeds < LEAST_SEEDS:
            return None
        if not self.p >= 0.05 and (found.lo > 0 or found.hi < 0):
            return 1 if found.lo > 0 else -1
        return 0 if found.lo > -NO_CHANGE and found.hi < NO_CHANGE else None


Series = tuple[npt.ArrayLike, npt.ArrayLike]


def trend_over(seeds: Sequence[Sequence[Series]], level: float = 0.95) -> Trend:
    """The trend of counts over x.

    Every part of a seed has a line of log2 of its counts, by least squares, and a seed's change is the mean over its
    parts. Points with nan are left out, and so are parts with fewer than two different x.

    Args:
        seeds: Of every seed its parts (a role each), with x and counts.
    """
    kept = [[part for part in map(_logs, parts) if len(np.unique(part[0])) > 1] for parts in seeds]
    every = [x for parts in kept for x, _ in parts]
    width = float(np.ptp(np.concatenate(every))) if every else math.nan
    changes = [float(np.mean([np.polyfit(x, y, 1)[0] * width for x, y in parts])) for parts in kept if parts]
    return Trend(seed_t_interval(changes, level), _kendall_p(kept))


def _logs(series: Series) -> tuple[FloatArray, FloatArray]:
    x, counts = (np.asarray(each, dtype=np.float64) for each in series)
    with np.errstate(divide="ignore", invalid="ignore"):
        y = np.log2(counts)
    rows = np.isfinite(x) & np.isfinite(y)
    return x[rows], y[rows]


def _kendall_p(seeds: Sequence[Sequence[tuple[FloatArray, FloatArray]]]) -> float:
    """Two-sided p of Kendall's S summed over seeds, by its normal approximation with a correction for continuity.

    The parts of a seed are counts of the same network, so their S is averaged and their variance is that of one.
    """
    s = variance = 0.0
    for parts in seeds:
        long = [(x, y) for x, y in parts if len(x) >= LEAST_POINTS]
        if long:
            s += float(np.mean([_kendall_s(x, y) for x, y in long]))
            variance += float(np.mean([len(x) * (len(x) - 1) * (2 * len(x) + 5) / 18 for x, _ in long]))
    if not variance > 0:
        return math.nan
    return float(min(1.0, 2 * ndtr(-max(abs(s) - 1, 0) / math.sqrt(variance))))


def _kendall_s(x: FloatArray, y: FloatArray) -> float:
    return float((np.sign(np.subtract.outer(x, x)) * np.sign(np.subtract.outer(y, y))).sum()) / 2


def verdict_of(trends: Sequence[Trend]) -> str:
    """``MORE_DISTRIBUTED``, ``MORE_CONCENTRATED``, ``NO_TREND`` or ``UNDETERMINED``: what all counts agree on."""
    directions = {trend.direction for trend in trends}
    if len(directions) != 1 or None in directions:
        return UNDETERMINED
    return {1: MORE_DISTRIBUTED, -1: MORE_CONCENTRATED, 0: NO_TREND}[directions.pop() or 0]
