"""``emergence plan`` and ``emergence pull``: what a launch on Modal costs, and what it left."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from emergence.pull import Part

#: Options of ``emergence run`` that do not describe an experiment.
_NOT_PLANNED = {"list_saved", "runs_dir", "resume", "fresh", "log"}


def register(app: typer.Typer, run_command: Callable[..., Any]) -> None:
    """Add both commands; ``plan`` takes the options of ``run_command`` that describe an experiment."""
    app.command("plan")(_with_options_of(run_command, plan_command))
    app.command("pull")(pull_command)


def plan_command(
    gpu: Annotated[str | None, typer.Option(help="Modal GPU, e.g. A10G or H100:2.")] = None,
    max_cost: Annotated[float | None, typer.Option(metavar="DOLLARS", help="Fail above this estimate.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    **flags: Any,
) -> None:
    """What a run on Modal amounts to: tokens, GPU, hours and dollars. Launches nothing."""
    from emergence.planning import plan_experiment, refuse_if_too_dear
    from emergence.spec import ExperimentSpec

    plan = plan_experiment(ExperimentSpec.from_flags(set_values=tuple(flags.pop("set_values") or ()), **flags), gpu)
    print(json.dumps(plan.to_dict(), indent=2) if as_json else plan.text())
    refuse_if_too_dear(plan, max_cost)


def pull_command(
    run: Annotated[str, typer.Argument(help="Name of a finished run on the volume llm-models.")],
    to: Annotated[Path, typer.Option(help="Folder of run directories to put it in.")] = Path("runs"),
    only: Annotated[Part, typer.Option(help="stats: all but weights; weights: what using them takes; all.")] = "all",
) -> None:
    """Fetch a run from Modal, verified against its manifest; goes on after an interruption, overwrites nothing."""
    from emergence.experiment.listing import format_bytes
    from emergence.pull import pull_run
    from emergence.remote_client import VolumeFiles

    done = pull_run(VolumeFiles(), run, to, only, lambda name, size: print(f"{name}  {format_bytes(size)}"))
    here = f", {len(done.present)} were here" if done.present else ""
    print(f"{done.folder}: {len(done.downloaded)} files fetched ({format_bytes(done.bytes)}){here}, all verified")


def _with_options_of(run_command: Callable[..., Any], command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with the options of ``run_command`` in the place of its ``**flags``."""

    def options(function: Callable[..., Any]) -> list[inspect.Parameter]:
        hints = get_type_hints(function, include_extras=True)
        parameters = inspect.signature(function).parameters.values()
        return [p.replace(annotation=hints[p.name]) for p in parameters if p.kind is not p.VAR_KEYWORD]

    shared = [parameter for parameter in options(run_command) if parameter.name not in _NOT_PLANNED]
    together = [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in [*shared, *options(command)]]

    def combined(**values: Any) -> None:
        command(**values)

    combined.__doc__ = command.__doc__
    combined.__signature__ = inspect.Signature(together)  # type: ignore[attr-defined]
    combined.__annotations__ = {parameter.name: parameter.annotation for parameter in together}
    return combined
