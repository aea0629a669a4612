"""A stored law is drawn and told by the folder that holds it, beside runs or alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emergence.files import seal, write_json_atomic
from emergence.findings.collect import collect_results
from emergence.findings.folder import read_folder
from emergence.findings.stored_laws import stored_laws
from emergence.report.charts import laws, scaling_law
from emergence.report.charts.chart import Charts, all_charts
from emergence.report.charts.drawing import draw
from emergence.report.write import write_report
from tests.command_lines import typed
from tests.findings.test_law_comparison import sweep as corpus
from tests.findings.test_laws import sweep, written
from tests.findings.test_scaling import LAW
from tests.planted_runs import write_grid


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``law fit --output`` writes of a planted sweep."""
    folder = tmp_path_factory.mktemp("law")
    table = written(folder / "sweep.csv", sweep())
    ended = typed("emergence", "law", "fit", str(table), "--draws", "19", "--output", str(folder / "law.json"))
    assert ended.code == 0
    content = json.loads((folder / "law.json").read_text())
    del content["sha256"]
    return content


def keep(folder: Path, content: dict[str, Any], name: str = "law.json") -> Path:
    folder.mkdir(exist_ok=True)
    write_json_atomic(folder / name, seal(content))
    return folder


def collected(folder: Path) -> Charts:
    charts = Charts()
    laws.KIND.collect(read_folder(folder, n_boot=20), charts, 20)
    return charts


def test_a_law_alone_makes_a_report(tmp_path: Path, stored: dict[str, Any]) -> None:
    done = write_report(keep(tmp_path / "laws", stored), n_boot=20)
    assert done.figures == ("laws",)
    text = done.markdown.read_text()
    assert "## Laws of emergence" in text and "With 5 shots the task emerges at a loss of 1.7" in text
    assert "It assumes that the score is level down to an elbow" in text
    assert "| 6k | 2.27" in text and "## Results" not in text


def test_what_is_drawn(tmp_path: Path, stored: dict[str, Any]) -> None:
    (chart,) = collected(keep(tmp_path / "laws", stored)).charts
    rows = {mark: [row for row in chart.rows if row["mark"] == mark] for mark in (laws.RUN, laws.POINT, laws.OWN)}
    assert len(rows[laws.RUN]) == 56 and len(rows[laws.OWN]) == 6
    (point,) = rows[laws.POINT]
    law = stored["law"]
    assert (point["loss"], point["lo"], point["hi"]) == (law["emergence_point"], law["lo"], law["hi"])
    assert point["loss"] == pytest.approx(next(row["loss"] for row in chart.rows if row["mark"] == laws.LAW))
    # The law's curve meets the fitted runs: level base, then the slope.
    curve = [row for row in chart.rows if row["mark"] == laws.CURVE and row["amount"] == 6000]
    best = min(curve, key=lambda row: row["loss"])
    assert best["score"] == pytest.approx(law["base"] + law["slope"] * (law["elbows"][-1] - 1.78))
    left, right = draw(chart).axes
    assert left.get_xlim()[0] > left.get_xlim()[1] and right.get_ylim()[0] > right.get_ylim()[1], "losses fall"
    assert left.get_xlim()[1] < law["lo"], "the interval is on the axis"


def test_open_ends_and_beyond_the_losses(tmp_path: Path, stored: dict[str, Any]) -> None:
    content = json.loads(json.dumps(stored))
    content["law"]["lo"] = None
    content["free"]["past"][0] = 0
    content["flags"] = ["unbounded_below"]
    (chart,) = collected(keep(tmp_path / "laws", content)).charts
    assert "own elbow below 1.8" in chart.alt and "[unbounded, " in chart.alt
    told = [row["told"] for row in chart.rows if row["mark"] == laws.TOLD]
    assert any("unbounded below, at most" in sentence for sentence in told)
    assert "unbounded below: the data do not bound it from below." in told
    draw(chart)


def test_own_elbows_and_logits_are_drawn(tmp_path: Path, stored: dict[str, Any]) -> None:
    free = {key: value for key, value in stored.items() if key not in ("law", "share_emerged_by_best_loss")}
    folder = keep(tmp_path / "laws", free | {"form": "free"}, "free.json")
    keep(folder, stored | {"link": "logit"}, "logit.json")
    charts = collected(folder)
    assert [chart.name for chart in charts.charts] == ["laws_free", "laws_logit"]
    assert "nothing predicted" in charts.charts[0].rows[-1]["told"]
    scores = [row["score"] for row in charts.charts[1].rows if row["mark"] == laws.CURVE]
    assert min(scores) > 0 and max(scores) < 1 and np.isfinite(scores).all()
    for chart in charts.charts:
        draw(chart)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda law: law["rows"]["loss"].pop(), "values for"),
        (lambda law: law["rows"]["score"].__setitem__(0, None), "not in this program's format"),
        (lambda law: law["free"].pop("elbows"), "elbows"),
        (lambda law: law["law"].__setitem__("lo", "low"), "no number"),
        (lambda law: law.__setitem__("target_amount", 1e9), "target amount"),
        (lambda law: law.__setitem__("schema_version", 99), "of this version"),
        (lambda law: law.__setitem__("rows", 3), "not in this program's format"),
    ],
)
def test_a_malformed_law_is_named(change: Any, words: str, tmp_path: Path, stored: dict[str, Any]) -> None:
    content = json.loads(json.dumps(stored))
    change(content)
    laws_found, ((name, reason),) = stored_laws(collect_results(keep(tmp_path / "laws", content)))
    assert not laws_found and name == "law.json" and words in reason and "\n" not in reason


