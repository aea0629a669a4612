"""The results table: the guide's columns and rows in four formats, and the commands that print it."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from emergence.errors import DataError
from emergence.files import content_digest
from emergence.findings.folder import read_folder
from emergence.findings.scale_curve import scale_curves
from emergence.findings.table import NOT_ONE_SERIES, ResultsTable, build_table, table_of
from emergence.findings.two_by_two import RunScores, build_grid, format_grid
from emergence.report.charts.chart import all_charts
from emergence.report.escaping import latex_escape
from emergence.report.table_formats import format_table, to_markdown
from tests.command_lines import typed
from tests.planted_runs import Added, spec_of, write_grid, write_guide_file, write_run

PLANTED = {"full": 0.6, "frozen": 0.4, "random_full": 0.3, "random_frozen": 0.2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sizes with all cells and a bilinear probe, one without random runs, and a foreign file."""
    root = tmp_path_factory.mktemp("results")
    write_grid(root, PLANTED, bilinear=0.45)
    write_grid(root, {**PLANTED, "frozen": 0.55}, config_name="tiny")
    write_grid(root, {"full": 0.5, "frozen": 0.3}, layout="echo")
    (root / "a_50%_{odd}_name.json").write_text("{}")
    return root


@pytest.fixture(scope="module")
def table(folder: Path) -> ResultsTable:
    return build_table(folder, n_boot=200)


def test_rows_are_the_guides_and_random_ones_compulsory(table: ResultsTable) -> None:
    modes = [(row.config_name, row.layout, row.mode, row.probe, row.was_run) for row in table.rows]
    cells = [("full", None), ("frozen", "linear"), ("random", None), ("random frozen", "linear")]
    with_bilinear = [*cells[:2], ("frozen", "bilinear"), *cells[2:], ("random frozen", "bilinear")]
    echo = [("debug", "echo", mode, probe, "random" not in mode) for mode, probe in cells]
    debug = [("debug", "question-first", mode, probe, True) for mode, probe in with_bilinear]
    tiny = [("tiny", "question-first", mode, probe, True) for mode, probe in cells]
    assert sorted(map(str, modes)) == sorted(map(str, echo + debug + tiny))
    assert {row.pretrain for row in table.rows if "random" in row.mode} == {"none"}


def test_scores_stand_in_frozen_rows_alone_each_against_its_own_floor(table: ResultsTable) -> None:
    for row in table.rows:
        assert (row.gap is not None) == (row.mode == "frozen")
    scores = {(row.config_name, row.layout, row.probe): row for row in table.rows if row.mode == "frozen"}
    linear, bilinear = (scores["debug", "question-first", probe] for probe in ("linear", "bilinear"))
    assert linear.score and linear.score.score.point == pytest.approx(0.5)
    assert linear.score_scratch and linear.score_scratch.score.point == pytest.approx(1 / 3)
    assert bilinear.score and bilinear.score.raw == pytest.approx(0)  # its own floor is as high
    assert scores["debug", "echo", "linear"].score is None
    assert (linear.trainable, bilinear.trainable, linear.seconds) == (130, 640, 3700.0)


def test_markdown_has_the_guides_columns_intervals_and_every_name_left_out(table: ResultsTable) -> None:
    text = to_markdown(table)
    lines = text.splitlines()
    columns = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert columns[:7] == ["Model", "Pretrain", "Mode", "F1 (test)", "EM (test)", "F1 (validation)", "EM (validation)"]
    assert {line.count("|") for line in lines[: len(table.rows) + 2]} == {len(columns) + 1}
    frozen = next(line for line in lines if line.startswith("| debug | wiki | frozen |"))
    assert "0.40 [" in frozen and "0.50 [" in frozen and "1 h 02 min" in frozen
    assert any("debug (echo)" in line and "not run" in line for line in lines)
    assert "a_50%\\_{odd}\\_name.json" in text and "not a results file" in text
    assert "--random-baseline --freeze-llm" in text


def test_latex_is_escaped_and_balanced(table: ResultsTable) -> None:
    text = format_table(table, "latex")
    body = [line for line in text.splitlines() if not line.startswith("%")]
    n_columns = body[0].count("l", body[0].index("}{"))
    rows = [line for line in body if line.endswith("\\\\")]
    assert len(rows) == len(table.rows) + 1
    assert {line.count("&") - line.count("\\&") for line in rows} == {n_columns - 1}
    assert latex_escape(r"50% of a_b & c$ #1 {x} ~ ^ \ <|>") == (
        r"50\% of a\_b \& c\$ \#1 \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{} "
        r"\textless{}\textbar{}\textgreater{}"
    )


