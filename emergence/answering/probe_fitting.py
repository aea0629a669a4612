"""Fitting one probe on the cached states of one layer (docs/methods.md#probes).

- ``linear``, the headline: ONE linear layer from a word's state to its start and end logit. L-BFGS starts from zero at
  the strongest ridge and from the last optimum at the next, so there is no seed, and validation chooses the ridge. The
  loss is convex on single golds, but not quite on the sum over several, so the start must be fixed.
- ``bilinear``: a low-rank product of question states and word states. The linear probe can only find what the trunk
  has already routed to the word. This one asks whether the role is in the states at all.
- ``mlp``: one hidden layer on the word's state. It finds what the linear probe misses for being linear.

They are fitted on standardised states (:mod:`emergence.answering.probe_data`), to the golds of finetuning. The data may
carry an offset, logits that need no states. The probe is then added to the offset with one free scale for each
boundary, and reads what the states add (conditional probing, Hewitt et al. 2021).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor, nn

from emergence.answering.evaluate import QuickScores, quick_scores
from emergence.answering.features import Readout
from emergence.answering.finetune import schedule
from emergence.answering.probe_data import (
    CHUNK_ROWS,
    DOUBLE_ROWS,
    ProbeData,
    Standardisation,
    add_offset,
    gather,
    less_means,
    per_question,
    predict_cached,
)
from emergence.data.qa_encoding import batches_by_length
from emergence.errors import WeightsError
from emergence.model import BilinearProbe, SpanHead, span_cross_entropy
from emergence.spec.config import ProbeConfig
from emergence.training.checkpoint import load_into
from emergence.training.finiteness import NonFiniteLossError
from emergence.training.optim import AdamW

FAMILIES = ("linear", "bilinear", "mlp")
MLP_HIDDEN = 128
_WARMUP_FRACTION = 0.02
#: Nats per question. A validation loss has settled if it falls by less than this over the last tenth of the epochs, or
#: to the next ridge. It is a hundredth of what separates the families.
SETTLED = 2e-3
#: The loss's curvature along a direction of the states over their variance there (1 where all words are as likely, 0
#: where the answer is certain), and the share of the largest variance that keeps empty directions from being blown up.
#: Both decide how fast the optimum is reached.
_CURVATURE, _VARIANCE_FLOOR = 0.5, 1e-5
#: Nats per question. L-BFGS stops once no more than this is to be gained. Below it float32 rounds the loss of a few
#: hundred questions by as much as a step changes it, and line searches fail.
_AT_OPTIMUM = 1e-7
#: Nats per question. A fit with more than this to gain has not converged, whatever ended it.
_CONVERGED = 1e-5
#: Share of an offset's mean square below which what states leave of it is taken for rounding.
_ROUNDING = 1e-6
#: Steps that L-BFGS keeps, and from which the curvature is told.
_STEPS = 10
#: Smaller ridges are not tried once this many in a row have a validation loss above the lowest by more than so many
#: nats per question. By less than that, where a fit ends says little.
_RIDGES_TOO_MANY, _WORSE_BY = 2, 1e-4
#: Learning rates of a bilinear probe that starts from the linear one, as factors of ``probe.lr``.
NESTED_RATES = (1.0, 0.1)


class MLPHead(nn.Module):
    """Maps word states (..., D) to start and end logits (...) through one hidden layer."""

    def __init__(self, hidden_size: int, *, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.input, self.output = nn.Linear(hidden_size, MLP_HIDDEN), nn.Linear(MLP_HIDDEN, 2)
        with torch.no_grad():
            for layer in (self.input, self.output):
                layer.weight.normal_(0.0, 1 / math.sqrt(layer.in_features), generator=generator)
                layer.bias.zero_()

    def forward(self, word_states: Tensor) -> tuple[Tensor, Tensor]:
        start, end = self.output(nn.functional.gelu(self.input(word_states))).unbind(-1)  # (...)
        return start, end


Probe = SpanHead | BilinearProbe | MLPHead
#: A point that L-BFGS came to, and the gradient there: (2 D,) each, and 2 more with an offset.
_Point = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class ProbeFit:
    """A fitted probe of one family at one layer.

    Attributes:
        family, layer: Its family, and its layer: 0 is the embeddings, i follows block i.
        weights: Parameters of the probe on raw states, float32 on the CPU (:func:`readout` takes them).
        n_trainable: Number of trained parameters.
        ridge: The chosen penalty ridge / 2 * |w|^2 beside the mean loss; None for other families than the linear one.
        validation_loss, validation_em, validation_f1: Nats per question, as trained; EM and F1 over all golds.
        iterations: L-BFGS iterations at the chosen ridge, or the best epoch. 0 means that the start was best: the
            offset alone, or the linear probe on top of it.
        converged: Whether L-BFGS at the chosen ridge is within 1e-5 nats of its optimum, as its steps tell (at every
            ridge, where the offset alone was best), or the validation loss settled in the epochs.
        path: Validation scores for every ridge, or for every epoch.
        scales: Factors of the offset's start and end logits; None without an offset.
    """

    family: str
    layer: int
    weights: dict[str, Tensor]
    n_trainable: int
    ridge: float | None
    validation_loss: float
    validation_em: float
    validation_f1: float
    iterations: int
    converged: bool
    path: tuple[dict[str, float], ...]
    scales: tuple[float, float] | None = None

    @property
    def remarks(self) -> tuple[str, ...]:
        """Why this fit must be read with care, and by how much it may still have changed. Usually empty."""
        remarks = []
        if not self.converged and self.ridge is not None and self._is_offset_alone:
            remarks.append("the offset alone was best, but fits on top of it were cut off before their optimum")
        elif not self.converged and self.ridge is not None:
            remarks.append(f"stopped after {self.iterations} iterations, before its optimum")
        elif not self.converged:
            remarks.append(
                f"still improving when its epochs ended: validation loss {_late_fall(self.path):+.4f} and F1 "
                f"{self.validation_f1 - self.path[_late(self.path)]['f1']:+.4f} over the last tenth"
            )
        if self.ridge_at_edge:
            remarks.append(f"its ridge {self.ridge:g} is the {self.ridge_at_edge} of the grid")
        return tuple(remarks)

    @property
    def ridge_at_edge(self) -> str | None:
        """``smallest`` or ``largest`` if the chosen ridge is that of those tried and the loss still fell towards it."""
        tried = sorted(row["ridge"] for row in self.path) if self.ridge is not None else []
        if len(tried) < 2 or self._is_offset_alone or self.ridge not in (tried[0], tried[-1]):
            return None
        inner = next(row for row in self.path if row["ridge"] == tried[1 if self.ridge == tried[0] else -2])
        if inner["loss"] - self.validation_loss < SETTLED:
            return None  # beyond the edge there is nothing to be had
        return "smallest" if self.ridge == tried[0] else "largest"

    @property
    def _is_offset_alone(self) -> bool:
        """Whether no fit on top of the offset was better than none, so that no ridge is to blame."""
        return self.scales == (1.0, 1.0) and not any(bool(tensor.any()) for tensor in self.weights.values())

    def summary(self) -> dict[str, Any]:
        """The fit without its weights, as plain JSON types."""
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items() if k != "weights"}
        return {**plain, "remarks": list(self.remarks)}

    def to_state(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ProbeFit:
        scales = state.get("scales")  # absent in checkpoints of an earlier version
        return cls(**{**state, "path": tuple(state["path"]), "scales": None if scales is None else tuple(scales)})


def fit_probe(
    family: str,
    train: ProbeData,
    validation: ProbeData,
    statistics: Standardisation | None,
    config: ProbeConfig,
    layer: int,
    max_answer_words: int,
    seed: int,
) -> ProbeFit:
    """A probe of any family; for the arguments see :func:`fit_linear_probe`."""
    parts = (train, validation, statistics, config)
    if family == "linear":
        return fit_linear_probe(*parts, layer=layer, max_answer_words=max_answer_words)
    return fit_minibatch_probe(family, *parts, layer=layer, max_answer_words=max_answer_words, seed=seed)


def fit_linear_probe(
    train: ProbeData,
    validation: ProbeData,
    statistics: Standardisation | None,
    config: ProbeConfig,
    *,
    layer: int,
    max_answer_words: int,
) -> ProbeFit:
    """The linear probe at the ridge with the lowest validation loss. It is deterministic and has no seed.

    Args:
        train, validation: Questions with states that :func:`standardise_` standardised.
        statistics: What it returned, for folding into the weights; None for a probe that will read these states.
        config: Its ``ridges``, ``max_iterations`` and ``train_gold`` are used.
        layer: The layer that the fit records.
        max_answer_words: Longest span decoded on validation.

    Raises:
        NonFiniteLossError: The states are not finite.
    """
    objective = SpanObjective(train, config.train_gold)
    weights, device = objective.start, train.features.words.device

    def scored(weights: npt.NDArray[np.float64]) -> QuickScores:
        head, scales = linear_head(weights, objective.hidden_size, device), objective.scales(weights)
        logits = predict_cached(reader(head), validation, scales)
        return quick_scores(logits, validation.golds, max_answer_words, config.train_gold)

    tried: list[tuple[dict[str, float], npt.NDArray[np.float64]]] = []
    for ridge in sorted(config.ridges, reverse=True):  # from the strongest: each optimum starts the next
        result = objective.minimum(weights, ridge, config.max_iterations)
        weights = result.x
        scores = scored(weights)
        if not math.isfinite(scores.loss):
            raise NonFiniteLossError(
                f"linear probe, layer {layer}, ridge {ridge:g}: the validation loss is {scores.loss}: the trunk's "
                "states are too large or not finite, use --set pretrain.precision=fp32"
            )
        row = {"ridge": ridge, "train_loss": float(result.fun) - objective.penalty(weights, ridge), **asdict(scores)}
        tried.append(({**row, "iterations": int(result.nit), "converged": bool(result.success)}, weights))
        if _only_worse([row["loss"] for row, _ in tried]):
            break
    best, weights = min(tried, key=lambda pair: pair[0]["loss"])
    if train.offset is not None and (alone := scored(objective.start)).loss <= best["loss"]:
        best, weights = {**best, **asdict(alone), "iterations": 0}, objective.start
        best["converged"] = all(row["converged"] for row, _ in tried)  # else a longer fit might have been better
    chosen_scales = objective.scales(weights)
    return ProbeFit(
        family="linear",
        layer=layer,
        weights=_folded(linear_head(weights, objective.hidden_size, device), statistics),
        n_trainable=2 * (objective.hidden_size + 1) + (0 if chosen_scales is None else 2),
        ridge=best["ridge"],
        validation_loss=best["loss"],
        validation_em=best["em"],
        validation_f1=best["f1"],
        iterations=int(best["iterations"]),
        converged=bool(best["converged"]),
        path=tuple(row for row, _ in tried),
        scales=None if chosen_scales is None else _pair(chosen_scales),
    )


def _only_worse(losses: Sequence[float]) -> bool:
    """Whether the last ridges, from the strongest on, are all worse than the best, so that no smaller one is tried."""
    return min(losses[-_RIDGES_TOO_MANY:]) > min(losses) + _WORSE_BY


def fit_nested_probe(
    train: ProbeData,
    validation: ProbeData,
    config: ProbeConfig,
    *,
    layer: int,
    max_answer_words: int,
    seed: int,
) -> ProbeFit:
    """A bilinear probe on top of an offset that starts from the linear one, the better of two learning rates.

    The bilinear probe contains the linear one. Started at random it can end above it all the same, and a zero would
    then tell of the search and not of the states. So the linear fit is its first candidate on validation.
    """
    sizes = {"layer": layer, "max_answer_words": max_answer_words}
    linear = fit_linear_probe(train, validation, None, config, **sizes)
    fits = [
        fit_minibatch_probe(
            "bilinear", train, validation, None, replace(config, lr=config.lr * factor),
            **sizes, seed=seed, start=linear,
        )
        for factor in NESTED_RATES
    ]  # fmt: skip
    return min(fits, key=lambda fit: fit.validation_loss)


def fit_minibatch_probe(
    family: str,
    train: ProbeData,
    validation: ProbeData,
    statistics: Standardisation | None,
    config: ProbeConfig,
    *,
    layer: int,
    max_answer_words: int,
    seed: int,
    start: ProbeFit | None = None,
) -> ProbeFit:
    """A ``bilinear`` or ``mlp`` probe, trained by AdamW, from the epoch with the lowest validation loss.

    Args:
        start: A linear fit on the same states, not folded, where a bilinear probe starts. The others are those of
            :func:`fit_linear_probe`.

    Raises:
        NonFiniteLossError: Training diverged; layer, epoch and rate are named.
    """
    size, device = train.features.words.shape[1], train.features.words.device
    own_seed = probe_seed(seed, layer, family)
    probe = new_probe(family, size, config.bilinear_rank, own_seed).to(device)
    first = (1.0, 1.0) if start is None or start.scales is None else start.scales
    scales = None if train.offset is None else torch.tensor(first, device=device, requires_grad=True)
    if start is not None:
        _start_linear(probe, start)
    optimizer = new_optimizer(probe, config, scales)

    def scored(epoch: int) -> dict[str, float]:
        logits = predict_cached(reader(probe), validation, scales)
        scores = quick_scores(logits, validation.golds, max_answer_words, config.train_gold)
        if not math.isfinite(scores.loss):
            raise NonFiniteLossError(
                f"{family} probe, layer {layer}, epoch {epoch}: the validation loss is {scores.loss}: lower "
                f"probe.lr, now {config.lr:g}, for example --set probe.lr={config.lr / 3:.1g}"
            )
        return {"epoch": epoch, **asdict(scores)}

    path: list[dict[str, float]] = []
    best = math.inf
    if start is not None:  # the linear fit, or the offset alone if that was better than any
        path.append(scored(0))
        best, best_weights, best_scales = path[0]["loss"], copy_weights(probe), first
    elif scales is not None:  # the offset alone is the first candidate, because states need not add anything
        kept, zeros = copy_weights(probe), {name: torch.zeros_like(p) for name, p in probe.state_dict().items()}
        probe.load_state_dict(zeros)
        path.append(scored(0))
        best, best_weights, best_scales = path[0]["loss"], zeros, (1.0, 1.0)
        probe.load_state_dict(kept)
    for epoch in range(config.epochs):
        train_epoch(probe, optimizer, train, config, own_seed, epoch, config.epochs, scales)
        path.append(scored(epoch + 1))
        if path[-1]["loss"] < best:
            best, best_weights = path[-1]["loss"], copy_weights(probe)
            best_scales = (1.0, 1.0) if scales is None else _pair(scales)
        elif path[-1]["epoch"] - _best_epoch(path) >= config.patience:
            break
    probe.load_state_dict(best_weights)
    chosen = next(row for row in path if row["epoch"] == _best_epoch(path))
    return ProbeFit(
        family=family,
        layer=layer,
        weights=_folded(probe, statistics),
        n_trainable=sum(p.numel() for p in probe.parameters()) + (0 if scales is None else 2),
        ridge=None,
        validation_loss=chosen["loss"],
        validation_em=chosen["em"],
        validation_f1=chosen["f1"],
        iterations=_best_epoch(path),
        converged=_best_epoch(path) < config.epochs or _late_fall(path) > -SETTLED,
        path=tuple(path),
        scales=None if scales is None else best_scales,
    )


def _start_linear(probe: Probe, linear: ProbeFit) -> None:
    """Give a bilinear probe the linear one's weights and a bilinear term of zero, whose words can learn at once."""
    assert isinstance(probe, BilinearProbe)
    with torch.no_grad():
        probe.linear.load_state_dict(linear.weights)
        probe.word.weight.zero_()
        probe.word.bias.zero_()


