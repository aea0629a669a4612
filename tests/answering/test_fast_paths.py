"""What makes training fast changes no result: packed, fused, bucketed and cached against plain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from emergence.answering.evaluate import gold_spans
from emergence.answering.features import cache_features, span_logits
from emergence.answering.finetune import gold_tensors
from emergence.data.qa_encoding import EncodedQA, batches_by_length
from emergence.data.stream import TokenStream
from emergence.measures.spans import GoldSpans
from emergence.model import SpanHead, Trunk, build_trunk, span_cross_entropy
from emergence.spec.config import ModelConfig
from emergence.training.context import Context
from emergence.training.execution import step_loss
from tests.answering.qa_tasks import WordTokenizer, named_word_task

CPU = torch.device("cpu")
CONFIG = ModelConfig(n_layers=2, hidden_size=16, n_heads=2, vocab_size=300, sequence_length=64)


@pytest.fixture
def trunk() -> Trunk:
    return build_trunk(CONFIG, 64, seed=0, init="normal")


@pytest.fixture(scope="module")
def questions() -> EncodedQA:
    return named_word_task(40, 0, "after", WordTokenizer())


def gradients(trunk: Trunk, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(trunk.parameters())))


def test_packed_and_fused_is_one_sequence_at_a_time_with_plain_cross_entropy(trunk: Trunk) -> None:
    tokens = np.random.default_rng(0).integers(0, 64, 200)
    stream = TokenStream.from_tokens(tokens)
    packed = torch.from_numpy(stream.get([0, 2, 5], 32))  # (3, 33)
    fused = step_loss(trunk, trunk, packed, 20, "fp32")
    plain = []
    for number in (0, 2, 5):
        ids = torch.from_numpy(tokens[number * 32 : number * 32 + 33])
        logits = trunk(ids[None, :-1])[0] @ trunk.unembedding.T
        plain.append(F.cross_entropy(logits, ids[1:]))
    expected = torch.stack(plain).mean()
    torch.testing.assert_close(fused, expected)
    for ours, theirs in zip(gradients(trunk, fused), gradients(trunk, expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_packed_is_padded_without_the_padding(trunk: Trunk) -> None:
    """Padding on the right, its targets ignored, gives the loss that the real tokens have alone."""
    ids = torch.randint(0, 64, (1, 21), generator=torch.Generator().manual_seed(0))
    padded = F.pad(ids, (0, 30), value=3)
    targets = padded[:, 1:].masked_fill(torch.arange(50) >= 20, -100)
    logits = trunk(padded[:, :-1]) @ trunk.unembedding.T
    expected = F.cross_entropy(logits[0], targets[0], ignore_index=-100)
    found = step_loss(trunk, trunk, ids, 512, "fp32")
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(gradients(trunk, found), gradients(trunk, expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_length_buckets_give_each_question_the_loss_it_has_alone(trunk: Trunk, questions: EncodedQA) -> None:
    head = SpanHead(16, seed=1)

    def total(batches: list[np.ndarray]) -> Tensor:
        losses = []
        for index in batches:
            batch = questions.padded_batch(index)
            start, end = span_logits(trunk, head, batch, context=Context())
            loss = span_cross_entropy(start, end, *gold_tensors(batch, CPU), train_gold="marginal")
            losses.append(loss * len(index))
        return torch.stack(losses).sum()

    bucketed = total(batches_by_length(questions.lengths, 8, seed=0, epoch=0))
    alone = total([np.array([i]) for i in range(len(questions))])
    torch.testing.assert_close(bucketed, alone)
    for ours, theirs in zip(gradients(trunk, bucketed), gradients(trunk, alone), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_a_probe_step_on_cached_states_is_one_that_runs_the_trunk_again(trunk: Trunk, questions: EncodedQA) -> None:
    trunk.eval()
    head = SpanHead(16, seed=2)
    golds: GoldSpans = gold_spans(questions)
    features = cache_features(trunk, questions, [2], context=Context()).layer(2)
    index = np.array([3, 17, 29])
    batch = questions.padded_batch(index)
    arrays = (batch.word_mask, batch.gold_starts[:, :1], batch.gold_ends[:, :1], batch.gold_mask[:, :1])
    gold = [torch.from_numpy(array) for array in arrays]
    cached = [features.words[slice(*features.word_offsets[i : i + 2])] for i in index]
    padded = torch.nn.utils.rnn.pad_sequence(cached, batch_first=True)  # (B, W, D)
    from_cache = span_cross_entropy(*head(padded), *gold)
    with torch.no_grad():
        states = trunk.hidden_states(torch.from_numpy(batch.ids))[2]
    positions = torch.from_numpy(batch.word_positions)
    again = span_cross_entropy(*head(states[torch.arange(3)[:, None], positions]), *gold)
    torch.testing.assert_close(from_cache, again)
    ours, theirs = (torch.autograd.grad(loss, list(head.parameters())) for loss in (from_cache, again))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert golds.starts[golds.offsets[3]] == batch.gold_starts[0, 0]