def test_csv_has_one_number_a_column(table: ResultsTable) -> None:
    rows = list(csv.DictReader(io.StringIO(format_table(table, "csv"))))
    assert len(rows) == len(table.rows)
    frozen = next(r for r in rows if (r["config_name"], r["layout"], r["mode"]) == ("tiny", "question-first", "frozen"))
    assert float(frozen["test_f1_lo"]) < float(frozen["test_f1_point"]) < float(frozen["test_f1_hi"])
    assert float(frozen["score_point"]) == pytest.approx(0.875) and frozen["score_basis"] == "paired bootstrap"
    assert frozen["trainable"] == "130" and frozen["finetune_samples"] == ""
    missing = next(r for r in rows if r["was_run"] == "False")
    assert missing["test_f1_point"] == missing["score_point"] == ""


def test_json_is_strict_complete_and_not_taken_for_a_result(table: ResultsTable, folder: Path, tmp_path: Path) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    content = json.loads(format_table(table, "json"), parse_constant=refuse)
    assert len(content["rows"]) == len(table.rows) and content["skipped"][0]["kind"] == "foreign"
    assert content["sets"][0]["readouts"]["headline"]["grid"]["analysis"]["cells"]
    (tmp_path / "table.json").write_text(format_table(table, "json"))
    write_guide_file(tmp_path / "tiny_full.json", 0.5)
    assert not build_table(tmp_path).skipped


def test_the_same_folder_gives_the_same_text(table: ResultsTable, folder: Path) -> None:
    assert format_table(build_table(folder, n_boot=200), "json") == format_table(table, "json")


def test_guide_files_show_validation_points_and_say_so(tmp_path: Path) -> None:
    write_guide_file(tmp_path / "tiny_full.json", 0.25)
    write_guide_file(tmp_path / "tiny_frozen.json", 0.05, frozen=True)
    write_guide_file(tmp_path / "tiny_random.json", 0.0, random=True)
    text = to_markdown(build_table(tmp_path))
    assert "F1 (test)" not in text and "F1 (validation)" in text
    assert "| 0.20 (no interval) |" in text
    assert "per-question scores are not in this file" in text and "validation questions" in text


def test_a_score_that_means_nothing_is_a_reason_in_words_and_a_number_in_json(tmp_path: Path) -> None:
    write_grid(tmp_path, {"full": 0.2, "frozen": 0.2, "random_frozen": 0.3})
    text = to_markdown(build_table(tmp_path, n_boot=200))
    assert "not meaningful (full - floor -0.100 [" in text and "does not exceed this floor: -0.100 [" in text
    gate = r"\(full finetuning, 0\.20 \[[0-9., ]+\], does not clearly exceed the gate of 0\.20 \("
    assert re.search(rf"by the guide's scale: undetermined \(could be [a-z ]+\) {gate}", text)
    (row,) = (row for row in build_table(tmp_path, n_boot=200).to_dict()["rows"] if row["score"])
    assert row["score"]["raw"] == pytest.approx(1.0) and "headroom_small" in row["score"]["flags"]


def test_a_score_that_means_nothing_is_in_no_figure_no_curve_and_no_terminal(tmp_path: Path) -> None:
    cells = {"full": 0.70, "frozen": 0.5, "random_full": 0.67, "random_frozen": 0.3}
    for config_name in ("debug", "tiny"):
        runs = write_grid(tmp_path, cells, config_name=config_name)
    folder = read_folder(tmp_path, n_boot=200)
    charts = all_charts(folder, n_boot=200)
    (chart,) = (chart for chart in charts.charts if chart.kind.name == "emergence_by_scale")
    assert {row["floor"] for row in chart.rows} == {"random_frozen"}
    reasons = dict(charts.skipped)
    assert reasons["from-scratch score of debug, wiki"].startswith("not meaningful: full finetuning exceeds")
    (curve,) = scale_curves(folder.scored, n_draws=19)
    assert len(curve.points) == 2 and all(point.scratch is None for point in curve.points)
    text = format_grid(build_grid([RunScores.load(run) for run in runs.values()], n_boot=200))
    assert "emergence score     0.500 [" in text and "-6." not in text
    assert "from-scratch score  not meaningful: full finetuning exceeds this floor by only 0.030 [" in text
    assert "by the guide        partial" in text


