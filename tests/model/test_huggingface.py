"""A Hugging Face model goes through the same probes, offline and with random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from emergence.answering.features import cache_features
from emergence.data.qa_encoding import encode_qa
from emergence.data.records import Answer, QAExample
from emergence.data.tokenizer import TextTokenizer
from emergence.errors import UsageError
from emergence.model import Encoder
from emergence.model.huggingface import HuggingFaceEncoder, HuggingFaceTokenizer
from emergence.training.context import Context

transformers = pytest.importorskip("transformers")

TEXTS = ["The dog chased the cat .\n", "Who chased something ?", "a * b \n c"] * 3


@pytest.fixture(scope="module")
def encoder() -> HuggingFaceEncoder:
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=400, n_embd=16, n_layer=2, n_head=2, n_positions=64)
    return HuggingFaceEncoder(transformers.GPT2LMHeadModel(config))


@pytest.fixture(scope="module")
def tokenizer() -> HuggingFaceTokenizer:
    own = TextTokenizer.train(TEXTS, 300)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(own.to_json()))
    return HuggingFaceTokenizer(fast, separator="\n", predicate="*")


def test_it_is_an_encoder_with_one_level_more_than_blocks(encoder: HuggingFaceEncoder) -> None:
    assert isinstance(encoder, Encoder)
    ids = torch.arange(12).view(2, 6)
    levels = encoder.hidden_states(ids)
    assert [level.shape for level in levels] == [(2, 6, 16)] * 3
    torch.testing.assert_close(levels[-1], encoder.model.transformer(ids).last_hidden_state)
    padded = torch.nn.functional.pad(ids, (0, 3), value=7)
    torch.testing.assert_close(encoder.hidden_states(padded)[-1][:, :6], levels[-1])


def test_questions_encode_and_their_states_are_cached(
    encoder: HuggingFaceEncoder, tokenizer: HuggingFaceTokenizer
) -> None:
    words = ("The", "dog", "chased", "the", "cat", ".")
    answer = Answer("The dog", 0, 2, "given")
    example = QAExample("1", "qasrl", "train", "d", "s", words, 2, "Who chased something ?", None, (answer,))
    encoded, dropped = encode_qa([example], tokenizer, "question-first", max_tokens=encoder.max_tokens)
    assert dropped == {}
    cache = cache_features(encoder, encoded, [0, 2], context=Context())
    assert cache.words[2].shape == (len(words), 16)
    assert np.isfinite(cache.questions[2].numpy()).all()


def test_what_cannot_work_is_refused(tokenizer: HuggingFaceTokenizer) -> None:
    with pytest.raises(UsageError, match="one token"):
        HuggingFaceTokenizer(tokenizer._tokenizer, separator="\n", predicate=" xyzzy")
    config = transformers.T5Config(vocab_size=40, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    with pytest.raises(UsageError, match="decoder-only"):
        HuggingFaceEncoder(transformers.T5ForConditionalGeneration(config))
