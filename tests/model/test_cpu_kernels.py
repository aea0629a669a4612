"""The gradients written out are those of the plain forms, and the rotation is that of the halves taken apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from emergence.model.cpu_kernels import causal_attention, rms_norm, squared_relu
from emergence.model.trunk import rotate, rotation_table

EPSILON = 1e-6


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def values_and_gradients(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    out = function(*inputs)
    weights = torch.linspace(-1, 2, out.numel()).view(out.shape).to(out.dtype)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), inputs)]


@pytest.mark.parametrize("shape", [(3, 5, 8), (7, 64), (2, 4, 3, 16), (1, 8)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_rms_norm_has_the_values_and_gradients_of_its_formula(shape: tuple[int, ...], scale: float) -> None:
    states = (draw(*shape).detach() * scale).requires_grad_()
    gain = draw(shape[-1], seed=1)

    def formula(x: Tensor, g: Tensor) -> Tensor:
        return g * x / (x.square().mean(-1, keepdim=True) + EPSILON).sqrt()

    exact = values_and_gradients(
        formula, states.detach().double().requires_grad_(), gain.detach().double().requires_grad_()
    )
    found = values_and_gradients(lambda x, g: rms_norm(x, g, EPSILON), states, gain)
    for wanted, got in zip(exact, found, strict=True):
        size = float(wanted.abs().max())
        torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=2e-5 * size)


def test_rms_norm_of_a_strided_view_and_of_zeros() -> None:
    states, gain = draw(2, 3, 4, 8), draw(8, seed=1)
    view = values_and_gradients(lambda x, g: rms_norm(x.transpose(1, 2), g, EPSILON), states, gain)
    plain = values_and_gradients(lambda x, g: F.rms_norm(x.transpose(1, 2), (8,), g, EPSILON), states, gain)
    torch.testing.assert_close(view, plain, rtol=1e-4, atol=1e-4)
    zeros = values_and_gradients(lambda x, g: rms_norm(x, g, EPSILON), torch.zeros(2, 8, requires_grad=True), gain)
    assert all(bool(found.isfinite().all()) for found in zeros)


def test_inputs_in_bf16_are_taken_by_hand_too() -> None:
    """The norm is computed in float32, as PyTorch's is, and the squared ReLU is PyTorch's to the bit."""
    states, gain, inner = draw(3, 5, 8).bfloat16().detach().requires_grad_(), draw(8, seed=1), draw(7, 9).bfloat16()
    assert rms_norm(states, gain, EPSILON).grad_fn.next_functions[0][0].name() == "_RMSNormBackward"  # type: ignore[union-attr]
    norm = values_and_gradients(lambda x, g: rms_norm(x, g, EPSILON), states, gain)
    plain = values_and_gradients(lambda x, g: F.rms_norm(x, (8,), g.to(x.dtype), EPSILON), states, gain)
    for found, wanted in zip(norm, plain, strict=True):
        assert found.dtype == wanted.dtype and float((found - wanted).norm() / wanted.norm()) < 0.01
    squared = values_and_gradients(squared_relu, inner)
    for found, wanted in zip(squared, values_and_gradients(lambda x: F.relu(x).square(), inner), strict=True):
        assert found.dtype == torch.bfloat16 and torch.equal(found, wanted)


def library_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, is_causal=True)


@pytest.mark.parametrize("tokens", [1, 40, 300])
def test_attention_in_bf16_has_the_librarys_values_and_gradients_closer_to_the_exact_ones(tokens: int) -> None:
    """Because its backward pass is in float32, which is also why it is fast."""
    inputs = [draw(2, tokens, 3, 16, seed=n).detach().bfloat16().transpose(1, 2).requires_grad_() for n in range(3)]
    exact = values_and_gradients(library_attention, *(x.detach().double().requires_grad_() for x in inputs))
    library, found = (values_and_gradients(function, *inputs) for function in (library_attention, causal_attention))
    assert torch.equal(found[0], library[0])

    def distances(of: list[Tensor]) -> list[float]:
        return [float((x.double() - wanted).norm()) for x, wanted in zip(of[1:], exact[1:], strict=True)]

    assert all(x.dtype == torch.bfloat16 for x in found)
    if tokens > 1:  # one token attends to itself whatever it asks
        assert all(ours < 0.9 * theirs for ours, theirs in zip(distances(found), distances(library), strict=True))


def test_attention_in_float32_and_without_gradients_is_the_librarys() -> None:
    inputs = [draw(2, 3, 20, 16, seed=n) for n in range(3)]
    ours, theirs = (values_and_gradients(function, *inputs) for function in (causal_attention, library_attention))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    with torch.no_grad():
        rough = [x.bfloat16() for x in inputs]
        assert torch.equal(causal_attention(*rough), library_attention(*rough))


def test_attention_of_heads_that_the_kernel_does_not_take_is_the_librarys() -> None:
    """It would end the process on no tokens, and read other numbers of heads that are not side by side."""
    empty = [torch.zeros(2, 3, 0, 16, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    assert causal_attention(*empty).shape == (2, 3, 0, 16)
    turned = [draw(2, 3, 16, 20, seed=n).detach().bfloat16().transpose(2, 3).requires_grad_() for n in range(3)]
    ours, theirs = (values_and_gradients(function, *turned) for function in (causal_attention, library_attention))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_gain_in_bf16_and_a_backward_pass_under_autocast() -> None:
    states, gain = draw(3, 5, 8), draw(8, seed=1)
    rough = [states.detach().bfloat16().requires_grad_(), gain.detach().bfloat16().requires_grad_()]
    found = values_and_gradients(lambda x, g: rms_norm(x, g, EPSILON), *rough)
    assert [x.dtype for x in found] == [torch.bfloat16] * 3
    plain = values_and_gradients(lambda x, g: rms_norm(x, g, EPSILON), states, gain)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(values_and_gradients(lambda x, g: rms_norm(x, g, EPSILON), states, gain), plain)


def test_squared_relu_has_the_values_and_gradients_of_the_plain_form() -> None:
    inner = draw(5, 33)
    found = values_and_gradients(squared_relu, inner)
    torch.testing.assert_close(found, values_and_gradients(lambda x: F.relu(x).square(), inner))
    assert bool((found[1][inner < 0] == 0).all())
    with torch.no_grad():
        before = inner.clone()
        assert torch.equal(squared_relu(inner), found[0])
        assert torch.equal(inner, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_keep_theirs(dtype: torch.dtype) -> None:
    states = draw(4, 8).detach().to(dtype)
    assert rms_norm(states, torch.ones(8), EPSILON).dtype == dtype
    assert squared_relu(states).dtype == dtype


def test_rotating_whole_heads_equals_rotating_their_halves() -> None:
    heads = draw(2, 6, 3, 8)
    angle = torch.outer(torch.arange(6.0), 10_000.0 ** (-torch.arange(0, 8, 2) / 8))[:, None]  # (T, 1, K/2)

    def halves(x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * angle.cos() - second * angle.sin(), first * angle.sin() + second * angle.cos()], -1)

    table = rotation_table(6, 3, 8, torch.device("cpu"))
    torch.testing.assert_close(
        values_and_gradients(lambda x: rotate(x, *table), heads), values_and_gradients(halves, heads)
    )


def test_what_the_compiler_sees_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    heads, states, gain = draw(2, 6, 3, 8), draw(4, 8), draw(8, seed=1)
    table = rotation_table(6, 3, 8, torch.device("cpu"))
    functions = {
        "rotate": (lambda x: rotate(x, *table), (heads,)),
        "rms_norm": (lambda x, g: rms_norm(x, g, EPSILON), (states, gain)),
        "squared_relu": (squared_relu, (states,)),
    }
    eager = {name: values_and_gradients(function, *inputs) for name, (function, inputs) in functions.items()}
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for name, (function, inputs) in functions.items():
        torch.testing.assert_close(values_and_gradients(function, *inputs), eager[name], rtol=1e-4, atol=1e-4)
