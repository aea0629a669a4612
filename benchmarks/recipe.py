"""What settings of the recipe do to held-out loss after equally many updates, on the text of the time to a loss.

    python -m benchmarks.recipe tiny:80 small:64 --text DIR

Every change has the first weights, batches and learning-rate schedule of what it is compared with. One seed says little
about a hundredth of a nat. The held-out text is that of the time to a loss, so what is chosen here would be tuned on
it, as the peer is.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.materials import Bench
from benchmarks.measure import machine, versions
from benchmarks.report import today
from benchmarks.rows.time_to_loss import parties_of
from emergence.errors import EmergenceError
from emergence.files import may_write, write_json_atomic
from emergence.spec.config import CONFIG_NAMES, PretrainConfig

#: What docs/speed.md is made of.
FILE = Path(__file__).resolve().parent / "results" / "campaigns" / "recipe.json"

_BASELINE: dict[str, Any] = {"adamw_beta1": 0.9, "muon_momentum_warmup": 0, "initial_context": 0}
_BETA: dict[str, Any] = {**_BASELINE, "adamw_beta1": 0.8}


def variants(settings: PretrainConfig, length: int) -> dict[str, PretrainConfig]:
    """What is compared, by name; the first is what the others are told against."""
    changed: dict[str, dict[str, Any]] = {
        "beta1 0.9, Muon's momentum constant, whole sequences": _BASELINE,
        "AdamW's beta1 0.8": _BETA,
        "beta1 0.8, Muon's momentum rising over 300 updates": {**_BETA, "muon_momentum_warmup": 300},
        "beta1 0.8, AdamW's rate doubled": {**_BETA, "adamw_lr": 2 * settings.adamw_lr},
    }
    for window in (length // 8, length // 4):
        name = f"windows of {window} tokens in the first {settings.initial_context_fraction:.0%}"
        changed[name] = {**_BASELINE, "initial_context": window}
    return {name: dataclasses.replace(settings, **values) for name, values in changed.items()}


def measured(bench: Bench, runs: Sequence[tuple[str, int]], seed: int) -> dict[str, Any]:
    """Held-out loss, nats per token, at the end of every variant's run, printed as it is known."""
    found = []
    for size, updates in runs:
        parties, losses = parties_of(bench, size), list[float]()
        for name, settings in variants(parties.settings, parties.text.length).items():
            losses.append(dataclasses.replace(parties, settings=settings).ours(updates, seed)[-1][1])
            found.append({"size": size, "updates": updates, "change": name, "loss": losses[-1]})
            told = f"{losses[-1]:.3f}  {losses[-1] - losses[0]:+.3f}"
            print(f"{size}, {updates} updates  {name:<52} {told}", flush=True)
    return {"date": today(), "data": bench.text_name, "seed": seed, "runs": found}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recipe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=_run, metavar="SIZE:UPDATES", help="for instance tiny:80")
    parser.add_argument("--text", type=Path, help="text file or folder (the micro-world)")
    parser.add_argument("--seed", type=int, default=0, help="weights and order of the text (0)")
    parser.add_argument("--toy", action="store_true", help="sizes that only show that the code runs; nothing is kept")
    parser.add_argument("--json", type=Path, help="where the result goes (what docs/speed.md is made of)")
    options = parser.parse_args(arguments)
    file = options.json or (None if options.toy else FILE)
    if options.text is not None and not options.text.exists():
        parser.error(f"{options.text}: no such file or folder: check --text")
    if file and not may_write(file.parent):
        parser.error(f"{file}: cannot be written there: check --json")
    if options.seed < 0:
        parser.error(f"--seed {options.seed}: 0 or more")
    torch.set_num_threads(1)
    bench = Bench(text=options.text, toy=options.toy)
    try:
        found = measured(bench, options.runs, options.seed)
    except EmergenceError as error:
        parser.error(str(error))
    if file:
        write_json_atomic(file, {**found, "machine": machine(bench.device), "versions": versions()})
    return 0


def _run(text: str) -> tuple[str, int]:
    size, _, updates = text.partition(":")
    if size not in CONFIG_NAMES or not updates.isdecimal() or int(updates) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a size ({', '.join(CONFIG_NAMES)}) and updates, like tiny:80")
    return size, int(updates)


if __name__ == "__main__":
    sys.exit(main())