def test_table_and_json_tell_the_verdict(tmp_path: Path) -> None:
    added = Added({"linear": (0.0, 0.0), "bilinear": (0.03, 0.06)})
    nothing = Added({"linear": (0.0, 0.0), "bilinear": (0.0, 0.0)})
    write_run(tmp_path, "frozen", 0.3, bilinear=0.5, added=added)
    write_run(tmp_path, "random_frozen", 0.2, bilinear=0.28, added=nothing)
    table = build_table(tmp_path, n_boot=200)
    assert "verdict: adds to words and positions, where: undetermined. For this trained model, " in to_markdown(table)
    assert table.to_dict()["sets"][0]["verdict"]["outcome"] == "adds to words and positions"
    assert "reads roles" not in to_markdown(table)
    assert " Where: open, because " in to_markdown(table), "the ground of the verdict's second half"


def test_sizes_are_read_together(tmp_path: Path) -> None:
    for config_name in ("debug", "tiny"):
        write_grid(tmp_path, PLANTED, config_name=config_name)
    (trend,) = build_table(tmp_path, n_boot=200).trends.values()
    assert trend.verdict == "undetermined" and "a trend needs 3" in trend.evidence[-1]


GPT2, RATE, LIKE_TINY = "recipe=gpt2", "pretrain.muon_lr=0.5", "pretrain.batch_size=8"


@pytest.mark.parametrize(
    ("debug", "tiny", "told"),
    [
        ({}, {}, ""),
        ({}, {"sets": ("model.hidden_size=96", "pretrain.log_every_steps=3", "pretrain.on_nan=rewind")}, ""),
        ({"sets": (RATE,)}, {"sets": (RATE,)}, ""),
        ({"sets": (GPT2,)}, {"sets": (GPT2,)}, ""),
        ({}, {"sets": (RATE,)}, "pretrain.muon_lr (debug 0.02, tiny 0.5)"),
        ({"sets": (RATE,)}, {"sets": ("pretrain.muon_lr=0.4",)}, "pretrain.muon_lr (debug 0.5, tiny 0.4)"),
        (
            {},
            {"sets": (GPT2, "finetune.lr=0.5")},
            "recipe (debug modern, tiny gpt2), finetune.lr (debug 0.003, tiny 0.5)",
        ),
        ({}, {"sets": ("probe.max_iterations=3",)}, "probe.max_iterations (debug 2000, tiny 3)"),
        ({}, {"sets": ("finetune.marks=special",)}, "finetune.marks (debug auto, tiny special)"),
        ({}, {"sets": ("pretrain.precision=bf16",)}, "pretrain.precision (debug auto, tiny bf16)"),
        ({}, {"sets": ("pretrain.step_snapshots=3", "pretrain.compile=off", "probe.weights=bf16")}, ""),
        ({"sets": (LIKE_TINY,)}, {"sets": (LIKE_TINY,)}, ""),  # what tiny has by itself
        ({"sets": (LIKE_TINY,)}, {}, ""),
        ({"text": "text A"}, {"text": "text B"}, "pretraining text (debug text A, tiny text B)"),
        ({"text": "text A"}, {}, ""),  # not recorded, and so not known to be another
    ],
)
def test_what_sizes_differ_in_beside_size_is_told(
    tmp_path: Path, debug: dict[str, Any], tiny: dict[str, Any], told: str
) -> None:
    """In the table, in its JSON, under the figure and under the curve: a size is no cause where a recipe may be."""
    write_grid(tmp_path, PLANTED, **debug)
    write_grid(tmp_path, PLANTED, config_name="tiny", **tiny)
    words = told.format("pretrain.muon_lr")
    folder = read_folder(tmp_path, n_boot=200)
    table = table_of(folder.collection, folder.grouping, folder.scored)
    (curve,) = scale_curves(folder.scored, n_draws=19)
    (chart,) = (one for one in all_charts(folder, n_boot=200).charts if one.kind.name == "emergence_by_scale")
    assert table.to_dict()["confounds_with_size"] == ([f"wiki: {words}"] if words else [])
    assert [note for note in table.notes() if "Not size alone" in note] == (
        [f"Not size alone: wiki: {words}"] if words else []
    )
    assert curve.confounds_with_size == words
    assert (f" Not size alone: {words}." in chart.caption) == ("Not size alone" in chart.caption) == bool(words)
    assert (f"  not size alone: {words}" in curve.text().splitlines()) == ("size alone" in curve.text()) == bool(words)


