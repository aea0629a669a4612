"""The scale of a trunk's embedding matrix, and its rows that pretraining never saw as an input.

If rows are RMS-normed on entry, their scale does not change what the trunk computes, but for the norm's epsilon. It
does decide how far one step of AdamW turns them, and pretrained rows are many times as long as freshly drawn ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from emergence.errors import WeightsError
from emergence.model.trunk import EMBEDDING_STD, Trunk

#: Scales whose ratio is nearer to 1 than this count as one: a random trunk's differs from 0.02 by chance alone.
SAME_SCALE = 0.1
#: Keeps these draws apart from all others of the same seed, the trunk's own initialisation among them.
_STREAM = 0x0E3B


def fresh_scale(trunk: Trunk) -> float | None:
    """The factor that brings the embedding matrix to the root mean square of a freshly drawn one (0.02).

    None if the matrix has that scale already, within a tenth. None too if positions are learned: such a trunk does not
    norm embeddings on entry, so another scale would be another function.
    """
    scale = float(trunk.embedding.weight.detach().float().square().mean().sqrt())
    if trunk.position is not None or not scale > 0 or abs(EMBEDDING_STD / scale - 1) <= SAME_SCALE:
        return None
    return EMBEDDING_STD / scale


@torch.no_grad()
def rescale_embedding(trunk: Trunk, factor: float) -> None:
    """Multiply the embedding matrix by ``factor``."""
    trunk.embedding.weight.mul_(factor)


@torch.no_grad()
def redraw_unseen(trunk: Trunk, counts: Sequence[int] | Tensor, seed: int) -> int:
    """Draw new rows for the tokens that the pretraining stream never held.

    Such rows were only ever pushed away as wrong predictions, all in one direction, so as inputs they are one token.
    New rows are drawn from N(0, s^2), with s the root mean square of the seen rows. What a row draws does not depend on
    which other rows are unseen.

    Args:
        counts: Occurrences of each token in the stream. Rows beyond them (padding) count as unseen.
        seed: Decides the draw.

    Returns:
        How many rows were drawn.

    Raises:
        WeightsError: There are more counts than rows.
    """
    unseen, drawn = drawn_rows(trunk.embedding.weight, counts, seed)
    trunk.embedding.weight[unseen.to(drawn.device)] = drawn
    return int(unseen.sum())


def drawn_rows(weight: Tensor, counts: Sequence[int] | Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Which rows of an embedding matrix (V, D) are unseen, (V,), and those that :func:`redraw_unseen` draws for them.

    Raises:
        WeightsError: There are more counts than rows.
    """
    per_token = torch.as_tensor(counts).to(torch.int64).flatten()
    if len(per_token) > len(weight):
        raise WeightsError(f"{len(per_token)} token counts, but the embedding has {len(weight)} rows: not this trunk's")
    seen = torch.zeros(len(weight), dtype=torch.bool)
    seen[: len(per_token)] = per_token > 0
    if not seen.any() or seen.all():
        return torch.zeros_like(seen), weight[:0]
    scale = math.sqrt(float(weight[seen.to(weight.device)].float().square().mean()))
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, _STREAM]).generate_state(1)[0]))
    drawn = torch.randn(weight.shape, generator=generator) * scale  # (V, D)
    unseen = ~seen
    return unseen, drawn[unseen].to(weight)
