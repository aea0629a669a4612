"""What the remote functions answer, raise and leave in the lock table, without containers."""

from __future__ import annotations

import asyncio
import functools
import http.client
import os
import re
import shutil
import signal
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import aiohttp
import modal
import pytest
from grpclib import GRPCError
from grpclib import Status as Code
from grpclib.exceptions import ProtocolError, StreamTerminatedError
from h2.exceptions import ProtocolError as Http2Error
from modal._grpc_client import grpc_error_to_modal_exception
from modal._traceback import append_modal_tb, extract_traceback

from emergence.commands.sweep import status_text
from emergence.data import cache
from emergence.data.cache import find
from emergence.errors import (
    DataError,
    EmergenceError,
    GpuFailedError,
    RunDirectoryError,
    machine_errors_in_one_line,
)
from emergence.experiment import locks as run_locks
from emergence.experiment.inputs import find_matching_trunk, read_inputs
from emergence.experiment.store import RunStore
from emergence.plain import plain
from emergence.remote import app as remote
from emergence.remote import attempts, cache_claims, calls, container, kernels, locks, runner
from emergence.remote import sweep as place
from emergence.remote.app import AttemptOver
from emergence.remote.calls import CallError, Look, look_at, patiently
from emergence.remote.locks import reserve
from emergence.spec.experiment import ExperimentSpec
from emergence.sweep.conductor import conduct
from emergence.sweep.existing import Existing
from emergence.sweep.graph import Graph, Status, Task
from emergence.sweep.place import Outcome
from emergence.sweep.record import Record
from emergence.training.checkpoint_names import CheckpointName
from tests.small_runs import run_small, small_spec

E = TypeVar("E", bound=BaseException)
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
        self.unknown: set[str] = set()
        self.answers: dict[str, dict[str, Any]] = {}
        self.run: Callable[..., None] = lambda job, stop, on_commit: None
        self.spawned: list[dict[str, Any]] = []

    def commit(self) -> None:
        self.commits += 1

    def reload(self) -> None:
        pass

    def look_at(self, call_id: str) -> Look:
        if call_id in self.unknown:
            return Look("not known", why="ServiceError: unavailable")
        return Look("going") if call_id in self.going else Look("ended", self.answers.get(call_id, {"error": "gone"}))


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
    for name in ("RUNS", "CACHE", "FILES", "PULSE", "KERNELS"):
        monkeypatch.setattr(container, name, tmp_path / "work" / name.lower())
    monkeypatch.setattr(locks, "locks", world.locks)
    monkeypatch.setattr(cache_claims, "claims", Table())
    monkeypatch.setattr(cache_claims, "look_at", world.look_at)
    monkeypatch.setenv(kernels.VARIABLE, "")
    monkeypatch.setattr(remote, "models_volume", world)
    for module in (locks, runner):
        monkeypatch.setattr(module, "look_at", world.look_at)
    monkeypatch.setenv("EMERGENCE_PATIENCE_SECONDS", "0")
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


def test_what_a_run_derived_is_there_for_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Word scores and compiled kernels. A volume that cannot be written costs no run its result."""
    spec = ExperimentSpec.from_flags(config_name="debug").to_dict()
    data, found = World(), list[bool]()
    monkeypatch.setattr(remote, "data_volume", data)

    def derive(*arguments: Any) -> None:
        kernel = Path(os.environ[kernels.VARIABLE]) / "ABC" / "add.cubin"
        found.append(kernel.exists())
        for file in (kernel, container.CACHE / "words" / f"of {len(found)}" / "scores.json"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("x")
        finish()

    world.run = derive
    for name in ("one", "two", "three"):
        if name == "three":
            monkeypatch.setattr(data, "commit", lambda: 1 / 0)
        reserve("RUN", "fc-me")
        assert "results" in train(job(spec=spec))
        for folder in (container.WORK, container.MODELS / "RUN"):  # another container, another run
            shutil.rmtree(folder)
        container.WORK.mkdir()
    assert found == [False, True, True] and data.commits == 2 and "not kept for the next run" in caplog.text
    assert sorted(path.name for path in (container.DATA / "cache" / "words").iterdir()) == ["of 1", "of 2", "of 3"]


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
    assert train(job()) == {"error": "no questions", "exit_code": 2, "dollars": 0.0} and not world.locks


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


def checkpoint(step: int, phase: str = "pretrain", sequence: int = 1) -> None:
    folder = container.RUNS / "RUN" / "checkpoint"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / str(CheckpointName(sequence, phase, step))).write_text("state")


def crash(*arguments: Any) -> None:
    """A crash that leaves a longer history, a first checkpoint, and one that a rewind or a signal left again."""
    checkpoint(0)
    checkpoint(5, sequence=2)
    with (container.RUNS / "RUN" / "history.jsonl").open("a") as history:
        history.write("more\n")
    raise ZeroDivisionError("oh")


def attempts_until_the_end(world: World, most: int = 40) -> tuple[int, dict[str, Any]]:
    """Lets Modal retry; the number of attempts, and what the last one answered."""
    for number in range(1, most):
        try:
            return number, train(job())
        except (CallError, KeyboardInterrupt):
            shutil.rmtree(container.RUNS, ignore_errors=True)  # the container is gone
    raise AssertionError("no end")


def test_a_crash_at_the_same_step_ends_after_three_attempts(world: World) -> None:
    """Whatever is published meanwhile: progress is the newest checkpoint's step."""
    reserve("RUN", "fc-me")
    world.run = crash
    number, answer = attempts_until_the_end(world)
    assert number == 4, "the first of them brought step 5"
    assert answer["exit_code"] == 1 and "3 attempts in a row" in answer["error"] and not world.locks
    assert "ZeroDivisionError: oh" in answer["error"] and world.commits >= 4

    reserve("RUN", "fc-me")  # the next launch begins to count anew
    assert attempts_until_the_end(world)[0] == 3


