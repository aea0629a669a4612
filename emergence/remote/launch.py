"""From the flags of ``modal run FILE`` to a checked request, before anything is sent anywhere.

``modal run`` creates the app and builds its image before it calls the entry point. An entry point that checks its flags
in its own body is then too late to be cheap. So its file hands the flags to :func:`flags_on_command_line` while it is
being imported. Standard library only.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emergence.errors import UsageError
from emergence.experiment.source_commit import source_commit
from emergence.spec.cost import Plan, find_gpu, plan_experiment, refuse_if_too_dear, refuse_not_on_modal
from emergence.spec.experiment import ExperimentSpec, experiment_flags, refuse_with_resume
from emergence.spec.flags import REQUIRED, Flag, flag, flags_of, for_modal, parser_of
from emergence.spec.memory import refuse_if_too_large_for


@dataclass(frozen=True, kw_only=True)
class Request:
    """What one invocation asks for: an experiment, and flags that steer its launch.

    Attributes:
        spec: The experiment; None when a stored run's is to be used, or runs are only listed.
    """

    spec: ExperimentSpec | None = None
    list_saved: bool = flag(False, "List the runs and stop.", before="seed")
    gpu: str | None = flag(None, "Instead of the config's: A10G, H100:2, ...")
    resume: str | None = flag(None, "Go on with this run, with the spec it has.", metavar="RUN")
    fresh: bool = flag(False, "Start a new run where an unfinished one of the same experiment could go on.")
    dry_run: bool = flag(False, "Show the plan and stop.")
    max_cost: float | None = flag(
        None, "Exit 2 if the estimate is higher. On Modal, save and stop when it is spent.", metavar="DOLLARS"
    )
    yes: bool = flag(False, "Do not ask before a long or costly launch.")
    take_over: bool = flag(False, "With --resume: although a call that was stopped from outside seems to hold the run.")
    log: str | None = flag(None, "Also log to wandb or trackio.", metavar="SINK")
    secret: str | None = flag(None, "Names of Modal secrets that the run gets, e.g. wandb.", metavar="NAMES")

    @classmethod
    def from_flags(cls, flags: dict[str, Any]) -> Request:
        """Check the values of :func:`launch_flags` against each other.

        Raises:
            UsageError: Flags contradict each other. It names the flag that cures it.
        """
        launch = {each.name: flags[each.name] for each in flags_of(cls)}
        launch |= {name: launch[name] or None for name in ("resume", "gpu", "log", "secret")}
        if launch["list_saved"]:
            return cls(list_saved=True)
        if launch["gpu"]:
            find_gpu(launch["gpu"])
        refuse_unusable_log(launch["log"], launch["secret"])
        if launch["take_over"] and not launch["resume"]:
            raise UsageError("--take-over says whose run it takes over: add --resume RUN")
        if launch["resume"] and launch["fresh"]:
            raise UsageError("--resume goes on with a run and --fresh starts a new one: drop one of the two")
        if launch["resume"]:
            refuse_with_resume(flags)
            return cls(**{**launch, "resume": launch["resume"].strip("/")})
        experiment = {name: value for name, value in flags.items() if name not in launch}
        overrides = split_overrides(experiment.pop("set"))
        return cls(spec=ExperimentSpec.from_flags(set_values=overrides, **experiment), **launch)

    def job(self, run_id: str) -> dict[str, Any]:
        """The job that the functions on Modal get."""
        assert self.spec is not None
        watched = {"log": self.log, "secrets": split_names(self.secret)} if self.log or self.secret else {}
        return job_of(self.spec, run_id, self.gpu, fresh=self.fresh, max_cost=self.max_cost, **watched)

    def resumed(self, spec: ExperimentSpec) -> Request:
        """This request with the spec of the run it goes on with."""
        return dataclasses.replace(self, spec=spec)

    def plan(self, trunk: str | None = None) -> Plan:
        """The estimate for this request.

        Raises:
            UsageError: It is above ``--max-cost``, or needs more memory than it asks for.
        """
        assert self.spec is not None
        refuse_not_on_modal(self.spec)
        plan = plan_experiment(self.spec, self.gpu, trunk)
        refuse_if_too_large_for(plan)
        refuse_if_too_dear(plan, self.max_cost)
        return plan


def launch_flags() -> tuple[Flag, ...]:
    """The flags of ``modal run pretrain_wikitext_finetune_qasrl_modal.py``."""
    return for_modal((*experiment_flags(), *flags_of(Request)))


def job_of(spec: ExperimentSpec, run_id: str, gpu: str | None, *, fresh: bool = False, **more: Any) -> dict[str, Any]:
    """A *job*: what the functions on Modal are told of one run, in JSON's types.

    Args:
        gpu: The GPU in place of the configuration's.
        fresh: Take no trunk from another run.
        **more: Further entries that the launch decides.

    Raises:
        UsageError: The GPU is unknown.
    """
    compute, plan = spec.config.compute, plan_experiment(spec, gpu)
    return {
        "run_id": run_id,
        "spec": spec.to_dict(),
        "fresh": fresh,
        "gpu": plan.gpu.modal_name,
        "gpu_gigabytes": plan.gpu.memory_gigabytes,
        "cpu": compute.cpu,
        "memory": int(compute.memory_gigabytes * 1024),
        "source": source_commit(),
        "timeout": plan.attempt_seconds,
        "dollars_per_hour": plan.dollars_per_hour,
        **more,
    }


def command_prefix() -> str:
    """How the ``emergence`` command is started here: a checkout beside ``pip install modal`` has it as a module."""
    return "emergence" if shutil.which("emergence") else "python -m emergence"


def split_names(text: str | None) -> list[str]:
    """The names of ``--secret``: separated by commas or spaces."""
    return re.split(r"[,\s]+", text.strip(" ,")) if text and text.strip(" ,") else []


#: Variables of the secret that a live log needs, by the log's name.
LOG_KEYS = {"wandb": "WANDB_API_KEY=...", "trackio": "HF_TOKEN=... TRACKIO_SPACE_ID=USER/SPACE"}


def refuse_unusable_log(log: str | None, secret: str | None) -> None:
    """Refuse a live log that nobody could see.

    Raises:
        UsageError: It is unknown, writes to a disk that the container takes with it, or gets no key.
    """
    if log is None:
        return
    if log not in LOG_KEYS:
        raise UsageError(f"--log {log}: on Modal choose one of {', '.join(LOG_KEYS)}")
    if not split_names(secret):
        raise UsageError(
            f"--log {log} needs a key on Modal: modal secret create {log} {LOG_KEYS[log]}, then add --secret {log}"
        )


def split_overrides(text: str | None) -> tuple[str, ...]:
    """``--set`` of ``modal run``, which knows no repeated flags: ``a.b=1,c.d=2`` (or ``;`` or spaces between)."""
    if not text:
        return ()
    return tuple(part for part in re.split(r"[;,\s]+(?=[a-z_]+(?:\.[a-z_]+)?\s*=)", text.strip(" ;,")) if part)


def flags_on_command_line(
    argv: Sequence[str], file: str, flags: Sequence[Flag], about: str | None = None
) -> dict[str, Any] | None:
    """The values of ``flags`` with which ``modal run FILE ...`` is about to call its entry point.

    ``--help`` is answered here and ends the process, because the client's own has no help texts. The result is None if
    this is no such command, or if the flags do not parse. The client itself then says what is wrong, also without a
    network call.
    """
    places = _places_of(argv, file)
    if not places or "run" not in argv[1 : places[0]]:
        return None
    words = list(argv[places[0] + 1 :])
    program = f"modal run {Path(file).name}"
    parser = parser_of(flags, prog=program, description=about, add_help=False, exit_on_error=False)
    if {"-h", "--help"} & {*words}:
        parser.print_help()
        sys.exit(0)
    try:
        known, unknown = parser.parse_known_args(words)
    except (argparse.ArgumentError, SystemExit):
        return None
    return None if unknown or REQUIRED in vars(known).values() else vars(known)


def is_detached(argv: Sequence[str], file: str) -> bool:
    """Whether ``modal run FILE ...`` goes on without this terminal."""
    return bool({"-d", "--detach"} & {*argv[: (_places_of(argv, file) or [0])[0]]})


def _places_of(argv: Sequence[str], file: str) -> list[int]:
    """Where ``file`` stands in a command line, with or without the name of an entry point."""
    return [i for i, word in enumerate(argv) if i and _is_file(word.split("::")[0], file)]


def _is_file(word: str, file: str) -> bool:
    try:
        return word.endswith(".py") and Path(word).resolve() == Path(file).resolve()
    except OSError:
        return False
