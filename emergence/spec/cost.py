"""What a run will cost, before it costs anything: tokens, GPU hours and dollars.

The token and FLOP counts follow from the configuration, the hours from the GPU's data sheet and what one GPU was seen
to reach of its own (:mod:`emergence.spec.gpu_time`). So hours and dollars are estimates to decide by, not promises.
Prices come from the dated table in ``configs/prices.toml``. Standard library only, for laptops without torch.
"""

from __future__ import annotations

import math
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import PurePath
from typing import Any

from emergence.errors import ConfigError, UsageError
from emergence.spec.adapters import lora_rank
from emergence.spec.config import config_path
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.gpu_time import (
    MEASURED_GPUS,
    Gpu,
    finetuning_seconds,
    operations_seconds,
    pretraining_seconds,
)
from emergence.spec.model_size import count_parameters, embedding_rows
from emergence.spec.published import is_directory
from emergence.spec.workload import Workload, questions_of, workload_of
from emergence.wording import did_you_mean, says_yes

#: Container start, data copying, compilation, evaluation.
OVERHEAD_HOURS = 0.1
#: Seconds of fitting the probes of a frozen trunk, for a training question, level of states and unit of width. On a GPU
#: only the linear one has been timed, so this is what a fast core takes (:mod:`emergence.spec.local_time`).
PROBE_SECONDS = 1.5e-5
#: An attempt may take this many times its estimate, and an hour at least. Modal allows a day.
ATTEMPT_FACTOR, LEAST_ATTEMPT_SECONDS, MOST_ATTEMPT_SECONDS = 5, 3600, 24 * 3600
_FEWER_TOKENS = "or fewer tokens (--set pretrain.samples_per_epoch=N)"
#: Where containers have the volumes.
MOUNTS = ("/data/", "/models/")
#: A costlier launch asks first, or needs ``--yes``.
ASK_ABOVE_DOLLARS = 10.0


