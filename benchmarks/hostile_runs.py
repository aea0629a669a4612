"""Attacks on run directories, finished and unfinished, for :mod:`benchmarks.hostile_campaign`."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.hostile_cases import Attack
from emergence.experiment.manifest import MANIFEST_FILE
from emergence.experiment.run_directory import CHECKPOINT_FOLDER, SPEC_FILE, STATS_FILE


def run_attacks(chance: random.Random, finished: Path) -> Iterator[Attack]:
    """One file of a finished run changed by a careful hand, and each reader that has to see it."""
    files = {path.relative_to(finished).as_posix(): path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    run = finished.name
    edits: dict[str, Callable[[bytes], bytes]] = {
        "one digit": lambda content: _digit(content, chance),
        "one byte": lambda content: _byte(content, chance),
        "one line less": lambda content: content[: content.rfind(b"\n", 0, -1) + 1],
        "the last line twice": lambda content: content + content[content.rfind(b"\n", 0, -1) + 1 :],
        "cut": lambda content: content[: chance.randrange(len(content))],
        "a byte more": lambda content: content + b"\0",
        "nothing": lambda content: b"",
    }
    while True:
        name, edit = chance.choice([*files]), chance.choice([*edits])
        changed = edits[edit](files[name])
        if changed == files[name]:
            continue
        attacked = {f"{run}/{each}": content for each, content in files.items()} | {f"{run}/{name}": changed}
        if chance.random() < 0.25 and name not in (STATS_FILE, MANIFEST_FILE):
            # The same run before its end: what was changed may not be certified by going on.
            attacked = {
                key: content for key, content in attacked.items() if Path(key).name not in (STATS_FILE, MANIFEST_FILE)
            }
            words = ["verify-run", "{folder}/" + run]
            says = name if name.endswith((".pth", SPEC_FILE)) or CHECKPOINT_FOLDER in name else ""
            if not says:
                continue
            yield Attack("runs", f"unfinished, {name}: {edit}", words, attacked, says, (1, 2))
            continue
        yield Attack("runs", f"finished, {name}: {edit}", ["verify-run", "{folder}/" + run], attacked, name, (1, 2))


def _digit(content: bytes, chance: random.Random) -> bytes:
    digits = [match.start() for match in re.finditer(rb"\d", content)]
    if not digits:
        return content
    at = chance.choice(digits)
    return content[:at] + bytes([48 + (content[at] - 48 + chance.randrange(1, 10)) % 10]) + content[at + 1 :]


def _byte(content: bytes, chance: random.Random) -> bytes:
    if not content:
        return b"x"
    at = chance.randrange(len(content))
    return content[:at] + bytes([content[at] ^ (1 << chance.randrange(8))]) + content[at + 1 :]