def probe_seed(seed: int, layer: int, family: str) -> int:
    """The seed of one family's probe at one layer."""
    return int(np.random.SeedSequence([seed, layer, FAMILIES.index(family)]).generate_state(1)[0])


def new_optimizer(probe: Probe, config: ProbeConfig, scales: Tensor | None = None) -> AdamW:
    """AdamW with the learning rate and weight decay of ``config``. The offset's scales do not decay."""
    groups: list[dict[str, Any]] = [{"params": list(probe.parameters())}]
    if scales is not None:
        groups.append({"params": [scales], "weight_decay": 0.0})
    return AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=True)


def train_epoch(
    probe: Probe,
    optimizer: AdamW,
    train: ProbeData,
    config: ProbeConfig,
    seed: int,
    epoch: int,
    n_epochs: int,
    scales: Tensor | None = None,
) -> None:
    """One pass in batches of similar length. Over ``n_epochs`` the learning rate warms up and then falls to zero."""
    batches = batches_by_length(train.lengths, config.batch_size, seed=seed, epoch=epoch)
    for k, index in enumerate(batches):
        step = epoch * len(batches) + k
        rate = config.lr * schedule(step, n_epochs * len(batches), _WARMUP_FRACTION)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = _minibatch_loss(probe, train, index, config.train_gold, scales)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def span_head(fit: ProbeFit) -> SpanHead:
    """The fitted linear probe as a span head."""
    head = SpanHead(fit.weights["linear.weight"].shape[1])
    head.load_state_dict(fit.weights)
    return head


