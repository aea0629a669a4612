"""The listing: every stage of a run, and directories in any state of damage."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from emergence.errors import UsageError
from emergence.experiment.listing import (
    FileFacts,
    RunSummary,
    format_age,
    format_bytes,
    format_table,
    list_runs,
    summarise_run,
)
from emergence.experiment.result import RunResult
from emergence.experiment.run_directory import HISTORY_FILE, SPEC_FILE, STATS_FILE
from emergence.experiment.store import RunDirectory, RunStore
from emergence.spec.experiment import ExperimentSpec
from emergence.training.checkpoint import WeightsFile


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


def new_run(store: RunStore, **flags: Any) -> RunDirectory:
    spec = ExperimentSpec.from_flags(**{"config_name": "debug", "data": "microworld", **flags})
    return store.create(spec, datetime(2025, 12, 31, 12))


def only(store: RunStore) -> RunSummary:
    (summary,) = list_runs(store.root)
    return summary


def finish(run: RunDirectory) -> None:
    result = RunResult.from_spec(run.spec, run.run_id, final_validation_f1=0.512, final_validation_accuracy=0.25)
    run.write_stats(result.to_dict())


def test_no_runs(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "absent") == list_runs(tmp_path) == []
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="not a folder: give the folder"):
        list_runs(tmp_path / "file")


def test_a_run_through_all_its_stages(store: RunStore) -> None:
    run = new_run(store, seed=4)
    summary = only(store)
    assert (summary.stage, summary.config_name, summary.condition, summary.seed) == ("created", "debug", "full", 4)
    recorder = run.recorder()
    recorder.log("pretrain_step", step=125, loss=5.0)
    assert (only(store).stage, only(store).progress, only(store).detail) == ("pretraining", 0.25, "step 125 of 500")
    recorder.log("pretrain_plan", total_steps=250)
    recorder.log("pretrain_step", step=125)
    with (run.path / HISTORY_FILE).open("ab") as handle:
        handle.write(b'{"kind": "pretrain_st')
    assert (only(store).progress, only(store).detail) == (0.5, "step 125 of 250")
    run.save_trunk(WeightsFile({"w": torch.ones(1)}, run.spec.config.model, 64, "{}", {}))
    assert only(store).stage == "pretrained"
    run.recorder().log("finetune_search", steps=38)
    assert (only(store).stage, only(store).progress, only(store).detail) == (
        "finetuning",
        None,
        "search, 1 training done",
    )
    run.recorder().log("finetune_step", step=10, epoch=1)
    assert (only(store).progress, only(store).detail, only(store).f1) == (0.0, "epoch 1 of 3, step 10", None)
    run.recorder().log("finetune_epoch", epoch=1, validation_f1=0.25, validation_em=0.125)
    assert (only(store).progress, only(store).detail, only(store).f1) == (1 / 3, "epoch 1 of 3", 0.25)
    run.recorder().log("finetune_step", step=172, epoch=2)
    assert (only(store).progress, only(store).detail) == (1 / 3, "epoch 2 of 3, step 172")
    assert (only(store).f1, only(store).em) == (0.25, 0.125)
    run.recorder().log("probe", family="linear", layer=1)
    assert (only(store).stage, only(store).detail) == ("probing", "layer 1 of 2")
    with run.lock():
        assert only(store).running is True
        finish(run)
    done = only(store)
    assert (done.stage, done.progress, done.f1, done.em, done.running) == ("finished", 1.0, 0.512, 0.25, False)
    assert done.bytes == sum(path.stat().st_size for path in run.path.iterdir())


def test_progress_from_checkpoints_where_the_history_is_gone(store: RunStore) -> None:
    run = new_run(store)
    for step in (100, 200):
        run.checkpointer().save("pretrain", step, {})
    assert (only(store).stage, only(store).detail) == ("pretraining", "step 200 of 500")
    run.recorder().log("pretrain_step", step=190)
    assert only(store).detail == "step 200 of 500", "the checkpoint is further than the last line"
    (run.path / HISTORY_FILE).unlink()
    run.checkpointer().save("finetune", 40, {})
    assert (only(store).stage, only(store).detail, only(store).progress) == ("finetuning", "step 40", None)


def test_damaged_directories_are_listed_as_such(store: RunStore) -> None:
    def damaged(name: str, content: bytes) -> None:
        run = new_run(store)
        finish(run)
        (run.path / name).write_bytes(content)

    spec = (new_run(store).path / SPEC_FILE).read_bytes()
    for content in (b"", b"{}", b"\xff\xfe", spec[:-30], spec.replace(b"debug", b"debut"), b"[" * 100_000):
        damaged(SPEC_FILE, content)
    for content in (b"", b"{}", b"\xff", b'{"final_validation_f1": NaN}'):
        damaged(STATS_FILE, content)
    (store.root / "Empty").mkdir()
    (store.root / "Foreign").mkdir()
    (store.root / "Foreign" / "photo.jpg").write_bytes(b"x")
    (store.root / "Odd").mkdir()
    (store.root / "Odd" / SPEC_FILE).mkdir()
    (store.root / "file.txt").write_text("no run")
    (store.root / ".hidden").mkdir()
    copied = store.root / "copy (1) of\na run"  # as people and their file managers name them
    new_run(store).path.rename(copied)
    (store.root / "an empty one").mkdir()
    (store.root / "link").symlink_to(store.root / "Empty")
    summaries = list_runs(store.root)
    assert len(summaries) == 14, "a folder of photographs is no damaged run"
    assert sorted({s.stage for s in summaries}) == ["created", "damaged"]
    assert all(s.detail for s in summaries if s.stage == "damaged")
    assert sum(s.config_name == "debug" for s in summaries) == 6  # with a whole spec.json the rest is still known
    table = format_table(summaries)
    assert len(table.splitlines()) == 15 and "copy (1) of" in table
    json.dumps([s.to_dict() for s in summaries], allow_nan=False)


def test_history_of_any_content_is_survived(store: RunStore) -> None:
    run = new_run(store)
    for content in (
        b"",
        b"\n\n",
        b"\xff\n",
        b"[1]\n",
        b'{"kind": 3, "step": "x"}\n',
        b'{"kind": "pretrain_step"}\n',
        b"[" * 9999,
    ):
        (run.path / HISTORY_FILE).write_bytes(content)
        assert only(store).stage in ("created", "pretraining")


def test_a_volume_is_listed_by_the_same_code(store: RunStore) -> None:
    """Modal's client knows names, sizes and times, and can fetch a file; nothing else."""
    run = new_run(store, random_baseline=True)
    finish(run)
    files = {path.name: FileFacts(path.stat().st_size, 1e9) for path in run.path.iterdir()}
    summary = summarise_run(run.run_id, "llm-models", files, lambda name: (run.path / name).read_bytes())
    assert (summary.stage, summary.condition, summary.f1, summary.running) == ("finished", "random", 0.512, None)
    assert summary.to_dict()["updated"] == "2001-09-09T01:46:40+00:00"

    def offline(name: str) -> bytes:
        raise OSError("connection lost")

    assert summarise_run(run.run_id, "llm-models", files, offline).detail == "connection lost"


