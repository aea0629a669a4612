"""Torch modules: the trunk, its heads and its losses. They know no files and no data sets."""

from emergence.model.encoder import Encoder
from emergence.model.heads import BilinearProbe, SpanHead
from emergence.model.losses import linear_cross_entropy, span_cross_entropy, token_losses
from emergence.model.trunk import Trunk, build_trunk

__all__ = [
    "BilinearProbe",
    "Encoder",
    "SpanHead",
    "Trunk",
    "build_trunk",
    "linear_cross_entropy",
    "span_cross_entropy",
    "token_losses",
]