def readout(fit: ProbeFit, device: torch.device) -> Readout:
    """The fitted probe as a function of raw question states (N, 2D) and word states (N, W, D)."""
    return probe_readout(fit.family, fit.weights, device)


def probe_readout(family: str, weights: Mapping[str, Tensor], device: torch.device) -> Readout:
    """:func:`readout` of a probe's stored weights.

    Raises:
        WeightsError: They are not those of such a probe.
    """
    shapes = {"bilinear": "word.weight", "linear": "linear.weight", "mlp": "input.weight"}
    first = weights.get(shapes.get(family, ""))
    if first is None or first.ndim != 2:
        raise WeightsError(f"no weights of a {family} probe")
    probe = new_probe(family, first.shape[1], first.shape[0] // 2 if family == "bilinear" else 1, 0)
    load_into(probe, weights, f"the {family} probe")
    probe.to(device)
    return reader(probe)


def reader(probe: Probe) -> Readout:
    """A probe as a function of question and word states. Only the bilinear probe uses the question's."""
    if isinstance(probe, BilinearProbe):
        return probe
    return lambda questions, words: probe(words)


def new_probe(family: str, hidden_size: int, rank: int, seed: int) -> Probe:
    """An unfitted probe. Only the bilinear probe has a ``rank``."""
    if family == "bilinear":
        return BilinearProbe(hidden_size, rank, seed=seed)
    heads: dict[str, type[SpanHead] | type[MLPHead]] = {"linear": SpanHead, "mlp": MLPHead}
    return heads[family](hidden_size, seed=seed)


class SpanObjective:
    """The loss of a linear map on all training questions, and its gradient.

    The loss is the mean of -log of the sum over golds of p(i, j) = softmax(start)_i softmax(end)_j, as in
    ``model.losses.span_cross_entropy``. A bias would shift all words of a sentence alike and cancel in the softmax over
    them. So only the (D, 2) weights are fitted, and the two scales of the offset where the data have one.

    Args:
        train: The questions.
        train_gold: ``first`` fits the first gold of each question alone, ``marginal`` the sum over all.
    """

    def __init__(self, train: ProbeData, train_gold: str = "first") -> None:
        offsets = train.features.word_offsets
        self.word_offsets = offsets  # (N + 1,)
        self.words = train.features.words  # (sum of W, D)
        self.offset = train.offset  # (sum of W, 2), centred in each question, or None
        self.hidden_size = int(self.words.shape[1])
        self.n_questions = len(train)
        device = self.words.device
        self.counts = torch.from_numpy(np.diff(offsets)).to(device)  # (N,)
        self.owner = torch.repeat_interleave(torch.arange(self.n_questions, device=device), self.counts)  # (sum of W,)
        golds = train.golds if train_gold == "marginal" else train.golds.first()
        rows = np.stack([golds.starts, golds.ends_inclusive], axis=1) + offsets[:-1][golds.owner, None]
        self.golds = torch.from_numpy(rows).to(device)  # (G, 2) rows of ``words``
        self.gold_counts = torch.from_numpy(golds.counts).to(device)  # (N,)
        self.gold_owner = torch.from_numpy(golds.owner).to(device)  # (G,)
        self.loss = math.nan

    @property
    def start(self) -> npt.NDArray[np.float64]:
        """Where every fit begins: zero weights, and scales of 1 if there is an offset."""
        return np.concatenate([np.zeros(2 * self.hidden_size), np.ones(0 if self.offset is None else 2)])

    def scales(self, flat: npt.NDArray[np.float64]) -> Tensor | None:
        """The offset's two scales, which end the fitted values ``flat``; None without an offset."""
        if self.offset is None:
            return None
        return torch.from_numpy(flat[2 * self.hidden_size :]).float().to(self.words.device)

    def minimum(self, start: npt.NDArray[np.float64], ridge: float, max_iterations: int) -> OptimizeResult:
        """The optimum by L-BFGS from ``start``, which is shaped as :attr:`start`.

        It runs along the principal directions of the states, each in units of its curvature, as is each scale of an
        offset. States are far from uncorrelated, so the same optimum takes a fraction of the iterations there. A scale
        moves together with the weights that take back what states hold of the offset (:meth:`_shadow`).

        Returns:
            scipy's result, with ``x`` shaped as ``start``, and ``success``: no more than 1e-5 nats are to be gained,
            whatever ended it. ``fun`` holds the penalty.
        """
        variances, directions = self._principal
        curvature = _CURVATURE * variances + ridge  # (D,)
        units = 1 / np.sqrt(curvature + _VARIANCE_FLOOR * variances.max(initial=1e-12))
        shadow, offset_units = self._shadow(ridge)
        size, has_offset = 2 * self.hidden_size, self.offset is not None

        def weights_at(point: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            weights, scales = directions @ (units[:, None] * point[:size].reshape(-1, 2)), offset_units * point[size:]
            return np.concatenate([(weights - (shadow * scales if has_offset else 0.0)).ravel(), scales])

        def preconditioned(point: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
            value, flat_gradient = self(weights_at(point), ridge)
            of_weights = flat_gradient[:size].reshape(-1, 2)
            of_scales = offset_units * (flat_gradient[size:] - ((shadow * of_weights).sum(0) if has_offset else 0.0))
            gradient = np.concatenate([(units[:, None] * (directions.T @ of_weights)).ravel(), of_scales])
            evaluated[:] = [(point.copy(), gradient)]
            if not taken:
                taken.extend(evaluated)
            return value, gradient

        def stop_at_optimum(_: npt.NDArray[np.float64]) -> None:
            taken.extend(evaluated)  # a line search ends with the point that it takes
            del taken[: -_STEPS - 1]
            if _gain_left(taken, unit_curvature) <= _AT_OPTIMUM:
                raise StopIteration

        evaluated: list[_Point] = []
        taken: list[_Point] = []
        # Along features that are constant there is none, and no gradient either.
        unit_curvature = np.concatenate([np.repeat(curvature * units**2, 2), np.ones(len(offset_units))]).clip(1e-12)
        begin = start[:size].reshape(-1, 2) + (shadow * start[size:] if has_offset else 0.0)
        begin = directions.T @ begin / units[:, None]
        first = np.concatenate([begin.ravel(), start[size:] / offset_units])
        # The tolerances are below what float32 tells, so that the callback decides.
        options = {
            "maxiter": max_iterations, "maxfun": 2 * max_iterations, "maxcor": _STEPS, "ftol": 1e-10, "gtol": 1e-9,
        }  # fmt: skip
        result = minimize(preconditioned, first, jac=True, method="L-BFGS-B", callback=stop_at_optimum, options=options)
        result.success = _gain_left(taken, unit_curvature) <= _CONVERGED
        result.x = weights_at(result.x)
        return result

    def _shadow(self, ridge: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The weights with which states come nearest to the offset, and the units of its scales.

        Where they come near, a scale and these weights can change against each other at next to no change of the loss.
        L-BFGS finds no such valley by itself, nor do its steps tell of one.

        Returns:
            (D, 2) weights, the least squares at this ridge, and (2,) one over the root of the curvature of what they
            leave and of their own penalty. Without an offset both are empty.
        """
        if self.offset is None:
            return np.zeros((self.hidden_size, 0)), np.zeros(0)
        variances, directions = self._principal
        squares = self.offset.double().square().mean(0).cpu().numpy()  # (2,)
        along = directions.T @ self._products[1]  # (D, 2)
        curvature = (_CURVATURE * variances + ridge)[:, None]  # (D, 1)
        nearest = _CURVATURE * along / np.maximum(curvature, 1e-12)
        left = _CURVATURE * (squares - 2 * (nearest * along).sum(0)) + (curvature * nearest**2).sum(0)
        # What is left of an offset that the states hold whole is rounding.
        left = np.where(squares > 0, np.maximum(left, _ROUNDING * squares), 1.0)
        return directions @ nearest, 1 / np.sqrt(left)

    @cached_property
    def _principal(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """(D,) variances of the states within questions along their principal directions, the columns of (D, D).

        What all words of a question have in common cancels in the softmax over them.
        """
        variances, directions = np.linalg.eigh(self._products[0])
        return np.maximum(variances, 0.0), directions

    @cached_property
    def _products(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """(D, D) mean products of the states within questions, and (D, 2) with the offset; (D, 0) without one."""
        offset = self.words.new_zeros(len(self.words), 0) if self.offset is None else self.offset
        squares = self.words.new_zeros(self.hidden_size, self.hidden_size, dtype=torch.float64)
        with_offset = self.words.new_zeros(self.hidden_size, offset.shape[1], dtype=torch.float64)
        for words, rows in self._centred_pieces():
            squares += words.T @ words
            with_offset += words.T @ offset[rows].double()
        n = max(len(self.words), 1)
        return squares.cpu().numpy() / n, with_offset.cpu().numpy() / n

    def _centred_pieces(self) -> Iterator[tuple[Tensor, slice]]:
        """(rows, D) states less their mean over each question, in float64, some questions at a time, and which rows."""
        offsets, first = self.word_offsets, 0
        while first < self.n_questions:
            last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + DOUBLE_ROWS, side="right")) - 1)
            rows = slice(int(offsets[first]), int(offsets[last]))
            yield less_means(self.words[rows].double(), self.counts[first:last]), rows
            first = last

    def __call__(self, flat: npt.NDArray[np.float64], ridge: float) -> tuple[float, npt.NDArray[np.float64]]:
        """Loss plus ridge / 2 * |w|^2, and its gradient. ``flat`` is the (2 D,) weights, then the free scales."""
        size = 2 * self.hidden_size
        weights = torch.from_numpy(flat[:size].reshape(self.hidden_size, 2)).float().to(self.words.device)  # (D, 2)
        logits = torch.cat([chunk.float() @ weights for chunk in self.words.split(CHUNK_ROWS)])  # (sum of W, 2)
        if self.offset is not None and (scales := self.scales(flat)) is not None:
            logits += scales * self.offset
        slope = self._slope(logits)  # (sum of W, 2)
        pieces = zip(self.words.split(CHUNK_ROWS), slope.split(CHUNK_ROWS), strict=True)
        gradient = torch.stack([part.T @ rows.float() for rows, part in pieces]).sum(0).T / self.n_questions  # (D, 2)
        flat_gradient = gradient.double().cpu().numpy().ravel() + ridge * flat[:size]
        if self.offset is not None:
            of_scales = (slope * self.offset).sum(0, dtype=torch.float64) / self.n_questions  # (2,)
            flat_gradient = np.concatenate([flat_gradient, of_scales.cpu().numpy()])
        return self.loss + self.penalty(flat, ridge), flat_gradient

    def penalty(self, flat: npt.NDArray[np.float64], ridge: float) -> float:
        """Ridge / 2 * |w|^2 of the weights that ``flat`` begins with. The scales are free."""
        weights = flat[: 2 * self.hidden_size]
        return 0.5 * ridge * float(weights @ weights)

    def _slope(self, logits: Tensor) -> Tensor:
        """(sum of W, 2) derivatives by the logits, softmax minus share of golds. The mean loss is kept in ``loss``."""
        shifted = logits - per_question(logits, "max", self.counts).index_select(0, self.owner)
        powers = shifted.exp()
        totals = per_question(powers, "sum", self.counts)  # (N, 2)
        of_golds = shifted.gather(0, self.golds).sum(1, keepdim=True)  # (G, 1) start plus end
        peak = per_question(of_golds, "max", self.gold_counts)  # (N, 1)
        share = (of_golds - peak.index_select(0, self.gold_owner)).exp()  # (G, 1)
        sums = per_question(share, "sum", self.gold_counts)  # (N, 1)
        log_p = (sums.log() + peak)[:, 0] - totals.log().sum(1)  # (N,)
        self.loss = -float(log_p.sum(dtype=torch.float64)) / self.n_questions
        share = share / sums.index_select(0, self.gold_owner)  # (G, 1), adding up to 1 in each question
        slope = powers.div_(totals.index_select(0, self.owner))
        return slope.scatter_add_(0, self.golds, -share.expand(-1, 2))


def _gain_left(taken: Sequence[_Point], curvature: npt.NDArray[np.float64]) -> float:
    """By how much a quasi-Newton step from the last point would lower the loss, about: the gradient's half square.

    The square is by the inverse Hessian that L-BFGS tells from the steps between the points (Nocedal and Wright 2006,
    algorithm 7.4). Where a loss is nearly flat, as of questions that are almost separable, that is more than the plain
    square, which stands for directions that no step went along.

    Args:
        taken: Preconditioned points and gradients, in their order.
        curvature: The curvature along each coordinate before any step. It is 1, but less where states hardly vary.
    """
    gradient = taken[-1][1]
    pairs = ((b[0] - a[0], b[1] - a[1]) for a, b in pairwise(taken))
    # The loss of several golds may bend down, and a step that changed next to nothing tells of rounding.
    steps = [(step, change, bend) for step, change in pairs if (bend := step @ change) > _AT_OPTIMUM / 100]
    direction, shares = gradient, []
    for step, change, bend in reversed(steps):
        shares.append(step @ direction / bend)
        direction = direction - shares[-1] * change
    if steps:
        _, change, bend = steps[-1]
        direction = direction * (bend / (change @ change))
    for (step, change, bend), share in zip(steps, reversed(shares), strict=True):
        direction = direction + (share - change @ direction / bend) * step
    return 0.5 * max(float(gradient @ direction), float(gradient @ (gradient / curvature)))


def linear_head(weights: npt.NDArray[np.float64], hidden_size: int, device: torch.device) -> SpanHead:
    """The span head, without bias, that the fitted values of :class:`SpanObjective` begin with."""
    head = SpanHead(hidden_size).to(device)
    with torch.no_grad():
        head.linear.weight.copy_(torch.from_numpy(weights[: 2 * hidden_size].reshape(-1, 2).T))
    return head


def copy_weights(probe: nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters, which further training leaves alone."""
    return {name: tensor.detach().clone() for name, tensor in probe.state_dict().items()}


@torch.no_grad()
def mean_loss(probe: Probe, data: ProbeData, train_gold: str) -> float:
    """Mean training loss in nats per question. All questions must fit into one batch."""
    return float(_minibatch_loss(probe, data, np.arange(len(data)), train_gold))


def _minibatch_loss(
    probe: Probe, data: ProbeData, index: npt.NDArray[np.int64], train_gold: str, scales: Tensor | None = None
) -> Tensor:
    batch = gather(data, index)
    start, end = add_offset(reader(probe)(batch.questions, batch.words), batch.offset, scales)  # (B, W)
    golds = data.golds.take(index) if train_gold == "marginal" else data.golds.take(index).first()
    arrays = (batch.mask, *golds.padded())
    word_mask, starts, ends, gold_mask = (torch.from_numpy(array).to(start.device) for array in arrays)
    return span_cross_entropy(start, end, word_mask, starts, ends, gold_mask, train_gold)


def _best_epoch(path: Sequence[Mapping[str, float]]) -> int:
    """The epoch with the lowest loss, and on a tie the earlier one."""
    return int(min(path, key=lambda row: row["loss"])["epoch"])


def _late(path: Sequence[Mapping[str, float]]) -> int:
    """Index of the row at which the last tenth of the path begins, at least one before the last."""
    return max(0, len(path) - 1 - max(1, len(path) // 10))


def _late_fall(path: Sequence[Mapping[str, float]]) -> float:
    """Change of the validation loss over the last tenth of the epochs, negative while it falls."""
    return path[-1]["loss"] - path[_late(path)]["loss"]


def _pair(scales: Tensor) -> tuple[float, float]:
    start, end = scales.detach().tolist()
    return start, end


def _folded(probe: Probe, statistics: Standardisation | None) -> dict[str, Tensor]:
    """The probe's parameters on the CPU, brought to raw states if there are statistics."""
    probe = copy.deepcopy(probe)
    for layer, mean, std in _input_layers(probe, statistics):
        weight = layer.weight.detach().double() / std.double()
        bias = layer.bias.detach().double() - weight @ mean.double()
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    return {name: tensor.detach().cpu() for name, tensor in probe.state_dict().items()}


def _input_layers(probe: Probe, statistics: Standardisation | None) -> Iterator[tuple[nn.Linear, Tensor, Tensor]]:
    """The layers that read states, with the statistics of what they read."""
    if statistics is None:
        return
    of_words = statistics.word_mean, statistics.word_std
    if isinstance(probe, BilinearProbe):
        yield probe.question, statistics.question_mean, statistics.question_std
        yield probe.word, *of_words
        yield probe.linear.linear, *of_words
    else:
        yield probe.input if isinstance(probe, MLPHead) else probe.linear, *of_words
