"""Per-question scores as runs write them: argument selection, baselines, read-outs on top of words and positions."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emergence.experiment.facts import HEADLINE, RULE, WORDS, own_scorer, words_of_layout
from emergence.findings.table import build_table
from emergence.findings.two_by_two import RunScores
from emergence.findings.word_gains import gains_of_runs
from emergence.measures.conditional import WITH_WORDS
from emergence.report.table_formats import format_table
from tests.planted_runs import N_SENTENCES, PER_SENTENCE, Added, write_run

ADDED = Added({"linear": (0.01, 0.02), "bilinear": (0.03, 0.06)}, selection={"bilinear": 0.7})
NOTHING = Added({"linear": (0.0, 0.0), "bilinear": (0.0, 0.0)})
N = N_SENTENCES * PER_SENTENCE


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunScores]:
    root = tmp_path_factory.mktemp("runs")
    made = {
        "frozen": write_run(root, "frozen", 0.3, bilinear=0.5, added=ADDED),
        "twin": write_run(root, "random_frozen", 0.2, bilinear=0.3, added=NOTHING),
        "full": write_run(root, "full", 0.7),
    }
    return {name: RunScores.load(run) for name, run in made.items()}


def test_argument_selection_and_baselines_are_loaded(runs: dict[str, RunScores]) -> None:
    scores = runs["frozen"].scores
    assert set(scores) == {HEADLINE, "bilinear", "words+linear", "words+bilinear", WORDS, RULE}
    asked = np.isfinite(scores[HEADLINE]["argument_selection"])
    assert asked.sum() == N - N // 10 and not asked[0]  # null: the question has no other argument
    assert np.array_equal(asked, np.isfinite(scores[WORDS]["argument_selection"]))
    assert scores[WORDS]["f1_tokens"].mean() == pytest.approx(0.6)
    assert set(scores[RULE]) == {"em", "f1_tokens"} and scores[RULE]["f1_tokens"].mean() == pytest.approx(0.45)


def test_files_from_before_load_as_they_were(runs: dict[str, RunScores]) -> None:
    assert set(runs["full"].scores) == {HEADLINE}
    assert set(runs["full"].scores[HEADLINE]) == {"em", "f1_tokens", "log_prob", "expected_f1"}


def test_gains_of_runs_are_those_written(runs: dict[str, RunScores]) -> None:
    f1, selection = gains_of_runs(list(runs.values()), n_boot=200)
    assert (f1.score, selection.score, f1.words.n, selection.words.n) == ("f1_tokens", "argument_selection", N, N - 12)
    assert f1.families["bilinear"].gain.point == pytest.approx(0.03)
    assert f1.families["linear"].states.point == pytest.approx(0.3)  # the headline is the linear probe
    assert selection.families["bilinear"].difference is not None
    assert selection.families["bilinear"].difference.point == pytest.approx(0.06, abs=0.002)
    assert selection.families["bilinear"].states.point == pytest.approx(0.7, abs=0.01)
    assert f1.rule and f1.rule.point == pytest.approx(0.45) and selection.rule is None


def test_questions_are_put_into_one_order(runs: dict[str, RunScores]) -> None:
    twin = runs["twin"]
    order = np.random.default_rng(0).permutation(N)
    shuffled = replace(
        twin,
        ids=tuple(np.array(twin.ids)[order]),
        sentences=tuple(np.array(twin.sentences)[order]),
        scores={name: {s: v[order] for s, v in found.items()} for name, found in twin.scores.items()},
    )
    a, b = (gains_of_runs([runs["frozen"], other], n_boot=200)[0] for other in (twin, shuffled))
    assert a.families["bilinear"].difference == b.families["bilinear"].difference


def test_what_was_not_measured_gives_no_gains(runs: dict[str, RunScores]) -> None:
    def without(run: RunScores, *names: str) -> RunScores:
        return replace(run, scores={name: found for name, found in run.scores.items() if name not in names})

    frozen, twin = runs["frozen"], runs["twin"]
    assert gains_of_runs([without(frozen, WORDS), twin]) == () == gains_of_runs([twin, runs["full"]])
    (f1, _) = gains_of_runs([without(frozen, "words+linear"), twin], n_boot=200)
    assert list(f1.families) == ["bilinear"]
    (f1, _) = gains_of_runs([frozen, without(twin, WORDS)], n_boot=200)
    assert f1.families["bilinear"].difference is None


def test_in_the_echo_layout_words_and_positions_know_the_next_word() -> None:
    """A state of the second copy has seen the whole sentence, so what the next word tells is no gain of the states."""
    assert [words_of_layout(layout) for layout in ("question-first", "echo")] == ["words_left", "words_both"]
    assert WITH_WORDS[own_scorer("echo")].format(family="linear") == "words_both+linear"
    assert own_scorer("echo") == "both" and own_scorer("question-first") == "left"


def test_the_table_as_data_has_what_is_added(tmp_path: Path) -> None:
    """The verdict rests on it, so whoever gets the CSV can check it."""
    write_run(tmp_path, "frozen", 0.3, bilinear=0.5, added=ADDED)
    write_run(tmp_path, "random_frozen", 0.2, bilinear=0.3, added=NOTHING)
    table = build_table(tmp_path, n_boot=200)
    rows = {(r["mode"], r["probe"]): r for r in csv.DictReader(io.StringIO(format_table(table, "csv")))}
    ours, twin = rows["frozen", "bilinear"], rows["random frozen", "bilinear"]
    assert float(ours["added_f1_point"]) == pytest.approx(0.03)
    assert float(ours["added_argument_selection_point"]) == pytest.approx(0.06, abs=0.002)
    assert float(ours["added_f1_lo"]) <= 0.03 <= float(ours["added_f1_hi"])
    assert float(twin["added_f1_point"]) == pytest.approx(0.0, abs=1e-9)
    assert rows["full", ""]["added_f1_point"] == ""
    assert set(json.loads(format_table(table, "json"))["rows"][0]) > {"added_f1", "test_argument_selection"}
