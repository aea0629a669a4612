"""Results of a study of units with planted counts and effects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from emergence.measures.bootstrap import Estimate
from emergence.plain import plain
from emergence.studies.units.result import MAIN_SHARE, SHUFFLED, UnitResult, result_of

ROLES = ("agent", "patient")
#: Units of each of the two blocks.
PER_BLOCK = 50


def _estimate(point: float) -> dict[str, Any]:
    found: dict[str, Any] = plain(Estimate(point, point - 0.05, point + 0.05, "bca", 40, 30))
    return found


def planted_trunk(name: str, kind: str, step: int, units: float, *, effect: float = 0.2) -> dict[str, Any]:
    """A trunk in which ``units`` units carry each role, whichever way they are counted."""
    n = 2 * PER_BLOCK
    count = {"n": units, "share": units / n}
    row = {
        "n_units": n,
        "per_block": [PER_BLOCK, PER_BLOCK],
        "selectivity": [
            {
                "role": role,
                "words": {"a": 40, "b": 40},
                "chosen": 9,
                "confirmed": 7,
                "confirmed_raw": 8,
                "confirmed_shuffled": 0,
                "best": 0.8,
                "best_raw": 0.9,
                "top": 0.75,
                "by_block": [{"block": b, "confirmed": 3 + b, "best": 0.7 + 0.1 * b} for b in range(2)],
                "units": [10 * i, 10 * i + 1],
            }
            for i, role in enumerate(ROLES)
        ],
        "ablation": [
            {
                "cut": cut,
                "share": MAIN_SHARE,
                "n": 2,
                "with": "mean",
                "matched_size": 0.95,
                "effects": {asked: _estimate(effect if asked == cut else 0.01) for asked in ROLES},
                "drops": dict.fromkeys(ROLES, effect),
                "loss": 0.012,
                "pairs": _estimate(0.03),
            }
            for cut in (*ROLES, SHUFFLED)
        ],
        "check": {"n": 24, "rank_correlation": 0.7, "rank_correlation_halfway": 0.4},
        "concentration": [
            {
                "role": role,
                "all": _estimate(0.6),
                "half": {**count, "curve": [[1, 0.1]], "shuffled": 2 * units},
                "participation": {**count, "shuffled": 3 * units},
                "probe": {**count, "curve": [[1, 0.5]], "f1": 0.9, "base": 0.4, "f1_shuffled": 0.41},
            }
            for role in ROLES
        ],
    }
    facts = {"name": name, "kind": kind, "step": step, "tokens": 10 * step, "weights": f"{name} {units}"}
    scores = {"f1": {role: _estimate(0.8) for role in ROLES}, "loss": 3.0, "pairs": 0.5}
    return {**facts, **scores, "probe": {"validation_f1": 0.8, "converged": True}, "units": {"mlp": row}}


def planted_units(
    name: str, units: Mapping[int, float], *, seed: int = 0, size: str = "debug", n_params: int = 100_000
) -> UnitResult:
    """A run whose trunk after each step has so many units that carry a role."""
    steps = sorted(units)
    path = [planted_trunk(f"{name} step {step}", "trained", step, units[step]) for step in steps]
    settings = {
        "roles": "gold",
        "kinds": ["mlp"],
        "questions": 80,
        "draws": 3,
        "data": {"name": "microworld", "roles": list(ROLES), "layout": "question-first", "left_out": {},
                 "questions": {"a": 80, "b": 80}},
    }  # fmt: skip
    subject = {"name": name, "kind": "run", "size": size, "seed": seed, "series": f"s-{size}", "text": "microworld"}
    twin = planted_trunk("random", "random", 0, 60.0, effect=0.0)
    return result_of({**subject, "n_params": n_params}, settings, [path[-1], twin, *path[:-1]])
