"""``emergence probe`` and ``emergence revisions``: published models through the same probes as our own trunks."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from emergence.commands.run import announce
from emergence.errors import UsageError
from emergence.experiment.run import run_experiment
from emergence.experiment.stop_switch import StopSwitch
from emergence.experiment.store import CACHE_FOLDER, RunStore, refuse_if_no_folder
from emergence.findings.collect import collect_results
from emergence.findings.revision_curve import revision_probes
from emergence.findings.snapshot_curve import emergence_curves
from emergence.findings.table import build_table
from emergence.model.huggingface.files import (
    CONFIG_FILE,
    choose_revisions,
    find_model,
    list_revisions,
)
from emergence.model.huggingface.toy_llm import toy_llm_path
from emergence.report.table_formats import format_table
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.published import is_directory
from emergence.studies.revisions.examine import examine_revisions
from emergence.studies.revisions.record import Revisions, load_revisions, save_revisions
from emergence.training.context import Context
from emergence.training.precision import resolve_precision, select_device
from emergence.training.recording import TerminalProgress, plain_messages
from emergence.wording import say


@dataclass(frozen=True, kw_only=True)
class ProbeRequest:
    """What ``emergence probe`` is asked.

    Attributes:
        spec: Of the first run: model, data, layout and settings.
        revisions: ``A,B,...``, ``all`` or ``log12``; None for the one revision of ``spec``.
        seeds: Seeds of probes and few-shot subset. twins: Random twins, at least.
    """

    spec: ExperimentSpec
    revisions: str | None = None
    seeds: int = 1
    twins: int = 2


def probe_model(request: ProbeRequest, runs_dir: Path) -> None:
    """Probe a published model, its revisions and its random twins, and print what they say.

    Whatever is finished is not computed again. Revisions that are not what they say are named and left out.

    Raises:
        UsageError: The request makes no sense, or the model cannot be read.
        StopRequested: It was asked to stop. The same command goes on.
    """
    if request.seeds < 1 or request.twins < 0:
        raise UsageError("--seeds must be at least 1, and --twins at least 0")
    if request.spec.revision and request.revisions is not None:
        raise UsageError("--revision is one revision and --revisions are several: drop one of the two")
    refuse_if_no_folder(runs_dir)
    with plain_messages(), StopSwitch() as should_stop:
        if request.revisions is None:
            find_model(request.spec.model or "", request.spec.revision)  # what is wrong with it is said first
        specs = _specs(request, runs_dir, should_stop)
        run_ids = [_run(spec, k, len(specs), runs_dir, should_stop) for k, spec in enumerate(specs, start=1)]
    table = build_table(runs_dir, only=set(run_ids))
    say(format_table(table, "markdown"), end="")
    found = [item for item in collect_results(runs_dir).found if item.result.run_id in run_ids]
    for curve in emergence_curves(revision_probes(found)):
        say("\n" + curve.text())


def _specs(request: ProbeRequest, runs_dir: Path, should_stop: Callable[[], bool]) -> list[ExperimentSpec]:
    """All runs: every revision with every seed, then the twins."""
    spec, model = request.spec, request.spec.model or ""
    revisions: list[str | None] = [spec.revision]
    if request.revisions is not None:
        names = choose_revisions(request.revisions, list_revisions(model))
        examined = _examine(spec, names, runs_dir, should_stop, with_loss=True)
        say(examined.text(), err=True)
        revisions = [*examined.sound]
        if not revisions:
            raise UsageError(f"{model}: no revision is sound, so there is nothing to probe")
    specs = [replace(spec, revision=revision, seed=seed) for revision in revisions for seed in range(request.seeds)]
    twin = replace(spec, revision=_of_twins(model), random_baseline=True)
    n_twins = max(request.twins, request.seeds) if request.twins else 0
    return specs + [replace(twin, seed=seed).checked() for seed in range(n_twins)]


def _of_twins(model: str) -> str | None:
    """The revision whose configuration random twins are drawn from: the model's own, whatever revisions are probed."""
    if toy_llm_path(model) is None and is_directory(model) and not (Path(model).expanduser() / CONFIG_FILE).is_file():
        return list_revisions(model)[0]
    return None


def _run(spec: ExperimentSpec, k: int, n: int, runs_dir: Path, should_stop: Callable[[], bool]) -> str:
    what = f"random twin {spec.seed}" if spec.random_baseline else f"{spec.revision or 'published'}, seed {spec.seed}"
    say(f"\n[{k}/{n}] {spec.config.name}: {what}", err=True)
    result = run_experiment(
        spec,
        RunStore(runs_dir),
        cache_dir=runs_dir / CACHE_FOLDER,
        should_stop=should_stop,
        on_open=announce,
        progress=TerminalProgress(),
    )
    if result is None or result.run_id is None:
        raise UsageError("emergence probe runs in one process: start it without torchrun")
    return result.run_id


def show_revisions(
    model: str, asked: str, runs_dir: Path | None, *, with_loss: bool, precision: str, as_json: bool
) -> None:
    """``emergence revisions``: which revisions of a model are what they say.

    Args:
        asked: ``A,B,...``, ``all`` or ``log12``.
        runs_dir: Where the result is kept for table, curves and report; None to print it alone.
    """
    names = choose_revisions(asked, list_revisions(model))
    spec = ExperimentSpec.from_flags(model=model, freeze_llm=True, set_values=[f'probe.weights="{precision}"'])
    with plain_messages(), StopSwitch() as should_stop:
        examined = _examine(spec, names, runs_dir, should_stop, with_loss=with_loss)
    say(json.dumps(examined.to_dict(), indent=2) if as_json else examined.text())


def _examine(
    spec: ExperimentSpec, names: Sequence[str], runs_dir: Path | None, should_stop: Callable[[], bool], with_loss: bool
) -> Revisions:
    device = select_device(None)
    context = Context(
        device=device, precision=resolve_precision(spec.config.pretrain.precision, device), should_stop=should_stop
    )
    options: dict[str, Any] = {"precision": spec.config.probe.weights, "with_loss": with_loss}
    if runs_dir is not None:
        options["known"] = load_revisions(runs_dir, spec.model or "")
        options["keep"] = lambda so_far: save_revisions(runs_dir, so_far)
    examined = examine_revisions(spec.model or "", names, context, **options)
    if runs_dir is not None:
        save_revisions(runs_dir, examined)
    return examined
