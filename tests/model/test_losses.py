"""The fused losses are the ordinary ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from emergence.model import linear_cross_entropy, losses, span_cross_entropy, token_losses

R, D, V = 37, 12, 50
IGNORED = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own


def problem(scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = (torch.randn(R, D, generator=generator) * scale).requires_grad_()
    weight = torch.randn(V, D, generator=generator).requires_grad_()
    return hidden, weight, torch.randint(0, V, (R,), generator=generator)


@pytest.mark.parametrize("chunk_rows", [1, 10, 37, 512])
@pytest.mark.parametrize("scale", [1.0, 100.0])  # 100: probabilities that underflow
@pytest.mark.parametrize("in_cache", [1, 4, 10**6])  # rows
@pytest.mark.parametrize("compiled", [False, True])
def test_loss_and_gradients_equal_the_plain_ones(
    chunk_rows: int, scale: float, in_cache: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emergence.model.losses._CACHE_BYTES", 4 * V * in_cache)
    monkeypatch.setattr(torch, "compile", lambda function, **_options: function)
    hidden, weight, targets = problem(scale)
    plain = F.cross_entropy(hidden @ weight.T, targets)
    expected = torch.autograd.grad(3 * plain, (hidden, weight))
    fused = linear_cross_entropy(hidden, weight, targets, chunk_rows, compiled)
    found = torch.autograd.grad(3 * fused, (hidden, weight))
    torch.testing.assert_close(fused, plain)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_without_gradients_and_by_row() -> None:
    hidden, weight, targets = problem()
    rows = F.cross_entropy(hidden @ weight.T, targets, reduction="none")
    torch.testing.assert_close(token_losses(hidden, weight, targets, 10), rows.detach())
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(hidden, weight, targets, 10), rows.mean())


@pytest.mark.parametrize("in_cache", [3, 10**6])
def test_no_row_has_no_loss_and_pieces_change_none(in_cache: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, targets = problem()
    assert token_losses(hidden[:0], weight, targets[:0]).shape == (0,)
    whole = token_losses(hidden, weight, targets)
    monkeypatch.setattr("emergence.model.losses._CACHE_BYTES", 4 * V * in_cache)
    torch.testing.assert_close(token_losses(hidden, weight, targets), whole)


@pytest.mark.parametrize("in_cache", [3, 10**6])  # rows, of bf16 whose weight gradient takes several such pieces
@pytest.mark.parametrize("compiled", [False, "in name only", pytest.param(True, marks=[pytest.mark.slow, IGNORED])])
def test_bf16_autocast_is_close_to_float32(
    in_cache: int, compiled: bool | str, monkeypatch: pytest.MonkeyPatch, nothing_is_unpickled: list[str]
) -> None:
    monkeypatch.setattr("emergence.model.losses._CACHE_BYTES", 8 * V * in_cache)
    if compiled == "in name only":
        monkeypatch.setattr(torch, "compile", lambda function, **_options: function)
    hidden, weight, targets = problem()
    exact = linear_cross_entropy(hidden, weight, targets, 10)
    expected = torch.autograd.grad(exact, (hidden, weight))
    with torch.autocast("cpu", torch.bfloat16):
        rough = linear_cross_entropy(hidden, weight, targets, 10, bool(compiled))
        by_row = token_losses(hidden, weight, targets, 10)
    found = torch.autograd.grad(rough, (hidden, weight))
    assert rough.dtype == torch.float32
    rough, exact = rough.detach(), exact.detach()
    assert float(rough) == pytest.approx(float(exact), rel=0.01)
    assert float(by_row.mean()) == pytest.approx(float(exact), rel=0.01)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        assert float((ours - theirs).norm() / theirs.norm()) < 0.02
    nothing_is_unpickled.clear()  # what the compiler keeps for itself


@pytest.mark.slow
@IGNORED
def test_no_number_of_rows_is_too_many_to_be_compiled(nothing_is_unpickled: list[str]) -> None:
    """torch compiles a function for eight sizes and leaves it as it is for others."""
    from torch._dynamo.utils import counters  # torch's compiler takes a second to import

    torch._dynamo.reset()
    counters.clear()
    for rows in (50, *range(1, 12)):
        hidden = torch.randn(rows, D, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            linear_cross_entropy(hidden, torch.randn(V, D), torch.zeros(rows, dtype=torch.int64), 100, True)
    assert 1 <= counters["stats"]["unique_graphs"] <= 3  # of any number of rows, and of one
    nothing_is_unpickled.clear()  # what the compiler keeps for itself


@pytest.fixture(autouse=True)
def compiled_anew() -> Iterator[None]:
    """A test that changes the compiler keeps it to itself."""
    losses._compiled.cache_clear()
    yield
    losses._compiled.cache_clear()


def test_what_is_compiled_reads_the_logits_in_place_and_in_the_largest_pieces() -> None:
    cpu = torch.device("cpu")
    eager, compiled = (losses._rows_at_once(16_384, 10**4, 512, torch.bfloat16, cpu, on) for on in (False, True))
    assert eager == (128, 512) and compiled == (512, 512)
    assert losses._rows_at_once(16_384, 10**4, 4096, torch.float32, cpu, False) == (256, 256)


def test_a_gpu_takes_many_rows_at_once_and_has_no_pieces() -> None:
    gpu = torch.device("cuda")
    for compiled in (False, True):
        assert losses._rows_at_once(16_384, 10**5, 512, torch.bfloat16, gpu, compiled) == (8192, 8192)
        assert losses._rows_at_once(16_384, 100, 512, torch.float32, gpu, compiled) == (100, 100)
        assert losses._rows_at_once(16_384, 0, 512, torch.float32, gpu, compiled) == (1, 1)


def test_a_certain_prediction_has_its_small_error_in_bf16() -> None:
    """Its probability rounds to 1 in bf16, its error must not round to 0."""
    hidden, weight = torch.ones(1, 1, requires_grad=True), torch.tensor([[8.0], [0.0]], requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, torch.tensor([0]))
    (grad,) = torch.autograd.grad(loss, weight)
    assert float(grad[0]) == pytest.approx(-1 / (1 + math.exp(8)), rel=0.01)


def test_a_common_offset_of_the_logits_goes_away() -> None:
    hidden, weight, targets = problem()
    offset = torch.cat([hidden.detach(), torch.full((R, 1), 1e4)], 1)
    ones = torch.cat([weight.detach(), torch.ones(V, 1)], 1)
    exact = F.cross_entropy(offset.double() @ ones.double().T, targets, reduction="none")
    found = token_losses(offset, ones, targets)
    plain = F.cross_entropy(offset @ ones.T, targets, reduction="none")
    assert (found - exact).abs().max() <= 1.01 * (plain - exact).abs().max()  # the products' own rounding, and no more


def span_problem() -> tuple[Tensor, Tensor, Tensor]:
    start, end = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([5, 3, 4])
    return start, end, torch.arange(5) < lengths[:, None]


def test_span_loss_is_minus_the_log_probability_of_the_golds() -> None:
    start, end, mask = span_problem()
    starts, ends = torch.tensor([[0, 2], [1, 0], [3, 1]]), torch.tensor([[1, 4], [2, 0], [3, 2]])
    golds = torch.tensor([[True, True], [True, False], [True, True]])
    losses: dict[str, list[float]] = {"first": [], "marginal": []}
    for n in range(3):
        words = int(mask[n].sum())
        p_start, p_end = start[n, :words].softmax(0), end[n, :words].softmax(0)
        p = [float(p_start[starts[n, g]] * p_end[ends[n, g]]) for g in range(2) if golds[n, g]]
        losses["first"].append(-math.log(p[0]))
        losses["marginal"].append(-math.log(sum(p)))
    for kind, expected in losses.items():
        found = span_cross_entropy(start, end, mask, starts, ends, golds, kind)
        assert float(found) == pytest.approx(sum(expected) / 3, rel=1e-5)


def test_span_probabilities_sum_to_one_and_padding_is_never_seen() -> None:
    start, end, mask = span_problem()
    start, end = (x.clone().requires_grad_() for x in (start, end))
    one = torch.ones(1, 1, dtype=torch.bool)
    total = 0.0
    for i, j in itertools.product(range(3), repeat=2):  # the second question has three words
        gold = torch.tensor([[i]]), torch.tensor([[j]])
        total += math.exp(-span_cross_entropy(start[1:2], end[1:2], mask[1:2], *gold, one).item())
    assert total == pytest.approx(1.0, rel=1e-5)
    golds = torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, 2, dtype=torch.int64)
    gold_mask = torch.tensor([[True, False]]).expand(3, 2)
    span_cross_entropy(start, end, mask, *golds, gold_mask, "marginal").backward()
    assert start.grad is not None
    assert torch.isfinite(start.grad).all()
    assert not start.grad[~mask].any()


def test_a_second_backward_pass_is_refused_rather_than_scaled_twice() -> None:
    hidden, weight, targets = problem()
    loss = 0.5 * linear_cross_entropy(hidden, weight, targets)
    loss.backward(retain_graph=True)
    first = weight.grad.clone() if weight.grad is not None else None
    assert first is not None
    with pytest.raises(RuntimeError, match="inplace"):
        loss.backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, first)
