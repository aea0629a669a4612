"""The span head and the bilinear probe, which read answer spans off a trunk's states.

Axes: N questions, W words, D hidden size. Only one state of each word is scored, that of its last token.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from emergence.model.layers import EmptyLinear


class SpanHead(nn.Module):
    """ONE linear layer, D -> 2, with 2 (D + 1) parameters: the logits of a span starting and of one ending at a word.

    It sees nothing but a word's own state. So on a frozen trunk it asks whether the trunk has already routed the
    question to the word.
    """

    def __init__(self, hidden_size: int, *, seed: int = 0) -> None:
        super().__init__()
        self.linear = EmptyLinear(hidden_size, 2)
        with torch.no_grad():
            self.linear.weight.normal_(0.0, 1 / math.sqrt(hidden_size), generator=torch.Generator().manual_seed(seed))
            self.linear.bias.zero_()

    def forward(self, word_states: Tensor) -> tuple[Tensor, Tensor]:
        """Start and end logits, both (...), of states (..., D)."""
        start, end = self.linear(word_states).unbind(-1)  # (...)
        return start, end


class BilinearProbe(nn.Module):
    """A low-rank bilinear term between question and word for each boundary, plus a linear term in the word.

    It asks whether the role is in the states at all, even if the question has not been routed to the word. With z the
    question's states, w a word's and b in {start, end}, logit_b = <Q_b z, P_b w> / sqrt(rank) + u_b w + c_b.
    """

    def __init__(self, hidden_size: int, rank: int, *, seed: int = 0) -> None:
        super().__init__()
        self.rank = rank
        self.question = EmptyLinear(2 * hidden_size, 2 * rank)
        self.word = EmptyLinear(hidden_size, 2 * rank)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for layer in (self.question, self.word):
                layer.weight.normal_(0.0, 1 / math.sqrt(layer.in_features), generator=generator)
                layer.bias.zero_()
        self.linear = SpanHead(hidden_size, seed=seed + 1)

    def forward(self, question: Tensor, word_states: Tensor) -> tuple[Tensor, Tensor]:
        """Start and end logits.

        Args:
            question: (N, 2D), the mean of the question's states beside its last one.
            word_states: (N, W, D).

        Returns:
            Two tensors (N, W).
        """
        of_question = self.question(question).unflatten(-1, (2, self.rank))  # (N, 2, rank)
        of_word = self.word(word_states).unflatten(-1, (2, self.rank))  # (N, W, 2, rank)
        bilinear = torch.einsum("nbr,nwbr->bnw", of_question, of_word) / math.sqrt(self.rank)  # (2, N, W)
        start, end = self.linear(word_states)  # (N, W)
        return bilinear[0] + start, bilinear[1] + end
