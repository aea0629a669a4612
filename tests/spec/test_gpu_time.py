"""What a GPU takes is foretold as it was measured."""

from __future__ import annotations

import dataclasses

import pytest

from emergence.errors import ConfigError
from emergence.spec import cost, gpu_time
from emergence.spec.config import ModelConfig, PretrainConfig, load_config
from emergence.spec.cost import find_gpu, plan_experiment
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.gpu_time import Gpu, finetuning_seconds, operations_seconds, pretraining_seconds

H100 = find_gpu("H100")

#: Blocks, width, heads, sequences of an update, and thousand tokens per second on one H100, compiled (docs/speed.md).
MEASURED = {
    "2x128": (2, 128, 4, 8, 2443.0), "tiny": (3, 128, 4, 8, 2067.0), "small": (5, 192, 6, 32, 2523.0),
    "4x256": (4, 256, 8, 16, 2137.0), "4x512": (4, 512, 8, 16, 1278.0), "base": (10, 640, 10, 128, 735.0),
    "medium": (15, 768, 12, 128, 422.0),
}  # fmt: skip


@pytest.mark.parametrize("name", MEASURED)
def test_pretraining_takes_what_was_measured(name: str) -> None:
    n_layers, hidden_size, n_heads, batch, thousands = MEASURED[name]
    model = ModelConfig(n_layers=n_layers, hidden_size=hidden_size, n_heads=n_heads)
    settings = PretrainConfig(samples_per_epoch=1, batch_size=batch)
    tokens = 10**10
    assert pretraining_seconds(model, settings, tokens, H100) == pytest.approx(tokens / (1e3 * thousands), rel=0.12)


def test_a_slower_memory_a_lower_peak_and_more_launches_each_take_longer() -> None:
    config = load_config("small")

    def seconds(gpu: Gpu = H100, **changes: int) -> float:
        return pretraining_seconds(config.model, dataclasses.replace(config.pretrain, **changes), 10**9, gpu)

    assert seconds() < seconds(dataclasses.replace(H100, tflops=100.0))
    assert seconds() < seconds(dataclasses.replace(H100, terabytes_per_second=1.0))
    assert seconds() < seconds(micro_batch_size=4) and seconds() == seconds(micro_batch_size=10**6)
    in_float32 = pretraining_seconds(config.model, dataclasses.replace(config.pretrain, precision="fp32"), 10**9, H100)
    assert in_float32 > 2 * seconds()
    t4 = find_gpu("T4")
    assert seconds(t4) == pytest.approx(
        pretraining_seconds(config.model, dataclasses.replace(config.pretrain, precision="fp32"), 10**9, t4)
    )
    assert seconds() / 2 < seconds(dataclasses.replace(H100, count=2)), "several are launched one by one"


def test_what_is_not_replayed_takes_its_launches_at_least() -> None:
    config = load_config("tiny")
    passes = 10**9 / (8 * 512)

    def seconds(gpu: Gpu = H100, **changes: object) -> float:
        return pretraining_seconds(config.model, dataclasses.replace(config.pretrain, **changes), 10**9, gpu)  # type: ignore[arg-type]

    launches = 1.6e-3 * 5 * passes
    assert seconds() < launches / 3
    assert seconds(compile="off") == pytest.approx(launches) == seconds(dataclasses.replace(H100, count=2))
    assert seconds(compile="off", batch_size=512) > 1.5 * seconds(batch_size=512)
    assert seconds(micro_batch_size=4) == pytest.approx(2 * launches)
    base = load_config("base")
    assert pretraining_seconds(base.model, base.pretrain, 10**8, H100) > 2 * 1.6e-3 * 12 * 10**8 / (128 * 512)


def test_a_batch_that_does_not_fit_takes_more_passes() -> None:
    config = load_config("medium")
    small = dataclasses.replace(H100, memory_gigabytes=16)
    assert pretraining_seconds(config.model, config.pretrain, 10**8, small) > pretraining_seconds(
        config.model, config.pretrain, 10**8, H100
    )


def test_finetuning_is_launches() -> None:
    model = load_config("small").model
    assert finetuning_seconds(model, 10**6, 1_000, H100) == finetuning_seconds(model, 0, 1_000, H100) == 100
    assert finetuning_seconds(model, 10**12, 1, H100) > 1_000, "of very large batches"
    assert operations_seconds(989e12, H100) == pytest.approx(1.5)


def test_the_share_of_the_peak_is_that_of_the_hours() -> None:
    plan = plan_experiment(ExperimentSpec.from_flags(config_name="medium", skip_finetune=True), "H100")
    assert plan.hours and plan.flop and plan.utilisation
    seconds = 3600 * (plan.hours - cost.OVERHEAD_HOURS)
    assert plan.utilisation == pytest.approx(plan.flop / seconds / 989e12)
    nothing = plan_experiment(ExperimentSpec.from_flags(config_name="medium", skip_finetune=True), trunk="RUN")
    assert nothing.utilisation is None and "peak" not in nothing.text()
    assert "less than 1% of the GPU's peak" in plan_experiment(ExperimentSpec.from_flags(config_name="debug")).text()


@pytest.mark.parametrize("facts", [{"dollars": 1.0, "tflops": 1, "memory_gigabytes": 1}, {"dollars": "much"}, 3])
def test_a_price_table_without_a_number_is_named(facts: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_prices", lambda: {"gpus": {"X1": facts}, "aliases": {}})
    with pytest.raises(ConfigError, match=r"\[gpus.X1\] needs numbers"):
        find_gpu("X1")


@pytest.mark.parametrize(("gpu", "precision", "expected"), [
    ("H100", "auto", "bf16"), ("H100", "fp32", "fp32"), ("T4", "auto", "fp32"), ("T4", "bf16", "fp32"),
])  # fmt: skip
def test_a_pass_is_as_large_as_fits_in_the_number_format_of_the_run(
    monkeypatch: pytest.MonkeyPatch, gpu: str, precision: str, expected: str
) -> None:
    config, asked = load_config("small"), []
    real = gpu_time.training_memory_bytes
    monkeypatch.setattr(
        gpu_time, "training_memory_bytes", lambda *given, **more: (asked.append(given[4]), real(*given, **more))[1]
    )
    settings = dataclasses.replace(config.pretrain, precision=precision)
    pretraining_seconds(config.model, settings, 10**9, find_gpu(gpu))
    assert set(asked) == {expected}
