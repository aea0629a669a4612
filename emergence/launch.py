"""From the flags of ``modal run FILE`` to a checked request, before anything is sent anywhere.

``modal run`` creates the app and builds its image before it calls the entry point, so an entry point
that checks its flags in its own body is too late to be cheap. It therefore also hands its signature to
:func:`flags_on_command_line` while the file is being imported. Standard library only.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from emergence.errors import UsageError
from emergence.planning import Plan, find_gpu, plan_experiment, refuse_if_too_dear
from emergence.spec import ExperimentSpec

#: Flags that steer the launch; all others describe the experiment.
LAUNCH_FLAGS = ("list_saved", "resume", "fresh", "gpu", "dry_run", "max_cost", "yes")


@dataclass(frozen=True)
class Request:
    """What one invocation asks for.

    Attributes:
        spec: The experiment; None when a stored run's is to be used, or runs are only listed.
        resume: Name of the run to go on with.
        fresh: Start a new run even where an unfinished one of the same experiment could go on.
        list_saved: List runs and stop.
        gpu: Overrides the configuration's GPU.
        dry_run: Show the plan and stop.
        max_cost: Refuse an estimate above this many dollars.
        yes: Do not ask before a costly launch.
    """

    spec: ExperimentSpec | None = None
    resume: str | None = None
    fresh: bool = False
    list_saved: bool = False
    gpu: str | None = None
    dry_run: bool = False
    max_cost: float | None = None
    yes: bool = False

    @classmethod
    def from_flags(cls, defaults: dict[str, Any], flags: dict[str, Any]) -> Request:
        """Check flags against each other; ``defaults`` are the entry point's own.

        Raises:
            UsageError: Naming the flag that cures a contradiction.
        """
        launch = {name: flags[name] for name in LAUNCH_FLAGS}
        launch["resume"] = launch["resume"] or None
        launch["gpu"] = launch["gpu"] or None
        if launch["list_saved"]:
            return cls(list_saved=True)
        if launch["gpu"]:
            find_gpu(launch["gpu"])
        if launch["resume"] and launch["fresh"]:
            raise UsageError("--resume goes on with a run and --fresh starts a new one: drop one of the two")
        experiment = {name: value for name, value in flags.items() if name not in LAUNCH_FLAGS}
        if launch["resume"]:
            given = [name for name, value in experiment.items() if value != defaults[name]]
            if given:
                flag = "--" + given[0].replace("_", "-")
                raise UsageError(
                    f"--resume goes on with the run's own spec: drop {flag}, or start a new run without --resume"
                )
            return cls(**{**launch, "resume": launch["resume"].strip("/")})
        overrides = split_overrides(experiment.pop("set"))
        return cls(spec=ExperimentSpec.from_flags(set_values=overrides, **experiment), **launch)

    def resumed(self, spec: ExperimentSpec) -> Request:
        """This request with the spec of the run it goes on with."""
        return dataclasses.replace(self, spec=spec)

    def plan(self) -> Plan:
        """The estimate for this request.

        Raises:
            UsageError: Dearer than ``--max-cost``.
        """
        assert self.spec is not None
        plan = plan_experiment(self.spec, self.gpu)
        refuse_if_too_dear(plan, self.max_cost)
        return plan


def split_overrides(text: str | None) -> tuple[str, ...]:
    """``--set`` of ``modal run``, which knows no repeated flags: ``a.b=1,c.d=2`` (or ``;`` or spaces between)."""
    if not text:
        return ()
    return tuple(part for part in re.split(r"[;,\s]+(?=[a-z_]+(?:\.[a-z_]+)?\s*=)", text.strip(" ;,")) if part)


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Parameter defaults of an entry point."""
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


def flags_on_command_line(argv: Sequence[str], file: str, function: Callable[..., Any]) -> dict[str, Any] | None:
    """The flags ``modal run FILE ...`` is about to call ``function`` with.

    Returns None when this is not such a command or when the flags do not parse: then the client
    itself says what is wrong, also without a network call.
    """
    places = [i for i, word in enumerate(argv) if i and _is_file(word.split("::")[0], file)]
    if not places or "run" not in argv[1 : places[0]]:
        return None
    parser = parser_of(function, add_help=False, exit_on_error=False)
    try:
        known, unknown = parser.parse_known_args(list(argv[places[0] + 1 :]))
    except (argparse.ArgumentError, SystemExit):
        return None
    flags = vars(known)
    return None if unknown or inspect.Parameter.empty in flags.values() else flags


def parser_of(function: Callable[..., Any], **settings: Any) -> argparse.ArgumentParser:
    """A command line with one flag a parameter, as ``modal run`` makes them (those without default are required)."""
    parser = argparse.ArgumentParser(allow_abbrev=False, **settings)
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        flag, hint, default = "--" + name.replace("_", "-"), parameter.annotation, parameter.default
        required = default is inspect.Parameter.empty and settings.get("exit_on_error", True)
        if hint is bool:
            parser.add_argument(flag, dest=name, action=argparse.BooleanOptionalAction, default=default)
        else:
            choices = get_args(hint) if get_origin(hint) is Literal else None
            parser.add_argument(flag, dest=name, type=_kind(hint), choices=choices, default=default, required=required)
    return parser


def _kind(hint: Any) -> Callable[[str], Any]:
    """``int`` of ``int | None``; ``str`` of a Literal."""
    kinds = (
        [kind for kind in get_args(hint) if kind is not types.NoneType]
        if get_origin(hint) is types.UnionType
        else [hint]
    )
    return kinds[0] if kinds[0] in (int, float) else str


def _is_file(word: str, file: str) -> bool:
    try:
        return word.endswith(".py") and Path(word).resolve() == Path(file).resolve()
    except OSError:
        return False
