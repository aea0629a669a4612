"""Run directories: creation, finding, confinement, records, and resuming after a kill anywhere."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from emergence.errors import RunDirectoryError, UsageError, WeightsError
from emergence.experiment import run_directory
from emergence.experiment.manifest import MANIFEST_FILE, parse_manifest, read_manifest
from emergence.experiment.run_directory import (
    FINETUNED_FILE,
    HISTORY_FILE,
    PREDICTIONS_FILE,
    SPEC_FILE,
    STATS_FILE,
    TRUNK_FILE,
    parse_spec_file,
)
from emergence.experiment.store import RunDirectory, RunStore, find_run, made_at
from emergence.files import folder_files, read_json, seal, to_json, unseal, write_json_atomic
from emergence.spec.experiment import ExperimentSpec
from emergence.training.checkpoint import WeightsFile, load_weights
from tests.fault_injection import failing

NOON = datetime(2025, 12, 31, 12, 0, 0)


def spec_of(**flags: Any) -> ExperimentSpec:
    return ExperimentSpec.from_flags(**{"config_name": "debug", "data": "microworld", **flags})


def weights_of(value: float = 1.0) -> WeightsFile:
    return WeightsFile({"w": torch.full((3,), value)}, spec_of().config.model, 64, "{}", {"stage": "pretrained"})


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


# Creating and opening ---------------------------------------------------------------------------


def test_a_run_is_created_and_opened(store: RunStore) -> None:
    spec = spec_of(freeze_llm=True, seed=3)
    run = store.create(spec, NOON)
    assert run.run_id == "DebugQA_spe8k_frozen_seed3_20251231-120000"
    assert [path.name for path in run.path.iterdir()] == [SPEC_FILE]
    again = store.open(run.run_id)
    assert (again.spec, again.created, again.path) == (spec, "2025-12-31T12:00:00", run.path)
    assert store.exists(run.run_id) and not store.exists("Other_20250101-000000")
    assert RunDirectory.open(run.path).spec == spec


def test_a_frozen_clock_never_overwrites(store: RunStore) -> None:
    names = [store.create(spec_of(), NOON).run_id for _ in range(3)]
    base = "DebugQA_spe8k_20251231-120000"
    assert names == [base, f"{base}-2", f"{base}-3"]
    assert [run.run_id for run in store.runs()] == names[::-1]


def test_a_clock_that_jumps_back_overwrites_nothing_either(store: RunStore) -> None:
    times = [NOON, NOON - timedelta(days=1), NOON, NOON - timedelta(days=1), NOON + timedelta(days=400), NOON]
    names = [store.create(spec_of(), now).run_id for now in times]
    assert len(set(names)) == len(names) == len(list(store.runs()))
    found = store.find_unfinished(spec_of())
    assert found is not None and found.run_id == names[4], "the same one whatever the clock says now"


def test_concurrent_creators_get_different_runs(store: RunStore) -> None:
    program = f"""
import sys
from datetime import datetime
from pathlib import Path
from emergence.experiment.store import RunStore
from emergence.spec.experiment import ExperimentSpec
spec = ExperimentSpec.from_flags(config_name="debug", data="microworld")
sys.stdin.readline()
for _ in range(15):
    print(RunStore(Path({str(store.root)!r})).create(spec, datetime(2025, 12, 31, 12)).run_id)
