"""Kill or fail a whole small run at every write, fsync and rename; resume it; compare bit for bit.

    python -m benchmarks.fault_campaign --points all --out faults.json            # every point, killed
    python -m benchmarks.fault_campaign --points 100 --kind ENOSPC --out full.json
    python -m benchmarks.fault_campaign --random-kills 500 --out random.json
    python -m benchmarks.fault_campaign --condition frozen --points all --out frozen.json

Points are visited in an order that spreads over the run, so that a campaign cut short has seen all phases; the file
given with ``--out`` is written after every point, and the same command goes on from it. POSIX only (it forks).
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch  # noqa: E402

from emergence.experiment.store import RunStore  # noqa: E402
from emergence.files import write_json_atomic  # noqa: E402
from tests.forked_faults import KILLED, REFUSED, Attempt, Fault, attempt, content_of  # noqa: E402
from tests.small_runs import micro_run  # noqa: E402

KINDS = ("kill", "ENOSPC", "EIO", "EACCES", "EROFS", "clock", "slow")
CONDITIONS: dict[str, dict[str, Any]] = {"full": {}, "frozen": {"freeze_llm": True}}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--points", default="0", help="all, or how many, spread over the run")
    parser.add_argument("--kind", choices=KINDS, default="kill")
    parser.add_argument("--random-kills", type=int, default=0, help="SIGKILL after a random time, so often")
    parser.add_argument("--condition", choices=list(CONDITIONS), default="full")
    parser.add_argument("--cold", action="store_true", help="build tokenizer and streams too, in a cache of each own")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        campaign = Campaign(Path(scratch), CONDITIONS[args.condition], args.cold)
        print(f"{len(campaign.points)} points: {dict(Counter(call for call, _ in campaign.points))}", flush=True)
        tasks = [("random", k) for k in range(args.random_kills)]
        if args.points != "0":
            tasks += [(args.kind, n) for n in spread(len(campaign.points), args.points)]
        about = {"condition": args.condition, "cold": args.cold, "seed": args.seed, "points": len(campaign.points)}
        failed = run_all(campaign, tasks, about, args)
    sys.exit(1 if failed else 0)


def run_all(campaign: Campaign, tasks: list[tuple[str, int]], about: dict[str, Any], args: argparse.Namespace) -> int:
    done: dict[str, dict[str, Any]] = {}
    if args.out.exists() and (before := json.loads(args.out.read_text(encoding="utf-8")))["about"] == about:
        done = before["results"]
    left = [task for task in tasks if f"{task[0]} {task[1]}" not in done]
    with ThreadPoolExecutor(args.jobs) as pool:
        for key, result in pool.map(lambda task: campaign.try_one(*task, seed=args.seed), left):
            done[key] = result
            write_json_atomic(args.out, {"about": about, "summary": summary(done), "results": done})
            if result["wrong"]:
                print(f"{key}: {result}", flush=True)
    print(json.dumps(summary(done)))
    return sum(bool(result["wrong"]) for result in done.values())


def summary(done: dict[str, dict[str, Any]]) -> dict[str, Any]:
    kinds = Counter(key.split()[0] for key in done)
    wrong = Counter(key.split()[0] for key, result in done.items() if result["wrong"])
    ended = Counter(f"{key.split()[0]} -> {result['first']}" for key, result in done.items())
    return {"tried": dict(kinds), "wrong": dict(wrong), "first attempt ended": dict(ended)}


def spread(count: int, wanted: str) -> list[int]:
    """Points from 1 to ``count`` in steps of the golden ratio: any beginning of the list covers the run evenly."""
    step = next(k for k in range(round(count * 0.618) or 1, count + 2) if _coprime(k, count))
    order = [(k * step) % count + 1 for k in range(count)]
    return order if wanted == "all" else order[: int(wanted)]


def _coprime(a: int, b: int) -> bool:
    while b:
        a, b = b, a % b
    return a == 1


class Campaign:
    """One undisturbed run, and any number of disturbed ones beside it."""

    def __init__(self, scratch: Path, flags: dict[str, Any], cold: bool) -> None:
        self.scratch, self.flags, self.cold = scratch, flags, cold
        self.cache = scratch / "cache"
        micro_run(scratch / "warm", self.cache, **flags)  # imports everything and fills the cache
        whole = attempt(lambda: self.run(scratch / "whole"))
        if whole.code:
            raise SystemExit(whole.message)
        self.points, self.seconds = whole.points, whole.seconds
        self.wanted = content_of(scratch / "whole" / "runs" / str(whole.value))

    def run(self, root: Path) -> str:
        return micro_run(root, None if self.cold else self.cache, **self.flags)

    def try_one(self, kind: str, number: int, seed: int = 0) -> tuple[str, dict[str, Any]]:
        """One disturbed run and its resumption; ``wrong`` says what was not as it must be."""
        root = self.scratch / f"{kind}-{number}"
        first = self.disturbed(kind, number, root, seed)
        again = attempt(lambda: self.run(root))
        wrong = self.judge_first(kind, number, first) + self.judge_end(root, again)
        shutil.rmtree(root, ignore_errors=True)
        where = self.points[number - 1] if kind != "random" else ("", f"after {first.seconds:.3f} s")
        return f"{kind} {number}", {"where": list(where), "first": first.code, "message": first.message, "wrong": wrong}

    def disturbed(self, kind: str, number: int, root: Path, seed: int) -> Attempt:
        if kind == "random":
            return self.killed_at_random(root, random.Random(f"{seed} {number}"))
        if kind in ("clock", "slow"):
            fault = Fault(number, jump=-90_000.0 if number % 2 else 90_000.0) if kind == "clock" else Fault(delay=0.002)
        else:
            fault = Fault(number, None if kind == "kill" else getattr(errno, kind), lasting=kind == "ENOSPC")
        return attempt(lambda: self.run(root), fault)

    def killed_at_random(self, root: Path, rng: random.Random) -> Attempt:
        """A run that SIGKILL ended; one that was faster does not count, but tells how long a run takes."""
        while (found := attempt(lambda: self.run(root), kill_after=rng.random() * self.seconds)).code == 0:
            self.seconds = min(self.seconds, found.seconds)
            shutil.rmtree(root)
        return found

    def judge_first(self, kind: str, number: int, first: Attempt) -> list[str]:
        if kind == "random":
            return [] if first.code == -9 else [f"ended with {first.code}: {first.message}"]
        if kind in ("clock", "slow"):
            return [] if first.code == 0 else [f"ended with {first.code}: {first.message}"]
        if kind == "kill":
            return [] if first.code == KILLED else [f"ended with {first.code}"]
        call, name = self.points[number - 1]
        if first.code == 0 and call in ("unlink", "rmdir", "truncate", "ftruncate", "fsync", "mkdir"):
            return []  # what only tidies up may fail in silence, and the making of a folder that is there
        if first.code != REFUSED or "\n" in first.message:
            return [f"a failing {call} of {name} ended with {first.code}: {first.message}"]
        if kind == "ENOSPC" and call in ("write", "fsync") and "bytes" not in first.message:
            return [f"does not say how many bytes: {first.message}"]
        return []

    def judge_end(self, root: Path, again: Attempt) -> list[str]:
        if again.code:
            return [f"the resumption ended with {again.code}: {again.message}"]
        run = RunStore(root / "runs").open(str(again.value))
        wrong = run.verify_manifest()
        found = content_of(run.path)
        wrong += [f"{name} differs" for name in {*found, *self.wanted} if found.get(name) != self.wanted.get(name)]
        return wrong + [f"left {path.name}" for path in run.path.rglob("*.tmp")]


if __name__ == "__main__":
    main()
