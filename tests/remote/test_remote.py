"""What the remote functions answer, raise and leave in the lock table, without containers."""

from __future__ import annotations

import os
import re
import shutil
import signal
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import modal
import pytest

from emergence.errors import DataError, EmergenceError, RunDirectoryError
from emergence.experiment.inputs import find_matching_trunk, read_inputs
from emergence.experiment.store import RunStore
from emergence.plain import plain
from emergence.remote import app as remote
from emergence.remote import calls, container
from emergence.remote.app import AttemptOver
from emergence.remote.calls import is_going, reserve
from emergence.spec.experiment import ExperimentSpec
from emergence.sweep.graph import Status, Task
from emergence.sweep.place import Outcome
from tests.small_runs import run_small, small_spec

prepare, train = remote.prepare.local, remote.train.local
pytestmark = pytest.mark.filterwarnings("ignore:.*is executing locally and will not have access to the mounted Volume")


class Table(dict[str, Any]):
    """``modal.Dict`` as far as the lock table uses it."""

    def put(self, key: str, value: Any, *, skip_if_exists: bool = False) -> bool:
        if skip_if_exists and key in self:
            return False
        self[key] = value
        return True


class Stopped(EmergenceError):
    exit_code = 130


class World:
    """A container's surroundings: folders, lock table, volume, calls that are still going."""

    def __init__(self) -> None:
        self.locks, self.going, self.commits = Table(), set[str](), 0
        self.run: Callable[..., None] = lambda job, stop, on_commit: None
        self.spawned: list[dict[str, Any]] = []

    def commit(self) -> None:
        self.commits += 1


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    for name in ("MODELS", "DATA", "WORK"):
        monkeypatch.setattr(container, name, tmp_path / name.lower())
    container.WORK.mkdir()
    for point in (container.MODELS, container.DATA):  # as Modal mounts volumes
        volume = tmp_path / "__modal" / "volumes" / f"vo-{point.name}"
        volume.mkdir(parents=True)
        point.symlink_to(volume)
    for name in ("RUNS", "CACHE", "FILES"):
        monkeypatch.setattr(container, name, tmp_path / "work" / name.lower())
    monkeypatch.setattr(calls, "locks", world.locks)
    monkeypatch.setattr(remote, "models_volume", world)
    monkeypatch.setattr(calls, "is_going", lambda call_id: call_id in world.going)
    monkeypatch.setattr(modal, "current_function_call_id", lambda: "fc-me")
    monkeypatch.setattr(container, "bring_data", lambda spec: None)
    monkeypatch.setattr(container, "run_in_process", lambda *arguments: world.run(*arguments))
    monkeypatch.setattr(container, "log_to_stdout", lambda: None)
    return world


def job(**changes: Any) -> dict[str, Any]:
    spec = ExperimentSpec.from_flags(config_name="debug", random_baseline=True).to_dict()
    base = {"run_id": "RUN", "spec": spec, "fresh": False, "gpu": "A10G", "cpu": 1.0, "memory": 1024}
    return {**base, "holder": "fc-me", **changes}


def finish(*arguments: Any) -> None:
    folder = container.RUNS / "RUN"
    folder.mkdir(parents=True)
    (folder / "finetune_stats.json").write_text('{"final_validation_f1": 0.5, "other": [1]}')


# Training -----------------------------------------------------------------------------------------------


def test_a_finished_run_is_published_and_gives_up_its_name(world: World) -> None:
    reserve("RUN", "fc-me")
    world.run = finish
    assert train(job())["results"]["final_validation_f1"] == 0.5
    assert (container.MODELS / "RUN" / "finetune_stats.json").exists() and world.commits == 1 and not world.locks
    assert train(job())["results"]["final_validation_f1"] == 0.5  # restarted although it had finished


def test_a_user_error_is_an_answer(world: World) -> None:
    def fail(*arguments: Any) -> None:
        raise DataError("no questions")

    reserve("RUN", "fc-me")
    world.run = fail
    assert train(job()) == {"error": "no questions", "exit_code": 2} and not world.locks