def test_a_curve_over_sizes_tells_of_other_tokenizers(tmp_path: Path) -> None:
    """Which make no series for a table, whose sizes have the same questions in the same tokens."""
    write_grid(tmp_path, PLANTED)
    write_grid(tmp_path, PLANTED, config_name="tiny", tokenizer="tokenizer B")
    (curve,) = scale_curves(read_folder(tmp_path, n_boot=200).scored, n_draws=19)
    first, second = (content_digest(name)[:12] for name in ("tokenizer A", "tokenizer B"))
    assert curve.confounds_with_size == f"tokenizer (debug {first}, tiny {second})"
    assert f"  not size alone: {curve.confounds_with_size}" in curve.text().splitlines()


@pytest.mark.parametrize(
    ("others", "told"),
    [
        pytest.param([{"config_name": "tiny"}], None, id="a series"),
        pytest.param([{"sets": (RATE,)}], None, id="one size twice and alone"),
        pytest.param(
            [{"config_name": "tiny", "finetune_samples": 100, "tokenizer": "tokenizer B"}],
            None,
            id="other amounts of questions",
        ),
        pytest.param(
            [
                {"config_name": "tiny"},
                *({"config_name": size, "tokenizer": "tokenizer B"} for size in ("debug", "tiny")),
            ],
            None,
            id="two whole series",
        ),
        pytest.param([{"config_name": "tiny", "layout": "echo"}], None, id="another experiment"),
        pytest.param(
            [{"config_name": "tiny", "tokenizer": "tokenizer B"}], "tokenizer (debug {A}, tiny {B})", id="tokenizer"
        ),
        pytest.param(
            [{"config_name": "tiny"}, {"config_name": "small", "tokenizer": "tokenizer B"}],
            "tokenizer (debug {A}, tiny {A}, small {B})",
            id="one of three",
        ),
        pytest.param(
            [{"config_name": "tiny", "sets": ("evaluate.cluster=document",)}],
            "evaluate.cluster (debug sentence, tiny document)",
            id="evaluation",
        ),
        pytest.param([{"config_name": "tiny"}, {"sets": (RATE,)}], "2 sets of debug", id="one size twice"),
    ],
)
def test_sizes_that_make_no_series_are_told_why(tmp_path: Path, others: list[dict[str, Any]], told: str | None) -> None:
    for grid in [{}, *others]:
        write_grid(tmp_path, PLANTED, **grid)
    folder = read_folder(tmp_path, n_boot=200)
    table = table_of(folder.collection, folder.grouping, folder.scored)
    prints = {name[-1]: content_digest(name)[:12] for name in ("tokenizer A", "tokenizer B")}
    sentences = [f"wiki: {told.format(**prints)}"] if told else []
    assert table.to_dict()["sizes_apart"] == sentences
    lines = [f"{NOT_ONE_SERIES}: {sentence}" for sentence in sentences]
    assert [note for note in table.notes() if NOT_ONE_SERIES in note] == lines


def test_questions_of_the_micro_world_are_told_apart_by_its_settings(tmp_path: Path) -> None:
    """Which of them is another, a digest does not say: here more documents to train on, and the same test questions."""
    write_grid(tmp_path, PLANTED, data="microworld")
    write_grid(tmp_path, PLANTED, data="microworld", config_name="tiny", questions="questions B")
    documents = "microworld.train_documents (debug 180, tiny 600), microworld.validation_documents (debug 60, tiny 120)"
    assert build_table(tmp_path, n_boot=200).sizes_apart == (f"microworld: {documents}",)


def test_points_of_a_law_make_no_series_that_is_missed(tmp_path: Path) -> None:
    draw = {"finetune_samples": 100, "subset": 1}
    write_grid(tmp_path, {"full": 0.7, "frozen": 0.5}, **draw)
    write_grid(tmp_path, {"full": 0.7, "frozen": 0.5}, config_name="tiny", tokenizer="tokenizer B", **draw)
    assert build_table(tmp_path, n_boot=200).sizes_apart == ()


def test_cells_that_one_size_alone_changes_are_named(tmp_path: Path) -> None:
    """A score is of four cells: equal changes of two different ones are no equal settings."""
    for config_name, changed in (("debug", "full"), ("tiny", "random_full")):
        for cell, f1 in PLANTED.items():
            sets = ("finetune.lr=0.5",) if cell == changed else ()
            write_run(tmp_path, cell, f1, config_name=config_name, sets=sets)
    told = "wiki: finetune.lr of full (debug 0.5, tiny 0.003), finetune.lr of random (debug 0.003, tiny 0.5)"
    assert build_table(tmp_path, n_boot=200).confounds_with_size == (told,)


