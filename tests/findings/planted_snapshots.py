"""Snapshot probes with planted curves, through the real dataclasses: no trunk, no training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from emergence.studies.snapshots.result import (
    INITIAL,
    RANDOM,
    TRAINED,
    FloatArray,
    ProbedSnapshot,
    SnapshotProbes,
    summarise,
)

LOSSES = (9.0, 8.2, 7.4, 6.6, 5.8, 5.0, 4.6, 4.2, 3.9, 3.6)
SENTENCES, PER_SENTENCE = 80, 5
N = SENTENCES * PER_SENTENCE

#: Scores (N,) by name at a loss, from each question's difficulty (N,) in [0, 1].
Law = Callable[[float, FloatArray], dict[str, FloatArray]]


def planted(
    law: Law,
    *,
    losses: Sequence[float] = LOSSES,
    seed: int = 0,
    series: str = "a",
    random: bool = True,
    noise: float = 0.0,
    roles: Sequence[str] = (),
) -> SnapshotProbes:
    """A run whose snapshots score what ``law`` says."""
    difficulty = np.random.default_rng(7).permutation((np.arange(N) + 0.5) / N)
    rng = np.random.default_rng(100 + seed)
    snapshots = []
    for k, loss in enumerate(losses):
        step = 0 if k == 0 else 2 ** (k - 1)
        scores = {name: v + noise * rng.normal() for name, v in law(loss, difficulty).items()}
        snapshots.append(_snapshot(f"pretrain_step_{step}", TRAINED if step else INITIAL, step, loss, scores))
    if random:
        snapshots.append(_snapshot("random_0", RANDOM, 0, losses[0], law(losses[0], difficulty)))
    clusters = np.repeat(np.arange(SENTENCES), PER_SENTENCE)
    return SnapshotProbes(
        run={
            "run_id": f"planted-{series}-{seed}",
            "config_name": "tiny",
            "pretrain_data": "wiki",
            "seed": seed,
            "series": series,
        },
        settings={"train_questions": 100},
        notes=(),
        ids=tuple(f"q{i}" for i in range(N)),
        clusters=clusters,
        no_model={"rule": "wh_rule", "f1_tokens": 0.3, "em": 0.1},
        snapshots=tuple(snapshots),
        roles=tuple(roles),
        **summarise(snapshots, clusters, n_boot=100, level=0.95),
    )


def _snapshot(name: str, kind: str, step: int, loss: float, scores: dict[str, FloatArray]) -> ProbedSnapshot:
    held_out: dict[str, Any] = {"nats_per_token": loss, "bits_per_byte": loss / 2, "n_tokens": 1000}
    probes: dict[str, Any] = {"linear": {"layer": 1, "converged": True, "validation_f1": 0.2}}
    return ProbedSnapshot(name, kind, step, 1024 * step, f"{name}-{kind}", held_out, probes, {"linear": scores})


def scores_from(level: float, difficulty: FloatArray, discrete: float | None = None) -> dict[str, FloatArray]:
    """Continuous scores at ``level`` in [0, 1]; discrete ones threshold it, or sit at a level of their own."""
    margin = level - difficulty
    right = (difficulty < (level if discrete is None else discrete)).astype(float)
    return {
        "f1_tokens": right,
        "em": right,
        "log_prob": -3.0 + 3.0 * level + 0.5 * margin,
        "expected_f1": np.clip(level + 0.2 * (0.5 - difficulty), 0, 1),
        "brier": 1.0 - level + 0.2 * difficulty,
    }


def gradual(loss: float, difficulty: FloatArray) -> dict[str, FloatArray]:
    """A straight line in the loss."""
    return scores_from(0.2 + 0.1 * (9.0 - loss), difficulty)


def breaking(loss: float, difficulty: FloatArray) -> dict[str, FloatArray]:
    """Nothing until a loss of 5.8, then a steep rise, in every score."""
    return scores_from(0.15 + 0.3 * max(0.0, 5.8 - loss), difficulty)


def mirage(loss: float, difficulty: FloatArray) -> dict[str, FloatArray]:
    """The partner rises smoothly; a question counts as right only once the partner is past a high bar."""
    level = 0.2 + 0.1 * (9.0 - loss)
    found = scores_from(level, difficulty)
    found["log_prob"] = (
        -3.0 + 3.5 * level - 0.2 * difficulty
    )  # questions alike: their scores turn within 12% of the axis
    found["expected_f1"] = level - 0.06 * difficulty
    for name, partner, bar in (("em", "log_prob", -1.35), ("f1_tokens", "expected_f1", 0.47)):
        found[name] = (found[partner] > bar).astype(float)
    return found
