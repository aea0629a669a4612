"""Modal as a simulation: the program's own functions as processes that take turns, on a clock of their own.

Every call of the server takes a random time, may fail with any status before or after it is done, and lets any other
process go first. Containers are killed, preempted and restarted as Modal does it. The program under test is real:
``prepare``, ``train`` and ``conduct`` with locks, looks and accounts, and the laptop's sweep. Simulated are the server,
the clock, the volume's mirror, and the training itself, which counts steps. A schedule is decided by its seed.
"""

from __future__ import annotations

import contextlib
import heapq
import math
import random
import shutil
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import modal
from grpclib import GRPCError, Status
from modal._grpc_client import grpc_error_to_modal_exception

from emergence.errors import STOPPED, EmergenceError
from emergence.experiment.run_directory import STATS_FILE
from emergence.remote import app as remote
from emergence.remote import attempts, calls, container, locks, runner
from emergence.remote import sweep as place
from emergence.training.checkpoint_names import CheckpointName

#: Everything that a server can answer instead of an answer.
STATUSES = [each for each in Status if each not in (Status.OK, Status.NOT_FOUND)]
#: Price of a container that trains.
DOLLARS_PER_HOUR = 6.0
#: Retries that Modal makes of what failed, and restarts of what was lost, by function.
RETRIES = {"prepare": 3, "train": 10, "conduct": 10}
MOST_DEATHS = 30


class Killed(BaseException):
    """Ends a process where it is; nothing of it runs any more."""


class Cancelled(BaseException):
    """Modal's cancellation of an input: raised once, and the function may still clean up."""


class Process:
    """One laptop's command, or one container; a thread that runs while it has the baton."""

    def __init__(self, world: World, name: str, body: Callable[[], Any], call: Call | None = None) -> None:
        self.world, self.name, self.call = world, name, call
        self.requests, self.killed, self.cancelled, self.over = 0, False, False, False
        self.result: Any = None
        self.error: BaseException | None = None
        self.published: set[str] = set()
        self.began = world.clock
        self._baton = threading.Lock()  # free for whoever may run; a bare lock is handed over fastest
        self._baton.acquire()
        self._thread = threading.Thread(target=self._run, args=(body,), daemon=True)
        self._thread.start()

    def _run(self, body: Callable[[], Any]) -> None:
        self._baton.acquire()
        try:
            if not self.killed:
                self.result = body()
        except BaseException as error:
            self.error = error
        self.over = True
        self.world.idle.release()

    def turn(self) -> None:
        """Let it run until it pauses or ends."""
        self.world.now_running = self
        self._baton.release()
        assert self.world.idle.acquire(timeout=60), f"{self.name} hangs"

    def pause(self, seconds: float) -> None:
        """Let others run for ``seconds`` of the world's clock."""
        if not self.killed:
            self.world.schedule(self.world.clock + seconds, self)
            self.world.idle.release()
            self._baton.acquire()
        if self.killed:
            raise Killed
        if self.cancelled:
            self.cancelled = False
            raise Cancelled


@dataclass
class Call:
    """A function call."""

    call_id: str
    function: str
    arguments: tuple[Any, ...]
    output: Any = None
    error: BaseException | None = None
    ended: bool = False
    stopped: bool = False
    failures: int = 0
    deaths: int = 0
    attempts: int = 0
    seconds: float = 0.0
    process: Process | None = None


@dataclass
class Weather:
    """How bad a schedule is; every rate is per call of the server, or per minute of a container."""

    fault_rate: float = 0.0
    kills_an_hour: float = 0.0
    preemptions_an_hour: float = 0.0
    crashes_an_hour: float = 0.0
    outages: list[tuple[float, float]] = field(default_factory=list)
    over_at: float = math.inf

    @classmethod
    def drawn(cls, draw: random.Random) -> Weather:
        """Some schedules are calm in one way or another, some are bad in all."""
        outages = []
        for _ in range(draw.choice([0, 0, 1, 2])):
            begin = draw.uniform(0, 6 * 3600)
            outages.append((begin, begin + draw.uniform(30, 2400)))
        return cls(
            draw.choice([0.0, 0.02, 0.1, 0.3]), draw.choice([0.0, 0.5, 3.0]), draw.choice([0.0, 0.5, 3.0]),
            draw.choice([0.0, 0.0, 0.5]), outages, over_at=8 * 3600.0,
        )  # fmt: skip


