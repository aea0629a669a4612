"""The trunk: a causal, pre-norm decoder with tied embeddings.

The recipe ``modern`` has rotary positions (Su et al. 2021), RMSNorm (Zhang & Sennrich 2019), squared ReLU (So et al.
2021), query-key normalisation (Henry et al. 2020), residual outputs that start at zero, and embeddings normalised on
entry. The recipe ``gpt2`` has learned positions, LayerNorm and GELU (Radford et al. 2019). Neither has biases in its
linear layers, dropout or label smoothing.

Axes: B batch, T tokens, D hidden size, H heads, K head size, V vocabulary rows.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emergence.errors import UsageError
from emergence.model.cpu_kernels import causal_attention, rms_norm, squared_relu
from emergence.model.layers import EmptyEmbedding, EmptyLinear
from emergence.spec.config import ModelConfig

ROTARY_BASE = 10_000.0
EMBEDDING_STD = 0.02
NORM_EPSILON = 1e-6


def build_trunk(config: ModelConfig, vocab_rows: int, *, seed: int, init: str | None = None) -> Trunk:
    """A trunk with freshly drawn weights. The global random state is neither read nor changed.

    Args:
        config: Architecture.
        vocab_rows: Rows V of the embedding matrix (the tokenizer's size, padded).
        seed: Decides the weights.
        init: Overrides ``config.init``. Random baselines need ``normal``: their blocks must not start as the identity.
    """
    trunk = Trunk(config, vocab_rows)
    trunk.initialise(init or config.init, torch.Generator().manual_seed(seed))
    return trunk


class Trunk(nn.Module):
    """A model from token ids to states. Its output head is the embedding matrix itself (:attr:`unembedding`).

    Its weights are arbitrary until :meth:`initialise` draws them or others are loaded.

    Attributes:
        config: Architecture.
        vocab_rows: V.
        hidden_size: D.
        n_layers: L, the number of blocks.
    """

    def __init__(self, config: ModelConfig, vocab_rows: int) -> None:
        super().__init__()
        self.config, self.vocab_rows = config, vocab_rows
        self.hidden_size, self.n_layers = config.hidden_size, config.n_layers
        self.embedding = EmptyEmbedding(vocab_rows, config.hidden_size)
        learned = config.positions == "learned"
        self.position = EmptyEmbedding(config.sequence_length, config.hidden_size) if learned else None
        #: :func:`rotation_table`'s pair for as many tokens as a sequence has, where they were last needed.
        self._table: tuple[Tensor, Tensor] | None = None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.final_norm = _norm(config.norm, config.hidden_size)
        #: (P, D) learned states before the text (:mod:`emergence.model.adapters`); None for a plain trunk.
        self.prefix: nn.Parameter | None
        self.register_parameter("prefix", None)

    @property
    def unembedding(self) -> Tensor:
        """The output head (V, D). Logits are ``states @ unembedding.T``."""
        return self.embedding.weight

    @property
    def n_heads(self) -> int:
        """H, the heads of a block."""
        return self.config.n_heads

    def output_layer(self, block: int, kind: str) -> nn.Module:
        """The linear layer of a block whose input is its neurons (``mlp``) or its heads side by side (``head``)."""
        return self.blocks[block].get_submodule("mlp.output" if kind == "mlp" else "attention.output")

    def forward(self, ids: Tensor) -> Tensor:
        """Final states (B, T, D), normed, of token ids (B, T) int64."""
        states, rotation = self._embed(ids)  # (B, T, D)
        for block in self.blocks:
            states = block(states, rotation)  # (B, T, D)
        return self.final_norm(self._of_text(states))  # (B, T, D)

    def hidden_states(self, ids: Tensor) -> list[Tensor]:
        """L + 1 tensors (B, T, D): [0] embeddings, [i] states after block i. The last is also final-normed."""
        states, rotation = self._embed(ids)  # (B, T, D)
        levels = [states]
        for block in self.blocks:
            levels.append(block(levels[-1], rotation))  # (B, T, D)
        levels = [self._of_text(level) for level in levels]
        levels[-1] = self.final_norm(levels[-1])  # (B, T, D)
        return levels

    def _of_text(self, states: Tensor) -> Tensor:
        """The states of the text alone, (B, P + T, D) -> (B, T, D)."""
        return states if self.prefix is None else states[:, len(self.prefix) :]

    def _embed(self, ids: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Entry of the residual stream (B, P + T, D), and :func:`rotation_table`'s pair, each (P + T, H, K)."""
        n_tokens = ids.shape[1]
        states = self.embedding(ids)  # (B, T, D)
        if self.position is not None:
            if n_tokens > self.config.sequence_length:
                raise UsageError(
                    f"{n_tokens} tokens, but learned positions end at {self.config.sequence_length}: "
                    "set model.sequence_length higher, or model.positions to rotary"
                )
            return self._after_prefix(states + self.position.weight[:n_tokens]), None
        # Entering at unit scale makes embeddings and block outputs commensurate at every width, while the
        # tied matrix can stay small enough for logits near zero (loss near ln V) at the start.
        states = self._after_prefix(F.rms_norm(states, (self.hidden_size,), eps=NORM_EPSILON))  # (B, P + T, D)
        return states, self.rotation(states.shape[1], ids.device)

    def rotation(self, n_tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """:func:`rotation_table`'s pair, each (n_tokens, H, K).

        It is kept. Code that is compiled before computes the angles of every number of every head again.
        """
        length = self.config.sequence_length
        if n_tokens > length:
            return self._new_table(n_tokens, device)
        if self._table is None or self._table[0].device != device:
            self._table = self._new_table(length, device)
        return self._table[0][:n_tokens], self._table[1][:n_tokens]

    def _new_table(self, n_tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
        return rotation_table(n_tokens, self.n_heads, self.hidden_size // self.n_heads, device)

    def _after_prefix(self, states: Tensor) -> Tensor:
        """(B, T, D) -> (B, P + T, D)."""
        return states if self.prefix is None else torch.cat([self.prefix.expand(len(states), -1, -1), states], dim=1)

    @torch.no_grad()
    def initialise(self, init: str, generator: torch.Generator) -> None:
        """Draw all weights. Norm gains are 1, and embeddings N(0, 0.02^2).

        Matrices are N(0, 1 / fan-in), which keeps unit scale. With learned positions they are GPT-2's N(0, 0.02^2),
        whose small block outputs match its small, un-normalised embeddings. Residual outputs are zero with
        ``zero_residual``. With ``normal`` they are drawn and divided by sqrt(2 L) (Radford et al. 2019).
        """
        for name, weight in self.named_parameters():
            if weight.ndim == 1:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
            elif name.startswith(("embedding", "position")):
                weight.normal_(0.0, EMBEDDING_STD, generator=generator)
            else:
                std = EMBEDDING_STD if self.position is not None else 1 / math.sqrt(weight.shape[1])
                residual = name.endswith(("attention.output.weight", "mlp.output.weight"))
                scale = 0.0 if init == "zero_residual" else 1 / math.sqrt(2 * self.n_layers)
                weight.normal_(0.0, std, generator=generator).mul_(scale if residual else 1.0)


class Block(nn.Module):
    """Pre-norm attention and MLP, each added to the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = _norm(config.norm, config.hidden_size)
        self.attention = Attention(config)
        self.mlp_norm = _norm(config.norm, config.hidden_size)
        self.mlp = MLP(config)

    def forward(self, states: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        states = states + self.attention(self.attention_norm(states), rotation)  # (B, T, D)
        return states + self.mlp(self.mlp_norm(states))  # (B, T, D)


class Attention(nn.Module):
    """Causal multi-head self-attention. Token t attends to tokens 0 to t.

    Queries, keys and values are three matrices, not one, because Muon orthogonalises each matrix it is given.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.query = EmptyLinear(config.hidden_size, config.hidden_size, bias=False)
        self.key = EmptyLinear(config.hidden_size, config.hidden_size, bias=False)
        self.value = EmptyLinear(config.hidden_size, config.hidden_size, bias=False)
        self.output = EmptyLinear(config.hidden_size, config.hidden_size, bias=False)
        head_size = config.hidden_size // config.n_heads
        self.query_norm = _norm("rmsnorm", head_size) if config.qk_norm else nn.Identity()
        self.key_norm = _norm("rmsnorm", head_size) if config.qk_norm else nn.Identity()

    def forward(self, states: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        query = self.query_norm(self._heads(self.query(states)))  # (B, T, H, K)
        key = self.key_norm(self._heads(self.key(states)))  # (B, T, H, K)
        value = self._heads(self.value(states))  # (B, T, H, K)
        if rotation is not None:
            query, key = rotate(query, *rotation), rotate(key, *rotation)  # (B, T, H, K)
        return self.output(attend(query, key, value).flatten(2))  # (B, T, D)

    def _heads(self, projected: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, H, K). The layout in memory stays, so norm and rotation pass over it in order."""
        return projected.unflatten(2, (self.n_heads, -1))


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention of queries, keys and values, (B, T, H, K) each and of the result."""
    # Under autocast the norms return float32, but the fused kernels want one type.
    heads = (x.transpose(1, 2).to(value.dtype) for x in (query, key, value))  # (B, H, T, K) each
    with torch.autocast(value.device.type, enabled=False):
        return causal_attention(*heads).transpose(1, 2)


class MLP(nn.Module):
    """Two linear layers with an activation between."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.squared = config.activation == "relu2"
        self.input = EmptyLinear(config.hidden_size, config.mlp_ratio * config.hidden_size, bias=False)
        self.output = EmptyLinear(config.mlp_ratio * config.hidden_size, config.hidden_size, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        inner = self.input(states)  # (B, T, mlp_ratio * D)
        return self.output(squared_relu(inner) if self.squared else F.gelu(inner))  # (B, T, D)


def rotation_table(n_tokens: int, n_heads: int, head_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The two factors of :func:`rotate`, both (T, H, K): ``(cos, cos)`` and ``(-sin, sin)`` in each head.

    The angle of plane i is the position times base^(-2i/K).
    """
    exponent = torch.arange(0, head_size, 2, device=device, dtype=torch.float32) / head_size  # (K/2,)
    frequency = ROTARY_BASE**-exponent  # (K/2,)
    angle = torch.outer(torch.arange(n_tokens, device=device, dtype=torch.float32), frequency)  # (T, K/2)
    cos, sin = angle.cos(), angle.sin()  # (T, K/2)
    shape = (n_tokens, n_heads, head_size)
    whole, swapped = torch.cat([cos, cos], 1), torch.cat([-sin, sin], 1)  # (T, K)
    return whole[:, None].expand(shape).contiguous(), swapped[:, None].expand(shape).contiguous()  # (T, H, K)


def rotate(heads: Tensor, whole: Tensor, swapped: Tensor) -> Tensor:
    """Rotate the plane (i, i + K/2) of queries or keys (B, T, H, K) by the position's angle.

    The product of a rotated query and key then depends on their distance alone. ``whole`` and ``swapped`` come from
    :func:`rotation_table`. With them two products over whole heads are enough, while rotating the halves apart takes
    four and a copy. Compiled code rotates the halves apart, because a compiler fuses that into one pass, but would
    gather rolled heads number by number.
    """
    half = heads.shape[-1] // 2
    if torch.compiler.is_compiling():
        first, second = heads.split(half, dim=-1)  # (B, T, H, K/2)
        cos, sin = whole[..., :half], swapped[..., half:]  # (T, H, K/2)
        return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)  # (B, T, H, K)
    return torch.addcmul(heads * whole, heads.roll(half, dims=-1), swapped)  # (B, T, H, K)


class RMSNorm(nn.Module):
    """Divide by the root mean square and multiply by a learned gain."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, states: Tensor) -> Tensor:
        """(..., size) -> (..., size)."""
        return rms_norm(states, self.weight, NORM_EPSILON)


def _norm(kind: str, size: int) -> nn.Module:
    return RMSNorm(size) if kind == "rmsnorm" else nn.LayerNorm(size)
