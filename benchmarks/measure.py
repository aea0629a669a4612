"""Interleaved timing, memory of a child process, and the facts of the machine a figure was measured on."""

from __future__ import annotations

import multiprocessing
import os
import platform
import pstats
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import torch

from benchmarks.marks import kind_of
from emergence.environment import usable_cores
from emergence.errors import EmergenceError, UsageError
from emergence.training.precision import held_to, resolve_precision

Result = TypeVar("Result")

#: Does one piece of work and returns how many units it was.
Work = Callable[[], float]

#: Work between two looks at a GPU's clock: pieces at most, and operations after which looking costs nothing.
_PIECES_AT_ONCE, _OPERATIONS = 20, 1e13

#: What forgets the peak of this process's memory.
_PEAK = Path("/proc/self/clear_refs")

#: Where commands of the project are run.
ROOT = Path(__file__).resolve().parents[1]

_LIBRARIES = ("torch", "numpy", "scipy", "tokenizers", "transformers", "modal")


def interleaved(
    work: Mapping[str, Work], repeats: int, device: torch.device | None = None, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds per unit of every party, in rounds: each round runs each party once.

    CPU seconds of this process on a CPU (other work on the machine costs little), wall-clock seconds on a GPU.

    Args:
        work: The parties.
        repeats: Rounds that count.
        device: Where the work runs.
        warm_up: Rounds before, which compile, allocate and fill caches.
    """
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for number in range(warm_up + repeats):
        for name, piece in work.items():
            begin = _clock(device)
            units = piece()
            spent = _clock(device) - begin
            if number >= warm_up:
                seconds[name].append(spent / units)
    return seconds


def _clock(device: torch.device | None) -> float:
    if device is None or device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def ratios(peer: list[float], ours: list[float]) -> list[float]:
    """How many times as long the peer takes, in each round."""
    return [p / o for p, o in zip(peer, ours, strict=True)]


def ratio(peer: list[float], ours: list[float]) -> float:
    """How many times as long the peer takes: the median over rounds of their ratio in the same round."""
    return statistics.median(ratios(peer, ours))


def in_child(function: Callable[..., Result], *arguments: Any) -> Result:
    """``function(*arguments)`` in a fresh process, whose memory has no history."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def run_command(command: Sequence[str], refused: bool = False) -> None:
    """Run a command of the project to its end, silently.

    Args:
        command: Program and arguments.
        refused: Whether it is to refuse what it is given, and not to do it.

    Raises:
        EmergenceError: It ended otherwise; its last line is told.
    """
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1_800)
    if bool(done.returncode) != refused:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise EmergenceError(f"{' '.join(command)[:200]}: {last}")


def child_cpu_seconds(command: Sequence[str], refused: bool = False) -> float:
    """CPU seconds, user and system, of :func:`run_command`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run_command(command, refused)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def peak_bytes_above(work: Callable[[], Any]) -> int:
    """By how much the resident memory of this process rises at its highest while ``work`` runs.

    Raises:
        UsageError: The system is not Linux.
    """
    if not _PEAK.exists():
        raise UsageError("memory is read from /proc, which only Linux has: measure this row there")
    _PEAK.write_text("5", encoding="ascii")  # forget the peak so far
    before = _status_bytes("VmRSS")
    work()
    return _status_bytes("VmHWM") - before


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def machine(device: torch.device) -> dict[str, Any]:
    """What a figure depends on; no names, no paths.

    ``cpu``, usable ``cores``, ``threads`` in use, ``memory_gigabytes``, ``kind``, ``system``; ``gpu`` where it computes
    on one, ``held_to`` where oneDNN may not use all of a CPU.
    """
    facts: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "memory_gigabytes": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "kind": kind_of(device),
        "system": platform.system(),
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    elif held := held_to():
        facts["held_to"] = held
    return facts


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return " ".join(line.split(":", 1)[1].split())
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions of what was measured with; a library that is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def best_precision(device: torch.device) -> str:
    """The number format that ours (``precision = auto``) and the tuned peer run in here."""
    return resolve_precision("auto", device)


def repeated(work: Work, device: torch.device, flops: float) -> Work:
    """A piece of work of so many operations, as often as it is done between two looks at the clock.

    Looking waits for a GPU to be through, which costs more than a small piece. A CPU does nothing ahead.
    """
    if device.type != "cuda":
        return work
    times = max(1, min(_PIECES_AT_ONCE, round(_OPERATIONS / flops)))
    return lambda: sum(work() for _ in range(times))


def gemm(device: torch.device, precision: str, side: int) -> Work:
    """A square matrix product in ``precision`` as a piece of work; its unit is one floating-point operation."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty(side, side, device=device, dtype=dtype)

    def multiply() -> float:
        torch.mm(left, right, out=out)
        return 2.0 * side**3

    return repeated(multiply, device, 2.0 * side**3)


