"""``emergence doctor``: what this machine can do, what is missing, what to do about it.

Each check is one line: a status, what was found, and the cure. ``missing`` means that an installation for local runs is
incomplete. ``note`` means that something optional is absent, or something is worth knowing. A base installation, which
only launches to Modal, is complete.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from emergence.environment import usable_cores
from emergence.errors import install_line
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.local_time import core_time, this_machine
from emergence.wording import aligned, counted, time_range

Status = Literal["ok", "note", "missing"]

#: Import name by distribution name, for what a local run cannot do without.
NEEDED = {
    "torch": "torch",
    "numpy": "numpy",
    "scipy": "scipy",
    "scikit-learn": "sklearn",
    "tokenizers": "tokenizers",
    "pyarrow": "pyarrow",
}
OPTIONAL = {
    "datasets": ("datasets", "the hub data route (--data hub)"),
    "matplotlib": ("matplotlib", "figures"),
    "jinja2": ("jinja2", "the report"),
    "orjson": ("orjson", "reading hundreds of runs faster"),
    "transformers": ("transformers", "probing Hugging Face models"),
    "modal": ("modal", "launching to Modal"),
}


@dataclass(frozen=True)
class Check:
    """One finding: ``name``, ``status``, what was ``found``, and the ``cure`` (empty when there is none)."""

    name: str
    status: Status
    found: str
    cure: str = ""


def diagnose() -> list[Check]:
    """Run all checks. It takes about two seconds and no network."""
    checks = [_python(), *_packages(), _cores_and_memory(), _time(), _disk()]
    if importlib.util.find_spec("torch"):
        checks += _torch()
    checks += [_modal_token(), _hub()]
    return checks


def format_checks(checks: list[Check], *, as_json: bool) -> str:
    """The checks as aligned text, or as a JSON list."""
    if as_json:
        return json.dumps([dataclasses.asdict(check) for check in checks], indent=2)
    marks = {"ok": "ok     ", "note": "note   ", "missing": "MISSING"}
    rows = []
    for check in checks:
        rows.append((marks[check.status], check.name, check.found))
        if check.cure:
            rows.append(("", "", f"-> {check.cure}"))
    return "\n".join(aligned(rows))


def _python() -> Check:
    return Check("Python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _packages() -> list[Check]:
    if not any(importlib.util.find_spec(module) for module in NEEDED.values() if module != "numpy"):
        found = f"none: {', '.join(NEEDED)} are not installed; launching to Modal needs none of them"
        return [Check("local runs", "note", found, install_line("torch")), *_optional_packages()]
    checks = []
    for distribution, module in NEEDED.items():
        if importlib.util.find_spec(module):
            checks.append(Check(distribution, "ok", importlib.metadata.version(distribution)))
        else:
            checks.append(Check(distribution, "missing", "not installed", install_line(module)))
    return checks + _optional_packages()


def _optional_packages() -> list[Check]:
    checks = []
    for distribution, (module, use) in OPTIONAL.items():
        if importlib.util.find_spec(module):
            checks.append(Check(distribution, "ok", f"{importlib.metadata.version(distribution)} ({use})"))
        else:
            checks.append(Check(distribution, "note", f"not installed; needed for {use}", install_line(module)))
    return checks


def _cores_and_memory() -> Check:
    cores = usable_cores()
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError, AttributeError):
        return Check("CPU", "ok", counted(cores, "core"))
    size = f"{counted(cores, 'core')}, {memory:.0f} GiB memory"
    if memory < 4:
        return Check("CPU", "note", size, "use --config-name debug; tiny wants about 4 GiB")
    return Check("CPU", "ok", size)


def _time() -> Check:
    """What runs of two sizes would take here: the estimate of `config`, `plan`, `run` and `sweep --dry-run`."""
    machine = this_machine()
    took = {name: core_time(ExperimentSpec.from_flags(config_name=name)).on(machine) for name in ("debug", "tiny")}
    times = ", ".join(f"{name} {time_range(*seconds)}" for name, seconds in took.items())
    return Check("a run", "note" if machine.busy > 1 else "ok", f"{times}, on {machine}")


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    if free < 5:
        return Check(
            "disk",
            "note",
            f"{free:.1f} GiB free here",
            "a tiny run with its snapshots takes about 0.3 GiB; free some room",
        )
    return Check("disk", "ok", f"{free:.0f} GiB free here")


def _torch() -> list[Check]:
    import torch

    from emergence.training.precision import resolve_precision, select_device

    device = select_device()
    precision = resolve_precision("auto", device)
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(0)
        name = f"{torch.cuda.device_count()} x {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB each"
        checks = [Check("GPU", "ok", name)]
    elif torch.backends.mps.is_available():
        found = "Apple's is not used: nothing here was ever run on one"
        checks = [Check("GPU", "note", found, "runs take the CPU; launch base and medium on Modal")]
    else:
        checks = [
            Check(
                "GPU",
                "note",
                "none: debug and tiny run here, larger sizes want a GPU",
                "launch base and medium on Modal",
            )
        ]
    rate = _matrix_rate(device)
    checks.append(Check("arithmetic", "ok", f"{precision}, {rate / 1e9:,.0f} GFLOP/s measured on {device.type}"))
    return [*checks, _compiler()]


def _matrix_rate(device) -> float:  # type: ignore[no-untyped-def]
    """Floating-point operations per second of a 1024 x 1024 matrix product, measured for 0.3 s."""
    import torch

    from emergence.training.precision import resolve_precision

    dtype = torch.bfloat16 if resolve_precision("auto", device) == "bf16" else torch.float32
    size, count = 1024, 0
    matrix = torch.ones(size, size, device=device, dtype=dtype)
    matrix @ matrix
    start = time.perf_counter()
    while time.perf_counter() - start < 0.3:
        matrix @ matrix
        count += 1
        if device.type == "cuda":
            torch.cuda.synchronize()
    return count * 2 * size**3 / (time.perf_counter() - start)


def _compiler() -> Check:
    from emergence.training.execution import cpp_compiler

    if compiler := cpp_compiler():
        return Check("C++ compiler", "ok", f"{compiler} (torch.compile can be used)")
    return Check("C++ compiler", "note", "none: long runs go without torch.compile", "install g++ or clang++")


def _modal_token() -> Check:
    if (
        os.environ.get("MODAL_TOKEN_ID")
        or Path(os.environ.get("MODAL_CONFIG_PATH", "~/.modal.toml")).expanduser().is_file()
    ):
        return Check("Modal token", "ok", "found")
    return Check("Modal token", "note", "none", "modal token new")


def _hub() -> Check:
    if os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"):
        return Check(
            "hub",
            "note",
            "HF_HUB_OFFLINE is set",
            "unset it, or use --pretrain-text and --qa-data, or --data microworld",
        )
    return Check("hub", "ok", "not tried from here; --data microworld and local files need no network")
