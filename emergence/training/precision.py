"""Where to run, and in which number format.

With bf16 autocast, matrix products are two to five times (CPU with AVX512-BF16 or AMX) to eight times (GPU) as fast.
Hardware without bf16 units emulates it, several times slower than float32. So ``auto`` looks at the hardware.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from emergence.errors import UsageError


def select_device(name: str | None = None) -> torch.device:
    """The named device. Without a name, it is the first GPU if there is one, and otherwise the CPU.

    Raises:
        UsageError: The device is not there.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device {name!r}: use cpu, cuda or cuda:N") from None
    if device.type == "mps":
        raise UsageError("device mps: nothing here was ever run on Apple's GPUs, which lack float64: use cpu")
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} is not supported: use cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {name!r} is not there ({torch.cuda.device_count()} GPUs found): use cpu")
    return device


def gpu_memory(device: torch.device) -> int | None:
    """Free bytes of a GPU; None for a CPU."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(check is not None and check() for check in checks)


def resolve_precision(setting: str, device: torch.device) -> str:
    """``fp32`` or ``bf16`` for a setting of ``auto``, ``fp32`` or ``bf16``."""
    if setting == "auto":
        return "bf16" if has_fast_bf16(device) else "fp32"
    return setting


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """bf16 autocast, or nothing. Weights stay float32 in either case."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
