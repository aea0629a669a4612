"""Sweeps: the graph, what is done already, the record, the loop, the places; end to end with SIGKILL (slow)."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import emergence.sweep.local as local
from emergence.commands import sweep as command
from emergence.errors import STOPPED, EmergenceError, RunDirectoryError, UsageError
from emergence.experiment.run_directory import TRUNK_FILE
from emergence.experiment.store import RunDirectory, RunStore
from emergence.plain import plain
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.matrix import Matrix, matrix_from_dict
from emergence.studies.revisions.record import Revision, Revisions, save_revisions
from emergence.sweep import processes
from emergence.sweep.conductor import conduct
from emergence.sweep.existing import Existing, existing_runs, mark_existing
from emergence.sweep.graph import Graph, Status, Task, build_tasks
from emergence.sweep.place import Outcome, Say
from emergence.sweep.plan import SweepPlan
from emergence.sweep.record import Record, find_record, load_record, record_name, record_path
from emergence.sweep.worker import _OwnProcess, last_lines

ROOT = Path(__file__).resolve().parents[2]

MATRIX: dict[str, Any] = {
    "data": "microworld",
    "seeds": [0, 1],
    "cells": [{"size": "debug", "trunk": ["wiki", "wiki+nq", "random"], "samples": ["all", 20]}],
}


def matrix(**changes: Any) -> Matrix:
    return matrix_from_dict({**MATRIX, **changes}, "m.toml", "m")


def tasks_of(*only: str, seeds: int = 1) -> list[Task]:
    return build_tasks(matrix().select(only, seeds=seeds))


def by_name(tasks: list[Task]) -> dict[str, Task]:
    return {task.label: task for task in tasks}


# The graph --------------------------------------------------------------------------------------------


def test_one_pretraining_serves_all_its_finetunings() -> None:
    tasks = tasks_of(seeds=2)
    pretrainings = [task for task in tasks if task.is_pretraining]
    assert len(tasks) == 4 + 24 and tasks[:4] == pretrainings
    assert [t.label for t in pretrainings] == [
        "D-W-pretrain.0", "D-WN-pretrain.0", "D-W-pretrain.1", "D-WN-pretrain.1",
    ]  # fmt: skip
    assert all(t.spec.skip_finetune and not t.spec.freeze_llm for t in pretrainings)
    keys = {task.key: task for task in tasks}
    for task in tasks[4:]:
        assert (task.needs is None) == task.spec.random_baseline
        if task.needs:
            assert keys[task.needs].spec.pretrain_id == task.spec.pretrain_id
            assert keys[task.needs].spec.seed == task.spec.seed


def test_cells_on_snapshots_wait_for_the_one_pretraining_and_do_not_stand_for_it() -> None:
    axes = {"samples": 20, "snapshot": "log4", "subset": [1, 2], "adapter": ["none", "prefix-16"]}
    table = {"size": "debug", "trunk": ["wiki", "random"], "train": "full", **axes}
    tasks = build_tasks(matrix(cells=[table]).select(seeds=1))
    (pretraining,) = (task for task in tasks if task.is_pretraining)
    ours = [task for task in tasks if task.needs]
    assert len(ours) == 16 and len(tasks) == 1 + 16 + 4 and {task.needs for task in ours} == {pretraining.key}
    alone = ExperimentSpec.from_flags(config_name="debug", data="microworld", skip_finetune=True)
    assert pretraining.spec == alone
    at_snapshot = next(task for task in ours if task.spec.at_snapshot)
    existing = Existing()
    existing.add("at", at_snapshot.spec, at_snapshot.key, has_trunk=True, stats={})
    graph = mark_existing(tasks, existing)
    assert graph.status[at_snapshot.key].state == "done" and graph.status[pretraining.key].state == "waiting"


def test_a_pretraining_is_done_with_its_result_and_not_with_its_trunk() -> None:
    """One that was killed in between goes on; otherwise its run would stay unfinished for good."""
    pretraining = by_name(tasks_of("D-W-F-ALL"))["D-W-pretrain.0"]
    for stats, state in ((None, "waiting"), ({}, "done")):
        existing = Existing()
        existing.add("run", pretraining.spec, pretraining.key, has_trunk=True, stats=stats)
        graph = mark_existing(tasks_of("D-W-F-ALL"), existing)
        assert graph.status[pretraining.key].state == state


def test_a_pretraining_axis_makes_several_pretrainings_with_names_of_their_own() -> None:
    table = {"size": "debug", "trunk": "wiki", "train": "frozen", "set": {"pretrain": {"muon_lr": [0.01, 0.02]}}}
    tasks = build_tasks(matrix(cells=[table]).select(seeds=1))
    assert len([t for t in tasks if t.is_pretraining]) == 2 and len({t.label for t in tasks}) == 4


def test_states_follow_the_graph() -> None:
    tasks = by_name(tasks_of("D-W-*-ALL", "D-R-F-ALL"))
    graph = Graph(list(tasks.values()))
    assert [t.label for t in graph.ready()] == ["D-W-pretrain.0", "D-R-F-ALL.0"]
    graph.status[tasks["D-W-pretrain.0"].key].state = "done"
    assert [t.label for t in graph.ready()] == ["D-W-F-ALL.0", "D-W-Z-ALL.0", "D-R-F-ALL.0"]
    graph.fail(tasks["D-W-F-ALL.0"].key, "no")
    assert graph.counts() == {"done": 1, "failed": 1, "waiting": 2}
    graph = Graph(list(tasks.values()))
    graph.fail(tasks["D-W-pretrain.0"].key, "full disk", ["last"])
    assert [t.label for t in graph.in_state("blocked")] == ["D-W-F-ALL.0", "D-W-Z-ALL.0"]
    assert [t.label for t in graph.ready()] == ["D-R-F-ALL.0"] == [t.label for t in graph.unfinished]


# What is done -----------------------------------------------------------------------------------------


def fake_run(store: RunStore, spec: ExperimentSpec, lineage: Mapping[str, Any] | None = None) -> RunDirectory:
    """A finished run, as far as a sweep looks."""
    run = store.create(spec)
    (run.path / TRUNK_FILE).write_bytes(b"")
    run.write_stats({"config_name": "debug", "lineage": lineage or {}})
    return run


def test_what_is_done_is_found_by_content(tmp_path: Path) -> None:
    store, tasks = RunStore(tmp_path), by_name(tasks_of("D-W-*-ALL", "D-R-Z-ALL"))
    frozen = tasks["D-W-Z-ALL.0"].spec
    trunk = fake_run(store, dataclasses.replace(frozen, freeze_llm=False, skip_finetune=True, qa_data="elsewhere"))
    random = fake_run(store, tasks["D-R-Z-ALL.0"].spec)
    source = {"pretrain_id": frozen.pretrain_id, "path": f"/x/{trunk.run_id}/{TRUNK_FILE}"}
    given = dataclasses.replace(frozen, skip_pretrain=True, pretrained_model_path=f"{trunk.run_id}/{TRUNK_FILE}")
    guide = fake_run(store, given, {"source": source})
    graph = mark_existing(tasks.values(), existing_runs(store))
    found = {graph.tasks[key].label: status.run_id for key, status in graph.status.items() if status.state == "done"}
    assert found == {
        "D-W-pretrain.0": found["D-W-pretrain.0"], "D-R-Z-ALL.0": random.run_id, "D-W-Z-ALL.0": guide.run_id,
    }  # fmt: skip
    assert found["D-W-pretrain.0"] in (trunk.run_id, guide.run_id), "either holds that trunk"
    assert [t.label for t in graph.ready()] == ["D-W-F-ALL.0"]


@pytest.mark.parametrize("weights", ["pretrain_step_64.pth", TRUNK_FILE])
def test_a_probe_of_other_weights_is_another_experiment(tmp_path: Path, weights: str) -> None:
    store, task = RunStore(tmp_path), tasks_of("D-W-Z-ALL")[1]
    other = "0" * 12 if weights == TRUNK_FILE else task.spec.pretrain_id
    given = dataclasses.replace(task.spec, skip_pretrain=True, pretrained_model_path=f"R/{weights}")
    fake_run(store, given, {"source": {"pretrain_id": other, "path": f"/x/R/{weights}"}})
    assert not existing_runs(store).trunks
    assert mark_existing(tasks_of("D-W-Z-ALL"), existing_runs(store)).in_state("done") == []


def test_a_pretraining_is_gone_on_with_as_it_began_and_left_out_when_nobody_needs_it(tmp_path: Path) -> None:
    store, tasks = RunStore(tmp_path), tasks_of("D-W-Z-ALL")
    begun = dataclasses.replace(tasks[0].spec, qa_data="elsewhere")
    store.create(begun)
    assert mark_existing(tasks, existing_runs(store)).ready()[0].spec == begun
    run = fake_run(store, tasks[1].spec)
    (run.path / TRUNK_FILE).unlink()
    graph = mark_existing(tasks, existing_runs(store))
    assert [t.label for t in graph.tasks.values()] == ["D-W-Z-ALL.0"] and not graph.unfinished


# The plan ---------------------------------------------------------------------------------------------


def test_the_plan_counts_a_pretraining_once_and_nothing_that_is_done() -> None:
    tasks, modal = tasks_of(), command.place_of("modal")
    plan = SweepPlan.of(Graph(tasks), modal, 4)
    told = plan.to_dict()
    pretrained = [task["pretrain_tokens"] for task in told["tasks"]]
    assert pretrained[0] == pretrained[1] > 0 and set(pretrained[2:]) == {0}
    assert plan.dollars == pytest.approx(sum(task["dollars"] for task in told["tasks"])) and plan.dollars > 0
    assert "14 runs to do (2 pretrainings)" in plan.text() and "4 containers at a time" in plan.text()
    done = Graph(tasks, {task.key: Status("done", run_id="R") for task in tasks})
    assert SweepPlan.of(done, modal, 4).text() == "nothing to do: all 14 runs are done already"
    with pytest.raises(UsageError, match=r"--max-cost 0\.01"):
        plan.refuse_if_too_dear(0.01)
    assert SweepPlan.of(Graph(tasks), command.place_of("local"), 1).dollars == 0


# The record -------------------------------------------------------------------------------------------


def test_a_record_survives_writing_and_reading(tmp_path: Path) -> None:
    tasks = tasks_of()
    record = Record("m-1", record_path(tmp_path, "m-1"), "modal", 3, "/somewhere", Graph(tasks))
    record.graph.fail(tasks[0].key, "no", ["a", "b"])
    record.conductor = "fc-1"
    record.save()
    assert find_record(tmp_path, None).to_dict() == record.to_dict() == find_record(tmp_path, "m-1").to_dict()
    assert not RunStore(tmp_path).run_ids(), "a record is no run"
    with pytest.raises(UsageError, match="did you mean m-1"):
        find_record(tmp_path, "m-2")
    with pytest.raises(UsageError, match="no sweep was started"):
        find_record(tmp_path / "none", None)
    record.path.write_text(record.path.read_text().replace("fc-1", "fc-2"))
    with pytest.raises(RunDirectoryError, match="damaged or edited"):
        load_record(record.path)


def test_equal_cells_have_one_record_wherever_they_are_written() -> None:
    tasks, again = tasks_of(), tasks_of()
    assert record_name("m", "local", tasks) == record_name("m", "local", list(reversed(again)))
    assert record_name("m", "local", tasks) != record_name("m", "modal", tasks)
    assert record_name("m", "local", tasks) != record_name("m", "local", tasks_of("D-W-*"))


# The executor, with processes that only pretend ---------------------------------------------------------


class Pretend:
    """Stands for ``multiprocessing``: a process answers every job at once as ``outcome`` says, or dies (None)."""

    def __init__(self, runs_dir: Path) -> None:
        self.store = RunStore(runs_dir)
        self.outcome: Callable[[str], dict[str, Any] | None] = lambda run: {"run_id": run, "headline": {}}
        self.started: list[str] = []
        self.processes: list[list[str]] = []  # the cells of each
        self.checked: dict[str, Any] = {"read": True}

    def get(self) -> Pretend:
        return self

    def Pipe(self, duplex: bool) -> tuple[Any, Any]:
        return multiprocessing.Pipe(duplex=duplex)

    def Process(self, target: Any, args: tuple[Any, Any]) -> Any:
        assert target is processes.serve
        return PretendProcess(self, *args)

    def answer(self, job: dict[str, Any]) -> dict[str, Any] | None:
        Path(job["log"]).write_text("first\nlast words\n")
        name = Path(job["log"]).stem
        self.started.append(name)
        answer = self.outcome(name)
        if answer and "run_id" in answer:
            return {**answer, "run_id": fake_run(self.store, ExperimentSpec.from_dict(job["spec"])).run_id}
        return answer


class PretendProcess:
    def __init__(self, world: Pretend, jobs: Any, answers: Any) -> None:
        self.world, self.jobs, self.answers = world, jobs, answers
        self.exitcode: int | None = None
        self.pid = 2**30  # nobody's

    def start(self) -> None:
        self.sentinel, self.alive = os.pipe()
        # Ends of its own, as a forked process has them.
        self.jobs, self.answers = (type(end)(os.dup(end.fileno())) for end in (self.jobs, self.answers))
        self.world.processes.append([])
        threading.Thread(target=self.serve, args=(self.world.processes[-1],), name="pretend").start()

    def serve(self, done: list[str]) -> None:
        with contextlib.suppress(EOFError, BrokenPipeError):
            while True:
                job = json.loads(self.jobs.recv_bytes())
                if "specs" in job:
                    answer: dict[str, Any] | None = self.world.checked
                else:
                    done.append(Path(job["log"]).stem)
                    answer = self.world.answer(job)
                if answer is None:
                    return self.end(-9)
                self.answers.send_bytes(json.dumps(answer).encode())
                if "error" in answer:
                    break
        return self.end(0)

    def end(self, code: int) -> None:
        self.exitcode = code
        self.answers.close()
        os.close(self.alive)  # the sentinel is at the end of its file: ready, as that of an ended process is

    def join(self) -> None:
        while self.exitcode is None:
            time.sleep(0.001)


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretend:
    world = Pretend(tmp_path / "runs")
    monkeypatch.setattr(local, "start_method", world.get)
    monkeypatch.setattr(command, "results_table", lambda record: "TABLE")
    (tmp_path / "m.toml").write_text(
        'data = "microworld"\n[[cells]]\nsize = "debug"\ntrunk = ["wiki", "random"]\nsamples = "all"\n'
    )
    return world


def sweep(tmp_path: Path, on: str = "local", **options: Any) -> tuple[int, str]:
    lines: list[str] = []
    told = command.Options(out=lines.append, say=lines.append, **options)
    return command.start(str(tmp_path / "m.toml"), on, tmp_path / "runs", told), "\n".join(lines)


def test_a_sweep_runs_everything_once(pretend: Pretend, tmp_path: Path) -> None:
    code, text = sweep(tmp_path, dry_run=True)
    assert code == 0 and "nothing was started" in text and not pretend.started and not (tmp_path / "runs").exists()
    code, text = sweep(tmp_path, jobs=2)
    assert code == 0 and pretend.started[0] == "D-W-pretrain.0" and len(pretend.started) == 5
    # What has pretrained runs nothing more; others take the next cell.
    assert ["D-W-pretrain.0"] in pretend.processes and len(pretend.processes) <= 3
    assert "TABLE" in text and f"emergence report {tmp_path / 'runs'}" in text and "[5/5]" in text
    code, text = sweep(tmp_path, jobs=2)
    assert code == 0 and "nothing to do: all 5 runs are done already" in text and len(pretend.started) == 5
    lines: list[str] = []
    command.show_status(tmp_path / "runs", None, command.Options(out=lines.append))
    assert "not running on local; 5 done" in lines[0]


@pytest.mark.parametrize("jobs", [1, 2])
def test_where_several_run_at_a_time_the_longest_are_not_left_for_the_end(
    pretend: Pretend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    expected = {"D-W-pretrain": 1.0, "D-W-F-ALL": 2.0, "D-W-Z-ALL": 3.0, "D-R-F-ALL": 4.0, "D-R-Z-ALL": 5.0}
    cost = SimpleNamespace
    monkeypatch.setattr(local, "cost_of", lambda task: cost(here=cost(least=expected[task.name])))
    asked: list[list[str]] = []
    real = Graph.ready
    monkeypatch.setattr(Graph, "ready", lambda graph: (asked.append([t.name for t in real(graph)]), real(graph))[1])
    code, _ = sweep(tmp_path, jobs=jobs)
    assert code == 0 and asked[0][0] == "D-W-pretrain", "others wait for it"
    assert asked[0][1:] == ["D-R-F-ALL", "D-R-Z-ALL"][:: 1 if jobs == 1 else -1]


def test_an_error_of_the_sweep_itself_leaves_no_process_that_waits(
    pretend: Pretend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(record: Record) -> None:
        if len(pretend.started) > 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Record, "save", full)
    with pytest.raises(OSError, match="No space left"):
        sweep(tmp_path)
    assert len(pretend.started) == 4
    for thread in [thread for thread in threading.enumerate() if thread.name == "pretend"]:
        thread.join(10)
        assert not thread.is_alive()


def test_a_failure_stops_what_depends_on_it_and_resume_tries_again(pretend: Pretend, tmp_path: Path) -> None:
    pretend.outcome = lambda run: None if run == "D-W-pretrain.0" else {"run_id": run, "headline": {"test_f1": 0.5}}
    code, text = sweep(tmp_path)
    assert code == 1 and pretend.started == ["D-W-pretrain.0", "D-R-F-ALL.0", "D-R-Z-ALL.0"]
    assert "failed       D-W-pretrain.0: killed by signal 9 (out of memory?)" in text and "| last words" in text
    assert "not started  D-W-Z-ALL.0: needs D-W-pretrain.0, which failed" in text
    pretend.outcome, pretend.started = (lambda run: {"run_id": run, "headline": {}}), []
    lines: list[str] = []
    options = command.Options(out=lines.append, say=lines.append)
    assert command.resume(tmp_path / "runs", None, options) == 0
    assert pretend.started == ["D-W-pretrain.0", "D-W-F-ALL.0", "D-W-Z-ALL.0"]


def test_ctrl_c_saves_what_runs_starts_nothing_more_and_resume_goes_on(pretend: Pretend, tmp_path: Path) -> None:
    def saved(run: str) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGINT)
        return {"error": "saved", "exit_code": STOPPED}

    pretend.outcome = saved
    lines: list[str] = []
    options = command.Options(out=lines.append, say=lines.append)
    with pytest.raises(EmergenceError, match="stopped with 5 of 5 runs left: `emergence sweep resume`") as error:
        command.start(str(tmp_path / "m.toml"), "local", tmp_path / "runs", options)
    assert error.value.exit_code == STOPPED and pretend.started == ["D-W-pretrain.0"]
    assert lines[-1] == "[0/5] D-W-pretrain.0: stopped, saved"
    command.show_status(tmp_path / "runs", None, options)
    assert "not running on local; 1 stopped, 4 waiting" in lines[-1]
    pretend.outcome = lambda run: {"run_id": run, "headline": {}}
    assert command.resume(tmp_path / "runs", None, options) == 0 and len(pretend.started) == 6


def test_a_trunk_is_that_of_the_run_that_pretrained_it_not_of_a_cell_with_a_copy(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    tasks = {task.key: task for task in tasks_of()}
    of_cells = [task for task in tasks.values() if task.needs and not task.spec.freeze_llm]
    own = fake_run(store, tasks[of_cells[0].needs or ""].spec)
    copies = [fake_run(store, of_cells[0].spec)]
    for run in (own, *copies):
        (run.path / TRUNK_FILE).touch()
    assert existing_runs(store).trunks[own.spec.pretrain_id] == own.run_id


def test_each_ctrl_c_is_passed_on_once(tmp_path: Path) -> None:
    record = Record("m-1", record_path(tmp_path, "m-1"), "local", 1, "/", Graph(tasks_of()))
    runner, heard = local._LocalRunner(record, None, local.StopSwitch(), lambda text: None), []
    runner.running["key"] = SimpleNamespace(interrupt=lambda: heard.append("SIGINT"))  # type: ignore[assignment]
    for runner.stop_switch.requests in (1, 1, 2, 2):
        assert runner.stop()
    assert heard == ["SIGINT"] * 2


def test_data_that_is_wrong_refuses_the_sweep(pretend: Pretend, tmp_path: Path) -> None:
    pretend.checked = {"error": "no/such/file: no such file", "exit_code": 2}
    with pytest.raises(UsageError, match="no/such/file"):
        sweep(tmp_path)
    assert not pretend.started


def test_two_sweeps_over_one_folder_are_told_so(pretend: Pretend, tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from emergence.experiment.locks import RunLock\n"
        f"folder = Path({str(tmp_path / 'runs' / '.sweeps')!r}); folder.mkdir(parents=True)\n"
        "with RunLock(folder):\n    print('held', flush=True); time.sleep(60)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    try:
        with pytest.raises(RunDirectoryError, match=rf"another sweep .* process {other.pid} on .*: wait for it"):
            sweep(tmp_path)
    finally:
        other.kill()
        other.communicate()
    assert sweep(tmp_path)[0] == 0, "a killed sweep's lock is nobody's"


def test_the_end_of_a_log_is_the_end(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("".join(f"line {k}\n\n" for k in range(9000)) + "10%\r20%\rdone\n")
    assert last_lines(log, 2) == ["line 8999", "done"] and last_lines(tmp_path / "none") == []
    assert sum(map(len, last_lines(Path("/dev/zero")))) <= 20_000  # not read to its end


def test_a_cell_says_what_failed_even_where_its_log_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("emergence.sweep.worker.say", full)
    monkeypatch.setattr("traceback.print_exception", full)
    for error in (EmergenceError("no such thing"), OSError(28, "No space left on device")):
        answers, writer = multiprocessing.Pipe(duplex=False)
        assert _OwnProcess({}, writer).__exit__(type(error), error, None)
        answer = json.loads(answers.recv_bytes())
        assert str(error) in answer["error"] and answer["exit_code"]


# The loop, and a third place ----------------------------------------------------------------------------


class Memory:
    """A place in memory: a run ends at the second look. All that a sweep asks of a place is here."""

    name, jobs, is_rented = "memory", 2, False

    def __init__(self, waits: bool = True) -> None:
        self.waits, self.conducting = waits, False
        self.done: dict[str, ExperimentSpec] = {}
        self.broken: set[str] = set()
        self.stop_at: set[int] = set()  # numbers of looks
        self.started: dict[str, str | None] = {}
        self.looks, self.most, self.heard = dict[str, int](), 0, 0

    def at_a_time(self, jobs: int) -> str:
        return f"{jobs} at a time in memory"

    def existing(self, runs_dir: Path) -> Existing:
        found = Existing()
        for run_id, spec in self.done.items():
            found.add(run_id, spec, spec.experiment_id, has_trunk=True, stats={})
        return found

    def run(self, record: Record, existing: Existing, say: Say) -> None:
        self.conducting = True
        over = conduct(record.graph, self, record.jobs, lambda task: record.save(), self.should_stop)
        self.conducting = False
        if not over:
            raise EmergenceError("stopped", STOPPED)

    def refresh(self, record: Record) -> None:
        for task in record.graph.in_state("running"):
            record.graph.status[task.key].state = "stopped"

    def is_running(self, record: Record) -> bool:
        return self.conducting

    def cancel(self, record: Record) -> str:
        return f"{record.name} is forgotten"

    def should_stop(self) -> bool:
        return max(self.looks.values(), default=0) in self.stop_at

    def start(self, task: Task, status: Status, trunk: str | None) -> None:
        assert task.label not in self.started
        self.started[task.label], self.looks[task.label] = trunk, 0
        self.most = max(self.most, len(self.looks))

    def look(self, task: Task, status: Status) -> Outcome | None:
        self.looks[task.label] += 1
        if self.looks[task.label] < 2:
            status.calls.append("another carries on")
            return None
        del self.looks[task.label]
        if self.heard:
            return Outcome(stopped=True)
        if task.label in self.broken:
            return Outcome(error="it broke", last_lines=["Traceback", "it broke"])
        self.done[f"run of {task.label}"] = task.spec
        return Outcome(f"run of {task.label}", {"f1": 0.5}, seconds=3.0)

    def wait(self) -> None: ...

    def stop(self) -> bool:
        self.heard += 1
        return self.waits


def in_memory(tasks: list[Task], place: Memory, states: Any = None) -> tuple[bool, dict[str, Any]]:
    """Whether the loop came to its end, and the states as last noted, by label."""
    graph, noted = Graph(tasks, {key: Status.from_dict(raw) for key, raw in (states or {}).items()}), [{}]
    over = conduct(graph, place, 2, lambda task: noted.append(plain(graph.status)), place.should_stop)
    assert noted[-1] == plain(graph.status), "every change is noted"
    return over, {task.label: noted[-1][task.key] for task in tasks}


def test_the_loop_keeps_to_the_graph_and_the_limit() -> None:
    place = Memory()
    place.broken = {"D-W-F-ALL.0", "D-W-F-20.0"}
    over, states = in_memory(tasks_of("D-W-*", "D-R-*"), place)
    assert over and place.most == 2 and len(place.started) == 9
    failed = [name for name, state in states.items() if state["state"] == "failed"]
    assert set(failed) == place.broken and states[failed[0]]["error"] == "it broke"
    assert states["D-W-Z-ALL.0"]["headline"] == {"f1": 0.5} and states["D-W-Z-ALL.0"]["seconds"] == 3.0
    assert place.started["D-W-Z-ALL.0"] == "run of D-W-pretrain.0"
    assert place.started["D-R-Z-ALL.0"] is place.started["D-W-pretrain.0"] is None


def test_the_next_loop_goes_on_with_what_runs() -> None:
    place, tasks = Memory(waits=False), tasks_of("D-W-Z-ALL")
    place.stop_at = {1}
    over, states = in_memory(tasks, place)
    left = states["D-W-pretrain.0"]
    assert not over and (left["state"], left["calls"]) == ("running", ["another carries on"])
    place.stop_at, place.heard = set(), 0
    over, states = in_memory(tasks, place, {task.key: states[task.label] for task in tasks})
    assert over and states["D-W-Z-ALL.0"]["state"] == "done" and list(place.started) == [t.label for t in tasks]


@pytest.mark.parametrize("on", ["Modal", "laptop", ""])
def test_a_place_that_is_none_is_refused(on: str) -> None:
    with pytest.raises(UsageError, match=f"no place '{on}' to run a sweep at"):
        command.place_of(on)


@pytest.fixture
def memory(pretend: Pretend, monkeypatch: pytest.MonkeyPatch) -> Memory:
    place = Memory()
    monkeypatch.setattr(command, "place_of", lambda on: {"memory": place}[on])
    return place


def test_a_third_place_needs_only_the_protocol(memory: Memory, tmp_path: Path) -> None:
    memory.broken = {"D-W-pretrain.0"}
    code, text = sweep(tmp_path, "memory")
    assert code == 1 and list(memory.started) == ["D-W-pretrain.0", "D-R-F-ALL.0", "D-R-Z-ALL.0"]
    assert "2 at a time in memory" in text and "failed       D-W-pretrain.0: it broke" in text and "| Traceback" in text
    assert "not started  D-W-Z-ALL.0: needs D-W-pretrain.0, which failed" in text

    memory.broken, memory.stop_at, memory.started = set(), {1}, {}
    lines: list[str] = []
    options = command.Options(out=lines.append, say=lines.append)
    with pytest.raises(EmergenceError) as stopped:
        command.resume(tmp_path / "runs", None, options)
    assert stopped.value.exit_code == STOPPED and list(memory.started) == ["D-W-pretrain.0"]
    command.show_status(tmp_path / "runs", None, options)
    assert "not running on memory; 1 stopped, 2 waiting, 2 done" in lines[-1]

    memory.stop_at, memory.started, memory.heard = set(), {}, 0
    assert command.resume(tmp_path / "runs", None, options) == 0
    assert list(memory.started) == ["D-W-pretrain.0", "D-W-F-ALL.0", "D-W-Z-ALL.0"]
    assert command.cancel(tmp_path / "runs", None, options) == 0 and lines[-1].endswith("is forgotten")
    code, text = sweep(tmp_path, "memory")
    assert code == 0 and "nothing to do: all 5 runs are done already" in text


# End to end -------------------------------------------------------------------------------------------

SMALL = """
name = "small"
data = "microworld"
[[cells]]
size = "debug"
trunk = ["wiki", "random"]
[[cells]]
size = "debug"
trunk = "wiki"
samples = 20
[set]
model = {n_layers = 1, hidden_size = 16, n_heads = 2, vocab_size = 400, sequence_length = 96}
probe = {epochs = 2, max_iterations = 15}
evaluate.bootstrap_draws = 200
evaluate.minimal_pairs = 0
microworld = {text_documents = 60, train_documents = 8, validation_documents = 4, test_documents = 4}
[set.pretrain]
samples_per_epoch = 1_600
max_passes = 1000.0
batch_size = 8
evaluations_per_epoch = 4
validation_tokens = 512
step_snapshots = 2
checkpoint_every_steps = 5
[set.finetune]
epochs = 2
search = "off"
checkpoint_every_steps = 3
"""


#: Checkpoints after the first step of pretraining.
BEGUN = "*/checkpoint/*-pretrain-*[1-9]*.pth"


class Terminal:
    """``emergence sweep`` in processes of its own."""

    def __init__(self, folder: Path, runs: str) -> None:
        self.folder, self.runs = folder, folder / runs
        (folder / "m.toml").write_text(SMALL)

    def start(self, *words: str) -> subprocess.Popen[str]:
        program = "from emergence.cli import run; run()"
        return subprocess.Popen(
            [sys.executable, "-c", program, "sweep", *words, "--runs-dir", str(self.runs)],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str) -> tuple[int, str, str]:
        process = self.start(*words)
        out, err = process.communicate(timeout=600)
        return process.returncode, out, err

    def until(self, process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
        while not condition() and process.poll() is None:
            time.sleep(0.02)

    def count(self, pattern: str) -> int:
        return len(list(self.runs.glob(pattern)))


def table(out: str) -> list[str]:
    """The table's rows without the time they took, and the notes below."""
    rows = [line for line in out.splitlines() if line.startswith("| debug")]
    return [re.sub(r"\| [^|]* \| (\d+) \|$", r"| \1 |", row) for row in rows]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_three_times_it_ends_with_the_same_table(tmp_path: Path) -> None:
    undisturbed = Terminal(tmp_path, "a").run("m.toml")
    assert undisturbed[0] == 0, undisturbed
    wanted = table(undisturbed[1])
    assert len(wanted) >= 6
    terminal = Terminal(tmp_path, "b")
    for point in (BEGUN, "*/toy_llm_unified_pretrained.pth", "*/finetune_stats.json"):
        before = terminal.count(point)
        process = terminal.start("m.toml", "--jobs", "2")
        terminal.until(process, lambda point=point, before=before: terminal.count(point) > before)  # type: ignore[misc]
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    code, out, err = terminal.run("resume")
    assert code == 0 and table(out) == wanted, err
    code, out, _ = terminal.run("m.toml")
    assert code == 0 and "nothing to do: all 7 runs are done already" in out and table(out) == wanted
    assert terminal.count("*/finetune_stats.json") == 7 == terminal.count("*/spec.json")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_interrupt_saves_and_a_failing_cell_is_reported(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "c")
    process = terminal.start("m.toml")
    terminal.until(process, lambda: terminal.count(BEGUN) > 0)
    code, out, _ = terminal.run("cancel")
    assert code == 0 and f"process {process.pid} " in out
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "`emergence sweep resume` goes on" in err and "Traceback" not in err
    assert "stopped, saved" in err and terminal.count(BEGUN) > 0
    (trunk,) = terminal.runs.glob("*/spec.json")
    (trunk.parent / "data.json").write_text("{}")  # damaged
    code, out, err = terminal.run("resume")
    assert code == 1 and "failed       D-W-pretrain.0: " in err and "data.json" in err
    assert "not started  D-W-Z-20.0: needs D-W-pretrain.0, which failed" in err
    assert len([row for row in table(out) if "not run" not in row]) == 3


