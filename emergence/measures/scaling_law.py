"""Loss as a function of parameters and tokens, L(N, D) = E + A·N^(−α) + B·D^(−β), by Huber's loss on log L.

Hoffmann et al. 2022, as refitted by Besiroglu et al. 2024. The objective is 1,000 times the *sum* over runs, with its
gradient
in closed form: with the mean, or differences in place of the gradient, optimisers stop early at their default
tolerances and constants come out too sure (docs/laws.md). Starts come from variable projection: given α and β the rest
is linear.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize, nnls
from scipy.special import logsumexp

from emergence.measures.resampling import FloatArray
from emergence.wording import counted

#: Where Huber's loss on log L turns from squares to distances.
DELTA = 1e-3
_SCALE = 1e3
#: Exponents that are tried, and the starts that are followed.
_EXPONENTS = np.geomspace(0.05, 2.0, 14)
_N_STARTS = 10
#: Epochs after which repeated tokens are worth little (Muennighoff et al. 2023).
HALF_EPOCHS = 15.4
#: Different N that a law takes, and the condition number above which α and β cannot be told apart.
LEAST_SIZES = 5
MOST_CONDITION = 3e3


def effective_tokens(tokens: ArrayLike, unique: ArrayLike) -> FloatArray:
    """What D tokens are worth of which only U are different: U + U·R*·(1 − e^(−R/R*)), R = D/U − 1 repetitions."""
    d, u = (np.asarray(v, dtype=np.float64) for v in (tokens, unique))
    repeats = np.maximum(d / u - 1, 0.0)
    return np.where(d > u, u + u * HALF_EPOCHS * -np.expm1(-repeats / HALF_EPOCHS), d)


@dataclass(frozen=True)
class ScalingFit:
    """A fitted law.

    Attributes:
        e, a, b: E, A and B; ``b`` is 0 and ``beta`` nan where all runs have one D.
        objective: Sum of Huber's losses (without the factor 1,000).
        condition: Condition number of the residuals' Jacobian, columns scaled to length 1.
    """

    e: float
    a: float
    b: float
    alpha: float
    beta: float
    objective: float
    condition: float

    @property
    def has_tokens(self) -> bool:
        return self.b > 0

    def predict(self, params: ArrayLike, tokens: ArrayLike) -> FloatArray:
        """L at N and D, of one shape."""
        n, d = (np.asarray(v, dtype=np.float64) for v in (params, tokens))
        of_tokens = self.b * d**-self.beta if self.has_tokens else 0.0
        return np.asarray(self.e + self.a * n**-self.alpha + of_tokens)

    def optimal(self, compute: float) -> tuple[float, float, float]:
        """N, D and L of the least loss for C = 6·N·D."""
        total = self.alpha + self.beta
        g = (self.alpha * self.a / (self.beta * self.b)) ** (1 / total)
        n = g * (compute / 6) ** (self.beta / total)
        d = (compute / 6) ** (self.alpha / total) / g
        return n, d, float(self.predict(n, d))


def huber(rest: FloatArray) -> FloatArray:
    """r²/2 up to :data:`DELTA`, and its tangent beyond."""
    size = np.abs(rest)
    return np.where(size <= DELTA, 0.5 * rest**2, DELTA * (size - 0.5 * DELTA))


class ScalingData:
    """Runs to fit (n,): N, D and L, all above 0."""

    def __init__(self, params: ArrayLike, tokens: ArrayLike, loss: ArrayLike) -> None:
        """
        Raises:
            ValueError: fewer than five different N, numbers that are not finite and above 0.
        """
        self.params, self.tokens, self.loss = (np.asarray(v, dtype=np.float64) for v in (params, tokens, loss))
        for values in (self.params, self.tokens, self.loss):
            if not (np.isfinite(values).all() and (values > 0).all()):
                raise ValueError("parameters, tokens and losses must be finite and above 0")
        sizes = len(np.unique(self.params))
        if sizes < LEAST_SIZES:
            raise ValueError(f"{counted(sizes, 'size')}: a scaling law takes at least {LEAST_SIZES}")
        self.logs = [np.log(self.params)] + ([np.log(self.tokens)] if np.ptp(np.log(self.tokens)) > 1e-9 else [])
        self.target = np.log(self.loss)

    def __len__(self) -> int:
        return len(self.loss)

    def rows(self, keep: FloatArray) -> ScalingData:
        return ScalingData(self.params[keep], self.tokens[keep], self.loss[keep])

    def terms(self, x: FloatArray) -> FloatArray:
        """Logs of the law's terms (2 or 3, n) for x = (e, a, α[, b, β]): E, then that of N, then that of D."""
        rest = [x[1 + 2 * k] - x[2 + 2 * k] * log for k, log in enumerate(self.logs)]
        return np.stack([np.full(len(self), x[0]), *rest])

    def jacobian(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Residuals (n,) in log L, and their derivatives (n, P)."""
        terms = self.terms(x)
        total = logsumexp(terms, axis=0)
        shares = np.exp(terms - total)
        columns = [shares[0]]
        for k, log in enumerate(self.logs):
            columns += [shares[k + 1], -shares[k + 1] * log]
        return total - self.target, np.stack(columns, axis=1)

    def value(self, x: FloatArray, counts: FloatArray) -> tuple[float, FloatArray]:
        """1,000 times the sum of Huber's losses, and its gradient; ``counts`` (n,) of each run."""
        rest, jacobian = self.jacobian(x)
        slope = counts * np.clip(rest, -DELTA, DELTA)
        return _SCALE * float(counts @ huber(rest)), _SCALE * (slope @ jacobian)


def starts(data: ScalingData) -> list[FloatArray]:
    """The best places of a grid of exponents; the constants by non-negative least squares on relative errors."""
    found = []
    ones = np.ones(len(data))
    for alpha in _EXPONENTS:
        for beta in _EXPONENTS if len(data.logs) > 1 else [0.0]:
            exponents = [alpha, beta][: len(data.logs)]
            centred = [np.exp(-p * (log - log.mean())) for p, log in zip(exponents, data.logs, strict=True)]
            constants, left = nnls(np.stack([ones, *centred], axis=1) / data.loss[:, None], ones)
            logs = np.log(np.maximum(constants, 0.01 * data.loss.min()))
            x = [logs[0]]
            for p, log, c in zip(exponents, data.logs, logs[1:], strict=True):
                x += [c + p * log.mean(), p]
            found.append((float(left), np.array(x)))
    found.sort(key=lambda pair: pair[0])
    return [x for _, x in found[:_N_STARTS]]


def _descend(data: ScalingData, x: FloatArray, counts: FloatArray) -> tuple[float, FloatArray]:
    """L-BFGS in coordinates with centred logs, in which constants and exponents do not pull at each other."""
    means = np.array([log.mean() for log in data.logs])

    def outer(inner: FloatArray) -> FloatArray:
        x = inner.copy()
        x[1::2] += x[2::2] * means
        return x

    def value(inner: FloatArray) -> tuple[float, FloatArray]:
        f, gradient = data.value(outer(inner), counts)
        gradient[2::2] += gradient[1::2] * means
        return f, gradient

    inner = x.copy()
    inner[1::2] -= inner[2::2] * means
    options = {"maxiter": 2_000, "ftol": 1e-14, "gtol": 1e-9, "maxcor": 20}
    result = minimize(value, inner, jac=True, method="L-BFGS-B", options=options)
    return float(result.fun), outer(np.asarray(result.x))


def fit_scaling(data: ScalingData) -> ScalingFit:
    """The best law over all starts."""
    counts = np.ones(len(data))
    value, x = min((_descend(data, start, counts) for start in starts(data)), key=lambda pair: pair[0])
    value, x = min((value, x), _descend(data, x, counts), key=lambda pair: pair[0])
    return _named(x, value / _SCALE, condition_number(data, x))


def condition_number(data: ScalingData, x: FloatArray) -> float:
    """Of the Jacobian with columns of length 1; infinite where one is 0."""
    jacobian = data.jacobian(x)[1]
    length = np.linalg.norm(jacobian, axis=0)
    return float(np.linalg.cond(jacobian / length)) if (length > 0).all() else math.inf


def _named(x: FloatArray, objective: float, condition: float) -> ScalingFit:
    e, a, alpha = math.exp(x[0]), math.exp(x[1]), float(x[2])
    b, beta = (math.exp(x[3]), float(x[4])) if len(x) > 3 else (0.0, math.nan)
    return ScalingFit(e, a, b, alpha, beta, objective, condition)


def _vector(fit: ScalingFit) -> FloatArray:
    x = [math.log(fit.e), math.log(fit.a), fit.alpha]
    return np.array(x + ([math.log(fit.b), fit.beta] if fit.has_tokens else []))


def bootstrap_scaling(data: ScalingData, fit: ScalingFit, n_draws: int, rng: np.random.Generator) -> list[ScalingFit]:
    """Laws refitted, from the best one, to runs drawn with replacement."""
    draws = []
    for counts in rng.multinomial(len(data), np.full(len(data), 1 / len(data)), size=n_draws):
        value, x = _descend(data, _vector(fit), counts.astype(np.float64))
        draws.append(_named(x, value / _SCALE, math.nan))
    return draws


def separating_run(data: ScalingData, fit: ScalingFit) -> tuple[float, float, float]:
    """N, D and the condition number with it, of the one more run that would tell α and β best apart."""
    ends = [(float(v.min()), float(v.max())) for v in (data.params, data.tokens)]
    best = (math.nan, math.nan, math.inf)
    for n in (ends[0][0], ends[0][1]):
        for d in (ends[1][0], ends[1][1]):
            loss = float(fit.predict(n, d))
            more = ScalingData(*(np.append(v, w) for v, w in zip(_columns(data), (n, d, loss), strict=True)))
            condition = condition_number(more, _vector(fit))
            if condition < best[2]:
                best = (n, d, condition)
    return best


def _columns(data: ScalingData) -> tuple[FloatArray, FloatArray, FloatArray]:
    return data.params, data.tokens, data.loss


@dataclass(frozen=True)
class HeldOut:
    """A law of the runs with N up to ``below``, and how it predicts the larger ones.

    Attributes:
        n, n_above: Runs on either side. reach: Largest N that is predicted, in multiples of ``below``.
        error: Mean of |predicted / L − 1|. bias: Mean of predicted / L − 1.
    """

    below: float
    n: int
    n_above: int
    reach: float
    error: float
    bias: float


def rolling_hold_out(data: ScalingData, shares: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9)) -> list[HeldOut]:
    """Fit below, predict above, at these shares of the different sizes; cuts with too few runs below are left out."""
    sizes, found = np.unique(data.params), []
    for cut in dict.fromkeys(sizes[min(int(share * len(sizes)), len(sizes) - 1) - 1] for share in shares):
        low = data.params <= cut
        tokens = np.unique(data.tokens[low])
        is_enough = len(np.unique(data.params[low])) >= LEAST_SIZES and low.sum() > 2 * len(data.logs) + 1
        if not is_enough or low.all() or (len(data.logs) > 1 and len(tokens) < 2):
            continue
        fit = fit_scaling(data.rows(low))
        off = fit.predict(data.params[~low], data.tokens[~low]) / data.loss[~low] - 1
        reach = float(data.params.max() / cut)
        found.append(
            HeldOut(float(cut), int(low.sum()), int((~low).sum()), reach, float(abs(off).mean()), float(off.mean()))
        )
    return found
