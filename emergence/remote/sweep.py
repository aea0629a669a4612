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
from emergence.experiment.claims import other_spec
from emergence.experiment.result import RunResult
from emergence.experiment.run_directory import SPEC_FILE, STATS_FILE, TRUNK_FILE, StoredSpec
from emergence.files import parse_json, unseal
from emergence.plain import plain
from emergence.remote import locks
from emergence.remote.app import app, conduct
from emergence.remote.calls import LONGEST_PAUSE, Look, cancel_call, look_at, patiently
from emergence.remote.client import (
    VolumeFiles,
    free_name,
    in_parallel,
    reach_modal,
    refuse_missing_model,
    where_to_look,
)
from emergence.remote.launch import job_of
from emergence.remote.pull import pull_run
from emergence.remote.runner import POLL_SECONDS, conducted, forget, publish, published, sweeps
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

        def read(run_id: str) -> tuple[StoredSpec, dict[str, Any] | None] | None:
            try:
                stored = volume.stored_spec(run_id)
            except EmergenceError:
                return None  # a damaged run is no run
            return stored, _stats_of(volume, run_id, stored) if STATS_FILE in runs[run_id] else None

        known = [run_id for run_id in newest if SPEC_FILE in runs[run_id]]
        for run_id, item in zip(known, in_parallel(read, known), strict=True):
            if item is not None:
                stored, stats = item
                has_trunk = TRUNK_FILE in runs[run_id]
                existing.add(run_id, stored.spec, stored.experiment_id, has_trunk=has_trunk, stats=stats)
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
            for name in dict.fromkeys(task.spec.model for task in record.graph.unfinished if task.spec.model):
                refuse_missing_model(name)
            _build_the_image()
            with app.run(detach=True):
                launch = secrets.token_hex(8)
                sweep = _sweep(record, existing)
                patiently(lambda: sweeps.put(f"{record.name}/{launch}", sweep))
                publish(record.name, launch, sweep["states"])
                before = conducted(record.name)
                # From here on the conductor of an earlier launch starts nothing any more.
                patiently(lambda: sweeps.put(record.name, {"launch": launch}))
                if last := before.get("launch") or before.get("last"):
                    forget(record.name, last)
                call = conduct.spawn(record.name, launch)
                record.conductor, record.app = call.object_id, app.app_id
                record.save()
                say(f"conductor    {call.object_id} (the laptop may close from here on)")
                say(where_to_look(f"emergence sweep cancel {record.name} --runs-dir {record.runs_dir}"))
                say(f"status       emergence sweep status {record.name} --runs-dir {record.runs_dir}")
                self._follow(record, say)
        _fetch_stats(record, say)
        if not record.graph.unfinished and (done := conducted(record.name).get("launch")):
            forget(record.name, done)
        if (reason := published(record.name).get("stop")) and record.graph.unfinished:
            raise EmergenceError(
                f"{record.name}: {reason}; its runs saved where they were, and `emergence sweep resume` goes on "
                "(a --max-cost is of one launch: the next one counts from zero)",
                STOPPED,
            )

    def refresh(self, record: Record) -> None:
        """Take the states as last published. A running task that nothing conducts and no call works on has stopped."""
        reach_modal()
        self._take_published(record)

    def _take_published(self, record: Record) -> None:
        for key, raw in published(record.name).get("states", {}).items():
            if key in record.graph.status:
                record.graph.status[key] = Status.from_dict(raw)
        if not self.is_running(record):
            for task in record.graph.in_state("running"):
                status = record.graph.status[task.key]
                looks = [look_at(call_id) for call_id in status.calls]
                status.unknown = next((look.why for look in looks if look.why), None)
                if all(look.state == "ended" for look in looks):
                    status.state = "stopped"

    def is_running(self, record: Record) -> bool:
        """Whether the sweep's conductor has not ended, as far as Modal says."""
        return _conductor(record).state != "ended"

    def cancel(self, record: Record) -> str:
        """Take the sweep and its runs away from whoever works on them, then cancel every call.

        What is taken away ends by itself too, within a minute: a call that cannot be cancelled now, and one that
        nobody has heard of yet.
        """
        reach_modal()
        before = conducted(record.name)
        last = before.get("launch") or before.get("last")
        launch = dict(patiently(lambda: sweeps.get(f"{record.name}/{last}")) or {})
        patiently(lambda: sweeps.put(record.name, {**before, "launch": None, "last": last}))
        calls = [record.conductor] if record.conductor else []
        self._take_published(record)
        for task in record.graph.in_state("running", "stopped", "waiting"):
            status = record.graph.status[task.key]
            calls += status.calls
            run_id = launch.get("jobs", {}).get(task.key, {}).get("run_id", status.run_id)
            if run_id and _is_sweeps(record, run_id, status):
                calls += locks.revoke(run_id)
            if status.state != "waiting":
                status.state, status.unknown = "stopped", None
        going = [call_id for call_id in dict.fromkeys(calls) if look_at(call_id).state != "ended"]
        refused = [call_id for call_id in going if cancel_call(call_id) is not None]
        record.save()
        if refused:
            return (
                f"{record.name}: {len(going) - len(refused)} of {len(going)} calls cancelled, Modal does not answer "
                f"for {', '.join(refused)}: they end by themselves within minutes; `emergence sweep cancel` tries again"
            )
        return f"{record.name}: {len(going)} calls cancelled; `emergence sweep resume` goes on"

    def _follow(self, record: Record, say: Say) -> None:
        """Tell what the conductor publishes, until it has ended."""
        told_states: dict[str, str] = {key: status.state for key, status in record.graph.status.items()}
        pause, unknown = POLL_SECONDS, False
        try:
            while True:
                look = _conductor(record)
                if look.state == "not known":
                    pause = min(2 * pause, LONGEST_PAUSE)
                    if not unknown:
                        say(f"Modal does not say how the conductor stands ({look.why}); looking again")
                else:
                    pause = POLL_SECONDS
                    self._take_published(record)
                    _tell(record.graph, told_states, say)
                unknown = look.state == "not known"
                if look.state == "ended":
                    record.save()
                    return
                time.sleep(pause)
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


def _conductor(record: Record) -> Look:
    """How the conductor of a sweep stands; ended where there never was one."""
    return Look("ended") if record.conductor is None else look_at(record.conductor)


def _is_sweeps(record: Record, run_id: str, status: Status) -> bool:
    """Whether a run is held by this sweep, and not by a launch of its own."""
    launch = locks.launch_of(run_id)
    return (launch.get("sweep") or {}).get("name") == record.name or launch.get("holder") in status.calls


def _sweep(record: Record, existing: Existing) -> dict[str, Any]:
    """What the conductor gets: tasks with fresh states, and their jobs."""
    graph = record.graph
    for status in graph.status.values():
        status.dollars = 0.0
        if status.state != "done":
            status.state, status.error, status.last_lines, status.calls = "waiting", None, [], []
            status.unknown = None
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
        "max_cost": record.max_cost,
    }


def _stats_of(volume: VolumeFiles, run_id: str, stored: StoredSpec) -> dict[str, Any] | None:
    """The result of a run; None where it is another run's, and nothing in it where that is damaged."""
    path = f"{run_id}/{STATS_FILE}"
    try:
        stats = unseal(parse_json(volume.content(path).decode(), path), path)
        result = RunResult.from_dict(stats, path)
    except (EmergenceError, OSError, UnicodeDecodeError):
        return {}  # the table will say so
    return None if other_spec(stored.spec, stored.experiment_id, result) else stats


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