PUBLISHED = {"model": "tiny-neox", "revision": ["step0", "step8"]}


def test_published_models_are_planned_without_a_pretraining_and_nothing_is_made_up(tmp_path: Path) -> None:
    """What they take is told where their names tell their size."""
    own = {"size": "debug", "trunk": "random", "train": "frozen"}
    tasks = build_tasks(matrix(cells=[PUBLISHED, own]).select(seeds=1))
    assert [task.label for task in tasks] == [
        "tiny-neox-step0-Z-ALL.0", "tiny-neox-R-Z-ALL.0", "tiny-neox-step8-Z-ALL.0", "D-R-Z-ALL.0"
    ]  # fmt: skip
    assert not any(task.needs or task.is_pretraining for task in tasks)
    plan = SweepPlan.of(mark_existing(tasks, Existing()), command.place_of("local"), 1)
    plan.refuse_if_too_large()
    rows = {row[0]: row for row in plan.rows()}
    assert rows["tiny-neox-step0-Z-ALL"][4:] == ["not known", "-", "A10G", "-"]
    assert "what 3 runs of published models will take is not known" in plan.text()
    told = {task["name"]: task for task in plan.to_dict()["tasks"]}
    assert told["tiny-neox-step8-Z-ALL.0"]["revision"] == "step8" and told["D-R-Z-ALL.0"]["hours"] > 0
    alone = SweepPlan.of(mark_existing(tasks[:3], Existing()), command.place_of("local"), 1)
    assert "3 runs to do (0 pretrainings)" in alone.text() and "Modal" not in alone.text()
    assert told["tiny-neox-step8-Z-ALL.0"]["hours_here"] is None is told["tiny-neox-step8-Z-ALL.0"]["dollars"]
    rented: Any = SimpleNamespace(name="modal", is_rented=True, jobs=1, at_a_time=lambda jobs: "")
    on_modal = SweepPlan.of(mark_existing(tasks, Existing()), rented, 1)
    assert on_modal.unknown == 3 and on_modal.dollars > 0 and on_modal.dollars_to_agree_to is None
    assert on_modal.to_dict()["dollars"] is None and on_modal.to_dict()["modal"]["unknown_runs"] == 3
    only = SweepPlan.of(mark_existing(tasks[:3], Existing()), rented, 1).text()
    assert "on Modal     what 3 runs of published models" in only and "$0.00" not in only
    known = build_tasks(matrix(cells=[{**PUBLISHED, "model": "a/neox-160m"}]).select(seeds=1))
    on_modal = SweepPlan.of(mark_existing(known, Existing()), rented, 1)
    assert on_modal.unknown == 0 and on_modal.dollars_to_agree_to == on_modal.dollars > 0
    here = build_tasks(matrix(cells=[{**PUBLISHED, "model": "/models/neox-160m"}]).select(seeds=1))
    with pytest.raises(UsageError, match="a path of this machine: on Modal give"):
        SweepPlan.of(mark_existing(here, Existing()), rented, 1)


