"""Held-out language-model loss, in nats per token, bits per byte and perplexities (docs/methods.md#bits-per-byte).

The stream is read in windows of the training length; with a stride of half of it, every token but those
of the first half window is scored with at least half a window of context. Only bits per byte and
perplexity per word compare models of different tokenizers.
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
        perplexity: Its exponential.
        bits_per_byte: Of UTF-8 text; where part of the text was scored, at the whole text's bytes per token.
        perplexity_per_word: Likewise per white-space separated word; None where words were not counted.
        total_nats: Sum over the scored tokens.
        n_tokens: Tokens scored; all but the first when the whole text is.
        n_bytes: Bytes of the whole text. n_words: Words of it. n_documents: Documents with scored tokens.
        interval: Of ``nats_per_token``, by bootstrap over documents; None where it was not asked for.
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
    """Windows over a stream: inputs from token ``start`` on; tokens ``first`` to ``last - 1`` are scored."""

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
        stride: From one window's start to the next's, at most ``length``.
        max_tokens: Keep so many windows, spread evenly, that at most this many tokens are scored (at least one).
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
    """Sum of losses (nats) and number of scored tokens of each document, both (n_documents,)."""
    device = context.device
    sums, counts = np.zeros(stream.n_documents), np.zeros(stream.n_documents)
    per_batch = max(1, TOKENS_PER_BATCH[device.type] // length)
    for at in range(0, len(windows), per_batch):
        batch = windows[np.arange(at, min(at + per_batch, len(windows)))]
        place = batch.start[:, None] + np.arange(length + 1)  # (B, T+1)
        # Beyond the end of the stream any token will do: what it predicts is not scored.
        ids = torch.from_numpy(stream.tokens[np.minimum(place, stream.n_tokens - 1)].astype(np.int64)).to(device)
        scored = (place[:, 1:] >= batch.first[:, None]) & (place[:, 1:] < batch.last[:, None])  # (B, T)
        mask = torch.from_numpy(scored).to(device)
        with autocast(device, context.precision):
            states = trunk(ids[:, :-1])  # (B, T, D)
            losses = token_losses(states[mask], trunk.unembedding, ids[:, 1:][mask], chunk_rows)  # (scored,)
        document = np.searchsorted(stream.document_ends, place[:, 1:][scored], side="right")
        sums += np.bincount(document, losses.double().cpu().numpy(), minlength=stream.n_documents)
        counts += np.bincount(document, minlength=stream.n_documents)
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
        trunk: On the context's device.
        stream: The text; windows run across documents, as in training.
        sequence_length: Context, the training length.
        context: Its workers share the windows.
        chunk_rows: Rows of the vocabulary head computed at a time.
        max_tokens: Score at most this many tokens, from windows spread evenly over the text; None for all.
        strided: Stride of half a window and an interval over documents, as reported; else disjoint windows and
            no interval, as during training.

    Raises:
        DataError: Fewer than two tokens.
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
    """Units and interval of per-document losses (nats) and token counts, both (n_documents,)."""
    total, n_tokens = float(sums.sum()), int(counts.sum())
    mean = total / n_tokens
    # Scored tokens to the whole text's: 1, but for the first token, when all of it was scored.
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
