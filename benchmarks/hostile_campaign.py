"""Hundreds of attacks by somebody who knows the formats: no traceback, and nothing accepted in silence.

    python -m benchmarks.hostile_campaign --cases 600 --out benchmarks/results/campaigns/hostile.json

A bad result among good ones has to be named, with the good ones still there. Everything else has to be refused in one
line with exit code 1 or 2, and nothing written. Nothing that is printed may give a terminal orders. All run in this
process. The attacks are in :mod:`benchmarks.hostile_cases` and :mod:`benchmarks.hostile_runs`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.hostile_cases import (
    Attack,
    cell_attacks,
    compressed_attacks,
    json_attacks,
    name_attacks,
    setting_attacks,
    weight_attacks,
)
from benchmarks.hostile_runs import run_attacks
from benchmarks.malformed_campaign import called, conclude

#: Of all attacks, the share of each kind.
SHARES = {
    "json": 0.28,
    "names": 0.16,
    "cells": 0.1,
    "settings": 0.14,
    "weights": 0.12,
    "compressed": 0.06,
    "runs": 0.14,
}
#: Printed characters that no honest answer reaches.
_MOST_PRINTED = 200_000
_ORDERS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\U000e0000-\U000e007f]"
)


def prepare(scratch: Path) -> dict[str, Any]:
    """Planted runs in ``scratch / "runs"``, and what the attacks are made of."""
    from tests.planted_runs import write_grid, write_guide_file
    from tests.small_runs import MICRO, micro_run

    folder = scratch / "runs"
    runs = write_grid(folder, {"full": 0.6, "frozen": 0.4, "random_full": 0.3, "random_frozen": 0.2}, bilinear=0.5)
    write_guide_file(scratch / "guide.json", 0.5)
    finished = scratch / "finished"
    name = micro_run(finished)
    return {
        "folder": folder,
        "stats": json.loads(runs["frozen"].stats_path.read_text()),
        "guide": json.loads((scratch / "guide.json").read_text()),
        "settings": MICRO,
        "finished": finished / "runs" / name,
    }


def attacks(count: int, seed: int, made: dict[str, Any]) -> Iterator[Attack]:
    """``count`` attacks, each kind by its share."""
    chance = random.Random(seed)
    stats = json.dumps(made["stats"]).encode()
    kinds: dict[str, Iterator[Attack]] = {
        "json": json_attacks(chance, made["stats"], made["guide"]),
        "names": name_attacks(chance, stats),
        "cells": cell_attacks(chance, made["guide"]),
        "settings": setting_attacks(chance),
        "weights": weight_attacks(chance, made["settings"]),
        "compressed": compressed_attacks(chance, made["settings"]),
        "runs": run_attacks(chance, made["finished"]),
    }
    left = count
    for place, (kind, share) in enumerate(SHARES.items(), start=1):
        number = left if place == len(SHARES) else min(left, max(1, round(share * count)))
        left -= number
        for _ in range(number):
            yield next(kinds[kind])


def judge(attack: Attack, folder: Path) -> str:
    """What is wrong with how the program met the attack; empty if nothing is."""
    before = {path.name for path in folder.iterdir()}
    try:
        for name, content in attack.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        there = _files(folder)
        code, out, err, escaped = called([word.replace("{folder}", str(folder)) for word in attack.words])
        return (escaped and f"escaped: {escaped[:300]}") or _wrong(attack, code, out, err, _files(folder) - there)
    finally:
        for path in folder.iterdir():
            if path.name not in before:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _wrong(attack: Attack, code: int, out: str, err: str, written: set[tuple[str, int]]) -> str:
    printed = out + err
    if "Traceback" in printed:
        return "a traceback"
    if code not in attack.ends:
        return f"exit code {code}" if code else "accepted in silence"
    if found := _ORDERS.search(printed):
        return f"orders to the terminal: {found[0]!r}"
    if len(printed) > _MOST_PRINTED:
        return f"{len(printed):,} characters"
    if attack.says and attack.says not in printed:
        return "not named"
    lines = [line for line in err.splitlines() if line.strip()]
    # verify-run answers on standard output, a line a file: its exit code alone says that it is bad news.
    if (
        code
        and attack.kind != "runs"
        and not (lines and re.fullmatch(r"(\S+: )?error: .*\S", lines[-1], re.IGNORECASE))
    ):
        return "no error line at the end"
    if code and written:
        return f"wrote {sorted(written)[:3]}"
    return attack.check(out)


def _files(folder: Path) -> set[tuple[str, int]]:
    return {
        (str(path.relative_to(folder)), path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file() and ".cache" not in path.parts
    }


def campaign(
    chosen: Iterable[Attack], made: dict[str, Any], say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Judge every attack; what was wrong is in ``problems``."""
    held, problems, here = Counter[str](), [], Path.cwd()
    os.chdir(made["folder"].parent)
    try:
        for attack in chosen:
            problem = judge(attack, made["folder"])
            held[attack.kind] += not problem
            if problem:
                problems.append({"kind": attack.kind, "attack": ascii(attack.name)[:200], "problem": problem[:500]})
                say(str(problems[-1]))
    finally:
        os.chdir(here)
    return {"attacks": sum(held.values()) + len(problems), "held": dict(held), "problems": problems}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=sorted(SHARES))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    out, start = args.out.absolute() if args.out else None, time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        made = prepare(Path(scratch).resolve())
        chosen = (a for a in attacks(args.cases, args.seed, made) if args.kind in (None, a.kind))
        report = campaign(chosen, made, lambda line: print(line, file=sys.stderr, flush=True))
    report = {
        "date": date.today().isoformat(),
        "what": f"python -m benchmarks.hostile_campaign --cases {args.cases} --seed {args.seed}; a problem is "
        "a traceback, a silent acceptance, or an order to the terminal",
        "seconds": round(time.monotonic() - start),
        **report,
    }
    conclude(report, out)


if __name__ == "__main__":
    main()
