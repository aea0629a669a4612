"""Collecting and comparing: planted 2x2s, the older format, and everything that must not be averaged in."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from emergence.errors import DataError
from emergence.findings.collect import collect_results
from emergence.findings.comparable import Grouping, group_results
from emergence.findings.folder import read_folder
from emergence.findings.scores import PAIRED, POINT, SUMMARY, SetScores, score_set
from emergence.findings.table import build_table
from emergence.spec.experiment import ExperimentSpec, pretrain_label
from tests.planted_runs import spec_of, write_grid, write_guide_file, write_run

PLANTED = {"full": 0.6, "frozen": 0.4, "random_full": 0.3, "random_frozen": 0.2}


def group(root: Path) -> Grouping:
    return group_results(collect_results(root))


def score(root: Path) -> SetScores:
    (only,) = group(root).sets
    return score_set(only, n_boot=300)


def reasons(root: Path) -> dict[str, tuple[str, str]]:
    """Name to kind and reason of everything that was left out, while collecting or grouping."""
    collection = collect_results(root)
    return {s.name: (s.kind, s.reason) for s in (*collection.skipped, *group_results(collection).skipped)}


def test_run_directories_give_the_planted_score_from_paired_questions(tmp_path: Path) -> None:
    write_grid(tmp_path, PLANTED, bilinear=0.5)
    found = score(tmp_path)
    headline = found.headline
    assert headline.basis == PAIRED and headline.probe and headline.scratch and headline.gap
    assert headline.probe.score.point == pytest.approx(0.5) and headline.gap.point == pytest.approx(0.2)
    assert headline.scratch.score.point == pytest.approx(1 / 3)
    assert headline.probe.score.lo < 0.5 < headline.probe.score.hi
    assert found.notes == () and headline.reading and headline.reading.verdict == "partial"
    bilinear = found.readouts["bilinear"].probe
    assert bilinear and bilinear.score.flags and bilinear.headroom.point == pytest.approx(0.1)


def test_stats_alone_give_the_same_point_and_a_wider_interval(tmp_path: Path) -> None:
    runs = write_grid(tmp_path / "runs", PLANTED, bilinear=0.3)
    (tmp_path / "results").mkdir()
    for cell, run in runs.items():
        shutil.copy(run.stats_path, tmp_path / "results" / f"my {cell}.json")
    paired, alone = score(tmp_path / "runs").headline, score(tmp_path / "results").headline
    assert alone.basis == SUMMARY and alone.probe and paired.probe
    a, b = alone.probe.score, paired.probe.score
    assert a.point == pytest.approx(b.point) and a.method == "fieller"
    assert a.hi - a.lo > 2 * (b.hi - b.lo)
    notes = score(tmp_path / "results").notes
    assert any("my frozen.json" in note and "wider than paired" in note for note in notes)


def test_a_run_and_its_renamed_copy_count_once(tmp_path: Path) -> None:
    run = write_grid(tmp_path, PLANTED)["full"]
    shutil.copy(run.stats_path, tmp_path / "a_copy.json")
    assert score(tmp_path).headline.basis == PAIRED
    assert reasons(tmp_path) == {"a_copy.json": ("copy", f"the same run as {run.run_id}, which is used")}


def test_seeds_are_averaged_and_the_trunks_seed_counts(tmp_path: Path) -> None:
    """Frozen probes run with the default seed on trunks of two seeds are two seeds, not one twice."""
    for seed in (0, 1):
        trunk = spec_of("full", seed=seed)
        write_grid(tmp_path, {"full": 0.6 + 0.02 * seed, "random_frozen": 0.2}, seed=seed)
        weights = {"skip_pretrain": True, "pretrained_model_path": f"run{seed}/x.pth"}
        write_run(tmp_path, "frozen", 0.4 + 0.02 * seed, trunk_of=trunk, **weights)
    headline = score(tmp_path).headline
    assert headline.basis == PAIRED and headline.grid and headline.probe
    assert {cell: len(runs) for cell, runs in headline.grid.runs.items()} == {
        "full": 2,
        "frozen": 2,
        "random_frozen": 2,
    }
    assert headline.probe.score.point == pytest.approx(0.21 / 0.41) and headline.probe.score.n_seeds == 2


@pytest.mark.parametrize(
    ("full", "frozen", "expected"),
    [(0.25, 0.05, 0.20), (0.45, 0.15, 0.33), (0.70, 0.65, 0.93), (0.75, 0.73, 0.97), (0.70, 0.12, 0.17)],
)
def test_guide_files_give_the_guides_scenarios_as_points(
    tmp_path: Path, full: float, frozen: float, expected: float
) -> None:
    write_guide_file(tmp_path / "tiny_full.json", full)
    write_guide_file(tmp_path / "tiny_frozen.json", frozen, frozen=True)
    write_guide_file(tmp_path / "deeper" / "random.json", 0.0, random=True)
    found = score(tmp_path)
    headline = found.headline
    assert headline.basis == POINT and headline.split == "validation" and headline.scratch
    assert round(headline.scratch.score.point, 2) == expected
    assert math.isnan(headline.scratch.score.lo) and "no_interval" in headline.scratch.flags
    assert headline.probe is None and headline.reading is None
    assert any("no interval: per-question scores are not in this file" in note for note in found.notes)
    assert any(note.startswith("random frozen was not run") for note in found.notes)


def test_two_guide_files_of_one_cell_are_not_chosen_between(tmp_path: Path) -> None:
    write_guide_file(tmp_path / "wiki.json", 0.5)
    write_guide_file(tmp_path / "wiki_nq.json", 0.6)
    write_guide_file(tmp_path / "frozen.json", 0.4, frozen=True)
    left_out = reasons(tmp_path)
    assert set(left_out) == {"wiki.json", "wiki_nq.json"} and "own folder" in left_out["wiki.json"][1]
    assert score(tmp_path).headline.basis is None


def test_what_is_no_result_is_named_with_its_reason(tmp_path: Path) -> None:
    write_grid(tmp_path, PLANTED)
    unfinished = write_run(tmp_path, "frozen", 0.4, finished=False, layout="echo")
    edited = write_run(tmp_path, "frozen", 0.4, seed=7)
    edited.stats_path.write_text(edited.stats_path.read_text().replace('"seed": 7', '"seed": 8'))
    cut = tmp_path / "cut.json"
    cut.write_text(edited.stats_path.read_text()[:400])
    (tmp_path / "foreign.json").write_text('{"accuracy": 0.9}')
    (tmp_path / "nan.json").write_text('{"config_name": "tiny", "final_validation_f1": NaN}')
    (tmp_path / "ours.json").write_text('{"kind": "emergence-results-table"}')
    write_guide_file(tmp_path / "null.json", 0.5, final_validation_f1=None)
    write_guide_file(tmp_path / "percent.json", 51.0)
    (tmp_path / "other_program").mkdir()
    (tmp_path / "other_program" / "spec.json").write_text('{"type": "web"}')
    left_out = reasons(tmp_path)
    says = {
        unfinished.run_id: ("unfinished", "not finished"),
        edited.run_id: ("damaged", "does not match"),
        "cut.json": ("damaged", "cut short"),
        "foreign.json": ("foreign", "not a results file"),
        "nan.json": ("damaged", "NaN"),
        "null.json": ("damaged", "no validation F1"),
        "percent.json": ("damaged", "between 0 and 1"),
        "other_program": ("damaged", "not written by this program"),
    }
    assert set(left_out) == set(says)
    for name, (kind, reason) in says.items():
        assert left_out[name][0] == kind and reason in left_out[name][1], left_out[name]
    assert score(tmp_path).headline.basis == PAIRED


def test_damaged_predictions_leave_the_stats_and_are_told(tmp_path: Path) -> None:
    run = write_grid(tmp_path, PLANTED)["frozen"]
    path = run.path / "predictions.jsonl"
    path.write_text(path.read_text().replace("0.4", "0.5", 1))
    found = score(tmp_path)
    assert found.headline.basis == SUMMARY and found.headline.probe
    assert found.headline.probe.score.point == pytest.approx(0.5)
    assert any(note.startswith(f"{run.run_id}: predictions.jsonl") for note in found.notes)


def test_a_run_with_an_edited_spec_is_in_the_list_of_damaged_ones_and_nowhere_else(tmp_path: Path) -> None:
    runs = write_grid(tmp_path, PLANTED)
    spec = runs["frozen"].path / "spec.json"
    spec.write_text(spec.read_text() + " ")
    found = collect_results(tmp_path)
    assert [(item.kind, item.name) for item in found.skipped] == [("damaged", runs["frozen"].run_id)]
    assert runs["frozen"].run_id not in {item.result.run_id for item in found.found}


def test_predictions_of_another_model_are_noticed(tmp_path: Path) -> None:
    run, other = (write_run(tmp_path, "full", f1, seed=seed) for seed, f1 in enumerate((0.6, 0.5)))
    shutil.copy(other.path / "predictions.jsonl", run.path)
    (run.path / "MANIFEST.json").unlink()
    collection = collect_results(tmp_path)
    assert [item.name for item in collection.found] == [other.run_id]
    (item,) = [i for i in collection.skipped if i.name == run.run_id]
    assert item.kind == "damaged" and "f1_tokens is 0.6, but predictions.jsonl gives 0.5" in item.reason


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tokenizer": "B"}, "tokenizer"),
        ({"questions": "B"}, "questions ("),
        ({"sets": ("model.n_layers=1",)}, "model.n_layers (2 and 1)"),
        ({"sets": ("pretrain.muon_lr=0.01",)}, "pretrain.muon_lr (0.02 and 0.01)"),
        ({"sets": ("evaluate.alpha=0.1",)}, "evaluate.alpha (0.05 and 0.1)"),
    ],
)
def test_mixed_experiments_are_kept_apart_by_name(tmp_path: Path, change: dict[str, object], says: str) -> None:
    write_grid(tmp_path, PLANTED)
    other = write_run(tmp_path, "frozen", 0.59, seed=1, **change)  # type: ignore[arg-type]
    grouping = group(tmp_path)
    assert len(grouping.sets) == 2 and len(grouping.mixed) == 1
    assert says in grouping.mixed[0] and other.run_id in grouping.mixed[0]
    scores = [score_set(s, n_boot=100).headline.probe for s in grouping.sets]
    assert [s.score.point for s in scores if s] == [pytest.approx(0.5)]


@pytest.mark.parametrize(
    "flags",
    [
        {"layout": "echo"},
        {"finetune_samples": 50},
        {"finetune_samples": 50, "subset": 1},
        {"config_name": "tiny"},
    ],
)
def test_layouts_samples_and_sizes_are_sets_of_their_own(tmp_path: Path, flags: dict[str, object]) -> None:
    write_grid(tmp_path, PLANTED)
    write_grid(tmp_path, PLANTED, **flags)
    grouping = group(tmp_path)
    assert [len(s.results()) for s in grouping.sets] == [4, 4] and not grouping.mixed


def test_draws_and_snapshots_are_told_apart_and_the_last_with_all_questions_is_the_main_one(tmp_path: Path) -> None:
    write_grid(tmp_path, PLANTED)
    for flags in ({}, {"subset": 1}, {"subset": 2}):
        write_grid(tmp_path, PLANTED, finetune_samples=50, **flags)
    write_run(tmp_path, "full", 0.4, snapshot="64")
    write_run(tmp_path, "full", 0.4, adapter="lora-1")
    write_run(tmp_path, "full", 0.4, snapshot="3of5", finetune_samples=50, subset=1)
    grouping = group(tmp_path)
    labels = [s.label for s in grouping.sets]
    assert len(labels) == len(set(labels)) == 7 and not grouping.mixed
    assert {"debug (n=50, subset 2), wiki", "debug (lora-1), wiki", "debug, wiki at step 100"} <= set(
        labels
    )  # planted runs say 100
    notes = "\n".join(build_table(tmp_path, n_boot=50).notes())
    assert "subset" in notes and "step 100" not in notes, "a point of a law has no verdict, and misses no other cell"
    main = read_folder(tmp_path, n_boot=50).main
    assert [s.comparable.label for s in main] == ["debug, wiki"]


def test_random_trunks_are_the_floor_of_every_pretraining(tmp_path: Path) -> None:
    write_grid(tmp_path, PLANTED)
    write_grid(tmp_path, {"full": 0.7, "frozen": 0.6}, pretrain_data="wiki+nq")
    grouping = group(tmp_path)
    assert [s.pretrain for s in grouping.sets] == ["wiki", "wiki+nq"] and not grouping.mixed
    points = [s.probe.score.point for s in (score_set(s, n_boot=100).headline for s in grouping.sets) if s.probe]
    assert points == pytest.approx([0.5, 0.8])


def test_a_pretraining_text_is_what_it_says_wherever_it_lay(tmp_path: Path) -> None:
    write_grid(tmp_path, PLANTED, pretrain_text="/home/me/wiki", text="text A")
    write_grid(tmp_path, {"full": 0.7, "frozen": 0.6}, pretrain_text="../me/wiki/", text="text A", seed=1)
    (one,) = group(tmp_path).sets
    assert {cell: len(items) for cell, items in one.cells.items()}["full"] == 2
    write_grid(tmp_path, {"full": 0.7, "frozen": 0.6}, pretrain_text="/home/me/wiki", text="text B", seed=2)
    grouping = group(tmp_path)
    assert len(grouping.sets) == 2 and "differ in pretraining text (text A and text B)" in grouping.mixed[0]


def test_sets_that_differ_in_settings_name_them(tmp_path: Path) -> None:
    write_grid(tmp_path, PLANTED)
    changed = ("pretrain.precision=bf16", "pretrain.log_every_steps=3")
    write_grid(tmp_path, {"full": 0.7, "frozen": 0.6}, seed=1, sets=changed)
    (told,) = group(tmp_path).mixed
    assert told.endswith("are not compared: they differ in pretrain.precision (auto and bf16)")
    many = [f"pretrain.{one}" for one in ("muon_lr=0.5", "adamw_lr=0.5", "grad_clip=3.0", "batch_size=4", "epochs=9")]
    write_grid(tmp_path, {"full": 0.7, "frozen": 0.6}, seed=2, sets=(*many, "pretrain.muon_momentum=0.5"))
    longest = max(group(tmp_path).mixed, key=len)
    assert longest.count(" and ") == 5 and longest.endswith(", 3 more settings")


def test_settings_are_those_of_the_run_that_pretrained(tmp_path: Path) -> None:
    """A run that was given its trunk has settings of its own for a pretraining that it never did."""
    maker = write_run(tmp_path, "frozen", 0.7, sets=("pretrain.muon_lr=0.5",))
    weights = {"skip_pretrain": True, "pretrained_model_path": f"{maker.run_id}/toy_llm_unified_pretrained.pth"}
    write_run(tmp_path, "full", 0.6, trunk_of=maker.spec, **weights)
    write_grid(tmp_path, PLANTED, seed=1)
    (told,) = group(tmp_path).mixed
    assert told.endswith("are not compared: they differ in pretrain.muon_lr (0.5 and 0.02)")


@pytest.mark.parametrize(("said", "known"), [("0.4", None), ("0.5", 0.5)])
def test_runs_of_one_trunk_are_one_set_whatever_they_say_of_its_pretraining(
    tmp_path: Path, said: str, known: float | None
) -> None:
    """Its own run need not be there. One that was given it may have its settings, as a sweep's runs have."""
    elsewhere = spec_of("full", sets=("pretrain.muon_lr=0.5",))
    given = {"skip_pretrain": True, "pretrained_model_path": "x.pth", "trunk_of": elsewhere}
    write_run(tmp_path, "frozen", 0.5, **given)
    write_run(tmp_path, "full", 0.6, sets=(f"pretrain.muon_lr={said}",), **given)
    (one,) = group(tmp_path).sets
    assert set(one.cells) == {"full", "frozen"}
    assert (one.pretraining and one.pretraining.config.pretrain.muon_lr) == known


