"""What happens inside a Modal container, without importing Modal: folders, stopping, one process or several.

The working copy of a run and all caches lie on the container's own disk. Files are only copied from the volumes and to
them, because a volume may not have open or memory-mapped files while it commits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emergence.data.cache import share_with
from emergence.errors import DataError, EmergenceError, GpuFailedError, RunDirectoryError
from emergence.experiment import source_commit
from emergence.experiment.stop_switch import StopSwitch
from emergence.files import TEMPORARY_SUFFIX, name_within
from emergence.remote import kernels
from emergence.remote.attempts import heard
from emergence.remote.mirror import copy_file, copy_new_folders, copy_tree
from emergence.remote.published import bring_model
from emergence.remote.volume_cache import VolumeCache
from emergence.spec.experiment import ExperimentSpec
from emergence.studies.cka.analyse import AnalysisFlags, analyse

if TYPE_CHECKING:
    from emergence.experiment.run_directory import RunDirectory

logger = logging.getLogger(__name__)

#: A container's root. It is another folder only where a test runs containers on its own machine.
ROOT = Path(os.environ.get("EMERGENCE_CONTAINER_ROOT", "/"))
#: Where the volumes are mounted, and the container's own disk.
MODELS, DATA, WORK = ROOT / "models", ROOT / "data", ROOT / "work"
PULSE = WORK / "pulse"
RUNS, CACHE, FILES, KERNELS = WORK / "runs", WORK / "cache", WORK / "files", WORK / "kernels"
HUB_HOME = WORK / "huggingface"

#: Modal's longest time limit for an attempt, and how long before its limit an attempt saves and stops by itself.
ATTEMPT_SECONDS, SPARE_SECONDS = 24 * 3600, 15 * 60
#: Scores that a launch prints. The run directory holds everything.
SHOWN_SCORES = ("best_validation_loss", "final_validation_accuracy", "final_validation_f1")


def attempt_switch(on_interrupt: Callable[[], None], timeout: float = ATTEMPT_SECONDS) -> StopSwitch:
    """``should_stop`` of an attempt: true after SIGINT (Modal's notice of preemption) and near the time limit."""
    limit = float(os.environ.get("EMERGENCE_ATTEMPT_SECONDS", timeout - min(SPARE_SECONDS, timeout / 4)))
    return StopSwitch(on_interrupt, signals=[signal.SIGINT], seconds=limit)


def working_copy(spec: ExperimentSpec, run_id: str, trunk: str | None = None, text: str | None = None) -> Path:
    """Copy a run as last published, and what it needs of other runs, to local disk. Returns its folder.

    Args:
        trunk: The run whose trunk a sweep means it to take.
        text: Fingerprint of its pretraining text, if that has been read already.

    Raises:
        WeightsError: The weights the spec names are not on the volume.
    """
    from emergence.experiment.run_directory import DATA_FILE, SPEC_FILE, STATS_FILE, TRUNK_FILE
    from emergence.experiment.store import RunStore

    RUNS.mkdir(parents=True, exist_ok=True)
    if (MODELS / run_id).exists():
        copy_tree(MODELS / run_id, RUNS / run_id)
    needed = []
    if spec.pretrained_model_path:
        needed.append(RunStore(MODELS).resolve_weights(spec.pretrained_model_path))
    elif spec.at_snapshot:
        volume = RunStore(MODELS)
        source = volume.find_snapshots(spec) or (volume.find_snapshots(spec, text) if text else None)
        # Which of them is meant follows from all of them, and that the pretraining is done from its trunk.
        needed += [source.trunk_path, *source.pretraining_steps().values()] if source else []
    elif not spec.random_baseline and not spec.model:
        volume = RunStore(MODELS)
        sources = [volume.open(trunk)] if trunk else [volume.find_pretrained(spec.pretrain_id)]
        sources += [volume.find_pretrained_on(text, spec)] if text else []
        needed += [source.path / TRUNK_FILE for source in sources if source]
    for path in needed:
        folder = name_within(path.parent, MODELS)
        if folder is not None and folder != run_id:
            for name in (SPEC_FILE, DATA_FILE, STATS_FILE, path.name):
                if (path.parent / name).exists():
                    copy_file(path.parent / name, RUNS / folder / name)
    return RUNS / run_id


def bring_data(spec: ExperimentSpec) -> None:
    """Copy the files and the model that flags name from the data volume, and enter their folder for relative paths.

    A model of the hub that is not on the volume is left to be fetched. Of the cache on the volume that is copied which
    the run looks for, when it does.

    Raises:
        DataError: A named file is not on the volume.
    """
    os.environ["HF_HOME"] = str(HUB_HOME)
    for folder in (CACHE, FILES):
        folder.mkdir(parents=True, exist_ok=True)
    share_with(VolumeCache(CACHE, DATA / "cache"))
    for name in (spec.pretrain_text, spec.nq_data, spec.qa_data):
        if name is None or Path(name).is_absolute():
            continue
        source = DATA / name
        if source.is_dir():
            copy_tree(source, FILES / name)
        elif source.is_file():
            copy_file(source, FILES / name)
        else:
            raise DataError(f"{name} is not on the volume: modal volume put llm-training-data {name} {name}")
    if spec.model:
        bring_model(spec.model, spec.revision, DATA, FILES, HUB_HOME)
    os.chdir(FILES)


def bring_kernels(spec: ExperimentSpec, gpu: str) -> set[str]:
    """Let Triton find the kernels that a run like this one compiled before. Returns their names."""
    os.environ[kernels.VARIABLE] = str(KERNELS)
    return kernels.bring(_kernel_archive(spec, gpu), KERNELS) if spec.pretrains else set()


def keep_derived(spec: ExperimentSpec, gpu: str, known: set[str], commit: Callable[[], object]) -> None:
    """Publish on the data volume what a run derived: folders of the cache, and kernels besides the ``known`` ones.

    A failure is a warning, because it costs the next run some time and this one nothing.
    """
    try:
        new = copy_new_folders(CACHE, DATA / "cache")
        if kernels.keep(KERNELS, _kernel_archive(spec, gpu), known) or new:
            commit()
    except Exception as error:  # of whatever type the client of a volume raises
        logger.warning("not kept for the next run: %s: %s", type(error).__name__, error)


def _kernel_archive(spec: ExperimentSpec, gpu: str) -> Path:
    return DATA / "kernels" / kernels.archive_name(spec, gpu)


def run_in_process(job: dict[str, Any], stop: Callable[[], bool], on_commit: Callable[[], None] | None = None) -> None:
    """Run a job's experiment in this process. ``on_commit`` is called after each checkpoint."""
    from emergence.experiment.run import run_experiment
    from emergence.experiment.store import RunStore
    from emergence.report.terminal import describe_result
    from emergence.training.live_sinks import open_sink
    from emergence.training.recording import TerminalProgress

    if "source" in job:  # absent where an older laptop launched it
        os.environ[source_commit.VARIABLE] = json.dumps(job["source"])
    with open_sink(usable_sink(job.get("log"))) as wrap_recorder:
        result = run_experiment(
            ExperimentSpec.from_dict(job["spec"]),
            RunStore(RUNS),
            cache_dir=CACHE,
            run_id=job["run_id"],
            fresh=job["fresh"],
            trunk=job.get("trunk"),
            should_stop=heard(PULSE, stop),
            alive=heard(PULSE, lambda: False),
            on_commit=on_commit,
            on_open=_announce,
            progress=TerminalProgress(),
            wrap_recorder=wrap_recorder,
        )
    if result is not None:
        logger.info("result\n%s", describe_result(result, Path("llm-models")))


def usable_sink(name: str | None) -> str | None:
    """The live log ``name``, with its package fetched into this container; None where there is no package, or no log.

    Of several workers the first logs. A log only watches, so that what it lacks ends no run.
    """
    if name is None or os.environ.get("RANK", "0") != "0":
        return None
    if importlib.util.find_spec(name) is None:
        fetched = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", name], check=False)
        importlib.invalidate_caches()
        if fetched.returncode != 0 or importlib.util.find_spec(name) is None:
            logger.warning("the run goes on without --log %s, whose package could not be installed", name)
            return None
    return name


def signs_of_life(folder: Path) -> object:
    """What changes while a run in ``folder`` gets on. A step and a scored batch leave a pulse, and
    whatever else is done, a file.

    Temporary files of the run do not count: its lock, one of them, is renewed by a thread that outlives a hang.
    """
    # os.walk passes over a folder that goes away meanwhile.
    of_run = [Path(at, name) for at, folders, files in os.walk(folder) for name in (*folders, *files)]
    of_cache = [Path(at, name) for at, folders, files in os.walk(CACHE) for name in (*folders, *files)]
    states = []
    for path in (PULSE, *(path for path in of_run if not path.name.endswith(TEMPORARY_SUFFIX)), *of_cache):
        with contextlib.suppress(OSError):
            stat = path.stat()
            states.append((str(path), stat.st_size, stat.st_mtime_ns))
    return states


def copy_of_run(run_id: str) -> None:
    """Put a run from the volume on local disk.

    Raises:
        RunDirectoryError: It is not there.
    """
    from emergence.experiment.store import RunStore

    if not RunStore(MODELS).exists(run_id):
        raise RunDirectoryError(f"there is no run {run_id!r} on the volume: --list-saved shows what there is")
    copy_tree(MODELS / run_id, RUNS / run_id)


def run_analysis(flags: AnalysisFlags) -> str:
    """Temporal CKA of local copies of runs. Returns its summary."""
    from emergence.experiment.store import RunStore

    store = RunStore(RUNS)
    run = store.open(flags.model_dir)
    bring_data(dataclasses.replace(run.spec, qa_data=flags.qa_data or run.spec.qa_data, pretrain_text=None))
    return analyse(flags, lambda name: store.open(name).path, CACHE).summary()


def _announce(run: RunDirectory, what: str) -> None:
    begun = (run.path / "history.jsonl").exists()
    logger.info("%s run %s", "new" if what == "resumed" and not begun else what, run.run_id)


def run_on_devices(job: dict[str, Any], devices: int, stop: Callable[[], bool]) -> None:
    """Run a job's experiment on several devices of this container. torchrun starts a worker for each device.

    One file tells the workers to stop, and another brings their user errors back.

    Raises:
        EmergenceError: A worker met a user error, or saved and stopped on request (exit code 130).
        RuntimeError: A worker failed.
    """
    job_file, stop_file, error_file = (WORK / name for name in ("job.json", "stop", "error.json"))
    job_file.write_text(json.dumps(job), encoding="utf-8")
    for file in (stop_file, error_file):
        file.unlink(missing_ok=True)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={devices}"]
    # Its own session: SIGINT reaches the workers through the stop file, when all of them are between two steps.
    process = subprocess.Popen([*launcher, "-m", "emergence.remote.container", str(job_file)], start_new_session=True)
    try:
        while process.poll() is None:
            if stop():
                stop_file.touch()
            time.sleep(0.2)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    if error_file.exists():
        error = json.loads(error_file.read_text(encoding="utf-8"))
        raise EmergenceError(error["message"], error["exit_code"])
    if process.returncode != 0:
        raise RuntimeError(f"a worker of {job['run_id']} failed with exit code {process.returncode}; see above")


def work(job_file: Path) -> int:
    """Be one worker of :func:`run_on_devices`. Returns the exit code."""
    share_with(VolumeCache(CACHE, DATA / "cache"))
    try:
        run_in_process(json.loads(job_file.read_text(encoding="utf-8")), (WORK / "stop").exists)
    except GpuFailedError:
        raise  # a crash, which is tried again
    except EmergenceError as error:
        answer = json.dumps({"message": str(error), "exit_code": error.exit_code})
        (WORK / "error.json").write_text(answer, encoding="utf-8")
        return error.exit_code
    return 0


def headline(folder: Path) -> dict[str, Any]:
    """The documented scores in a run's ``finetune_stats.json``, for the launching terminal."""
    stats = json.loads((folder / "finetune_stats.json").read_text(encoding="utf-8"))
    return {key: stats.get(key) for key in SHOWN_SCORES}


def log_to_stdout() -> None:
    """Send the package's log lines to standard output, which Modal shows."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")


if __name__ == "__main__":
    log_to_stdout()
    sys.exit(work(Path(sys.argv[1])))
