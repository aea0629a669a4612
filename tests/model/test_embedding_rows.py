"""The embedding's scale, and the rows that pretraining never saw."""

from __future__ import annotations

import pytest
import torch

from emergence.errors import WeightsError
from emergence.model import Trunk, build_trunk
from emergence.model.embedding_rows import redraw_unseen, rescale_embedding
from emergence.spec.config import ModelConfig

MODEL = ModelConfig(n_layers=1, hidden_size=64, n_heads=2, vocab_size=300, sequence_length=32)
COUNTS = [0, 5, 0, 7, *([3] * 90), 0]


def collapsed() -> Trunk:
    """Seen rows of scale 0.5; the unseen ones, and the padding behind the counts, all one direction."""
    trunk = build_trunk(MODEL, 128, seed=0)
    rescale_embedding(trunk, 25.0)
    with torch.no_grad():
        trunk.embedding.weight[unseen()] = 0.7
    return trunk


def unseen() -> torch.Tensor:
    return torch.tensor([count == 0 for count in COUNTS] + [True] * (128 - len(COUNTS)))


def test_unseen_rows_become_tokens_of_their_own_at_the_seen_rows_scale() -> None:
    trunk, before = collapsed(), collapsed().embedding.weight.detach()
    assert redraw_unseen(trunk, COUNTS, seed=3) == int(unseen().sum()) == 36
    after = trunk.embedding.weight.detach()
    assert torch.equal(after[~unseen()], before[~unseen()])
    drawn = torch.nn.functional.normalize(after[unseen()], dim=1)
    cosines = (drawn @ drawn.T)[~torch.eye(36, dtype=torch.bool)]
    assert cosines.abs().max() < 0.6 and cosines.abs().mean() < 0.2
    scale = before[~unseen()].square().mean().sqrt()
    assert float(after[unseen()].square().mean().sqrt() / scale) == pytest.approx(1.0, abs=0.05)


def test_a_row_is_the_seeds_whatever_else_is_unseen() -> None:
    one, two, other = collapsed(), collapsed(), collapsed()
    redraw_unseen(one, COUNTS, seed=3)
    redraw_unseen(two, torch.tensor(COUNTS), seed=3)
    assert torch.equal(one.embedding.weight, two.embedding.weight)
    redraw_unseen(other, COUNTS, seed=4)
    assert not torch.equal(one.embedding.weight[0], other.embedding.weight[0])
    more = collapsed()
    redraw_unseen(more, [0, 0, *COUNTS[2:]], seed=3)
    cosine = torch.nn.functional.cosine_similarity(more.embedding.weight[0], one.embedding.weight[0], dim=0)
    assert cosine.item() == pytest.approx(1.0, abs=1e-5)


def test_where_all_or_nothing_was_seen_nothing_is_drawn() -> None:
    trunk, before = collapsed(), collapsed().embedding.weight
    assert redraw_unseen(trunk, [1] * 128, seed=0) == redraw_unseen(trunk, [0] * 10, seed=0) == 0
    assert torch.equal(trunk.embedding.weight, before)


def test_counts_of_another_vocabulary_are_refused() -> None:
    with pytest.raises(WeightsError, match="129 token counts, but the embedding has 128 rows"):
        redraw_unseen(collapsed(), [1] * 129, seed=0)
