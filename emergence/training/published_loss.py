"""Loss of a published model on the reference text, in bits per byte, so that families share an axis.

Each document is scored by itself, behind the model's own BOS if it was trained with one. Without one, the first token
of a document is not scored, because nothing predicts it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy

from emergence.data.reference_text import REFERENCE_TEXT
from emergence.model.huggingface import LoadedModel
from emergence.training.context import Context
from emergence.training.language_model_eval import LanguageModelLoss
from emergence.training.precision import autocast


@torch.no_grad()
def evaluate_published(
    published: LoadedModel, context: Context, documents: Sequence[str] = REFERENCE_TEXT
) -> LanguageModelLoss:
    """Loss on ``documents``.

    Args:
        published: A model on the context's device. A document longer than its context is scored in parts.
        context: Its device and precision are used.
    """
    encoder, tokenizer = published.encoder, published.tokenizer
    total, scored, tokens = 0.0, 0, 0
    for ids in tokenizer.encode_batch(documents):
        sequence = ids if tokenizer.bos is None else [tokenizer.bos, *ids]
        tokens += len(ids)
        for begin in range(0, len(sequence) - 1, encoder.max_tokens):
            part = torch.tensor([sequence[begin : begin + encoder.max_tokens + 1]], device=context.device)
            with autocast(context.device, context.precision):
                logits = encoder.logits(part[:, :-1])  # (1, T, V)
            total += float(cross_entropy(logits[0].float(), part[0, 1:], reduction="sum"))
            scored += part.shape[1] - 1
    n_bytes = sum(len(document.encode()) for document in documents)
    nats = total / scored
    return LanguageModelLoss(
        nats_per_token=nats,
        perplexity=math.exp(min(nats, 700.0)),
        bits_per_byte=nats * tokens / n_bytes / math.log(2),
        perplexity_per_word=None,
        total_nats=total,
        n_tokens=scored,
        n_bytes=n_bytes,
        n_words=sum(len(document.split()) for document in documents),
        n_documents=len(documents),
    )
