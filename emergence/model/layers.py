"""Layers whose weights and biases their owner draws, from a generator of its own, and nobody before it.

PyTorch's own layers draw numbers when they are made, which changes the global random state. Its way around that, layers
on the meta device and ``to_empty``, imports ``sympy`` or ``torch._dynamo``: half a second of CPU time in every command
that reads a trunk.
"""

from __future__ import annotations

from torch import nn


class EmptyLinear(nn.Linear):
    """A linear layer whose weights are arbitrary until they are drawn or loaded."""

    def reset_parameters(self) -> None:
        """Nothing is drawn."""


class EmptyEmbedding(nn.Embedding):
    """An embedding whose weights are arbitrary until they are drawn or loaded."""

    def reset_parameters(self) -> None:
        """Nothing is drawn."""
