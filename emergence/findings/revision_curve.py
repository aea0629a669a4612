"""Runs of one published model's revisions as a training history, in the form of a run's own probed snapshots.

So curve, thresholds and diagnosis are those of :mod:`emergence.findings.snapshot_curve`, to the digit. Suspect
revisions have been left out before, where the folder was collected.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from emergence.experiment.facts import HEADLINE, dig, own_scorer, words_of_layout
from emergence.findings.collect import Found
from emergence.findings.two_by_two import RunScores
from emergence.measures.conditional import FAMILIES, WITH_WORDS
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.published import size_name
from emergence.studies.snapshots.result import (
    CURVE_SCORES,
    GAIN,
    INITIAL,
    RANDOM,
    TRAINED,
    FloatArray,
    ProbedSnapshot,
    SnapshotProbes,
    summarise,
)

#: Facts of a chosen fit that are kept for every revision.
_FACTS = ("layer", "n_trainable", "converged", "validation_f1")


def revision_probes(found: Iterable[Found]) -> list[SnapshotProbes]:
    """A history for every published model, seed and setting of which two revisions that name a step were probed."""
    usable = [item for item in found if _is_usable(item)]
    groups: dict[tuple[str, int], list[Found]] = {}
    for item in usable:
        if item.spec is not None and not item.spec.random_baseline and item.result.pretrained.steps is not None:
            groups.setdefault((_series(item.spec), item.spec.seed), []).append(item)
    histories = []
    for (series, seed), items in groups.items():
        alike = [item for item in items if _questions(item) == _questions(items[0])]
        twins = [i for i in usable if i.spec and i.spec.random_baseline and _series(i.spec) == series]
        twins = [twin for twin in twins if _questions(twin) == _questions(items[0])]
        if len({item.result.pretrained.steps for item in alike}) > 1:
            histories.append(_history(series, seed, alike, twins))
    return histories


def _is_usable(item: Found) -> bool:
    columns = item.scores.scores.get(HEADLINE, {}) if item.scores else {}
    is_published = item.spec is not None and item.spec.model is not None and item.spec.freeze_llm
    return is_published and all(score in columns for score in CURVE_SCORES)


def _series(spec: ExperimentSpec) -> str:
    """Equal for runs that differ in revision, seed and whether they are twins."""
    return replace(spec, revision=None, seed=0, random_baseline=False).experiment_id


def _questions(item: Found) -> tuple[str, ...]:
    return _scores(item).ids


def _scores(item: Found) -> RunScores:
    if item.scores is None:
        raise ValueError(f"{item.name} has no scores of single questions")
    return item.scores


def _history(series: str, seed: int, items: Sequence[Found], twins: Sequence[Found]) -> SnapshotProbes:
    ordered = sorted(items, key=lambda item: (item.result.pretrained.steps or 0, item.name))
    first, spec = ordered[0], ordered[0].spec
    assert spec is not None
    model = size_name(spec.model or "")
    snapshots = [_snapshot(item, (item.spec.revision if item.spec else None) or item.name) for item in ordered]
    snapshots += [_snapshot(twin, f"random_{k}") for k, twin in enumerate(sorted(twins, key=_seed))]
    numbers: dict[str, int] = {}
    clusters = np.array([numbers.setdefault(s, len(numbers)) for s in _scores(first).sentences], dtype=np.int64)
    evaluation, rows = spec.config.evaluate, _scores(first).run.read_predictions()
    floor = first.result.no_model_floor
    return SnapshotProbes(
        run={
            "run_id": f"{model} ({len(ordered)} revisions)",
            "config_name": spec.config.name,
            "pretrain_data": "published",
            "text": "revisions" if spec.layout == "question-first" else f"revisions, {spec.layout}",
            "seed": seed,
            "series": series,
        },
        settings={"seed": seed, "layout": spec.layout, "runs": [item.name for item in ordered]},
        notes=("loss on the reference text; a seed is that of the probes and the few-shot subset",),
        ids=_questions(first),
        clusters=clusters,
        no_model={"rule": floor[0], "f1_tokens": floor[1].point} if floor else {"rule": "none", "f1_tokens": 0.0},
        snapshots=tuple(snapshots),
        roles=tuple(str(row.get("asked_role")) for row in rows),
        **summarise(snapshots, clusters, n_boot=evaluation.bootstrap_draws, level=1 - evaluation.alpha),
    )


def _seed(item: Found) -> int:
    return item.spec.seed if item.spec else 0


def _snapshot(item: Found, name: str) -> ProbedSnapshot:
    """One revision or twin, as a probed trunk."""
    result, scores = item.result, _scores(item).scores
    alone = scores[words_of_layout(result.layout)]
    fits = dig(result.probes, "fits") or []
    probes: dict[str, dict[str, Any]] = {}
    columns: dict[str, dict[str, FloatArray]] = {}
    for family in FAMILIES:
        readout, together = (
            HEADLINE if family == FAMILIES[0] else family,
            WITH_WORDS[own_scorer(result.layout)].format(family=family),
        )
        if readout in scores:
            columns[family] = dict(scores[readout])
            layer = result.chosen_layers.get(family)
            fit: dict[str, Any] = next((f for f in fits if (f["family"], f["layer"]) == (family, layer)), {})
            probes[family] = {key: fit.get(key) for key in _FACTS} | {"layer": layer}
        if together in scores:
            columns[GAIN + family] = {s: v - alone[s] for s, v in scores[together].items() if s in alone}
            layer = dig(result.probes, "conditional", together, "layer")
            probes[GAIN + family] = {"layer": layer, "converged": True}
    steps = result.pretrained.steps or 0
    kind = RANDOM if item.spec and item.spec.random_baseline else TRAINED if steps else INITIAL
    return ProbedSnapshot(
        name=name,
        kind=kind,
        step=steps,
        tokens=result.pretrained.tokens_seen or 0,
        weights=str(result.trunk.trunk_sha256),
        loss=dict(dig(result.pretraining, "test") or {}),
        probes=probes,
        scores=columns,
    )
