"""``emergence config NAME``: what a configuration amounts to, before anything is run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from emergence.spec.config import RECIPES, SECTIONS, ExperimentConfig, describe_settings, load_config
from emergence.spec.cost import find_gpu, plan_experiment
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.local_time import Machine, core_time, this_machine
from emergence.spec.model_size import count_parameters, embedding_rows, training_flops_per_token, training_memory_bytes
from emergence.wording import duration, time_range

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
    lines = [
        f"{config.name}: run names begin with {config.run_prefix}_",
        "",
        _line("recipe", config.recipe, f"where the values come from that nothing sets: {' or '.join(RECIPES)}"),
    ]
    for section in SECTIONS:
        lines += ["", f"[{section}]"]
        lines += [_line(key, value, helps[section][key]) for key, value in config.to_dict()[section].items()]
    return "\n".join([*lines, "", *_fact_lines(facts), _time_line(facts["run_hours"])])


def _line(key: str, value: Any, help: str) -> str:
    return f"{key:<24} {_shown(value):<22} {help}"


def _facts(config: ExperimentConfig) -> dict[str, Any]:
    model, pretrain = config.model, config.pretrain
    rows = embedding_rows(model.vocab_size)
    counts = count_parameters(model, rows)
    micro_batch = pretrain.micro_batch_size or min(pretrain.batch_size, ASSUMED_MICRO_BATCH)
    spec = ExperimentSpec(config=config)
    plan, machine = plan_experiment(spec), this_machine()
    tokens = pretrain.epochs * pretrain.samples_per_epoch * model.sequence_length
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
        "run_hours": {
            "here": [seconds / 3600 for seconds in core_time(spec).on(machine)],
            "cores": machine.cores,
            "load": machine.load,
            "modal_gpu": config.compute.gpu,
            "modal": plan.hours,
            "modal_dollars": plan.dollars,
            "prices_date": plan.prices_date,
        },
        "gpu": dataclasses.asdict(find_gpu(config.compute.gpu)),
    }


def _fact_lines(facts: dict[str, Any]) -> list[str]:
    parameters, tokens = facts["parameters"], facts["tokens"]
    memory = facts["memory_bytes"]
    return [
        f"parameters   {parameters['total']:,} in all, {parameters['non_embedding']:,} non-embedding (vocabulary full)",
        f"trainable    {parameters['trainable_full']:,} finetuned whole, "
        f"{parameters['trainable_frozen']:,} by the linear probe",
        f"tokens       {tokens['at_most']:,} at most ({tokens['per_step']:,} a step), "
        f"and at most {tokens['max_passes']:g} passes over the text",
        f"memory       {memory['fp32'] / 2**20:,.0f} MiB in fp32, {memory['bf16'] / 2**20:,.0f} MiB in bf16, "
        f"with {facts['memory_micro_batch']} sequences a forward pass (estimate for a CPU)",
    ]


def _time_line(hours: dict[str, Any]) -> str:
    machine, here = Machine(hours["cores"], hours["load"]), [3600 * end for end in hours["here"]]
    return (
        f"time         about {duration(3600 * hours['modal'])} and ${hours['modal_dollars']:.2f} on a Modal "
        f"{hours['modal_gpu']} (prices of {hours['prices_date']}), {time_range(*here)} on {machine}; "
        "for all tokens, with finetuning"
    )


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:,}" if isinstance(value, int) else str(value)