def test_a_gpu_that_fails_is_tried_again_in_another_container(world: World, tmp_path: Path) -> None:
    reserve("RUN", "fc-me")

    def fails(*_: Any) -> None:
        checkpoint(5)
        with machine_errors_in_one_line():
            raise RuntimeError("CUDA error: unspecified launch failure")

    world.run = fails
    number, answer = attempts_until_the_end(world)
    assert number == 4 and "RuntimeError: CUDA error" in answer["error"]


def test_a_worker_whose_gpu_fails_has_crashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "WORK", tmp_path)
    monkeypatch.setattr(container, "share_with", lambda _: None)
    (tmp_path / "job.json").write_text("{}", encoding="utf-8")
    for error, ends in ((GpuFailedError("the GPU failed"), None), (EmergenceError("a user error"), 1)):

        def fails(*_: Any, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(container, "run_in_process", fails)
        if ends is None:
            with pytest.raises(GpuFailedError):
                container.work(tmp_path / "job.json")
            assert not (tmp_path / "error.json").exists()
        else:
            assert container.work(tmp_path / "job.json") == ends


@pytest.mark.parametrize("how", ["rewinds", "same step, later file", "finished phase", "killed", "time limit"])
def test_what_is_progress_and_what_is_not(world: World, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    count = iter(range(1, 100))

    def run(job: Any, stop: Callable[[], bool], on_commit: Any) -> None:
        number = next(count)
        if how == "rewinds":
            checkpoint([9, 3, 7, 5, 8][number % 5], sequence=number)
        elif how == "same step, later file":
            checkpoint(9, sequence=number)
        elif how == "finished phase" and number == 3:
            (container.RUNS / "RUN").mkdir(parents=True, exist_ok=True)
            (container.RUNS / "RUN" / "toy_llm_unified_pretrained.pth").write_text("done")
        elif how == "killed":
            raise SystemExit  # nobody gets to say how it ended
        elif how == "time limit":
            raise Stopped("saved")
        raise ZeroDivisionError("oh")

    reserve("RUN", "fc-me")
    world.run = run
    if how == "killed":
        for _ in range(3):
            with pytest.raises(SystemExit):
                train(job())
        assert "its container was lost without a word" in train(job())["error"] and next(count) == 4
        return
    number, answer = attempts_until_the_end(world)
    assert number == {"rewinds": 8, "same step, later file": 4, "finished phase": 6, "time limit": 3}[how]
    assert answer["exit_code"] == 1 and not world.locks


def test_a_preempted_attempt_is_not_counted(world: World) -> None:
    def preempted(job: Any, stop: Callable[[], bool], on_commit: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        raise Stopped("saved")

    reserve("RUN", "fc-me")
    world.run = preempted
    for _ in range(12):  # before the first checkpoint, each time
        with pytest.raises(KeyboardInterrupt):
            train(job())
    assert world.locks["RUN/writer"]["attempts"] == 12 and world.locks["RUN/writer"]["fruitless"] == 0


def test_the_money_of_all_attempts_together_has_an_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "SAVING_SECONDS", 0.0)
    monkeypatch.setattr(remote, "COMMIT_SECONDS", 0.05)

    def run(job: Any, stop: Callable[[], bool], on_commit: Any) -> None:
        checkpoint(next(steps))
        while job["run_id"] == "RUN" and next(steps) > 2:
            time.sleep(0.005)
            if stop():
                raise Stopped("saved")
        raise ZeroDivisionError("oh")

    steps, costs = iter(range(1, 9999)), {"dollars_per_hour": 3600.0, "max_cost": 1.0}
    reserve("RUN", "fc-me")
    world.run = run
    with pytest.raises(CallError):
        train(job(**costs))
    assert 0 < world.locks["RUN/writer"]["seconds"] < 1
    world.locks["RUN/writer"]["seconds"] += 0.3
    answer = train(job(**costs))
    assert answer["exit_code"] == 130 and "of --max-cost 1 are spent; what it reached is saved" in answer["error"]
    assert 1.0 <= answer["dollars"] < 2.0 and not world.locks, "at a dollar a second"
    assert (container.MODELS / "RUN" / "checkpoint" / str(CheckpointName(1, "pretrain", 3))).exists()

    world.locks["RUN"] = {"holder": "fc-me", "train": None}  # an attempt that is restarted when all is spent
    world.locks["RUN/writer"] = {"call": "fc-me", "holder": "fc-me", "seconds": 5.0, "attempts": 1}
    assert re.search(r"\$5\.\d\d of --max-cost 1 are spent", train(job(**costs))["error"]) and not world.locks


def test_an_attempt_in_which_nothing_moves_is_ended_and_published(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "Attempt", functools.partial(attempts.Attempt, silent_seconds=0.3))

    def hang(job: Any, stop: Callable[[], bool], on_commit: Any) -> None:
        checkpoint(5)
        for _ in range(5):  # gets on: steps are asked whether to stop, files grow
            time.sleep(0.1)
            container.PULSE.write_text(str(time.monotonic()))
        while True:
            time.sleep(0.01)

    reserve("RUN", "fc-me")
    world.run = hang
    with pytest.raises(CallError, match=r"HungError: nothing moved for 0\.005 minutes"):
        train(job())
    assert (container.MODELS / "RUN" / "checkpoint" / str(CheckpointName(1, "pretrain", 5))).exists()
    assert world.locks["RUN/writer"]["fruitless"] == 0
    number, answer = attempts_until_the_end(world)
    assert number == 3 and "nothing moved for" in answer["error"] and not world.locks


def test_the_renewal_of_a_runs_lock_is_no_sign_of_life(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_locks, "RENEW_SECONDS", 0.02)
    monkeypatch.setattr(remote, "Attempt", functools.partial(attempts.Attempt, silent_seconds=0.5))

    def hang(*arguments: Any) -> None:
        (container.RUNS / "RUN").mkdir(parents=True)
        with run_locks.RunLock(container.RUNS / "RUN"):
            end = time.monotonic() + 10.0
            while time.monotonic() < end:
                time.sleep(0.01)

    reserve("RUN", "fc-me")
    world.run = hang
    with pytest.raises(CallError, match="HungError"):
        train(job())


def test_a_hang_while_the_run_is_copied_is_ended_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "Attempt", functools.partial(attempts.Attempt, silent_seconds=0.3))
    monkeypatch.setattr(container, "working_copy", lambda *words: [time.sleep(0.01) for _ in range(1000)])
    reserve("RUN", "fc-me")
    with pytest.raises(CallError, match="HungError: nothing moved"):
        train(job())
    assert not (container.MODELS / "RUN").exists() and world.locks["RUN/writer"]["fruitless"] == 1


def test_looking_for_signs_of_life_outlives_folders_that_go_away(world: World) -> None:
    run = container.RUNS / "RUN"
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            for folder in (run / "checkpoint" / "deep" / "deeper", container.CACHE / "streams" / "some"):
                folder.mkdir(parents=True, exist_ok=True)
                shutil.rmtree(folder.parent, ignore_errors=True)

    run.mkdir(parents=True)
    before = container.signs_of_life(run)
    (container.CACHE / "streams" / "new" / ".half.tmp").mkdir(parents=True)
    assert container.signs_of_life(run) != before, "a cache that is being built"
    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(1500):
            container.signs_of_life(run)
    finally:
        stop.set()
        thread.join()


def test_a_watch_that_cannot_look_takes_it_for_silence(world: World) -> None:
    count = iter(range(1, 9999))

    def life() -> int:
        if next(count) % 2:
            raise FileNotFoundError("a folder went away")
        return 1

    with (
        pytest.raises(attempts.HungError),
        attempts.Attempt(attempts.Account("fc-me", "fc-me"), life, silent_seconds=0.2),
    ):
        time.sleep(5.0)


def test_the_heart_of_an_attempt_that_is_to_stop_beats_on(world: World) -> None:
    """While it saves, its account is kept, and it hears that the run was taken away."""
    words = iter([None, "spent", None, None, remote.LOST, None, *[None] * 99])
    beats: list[str | None] = []
    attempt = attempts.Attempt(
        attempts.Account("fc-me", "fc-me"), lambda: 1, heartbeat=lambda: beats.append(next(words)) or beats[-1],
        beat_seconds=0.01,
    )  # fmt: skip
    with attempt:
        end = time.monotonic() + 5.0
        while len(beats) < 8 and time.monotonic() < end:
            time.sleep(0.01)
    assert attempt.reason == remote.LOST


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


def test_a_launch_that_may_still_be_going_keeps_its_run(world: World) -> None:
    mine = reserve("RUN", "fc-me")
    world.answers["fc-me"] = {"call": "fc-train"}
    world.unknown = {"fc-train"}
    locks.note_training("RUN", mine, "fc-train")
    with pytest.raises(RunDirectoryError, match=r"fc-train, and Modal does not say whether that has ended \(ServiceE"):
        reserve("RUN", "fc-you")
    locks.note_training("RUN", mine, "fc-gone")
    locks.claim("RUN", "fc-me", "fc-train")  # one of two calls that its preparation spawned
    with pytest.raises(locks.RunInUseError, match="fc-train"):
        locks.refuse_if_in_use("RUN")
    with pytest.raises(locks.RunInUseError) as refused:
        locks.claim("RUN", "fc-me", "fc-gone")
    assert refused.value.call == "fc-train" and locks.is_mine("RUN", "fc-me", "fc-train")
    assert (standing := locks.standing_of("RUN")) is not None and standing.state == "not known"
    world.unknown = set()
    assert locks.standing_of("RUN") is None
    locks.claim("RUN", "fc-me", "fc-gone")  # its predecessor has ended for good
    assert not locks.is_mine("RUN", "fc-me", "fc-train")


def test_a_run_that_is_taken_away_is_left_alone_from_then_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(job: Any, stop: Any, on_commit: Any) -> None:
        finish()
        assert locks.revoke("RUN") == ["fc-me"]

    def lose_and_stop(job: Any, stop: Callable[[], bool], on_commit: Any) -> None:
        shutil.rmtree(container.RUNS)
        lose(job, stop, on_commit)
        end = time.monotonic() + 5.0
        while not stop() and time.monotonic() < end:
            time.sleep(0.01)
        raise Stopped("saved")

    reserve("RUN", "fc-me")
    world.run = lose
    answer = train(job())
    assert "was cancelled, or taken by another launch" in answer["error"]
    assert not (container.MODELS / "RUN").exists() and "RUN" not in world.locks
    reserve("RUN", "fc-me")
    locks.locks.pop("RUN/writer")
    monkeypatch.setattr(remote, "COMMIT_SECONDS", 0.05)
    world.run = lose_and_stop
    answer = train(job())
    assert answer["error"] == f"RUN {remote.LOST}", "and not that --resume goes on from what it reached"
    with pytest.raises(locks.RunInUseError):
        locks.claim("RUN", "fc-me", "fc-late")  # a call that nobody had heard of when the run was taken away
    locks.locks.clear()
    reserve("RUN", "fc-you")
    locks.claim("RUN", "fc-you", "fc-train")
    locks.release("RUN", "fc-me")  # not its own any more
    assert locks.is_mine("RUN", "fc-you", "fc-train")

    # The next launch gets the run at once, and writes when the last writer has left.
    waits: list[float] = []
    world.going = {"fc-train"}
    assert locks.revoke("RUN") == ["fc-you", "fc-train"] and not locks.calls_of("RUN")
    monkeypatch.setattr(
        locks.time, "sleep", lambda seconds: waits.append(seconds) or (len(waits) == 3 and world.going.clear())
    )
    reserve("RUN", "fc-next")
    assert locks.claim("RUN", "fc-next", "fc-new") == {"call": "fc-new", "holder": "fc-next"} and len(waits) == 3
    assert not locks.is_mine("RUN", "fc-you", "fc-train") and locks.is_mine("RUN", "fc-next", "fc-new")


def out_of_a_container(error: E) -> E:
    """An error as the client raises it again for the caller of a function."""
    try:
        raise error
    except BaseException:
        append_modal_tb(error, *extract_traceback(error, "ta-01J0000000000000000000000A"))
    return error


#: What Modal's client raises for each status of the protocol, and what else can go wrong on the way.
ON_THE_WAY: list[Exception] = [
    *(grpc_error_to_modal_exception(GRPCError(each, "x")) for each in Code if each not in (Code.OK, Code.NOT_FOUND)),
    GRPCError(Code.UNAVAILABLE),
    StreamTerminatedError("connection lost"),
    modal.exception.ConnectionError("no route"),
    modal.exception.ClientClosed("closed") if hasattr(modal.exception, "ClientClosed") else ConnectionResetError(),
    OSError(101, "Network is unreachable"),
    ProtocolError("grpclib"),
    Http2Error("h2"),
    aiohttp.ServerDisconnectedError(),
    aiohttp.ClientPayloadError("not all of it came"),
    asyncio.IncompleteReadError(b"", 9),
    http.client.IncompleteRead(b""),
    modal.exception.ExecutionError("Get from url failed with status 503: slow down"),  # of a large result
]
#: The same, but nothing that trying again would mend in this process.
NOT_KNOWN = [*ON_THE_WAY, RuntimeError("Event loop is closed"), ZeroDivisionError("in the client")]
OF_THE_CALL: list[Exception] = [
    grpc_error_to_modal_exception(GRPCError(Code.NOT_FOUND, "x")),
    modal.exception.OutputExpiredError(),
    modal.exception.FunctionTimeoutError("24 h"),
    modal.exception.InternalFailure("containers kept dying"),
    modal.exception.RemoteError("the app was stopped"),
    CallError.of(modal.exception.InternalError("of the volume, in the container")),
    AttemptOver("near the limit"),
    out_of_a_container(ZeroDivisionError("before anything of ours was imported")),
    out_of_a_container(TimeoutError("there too")),
    out_of_a_container(ProtocolError("there too")),
    out_of_a_container(modal.exception.ExecutionError("there too")),
    modal.exception.ExecutionError("Could not deserialize remote exception due to local error:"),
]


def call_that(monkeypatch: pytest.MonkeyPatch, outcome: Any) -> list[float | None]:
    """Lets every call have one outcome; returns the timeouts that it is asked with."""
    asked: list[float | None] = []

    def get(timeout: float | None = None) -> Any:
        asked.append(timeout)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setattr(modal.FunctionCall, "from_id", lambda call_id: types.SimpleNamespace(get=get, cancel=get))
    return asked


def test_no_error_on_the_way_to_the_server_is_the_end_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMERGENCE_PATIENCE_SECONDS", "0")
    assert len(ON_THE_WAY) > 25
    for error in NOT_KNOWN:
        call_that(monkeypatch, error)
        look = look_at("fc")
        assert (look.state, look.answer) == ("not known", None) and type(error).__name__ in look.why, error
        assert type(error).__name__ in (calls.cancel_call("fc") or "")
    for error in OF_THE_CALL:
        call_that(monkeypatch, error)
        look = look_at("fc")
        assert look.state == "ended" and look.answer is not None and look.answer["exit_code"] == 1, error
    # An attempt may end in an interrupt, and the client raises that again in whoever asks.
    for kind in (KeyboardInterrupt, SystemExit):
        call_that(monkeypatch, out_of_a_container(kind("there")))
        assert look_at("fc").state == "ended"
        call_that(monkeypatch, kind("here"))
        with pytest.raises(kind, match="here"):
            look_at("fc")
    call_that(monkeypatch, OF_THE_CALL[0])
    assert calls.cancel_call("fc") is None  # there is nothing to cancel
    for outcome, said in ((Look("going"), "RuntimeError: oh"), (Look("ended"), None)):
        call_that(monkeypatch, RuntimeError("oh"))
        monkeypatch.setattr(calls, "look_at", lambda call_id, outcome=outcome: outcome)
        assert calls.cancel_call("fc") == said
    asked = call_that(monkeypatch, {"results": {}})
    assert look_at("fc") == Look("ended", {"results": {}}) and asked == [0]
    call_that(monkeypatch, TimeoutError())
    assert look_at("fc") == Look("going")


def test_what_a_bad_minute_of_the_server_interrupts_is_done_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(calls.time, "sleep", pauses.append)
    for error in ON_THE_WAY:
        outcomes: list[Any] = [error, error, "done"]

        def action(outcomes: list[Any] = outcomes) -> Any:
            outcome = outcomes.pop(0)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        assert patiently(action, 60) == "done"
    assert pauses[:2] == [0.5, 1.0]

    def never(error: Exception) -> None:
        raise error

    with pytest.raises(ZeroDivisionError):
        patiently(lambda: never(ZeroDivisionError()), 60)
    with pytest.raises(modal.exception.NotFoundError):
        patiently(lambda: never(OF_THE_CALL[0]), 60)
    with pytest.raises(ConnectionResetError):
        patiently(lambda: never(ConnectionResetError()), 0)


def test_preparing_starts_training_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    class Train:
        def with_options(self, **resources: Any) -> Train:
            assert resources == {"gpu": "A10G", "cpu": 1.0, "memory": 1024}
            return self

        def spawn(self, job: dict[str, Any]) -> Any:
            world.spawned.append(job)
            return types.SimpleNamespace(object_id="fc-train")

    monkeypatch.setattr(remote, "train", Train())
    monkeypatch.setattr(remote, "_prepare", lambda spec, run_id, trunk, gpu: "text")
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
    monkeypatch.setattr(remote, "_prepare", lambda spec, run_id, trunk, gpu: "text")
    assert prepare(job(log="wandb", secrets=["wandb"])) == {"call": "fc-train"}


def test_preparing_gives_the_name_back_after_a_user_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(spec: ExperimentSpec, run_id: str, trunk: str | None, gpu: str) -> None:
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
    claimed: list[str] = []
    monkeypatch.setattr(world, "reload", lambda: claimed.extend(cache_claims.claims))
    shutil.rmtree(container.CACHE)
    assert prepare(job(run_id="CELL", **cell)) == {"call": "fc-train"}
    # What it derived is on the volume for others, who had waited while it had the claims.
    derived = {path.relative_to(container.DATA / "cache").as_posix() for path in container.DATA.glob("cache/*/*")}
    assert derived == set(claimed) and len(derived) == 2 and not cache_claims.claims
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


def test_a_sweeps_call_is_started_once_and_followed_to_its_answer(world: World, pretraining: Task) -> None:
    runs, status = runner.Calls({pretraining.key: job(max_containers=3)}, Prepare(world)), Status()
    runs.start(pretraining, status, "TRUNK")
    assert world.spawned == [{**job(max_containers=3), "trunk": "TRUNK"}]
    assert (status.run_id, status.calls) == ("RUN", ["fc-1"])
    world.going = {"fc-1"}
    assert runs.look(pretraining, status) is None and status.calls == ["fc-1"]
    world.answers["fc-1"], world.going = {"call": "fc-train"}, {"fc-train"}
    assert runs.look(pretraining, status) is None and status.calls == ["fc-1", "fc-train"]
    world.going = set()
    world.answers["fc-train"] = {"results": {"final_validation_f1": 0.5}}
    assert runs.look(pretraining, status) == Outcome(headline={"final_validation_f1": 0.5})
    world.answers["fc-train"] = {"error": "Traceback\nit broke", "exit_code": 1}
    assert runs.look(pretraining, status) == Outcome(error="it broke", last_lines=["Traceback", "it broke"])
    world.answers["fc-train"] = {"error": "no such file", "exit_code": 2}
    assert runs.look(pretraining, status) == Outcome(error="no such file", last_lines=[])

    # The next conductor takes up a call that the one before it could not publish, while it goes on, or may.
    world.locks["RUN"] = {"holder": "fc-lost", "train": "fc-going"}
    for standing in (world.going, world.unknown):
        standing.add("fc-going")
        lost = Status()
        runs.start(pretraining, lost, None)
        assert lost.calls == ["fc-lost", "fc-going"] and len(world.spawned) == 1
        standing.clear()
    runs.start(pretraining, lost, None)
    assert lost.calls == ["fc-2"]


def test_a_cell_of_which_nothing_is_known_is_neither_failed_nor_forgotten(
    world: World, pretraining: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(runner.time, "sleep", pauses.append)
    runs, status = runner.Calls({pretraining.key: job(max_containers=3)}, Prepare(world)), Status()
    runs.start(pretraining, status, None)
    world.unknown = {"fc-1"}
    for _ in range(4):
        assert runs.look(pretraining, status) is None and status.unknown == "ServiceError: unavailable"
        runs.wait()
    world.unknown, world.going = set(), {"fc-1"}
    assert runs.look(pretraining, status) is None and status.unknown is None
    runs.wait()
    assert pauses == [20.0, 40.0, 60.0, 60.0, 10.0]
    graph = Graph([pretraining], {pretraining.key: Status("running", calls=["fc-1"], unknown="ServiceError: x")})
    assert "Modal does not say how it stands (ServiceError: x)" in status_text(
        Record("S", Path("S.json"), "local", 1, ".", graph)
    )


def test_a_spawn_whose_answer_was_lost_is_followed_where_it_runs(world: World, pretraining: Task) -> None:
    """The conductor spawns again; the second preparation, or training, finds the run taken and is no failure."""
    runs, status = runner.Calls({pretraining.key: job(max_containers=3)}, Prepare(world)), Status()
    runs.start(pretraining, status, None)
    world.going = {"fc-first", "fc-train"}
    reserve("RUN", "fc-first")
    world.answers["fc-1"] = {"error": "RUN is being written by fc-first", "exit_code": 1, "holder": "fc-first"}
    assert runs.look(pretraining, status) is None and status.calls == ["fc-1", "fc-first"]
    world.going = {"fc-train"}
    world.answers["fc-first"] = {"call": "fc-second"}
    assert runs.look(pretraining, status) is None and status.calls[-1] == "fc-second"
    locks.claim("RUN", "fc-first", "fc-train")  # the other of two
    world.answers["fc-second"] = {"error": "in use", "exit_code": 1, "holder": "fc-train"}
    assert runs.look(pretraining, status) is None and status.calls[-1] == "fc-train"
    world.going, world.answers["fc-train"] = set(), {"results": {}}
    assert runs.look(pretraining, status) == Outcome()


def test_a_refusal_for_want_of_an_answer_is_no_failure_of_the_cell(
    world: World, pretraining: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Modal did not say whether the call that had the run has ended; a minute later it does."""
    world.locks["RUN"] = {"holder": "fc-old", "train": None}
    world.unknown = {"fc-old"}
    refusal = prepare(job())
    assert refusal["again"] is True and "does not say whether" in refusal["error"]
    world.unknown, world.going = set(), {"fc-old"}
    assert "again" not in prepare(job()), "another launch that goes on is a refusal for good"
    world.going = set()
    monkeypatch.setattr(runner.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(locks, "calls_of", lambda run_id: [])
    graph = Graph([pretraining], {pretraining.key: Status()})
    runs = runner.Calls({pretraining.key: job(max_containers=3)}, Prepare(world))
    world.answers = {"fc-1": refusal, "fc-2": {"results": {"final_validation_f1": 0.5}}}
    assert conduct(graph, runs, 1, lambda task: None, lambda: False)
    assert len(world.spawned) == 2 and graph.status[pretraining.key].headline == {"final_validation_f1": 0.5}


def test_a_cancelled_sweep_starts_and_writes_nothing_more(
    world: World, pretraining: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled: list[str] = []
    sweeps = Table({"S": {"launch": "1"}})
    sweeps["S/1/states"] = {"states": {pretraining.key: plain(Status("running", calls=["fc-1"]))}}
    mine = {"sweep": {"name": "S", "launch": "1"}}
    sweeps["S/1"] = {"tasks": [pretraining.to_dict()], "jobs": {pretraining.key: job(max_containers=3)}, "limit": 1}
    for module in (remote, runner, place):
        monkeypatch.setattr(module, "sweeps", sweeps)
    monkeypatch.setattr(place, "look_at", world.look_at)
    monkeypatch.setattr(place, "reach_modal", lambda: None)
    monkeypatch.setattr(
        place, "cancel_call", lambda call_id: "down" if call_id == "fc-1" else cancelled.append(call_id)
    )
    monkeypatch.setattr(remote, "_prepare", lambda spec, run_id, trunk, gpu: "text")
    locks.reserve("RUN", "fc-1", **mine)
    locks.claim("RUN", "fc-1", "fc-train")  # spawned by a preparation that could not note it
    world.going = {"fc-conductor", "fc-1", "fc-train"}
    record = Record("S", tmp_path / "S.json", "modal", 1, ".", Graph([pretraining]), conductor="fc-conductor")
    message = place.ModalPlace().cancel(record)
    assert "2 of 3 calls cancelled, Modal does not answer for fc-1" in message
    assert cancelled == ["fc-conductor", "fc-train"] and record.graph.status[pretraining.key].state == "stopped"
    assert not locks.is_mine("RUN", "fc-1", "fc-train")

    # What was on its way: a preparation that had not begun, one that is about to spawn, a conductor.
    assert "was cancelled" in prepare({**job(run_id="RUN"), **mine})["error"]
    assert "was cancelled" in train({**job(run_id="RUN", holder="fc-1"), **mine})["error"]
    assert remote.conduct.local("S", "1") == {"running": 1} and not world.spawned
    assert sweeps["S"]["launch"] is None and not locks.calls_of("RUN")
    assert runner.published("S")["states"][pretraining.key]["calls"] == ["fc-1"]
    place.ModalPlace().cancel(record)
    assert sweeps["S"] == {**sweeps["S"], "launch": None, "last": "1"}, "and a second time"


def test_the_table_of_sweeps_keeps_nothing_of_launches_that_are_over(
    pretraining: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeps, states = Table(), iter(("running", "done"))

    def spawn(name: str, launch: str) -> Any:
        runner.publish(name, launch, {pretraining.key: plain(Status(next(states)))})
        return types.SimpleNamespace(object_id="fc-conductor")

    record = Record("S", tmp_path / "S.json", "modal", 1, ".", Graph([pretraining]))
    for module in (remote, runner, place):
        monkeypatch.setattr(module, "sweeps", sweeps)
    for name in ("_build_the_image", "_fetch_stats", "where_to_look"):
        monkeypatch.setattr(place, name, lambda *words: "")
    monkeypatch.setattr(place, "look_at", lambda call_id: Look("ended"))
    monkeypatch.setattr(place, "app", mock.MagicMock(app_id="ap-1"))
    monkeypatch.setattr(place, "conduct", types.SimpleNamespace(spawn=spawn))
    monkeypatch.setattr(place, "_sweep", lambda record, existing: {"states": plain(record.graph.status)})
    for left in (3, 1):  # what was stopped stands until the next launch, for cancel and status
        place.ModalPlace().run(record, Existing(), lambda line: None)
        assert len(sweeps) == left, sweeps
    assert record.graph.status[pretraining.key].state == "done"
    assert remote.conduct.local("S", "an older one") == {}


@pytest.mark.parametrize("after", [{"launch": None, "last": "1"}, {"launch": "2"}], ids=["cancelled", "launched anew"])
def test_a_conductor_that_is_about_to_publish_undoes_no_cancel_and_no_launch(
    world: World, pretraining: Task, monkeypatch: pytest.MonkeyPatch, after: dict[str, Any]
) -> None:
    class Overtaken(Table):
        def put(self, key: str, value: Any, **how: Any) -> bool:
            self["S"] = after  # between the conductor's question, whether the sweep is its own, and this
            return super().put(key, value, **how)

    sweep = {"tasks": [pretraining.to_dict()], "jobs": {pretraining.key: job(max_containers=3)}, "limit": 1}
    sweeps = Overtaken({"S/1": sweep, "S": {"launch": "1"}})
    sweeps["S/1/states"], sweeps["S/2/states"] = {"states": {pretraining.key: plain(Status())}}, {"states": {}}
    for module in (remote, runner):
        monkeypatch.setattr(module, "sweeps", sweeps)
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.0)
    remote.conduct.local("S", "1")
    assert sweeps["S"] == after and sweeps["S/2/states"] == {"states": {}}
    assert bool(runner.published("S")["states"]) == (after["launch"] is None), "a cancelled sweep still has states"


def test_a_conductor_publishes_the_states_and_leaves_near_its_time_limit(
    world: World, pretraining: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = {"tasks": [pretraining.to_dict()], "jobs": {pretraining.key: job(max_containers=3)}, "limit": 1}
    sweeps = Table({"S/1": sweep, "S": {"launch": "1"}, "S/1/states": {"states": {pretraining.key: plain(Status())}}})
    for module in (remote, runner):
        monkeypatch.setattr(module, "sweeps", sweeps)
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.0)
    conduct = remote.conduct.local
    monkeypatch.setenv("EMERGENCE_ATTEMPT_SECONDS", "-1")
    with pytest.raises(AttemptOver):
        conduct("S", "1")
    assert not world.spawned
    monkeypatch.delenv("EMERGENCE_ATTEMPT_SECONDS")
    looks = iter([Look("going"), Look("going"), Look("ended", {"results": {}})])

    def look(call_id: str) -> Look:
        state = sweeps["S/1/states"]["states"][pretraining.key]
        assert (state["state"], state["run_id"], state["calls"]) == ("running", "RUN", ["fc-1"])
        return next(looks)

    monkeypatch.setattr(runner, "look_at", look)
    assert conduct("S", "1") == {"done": 1} and sweeps["S/1/states"]["states"][pretraining.key]["state"] == "done"
    assert sweeps["S"]["launch"] == "1"


def test_a_sweeps_money_is_counted_over_all_its_runs(
    world: World, pretraining: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has ended, what runs, and what the running ones cost until they have heard of it and saved."""
    sweep = {
        "tasks": [pretraining.to_dict()],
        "jobs": {pretraining.key: {**job(max_containers=3), "dollars_per_hour": 6.0}},
    }
    sweeps = Table({"S/1": {**sweep, "limit": 1, "max_cost": 5.0}})
    sweeps["S"], sweeps["S/1/states"] = {"launch": "1"}, {"states": {pretraining.key: plain(Status())}}
    for module in (remote, runner):
        monkeypatch.setattr(module, "sweeps", sweeps)
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(runner, "COUNT_SECONDS", 0.0)
    seconds = iter([1000, 2000, 2700, 2759, 2760, 2765, 2770])  # 6 dollars an hour: 4.60, and 40 cents to stop
    mine = {"sweep": {"name": "S", "launch": "1"}, **job(holder="fc-1")}
    account = attempts.Account("fc-train", "fc-1")

    def look(call_id: str) -> Look:
        if call_id == "fc-1":
            reserve("RUN", "fc-1")
            locks.claim("RUN", "fc-1", "fc-train")
            return Look("ended", {"call": "fc-train"})
        if reason := remote.heartbeat(mine, account):
            return Look("ended", {"error": reason, "exit_code": 130, "dollars": 4.7})
        account.seconds = next(seconds)
        return Look("going")

    monkeypatch.setattr(runner, "look_at", look)
    assert remote.conduct.local("S", "1") == {"stopped": 1} and account.seconds == 2765
    assert "RUN/writer" in world.locks  # and it stays there, as after a cancel
    runs = runner.Calls({pretraining.key: {**job(), "dollars_per_hour": 6.0}}, Prepare(world), 5.0)
    resumed = Graph([pretraining], {pretraining.key: Status("running", run_id="RUN", calls=["fc-2"])})
    assert not runs.is_spent(resumed), "that money is of the launch before"
    resumed.status[pretraining.key].calls = ["fc-1"]
    assert runs.is_spent(resumed)
    assert sweeps["S/1/states"]["stop"] == "$4.60 of --max-cost 5 are spent"
    assert sweeps["S/1/states"]["states"][pretraining.key]["dollars"] == 4.7
    sweeps["S"]["launch"] = "2"  # launched anew, or cancelled
    assert remote.heartbeat(mine, account) == remote.LOST


# The app --------------------------------------------------------------------------------------------------


def test_the_functions_are_declared_as_documented() -> None:
    described, preparing = remote.train.info(), remote.prepare.info()
    assert described.gpus == [("A10G", 1)] and not preparing.gpus
    assert described.timeout == 24 * 3600 and preparing.timeout == 4 * 3600 < remote.analyse.info().timeout
    assert described.max_retries == 10 and described.single_use_containers
    assert {path: volume.name for path, volume in described.volumes.items()} == {
        "/models": "llm-models",
        "/data": "llm-training-data",
    }
    larger = remote.train.with_options(gpu="H100:2", cpu=8.0, memory=1024, timeout=3600).info()
    assert larger.gpus == [("H100", 2)] and larger.timeout == 3600


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
    monkeypatch.setattr(cache, "_elsewhere", None)
    (tmp_path / "data" / "texts").mkdir(parents=True)
    (tmp_path / "data" / "texts" / "train.txt").write_text("one")
    (tmp_path / "data" / "qa.jsonl").write_text("two")
    for name in ("abc", "abd"):
        (tmp_path / "data" / "cache" / "streams" / name).mkdir(parents=True)
        (tmp_path / "data" / "cache" / "streams" / name / "tokens").write_text("three")
    container.bring_data(ExperimentSpec.from_flags(pretrain_text="texts", qa_data="qa.jsonl"))
    assert Path("texts/train.txt").read_text() == "one" and Path("qa.jsonl").read_text() == "two"
    assert not list(container.CACHE.iterdir()) and not find(container.CACHE / "streams" / "absent")
    assert find(container.CACHE / "streams" / "abc") and not (container.CACHE / "streams" / "abd").exists()
    assert (container.CACHE / "streams" / "abc" / "tokens").read_text() == "three"
    assert Path.cwd() == container.FILES
    with pytest.raises(DataError, match="modal volume put llm-training-data"):
        container.bring_data(ExperimentSpec.from_flags(qa_data="absent.jsonl"))
