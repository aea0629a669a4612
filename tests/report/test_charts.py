"""A kind of figure is one file: dropped into the package it is drawn, told and has a place; without words it fails."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from emergence.experiment.store import RunDirectory
from emergence.findings.folder import read_folder
from emergence.findings.table import table_of
from emergence.report import charts
from emergence.report.blocks import Picture
from emergence.report.charts import few_shot, finetuning, pretraining_loss, two_by_two
from emergence.report.charts.chart import Chart, ChartKind, Charts, Place, all_charts, chart_kinds
from emergence.report.charts.drawing import draw
from emergence.report.figures import make_figures
from emergence.report.sections import report_of
from tests.planted_runs import fake_run, write_grid, write_run

MODULE = """
from emergence.report.charts.chart import ChartKind
from emergence.report.charts.rows import always

def collect(folder, out, n_boot):
    rows = [{"run": run.name, "n": len(run.name)} for run in folder.runs]
    out.add(KIND, "Names", "Letters in the name of each run.", rows, "no runs")

def draw(figure, rows):
    figure.subplots().plot([row["n"] for row in rows])

def series(rows):
    return [f"{row['run']}: {row['n']} letters" for row in rows]

KIND = ChartKind("planted_names", 25, "training", collect, draw, series, always)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose modules are in the package of charts."""
    folder = tmp_path / "more"
    folder.mkdir()
    monkeypatch.setattr(charts, "__path__", [*charts.__path__, str(folder)])
    yield folder
    for name in [name for name in sys.modules if name.startswith(f"{charts.__name__}.planted_")]:
        del sys.modules[name]


def test_a_new_file_is_a_figure_with_a_place_in_the_report(tmp_path: Path, package: Path) -> None:
    (package / "planted_names.py").write_text(MODULE)
    root = tmp_path / "runs"
    run = fake_run(root, "debug", "full")
    done = make_figures(root, tmp_path / "out", n_boot=20)
    names = list(done.drawn)
    assert names.index("planted_names") == names.index("finetuning") + 1, "its rank is its place"
    assert (tmp_path / "out" / "planted_names.csv").read_text() == f"run,n\n{run.run_id},{len(run.run_id)}\n"
    assert "**Names.** Letters in the name" in (tmp_path / "out" / "captions.md").read_text()

    folder = read_folder(root, n_boot=20)
    results = table_of(folder.collection, folder.grouping, folder.scored)
    sections = {s.anchor: s for s in report_of(folder, results, all_charts(folder, n_boot=20)).sections}
    pictures = [block for block in sections["training"].blocks if isinstance(block, Picture)]
    assert [picture.name for picture in pictures] == ["pretraining_loss", "finetuning", "planted_names"]
    (mine,) = (picture for picture in pictures if picture.name == "planted_names")
    assert (mine.title, mine.caption, mine.is_wide) == ("Names", "Letters in the name of each run.", False)
    assert mine.alt == f"Names. {run.run_id}: {len(run.run_id)} letters."
    assert set(get_args(Place)) - {"others"} <= set(sections), "every place is a section"


def test_a_figure_without_words_or_a_place_is_refused(package: Path) -> None:
    (package / "planted_mute.py").write_text(MODULE.replace(", draw, series, always", ", draw, is_narrow=always"))
    with pytest.raises(TypeError, match="series"):
        chart_kinds()
    (package / "planted_mute.py").write_text("")
    with pytest.raises(AttributeError, match="KIND"):
        chart_kinds()
    rows = ({"n": 1},)
    for words in (("", "a caption"), ("a title", " ")):
        with pytest.raises(ValueError, match="needs a title and a caption"):
            Chart("mute", finetuning.KIND, *words, rows)
    with pytest.raises(ValueError, match="no section attic"):
        replace(finetuning.KIND, place="attic")  # type: ignore[arg-type]


def test_kinds_are_named_as_their_files_and_ranked() -> None:
    kinds = chart_kinds()
    files = {path.stem for path in Path(two_by_two.__file__).parent.glob("[a-z]*.py")}
    assert {kind.name for kind in kinds} == files - {"chart", "rows", "drawing"}
    assert len({kind.rank for kind in kinds}) == len(kinds)


# What the pictures say ---------------------------------------------------------------------------


@pytest.mark.parametrize("cluster", ["sentence", "document"])
def test_captions_say_what_their_intervals_resample(tmp_path: Path, cluster: str) -> None:
    cells = {"full": 0.6, "frozen": 0.4, "random_full": 0.3, "random_frozen": 0.2}
    for size in ("debug", "tiny"):
        write_grid(tmp_path / "whole", cells, documents=8, config_name=size)
    write_run(tmp_path / "alone", "full", 0.6, documents=8)
    write_run(tmp_path / "old", "full", 0.6)
    write_run(tmp_path / "stats", "full", 0.6, documents=8, predictions=False)

    def captions(name: str) -> dict[str, str]:
        folder = read_folder(tmp_path / name, n_boot=50, cluster=cluster)  # type: ignore[arg-type]
        return {chart.kind.name: chart.caption for chart in all_charts(folder, n_boot=50).charts}

    asked = f"{cluster}s resampled"
    whole = captions("whole")
    assert asked in whole["two_by_two"] and asked in whole["emergence_by_scale"]
    assert asked in captions("alone")["two_by_two"], "no 2x2, but predictions"
    assert "sentences resampled" in captions("old")["two_by_two"], "older predictions tell no documents"
    assert "sentences resampled" in captions("stats")["two_by_two"], "as its run did"


def test_few_shot_intervals_are_the_runs_own(tmp_path: Path) -> None:
    for n in (10, 100):
        write_run(tmp_path, "full", 0.5, finetune_samples=n)
    folder = read_folder(tmp_path, n_boot=20)
    items = [item for found in folder.grouping.sets for item in found.results()]
    for item, cluster in zip(items, ("document", "sentence"), strict=True):
        assert item.result.test_scores
        item.result.test_scores["cluster"] = cluster
        item.result.test_scores["scores"]["f1_tokens"]["n_clusters"] = {"document": 8, "sentence": 40}[cluster]
    charts = Charts()
    few_shot.KIND.collect(folder, charts, 20)
    assert "sentences or documents resampled" in charts.charts[0].caption
    assert {row["n_sentences"] for row in charts.charts[0].rows} == {40}, "whatever the interval resamples"


@pytest.mark.parametrize(
    ("kind", "thin"), [(finetuning.KIND, "training loss"), (pretraining_loss.KIND, "training batches")]
)
def test_thin_lines_are_in_the_legend(tmp_path: Path, kind: ChartKind, thin: str) -> None:
    fake_run(tmp_path, "debug", "full")
    charts = Charts()
    kind.collect(read_folder(tmp_path, n_boot=20), charts, 20)
    (legend,) = draw(charts.charts[0]).legends
    assert [text.get_text() for text in legend.get_texts()][1:] == [thin]


def test_a_damaged_history_is_named_once(tmp_path: Path) -> None:
    run = fake_run(tmp_path, "debug", "full")
    (run.path / "history.jsonl").write_text("{\n{}\n")
    charts = all_charts(read_folder(tmp_path, n_boot=20), n_boot=20)
    assert [name for name, _ in charts.skipped].count(f"training of {run.run_id}") == 1


def test_a_history_is_read_once_for_all_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, read = fake_run(tmp_path, "debug", "full"), []
    curves = RunDirectory.read_curves
    monkeypatch.setattr(RunDirectory, "read_curves", lambda self: read.append(self.path) or curves(self))
    drawn = {chart.name for chart in all_charts(read_folder(tmp_path, n_boot=20), n_boot=20).charts}
    assert read == [run.path] and {"pretraining_loss", "finetuning"} <= drawn


def test_one_epoch_is_a_point_at_a_whole_number() -> None:
    where = {"setting": "debug", "cell": "full", "run": "a", "seed": 0}
    rows = [{**where, "epoch": 1, "train_loss": 2.0, "validation_loss": 1.0, "validation_f1": 0.5}]
    figure = draw(Chart("finetuning", finetuning.KIND, "Finetuning", "By epoch.", tuple(rows)))
    left, right = figure.axes
    assert next(line.get_marker() for line in left.lines if len(line.get_xdata())) == "."
    for ax in (left, right):
        assert [tick for tick in ax.get_xticks() if ax.get_xlim()[0] <= tick <= ax.get_xlim()[1]] == [1.0]


def test_two_charts_of_one_name_keep_two_files() -> None:
    charts = Charts()
    kind = chart_kinds()[0]
    for _ in range(3):
        charts.add(kind, "Title", "Caption.", [{"setting": "a"}], of="same")
    assert [chart.name for chart in charts.charts] == [f"{kind.name}_same{n}" for n in ("", "__2", "__3")]
