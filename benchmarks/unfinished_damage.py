"""Damage to runs that were stopped, and files of other runs put into them (``damage_campaign --unfinished``).

After each damage the same command goes on. It must refuse in one line, or end with the bits of an undisturbed run:
what is written anew, cut back or passed over may be damaged. Anything else would certify what nobody computed.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.damage_campaign import damages
from emergence.errors import EmergenceError
from emergence.experiment.run import run_experiment
from emergence.experiment.run_directory import is_snapshot_name
from emergence.experiment.store import RunStore
from emergence.training.recording import StopRequested
from tests.forked_faults import content_of
from tests.small_runs import NAME, micro_spec

#: When a run is stopped: the file that is there then, and what it is a run of.
STOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "pretraining": ("pretrain_step_1.pth", {}),
    "finetuning": ("finetune_epoch_1.pth", {}),
    "probing": ("toy_llm_unified_pretrained.pth", {"freeze_llm": True}),
}
#: Runs that differ from the stopped ones in one thing, whose files are put into them.
OTHERS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "seed": ((), {"seed": 1}),
    "size": (("model.hidden_size=16",), {}),
    "tokenizer": (("microworld.text_documents=11",), {}),
    "random": ((), {"random_baseline": True}),
}
#: Of a result, what wall-clock time decides.
_TIMES = ("seconds", "tokens_per_second", "sha256")

Change = Callable[[Path], None]


class StoppedRun:
    """A run that was stopped, and the undisturbed one that it must end as."""

    def __init__(self, root: Path, when: str) -> None:
        until, self.flags = STOPS[when]
        self.when, self.root, self.cache = when, root / when, root / "cache"
        self.go_on(self.root / "whole")
        self.wanted = outcome_of(self.root / "whole" / NAME)
        stopped = self.root / "stopped"
        try:
            self.go_on(stopped, lambda: (stopped / NAME / until).exists())
        except StopRequested:
            return
        raise SystemExit(f"the run was not stopped in {when}")

    def go_on(self, store: Path, should_stop: Callable[[], bool] = lambda: False) -> None:
        spec = micro_spec(**self.flags)
        run_experiment(spec, RunStore(store), cache_dir=self.cache, run_id=NAME, should_stop=should_stop)

    def files(self) -> list[Path]:
        folder = self.root / "stopped" / NAME
        return [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]

    def judge(self, change: Callable[[Path], None]) -> tuple[str, str | None]:
        """How the same command ends after ``change`` to the run directory, and what is wrong with that."""
        store = self.root / "damaged"
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(self.root / "stopped", store)
        change(store / NAME)
        try:
            self.go_on(store)
        except EmergenceError as error:
            return "refused", "more than one line" if "\n" in str(error) else None
        except Exception as error:
            return "crashed", f"{type(error).__name__}: {error}"
        run = RunStore(store).open(NAME)
        if problems := run.verify_manifest():
            return "ended", problems[0]
        found = outcome_of(run.path)
        # Whoever deletes a snapshot, which nothing makes again, has a run without it.
        wanted = {name: bits for name, bits in self.wanted.items() if name in found or not is_snapshot(name)}
        return "ended", "it ended with other bits, which its manifest certifies" if found != wanted else None


def is_snapshot(name: str) -> bool:
    return is_snapshot_name(name.removesuffix(".pth"))


def outcome_of(folder: Path) -> dict[str, Any]:
    """What an interruption must not change: weights, history, predictions, and the result without its times."""
    stats = json.loads((folder / "finetune_stats.json").read_text(encoding="utf-8"))
    return {**content_of(folder), "result": {key: value for key, value in stats.items() if key not in _TIMES}}


def damage_unfinished(truncations: int, flips: int) -> dict[str, Any]:
    """Every damage of every stopped run; ``unnoticed`` names those after which a run neither refused nor healed."""
    torch.set_num_threads(1)
    ended: Counter[str] = Counter()
    unnoticed: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        others = dict(_other_runs(Path(scratch)))
        for when in STOPS:
            run, before = StoppedRun(Path(scratch), when), ended.total()
            for what, change in [*_damages(run, truncations, flips), *_foreign_files(run, others)]:
                how, wrong = run.judge(change)
                ended[how] += 1
                if wrong:
                    unnoticed.append(f"{when}: {what}: {wrong}")
                    print(unnoticed[-1], flush=True)
            print(f"{when}: {ended.total() - before} damages", flush=True)
    return {"stopped while": list(STOPS), "damages": ended.total(), "ended": dict(ended), "unnoticed": unnoticed}


def _other_runs(scratch: Path) -> Iterator[tuple[str, Path]]:
    for kind, (extra, flags) in OTHERS.items():
        store = scratch / "others" / kind
        try:  # stopped in finetuning, so that there is one of every kind of file
            run_experiment(
                micro_spec(*extra, **flags), RunStore(store), cache_dir=scratch / "cache", run_id=NAME,
                should_stop=(store / NAME / "finetune_epoch_1.pth").exists,
            )  # fmt: skip
        except StopRequested:
            yield kind, store / NAME


def _damages(run: StoppedRun, truncations: int, flips: int) -> Iterator[tuple[str, Change]]:
    """Files cut short, single bits flipped, digits changed (still JSON), files gone."""
    for name in run.files():
        content = (run.root / "stopped" / NAME / name).read_bytes()
        for what, damaged in damages(content, truncations, flips, f"{run.when} {name}"):
            yield f"{name}: {what}", _put(name, damaged)
        if name.suffix == ".jsonl":
            digits = [m.start() for m in re.finditer(rb"(?<=\d)[0-9](?=[0-9,}])", content)]
            for at in digits[:: max(1, len(digits) // max(flips, 1))]:
                other = b"%d" % (9 - content[at] + ord("0"))
                yield f"{name}: digit {at} changed", _put(name, content[:at] + other + content[at + 1 :])
        yield f"{name}: deleted", lambda folder, name=name: (folder / name).unlink()


def _foreign_files(run: StoppedRun, others: dict[str, Path]) -> Iterator[tuple[str, Change]]:
    """Every file replaced by the one of the same name, or else every checkpoint by the newest, of another run."""
    for kind, other in others.items():
        for name in run.files():
            source = other / name
            if name.parent.name == "checkpoint":
                source = max((other / "checkpoint").iterdir())
            if source.is_file():
                yield f"{name}: that of another {kind}", _put(name, source.read_bytes())
    own = run.root / "stopped" / NAME
    weights = sorted(own.glob("*.pth"))
    for one in weights:  # its own, in each other's places
        for two in weights:
            if one != two:
                yield f"{two.name}: {one.name} in its place", _put(Path(two.name), one.read_bytes())


def _put(name: Path, content: bytes) -> Change:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return change
