"""A pair counts once, and what readers of known ability get."""

from __future__ import annotations

import json

import numpy as np
import pytest

from emergence.measures.minimal_sets import CHANCE, ORDER_FREE, MinimalPairScores, score_pairs

P, W = 2000, 6
#: Member a: the answer is word 0 and the wrong one word 4; in b the phrases have changed places.
OWN = np.tile([0, 0], P)
CROSSED = np.tile([4, 4], P)


def score(start: np.ndarray, own: np.ndarray = OWN, crossed: np.ndarray = CROSSED, **more: object) -> MinimalPairScores:
    n = len(start) // 2
    settings: dict = {"clusters": range(n), "kinds": ["k"] * n, "max_answer_words": W} | more
    return score_pairs(start, np.zeros_like(start), np.full(2 * n, W), (own, own), (crossed, crossed), **settings)


def one_hot(words: np.ndarray) -> np.ndarray:
    return np.eye(W)[words] * 5.0


def test_both_members_must_be_right() -> None:
    right = np.array([[0, 0], [0, 4], [4, 0], [4, 4]]).reshape(-1)
    found = score(one_hot(right), OWN[:8], CROSSED[:8])
    assert found.both_right.tolist() == [1, 0, 0, 0] and found.one_right.tolist() == [0, 1, 1, 0]
    assert found.selected.tolist() == [[True, True], [True, False], [False, True], [False, False]]
    assert found.estimate(n_boot=50).point == 0.25


def test_a_reader_without_order_gets_no_pair() -> None:
    """It prefers a word; the word is right in one member and wrong in the other."""
    words = np.random.default_rng(0).choice([0, 4], P)  # where member a has the preferred word
    places = np.stack([words, 4 - words], axis=1).reshape(-1)  # in b it stands where the other one was
    found = score(one_hot(places))
    assert found.both_right.mean() == ORDER_FREE and found.one_right.mean() == 1.0
    assert found.selected.mean() == 0.5  # which a score of single questions would have credited


def test_coins_get_a_quarter_and_a_reader_of_positions_may_get_all() -> None:
    coins = np.random.default_rng(1).choice([0, 4], 2 * P)
    found = score(one_hot(coins)).estimate(n_boot=500)
    assert found.lo <= CHANCE <= found.hi and found.n == found.n_clusters == P
    assert score(one_hot(np.zeros(2 * P, dtype=int))).both_right.mean() == 1.0


def test_a_tie_is_wrong() -> None:
    assert score(np.zeros((2, W)), OWN[:2], CROSSED[:2]).selected.tolist() == [[False, False]]


def test_selection_ignores_boundaries_and_exact_match_does_not() -> None:
    start = np.array([[3.0, 5, 0, 0, 1, 0], [3.0, 0, 0, 0, 1, 0]])  # a: word 1, no candidate, is best
    found = score(start, OWN[:2], CROSSED[:2])
    assert found.both_right.tolist() == [1.0] and found.both_exact.tolist() == [0.0]
    assert found.exact.tolist() == [[False, True]]


def test_spans_are_scored_from_start_and_end() -> None:
    start, end = np.zeros((2, W)), np.zeros((2, W))
    end[:, 2] = 3.0
    start[:, 4] = 2.0
    spans = (np.array([0, 0]), np.array([2, 2])), (np.array([4, 4]), np.array([5, 5]))
    found = score_pairs(start, end, [W, W], *spans, clusters=["p"], kinds=["k"], max_answer_words=W)
    assert found.both_right.tolist() == [1.0]  # 0 + 3 against 2 + 0


def test_pairs_of_one_sentence_are_resampled_together() -> None:
    places = one_hot(np.repeat(np.where(np.arange(P // 2) % 2, 0, 4), 4))
    together = score(places, clusters=np.arange(P) // 2).estimate(n_boot=500)
    apart = score(places).estimate(n_boot=500)
    assert together.n_clusters == P // 2 and together.se > 1.3 * apart.se


def test_the_report_is_json_and_survives_no_pairs() -> None:
    found = score(one_hot(np.zeros(8, dtype=int)), OWN[:8], CROSSED[:8], kinds=["a", "b", "a", "b"], n_incomplete=1)
    content = json.loads(json.dumps(found.to_dict(n_boot=20)))
    assert content["n_pairs"] == 4 and content["n_incomplete"] == 1 and content["chance"] == 0.25
    assert set(content["scores"]) == {"both_right", "both_exact", "one_right"}
    assert {kind: e["n"] for kind, e in content["by_kind"].items()} == {"a": 2, "b": 2}
    empty = score(np.zeros((0, W)), OWN[:0], CROSSED[:0]).to_dict(n_boot=20)
    assert empty["n_pairs"] == 0 and empty["scores"] == empty["by_kind"] == {}


def test_shapes_that_disagree_are_refused() -> None:
    with pytest.raises(ValueError, match="1 pairs"):
        MinimalPairScores(np.zeros((2, 2), bool), np.zeros((1, 2), bool), ("p",), ("k",))
