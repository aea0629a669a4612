"""Damage to a run before it is sealed, and whole files of another run put into it: neither may be certified.

Every case is a copy of a run that was stopped; the same command then goes on, and says in one line why it does not.
"""

from __future__ import annotations

import functools
import logging
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from emergence.errors import EmergenceError, RunDirectoryError, WeightsError
from emergence.experiment.belonging import load_own
from emergence.experiment.run import run_experiment
from emergence.experiment.run_directory import HISTORY_FILE, TRUNK_FILE, RunDirectory
from emergence.experiment.store import RunStore
from emergence.experiment.verification import verify_run
from emergence.files import read_json, read_sealed, seal, unseal, write_json_atomic
from emergence.studies.trunks import read_timeline
from emergence.training.checkpoint import Checkpointer, load_weights, save_weights
from emergence.training.identity import note_older
from emergence.training.recording import StopRequested
from tests.small_runs import NAME, micro_spec

#: Specs of the smallest run, without what no test here asks about.
a_spec = functools.partial(micro_spec, "probe.validity=false")
WHEN: dict[str, tuple[str, dict[str, Any]]] = {  # when it is stopped, and what it is a run of
    "pretraining": ("pretrain_step_1.pth", {}),
    "finetuning": ("finetune_epoch_1.pth", {}),
    "probing": (TRUNK_FILE, {"freeze_llm": True}),
}


class Stopped:
    """A run that was stopped when a file was there, and copies of it."""

    def __init__(self, root: Path, cache: Path, until: str, flags: dict[str, Any]) -> None:
        self.root, self.cache, self.flags, self.copies = root, cache, flags, 0
        self.run(root, lambda: (root / NAME / until).exists())

    def run(self, root: Path, should_stop: Callable[[], bool] = lambda: False) -> RunDirectory:
        spec = a_spec(**self.flags)
        try:
            run_experiment(spec, RunStore(root), cache_dir=self.cache, run_id=NAME, should_stop=should_stop)
        except StopRequested:
            assert not (root / NAME / "finetune_stats.json").exists()
        return RunStore(root).open(NAME)

    def copy(self) -> RunDirectory:
        self.copies += 1
        root = self.root.with_name(f"{self.root.name}-{self.copies}")
        shutil.copytree(self.root, root)
        return RunStore(root).open(NAME)

    def refused(self, run: RunDirectory, kind: type[EmergenceError], *words: str) -> None:
        with pytest.raises(kind) as caught:
            self.run(run.path.parent)
        assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value), caught.value
        assert not run.is_finished and not (run.path / "MANIFEST.json").exists()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Stopped]:
    root, made = tmp_path_factory.mktemp("stopped"), {}

    def get(when: str) -> Stopped:
        if when not in made:
            made[when] = Stopped(root / when, root / "cache", *WHEN[when])
        return made[when]

    return get


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunDirectory]:
    """Finished runs that differ from the stopped ones in one thing."""
    root, made = tmp_path_factory.mktemp("others"), {}
    kinds: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
        "seed": ((), {"seed": 1}),
        "size": (("model.hidden_size=16",), {}),
        "tokenizer": (("microworld.text_documents=11",), {}),
        "random": ((), {"random_baseline": True}),
        "same": ((), {}),
    }

    def get(kind: str) -> RunDirectory:
        if kind not in made:
            extra, flags = kinds[kind]
            store = RunStore(root / kind)
            run_experiment(a_spec(*extra, **flags), store, cache_dir=root / "cache", run_id=NAME)
            made[kind] = store.open(NAME)
        return made[kind]

    return get


def change_digit(path: Path, of: str = '"loss":') -> None:
    """Another digit behind the first ``of``: still JSON, of the same length."""
    text = path.read_text()
    place = re.compile(re.escape(of) + r"\d*\.\d*?([1-9])").search(text)
    assert place is not None
    at = place.start(1)
    path.write_text(text[:at] + str(10 - int(text[at]) if text[at] != "5" else 6) + text[at + 1 :])


@pytest.mark.parametrize("when", WHEN)
def test_a_changed_digit_of_an_unfinished_history_is_not_certified(stopped: Any, when: str) -> None:
    for of in ('"loss":', '"grad_norm":', '"passes":'):
        run = stopped(when).copy()
        change_digit(run.path / HISTORY_FILE, of)
        stopped(when).refused(run, RunDirectoryError, HISTORY_FILE, "--fresh")


