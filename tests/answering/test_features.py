"""The cached states are those of the trunk at each word's last token, whatever the batching."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from emergence.answering import features
from emergence.answering.features import cache_features, layer_groups, predict_finetuned, predict_readouts
from emergence.data.qa_encoding import EncodedQA
from emergence.model import SpanHead, Trunk, build_trunk
from emergence.spec.config import ModelConfig
from emergence.training.context import Context
from tests.answering.qa_tasks import PlantedEncoder, WordTokenizer, named_word_task

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trunk() -> Trunk:
    config = ModelConfig(n_layers=2, hidden_size=16, n_heads=2, vocab_size=300, sequence_length=64)
    return build_trunk(config, 64, seed=0, init="normal").eval()


@pytest.fixture(scope="module", params=["question-first", "echo"])
def data(request: pytest.FixtureRequest) -> EncodedQA:
    return named_word_task(23, 0, "after", WordTokenizer(), request.param)


def one_by_one(trunk: Trunk, data: EncodedQA, i: int, layer: int) -> torch.Tensor:
    ids = torch.from_numpy(data.ids[data.id_offsets[i] : data.id_offsets[i + 1]].astype(np.int64))
    return trunk.hidden_states(ids[None])[layer][0].detach()  # (T, D)


def test_states_are_the_trunks_own(trunk: Trunk, data: EncodedQA, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(features.TOKENS_PER_BATCH, "cpu", 60)  # several batches
    cache = cache_features(trunk, data, [0, 2], context=Context())
    assert set(cache.words) == {0, 2}
    for i in range(len(data)):
        rows = slice(*data.word_offsets[i : i + 2])
        q_start, q_end = data.question_ranges[i]
        for layer in (0, 2):
            states = one_by_one(trunk, data, i, layer)
            torch.testing.assert_close(cache.words[layer][rows], states[data.word_positions[rows]])
            question = torch.cat([states[q_start:q_end].mean(0), states[q_end - 1]])
            torch.testing.assert_close(cache.questions[layer][i], question)
    assert not cache.words[2].requires_grad


def test_read_outs_see_the_layer_they_ask_for(trunk: Trunk, data: EncodedQA) -> None:
    readouts = {
        "words": (2, lambda _, words: (words[..., 0], words[..., 1])),
        "question": (1, lambda question, words: (question[:, :1].expand(words.shape[:2]), words[..., 3])),
    }
    found = predict_readouts(trunk, readouts, data, context=Context())
    for i in range(len(data)):
        n = data.n_words[i]
        positions = data.word_positions[slice(*data.word_offsets[i : i + 2])]
        want = one_by_one(trunk, data, i, 2)[positions].numpy()
        np.testing.assert_allclose(found["words"].start[i, :n], want[:, 0], atol=1e-5)
        np.testing.assert_allclose(found["words"].end[i, :n], want[:, 1], atol=1e-5)
        assert (found["words"].start[i, n:] == 0).all()
        asked = one_by_one(trunk, data, i, 1)[slice(*data.question_ranges[i])].mean(0)[0]
        np.testing.assert_allclose(found["question"].start[i, :n], float(asked), atol=1e-5)


def test_the_whole_model_and_a_head_on_cached_states_agree(trunk: Trunk, data: EncodedQA) -> None:
    head = SpanHead(16, seed=4)
    whole = predict_finetuned(trunk, head, data, context=Context())
    readout = {"head": (2, lambda _, words: head(words))}
    np.testing.assert_allclose(
        whole.end, predict_readouts(trunk, readout, data, context=Context())["head"].end, atol=1e-5
    )
    np.testing.assert_array_equal(whole.lengths, data.n_words)


def test_bfloat16_cache_is_close(trunk: Trunk, data: EncodedQA) -> None:
    exact = cache_features(trunk, data, [1], context=Context())
    short = cache_features(trunk, data, [1], context=Context(), dtype=torch.bfloat16)
    assert short.words[1].dtype == torch.bfloat16
    torch.testing.assert_close(short.words[1].float(), exact.words[1], rtol=1e-2, atol=1e-2)


def test_layers_are_grouped_by_memory(caplog: pytest.LogCaptureFixture) -> None:
    layers, words, size = list(range(5)), 1_000_000, 100  # 0.4 GB a layer in float32
    assert layer_groups(layers, words, size, 4.0) == ([layers], torch.float32)
    assert layer_groups(layers, words, size, 0.9) == ([[0, 1], [2, 3], [4]], torch.float32)
    assert layer_groups(layers, words, size, 0.3) == ([[0], [1], [2], [3], [4]], torch.bfloat16)
    with caplog.at_level(logging.WARNING):
        groups, _ = layer_groups(layers, words, size, 0.001)
    assert len(groups) == 5 and "cache_gigabytes" in caplog.text


def test_one_pass_serves_all_layers() -> None:
    encoder = PlantedEncoder()
    cache_features(encoder, named_word_task(9, 0, "asked", WordTokenizer()), [0, 1], context=Context())
    assert encoder.passes == 1


def test_scoring_says_that_it_goes_on(trunk: Trunk, data: EncodedQA, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may take longer than what looks after a run waits for a sign of life, and nothing stops it in the middle."""
    asked: list[bool] = []
    context = Context(alive=lambda: asked.append(True))
    monkeypatch.setitem(features.TOKENS_PER_BATCH, "cpu", 1)
    predict_finetuned(trunk, SpanHead(trunk.hidden_size), data, context)
    assert len(asked) == len(data)
    predict_readouts(trunk, {"linear": (1, lambda _, words: (words[..., 0], words[..., 1]))}, data, context)
    assert len(asked) == 2 * len(data)
