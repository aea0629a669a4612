"""The demonstration: four cells, the random ones in a second process where there are cores, and the same either way."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from emergence.commands import demo
from emergence.environment import THREAD_VARIABLES, threads_asked_for
from emergence.errors import STOPPED, EmergenceError, UsageError
from emergence.experiment import run as run_module
from emergence.experiment.run import run_experiment
from emergence.experiment.store import RunDirectory, RunStore
from emergence.findings.two_by_two import Grid
from emergence.spec.experiment import ExperimentSpec
from emergence.sweep import processes, worker
from emergence.sweep.processes import divided_threads
from emergence.training.recording import StopRequested
from tests.small_runs import MICRO

#: Who runs which cell is the same whatever is computed in it; the slow test has all of it.
FEW = (*MICRO, "probe.validity=false", 'probe.families=["linear"]')


class Pretended:
    """A second process: what it is given runs here at once, or as ``outcome`` says."""

    def __init__(self) -> None:
        self.given: list[dict[str, Any]] = []
        self.outcome: Callable[[dict[str, Any]], dict[str, Any] | None] = self.run
        self.answers: list[dict[str, Any]] = []
        self.news_here, self.news_there = Pipe(duplex=False)
        self.interrupted, self.closed = 0, 0

    def start(self, context: object) -> Pretended:
        return self

    def take(self, job: dict[str, Any]) -> None:
        self.given.append(job)
        if any("error" in answer for answer in self.answers):  # it has ended
            return
        if (answer := self.outcome(job)) is not None:
            self._tell(answer)

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        Path(job["log"]).write_text("a line of its log\nhalf a")
        runs = Path(job["runs_dir"])
        spec = ExperimentSpec.from_dict(job["spec"])
        result = run_experiment(spec, RunStore(runs), cache_dir=runs / ".cache", fresh=job["fresh"])
        assert result is not None
        return {"run_id": result.run_id, "headline": {}}

    def _tell(self, answer: dict[str, Any]) -> None:
        self.answers.append(answer)
        self.news_there.send_bytes(b"answer")

    @property
    def news(self) -> list[Any]:
        return [self.news_here]

    def answer(self) -> dict[str, Any]:
        self.news_here.recv_bytes()
        return self.answers.pop(0)

    def interrupt(self) -> None:
        self.interrupted += 1
        self._tell({"error": "stopped; the same command goes on", "exit_code": STOPPED})

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    pretended = Pretended()
    monkeypatch.setattr(demo, "Process", pretended)
    monkeypatch.setattr(demo, "start_method", lambda: None)
    monkeypatch.setattr(demo, "prepare", lambda: None)
    monkeypatch.setattr(demo, "SHARED", {**demo.SHARED, "set_values": FEW})
    monkeypatch.setattr(demo, "_report_line", lambda runs_dir: "the report")
    monkeypatch.setattr(demo, "usable_cores", lambda: 2)
    return pretended


@pytest.fixture(scope="module")
def pretrained_cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the two cells that need a pretraining are finished."""
    root, trunk = tmp_path_factory.mktemp("demo"), None
    store = RunStore(root / "runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "SHARED", {**demo.SHARED, "set_values": FEW})
        for _, flags in demo.CELLS[:2]:
            result = run_experiment(demo._spec(0, flags, trunk), store, cache_dir=root / "runs" / ".cache")
            assert result is not None and result.run_id is not None
            trunk = demo._trunk_of(store.open(result.run_id))
    return root


@pytest.fixture
def begun(pretrained_cells: Path, tmp_path: Path) -> Path:
    """A demo that was stopped when the random cells had not begun."""
    shutil.copytree(pretrained_cells, tmp_path / "begun")
    return tmp_path / "begun"


def run(root: Path, *, fresh: bool = False) -> Grid:
    return demo.run_demo(root / "runs", seed=0, fresh=fresh)


def predictions(root: Path) -> dict[str, bytes]:
    """Of every run, by its condition."""
    store = RunStore(root / "runs")
    runs = (store.open(path.parent.name) for path in (root / "runs").glob("Debug*/predictions.jsonl"))
    return {run.spec.condition: (run.path / "predictions.jsonl").read_bytes() for run in runs}


def test_the_random_cells_run_beside(process: Pretended, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path)
    assert [job["spec"]["random_baseline"] for job in process.given] == [True, True] and process.closed == 1
    told = capsys.readouterr()
    assert told.err.startswith("estimate: ") and told.err.count("estimate: ") == 1
    assert "[3/4] train all weights of a random trunk, in a second process\na line of its log\n" in told.err
    assert "a line of its log\nhalf a\n" in told.err and "the report" in told.out
    assert len(predictions(tmp_path)) == 4 and not list((tmp_path / "runs" / ".cache").glob("demo-*"))
    run(tmp_path)
    assert len(process.given) == 2  # finished cells need nobody
    assert "estimate" not in capsys.readouterr().err
    process.outcome = lambda job: {"error": "as asked", "exit_code": 1}
    with pytest.raises(EmergenceError, match="as asked"):
        run(tmp_path, fresh=True)
    assert [job["fresh"] for job in process.given] == [False, False, True, True]


def test_where_random_cells_alone_are_left_each_process_runs_one(process: Pretended, begun: Path) -> None:
    run(begun)
    (job,) = process.given
    assert job["spec"]["random_baseline"] and job["spec"]["freeze_llm"]
    assert len(predictions(begun)) == 4


def test_what_a_second_process_leaves_when_it_dies_runs_here(
    process: Pretended, begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process.outcome = lambda job: {"error": "killed by signal 9 (out of memory?)", "exit_code": 1, "died": True}
    run(begun)
    assert len(predictions(begun)) == 4 and process.closed == 1
    assert "the second process: killed by signal 9 (out of memory?); this one goes on alone" in capsys.readouterr().err
    assert not list((begun / "runs" / ".cache").glob("demo-*"))


@pytest.mark.parametrize("code, kind", [(1, EmergenceError), (2, UsageError)])
def test_a_cell_that_fails_ends_the_demo_with_its_error(
    code: int, kind: type[EmergenceError], process: Pretended, begun: Path
) -> None:
    process.outcome = lambda job: {"error": "no room", "exit_code": code}
    with pytest.raises(kind, match="no room") as error:
        run(begun)
    assert error.value.exit_code == code and process.closed == 1 and not process.interrupted


def test_ctrl_c_while_it_waits_is_passed_on(process: Pretended, begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(job: dict[str, Any]) -> None:
        Path(job["log"]).touch()

    process.outcome = never
    monkeypatch.setattr(demo, "POLL_SECONDS", 0.01)
    shown = demo._Beside._show

    def show(self: Any, number: int, at: int, **more: Any) -> int:
        if not process.interrupted:
            os.kill(os.getpid(), signal.SIGINT)
        return shown(self, number, at, **more)

    monkeypatch.setattr(demo._Beside, "_show", show)
    with pytest.raises(EmergenceError, match="the same command goes on") as error:
        run(begun)
    assert error.value.exit_code == STOPPED and process.interrupted == 1 and process.closed == 1


def test_what_ends_this_process_first_stops_the_second(
    process: Pretended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process.outcome = lambda job: None
    announced = demo.announce

    def announce(run: Any, what: str) -> None:
        announced(run, what)
        if run.spec.freeze_llm:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(demo, "announce", announce)
    with pytest.raises(StopRequested):
        run(tmp_path)
    assert process.interrupted == 1 and process.closed == 1


def test_as_many_threads_whatever_is_left_to_do(
    process: Pretended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another number of threads rounds otherwise, and a run that goes on ends in the same bits."""
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(processes, "usable_cores", lambda: 6)
    threads: list[int] = []

    def stopped(*_: object, **__: object) -> None:
        threads.append(torch.get_num_threads())
        raise EmergenceError("far enough")

    monkeypatch.setattr(demo, "run_experiment", stopped)
    before = torch.get_num_threads()
    for finished in (None, RunDirectory(tmp_path, demo._spec(0, {}), "now")):
        monkeypatch.setattr(RunStore, "find_finished", lambda self, spec, finished=finished: finished)
        with pytest.raises(EmergenceError, match="far enough"):
            run(tmp_path)
    assert threads == [3, 3] and torch.get_num_threads() == before


@pytest.mark.parametrize("name", THREAD_VARIABLES)
def test_what_a_person_says_of_threads_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in THREAD_VARIABLES:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "5")
    with divided_threads(2):
        assert {other: os.environ.get(other) for other in THREAD_VARIABLES if other in os.environ} == {name: "5"}


@pytest.mark.parametrize("nothing", ["", "0", "many"])
def test_what_is_no_number_of_threads_says_nothing(nothing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in THREAD_VARIABLES:
        monkeypatch.setenv(name, nothing)
    monkeypatch.setattr(processes, "usable_cores", lambda: 6)
    assert threads_asked_for() is None
    with divided_threads(2):
        assert {os.environ[name] for name in THREAD_VARIABLES} == {"3"} and threads_asked_for() == 3
    assert {os.environ[name] for name in THREAD_VARIABLES} == {nothing}


def test_a_long_temporary_folder_takes_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a Unix socket has about a hundred characters."""
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/tmp")
    has_server = "forkserver" in multiprocessing.get_all_start_methods()
    assert processes.start_method().get_start_method() == ("forkserver" if has_server else "spawn")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/" + "long" * 20)
    assert processes.start_method().get_start_method() == "spawn"


def test_a_process_that_is_interrupted_between_two_jobs_says_that_it_has_stopped() -> None:
    said: list[bytes] = []

    def interrupted() -> bytes:
        raise KeyboardInterrupt

    worker.serve(SimpleNamespace(recv_bytes=interrupted), SimpleNamespace(send_bytes=said.append))  # type: ignore[arg-type]
    assert len(said) == 1 and json.loads(said[0])["exit_code"] == STOPPED


def test_torchrun_is_refused_before_anything_starts(
    process: Pretended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="without torchrun"):
        run(tmp_path)
    assert not process.given and not list(tmp_path.iterdir())


def test_after_ctrl_c_no_second_process_starts_and_the_next_cell_stops(
    process: Pretended, begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def announce(run: Any, what: str) -> None:
        if not asked:
            asked.append(1)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(demo, "announce", announce)
    with pytest.raises(StopRequested):
        run(begun)
    assert not process.given and len(predictions(begun)) == 2


@pytest.mark.parametrize("fresh", [False, True])
def test_a_job_says_whether_its_run_begins_anew_and_a_failure_ends_its_process(
    fresh: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def refused(*_: object, fresh: bool, **__: object) -> None:
        asked.append(fresh)
        raise EmergenceError("no room")

    monkeypatch.setattr(run_module, "run_experiment", refused)
    monkeypatch.setattr(worker._OwnProcess, "__enter__", lambda self: None)
    job = {"spec": demo._spec(0, {"freeze_llm": True, "random_baseline": True}).to_dict(), "fresh": fresh}
    jobs = iter([json.dumps({**job, "trunk": None, "runs_dir": str(tmp_path)}).encode()] * 2)
    said: list[bytes] = []
    worker.serve(SimpleNamespace(recv_bytes=lambda: next(jobs)), SimpleNamespace(send_bytes=said.append))  # type: ignore[arg-type]
    assert asked == [fresh] and json.loads(said[0]) == {"error": "no room", "exit_code": 1} and len(said) == 1


@pytest.mark.slow
def test_a_real_second_process_gives_the_same_as_one_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SHARED", {**demo.SHARED, "set_values": MICRO})
    for cores in (1, 2):
        monkeypatch.setattr(demo, "usable_cores", lambda cores=cores: cores)
        run(tmp_path / str(cores))
    one, two = predictions(tmp_path / "1"), predictions(tmp_path / "2")
    assert len(one) == 4 and one == two
