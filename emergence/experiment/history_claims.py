"""What the history of a finished run and its result say of one another. Standard library only.

A result repeats the end of its pretraining, its epochs, its fits and the trials of its search, each of which is a line
of the history. The steps between them are in no other file: their order is asked, their numbers are not computed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from emergence.experiment.facts import dig
from emergence.experiment.result import RunResult
from emergence.spec.experiment import PRETRAIN_ONLY, ExperimentSpec

Line = Mapping[str, Any]


def check_told(lines: Sequence[Line], result: RunResult, spec: ExperimentSpec) -> Iterator[str]:
    """What ``lines`` lack, have too much, or say otherwise than ``result``, which is known to be of ``spec``."""
    of: dict[str, list[Line]] = {}
    for line in lines:
        of.setdefault(line["kind"], []).append(line)
    yield from _of_order(lines)
    yield from _of_pretraining(of, result, spec)
    yield from _of_finetuning(of, result, spec)
    fits = dig(result.probes, "fits") or []
    yield from _pairwise("fit of its probes", of.get("probe", []), sorted(fits, key=_place), key=_place)
    trials = dig(result.finetuning, "search", "candidates") or []
    yield from _pairwise("candidate of its search", of.get("finetune_search", []), trials)


def _of_order(lines: Sequence[Line]) -> Iterator[str]:
    """Pretraining comes first, and steps and epochs only grow. A run that goes back after a NaN cuts its history."""
    later, reached = False, dict.fromkeys(("pretrain", "finetune"), 0)
    for number, line in enumerate(lines, start=1):
        phase = line["kind"].partition("_")[0]
        if phase == "pretrain" and later:
            yield f"line {number}: pretraining after what follows it"
            return
        later = later or phase != "pretrain"
        step = line.get("step")
        if phase not in reached or step is None:
            continue
        if not isinstance(step, int) or step < reached[phase]:
            yield f"line {number}: step {str(step)[:20]} after step {reached[phase]}"
            return
        reached[phase] = step


def _of_pretraining(of: Mapping[str, list[Line]], result: RunResult, spec: ExperimentSpec) -> Iterator[str]:
    told = result.pretraining or {}
    ends, n_lines = of.get("pretrain_end", []), sum(len(of[kind]) for kind in of if kind.startswith("pretrain"))
    if spec.random_baseline or spec.model is not None or dig(result.lineage, "source") is not None:
        if n_lines:
            yield "it tells of a pretraining, which is not the run's"
        return
    if len(ends) != 1:
        yield f"it has {len(ends)} ends of a pretraining, where the result tells of one"
        return
    wanted = {"steps": told.get("steps"), "tokens": told.get("tokens_seen")}
    for split in ("validation", "test"):
        for unit in ("nats_per_token", "bits_per_byte"):
            wanted[f"{split}_{unit}"] = dig(told, split, unit)
    for key, value in wanted.items():
        if key in ends[0] and ends[0][key] != value:
            yield f"its {key} of pretraining is {str(ends[0][key])[:20]}, that of the result {value}"
    yield from _of_pretraining_steps(of, told)


def _of_pretraining_steps(of: Mapping[str, list[Line]], told: Line) -> Iterator[str]:
    steps, is_early = told.get("steps"), bool(told.get("stopped_early"))
    for plan in of.get("pretrain_plan", []):
        total = plan.get("total_steps")
        if type(total) is not int or (total < (steps or 0) if is_early else total != steps):
            yield f"its total_steps is {str(total)[:20]}, but the result's pretraining has {steps}"
    last = max((line["step"] for line in of.get("pretrain_step", [])), default=None)
    if last is None or (last > (steps or 0) if is_early else last != steps):
        yield f"its last step of pretraining is {last}, that of the result {steps}"
    losses = [line["validation_loss"] for line in of.get("pretrain_evaluation", [])]
    best = told.get("best_validation_loss")
    if best is not None and best != min((loss for loss in losses if loss is not None), default=None):
        yield f"no evaluation has the least validation loss of the result, {best:.6g}"


def _of_finetuning(of: Mapping[str, list[Line]], result: RunResult, spec: ExperimentSpec) -> Iterator[str]:
    epochs = of.get("finetune_epoch", [])
    n_epochs = 0 if spec.freeze_llm or spec.condition == PRETRAIN_ONLY else result.finetune_epochs or 0
    if [line["epoch"] for line in epochs] != list(range(1, n_epochs + 1)):
        yield f"its epochs of finetuning are not 1 to {n_epochs}" if n_epochs else "it has epochs of finetuning"
    elif epochs and min(line["validation_loss"] for line in epochs) != result.best_validation_loss:
        yield f"no epoch has the least validation loss of the result, {result.best_validation_loss}"


def _place(fit: Line) -> tuple[str, int]:
    layer = fit.get("layer")
    return str(fit.get("family")), layer if isinstance(layer, int) else -1


def _pairwise(what: str, lines: Sequence[Line], told: Sequence[Line], key: Any = None) -> Iterator[str]:
    """A line about the first of ``lines`` that is not the one of ``told`` in its place, by the keys that both have."""
    lines = list(lines) if key is None else sorted(lines, key=key)
    if len(lines) != len(told):
        yield f"it has {len(lines)} lines of a {what}, where the result has {len(told)}"
        return
    for line, other in zip(lines, told, strict=True):
        if odd := next((k for k in line.keys() & other.keys() if line[k] != other[k]), None):
            yield f"the {odd} of a {what} is {str(line[odd])[:20]}, that of the result {str(other[odd])[:20]}"
            return