@dataclass(frozen=True)
class Plan:
    """What a launch amounts to. Hours and dollars are estimates for one uninterrupted attempt.

    Attributes:
        parameters: All of the trunk, and ``non_embedding`` those outside the embeddings. Of a published model the first
            is as its name or files tell, None where they do not, and the second is unknown.
        flop, hours: None for a published model of unknown size.
        utilisation: Share of the GPU's peak that the hours amount to; None where there is nothing to compute.
        dollars_per_hour: The price of the container with its GPUs.
        trunk: The run whose trunk is taken; then nothing is pretrained.
    """

    spec: ExperimentSpec
    gpu: Gpu
    parameters: int | None
    non_embedding: int | None
    pretrain_tokens: int
    finetune_tokens: int
    search_tokens: int
    flop: float | None
    utilisation: float | None
    hours: float | None
    dollars_per_hour: float
    prices_date: str
    trunk: str | None = None

    @property
    def dollars(self) -> float | None:
        """The price of it all; None where the hours are not known."""
        return None if self.hours is None else self.hours * self.dollars_per_hour

    @property
    def attempt_seconds(self) -> int:
        """How long one attempt may take before it is ended: Modal's longest where nobody knows what it takes."""
        hours = math.inf if self.hours is None else self.hours
        return int(min(max(ATTEMPT_FACTOR * hours * 3600, LEAST_ATTEMPT_SECONDS), MOST_ATTEMPT_SECONDS))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for ``emergence plan --json``."""
        return {
            "config_name": self.spec.config.name,
            "condition": self.spec.condition,
            "experiment_id": self.spec.experiment_id,
            "gpu": self.gpu.modal_name,
            "gpu_dollars_per_hour": self.gpu.dollars_per_hour * self.gpu.count,
            "model": self.spec.model,
            "revision": self.spec.revision,
            "parameters_total": self.parameters,
            "parameters_non_embedding": self.non_embedding,
            "pretrain_tokens": self.pretrain_tokens,
            "finetune_tokens": self.finetune_tokens,
            "search_tokens": self.search_tokens,
            "flop": self.flop,
            "assumed_utilisation": self.utilisation,
            "hours": self.hours,
            "dollars": self.dollars,
            "prices_date": self.prices_date,
            "trunk": self.trunk,
        }

    def text(self) -> str:
        """The plan as a few aligned lines."""
        spec, gpu = self.spec, self.gpu
        without = f"none, because {self.trunk} has this trunk" if self.trunk else "none"
        text = f"{self.pretrain_tokens:,} tokens at most" if self.pretrain_tokens else without
        tuning = "none" if spec.skip_finetune else "probes on a frozen trunk" if spec.freeze_llm else "all weights"
        if self.search_tokens:
            share = self.search_tokens / self.finetune_tokens
            tuning += f", after a search for its settings that costs {share:.1f} times as much"
        price = f"${gpu.dollars_per_hour * gpu.count:.2f}/h for the GPU, list price of {self.prices_date}"
        rows = [
            ("experiment", f"{spec.config.name}, {spec.condition} ({spec.data}, {spec.layout}, seed {spec.seed})"),
            ("model", self._model()),
            ("pretraining", text),
            ("finetuning", tuning),
            ("GPU", f"{gpu.modal_name} ({price})"),
            ("estimate", self._estimate()),
        ]
        return "\n".join(f"{name:<12} {value}" for name, value in rows)

    def _model(self) -> str:
        n = self.parameters
        count = "" if n is None else f"{n / 1e6:,.1f}M parameters" if n >= 1e5 else f"{n:,} parameters"
        if self.spec.model is None:
            return f"{count}, {(self.non_embedding or 0) / 1e6:.2f}M non-embedding"
        who = "neither its name nor its files tell" if is_directory(self.spec.model) else "its name does not tell"
        told = f"{count} by its name or files" if count else f"{who} its size"
        revision = f", revision {self.spec.revision}" if self.spec.revision else ""
        return f"{self.spec.model}{revision}: {told}"

    def _estimate(self) -> str:
        if self.hours is None or self.dollars is None:
            return f"not known; ${self.dollars_per_hour:.2f} an hour with the container; --max-cost ends the run there"
        about = [] if self.utilisation is None else [f"at {_percent(self.utilisation)} of the GPU's peak"]
        about += ["probes as on a CPU core"] if self.spec.freeze_llm else []
        about += [] if self.gpu.name in MEASURED_GPUS else ["from its data sheet"]
        return f"{self.hours:.1f} hours, ${self.dollars:.2f}" + (f" ({', '.join(about)})" if about else "")


def _percent(share: float) -> str:
    return "less than 1%" if share < 0.01 else f"{share:.0%}"


@cache
def _prices() -> dict[str, Any]:
    path = config_path("prices")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not a readable TOML file: {error}") from error


def find_gpu(text: str) -> Gpu:
    """A GPU by Modal's name, optionally with a count (``A10G``, ``H100:2``).

    Raises:
        UsageError: The GPU is not in the price table, or the count is impossible.
    """
    table = _prices()
    name, _, count = text.partition(":")
    known = {key.upper(): key for key in table["gpus"]}
    aliases = {key.upper(): value for key, value in table["aliases"].items()}
    key = aliases.get(name.upper(), known.get(name.upper()))
    if key is None:
        hint = did_you_mean(name.upper(), [*known, *aliases], f"choose from {', '.join(table['gpus'])}")
        raise UsageError(f"--gpu {text}: no such GPU in configs/prices.toml; {hint}")
    most = 4 if key == "A10G" else 8
    if count and not (count.isdecimal() and 1 <= int(count) <= most):
        raise UsageError(f"--gpu {text}: a container has 1 to {most} {key} GPUs, written {key}:N")
    entry = table["gpus"][key]
    try:
        dollars, tflops, terabytes = (float(entry[fact]) for fact in ("dollars", "tflops", "terabytes_per_second"))
        return Gpu(key, int(count or 1), dollars, tflops, terabytes, int(entry["memory_gigabytes"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{config_path('prices')}: [gpus.{key}] needs numbers: {error}") from None


def refuse_not_on_modal(spec: ExperimentSpec) -> None:
    """Refuse what no container can do: LoRA, whose library the image does not have, and models of this machine alone.

    Raises:
        UsageError: The experiment is one of them.
    """
    if spec.model:
        _refuse_path_of_this_machine("--model", spec.model, "give a name on the hub, or put the files on the volume")
    data = {"--pretrain-text": spec.pretrain_text, "--nq-data": spec.nq_data, "--qa-data": spec.qa_data}
    for flag, path in data.items():
        if path and not path.startswith(MOUNTS):
            _refuse_path_of_this_machine(flag, path, "put it on the volume")
    if lora_rank(spec.adapter):
        raise UsageError(f"--adapter {spec.adapter} is finetuned on your own machine, not on Modal: emergence run")


def _refuse_path_of_this_machine(flag: str, path: str, cure: str) -> None:
    """Refuse a path that no container has: there it is one on the data volume, which is relative.

    Raises:
        UsageError: It is absolute, or leads out of the volume.
    """
    if path.startswith(("/", "~")) or ".." in PurePath(path).parts:
        put = PurePath(path).name or "data"
        raise UsageError(
            f"{flag} {path} is a path of this machine: on Modal {cure}: "
            f"modal volume put llm-training-data {path} {put}, then {flag} {put}"
        )


def plan_experiment(spec: ExperimentSpec, gpu: str | None = None, trunk: str | None = None) -> Plan:
    """Estimate one run on Modal.

    Args:
        spec: The experiment.
        gpu: Overrides the configuration's GPU.
        trunk: A run that has the trunk already.

    Raises:
        UsageError: The GPU is unknown, or there are several for a published model, which one reads.
    """
    table, compute = _prices(), spec.config.compute
    device = find_gpu(gpu or compute.gpu)
    if spec.model and device.count > 1:
        raise UsageError(f"--gpu {device.modal_name}: a published model is read on one GPU: --gpu {device.name}")
    work = workload_of(spec, has_trunk=trunk is not None)
    parameters, non_embedding = _size_of(spec, work)
    container = compute.cpu * table["cpu_core"] + compute.memory_gigabytes * table["memory_gigabyte"]
    computing = _gpu_seconds(spec, work, device)
    seconds = computing + PROBE_SECONDS * work.probed
    return Plan(
        spec=spec,
        gpu=device,
        parameters=parameters,
        non_embedding=non_embedding,
        pretrain_tokens=work.pretrain_tokens,
        finetune_tokens=work.finetune_tokens,
        search_tokens=work.search_tokens,
        flop=work.flop if work.is_known else None,
        utilisation=work.flop / computing / (device.tflops * 1e12 * device.count) if computing else None,
        hours=seconds / 3600 + OVERHEAD_HOURS if work.is_known else None,
        dollars_per_hour=device.dollars_per_hour * device.count + container,
        prices_date=str(table["date"]),
        trunk=trunk,
    )


def _gpu_seconds(spec: ExperimentSpec, work: Workload, gpu: Gpu) -> float:
    """Seconds of training, or of a published model's one pass. The one of a frozen trunk counts as an epoch of it."""
    if spec.model:
        return operations_seconds(work.flop, gpu)
    model, config = spec.config.model, spec.config
    tokens = work.finetune_tokens + work.search_tokens
    updates = tokens / (config.finetune.batch_size * questions_of(spec)[1]) if tokens else 0.0
    pretraining = pretraining_seconds(model, config.pretrain, work.pretrain_tokens, gpu)
    return pretraining + finetuning_seconds(model, tokens, updates, gpu)


