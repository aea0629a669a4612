"""The laptop's side of Modal: check flags early, show the plan, launch, follow, list.

Needs ``pip install modal`` and this checkout; no torch, no numpy.
"""

from __future__ import annotations

import dataclasses
import posixpath
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from functools import cache, cached_property
from typing import Any, TypeVar

import modal
from modal.config import config as modal_settings

from emergence.errors import EmergenceError, RunDirectoryError, UnreachableError, UsageError, require_packages
from emergence.experiment.listing import FileFacts, RunSummary, format_listing, summarise_run
from emergence.experiment.run_directory import SPEC_FILE, STATS_FILE, TRUNK_FILE, StoredSpec, parse_spec_file
from emergence.experiment.store import made_at, numbered
from emergence.files import parse_json
from emergence.remote.app import DATA_VOLUME, MODELS_VOLUME, analyse, app, data_volume, models_volume, prepare
from emergence.remote.calls import patiently
from emergence.remote.launch import (
    Request,
    command_prefix,
    flags_on_command_line,
    is_detached,
    launch_flags,
    split_names,
)
from emergence.remote.locks import calls_of, launch_of, refuse_if_in_use, revoke, standing_of
from emergence.remote.refusals import end_with, ending_in_one_line, has_credentials, refusal, refuse_if_unreachable
from emergence.spec.cost import ask, ask_if_dear, find_gpu
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.flags import flags_of, parser_of
from emergence.spec.published import is_directory
from emergence.studies.cka.analyse import AnalysisFlags, analyse_locally
from emergence.wording import did_you_mean, say

ENTRY_POINT = "pretrain_wikitext_finetune_qasrl_modal.py"
#: A launch of more hours in a terminal is told what happens when that closes.
LONG_HOURS = 1.0
#: Who follows a run waits this long for a server that does not answer.
FOLLOW_SECONDS = 600.0
#: Small files are read this many at a time.
READERS = 8

T = TypeVar("T")
R = TypeVar("R")

_checked: Request | None = None


def check_flags_first(file: str, about: str | None) -> None:
    """Check the flags of ``modal run FILE`` while the file is imported, before Modal is asked for anything.

    What needs no container is answered here and ends the process: ``--help`` (``about`` opens it), a contradiction
    (one line, exit code 2), ``--list-saved``, ``--dry-run``, an estimate above ``--max-cost``. Otherwise :func:`launch`
    goes on with the checked flags. In a container, or for another command than ``modal run FILE``, nothing happens.
    """
    global _checked
    flags = flags_on_command_line(sys.argv, file, launch_flags(), about) if modal.is_local() else None
    if flags is None:
        return
    with _errors_in_one_line():
        _checked = _answer_without_container(flags, is_detached(sys.argv, file))
    if _checked is None:
        sys.exit(0)


def launch(flags: dict[str, Any]) -> None:
    """Body of the entry point: start the experiment its flags describe, and follow it to its end."""
    with _errors_in_one_line():
        request = _checked or _answer_without_container(flags)
        if request is not None:
            _start_and_follow(request)


def _answer_without_container(flags: dict[str, Any], detached: bool = True) -> Request | None:
    """The checked request; None if it needed no container and has been answered.

    All that the laptop can tell is told before the client builds an image. ``detached`` is whether the app would go on
    without this terminal.
    """
    request = Request.from_flags(flags)
    if request.list_saved:
        reach_modal()
        say(format_listing(saved_runs()))
        return None
    if request.resume:
        request = _with_stored_spec(request, request.resume)
    plan = request.plan(_trunk_on_the_volume(request))
    if not request.dry_run:
        refuse_unknown_secrets(split_names(request.secret))
    say(plan.text())
    if not detached and (plan.hours is None or plan.hours >= LONG_HOURS):
        hours = "nobody knows how many" if plan.hours is None else f"{plan.hours:.1f}"
        say(f"note         {hours} hours, and the app stops when this terminal closes: modal run -d goes on")
    if request.dry_run:
        say("dry run: nothing was launched")
        return None
    ask_if_dear(plan.dollars, request.yes, request.max_cost)
    return request


