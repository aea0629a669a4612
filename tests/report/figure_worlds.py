"""Finished runs written without training: planted scores through the real writers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np

from emergence.experiment.result import RunResult
from emergence.experiment.store import RunDirectory, RunStore
from emergence.measures.bootstrap import bootstrap_means
from emergence.measures.resampling import ClusterTable
from emergence.plain import plain
from emergence.report.charts.cka import RESULT_FOLDER
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.model_size import count_parameters
from emergence.studies.activations import TrunkSource
from emergence.studies.cka.result import TemporalCKA, save_result
from emergence.studies.cka.views import View
from emergence.studies.trunks import Checkpoint, Phase, Timeline

#: Planted mean F1 of each condition.
F1 = {"full": 0.7, "frozen": 0.5, "random": 0.45, "random-frozen": 0.25}
ROLES = ("who", "what", "where", "when", "how")
ASKED = {"who": "agent", "what": "patient"}
SENTENCES = 40


def spec(size: str = "tiny", condition: str = "full", **flags: Any) -> ExperimentSpec:
    given: dict[str, Any] = {"freeze_llm": "frozen" in condition, "random_baseline": "random" in condition}
    return ExperimentSpec.from_flags(config_name=size, data="microworld", **given, **flags)


def fake_run(
    root: Path,
    size: str = "tiny",
    condition: str = "full",
    *,
    better: float = 0.0,
    finished: bool = True,
    asked_roles: bool = False,
    **flags: Any,
) -> RunDirectory:
    """A run whose test F1 is about ``F1[condition] + better``; its predictions are older than asked roles, or not."""
    run = RunStore(root).create(spec(size, condition, **flags))
    rng = np.random.default_rng(len(size) + 10 * run.spec.seed + 100 * list(F1).index(condition))
    run.record_data({"tokenizer": "t", "text": "x", "questions": "q"})
    _write_history(run, better)
    if finished:
        rows = _predictions(rng, F1[condition] + better)
        if asked_roles:
            rows = [row | {"asked_role": ASKED.get(row["role"], "other")} for row in rows]
        run.write_predictions(rows)
        run.write_stats(_result(run, rows, better).to_dict())
    return run


def _write_history(run: RunDirectory, better: float) -> None:
    recorder, layers = run.recorder(), run.spec.config.model.n_layers
    if run.spec.pretrains:
        recorder.log("pretrain_evaluation", step=0, tokens=0, validation_loss=9.5)
        for step in (1, 4, 16, 64, 256, 1024):
            loss = 3.5 + 6.0 * step**-0.3 - better
            recorder.log("pretrain_step", step=step, tokens=step * 8_192, loss=loss - 0.1 + 0.05 * (step % 3))
            recorder.log("pretrain_evaluation", step=step, tokens=step * 8_192, validation_loss=loss)
    if not run.spec.freeze_llm:
        for epoch in (1, 2, 3):
            losses = {"train_loss": 3.0 / epoch, "validation_loss": 2.5 / epoch**0.5 - better}
            recorder.log("finetune_epoch", epoch=epoch, **losses, validation_em=0.3, validation_f1=0.2 * epoch + better)
    for layer in range(layers + 1) if run.spec.freeze_llm else ():
        recorder.log("probe", family="linear", layer=layer, validation_f1=0.2)


def _predictions(rng: np.random.Generator, mean: float) -> list[dict[str, Any]]:
    rows = []
    for sentence in range(SENTENCES):
        for k, role in enumerate(ROLES[: 2 + sentence % 4]):
            f1 = float(rng.random() < np.clip(mean - 0.04 * k, 0, 1))
            where = {"id": f"s{sentence}-{role}", "source": "fake", "sentence_id": f"s{sentence}"}
            scores = {"em": f1, "f1_tokens": f1, "log_prob": -1.0, "expected_f1": f1}
            asked = {
                "role": role,
                "passive": sentence % 5 == 0,
                "question": f"{role.capitalize()} saw <i>it</i> & you?",
            }
            rows.append({**where, **asked, **_answer(is_right=f1 == 1.0), **scores, "readouts": {}})
    return rows


def _answer(*, is_right: bool) -> dict[str, Any]:
    """The gold answer ``Emma Bo``, or a wrong one with markup in it."""
    words = ["Emma", "Bo", "saw", "<script>alert(1)</script>", "|", "**", "_x_", "."]
    start, end = (0, 2) if is_right else (3, 5)
    spans = {"golds": [[0, 2]], "gold_texts": ["Emma Bo"], "prediction": [start, end]}
    return {
        "words": words,
        "predicate_index": 2,
        "predicate": "saw",
        **spans,
        "prediction_text": " ".join(words[start:end]),
    }


def _result(run: RunDirectory, rows: list[dict[str, Any]], better: float) -> RunResult:
    columns = {name: [row[name] for row in rows] for name in ("em", "f1_tokens")}
    table = ClusterTable.from_questions(columns, [row["sentence_id"] for row in rows])
    scores = {name: plain(found) for name, found in bootstrap_means(table, n_boot=100).items()}
    families = ("linear", "bilinear")
    fits = [
        {"family": family, "layer": layer, "n_trainable": 258, "converged": True, "validation_em": 0.1}
        | {"validation_f1": F1[run.spec.condition] - 0.05 + 0.02 * layer * (1 + k) + better}
        for k, family in enumerate(families)
        for layer in range(run.spec.config.model.n_layers + 1)
    ]
    model = run.spec.config.model
    counts = count_parameters(model, model.vocab_size)
    loss = {"nats_per_token": 4.0 - better}
    return RunResult.from_spec(
        run.spec,
        run.run_id,
        final_validation_f1=F1[run.spec.condition] + better,
        qasrl_train_filtering={"total_raw_examples": 5_000, "valid_examples": 4_800},
        test_scores={"scores": scores, "floor": "wh_rule", "baselines": {"wh_rule": scores}},
        probes={"fits": fits} if run.spec.freeze_llm else None,
        pretraining=None if run.spec.random_baseline else {"test": loss},
        parameters={"total": counts.total, "non_embedding": counts.non_embedding, "trainable": 1},
        data=run.read_data(),
    )


def fake_cka(run: RunDirectory, *, against: RunDirectory | None = None) -> TemporalCKA:
    """A temporal CKA of two pretraining snapshots, the start and three epochs, written into the run."""
    names = ["pretrain_step_1", "pretrain_step_512", "pretrained", *(f"finetune_epoch_{n}" for n in (1, 2, 3))]
    timelines = tuple(_timeline(found, names) for found in (run, against) if found)
    size = run.spec.config.model.n_layers + 1
    views = {"sentence/raw": _view(len(names), size, 0.0), "predicate/raw": _view(len(names), size, 0.1)}
    block = views["sentence/raw"].layers[-1]
    settings = {"estimator": "debiased", "kernel": "linear", "level": 0.95, "random_seeds": 2}
    result = TemporalCKA(
        timelines=timelines,
        views=tuple(views for _ in timelines),
        cross={"sentence/raw": {"start": block, "last": block * 0.5}} if against else {},
        missing=tuple({} for _ in timelines),
        n_sentences=2_000,
        n_predicates=3_456,
        probe_fingerprint="f",
        notes=(),
        settings=settings,
    )
    folder = run.path / RESULT_FOLDER
    folder.mkdir(parents=True)
    save_result(result, folder)
    return result


def _timeline(run: RunDirectory, names: list[str]) -> Timeline:
    def build() -> Any:
        raise AssertionError("figures need no weights")

    def phase(name: str) -> Phase:
        return "pretrain" if name.startswith("pretrain_") else "finetune" if "finetune" in name else "start"

    levels, width = run.spec.config.model.n_layers + 1, run.spec.config.model.hidden_size
    sources = [TrunkSource(name, levels, width, build) for name in names]
    points = [Checkpoint(n, phase(n), run.path, s) for n, s in zip(names, sources, strict=True)]
    return Timeline(run, tuple(points), run.spec.config.model, 400, cast(Any, None))


def _view(n_points: int, n_levels: int, less: float) -> View:
    t, level = np.meshgrid(np.arange(n_points), np.arange(n_levels), indexing="ij")
    drift = 1 - np.abs(t - 2) * (0.03 + 0.03 * level) * (1 + less)
    drift[0, 0] = np.nan
    near = 1 - 0.2 * np.abs(np.subtract.outer(np.arange(n_levels), np.arange(n_levels)))
    layers = np.stack([near - 0.02 * i for i in range(n_points)])
    empty = np.zeros((n_points - 1, n_levels))
    arrays = dict.fromkeys(("velocity", "velocity_lo", "velocity_hi", "velocity_se"), empty)
    same = dict.fromkeys(("drift_se", "excess", "procrustes", "neighbours"), drift)
    none = dict.fromkeys(("twin", "control", "procrustes_random", "neighbours_random"), np.zeros(0))
    return View(
        drift=drift,
        drift_lo=drift - 0.03,
        drift_hi=np.minimum(drift + 0.02, 1.0),
        layers=layers,
        from_start=layers * 0.9,
        random=np.stack([np.full_like(drift, 0.2 + less), np.full_like(drift, 0.3 + less)]),
        noise=np.full_like(drift, np.nan),
        neighbours_chance=0.01,
        permutation=(None,) * n_levels,
        flags=(("",) * n_levels,) * n_points,
        **arrays,
        **same,
        **none,
    )
