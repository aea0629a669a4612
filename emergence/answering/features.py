"""Running a trunk over encoded questions: states of words and questions, and the span logits read off them.

The frozen trunk runs once over all questions, in batches of similar length. Every probe then trains on the cached
states, because running the trunk again for each epoch would cost hundreds of times as much.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from emergence.data.qa_encoding import EncodedQA, PaddedBatch, batches_for_scoring
from emergence.measures.ragged import rows_at
from emergence.model import Encoder, Trunk
from emergence.training.context import Context
from emergence.training.precision import autocast

logger = logging.getLogger(__name__)

#: Padded tokens per forward pass without gradients. On a CPU the activations of 2,048 stay in its caches.
TOKENS_PER_BATCH = {"cpu": 2_048, "cuda": 65_536}

#: A read-out maps question states (N, 2D) and word states (N, W, D) to start and end logits (N, W).
Readout = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class SpanLogits:
    """Start and end logits (N, W) in float32. They are 0 beyond the ``lengths`` (N,) words of each sentence."""

    start: npt.NDArray[np.float32]
    end: npt.NDArray[np.float32]
    lengths: npt.NDArray[np.int64]

    def rows(self, which: slice) -> SpanLogits:
        """The logits of some questions, as wide as the longest of their sentences."""
        lengths = self.lengths[which]
        width = int(lengths.max(initial=0))
        return SpanLogits(self.start[which, :width], self.end[which, :width], lengths)


@dataclass(frozen=True)
class LayerFeatures:
    """What a probe sees of N questions at one layer.

    Attributes:
        words: (sum of W, D) states of all words, sentence after sentence, in float32 or bfloat16.
        questions: (N, 2D) in float32: the mean of the question's token states, then the state of its last token.
        word_offsets: Question n's words are rows ``word_offsets[n]:word_offsets[n + 1]``, (N+1,).
    """

    words: Tensor
    questions: Tensor
    word_offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.word_offsets) - 1


@dataclass(frozen=True)
class FeatureCache:
    """Word and question states of N questions, by layer (see :class:`LayerFeatures`)."""

    words: Mapping[int, Tensor]
    questions: Mapping[int, Tensor]
    word_offsets: npt.NDArray[np.int64]

    def layer(self, layer: int) -> LayerFeatures:
        return LayerFeatures(self.words[layer], self.questions[layer], self.word_offsets)


def cache_features(
    trunk: Encoder,
    encoded: EncodedQA,
    layers: Sequence[int],
    context: Context,
    dtype: torch.dtype = torch.float32,
) -> FeatureCache:
    """Run the frozen trunk once and keep the states of ``layers``.

    Args:
        trunk: A trunk in eval mode on the context's device, where the cache will be too.
        encoded: N questions.
        layers: Levels to keep. Level 0 is the embeddings, level i follows block i, and the last is final-normed too.
        context: Its device and precision are used.
        dtype: Type of the cached word states.
    """
    n, size, device = len(encoded), trunk.hidden_size, context.device
    n_words = int(encoded.word_offsets[-1])
    words = {layer: torch.empty(n_words, size, dtype=dtype, device=device) for layer in layers}
    questions = {layer: torch.empty(n, 2 * size, device=device) for layer in layers}
    for index, batch, states in iter_states(trunk, encoded, context):
        rows = torch.from_numpy(index).to(device)
        places = torch.from_numpy(rows_at(encoded.word_offsets, index)[0]).to(device)
        mask = torch.from_numpy(batch.word_mask).to(device)
        for layer in layers:
            level = states[layer]
            words[layer][places] = word_states(level, batch)[mask].to(dtype)
            questions[layer][rows] = question_states(level, batch)
    return FeatureCache(words, questions, encoded.word_offsets)


def layer_groups(
    layers: Sequence[int], n_words: int, hidden_size: int, gigabytes: float
) -> tuple[list[list[int]], torch.dtype]:
    """The layers to cache together within a memory budget, and the type to cache them in.

    The type is float32 if one layer fits in it, on every device, so that a GPU's probes read what a CPU's read.
    Otherwise it is bfloat16. One layer is always cached, with a warning where it exceeds the budget.
    """
    values = n_words * hidden_size
    dtype = torch.float32 if 4 * values <= gigabytes * 1e9 else torch.bfloat16
    size = values * dtype.itemsize
    together = int(gigabytes * 1e9 // max(size, 1))
    if together < 1:
        logger.warning("one layer's features take %.1f GB, more than probe.cache_gigabytes = %g", size / 1e9, gigabytes)
        together = 1
    return [list(layers[i : i + together]) for i in range(0, len(layers), together)], dtype


def batches_of(encoded: EncodedQA, device: torch.device) -> list[npt.NDArray[np.int64]]:
    """The questions as a trunk runs over them: batches of similar length, each with the indices of its questions."""
    return batches_for_scoring(encoded.lengths, TOKENS_PER_BATCH.get(device.type, TOKENS_PER_BATCH["cpu"]))


def iter_states(
    trunk: Encoder, encoded: EncodedQA, context: Context, *, skip: int = 0
) -> Iterator[tuple[npt.NDArray[np.int64], PaddedBatch, list[Tensor]]]:
    """Yield ``(indices, batch, states)``: the L + 1 levels of states (B, T, D) in float32, without gradients.

    Args:
        skip: Batches to leave out at the beginning, because they were done before.
    """
    for index in batches_of(encoded, context.device)[skip:]:
        batch = encoded.padded_batch(index)
        with torch.no_grad(), autocast(context.device, context.precision):
            levels = trunk.hidden_states(torch.from_numpy(batch.ids).to(context.device))  # L + 1 of (B, T, D)
        yield index, batch, [level.float() for level in levels]
        context.alive()


def word_states(states: Tensor, batch: PaddedBatch) -> Tensor:
    """The state of each word, which is that of its last token: (B, T, D) -> (B, W, D)."""
    positions = torch.from_numpy(batch.word_positions).to(states.device)  # (B, W)
    return states.gather(1, positions[:, :, None].expand(-1, -1, states.shape[2]))  # (B, W, D)


def question_states(states: Tensor, batch: PaddedBatch) -> Tensor:
    """The mean of the question's token states, then the state of its last token: (B, T, D) -> (B, 2D)."""
    start = torch.from_numpy(batch.question_start).to(states.device)  # (B,)
    end = torch.from_numpy(batch.question_end).to(states.device)  # (B,)
    position = torch.arange(states.shape[1], device=states.device)  # (T,)
    inside = (position >= start[:, None]) & (position < end[:, None])  # (B, T)
    mean = torch.einsum("bt,btd->bd", inside.to(states.dtype), states) / (end - start)[:, None]  # (B, D)
    last = states[torch.arange(len(end), device=states.device), end - 1]  # (B, D)
    return torch.cat([mean, last], dim=1)  # (B, 2D)


