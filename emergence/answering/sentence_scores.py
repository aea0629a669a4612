"""Log-probabilities of sentences by a causal language model, with and without a token before them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from emergence.data.sentence_pairs import SentencePair
from emergence.errors import DataError
from emergence.measures.sentence_pairs import WITH_BOS, WITHOUT_BOS, SentencePairScores
from emergence.model import Trunk, token_losses
from emergence.training.recording import NoProgress, Progress

FloatArray = npt.NDArray[np.float64]

#: Tokens per forward pass, and logits that exist at one time.
_TOKENS, _LOGITS = 4_096, 1 << 25


class CanEncode(Protocol):
    """What scoring needs of a tokenizer."""

    def encode_batch(self, texts: Sequence[str]) -> Sequence[Any]:
        """Token ids of every text, without special tokens."""


@dataclass(frozen=True)
class LanguageModel:
    """A model that sentences are scored with.

    Attributes:
        losses: A function of token ids (B, T) int64 on ``device`` that gives the nats of token t + 1 after tokens 0 to
            t, (B, T - 1).
        tokenizer: Its tokenizer.
        bos: The token that stands before a text; None for a model that has none.
        max_tokens: Longest sequence that it takes.
        device: Where it is.
        values_per_token: Numbers that it holds in memory for a token, such as the rows of its vocabulary.
    """

    losses: Callable[[Tensor], Tensor]
    tokenizer: CanEncode
    bos: int | None
    max_tokens: int
    device: torch.device
    values_per_token: int = 1


def language_model_of(
    trunk: Trunk, tokenizer: CanEncode, bos: int, device: torch.device, chunk_rows: int = 512
) -> LanguageModel:
    """A trunk as a language model. It is moved to ``device``."""
    trunk = trunk.to(device).eval()

    def losses(ids: Tensor) -> Tensor:
        states = trunk(ids[:, :-1])  # (B, T-1, D)
        flat = token_losses(states.flatten(0, 1), trunk.unembedding, ids[:, 1:].flatten(), chunk_rows)  # (B(T-1),)
        return flat.view(len(ids), -1)

    return LanguageModel(losses, tokenizer, bos, trunk.config.sequence_length, device)


def losses_of_logits(logits_of: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """:attr:`LanguageModel.losses` of a model that gives logits (B, T, V) of token ids (B, T)."""

    def losses(ids: Tensor) -> Tensor:
        logits = logits_of(ids)[:, :-1].float()  # (B, T-1, V)
        flat = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        return flat.view(len(ids), -1)

    return losses


def score_pairs(
    model: LanguageModel, pairs: Sequence[SentencePair], progress: Progress = NoProgress()
) -> SentencePairScores:
    """Log-probabilities of both sentences of every pair, in both contexts.

    Sentences are kept whole.

    Args:
        model: The model.
        pairs: P pairs.
        progress: Counts sentences, 2P for each context.

    Raises:
        DataError: A sentence is longer than what the model takes, or has no token.
    """
    sentences = [text for pair in pairs for text in (pair.good, pair.bad)]
    encoded = [[int(token) for token in ids] for ids in model.tokenizer.encode_batch(sentences)]
    longest = max(range(len(encoded)), key=lambda i: len(encoded[i]))
    if len(encoded[longest]) + (model.bos is not None) > model.max_tokens:
        told = f"{len(encoded[longest])} tokens, and the model takes {model.max_tokens}"
        raise DataError(f"a sentence has {told}; pairs are scored whole: {sentences[longest][:60]!r}")
    if empty := next((text for text, ids in zip(sentences, encoded, strict=True) if not ids), None):
        raise DataError(f"the tokenizer makes no token of the sentence {empty[:60]!r}")
    before = {WITHOUT_BOS: []} if model.bos is None else {WITH_BOS: [model.bos], WITHOUT_BOS: []}
    nats, n_tokens = {}, {}
    for context, prefix in before.items():
        sequences = [[*prefix, *ids] for ids in encoded]
        nats[context] = -_sums(model, sequences, progress).reshape(-1, 2)
        n_tokens[context] = np.array([len(ids) - 1 for ids in sequences], dtype=np.float64).reshape(-1, 2)
    n_bytes = np.array([len(text.encode()) for text in sentences], dtype=np.float64).reshape(-1, 2)
    clusters, kinds = tuple(pair.item for pair in pairs), tuple(pair.kind for pair in pairs)
    return SentencePairScores(nats, n_tokens, n_bytes, clusters, kinds)


@torch.inference_mode()
def _sums(model: LanguageModel, sequences: Sequence[Sequence[int]], progress: Progress) -> FloatArray:
    """Nats of all tokens but the first of each sequence."""
    sums = np.zeros(len(sequences))
    # Equal lengths stand together, so nothing is padded and a sum depends on no other sentence.
    rows_of: dict[int, list[int]] = {}
    for row, ids in enumerate(sequences):
        rows_of.setdefault(len(ids), []).append(row)
    for length, rows in sorted(rows_of.items()):
        size = max(1, min(_TOKENS, _LOGITS // model.values_per_token) // length)
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            if length > 1:
                tokens = torch.tensor([sequences[row] for row in batch], device=model.device)
                sums[batch] = model.losses(tokens).double().sum(1).cpu().numpy()
            progress.update(len(batch))
    return sums
