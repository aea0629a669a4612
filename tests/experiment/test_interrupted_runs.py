"""A miniature run, killed or failed at every single write, ends as if nothing had happened."""

from __future__ import annotations

import errno
from datetime import datetime
from pathlib import Path

import pytest
import torch

from emergence.errors import RunDirectoryError
from emergence.experiment.locks import LOCK_FILE
from emergence.experiment.run_directory import MANIFEST_FILE, SPEC_FILE, TIMINGS_FILE
from emergence.experiment.store import RunDirectory, RunStore
from emergence.files import folder_files
from emergence.spec.experiment import ExperimentSpec
from emergence.training.checkpoint import WeightsFile
from tests.fault_injection import Killed, counted, failing_at, killed_at

SPEC = ExperimentSpec.from_flags(config_name="debug", data="microworld")
NOON = datetime(2025, 12, 31, 12, 0, 0)


def weights_of(value: float) -> WeightsFile:
    return WeightsFile({"w": torch.full((3,), value)}, SPEC.config.model, 64, "{}", {})


def miniature_run(store: RunStore) -> RunDirectory:
    """What run.py does, in small: create or go on, train with checkpoints, snapshot, predict, finish."""
    if finished := store.find_finished(SPEC):
        return finished
    run = store.find_unfinished(SPEC) or store.create(SPEC, NOON)
    with run.lock():
        run.record_data({"text": "f"})
        recorder, checkpointer = run.recorder(), run.checkpointer()
        found = checkpointer.load("pretrain")
        state = found.state if found else {"step": 0, "w": torch.zeros(3), "history": 0}
        recorder.rewind(state["history"])
        step, w = state["step"], state["w"]
        while step < 3:
            step, w = step + 1, w * 0.5 + step
            recorder.log("pretrain_step", step=step, loss=float(w.sum()))
            recorder.time("pretrain_step", step=step)
            if step % 2 == 1:
                run.save_snapshot(f"pretrain_step_{step}", weights_of(float(w[0])))
                checkpointer.save("pretrain", step, {"step": step, "w": w, "history": recorder.position()})
        run.save_trunk(weights_of(float(w[0])))
        run.write_predictions({"id": i, "score": float(w[0])} for i in range(2))
        run.write_stats({"final_validation_f1": 0.5})
        checkpointer.clear()
    return run


def content_of(run: RunDirectory) -> dict[str, bytes]:
    """What must be identical: all files but the wall-clock ones, what depends on them, and spent checkpoints."""
    skip = {TIMINGS_FILE, MANIFEST_FILE}
    files = [p for p in folder_files(run.path) if p.name not in skip and p.parent == run.path]
    return {path.name: path.read_bytes() for path in files}


def test_a_run_killed_at_any_write_ends_identical(tmp_path: Path) -> None:
    with counted() as whole:
        wanted = content_of(miniature_run(RunStore(tmp_path / "whole")))
    assert whole.count > 40
    for n in range(1, whole.count + 1):  # dying before change n + 1 is dying after change n
        store = RunStore(tmp_path / str(n))
        with pytest.raises(Killed), killed_at(n):
            miniature_run(store)
        assert_resumes(store, wanted)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_write_that_fails_anywhere_is_one_line_and_resumes(tmp_path: Path, number: int) -> None:
    with counted() as whole:
        wanted = content_of(miniature_run(RunStore(tmp_path / "whole")))
    for n in range(1, whole.count + 1):
        store = RunStore(tmp_path / str(n))
        try:
            with failing_at(n, number):
                miniature_run(store)
        except RunDirectoryError as error:
            assert str(store.root) in str(error) and "\n" not in str(error)
        assert_resumes(store, wanted)


def assert_resumes(store: RunStore, wanted: dict[str, bytes]) -> None:
    """The same command, started again, ends with the files of an undisturbed run."""
    for lock in store.root.glob(f"*/{LOCK_FILE}"):
        lock.unlink()  # this process lives on, unlike the one it plays
    with counted():
        run = miniature_run(store)
    # Stopped before its spec.json, a run leaves an empty folder, and the next one gets another name.
    nameless = {SPEC_FILE} if run.run_id.endswith("-2") else set()
    got = content_of(run)
    assert {k: v for k, v in got.items() if k not in nameless} == {k: v for k, v in wanted.items() if k not in nameless}
    assert run.verify_manifest() == [] and not list(run.path.glob("*.tmp"))