@pytest.mark.parametrize("name", ["history.jsonl", "data.json"])
def test_damaged_records_are_refused_before_anything_is_read_or_written(stopped: Any, name: str) -> None:
    run = stopped("finetuning").copy()
    (run.path / name).write_bytes((run.path / name).read_bytes()[:-40])
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    times = {path: path.stat().st_mtime_ns for path in before}
    cache = run.path.parent / ".cache"
    for run_id in (NAME, None):  # named, or found by its content
        with pytest.raises(RunDirectoryError, match=name):
            run_experiment(a_spec(), RunStore(run.path.parent), cache_dir=cache, run_id=run_id)
    assert not cache.exists() and times == {p: p.stat().st_mtime_ns for p in run.path.rglob("*") if p.is_file()}
    assert before == {path: path.read_bytes() for path in before}


def test_a_history_that_changes_while_the_run_is_at_work_is_not_certified(stopped: Any) -> None:
    whole = stopped("finetuning")
    run, done = whole.copy(), []

    def change() -> bool:
        if not done:
            done.append(change_digit(run.path / HISTORY_FILE))
        return False

    with pytest.raises(RunDirectoryError, match=HISTORY_FILE):
        whole.run(run.path.parent, change)
    assert done and not run.is_finished
    run = whole.copy()
    (run.path / HISTORY_FILE).unlink()
    whole.refused(run, RunDirectoryError, HISTORY_FILE)


def test_a_pretraining_that_was_killed_before_its_result_checks_its_history(stopped: Any, tmp_path: Path) -> None:
    """Nothing of it is computed again, so nothing would have looked at the history."""
    flags = {"skip_finetune": True}
    run = RunStore(tmp_path)
    run_experiment(a_spec(**flags), run, cache_dir=stopped("pretraining").cache, run_id=NAME)
    for name in ("finetune_stats.json", "MANIFEST.json"):
        (tmp_path / NAME / name).unlink()
    change_digit(tmp_path / NAME / HISTORY_FILE)
    with pytest.raises(RunDirectoryError, match=HISTORY_FILE):
        run_experiment(a_spec(**flags), run, cache_dir=stopped("pretraining").cache, run_id=NAME)


@pytest.mark.parametrize("kind", ["seed", "size", "tokenizer", "random"])
def test_a_trunk_of_another_run_is_refused(stopped: Any, others: Any, kind: str) -> None:
    words = {"size": "hidden_size", "random": "random"}.get(kind, kind)
    for when in WHEN if kind == "seed" else ["probing"]:
        run = stopped(when).copy()
        shutil.copy(others(kind).trunk_path, run.trunk_path)
        stopped(when).refused(run, WeightsError, TRUNK_FILE, words)


def test_weights_of_another_stage_or_step_are_refused(stopped: Any, others: Any) -> None:
    same, whole = others("same"), stopped("finetuning")
    for source, name, words in [
        (same.finetuned_path, TRUNK_FILE, "its weights are finetuned"),
        (same.path / "finetune_epoch_1.pth", TRUNK_FILE, "its weights are finetuned"),
        (same.path / "pretrain_step_3.pth", "pretrain_step_0.pth", "it was saved as pretrain_step_3"),
        (same.trunk_path, "finetune_epoch_1.pth", "its weights are pretrained"),
        (same.finetuned_path, "pretrain_step_1.pth", "its weights are finetuned"),
        (same.path / "pretrain_step_0.pth", TRUNK_FILE, "it was saved as pretrain_step_0"),
        (same.trunk_path, "pretrain_step_1.pth", "it was saved as toy_llm_unified_pretrained"),
        (same.finetuned_path, "finetune_epoch_1.pth", "it was saved as toy_llm_qasrl_finetuned"),
        (same.path / "finetune_epoch_2.pth", "finetune_epoch_1.pth", "it was saved as finetune_epoch_2"),
    ]:
        run = whole.copy()
        shutil.copy(source, run.path / name)
        with pytest.raises(WeightsError, match=words):
            load_own(run, run.path / name)
    whole.refused(run, WeightsError, name, words)


