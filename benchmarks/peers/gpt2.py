"""GPT-2 twice: Hugging Face's as it comes, and a plain trainer tuned to its best.

The tuned one has what is commonly done for speed: one matrix for query, key and value, fused attention,
packed text, bf16 where the hardware has it, the whole step compiled and on a GPU replayed, fused AdamW.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emergence.model import linear_cross_entropy
from emergence.training.cuda_graphs import Replayed
from emergence.training.precision import autocast


class PlainGPT2(nn.Module):
    """Tied embeddings, learned positions, LayerNorm, GELU; ids (B, T+1) to the mean loss."""

    def __init__(self, vocab_rows: int, n_layers: int, hidden_size: int, n_heads: int, length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_rows, hidden_size)
        self.position = nn.Embedding(length, hidden_size)
        self.blocks = nn.ModuleList(_Block(hidden_size, n_heads) for _ in range(n_layers))
        self.norm = nn.LayerNorm(hidden_size)
        for module in (self.embedding, self.position):
            nn.init.normal_(module.weight, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        logits = F.linear(self.states(ids[:, :-1]), self.embedding.weight)  # (B, T, V)
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    def states(self, inputs: Tensor) -> Tensor:
        """What the head reads, (B, T, D), of ids (B, T)."""
        states = self.embedding(inputs) + self.position.weight[: inputs.shape[1]]  # (B, T, D)
        for block in self.blocks:
            states = block(states)  # (B, T, D)
        return self.norm(states)


class _Block(nn.Module):
    def __init__(self, hidden_size: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm_1, self.norm_2 = nn.LayerNorm(hidden_size), nn.LayerNorm(hidden_size)
        self.qkv, self.output = nn.Linear(hidden_size, 3 * hidden_size), nn.Linear(hidden_size, hidden_size)
        self.mlp_in, self.mlp_out = nn.Linear(hidden_size, 4 * hidden_size), nn.Linear(4 * hidden_size, hidden_size)

    def forward(self, states: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            for part in self.qkv(self.norm_1(states)).chunk(3, dim=-1)
        )  # (B, H, T, K) each
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)  # (B, H, T, K)
        states = states + self.output(mixed.transpose(1, 2).flatten(2))
        return states + self.mlp_out(F.gelu(self.mlp_in(self.norm_2(states)), approximate="tanh"))


def tuned_step(
    model: PlainGPT2,
    precision: str,
    compiled: bool,
    device: torch.device,
    rate: float = 1e-3,
    schedule: Callable[[int], float] = lambda _: 1.0,
) -> Callable[[Tensor], None]:
    """One update on ids (B, T+1), at ``rate`` times what ``schedule`` says of the updates made.

    Compiled on a GPU it is replayed, at ``rate`` whatever the schedule says: that is for its time alone.
    """
    model.to(device)
    loss_of: Callable[[Tensor], Tensor] = torch.compile(model, dynamic=False) if compiled else model
    matrices = [weight for weight in model.parameters() if weight.ndim >= 2]
    rest = [weight for weight in model.parameters() if weight.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    replayed = compiled and device.type == "cuda"
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True, capturable=replayed)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)

    def update(ids: Tensor) -> None:
        with autocast(device, precision):
            loss = loss_of(ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def step(ids: Tensor) -> None:
        update(ids)
        scheduler.step()

    return _replayed(update) if replayed else step


def _replayed(update: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
    """The whole update as a CUDA graph, as ours has it; the rate stays as it is."""
    held: list[Tensor] = []
    replay = Replayed()

    def step(ids: Tensor) -> None:
        if not held:
            held.append(torch.empty_like(ids))
        held[0].copy_(ids)
        replay(lambda: update(held[0]))

    return step


def tuned_loss(model: PlainGPT2, ids: Tensor, precision: str) -> Tensor:
    """Its mean loss on ids (B, T+1), without gradients: the logits of all are never in memory at once."""
    with autocast(ids.device, precision):
        states = model.states(ids[:, :-1]).flatten(0, 1)  # (B T, D)
        return linear_cross_entropy(states, model.embedding.weight, ids[:, 1:].flatten())


def cosine(updates: int, warm_up: float = 0.02) -> Callable[[int], float]:
    """A linear warm-up, then half a cosine to a tenth, as GPT-3 was trained."""
    warm = max(1, round(warm_up * updates))

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, updates - warm))))

    return factor


def hugging_face_step(
    vocab_rows: int, n_layers: int, hidden_size: int, n_heads: int, length: int, device: torch.device
) -> Callable[[Tensor], None]:
    """One update of ``transformers``' GPT-2, random weights, float32, as its documentation trains it; no dropout."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocab_rows, n_positions=length, n_embd=hidden_size, n_layer=n_layers, n_head=n_heads,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model: nn.Module = GPT2LMHeadModel(config).train()
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step(ids: Tensor) -> None:
        inputs = ids[:, :-1]  # the library shifts the labels itself
        loss = model(input_ids=inputs, labels=inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
