"""Settings end somewhere, and what cannot fit a machine is refused in one line before anything is written."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import get_type_hints

import pytest

import emergence.spec.memory as memory
from emergence.errors import ConfigError, EmergenceError, UsageError, machine_errors_in_one_line
from emergence.experiment.run import run_experiment
from emergence.experiment.store import RunStore
from emergence.spec.config import CONFIG_NAMES
from emergence.spec.cost import plan_experiment
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.memory import free_memory, memory_need, refuse_if_too_large, refuse_if_too_large_for
from emergence.spec.settings import SECTIONS
from tests.command_lines import typed

GIB = 2**30
CELLS = ({}, {"freeze_llm": True}, {"random_baseline": True}, {"random_baseline": True, "freeze_llm": True})
#: A 200-layer model that a laptop cannot hold, and its siblings.
TOO_LARGE = (
    ("model.n_layers=200", "model.hidden_size=8192"),
    ("model.hidden_size=16384", "model.n_heads=64", "model.n_layers=48"),
    ("pretrain.batch_size=65536", "pretrain.micro_batch_size=65536"),
    ("model.sequence_length=32768", "pretrain.micro_batch_size=512", "pretrain.batch_size=512"),
    (
        "pretrain.loss_chunk_rows=1048576",
        "model.vocab_size=65535",
        "pretrain.micro_batch_size=512",
        "pretrain.batch_size=512",
    ),
)


def spec(*sets: str, name: str = "debug", **flags: object) -> ExperimentSpec:
    return ExperimentSpec.from_flags(config_name=name, set_values=sets, **flags)


def test_every_number_has_both_limits() -> None:
    for section, kind in SECTIONS.items():
        hints = get_type_hints(kind)
        for field in dataclasses.fields(kind):
            if hints[field.name] in (int, float, tuple[float, ...]):
                low, high = field.metadata["low"], field.metadata["high"]
                assert low is not None and high is not None and low < high, f"{section}.{field.name}"
                value = [high * 10] if hints[field.name] == tuple[float, ...] else high * 10
                with pytest.raises(ConfigError, match=rf"{section}\.{field.name} must be between"):
                    spec(f"{section}.{field.name}={value}")


@pytest.mark.parametrize("value", ["evaluate.bootstrap_draws", "probe.bilinear_rank", "finetune.batch_size",
                                   "pretrain.batch_size", "pretrain.micro_batch_size", "probe.max_iterations",
                                   "microworld.text_documents", "finetune.max_answer_words"])  # fmt: skip
def test_a_thousand_million_is_too_much(value: str) -> None:
    with pytest.raises(ConfigError, match=f"{value} must be between"):
        spec(f"{value}=1000000000")


@pytest.mark.parametrize("name", CONFIG_NAMES)
def test_what_is_shipped_fits_what_it_asks_for(name: str) -> None:
    for flags in CELLS:
        plan = plan_experiment(spec(name=name, **flags))
        refuse_if_too_large_for(plan)
        refuse_if_too_large(plan.spec, 16 * GIB)


@pytest.mark.parametrize("sets", TOO_LARGE)
def test_what_cannot_fit_is_refused_by_phase_and_setting(sets: tuple[str, ...]) -> None:
    for place in ({"free": 16 * GIB}, {"free": 64 * GIB, "gpu": 24 * GIB}):
        with pytest.raises(UsageError, match=r"needs about [\d,.]+ GiB .* GiB of (GPU )?memory: take a smaller"):
            refuse_if_too_large(spec(*sets), **place)
    with pytest.raises(UsageError, match="on a A10G are"):
        refuse_if_too_large_for(plan_experiment(spec(*sets)))
    refuse_if_too_large(spec(*sets), None)  # a system that does not tell


def test_batches_of_finetuning_count_as_far_as_there_are_questions() -> None:
    sets = ("finetune.batch_size=65536", "model.hidden_size=1024", "model.n_layers=24")
    assert memory_need(spec(*sets, qa_data="x", random_baseline=True), on_gpu=False).phase == "finetuning"
    few = memory_need(spec(*sets, qa_data="x", random_baseline=True, finetune_samples=10), on_gpu=False)
    assert few.activations < GIB


def test_no_run_directory_is_made_for_what_cannot_fit(tmp_path: Path) -> None:
    words = [word for value in TOO_LARGE[0] for word in ("--set", value)]
    ended = typed("emergence", "run", "--config-name", "debug", "--data", "microworld", "--runs-dir",
                  str(tmp_path / "runs"), *words)  # fmt: skip
    assert ended.code == 2 and ended.err.startswith("error: ") and len(ended.err.splitlines()) == 1
    assert not [*tmp_path.rglob("*")]
    for command in (["plan"], ["sweep", "matrix-debug", "--dry-run", "--runs-dir", str(tmp_path / "runs")]):
        ended = typed("emergence", *command, *words)
        assert ended.code == 2 and "needs about" in ended.err.splitlines()[-1] and "Traceback" not in ended.err


def test_free_memory_is_the_least_that_anyone_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in {
        "meminfo": "MemTotal: 9 kB\nMemAvailable:  4096 kB\n",
        "max": "3000000\n",
        "use": "1000000\n",
    }.items():
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUPS", ())
    assert free_memory() == 4096 * 1024
    monkeypatch.setattr(memory, "_CGROUPS", ((tmp_path / "max", tmp_path / "use"),))
    assert free_memory() == 2_000_000
    (tmp_path / "max").write_text("max\n")
    assert free_memory() == 4096 * 1024
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "absent")
    assert (free_memory() or 0) > GIB // 4  # all there is


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory: x\ny"),
     RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")],
)  # fmt: skip
def test_out_of_memory_is_one_line(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("emergence.experiment.run.read_inputs", fails)
    with pytest.raises(EmergenceError, match=r"^out of memory \(.*\): what was saved is whole") as caught:
        run_experiment(spec(data="microworld"), RunStore(tmp_path), cache_dir=tmp_path)
    assert caught.value.exit_code == 1 and "\n" not in str(caught.value)
    monkeypatch.setattr("emergence.commands.config.describe_config", fails)
    ended = typed("emergence", "config", "tiny")
    assert ended.code == 1 and ended.err.startswith("error: out of memory") and len(ended.err.splitlines()) == 1


class AcceleratorError(RuntimeError):
    """Named as torch's is, of which torch makes none without a GPU."""


@pytest.mark.parametrize(
    "error", [AcceleratorError("unspecified launch failure\nlong"), RuntimeError("CUDA error: an illegal access\nlong")]
)
def test_a_gpu_that_fails_is_one_line(error: Exception) -> None:
    with pytest.raises(EmergenceError, match=r"^the GPU failed \(.*\): what was saved is whole") as caught:  # noqa: SIM117
        with machine_errors_in_one_line():
            raise error
    assert "\n" not in str(caught.value) and "pretrain.compile=off" in str(caught.value)


def test_other_errors_keep_their_traceback() -> None:
    with pytest.raises(RuntimeError, match="shape"), machine_errors_in_one_line():
        raise RuntimeError("shape mismatch")
