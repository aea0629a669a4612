"""Choosing among a sentence's arguments: every rule of docs/methods.md#argument-selection on examples made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from emergence.measures.argument_selection import (
    ArgumentChoices,
    argument_choices,
    select_arguments,
    selection_chance,
)
from emergence.measures.scoring import score_spans
from emergence.measures.spans import FloatArray, GoldSpans

#: Sentence and predicate of three questions about one predicate.
SAME = [("s", 4)] * 3


def golds(*spans: list[tuple[int, int]]) -> GoldSpans:
    return GoldSpans.from_lists(spans)


def candidates(choices: ArgumentChoices, question: int) -> dict[int, list[tuple[int, int]]]:
    """Cluster -> its spans."""
    rows = np.flatnonzero(choices.owner == question)
    found: dict[int, list[tuple[int, int]]] = {}
    for row in rows:
        span = (int(choices.starts[row]), int(choices.ends_inclusive[row]))
        found.setdefault(int(choices.clusters[row]), []).append(span)
    return found


def pointing(starts: dict[int, float], ends: dict[int, float], width: int = 12) -> tuple[FloatArray, FloatArray]:
    """Logits of one question."""
    logits = np.zeros((2, 1, width))
    for side, values in enumerate((starts, ends)):
        for word, value in values.items():
            logits[side, 0, word] = value
    return logits[0], logits[1]


def selected(choices: ArgumentChoices, starts: dict[int, float], ends: dict[int, float]) -> float:
    """Of question 0, the others' logits being flat."""
    start, end = pointing(starts, ends)
    flat = np.zeros((len(choices), 12))
    first, last = flat.copy(), flat.copy()
    first[0], last[0] = start[0], end[0]
    return float(select_arguments(first, last, np.full(len(choices), 12), choices)[0])


def test_candidates_are_the_golds_of_all_questions_about_the_predicate() -> None:
    choices = argument_choices(golds([(0, 1), (0, 2)], [(5, 6)], [(8, 8)]), SAME)
    assert candidates(choices, 0) == {0: [(0, 1), (0, 2)], 1: [(5, 6)], 2: [(8, 8)]}
    assert candidates(choices, 1) == {0: [(5, 6)], 1: [(0, 1), (0, 2)], 2: [(8, 8)]}
    assert choices.n_clusters.tolist() == [3, 3, 3]
    assert choices.offsets.tolist() == [0, 4, 8, 12]


def test_spans_that_overlap_the_questions_own_golds_are_left_out() -> None:
    choices = argument_choices(golds([(0, 2), (9, 9)], [(2, 3)], [(8, 10), (5, 5)]), SAME)
    assert candidates(choices, 0) == {0: [(0, 2), (9, 9)], 1: [(5, 5)]}
    neighbours = argument_choices(golds([(0, 2)], [(3, 4)]), SAME[:2])  # side by side is no overlap
    assert candidates(neighbours, 0) == {0: [(0, 2)], 1: [(3, 4)]}


def test_overlapping_arguments_are_one_cluster_through_a_third_too() -> None:
    choices = argument_choices(golds([(0, 0)], [(4, 5), (7, 8)], [(5, 7), (10, 11)]), SAME)
    assert candidates(choices, 0) == {0: [(0, 0)], 1: [(4, 5), (5, 7), (7, 8)], 2: [(10, 11)]}
    inside = argument_choices(golds([(0, 0)], [(3, 9)], [(4, 5), (7, 7)]), SAME)  # a long one holds two short ones
    assert candidates(inside, 0) == {0: [(0, 0)], 1: [(3, 9), (4, 5), (7, 7)]}


def test_the_same_span_of_two_questions_is_one_candidate() -> None:
    choices = argument_choices(golds([(0, 0)], [(4, 5)], [(4, 5)]), SAME)
    assert candidates(choices, 0) == {0: [(0, 0)], 1: [(4, 5)]}


def test_other_predicates_and_other_sentences_lend_nothing() -> None:
    spans = golds([(0, 0)], [(4, 5)], [(7, 8)])
    choices = argument_choices(spans, [("s", 4), ("s", 2), ("t", 4)])
    assert choices.n_clusters.tolist() == [1, 1, 1]
    without = argument_choices(spans, [None, None, None])  # questions about no predicate are not about the same one
    assert without.n_clusters.tolist() == [1, 1, 1]
    apart = argument_choices(spans, [("s", 4), ("s", 2), ("s", 4)])  # not side by side
    assert candidates(apart, 0) == {0: [(0, 0)], 1: [(7, 8)]} and apart.n_clusters.tolist() == [2, 1, 2]