@pytest.mark.parametrize("names", [("finetune_stats.json",), ("finetune_stats.json", "MANIFEST.json")])
def test_the_result_of_another_run_does_not_finish_a_run(stopped: Any, others: Any, names: tuple[str, ...]) -> None:
    whole = stopped("finetuning")
    told: list[str] = []
    for kind, says in (("seed", "seed"), ("same", "run_id")):
        run = whole.copy()
        before = {path: path.read_bytes() for path in run.path.rglob("*.*") if path.is_file()}
        for name in names:
            shutil.copy(others(kind).path / name, run.path)
        if kind == "same":  # of the same experiment, but of another attempt
            stats = unseal(read_json(run.stats_path), "stats")
            write_json_atomic(run.stats_path, seal({**stats, "run_id": "Other"}))
            (run.path / "MANIFEST.json").unlink(missing_ok=True)
        with pytest.raises(
            RunDirectoryError, match=rf"finetune_stats\.json is not of this run: its {says}.*remove it"
        ) as caught:
            whole.run(run.path.parent)
        with pytest.raises(RunDirectoryError, match="not of this run"):  # found by its content, and not called finished
            store = RunStore(run.path.parent)
            run_experiment(a_spec(), store, cache_dir=whole.cache, on_open=lambda run, what: told.append(what))
        assert not told
        assert caught.value.exit_code == 2 and before == {path: path.read_bytes() for path in before}
        for name in names:
            (run.path / name).unlink(missing_ok=True)
        assert not run.is_finished


def test_an_edited_spec_is_another_experiment(stopped: Any) -> None:
    """Sealed again, and with the id that it had: nothing of it may be certified."""
    whole = stopped("finetuning")
    run = whole.copy()
    content = read_sealed(run.path / "spec.json")
    content["spec"]["config"]["finetune"]["head_lr"] = 0.5
    write_json_atomic(run.path / "spec.json", seal(content))
    edited = RunStore(run.path.parent).open(NAME)
    assert edited.experiment_id == edited.spec.experiment_id != content["experiment_id"]
    whole.refused(edited, EmergenceError, "another experiment")
    assert RunStore(run.path.parent).find_unfinished(a_spec()) is None


def test_a_damaged_spec_beside_checkpoints_is_named_when_a_run_begins_anew(
    stopped: Any, caplog: pytest.LogCaptureFixture
) -> None:
    whole = stopped("pretraining")
    run = whole.copy()
    (run.path / "spec.json").write_text("{}")
    with pytest.raises(StopRequested):
        store = RunStore(run.path.parent)
        run_experiment(a_spec(), store, cache_dir=whole.cache, should_stop=lambda: True)
    (warning,) = (record.getMessage() for record in caplog.records if "spec.json" in record.getMessage())
    assert str(run.path) in warning and "put back" in warning and (run.path / "checkpoint").is_dir()


@pytest.mark.parametrize("kind", ["seed", "size", "tokenizer"])
def test_a_snapshot_of_another_run_is_refused(stopped: Any, others: Any, kind: str) -> None:
    """The run itself never reads it again: it would be certified, and studies would put it on the run's timeline."""
    whole, name = stopped("finetuning"), "pretrain_step_1.pth"
    run = whole.copy()
    shutil.copy(others(kind).path / name, run.path / name)
    with pytest.raises(WeightsError, match=name):
        read_timeline(run)
    whole.refused(run, WeightsError, name, {"size": "hidden_size"}.get(kind, kind))


@pytest.mark.parametrize("kind", ["seed", "size", "tokenizer"])
def test_a_checkpoint_of_another_run_is_refused(stopped: Any, others: Any, kind: str) -> None:
    whole = stopped("pretraining")
    run, other = whole.copy(), others(kind)
    newest = max((run.path / "checkpoint").iterdir())
    content = Checkpointer(run.path / "checkpoint").load("pretrain")
    assert content is not None
    other.checkpointer(identity=other.identity()).save("pretrain", content.step, content.state)
    (theirs,) = (other.path / "checkpoint").iterdir()
    shutil.move(theirs, newest)
    whole.refused(run, WeightsError, newest.name, kind, "another run")