class World:
    """The server with its clock, the processes, and what is found wrong."""

    def __init__(self, seed: int, folder: Path, weather: Weather | None = None) -> None:
        self.draw = random.Random(seed)
        self.weather = weather or Weather.drawn(self.draw)
        self.folder, self.clock, self.order = folder, 0.0, 0
        self.waiting: list[tuple[float, int, Process]] = []
        self.now_running: Process | None = None
        self.idle = threading.Lock()
        self.idle.acquire()
        self.calls: dict[str, Call] = {}
        self.wrong: list[str] = []
        self.publications = 0
        self.faults: dict[str, int] = {}
        self.total_steps = 60
        #: Runs in which step 23 crashes, and in which it never ends, whatever happens.
        self.crashing: set[str] = set()
        self.hanging: set[str] = set()
        self.dicts: dict[str, dict[str, Any]] = {"locks": {}, "sweeps": {}}

    # Turns ------------------------------------------------------------------------------------------

    def schedule(self, at: float, process: Process) -> None:
        self.order += 1
        heapq.heappush(self.waiting, (at, self.order, process))

    def start(self, name: str, body: Callable[[], Any], delay: float = 0.0, call: Call | None = None) -> Process:
        process = Process(self, name, body, call)
        self.schedule(self.clock + delay, process)
        return process

    def run(self, until: Callable[[], bool] = lambda: False, most_hours: float = 400.0) -> None:
        """Let time pass until nothing is left to happen, or ``until`` holds."""
        end = self.clock + most_hours * 3600
        while self.waiting and not until():
            at, _, process = heapq.heappop(self.waiting)
            if process.over:
                continue
            if at > end:
                self.wrong.append(f"after {most_hours} hours {process.name} still goes on")
                return
            elapsed, self.clock = at - self.clock, max(at, self.clock)
            self._mishap(process, max(0.0, elapsed))
            process.turn()
            if process.over and process.call is not None:
                self._container_over(process.call, process)

    def _mishap(self, process: Process, seconds: float) -> None:
        weather = self.weather
        if process.call is None or self.clock > weather.over_at:
            return
        hours = min(seconds, 60.0) / 3600
        if self.draw.random() < weather.kills_an_hour * hours * 3:
            process.killed = True
        elif self.draw.random() < weather.preemptions_an_hour * hours * 3:
            process.requests += 1

    # Calls of the server ----------------------------------------------------------------------------------

    def rpc(self, name: str, action: Callable[[], Any], longest: float = 2.0) -> Any:
        """One call: others may go first, and it may fail, before it is done or after."""
        process = self.now_running
        assert process is not None
        process.pause(self.draw.uniform(0.01, longest))
        failing = self.clock < self.weather.over_at and (
            self.draw.random() < self.weather.fault_rate
            or any(begin < self.clock < end for begin, end in self.weather.outages)
        )
        if not failing:
            return action()
        status = self.draw.choice(STATUSES)
        self.faults[f"{name} {status.name}"] = self.faults.get(f"{name} {status.name}", 0) + 1
        if self.draw.random() < 0.5:
            action()
            process.pause(self.draw.uniform(0.01, longest))
        raise grpc_error_to_modal_exception(GRPCError(status, "injected"))

    def spawn(self, function: str, *arguments: Any) -> Any:
        def done() -> Any:
            call = Call(f"fc-{function}-{len(self.calls)}", function, arguments)
            self.calls[call.call_id] = call
            self._start_container(call)
            return types.SimpleNamespace(object_id=call.call_id)

        return self.rpc("FunctionMap", done)

    def _start_container(self, call: Call) -> None:
        call.attempts += 1
        body = {
            "prepare": lambda: remote.prepare.local(*call.arguments),
            "train": lambda: remote.train.local(*call.arguments),
            "conduct": lambda: remote.conduct.local(*call.arguments),
        }[call.function]
        name = f"{call.call_id} attempt {call.attempts}"
        call.process = self.start(name, body, self.draw.uniform(2.0, 90.0), call)

    def _container_over(self, call: Call, process: Process) -> None:
        if call.function == "train":
            call.seconds += self.clock - process.began
        error, retries = process.error, RETRIES[call.function]
        if isinstance(error, (AssertionError, AttributeError, NameError, TypeError)):
            self.wrong.append(f"{process.name}: {error!r}")
        if call.stopped:
            call.error, call.ended = modal.exception.RemoteError("cancelled"), True
        elif error is None:
            call.output, call.ended = process.result, True
        elif isinstance(error, (Killed, KeyboardInterrupt)):
            call.deaths += 1
            if call.deaths > MOST_DEATHS:
                call.error, call.ended = modal.exception.InternalFailure("containers kept dying"), True
        else:
            call.failures += 1
            if call.failures > retries:
                call.error, call.ended = error, True
        if not call.ended:
            self._start_container(call)

    def function_call(self, call_id: str) -> Any:
        def outcome() -> Any:
            call = self.calls.get(call_id)
            if call is None:
                raise grpc_error_to_modal_exception(GRPCError(Status.NOT_FOUND, call_id))
            if not call.ended:
                raise TimeoutError
            if call.error is not None:
                raise call.error
            return call.output

        def stop() -> None:
            call = self.calls[call_id]
            call.stopped = True
            if call.process is not None and not call.ended:
                call.process.cancelled = True

        return types.SimpleNamespace(
            get=lambda timeout=None: self.rpc("FunctionGetOutputs", outcome),
            cancel=lambda: self.rpc("FunctionCallCancel", stop),
        )

    @property
    def live_calls(self) -> list[str]:
        return [call_id for call_id, call in self.calls.items() if not call.ended]

    # What runs on the volume ------------------------------------------------------------------------------

    def train_steps(self, job: dict[str, Any], stop: Callable[[], bool], on_commit: Callable[[], None]) -> None:
        """The training: steps of a minute, a checkpoint every ten."""
        process, run_id = self.now_running, job["run_id"]
        assert process is not None
        step = max(attempts.steps_of(container.MODELS / run_id).values(), default=0)
        while step < self.total_steps:
            if stop():
                self._checkpoint(process, step)
                raise EmergenceError("saved", STOPPED)
            if step == 23 and run_id in self.hanging:
                for _ in range(int(attempts.SILENT_SECONDS / 30)):
                    process.pause(30.0)  # a cancel kills a container that hangs as it does any other
                raise attempts.HungError("nothing moved for 30 minutes")
            process.pause(60.0)
            step += 1
            calm = self.clock > self.weather.over_at
            if (step == 24 and run_id in self.crashing) or (
                not calm and self.draw.random() < self.weather.crashes_an_hour / 60
            ):
                raise ZeroDivisionError(f"step {step}")
            if step % 10 == 0:
                self._checkpoint(process, step)
                on_commit()
        (self.local(process) / STATS_FILE).write_text('{"final_validation_f1": 0.5}')

    def local(self, process: Process) -> Path:
        folder = self.folder / "local" / process.name.replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _checkpoint(self, process: Process, step: int) -> None:
        folder = self.local(process) / "checkpoint"
        folder.mkdir(exist_ok=True)
        (folder / str(CheckpointName(step, "pretrain", step))).touch()

    def publish(self, process: Process, run_id: str) -> None:
        """Copy a container's files to the volume; no other living container may have done so."""
        for other in {call.process for call in self.calls.values()} - {process, None}:
            assert other is not None
            if not other.over and not other.killed and run_id in other.published:
                self.wrong.append(f"{run_id}: {process.name} writes beside {other.name}")
        process.published.add(run_id)
        self.publications += 1
        shutil.copytree(self.local(process), container.MODELS / run_id, dirs_exist_ok=True)


