"""Are the questions of one predicate answered together? Tuples of roles, and the curve of Arora and Goyal.

Of a predicate's m questions s are right, so C(s, k) of its C(m, k) tuples of k are. Were answers independent, the share
p_k would be p_1^k: a later, sharper rise for larger k is expected without any emergence. So the association
A_k = p_k / p_1^k is told, against answers permuted within role and sentence length, and against predicates that differ
in difficulty alone (docs/laws.md#skills).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import comb

from emergence.measures.resampling import FloatArray
from emergence.measures.simplex import IntArray

#: Tuples below which nothing is said of their size.
LEAST_TUPLES = 200
N_NULL, N_BOOT = 999, 2_000
#: Sentences are taken apart by length into so many equal parts.
_N_LENGTHS = 3


@dataclass(frozen=True, eq=False)
class RoleAnswers:
    """Answers (N,), ordered by predicate.

    Attributes:
        right: 1 or 0. role: Code of what is asked for. stratum: Code of role, sentence length, and whether the
            predicate has 1, 2 or more questions.
        starts: (V,) where each predicate begins. m: (V,) its questions. sentence: (V,) code of its sentence.
    """

    right: FloatArray
    role: IntArray
    stratum: IntArray
    starts: IntArray
    m: IntArray
    sentence: IntArray

    @classmethod
    def of(
        cls, right: ArrayLike, predicate: ArrayLike, role: ArrayLike, length: ArrayLike, sentence: ArrayLike
    ) -> RoleAnswers:
        """From one value for each question: right or not, names of predicate, role and sentence, words of the latter.

        Raises:
            ValueError: There is no question.
        """
        _, groups = np.unique(np.asarray(predicate), return_inverse=True)
        if not len(groups):
            raise ValueError("no questions")
        order = np.argsort(groups, kind="stable")
        starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
        roles = np.unique(np.asarray(role), return_inverse=True)[1][order]
        words = np.asarray(length, dtype=np.float64)[order]
        cuts = np.quantile(words, np.arange(1, _N_LENGTHS) / _N_LENGTHS)
        sentences = np.unique(np.asarray(sentence), return_inverse=True)[1][order]
        counts = np.diff(np.append(starts, len(order)))
        several = np.minimum(np.repeat(counts, counts), 3)
        stratum = (roles * _N_LENGTHS + np.searchsorted(cuts, words)) * 4 + several
        return cls(np.asarray(right, dtype=np.float64)[order], roles, stratum, starts, counts, sentences[starts])

    def sums(self, values: FloatArray) -> FloatArray:
        """Sums (..., V) over the questions (..., N) of each predicate."""
        return np.asarray(np.add.reduceat(values, self.starts, axis=-1))

    @property
    def all_right(self) -> float:
        """Share of predicates without a wrong answer."""
        return float((self.sums(self.right) == self.m).mean())


@dataclass(frozen=True)
class TupleRate:
    """Tuples of k questions of one predicate.

    Attributes:
        n, n_predicates: Tuples, and predicates that have them. p: Share of tuples that are right throughout.
        p1: Share of right answers, counted as the tuples count them. by_role: p_k, were answers independent given
            their roles.
        association, lo, hi: A_k with its 95% interval, sentences resampled.
        p_value: Of independence given role, sentence length and number of questions, by permutation, two-sided.
        by_difficulty: p_k of predicates that differ in difficulty alone (beta-binomial through p_1 and p_2).
    """

    k: int
    n: int
    n_predicates: int
    p: float
    p1: float
    by_role: float
    association: float
    lo: float
    hi: float
    p_value: float
    by_difficulty: float


def tuple_rates(
    answers: RoleAnswers, *, least: int = LEAST_TUPLES, n_null: int = N_NULL, n_boot: int = N_BOOT, seed: int = 0
) -> list[TupleRate]:
    """Tuples of 1, 2, ... questions, up to the size of which there are fewer than ``least``."""
    rng = np.random.default_rng(seed)
    right, m = answers.sums(answers.right), answers.m
    null = answers.sums(_permuted(answers, n_null, rng))
    n_sentences = int(answers.sentence.max()) + 1
    draws = rng.multinomial(n_sentences, np.full(n_sentences, 1 / n_sentences), size=n_boot).astype(np.float64)
    rates: list[TupleRate] = []
    for k in range(1, int(m.max()) + 1):
        n = int(comb(m, k).sum())
        if n < least:
            break
        p, p1, pair = (_share(right, m, j, k) for j in (k, 1, min(2, k)))
        chance = _share(null, m, k, k)
        tops, wholes = (_by_sentence(answers, *_parts(right, m, j, k), n_sentences) for j in (k, 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn = (draws @ tops[0] / (draws @ tops[1])) / (draws @ wholes[0] / (draws @ wholes[1])) ** k
        lo, hi = np.nanquantile(drawn, [0.025, 0.975]) if np.isfinite(drawn).any() else (math.nan, math.nan)
        rates.append(
            TupleRate(
                k=k,
                n=n,
                n_predicates=int((m >= k).sum()),
                p=float(p),
                p1=float(p1),
                by_role=_by_role(answers, k),
                association=float(p / p1**k) if p1 > 0 else math.nan,
                lo=float(lo),
                hi=float(hi),
                p_value=_two_sided(chance, float(p)),
                by_difficulty=beta_binomial(float(p1), float(pair), k),
            )
        )
    return rates


def _parts(right: FloatArray, m: IntArray, j: int, k: int) -> tuple[FloatArray, FloatArray]:
    """For each predicate j-tuples that are right, and all, each as often as a k-tuple of the predicate holds it."""
    weight = comb(m - j, k - j) * (m >= k)
    return comb(right, j) * weight, comb(m, j) * weight


def _share(right: FloatArray, m: IntArray, j: int, k: int) -> FloatArray:
    top, whole = _parts(right, m, j, k)
    return np.asarray(top.sum(axis=-1) / whole.sum())


def _by_sentence(answers: RoleAnswers, top: FloatArray, whole: FloatArray, n: int) -> tuple[FloatArray, FloatArray]:
    found = [np.asarray(np.bincount(answers.sentence, values, n), dtype=np.float64) for values in (top, whole)]
    return found[0], found[1]


def _permuted(answers: RoleAnswers, n: int, rng: np.random.Generator) -> FloatArray:
    """Answers (n, N) permuted within role and sentence length."""
    out = np.repeat(answers.right[None], n, axis=0)
    for code in np.unique(answers.stratum):
        mine = np.flatnonzero(answers.stratum == code)
        out[:, mine] = rng.permuted(out[:, mine], axis=1)
    return out


def _two_sided(null: FloatArray, value: float) -> float:
    tails = ((null >= value - 1e-12).sum(), (null <= value + 1e-12).sum())
    return float(min(1.0, 2 * (1 + min(tails)) / (1 + len(null))))


def _by_role(answers: RoleAnswers, k: int) -> float:
    """The mean over k-tuples of the product of their roles' shares of right answers, on predicates that have any."""
    rows = np.repeat(answers.m >= k, answers.m)
    counts = np.bincount(answers.role[rows], minlength=int(answers.role.max()) + 1)
    sums = np.bincount(answers.role[rows], answers.right[rows], len(counts))
    share = (sums / np.maximum(counts, 1))[answers.role]
    total = 0.0
    for start, m in zip(answers.starts, answers.m, strict=True):
        if m < k:
            continue
        symmetric = np.zeros(k + 1)  # elementary symmetric polynomials of the shares
        symmetric[0] = 1.0
        for p in share[start : start + m]:
            symmetric[1:] = symmetric[1:] + p * symmetric[:-1]
        total += symmetric[k]
    return float(total / comb(answers.m, k).sum())


