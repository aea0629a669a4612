"""Equal inputs give equal bits on equal hardware, on a GPU too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def make_deterministic() -> None:
    """Take kernels that add up in one order wherever there are any, from now on, and warn where there are none."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # ``use_deterministic_algorithms`` does the same and imports the compiler.
    torch.set_deterministic_debug_mode("warn")
    # What is allocated is written before it is read. Filling it first cost a GPU 13% of an update of ``tiny``.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # cuDNN's attention is not deterministic, and plans every new length anew, of which finetuning has many.
    torch.backends.cuda.enable_cudnn_sdp(False)


@contextmanager
def in_one_order(device: torch.device) -> Iterator[None]:
    """Within it an operation on a GPU that has no deterministic kernel is refused. A CPU needs none of this.

    PyTorch's fused attention goes backward in any order as long as such operations are only warned about.

    Raises:
        RuntimeError: Of PyTorch, naming the operation.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
