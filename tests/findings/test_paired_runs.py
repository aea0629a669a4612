"""Two runs against each other: a planted difference is found, none is reported where none was planted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emergence.errors import DataError, UsageError
from emergence.experiment.claims import own_result
from emergence.findings.paired_runs import compare_runs
from emergence.findings.two_by_two import RunScores
from tests.command_lines import typed
from tests.planted_runs import spec_of, write_run
from tests.small_runs import run_micro


def planted(root: Path, cell: str, f1: float, **more: Any) -> RunScores:
    return RunScores.load(write_run(root, cell, f1, **more))


def test_a_planted_difference_is_found_to_the_digit(tmp_path: Path) -> None:
    a, b = planted(tmp_path, "frozen", 0.62, bilinear=0.7), planted(tmp_path, "random_frozen", 0.5, bilinear=0.7)
    comparison = compare_runs(a, b, n_boot=500)
    rows = {(row.readout_a, row.readout_b, row.score): row for row in comparison.rows}
    linear, bilinear = rows["headline", "headline", "f1_tokens"], rows["bilinear", "bilinear", "f1_tokens"]
    assert linear.paired.difference.point == pytest.approx(0.12)
    assert (linear.mean_a, linear.mean_b) == (pytest.approx(0.62), pytest.approx(0.5))
    assert linear.paired.difference.lo > 0.1 and linear.paired.p_sign_flip < 0.001
    assert bilinear.paired.difference.lo < 0 < bilinear.paired.difference.hi and bilinear.paired.p_sign_flip > 0.05
    assert comparison.n_questions == 120 and comparison.n_sentences == 40
    # What all questions share cancels: the interval is that of the difference, not of two means.
    wide = np.std(a.scores["headline"]["f1_tokens"]) / np.sqrt(120)
    assert linear.paired.difference.hi - linear.paired.difference.lo < 2 * wide


def test_the_other_way_round_changes_the_sign_alone(tmp_path: Path) -> None:
    a, b = planted(tmp_path, "frozen", 0.62), planted(tmp_path, "random_frozen", 0.5)
    there, back = (compare_runs(*pair, n_boot=200).rows[0].paired for pair in ((a, b), (b, a)))
    assert there.difference.point == -back.difference.point and there.p_sign_flip == back.p_sign_flip


def test_one_finetuned_head_stands_against_every_probe(tmp_path: Path) -> None:
    full, frozen = planted(tmp_path, "full", 0.8), planted(tmp_path, "frozen", 0.5, bilinear=0.6)
    comparison = compare_runs(full, frozen, n_boot=50)
    pairs = dict.fromkeys((row.readout_a, row.readout_b) for row in comparison.rows)
    assert list(pairs) == [("headline", "headline"), ("headline", "bilinear")]
    assert "finetuned - linear" in comparison.text() and "finetuned - bilinear" in comparison.text()
    assert "condition full against frozen" in comparison.text()
    for names in (["headline", "bilinear"], ["finetuned", "bilinear"]):  # the word that the table has for it
        named = compare_runs(full, frozen, names, n_boot=50)
        assert {(row.readout_a, row.readout_b) for row in named.rows} == {("headline", "bilinear")}
    assert "the same run" not in "".join(named.notes)
    with pytest.raises(UsageError, match="the other run has it: name them in the runs' order"):
        compare_runs(full, frozen, ["bilinear", "finetuned"])
    assert any(note.startswith("A and B are the same run") for note in compare_runs(full, full, n_boot=50).notes)


def test_settings_that_differ_are_named(tmp_path: Path) -> None:
    a, b = (planted(tmp_path, "frozen", 0.5, sets=(f"pretrain.initial_context={n}",)) for n in (0, 32))
    told = "".join(compare_runs(a, b, n_boot=50).notes)
    assert "the runs differ in pretrain.initial_context (0 and 32)" in told
    other = planted(tmp_path, "frozen", 0.5, config_name="small")
    assert "pretrain." not in "".join(compare_runs(a, other, n_boot=50).notes), "sizes differ in all"
    other = planted(tmp_path, "frozen", 0.5, config_name="small", sets=("recipe=gpt2",))
    assert "differ in config debug against small, recipe modern against gpt2" in "".join(
        compare_runs(a, other, n_boot=50).notes
    )


def test_settings_are_of_what_both_runs_did(tmp_path: Path) -> None:
    """One that was given its trunk has settings for a pretraining that it never did; a probed one finetunes nothing."""
    sets = ("pretrain.muon_lr=0.5", "finetune.lr=0.5", "probe.epochs=7")
    maker = planted(tmp_path, "frozen", 0.5, sets=sets)
    given = {"skip_pretrain": True, "pretrained_model_path": f"{maker.run.run_id}/toy_llm_unified_pretrained.pth"}
    same = planted(tmp_path, "frozen", 0.5, trunk_of=maker.run.spec, **given)
    note = next(note for note in compare_runs(maker, same, n_boot=50).notes if note.startswith("the runs differ"))
    usual = same.run.spec.config.probe.epochs
    assert note == f"the runs differ in probe.epochs (7 and {usual})"
    unknown = spec_of("full", sets=("pretrain.muon_lr=0.3",))
    elsewhere = planted(tmp_path, "frozen", 0.5, trunk_of=unknown, sets=("probe.epochs=7",), **given)
    ids = maker.run.spec.pretrain_id, unknown.pretrain_id
    told = "".join(compare_runs(maker, elsewhere, n_boot=50).notes)
    assert f"the runs differ in pretraining {ids[0]} against {ids[1]}" in told and "muon" not in told
    other_seed = planted(tmp_path, "frozen", 0.5, trunk_of=unknown, sets=("probe.epochs=7",), seed=1, **given)
    told = "".join(compare_runs(maker, other_seed, n_boot=50).notes)
    assert "seed 0 against 1" in told and "pretraining" not in told, "which its id tells as well"
    sets_of_trunk = ("pretrain.muon_lr=0.4", "probe.epochs=7")
    swept = planted(tmp_path, "frozen", 0.5, sets=sets_of_trunk, **given)
    told = "".join(compare_runs(maker, swept, n_boot=50).notes)
    assert "differ in pretrain.muon_lr (0.5 and 0.4)" in told, "a sweep's run has the settings of its trunk"
    whole = [planted(tmp_path, "full", 0.5, sets=sets), planted(tmp_path, "full", 0.5, sets=sets[:1])]
    told = "".join(compare_runs(*whole, n_boot=50).notes)
    assert "the runs differ in finetune.lr (0.5 and " in told and "probe." not in told
    random = [planted(tmp_path, "random_full", 0.5, sets=sets[:n]) for n in (0, 1)]
    assert "the runs differ" not in "".join(compare_runs(*random, n_boot=50).notes), "no trunk was pretrained"
    assert "differ in condition" in (told := "".join(compare_runs(same, random[0], n_boot=50).notes))
    assert "pretraining" not in told, "that one of them is random says it"
    other_text = [planted(tmp_path / text, "frozen", 0.5, text=text) for text in ("text A", "text B")]
    assert "differ in pretraining text text A against text B" in "".join(compare_runs(*other_text, n_boot=50).notes)


@pytest.mark.parametrize("changed", ["finetune.marks=special", "pretrain.precision=bf16"])
def test_settings_of_all_phases_are_named_whoever_pretrained(tmp_path: Path, changed: str) -> None:
    """Probes, too, read marked sentences, in the number format of pretraining."""
    name, _, value = changed.partition("=")
    for cell in ("frozen", "random_full", "random_frozen"):
        a, b = planted(tmp_path / cell, cell, 0.5), planted(tmp_path / cell, cell, 0.5, sets=(changed,))
        assert f"the runs differ in {name} (auto and {value})" in "".join(compare_runs(a, b, n_boot=50).notes)


def test_documents_are_resampled_where_files_tell_them(tmp_path: Path) -> None:
    with_documents = [planted(tmp_path / "new", c, 0.5, documents=8) for c in ("frozen", "random_frozen")]
    without = [planted(tmp_path / "old", c, 0.5) for c in ("frozen", "random_frozen")]
    assert compare_runs(*with_documents, cluster="document", n_boot=50).cluster == "document"
    assert compare_runs(*with_documents, cluster="document", n_boot=50).n_documents == 8
    assert compare_runs(*without, cluster="document", n_boot=50).cluster == "sentence"


def test_equal_ids_with_other_words_or_questions_are_no_pairs(tmp_path: Path) -> None:
    pair = []
    for cell in ("frozen", "random_frozen"):
        run = write_run(tmp_path, cell, 0.5)
        rows = [{**row, "words": ["a", "b"], "question": "Who?"} for row in run.read_predictions()]
        if pair:  # of the second run
            rows[0]["question"], rows[1]["words"] = "Whom?", ["a", "c"]
        run.write_predictions(rows)
        run.write_stats(own_result(run).to_dict())
        pair.append(RunScores.load(run))
    comparison = compare_runs(*pair, n_boot=50)
    assert comparison.n_questions == 118
    assert "2 ids in both with other words or another question, left out" in comparison.notes
    assert not any("not in the other run" in note for note in comparison.notes)
    older = replace(pair[1], asked=None)
    assert compare_runs(pair[0], older, n_boot=50).n_questions == 120
    with pytest.raises(DataError, match=r"share no test question \(120 ids in both, of other words or questions\)"):
        compare_runs(pair[0], replace(older, asked=(b"",) * 120))


def test_what_cannot_be_compared_is_one_line(tmp_path: Path) -> None:
    a, b = planted(tmp_path, "frozen", 0.6, bilinear=0.7), planted(tmp_path, "random_frozen", 0.5)
    with pytest.raises(UsageError, match="no read-out 'bilinaer': did you mean bilinear"):
        compare_runs(a, b, ["bilinaer"])
    with pytest.raises(UsageError, match="one name, or one for each run"):
        compare_runs(a, b, ["headline"] * 3)
    other = RunScores(b.run, b.result, tuple(f"x{i}" for i in b.ids), b.sentences, b.scores)
    with pytest.raises(DataError, match="share no test question"):
        compare_runs(a, other)
    half = RunScores(
        b.run,
        b.result,
        b.ids[:60],
        b.sentences[:60],
        {"headline": {k: v[:60] for k, v in b.scores["headline"].items()}},
    )
    comparison = compare_runs(a, half, n_boot=50)
    assert comparison.n_questions == 60 and "60 questions of" in comparison.text()


def test_the_command_prints_text_or_json(tmp_path: Path) -> None:
    runs = [run_micro(tmp_path, freeze_llm=True, random_baseline=random) for random in (False, True)]
    names, folder = [run.run_id for run in runs], str(runs[0].path.parent)
    words = ["compare", *names, "--runs-dir", folder]
    text = typed("emergence", *words)
    planned = compare_runs(*map(RunScores.load, runs)).rows[0].paired.difference
    assert text.code == 0 and f"{planned.point:+.3f} [" in text.out and "not corrected for" in text.out
    stored = json.loads(typed("emergence", *words, "--json").out)
    assert stored["rows"][0]["paired"]["difference"]["point"] == pytest.approx(planned.point)
    assert typed("emergence", "compare", names[0], "nowhere", "--runs-dir", folder).code == 2
