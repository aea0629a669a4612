"""Run directories and snapshot probes with planted scores, by the real writers and dataclasses: nothing is trained.

:func:`write_run` plants a test score, exactly; :func:`fake_run` all that figures and reports tell of a run, about;
:func:`planted_snapshots` a curve over a trunk's snapshots.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import numpy as np

from emergence.experiment.result import RunResult
from emergence.experiment.store import RunDirectory, RunStore
from emergence.files import content_digest, to_json
from emergence.measures.bootstrap import bootstrap_means
from emergence.measures.resampling import ClusterTable
from emergence.plain import plain
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.model_size import count_parameters
from emergence.studies.activations import TrunkSource
from emergence.studies.cka.result import FILES, TemporalCKA
from emergence.studies.cka.views import View
from emergence.studies.snapshots.result import (
    INITIAL,
    RANDOM,
    TRAINED,
    FloatArray,
    ProbedSnapshot,
    SnapshotProbes,
    summarise,
)
from emergence.studies.trunks import Phase, Timeline, TimelinePoint

# Scores alone --------------------------------------------------------------------------------------

N_SENTENCES, PER_SENTENCE = 40, 3
CELL_FLAGS: dict[str, dict[str, Any]] = {
    "full": {},
    "frozen": {"freeze_llm": True},
    "random_full": {"random_baseline": True},
    "random_frozen": {"random_baseline": True, "freeze_llm": True},
}
NAMES = ("em", "f1_tokens", "log_prob", "expected_f1")


@dataclass(frozen=True)
class Added:
    """What a frozen run's states add to words and positions: per family, by F1 and by argument selection.

    A question in ten has no other argument to choose from. ``words`` and ``rule`` are R_1 and R_0 (F1; argument
    selection of R_1 alone), ``selection`` the argument selection of each family's probe on the states alone.
    """

    gains: Mapping[str, tuple[float, float]]
    words: tuple[float, float] = (0.6, 0.78)
    rule: float = 0.45
    selection: Mapping[str, float] = field(default_factory=dict)


def question_scores(mean: float, seed: int) -> np.ndarray:
    """(N,) question scores around ``mean``; what a question is like is the same for every run."""
    shared = np.random.default_rng(0).normal(size=N_SENTENCES * PER_SENTENCE)
    own = np.random.default_rng(1 + seed).normal(size=len(shared))
    scores = mean + 0.1 * shared + 0.02 * own
    return scores - scores.mean() + mean


def estimates(scores: Mapping[str, Any], sentences: list[str]) -> dict[str, Any]:
    table = ClusterTable.from_questions(scores, sentences)
    return {name: plain(found) for name, found in bootstrap_means(table, n_boot=200).items()}


def spec_of(cell: str, *, config_name: str = "debug", sets: tuple[str, ...] = (), **flags: Any) -> ExperimentSpec:
    return ExperimentSpec.from_flags(config_name=config_name, set_values=sets, **{**CELL_FLAGS[cell], **flags})


def write_run(
    root: Path,
    cell: str,
    f1: float,
    *,
    bilinear: float | None = None,
    added: Added | None = None,
    tokenizer: str = "tokenizer A",
    text: str | None = None,
    questions: str = "questions A",
    finished: bool = True,
    predictions: bool = True,
    trunk_of: ExperimentSpec | None = None,
    documents: int | None = None,
    loss: float | None = None,
    steps: int = 100,
    **flags: Any,
) -> RunDirectory:
    """A run whose mean test F1 and EM are ``f1`` (``bilinear`` for that probe), of a trunk with this held-out loss.

    Older ones tell no ``documents``, and are older than gains without ``added``.
    """
    spec = spec_of(cell, **flags)
    run = RunStore(root).create(spec, now=datetime(2026, 1, 2, 3, 4, 5))
    prints = {"tokenizer": content_digest(tokenizer), "text": text, "questions": content_digest(questions)}
    run.record_data(prints)
    if not finished:
        return run
    number = sum(map(ord, cell)) + spec.seed
    sentences = [str(i // PER_SENTENCE) for i in range(N_SENTENCES * PER_SENTENCE)]
    scores = {"headline": question_scores(f1, number)}
    if bilinear is not None:
        scores["bilinear"] = question_scores(bilinear, number)
    if predictions:
        rows = _rows(scores, sentences, questions, documents)
        run.write_predictions(_with_gains(rows, added, number) if added else rows)
    reports = {name: estimates(dict.fromkeys(NAMES, values), sentences) for name, values in scores.items()}
    readouts = {
        name: {"family": name, "layer": 1, "n_trainable": 640, "validation": report, "test": report}
        for name, report in reports.items()
        if name != "headline"
    }
    evaluation = {"n": len(sentences), "n_clusters": N_SENTENCES, "floor": None, "scores": reports["headline"]}
    trunk = trunk_of or spec
    result = RunResult.from_spec(
        spec,
        run.run_id,
        final_validation_f1=min(max(f1, 0.0), 1.0),
        final_validation_accuracy=0.25,
        test_scores=evaluation,
        validation_scores=evaluation,
        probes={"readouts": readouts} if spec.freeze_llm else None,
        lineage={"pretrain_id": None if spec.random_baseline else trunk.pretrain_id, "source": None},
        pretraining=None if spec.random_baseline else {"steps": steps, "tokens_seen": 10 * steps, **_held_out(loss)},
        qasrl_train_filtering={"total_raw_examples": 5_000, "valid_examples": 4_800},
        parameters={"total": 3000, "non_embedding": 1000, "trainable": 130 if spec.freeze_llm else 3000},
        seconds={"probe" if spec.freeze_llm else "finetune": 3700.0},
        data=run.read_data(),
    )
    run.write_stats(result.to_dict())
    return run


def _held_out(loss: float | None) -> dict[str, Any]:
    return {} if loss is None else {"test": {"nats_per_token": loss, "bits_per_byte": loss / 3}}


def write_grid(root: Path, f1: dict[str, float], **flags: Any) -> dict[str, RunDirectory]:
    """One run of every cell in ``f1``."""
    return {cell: write_run(root, cell, value, **flags) for cell, value in f1.items()}


def write_guide_file(path: Path, f1: float, *, frozen: bool = False, random: bool = False, **keys: Any) -> None:
    """A stats file with the guide's keys alone."""
    content = {
        "config_name": "tiny",
        "finetune_epochs": 15,
        "best_validation_loss": 2.34,
        "final_validation_accuracy": 0.42,
        "final_validation_f1": f1,
        "freeze_llm": frozen,
        "random_baseline": random,
        "finetune_samples_limit": None,
        "qasrl_train_filtering": {"total_raw_examples": 6414, "valid_examples": 5823, "skipped_ambiguous_span": 312},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_json({**content, **keys}, indent=2))


