"""Kernels that add up in one order are asked for, and nothing else within a pass on a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from emergence.training.determinism import in_one_order, make_deterministic


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    mode, fill = torch.get_deterministic_debug_mode(), torch.utils.deterministic.fill_uninitialized_memory
    cudnn = torch.backends.cuda.cudnn_sdp_enabled()
    torch.set_deterministic_debug_mode("default")
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.backends.cuda.enable_cudnn_sdp(True)
    yield
    torch.set_deterministic_debug_mode(mode)
    torch.utils.deterministic.fill_uninitialized_memory = fill
    torch.backends.cuda.enable_cudnn_sdp(cudnn)


def test_kernels_are_deterministic_without_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """``use_deterministic_algorithms`` imports torch's compiler for its own settings: a second of every run."""
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda *_, **__: pytest.fail("a second"))
    make_deterministic()
    assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_a_gpu_has_no_other_kernels_within_a_pass() -> None:
    make_deterministic()
    with pytest.raises(ZeroDivisionError), in_one_order(torch.device("cuda")):
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        raise ZeroDivisionError
    assert torch.get_deterministic_debug_mode() == 1  # warns again
    with in_one_order(torch.device("cpu")):
        assert torch.get_deterministic_debug_mode() == 1
