"""The row of shuffled text beside pretrained and random: found, paired with plain text, and told everywhere alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emergence.files import to_json
from emergence.findings.ablation import ORDER, Ablation, ablate, without_order
from emergence.findings.collect import Found, collect_results
from emergence.findings.comparable import Grouping, group_results
from emergence.findings.curves import read_curves
from emergence.findings.folder import read_folder
from emergence.findings.table import build_table, table_of
from emergence.report.blocks import Picture, Table
from emergence.report.charts.chart import all_charts
from emergence.report.charts.drawing import render
from emergence.report.sections import report_of
from tests.planted_runs import question_scores, write_run

WIKI = {"full": 0.70, "frozen": 0.40, "bilinear": 0.55}
SHUFFLED = {"full": 0.64, "frozen": 0.33, "bilinear": 0.45}


def write(root: Path, *, text: str | None = None, **flags: Any) -> None:
    """Two seeds of plain and of shuffled text, one random row."""
    for data, f1 in (("wiki", WIKI), ("shuffled", SHUFFLED)):
        for seed in (0, 1):
            common = {"pretrain_data": data, "seed": seed, "text": text and f"{text} {data}", **flags}
            write_run(root, "full", f1["full"], **common)
            write_run(root, "frozen", f1["frozen"], bilinear=f1["bilinear"], **common)
    write_run(root, "random_full", 0.6, **flags)
    write_run(root, "random_frozen", 0.2, bilinear=0.3, **flags)


def changed(root: Path, change: Any) -> Grouping:
    """The folder's grouping after ``change`` of every result."""
    collection = collect_results(root)
    return group_results(replace(collection, found=tuple(map(change, collection.found))))


def differences(found: Ablation) -> Mapping[tuple[str, str, str], float]:
    return {(c.measure, c.score, c.cell): round(c.comparison.difference.point, 3) for c in found.cells}


def test_plain_text_minus_shuffled_text_is_paired_for_every_readout(tmp_path: Path) -> None:
    write(tmp_path)
    found = ablate(group_results(collect_results(tmp_path)), ORDER, n_boot=200)
    assert differences(found) == {
        ("headline", "f1_tokens", "full"): 0.06,
        ("headline", "f1_tokens", "frozen"): 0.07,
        ("bilinear probe", "f1_tokens", "frozen"): 0.10,
    }
    assert all(c.seeds == (0, 1) and c.contrast == "wiki minus shuffled" for c in found.cells)
    assert all(c.comparison.difference.lo > 0 for c in found.cells), "paired: the questions' own spread is gone"
    assert not found.refused and not found.missing
    json.loads(to_json(found))


def with_words(item: Found) -> Found:
    """Adds argument selection (unknown for every third question), words and positions, and the probe on top of them."""
    if item.scores is None or item.spec is None or not item.spec.freeze_llm:
        return item
    n, seed = len(item.scores.ids), item.spec.seed
    gain = 0.05 if item.spec.pretrain_data == "wiki" else 0.01
    chosen = np.where(np.arange(n) % 3 == 0, np.nan, question_scores(0.8, seed))
    scores: dict[str, Any] = {name: dict(values) for name, values in item.scores.scores.items()}
    for readout, value in (("words_left", 0.0), ("words+bilinear", gain)):
        scores[readout] = {"f1_tokens": question_scores(0.5, seed) + value, "argument_selection": chosen + 2 * value}
    return replace(item, scores=replace(item.scores, scores=scores))


def test_what_the_probe_adds_to_words_is_compared_where_runs_measured_it(tmp_path: Path) -> None:
    write(tmp_path)
    found = ablate(changed(tmp_path, with_words), ORDER, n_boot=200)
    gain = "bilinear probe's gain over words"
    told = differences(found)
    assert (told[gain, "f1_tokens", "frozen"], told[gain, "argument_selection", "frozen"]) == (0.04, 0.08)
    (selected,) = (c for c in found.cells if c.score == "argument_selection")
    assert selected.comparison.difference.n == 80, "questions without another argument are left out"
    assert (selected.mixed, selected.base) == (pytest.approx(0.10), pytest.approx(0.02))
    assert "word order: wiki minus shuffled, bilinear probe's gain over words, argument selection" in found.text()


def test_unequal_budgets_questions_and_seeds_are_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path)

    def more_tokens(item: Found) -> Found:
        seen = 2000 if item.spec and item.spec.pretrain_data == "shuffled" else 1000
        return replace(item, result=replace(item.result, pretraining={"steps": 100, "tokens_seen": seen}))

    found = ablate(changed(tmp_path, more_tokens), ORDER, n_boot=50)
    assert not found.cells and all(
        "different numbers of tokens (1,000 and 2,000)" in reason for reason in found.refused
    )

    def other_seed(item: Found) -> Found:
        return replace(item, trunk_seed=7) if item.spec and item.spec.pretrain_data == "shuffled" else item

    found = ablate(changed(tmp_path, other_seed), ORDER, n_boot=50)
    assert not found.cells and all("no seed was run with both" in reason for reason in found.refused)


