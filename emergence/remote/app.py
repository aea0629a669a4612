"""The Modal app: image, volumes and the remote functions.

``prepare`` runs on a CPU container. It reserves the run's name, prepares the data, so that no GPU waits for a download,
and starts ``train`` on the GPU that the run asked for. Both get a plain dictionary, the *job*.
A run survives whatever ends its container. Its working copy is on the container's disk, and a
:class:`~emergence.remote.mirror.VolumeMirror` publishes it to the volume, from where the next attempt goes on.
``conduct`` drives the runs of a sweep from a small container, so that none waits for the laptop that asked for them.
"""

from __future__ import annotations

import functools
import logging
import os
import traceback
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import modal

from emergence.errors import STOPPED, EmergenceError, GpuFailedError
from emergence.experiment.run_directory import STATS_FILE
from emergence.plain import plain
from emergence.remote import container, locks
from emergence.remote.attempts import FRUITLESS_ATTEMPTS, Account, Attempt, steps_of
from emergence.remote.cache_claims import SharedWork, shared
from emergence.remote.calls import CallError, patiently
from emergence.remote.locks import RunInUseError
from emergence.remote.mirror import VolumeMirror
from emergence.remote.published import keep_model
from emergence.remote.runner import Calls, publish, published, refuse_if_superseded, sweeps
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.memory import refuse_published_too_large
from emergence.studies.cka.analyse import AnalysisFlags
from emergence.sweep.conductor import conduct as run_conductor
from emergence.sweep.graph import Graph, Status, Task

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger(__name__)

MODELS_VOLUME, DATA_VOLUME = "llm-models", "llm-training-data"
#: The working copy is published to the volume this often.
COMMIT_SECONDS = float(os.environ.get("EMERGENCE_COMMIT_SECONDS", "60"))
#: Where an analysis writes in a run directory.
ANALYSIS_FOLDER = "analysis"
#: How long one attempt at the preparation of a run, and at an analysis, may take.
PREPARE_SECONDS, ANALYSE_SECONDS = 4 * 3600, 6 * 3600
#: The switches of the caches in which torch keeps pickles.
PICKLED_CACHES = (
    "TORCHINDUCTOR_FX_GRAPH_CACHE", "TORCHINDUCTOR_AUTOGRAD_CACHE", "TORCH_DYNAMO_AUTOMATIC_DYNAMIC_LOCAL_PGO",
)  # fmt: skip
#: Why an attempt stops if its run is not its own any more.
LOST = "was cancelled, or taken by another launch, while it ran"

image = (
    modal.Image.debian_slim(python_version="3.11")
    .pip_install(
        "torch==2.13.0",
        "numpy==2.4.6",
        "scipy==1.17.1",
        "scikit-learn==1.9.1",
        "datasets==5.2.0",
        "huggingface_hub==2.4.0",
        "tokenizers==0.23.3",
        "transformers==5.23.0",
        "safetensors==0.8.0",
        "pyarrow==26.0.1",
        "tqdm==4.70.1",
    )
    .env({"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1"})
    # What torch.compile keeps as pickles: nothing of it is written or read (see emergence.remote.kernels).
    .env(dict.fromkeys(PICKLED_CACHES, "0"))
    .add_local_python_source("emergence")  # last, so that editing a file rebuilds nothing
)
app = modal.App("emergence", image=image, include_source=False)
models_volume = modal.Volume.from_name(MODELS_VOLUME, create_if_missing=True)
data_volume = modal.Volume.from_name(DATA_VOLUME, create_if_missing=True)
# The laptop's own token where it has one, else nothing in it. The object is always there: what the app is
# made of may not depend on where the file is imported.
hub_token = modal.Secret.from_dict({"HF_TOKEN": os.environ.get("HF_TOKEN")})

_COMMON: dict[str, Any] = {
    "volumes": {"/models": models_volume, "/data": data_volume},
    "secrets": [hub_token],
    "single_use_containers": True,
}


class AttemptOver(CallError):
    """An attempt ended by itself before Modal's time limit; Modal's retry goes on from its checkpoint."""


