"""The held-out loss scores every token once, with the context it claims, and counts bytes exactly."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emergence.data.stream import TokenStream
from emergence.errors import DataError
from emergence.model import Trunk, build_trunk
from emergence.plain import plain
from emergence.spec.config import ModelConfig
from emergence.training import language_model_eval
from emergence.training.context import Context
from emergence.training.language_model_eval import cut_windows, evaluate_language_model, summarise_losses

T = 16
CPU = torch.device("cpu")


def trunk() -> Trunk:
    return build_trunk(
        ModelConfig(n_layers=1, hidden_size=16, n_heads=2, sequence_length=T), 320, seed=0, init="normal"
    )


def text(n_tokens: int, documents: int = 4) -> TokenStream:
    tokens = np.random.default_rng(0).integers(4, 300, n_tokens)
    tokens[:: max(1, n_tokens // documents)] = 0
    return TokenStream.from_tokens(tokens, n_bytes=4 * n_tokens, n_words=n_tokens // 2)


@given(n_tokens=st.integers(2, 400), length=st.integers(2, 40), strided=st.booleans())
def test_windows_score_each_token_but_the_first_once(n_tokens: int, length: int, strided: bool) -> None:
    stride = length // 2 if strided else length
    windows = cut_windows(n_tokens, length, stride)
    scored = [p for first, last in zip(windows.first, windows.last, strict=True) for p in range(first, last)]
    assert scored == list(range(1, n_tokens))
    for start, first, last in zip(windows.start, windows.first, windows.last, strict=True):
        assert last - 1 <= start + length  # each scored token is the successor of an input of its window
        # Context: from the window's start to the token.
        assert first == 1 or first - start > length - stride


@given(n_tokens=st.integers(50, 400), most=st.integers(1, 400), strided=st.booleans())
def test_fewer_windows_score_no_more_than_asked(n_tokens: int, most: int, strided: bool) -> None:
    windows = cut_windows(n_tokens, T, T // 2 if strided else T, most)
    assert len(windows) == 1 or windows.n_scored <= most
    assert len(set(windows.start.tolist())) == len(windows)


@pytest.mark.parametrize("n_tokens", [2, 9, 16, 17, 18, 25, 100])
def test_strided_loss_equals_brute_force(n_tokens: int) -> None:
    model, stream = trunk(), text(n_tokens)
    nats = []
    for p in range(1, n_tokens):
        # The window that scores token p: the first, or the one in whose second half it falls.
        start = 0 if p <= T else 8 * math.ceil((p - T) / 8)
        context = torch.from_numpy(stream.tokens[start:p].astype(np.int64))[None]
        with torch.no_grad():
            log_p = (model(context)[0, -1] @ model.unembedding.T).log_softmax(0)
        nats.append(-float(log_p[int(stream.tokens[p])]))
    measured = evaluate_language_model(model, stream, T, Context(), chunk_rows=7)
    assert measured.n_tokens == n_tokens - 1
    assert measured.total_nats == pytest.approx(sum(nats), rel=1e-5)
    assert measured.nats_per_token == pytest.approx(np.mean(nats), rel=1e-5)
    assert measured.perplexity == pytest.approx(math.exp(np.mean(nats)), rel=1e-4)
    assert measured.bits_per_byte == pytest.approx(sum(nats) / math.log(2) / (4 * n_tokens), rel=1e-5)
    assert measured.perplexity_per_word == pytest.approx(math.exp(sum(nats) / (n_tokens // 2)), rel=1e-4)


def test_bits_per_byte_of_a_known_case() -> None:
    # docs/methods.md#bits-per-byte: 3 nats a token, 1,000 tokens, 4,200 bytes.
    stream = dataclasses.replace(text(1000, 1), document_bytes=np.array([4200]), document_ends=np.array([1000]))
    found = summarise_losses(stream, np.array([3000.0]), np.array([1000.0]), with_interval=False)
    assert found.bits_per_byte == pytest.approx(1.030496, abs=1e-6)


def test_disjoint_windows_are_the_packed_sequences() -> None:
    model, stream = trunk(), text(T * 6 + 1)
    blocks = torch.from_numpy(stream.get(np.arange(6), T))
    with torch.no_grad():
        logits = model(blocks[:, :-1]) @ model.unembedding.T
    plain = torch.nn.functional.cross_entropy(logits.flatten(0, 1), blocks[:, 1:].flatten())
    measured = evaluate_language_model(model, stream, T, Context(), strided=False)
    assert measured.nats_per_token == pytest.approx(float(plain), rel=1e-5)
    assert measured.interval is None


def test_part_of_a_text_has_about_its_bits_per_byte() -> None:
    model, stream = trunk(), text(4000)
    whole = evaluate_language_model(model, stream, T, Context(), strided=False)
    part = evaluate_language_model(model, stream, T, Context(), strided=False, max_tokens=2000)
    assert 1900 < part.n_tokens <= 2000
    assert part.bits_per_byte == pytest.approx(whole.bits_per_byte, rel=0.05)


def test_the_interval_is_over_documents_and_holds_the_mean() -> None:
    measured = evaluate_language_model(trunk(), text(2000, 40), T, Context())
    interval = measured.interval
    assert interval is not None
    assert interval.point == pytest.approx(measured.nats_per_token)
    assert interval.lo < interval.point < interval.hi
    assert interval.n_clusters == measured.n_documents >= 40
    assert isinstance(plain(measured)["interval"], dict)


def test_too_short_a_text_is_refused() -> None:
    with pytest.raises(DataError, match="more text"):
        evaluate_language_model(trunk(), text(1, 1), T, Context())


def test_a_long_evaluation_says_that_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setitem(language_model_eval.TOKENS_PER_BATCH, "cpu", 8)
    evaluate_language_model(trunk(), text(64), 8, Context(alive=lambda: asked.append(True)))
    assert len(asked) > 5
