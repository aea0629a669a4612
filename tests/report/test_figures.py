"""Figures from planted runs: every file there, the data equal to what went in, everything left out named."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path

import pytest

from emergence.errors import DataError
from emergence.experiment.result import load_result
from emergence.experiment.store import RunStore
from emergence.findings.folder import read_folder
from emergence.findings.table import build_table
from emergence.findings.two_by_two import RunScores, build_grid
from emergence.measures.emergence_score import CELLS
from emergence.report.charts.chart import Charts, all_charts
from emergence.report.charts.drawing import FORMATS, save
from emergence.report.figures import make_figures
from emergence.spec.config import load_config
from emergence.spec.model_size import count_parameters
from emergence.studies.cka.result import FILES
from tests.command_lines import typed
from tests.planted_runs import F1, fake_cka, fake_run, fake_spec, write_guide_file

BOOT = 100


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sizes with their 2x2, a second seed, few-shot runs and a temporal CKA."""
    root = tmp_path_factory.mktemp("results")
    for size, better in (("debug", 0.0), ("tiny", 0.1)):
        for condition in F1:
            run = fake_run(root, size, condition, better=better)
            if (size, condition) == ("debug", "full"):
                fake_cka(run, against=run)
    fake_run(root, "tiny", "full", seed=1, better=0.1)
    for n in (10, 100):
        for seed in (0, 1):
            fake_run(root, "tiny", "full", finetune_samples=n, seed=seed, better=-0.3)
    return root


def prepared(root: Path) -> Charts:
    return all_charts(read_folder(root, n_boot=BOOT), n_boot=BOOT)


@pytest.fixture(scope="module")
def charts(world: Path) -> Charts:
    return prepared(world)


def rows_of(charts: Charts, name: str) -> list[dict]:
    return [row for chart in charts.charts if chart.name.startswith(name) for row in chart.rows]


def reasons(charts: Charts) -> str:
    return "\n".join(f"{name}: {reason}" for name, reason in [*charts.skipped, *charts.notes])


# Files -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_figure_in_every_format_with_its_data(charts: Charts, tmp_path: Path) -> None:
    kinds = {chart.kind: chart for chart in charts.charts}  # drift and heatmaps are two, of one name
    assert sorted(kind.name for kind in kinds) == [
        *("cka", "cka", "emergence_by_scale", "few_shot", "finetuning"),
        *("pretraining_loss", "probing_layers", "roles", "two_by_two"),
    ]
    magic = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
    for chart in kinds.values():
        save(chart, tmp_path)
        for ending in FORMATS:
            content = (tmp_path / f"{chart.name}.{ending}").read_bytes()
            assert content.startswith(magic[ending]) and len(content) > 8_000, (chart.name, ending)
        with (tmp_path / f"{chart.name}.csv").open() as table:
            read = list(csv.DictReader(table))
        assert len(read) == len(chart.rows)
        key = next(k for k in ("f1", "loss", "score", "cka", "validation_f1") if k in chart.rows[0])
        for line, row in zip(read, chart.rows, strict=True):
            assert line[key] == ("" if row[key] != row[key] else repr(row[key])) and chart.caption


def test_drawn_twice_is_the_same_to_the_byte(charts: Charts, tmp_path: Path) -> None:
    chart = next(chart for chart in charts.charts if chart.name == "two_by_two")
    for again in ("a", "b"):
        (tmp_path / again).mkdir()
        save(chart, tmp_path / again)
    for ending in (*FORMATS, "csv"):
        first, second = ((tmp_path / again / f"{chart.name}.{ending}").read_bytes() for again in "ab")
        assert first == second, ending


@pytest.mark.slow
def test_the_report_of_one_run(world: Path, tmp_path: Path) -> None:
    run = next(run for run in RunStore(world).runs() if run.spec.condition == "random-frozen")
    copy = shutil.copytree(run.path, tmp_path / "renamed_copy")
    done = make_figures(copy, tmp_path / "out", n_boot=BOOT)
    assert set(done.drawn) == {"two_by_two", "probing_layers", f"roles_{run.spec.config.name}_none"}
    text = done.text()
    assert "skipped  pretraining_loss: no run here pretrained a trunk" in text and "3 figures in" in text
    assert "Probes by layer" in (tmp_path / "out" / "captions.md").read_text()


