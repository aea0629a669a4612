"""Dropout on what every sublayer adds to the residual stream, for finetuning alone.

The trunk has none of its own: pretraining sees each text about once, and the zero-cost path is the one that
all other results went through. Hooks add it, so that a trunk without them computes to the bit what it did.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from emergence.errors import UsageError
from emergence.model.trunk import Trunk

#: Keeps these draws apart from all others of the same seed.
_STREAM = 0xD809
#: What of a block adds to the residual stream.
_SUBLAYERS = ("attention", "mlp")


class ResidualDropout:
    """Zero a share of the outputs of attention and MLP in training mode, and scale up the rest.

    The mask of a step depends on ``seed`` and the step alone, so a resumed run draws what the unbroken one drew
    and a checkpoint holds no random state (Srivastava et al. 2014, inverted form).

    Args:
        trunk: Gets the hooks; :meth:`remove` takes them away again.
        rate: Share that is zeroed, 0 to below 1; at 0 no hook is set.
        seed: Of the masks.
    """

    def __init__(self, trunk: Trunk, rate: float, seed: int) -> None:
        if not 0 <= rate < 1:
            raise UsageError(f"finetune.dropout must be at least 0 and below 1, not {rate:g}")
        self._keep, self._seed = 1 - rate, seed
        self._generator = torch.Generator(next(trunk.parameters()).device)
        layers = [layer for block in trunk.blocks for name, layer in block.named_children() if name in _SUBLAYERS]
        self._hooks = [layer.register_forward_hook(self._drop) for layer in layers] if rate else []

    def start_step(self, step: int) -> None:
        """Every mask until the next call is ``step``'s."""
        if self._hooks:
            # Hashed, because a CPU generator takes 32 bits alone.
            mixed = np.random.SeedSequence([self._seed, step, _STREAM]).generate_state(1)
            self._generator.manual_seed(int(mixed[0]))

    def remove(self) -> None:
        """Take the hooks away."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _drop(self, module: nn.Module, _: object, output: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        if not module.training:
            return output
        mask = torch.empty_like(output).bernoulli_(self._keep, generator=self._generator)  # (B, T, D)
        return output * mask / self._keep