@pytest.mark.parametrize("alone", [False, True], ids=["with questions", "pretraining alone"])
def test_a_trunk_is_told_by_the_run_that_pretrained_it(tmp_path: Path, alone: bool) -> None:
    """Wherever in the folder it is. The run that was given it has settings for a pretraining that it never did."""
    write_grid(tmp_path, PLANTED, finetune_samples=100)
    maker = write_run(
        tmp_path, "full", 0.6, config_name="tiny", sets=(RATE,), **({"skip_finetune": True} if alone else {})
    )
    given = {"skip_pretrain": True, "pretrained_model_path": f"{maker.run_id}/toy_llm_unified_pretrained.pth"}
    options = {"config_name": "tiny", "finetune_samples": 100}
    for cell, f1 in PLANTED.items():
        flags = {} if cell.startswith("random") else {"trunk_of": maker.spec, **given}
        write_run(tmp_path, cell, f1, **options, **flags)
    told = "wiki, n=100: pretrain.muon_lr (debug (n=100) 0.02, tiny (n=100) 0.5)"
    assert build_table(tmp_path, n_boot=200).confounds_with_size == (told,)


def test_a_size_of_another_version_has_settings_of_its_own(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_grid(tmp_path, PLANTED, seed=seed)
        write_grid(tmp_path, PLANTED, config_name="tiny", sets=("name=mine", "finetune.lr=0.5"), seed=seed)
    assert build_table(tmp_path, n_boot=200).confounds_with_size == ()


def test_a_pretraining_that_is_not_among_the_results_tells_no_settings(tmp_path: Path) -> None:
    """A run that was given its trunk has settings for a pretraining that it never did."""
    maker = spec_of("full", config_name="tiny")
    given = {"skip_pretrain": True, "pretrained_model_path": "elsewhere/toy_llm_unified_pretrained.pth"}
    write_grid(tmp_path, PLANTED)
    for cell in ("full", "frozen"):
        write_run(tmp_path, cell, PLANTED[cell], config_name="tiny", trunk_of=maker, sets=(RATE,), **given)
    assert build_table(tmp_path, n_boot=200).confounds_with_size == ()


def test_nothing_to_show_is_an_error_that_names_what_is_there(tmp_path: Path) -> None:
    run = write_run(tmp_path, "full", 0.5, finished=False)
    with pytest.raises(DataError, match=f"no finished results here: {run.run_id}: not finished"):
        build_table(tmp_path)


def test_the_command_and_the_script_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_guide_file(tmp_path / "results" / "tiny_full.json", 0.25)
    command = typed("emergence", "table", str(tmp_path / "results"))
    script = ("scripts/compile_results.py", "--results-dir")
    assert command.code == 0 and typed(*script, "./results/") == command
    out = tmp_path / "table.tex"
    call = typed(*script, "./results/", "--format", "latex", "--output", str(out))
    assert call.code == 0 and out.read_text().startswith("% needs") and "random frozen was not run" in call.err
    assert typed(*script, "nowhere") == (
        2,
        "",
        "error: nowhere: no such folder: give the one that holds the run directories or downloaded stats\n",
    )


def test_a_damaged_cell_is_not_called_not_run(tmp_path: Path) -> None:
    runs = write_grid(tmp_path, {"full": 0.7, "frozen": 0.5, "random_full": 0.4, "random_frozen": 0.3})
    for cell in ("frozen", "random_full", "random_frozen"):
        stats = runs[cell].stats_path
        stats.write_bytes(stats.read_bytes()[:-30])
    (runs["random_frozen"].path / "spec.json").unlink()  # whose cell nobody can tell
    table = build_table(tmp_path, n_boot=50)
    shown = {row.mode: (row.was_run, row.is_damaged) for row in table.rows}
    assert shown["full"] == (True, False)
    assert shown["frozen"] == shown["random"] == (False, True) and shown["random frozen"] == (False, False)
    lines = {line.split(" | ")[2]: line for line in to_markdown(table).splitlines() if line.startswith("| debug")}
    assert "damaged" in lines["frozen"] and "not run" not in lines["frozen"] and "damaged" not in lines["full"]