def test_revisions_that_nobody_examined_are_told_before_they_are_probed(tmp_path: Path) -> None:
    tasks = build_tasks(matrix(cells=[PUBLISHED]).select(seeds=1))
    notes = list(command._unexamined(tmp_path, tasks))
    assert len(notes) == 1 and "2 revisions of tiny-neox may not be what they say" in notes[0]
    assert f"emergence revisions tiny-neox --runs-dir {tmp_path}" in notes[0]
    save_revisions(tmp_path, Revisions("tiny-neox", (Revision("step0", 0), Revision("step8", 8, suspect="a copy"))))
    assert not list(command._unexamined(tmp_path, tasks))
    assert not list(
        command._unexamined(
            tmp_path / "other", build_tasks(matrix(cells=[{**PUBLISHED, "revision": "step0"}]).select(seeds=1))
        )
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sweep_over_revisions_probes_each_once_and_names_what_cannot_be_read(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tests.published_models import save_model

    terminal = Terminal(tmp_path, "p")
    for i, revision in enumerate(("step0", "step8")):
        save_model(tmp_path / "tiny-neox" / revision, "gpt_neox", seed=i)
    cells = f'[[cells]]\nmodel = "{tmp_path / "tiny-neox"}"\nrevision = ["step0", "step8"]\n'
    (tmp_path / "p.toml").write_text(re.sub(r"\[\[cells\]\].*?(?=\[set\])", cells, SMALL, flags=re.S))
    code, out, err = terminal.run("p.toml")
    assert code == 0 and terminal.count("*/finetune_stats.json") == 3, err
    rows = [row for row in out.splitlines() if row.startswith("| tiny-neox")]
    assert {"step0", "step8", "none"} <= {cell.strip() for row in rows for cell in row.split("|")}
    code, out, _ = terminal.run("p.toml")
    assert code == 0 and "nothing to do: all 3 runs are done already" in out
    (tmp_path / "tiny-neox" / "step8" / "model.safetensors").unlink()
    code, _, err = terminal.run("p.toml", "--seeds", "2")
    assert code != 0 and "step8-Z-ALL.1: " in err and "holds no weights" in err and "Traceback" not in err


def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    options = command.Options()
    with pytest.raises(EmergenceError, match="--jobs must be at least 1"):
        command.start("matrix-debug", "local", tmp_path, dataclasses.replace(options, jobs=0))
    with pytest.raises(EmergenceError, match="--only Q-"):
        command.start("matrix-debug", "local", tmp_path, options, only=["Q-*"])
    assert not list(tmp_path.iterdir())