def _trunk_on_the_volume(request: Request) -> str | None:
    """The run whose trunk the request will take; None where it pretrains one, has none, or reads a published model.

    A dry run that cannot look says so and plans for a pretraining.

    Raises:
        UsageError: The weights that the request names are not on the volume, or another run pretrains its trunk now.
        UnreachableError: Modal cannot be asked.
    """
    spec = request.spec
    assert spec is not None
    try:
        reach_modal()
    except UnreachableError as error:
        if not request.dry_run:
            raise
        say(f"note         {error}; what is on the volume is not known")
        return None
    volume = VolumeFiles()
    if spec.model:
        refuse_missing_model(spec.model)
        return None
    if spec.pretrained_model_path:
        volume.refuse_missing_weights(spec)
        return None
    if spec.random_baseline or request.fresh or request.resume:
        return None
    trunks = volume.same_pretraining(spec)
    if ready := next((run_id for run_id, has_trunk in trunks.items() if has_trunk), None):
        return ready
    if spec.at_snapshot and spec.pretrain_text is None:  # its content may be there under another name
        raise UsageError(
            f"--snapshot {spec.snapshot}: no run on the volume has done this pretraining: make it with the same "
            "command, --skip-finetune in place of --snapshot"
        )
    if not spec.pretrains:
        if spec.pretrain_text is None:  # else the same text may be there under another name, which its content tells
            raise UsageError(
                "--skip-pretrain: no run on the volume has this pretraining: drop it to pretrain, or name weights with "
                "--pretrained-model-path RUN/toy_llm_unified_pretrained.pth (--list-saved shows the runs)"
            )
        return None
    busy = next((run_id for run_id in trunks if _is_running(run_id)), None)
    if busy and not request.yes and not request.dry_run and busy != volume.unfinished_twin(spec):
        ask(
            f"{busy} pretrains this very trunk now; once it has (--list-saved), this run takes it for nothing",
            "Pretrain it twice?",
        )
    return None


def refuse_missing_model(name: str) -> None:
    """Refuse a model that is a path of this machine and not on the data volume. Hub names are the container's to find.

    Raises:
        UsageError: Saying how it is put there.
    """
    if not is_directory(name) and not name.endswith(".pth"):
        return
    try:
        found = data_volume.listdir(posixpath.normpath(name))
    except (FileNotFoundError, modal.exception.NotFoundError):
        found = []
    if not found:
        put = posixpath.normpath(name)
        raise UsageError(
            f"--model {name}: not on the volume {DATA_VOLUME}: modal volume put {DATA_VOLUME} {name} {put}, "
            "or give a name on the hub"
        )


def _with_stored_spec(request: Request, run_id: str) -> Request:
    reach_modal()
    volume = VolumeFiles()
    try:
        request = request.resumed(volume.spec(run_id))
    except RunDirectoryError as error:
        raise UsageError(f"--resume {run_id}: {error}; --list-saved shows the runs on the volume") from None
    if not request.take_over:
        refuse_if_in_use(run_id)
    if STATS_FILE in volume.facts(run_id):
        raise UsageError(f"--resume {run_id}: it has finished; fetch it with: {command_prefix()} pull {run_id}")
    return request


def _start_and_follow(request: Request) -> None:
    spec = request.spec
    assert spec is not None
    volume = VolumeFiles()
    run_id = request.resume or (None if request.fresh else volume.unfinished_twin(spec))
    if run_id and not request.resume:
        say(f"going on with {run_id}, an unfinished run of the same experiment (--fresh starts a new one)")
    run_id = run_id or free_name(spec, {entry.path.strip("/") for entry in models_volume.listdir("/")})
    if request.take_over:
        revoke(run_id)
    refuse_if_in_use(run_id)
    job = request.job(run_id)
    preparing = prepare.spawn(job)
    say(
        f"run          {run_id}\n"
        f"call         {preparing.object_id} (data, on a CPU), then the training\n"
        f"{where_to_look()}\n"
        f"list         modal run {ENTRY_POINT} --list-saved\n"
        f"pull         {command_prefix()} pull {run_id}\n"
        f"resume       modal run -d {ENTRY_POINT} --resume {run_id}"
    )
    call_id = _unwrap(patiently(preparing.get, FOLLOW_SECONDS))["call"]
    say(f"training     {call_id} on {job['gpu']}")
    results = _unwrap(_answer_of_training(run_id, call_id))["results"]
    say(f"finished     {run_id}")
    for name, value in results.items():
        say(f"  {name} = {value}")


def refuse_unknown_secrets(names: Iterable[str]) -> None:
    """Ask Modal for each secret by name.

    Raises:
        UsageError: The workspace has none of that name.
    """
    for name in names:
        try:
            modal.Secret.from_name(name).hydrate()
        except modal.exception.NotFoundError:
            raise UsageError(
                f"--secret {name}: no secret of that name (modal secret list): modal secret create {name} KEY=VALUE"
            ) from None


def where_to_look(stop: str | None = None) -> str:
    """How to watch the running app and how to stop it (``stop``, or the client's own way), as a launch prints it."""
    lines = [f"follow       modal app logs -f {app.app_id}", f"stop         {stop or f'modal app stop {app.app_id}'}"]
    return "\n".join([*lines, f"dashboard    {app.get_dashboard_url()}"])


