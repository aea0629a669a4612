"""From logits to what a run leaves behind: scores, ``predictions.jsonl`` and ``finetune_stats.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from emergence.answering.evaluate import (
    Columns,
    baseline_scores,
    evaluate_together,
    gold_spans,
    mean_estimates,
    prediction_rows,
    present,
    quick_scores,
    score_logits,
)
from emergence.answering.minimal_pairs import score_minimal_pairs
from emergence.data.qa_encoding import EncodedQA
from emergence.experiment.belonging import PRETRAINED, RANDOM
from emergence.experiment.facts import HEADLINE, RULE, words_name
from emergence.experiment.inputs import Questions
from emergence.experiment.phases import Session, Trained, named_fits
from emergence.experiment.result import RunResult, current_versions
from emergence.files import sha256_file
from emergence.measures.scoring import SpanScores
from emergence.plain import plain
from emergence.spec.adapters import adapter_parameters
from emergence.spec.model_size import count_parameters
from emergence.training.checkpoint import WeightsFile
from emergence.training.language_model_eval import LanguageModelLoss

#: Per-question scores kept for every read-out beside the headline's.
KEPT_SCORES = ("em", "f1_tokens", "log_prob", "expected_f1", "argument_selection")


def conclude(
    session: Session,
    weights: WeightsFile | None,
    trained: Trained,
    questions: Questions,
    loss: LanguageModelLoss | None = None,
) -> RunResult:
    """Score validation and test, write the predictions, and return the result, which is not yet on disk.

    Args:
        weights: The trunk's; None for a published model. loss: That of a published model.
    """
    scores = {
        split: {
            name: score_logits(logits, encoded, trained.max_answer_words)
            for name, logits in trained.logits[split].items()
        }
        for split, encoded in (("validation", questions.validation), ("test", questions.test))
    }
    words = {split: _words(trained, split, getattr(questions, split)) for split in scores}
    rules = {
        split: baseline_scores(getattr(questions, split), questions.all_train, trained.max_answer_words)
        for split in scores
    }
    reports = {
        split: _report(session, scores[split], rules[split], words[split], getattr(questions, split))
        for split in scores
    }
    # A revision is one point of a curve, which has this score too.
    kept = KEPT_SCORES if session.spec.model is None else (*KEPT_SCORES, "brier")
    session.run.write_predictions(_rows(scores["test"], rules["test"], words["test"], questions, kept))
    headline = reports["validation"][HEADLINE]["scores"]
    return RunResult.from_spec(
        session.spec,
        session.run.run_id,
        finetune_epochs=len(trained.finetuned.epochs) if trained.finetuned else 1,
        best_validation_loss=_best_loss(trained),
        final_validation_accuracy=headline["em"]["point"],
        final_validation_f1=headline["f1_tokens"]["point"],
        qasrl_train_filtering=questions.filtering["train"].to_dict(),
        test_scores=reports["test"][HEADLINE],
        validation_scores=reports["validation"][HEADLINE],
        probes=_probes(session, trained, reports, scores, words, questions),
        minimal_pairs=_minimal_pairs(session, trained, questions),
        finetuning=_finetuning(trained),
        **common_facts(session, weights, trained, loss),
    )


def common_facts(
    session: Session, weights: WeightsFile | None, trained: Trained | None, loss: LanguageModelLoss | None = None
) -> dict[str, Any]:
    """What every result tells, with or without finetuning."""
    spec = session.spec
    of_trunk = _of_published(session, loss) if weights is None else _of_trunk(session, weights, trained)
    pretraining = of_trunk["pretraining"]
    seconds, rates = _timings(session)
    flags = []
    if weights is not None and weights.metadata.get("source"):
        flags.append("trunk_from_another_run")
    if (pretraining or {}).get("rewinds") or (trained and trained.finetuned and trained.finetuned.rewinds):
        flags.append("rewound_after_nan")
    if trained and trained.probes:
        fits = named_fits(trained.probes).values()
        flags += ["probe_not_converged"] if not all(fit.converged for fit in fits) else []
        flags += ["ridge_at_edge"] if any(fit.ridge_at_edge for fit in fits) else []
    questions = session.inputs.questions
    if questions and spec.trunk_stays and questions.marks.unseen:
        flags.append("mark_unseen")
    flags += trained.finetuned.flags if trained and trained.finetuned else []
    return {
        **of_trunk,
        "seconds": seconds,
        "tokens_per_second": rates,
        "data": session.run.read_data(),
        "versions": current_versions(),
        "flags": flags,
    }


def _of_trunk(session: Session, weights: WeightsFile, trained: Trained | None) -> dict[str, Any]:
    counts = count_parameters(weights.model, weights.vocab_rows)
    adapter, trainable = session.spec.adapter, counts.trainable_full
    if session.spec.trunk_stays:
        trainable = counts.trainable_frozen + adapter_parameters(weights.model, adapter)
    known = ("stage", "run_id", "pretrain_id", "source")
    return {
        "lineage": {
            "trunk_sha256": sha256_file(session.run.trunk_path),
            **{key: weights.metadata.get(key) for key in known},
        },
        "pretraining": weights.metadata.get("pretraining"),
        "parameters": {
            "total": counts.total,
            "non_embedding": counts.non_embedding,
            "trainable": trainable if trained else counts.total,
        },
    }


def _of_published(session: Session, loss: LanguageModelLoss | None) -> dict[str, Any]:
    """What a result tells of a published model or its random twin. Its loss is on the text that all are measured on."""
    spec, published = session.spec, session.inputs.published
    if published is None:
        raise RuntimeError("a published model that was not loaded")
    is_random = spec.random_baseline
    files = published.files
    return {
        "lineage": {
            "trunk_sha256": session.inputs.fingerprints["model"],
            "stage": RANDOM if is_random else PRETRAINED,
            "run_id": None,
            "pretrain_id": None if is_random else spec.pretrain_id,
            "source": {"path": files.name, "revision": files.revision, "commit": files.commit},
        },
        "pretraining": {**({} if is_random else files.progress), "test": plain(loss)},
        "parameters": {
            "total": published.n_parameters,
            "non_embedding": published.n_non_embedding,
            "trainable": 2 * (published.encoder.hidden_size + 1),
        },
    }


def _words(trained: Trained, split: str, encoded: EncodedQA) -> dict[str, SpanScores]:
    """R_1 on one split, by its name among the baselines."""
    return {
        words_name(variant): score_logits(getattr(logits, split), encoded, trained.max_answer_words)
        for variant, logits in trained.words.items()
    }


def _report(
    session: Session,
    scores: Mapping[str, SpanScores],
    rules: Mapping[str, Columns],
    words: Mapping[str, SpanScores],
    encoded: EncodedQA,
) -> dict[str, dict[str, Any]]:
    """Every read-out's evaluation. The headline's includes the baselines without a language model."""
    found = evaluate_together(scores, encoded, session.spec.config.evaluate, baselines={HEADLINE: (rules, words)})
    return {name: evaluation.to_dict() for name, evaluation in found.items()}


def _rows(
    scores: Mapping[str, SpanScores],
    rules: Mapping[str, Columns],
    words: Mapping[str, SpanScores],
    questions: Questions,
    kept: Sequence[str],
) -> list[dict[str, Any]]:
    """Prediction rows of the headline, with the other read-outs' scores and those that need no language model."""
    rows = prediction_rows(scores[HEADLINE], questions.test)
    headline = _kept(scores[HEADLINE], kept)
    others = {name: _kept(span_scores, kept) for name, span_scores in scores.items() if name != HEADLINE}
    alone = {name: _kept(span_scores, kept) for name, span_scores in words.items()}
    alone |= {name: columns for name, columns in rules.items() if name == RULE}
    for i, row in enumerate(rows):
        row |= {name: value for name, value in _at(headline, i).items() if name not in row}
        row["readouts"] = {name: _at(columns, i) | _span_at(scores[name], i) for name, columns in others.items()}
        row["baselines"] = {name: _at(columns, i) for name, columns in alone.items()}
    return rows


