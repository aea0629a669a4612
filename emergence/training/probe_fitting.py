"""Fitting one probe on the cached states of one layer (METHODS B4).

- ``linear``, the headline: ONE linear layer from a word's state to its start and end logit. Convex, so
  L-BFGS finds the optimum whatever the seed; the ridge is chosen on validation.
- ``bilinear``: question states against word states, low rank. The linear probe can only find what the
  trunk has already routed to the word; this one asks whether the role is in the states at all.
- ``mlp``: one hidden layer on the word's state, what the linear probe misses for being linear.

They are fitted on standardised states (:mod:`emergence.training.probe_data`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor, nn

from emergence.config import ProbeConfig
from emergence.data.qa_encoding import batches_by_length
from emergence.model import BilinearProbe, SpanHead, span_cross_entropy
from emergence.training.evaluate import quick_scores
from emergence.training.features import Readout
from emergence.training.finetune import schedule
from emergence.training.health import NonFiniteLossError
from emergence.training.probe_data import CHUNK_ROWS, ProbeData, Standardisation, gather, predict_cached

FAMILIES = ("linear", "bilinear", "mlp")
MLP_HIDDEN = 128
_WARMUP_FRACTION = 0.02


class MLPHead(nn.Module):
    """Word states (..., D) to start and end logits (...) through one hidden layer."""

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


@dataclass(frozen=True, eq=False)
class ProbeFit:
    """A fitted probe of one family at one layer.

    Attributes:
        family, layer: Layer 0 is the embeddings, i follows block i.
        weights: Parameters of the probe on raw states, float32 on the CPU (:func:`build_probe` takes them).
        n_trainable: Its parameters.
        ridge: Chosen penalty ridge / 2 * |w|^2 beside the mean loss (linear only).
        validation_loss, validation_em, validation_f1: Nats per question on the first gold; EM and F1 over all golds.
        iterations: L-BFGS iterations at the chosen ridge, or the best epoch.
        converged: L-BFGS met its tolerance at the chosen ridge; the validation loss turned before the last epoch.
        path: Validation scores for every ridge, or every epoch.
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

    def summary(self) -> dict[str, Any]:
        """Everything but the weights, as plain JSON types."""
        return {k: list(v) if k == "path" else v for k, v in vars(self).items() if k != "weights"}

    def to_state(self) -> dict[str, Any]:
        return {**self.summary(), "weights": self.weights}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ProbeFit:
        return cls(**{**state, "path": tuple(state["path"])})


def fit_probe(
    family: str,
    train: ProbeData,
    validation: ProbeData,
    statistics: Standardisation,
    config: ProbeConfig,
    layer: int,
    max_answer_words: int,
    seed: int,
) -> ProbeFit:
    """A probe of any family, on standardised states; arguments as below."""
    parts = (train, validation, statistics, config)
    if family == "linear":
        return fit_linear_probe(*parts, layer=layer, max_answer_words=max_answer_words)
    return fit_minibatch_probe(family, *parts, layer=layer, max_answer_words=max_answer_words, seed=seed)