def test_a_shuffled_run_alone_is_told_and_a_plain_one_alone_misses_nothing(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "full", 0.6, pretrain_data="shuffled")
    write_run(tmp_path / "b", "full", 0.6)
    (reason,) = ablate(group_results(collect_results(tmp_path / "a")), ORDER).refused
    assert "shuffled: there is no run on wiki alone with the same settings" in reason
    plain = ablate(group_results(collect_results(tmp_path / "b")), ORDER)
    assert not plain.refused and not plain.missing and plain.text() == ""


@pytest.mark.parametrize("other", [{"layout": "echo"}, {"config_name": "tiny"}, {"sets": ("pretrain.epochs=7",)}])
def test_only_equal_settings_are_a_row_of_one_table(tmp_path: Path, other: dict[str, Any]) -> None:
    write_run(tmp_path, "full", 0.6)
    write_run(tmp_path, "full", 0.5, pretrain_data="shuffled", **other)
    assert without_order(group_results(collect_results(tmp_path))) == {}


def test_a_shorter_pretraining_is_no_row_of_the_same_table(tmp_path: Path) -> None:
    for data in ("wiki", "shuffled"):
        write_run(tmp_path, "full", 0.6, pretrain_data=data)

    def shorter(item: Found) -> Found:
        steps = 50 if item.spec and item.spec.pretrain_data == "shuffled" else 100
        return replace(item, result=replace(item.result, pretraining={"steps": steps, "tokens_seen": 10 * steps}))

    assert len(without_order(changed(tmp_path, lambda item: item))) == 1
    assert without_order(changed(tmp_path, shorter)) == {}


def test_the_third_row_stands_in_table_figure_and_report(tmp_path: Path) -> None:
    write(tmp_path, text="book")
    folder = read_folder(tmp_path, n_boot=50)
    (twin,) = without_order(folder.grouping).values()
    assert twin.pretrain == "wiki shuffled"

    results = table_of(folder.collection, folder.grouping, folder.scored)
    rows = {(row.pretrain, row.mode): row.test_f1 for row in results.rows if row.was_run and not row.is_extra_probe}
    assert rows["wiki shuffled", "frozen"].point == pytest.approx(0.33)  # type: ignore[union-attr]

    charts = all_charts(folder, n_boot=50)
    (bars,) = (chart for chart in charts.charts if chart.name == "two_by_two")
    assert {row["setting"] for row in bars.rows} == {"debug, wiki"}, "one group of bars, not two"
    heights = {row["cell"]: round(row["f1"], 2) for row in bars.rows if row["probe"] != "bilinear"}
    assert (heights["shuffled_full"], heights["shuffled_frozen"], heights["random_frozen"]) == (0.64, 0.33, 0.2)
    assert "random order" in bars.caption and "shuffled text, frozen: 0.33" in bars.alt
    (order,) = (chart for chart in charts.charts if chart.name == "word_order")
    assert [row["panel"] for row in order.rows] == ["token F1"] * 2 + ["bilinear probe, token F1"]
    assert "wiki minus shuffled, bilinear probe, token F1: 0.10" in order.alt
    for chart in (bars, order):
        assert render(chart, ["png"])["png"].startswith(b"\x89PNG")

    sections = {section.anchor: section for section in report_of(folder, results, charts).sections}
    (grid,) = (b for b in sections["grid"].blocks if isinstance(b, Table) and "debug, wiki: token F1" in b.caption)
    assert [row[0] for row in grid.rows] == ["pretrained trunk", "trunk of shuffled text", "random trunk"]
    assert grid.rows[1][1].startswith("0.330") and grid.rows[1][3].startswith("0.640")
    (told,) = (b for b in sections["order"].blocks if isinstance(b, Table))
    assert [row[3][:5] for row in told.rows] == ["0.060", "0.070", "0.100"]
    assert [b.name for b in sections["order"].blocks if isinstance(b, Picture)] == ["word_order"]
    assert not any(isinstance(b, Picture) and b.name == "word_order" for b in sections["ablation"].blocks)


def test_the_terminal_tells_the_differences(tmp_path: Path) -> None:
    write(tmp_path)
    curves = read_curves(tmp_path, n_boot=50, n_draws=19)
    text = curves.shown(False)
    assert "word order: wiki minus shuffled, token F1, paired by question" in text and "0.550 - 0.450 = 0.100" in text
    assert len(curves.to_dict()["order"]["cells"]) == 3
    assert any("wiki shuffled" in note for note in build_table(tmp_path, n_boot=50).notes())
