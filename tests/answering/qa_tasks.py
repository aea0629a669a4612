"""Small question-answering tasks with a known solution, and an encoder whose states are planted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from emergence.data.qa_encoding import EncodedQA, encode_qa
from emergence.data.records import Answer, QAExample

WORDS = tuple(f"w{i}" for i in range(20))


class WordTokenizer:
    """Every distinct word is one token: what a text says can be read off its ids."""

    sep, pred, pad = 1, 2, 3

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def token(self, word: str) -> int:
        return self._ids.setdefault(word, 4 + len(self._ids))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [[self.token(word) for word in text.split()] for text in texts]


def example(
    number: int, tokens: Sequence[str], question: str, spans: Sequence[tuple[int, int]], **more: object
) -> QAExample:
    """``spans`` are ``(start, end)`` with an exclusive end."""
    fields: dict[str, object] = {
        "id": f"q{number}",
        "source": "made-up",
        "split": "train",
        "document_id": f"d{number // 4}",
        "sentence_id": f"s{number // 2}",
        "tokens": tuple(tokens),
        "predicate_index": None,
        "question": question,
        "slots": None,
        "answers": tuple(Answer(" ".join(tokens[a:b]), a, b, "given") for a, b in spans),
    }
    return QAExample(**{**fields, **more})  # type: ignore[arg-type]


def named_word_task(
    n: int, seed: int, kind: str, tokenizer: WordTokenizer, layout: str = "question-first"
) -> EncodedQA:
    """Sentences of different words, 4 to 9 of them, and a question whose answer is one word.

    ``kind``: ``marked``, the answer is always w0; ``asked``, it is the word the question names;
    ``after``, it is the word after the predicate.
    """
    rng = np.random.default_rng(seed)
    examples = []
    for i in range(n):
        tokens = [WORDS[k] for k in rng.permutation(len(WORDS))[: rng.integers(4, 10)]]
        answer = int(rng.integers(1, len(tokens)))
        if kind == "marked":
            tokens = ["w0" if k == answer else "w1" if word == "w0" else word for k, word in enumerate(tokens)]
        question = f"where {tokens[answer]}" if kind == "asked" else "where something"
        predicate = answer - 1 if kind == "after" else None
        more = {"predicate_index": predicate, "is_passive": bool(i % 2)}
        examples.append(example(i, tokens, question, [(answer, answer + 1)], **more))
    return encode_qa(examples, tokenizer, layout, 64)[0]  # type: ignore[arg-type]


class PlantedEncoder:
    """Level 0: the same state everywhere. Level 1: a fixed random vector for each token id, badly scaled."""

    hidden_size, n_layers = 32, 1

    def __init__(self, n_ids: int = 64, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        scale = torch.logspace(-3, 3, self.hidden_size)
        self.table = torch.randn(n_ids, self.hidden_size, generator=generator) * scale + 5 * scale
        self.passes = 0

    def hidden_states(self, ids: Tensor) -> list[Tensor]:
        self.passes += 1
        states = self.table[ids]  # (B, T, D)
        return [torch.ones_like(states), states]
