"""Run directories with planted scores, written by the real writers, without any training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from emergence.experiment.result import RunResult
from emergence.experiment.store import RunDirectory, RunStore
from emergence.files import content_digest, to_json
from emergence.measures.bootstrap import bootstrap_means
from emergence.measures.resampling import ClusterTable
from emergence.plain import plain
from emergence.spec.experiment import ExperimentSpec

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


def planted(mean: float, seed: int) -> np.ndarray:
    """(N,) question scores around ``mean``; what a question is like is the same for every run."""
    shared = np.random.default_rng(0).normal(size=N_SENTENCES * PER_SENTENCE)
    own = np.random.default_rng(1 + seed).normal(size=len(shared))
    scores = mean + 0.1 * shared + 0.02 * own
    return scores - scores.mean() + mean


def estimates(scores: np.ndarray, sentences: list[str]) -> dict[str, Any]:
    table = ClusterTable.from_questions(dict.fromkeys(NAMES, scores), sentences)
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
    **flags: Any,
) -> RunDirectory:
    """A run whose mean test F1 and EM are ``f1`` (``bilinear`` for that probe).

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
    scores = {"headline": planted(f1, number)}
    if bilinear is not None:
        scores["bilinear"] = planted(bilinear, number)
    if predictions:
        rows = _rows(scores, sentences, questions, documents)
        run.write_predictions(_with_gains(rows, added, number) if added else rows)
    reports = {name: estimates(values, sentences) for name, values in scores.items()}
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
        pretraining=None if spec.random_baseline else {"steps": 100, "tokens_seen": 1000},
        parameters={"total": 3000, "non_embedding": 1000, "trainable": 130 if spec.freeze_llm else 3000},
        seconds={"probe" if spec.freeze_llm else "finetune": 3700.0},
        data=run.read_data(),
    )
    run.write_stats(result.to_dict())
    return run


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
    words = [planted(mean, 7) for mean in added.words]
    rule = planted(added.rule, 8)
    gains = {
        family: [words[k] + planted(mean, number + 10 * (k + 1)) * 0.2 + 0.8 * mean for k, mean in enumerate(means)]
        for family, means in added.gains.items()
    }
    alone = {family: planted(added.selection.get(family, 0.4), number + 50) for family in added.gains}

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
