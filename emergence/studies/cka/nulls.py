"""Networks that CKA is read against: untrained ones, and ones moved at random (docs/methods.md#temporal-cka)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from emergence.answering.stored_heads import trunk_weights
from emergence.model import Trunk, build_trunk
from emergence.spec.config import ModelConfig
from emergence.studies.activations import TrunkSource
from emergence.studies.trunks import Timeline, TimelinePoint, trunk_of
from emergence.training.checkpoint import load_weights

#: First seed of the random networks, far from the seeds that runs use.
FIRST_RANDOM_SEED = 70_000


def random_trunks(timeline: Timeline, count: int) -> list[TrunkSource]:
    """Untrained trunks of the run's architecture, with the ordinary initialisation of the random baselines.

    The recipe's own start would be degenerate, because its blocks are the identity.
    """
    return [_random_trunk(timeline.model, timeline.vocab_rows, FIRST_RANDOM_SEED + i) for i in range(count)]


def matched_noise(timeline: Timeline, target: TimelinePoint, seed: int) -> TrunkSource:
    """The start, each tensor moved in a random direction as far as ``target`` is from it."""

    def build() -> Trunk:
        start, moved = (trunk_weights(load_weights(p.path).state_dict) for p in (timeline.start, target))
        generator = torch.Generator().manual_seed(seed)
        state = {name: _moved(start[name], moved[name], generator) for name in sorted(start)}
        return trunk_of(timeline.model, timeline.vocab_rows, state, target.path)

    source = target.source
    key = f"noise|{timeline.start.source.key}|{source.key}|{seed}"
    return TrunkSource(key, source.n_levels, source.hidden_size, build)


def _random_trunk(model: ModelConfig, vocab_rows: int, seed: int) -> TrunkSource:
    def build() -> Trunk:
        return build_trunk(model, vocab_rows, seed=seed, init="normal")

    return TrunkSource(f"random|{model}|{vocab_rows}|{seed}", model.n_layers + 1, model.hidden_size, build)


def _moved(start: Tensor, target: Tensor, generator: torch.Generator) -> Tensor:
    """``start`` plus a random direction as long as ``target - start``."""
    direction = torch.randn(start.shape, generator=generator, dtype=torch.float64)
    length = float((target.double() - start.double()).norm())
    norm = float(direction.norm())
    scale = length / norm if math.isfinite(norm) and norm > 0 else 0.0
    return (start.double() + scale * direction).to(start.dtype)