def _answer_of_training(run_id: str, call_id: str) -> dict[str, Any]:
    """What the training answers; where another call of the same launch has the run, what that one answers."""
    answer = dict(patiently(modal.FunctionCall.from_id(call_id).get, FOLLOW_SECONDS))
    other = answer.get("holder")
    if other is None or other not in calls_of(run_id):
        return answer
    return dict(patiently(modal.FunctionCall.from_id(other).get, FOLLOW_SECONDS))


def _unwrap(answer: dict[str, Any]) -> dict[str, Any]:
    """A remote function's answer, with user errors raised again."""
    if "error" in answer:
        raise EmergenceError(answer["error"], answer["exit_code"])
    return answer


def free_name(spec: ExperimentSpec, taken: Collection[str]) -> str:
    """A name that no run on the volume (``taken``) has, and that no launch has reserved."""
    names = numbered(spec.run_name(datetime.now()))
    return next(name for name in names if name not in taken and not launch_of(name))


# Analysis -------------------------------------------------------------------------------------------


def check_analysis_first(file: str, about: str | None) -> None:
    """:func:`check_flags_first` for ``modal run temporal_cka_analysis.py``."""
    flags = flags_on_command_line(sys.argv, file, flags_of(AnalysisFlags), about) if modal.is_local() else None
    if flags is not None:
        with _errors_in_one_line():
            _check_analysis(AnalysisFlags(**flags))


def launch_analysis(flags: AnalysisFlags) -> None:
    """Body of the entry point: analyse runs on the volume and print the tables."""
    with _errors_in_one_line():
        _check_analysis(flags)
        call = analyse.with_options(gpu=find_gpu(flags.gpu).modal_name).spawn(dataclasses.asdict(flags))
        run_id = flags.model_dir.strip("/")
        say(f"call         {call.object_id}\n{where_to_look()}")
        say(_unwrap(call.get())["summary"])
        folder = f"runs/{run_id}"
        say(f"fetch        mkdir -p {folder} && modal volume get {MODELS_VOLUME} {run_id}/analysis {folder}")


def run_as_program(about: str | None) -> int:
    """``python temporal_cka_analysis.py``: analyse runs on this machine. Returns the exit code."""
    parser = parser_of(flags_of(AnalysisFlags), description=about)
    flags = AnalysisFlags(**vars(parser.parse_args()))
    with ending_in_one_line():
        require_packages("an analysis on this machine", "torch", "numpy")
        say(analyse_locally(flags))
    return 0


def _check_analysis(flags: AnalysisFlags) -> None:
    flags.check()
    find_gpu(flags.gpu)
    reach_modal()
    for run_id in flags.runs():
        try:
            VolumeFiles().spec(run_id)
        except RunDirectoryError as error:
            raise UsageError(f"{error}; --list-saved shows the runs on the volume") from None


# What is on the volume -----------------------------------------------------------------------------