def test_a_preempted_run_is_saved_and_restarted(world: World) -> None:
    def preempted(job: Any, stop: Callable[[], bool], on_commit: Any) -> None:
        (container.RUNS / "RUN" / "checkpoint").mkdir(parents=True)
        assert not stop()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        (container.RUNS / "RUN" / "checkpoint" / "1.pth").write_text("saved")
        raise Stopped("saved")

    reserve("RUN", "fc-me")
    world.run = preempted
    before = signal.getsignal(signal.SIGINT)  # ignored, where a shell runs the tests in the background
    with pytest.raises(KeyboardInterrupt):
        train(job())
    assert (container.MODELS / "RUN" / "checkpoint" / "1.pth").read_text() == "saved" and "RUN" in world.locks
    assert signal.getsignal(signal.SIGINT) is before


def test_near_the_time_limit_a_run_stops_itself(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def until_stopped(job: Any, stop: Callable[[], bool], on_commit: Any) -> None:
        assert stop()
        raise Stopped("saved")

    assert container.ATTEMPT_SECONDS - container.SPARE_SECONDS == 23.75 * 3600
    monkeypatch.setenv("EMERGENCE_ATTEMPT_SECONDS", "-1")
    reserve("RUN", "fc-me")
    world.run = until_stopped
    with pytest.raises(AttemptOver):
        train(job())
    assert "RUN" in world.locks


def test_a_crash_is_retried_until_it_is_hopeless(world: World) -> None:
    def crash(*arguments: Any) -> None:
        raise ZeroDivisionError("oh")

    def crash_later(*arguments: Any) -> None:
        (container.RUNS / "RUN").mkdir(parents=True, exist_ok=True)
        (container.RUNS / "RUN" / "history.jsonl").write_text("x" * world.commits)
        arguments[2]()
        while not world.commits:
            pass
        raise ZeroDivisionError("oh")

    reserve("RUN", "fc-me")
    world.run = crash
    for _ in range(remote.FRUITLESS_ATTEMPTS - 1):
        with pytest.raises(ZeroDivisionError):
            train(job())
    world.run = crash_later  # this one got on before it crashed
    with pytest.raises(ZeroDivisionError):
        train(job())
    assert world.locks["RUN"]["fruitless"] == 0
    world.run = crash
    for _ in range(remote.FRUITLESS_ATTEMPTS - 1):
        with pytest.raises(ZeroDivisionError):
            train(job())
    answer = train(job())
    assert answer["exit_code"] == 1 and "ZeroDivisionError" in answer["error"] and not world.locks


def test_a_run_of_another_launch_is_left_alone(world: World) -> None:
    reserve("RUN", "fc-other")
    assert "in use by another launch" in train(job())["error"]
    assert "in use by another launch" in train(job(run_id="GONE"))["error"]
    assert not list(container.MODELS.iterdir())


# Reserving ------------------------------------------------------------------------------------------------


def test_one_launch_at_a_time(world: World) -> None:
    world.going = {"fc-me"}
    mine = reserve("RUN", "fc-me")
    assert reserve("RUN", "fc-me") == mine  # the same call, restarted
    with pytest.raises(RunDirectoryError, match="RUN is being written by fc-me"):
        reserve("RUN", "fc-you")
    world.locks.put("RUN", {**mine, "train": "fc-train"})
    world.going = {"fc-train"}
    with pytest.raises(RunDirectoryError, match="RUN is being written by fc-train"):
        reserve("RUN", "fc-you")
    world.going = set()  # both have ended without saying so
    assert reserve("RUN", "fc-you")["holder"] == "fc-you"


def test_a_call_is_going_until_it_has_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, BaseException | None] = {
        "going": TimeoutError(),
        "done": None,
        "failed": ValueError("its own"),
        "timed out": modal.exception.FunctionTimeoutError(),
        "forgotten": modal.exception.OutputExpiredError(),
    }

    def call(call_id: str) -> Any:
        def get(timeout: float) -> None:
            assert timeout == 0
            if (error := answers[call_id]) is not None:
                raise error

        return types.SimpleNamespace(get=get)

    monkeypatch.setattr(modal.FunctionCall, "from_id", call)
    assert [name for name in answers if is_going(name)] == ["going"]


