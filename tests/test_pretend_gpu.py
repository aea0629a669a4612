"""The pretended GPU refuses what a GPU refuses, and computes the rest."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from emergence.model import trunk as trunk_module
from emergence.training.precision import autocast, select_device
from tests.pretend_gpu import Operations, pretend_gpu
from tests.test_gpu import IS_REAL, _trunk

pytestmark = pytest.mark.skipif(IS_REAL, reason="there is a GPU")


@pytest.fixture(autouse=True)
def operations() -> Iterator[Operations]:
    with pretend_gpu() as operations:
        yield operations


def test_tensors_are_where_they_were_made_or_moved_to(operations: Operations) -> None:
    here = torch.arange(6.0)
    there = here.to("cuda")
    made = torch.zeros(3, device="cuda")
    assert [tensor.device.type for tensor in (here, there, made, there.cpu())] == ["cpu", "cuda", "cuda", "cpu"]
    assert there.is_cuda and not there.is_cpu and not here.is_cuda
    assert there.view(2, 3)[0].device == (there * 2).device == torch.empty_like(there).device == made.device
    assert here.to(there).is_cuda and there.new_tensor([1]).is_cuda and copy.deepcopy(there).is_cuda
    assert torch.as_tensor(here, device="cuda").is_cuda and not here.is_cuda
    assert not torch.zeros_like(there, device="cpu").is_cuda
    assert there.sum().item() == 15 and there.tolist() == here.tolist()
    assert operations.ran > 0 and select_device() == torch.device("cuda")


def test_gradients_lie_with_their_weights() -> None:
    ours, theirs = torch.nn.Linear(3, 2), torch.nn.Linear(2, 2).to("cuda")
    moved = ours(torch.ones(1, 3)).to("cuda")
    theirs(moved).sum().backward()
    assert ours.weight.grad is not None and theirs.weight.grad is not None
    assert not ours.weight.grad.is_cuda and theirs.weight.grad.is_cuda
    optimizer = torch.optim.AdamW(theirs.parameters(), fused=True)
    optimizer.step()
    assert optimizer.state[theirs.weight]["exp_avg"].is_cuda
    with autocast(theirs.weight.device, "bf16"):
        assert theirs(moved).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert theirs(moved).dtype == torch.float32


REFUSED: dict[str, Callable[[torch.Tensor, torch.Tensor], object]] = {
    "a product": lambda here, there: there @ here,
    "a sum": lambda here, there: here + there,
    "a list": lambda here, there: torch.cat([here, there]),
    "a stack of numbers": lambda here, there: torch.stack([here.sum(), there.sum()]),
    "a copy of parts": lambda here, there: here.index_copy_(0, torch.arange(2, device="cuda"), there),
    "indices of a GPU for what is here": lambda here, there: here[torch.arange(2, device="cuda")],
    "a number here that is to change": lambda here, there: here.sum().add_(there.sum()),
    "randomness of a CPU": lambda here, there: there.normal_(generator=torch.Generator()),
    "randomness of a GPU for what is here": lambda here, there: torch.randn(2, generator=torch.Generator("cuda")),
    "numpy": lambda here, there: there.numpy(),
    "numpy's own": lambda here, there: np.asarray(there),
    "more than it has": lambda here, there: torch.empty(1 << 50, dtype=torch.uint8, device="cuda"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_gpu_refuses_is_refused(name: str) -> None:
    here, there = torch.ones(2, 2), torch.ones(2, 2, device="cuda")
    with pytest.raises((RuntimeError, TypeError)):
        REFUSED[name](here, there)


def test_what_a_gpu_takes_from_the_cpu_is_taken() -> None:
    there = torch.ones(3, 2, device="cuda")
    assert (there * torch.tensor(2.0)).is_cuda  # a number
    assert there[torch.tensor([0, 2])].is_cuda  # indices
    there[torch.tensor([1])] = torch.zeros(2, device="cuda")
    there[torch.tensor([1])] = 0.0
    there[0].copy_(torch.full((2,), 5.0))
    assert there.tolist() == [[5, 5], [0, 0], [1, 1]]
    there.normal_(generator=torch.Generator("cuda"))


def test_a_table_that_stays_on_the_cpu_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the kind it is for, planted in the trunk."""
    ids, trunk = torch.zeros(1, 5, dtype=torch.long, device="cuda"), _trunk().to("cuda")
    trunk(ids)
    real = trunk_module.rotation_table
    monkeypatch.setattr(trunk_module, "rotation_table", lambda *sizes: tuple(part.cpu() for part in real(*sizes)))
    with pytest.raises(RuntimeError, match="on the same device"):
        _trunk().to("cuda")(ids)
