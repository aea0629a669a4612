"""What the published estimator of information emergence reports for independent pairs, with its own network and rate.

    python -m benchmarks.mine_campaign --json benchmarks/results/campaigns/mine_published.json

Ten layers, a first rate of 0.0001 and 10,000 steps as published, on 3,000 independent Gaussian pairs in 32 dimensions
(published: 300,000 of 768). Half an hour of one core. ``python -m benchmarks figure`` draws the result.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.measure import machine, versions
from benchmarks.peers.mine_published import HELD_OUT_EVERY, WIDTHS, MinePublished
from benchmarks.rows.information_cost import DIMENSIONS, PAIRS, correlated
from emergence.files import to_json
from emergence.measures.information import gaussian

STEPS, RATE = 10_000, 1e-4


def published(n: int, d: int, steps: int, rate: float = RATE) -> dict[str, Any]:
    """Train the published critic on ``n`` independent pairs in ``d`` dimensions.

    Returns:
        The largest bound in every ten steps (``in_sample``), the bound on other pairs at the first of them, what is
        reported, and the Gaussian estimate of the same pairs.
    """
    pairs, others = (correlated(n, d, 0.0, seed=seed) for seed in (0, 1))
    began = time.process_time()
    peer = MinePublished(*pairs, others, steps=steps, rate=rate, widths=WIDTHS)
    found = np.array(list(tqdm(peer.train(), total=steps, unit="step")))
    seconds = time.process_time() - began
    tens = found[: steps // HELD_OUT_EVERY * HELD_OUT_EVERY].reshape(-1, HELD_OUT_EVERY, 2)
    ours = gaussian(*pairs, noise=0.0)
    return {
        "n": n,
        "dimensions": d,
        "steps": steps,
        "rate": rate,
        "widths": list(WIDTHS),
        "every": HELD_OUT_EVERY,
        "correlation": 0.0,
        "truth": 0.0,
        "ceiling": float(np.log(n)),
        "reported": float(found[:, 0].max()),
        "value": ours.value,
        "se": ours.se,
        "in_sample": np.round(tens[:, :, 0].max(axis=1), 3).tolist(),
        "held_out": np.round(tens[:, 0, 1], 3).tolist(),
        "cpu_seconds": seconds,
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code: 1 where the report stays below the ceiling."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mine_campaign", description=__doc__)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--dimensions", type=int, default=DIMENSIONS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = published(options.pairs, options.dimensions, options.steps, options.rate)
    print(
        f"reported {found['reported']:.2f} nats for 0, ceiling {found['ceiling']:.2f}; Gaussian {found['value']:.3f} "
        f"with standard error {found['se']:.3f}; {found['cpu_seconds']:.0f} CPU seconds"
    )
    if options.json:
        about = {"machine": machine(torch.device("cpu")), "versions": versions()}
        options.json.write_text(to_json({**found, **about}), encoding="utf-8")
    return 0 if found["reported"] > found["ceiling"] else 1


if __name__ == "__main__":
    sys.exit(main())