def _kept(scores: SpanScores, kept: Sequence[str] = KEPT_SCORES) -> Columns:
    columns = scores.columns()
    return {name: columns[name] for name in kept if name in columns}


def _at(columns: Columns, i: int) -> dict[str, float | None]:
    """One question's scores; None where a score has no value for it."""
    return {name: present(values[i]) for name, values in columns.items()}


def _span_at(scores: SpanScores, i: int) -> dict[str, list[int]]:
    """One question's predicted span, ``[start, end)`` in words."""
    return {"prediction": [int(scores.starts[i]), int(scores.ends[i]) + 1]}


def _best_loss(trained: Trained) -> float | None:
    if trained.finetuned:
        return min(epoch.validation_loss for epoch in trained.finetuned.epochs)
    return trained.probes.best("linear").validation_loss if trained.probes else None


def _minimal_pairs(session: Session, trained: Trained, questions: Questions) -> dict[str, Any] | None:
    """Scores on role-crossed pairs, by read-out. A pair is right only if both members are."""
    if questions.pairs is None:
        return None
    settings = session.spec.config.evaluate
    return {
        name: score_minimal_pairs(logits, questions.pairs, trained.max_answer_words).to_dict(
            n_boot=settings.bootstrap_draws, level=1 - settings.alpha
        )
        for name, logits in trained.pairs.items()
    }