def _size_of(spec: ExperimentSpec, work: Workload) -> tuple[int | None, int | None]:
    """All parameters of the trunk, and those outside the embeddings."""
    if spec.model:
        return work.parameters, None
    counts = count_parameters(spec.config.model, embedding_rows(spec.config.model.vocab_size))
    return counts.total, counts.non_embedding


def refuse_if_too_dear(plan: Plan, max_cost: float | None) -> None:
    """Refuse a plan whose estimate is above ``--max-cost``.

    Raises:
        UsageError: It is above, or ``--max-cost`` is no amount.
    """
    if plan.spec.model:
        cure = "a smaller model, a cheaper --gpu, or fewer questions (--finetune-samples N)"
    else:
        cure = f"a smaller --config-name, a cheaper --gpu, {_FEWER_TOKENS}"
    refuse_above(max_cost, plan.dollars, "", cure)


def refuse_above(max_cost: float | None, dollars: float | None, what: str, cure: str) -> None:
    """Refuse an estimate of ``dollars`` above ``--max-cost``. Without an estimate (None) the run on Modal ends there.

    Args:
        what: What the estimate is for, with a blank before it. cure: What would lower it.

    Raises:
        UsageError: It is above, or ``--max-cost`` is no amount.
    """
    if max_cost is None:
        return
    if not 0 <= max_cost < math.inf:  # nan too
        raise UsageError(f"--max-cost {max_cost:g}: give an amount of dollars, 0 or more")
    if dollars is not None and dollars > max_cost:
        raise UsageError(
            f"the estimate of ${dollars:.2f}{what} is above --max-cost {max_cost:g}: raise it, or take {cure}"
        )


def ask_if_dear(dollars: float | None, yes: bool, max_cost: float | None = None) -> None:
    """Let a person agree to a costly launch, or to one of which nobody knows what it costs (None).

    Args:
        yes: The person has agreed already. max_cost: An unknown cost ends there, which is agreement enough.

    Raises:
        UsageError: The answer is no, or there is nobody to ask.
    """
    if not yes and dollars is None and max_cost is None:
        ask("nobody knows yet what it costs (--max-cost DOLLARS ends it there)", "Launch?")
    if not yes and dollars is not None and dollars > ASK_ABOVE_DOLLARS:
        ask(f"the estimate is above ${ASK_ABOVE_DOLLARS:g}", "Launch?")


def ask(reason: str, question: str) -> None:
    """Go on only if a person says yes.

    Raises:
        UsageError: The answer is no, or there is nobody to ask.
    """
    if not sys.stdin.isatty():
        raise UsageError(f"{reason} and nobody can be asked here: add --yes")
    if not says_yes(f"{reason}. {question}"):
        raise UsageError("not launched")
