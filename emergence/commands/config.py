"""``emergence config NAME``: what a configuration amounts to, before anything is run."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Any

from emergence.spec.config import SECTIONS, ExperimentConfig, describe_settings, load_config
from emergence.spec.cost import find_gpu, plan_experiment
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.model_size import count_parameters, embedding_rows, training_flops_per_token, training_memory_bytes
from emergence.wording import duration

#: What a CPU core sustains in training, in FLOP/s, where torch is not there to measure it.
ASSUMED_CPU_RATE = 5e10
#: Micro-batch of the memory estimate where the config leaves the choice to the program.
ASSUMED_MICRO_BATCH = 16


def describe_config(name: str, overrides: Sequence[str] = (), *, as_json: bool = False) -> str:
    """Resolved values, parameter counts, tokens, and estimates of memory and time.

    Raises:
        ConfigError: Unknown name, key or value.
    """
    config = load_config(name, overrides)
    facts = _facts(config)
    if as_json:
        return json.dumps({"config": config.to_dict(), **facts}, indent=2)
    helps = describe_settings()
    lines = [f"{config.name}: run names begin with {config.run_prefix}_, recipe {config.recipe}"]
    for section in SECTIONS:
        lines += ["", f"[{section}]"]
        for key, value in config.to_dict()[section].items():
            lines.append(f"{key:<24} {_shown(value):<22} {helps[section][key]}")
    return "\n".join([*lines, "", *_fact_lines(facts)])


def _facts(config: ExperimentConfig) -> dict[str, Any]:
    model, pretrain = config.model, config.pretrain
    rows = embedding_rows(model.vocab_size)
    counts = count_parameters(model, rows)
    micro_batch = pretrain.micro_batch_size or min(pretrain.batch_size, ASSUMED_MICRO_BATCH)
    plan = plan_experiment(ExperimentSpec(config=config))
    tokens = pretrain.epochs * pretrain.samples_per_epoch * model.sequence_length
    rate, measured = _cpu_rate()
    return {
        "parameters": {
            "total": counts.total,
            "non_embedding": counts.non_embedding,
            "trainable_full": counts.trainable_full,
            "trainable_frozen": counts.trainable_frozen,
        },
        "tokens": {
            "per_sequence": model.sequence_length,
            "per_step": pretrain.batch_size * model.sequence_length,
            "per_epoch": pretrain.samples_per_epoch * model.sequence_length,
            "at_most": tokens,
            "max_passes": pretrain.max_passes,
        },
        "training_flop": tokens * training_flops_per_token(model, rows),
        "memory_bytes": {
            precision: training_memory_bytes(model, rows, pretrain, micro_batch, precision)
            for precision in ("fp32", "bf16")
        },
        "memory_micro_batch": micro_batch,
        "pretraining_hours": {
            "this_cpu": tokens * training_flops_per_token(model, rows) / rate / 3600,
            "cpu_flops_per_second": rate,
            "cpu_rate_measured": measured,
            "modal_gpu": config.compute.gpu,
            "modal": plan.hours,
            "modal_dollars": plan.dollars,
            "prices_date": plan.prices_date,
        },
        "gpu": dataclasses.asdict(find_gpu(config.compute.gpu)),
    }


def _fact_lines(facts: dict[str, Any]) -> list[str]:
    parameters, tokens, hours = facts["parameters"], facts["tokens"], facts["pretraining_hours"]
    memory = facts["memory_bytes"]
    how = "measured" if hours["cpu_rate_measured"] else "assumed"
    return [
        f"parameters   {parameters['total']:,} in all, {parameters['non_embedding']:,} non-embedding (vocabulary full)",
        f"trainable    {parameters['trainable_full']:,} finetuned whole, "
        f"{parameters['trainable_frozen']:,} by the linear probe",
        f"tokens       {tokens['at_most']:,} at most ({tokens['per_step']:,} a step), "
        f"and at most {tokens['max_passes']:g} passes over the text",
        f"memory       {memory['fp32'] / 2**30:.1f} GiB in fp32, {memory['bf16'] / 2**30:.1f} GiB in bf16, "
        f"with {facts['memory_micro_batch']} sequences a forward pass (estimate)",
        f"time         {duration(3600 * hours['this_cpu'])} on this CPU "
        f"({how}: {hours['cpu_flops_per_second'] / 1e9:,.0f} GFLOP/s sustained), "
        f"about {duration(3600 * hours['modal'])} and ${hours['modal_dollars']:.2f} "
        f"on a Modal {hours['modal_gpu']} (prices of {hours['prices_date']}), for all tokens",
    ]


def _cpu_rate() -> tuple[float, bool]:
    """Sustained training FLOP/s of this CPU: half its measured matrix-product rate, or an assumption without torch."""
    try:
        import torch
    except ImportError:
        return ASSUMED_CPU_RATE, False
    matrix = torch.ones(1024, 1024)
    matrix @ matrix
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < 0.1:
        matrix @ matrix
        count += 1
    return 0.5 * count * 2 * 1024**3 / (time.perf_counter() - start), True


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:,}" if isinstance(value, int) else str(value)
