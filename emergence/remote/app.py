"""The Modal app: image, volumes and the remote functions.

``prepare`` runs on a CPU container. It reserves the run's name, prepares the data, so that no GPU waits for a download,
and starts ``train`` on the GPU that the run asked for. Both get a plain dictionary, the *job*.
A run survives whatever ends its container. Its working copy is on the container's disk, and a
:class:`~emergence.remote.mirror.VolumeMirror` publishes it to the volume, from where the next attempt goes on.
``conduct`` drives the runs of a sweep from a small container, so that none waits for the laptop that asked for them.
"""

from __future__ import annotations

import os
import traceback
from typing import Any

import modal

from emergence.errors import STOPPED, EmergenceError, RunDirectoryError
from emergence.experiment.run_directory import STATS_FILE
from emergence.plain import plain
from emergence.remote import calls, container
from emergence.remote.mirror import VolumeMirror, copy_new_folders
from emergence.spec.experiment import ExperimentSpec
from emergence.studies.cka.analyse import AnalysisFlags
from emergence.sweep.conductor import conduct as run_conductor
from emergence.sweep.graph import Graph, Status, Task

MODELS_VOLUME, DATA_VOLUME = "llm-models", "llm-training-data"
#: Where a conductor publishes the states of its sweep, by the sweep's name.
SWEEPS = "emergence-sweeps"
#: The working copy is published to the volume this often.
COMMIT_SECONDS = float(os.environ.get("EMERGENCE_COMMIT_SECONDS", "60"))
#: Where an analysis writes in a run directory.
ANALYSIS_FOLDER = "analysis"
#: Attempts in a row that fail without publishing anything before a run gives up (Modal would go on).
FRUITLESS_ATTEMPTS = 3

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
        "pyarrow==26.0.1",
        "tqdm==4.70.1",
    )
    .env({"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1"})
    .add_local_python_source("emergence")  # last, so that editing a file rebuilds nothing
)
app = modal.App("emergence", image=image, include_source=False)
models_volume = modal.Volume.from_name(MODELS_VOLUME, create_if_missing=True)
data_volume = modal.Volume.from_name(DATA_VOLUME, create_if_missing=True)
sweeps = modal.Dict.from_name(SWEEPS, create_if_missing=True)
# The laptop's own token where it has one, else nothing in it. The object is always there: what the app is
# made of may not depend on where the file is imported.
hub_token = modal.Secret.from_dict({"HF_TOKEN": os.environ.get("HF_TOKEN")})

_COMMON: dict[str, Any] = {
    "volumes": {"/models": models_volume, "/data": data_volume},
    "secrets": [hub_token],
    "timeout": container.ATTEMPT_SECONDS,
    "single_use_containers": True,
}


class AttemptOver(RuntimeError):
    """An attempt ended by itself before Modal's time limit; Modal's retry goes on from its checkpoint."""


# In the containers ------------------------------------------------------------------------------


@app.function(cpu=4.0, memory=16 * 1024, retries=modal.Retries(max_retries=3, initial_delay=5.0), **_COMMON)
def prepare(job: dict[str, Any]) -> dict[str, Any]:
    """Reserve the run, prepare its data and start training. Returns ``{"call": id}`` or ``{"error": ...}``."""
    container.log_to_stdout()
    run_id, me = job["run_id"], modal.current_function_call_id() or ""
    try:
        entry = calls.reserve(run_id, me)
        if not entry["train"]:
            try:
                text = _prepare(ExperimentSpec.from_dict(job["spec"]), run_id, job.get("trunk"))
            except EmergenceError:
                calls.locks.pop(run_id, None)
                raise
    except EmergenceError as error:
        return _answer(error)
    if not entry["train"]:  # else an earlier attempt of this very call came this far
        resources = {"gpu": job["gpu"], "cpu": job["cpu"], "memory": job["memory"]}
        if job.get("secrets"):  # they take the place of the function's own
            resources["secrets"] = [hub_token, *map(modal.Secret.from_name, job["secrets"])]
        if "max_containers" in job:  # one of a sweep's
            resources["max_containers"] = job["max_containers"]
        entry["train"] = train.with_options(**resources).spawn({**job, "holder": me, "text": text}).object_id
        calls.locks.put(run_id, entry)
    return {"call": entry["train"]}