"""
    root = Path(__file__).resolve().parents[2]
    workers = [
        subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, text=True, cwd=root) for _ in range(3)
    ]
    for worker in workers:  # all have imported by the time the last one starts
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    names = [name for worker in workers for name in worker.communicate()[0].split()]
    assert len(names) == len(set(names)) == 45 == len(list(store.runs()))


def test_a_chosen_name_is_used_once(store: RunStore) -> None:
    run = store.create(spec_of(), NOON, run_id="Mine_1")
    assert run.run_id == "Mine_1"
    with pytest.raises(RunDirectoryError, match="--resume Mine_1"):
        store.create(spec_of(), NOON, run_id="Mine_1")
    # A creation killed before its spec.json left an empty folder: it may be taken over.
    (store.root / "Mine_2").mkdir()
    (store.root / "Mine_2" / ".spec.json.12-ab.tmp").write_text("half")
    assert store.create(spec_of(), run_id="Mine_2").spec == spec_of()
    (store.root / "Mine_3").write_text("a file")
    with pytest.raises(RunDirectoryError, match="not a folder"):
        store.create(spec_of(), run_id="Mine_3")


@pytest.mark.parametrize(
    "name", ["..", ".", "", "../outside", "a/b", "/etc", "a\\b", ".hidden", "-x", "a\0b", "x" * 300, "a b", "link"]
)
def test_names_that_leave_the_root_are_refused(store: RunStore, tmp_path: Path, name: str) -> None:
    store.root.mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (store.root / "link").symlink_to(outside)
    for action in (store.open, store.exists, lambda n: store.create(spec_of(), run_id=n or "..")):
        with pytest.raises(RunDirectoryError) as caught:
            action(name)
        assert "\n" not in str(caught.value)
    assert not list(outside.iterdir()) and store.run_ids() == []


def test_missing_and_damaged_runs_say_so(store: RunStore) -> None:
    run = store.create(spec_of(), NOON)
    with pytest.raises(UsageError, match=f"did you mean {run.run_id}"):
        store.open(run.run_id[:-1] + "1")
    (store.root / "Empty").mkdir()
    with pytest.raises(RunDirectoryError, match=r"not a run directory: it has no spec\.json"):
        store.open("Empty")
    text = (run.path / SPEC_FILE).read_text()
    (run.path / SPEC_FILE).write_text(text.replace('"seed": 0', '"seed": 1'))
    with pytest.raises(RunDirectoryError, match="damaged or edited"):
        store.open(run.run_id)
    assert list(store.runs()) == [] and store.find_unfinished(spec_of()) is None
    for content, reason in [
        ({"created": "x"}, "lacks 'spec'"),
        ({"spec": {"spec_version": 9}, "created": "x"}, "version 9"),
    ]:
        with pytest.raises(RunDirectoryError, match=reason):
            parse_spec_file(json.loads(to_json(seal(content))), SPEC_FILE)


def test_a_spec_is_parsed_once_however_often_runs_are_looked_through(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []
    real = run_directory.parse_json
    monkeypatch.setattr(
        run_directory, "parse_json", lambda text, source: (parsed.append(source), real(text, source))[1]
    )
    runs = [store.create(spec_of(seed=seed), datetime(2031, 1, seed)) for seed in (1, 2, 3)]
    for _ in range(3):
        assert [run.spec.seed for run in RunStore(store.root).runs()] == [3, 2, 1]
    assert len(parsed) == 3
    file = runs[0].path / SPEC_FILE
    before, text = file.stat(), file.read_text()
    file.write_text(text.replace('"seed": 1', '"seed": 7'))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    for _ in range(2):
        with pytest.raises(RunDirectoryError, match=f"{re.escape(str(file))}: damaged or edited"):
            store.open(runs[0].run_id)
    file.write_text(text)
    assert store.open(runs[0].run_id).spec.seed == 1


def test_a_run_in_a_folder_below_is_named_with_its_path(store: RunStore) -> None:
    run = RunStore(store.root / "demo").create(spec_of(), NOON)
    with pytest.raises(UsageError) as caught:
        find_run(run.run_id, store.root)
    assert str(caught.value).endswith(f"there is {run.path}: give that path, or --runs-dir {run.path.parent}")


def test_a_refused_creation_names_the_folder(store: RunStore) -> None:
    with failing("mkdir", errno.EACCES), pytest.raises(RunDirectoryError, match=r"cannot write .*DebugQA"):
        store.create(spec_of(), NOON)


# Finding ----------------------------------------------------------------------------------------


def test_runs_are_found_by_content(store: RunStore) -> None:
    spec, other = spec_of(), spec_of(seed=1)
    assert store.find_unfinished(spec) is None
    old = store.create(spec, datetime(2024, 1, 1))
    new = store.create(spec, NOON)
    store.create(other, datetime(2026, 1, 1))
    cosmetic = spec_of(set_values=("pretrain.log_every_steps=3",))
    for same in (spec, cosmetic):
        found = store.find_unfinished(same)
        assert found is not None and found.run_id == new.run_id
    new.write_stats({"final_validation_f1": 0.5})
    finished, unfinished = store.find_finished(spec), store.find_unfinished(spec)
    assert finished is not None and finished.run_id == new.run_id
    assert unfinished is not None and unfinished.run_id == old.run_id
    renamed = new.path.rename(store.root / "renamed")
    found = store.find_finished(spec)
    assert found is not None and found.path == renamed


def test_pretrained_trunks_are_found_wherever_they_came_from(store: RunStore) -> None:
    spec = spec_of()
    assert store.find_pretrained(spec.pretrain_id) is None
    own = store.create(spec, datetime(2025, 1, 1))
    assert store.find_pretrained(spec.pretrain_id) is None, "it has not finished pretraining"
    own.save_trunk(weights_of())
    # A random trunk and one given from elsewhere share the spec's pretraining settings, not its trunk.
    random = store.create(spec_of(random_baseline=True), datetime(2025, 1, 2))
    random.save_trunk(weights_of())
    given = store.create(spec_of(skip_pretrain=True, pretrained_model_path="elsewhere.pth"), datetime(2025, 1, 3))
    given.save_trunk(weights_of())
    found = store.find_pretrained(spec.pretrain_id)
    assert found is not None and found.run_id == own.run_id
    given.write_stats({"lineage": {"pretrain_id": spec.pretrain_id}})
    found = store.find_pretrained(spec.pretrain_id)
    assert found is not None and found.run_id == given.run_id


def test_weights_paths_resolve(store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = store.create(spec_of(), NOON)
    run.save_trunk(weights_of())
    inside, documented = run.trunk_path.resolve(), f"{run.run_id}/{TRUNK_FILE}"
    assert store.resolve_weights(documented) == store.resolve_weights(documented, confined=True) == inside
    assert store.resolve_weights(str(inside)) == store.resolve_weights(str(inside), confined=True) == inside
    monkeypatch.chdir(tmp_path)
    assert store.resolve_weights(f"runs/{documented}") == inside
    elsewhere = tmp_path / "mine.pth"
    elsewhere.write_bytes(run.trunk_path.read_bytes())
    assert store.resolve_weights("mine.pth") == store.resolve_weights("./mine.pth") == elsewhere
    (run.path / "link.pth").symlink_to(elsewhere)
    for name in (FINETUNED_FILE, "finetune_epoch_1.pth"):  # which are refused, and so never offered
        (run.path / name).touch()
    other = store.create(spec_of(seed=1), NOON)
    (other.path / FINETUNED_FILE).touch()
    random = store.create(spec_of(random_baseline=True), NOON)
    random.save_trunk(weights_of())
    for given, confined, reason in [
        (random.run_id, False, "is a folder: it holds no pretrained .pth file"),
        (f"{run.run_id}/link.pth", False, "link out of"),
        ("../mine.pth", True, "leads out of"),
        (str(elsewhere), True, "leads out of"),
        (f"{run.run_id}/../../mine.pth", True, "leads out of"),
        (run.run_id, False, f"is a folder: give {run.run_id}/{TRUNK_FILE}$"),
        (other.run_id, False, "is a folder: it holds no pretrained .pth file"),
        (f"{run.run_id}/toy_llm.pth", False, f"no such file: give {run.run_id}/{TRUNK_FILE}"),
        (documented.replace("120000", "120001"), False, f"did you mean {run.run_id}/{TRUNK_FILE}"),
        ("nonsense", False, "--list-saved"),
        ("", False, "is a folder|must name"),
        ("a\0b", False, "no such file"),
        ("x" * 5000, False, "too long"),
        ("~nobody-here/x.pth", False, "no such file"),
    ]:
        with pytest.raises(WeightsError, match=reason) as caught:
            store.resolve_weights(given, confined=confined)
        assert "\n" not in str(caught.value)


# Records ----------------------------------------------------------------------------------------


def test_history_is_cut_back_to_the_checkpoint(store: RunStore) -> None:
    run = store.create(spec_of(), NOON)
    recorder = run.recorder()
    assert recorder.position() == {"bytes": 0, "sha256": hashlib.sha256().hexdigest()} and run.read_history() == []
    recorder.rewind(0)
    recorder.log("pretrain_step", step=1, loss=torch.tensor(2.0).item(), gradient=float("inf"))
    position = recorder.position()
    recorder.log("pretrain_step", step=2)
    recorder.time("pretrain_step", seconds=1.0)
    history = run.path / HISTORY_FILE
    with history.open("ab") as handle:
        handle.write(b'{"kind": "torn')
    recorder = run.recorder()
    assert [row["step"] for row in run.read_history()] == [1, 2]
    recorder.rewind(position)
    assert run.read_history() == [{"kind": "pretrain_step", "step": 1, "loss": 2.0, "gradient": None}]
    assert len(run.read_timings()) == 1 and run.read_timings()[0]["seconds"] == 1.0
    assert isinstance(position, dict)
    size = position["bytes"]
    for wrong in (size + 1, size - 1, 10**9, {**position, "bytes": size - 1}, {**position, "sha256": "0" * 64}):
        with pytest.raises(RunDirectoryError, match="damaged"):
            recorder.rewind(wrong)
    recorder.rewind(size)  # as an older checkpoint says it
    recorder.rewind(0)
    assert history.read_bytes() == b""


def test_changed_data_stops_a_resume(store: RunStore) -> None:
    run = store.create(spec_of(), NOON)
    run.record_data({"text": "a" * 64, "questions": None}, filtering={"train": {"valid_examples": 3}})
    run.record_data({"text": "a" * 64, "questions": None})
    run.record_data({"text": "a" * 64}, provenance={"route": "microworld"})
    data = run.read_data()
    assert data["fingerprints"] == {"text": "a" * 64, "questions": None}
    assert data["filtering"] == {"train": {"valid_examples": 3}} and data["provenance"] == {"route": "microworld"}
    with pytest.raises(RunDirectoryError, match=r"text \(aaaaaaaaaaaa when it began, bbbb now\).*questions \(none"):
        run.record_data({"text": "bbbb", "questions": "c"})
    assert run.read_data() == data


def test_snapshots_are_listed_in_order(store: RunStore) -> None:
    run = store.create(spec_of(), NOON)
    for name in ("finetune_epoch_2", "pretrain_step_100", "pretrain_epoch_1", "pretrain_step_20", "finetune_epoch_10"):
        run.save_snapshot(name, weights_of())
    run.save_finetuned(weights_of(2.0))
    found = [(s.phase, s.unit, s.number) for s in run.snapshots()]
    assert found == [
        ("pretrain", "epoch", 1), ("pretrain", "step", 20), ("pretrain", "step", 100),
        ("finetune", "epoch", 2), ("finetune", "epoch", 10),
    ]  # fmt: skip
    assert load_weights(run.finetuned_path).state_dict["w"][0] == 2.0
    for name in ("../x", "pretrain_epoch_1/..", "other_1", ""):
        with pytest.raises(ValueError, match="snapshot"):
            run.save_snapshot(name, weights_of())


# Manifest ---------------------------------------------------------------------------------------


def finished_run(store: RunStore) -> RunDirectory:
    run = store.create(spec_of(), NOON)
    with run.lock():
        run.recorder().log("pretrain_step", step=1)
        run.save_trunk(weights_of())
        run.write_tokenizer("{}")
        run.write_predictions([{"id": "a", "start": 1}])
        run.write_stats({"final_validation_f1": 0.5})
    return run


def test_the_manifest_covers_every_file(store: RunStore) -> None:
    run = finished_run(store)
    entries = read_manifest(run.path)
    assert set(entries) == {p.name for p in folder_files(run.path)} - {MANIFEST_FILE}
    assert STATS_FILE in entries and run.verify_manifest() == [] and run.is_finished
    for name, entry in entries.items():
        content = (run.path / name).read_bytes()
        assert entry.bytes == len(content) and entry.sha256 == hashlib.sha256(content).hexdigest()
    (run.path / "cka.json").write_text("analyses add files later")
    assert run.verify_manifest() == []
    assert run.read_predictions() == [{"id": "a", "start": 1}]


def test_every_damage_is_named(store: RunStore) -> None:
    run = finished_run(store)
    for name in [*read_manifest(run.path), MANIFEST_FILE]:
        path = run.path / name
        whole = path.read_bytes()
        for content in (whole[:-1], whole[:1], bytes([whole[0] ^ 4]) + whole[1:], whole + b" x"):
            path.write_bytes(content)
            problems = run.verify_manifest()
            assert len(problems) == 1 and name in problems[0]
        path.unlink()
        assert any(name in problem for problem in run.verify_manifest())
        path.write_bytes(whole)
    assert run.verify_manifest() == []
    predictions = run.path / PREDICTIONS_FILE
    predictions.write_text(predictions.read_text().replace("1", "2"))
    with pytest.raises(RunDirectoryError, match=r"predictions\.jsonl: damaged"):
        run.read_predictions()
    predictions.unlink()
    predictions.symlink_to("/etc/hostname")
    assert run.verify_manifest() == [f"{PREDICTIONS_FILE}: a link, which a run directory never holds"]
    with pytest.raises(RunDirectoryError, match="missing"):
        store.create(spec_of(), NOON).checked(PREDICTIONS_FILE)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "", "a\\b", "C:/x"])
def test_manifests_stay_inside_the_run(name: str) -> None:
    raw = json.loads(to_json(seal({"run_id": "x", "files": {name: {"bytes": 1, "sha256": "0"}}})))
    with pytest.raises(RunDirectoryError, match="not inside the run"):
        parse_manifest(raw, "M")


@pytest.mark.parametrize("files", [None, [], {"a": None}, {"a": {"bytes": 1}}, {"a": {"bytes": "x", "sha256": "0"}}])
def test_malformed_manifests_are_refused(files: Any) -> None:
    with pytest.raises(RunDirectoryError):
        parse_manifest(json.loads(to_json(seal({"files": files}))), "M")


def test_defaults_of_a_later_version_do_not_make_an_older_run_the_same(tmp_path: Path) -> None:
    """An older spec lacks a setting that came later; its default must not turn the run into today's."""
    store, today = RunStore(tmp_path), ExperimentSpec.from_flags(config_name="debug", data="microworld")
    run = store.create(today)
    content = unseal(read_json(run.path / "spec.json"), "spec.json")
    del content["spec"]["config"]["finetune"]["marks"]
    write_json_atomic(run.path / "spec.json", seal({**content, "experiment_id": "0123456789ab"}))
    assert store.open(run.run_id).spec == today and store.open(run.run_id).experiment_id == "0123456789ab"
    assert store.find_unfinished(today) is None


@pytest.mark.parametrize(
    "line",
    [
        '{"a": 1}',
        '{"kind": 3}',
        '{"kind": "pretrain_step"}',
        '{"kind": "pretrain_step", "step": 1, "tokens": "x"}',
        '{"kind": "finetune_epoch", "epoch": true}',
    ],
)
def test_history_lines_have_what_is_read_from_them(store: RunStore, line: str) -> None:
    """Found by damaging lines of finished runs: a report may not fail over a history."""
    run = store.create(spec_of(), NOON)
    run.recorder().log("pretrain_step", step=1, tokens=2, loss=None)
    assert len(run.read_curves()) == 1
    with (run.path / "history.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(RunDirectoryError, match=r"history\.jsonl:2: damaged"):
        run.read_curves()


def test_runs_of_one_second_are_in_the_order_they_were_made_and_older_ones_before() -> None:
    made = ["Tiny_20251231-005835", *(f"Tiny_20251231-005835-{n}" for n in range(2, 12)), "Tiny_seed1_20260101-000000"]
    shuffled = [*made[6:], *made[:6]]
    assert sorted(shuffled, key=made_at) == made
