"""What a causal decoder must be, whatever its weights."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from emergence.errors import UsageError
from emergence.model import Encoder, Trunk, build_trunk
from emergence.model import trunk as trunk_module
from emergence.model.trunk import rotate, rotation_table
from emergence.spec.config import ModelConfig

RECIPES: dict[str, dict[str, Any]] = {
    "modern": {},
    "gpt2": {"positions": "learned", "norm": "layernorm", "activation": "gelu", "qk_norm": False, "init": "normal"},
}


def small_trunk(recipe: str = "modern", seed: int = 0, init: str | None = "normal", **changes: Any) -> Trunk:
    values: dict[str, Any] = {"n_layers": 2, "hidden_size": 32, "n_heads": 4, "sequence_length": 16}
    config = ModelConfig(**{**values, **RECIPES[recipe], **changes})
    return build_trunk(config, 320, seed=seed, init=init)


def some_ids(batch: int = 3, length: int = 12) -> torch.Tensor:
    return torch.randint(0, 320, (batch, length), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_state_depends_on_a_later_token(recipe: str) -> None:
    trunk, ids = small_trunk(recipe), some_ids(1)
    embedded: list[torch.Tensor] = []

    def keep(_module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[0]

    trunk.embedding.register_forward_hook(keep)
    states = trunk(ids)  # (1, T, D)
    for t in range(ids.shape[1]):
        (grad,) = torch.autograd.grad(states[0, t].sum() + states[0, t, 0], embedded[0], retain_graph=True)
        reached = grad[0].abs().sum(-1) > 0  # (T,)
        assert reached.tolist() == [s <= t for s in range(ids.shape[1])]


@pytest.mark.parametrize("recipe", RECIPES)
def test_padding_on_the_right_changes_nothing(recipe: str) -> None:
    trunk, ids = small_trunk(recipe), some_ids()
    torch.testing.assert_close(trunk(F.pad(ids, (0, 4), value=3))[:, :12], trunk(ids))


def test_rotation_makes_scores_depend_on_distance_alone() -> None:
    query, key = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0)).double()
    table = rotation_table(40, 1, 8, torch.device("cpu"))
    turned_query, turned_key = (rotate(x.expand(1, 40, 1, 8), *table) for x in (query, key))  # (1, T, 1, K)
    scores = (turned_query.transpose(1, 2) @ turned_key.transpose(1, 2).mT)[0, 0]  # (T, T)
    for distance in range(-5, 6):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-5, atol=1e-5)
    assert scores.diagonal(3)[0] != pytest.approx(float(scores.diagonal(0)[0]))
    torch.testing.assert_close(turned_query.norm(dim=-1), query.norm(dim=-1).expand(1, 40, 1))


def test_modern_states_are_invariant_to_a_common_shift_of_position() -> None:
    # The same tokens seen from later positions, with nothing before them to attend to, have the same states.
    trunk, ids = small_trunk(n_layers=1), some_ids(1, 6)
    states, _ = trunk._embed(ids)
    heads = trunk.config.n_heads
    head_size = trunk.hidden_size // heads
    early = rotation_table(6, heads, head_size, ids.device)
    late = tuple(a[7:] for a in rotation_table(13, heads, head_size, ids.device))
    torch.testing.assert_close(trunk.blocks[0](states, early), trunk.blocks[0](states, late), rtol=1e-4, atol=1e-5)


def test_zero_residual_blocks_start_as_the_identity_and_normal_ones_do_not() -> None:
    ids = some_ids()
    still = small_trunk(init="zero_residual").hidden_states(ids)
    assert torch.equal(still[0], still[1])
    moved = small_trunk(init="normal").hidden_states(ids)
    assert 0.1 < ((moved[1] - moved[0]).norm() / moved[0].norm()).item() < 10


@pytest.mark.parametrize("recipe", RECIPES)
def test_hidden_states_follow_the_hugging_face_convention(recipe: str) -> None:
    trunk, ids = small_trunk(recipe), some_ids()
    levels = trunk.hidden_states(ids)
    assert len(levels) == trunk.n_layers + 1
    assert all(level.shape == (3, 12, trunk.hidden_size) for level in levels)
    assert torch.equal(levels[-1], trunk(ids))
    first, rotation = trunk._embed(ids)
    assert torch.equal(levels[0], first)
    assert torch.equal(levels[1], trunk.blocks[0](first, rotation))
    assert isinstance(trunk, Encoder)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("init", ["normal", "zero_residual"])
def test_the_loss_starts_near_that_of_a_uniform_guess(recipe: str, init: str) -> None:
    trunk, ids = small_trunk(recipe, init=init), some_ids(8, 16)
    logits = trunk(ids[:, :-1]) @ trunk.unembedding.T
    loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(320), abs=0.15)


def test_the_output_head_is_the_embedding() -> None:
    trunk = small_trunk()
    assert trunk.unembedding is trunk.embedding.weight
    assert sum(weight.shape == (320, 32) for weight in trunk.parameters()) == 1


def test_the_seed_decides_and_the_global_state_is_untouched() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, second, other = small_trunk(seed=3), small_trunk(seed=3), small_trunk(seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    same = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    assert not torch.equal(first.unembedding, other.unembedding)


def test_learned_positions_end_and_say_so_while_rotary_ones_go_on() -> None:
    assert small_trunk("modern")(some_ids(1, 40)).shape == (1, 40, 32)
    with pytest.raises(UsageError, match="learned positions end at 16"):
        small_trunk("gpt2")(some_ids(1, 17))


def test_angles_are_computed_once_and_are_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled code would compute them for every number again."""
    trunk, cpu = small_trunk(), torch.device("cpu")
    trunk(some_ids(length=4))
    assert list(trunk.state_dict()) == [name for name, _ in trunk.named_parameters()]
    with monkeypatch.context() as patched:
        patched.setattr(trunk_module, "rotation_table", lambda *_: pytest.fail("computed again"))
        trunk(some_ids(length=16))
    trunk(some_ids(length=17))  # longer than any in training
    for kept, computed in zip(trunk.rotation(7, cpu), rotation_table(7, 4, 8, cpu), strict=True):
        assert torch.equal(kept, computed)


def test_bf16_autocast_stays_close() -> None:
    trunk, ids = small_trunk(), some_ids()
    with torch.autocast("cpu", torch.bfloat16):
        rough = trunk(ids)
    assert ((rough.float() - trunk(ids)).norm() / trunk(ids).norm()).item() < 0.03


def test_building_a_trunk_does_not_import_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch draws normal numbers on the meta device through its compiler, whose import takes a second."""
    monkeypatch.setattr(torch.nn.init, "normal_", lambda *_, **__: pytest.fail("drawn by torch"))
    build_trunk(ModelConfig(n_layers=1, hidden_size=8, n_heads=2, sequence_length=8, vocab_size=320), 320, seed=0)