def fit_linear_probe(
    train: ProbeData,
    validation: ProbeData,
    statistics: Standardisation,
    config: ProbeConfig,
    *,
    layer: int,
    max_answer_words: int,
) -> ProbeFit:
    """The linear probe at the ridge with the lowest validation loss; deterministic and seed-free.

    Args:
        train, validation: Standardised by :func:`standardise_`.
        statistics: What it returned.
        config: ``ridges`` and ``max_iterations``.
        layer: Recorded in the fit.
        max_answer_words: Longest span decoded on validation.

    Raises:
        NonFiniteLossError: The states are not finite.
    """
    objective = SpanObjective(train)
    weights = np.zeros(objective.n_weights)
    found: list[tuple[dict[str, float], npt.NDArray[np.float64]]] = []
    for ridge in sorted(config.ridges, reverse=True):  # from the strongest: each optimum starts the next
        result = objective.minimum(weights, ridge, config.max_iterations)
        weights = result.x
        head = linear_head(weights, train.features.words.device)
        scores = quick_scores(predict_cached(reader(head), validation), validation.golds, max_answer_words)
        if not math.isfinite(scores.loss):
            raise NonFiniteLossError(
                f"linear probe, layer {layer}, ridge {ridge:g}: the validation loss is {scores.loss}: the trunk's "
                "states are too large or not finite, use --set pretrain.precision=fp32"
            )
        row = {"ridge": ridge, "train_loss": objective.loss, **asdict(scores)}
        found.append(({**row, "iterations": int(result.nit), "converged": bool(result.success)}, weights))
    best, weights = min(found, key=lambda pair: pair[0]["loss"])
    return ProbeFit(
        family="linear",
        layer=layer,
        weights=_folded(linear_head(weights, train.features.words.device), statistics),
        n_trainable=2 * (objective.hidden_size + 1),
        ridge=best["ridge"],
        validation_loss=best["loss"],
        validation_em=best["em"],
        validation_f1=best["f1"],
        iterations=int(best["iterations"]),
        converged=bool(best["converged"]),
        path=tuple(row for row, _ in found),
    )


def fit_minibatch_probe(
    family: str,
    train: ProbeData,
    validation: ProbeData,
    statistics: Standardisation,
    config: ProbeConfig,
    *,
    layer: int,
    max_answer_words: int,
    seed: int,
) -> ProbeFit:
    """A ``bilinear`` or ``mlp`` probe by AdamW on the cached states; the epoch with the lowest validation loss.

    Raises:
        NonFiniteLossError: Training diverged; names layer, epoch and the rate.
    """
    size, device = train.features.words.shape[1], train.features.words.device
    own_seed = probe_seed(seed, layer, family)
    probe = new_probe(family, size, config.bilinear_rank, own_seed).to(device)
    optimizer = new_optimizer(probe, config)
    path: list[dict[str, float]] = []
    best, best_weights = math.inf, {}
    for epoch in range(config.epochs):
        train_epoch(probe, optimizer, train, config, own_seed, epoch, config.epochs)
        scores = quick_scores(predict_cached(reader(probe), validation), validation.golds, max_answer_words)
        if not math.isfinite(scores.loss):
            raise NonFiniteLossError(
                f"{family} probe, layer {layer}, epoch {epoch + 1}: the validation loss is {scores.loss}: lower "
                f"probe.lr, now {config.lr:g}, for example --set probe.lr={config.lr / 3:.1g}"
            )
        path.append({"epoch": epoch + 1, **asdict(scores)})
        if scores.loss < best:
            best, best_weights = scores.loss, {k: v.detach().clone() for k, v in probe.state_dict().items()}
        elif len(path) - _best_epoch(path) >= config.patience:
            break
    probe.load_state_dict(best_weights)
    chosen = path[_best_epoch(path) - 1]
    return ProbeFit(
        family=family,
        layer=layer,
        weights=_folded(probe, statistics),
        n_trainable=sum(p.numel() for p in probe.parameters()),
        ridge=None,
        validation_loss=chosen["loss"],
        validation_em=chosen["em"],
        validation_f1=chosen["f1"],
        iterations=_best_epoch(path),
        converged=_best_epoch(path) < config.epochs,
        path=tuple(path),
    )


def probe_seed(seed: int, layer: int, family: str) -> int:
    """The seed of one family's probe at one layer."""
    return int(np.random.SeedSequence([seed, layer, FAMILIES.index(family)]).generate_state(1)[0])


def new_optimizer(probe: Probe, config: ProbeConfig) -> torch.optim.AdamW:
    """AdamW with the learning rate and weight decay of ``config``."""
    return torch.optim.AdamW(probe.parameters(), lr=config.lr, weight_decay=config.weight_decay)


