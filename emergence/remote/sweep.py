"""A sweep on Modal, the laptop's side: what is on the volume, launch the conductor, follow, cancel.

Needs ``pip install modal`` and this checkout; no torch, no numpy.
"""

from __future__ import annotations

import contextlib
import secrets
import sys
import time
from pathlib import Path
from typing import Any

import modal

from emergence.errors import STOPPED, EmergenceError, RunDirectoryError
from emergence.experiment.run_directory import SPEC_FILE, STATS_FILE, TRUNK_FILE
from emergence.files import parse_json
from emergence.plain import plain
from emergence.remote.app import app, conduct, sweeps
from emergence.remote.calls import POLL_SECONDS, is_going
from emergence.remote.client import VolumeFiles, free_name, in_parallel, reach_modal, where_to_look
from emergence.remote.launch import job_of
from emergence.remote.pull import pull_run
from emergence.sweep.existing import Existing
from emergence.sweep.graph import Graph, Status, Task
from emergence.sweep.place import Say
from emergence.sweep.record import Record
from emergence.wording import counted


class ModalPlace:
    """:class:`emergence.sweep.place.Place` on Modal."""

    name, jobs, is_rented = "modal", 10, True

    def at_a_time(self, jobs: int) -> str:
        return f"at most {counted(jobs, 'container')} at a time"

    def existing(self, runs_dir: Path) -> Existing:
        """The runs that are done or begun on the volume, by content. Of equal runs the newest counts."""
        reach_modal()
        volume, existing = VolumeFiles(), Existing()
        runs = volume.runs()
        newest = sorted(runs, key=lambda r: (max(facts.changed for facts in runs[r].values()), r), reverse=True)

        def read(run_id: str) -> tuple[Any, dict[str, Any] | None] | None:
            try:
                spec = volume.spec(run_id)
                stats: dict[str, Any] | None = {} if STATS_FILE in runs[run_id] else None
                if stats is not None and spec.skip_pretrain and not spec.random_baseline:
                    path = f"{run_id}/{STATS_FILE}"
                    stats = parse_json(volume.content(path).decode(), path)
                return spec, stats
            except (EmergenceError, OSError, UnicodeDecodeError):
                return None  # a damaged run is no run

        known = [run_id for run_id in newest if SPEC_FILE in runs[run_id]]
        for run_id, item in zip(known, in_parallel(read, known), strict=True):
            if item is not None:
                spec, stats = item
                existing.add(run_id, spec, spec.experiment_id, has_trunk=TRUNK_FILE in runs[run_id], stats=stats)
        return existing

    def run(self, record: Record, existing: Existing, say: Say) -> None:
        """Start what is left of a sweep, unless it is running already, and follow it to its end.

        The laptop may close. The conductor does the rest, and the record finds it again.

        Raises:
            RunDirectoryError: A file of the record cannot be written.
        """
        if self.is_running(record):
            say(f"running already as {record.conductor}: following it")
            self._follow(record, say)
        else:
            _build_the_image()
            with app.run(detach=True):
                launch = secrets.token_hex(8)
                sweep = _sweep(record, existing)
                sweeps.put(f"{record.name}/{launch}", sweep)
                sweeps.put(record.name, {"launch": launch, "states": sweep["states"]})
                call = conduct.spawn(record.name, launch)
                record.conductor, record.app = call.object_id, app.app_id
                record.save()
                say(f"conductor    {call.object_id} (the laptop may close from here on)")
                say(where_to_look(f"emergence sweep cancel {record.name} --runs-dir {record.runs_dir}"))
                say(f"status       emergence sweep status {record.name} --runs-dir {record.runs_dir}")
                self._follow(record, say)
        _fetch_stats(record, say)

    def refresh(self, record: Record) -> None:
        """Take the states as last published. A running task without a conductor or a going call has stopped."""
        reach_modal()
        published = dict(sweeps.get(record.name) or {}).get("states", {})
        for key, raw in published.items():
            if key in record.graph.status:
                record.graph.status[key] = Status.from_dict(raw)
        if not self.is_running(record):
            for task in record.graph.in_state("running"):
                status = record.graph.status[task.key]
                if not any(is_going(call_id) for call_id in status.calls):
                    status.state = "stopped"

    def is_running(self, record: Record) -> bool:
        """Whether the sweep's conductor has not ended."""
        return record.conductor is not None and is_going(record.conductor)

    def cancel(self, record: Record) -> str:
        """Cancel the conductor, then every call that is going."""
        reach_modal()
        calls = [record.conductor] if record.conductor and is_going(record.conductor) else []
        if calls:
            modal.FunctionCall.from_id(calls[0]).cancel()
        self.refresh(record)
        for task in record.graph.in_state("running", "stopped"):
            going = [call_id for call_id in record.graph.status[task.key].calls if is_going(call_id)]
            for call_id in going:
                modal.FunctionCall.from_id(call_id).cancel()
            calls += going
            record.graph.status[task.key].state = "stopped"
        record.save()
        return f"{record.name}: {len(calls)} calls cancelled; `emergence sweep resume` goes on"

    def _follow(self, record: Record, say: Say) -> None:
        """Tell what the conductor publishes, until it has ended."""
        told_states: dict[str, str] = {key: status.state for key, status in record.graph.status.items()}
        try:
            while True:
                going = self.is_running(record)
                self.refresh(record)
                _tell(record.graph, told_states, say)
                if not going:
                    record.save()
                    return
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            record.save()
            raise EmergenceError(
                f"not following any more; the sweep goes on: `emergence sweep status {record.name}`, "
                "`emergence sweep cancel` ends it",
                STOPPED,
            ) from None