def test_the_guides_twelve_renamed_results_give_emergence_against_scale(tmp_path: Path) -> None:
    """Its step 2 and step 8: sizes times full, frozen and random, in files that hold neither counts nor losses."""
    for i, size in enumerate(("tiny", "small", "base", "medium")):
        write_guide_file(tmp_path / f"{size}_full.json", 0.4 + 0.1 * i, config_name=size)
        write_guide_file(tmp_path / f"{size}_frozen.json", 0.2 + 0.12 * i, frozen=True, config_name=size)
        write_guide_file(tmp_path / f"{size}_random.json", 0.15 + 0.02 * i, random=True, config_name=size)
    done = typed("scripts/generate_figures.py", "--results-dir", f"{tmp_path}/")
    assert done.code == 0 and "drawn    emergence_by_scale" in done.out
    assert "takes two sizes" not in done.out and "no run here" not in done.out  # what nobody can tell is not said
    assert "skipped  finetuning: results files hold no history of training: emergence pull RUN" in done.out
    charts = prepared(tmp_path)
    rows = rows_of(charts, "emergence_by_scale")
    assert [round(row["score"], 2) for row in rows] == [0.2, 0.45, 0.61, 0.71]
    assert [row["floor"] for row in rows] == ["random_full"] * 4 and all(math.isnan(row["lo"]) for row in rows)
    sizes = [row["non_embedding"] for row in rows]
    assert sizes == [count_parameters(load_config(row["setting"]).model, 0).non_embedding for row in rows]
    (chart,) = (chart for chart in charts.charts if chart.kind.name == "emergence_by_scale")
    assert "Without intervals" in chart.caption and "each size is placed at its configuration's" in chart.caption


def test_nothing_to_draw_is_said_by_script_and_command(tmp_path: Path) -> None:
    for command in (("scripts/generate_figures.py", "--results-dir"), ("emergence", "figures")):
        there = typed(*command, str(tmp_path))
        assert there.code == 2 and "no runs or results here" in there.err and list(tmp_path.iterdir()) == []
        missing = typed(*command, "nowhere")
        assert missing.code == 2 and missing.err.startswith("error: nowhere: no such folder")


def test_no_folder() -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_folder(Path("nowhere"))


# Data --------------------------------------------------------------------------------------------


def test_the_2x2_is_the_grids(world: Path, charts: Charts) -> None:
    runs = [RunScores.load(r) for r in RunStore(world).runs() if r.spec.config.name == "tiny"]
    grid = build_grid([r for r in runs if r.run.spec.finetune_samples is None], n_boot=BOOT)
    for cell, estimate in grid.analysis.cells.items():
        (row,) = [r for r in rows_of(charts, "two_by_two") if (r["setting"], r["cell"]) == ("tiny, microworld", cell)]
        assert (row["f1"], row["lo"], row["hi"], row["n_seeds"]) == (
            *(estimate.point, estimate.lo, estimate.hi),
            2 if cell == "full" else 1,
        )
    scores = {r["floor"]: r for r in rows_of(charts, "emergence_by_scale") if r["setting"] == "tiny"}
    assert grid.analysis.probe and scores["random_frozen"]["score"] == pytest.approx(
        grid.analysis.probe.score.point, nan_ok=True
    )
    assert scores["random_frozen"]["pretraining_loss"] == pytest.approx(3.9)


def test_curves_are_the_histories(world: Path, charts: Charts) -> None:
    (run,) = [r for r in RunStore(world).runs() if r.spec.config.name == "debug" and r.spec.condition == "full"]
    history = run.read_history()
    pretraining = [r for r in rows_of(charts, "pretraining_loss") if r["run"] == run.run_id]
    assert [(r["tokens"], r["loss"]) for r in pretraining if r["split"] == "validation"] == [
        (line["tokens"], line["validation_loss"]) for line in history if line["kind"] == "pretrain_evaluation"
    ]
    # Few-shot runs with the same pretraining are named, not drawn again.
    assert "the same as that of TinyQA" in reasons(charts)
    assert {r["run"] for r in rows_of(charts, "finetuning")}.isdisjoint(
        r.run_id for r in RunStore(world).runs() if r.spec.finetune_samples
    )


def test_few_shot_counts_and_roles(charts: Charts) -> None:
    few = rows_of(charts, "few_shot")
    assert {r["setting"] for r in few} == {"tiny, microworld"} and {r["samples"] for r in few} == {10, 100, 4_800}
    roles = [r for r in rows_of(charts, "roles_tiny") if r["by"] == "role" and r["cell"] == "full"]
    assert [r["group"] for r in roles] == ["what", "who", "where", "when", "how"]
    assert roles[0]["n_questions"] == 40 and roles[-1]["n_seeds"] == 2
    voices = [r for r in rows_of(charts, "roles_tiny") if r["by"] == "voice" and r["cell"] == "frozen"]
    assert sum(r["n_questions"] for r in voices) == sum(r["n_questions"] for r in roles)


def test_roles_are_asked_roles_where_every_prediction_has_one(tmp_path: Path) -> None:
    fake_run(tmp_path / "old", "tiny")
    fake_run(tmp_path / "new", "tiny", asked_roles=True)
    old = rows_of(prepared(tmp_path / "old"), "roles_tiny")
    charts = prepared(tmp_path / "new")
    new = rows_of(charts, "roles_tiny")
    assert {r["by"] for r in old} == {"role", "voice"} and {r["by"] for r in new} == {"asked_role", "voice"}
    assert {r["group"] for r in new if r["by"] == "asked_role"} == {"patient", "agent", "other"}
    (caption,) = [chart.caption for chart in charts.charts if chart.name.startswith("roles_tiny")]
    assert "role that the question asks for" in caption


