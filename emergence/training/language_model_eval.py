"""Held-out language-model loss, in nats per token, bits per byte and perplexities (docs/methods.md#bits-per-byte).

The stream is read in windows of the training length. With a stride of half a window, every token after the first half
window is scored with at least half a window of context. Only bits per byte and perplexity per word can compare models
of different tokenizers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from emergence.data.stream import TokenStream
from emergence.errors import DataError
from emergence.measures.bootstrap import ClusterTable, Estimate, bootstrap_means
from emergence.model import Trunk, token_losses
from emergence.training.context import Context
from emergence.training.precision import autocast

#: Tokens per forward pass.
TOKENS_PER_BATCH = {"cpu": 8_192, "cuda": 65_536}
BOOTSTRAP_DRAWS = 2_000


@dataclass(frozen=True)
class LanguageModelLoss:
    """A held-out loss.

    Attributes:
        nats_per_token: Mean negative log-likelihood of the scored tokens.
        perplexity: The exponential of ``nats_per_token``.
        bits_per_byte: Per byte of UTF-8 text. If only a part is scored, the whole text's bytes per token are used.
        perplexity_per_word: Likewise per white-space separated word; None if words were not counted.
        total_nats: Sum over the scored tokens.
        n_tokens: Tokens scored: all but the first, if the whole text is.
        n_bytes: Bytes of the whole text. n_words: Words of it. n_documents: Documents with scored tokens.
        interval: Of ``nats_per_token``, by bootstrap over documents; None if it was not asked for.
    """

    nats_per_token: float
    perplexity: float
    bits_per_byte: float
    perplexity_per_word: float | None
    total_nats: float
    n_tokens: int
    n_bytes: int
    n_words: int
    n_documents: int
    interval: Estimate | None = None


@dataclass(frozen=True)
class Windows:
    """W windows over a stream, each array (W,). Inputs begin at ``start``, and ``first`` to ``last - 1`` are scored."""

    start: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]

    @property
    def n_scored(self) -> int:
        return int((self.last - self.first).sum())

    def __getitem__(self, index: NDArray[np.int64]) -> Windows:
        return Windows(self.start[index], self.first[index], self.last[index])

    def __len__(self) -> int:
        return len(self.start)


def cut_windows(n_tokens: int, length: int, stride: int, max_tokens: int | None = None) -> Windows:
    """Windows of ``length`` inputs every ``stride`` tokens that score each of tokens 1 to n - 1 once.

    Args:
        n_tokens: Tokens in the stream, at least 2.
        length: Inputs per window.
        stride: Tokens from one window's start to the next's, at most ``length``.
        max_tokens: Keep windows, spread evenly, that score at most this many tokens, but at least one window.
    """
    n_windows = 1 + max(0, math.ceil((n_tokens - 1 - length) / stride))
    start = np.arange(n_windows, dtype=np.int64) * stride
    last = np.minimum(start + length + 1, n_tokens)
    windows = Windows(start, np.concatenate([[1], last[:-1]]), last)
    if max_tokens is None or windows.n_scored <= max_tokens:
        return windows
    keep = max(1, (max_tokens - (length - stride)) // stride)
    return windows[np.floor((np.arange(keep) + 0.5) * n_windows / keep).astype(np.int64)]


@torch.no_grad()
def document_losses(
    trunk: Trunk,
    stream: TokenStream,
    windows: Windows,
    length: int,
    context: Context,
    chunk_rows: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each document's sum of losses (nats) and number of scored tokens, both (n_documents,)."""
    device = context.device
    sums, counts = np.zeros(stream.n_documents), np.zeros(stream.n_documents)
    per_batch = max(1, TOKENS_PER_BATCH[device.type] // length)
    for at in range(0, len(windows), per_batch):
        batch = windows[np.arange(at, min(at + per_batch, len(windows)))]
        place = batch.start[:, None] + np.arange(length + 1)  # (B, T+1)
        # Beyond the end of the stream any token will do, because what it predicts is not scored.
        ids = torch.from_numpy(stream.tokens[np.minimum(place, stream.n_tokens - 1)].astype(np.int64)).to(device)
        scored = (place[:, 1:] >= batch.first[:, None]) & (place[:, 1:] < batch.last[:, None])  # (B, T)
        mask = torch.from_numpy(scored).to(device)
        with autocast(device, context.precision):
            states = trunk(ids[:, :-1])  # (B, T, D)
            losses = token_losses(states[mask], trunk.unembedding, ids[:, 1:][mask], chunk_rows)  # (scored,)
        document = np.searchsorted(stream.document_ends, place[:, 1:][scored], side="right")
        sums += np.bincount(document, losses.double().cpu().numpy(), minlength=stream.n_documents)
        counts += np.bincount(document, minlength=stream.n_documents)
        context.alive()
    return sums, counts


def evaluate_language_model(
    trunk: Trunk,
    stream: TokenStream,
    sequence_length: int,
    context: Context,
    chunk_rows: int = 512,
    max_tokens: int | None = None,
    strided: bool = True,
) -> LanguageModelLoss:
    """Loss of a trunk on held-out text.

    Args:
        trunk: Must be on the context's device.
        stream: The text. Windows run across documents, as in training.
        sequence_length: Inputs per window: the training length.
        context: Its workers share the windows.
        chunk_rows: Tokens whose logits exist at one time.
        max_tokens: Score at most this many tokens, from windows spread evenly over the text; None for all.
        strided: If true, the stride is half a window and documents give an interval, as for reported losses. If false,
            windows are disjoint and there is no interval, as during training.

    Raises:
        DataError: The text has fewer than two tokens.
    """
    if stream.n_tokens < 2:
        raise DataError("the held-out text has fewer than two tokens: give more text")
    stride = max(1, sequence_length // 2) if strided else sequence_length
    windows = cut_windows(stream.n_tokens, sequence_length, stride, max_tokens)
    workers = context.workers
    mine = windows[workers.shard(np.arange(len(windows)))]
    sums, counts = document_losses(trunk, stream, mine, sequence_length, context, chunk_rows)
    both = np.concatenate([sums, counts])
    if workers.size > 1:
        both = np.array(workers.sum(both.tolist(), context.device))
    sums, counts = both[: stream.n_documents], both[stream.n_documents :]
    return summarise_losses(stream, sums, counts, with_interval=strided)


def summarise_losses(
    stream: TokenStream, sums: NDArray[np.float64], counts: NDArray[np.float64], with_interval: bool
) -> LanguageModelLoss:
    """The held-out loss from each document's sum of losses (nats) and token count, both (n_documents,)."""
    total, n_tokens = float(sums.sum()), int(counts.sum())
    mean = total / n_tokens
    # Share of the whole text's tokens that was scored. The first token never is, and does not make it less than 1.
    share = 1.0 if n_tokens >= stream.n_tokens - 1 else n_tokens / stream.n_tokens
    interval = None
    if with_interval:
        seen = counts > 0
        table = ClusterTable(sums[None, seen], counts[seen], {"nats": slice(0, 1)}, {"nats": ("0",)})
        interval = bootstrap_means(table, n_boot=BOOTSTRAP_DRAWS)["nats"]
    return LanguageModelLoss(
        nats_per_token=mean,
        perplexity=_exp(mean),
        bits_per_byte=total / (math.log(2) * stream.n_bytes * share),
        perplexity_per_word=_exp(total / (stream.n_words * share)) if stream.n_words else None,
        total_nats=total,
        n_tokens=n_tokens,
        n_bytes=stream.n_bytes,
        n_words=stream.n_words,
        n_documents=int((counts > 0).sum()),
        interval=interval,
    )


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf
