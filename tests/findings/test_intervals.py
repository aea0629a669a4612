"""Intervals of a folder of results: pooled over sizes within a cell, by sentence or by document, and what is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from emergence.cli import app
from emergence.experiment.facts import Scores
from emergence.experiment.result import RunResult
from emergence.findings.collect import Found, collect_results
from emergence.findings.comparable import Grouping, group_results, peers_of
from emergence.findings.folder import read_folder
from emergence.findings.scores import SUMMARY, SetScores, score_sets
from emergence.findings.table import build_table
from emergence.findings.two_by_two import RunScores, build_grid, format_grid, runs_by_cell
from emergence.report.charts.chart import all_charts
from emergence.report.table_formats import format_table
from emergence.report.terminal import counts_of, evaluation_notes
from emergence.spec.config import load_config
from tests.planted_runs import write_grid, write_run

PLANTED = {"full": 0.6, "frozen": 0.4, "random_full": 0.3, "random_frozen": 0.2}
SPREAD = (-0.02, 0.0, 0.03)


def write_seeds(root: Path, size: str, *, seeds: int = 3, spread: float = 1.0, **flags: object) -> None:
    for seed, off in enumerate(SPREAD[:seeds]):
        cells = {cell: f1 + spread * off * (1 + k) for k, (cell, f1) in enumerate(PLANTED.items())}
        write_grid(root, cells, config_name=size, seed=seed, text="text A", **flags)


def group(root: Path) -> Grouping:
    return group_results(collect_results(root))


def scored(root: Path, **options: object) -> dict[str, SetScores]:
    return {s.comparable.base.size: s for s in score_sets(group(root), n_boot=200, **options)}  # type: ignore[arg-type]


def peers_of_tiny(root: Path) -> list[dict[str, tuple[Found, ...]]]:
    grouping = group(root)
    return peers_of(next(s for s in grouping.sets if s.base.size == "tiny"), grouping)


def test_seeds_are_pooled_within_a_cell_over_sizes(tmp_path: Path) -> None:
    write_seeds(tmp_path, "tiny", spread=2.0)
    alone = scored(tmp_path)["tiny"].headline
    write_seeds(tmp_path, "small")  # its own learning rate by default: no change to its settings
    pooled = scored(tmp_path)
    for cell, estimate in pooled["tiny"].headline.f1.items():
        before = alone.f1[cell]
        assert "seed_variance_pooled" in estimate.flags and "seed_variance_pooled" not in before.flags
        assert estimate.point == before.point and estimate.df > 1.5 * before.df and estimate.se < before.se
    assert pooled["tiny"].headline.probe and "seed_variance_pooled" in pooled["tiny"].headline.probe.flags
    note = next(note for note in pooled["small"].notes if note.startswith("variance over seeds pooled"))
    assert note.endswith("full 4, frozen 4, random full 4, random frozen 4")
    assert "seed_variance_pooled" in format_table(build_table(tmp_path, n_boot=200), "json")


def test_stats_alone_are_pooled_too(tmp_path: Path) -> None:
    for size in ("tiny", "small"):
        write_seeds(tmp_path, size, predictions=False)
    found = scored(tmp_path)["tiny"].headline
    assert found.basis == SUMMARY and "seed_variance_pooled" in found.f1["full"].flags
    assert "seed_variance_pooled" in found.em["frozen"].flags


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"sets": ("finetune.lr=0.005", "probe.epochs=7")}, "settings changed at one size alone"),
        ({"seeds": 1}, "one seed has no spread"),
        ({"text": "text B"}, "another pretraining text"),
        ({"questions": "questions B"}, "other test questions"),
    ],
)
def test_what_does_not_pool(tmp_path: Path, other: dict[str, object], why: str) -> None:
    write_seeds(tmp_path, "tiny")
    options: dict[str, object] = {"text": "text A", **other}
    for seed in range(int(options.pop("seeds", 3))):  # type: ignore[call-overload]
        write_grid(tmp_path, PLANTED, config_name="small", seed=seed, **options)
    assert peers_of_tiny(tmp_path) == [], why
    assert "seed_variance_pooled" not in scored(tmp_path)["tiny"].headline.f1["full"].flags


def test_a_cell_with_the_same_change_at_both_sizes_pools_alone(tmp_path: Path) -> None:
    write_seeds(tmp_path, "tiny", sets=("probe.epochs=7",))
    write_seeds(tmp_path, "small", sets=("probe.epochs=7", "finetune.lr=0.005"))
    (peer,) = peers_of_tiny(tmp_path)
    assert set(peer) == {"frozen", "random_frozen"}


def test_two_seeds_are_warned_about(tmp_path: Path) -> None:
    write_seeds(tmp_path, "tiny", seeds=2)
    table = build_table(tmp_path, n_boot=200)
    assert any("2 seeds (full, frozen, random full, random frozen), 40 sentences" in note for note in table.notes())
    assert "of a nominal 95% interval" in format_table(table, "markdown")


def _grid_runs(root: Path, documents: int | None) -> list[RunScores]:
    return [RunScores.load(run) for run in write_grid(root, PLANTED, documents=documents).values()]


def test_three_counts_and_what_documents_do_to_the_interval(tmp_path: Path) -> None:
    runs = _grid_runs(tmp_path, 4)
    by_sentence, by_document = (build_grid(runs, n_boot=300, cluster=kind) for kind in ("sentence", "document"))
    assert (by_sentence.n_questions, by_sentence.n_sentences, by_sentence.n_documents) == (120, 40, 4)
    assert by_sentence.analysis.cells["full"].n_clusters == 40 and by_document.analysis.cells["full"].n_clusters == 4
    assert by_document.analysis.cells["full"].df == pytest.approx(3)
    assert set(by_sentence.document_widening) == {"score", "F1"}
    ratio = by_document.analysis.cells["frozen"].se / by_sentence.analysis.cells["frozen"].se
    assert by_sentence.document_widening["F1"] == pytest.approx(ratio, rel=0.1)
    assert by_document.cluster == "document" and by_document.to_dict()["n_documents"] == 4
    text = format_grid(by_sentence)
    assert "120 test questions (40 sentences, 4 documents)" in text and "by documents (4) the standard error" in text
    json.dumps(by_document.to_dict(), allow_nan=False)


def test_older_predictions_do_not_tell_the_documents(tmp_path: Path) -> None:
    grid = build_grid(_grid_runs(tmp_path, None), n_boot=200, cluster="document")
    assert grid.cluster == "sentence" and grid.n_documents is None and grid.document_widening == {}
    assert "documents unknown" in format_grid(grid)
    notes = scored(tmp_path, cluster="document")["debug"].notes
    assert "predictions do not tell the documents: sentences are resampled" in notes


def test_without_a_score_it_is_the_gap_whose_error_is_compared(tmp_path: Path) -> None:
    cells = {cell: PLANTED[cell] for cell in ("full", "frozen")}
    runs = [RunScores.load(run) for run in write_grid(tmp_path, cells, documents=8).values()]
    grid = build_grid(runs, n_boot=200)
    assert set(grid.document_widening) == {"gap", "F1"}
    assert np.isfinite(list(grid.document_widening.values())).all()


def test_the_table_resamples_documents_for_f1_and_em(tmp_path: Path) -> None:
    write_grid(tmp_path, PLANTED, documents=8)
    by_sentence, by_document = (build_table(tmp_path, n_boot=200, cluster=kind) for kind in ("sentence", "document"))
    for name in ("test_f1", "test_em"):
        clusters = [getattr(table.rows[0], name).n_clusters for table in (by_sentence, by_document)]
        assert clusters == [40, 8]
    assert any("120 questions, 40 sentences, 8 documents" in note for note in by_document.notes())
    told = CliRunner().invoke(app, ["table", str(tmp_path), "--cluster", "document"])
    assert told.exit_code == 0 and "documents are resampled" in told.stdout
    assert "intervals (documents, and seeds" in told.stdout
    assert "intervals (sentences, and seeds" in format_table(by_sentence, "markdown")
    assert ("Time: of training and probing" in told.stdout) == any(row.seconds is not None for row in by_sentence.rows)


@pytest.mark.parametrize("cells", [("frozen",), ("full", "frozen")])
def test_all_of_a_row_resamples_what_was_asked_for(tmp_path: Path, cells: tuple[str, ...]) -> None:
    """Whatever the runs resampled themselves, and where there is no 2x2 to be had."""
    write_grid(tmp_path, {cell: PLANTED[cell] for cell in cells}, documents=8)
    for kind, clusters in (("document", 8), ("sentence", 40)):
        rows = build_table(tmp_path, n_boot=200, cluster=kind).rows  # type: ignore[arg-type]
        found = {getattr(row, name).n_clusters for row in rows for name in ("test_f1", "test_em") if getattr(row, name)}
        assert found == {clusters}


@pytest.mark.parametrize("cells", [("frozen",), tuple(PLANTED)])
def test_figures_and_tables_tell_documents_from_sentences(tmp_path: Path, cells: tuple[str, ...]) -> None:
    """With a paired 2x2 and without one."""
    write_grid(tmp_path, {cell: PLANTED[cell] for cell in cells}, documents=8)
    charts = all_charts(read_folder(tmp_path, n_boot=100, cluster="document"), n_boot=100).charts
    (chart,) = [chart for chart in charts if chart.name == "two_by_two"]
    assert "120 questions of 40 sentences, 8 documents" in chart.caption
    assert {(row["n_sentences"], row["n_documents"]) for row in chart.rows} == {(40, 8)}
    table = build_table(tmp_path, n_boot=100, cluster="document")
    assert "intervals (documents, and seeds" in format_table(table, "markdown")


def scores_of(stored: dict[str, Any]) -> Scores:
    guide = {"config_name": "tiny", "freeze_llm": True, "random_baseline": False, "final_validation_f1": 0.5}
    return replace(RunResult.from_dict(guide, "guide"), test_scores=stored).scores("test")


def test_a_run_ends_with_its_counts_and_what_documents_do() -> None:
    stored = {"n": 1043, "n_clusters": 184, "n_documents": 16, "cluster": "sentence", "document_widening": 1.31}
    scores = scores_of(stored)
    assert counts_of(scores) == "1,043 test questions, 184 sentences, 16 documents"
    (note,) = evaluation_notes(scores)
    assert "1.31 times (F1)" in note and "--cluster document" in note
    older = scores_of({"n": 1043, "n_clusters": 184})
    assert counts_of(older).endswith("documents unknown") and evaluation_notes(older) == []


def test_the_settings_of_a_run_choose_its_clusters() -> None:
    assert load_config("tiny").evaluate.cluster == "sentence"
    assert load_config("tiny", ("evaluate.cluster=document",)).evaluate.cluster == "document"


def test_stats_without_predictions_say_that_documents_were_not_resampled(tmp_path: Path) -> None:
    for cell, f1 in PLANTED.items():
        write_run(tmp_path, cell, f1, predictions=False)
    notes = scored(tmp_path, cluster="document")["debug"].notes
    assert any(note.endswith("they resample what their runs did, not documents") for note in notes)


def test_of_two_runs_of_one_cell_and_seed_one_is_used(tmp_path: Path) -> None:
    runs = _grid_runs(tmp_path, None)
    cells, left_out = runs_by_cell([*runs, runs[0]])
    assert sum(map(len, cells.values())) == len(runs)
    assert left_out == [f"{runs[0].run.run_id}: another run of the same cell and seed is used"]
