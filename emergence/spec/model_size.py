"""Parameters, floating-point operations and memory of a trunk, from its configuration alone.

Standard library only, so ``emergence config`` and the planning of a Modal run need no torch; a test holds
the counts against the real module. "Non-embedding" follows Kaplan et al. (2020): neither the token
embedding (which is also the output head) nor learned positions count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from emergence.spec.config import ModelConfig, PretrainConfig

BYTES = {"fp32": 4, "bf16": 2}
#: Rows of the embedding matrix come in multiples of this, which suits the hardware. The last ones are unused.
_ROWS_AT_ONCE = 64
#: Tokens of one micro-batch on a CPU. More would be no faster and take more memory. The number is fixed, so that
#: results do not depend on the machine.
CPU_MICRO_BATCH_TOKENS = 2_048
#: A GPU computes so many times ``loss_chunk_rows`` rows of the vocabulary head at once, because launches cost it time
#: and its memory is large (docs/speed.md#on-an-h100).
GPU_CHUNK_FACTOR = 16


def halve_until(size: int, fits: Callable[[int], bool]) -> int:
    """The first of ``size``, ``size / 2``, ... (rounded up) that fits. 1 is returned untried."""
    while size > 1 and not fits(size):
        size = -(-size // 2)
    return size


@dataclass(frozen=True)
class ParameterCounts:
    """Counts of one trunk.

    Attributes:
        total: All parameters of the trunk. The output head is tied and adds none.
        non_embedding: Without token embedding and learned positions.
        span_head: The span head's own parameters, 2 (D + 1) for hidden size D.
    """

    total: int
    non_embedding: int
    span_head: int

    @property
    def trainable_full(self) -> int:
        """Parameters that are trained when trunk and span head are finetuned together."""
        return self.total + self.span_head

    @property
    def trainable_frozen(self) -> int:
        """Parameters that the linear probe trains on a frozen trunk."""
        return self.span_head


def embedding_rows(vocab_size: int) -> int:
    """Rows of the embedding matrix for a vocabulary."""
    return -(-vocab_size // _ROWS_AT_ONCE) * _ROWS_AT_ONCE


def count_parameters(config: ModelConfig, vocab_rows: int) -> ParameterCounts:
    """Closed-form counts of the trunk that ``build_trunk(config, vocab_rows, ...)`` makes."""
    hidden = config.hidden_size
    norm = hidden if config.norm == "rmsnorm" else 2 * hidden
    qk_norm = 2 * (hidden // config.n_heads) if config.qk_norm else 0
    block = (4 + 2 * config.mlp_ratio) * hidden**2 + 2 * norm + qk_norm
    non_embedding = config.n_layers * block + norm
    positions = config.sequence_length * hidden if config.positions == "learned" else 0
    return ParameterCounts(vocab_rows * hidden + positions + non_embedding, non_embedding, 2 * (hidden + 1))


def training_flops_per_token(config: ModelConfig, vocab_rows: int) -> float:
    """Floating-point operations, forward and backward, per pretraining token.

    6 N (Kaplan et al. 2020, N non-embedding) + 6 D V for the output head, which dominates small models,
    + 6 L T D for causal attention (each token meets T/2 others on average, in two products).
    """
    counts = count_parameters(config, vocab_rows)
    head = config.hidden_size * vocab_rows
    attention = config.n_layers * config.sequence_length * config.hidden_size
    return 6.0 * (counts.non_embedding + head + attention)


def activation_bytes_per_token(config: ModelConfig, precision: str = "fp32") -> int:
    """Bytes kept for the backward pass per token of a micro-batch, a little generously.

    Per block and hidden unit: two residual and two normed states, query, key, value (raw, normed, rotated),
    attention's output and its projection, about 16 values, and 3 at the MLP's inner width.
    """
    values = config.n_layers * (16 + 3 * config.mlp_ratio) * config.hidden_size + 6 * config.hidden_size
    return values * BYTES[precision] + 2 * 4 * config.hidden_size


def training_memory_bytes(
    config: ModelConfig, vocab_rows: int, pretrain: PretrainConfig, micro_batch_size: int, precision: str = "fp32",
    *, on_gpu: bool = False,
) -> int:  # fmt: skip
    """Estimated bytes of pretraining on one device: weights, gradients, optimiser, activations, head chunk."""
    counts = count_parameters(config, vocab_rows)
    matrices = config.n_layers * (4 + 2 * config.mlp_ratio) * config.hidden_size**2
    state_values = 2 * counts.total - (matrices if pretrain.optimizer == "muon" else 0)
    # Weights and gradients of the vocabulary head exist once more while the loss is computed.
    weights = 4 * (2 * counts.total + state_values + 2 * vocab_rows * config.hidden_size)
    activations = micro_batch_size * config.sequence_length * activation_bytes_per_token(config, precision)
    rows = pretrain.loss_chunk_rows
    if on_gpu:
        rows = min(GPU_CHUNK_FACTOR * rows, max(1, micro_batch_size) * config.sequence_length)
    head = rows * vocab_rows * (4 + BYTES[precision])
    return weights + activations + head
