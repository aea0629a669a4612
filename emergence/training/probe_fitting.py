"""Fitting one probe on the cached states of one layer (METHODS B4).

- ``linear``, the headline: ONE linear layer from a word's state to its start and end logit. Convex, so
  L-BFGS finds the optimum whatever the seed; the ridge is chosen on validation.
- ``bilinear``: question states against word states, low rank. The linear probe can only find what the
  trunk has already routed to the word; this one asks whether the role is in the states at all.
- ``mlp``: one hidden layer on the word's state, what the linear probe misses for being linear.

States are standardised with training statistics (an unstandardised probe can look blind from scale
alone), and the statistics are folded into the fitted weights: a finished probe reads raw states.
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
from scipy.optimize import minimize
from torch import Tensor, nn

from emergence.config import ProbeConfig
from emergence.data.qa_encoding import batches_by_length
from emergence.measures.spans import GoldSpans
from emergence.model import BilinearProbe, SpanHead, span_cross_entropy
from emergence.training.evaluate import quick_scores
from emergence.training.features import LayerFeatures, Readout, SpanLogits
from emergence.training.finetune import schedule

FAMILIES = ("linear", "bilinear", "mlp")
MLP_HIDDEN = 128
_WARMUP_FRACTION = 0.02

#: Rows of word states multiplied at a time (bfloat16 ones are widened first), and questions scored at a time.
_CHUNK_ROWS = 1 << 18
_CHUNK_QUESTIONS = 512


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


@dataclass(frozen=True)
class ProbeData:
    """N questions at one layer, and the spans to learn; the spans may be a control task's (METHODS B4)."""

    features: LayerFeatures
    golds: GoldSpans

    def __len__(self) -> int:
        return len(self.golds)


@dataclass(frozen=True)
class Standardisation:
    """Mean and standard deviation of each feature over the training words and questions."""

    word_mean: Tensor
    word_std: Tensor
    question_mean: Tensor
    question_std: Tensor


def standardise_(train: LayerFeatures, *others: LayerFeatures) -> Standardisation:
    """Standardise all features IN PLACE with the statistics of ``train``; a constant feature becomes zero."""
    statistics = Standardisation(*_moments(train.words), *_moments(train.questions))
    for features in (train, *others):
        features.words.sub_(statistics.word_mean).div_(statistics.word_std)
        features.questions.sub_(statistics.question_mean).div_(statistics.question_std)
    return statistics


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
    """
    objective = _SpanObjective(train)
    weights = np.zeros(objective.n_weights)
    found: list[tuple[dict[str, float], npt.NDArray[np.float64]]] = []
    for ridge in sorted(config.ridges, reverse=True):  # from the strongest: each optimum starts the next
        options = {"maxiter": config.max_iterations, "maxfun": 2 * config.max_iterations, "ftol": 1e-8, "gtol": 1e-5}
        result = minimize(objective, weights, args=(ridge,), jac=True, method="L-BFGS-B", options=options)
        weights = result.x
        head = _linear_head(weights, objective.hidden_size)
        scores = quick_scores(_predict(head, validation), validation.golds, max_answer_words)
        row = {"ridge": ridge, "train_loss": objective.loss, **asdict(scores)}
        found.append(({**row, "iterations": int(result.nit), "converged": bool(result.success)}, weights))
    best, weights = min(found, key=lambda pair: pair[0]["loss"])
    return ProbeFit(
        family="linear",
        layer=layer,
        weights=_folded(_linear_head(weights, objective.hidden_size), statistics),
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
    """A ``bilinear`` or ``mlp`` probe by AdamW on the cached states; the epoch with the lowest validation loss."""
    size, device = train.features.words.shape[1], train.features.words.device
    own_seed = int(np.random.SeedSequence([seed, layer, FAMILIES.index(family)]).generate_state(1)[0])
    probe = new_probe(family, size, config.bilinear_rank, own_seed).to(device)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    steps = math.ceil(len(train) / config.batch_size)
    path: list[dict[str, float]] = []
    best, best_weights = math.inf, {}
    for epoch in range(config.epochs):
        for k, index in enumerate(_batches(train, config.batch_size, own_seed, epoch)):
            optimizer.param_groups[0]["lr"] = config.lr * schedule(epoch * steps + k, config.epochs * steps, 0.02)
            loss = _minibatch_loss(probe, train, index)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        scores = quick_scores(_predict(probe, validation), validation.golds, max_answer_words)
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
    return lambda questions, words: _logits(probe, questions, words)


def new_probe(family: str, hidden_size: int, rank: int, seed: int) -> Probe:
    """An unfitted probe; ``rank`` is the bilinear probe's."""
    if family == "bilinear":
        return BilinearProbe(hidden_size, rank, seed=seed)
    return MLPHead(hidden_size, seed=seed) if family == "mlp" else SpanHead(hidden_size, seed=seed)