class Table:
    """``modal.Dict`` of a world."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.content = world, world.dicts[name]

    def get(self, key: str, default: Any = None) -> Any:
        return self.world.rpc("DictGet", lambda: self.content.get(key, default))

    def put(self, key: str, value: Any, *, skip_if_exists: bool = False) -> bool:
        value = dict(value)
        for task, status in value.get("states", {}).items():
            if str(status["error"]).partition(": ")[2].startswith("injected"):  # a function's own says CallError first
                self.world.wrong.append(f"{task} failed by an error of the server: {status['error']}")

        def done() -> bool:
            if skip_if_exists and key in self.content:
                return False
            self.content[key] = value
            return True

        return bool(self.world.rpc("DictUpdate", done))

    def pop(self, key: str, default: Any = None) -> Any:
        return self.world.rpc("DictPop", lambda: self.content.pop(key, default))


class Mirror:
    """:class:`emergence.remote.mirror.VolumeMirror`, in turns."""

    def __init__(self, world: World, run_id: str, may_publish: Callable[[], bool]) -> None:
        assert world.now_running is not None
        self.world, self.process, self.run_id, self.may_publish = world, world.now_running, run_id, may_publish
        self.publications, self.forbidden, self.closed = 0, False, False

    def adopt(self) -> None:
        pass

    def hurry(self) -> None:
        pass

    def request(self) -> None:
        with contextlib.suppress(Exception):  # the thread outlives a bad minute
            self.publish()

    def publish(self) -> None:
        self.forbidden = self.forbidden or not self.may_publish()
        if not self.forbidden:
            self.world.rpc("VolumeCommit", lambda: self.world.publish(self.process, self.run_id), longest=20.0)
            self.publications += 1

    def close(self) -> None:
        for pause in (1.0, 2.0, 4.0, 8.0, 16.0, None):
            try:
                self.publish()
                return
            except Exception:
                if pause is None:
                    raise
                self.process.pause(pause)


class QuietAttempt(attempts.Attempt):
    """Without threads: its heart beats when it is asked whether to stop."""

    def __enter__(self) -> QuietAttempt:
        self._beaten = attempts.time.monotonic()
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def should_stop(self) -> bool:
        if attempts.time.monotonic() - self._beaten >= 60.0:
            self._beaten = attempts.time.monotonic()
            with contextlib.suppress(Exception):
                self.reason = self.reason or self._heartbeat()
        return super().should_stop()


class Function:
    """A function of the app as far as it is spawned."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name

    def with_options(self, **options: Any) -> Function:
        return self

    def spawn(self, *arguments: Any) -> Any:
        return self.world.spawn(self.name, *arguments)