@app.function(gpu="A10G", retries=modal.Retries(max_retries=10, initial_delay=5.0), **_COMMON)
def train(job: dict[str, Any]) -> dict[str, Any]:
    """Make one attempt at a run on the GPU. Returns ``{"results": headline}`` or ``{"error": ...}``."""
    container.log_to_stdout()
    run_id, spec = job["run_id"], ExperimentSpec.from_dict(job["spec"])
    if (container.MODELS / run_id / STATS_FILE).exists():  # finished, and then the container was lost
        return {"results": container.headline(container.MODELS / run_id)}
    entry = calls.locks.get(run_id) or {}
    if entry.get("holder") != job["holder"]:
        return _answer(RunDirectoryError(f"{run_id} is in use by another launch: wait for it, or stop it"))
    folder = container.working_copy(spec, run_id, job.get("trunk"), job.get("text"))
    mirror = VolumeMirror(folder, container.MODELS / run_id, models_volume.commit, COMMIT_SECONDS)
    mirror.adopt()
    try:
        with container.attempt_switch(mirror.hurry) as stop:
            container.bring_data(spec)
            devices = int(job["gpu"].partition(":")[2] or 1)
            if devices > 1:
                container.run_on_devices(job, devices, stop)
            else:
                container.run_in_process(job, stop, mirror.request)
        answer = {"results": container.headline(folder)}
    except EmergenceError as error:
        mirror.close()
        if error.exit_code == STOPPED:
            if stop.requests:
                raise KeyboardInterrupt from None  # Modal restarts the same input in another container
            raise AttemptOver(f"{run_id}: the time limit is near; the next attempt goes on from here") from None
        answer = _answer(error)
    except Exception as error:
        entry["fruitless"] = 0 if mirror.publications else entry["fruitless"] + 1
        calls.locks.put(run_id, entry)
        if entry["fruitless"] < FRUITLESS_ATTEMPTS:
            raise
        traceback.print_exc()
        answer = _answer(EmergenceError(f"{run_id} failed {FRUITLESS_ATTEMPTS} times without getting on: {error!r}"))
    finally:
        mirror.close()
    calls.locks.pop(run_id, None)
    return answer


@app.function(gpu="A10G", retries=modal.Retries(max_retries=3, initial_delay=5.0), **_COMMON)
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
def conduct(name: str, launch: str) -> dict[str, int]:
    """Start and watch the calls of a sweep until all have ended. Returns the number of tasks by state.

    Args:
        name: The sweep's name. launch: What is to be done is in the table of sweeps under ``NAME/LAUNCH``.
    """
    container.log_to_stdout()
    sweep, states = dict(sweeps.get(f"{name}/{launch}")), dict(sweeps.get(name))["states"]
    tasks = [Task.from_dict(raw) for raw in sweep["tasks"]]
    graph = Graph(tasks, {key: Status.from_dict(raw) for key, raw in states.items()})

    def publish(task: Task) -> None:
        sweeps.put(name, {"launch": launch, "states": plain(graph.status)})

    with container.attempt_switch(lambda: None) as stop:
        if not run_conductor(graph, calls.Calls(sweep["jobs"], prepare), sweep["limit"], publish, stop):
            if stop.requests:
                raise KeyboardInterrupt  # Modal restarts the same input in another container
            raise AttemptOver(f"{name}: the time limit is near; the next attempt goes on from here")
    return graph.counts()


def _prepare(spec: ExperimentSpec, run_id: str, trunk: str | None) -> str | None:
    """Check all that the run reads, cache it on the data volume, and make an empty run directory.

    What the run would raise is raised here, before a GPU is rented. Returns the fingerprint of the pretraining text.
    """
    from emergence.experiment.inputs import read_inputs, refuse_changed_text
    from emergence.experiment.store import RunStore

    container.working_copy(spec, run_id, trunk)
    container.bring_data(spec)
    text = read_inputs(spec, RunStore(container.RUNS), container.CACHE).fingerprints["text"]
    refuse_changed_text(RunStore(container.RUNS), trunk, text)
    if copy_new_folders(container.CACHE, container.DATA / "cache"):
        data_volume.commit()
    volume = RunStore(container.MODELS)
    if not volume.exists(run_id):  # from here on it is listed, and can be resumed
        volume.create(spec, run_id=run_id)
        models_volume.commit()
    return text


def _answer(error: EmergenceError) -> dict[str, Any]:
    """A user error as a result, because Modal would retry one that is raised."""
    return {"error": str(error), "exit_code": error.exit_code}
