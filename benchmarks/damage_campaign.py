"""Truncate every file of a finished run at 20 places and flip 200 of its bits: every damage must be noticed on loading.

    python -m benchmarks.damage_campaign --out damage.json
    python -m benchmarks.damage_campaign --run RUN --truncations 20 --flips 200 --out damage.json
    python -m benchmarks.damage_campaign --unfinished --truncations 4 --flips 20 --out unfinished.json

Each file is read by the loader that the program reads it with; a run without ``--run`` is made on the spot, with its
token streams, tokenizer cache and a resumable checkpoint.

With ``--unfinished``, runs that were stopped while they pretrained, finetuned or probed are damaged, or get a file of
another run, and the same command goes on. It must refuse in one line, or end with the bits of an undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emergence.data.sources import prepare_pretraining_data
from emergence.data.stream import load_streams
from emergence.errors import EmergenceError
from emergence.experiment.manifest import read_manifest
from emergence.experiment.result import load_result
from emergence.experiment.run_directory import RunDirectory
from emergence.files import seal, sha256_file, write_json_atomic
from emergence.studies.cka.result import FILES, read_result
from emergence.training.checkpoint import Checkpointer, load_weights
from tests.small_runs import micro_run, micro_spec


def loader_of(path: Path) -> Callable[[], object]:
    """What the program reads this file with; refuses with an :class:`EmergenceError`, or rebuilds and says so."""
    folder = path.parent
    if folder.name == "checkpoint":
        return lambda: _found(Checkpointer(folder).load())
    if folder.parent.name == "streams":
        return lambda: _found(_streams(folder))
    if folder.parent.name == "tokenizers":
        return lambda: _tokenizer(path)
    if path.suffix == ".pth":
        return lambda: load_weights(path)
    if path.name in (FILES.json_file, FILES.arrays_file):
        return lambda: read_result(folder)
    readers: dict[str, Callable[[], object]] = {
        "MANIFEST.json": lambda: read_manifest(folder),
        "spec.json": lambda: RunDirectory.open(folder),
        "finetune_stats.json": lambda: load_result(path),
        "data.json": lambda: RunDirectory.open(folder).read_data(),
        "history.jsonl": lambda: RunDirectory.open(folder).read_history(),
        "timings.jsonl": lambda: RunDirectory.open(folder).read_timings(),
        "predictions.jsonl": lambda: RunDirectory.open(folder).read_predictions(),
    }
    return readers.get(path.name, lambda: RunDirectory.open(folder).checked(path.name))


def _found(content: object) -> object:
    if content is None:
        raise EmergenceError("passed over")
    return content


def _streams(folder: Path) -> object:
    """A damaged folder is removed: looked at in a copy."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / folder.name
        shutil.copytree(folder, copy)
        return load_streams(copy)


def _tokenizer(path: Path) -> object:
    from emergence.data.tokenizer import TextTokenizer
    from emergence.files import read_sealed

    return TextTokenizer.from_json(str(read_sealed(path)["tokenizer"]), str(path))


def damages(content: bytes, truncations: int, flips: int, seed: str) -> Iterator[tuple[str, bytes]]:
    """Named damaged versions of ``content``: cut short at the ends and at random places, and single bits flipped."""
    chance = random.Random(seed)
    sizes = {0, 1, len(content) // 2, len(content) - 1}
    while len(sizes) < min(truncations, len(content)):
        sizes.add(chance.randrange(len(content)))
    for size in sorted(sizes):
        yield f"cut to {size} bytes", content[:size]
    for place in sorted(chance.sample(range(8 * len(content)), min(flips, 8 * len(content)))):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        yield f"bit {place % 8} of byte {place // 8} flipped", bytes(damaged)


def damage_file(path: Path, truncations: int, flips: int) -> tuple[int, list[str]]:
    """Damages tried on one file and those not noticed; the file is as it was afterwards."""
    whole, load = path.read_bytes(), loader_of(path)
    load()
    tried, unnoticed = 0, []
    try:
        for what, content in damages(whole, truncations, flips, path.name):
            path.write_bytes(content)
            tried += 1
            try:
                load()
            except EmergenceError as error:
                if "\n" in str(error):
                    unnoticed.append(f"{path.name}: {what}: more than one line")
            except Exception as error:
                unnoticed.append(f"{path.name}: {what}: {type(error).__name__}: {error}")
            else:
                unnoticed.append(f"{path.name}: {what}: read as data")
    finally:
        path.write_bytes(whole)
    return tried, unnoticed


def make_run(root: Path) -> list[Path]:
    """A finished micro run with everything that the program ever reads back; returns the files."""
    folder = root / "runs" / micro_run(root)
    (folder / "checkpoint").mkdir(exist_ok=True)
    Checkpointer(folder / "checkpoint").save("pretrain", 3, {"w": torch.ones(20), "step": 3})
    analysis = folder / "analysis" / "temporal_cka"
    analysis.mkdir(parents=True)
    np.savez_compressed(analysis / FILES.arrays_file, allow_pickle=False, **{"run/sentence/raw/drift": np.ones((3, 2))})
    content: dict[str, Any] = {"schema_version": 1, "settings": {"level": 1e-05}, "runs": []}
    digest = {"file": FILES.arrays_file, "sha256": sha256_file(analysis / FILES.arrays_file)}
    write_json_atomic(analysis / FILES.json_file, seal({**content, "arrays": digest}))
    prepare_pretraining_data(micro_spec(), root / "cache")
    return [path for path in sorted(root.rglob("*")) if path.is_file() and not path.name.endswith(".tmp")]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--run", type=Path, help="a finished run, which is copied first")
    parser.add_argument("--unfinished", action="store_true", help="damage runs that were stopped, and go on with them")
    parser.add_argument("--truncations", type=int, default=20)
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    logging.disable()
    if args.unfinished:
        from benchmarks.unfinished_damage import damage_unfinished

        report = damage_unfinished(args.truncations, args.flips)
        print(json.dumps({**report, "unnoticed": len(report["unnoticed"])}))
        if args.out:
            write_json_atomic(args.out, report)
        sys.exit(1 if report["unnoticed"] else 0)
    with tempfile.TemporaryDirectory() as scratch:
        if args.run:
            shutil.copytree(args.run, Path(scratch) / args.run.name)
            files = [path for path in sorted(Path(scratch).rglob("*")) if path.is_file()]
        else:
            files = make_run(Path(scratch))
        tried, unnoticed = 0, []
        for path in files:
            count, missed = damage_file(path, args.truncations, args.flips)
            tried, unnoticed = tried + count, unnoticed + missed
            print(f"{path.name}: {count} damages, {len(missed)} not noticed", flush=True)
    report = {"files": len(files), "damages": tried, "unnoticed": unnoticed}
    print(json.dumps({**report, "unnoticed": len(unnoticed)}))
    if args.out:
        write_json_atomic(args.out, report)
    sys.exit(1 if unnoticed else 0)


if __name__ == "__main__":
    main()