def _with_gains(rows: list[dict[str, Any]], added: Added, number: int) -> list[dict[str, Any]]:
    """The rows with baselines, read-outs on top of words and positions, and argument selection."""
    words = [question_scores(mean, 7) for mean in added.words]
    rule = question_scores(added.rule, 8)
    gains = {
        family: [
            words[k] + question_scores(mean, number + 10 * (k + 1)) * 0.2 + 0.8 * mean for k, mean in enumerate(means)
        ]
        for family, means in added.gains.items()
    }
    alone = {family: question_scores(added.selection.get(family, 0.4), number + 50) for family in added.gains}

    def scores(i: int, f1: float, selection: float) -> dict[str, float | None]:
        return {**dict.fromkeys(NAMES, f1), "argument_selection": None if i % 10 == 0 else selection}

    for i, row in enumerate(rows):
        for family, (f1, selection) in gains.items():
            row["readouts"][f"words+{family}"] = scores(i, float(f1[i]), float(selection[i]))
            place = row if family == "linear" else row["readouts"][family]
            place["argument_selection"] = None if i % 10 == 0 else float(alone[family][i])
        row["baselines"] = {
            "words_left": scores(i, float(words[0][i]), float(words[1][i])),
            "wh_rule": {"f1_tokens": float(rule[i]), "em": float(rule[i])},
        }
    return rows


