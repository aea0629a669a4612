"""The one thing probes and analyses ask of a model: its states, layer by layer."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Encoder(Protocol):
    """A model read layer by layer: our trunk, or a Hugging Face model behind an adapter."""

    @property
    def hidden_size(self) -> int:
        """D, the width of every state."""

    @property
    def n_layers(self) -> int:
        """L, the number of blocks. There are L + 1 levels of states."""

    def hidden_states(self, ids: Tensor) -> list[Tensor]:
        """States of token ids (B, T) int64 at every level.

        Returns:
            L + 1 tensors (B, T, D): [0] the embeddings, [i] the states after block i. The last is also final-normed.
        """
