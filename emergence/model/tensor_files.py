"""The only ``torch.load`` of the project: tensors and plain values, out of which nothing can run."""

from __future__ import annotations

from typing import Any, BinaryIO

import torch


def load_tensors(handle: BinaryIO) -> Any:
    """What a ``.pth`` file holds, on the CPU.

    Raises:
        Exception: It holds anything but tensors and plain values, or is damaged. Which one is torch's choice.
    """
    return torch.load(handle, map_location="cpu", weights_only=True)


def first_line(error: Exception) -> str:
    """The first line of what the loader says, short enough for a message."""
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return reason[0][:200]