def test_a_law_among_runs_is_in_their_report_and_a_damaged_one_is_named(tmp_path: Path, stored: dict[str, Any]) -> None:
    write_grid(tmp_path / "runs", {"full": 0.6})
    keep(tmp_path / "runs", stored)
    broken = keep(tmp_path / "runs", stored, "broken.json") / "broken.json"
    broken.write_text(broken.read_text().replace("1.78", "1.79"))
    charts = all_charts(read_folder(tmp_path / "runs", n_boot=20), n_boot=20)
    assert [chart.name for chart in charts.charts if chart.kind is laws.KIND] == ["laws"]
    assert [why for name, why in charts.skipped if name == "broken.json"] == [
        "damaged or edited: its content does not match its 'sha256'"
    ]


def test_scaling_laws_and_comparisons_are_kept_drawn_and_told(tmp_path: Path) -> None:
    folder = tmp_path / "laws"
    folder.mkdir()
    runs = written(tmp_path / "runs.csv", scaling_rows())
    a, b = (written(tmp_path / f"{name}.csv", corpus(shift)) for name, shift in (("a", 0.1), ("b", 0.0)))
    scaling = ("scaling", str(runs), "--compute", "1e21", "--draws", "20", "--output", str(folder / "scaling.json"))
    compare = ("compare", str(a), str(b), "--draws", "19", "--output", str(folder / "compare.json"))
    for words in (scaling, compare):
        ended = typed("emergence", "law", *words)
        assert ended.code == 0 and "kept in" in ended.err, ended.err
    found = all_charts(read_folder(folder, n_boot=20), n_boot=20).charts
    by_name = {chart.name: chart for chart in found}
    assert set(by_name) == {"scaling_law", "law_comparison"}
    law = by_name["scaling_law"]
    runs_drawn = [row for row in law.rows if row["mark"] == scaling_law.RUN]
    assert len(runs_drawn) == len(scaling_rows())
    stored = json.loads((folder / "scaling.json").read_text())["laws"][0]
    (asked,) = [row for row in law.rows if row["mark"] == scaling_law.ASKED]
    best = stored["optima"][0]
    assert (asked["params"], asked["lo"], asked["hi"]) == (best["params"], *best["params_interval"])
    curve = [row for row in law.rows if row["mark"] == scaling_law.CURVE]
    fit = stored["fit"]
    for row in curve:
        by_hand = fit["e"] + fit["a"] * row["params"] ** -fit["alpha"] + fit["b"] * row["tokens"] ** -fit["beta"]
        assert row["loss"] == pytest.approx(by_hand)
    assert "asked compute" in [text.get_text() for text in draw(law).legends[0].get_texts()]
    comparison = by_name["law_comparison"]
    assert "A earlier: A minus B is" in next(row["told"] for row in comparison.rows if row["told"])
    left, right = draw(comparison).axes
    assert left.get_xlim()[0] > left.get_xlim()[1] and right.get_ylabel() == "score, A minus B"
    text = write_report(folder, tmp_path / "report", n_boot=20).markdown.read_text()
    assert "predicts the larger ones with a mean error of at most" in text and "A minus B" in text


def scaling_rows() -> list[dict[str, Any]]:
    return [
        {"params": n, "tokens": d, "loss": float(LAW.predict(n, d)) * (1 + 0.002 * (-1) ** (i + j))}
        for i, n in enumerate(np.geomspace(1e6, 1e9, 7).round())
        for j, d in enumerate(np.geomspace(1e8, 1e10, 4).round())
    ]


@pytest.mark.parametrize("file", ["scaling.json", "compare.json"])
def test_a_damaged_one_is_left_out_by_name(tmp_path: Path, file: str) -> None:
    kind = {"scaling.json": "scaling_law", "compare.json": "law_comparison"}[file]
    for number, content in enumerate(
        ({"schema_version": 99}, {"schema_version": 1}, {"schema_version": 1, "laws": [{"count": "x"}], "a": 1})
    ):
        write_json_atomic(tmp_path / file, seal({"kind": f"emergence-{kind}", **content}))
        charts = all_charts(read_folder(tmp_path, n_boot=20), n_boot=20)
        (why,) = [reason for name, reason in charts.skipped if name == file]
        assert not charts.charts and ("again" if number == 0 else "not in this program's format") in why
