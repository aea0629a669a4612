"""Unigram and bigram models of words: what a pair of sentences gives away without any syntax."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: Weight of the unigram model in a bigram's context, in counts (a Dirichlet prior, MacKay & Peto 1995).
PRIOR = 1.0
_START = "\x02"


@dataclass(frozen=True)
class NGramModel:
    """A model of sentences as sequences of words.

    Attributes:
        order: 1 for words alone, 2 for each word given the one before it.
        words: Count of every word. pairs: Count of every word after another. before: Count of every context.
    """

    order: int
    words: Counter[str]
    pairs: Counter[tuple[str, str]]
    before: Counter[str]

    @classmethod
    def fit(cls, sentences: Iterable[Sequence[str]], order: int) -> NGramModel:
        """Count. Raises ``ValueError`` for an order that is neither 1 nor 2."""
        if order not in (1, 2):
            raise ValueError(f"order 1 or 2, not {order}")
        words: Counter[str] = Counter()
        pairs: Counter[tuple[str, str]] = Counter()
        before: Counter[str] = Counter()
        for sentence in sentences:
            words.update(sentence)
            contexts = (_START, *sentence[:-1])
            pairs.update(zip(contexts, sentence, strict=True))
            before.update(contexts)
        return cls(order, words, pairs, before)

    def log_prob(self, sentence: Sequence[str]) -> float:
        """Nats of a sentence.

        The terms are summed exactly, so sentences whose terms are the same in another order tie.
        """
        contexts = (_START, *sentence[:-1])
        return math.fsum(math.log(self._probability(*both)) for both in zip(contexts, sentence, strict=True))

    def _probability(self, context: str, word: str) -> float:
        # One more word than was seen stands for all others.
        alone = (self.words[word] + 1) / (self.words.total() + len(self.words) + 1)
        if self.order == 1:
            return alone
        return (self.pairs[context, word] + PRIOR * alone) / (self.before[context] + PRIOR)