def beta_binomial(p1: float, p2: float, k: int) -> float:
    """p_k of predicates whose difficulty has the beta distribution that p_1 and p_2 give; p_1^k where it has none."""
    if k < 2 or not 0 < p1 < 1 or p2 <= p1 * p1:
        return p1**k
    ratio = p2 / p1
    if ratio >= 1:
        return p1
    total = (1 - ratio) / (ratio - p1)
    i = np.arange(k)
    return float(np.prod((p1 * total + i) / (total + i)))


# Arora and Goyal 2023 --------------------------------------------------------------------------------


def _divergence(p: float, q: float) -> float:
    """KL of two coins in bits."""
    return sum(a * math.log2(a / b) for a, b in ((p, q), (1 - p, 1 - q)) if a > 0)


def failure_bound(theta: float, skills: float, alpha: float) -> tuple[float, bool]:
    """Whatever texts are failed, a share 1 − α of the skills fail in at most this share of theirs.

    The root β of kθ·KL(αβ‖α) = H(θ) gives βθ, at most 1. Where α is too large for a root, counting alone gives β = 1/α.

    Args:
        theta: Share of texts with an error, in (0, ½]. skills: k, skills of a text. alpha: In (0, 1).

    Returns:
        The share, and whether it is the one by counting.

    Raises:
        ValueError: An argument is out of range.
    """
    if not (0 < theta <= 0.5 and skills > 0 and 0 < alpha < 1):
        raise ValueError("theta is in (0, 1/2], skills above 0, alpha in (0, 1)")
    entropy = _divergence(theta, 0.5)
    rate = (1 - entropy) / (skills * theta)
    if math.log2(1 / alpha) <= rate:
        return min(1.0, theta / alpha), True
    beta = brentq(lambda b: _divergence(min(alpha * b, 1.0), alpha) - rate, 1.0, 1 / alpha, xtol=1e-13, rtol=1e-14)
    return min(1.0, float(beta) * theta), False


def joined_failure(theta: float, t: int) -> float:
    """θ of t texts joined, which holds the skills of all: 1 − (1 − θ)^t. Tuples of t skills have the curve at it."""
    return 1 - (1 - theta) ** t