class _SpanObjective:
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

    def __call__(self, flat: npt.NDArray[np.float64], ridge: float) -> tuple[float, npt.NDArray[np.float64]]:
        """Loss plus ridge / 2 * |w|^2, and the gradient, at weights (2 D,)."""
        weights = torch.from_numpy(flat.reshape(self.hidden_size, 2)).float().to(self.words.device)  # (D, 2)
        logits = torch.cat([chunk.float() @ weights for chunk in self.words.split(_CHUNK_ROWS)])  # (sum of W, 2)
        shifted = logits - self._per_question(logits, "max")[self.owner]
        powers = shifted.exp()
        totals = self._per_question(powers, "sum")  # (N, 2)
        of_golds = shifted.gather(0, self.golds) - totals.log()  # (N, 2)
        self.loss = -float(of_golds.sum(dtype=torch.float64)) / self.n_questions
        slope = powers.div_(totals[self.owner])  # (sum of W, 2): softmax minus one-hot, below
        slope.scatter_add_(0, self.golds, slope.new_full(self.golds.shape, -1.0))
        pieces = zip(self.words.split(_CHUNK_ROWS), slope.split(_CHUNK_ROWS), strict=True)
        gradient = torch.stack([part.T @ rows.float() for rows, part in pieces]).sum(0).T / self.n_questions  # (D, 2)
        penalty = 0.5 * ridge * float(flat @ flat)
        return self.loss + penalty, gradient.double().cpu().numpy().ravel() + ridge * flat

    def _per_question(self, values: Tensor, reduction: str) -> Tensor:
        """(sum of W, 2) -> (N, 2). The same sums every time, which ``index_add_`` on a GPU would not give."""
        return torch.segment_reduce(values, reduction, lengths=self.counts, axis=0, unsafe=True)


def _linear_head(weights: npt.NDArray[np.float64], hidden_size: int) -> SpanHead:
    head = SpanHead(hidden_size)
    with torch.no_grad():
        head.linear.weight.copy_(torch.from_numpy(weights.reshape(hidden_size, 2).T))
    return head


def _logits(probe: Probe, questions: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """Start and end logits (N, W); only the bilinear probe looks at the question."""
    return probe(questions, words) if isinstance(probe, BilinearProbe) else probe(words)


def _gather(features: LayerFeatures, index: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor, npt.NDArray[np.bool_]]:
    """Question states (B, 2D), padded word states (B, W, D) and the word mask of some questions."""
    begins = features.word_offsets[:-1][index]
    counts = features.word_offsets[1:][index] - begins
    column = np.arange(int(counts.max()))[None, :]
    mask = column < counts[:, None]  # (B, W)
    rows = np.where(mask, begins[:, None] + column, begins[:, None])  # padding repeats the first word
    device = features.words.device
    words = features.words[torch.from_numpy(rows).to(device)].float()  # (B, W, D)
    return features.questions[torch.from_numpy(index).to(device)], words, mask


def _minibatch_loss(probe: Probe, data: ProbeData, index: npt.NDArray[np.int64]) -> Tensor:
    questions, words, mask = _gather(data.features, index)
    start, end = _logits(probe, questions, words)  # (B, W)
    first = data.golds.offsets[:-1][index]
    arrays = (mask, data.golds.starts[first][:, None], data.golds.ends_inclusive[first][:, None])
    word_mask, starts, ends = (torch.from_numpy(array).to(words.device) for array in arrays)
    return span_cross_entropy(start, end, word_mask, starts, ends, torch.ones_like(starts, dtype=torch.bool))


@torch.no_grad()
def _predict(probe: Probe, data: ProbeData) -> SpanLogits:
    """Logits of every question, from standardised states."""
    lengths = np.diff(data.features.word_offsets)
    start, end = (np.zeros((len(data), int(lengths.max())), dtype=np.float32) for _ in range(2))
    probe.to(data.features.words.device)
    for begin in range(0, len(data), _CHUNK_QUESTIONS):
        index = np.arange(begin, min(begin + _CHUNK_QUESTIONS, len(data)))
        questions, words, mask = _gather(data.features, index)
        for out, logits in zip((start, end), _logits(probe, questions, words), strict=True):
            out[index, : mask.shape[1]] = logits.cpu().numpy()
    return SpanLogits(start, end, lengths)


def _batches(data: ProbeData, batch_size: int, seed: int, epoch: int) -> list[npt.NDArray[np.int64]]:
    return batches_by_length(np.diff(data.features.word_offsets), batch_size, seed=seed, epoch=epoch)


def _best_epoch(path: list[dict[str, float]]) -> int:
    """From 1; the earlier on a tie."""
    return int(np.argmin([row["loss"] for row in path])) + 1


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column, (D,) each in float32; 1 where a column is constant."""
    n = values.shape[0]
    mean = torch.stack([chunk.sum(0, dtype=torch.float64) for chunk in values.split(_CHUNK_ROWS)]).sum(0) / n
    squares = [(chunk.double() - mean).square().sum(0) for chunk in values.split(_CHUNK_ROWS)]
    std = (torch.stack(squares).sum(0) / n).sqrt()
    return mean.float(), torch.where(std > 1e-6 * mean.abs(), std, torch.ones_like(std)).float()


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