def predict_readouts(
    trunk: Encoder,
    readouts: Mapping[str, tuple[int, Readout]],
    encoded: EncodedQA,
    context: Context,
) -> dict[str, SpanLogits]:
    """Span logits of several read-outs ``name -> (layer, readout)`` of one trunk, in one pass over it."""
    logits = {name: empty_logits(encoded) for name in readouts}
    for index, batch, states in iter_states(trunk, encoded, context):
        for name, (layer, readout) in readouts.items():
            with torch.no_grad():
                start, end = readout(question_states(states[layer], batch), word_states(states[layer], batch))
            store_logits(logits[name], index, batch, start, end)
    return logits


def predict_finetuned(trunk: Trunk, head: nn.Module, encoded: EncodedQA, context: Context) -> SpanLogits:
    """Span logits of the whole model: the head on the trunk's last layer."""
    logits = empty_logits(encoded)
    for index in batches_of(encoded, context.device):
        batch = encoded.padded_batch(index)
        with torch.no_grad():
            store_logits(logits, index, batch, *span_logits(trunk, head, batch, context))
        context.alive()
    return logits


def span_logits(trunk: Trunk, head: nn.Module, batch: PaddedBatch, context: Context) -> tuple[Tensor, Tensor]:
    """Differentiable start and end logits (B, W) of one batch. The head runs in float32."""
    with autocast(context.device, context.precision):
        states = trunk(torch.from_numpy(batch.ids).to(context.device))  # (B, T, D)
    start, end = head(word_states(states, batch).float())  # (B, W)
    return start, end


def empty_logits(encoded: EncodedQA) -> SpanLogits:
    """Logits of all questions, to be filled by :func:`store_logits`."""
    shape = (len(encoded), int(encoded.n_words.max(initial=0)))
    return SpanLogits(np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32), encoded.n_words)


def store_logits(
    kept: SpanLogits, index: npt.NDArray[np.int64], batch: PaddedBatch, start: Tensor, end: Tensor
) -> None:
    """Put the logits (B, W) of one batch where the questions ``index`` have theirs."""
    width = batch.word_mask.shape[1]
    for target, logits in ((kept.start, start), (kept.end, end)):
        target[index, :width] = np.where(batch.word_mask, logits.float().cpu().numpy(), np.float32(0))