def test_the_table_reads_well(store: RunStore) -> None:
    old, new = new_run(store), new_run(store, freeze_llm=True, seed=1)
    finish(old)
    new.recorder().log("pretrain_step", step=50)
    for age, run in ((7200, old), (60, new)):
        for path in run.path.iterdir():
            os.utime(path, (1e9 - age, 1e9 - age))
    header, first, second = format_table(list_runs(store.root), now=1e9).splitlines()
    assert header.split()[:5] == ["run", "size", "condition", "seed", "stage"]
    assert first.startswith(new.run_id) and "frozen" in first and "10% step 50 of 500" in first and "1 min ago" in first
    assert (
        second.startswith(old.run_id)
        and "finished" in second
        and second.split()[5:7] == ["0.512", "0.250"]
        and "2 h ago" in second
    )


def test_ages_and_sizes() -> None:
    assert [format_age(s) for s in (-5, 0, 59, 60, 7199, 86400 * 3)] == [
        "just now", "just now", "just now", "1 min ago", "1 h ago", "3 d ago",
    ]  # fmt: skip
    assert [format_bytes(n) for n in (0, 998, 1500, 999_900, 3_400_000, 5 * 10**12)] == [
        "0 B", "998 B", "1.5 kB", "1.0 MB", "3.4 MB", "5000.0 GB",
    ]  # fmt: skip