def test_preparing_starts_training_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    class Train:
        def with_options(self, **resources: Any) -> Train:
            assert resources == {"gpu": "A10G", "cpu": 1.0, "memory": 1024}
            return self

        def spawn(self, job: dict[str, Any]) -> Any:
            world.spawned.append(job)
            return types.SimpleNamespace(object_id="fc-train")

    monkeypatch.setattr(remote, "train", Train())
    monkeypatch.setattr(remote, "_prepare", lambda spec, run_id, trunk: "text")
    assert prepare(job()) == prepare(job()) == {"call": "fc-train"}  # as if restarted just before it answered
    assert len(world.spawned) == 1 and world.spawned[0]["holder"] == "fc-me" and world.spawned[0]["text"] == "text"


def test_the_training_call_gets_the_secrets_by_name(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    class Train:
        def with_options(self, **resources: Any) -> Train:
            assert resources["secrets"] == [remote.hub_token, "secret wandb"]  # they replace the function's own
            return self

        def spawn(self, job: dict[str, Any]) -> Any:
            return types.SimpleNamespace(object_id="fc-train")

    monkeypatch.setattr(modal.Secret, "from_name", lambda name: f"secret {name}")
    monkeypatch.setattr(remote, "train", Train())
    monkeypatch.setattr(remote, "_prepare", lambda spec, run_id, trunk: "text")
    assert prepare(job(log="wandb", secrets=["wandb"])) == {"call": "fc-train"}


def test_preparing_gives_the_name_back_after_a_user_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(spec: ExperimentSpec, run_id: str, trunk: str | None) -> None:
        raise DataError("no such file", "questions.jsonl", 3)

    monkeypatch.setattr(remote, "_prepare", fail)
    assert prepare(job()) == {"error": "questions.jsonl:3: no such file", "exit_code": 2} and not world.locks


def text_in(folder: Path, town: str) -> str:
    folder.mkdir(exist_ok=True)
    for split, count in (("train", 120), ("valid", 10), ("test", 10)):
        (folder / f"{split}.txt").write_text("".join(f" = A {i} = \n\nA baker is in {town}.\n\n" for i in range(count)))
    return str(folder)


def test_a_sweeps_cell_takes_the_trunk_of_its_text_and_of_no_other(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Train:
        def with_options(self, **resources: Any) -> Train:
            return self

        def spawn(self, job: dict[str, Any]) -> Any:
            world.spawned.append(job)
            return types.SimpleNamespace(object_id="fc-train")

    monkeypatch.setattr(remote, "train", Train())
    monkeypatch.setattr(remote, "data_volume", world)
    text = text_in(tmp_path / "text", "Rome")
    run, _ = run_small(container.MODELS, cache=container.CACHE, pretrain_text=text, skip_finetune=True)
    cell = {"spec": small_spec(pretrain_text=text, freeze_llm=True).to_dict(), "trunk": run.run_id}
    assert prepare(job(run_id="CELL", **cell)) == {"call": "fc-train"}
    text_in(tmp_path / "text", "Paris")
    answer = prepare(job(run_id="LATE", **cell))
    assert f"not what {run.run_id} was trained on" in answer["error"] and answer["exit_code"] == 2
    assert not (container.MODELS / "LATE").exists() and len(world.spawned) == 1 and "LATE" not in world.locks

    # The same text under another name: the container that trains gets the trunk that there is, and finds it.
    text_in(tmp_path / "text", "Rome")
    (tmp_path / "moved").symlink_to(text)
    spec = small_spec(pretrain_text=str(tmp_path / "moved"), skip_finetune=True)
    prepare(job(run_id="AGAIN", spec=spec.to_dict()))
    shutil.rmtree(container.RUNS)
    container.working_copy(spec, "AGAIN", text=world.spawned[-1]["text"])
    inputs = read_inputs(spec, RunStore(container.RUNS), container.CACHE)
    found = find_matching_trunk(spec, RunStore(container.RUNS), inputs)
    assert found is not None and found.path.parent.name == run.run_id


def trunk_on_the_volume(text: str) -> tuple[ExperimentSpec, str]:
    """A run that has pretrained, with files that hold nothing; its spec and its name."""
    spec = small_spec(pretrain_text=text, skip_finetune=True)
    run = RunStore(container.MODELS).create(spec)
    run.record_data({"text": "the text"})
    run.trunk_path.write_bytes(b"weights")
    return spec, run.run_id


@pytest.mark.parametrize(
    "flags",
    [
        {"trunk": True},  # a cell of a sweep
        {"finetune_samples": 10},  # the next run with the same pretraining
        {"skip_pretrain": True},  # --skip-pretrain alone
        {"pretrain_text": "moved"},  # the same text under another name
        {"skip_pretrain": True, "pretrained_model_path": "RUN/toy_llm_unified_pretrained.pth"},
        {"skip_pretrain": True, "pretrained_model_path": "/RUN/toy_llm_unified_pretrained.pth"},
    ],
    ids=["sweep", "same-pretraining", "skip-pretrain", "same-text", "path", "absolute-path"],
)
def test_the_trunk_that_a_run_needs_is_brought_from_a_volume_whose_mount_point_is_a_link(
    world: World, flags: dict[str, Any]
) -> None:
    _, trunk = trunk_on_the_volume("texts")
    run_flags = {"pretrain_text": "texts", **flags}
    takes = {"trunk": trunk} if run_flags.pop("trunk", False) else {}
    if path := run_flags.get("pretrained_model_path"):
        root = str(container.MODELS) if path.startswith("/") else ""
        run_flags["pretrained_model_path"] = f"{root}{path.replace('RUN', trunk)}"
    container.working_copy(small_spec(**run_flags), "NEW", **takes, text="the text")
    copied = {path.name for path in (container.RUNS / trunk).iterdir()}
    assert copied == {"spec.json", "data.json", "toy_llm_unified_pretrained.pth"}


def test_what_else_compares_paths_on_a_volume_whose_mount_point_is_a_link(world: World) -> None:
    _, name = trunk_on_the_volume("texts")
    store = RunStore(container.MODELS)
    run = store.open(name)
    run.write_stats({"config_name": "debug"})
    assert run.verify_manifest() == []  # no file of it is a link
    assert [each.run_id for each in store.runs()] == [name]
    container.copy_of_run(name)
    assert RunStore(container.RUNS).open(name).verify_manifest() == []
    weights = store.resolve_weights(f"{name}/{run.trunk_path.name}", confined=True)
    assert weights.read_bytes() == b"weights"
    (container.MODELS / "out").symlink_to(container.WORK)
    with pytest.raises(RunDirectoryError, match="cannot be the name of a run"):
        store.open("out")


# A sweep's calls ------------------------------------------------------------------------------------------


class Prepare:
    """``remote.prepare`` as far as a conductor uses it."""

    def __init__(self, world: World) -> None:
        self.world = world

    def with_options(self, **options: Any) -> Prepare:
        assert options == {"max_containers": 3}
        return self

    def spawn(self, job: dict[str, Any]) -> Any:
        self.world.spawned.append(job)
        return types.SimpleNamespace(object_id=f"fc-{len(self.world.spawned)}")


@pytest.fixture
def pretraining(world: World, monkeypatch: pytest.MonkeyPatch) -> Task:
    monkeypatch.setattr(remote, "prepare", Prepare(world))
    spec = ExperimentSpec.from_flags(config_name="debug", data="microworld", skip_finetune=True)
    return Task("pretrain-x", "D-W-pretrain", spec, is_pretraining=True)


def test_a_sweeps_call_is_started_once_and_followed_to_its_answer(
    world: World, pretraining: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, status = calls.Calls({pretraining.key: job(max_containers=3)}, Prepare(world)), Status()
    runner.start(pretraining, status, "TRUNK")
    assert world.spawned == [{**job(max_containers=3), "trunk": "TRUNK"}]
    assert (status.run_id, status.calls) == ("RUN", ["fc-1"])
    answers: dict[str, Any] = {"fc-1": None}
    monkeypatch.setattr(calls, "answer_of", answers.get)
    assert runner.look(pretraining, status) is None and status.calls == ["fc-1"]
    answers["fc-1"] = {"call": "fc-train"}
    assert runner.look(pretraining, status) is None and status.calls == ["fc-1", "fc-train"]
    answers["fc-train"] = {"results": {"final_validation_f1": 0.5}}
    assert runner.look(pretraining, status) == Outcome(headline={"final_validation_f1": 0.5})
    answers["fc-train"] = {"error": "Traceback\nit broke", "exit_code": 1}
    assert runner.look(pretraining, status) == Outcome(error="it broke", last_lines=["Traceback", "it broke"])
    answers["fc-train"] = {"error": "no such file", "exit_code": 2}
    assert runner.look(pretraining, status) == Outcome(error="no such file", last_lines=[])

    # The next conductor takes up a call that the one before it could not publish, while it goes on.
    world.locks["RUN"] = {"holder": "fc-lost", "train": "fc-going"}
    world.going, lost = {"fc-going"}, Status()
    runner.start(pretraining, lost, None)
    assert lost.calls == ["fc-lost", "fc-going"] and len(world.spawned) == 1
    world.going = set()
    runner.start(pretraining, lost, None)
    assert lost.calls == ["fc-2"]


def test_a_conductor_publishes_the_states_and_leaves_near_its_time_limit(
    world: World, pretraining: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = {"tasks": [pretraining.to_dict()], "jobs": {pretraining.key: job(max_containers=3)}, "limit": 1}
    sweeps = Table({"S/1": sweep, "S": {"launch": "1", "states": {pretraining.key: plain(Status())}}})
    monkeypatch.setattr(remote, "sweeps", sweeps)
    monkeypatch.setattr(calls, "POLL_SECONDS", 0.0)
    conduct = remote.conduct.local
    monkeypatch.setenv("EMERGENCE_ATTEMPT_SECONDS", "-1")
    with pytest.raises(AttemptOver):
        conduct("S", "1")
    assert not world.spawned
    monkeypatch.delenv("EMERGENCE_ATTEMPT_SECONDS")
    looks = iter([None, None, {"results": {}}])

    def answer(call_id: str) -> Any:
        state = sweeps["S"]["states"][pretraining.key]
        assert (state["state"], state["run_id"], state["calls"]) == ("running", "RUN", ["fc-1"])
        return next(looks)

    monkeypatch.setattr(calls, "answer_of", answer)
    assert conduct("S", "1") == {"done": 1} and sweeps["S"]["states"][pretraining.key]["state"] == "done"
    assert sweeps["S"]["launch"] == "1"


# The app --------------------------------------------------------------------------------------------------


def test_the_functions_are_declared_as_documented() -> None:
    described, preparing = remote.train.info(), remote.prepare.info()
    assert described.gpus == [("A10G", 1)] and not preparing.gpus
    assert described.timeout == preparing.timeout == 24 * 3600
    assert described.max_retries == 10 and described.single_use_containers
    assert {path: volume.name for path, volume in described.volumes.items()} == {
        "/models": "llm-models",
        "/data": "llm-training-data",
    }
    larger = remote.train.with_options(gpu="H100:2", cpu=8.0, memory=1024).info()
    assert larger.gpus == [("H100", 2)] and larger.timeout == 24 * 3600


def test_the_image_has_the_versions_the_tests_passed_with() -> None:
    root = Path(__file__).resolve().parents[2]
    tested = dict(re.findall(r"^([\w-]+)==(\S+)$", (root / "constraints.txt").read_text().replace("_", "-"), re.M))
    source = (root / "emergence" / "remote" / "app.py").read_text()
    pinned = re.findall(r'"([\w-]+)==([^"]+)"', source)
    assert len(pinned) >= 8
    for name, version in pinned:
        assert tested[name.replace("_", "-")] == version, name


def test_local_data_is_taken_from_the_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATA", "WORK"):
        monkeypatch.setattr(container, name, tmp_path / name.lower())
    for name in ("CACHE", "FILES"):
        monkeypatch.setattr(container, name, tmp_path / "work" / name.lower())
    monkeypatch.setenv("HF_HOME", "")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "texts").mkdir(parents=True)
    (tmp_path / "data" / "texts" / "train.txt").write_text("one")
    (tmp_path / "data" / "qa.jsonl").write_text("two")
    (tmp_path / "data" / "cache" / "streams").mkdir(parents=True)
    (tmp_path / "data" / "cache" / "streams" / "tokens").write_text("three")
    container.bring_data(ExperimentSpec.from_flags(pretrain_text="texts", qa_data="qa.jsonl"))
    assert Path("texts/train.txt").read_text() == "one" and Path("qa.jsonl").read_text() == "two"
    assert (container.CACHE / "streams" / "tokens").read_text() == "three"
    assert Path.cwd() == container.FILES
    with pytest.raises(DataError, match="modal volume put llm-training-data"):
        container.bring_data(ExperimentSpec.from_flags(qa_data="absent.jsonl"))