def _finetuning(trained: Trained) -> dict[str, Any] | None:
    """The search for finetuning's settings; None where there was none."""
    search = trained.finetuned.search if trained.finetuned else None
    return {"search": search.to_dict()} if search else None


def _probes(
    session: Session,
    trained: Trained,
    reports: Mapping[str, Mapping[str, Any]],
    scores: Mapping[str, Mapping[str, SpanScores]],
    words: Mapping[str, Mapping[str, SpanScores]],
    questions: Questions,
) -> dict[str, Any] | None:
    """Fits of every family and layer, the scored read-outs with their intervals, and what the states add to words."""
    if trained.probes is None:
        return None
    readouts = {
        name: {
            "family": fit.family,
            "layer": fit.layer,
            "n_trainable": fit.n_trainable,
            "remarks": list(fit.remarks),
            "validation": reports["validation"][name]["scores"],
            "test": reports["test"][name]["scores"],
        }
        for name, fit in named_fits(trained.probes).items()
    }
    conditional = {
        name: {
            **{key: getattr(fit, key) for key in ("family", "layer", "scorer", "facts")},
            "validation": reports["validation"][name]["scores"],
            "test": reports["test"][name]["scores"],
            "gain": None if fit.scorer is None else _gain(session, name, fit.scorer, scores, words, questions),
        }
        for name, fit in (trained.conditional or {}).items()
    }
    return {
        "headline_layer": trained.headline_layer,
        "readouts": readouts,
        "fits": [fit.summary() for fit in trained.probes.fits],
        "without_states": {"validation_loss": _loss_without_states(session, trained, questions)},
        **({"conditional": conditional} if conditional else {}),
        **({"validity": plain(trained.validity)} if trained.validity else {}),
    }


def _loss_without_states(session: Session, trained: Trained, questions: Questions) -> float:
    """Validation loss of a probe that sees nothing, so that every word is as likely as any other, nats per question."""
    logits = trained.logits["validation"][HEADLINE]
    nothing = replace(logits, start=np.zeros_like(logits.start), end=np.zeros_like(logits.end))
    train_gold = session.spec.config.probe.train_gold
    return quick_scores(nothing, gold_spans(questions.validation), trained.max_answer_words, train_gold).loss


def _gain(
    session: Session,
    name: str,
    scorer: str,
    scores: Mapping[str, Mapping[str, SpanScores]],
    words: Mapping[str, Mapping[str, SpanScores]],
    questions: Questions,
) -> dict[str, Any]:
    """Test score of scorer and states together minus the scorer's alone, question by question, with intervals."""
    together, alone = _kept(scores["test"][name]), _kept(words["test"][words_name(scorer)])
    differences = {key: together[key] - alone[key] for key in together}
    return plain(mean_estimates(differences, questions.test, session.spec.config.evaluate))


def _timings(session: Session) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds by phase over all attempts, and tokens (or questions) per second, from ``timings.jsonl``."""
    seconds: dict[str, float] = {}
    rates: dict[str, float] = {}
    for line in session.run.read_timings():
        if line["kind"] == "pretrain_end":
            seconds["pretrain"], rates["pretrain"] = line["seconds"], line["tokens_per_second"]
        elif line["kind"] == "finetune_epoch":
            seconds["finetune"] = line["seconds"]
        elif line["kind"] == "finetune_search":  # each line has the sum so far
            seconds["finetune_search"] = line["seconds"]
        elif line["kind"] == "states":
            seconds["states"] = seconds.get("states", 0.0) + line["seconds"]
            rates["states"] = line["tokens_per_second"]
        elif line["kind"] in ("probe", "probe_conditional", "probe_validity"):
            seconds[line["kind"]] = seconds.get(line["kind"], 0.0) + line["seconds"]
    return seconds, rates