def test_only_the_settings_behind_a_difference_are_named(tmp_path: Path) -> None:
    """Sets may differ in the rate, and it is not why they are apart."""
    write_grid(tmp_path, PLANTED)
    longest = ("finetune.max_answer_words=3", "finetune.lr=0.5")
    write_grid(tmp_path, {"full": 0.7, "frozen": 0.6}, seed=1, sets=longest)
    (told,) = group(tmp_path).mixed
    assert told.endswith("are not compared: they differ in finetune.max_answer_words (0 and 3)")


def test_a_text_without_word_order_has_a_label_of_its_own(tmp_path: Path) -> None:
    def label(**flags: Any) -> str:
        return pretrain_label(ExperimentSpec.from_flags(pretrain_data="shuffled", **flags))

    assert label() == "wiki shuffled" and label(data="microworld") == "microworld shuffled"
    assert label(pretrain_text="books/gutenberg") == "gutenberg shuffled"


def test_runs_trained_otherwise_and_runs_of_the_same_seed_are_left_out(tmp_path: Path) -> None:
    write_grid(tmp_path, PLANTED)
    write_grid(tmp_path, {"full": 0.6}, seed=1)
    odd = write_run(tmp_path, "full", 0.1, seed=2, sets=("finetune.lr=0.5",))
    again = write_run(tmp_path, "full", 0.9)
    left_out = reasons(tmp_path)
    assert "finetune.lr 0.5 instead of" in left_out[odd.run_id][1]
    assert len(left_out) == 2 and any("pretraining seed 0" in reason for _, reason in left_out.values())
    assert again.run_id.endswith("-2")


def test_a_folder_that_is_not_there_or_is_one_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        collect_results(tmp_path / "nowhere")
    write_guide_file(tmp_path / "results", 0.5)
    assert collect_results(tmp_path / "results").found[0].result.final_validation_f1 == 0.5
    run = write_run(tmp_path / "runs", "full", 0.5)
    assert [item.name for item in collect_results(run.path).found] == [run.run_id]


def test_malformed_test_scores_are_damage_not_a_crash(tmp_path: Path) -> None:
    from emergence.files import seal, to_json

    run = write_run(tmp_path / "runs", "full", 0.5)
    stats = json.loads(run.stats_path.read_text())
    for name, scores in {"list.json": {"scores": []}, "empty.json": {"scores": {"f1_tokens": {"point": 1}}}}.items():
        (tmp_path / name).write_text(to_json(seal({**stats, "test_scores": scores})))
    (tmp_path / "probes.json").write_text(to_json(seal({**stats, "probes": {"readouts": {"bilinear": 3}}})))
    left_out = reasons(tmp_path)
    assert all(left_out[name][0] == "damaged" for name in ("list.json", "empty.json", "probes.json"))
