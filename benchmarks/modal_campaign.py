"""Sweeps on a simulated Modal under random schedules: nothing lost, nothing written twice, nothing left billing.

    python -m benchmarks.modal_campaign --schedules 200 --out modal.json
    python -m benchmarks.modal_campaign --schedules 1 --seed 17          # one of them again

Each schedule is a sweep of one pretraining and some cells, with the program's own conductor, locks, looks and accounts
(``tests/remote/simulation.py``). Calls of the server fail with every status, before and after they are done. Whole
outages last up to 40 minutes. Containers are killed, preempted and crash. The laptop closes, cancels, resumes and
launches twice.
After eight hours the weather is calm, and the sweep is resumed until it is over. Some schedules have a run that crashes
at one step, a run that hangs, or a budget that is too small.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from emergence.errors import STOPPED, EmergenceError
from emergence.files import write_json_atomic
from emergence.plain import plain
from emergence.remote import locks
from emergence.remote import sweep as place
from emergence.spec.experiment import ExperimentSpec
from emergence.sweep.existing import Existing
from emergence.sweep.graph import Graph, Status, Task
from emergence.sweep.record import Record
from tests.remote.simulation import DOLLARS_PER_HOUR, Killed, Weather, World, installed

#: What runs may cost beyond a budget: a minute until the last account, one until they hear, and a publication.
OVERDRAFT_MINUTES = 4.0


@dataclass
class Schedule:
    """One sweep, from its first launch to its end.

    Attributes:
        kind: ``weather`` alone; or ``crash loop``, ``hang`` or ``budget`` besides.
    """

    seed: int
    folder: Path
    kind: str = "weather"
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.draw = random.Random(f"schedule {self.seed}")
        self.world = World(self.seed, self.folder, Weather() if self.kind == "budget" else None)
        spec = ExperimentSpec.from_flags(config_name="debug", data="microworld", skip_finetune=True)
        tasks = [Task("pretraining", "D-W-pretrain", spec, is_pretraining=True)]
        tasks += [Task(f"cell-{n}", f"D-W-F-{n}", spec, needs="pretraining") for n in range(self.draw.randint(2, 4))]
        self.record = Record("S", self.folder / "S.json", "modal", self.draw.randint(1, 4), ".", Graph(tasks))
        self.doomed = self.draw.choice(tasks[1:]).key if self.kind in ("crash loop", "hang") else None
        if self.doomed:
            (self.world.crashing if self.kind == "crash loop" else self.world.hanging).add(self.doomed)
        self.hours = len(tasks) * self.world.total_steps / 60
        if self.kind == "budget":
            self.record.max_cost = self.draw.uniform(0.3, 0.7) * self.hours * DOLLARS_PER_HOUR
        self.said: Counter[str] = Counter()

    # The laptop -------------------------------------------------------------------------------------------

    def _sweep(self, record: Record, existing: Existing) -> dict[str, Any]:
        for status in record.graph.status.values():
            status.dollars = 0.0
            if status.state != "done":
                status.state, status.error, status.last_lines, status.calls = "waiting", None, [], []
                status.unknown = None
        jobs = {task.key: self.job(task.key) for task in record.graph.in_state("waiting")}
        tasks = [task.to_dict() for task in record.graph.tasks.values()]
        states = plain(record.graph.status)
        return {"tasks": tasks, "states": states, "jobs": jobs, "limit": record.jobs, "max_cost": record.max_cost}

    def job(self, key: str) -> dict[str, Any]:
        spec = self.record.graph.tasks[key].spec.to_dict()
        about = {"gpu": "A10G", "cpu": 1.0, "memory": 1024, "max_containers": 9, "dollars_per_hour": DOLLARS_PER_HOUR}
        return {"run_id": key, "spec": spec, "fresh": False, **about}

    def launch(self) -> None:
        """``emergence sweep``, or ``resume``: start it or follow it, to its end."""
        self.said["launch"] += 1
        place.ModalPlace().run(self.record, Existing(), lambda line: None)

    def cancel(self) -> None:
        self.said["cancel"] += 1
        place.ModalPlace().cancel(self.record)

    def status(self) -> None:
        self.said["status"] += 1
        place.ModalPlace().refresh(self.record)

    def second_launch(self) -> None:
        """``modal run --resume`` of a run that the sweep may be at."""
        self.said["second launch"] += 1
        key = self.draw.choice(list(self.record.graph.tasks))
        locks.refuse_if_in_use(key)
        self.world.spawn("prepare", self.job(key))

    def do(self, action: Any, seconds: float) -> BaseException | None:
        """Type one command, and close the laptop after ``seconds``; returns what it ended with."""
        process = self.world.start(action.__name__, action)
        end = self.world.clock + seconds
        self.world.run(until=lambda: process.over or self.world.clock > end)
        process.killed = True
        self.world.run(until=lambda: process.over)
        return process.error

    # The schedule -----------------------------------------------------------------------------------------

    def run(self) -> None:
        app = mock.MagicMock(app_id="ap-1")
        with (
            installed(self.world),
            mock.patch.object(place, "app", app),
            mock.patch.object(place, "_build_the_image", lambda: None),
            mock.patch.object(place, "where_to_look", lambda stop: ""),
            mock.patch.object(place, "_sweep", self._sweep),
            mock.patch.object(place, "_fetch_stats", lambda record, say: None),
        ):
            if self.kind == "budget":
                self._spend()
            else:
                self._live_through()
        self.wrong += self.world.wrong
        if live := self.world.live_calls:
            self.wrong.append(f"left going: {live}")

    def _live_through(self) -> None:
        world = self.world
        while world.clock < world.weather.over_at:
            action = self.draw.choice([*[self.launch] * 4, self.status, self.cancel, self.second_launch])
            error = self.do(action, self.draw.uniform(60, 3 * 3600))
            if (
                error is not None
                and not isinstance(error, (Killed, EmergenceError))
                and world.clock > world.weather.over_at
            ):
                self.wrong.append(f"{action.__name__}: {error!r}")
            silent = world.clock + self.draw.uniform(0, 3600)
            world.run(until=lambda silent=silent: world.clock > silent)
        self.do(self.cancel, 3600)
        ended = world.clock + 900
        world.run(until=lambda: not world.live_calls or world.clock > ended)
        if world.live_calls:
            self.wrong.append(f"15 minutes after a cancel in calm weather: {world.live_calls} go on")
        for _ in range(3):
            self.do(self.launch, 100 * 3600)
            world.run()
            self.do(self.status, 3600)
            if {status.state for key, status in self.record.graph.status.items() if key != self.doomed} == {"done"}:
                break
        self._check_the_end()

    def _check_the_end(self) -> None:
        for key, status in self.record.graph.status.items():
            if key != self.doomed and (status.state != "done" or not (self.folder / "models" / key).exists()):
                self.wrong.append(f"{key} is lost: {status}")
        if self.doomed:
            self._check_the_doomed(self.record.graph.status[self.doomed])

    def _check_the_doomed(self, status: Status) -> None:
        if status.state != "failed" or "3 attempts in a row brought no newer checkpoint" not in str(status.error):
            self.wrong.append(f"the doomed {self.doomed} ended otherwise: {status}")
        last = [
            call
            for call in self.world.calls.values()
            if call.function == "train" and call.arguments[0]["run_id"] == self.doomed
        ]
        # From step 20 on the last launch had three attempts, and one more where it had to come to step 20 first.
        if not 3 <= last[-1].attempts <= 4:
            self.wrong.append(f"the doomed {self.doomed} had {last[-1].attempts} attempts")
        limit = 3 * (23 + 2) / 60 + (1.5 if self.kind == "hang" else 0.0) + 0.1
        if last[-1].seconds / 3600 > limit:
            self.wrong.append(f"the doomed {self.doomed} took {last[-1].seconds / 3600:.2f} hours, not {limit:.2f}")

    def _spend(self) -> None:
        """A budget that does not suffice, in calm weather; then enough."""
        error = self.do(self.launch, 100 * 3600)
        self.world.run()
        spent = self.dollars()
        most = (self.record.max_cost or 0.0) + self.record.jobs * OVERDRAFT_MINUTES / 60 * DOLLARS_PER_HOUR
        if not isinstance(error, EmergenceError) or error.exit_code != STOPPED or "--max-cost" not in str(error):
            self.wrong.append(f"the budget did not end it: {error!r}")
        if not 0.4 * most < spent <= most:
            self.wrong.append(f"spent {spent:.2f} of {self.record.max_cost:.2f} dollars")
        self.record.max_cost = None
        self.do(self.launch, 100 * 3600)
        self.world.run()
        self._check_the_end()

    def dollars(self) -> float:
        return sum(call.seconds for call in self.world.calls.values()) / 3600 * DOLLARS_PER_HOUR


KINDS = ("weather", "weather", "weather", "crash loop", "hang", "budget")


def try_one(seed: int) -> dict[str, Any]:
    """One schedule: what it was, and what was wrong with it."""
    with tempfile.TemporaryDirectory() as scratch:
        schedule = Schedule(seed, Path(scratch), KINDS[seed % len(KINDS)])
        schedule.run()
        world = schedule.world
        ended = Counter(call.function for call in world.calls.values())
        return {
            "kind": schedule.kind,
            "wrong": schedule.wrong,
            "hours": round(world.clock / 3600, 2),
            "gpu_dollars": round(schedule.dollars(), 2),
            "commands": dict(schedule.said),
            "calls": dict(ended),
            "publications": world.publications,
            "attempts": sum(call.attempts for call in world.calls.values()),
            "kills_and_preemptions": sum(call.deaths for call in world.calls.values()),
            "faults": dict(sorted(world.faults.items())),
        }


def summary(done: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Totals over schedules."""
    totals: dict[str, Any] = {"schedules": len(done), "wrong": sum(bool(each["wrong"]) for each in done.values())}
    totals["by_kind"] = dict(Counter(each["kind"] for each in done.values()))
    for key in ("publications", "attempts", "kills_and_preemptions"):
        totals[key] = sum(each[key] for each in done.values())
    for key in ("commands", "calls", "faults"):
        counts: Counter[str] = Counter()
        for each in done.values():
            counts.update(each[key])
        totals[key] = dict(sorted(counts.items()))
    by_call: Counter[str] = Counter()
    for name, count in totals["faults"].items():
        by_call[name.split()[0]] += count
    totals["kinds_of_fault"], totals["faults"] = len(totals["faults"]), dict(sorted(by_call.items()))
    return totals


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--schedules", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the first schedule")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    done: dict[str, dict[str, Any]] = {}
    for seed in range(args.seed, args.seed + args.schedules):
        done[str(seed)] = try_one(seed)
        if done[str(seed)]["wrong"]:
            print(f"{seed}: {done[str(seed)]}", flush=True)
        if args.out:
            report = {"about": {"first_seed": args.seed}, "summary": summary(done)}
            write_json_atomic(args.out, {**report, "wrong": {k: v for k, v in done.items() if v["wrong"]}})
    print(json.dumps(summary(done), indent=1))
    sys.exit(1 if any(each["wrong"] for each in done.values()) else 0)


if __name__ == "__main__":
    main()