class LocalRuns:
    """The folder of runs on the disk of the container that asks; it has one."""

    def __init__(self, world: World) -> None:
        self.world = world

    def __truediv__(self, run_id: str) -> Path:
        assert self.world.now_running is not None
        return self.world.local(self.world.now_running)


class Switch(contextlib.AbstractContextManager["Switch"]):
    """Modal's notice of preemption to the process that has it."""

    def __init__(self, process: Process) -> None:
        self.process, self._before = process, process.requests

    @property
    def requests(self) -> int:
        return self.process.requests - self._before

    def __call__(self) -> bool:
        return self.requests > 0

    def __exit__(self, *error: object) -> None:
        pass


@contextlib.contextmanager
def installed(world: World) -> Iterator[None]:
    """The world in the place of Modal, for the modules under test."""

    def running() -> Process:
        assert world.now_running is not None
        return world.now_running

    clock = types.SimpleNamespace(monotonic=lambda: world.clock, sleep=lambda seconds: running().pause(seconds))
    models = world.folder / "models"
    models.mkdir(parents=True, exist_ok=True)
    functions = {name: getattr(remote, name) for name in RETRIES}

    def replace_all() -> Iterator[Any]:
        for module in (calls, locks, runner, attempts, place):
            yield mock.patch.object(module, "time", clock)
        for module in (remote, runner, place):
            yield mock.patch.object(module, "sweeps", Table(world, "sweeps"))
        yield mock.patch.object(locks, "locks", Table(world, "locks"))
        yield mock.patch.object(modal.FunctionCall, "from_id", world.function_call)
        yield mock.patch.object(modal, "current_function_call_id", lambda: _call_of(running()))
        yield mock.patch.object(modal, "is_local", lambda: running().call is None)
        yield mock.patch.object(place, "conduct", Function(world, "conduct"))
        yield mock.patch.object(place, "reach_modal", lambda: None)
        for name, function in functions.items():
            spawned = types.SimpleNamespace(local=function.local, with_options=Function(world, name).with_options)
            yield mock.patch.object(remote, name, spawned)
        yield mock.patch.object(remote, "_prepare", lambda *words: running().pause(world.draw.uniform(30, 600)))
        yield mock.patch.object(remote, "Attempt", QuietAttempt)
        yield mock.patch.object(
            remote,
            "VolumeMirror",
            lambda local, there, commit, every, may_publish: Mirror(world, there.name, may_publish),
        )
        yield mock.patch.object(container, "MODELS", models)
        yield mock.patch.object(container, "log_to_stdout", lambda: None)
        yield mock.patch.object(container, "bring_data", lambda spec: running().pause(20.0))
        yield mock.patch.object(container, "bring_kernels", lambda spec, gpu: set())
        yield mock.patch.object(container, "keep_derived", lambda *words: None)
        yield mock.patch.object(container, "working_copy", lambda *words: running().pause(1.0))
        yield mock.patch.object(container, "RUNS", LocalRuns(world))
        yield mock.patch.object(container, "run_in_process", world.train_steps)
        yield mock.patch.object(container, "attempt_switch", lambda *words: Switch(running()))
        yield mock.patch.object(container, "signs_of_life", lambda folder: None)

    with contextlib.ExitStack() as stack:
        for patch in replace_all():
            stack.enter_context(patch)
        yield


def _call_of(process: Process) -> str:
    return "" if process.call is None else process.call.call_id
