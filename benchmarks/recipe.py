"""What changes of the recipe do to held-out loss after equally many updates, on the text of the time to a loss.

    python -m benchmarks.recipe tiny:80 small:64 --text DIR --json recipe.json

Every change is measured with the same weights, batches and schedule at the start as what it is compared with: the
recipe without the changes. One seed says little about a hundredth of a nat.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.materials import Bench
from benchmarks.measure import machine, versions
from benchmarks.rows.time_to_loss import Parties, parties_of
from emergence.files import write_json_atomic

#: Settings of ``pretrain`` that a change replaces; the first is what the others are compared with.
WITHOUT: dict[str, Any] = {"adamw_beta1": 0.9, "muon_momentum_warmup": 0}
BETA: dict[str, Any] = {**WITHOUT, "adamw_beta1": 0.8}
BOTH: dict[str, Any] = {**BETA, "muon_momentum_warmup": 300}
CHANGES: dict[str, dict[str, Any]] = {
    "without the changes below": WITHOUT,
    "AdamW's beta1 0.8 for 0.9": BETA,
    "with Muon's momentum from 0.85 on, over 300 updates": BOTH,
    "with AdamW's rate doubled instead": {**BETA, "adamw_lr": 0.012},
}


def loss_with(parties: Parties, changed: dict[str, Any], updates: int, seed: int) -> float:
    """Held-out loss, nats per token, at the end of a run."""
    settings = dataclasses.replace(parties.settings, **changed)
    return dataclasses.replace(parties, settings=settings).ours(updates, seed)[-1][1]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipe", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="SIZE:UPDATES", help="for instance tiny:80")
    parser.add_argument("--text", type=Path, help="text file or folder (the micro-world)")
    parser.add_argument("--seed", type=int, default=0, help="weights and order of the text (0)")
    parser.add_argument("--toy", action="store_true", help="sizes that only show that the code runs")
    parser.add_argument("--json", type=Path, help="where the result goes")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    bench = Bench(text=options.text, toy=options.toy)
    found = []
    for size, updates in (run.split(":") for run in options.runs):
        parties = parties_of(bench, size)
        losses = {name: loss_with(parties, changed, int(updates), options.seed) for name, changed in CHANGES.items()}
        base = next(iter(losses.values()))
        for name, loss in losses.items():
            found.append({"size": size, "updates": int(updates), "change": name, "loss": loss})
            print(f"{size}, {updates} updates  {name:<60} {loss:.3f}  {loss - base:+.3f}", flush=True)
    about = {"data": bench.text_name, "seed": options.seed, "precision": parties.precision}
    if options.json:
        content = {"date": datetime.now(UTC).strftime("%Y-%m-%d"), **about, "machine": machine(bench.device)}
        write_json_atomic(options.json, {**content, "versions": versions(), "runs": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
