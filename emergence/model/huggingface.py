"""A Hugging Face causal language model as an :class:`Encoder`, to be probed like our own trunk.

Load model and tokenizer with ``transformers`` (the ``hf`` extra) and wrap them. Nothing here downloads::

    model = AutoModelForCausalLM.from_pretrained("openai-community/gpt2", revision=...)
    encoder = HuggingFaceEncoder(model)
    tokenizer = HuggingFaceTokenizer(AutoTokenizer.from_pretrained(...))
    encoded, dropped = encode_qa(examples, tokenizer, "question-first", max_tokens=encoder.max_tokens)
    fits = probe_all_layers(encoder, ...)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from emergence.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class HuggingFaceEncoder(nn.Module):
    """States of a decoder-only model, as Hugging Face gives them: the last level is final-normed.

    Attributes:
        hidden_size: D.
        n_layers: L.
        max_tokens: Longest sequence the model takes.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        config = model.config.get_text_config()
        if getattr(config, "is_encoder_decoder", False):
            raise UsageError(f"{config.model_type} is an encoder-decoder: give a decoder-only (causal) model")
        self.model = model.eval()
        self.hidden_size: int = config.hidden_size
        self.n_layers: int = config.num_hidden_layers
        self.max_tokens: int = config.max_position_embeddings

    @torch.no_grad()
    def hidden_states(self, ids: Tensor) -> list[Tensor]:
        """L + 1 tensors (B, T, D) of token ids (B, T). Right padding is harmless, so there is no mask."""
        output = self.model(input_ids=ids, output_hidden_states=True, use_cache=False)
        return list(output.hidden_states)


class HuggingFaceTokenizer:
    """A byte-level Hugging Face tokenizer with what encoding questions needs.

    A pretrained model has no separator and no predicate marker, so ordinary tokens that it knows stand for them.

    Args:
        tokenizer: A tokenizer that tells a word with its leading space from one without, as GPT-2's does.
        separator: Text of one token between question and sentence.
        predicate: Text of one token before the predicate.

    Raises:
        UsageError: One of the two is not a single token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, separator: str = "\n", predicate: str = " *") -> None:
        self._tokenizer = tokenizer
        self.sep, self.pred = self._single(separator), self._single(predicate)
        # The padding is never seen, so any id will do.
        self.pad = self.sep

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of every text, without special tokens."""
        if not texts:
            return []
        return cast("list[list[int]]", self._tokenizer(list(texts), add_special_tokens=False)["input_ids"])

    def _single(self, text: str) -> int:
        ids = self.encode_batch([text])[0]
        if len(ids) != 1:
            raise UsageError(f"{text!r} is {len(ids)} tokens of this tokenizer: choose a marker that is one token")
        return ids[0]
