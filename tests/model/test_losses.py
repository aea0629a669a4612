"""The fused losses are the ordinary ones."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from emergence.model import linear_cross_entropy, span_cross_entropy, token_losses

R, D, V = 37, 12, 50


def problem(scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = (torch.randn(R, D, generator=generator) * scale).requires_grad_()
    weight = torch.randn(V, D, generator=generator).requires_grad_()
    return hidden, weight, torch.randint(0, V, (R,), generator=generator)


@pytest.mark.parametrize("chunk_rows", [1, 10, 37, 512])
@pytest.mark.parametrize("scale", [1.0, 100.0])  # 100: probabilities that underflow
@pytest.mark.parametrize("in_cache", [1, 4, 10**6])  # rows
def test_loss_and_gradients_equal_the_plain_ones(
    chunk_rows: int, scale: float, in_cache: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emergence.model.losses._CACHE_BYTES", 4 * V * in_cache)
    hidden, weight, targets = problem(scale)
    plain = F.cross_entropy(hidden @ weight.T, targets)
    expected = torch.autograd.grad(3 * plain, (hidden, weight))
    fused = linear_cross_entropy(hidden, weight, targets, chunk_rows)
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
def test_bf16_autocast_is_close_to_float32(in_cache: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emergence.model.losses._CACHE_BYTES", 8 * V * in_cache)
    hidden, weight, targets = problem()
    exact = linear_cross_entropy(hidden, weight, targets, 10)
    expected = torch.autograd.grad(exact, (hidden, weight))
    with torch.autocast("cpu", torch.bfloat16):
        rough = linear_cross_entropy(hidden, weight, targets, 10)
        by_row = token_losses(hidden, weight, targets, 10)
    found = torch.autograd.grad(rough, (hidden, weight))
    assert rough.dtype == torch.float32
    rough, exact = rough.detach(), exact.detach()
    assert float(rough) == pytest.approx(float(exact), rel=0.01)
    assert float(by_row.mean()) == pytest.approx(float(exact), rel=0.01)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        assert float((ours - theirs).norm() / theirs.norm()) < 0.02


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
