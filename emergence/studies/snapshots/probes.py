"""The frozen probe of every pretraining snapshot of one run: the dense emergence curve that four sizes cannot give.

Questions and held-out text are encoded once. For each snapshot the loss on held-out text is measured, every family is
fitted at every layer, and test questions are scored at the layer that validation chose. A finished snapshot is a sealed
file under ``cells``. So the same call after an interruption goes on with the next one and ends with the same bits. No
probe starts from that of the snapshot before: L-BFGS stops within a tolerance of the optimum, and where it stops must
not depend on other snapshots.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from emergence.answering.conditional import measure_conditional
from emergence.answering.evaluate import baseline_scores, score_logits
from emergence.answering.probe import ProbeReport, predict_probes, probe_all_layers
from emergence.data.roles import asked_role
from emergence.experiment.facts import dig
from emergence.experiment.result import load_result
from emergence.experiment.store import RunDirectory
from emergence.files import content_digest
from emergence.measures.measured_coverage import units_of
from emergence.measures.resampling import ClusterTable
from emergence.model import Trunk
from emergence.model.embedding_rows import redraw_unseen
from emergence.plain import plain
from emergence.spec.experiment import pretrain_label
from emergence.spec.model_size import count_parameters
from emergence.studies.snapshots.inputs import TrunkToProbe, Work, prepare, timeline_of, trunks_to_probe
from emergence.studies.snapshots.options import SnapshotOptions
from emergence.studies.snapshots.result import FILES, GAIN, SCORES, TRAINED, ProbedSnapshot, SnapshotProbes, summarise
from emergence.studies.study import Cell, SealedStudy
from emergence.studies.trunks import has_other_questions
from emergence.training.language_model_eval import evaluate_language_model
from emergence.training.recording import NoProgress, Progress


def probe_snapshots(
    run_dir: Path,
    options: SnapshotOptions = SnapshotOptions(),
    *,
    out_dir: Path | None = None,
    progress: Progress = NoProgress(),
    should_stop: Callable[[], bool] = lambda: False,
) -> SnapshotProbes:
    """Probe every pretraining snapshot of a finished run, and write the result to ``out_dir``.

    Args:
        run_dir: The run that pretrained.
        options: What is probed, and how.
        out_dir: Where results go; by default ``analysis/snapshot_probes`` in ``run_dir``.
        progress: A bar for people. It counts fitted probes.
        should_stop: A function that is asked after every fit.

    Raises:
        UsageError: The run is not finished, kept no snapshots, or was made of another text.
        DataError: Questions or text cannot be found.
        StopRequested: ``should_stop`` was true. The same call goes on.
    """
    work = prepare(timeline_of(RunDirectory.open(run_dir)), options)
    work = dataclasses.replace(work, context=dataclasses.replace(work.context, should_stop=should_stop))
    return SnapshotStudy(work).run(out_dir or run_dir / FILES.folder, progress, should_stop)


# Probing ------------------------------------------------------------------------------------------


class SnapshotStudy(SealedStudy[ProbedSnapshot, SnapshotProbes]):
    """A cell is a probed trunk."""

    files = FILES
    noun = "snapshot"
    steps = "probes"

    def __init__(self, work: Work) -> None:
        self._work, self._trunks = work, trunks_to_probe(work)

    def cells(self, folder: Path) -> list[Cell[ProbedSnapshot]]:
        settings, steps = content_digest(self._work.settings), len(self._work.families) * len(self._work.layers)
        return [
            Cell(
                trunk.name,
                content_digest([settings, trunk.kind, trunk.step, trunk.weights])[:24],
                partial(_probe, self._work, trunk),
                steps,
            )
            for trunk in self._trunks
        ]

    def restore(self, content: dict[str, Any]) -> ProbedSnapshot:
        return ProbedSnapshot.from_dict(content)

    def result(self, made: Sequence[ProbedSnapshot]) -> SnapshotProbes:
        # Trunks that share a cell may differ in name, so the name is not taken from the cell.
        named = [dataclasses.replace(cell, name=trunk.name) for cell, trunk in zip(made, self._trunks, strict=True)]
        return _result(self._work, named)


def _probe(work: Work, asked: TrunkToProbe, progress: Progress) -> ProbedSnapshot:
    trunk = asked.build().to(work.context.device).eval().requires_grad_(False)
    config, context = work.spec.config, work.context
    length, chunk = trunk.config.sequence_length, config.pretrain.loss_chunk_rows
    tokens = work.options.loss_tokens or None
    loss = evaluate_language_model(trunk, work.text, length, context, chunk, max_tokens=tokens)
    if asked.kind == TRAINED:  # as a run does that probes the trunk; after the loss, which depends on the old rows
        redraw_unseen(trunk, torch.from_numpy(work.token_counts), work.spec.seed)
    report = probe_all_layers(
        trunk,
        work.questions.train,
        work.questions.validation,
        config.probe,
        dataclasses.replace(context, progress=progress),
        seed=work.spec.seed,
        max_answer_words=work.max_answer_words,
        families=work.families,
        layers=work.layers,
    )
    test = work.questions.test
    chosen = [report.best(family) for family in work.families]
    logits = predict_probes(trunk, chosen, test, context)
    columns = [score_logits(each, test, work.max_answer_words).columns() for each in logits]
    probes = {family: _fit_facts(report, family) for family in work.families}
    scores = {f: {score: of[score] for score in SCORES} for f, of in zip(work.families, columns, strict=True)}
    for family, (facts, gains) in _gains(work, trunk, report).items():
        probes[family], scores[family] = facts, gains
    return ProbedSnapshot(
        name=asked.name,
        kind=asked.kind,
        step=asked.step,
        tokens=asked.tokens,
        weights=asked.weights,
        loss=plain(loss),
        probes=probes,
        scores=scores,
    )


def _gains(
    work: Work, trunk: Trunk, report: ProbeReport
) -> dict[str, tuple[dict[str, Any], dict[str, npt.NDArray[np.float64]]]]:
    """What the states add to words and positions: family -> facts of the fit, and score -> (N,) differences."""
    questions = work.questions
    fits = measure_conditional(
        trunk,
        report,
        (questions.train, questions.validation, questions.test),
        {work.words.variant: work.words},
        work.spec.config.probe,
        dataclasses.replace(work.context, progress=NoProgress()),
        seed=work.spec.seed,
        max_answer_words=work.max_answer_words,
        main=work.words.variant,
        control=False,
    )
    gains = {}
    for fit in fits.values():
        together = score_logits(fit.test, questions.test, work.max_answer_words).columns()
        facts = {"layer": fit.layer, **{key: fit.facts[key] for key in _FACTS if key != "layer"}}
        facts["validation_f1_by_layer"] = {str(fit.layer): fit.facts["validation_f1"]}
        gains[GAIN + fit.family] = facts, {score: together[score] - work.words_alone[score] for score in SCORES}
    return gains


#: Facts of a chosen fit that are kept for every snapshot.
_FACTS = ("layer", "n_trainable", "ridge", "iterations", "converged", "validation_loss", "validation_f1")


def _fit_facts(report: ProbeReport, family: str) -> dict[str, Any]:
    best = report.best(family)
    by_layer = {str(fit.layer): fit.validation_f1 for fit in report.of(family)}
    return {**{key: getattr(best, key) for key in _FACTS}, "validation_f1_by_layer": by_layer}


# The result ---------------------------------------------------------------------------------------


def _result(work: Work, snapshots: Sequence[ProbedSnapshot]) -> SnapshotProbes:
    test, evaluation = work.questions.test, work.spec.config.evaluate
    clusters = np.asarray(test.clusters)
    summary = summarise(snapshots, clusters, n_boot=evaluation.bootstrap_draws, level=1 - evaluation.alpha)
    return SnapshotProbes(
        run=_run_facts(work),
        settings=work.settings,
        notes=tuple(_notes(work, snapshots)),
        ids=tuple(example.id for example in test.examples),
        clusters=clusters,
        no_model=_no_model(work),
        snapshots=tuple(snapshots),
        roles=tuple(asked_role(example) for example in test.examples),
        **summary,
    )


def _run_facts(work: Work) -> dict[str, Any]:
    run, timeline = work.timeline.run, work.timeline
    counts = count_parameters(timeline.model, timeline.vocab_rows)
    pretraining = dataclasses.replace(run.spec, seed=0).pretrain_id
    series = content_digest([pretraining, {k: v for k, v in work.settings.items() if k != "seed"}])
    return {
        "run_id": run.run_id,
        "config_name": run.spec.config.name,
        "pretrain_data": run.spec.pretrain_data,
        "text": pretrain_label(run.spec),
        "seed": run.spec.seed,
        "pretrain_id": run.spec.pretrain_id,
        "series": series,
        "n_params_total": counts.total,
        "n_params_non_embedding": counts.non_embedding,
        "init": timeline.model.init,
        "whole_test_text": dig(load_result(run.stats_path).pretraining, "test"),
    }


def _no_model(work: Work) -> dict[str, Any]:
    test = work.questions.test
    rules = baseline_scores(test, work.questions.all_train, work.max_answer_words)
    means = {
        rule: ClusterTable.from_questions(columns, test.clusters).row_means().tolist()
        for rule, columns in rules.items()
    }
    rule = max(means, key=lambda name: means[name][0])
    words = float(work.words_alone["f1_tokens"].mean())
    return {"rule": rule, **dict(zip(rules[rule], means[rule], strict=True)), "words_f1_tokens": words}


def _notes(work: Work, snapshots: Sequence[ProbedSnapshot]) -> list[str]:
    settings, test = work.settings, work.questions.test
    notes = [f"test questions of {units_of(len(set(test.clusters.tolist())), len(set(test.documents.tolist())))}"]
    used, available = settings["train_questions"], settings["train_questions_available"]
    if used < available:
        notes.append(
            f"probes are trained on {used:,} of {available:,} questions (seed {work.spec.seed}; "
            "--finetune-samples 0 for all)"
        )
    limit = work.options.loss_tokens
    if 0 < limit < work.text.n_tokens:
        notes.append(
            f"loss on {snapshots[0].loss['n_tokens']:,} of {work.text.n_tokens:,} tokens of the test text, the same "
            "for every snapshot"
        )
    else:
        notes.append("loss on the whole test text")
    if snapshots[0].name == "initial":
        notes.append("no snapshot of step 0 was kept: its trunk was drawn again from the run's seed")
    if work.timeline.model.init == "zero_residual":
        notes.append("before the first step the blocks are the identity (zero_residual), so the floor is random_*")
    if has_other_questions(work.timeline.run, settings["questions"]):
        notes.append("the questions are not those of the run")
    poor = [s.name for s in snapshots if not all(fit["converged"] for fit in s.probes.values())]
    if poor:
        notes.append(f"a chosen probe was stopped before it met its tolerance: {', '.join(poor)}")
    return notes