def _build_the_image() -> None:
    """Let the client show how it builds the image, which takes minutes the first time. Nothing runs in this app."""
    with contextlib.redirect_stdout(sys.stderr), modal.enable_output(), app.run():
        pass


def _sweep(record: Record, existing: Existing) -> dict[str, Any]:
    """What the conductor gets: tasks with fresh states, and their jobs."""
    graph = record.graph
    for status in graph.status.values():
        if status.state != "done":
            status.state, status.error, status.last_lines, status.calls = "waiting", None, [], []
    taken = set(VolumeFiles().runs())
    jobs = {}
    for task in graph.in_state("waiting"):
        run_id = _begun(task, existing) or free_name(task.spec, taken)
        taken.add(run_id)
        jobs[task.key] = job_of(task.spec, run_id, record.gpu, max_containers=record.jobs)
    return {
        "tasks": [task.to_dict() for task in graph.tasks.values()],
        "states": plain(graph.status),
        "jobs": jobs,
        "limit": record.jobs,
    }


def _begun(task: Task, existing: Existing) -> str | None:
    """The begun run that the task goes on with, if there is one."""
    if task.is_pretraining:
        return existing.begun.get(task.spec.pretrain_id, (None, None))[0]
    return existing.unfinished.get(task.key)


def _tell(graph: Graph, told_states: dict[str, str], say: Say) -> None:
    """A line for every task whose state has changed."""
    for key, status in graph.status.items():
        if told_states[key] == status.state:
            continue
        told_states[key] = status.state
        done = graph.counts().get("done", 0)
        what = {"done": "done", "running": f"running as {status.run_id}"}.get(status.state, status.state)
        error = f": {status.error}" if status.error else ""
        say(f"[{done}/{len(graph.tasks)}] {graph.tasks[key].label}: {what}{error}; {len(graph.unfinished)} left")


def _fetch_stats(record: Record, say: Say) -> None:
    """Bring the small files of finished cells here, for the table."""
    for task in record.graph.in_state("done"):
        run_id = record.graph.status[task.key].run_id
        if run_id is not None and not task.is_pretraining:
            try:
                pull_run(VolumeFiles(), run_id, record.runs_dir, "stats")
            except RunDirectoryError as error:
                say(f"not fetched: {error}")