def test_a_bit_of_a_snapshot_that_nothing_reads_again_is_not_certified(stopped: Any) -> None:
    whole, name = stopped("finetuning"), "pretrain_step_0.pth"
    run = whole.copy()
    content = bytearray((run.path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (run.path / name).write_bytes(bytes(content))
    whole.refused(run, WeightsError, name, "damaged")


def test_an_unfinished_run_is_verified_by_its_seals_names_and_digests(stopped: Any, others: Any) -> None:
    whole, seed = stopped("finetuning"), others("seed")
    newest = max((whole.root / NAME / "checkpoint").iterdir())
    flip: Callable[[Path], object] = lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x")  # noqa: E731
    for name, change in {
        HISTORY_FILE: change_digit,
        "timings.jsonl": lambda path: path.write_text(path.read_text().replace("kind", "bind", 1)),
        TRUNK_FILE: lambda path: shutil.copy(seed.trunk_path, path),
        "pretrain_step_0.pth": lambda path: shutil.copy(seed.path / path.name, path),
        "data.json": flip,
        "spec.json": flip,
        f"checkpoint/{newest.name}": flip,
    }.items():
        run = whole.copy()
        checked = verify_run(run.path)
        assert checked.state == "unfinished" and not checked.damaged
        change(run.path / name)
        assert [file.name for file in verify_run(run.path).damaged] == [name]


def test_a_trunk_that_is_taken_from_a_run_is_that_runs_own(stopped: Any, others: Any, tmp_path: Path) -> None:
    """By content, or by its path: both ways lead into the folder of another run."""
    store, cache = RunStore(tmp_path), stopped("pretraining").cache
    shutil.copytree(others("same").path, tmp_path / NAME)
    shutil.copy(others("seed").trunk_path, tmp_path / NAME / TRUNK_FILE)
    given = {"skip_pretrain": True, "pretrained_model_path": f"{NAME}/{TRUNK_FILE}"}
    for flags in (given, {"skip_pretrain": True, "finetune_samples": 5}):
        with pytest.raises(WeightsError, match="seed is 1, this run's 0"):
            run_experiment(a_spec(**flags), store, cache_dir=cache, fresh=True)
    shutil.copy(tmp_path / NAME / TRUNK_FILE, tmp_path / NAME / "mine.pth")  # a name of nobody's: a file like any other
    spec = a_spec(skip_pretrain=True, pretrained_model_path=f"{NAME}/mine.pth")
    run_experiment(spec, store, cache_dir=cache)
    run_experiment(a_spec(freeze_llm=True), store, cache_dir=cache)  # pretrains its own instead
    (frozen,) = (run for run in store.runs() if run.spec.freeze_llm)
    assert all(torch.equal(a, b) for a, b in zip(*_states(frozen, others("same")), strict=True))


def _states(*runs: RunDirectory) -> list[list[torch.Tensor]]:
    return [list(load_weights(run.trunk_path).state_dict.values()) for run in runs]


def test_the_trunk_of_the_same_pretraining_is_as_good_as_its_own(stopped: Any, others: Any) -> None:
    run = stopped("probing").copy()
    shutil.copy(others("same").trunk_path, run.trunk_path)
    for path in (run.path / "checkpoint").iterdir():
        path.unlink()
    stopped("probing").run(run.path.parent)
    assert run.is_finished and run.verify_manifest() == []


@pytest.mark.parametrize("when", WHEN)
def test_files_of_an_earlier_version_are_gone_on_with(
    stopped: Any, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Without identities and digests; said once."""
    run = stopped(when).copy()
    for path in run.path.glob("*.pth"):
        weights = load_weights(path)
        metadata = {k: v for k, v in weights.metadata.items() if k not in ("identity", "history_sha256")}
        save_weights(path, replace(weights, metadata=metadata))
    older = Checkpointer(run.path / "checkpoint")
    checkpoint = older.load()
    assert checkpoint is not None
    older.clear()
    older.save(checkpoint.phase, checkpoint.step, {**checkpoint.state, "history": checkpoint.state["history"]["bytes"]})
    note_older.cache_clear()
    with caplog.at_level(logging.INFO):
        stopped(when).run(run.path.parent)
    assert run.is_finished and run.verify_manifest() == []
    assert sum("earlier version" in record.message for record in caplog.records) == 1
