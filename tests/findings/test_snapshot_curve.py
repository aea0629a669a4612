"""Planted curves: a break is found where it is, a line has none, a thresholded line is called an artefact."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emergence.errors import RunDirectoryError
from emergence.files import to_json
from emergence.findings import snapshot_curve
from emergence.findings.ablation import ablate
from emergence.findings.collect import collect_results
from emergence.findings.comparable import Grouping, group_results
from emergence.findings.folder import read_folder
from emergence.findings.scale_curve import ScalePoint, scale_curve_of, scale_curves
from emergence.findings.scores import score_set
from emergence.findings.snapshot_curve import (
    LEAST_ROLE_QUESTIONS,
    EmergenceCurve,
    _by_role,
    emergence_curves,
    read_snapshot_probes,
)
from emergence.measures import bootstrap
from emergence.measures.bootstrap import Estimate
from emergence.measures.resampling import ClusterTable
from emergence.report.blocks import Table
from emergence.report.charts import emergence_curve
from emergence.report.charts.chart import Charts, all_charts
from emergence.report.charts.drawing import render
from emergence.studies.snapshots.result import FILES, read_result
from tests.planted_runs import (
    LOSSES,
    N_SNAPSHOT_QUESTIONS,
    Law,
    breaking,
    gradual,
    mirage,
    planted_snapshots,
    write_run,
)

DRAWS = {"n_boot": 60, "n_draws": 119}


def curve_of(law: Law, seeds: int = 1, **settings: object) -> EmergenceCurve:
    (curve,) = emergence_curves([planted_snapshots(law, seed=s, **settings) for s in range(seeds)], **DRAWS)  # type: ignore[arg-type]
    return curve


def test_a_break_in_three_seeds_is_found_where_it_is_and_called_emergent() -> None:
    curve = curve_of(breaking, seeds=3)
    threshold = curve.thresholds["loss"]["expected_f1"]
    assert threshold.is_break
    assert threshold.breaks["relu"].tau == pytest.approx(5.8, abs=0.05)
    assert threshold.breaks["relu"].lo <= 5.8 <= threshold.breaks["relu"].hi + 1e-9
    assert curve.verdict.verdict == "emergent"
    assert len(curve.runs) == 3
    assert curve.points[0].scores["f1_tokens"].n_seeds == 3


def test_one_seed_is_not_enough_for_emergence() -> None:
    curve = curve_of(breaking)
    assert curve.thresholds["loss"]["expected_f1"].is_break
    assert curve.verdict.verdict == "undetermined"
    assert any("three" in note for note in curve.notes)


def test_a_smooth_curve_has_no_break() -> None:
    curve = curve_of(gradual)
    assert not any(threshold.is_break for threshold in curve.thresholds["loss"].values())
    assert curve.verdict.verdict == "no break shown", "400 questions do not exclude a small step of exact match"
    assert 0.1 < curve.verdict.metrics["em"].equivalence.upper < 0.5
    assert curve.verdict.metrics["expected_f1"].equivalence.negligible
    assert "of the rise excluded" in curve.text()
    assert "400 test questions, 100 training questions, 1 seed\n" in curve.text()
    halfway = curve.halfway["loss"]
    assert halfway.lo <= 6.3 <= halfway.hi
    content = json.loads(to_json(curve.to_dict()))
    assert set(content["thresholds"]) == {"loss", "tokens"}
    place = curve.thresholds["tokens"]["f1_tokens"].place  # the step before the first has no logarithm
    assert content["points"][0]["tokens"] == 0 and math.log10(1024) <= place.tau <= math.log10(1024 * 256)


def test_a_metric_that_thresholds_a_smooth_one_is_an_artefact() -> None:
    curve = curve_of(mirage)
    assert curve.thresholds["loss"]["em"].is_break
    assert not curve.thresholds["loss"]["log_prob"].is_break
    assert min(curve.links.values()) >= 0.9
    assert curve.verdict.verdict == "artefact"


@pytest.mark.slow
def test_fewer_than_six_losses_are_undetermined() -> None:
    few = curve_of(breaking, losses=LOSSES[::2])
    assert few.verdict.verdict == "undetermined"
    assert not few.thresholds["loss"]["f1_tokens"].is_break


def test_two_losses_are_no_curve() -> None:
    two = curve_of(breaking, losses=LOSSES[:2])
    assert two.verdict.verdict == "undetermined" and two.thresholds == {}
    assert "too few for a curve" in two.text()


def test_settings_stay_apart_and_seeds_keep_their_common_steps() -> None:
    one, other = planted_snapshots(gradual, losses=LOSSES[:2]), planted_snapshots(gradual, losses=LOSSES[:3], seed=1)
    apart = planted_snapshots(gradual, losses=LOSSES[:2], series="b")
    first, second = emergence_curves([one, other, apart], n_boot=50, n_draws=19)
    assert [point.step for point in first.points] == [0, 1]
    assert any("[2]" in note for note in first.notes)
    assert len(second.runs) == 1 and first.label != second.label


def test_families_share_what_is_drawn_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    one = planted_snapshots(gradual, roles=roles_of_planted())
    both = [replace(s, scores={**s.scores, "other": s.scores["linear"]}) for s in one.snapshots]
    drawn: list[int] = []
    original = bootstrap.replicates_together

    def counted(tables: Sequence[ClusterTable], *arguments: Any) -> Any:
        drawn.append(tables[0].n_clusters)
        return original(tables, *arguments)

    monkeypatch.setattr(bootstrap, "replicates_together", counted)
    (alone,) = snapshot_curve._scored([one], 50, 0)
    n_drawn = len(drawn)
    of_both = snapshot_curve._scored([replace(one, snapshots=tuple(both))], 50, 0)
    assert len(drawn) == 2 * n_drawn and [scored.family for scored in of_both] == ["linear", "other"]
    for scored in of_both:
        assert (scored.points, scored.floor, scored.by_role) == (alone.points, alone.floor, alone.by_role)


def test_results_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    result = planted_snapshots(gradual, losses=LOSSES[:3])
    folder = tmp_path / "run" / FILES.folder
    folder.mkdir(parents=True)
    FILES.save(result, folder)
    again = read_result(folder)
    assert to_json(again.to_dict()) == to_json(result.to_dict())
    assert again.ids == result.ids
    for before, after in zip(result.snapshots, again.snapshots, strict=True):
        assert np.array_equal(before.scores["linear"]["em"], after.scores["linear"]["em"])
    assert result.estimates["pretrain_step_2"]["linear"]["f1_tokens"].point == pytest.approx(0.36, abs=0.01)
    gain = result.differences["initial"]["pretrain_step_2"]["linear"]["f1_tokens"]
    assert gain["difference"]["point"] == pytest.approx(0.16, abs=0.01) and gain["p_sign_flip"] < 0.05
    path = folder / FILES.json_file
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(RunDirectoryError, match="sha256"):
        read_result(folder)
    found, problems = read_snapshot_probes([tmp_path / "run", tmp_path])
    assert not found and problems[0][0] == "run"


# Across sizes ---------------------------------------------------------------------------------------


def point(k: int, score: float) -> ScalePoint:
    estimate = Estimate(score, score - 0.04, score + 0.04, "bca", 500, 100, se=0.02)
    return ScalePoint(f"size{k}", 10 ** (5 + k), 2 * 10 ** (5 + k), 6.0 - 0.4 * k, estimate, None)


def late_patients(loss: float, difficulty: np.ndarray) -> dict[str, np.ndarray]:
    """Agents are read from the start, patients only at the end; every third question has no other argument."""
    scores = gradual(loss, difficulty)
    is_agent = np.arange(len(difficulty)) % 2 == 0
    f1 = np.where(is_agent, 1.0, float(loss < 4.0))
    selection = np.where(np.arange(len(difficulty)) % 3 == 0, np.nan, f1)
    return scores | {"f1_tokens": f1, "argument_selection": selection}


def late_patients_f1(loss: float, difficulty: np.ndarray) -> dict[str, np.ndarray]:
    return {k: v for k, v in late_patients(loss, difficulty).items() if k != "argument_selection"}


def roles_of_planted(n: int = N_SNAPSHOT_QUESTIONS) -> list[str]:
    roles = ["agent" if i % 2 == 0 else "patient" for i in range(n)]
    return [*("place",) * (LEAST_ROLE_QUESTIONS - 1), *roles[LEAST_ROLE_QUESTIONS - 1 :]]


def test_roles_have_curves_of_their_own(tmp_path: Path) -> None:
    result = planted_snapshots(late_patients_f1, roles=roles_of_planted())
    FILES.save(result, tmp_path)
    assert read_result(tmp_path).roles == result.roles
    curve = emergence_curves([result], **DRAWS)[0]
    assert list(curve.by_role) == ["patient", "agent"]  # 29 questions about places are too few
    for role, first in (("agent", 1.0), ("patient", 0.0)):
        path = curve.by_role[role]["f1_tokens"]
        assert [e.point for e in path] == [first] * (len(LOSSES) - 2) + [1.0, 1.0]
        assert path[0].n == sum(r == role for r in result.roles)
    assert "patient:    F1 0.000" in curve.text() and "to 1.000" in curve.text()
    assert set(json.loads(to_json(curve.to_dict()))["by_role"]["agent"]) >= {"f1_tokens"}


def test_results_without_roles_have_no_curves_by_role(tmp_path: Path) -> None:
    FILES.save(planted_snapshots(gradual), tmp_path)
    old = read_result(tmp_path)
    curve = emergence_curves([old], **DRAWS)[0]
    assert old.roles == () and curve.by_role == {} and "agent:" not in curve.text()


def test_questions_without_another_argument_are_left_out_of_its_curve() -> None:
    result = planted_snapshots(gradual, roles=["agent", "patient"] * (N_SNAPSHOT_QUESTIONS // 2))
    for snapshot, loss in zip(result.snapshots, LOSSES, strict=False):
        snapshot.scores["linear"].update(late_patients(loss, np.linspace(0, 1, N_SNAPSHOT_QUESTIONS)))
    found = _by_role([result], [s.step for s in result.path_of_training], 50, 0)["linear"]
    assert found["agent"]["f1_tokens"][0].n == N_SNAPSHOT_QUESTIONS // 2
    assert found["agent"]["argument_selection"][0].n == sum(i % 3 != 0 for i in range(0, N_SNAPSHOT_QUESTIONS, 2))


def test_the_report_has_a_table_by_role(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result = planted_snapshots(late_patients_f1, roles=roles_of_planted())
    monkeypatch.setattr("emergence.report.charts.emergence_curve.read_snapshot_probes", lambda paths: ([result], []))
    charts = Charts()
    write_run(tmp_path, "full", 0.7)
    emergence_curve.collect(read_folder(tmp_path), charts, **DRAWS)
    (chart,) = charts.charts
    assert "of every snapshot, fitted on 100 training questions, layer chosen" in chart.caption
    (table,) = [block for block in chart.kind.tables(chart, ()) if isinstance(block, Table)]
    assert [row[:2] for row in table.rows] == [("patient", "f1_tokens"), ("agent", "f1_tokens")]
    assert len(table.head) == 3 + len(LOSSES) and table.rows[0][3].startswith("0.000 [")
    without = replace(chart, rows=tuple(row for row in chart.rows if row["mark"] != emergence_curve.BY_ROLE))
    assert list(chart.kind.tables(without, ())) == []


def test_five_sizes_are_fitted_and_four_are_refused() -> None:
    scores = [0.1, 0.1, 0.1, 0.3, 0.5, 0.7]
    fitted = scale_curve_of("wiki", [point(k, s) for k, s in enumerate(scores)], n_draws=199)
    assert not fitted.refused
    assert fitted.fits["non_embedding"].place.tau == pytest.approx(7.0, abs=0.1)
    assert fitted.fits["loss"].place.tau == pytest.approx(5.2, abs=0.05)
    assert fitted.fits["non_embedding"].test.p < 0.05
    assert 8.9 < fitted.fits["non_embedding"].half.x < 9.1
    refused = scale_curve_of("wiki", [point(k, s) for k, s in enumerate(scores[:4])], ["x: no score"], n_draws=19)
    assert not refused.fits and set(refused.refused) == {"non_embedding", "total", "loss"}
    line = scale_curve_of("wiki", [point(k, 0.1 + 0.1 * k) for k in range(6)], n_draws=99).text()
    assert "no break to claim" in line and "no break to claim" not in fitted.text() and "of the rise excluded" in line
    assert "at least 5" in refused.text() and "left out: x" in refused.text()
    json.loads(to_json(fitted))


def test_two_sizes_of_a_folder_form_one_series(tmp_path: Path) -> None:
    for size, frozen in (("tiny", 0.4), ("debug", 0.35)):
        for cell, f1 in (("full", 0.7), ("frozen", frozen), ("random_frozen", 0.2), ("random_full", 0.3)):
            write_run(tmp_path, cell, f1, config_name=size)
    scored = [score_set(found, n_boot=50) for found in group_results(collect_results(tmp_path)).sets]
    (curve,) = scale_curves(scored, n_draws=19)
    assert len(curve.points) == 2
    assert set(curve.refused) == {"non_embedding", "total", "loss"}


# Data ablation --------------------------------------------------------------------------------------


#: What short documents and what questions add to the F1 of a frozen trunk.
PLANTED = {"wiki": 0.40, "wiki+nq": 0.50, "wiki+control": 0.43}


def mixes(root: Path, tokens: dict[str, int]) -> Grouping:
    """Runs of two cells and two seeds by pretraining data."""
    for data in tokens:
        for seed in (0, 1):
            write_run(root, "full", 0.6, pretrain_data=data, seed=seed)
            write_run(root, "frozen", PLANTED[data], pretrain_data=data, seed=seed)
    collection = collect_results(root)

    def with_tokens(item: object) -> object:
        result = item.result  # type: ignore[attr-defined]
        seen = tokens[item.spec.pretrain_data]  # type: ignore[attr-defined]
        return replace(item, result=replace(result, pretraining={"steps": 100, "tokens_seen": seen}))  # type: ignore[type-var]

    return group_results(replace(collection, found=tuple(map(with_tokens, collection.found))))  # type: ignore[arg-type]


def test_the_ablation_pairs_questions_at_one_token_budget(tmp_path: Path) -> None:
    found = ablate(mixes(tmp_path, {"wiki": 1000, "wiki+nq": 1000}), n_boot=200)
    assert not found.refused and len(found.missing) == 1 and "wiki+control" in found.missing[0]
    by_cell = {cell.cell: cell for cell in found.cells}
    assert by_cell["frozen"].comparison.difference.point == pytest.approx(0.1, abs=0.03)
    assert by_cell["frozen"].seeds == (0, 1) and by_cell["frozen"].tokens == 1000
    assert by_cell["full"].comparison.difference.point == pytest.approx(0.0, abs=0.03)
    json.loads(to_json(found))
    assert "wiki+nq minus wiki" in found.text() and "open: " in found.text()


def test_the_control_takes_apart_what_questions_and_what_short_documents_add(tmp_path: Path) -> None:
    found = ablate(mixes(tmp_path, dict.fromkeys(PLANTED, 1000)), n_boot=200)
    frozen = {cell.contrast: cell.comparison.difference for cell in found.cells if cell.cell == "frozen"}
    assert list(frozen) == ["wiki+nq minus wiki", "wiki+nq minus wiki+control", "wiki+control minus wiki"]
    names, points = list(frozen), [difference.point for difference in frozen.values()]
    assert points == pytest.approx([0.10, 0.07, 0.03]), "the parts add up"
    assert not found.refused and not found.missing and len(found.cells) == 6
    charts = all_charts(read_folder(tmp_path, n_boot=50), n_boot=50)
    (chart,) = (chart for chart in charts.charts if chart.name == "data_ablation")
    assert len(chart.rows) == 6 and "wiki+control" in chart.caption
    assert chart.alt.count("wiki+nq minus wiki+control") == 2 and chart.is_wide is False
    assert render(chart, ["png"])["png"].startswith(b"\x89PNG")
    (told,) = chart.kind.tables(chart, ())
    assert isinstance(told, Table) and [row[2:5:2] for row in told.rows if row[0] == names[1]] == [
        ("full", "0.600"), ("frozen", "0.500"),
    ]  # fmt: skip


def test_different_budgets_are_not_compared(tmp_path: Path) -> None:
    found = ablate(mixes(tmp_path, {"wiki": 1000, "wiki+nq": 1200}), n_boot=50)
    assert not found.cells
    assert all("different numbers of tokens (1,000 and 1,200)" in reason for reason in found.refused)