def train_epoch(
    probe: Probe,
    optimizer: torch.optim.AdamW,
    train: ProbeData,
    config: ProbeConfig,
    seed: int,
    epoch: int,
    n_epochs: int,
) -> None:
    """One pass in batches of similar length; the learning rate warms up and then falls to zero over ``n_epochs``."""
    batches = batches_by_length(train.lengths, config.batch_size, seed=seed, epoch=epoch)
    for k, index in enumerate(batches):
        step = epoch * len(batches) + k
        optimizer.param_groups[0]["lr"] = config.lr * schedule(step, n_epochs * len(batches), _WARMUP_FRACTION)
        loss = _minibatch_loss(probe, train, index)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def span_head(fit: ProbeFit) -> SpanHead:
    """The fitted linear probe as the span head it is."""
    head = SpanHead(fit.weights["linear.weight"].shape[1])
    head.load_state_dict(fit.weights)
    return head


def readout(fit: ProbeFit, device: torch.device) -> Readout:
    """The fitted probe as a function of raw question states (N, 2D) and word states (N, W, D)."""
    if fit.family == "bilinear":
        probe = new_probe("bilinear", fit.weights["word.weight"].shape[1], fit.weights["word.weight"].shape[0] // 2, 0)
    else:
        first = "linear.weight" if fit.family == "linear" else "input.weight"
        probe = new_probe(fit.family, fit.weights[first].shape[1], 1, 0)
    probe.load_state_dict(fit.weights)
    probe.to(device)
    return reader(probe)


def reader(probe: Probe) -> Readout:
    """A probe as a function of question states (N, 2D) and word states (N, W, D); only the bilinear one uses both."""
    if isinstance(probe, BilinearProbe):
        return probe
    return lambda questions, words: probe(words)


def new_probe(family: str, hidden_size: int, rank: int, seed: int) -> Probe:
    """An unfitted probe; ``rank`` is the bilinear probe's."""
    if family == "bilinear":
        return BilinearProbe(hidden_size, rank, seed=seed)
    return MLPHead(hidden_size, seed=seed) if family == "mlp" else SpanHead(hidden_size, seed=seed)


class SpanObjective:
    """Mean start + end cross-entropy of a linear map over all training words, and its gradient.

    The bias of a linear probe shifts all words of a sentence alike and cancels in the softmax over them,
    so only the (D, 2) weights are fitted.
    """

    def __init__(self, train: ProbeData) -> None:
        offsets = train.features.word_offsets
        self.words = train.features.words  # (sum of W, D)
        self.hidden_size = int(self.words.shape[1])
        self.n_questions = len(train)
        device = self.words.device
        self.counts = torch.from_numpy(np.diff(offsets)).to(device)  # (N,)
        self.owner = torch.repeat_interleave(torch.arange(self.n_questions, device=device), self.counts)  # (sum of W,)
        first = train.golds.offsets[:-1]
        golds = np.stack([train.golds.starts[first], train.golds.ends_inclusive[first]], axis=1) + offsets[:-1, None]
        self.golds = torch.from_numpy(golds).to(device)  # (N, 2) rows of ``words``
        self.loss = math.nan

    @property
    def n_weights(self) -> int:
        return 2 * self.hidden_size

    def minimum(self, start: npt.NDArray[np.float64], ridge: float, max_iterations: int) -> OptimizeResult:
        """L-BFGS from the weights ``start`` (2 D,)."""
        options = {"maxiter": max_iterations, "maxfun": 2 * max_iterations, "ftol": 1e-8, "gtol": 1e-5}
        return minimize(self, start, args=(ridge,), jac=True, method="L-BFGS-B", options=options)

    def __call__(self, flat: npt.NDArray[np.float64], ridge: float) -> tuple[float, npt.NDArray[np.float64]]:
        """Loss plus ridge / 2 * |w|^2, and the gradient, at weights (2 D,)."""
        weights = torch.from_numpy(flat.reshape(self.hidden_size, 2)).float().to(self.words.device)  # (D, 2)
        logits = torch.cat([chunk.float() @ weights for chunk in self.words.split(CHUNK_ROWS)])  # (sum of W, 2)
        shifted = logits - self._per_question(logits, "max").index_select(0, self.owner)
        powers = shifted.exp()
        totals = self._per_question(powers, "sum")  # (N, 2)
        of_golds = shifted.gather(0, self.golds) - totals.log()  # (N, 2)
        self.loss = -float(of_golds.sum(dtype=torch.float64)) / self.n_questions
        slope = powers.div_(totals.index_select(0, self.owner))  # (sum of W, 2): softmax minus one-hot, below
        slope.scatter_add_(0, self.golds, slope.new_full(self.golds.shape, -1.0))
        pieces = zip(self.words.split(CHUNK_ROWS), slope.split(CHUNK_ROWS), strict=True)
        gradient = torch.stack([part.T @ rows.float() for rows, part in pieces]).sum(0).T / self.n_questions  # (D, 2)
        penalty = 0.5 * ridge * float(flat @ flat)
        return self.loss + penalty, gradient.double().cpu().numpy().ravel() + ridge * flat

    def _per_question(self, values: Tensor, reduction: str) -> Tensor:
        """(sum of W, 2) -> (N, 2). The same sums every time, which ``index_add_`` on a GPU would not give."""
        return torch.segment_reduce(values, reduction, lengths=self.counts, axis=0, unsafe=True)


def linear_head(weights: npt.NDArray[np.float64], device: torch.device) -> SpanHead:
    """The span head with the weights (2 D,) of :class:`SpanObjective` and no bias."""
    head = SpanHead(len(weights) // 2).to(device)
    with torch.no_grad():
        head.linear.weight.copy_(torch.from_numpy(weights.reshape(-1, 2).T))
    return head


@torch.no_grad()
def mean_loss(probe: Probe, data: ProbeData) -> float:
    """Mean loss on the first golds, nats per question, of few enough questions for one batch."""
    return float(_minibatch_loss(probe, data, np.arange(len(data))))


def _minibatch_loss(probe: Probe, data: ProbeData, index: npt.NDArray[np.int64]) -> Tensor:
    questions, words, mask = gather(data.features, index)
    start, end = reader(probe)(questions, words)  # (B, W)
    first = data.golds.offsets[:-1][index]
    arrays = (mask, data.golds.starts[first][:, None], data.golds.ends_inclusive[first][:, None])
    word_mask, starts, ends = (torch.from_numpy(array).to(words.device) for array in arrays)
    return span_cross_entropy(start, end, word_mask, starts, ends, torch.ones_like(starts, dtype=torch.bool))


def _best_epoch(path: list[dict[str, float]]) -> int:
    """From 1; the earlier on a tie."""
    return int(np.argmin([row["loss"] for row in path])) + 1


def _folded(probe: Probe, statistics: Standardisation) -> dict[str, Tensor]:
    """The probe's parameters as they apply to raw states, on the CPU."""
    probe = copy.deepcopy(probe)
    for layer, mean, std in _input_layers(probe, statistics):
        weight = layer.weight.detach().double() / std.double()
        bias = layer.bias.detach().double() - weight @ mean.double()
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    return {name: tensor.detach().cpu() for name, tensor in probe.state_dict().items()}


def _input_layers(probe: Probe, of: Standardisation) -> Iterator[tuple[nn.Linear, Tensor, Tensor]]:
    """The layers that read states, with the statistics of what they read."""
    if isinstance(probe, BilinearProbe):
        yield probe.question, of.question_mean, of.question_std
        yield probe.word, of.word_mean, of.word_std
        yield probe.linear.linear, of.word_mean, of.word_std
    else:
        yield probe.input if isinstance(probe, MLPHead) else probe.linear, of.word_mean, of.word_std