def test_the_best_gold_has_to_beat_the_best_span_of_every_cluster() -> None:
    choices = argument_choices(golds([(0, 0), (2, 2)], [(5, 6), (6, 6)], [(9, 9)]), SAME)
    assert selected(choices, {2: 3.0}, {2: 1.0}) == 1.0  # one gold is enough
    assert selected(choices, {2: 3.0, 6: 4.0}, {2: 1.0, 6: 1.0}) == 0.0  # one span of a cluster is enough
    assert selected(choices, {2: 3.0, 5: 2.5}, {2: 1.0, 6: 1.0}) == 1.0
    assert selected(choices, {2: 3.0, 9: 3.5}, {2: 1.0, 9: 1.0}) == 0.0  # every cluster counts
    assert selected(choices, {7: 50.0}, {7: 50.0, 2: 0.5}) == 1.0  # what is no candidate does not matter


def test_start_and_end_belong_to_one_span() -> None:
    choices = argument_choices(golds([(0, 0)], [(5, 5)], [(9, 9)]), SAME)
    assert selected(choices, {0: 2.0, 5: 3.0}, {0: 2.0, 9: 3.0}) == 1.0


def test_a_tie_is_wrong() -> None:
    choices = argument_choices(golds([(0, 0)], [(5, 6)]), SAME[:2])
    assert selected(choices, {}, {}) == 0.0
    assert selected(choices, {0: 1e-9}, {}) == 1.0


def test_questions_without_another_argument_have_no_score() -> None:
    choices = argument_choices(golds([(0, 3)], [(2, 5)], [(7, 7)]), [("s", 1), ("s", 1), ("s", 6)])
    flat = np.zeros((3, 12))
    assert np.isnan(select_arguments(flat, flat, [12, 12, 12], choices)).all()
    assert np.isnan(selection_chance(choices)).all()


def test_chance_counts_clusters_not_spans() -> None:
    choices = argument_choices(golds([(0, 0)], [(4, 5), (5, 5)], [(8, 8)]), SAME)
    assert selection_chance(choices).tolist() == [1 / 3, 1 / 3, 1 / 3]
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 6000, 12))
    many = argument_choices(golds(*([[(0, 0)], [(4, 4)], [(8, 8)]] * 2000)), [i // 3 for i in range(6000)])
    assert select_arguments(logits[0], logits[1], np.full(6000, 12), many).mean() == pytest.approx(1 / 3, abs=0.02)


def test_shifts_of_a_sentences_logits_and_padding_change_nothing() -> None:
    rng = np.random.default_rng(1)
    spans = golds(*([[(0, 1)], [(3, 3), (4, 6)], [(8, 8)]] * 20))
    choices = argument_choices(spans, [i // 3 for i in range(60)])
    start, end = rng.normal(size=(2, 60, 12))
    lengths = rng.integers(9, 13, 60)
    before = select_arguments(start, end, lengths, choices)
    assert 0 < before.mean() < 1
    shifted = start + rng.normal(size=(60, 1)), end + 5 * rng.normal(size=(60, 1))
    for array in shifted:
        array[np.arange(12) >= lengths[:, None]] = 1e6
    np.testing.assert_array_equal(select_arguments(shifted[0], shifted[1], lengths, choices), before)


def test_no_questions() -> None:
    none = argument_choices(golds(), [])
    assert len(none) == len(selection_chance(none)) == 0
    assert select_arguments(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0, dtype=int), none).shape == (0,)


def test_what_does_not_fit_is_refused() -> None:
    spans = golds([(0, 0)], [(1, 1)])
    with pytest.raises(ValueError, match="1 predicates for 2 questions"):
        argument_choices(spans, ["a"])
    with pytest.raises(ValueError, match="logits of 1 questions, choices of 2"):
        select_arguments(np.zeros((1, 3)), np.zeros((1, 3)), [3], argument_choices(spans, ["a", "a"]))


def test_scores_carry_the_choice_where_candidates_are_given() -> None:
    spans = golds([(0, 0)], [(5, 6)], [(2, 2)])
    start = np.zeros((3, 8))
    start[0, 0] = start[1, 0] = 4.0
    args = (start, start, [8, 8, 8], spans, 4)
    scores = score_spans(*args, choices=argument_choices(spans, [("s", 4), ("s", 4), ("s", 7)]))
    np.testing.assert_array_equal(scores.argument_selection, [1.0, 0.0, np.nan])
    assert scores.means()["argument_selection"] == 0.5
    without = score_spans(*args)
    assert without.argument_selection is None and "argument_selection" not in without.means()
    alone = score_spans(*args, choices=argument_choices(spans, [None] * 3))
    assert "argument_selection" not in alone.means()
