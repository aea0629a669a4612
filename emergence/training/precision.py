"""Where to run, and in which number format.

With bf16 autocast, matrix products are two to five times (CPU with AVX512-BF16 or AMX) to eight times (GPU) as fast.
Hardware without bf16 units emulates it, several times slower than float32. Intel's CPUs with tiles have vector units
for bf16, too, which multiply half as fast as those for float32: where a virtual machine or oneDNN's settings keep the
tiles from a program, float32 is faster. So ``auto`` looks at the hardware, and at what oneDNN, which multiplies for
PyTorch on a CPU, is held to.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch

from emergence.errors import UsageError

#: Instructions that oneDNN may be held to (its "CPU Dispatcher Control") and that have no units for bf16.
_WITHOUT_BF16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")
#: Those that have vector units for bf16, and no tiles. All others that oneDNN knows have tiles.
_VECTORS_ALONE = ("AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX10_1_512", "AVX10_2_512")

#: What Linux knows of the CPU.
_CPU_INFO = Path("/proc/cpuinfo")


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
    """Whether the device multiplies matrices faster in bf16 than in float32."""
    if device.type == "cuda":
        # As torch.cuda.is_bf16_supported, which looks at the current GPU and not at this one.
        return bool(torch.version.hip) or torch.cuda.get_device_properties(device).major >= 8
    return cpu_bf16_units() is not None


def cpu_bf16_units() -> Literal["tiles", "vectors"] | None:
    """What this CPU multiplies faster in bf16 with than in float32, of what oneDNN may use. Tiles are fastest."""
    held = held_to()
    if held in _WITHOUT_BF16:
        return None
    if held not in _VECTORS_ALONE and _has("_is_amx_tile_supported") and _may_use_tiles():
        return "tiles"
    return "vectors" if _has("_is_avx512_bf16_supported") and not _is_made_for_tiles() else None


def _may_use_tiles() -> bool:
    """Whether the system lets this process use tiles. Linux is asked for that, and a sandbox may refuse."""
    ask = getattr(torch.cpu, "_init_amx", None)
    return ask is None or bool(ask())


def _is_made_for_tiles() -> bool:
    """Whether the CPU is one of Intel's since Sapphire Rapids, which are known by AVX512-FP16, tiles or not.

    On one whose tiles were hidden, its vector units did 80 GFLOP/s in bf16 and 154 in float32. Cooper Lake's and AMD's,
    which have to do without tiles, are twice as fast in bf16.
    """
    try:
        text = _CPU_INFO.read_text(encoding="utf-8", errors="replace")
    except OSError:  # it is not Linux, or hides that
        known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        return "Intel" in str(known.get("cpu_name")) and bool(known.get("avx512_fp16"))
    core = dict(line.split(":", 1) for line in text.partition("\n\n")[0].splitlines() if ":" in line)
    about = {key.strip(): value.split() for key, value in core.items()}
    return about.get("vendor_id") == ["GenuineIntel"] and "avx512_fp16" in about.get("flags", [])


def _has(check: str) -> bool:
    """What torch knows of the CPU; an older one without the check knows of nothing."""
    ask = getattr(torch.cpu, check, None)
    return ask is not None and bool(ask())


def held_to() -> str | None:
    """The instructions that ONEDNN_MAX_CPU_ISA holds oneDNN to, in capitals, where they lack tiles for bf16.

    None where they have all, as unset, or where oneDNN does not know the name.
    """
    named = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    return named.upper() if named.upper() in (*_WITHOUT_BF16, *_VECTORS_ALONE) else None


def resolve_precision(setting: str, device: torch.device) -> str:
    """``fp32`` or ``bf16`` for a setting of ``auto``, ``fp32`` or ``bf16``."""
    if setting == "auto":
        return "bf16" if has_fast_bf16(device) else "fp32"
    return setting


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """bf16 autocast, or nothing. Weights stay float32 in either case."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