class VolumeFiles:
    """The models volume as :class:`emergence.remote.pull.RemoteFiles`, read through the client.

    One object asks for the list of runs, and for each run's spec, once: it shows the volume as it was then.
    """

    def __init__(self) -> None:
        self._specs: dict[str, StoredSpec] = {}

    def facts(self, folder: str = "/") -> dict[str, FileFacts]:
        """Size and age of every file below ``folder`` by its relative name; empty if there is no such folder."""
        try:
            entries = models_volume.listdir(folder, recursive=True)
        except (FileNotFoundError, modal.exception.NotFoundError):
            return {}
        prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
        files = (entry for entry in entries if entry.type.name == "FILE")
        return {e.path.strip("/").removeprefix(prefix): FileFacts(e.size, float(e.mtime)) for e in files}

    def sizes(self, folder: str) -> dict[str, int]:
        return {name: facts.bytes for name, facts in self.facts(folder).items()}

    def read(self, path: str) -> Iterator[bytes]:
        yield from models_volume.read_file(path)

    def content(self, path: str) -> bytes:
        """One small file.

        Raises:
            OSError: It is not there, or cannot be read now.
        """
        try:
            return b"".join(self.read(path))
        except modal.exception.Error as error:
            raise OSError(str(error)) from error

    def spec(self, run_id: str) -> ExperimentSpec:
        """The spec of a run; see :meth:`stored_spec`."""
        return self.stored_spec(run_id).spec

    def stored_spec(self, run_id: str) -> StoredSpec:
        """What the ``spec.json`` of a run says.

        Raises:
            RunDirectoryError: There is no such run, or its ``spec.json`` is damaged.
        """
        path = f"{run_id}/{SPEC_FILE}"
        try:
            if run_id not in self._specs:
                self._specs[run_id] = parse_spec_file(parse_json(self.content(path).decode(), path), path)
            return self._specs[run_id]
        except (OSError, UnicodeDecodeError) as error:
            raise RunDirectoryError(f"{path}: {error}") from None

    def runs(self) -> dict[str, dict[str, FileFacts]]:
        """The files of every run directory."""
        return self._runs

    @cached_property
    def _runs(self) -> dict[str, dict[str, FileFacts]]:
        runs: dict[str, dict[str, FileFacts]] = defaultdict(dict)
        for path, facts in self.facts().items():
            run_id, _, name = path.partition("/")
            if name:
                runs[run_id][name] = facts
        return runs

    def refuse_missing_weights(self, spec: ExperimentSpec) -> None:
        """Refuse weights that no container would find.

        Raises:
            UsageError: The file is not on the volume, or its run is of another size.
        """
        path = posixpath.normpath(str(spec.pretrained_model_path)).removeprefix("/models/")  # where it is mounted
        folder = path.rpartition("/")[0]
        runs = self.runs()
        names = {f"{run_id}/{file}" for run_id, files in runs.items() for file in files}
        trunks = [name for name in names if name.endswith(f"/{TRUNK_FILE}")]
        if path not in names:
            hint = did_you_mean(path, trunks, "--list-saved shows the runs there are")
            raise UsageError(f"--pretrained-model-path {path}: not on the volume {MODELS_VOLUME}; {hint}")
        if SPEC_FILE in runs.get(folder, {}):
            size = self.spec(folder).config.name
            if size != spec.config.name:
                raise UsageError(
                    f"--pretrained-model-path {path}: weights of {size}, not {spec.config.name}: --config-name {size}"
                )

    def same_pretraining(self, spec: ExperimentSpec) -> dict[str, bool]:
        """Runs that have, or are to have, the trunk of this pretraining, newest first, and whether each has it."""

        def is_same(run_id: str) -> bool:
            try:
                other = self.spec(run_id)
            except EmergenceError:
                return False
            has_or_will = other.pretrains or TRUNK_FILE in runs[run_id]
            # Weights of whatever pretraining, or of its middle.
            is_given = other.random_baseline or other.pretrained_model_path or other.at_snapshot
            return other.pretrain_id == spec.pretrain_id and has_or_will and not is_given

        runs = {run_id: files for run_id, files in self.runs().items() if SPEC_FILE in files}
        names = sorted(runs, key=made_at, reverse=True)
        same = in_parallel(is_same, names)
        return {run_id: TRUNK_FILE in runs[run_id] for run_id, is_one in zip(names, same, strict=True) if is_one}

    def unfinished_twin(self, spec: ExperimentSpec) -> str | None:
        """The newest run of the same experiment that has no result yet."""

        def is_twin(run_id: str) -> bool:
            try:
                return self.spec(run_id).experiment_id == spec.experiment_id
            except EmergenceError:
                return False

        runs = self.runs().items()
        unfinished = (run_id for run_id, files in runs if SPEC_FILE in files and STATS_FILE not in files)
        open_runs = sorted(unfinished, key=made_at, reverse=True)
        twins = in_parallel(is_twin, open_runs)
        return next((run_id for run_id, twin in zip(open_runs, twins, strict=True) if twin), None)


def saved_runs() -> list[RunSummary]:
    """Every run on the volume, last changed first. It takes no container."""
    volume = VolumeFiles()

    def summarise(item: tuple[str, dict[str, FileFacts]]) -> RunSummary:
        run_id, files = item
        running = None if STATS_FILE in files else _is_running(run_id)
        path = f"{MODELS_VOLUME}/{run_id}"
        return summarise_run(run_id, path, files, lambda name: volume.content(f"{run_id}/{name}"), running)

    summaries = in_parallel(summarise, list(volume.runs().items()))
    return sorted(summaries, key=lambda s: (s.updated or 0.0, s.run_id), reverse=True)


def _is_running(run_id: str) -> bool:
    return standing_of(run_id) is not None


def in_parallel(action: Callable[[T], R], items: list[T]) -> list[R]:
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(action, items))


# Reaching it ---------------------------------------------------------------------------------------


@cache
def reach_modal() -> None:
    """Connect to Modal; later calls of this process find it connected.

    Raises:
        UnreachableError: There is no token, the token is refused, or no server answers.
    """
    try:
        if has_credentials(modal_settings.get):
            refuse_if_unreachable(modal_settings.get("server_url"))
        modal.Client.from_env().hello()
    except Exception as error:
        if (one_line := refusal(error)) is None:
            raise
        raise UnreachableError(str(one_line), one_line.exit_code) from error


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    """Around a body of an entry point: what has a refusal ends the process with it."""
    try:
        yield
    except Exception as error:
        end_with(error)
        raise
