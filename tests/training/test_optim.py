"""Our Muon is torch's Muon; learning rates follow one factor; state survives a checkpoint."""

from __future__ import annotations

import copy

import pytest
import torch

from emergence.model import build_trunk
from emergence.spec.config import ModelConfig, PretrainConfig
from emergence.training import optim
from emergence.training.optim import AdamW, Muon, Optimizers, build_optimizers, momentum_after, orthogonalise

SHAPES = [(16, 16), (16, 16), (64, 16), (16, 64)]


def matrices() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def set_gradients(weights: list[torch.nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in weights:
        weight.grad = torch.randn(weight.shape, generator=generator)


def test_same_steps_as_torch_up_to_bf16() -> None:
    ours, theirs = matrices(), matrices()
    start = [weight.detach().clone() for weight in ours]
    own = Muon(ours, lr=0.02, momentum=0.9, weight_decay=0.1)
    reference = torch.optim.Muon(theirs, lr=0.02, momentum=0.9, weight_decay=0.1)
    for seed in range(4):
        for weights, optimizer in ((ours, own), (theirs, reference)):
            set_gradients(weights, seed)
            optimizer.step()
    for before, mine, torchs in zip(start, ours, theirs, strict=True):
        assert float((mine - torchs).norm().detach() / (torchs - before).norm().detach()) < 0.01


def test_orthogonalisation_evens_out_singular_values_and_keeps_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    u, _ = torch.linalg.qr(torch.randn(3, 24, 8, generator=generator))
    v, _ = torch.linalg.qr(torch.randn(3, 8, 8, generator=generator))
    values = torch.linspace(0.2, 2.0, 8)
    for matrix, left, right in ((u * values @ v.mT, u, v), ((u * values @ v.mT).mT, v, u)):
        core = left.mT @ orthogonalise(matrix, torch.float32) @ right
        assert ((core.diagonal(dim1=1, dim2=2) > 0.6) & (core.diagonal(dim1=1, dim2=2) < 1.3)).all()
        assert (core - torch.diag_embed(core.diagonal(dim1=1, dim2=2))).abs().max() < 0.02
    assert not orthogonalise(torch.zeros(1, 4, 4), torch.float32).any()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_muon_iterates_in_the_number_format_of_the_run(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    """Whatever the machine is fast in. What comes out of bf16 is a number of bf16; what comes out of fp32 is not."""
    moves: list[torch.Tensor] = []
    real = optim.orthogonalise
    monkeypatch.setattr(optim, "orthogonalise", lambda *given: (moves.append(real(*given)), moves[-1])[1])
    trunk, optimizers = make("muon", precision=precision)
    for weight in trunk.parameters():
        weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    optimizers.step()
    assert moves and all(bool((x == x.bfloat16().float()).all()) == (precision == "bf16") for x in moves)


def make(optimizer: str, precision: str = "fp32", **more: float) -> tuple[torch.nn.Module, Optimizers]:
    model = ModelConfig(n_layers=2, hidden_size=16, n_heads=2, sequence_length=16)
    trunk = build_trunk(model, 320, seed=0, init="normal")
    settings = {"weight_decay": 0.5, **more}
    config = PretrainConfig(samples_per_epoch=10, batch_size=2, optimizer=optimizer, **settings)  # type: ignore[arg-type]
    return trunk, build_optimizers(trunk, config, precision)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_every_weight_moves_and_only_matrices_decay(kind: str) -> None:
    trunk, optimizers = make(kind)
    before = copy.deepcopy(trunk.state_dict())
    for weight in trunk.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizers.set_factor(0.5)
    optimizers.step()
    for name, weight in trunk.named_parameters():
        peak = 0.02 if kind == "muon" and name.startswith("blocks") else 6e-3
        shrunk = before[name] * (1 - 0.5 * peak * 0.5 * (weight.ndim == 2))
        torch.testing.assert_close(weight.detach(), shrunk)
        weight.grad = torch.ones_like(weight)
    optimizers.step()
    assert not any(torch.equal(before[name], weight) for name, weight in trunk.named_parameters())


def test_muons_momentum_warms_up_in_a_line_and_goes_on_where_it_was() -> None:
    assert [momentum_after(n, 0.95, 10) for n in (0, 5, 10, 99)] == pytest.approx([0.85, 0.9, 0.95, 0.95])
    assert momentum_after(0, 0.95, 0) == 0.95 and momentum_after(0, 0.5, 10) == momentum_after(5, 0.5, 10) == 0.5

    def train(weights: list[torch.nn.Parameter], optimizer: Muon, seeds: range) -> None:
        for seed in seeds:
            set_gradients(weights, seed)
            optimizer.step()

    whole, stopped, resumed = matrices(), matrices(), matrices()
    warming, half, rest = (Muon(weights, lr=0.02, warmup=6) for weights in (whole, stopped, resumed))
    train(whole, warming, range(5))
    train(stopped, half, range(2))
    for weight, so_far in zip(resumed, stopped, strict=True):
        weight.data.copy_(so_far.data)
    rest.load_state_dict(copy.deepcopy(half.state_dict()))
    train(resumed, rest, range(2, 5))
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))
    unlike = matrices()
    train(unlike, Muon(unlike, lr=0.02), range(5))
    assert not torch.equal(unlike[0], whole[0])
    _, configured = make("muon", muon_momentum_warmup=7)
    assert [state["param_groups"][0].get("warmup") for state in configured.state_dict()] == [None, 7]


def test_muon_goes_on_from_what_a_version_without_warm_up_saved() -> None:
    weights, others = matrices(), matrices()
    optimizer, other = Muon(weights, lr=0.02), Muon(others, lr=0.02)
    set_gradients(weights, 0)
    optimizer.step()
    saved = optimizer.state_dict()
    for key in ("warmup", "updates"):
        del saved["param_groups"][0][key]
    other.load_state_dict(saved)
    set_gradients(others, 1)
    other.step()
    assert other.param_groups[0]["warmup"] == other.param_groups[0]["updates"] == 0


@pytest.mark.parametrize("beta", [0.9, 0.5])
def test_adamw_forgets_its_mean_gradient_as_fast_as_configured(beta: float) -> None:
    """One gradient, then none: how much of the first step is the second?"""
    trunk, optimizers = make("muon", adamw_beta1=beta, weight_decay=0.0)
    table, moved = trunk.get_parameter("embedding.weight"), []
    for value in (1.0, 0.0):
        before = table.detach().clone()
        for weight in trunk.parameters():
            weight.grad = torch.full_like(weight, value)
        optimizers.step()
        moved.append(float((table.detach() - before).abs().mean()))
    # The corrected means are b / (1 + b) of the gradient and 0.95 / 1.95 of its square.
    assert moved[1] / moved[0] == pytest.approx(beta / (1 + beta) / (0.95 / 1.95) ** 0.5, rel=1e-3)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_state_restored_into_fresh_optimisers_goes_on_exactly(kind: str) -> None:
    def train(trunk: torch.nn.Module, optimizers: Optimizers, steps: range) -> None:
        for step in steps:
            set_gradients(list(trunk.parameters()), step)
            optimizers.set_factor(1 / (step + 1))
            optimizers.step()

    trunk, optimizers = make(kind)
    train(trunk, optimizers, range(3))
    weights, state = copy.deepcopy(trunk.state_dict()), copy.deepcopy(optimizers.state_dict())
    train(trunk, optimizers, range(3, 6))
    again, fresh = make(kind)
    again.load_state_dict(weights)
    fresh.load_state_dict(state)
    train(again, fresh, range(3, 6))
    pairs = zip(trunk.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_adamw_is_torchs_to_the_bit_and_takes_over_its_state() -> None:
    """Step by step, rates and decays by group, with and without gradients, and on from what torch's own saved."""
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in ((5, 3), (4,), (2, 2))]
    theirs = copy.deepcopy(ours)

    def groups(weights: list[torch.nn.Parameter]) -> list[dict[str, object]]:
        return [{"params": weights[:1], "lr": 0.1, "weight_decay": 0.2}, {"params": weights[1:], "weight_decay": 0.0}]

    options = {"lr": 0.01, "betas": (0.8, 0.9), "fused": True}
    mine, torchs = AdamW(groups(ours), **options), torch.optim.AdamW(groups(theirs), **options)
    for step in range(6):
        if step == 3:
            mine.load_state_dict(copy.deepcopy(torchs.state_dict()))
            assert mine.state_dict().keys() == torchs.state_dict().keys()
        for one, other in zip(ours[:2] if step % 2 else ours, theirs, strict=False):
            one.grad = torch.randn(one.shape)
            other.grad = one.grad.clone()
        for optimizer in (mine, torchs):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
        assert all(weight.grad is None for weight in ours)