def hottest(work: Callable[[], Any], device: torch.device, top: int = 8) -> list[dict[str, Any]]:
    """The ``top`` operations that take most of ``work``'s own time: name (its begin), share of the whole, calls.

    By torch.profiler. On a GPU these are its kernels, whose shares are of their own sum, after ``idle``, the share of
    the time by the clock, under the profiler, in which none ran.
    """
    on_gpu = device.type == "cuda"
    begin = _clock(device)
    with torch.profiler.profile() as profile:
        work()
        spent = 1e6 * (_clock(device) - begin)
    field = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    # On a GPU an operation is told the time of its kernels, which stand for themselves.
    events = [event for event in profile.key_averages() if not on_gpu or _is_kernel(event)]
    times = sorted(((getattr(event, field), event.key, event.count) for event in events), reverse=True)
    times = [(took, what[:80], calls) for took, what, calls in times if took > 0]
    total = sum(took for took, _, _ in times) or 1.0
    found = [{"what": what, "share": round(took / total, 3), "calls": calls} for took, what, calls in times[:top]]
    return found if not on_gpu else [{"what": "idle", "share": round(max(0.0, 1 - total / spent), 3)}, *found]


def _is_kernel(event: Any) -> bool:
    is_range = str(event.key).startswith("Optimizer.step#")
    return bool(event.device_type == torch.autograd.DeviceType.CUDA) and not is_range


def hottest_packages(arguments: Sequence[str], folder: Path, top: int = 8) -> list[dict[str, Any]]:
    """Share of a Python process's own time, by the clock, of each package (cProfile).

    Built-in functions are none of a package and stand by their names, those of torch's own library as torch.

    Args:
        arguments: Of the interpreter: ``-m``, a module and what follows it.
        folder: What the packages of this project are in.
        top: How many of them.
    """
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "profile"
        # A program that refuses what it is given ends well under cProfile, too; one that crashes does not.
        run_command([sys.executable, "-m", "cProfile", "-o", str(file), *arguments])
        functions = pstats.Stats(str(file)).stats.items()  # type: ignore[attr-defined]
    spent: dict[str, float] = {}
    for (path, _, function), (_, _, own, _, _) in functions:
        package = package_of(path, function, folder)
        spent[package] = spent.get(package, 0.0) + own
    longest = sorted(spent.items(), key=lambda item: -item[1])[:top]
    return [{"what": what, "share": round(own / sum(spent.values()), 3)} for what, own in longest]


def package_of(path: str, function: str, folder: Path) -> str:
    """The package of a function as cProfile tells it, whose path is ``~`` for one that is built in."""
    if path == "~":
        return "torch" if "torch" in function else function
    parts = Path(path).parts
    if "site-packages" in parts:
        return parts[parts.index("site-packages") + 1]
    return Path(path).relative_to(folder).parts[0] if Path(path).is_relative_to(folder) else "Python itself"
