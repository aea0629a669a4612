"""What probes are fitted on: one layer's cached states of N questions, and the spans to learn.

States are standardised with the statistics of training, because the scale of the states alone can make a probe look
blind. The statistics are folded back into the fitted weights, so a finished probe reads raw states.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from emergence.answering.evaluate import gold_spans
from emergence.answering.features import LayerFeatures, Readout, SpanLogits, cache_features, layer_groups
from emergence.answering.stored_states import StoredStates
from emergence.data.qa_encoding import EncodedQA
from emergence.measures.ragged import rows_at
from emergence.measures.spans import GoldSpans
from emergence.model import Encoder
from emergence.training.context import Context

logger = logging.getLogger(__name__)

#: Rows of word states multiplied at a time, because bfloat16 ones are widened first; questions scored at a time.
CHUNK_ROWS = 1 << 18
#: Rows of word states copied to float64 at a time: of 768 columns 100 MB.
DOUBLE_ROWS = 1 << 14
_CHUNK_QUESTIONS = 512
#: Share of the memory for cached states that one layer read from disk may take in float32.
_SHARE_OF_STORED = 0.25


@dataclass(frozen=True)
class ProbeData:
    """N questions at one layer, and the spans to learn.

    Attributes:
        features: The states. golds: The spans, perhaps those of a control task (docs/methods.md#selectivity).
        offset: (sum of W, 2) start and end logits to which a conditional probe is added; None for other probes. They
            are kept less their mean over the words of each question, which no softmax sees: float32 has more places
            without it.
    """

    features: LayerFeatures
    golds: GoldSpans
    offset: Tensor | None = None

    def __post_init__(self) -> None:
        if self.offset is not None:
            counts = torch.from_numpy(self.lengths).to(self.offset.device)
            object.__setattr__(self, "offset", less_means(self.offset.double(), counts).float())

    def __len__(self) -> int:
        return len(self.golds)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(N,) number of words of each sentence."""
        return np.diff(self.features.word_offsets)

    def take(self, index: npt.NDArray[np.int64]) -> ProbeData:
        """The questions at ``index``, in that order, with copies of their states."""
        rows, offsets = rows_at(self.features.word_offsets, index)
        device = self.features.words.device
        words = self.features.words[torch.from_numpy(rows).to(device)]
        questions = self.features.questions[torch.from_numpy(index).to(device)]
        offset = None if self.offset is None else self.offset[torch.from_numpy(rows).to(device)]
        return ProbeData(LayerFeatures(words, questions, offsets), self.golds.take(index), offset)


def per_question(values: Tensor, reduction: str, counts: Tensor) -> Tensor:
    """(sum of counts, K) -> (N, K). It is deterministic, which ``index_add_`` on a GPU would not be."""
    return torch.segment_reduce(values, reduction, lengths=counts, axis=0, unsafe=True)


def less_means(values: Tensor, counts: Tensor) -> Tensor:
    """Rows (sum of counts, K) less the mean over their question's ``counts`` (N,) rows."""
    return values - per_question(values, "mean", counts).repeat_interleave(counts, dim=0)


@dataclass(frozen=True)
class Standardisation:
    """Mean and standard deviation of each feature over the training words and questions."""

    word_mean: Tensor
    word_std: Tensor
    question_mean: Tensor
    question_std: Tensor


def standardise_(train: LayerFeatures, *others: LayerFeatures) -> Standardisation:
    """Standardise all features IN PLACE with the statistics of ``train``. A constant feature becomes zero."""
    statistics = Standardisation(*_moments(train.words), *_moments(train.questions))
    for features in (train, *others):
        features.words.sub_(statistics.word_mean).div_(statistics.word_std)
        features.questions.sub_(statistics.question_mean).div_(statistics.question_std)
    return statistics


def layer_data(
    trunk: Encoder,
    splits: Sequence[EncodedQA],
    layers: Sequence[int],
    gigabytes: float,
    context: Context,
) -> Iterator[tuple[int, tuple[ProbeData, ...]]]:
    """Yield each layer with the raw states of all splits. As many layers are cached together as memory allows.

    States on disk are read a layer at a time.
    """
    n_words = sum(int(split.word_offsets[-1]) for split in splits)
    if isinstance(trunk, StoredStates):
        # Standardising is exact in float32, and fits copy a layer several times, so that it gets a part of the budget.
        size = 4 * n_words * trunk.hidden_size / 1e9
        wide = size <= _SHARE_OF_STORED * gigabytes
        if not wide and trunk.dtype == torch.float32:
            logger.warning(
                "states were stored in float32, and probes read them in bfloat16: a layer of %.1f GB is more than a "
                "quarter of probe.cache_gigabytes = %g", size, gigabytes,
            )  # fmt: skip
        for layer in layers:
            dtype = torch.float32 if wide else torch.bfloat16
            parts = [trunk.layer(split, layer, context.device, dtype) for split in splits]
            yield layer, tuple(ProbeData(part, gold_spans(s)) for part, s in zip(parts, splits, strict=True))
            del parts
        return
    groups, dtype = layer_groups(layers, n_words, trunk.hidden_size, gigabytes)
    for group in groups:
        caches = [cache_features(trunk, s, group, context, dtype) for s in splits]
        for layer in group:
            yield (
                layer,
                tuple(ProbeData(c.layer(layer), gold_spans(s)) for c, s in zip(caches, splits, strict=True)),
            )
        del caches


@dataclass(frozen=True)
class GatheredBatch:
    """B padded questions: their states (B, 2D), word states (B, W, D), mask (B, W), and offset (B, W, 2) or None."""

    questions: Tensor
    words: Tensor
    mask: npt.NDArray[np.bool_]
    offset: Tensor | None


def gather(data: ProbeData, index: npt.NDArray[np.int64]) -> GatheredBatch:
    """The questions at ``index`` as one batch. Padding repeats the first word of a sentence."""
    features = data.features
    begins = features.word_offsets[:-1][index]
    counts = features.word_offsets[1:][index] - begins
    column = np.arange(int(counts.max()))[None, :]
    mask = column < counts[:, None]  # (B, W)
    device = features.words.device
    rows = torch.from_numpy(np.where(mask, begins[:, None] + column, begins[:, None])).to(device)  # (B, W)
    offset = None if data.offset is None else data.offset[rows]  # (B, W, 2)
    questions = features.questions[torch.from_numpy(index).to(device)]  # (B, 2D)
    return GatheredBatch(questions, features.words[rows].float(), mask, offset)


def add_offset(logits: tuple[Tensor, Tensor], offset: Tensor | None, scales: Tensor | None) -> tuple[Tensor, Tensor]:
    """Start and end logits (B, W) plus the scaled offset (B, W, 2), where there is one."""
    if offset is None or scales is None:
        return logits
    start, end = (scales * offset).unbind(-1)  # (B, W)
    return logits[0] + start, logits[1] + end


@torch.no_grad()
def predict_cached(readout: Readout, data: ProbeData, scales: Tensor | None = None) -> SpanLogits:
    """Logits of every question. ``readout`` gets the states as ``data`` has them, raw or standardised.

    Args:
        scales: (2,) factors of the offset's start and end logits; without them no offset is added.
    """
    start, end = (np.zeros((len(data), int(data.lengths.max())), dtype=np.float32) for _ in range(2))
    for begin in range(0, len(data), _CHUNK_QUESTIONS):
        index = np.arange(begin, min(begin + _CHUNK_QUESTIONS, len(data)))
        batch = gather(data, index)
        of_batch = add_offset(readout(batch.questions, batch.words), batch.offset, scales)
        for boundary, logits in zip((start, end), of_batch, strict=True):
            boundary[index, : batch.mask.shape[1]] = logits.cpu().numpy()
    return SpanLogits(start, end, data.lengths)


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """(D,) means and standard deviations of the columns, in float32. The deviation of a constant column is 1."""
    n = values.shape[0]
    mean = torch.stack([chunk.sum(0, dtype=torch.float64) for chunk in values.split(CHUNK_ROWS)]).sum(0) / n
    squares = [(chunk.double() - mean).square_().sum(0) for chunk in values.split(DOUBLE_ROWS)]
    std = (torch.stack(squares).sum(0) / n).sqrt()
    return mean.float(), torch.where(std > 1e-6 * mean.abs(), std, torch.ones_like(std)).float()
