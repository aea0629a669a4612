"""The emergence law: where a score starts to rise, as a function of how much a model was finetuned (Snell et al. 2024).

The score of run i is A·max(E(D_i) − L_i, 0) + B + Δ·f_i. L is the pretraining loss, D the finetuning amount, f marks
few-shot rows, which stand at the amount D_0. The elbow E(D) = k·(ln D)^α + C rises with D (``power``: k·D^α + C). The
law's answer is E_0 = E(D_0), so E_0, E(D_max) and α are its parameters here: E(D) is linear in the two elbows, and A, B
and Δ are linear given all three. So the linear ones are projected out, and a fit is a search in three dimensions, for
many bootstrap draws at once (docs/laws.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize

from emergence.measures.resampling import FloatArray
from emergence.measures.simplex import IntArray, minimise

LawForm = Literal["log_power", "power", "nofewshot"]
BoolArray = NDArray[np.bool_]

#: Where elbows are sought, in ranges of the observed losses below the lowest and above the highest.
_BELOW, _ABOVE = 3.0, 0.5
#: Bounds of α of the elbow's law.
ALPHA_BOUNDS: dict[str, tuple[float, float]] = {"log": (0.1, 8.0), "power": (0.01, 3.0)}
_N_ALPHA, _N_ELBOWS, _N_TARGETS = 7, 18, 14
#: The best places of the grid, of different α, from which a search goes on.
_N_STARTS = 3


@dataclass(frozen=True, eq=False)
class LawData:
    """Runs that a law is fitted to, (n,) each.

    Attributes:
        loss: Pretraining loss, in any one unit. amount: Finetuning amount, 2 or more. score: Higher is better.
        fewshot: Rows without finetuning, which stand at D_0 whatever their amount.
        checkpoint: Code of the pretrained model; its runs share an error.
        draw: Code of the draw of finetuning data; its runs share an error, too. −1 for few-shot rows.
        weight: Inverse variances up to a factor, with mean 1.
    """

    loss: FloatArray
    amount: FloatArray
    score: FloatArray
    fewshot: BoolArray
    checkpoint: IntArray
    draw: IntArray
    weight: FloatArray

    @classmethod
    def of(
        cls,
        loss: ArrayLike,
        amount: ArrayLike,
        score: ArrayLike,
        *,
        fewshot: ArrayLike | None = None,
        checkpoint: ArrayLike | None = None,
        draw: ArrayLike | None = None,
        se: ArrayLike | None = None,
    ) -> LawData:
        """Checkpoints are told apart by their loss where no names are given, draws by their amount.

        Raises:
            ValueError: numbers that are not finite, amounts below 2, a standard error ≤ 0.
        """
        x, d, y = (np.asarray(v, dtype=np.float64) for v in (loss, amount, score))
        few = np.zeros(len(x), dtype=bool) if fewshot is None else np.asarray(fewshot, dtype=bool)
        if not (np.isfinite(x).all() and np.isfinite(d).all() and np.isfinite(y).all()):
            raise ValueError("losses, amounts and scores must be finite")
        if (d[~few] < 2).any():
            raise ValueError("finetuning amounts must be 2 or more")
        weight = np.ones(len(x))
        if se is not None:
            errors = np.asarray(se, dtype=np.float64)
            if not (errors > 0).all():
                raise ValueError("standard errors must be above 0")
            weight = 1 / errors**2
        names = x if checkpoint is None else np.asarray(checkpoint)
        draws = np.zeros(len(x)) if draw is None else np.asarray(draw)
        _, codes = np.unique(names, return_inverse=True)
        drawn = np.unique(np.stack([d, np.unique(draws, return_inverse=True)[1]]), axis=1, return_inverse=True)[1]
        return cls(x, d, y, few, codes, np.where(few, -1, drawn.reshape(-1)), weight / weight.mean())

    def __len__(self) -> int:
        return len(self.loss)

    def rows(self, keep: BoolArray | IntArray) -> LawData:
        """Some of the rows."""
        return LawData(**{name: values[keep] for name, values in vars(self).items()})

    def scored(self, score: FloatArray) -> LawData:
        """The same runs with other scores (n,)."""
        return replace(self, score=score)

    @property
    def amounts(self) -> FloatArray:
        """Finetuning amounts, rising, without those of few-shot rows."""
        return np.unique(self.amount[~self.fewshot])

    @property
    def draw_order(self) -> IntArray:
        """(n,) which draw of its amount each row has, from 0 on; −1 for few-shot rows."""
        order = np.full(len(self), -1)
        for amount in self.amounts:
            mine = ~self.fewshot & (self.amount == amount)
            order[mine] = np.unique(self.draw[mine], return_inverse=True)[1]
        return order


class LawModel:
    """The design of a law for one set of runs, all but their scores.

    Attributes:
        data: The runs that take part: without the few-shot rows for ``nofewshot``.
        groups: Indices of finetuned and, if there are any, of few-shot rows: each has a level of its own.
        level: Which of ``data.amounts`` each row has, or for few-shot rows their number.
        lowest, highest: Bounds of elbows. alpha: Bounds of α.
    """

    def __init__(self, data: LawData, form: LawForm, target: float) -> None:
        """``target`` is D_0.

        Raises:
            ValueError: D_0 ≤ 1, or not below the largest amount; fewer than three amounts.
        """
        self.form: LawForm = form
        self.target = target
        self.data = data = data.rows(~data.fewshot) if form == "nofewshot" else data
        if len(data.amounts) < 3:
            raise ValueError("a law needs at least three amounts")
        if not 1 < target < data.amounts[-1]:
            raise ValueError("D_0 must be above 1 and below the largest amount")
        scale = (lambda d: d) if form == "power" else np.log
        most = scale(data.amounts[-1])
        self._ratio = scale(np.append(data.amounts, target)) / most  # the last is D_0
        self.level = np.where(data.fewshot, len(data.amounts), np.searchsorted(data.amounts, data.amount))
        self.groups = [np.flatnonzero(rows) for rows in (~data.fewshot, data.fewshot) if rows.any()]
        span = float(np.ptp(data.loss))
        self.lowest, self.highest = float(data.loss.min()) - _BELOW * span, float(data.loss.max()) + _ABOVE * span
        self.alpha = ALPHA_BOUNDS["power" if form == "power" else "log"]
        self._log_alpha = np.log(self.alpha)

    @property
    def n_parameters(self) -> int:
        """Elbows, α, slope, base, and Δ where there are few-shot rows."""
        return 4 + len(self.groups)

    def elbows(self, theta: FloatArray) -> FloatArray:
        """E at each amount and, last, at D_0: (..., J + 1) for θ = (E_0, E_max, ln α) (..., 3)."""
        alpha = np.exp(theta[..., 2:3])
        power = self._ratio**alpha
        share = (power - power[..., -1:]) / (1.0 - power[..., -1:])
        return np.asarray(theta[..., :1] + (theta[..., 1:2] - theta[..., :1]) * share)

    def hinge(self, theta: FloatArray) -> FloatArray:
        """max(E(D) − L, 0) of each run (..., n)."""
        return np.maximum(self.elbows(theta)[..., self.level] - self.data.loss, 0.0)

    def centre(self, values: FloatArray, weight: FloatArray) -> FloatArray:
        """Rows (..., n) without base and Δ: less the weighted mean over finetuned rows, and over few-shot rows."""
        out = np.empty(np.broadcast_shapes(values.shape, weight.shape))
        for rows in self.groups:
            part, w = values[..., rows], weight[..., rows]
            out[..., rows] = part - (part * w).sum(axis=-1, keepdims=True) / w.sum(axis=-1, keepdims=True)
        return out

    def clip(self, theta: FloatArray) -> FloatArray:
        """The nearest θ that is allowed: within bounds, and rising elbows."""
        out = np.empty_like(theta)
        lowest, highest = self._log_alpha
        # What np.clip gives, which takes five times as long for so few values, and every step of a search asks.
        out[..., 0] = np.minimum(np.maximum(theta[..., 0], self.lowest), self.highest)
        out[..., 1] = np.minimum(np.maximum(theta[..., 1], out[..., 0]), self.highest)
        out[..., 2] = np.minimum(np.maximum(theta[..., 2], lowest), highest)
        return out

    def rss(self, theta: FloatArray, centred: FloatArray, weight: FloatArray) -> FloatArray:
        """Squares (R,) left of centred scores (R, n) by θ (R, 3), from residuals, so that they are exact near 0."""
        phi = self.centre(self.hinge(self.clip(theta)), weight)
        square = (weight * phi * phi).sum(axis=1)
        moment = np.maximum((weight * phi * centred).sum(axis=1), 0.0)
        slope = np.divide(moment, square, out=np.zeros_like(moment), where=square > 1e-20)
        rest = centred - slope[:, None] * phi
        return np.asarray((weight * rest * rest).sum(axis=1))

    def _gains(self, places: FloatArray, scores: FloatArray, weight: FloatArray) -> FloatArray:
        """Squares (G, R) that the laws at places (G, 3) take off those of scores (R, n), by products of matrices."""
        phi = self.hinge(self.clip(places))
        square, moment = (phi * phi) @ weight.T, phi @ (weight * scores).T
        for rows in self.groups:
            w, part = weight[:, rows], phi[:, rows] @ weight[:, rows].T
            square = square - part**2 / w.sum(axis=1)
            moment = moment - part * (w * scores[:, rows]).sum(axis=1) / w.sum(axis=1)
        real = square > 1e-12
        return np.divide(np.maximum(moment, 0.0) ** 2, square, out=np.zeros_like(moment), where=real)

    def grid(self, target: float | None) -> list[FloatArray]:
        """For each α places (G, 3) to look at, all with E_0 = ``target`` if it is given."""
        low, span = float(self.data.loss.min()), float(np.ptp(self.data.loss))
        tops = np.linspace(low, self.highest, _N_ELBOWS)
        bottoms = np.linspace(low - span, low + span, _N_TARGETS) if target is None else np.array([target])
        e0, top = (axis.ravel() for axis in np.meshgrid(bottoms, np.append(tops, bottoms[-1]), indexing="ij"))
        e0, top = e0[top >= e0], top[top >= e0]
        least, most = self.alpha
        logs = np.log(np.geomspace(least, most, _N_ALPHA + 2)[1:-1])
        return [np.stack([e0, top, np.full(len(e0), log)], axis=1) for log in logs]

    def search(
        self, scores: FloatArray, fixed: FloatArray | None = None, counts: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """The best θ (R, 3) and its squares (R,) for each row of scores (R, n).

        Args:
            fixed: E_0 of each row (R,), or one for all (1,), which is then not searched for.
            counts: How often each run was drawn (R, n), for bootstraps that draw runs.
        """
        weight = np.broadcast_to(self.data.weight if counts is None else self.data.weight * counts, scores.shape)
        centred = self.centre(scores, weight)
        starts = self._starts(scores, weight, fixed)
        which = np.repeat(np.arange(len(scores)), _N_STARTS)
        span = float(np.ptp(self.data.loss))
        if fixed is None:
            step = np.array([0.05 * span, 0.05 * span, 0.2])
            found, values = minimise(lambda t, at: self.rss(t, centred[which[at]], weight[which[at]]), starts, step)
        else:
            e0 = np.broadcast_to(fixed, (len(scores),))[which]

            def restricted(free: FloatArray, at: IntArray) -> FloatArray:
                rows = which[at]
                return self.rss(np.column_stack([e0[at], free]), centred[rows], weight[rows])

            free, values = minimise(restricted, starts[:, 1:], np.array([0.05 * span, 0.2]))
            found = np.column_stack([e0, free])
        best = np.arange(len(scores)) * _N_STARTS + values.reshape(-1, _N_STARTS).argmin(axis=1)
        return self.clip(found[best]), values[best]

    def _starts(self, scores: FloatArray, weight: FloatArray, fixed: FloatArray | None) -> FloatArray:
        """The best places of the grid for each row, of different α, (R·S, 3)."""
        every = np.arange(len(scores))
        groups: list[tuple[IntArray, float | None]] = [(every, None if fixed is None else float(fixed[0]))]
        if fixed is not None and len(fixed) > 1:
            groups = [(every[r : r + 1], float(fixed[r])) for r in every]
        starts = np.empty((len(scores), _N_STARTS, 3))
        for rows, e0 in groups:
            found, gains = [], []
            for places in self.grid(e0):
                gain = self._gains(places, scores[rows], weight[rows])
                found.append(places[gain.argmax(axis=0)])
                gains.append(gain.max(axis=0))
            order = np.argsort(-np.array(gains), axis=0, kind="stable")[:_N_STARTS]  # (S, rows)
            starts[rows] = np.array(found)[order, np.arange(len(rows))].swapaxes(0, 1)
        return starts.reshape(-1, 3)


@dataclass(frozen=True, eq=False)
class LawFit:
    """The best law.

    Attributes:
        theta: (3,) E_0, E at the largest amount, ln α. slope, base, shift: A, B and Δ (0 without few-shot rows).
        rss: Weighted squares that are left. fitted: (n,) the law at each run of ``model.data``.
    """

    model: LawModel
    theta: FloatArray
    slope: float
    base: float
    shift: float
    rss: float
    fitted: FloatArray

    @property
    def elbow(self) -> float:
        """E_0."""
        return float(self.theta[0])

    @property
    def alpha(self) -> float:
        return float(np.exp(self.theta[2]))

    @property
    def elbows(self) -> FloatArray:
        """E at each amount of ``model.data.amounts``."""
        return self.model.elbows(self.theta)[:-1]

    @property
    def constants(self) -> tuple[float, float]:
        """k and C of E(D) = k·(ln D)^α + C, or k·D^α + C."""
        most = self.model.data.amounts[-1]
        ends = np.array([self.model.target, most])
        low, high = (ends if self.model.form == "power" else np.log(ends)) ** self.alpha
        k = float((self.theta[1] - self.theta[0]) / (high - low))
        return k, float(self.theta[0] - k * low)


def fit_law(model: LawModel) -> LawFit:
    """Least squares: a grid, many starts, a polish to rounding."""
    score = model.data.score
    weight = model.data.weight[None]
    centred = model.centre(score[None], weight)
    theta, value = model.search(score[None])
    best, least = theta[0], float(value[0])
    size = np.array([0.01 * float(np.ptp(model.data.loss))] * 2 + [0.05])
    for _ in range(3):  # a simplex may have collapsed
        corners = np.vstack([best, best + np.diag(size)])
        options = {"initial_simplex": corners, "xatol": 1e-11, "fatol": 1e-13 * least + 1e-32, "maxiter": 400}
        polished = minimize(
            lambda t: float(model.rss(t[None], centred, weight)[0]), best, method="Nelder-Mead", options=options
        )
        if polished.fun <= least:
            best, least = model.clip(polished.x), float(polished.fun)
        size = size / 30
    return law_at(model, best)


def law_at(model: LawModel, theta: FloatArray) -> LawFit:
    """The law with these elbows and α, and the best slope, base and Δ."""
    data, hinge = model.data, model.hinge(theta)
    phi, centred = (model.centre(values, data.weight) for values in (hinge, data.score))
    square = float(data.weight @ phi**2)
    slope = max(0.0, float(data.weight @ (phi * centred)) / square) if square > 1e-20 else 0.0
    levels = [float(np.average((data.score - slope * hinge)[r], weights=data.weight[r])) for r in model.groups]
    shift = levels[1] - levels[0] if len(levels) > 1 else 0.0
    fitted = slope * hinge + levels[0] + shift * data.fewshot
    rss = float(data.weight @ (data.score - fitted) ** 2)
    return LawFit(model, theta, slope, levels[0], shift, rss, fitted)