def test_probes_are_the_fits(world: Path, charts: Charts) -> None:
    (run,) = [r for r in RunStore(world).runs() if r.run_id.startswith("DebugQA") and r.spec.condition == "frozen"]
    fits = (load_result(run.stats_path).probes or {})["fits"]
    mine = [
        r for r in rows_of(charts, "probing_layers") if (r["setting"], r["cell"]) == ("debug, microworld", "frozen")
    ]
    assert [(r["family"], r["layer"], r["validation_f1"]) for r in mine] == [
        (f["family"], f["layer"], f["validation_f1"]) for f in fits
    ]


def test_cka_is_the_analysis(charts: Charts) -> None:
    drift = rows_of(charts, "cka_drift")
    at_start = [r for r in drift if r["checkpoint"] == "pretrained"]
    assert all(r["cka"] == 1.0 for r in at_start) and {r["view"] for r in drift} == {"sentence/raw", "predicate/raw"}
    assert {r["untrained"] for r in drift if r["view"] == "sentence/raw"} == {0.25}
    panels = {r["panel"] for r in rows_of(charts, "cka_heatmaps")}
    assert panels == {"start", "step 1 to start", "start to epoch 3", "epoch 3"}
    assert {r["panel"] for r in rows_of(charts, "cka_against")} == {"where both began", "where both ended"}


# What cannot be drawn ----------------------------------------------------------------------------


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    unfinished = fake_run(tmp_path, "debug", "full", finished=False)
    damaged = fake_run(tmp_path, "debug", "frozen")
    predictions = damaged.path / "predictions.jsonl"
    predictions.write_text(predictions.read_text().replace("1.0", "0.0"))
    guide = {"config_name": "base", "final_validation_f1": 0.5, "freeze_llm": False, "random_baseline": False}
    (tmp_path / "base_full.json").write_text(json.dumps(guide))
    (tmp_path / "again.json").write_text(json.dumps(guide))
    (tmp_path / "foreign.json").write_text('{"name": "something else"}')
    (tmp_path / "nan.json").write_text(json.dumps({**guide, "final_validation_f1": float("nan")}))
    shutil.copy(damaged.stats_path, tmp_path / "copy.json")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "spec.json").write_text("{")
    found = prepared(tmp_path)
    told = reasons(found)
    for words in (
        f"{unfinished.run_id}: not finished",
        f"debug, microworld: {damaged.run_id}: predictions.jsonl",
        "foreign.json: not a results file",
        "nan.json: ",
        "broken: ",
        f"copy.json: the same run as {damaged.run_id}",
        "base_full.json: the same run as again.json",
        "emergence_by_scale: it takes two sizes",
        "cka: no run was analysed",
    ):
        assert words in told, told
    assert {chart.name for chart in found.charts} >= {"pretraining_loss", "validation_f1", "two_by_two"}
    assert {name for name, _ in found.notes} == {"debug, microworld", "base"}, "what a set lacks skips no figure"
    assert "note     debug, microworld: " in make_figures(tmp_path, tmp_path / "out", n_boot=BOOT).text()


def test_figures_keep_apart_what_the_table_keeps_apart(tmp_path: Path) -> None:
    """Pretraining data by the trunk's lineage; other tokenizers are another set; random trunks serve all they fit."""
    fake_run(tmp_path, "debug", "full", pretrain_data="wiki+nq")
    for condition in F1:
        fake_run(tmp_path, "debug", condition)
    other = RunStore(tmp_path).create(fake_spec("debug", "frozen", seed=5))
    other.record_data({"tokenizer": "another", "text": "x", "questions": "q"})
    frozen = next(r for r in RunStore(tmp_path).runs() if r.is_finished and r.spec.condition == "frozen")
    result = load_result(frozen.stats_path)
    other.write_predictions(frozen.read_predictions())
    ours = {"data": other.read_data(), "run_id": other.run_id, "experiment_id": other.experiment_id, "seed": 5}
    other.write_stats({**result.to_dict(), **ours, "spec": other.spec.to_dict()})
    folder = read_folder(tmp_path, n_boot=BOOT)
    drawn = {(r["setting"], r["cell"]) for r in rows_of(prepared(tmp_path), "two_by_two") if r["cell"] in CELLS}
    table = build_table(tmp_path, n_boot=BOOT)
    assert drawn == {(found.comparable.label, cell) for found in table.sets for cell in found.comparable.cells}
    sizes = sorted(len(found.comparable.results()) for found in folder.settings)
    assert sizes == [1, 3, 4] and len(folder.grouping.mixed) == 1
    assert "differ in tokenizer" in reasons(prepared(tmp_path))


def test_damaged_cka(tmp_path: Path) -> None:
    run = fake_run(tmp_path, "debug", "full")
    fake_cka(run)
    (run.path / FILES.folder / "temporal_cka.npz").write_bytes(b"")
    assert "run the analysis again" in reasons(prepared(tmp_path))
