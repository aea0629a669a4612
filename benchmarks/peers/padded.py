"""A trainer in the style of the project's predecessor, kept small and faithful.

Separate query, key and value projections, the attention matrix written out, float32, every sample padded
to 512 tokens, tokenised anew in every epoch, plain AdamW, logits at every position, and for the linear
probe the frozen trunk run again in every epoch. Without dropout, which would only cost it more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from emergence.data.records import QAExample
from emergence.data.tokenizer import TextTokenizer

LENGTH = 512
IGNORED = -100


class PaddedTransformer(nn.Module):
    """A GPT-2 style decoder: learned positions, LayerNorm, GELU, biases, tied embeddings."""

    def __init__(self, vocab_rows: int, n_layers: int, hidden_size: int, n_heads: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_rows, hidden_size)
        self.position = nn.Embedding(LENGTH, hidden_size)
        self.blocks = nn.ModuleList(_Block(hidden_size, n_heads) for _ in range(n_layers))
        self.norm = nn.LayerNorm(hidden_size)
        for module in (self.embedding, self.position):
            nn.init.normal_(module.weight, std=0.02)

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Final states (B, T, D) of ids (B, T), with mask (B, T) true at real tokens."""
        n_tokens = ids.shape[1]
        causal = torch.ones(n_tokens, n_tokens, dtype=torch.bool, device=ids.device).tril()  # (T, T)
        visible = causal & mask[:, None, None, :]  # (B, 1, T, T)
        states = self.embedding(ids) + self.position(torch.arange(n_tokens, device=ids.device))  # (B, T, D)
        for block in self.blocks:
            states = block(states, visible)  # (B, T, D)
        return self.norm(states)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        return self.states(ids, mask) @ self.embedding.weight.T


class _Block(nn.Module):
    def __init__(self, hidden_size: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm_1, self.norm_2 = nn.LayerNorm(hidden_size), nn.LayerNorm(hidden_size)
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)
        self.mlp = nn.Sequential(
            nn.Linear(hidden_size, 4 * hidden_size), nn.GELU(), nn.Linear(4 * hidden_size, hidden_size)
        )

    def forward(self, states: Tensor, visible: Tensor) -> Tensor:
        normed = self.norm_1(states)  # (B, T, D)
        query, key, value = (self._heads(layer(normed)) for layer in (self.query, self.key, self.value))
        scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])  # (B, H, T, T)
        weights = scores.masked_fill(~visible, torch.finfo(scores.dtype).min).softmax(-1)  # (B, H, T, T)
        mixed = (weights @ value).transpose(1, 2).reshape(states.shape)  # (B, T, D)
        states = states + self.output(mixed)
        return states + self.mlp(self.norm_2(states))

    def _heads(self, projected: Tensor) -> Tensor:
        batch, n_tokens, _ = projected.shape
        return projected.view(batch, n_tokens, self.n_heads, -1).transpose(1, 2)  # (B, H, T, K)


class PaddedTrainer:
    """Model, optimiser and per-sample tokenising.

    Args:
        tokenizer: Ours, whose JSON the ``tokenizers`` library reads: the same vocabulary.
    """

    def __init__(
        self, tokenizer: TextTokenizer, vocab_rows: int, n_layers: int, hidden_size: int, n_heads: int,
        device: torch.device,
    ) -> None:  # fmt: skip
        torch.manual_seed(0)
        self.device, self.pad, self.sep = device, tokenizer.pad, tokenizer.sep
        self.tokenizer: Tokenizer = Tokenizer.from_str(tokenizer.to_json())
        self.model = PaddedTransformer(vocab_rows, n_layers, hidden_size, n_heads).to(device)
        self.head = nn.Linear(hidden_size, 2).to(device)
        self.optimizer = torch.optim.AdamW([*self.model.parameters(), *self.head.parameters()], lr=1e-3)
        self.head_optimizer = torch.optim.AdamW(self.head.parameters(), lr=1e-3)

    def pretrain_step(self, texts: Sequence[str]) -> int:
        """One update on a batch of texts; returns how many real tokens were predicted."""
        ids, mask = self._padded([self.tokenizer.encode(text).ids for text in texts])
        logits = self.model(ids, mask)[:, :-1]  # (B, T-1, V)
        targets = ids[:, 1:].masked_fill(~mask[:, 1:], IGNORED)  # (B, T-1)
        loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=IGNORED)
        self._update(loss, self.optimizer)
        return int(mask[:, 1:].sum())

    def finetune_step(self, examples: Sequence[QAExample]) -> int:
        """One update of trunk and head; returns the number of examples."""
        ids, mask, starts, ends = self._questions(examples)
        self._update(self._span_loss(self.model.states(ids, mask), mask, starts, ends), self.optimizer)
        return len(examples)

    def probe_step(self, examples: Sequence[QAExample]) -> int:
        """One update of the head alone, on states of the frozen trunk that are computed anew."""
        ids, mask, starts, ends = self._questions(examples)
        with torch.no_grad():
            states = self.model.states(ids, mask)  # (B, T, D)
        self._update(self._span_loss(states, mask, starts, ends), self.head_optimizer)
        return len(examples)

    def _span_loss(self, states: Tensor, mask: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
        logits = self.head(states).masked_fill(~mask[:, :, None], torch.finfo(states.dtype).min)  # (B, T, 2)
        return (F.cross_entropy(logits[..., 0], starts) + F.cross_entropy(logits[..., 1], ends)) / 2

    def _questions(self, examples: Sequence[QAExample]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Ids, mask, first and last token of the first gold of a batch: question, separator, sentence."""
        rows, starts, ends = [], [], []
        for example in examples:
            row = [*self.tokenizer.encode(example.question).ids, self.sep]
            gold = example.answers[0]
            edges = []
            for word in example.tokens:
                begin = len(row)
                row += self.tokenizer.encode(" " + word).ids
                edges.append((begin, len(row) - 1))
            rows.append(row)
            starts.append(min(edges[gold.start][0], LENGTH - 1))
            ends.append(min(edges[gold.end - 1][1], LENGTH - 1))
        ids, mask = self._padded(rows)
        return ids, mask, torch.tensor(starts, device=self.device), torch.tensor(ends, device=self.device)

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Rows cut and padded to 512 tokens, (B, 512), and the mask of the real ones."""
        cut = [list(row[:LENGTH]) for row in rows]
        ids = torch.tensor([row + [self.pad] * (LENGTH - len(row)) for row in cut], device=self.device)
        lengths = torch.tensor([len(row) for row in cut], device=self.device)
        return ids, torch.arange(LENGTH, device=self.device) < lengths[:, None]

    def _update(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
