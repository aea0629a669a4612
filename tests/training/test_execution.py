"""Devices, number formats, micro-batches and compilation are chosen as documented."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from emergence.errors import UsageError
from emergence.model import build_trunk
from emergence.spec.config import ModelConfig, PretrainConfig
from emergence.training import execution, precision
from emergence.training.context import Context
from emergence.training.distributed import Workers
from emergence.training.execution import Gradients, choose_forward, choose_micro_batch, is_replayed, wants_compilation
from emergence.training.precision import autocast, cpu_bf16_units, has_fast_bf16, resolve_precision, select_device

CPU = torch.device("cpu")
MODEL = ModelConfig(n_layers=1, hidden_size=16, n_heads=2, sequence_length=16)


def config(**changes: Any) -> PretrainConfig:
    return PretrainConfig(**{"samples_per_epoch": 10, "batch_size": 8, **changes})


def test_devices() -> None:
    assert select_device("cpu") == CPU
    assert select_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("tpu9", "meta", "cuda:99"):
        with pytest.raises(UsageError, match=name):
            select_device(name)


@pytest.fixture
def cpu_info(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], None]:
    """Pretend a CPU of two cores; until it is called, an AMD one."""

    def pretend(vendor: str, flags: str) -> None:
        core = f"processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: a CPU\npower management:\nflags\t\t: {flags}\n"
        file.write_text(f"{core}\n{core}\n", encoding="utf-8")

    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(precision, "_CPU_INFO", file)
    monkeypatch.setattr(torch.cpu, "_init_amx", lambda: True)
    pretend("AuthenticAMD", "fpu avx512_bf16")
    return pretend


@pytest.mark.parametrize(("amx", "avx"), [(False, False), (True, False), (False, True)])
@pytest.mark.usefixtures("cpu_info")
def test_auto_precision_asks_the_hardware(monkeypatch: pytest.MonkeyPatch, amx: bool, avx: bool) -> None:
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    assert has_fast_bf16(CPU) == (amx or avx)
    assert resolve_precision("auto", CPU) == ("bf16" if amx or avx else "fp32")
    assert resolve_precision("fp32", CPU) == "fp32"
    assert resolve_precision("bf16", CPU) == "bf16"


@pytest.mark.skipif(torch.version.hip is not None, reason="AMD's GPUs have bf16")
def test_auto_precision_asks_the_gpu_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    majors = {"cuda:0": 8, "cuda:1": 7}
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda gpu: SimpleNamespace(major=majors[str(gpu)]))
    assert [resolve_precision("auto", torch.device(name)) for name in majors] == ["bf16", "fp32"]


@pytest.mark.parametrize(
    ("held", "on_tiles", "on_vectors"),
    [
        ("", "tiles", "vectors"),
        ("AVX2", None, None),
        ("AVX512_CORE", None, None),
        ("avx512_core_vnni", None, None),
        ("AVX2_VNNI_2", None, None),
        ("AVX10_1_512", "vectors", "vectors"),
        ("AVX10_2_512", "vectors", "vectors"),
        ("AVX512_CORE_BF16", "vectors", "vectors"),
        ("AVX512_CORE_FP16", "vectors", "vectors"),
        ("AVX512_CORE_AMX", "tiles", "vectors"),
        ("no such instructions", "tiles", "vectors"),
    ],
)
@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
@pytest.mark.usefixtures("cpu_info")
def test_auto_precision_asks_what_the_library_is_held_to(
    monkeypatch: pytest.MonkeyPatch, held: str, on_tiles: str | None, on_vectors: str | None, variable: str
) -> None:
    # Of both the first counts, unless it is empty.
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "")
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", "AVX2" if held else "")
    monkeypatch.setenv(variable, held)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    for tiles, expected in ((True, on_tiles), (False, on_vectors)):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda tiles=tiles: tiles)
        assert cpu_bf16_units() == expected
        assert resolve_precision("auto", CPU) == ("fp32" if expected is None else "bf16")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert cpu_bf16_units() is None


@pytest.mark.parametrize(
    ("vendor", "flags", "expected"),
    [
        ("GenuineIntel", "fpu avx512_bf16 avx512_fp16", None),  # Sapphire Rapids and later: bf16 is for their tiles
        ("GenuineIntel", "fpu avx512_bf16", "vectors"),  # Cooper Lake
        ("AuthenticAMD", "fpu avx512_bf16", "vectors"),
        ("AuthenticAMD", "fpu avx512_bf16 avx512_fp16", "vectors"),
    ],
)
def test_vector_units_of_a_cpu_made_for_tiles_count_as_none(
    monkeypatch: pytest.MonkeyPatch,
    cpu_info: Callable[[str, str], None],
    vendor: str,
    flags: str,
    expected: str | None,
) -> None:
    cpu_info(vendor, flags)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    for tiles, held in ((False, ""), (True, "AVX512_CORE_BF16")):  # kept from it by a virtual machine, by a setting
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda tiles=tiles: tiles)
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", held)
        assert cpu_bf16_units() == expected
        assert resolve_precision("auto", CPU) == ("fp32" if expected is None else "bf16")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "")
    assert cpu_bf16_units() == "tiles"
    monkeypatch.setattr(torch.cpu, "_init_amx", lambda: False)
    assert cpu_bf16_units() == expected, "a system that refuses tiles leaves the vector units"
    monkeypatch.delattr(torch.cpu, "_init_amx")
    assert cpu_bf16_units() == "tiles", "an older torch cannot be asked"


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (None, "vectors"),
        ({}, "vectors"),
        ({"cpu_name": "Intel Xeon", "avx512_fp16": True}, None),
        ({"cpu_name": "Intel Xeon", "avx512_fp16": False}, "vectors"),
        ({"cpu_name": "AMD EPYC", "avx512_fp16": True}, "vectors"),
    ],
)
def test_where_the_system_tells_nothing_torch_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, known: dict[str, Any] | None, expected: str | None
) -> None:
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(precision, "_CPU_INFO", tmp_path / "none")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    if known is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert cpu_bf16_units() == expected


@pytest.mark.parametrize("found", ["", "no colon", "vendor_id\t: GenuineIntel", "flags: avx512_fp16"])
def test_a_cpu_of_which_nothing_is_known_has_the_units_it_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, found: str
) -> None:
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "cpuinfo").write_text(found, encoding="utf-8")
    monkeypatch.setattr(precision, "_CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert cpu_bf16_units() == "vectors"


def test_an_older_torch_without_these_checks_means_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.delattr(torch.cpu, name)
    assert not precision.has_fast_bf16(CPU)


def test_autocast_is_bf16_or_nothing() -> None:
    square = torch.eye(4)
    with autocast(CPU, "bf16"):
        assert (square @ square).dtype == torch.bfloat16
    with autocast(CPU, "fp32"):
        assert (square @ square).dtype == torch.float32


def test_micro_batches_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    trunk = build_trunk(MODEL, 64, seed=0)
    assert choose_micro_batch(trunk, config(), 8, Context()) == 8
    assert choose_micro_batch(trunk, config(micro_batch_size=2), 8, Context()) == 2
    assert choose_micro_batch(trunk, config(micro_batch_size=8), 3, Context()) == 3
    monkeypatch.setattr(execution, "CPU_MICRO_BATCH_TOKENS", 1)
    assert choose_micro_batch(trunk, config(), 7, Context()) == 1


def test_halving_stops_at_the_first_that_fits() -> None:
    tried: list[int] = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= 3

    assert execution.halve_until(20, fits) == 3
    assert tried == [20, 10, 5, 3]


def test_what_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    long, short = 1e18, 1e9
    monkeypatch.setattr(execution, "cpp_compiler", lambda: "/usr/bin/g++")
    assert wants_compilation("auto", CPU, long)
    assert not wants_compilation("auto", CPU, short)
    assert wants_compilation("auto", torch.device("cuda"), long)
    assert not wants_compilation("auto", torch.device("cuda"), short)
    assert wants_compilation("on", torch.device("cuda"), short)
    assert wants_compilation("on", CPU, short)
    assert not wants_compilation("off", torch.device("cuda"), long)
    monkeypatch.setattr(execution, "cpp_compiler", lambda: None)
    assert not wants_compilation("auto", CPU, long)


def test_what_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    trunk, gpu = build_trunk(MODEL, 64, seed=0), Context(device=torch.device("cuda"))
    assert is_replayed(trunk, "auto", 4, 4, gpu) and is_replayed(trunk, "on", 3, 4, gpu)
    assert not is_replayed(trunk, "off", 4, 4, gpu)
    assert not is_replayed(trunk, "auto", 4, 2, gpu), "memory is short"
    assert not is_replayed(trunk, "auto", 4, 4, Context())
    assert not is_replayed(trunk, "auto", 4, 4, dataclasses.replace(gpu, workers=Workers(0, 2)))
    monkeypatch.setattr("emergence.spec.gpu_time.REPLAY_BELOW_FLOPS", 1.0)
    assert not is_replayed(trunk, "auto", 4, 4, gpu)


def test_every_pass_of_training_is_in_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[torch.device] = []

    @contextmanager
    def watched(device: torch.device) -> Iterator[None]:
        devices.append(device)
        yield

    monkeypatch.setattr(execution, "in_one_order", watched)
    trunk, settings = build_trunk(MODEL, 64, seed=0), config()
    ids = torch.zeros(5, MODEL.sequence_length + 1, dtype=torch.int64)
    Gradients(trunk, trunk, settings, 2, Context())(ids, of=5)
    assert devices == [CPU] * 3
    execution.run_once(trunk, trunk, 2, 64, Context())  # else it would be compiled for another order
    assert devices == [CPU] * 4


def test_gradients_of_parts_are_those_of_the_whole() -> None:
    ids = torch.randint(64, (5, MODEL.sequence_length + 1), generator=torch.Generator().manual_seed(0))
    found = []
    for micro in (2, 5):
        trunk = build_trunk(MODEL, 64, seed=0, init="normal")
        loss, norm = Gradients(trunk, trunk, config(grad_clip=0.5), micro, Context())(ids, of=5).tolist()
        clipped = torch.nn.utils.get_total_norm([w.grad for w in trunk.parameters() if w.grad is not None])
        found.append((loss, norm, float(clipped)))
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0][1] > found[0][2] == pytest.approx(0.5, rel=1e-3)
    trunk = build_trunk(MODEL, 64, seed=0)
    assert Gradients(trunk, trunk, config(), 2, Context())(ids[:0], of=5)[0] == 0  # another worker has them all


def test_tokens_see_their_window_alone() -> None:
    trunk = build_trunk(MODEL, 64, seed=0, init="normal").requires_grad_(False)
    ids = torch.randint(64, (2, MODEL.sequence_length + 1), generator=torch.Generator().manual_seed(0))
    cut = [ids[:, at : at + 5] for at in range(0, 16, 4)]  # four windows of 4 tokens, each with the token after it
    apart = [float(execution.step_loss(trunk, trunk, part, 8, "fp32")) for part in cut]
    assert float(execution.step_loss(trunk, trunk, ids, 8, "fp32", window=4)) == pytest.approx(sum(apart) / 4, rel=1e-5)
    whole = float(execution.step_loss(trunk, trunk, ids, 8, "fp32"))
    assert whole == float(execution.step_loss(trunk, trunk, ids, 8, "fp32", window=16)) != pytest.approx(sum(apart) / 4)
    with pytest.raises(ValueError, match="windows of 32 tokens in sequences of 16"):
        execution.step_loss(trunk, trunk, ids, 8, "fp32", window=32)


def test_the_window_is_compiled_before_a_run_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the compiler can't do is found while training uncompiled is still possible."""
    shapes: set[tuple[int, ...]] = set()
    monkeypatch.setattr(execution, "compile_trunk", lambda trunk: lambda ids: (shapes.add(ids.shape), trunk(ids))[1])
    trunk = build_trunk(MODEL, 64, seed=0)
    assert choose_forward(trunk, config(compile="on", initial_context=8), 10**9, 2, Context())[1]
    assert shapes == {(2, 16), (4, 8)}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_head_is_compiled_with_the_trunk_and_in_bf16_alone(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def watched(*arguments: Any) -> torch.Tensor:
        seen.append(arguments[4])
        return torch.zeros(())

    monkeypatch.setattr(execution, "linear_cross_entropy", watched)
    trunk, ids = build_trunk(MODEL, 64, seed=0), torch.zeros(1, 9, dtype=torch.int64)
    for forward in (trunk, lambda inputs: trunk(inputs)):
        execution.step_loss(forward, trunk, ids, 8, precision)
    assert seen == [False, precision == "bf16"]


def test_compiled_code_finds_the_angles(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(torch, "compile", lambda trunk, **_options: seen.append(trunk._table is not None) or trunk)
    for recipe in ({}, {"positions": "learned"}):
        trunk = build_trunk(dataclasses.replace(MODEL, **recipe), 64, seed=0)
        assert execution.compile_trunk(trunk) is trunk
    assert seen == [True, False]


def test_a_failing_compiler_means_training_uncompiled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_args: Any, **_options: Any) -> Any:
        def fail(_ids: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no working C++ compiler\nand a long story")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    trunk = build_trunk(MODEL, 64, seed=0)
    with caplog.at_level(logging.WARNING, "emergence"):
        forward, compiled = choose_forward(trunk, config(compile="on"), 100, 2, Context())
    assert forward is trunk
    assert not compiled
    assert "training uncompiled: no working C++ compiler" in caplog.text


def test_a_working_compiler_is_used_and_leaves_no_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda module, **_options: lambda ids: module(ids))
    trunk = build_trunk(MODEL, 64, seed=0)
    forward, compiled = choose_forward(trunk, config(compile="on"), 100, 2, Context())
    assert compiled
    assert forward is not trunk
    assert all(weight.grad is None for weight in trunk.parameters())