def _rows(
    scores: dict[str, np.ndarray], sentences: list[str], questions: str, documents: int | None
) -> list[dict[str, Any]]:
    rows = []
    for i, sentence in enumerate(sentences):
        values = {name: {score: float(found[i]) for score in NAMES} for name, found in scores.items()}
        place = {"id": f"{questions}:{i}", "source": "fake", "sentence_id": sentence}
        if documents:
            place["document_id"] = f"d{int(sentence) * documents // N_SENTENCES}"
        rows.append({**place, **values.pop("headline"), "readouts": values})
    return rows


# What figures and reports tell ---------------------------------------------------------------------

#: Planted mean F1 of each condition.
F1 = {"full": 0.7, "frozen": 0.5, "random": 0.45, "random-frozen": 0.25}
ROLES = ("who", "what", "where", "when", "how")
ASKED = {"who": "agent", "what": "patient"}


def fake_spec(size: str = "tiny", condition: str = "full", **flags: Any) -> ExperimentSpec:
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
    run = RunStore(root).create(fake_spec(size, condition, **flags))
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
    for sentence in range(N_SENTENCES):
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
    scores = estimates(columns, [row["sentence_id"] for row in rows])
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
    folder = run.path / FILES.folder
    folder.mkdir(parents=True)
    FILES.save(result, folder)
    return result


def _timeline(run: RunDirectory, names: list[str]) -> Timeline:
    def build() -> Any:
        raise AssertionError("figures need no weights")

    def phase(name: str) -> Phase:
        return "pretrain" if name.startswith("pretrain_") else "finetune" if "finetune" in name else "start"

    levels, width = run.spec.config.model.n_layers + 1, run.spec.config.model.hidden_size
    sources = [TrunkSource(name, levels, width, build) for name in names]
    points = [TimelinePoint(n, phase(n), run.path, s) for n, s in zip(names, sources, strict=True)]
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


# Snapshots -----------------------------------------------------------------------------------------

LOSSES = (9.0, 8.2, 7.4, 6.6, 5.8, 5.0, 4.6, 4.2, 3.9, 3.6)
N_SNAPSHOT_QUESTIONS, SNAPSHOT_SENTENCES = 400, 80

#: Scores (N_SNAPSHOT_QUESTIONS,) by name at a loss, from each question's difficulty (N_SNAPSHOT_QUESTIONS,) in [0, 1].
Law = Callable[[float, FloatArray], dict[str, FloatArray]]


def planted_snapshots(
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
    difficulty = np.random.default_rng(7).permutation((np.arange(N_SNAPSHOT_QUESTIONS) + 0.5) / N_SNAPSHOT_QUESTIONS)
    rng = np.random.default_rng(100 + seed)
    snapshots = []
    for k, loss in enumerate(losses):
        step = 0 if k == 0 else 2 ** (k - 1)
        scores = {name: v + noise * rng.normal() for name, v in law(loss, difficulty).items()}
        snapshots.append(_snapshot(f"pretrain_step_{step}", TRAINED if step else INITIAL, step, loss, scores))
    if random:
        snapshots.append(_snapshot("random_0", RANDOM, 0, losses[0], law(losses[0], difficulty)))
    clusters = np.arange(N_SNAPSHOT_QUESTIONS) * SNAPSHOT_SENTENCES // N_SNAPSHOT_QUESTIONS
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
        ids=tuple(f"q{i}" for i in range(N_SNAPSHOT_QUESTIONS)),
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
    # Questions are alike: their scores turn within 12% of the axis.
    found["log_prob"] = -3.0 + 3.5 * level - 0.2 * difficulty
    found["expected_f1"] = level - 0.06 * difficulty
    for name, partner, bar in (("em", "log_prob", -1.35), ("f1_tokens", "expected_f1", 0.47)):
        found[name] = (found[partner] > bar).astype(float)
    return found
