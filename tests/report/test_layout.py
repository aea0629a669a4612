"""What the report and its figures promise their reader: the verdict first, nothing empty, pairs side by side."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from emergence.experiment.result import RunResult
from emergence.experiment.store import RunStore
from emergence.findings.folder import ResultsFolder, read_folder
from emergence.findings.table import table_of
from emergence.measures.conditional import F1, SELECTION
from emergence.report.blocks import Bullets, Example, Heading, Picture, Report, Section, Table, Text
from emergence.report.charts import gains
from emergence.report.charts.chart import Charts, all_charts
from emergence.report.charts.drawing import draw, mean_and_band, render
from emergence.report.examples import example_blocks
from emergence.report.sections import report_of
from emergence.report.write import to_html, write_report
from tests.planted_runs import Added, fake_run, fake_spec, write_run

BOOT = 60
CELLS = {"full": 0.8, "frozen": 0.4, "random_full": 0.7, "random_frozen": 0.2}


def grid(root: Path, **flags: object) -> None:
    """A 2x2 with bilinear probes and what states add."""
    for cell, f1 in CELLS.items():
        frozen = "frozen" in cell
        more = (
            {"bilinear": f1 + 0.15, "added": Added({"linear": (0.0, 0.01), "bilinear": (0.05, 0.04)})} if frozen else {}
        )
        write_run(root, cell, f1, **more, **flags)  # type: ignore[arg-type]


def told(folder: ResultsFolder) -> tuple[Report, Charts]:
    charts = all_charts(folder, n_boot=BOOT)
    return report_of(folder, table_of(folder.collection, folder.grouping, folder.scored), charts), charts


# Layout ------------------------------------------------------------------------------------------


def test_two_cells_stand_side_by_side_unless_one_needs_the_width() -> None:
    narrow = Table("narrow", ("a", "b"), (("x" * 19, "0.1 [0.0, 0.2]"),))
    broad = Table("broad", tuple("abcdef"), (("x" * 24,) * 6,))
    picture, text = Picture("p", "P", "caption", "alt", is_wide=True), Text("words")
    blocks = (
        picture,
        Heading("set"),
        narrow,
        text,
        Bullets(("a",)),
        Heading("other"),
        broad,
        text,
        narrow,
        picture,
        narrow,
    )
    cells = Section("s", "S", blocks).cells
    assert [len(cell.blocks) for cell in cells] == [1, 4, 4, 1, 1]
    assert [cell.spans for cell in cells] == [False, False, True, False, False]
    assert [block for cell in cells for block in cell.blocks] == list(blocks), "nothing is lost, and nothing moved"
    assert Section("s", "S", (text, text)).cells[0].spans, "what stands alone needs no second column"


def test_no_line_breaks_within_a_number_and_its_interval() -> None:
    words = "F1 is 0.298 [0.280, 0.316] & [-inf, 1.2]; adds +0.026 [+0.007, +0.045] of 1,234 [1,000, 2,000] [see, a b]"
    section = Section("s", "S", (Text(words), Bullets((words,)), Table("t", ("a", "b"), (("x", words),))))
    page = to_html(Report("T", (), (section,), {}, "p"), {})
    kept = ["0.298 [0.280, 0.316]", "[-inf, 1.2]", "+0.026 [+0.007, +0.045]", "1,234 [1,000, 2,000]"]
    assert re.findall(r'<span class="unbroken">(.*?)</span>', page) == kept * 3 and "&amp; <span" in page


def test_flags_are_code_and_no_line_breaks_within_one() -> None:
    words = "run it with --random-baseline --skip-pretrain, not a--b or -- or ---x"
    page = to_html(Report("T", (), (Section("s", "S", (Bullets((words,)),)),), {}, "p"), {})
    assert re.findall(r'<code class="unbroken">(.*?)</code>', page) == ["--random-baseline", "--skip-pretrain"]


def test_the_verdict_and_its_picture_come_first_and_what_is_empty_is_one_line(tmp_path: Path) -> None:
    grid(tmp_path)
    report, _ = told(read_folder(tmp_path, n_boot=BOOT))
    first = report.present[0]
    assert first.anchor == "verdict" and isinstance(first.blocks[0], Picture) and first.blocks[0].name == "gains"
    assert isinstance(first.blocks[1], Heading) and isinstance(first.blocks[2], Bullets)
    empty = {section.anchor for section in report.absent}
    assert empty == {s.anchor for s in report.sections if not s.blocks} >= {"scale", "few-shot", "cka"}
    written = write_report(tmp_path, tmp_path / "out", n_boot=BOOT)
    for text in (written.html.read_text(), written.markdown.read_text()):
        assert "Not shown" not in text and text.count("no run was analysed") == 1
        assert text.count("Not in this report") == 1 and "#cka" not in text


# Figures -----------------------------------------------------------------------------------------


def test_the_2x2_has_both_probes_and_its_pairs_side_by_side(tmp_path: Path) -> None:
    grid(tmp_path)
    report, charts = told(read_folder(tmp_path, n_boot=BOOT))
    (chart,) = (chart for chart in charts.charts if chart.name == "two_by_two")
    bars = {(row["cell"], row["probe"]): row["f1"] for row in chart.rows}
    assert bars["frozen", "linear"] == pytest.approx(0.4) and bars["frozen", "bilinear"] == pytest.approx(0.55)
    (ax,) = draw(chart).axes
    drawn = sorted((patch.get_x(), round(patch.get_height(), 2)) for patch in ax.patches)
    assert [height for _, height in drawn] == [0.4, 0.2, 0.55, 0.35, 0.8, 0.7], "pretrained, then its random twin"
    assert [tick.get_text() for tick in ax.get_xticklabels()] == [
        "linear probe",
        "bilinear probe",
        "all weights\ntrained",
    ]
    (table,) = (
        b
        for s in report.present
        if s.anchor == "grid"
        for b in s.blocks
        if isinstance(b, Table) and "Token F1" in b.head
    )
    assert table.head == ("Token F1", "frozen, linear probe", "frozen, bilinear probe", "all weights trained")
    assert [row[2][:5] for row in table.rows[:2]] == ["0.550", "0.350"]


def test_the_verdicts_picture_is_its_evidence(tmp_path: Path) -> None:
    grid(tmp_path)
    folder = read_folder(tmp_path, n_boot=BOOT)
    charts = Charts()
    gains.KIND.collect(folder, charts, BOOT)
    (scores,) = folder.main
    by_key = {(row["score"], row["family"], row["trunk"]): row for row in charts.charts[0].rows}
    assert len(by_key) == 8 and {key[0] for key in by_key} == {F1, SELECTION}
    for of in scores.gains:
        for family, gain in of.families.items():
            row, twin = (by_key[of.score, family, trunk] for trunk in ("pretrained", "random"))
            assert (row["gain"], row["lo"], row["hi"]) == (gain.gain.point, gain.gain.lo, gain.gain.hi)
            assert gain.twin_gain and twin["gain"] == gain.twin_gain.point
    draw(charts.charts[0])


def test_layers_stand_against_what_needs_no_model_and_the_ceiling_on_the_same_questions(tmp_path: Path) -> None:
    for condition in ("full", "frozen", "random-frozen"):
        fake_run(tmp_path, "debug", condition)
    for run in RunStore(tmp_path).runs():
        stats = json.loads(run.stats_path.read_text())
        if stats["freeze_llm"]:
            estimate = stats["test_scores"]["scores"]["f1_tokens"]
            rule = {
                "wh_rule": {"f1_tokens": {**estimate, "point": 0.31}},
                "words_left": {"f1_tokens": {**estimate, "point": 0.62}},
            }
            stats["validation_scores"] = {"scores": {"f1_tokens": estimate}, "baselines": rule}
        else:
            stats["validation_scores"] = stats["test_scores"]
        run.write_stats(stats)
    _, charts = told(read_folder(tmp_path, n_boot=BOOT))
    (chart,) = (chart for chart in charts.charts if chart.name == "probing_layers")
    lines = {row["cell"]: row["validation_f1"] for row in chart.rows if row["family"] == "reference"}
    assert (
        lines["no_model"] == 0.31 and lines["words_alone"] == 0.62 and set(lines) == {"no_model", "words_alone", "full"}
    )
    (ax,) = draw(chart).axes
    level = {line.get_label(): line.get_ydata()[0] for line in ax.lines if len(set(line.get_ydata())) == 1}
    assert level["best rule, no model"] == 0.31 and level["words and positions"] == 0.62
    assert level["all weights trained"] == lines["full"]


def test_every_axis_starts_at_zero_or_says_so(tmp_path: Path) -> None:
    for condition in ("full", "frozen", "random-frozen"):
        for seed in (0, 1):
            fake_run(tmp_path, "debug", condition, seed=seed)
    _, charts = told(read_folder(tmp_path, n_boot=BOOT))
    for chart in charts.charts:
        for ax in draw(chart).axes:
            low, high = sorted(ax.get_ylim())
            if ax.get_ylabel() and ax.get_yscale() == "linear":
                assert low <= 0 <= high or "not from 0" in ax.get_ylabel(), chart.name


def test_seeds_are_a_mean_and_a_band_and_one_seed_has_none(tmp_path: Path) -> None:
    fake_run(tmp_path / "one", "debug", "full")
    fake_run(tmp_path / "two", "debug", "full")
    fake_run(tmp_path / "two", "debug", "full", seed=1, better=0.2)
    for name, words in (("one", False), ("two", True)):
        _, charts = told(read_folder(tmp_path / name, n_boot=BOOT))
        for chart in (chart for chart in charts.charts if chart.name in ("finetuning", "pretraining_loss")):
            bands = [
                c for ax in draw(chart).axes for c in ax.collections if type(c).__name__ == "FillBetweenPolyCollection"
            ]
            assert bool(bands) is words and ("band" in chart.caption) is words, (name, chart.name)
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    rows = [{"x": x, "y": x + seed} for seed in (0.0, 2.0) for x in (1, 2)]
    mean_and_band(ax, rows, "x", "y")
    assert list(ax.lines[0].get_ydata()) == [2.0, 3.0]
    path = ax.collections[0].get_paths()[0].vertices
    assert (path[:, 1].min(), path[:, 1].max()) == (1.0, 4.0)


def test_no_caption_is_baked_into_a_figure(tmp_path: Path) -> None:
    fake_run(tmp_path, "debug", "full")
    _, charts = told(read_folder(tmp_path, n_boot=BOOT))
    chart = charts.charts[0]
    long, short = (render(replace(chart, caption=words)) for words in ("b " * 400, "a"))
    assert long == short and set(long) == {"png", "pdf", "svg"}, "the words change no byte of it"


# Words that have to be true ----------------------------------------------------------------------


def test_one_small_number_of_questions_beside_all_is_a_few_shot_curve(tmp_path: Path) -> None:
    for condition in ("full", "frozen"):
        fake_run(tmp_path, "debug", condition)
    _, charts = told(read_folder(tmp_path, n_boot=BOOT))
    assert dict(charts.skipped)["few_shot"].startswith("it takes runs on at least two numbers of training questions")
    fake_run(tmp_path, "debug", "full", finetune_samples=100)
    _, charts = told(read_folder(tmp_path, n_boot=BOOT))
    (chart,) = (chart for chart in charts.charts if chart.name == "few_shot")
    assert sorted({row["samples"] for row in chart.rows}) == [100, 4_800]


def test_a_trunk_that_is_used_is_no_problem_and_sweeps_are_named(tmp_path: Path) -> None:
    trunk = RunStore(tmp_path).create(fake_spec("debug", "full", skip_finetune=True))
    trunk.write_stats(RunResult.from_spec(trunk.spec, trunk.run_id, final_validation_f1=None).to_dict())
    other = RunStore(tmp_path).create(fake_spec("debug", "full", skip_finetune=True, seed=7))
    other.write_stats(RunResult.from_spec(other.spec, other.run_id, final_validation_f1=None).to_dict())
    run = fake_run(tmp_path, "debug", "full")
    run.write_stats({**json.loads(run.stats_path.read_text()), "lineage": {"run_id": trunk.run_id}})
    (tmp_path / ".sweeps").mkdir()
    (tmp_path / ".sweeps" / "matrix-0123abcd.json").write_text("{}")
    report, _ = told(read_folder(tmp_path, n_boot=BOOT))
    apart = "".join(str(b) for s in report.present if s.anchor == "problems" for b in s.blocks)
    assert other.run_id in apart and trunk.run_id not in apart.replace(other.run_id, "")
    code = "\n".join(
        b.text for s in report.present if s.anchor == "reproduce" for b in s.blocks if hasattr(b, "folded")
    )
    assert f"emergence sweep status matrix-0123abcd --runs-dir {tmp_path}" in code
    assert f"emergence sweep resume matrix-0123abcd --runs-dir {tmp_path}" in code


def test_examples_show_the_bilinear_probes_answer(tmp_path: Path) -> None:
    fake_run(tmp_path, "debug", "frozen")
    (run,) = RunStore(tmp_path).runs()
    stats, rows = json.loads(run.stats_path.read_text()), run.read_predictions()
    bilinear = {"em": 1.0, "f1_tokens": 1.0, "log_prob": -1.0, "expected_f1": 1.0, "prediction": [0, 2]}
    for row in rows:
        row["readouts"] = {"bilinear": dict(bilinear)}
    run.write_predictions(rows)
    run.write_stats(stats)
    (found,) = read_folder(tmp_path, n_boot=BOOT).settings
    examples = [block for block in example_blocks(found.comparable) if isinstance(block, Example)]
    assert examples
    for example in examples:
        probe, bilinear_answer = example.answers
        assert bilinear_answer.cell == "pretrained, frozen, bilinear probe" and bilinear_answer.is_right
        assert (bilinear_answer.text, bilinear_answer.f1, probe.cell) == ("Emma Bo", 1.0, "pretrained, frozen")


def test_a_set_of_three_questions_does_not_stretch_the_axis_of_all(tmp_path: Path) -> None:
    grid(tmp_path)
    folder = read_folder(tmp_path, n_boot=BOOT)
    charts = Charts()
    gains.KIND.collect(folder, charts, BOOT)
    (chart,) = charts.charts
    few = tuple({**row, "setting": "few", "n_questions": 3, "gain": -0.9, "lo": float("nan")} for row in chart.rows)
    with_few = replace(chart, rows=(*chart.rows, *few))
    assert [ax.get_xlim() for ax in draw(with_few).axes] == [ax.get_xlim() for ax in draw(chart).axes]
    assert "nan" not in with_few.alt and "undefined" not in with_few.alt and "few" in with_few.alt
    draw(replace(chart, rows=few))


def test_one_set_is_named_above_the_panels_and_a_trunk_that_is_not_there_nowhere(tmp_path: Path) -> None:
    grid(tmp_path)
    charts = Charts()
    gains.KIND.collect(read_folder(tmp_path, n_boot=BOOT), charts, BOOT)
    (chart,) = charts.charts
    other = tuple({**row, "setting": "another"} for row in chart.rows)
    for rows, titles, inside in ((chart.rows, [chart.rows[0]["setting"], ""], 0), ((*chart.rows, *other), ["", ""], 2)):
        axes = draw(replace(chart, rows=rows)).axes
        assert [ax.get_title(loc="left") for ax in axes] == titles and len(axes[0].texts) == inside
    alone = draw(replace(chart, rows=tuple(row for row in chart.rows if row["trunk"] == "pretrained")))
    assert [text.get_text() for legend in alone.legends for text in legend.get_texts()] == ["pretrained trunk"]