def with_errors_of_its_own(function: Callable[P, R]) -> Callable[P, R]:
    """Let a remote function end in :class:`CallError` alone, whatever it met."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except CallError:
            raise
        except Exception as error:
            raise CallError.of(error) from error

    return wrapped


# In the containers ------------------------------------------------------------------------------


@app.function(
    cpu=4.0,
    memory=16 * 1024,
    timeout=PREPARE_SECONDS,
    retries=modal.Retries(max_retries=3, initial_delay=5.0),
    **_COMMON,
)
@with_errors_of_its_own
def prepare(job: dict[str, Any]) -> dict[str, Any]:
    """Reserve the run, prepare its data and start training. Returns ``{"call": id}`` or ``{"error": ...}``."""
    container.log_to_stdout()
    run_id, me = job["run_id"], modal.current_function_call_id() or ""
    try:
        refuse_if_superseded(job)
        launch = locks.reserve(run_id, me, sweep=job.get("sweep"))
        # An earlier attempt of this very call may have noted the training, or spawned it and not come so far.
        return {"call": launch["train"] or locks.claimed_by(run_id, me) or _start_training(job, launch)}
    except EmergenceError as error:
        return _answer(error)


def _start_training(job: dict[str, Any], launch: dict[str, Any]) -> str:
    """Prepare what the run reads, and spawn its training. Returns that call's id.

    Raises:
        EmergenceError: The run cannot begin. The launch has given it back.
    """
    run_id, me = job["run_id"], launch["holder"]
    try:
        text = _prepare(ExperimentSpec.from_dict(job["spec"]), run_id, job.get("trunk"), job.get("gpu_gigabytes", 0))
        refuse_if_superseded(job)
    except EmergenceError:
        locks.release(run_id, me)
        raise
    resources = {"gpu": job["gpu"], "cpu": job["cpu"], "memory": job["memory"]}
    if job.get("secrets"):  # they take the place of the function's own
        resources["secrets"] = [hub_token, *map(modal.Secret.from_name, job["secrets"])]
    # A sweep limits the containers side by side.
    resources.update({key: job[key] for key in ("max_containers", "timeout") if key in job})
    training, job = train.with_options(**resources), {**job, "holder": me, "text": text}
    # Spawned twice, where the first answer is lost, two calls start: the first to claim the run has it.
    call_id: str = patiently(lambda: training.spawn(job)).object_id
    locks.note_training(run_id, launch, call_id)
    return call_id


@app.function(
    gpu="A10G",
    timeout=container.ATTEMPT_SECONDS,
    retries=modal.Retries(max_retries=10, initial_delay=5.0),
    **_COMMON,
)
@with_errors_of_its_own
def train(job: dict[str, Any]) -> dict[str, Any]:
    """Make one attempt at a run on the GPU. Returns ``{"results": headline}`` or ``{"error": ...}``."""
    container.log_to_stdout()
    run_id, holder, me = job["run_id"], job["holder"], modal.current_function_call_id() or ""
    if (container.MODELS / run_id / STATS_FILE).exists():  # finished, and then the container was lost
        locks.release(run_id, holder)
        return {"results": container.headline(container.MODELS / run_id)}
    try:
        refuse_if_superseded(job)
        account = Account.from_dict(locks.claim(run_id, holder, me))
    except RunInUseError as error:
        return _answer(error)
    last = account.last
    account.begin(steps_of(container.MODELS / run_id))
    locks.keep_account(run_id, plain(account))
    try:
        if account.fruitless > FRUITLESS_ATTEMPTS:  # the last one could not say so itself
            raise _given_up(run_id, last)
        answer = _attempt(job, account)
    except EmergenceError as error:
        answer = _answer(error)
    locks.release(run_id, holder)
    return {**answer, "dollars": account.dollars(job.get("dollars_per_hour", 0.0))}


def _attempt(job: dict[str, Any], account: Account) -> dict[str, Any]:
    """One attempt at a run, with somebody who looks after it. Returns what the run answers.

    Raises:
        EmergenceError: The run ends without a result.
        KeyboardInterrupt, CallError: This attempt has ended. Modal starts the next one.
    """
    run_id, spec = job["run_id"], ExperimentSpec.from_dict(job["spec"])
    folder = container.RUNS / run_id
    mirror: VolumeMirror | None = None  # from when there is a whole copy of the run, which may be published
    attempt = Attempt(
        account, lambda: (mirror and mirror.publications, container.signs_of_life(folder)),
        dollars_per_hour=job.get("dollars_per_hour", 0.0), max_cost=job.get("max_cost"),
        heartbeat=lambda: heartbeat(job, account), beat_seconds=COMMIT_SECONDS,
        publish=lambda: mirror and mirror.publish(),
    )  # fmt: skip

    def hurry() -> None:
        if mirror is not None:
            mirror.hurry()

    with attempt:
        stop = container.attempt_switch(hurry, job.get("timeout", container.ATTEMPT_SECONDS))
        try:
            with stop:
                container.working_copy(spec, run_id, job.get("trunk"), job.get("text"))
                mirror = _mirror(job, account)
                _train(job, spec, lambda: stop() or attempt.should_stop(), mirror.request)
            answer = {"results": container.headline(folder)}
        except Exception as error:
            account.see(steps_of(folder))
            raise _end_of(run_id, account, attempt, error, interrupted=stop.requests > 0) from error
        finally:
            if mirror is not None:
                mirror.close()
            attempt.count()
            locks.keep_account(run_id, plain(account))
    if mirror.forbidden:  # nothing that was done since is on the volume
        raise RunInUseError(f"{run_id} {LOST}")
    return answer


def _mirror(job: dict[str, Any], account: Account) -> VolumeMirror:
    """The mirror of a run that was copied from the volume."""
    mirror = VolumeMirror(
        container.RUNS / job["run_id"], container.MODELS / job["run_id"], models_volume.commit, COMMIT_SECONDS,
        may_publish=lambda: may_write(job, account.call),
    )  # fmt: skip
    mirror.adopt()
    return mirror


def _train(job: dict[str, Any], spec: ExperimentSpec, stop: Callable[[], bool], on_commit: Callable[[], None]) -> None:
    """The work of an attempt, in this process or in one for each GPU."""
    if stop():
        raise EmergenceError("asked to stop before it began", STOPPED)
    container.bring_data(spec)
    known = container.bring_kernels(spec, job["gpu"])
    devices = int(job["gpu"].partition(":")[2] or 1)
    if devices > 1:
        container.run_on_devices(job, devices, stop)
    else:
        container.run_in_process(job, stop, on_commit)
    container.keep_derived(spec, job["gpu"], known, data_volume.commit)


def heartbeat(job: Mapping[str, Any], account: Account) -> str | None:
    """Keep the account of an attempt. Returns why it is to stop, in words; None where it may go on."""
    if not may_write(job, account.call):
        return LOST
    locks.keep_account(job["run_id"], plain(account))
    if (sweep := job.get("sweep")) is None:
        return None
    state = published(sweep["name"])
    return LOST if state.get("launch") != sweep["launch"] else state.get("stop")


def _end_of(run_id: str, account: Account, attempt: Attempt, error: Exception, *, interrupted: bool) -> BaseException:
    """What an attempt that ``error`` ended is to raise: an error that ends the run, or one that Modal tries again."""
    if isinstance(error, GpuFailedError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # a crash like others: the next container has another GPU
    if not attempt.hung:
        account.last = f"{type(error).__name__}: {error}"
    stopped = isinstance(error, EmergenceError) and error.exit_code == STOPPED
    if stopped and attempt.reason == LOST:  # what it saved stays in this container
        return RunInUseError(f"{run_id} {LOST}")
    if stopped and attempt.reason is not None:
        message = f"{run_id}: {attempt.reason}; what it reached is saved, and --resume {run_id} goes on from there"
        return EmergenceError(message, STOPPED)
    if stopped and interrupted:
        account.forgive()
        return KeyboardInterrupt()  # Modal restarts the same input in another container
    if isinstance(error, EmergenceError) and not stopped:
        return error
    if account.is_hopeless:
        traceback.print_exception(error)
        return _given_up(run_id, account.last)
    return AttemptOver(f"{run_id}: the time limit is near; the next attempt goes on from here") if stopped else error


def _given_up(run_id: str, last: str) -> EmergenceError:
    attempts = f"{FRUITLESS_ATTEMPTS} attempts in a row brought no newer checkpoint"
    return EmergenceError(f"{run_id} is given up: {attempts}, the last of them: {last}")


@app.function(gpu="A10G", timeout=ANALYSE_SECONDS, retries=modal.Retries(max_retries=3, initial_delay=5.0), **_COMMON)
@with_errors_of_its_own
def analyse(values: dict[str, Any]) -> dict[str, Any]:
    """Temporal CKA of runs on the volume. Returns ``{"summary": text}`` or ``{"error": ...}``.

    Only its own folder of the run is published, so a run can be analysed while it goes on.
    """
    container.log_to_stdout()
    flags = AnalysisFlags(**values)
    run_id = flags.model_dir.strip("/")
    try:
        for name in flags.runs():
            container.copy_of_run(name)
        folder = container.RUNS / run_id / ANALYSIS_FOLDER
        mirror = VolumeMirror(folder, container.MODELS / run_id / ANALYSIS_FOLDER, models_volume.commit, COMMIT_SECONDS)
        mirror.adopt()
        try:
            return {"summary": container.run_analysis(flags)}
        finally:
            mirror.close()
    except EmergenceError as error:
        return _answer(error)


@app.function(
    cpu=0.25,
    memory=1024,
    timeout=container.ATTEMPT_SECONDS,
    retries=modal.Retries(max_retries=10, initial_delay=5.0),
    single_use_containers=True,
    max_containers=100,
)
@with_errors_of_its_own
def conduct(name: str, launch: str) -> dict[str, int]:
    """Start and watch the calls of a sweep until all have ended. Returns the number of tasks by state.

    Args:
        name: The sweep's name. launch: What is to be done is in the table of sweeps under ``NAME/LAUNCH``.
    """
    container.log_to_stdout()
    if (sweep := patiently(lambda: sweeps.get(f"{name}/{launch}"))) is None:
        logger.info("the sweep %s was launched anew", name)
        return {}
    tasks = [Task.from_dict(raw) for raw in sweep["tasks"]]
    graph = Graph(tasks, {key: Status.from_dict(raw) for key, raw in published(name).get("states", {}).items()})
    mine = {"sweep": {"name": name, "launch": launch}}

    def tell(task: Task | None = None) -> None:
        refuse_if_superseded(mine)
        publish(name, launch, plain(graph.status), runner.reason)

    def should_stop() -> bool:
        before = runner.reason
        if runner.is_spent(graph) and before is None:
            tell()
        return stop() or runner.reason is not None

    runner = Calls({key: {**job, **mine} for key, job in sweep["jobs"].items()}, prepare, sweep.get("max_cost"))
    try:
        refuse_if_superseded(mine)
        with container.attempt_switch(lambda: None) as stop:
            if not run_conductor(graph, runner, sweep["limit"], tell, should_stop) and runner.reason is None:
                if stop.requests:
                    raise KeyboardInterrupt  # Modal restarts the same input in another container
                raise AttemptOver(f"{name}: the time limit is near; the next attempt goes on from here")
    except RunInUseError as error:
        logger.info("%s", error)  # another launch publishes now
    return graph.counts()


def may_write(job: Mapping[str, Any], call_id: str) -> bool:
    """Whether a training call still has its run. Where Modal does not say, nothing is written until it does."""
    return locks.is_mine(job["run_id"], job["holder"], call_id)


def _prepare(spec: ExperimentSpec, run_id: str, trunk: str | None, gpu_gigabytes: int) -> str | None:
    """Check all that the run reads, cache it on the data volume, and make an empty run directory.

    What other preparations are deriving is waited for, not derived again.
    What the run would raise is raised here, before a GPU is rented; of a published model all but what its weights take
    in memory to find, which the container with the GPU has. Returns the fingerprint of the pretraining text.
    """
    from emergence.experiment.inputs import check_published, read_inputs, refuse_changed_text
    from emergence.experiment.store import RunStore

    container.working_copy(spec, run_id, trunk)
    container.bring_data(spec)
    me = modal.current_function_call_id() or ""
    cache = SharedWork(container.CACHE, container.DATA / "cache", me, data_volume.commit, data_volume.reload)
    text = None
    with shared(cache):
        if spec.model:
            found = check_published(spec, container.CACHE)
            memory = int(spec.config.compute.memory_gigabytes * 2**30)
            refuse_published_too_large(spec, found.n_values, memory, gpu_gigabytes * 2**30)
            if keep_model(found, container.DATA):
                data_volume.commit()
        else:
            text = read_inputs(spec, RunStore(container.RUNS), container.CACHE).fingerprints["text"]
    refuse_changed_text(RunStore(container.RUNS), trunk, text)
    volume = RunStore(container.MODELS)
    if not volume.exists(run_id):  # from here on it is listed, and can be resumed
        volume.create(spec, run_id=run_id)
        models_volume.commit()
    return text


def _answer(error: EmergenceError) -> dict[str, Any]:
    """A user error as a result, because Modal would retry one that is raised.

    ``holder`` is who has the run, and ``again`` says that nobody knows whether it still has.
    """
    more: dict[str, Any] = {}
    if isinstance(error, RunInUseError):
        more = {"holder": error.call} if error.call else {}
        more |= {} if error.is_certain else {"again": True}
    return {"error": str(error), "exit_code": error.exit_code, **more}
