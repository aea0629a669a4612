"""Encoded pairs and logits to scores, with readers whose ability is planted."""

from __future__ import annotations

import numpy as np
import pytest

from emergence.answering.features import SpanLogits
from emergence.answering.minimal_pairs import score_minimal_pairs
from emergence.data.minimal_sets import crossed_span, microworld_pairs
from emergence.data.qa_encoding import EncodedQA, encode_qa
from tests.answering.qa_tasks import WordTokenizer


@pytest.fixture(scope="module")
def encoded() -> EncodedQA:
    return encode_qa(microworld_pairs(40), WordTokenizer(), "question-first", 64)[0]


def pointing_at(data: EncodedQA, spans: np.ndarray) -> SpanLogits:
    """``spans``: first and last word, (N, 2)."""
    start = np.zeros((len(data), int(data.n_words.max())), dtype=np.float32)
    end = start.copy()
    rows = np.arange(len(data))
    start[rows, spans[:, 0]] = end[rows, spans[:, 1]] = 5.0
    return SpanLogits(start, end, data.n_words)


def crossed(data: EncodedQA) -> np.ndarray:
    found = [crossed_span(e, data.examples[i ^ 1]) for i, e in enumerate(data.examples)]
    return np.array(found) - [0, 1]


def test_right_wrong_and_order_free_readers(encoded: EncodedQA) -> None:
    right = score_minimal_pairs(pointing_at(encoded, encoded.first_golds), encoded)
    wrong = score_minimal_pairs(pointing_at(encoded, crossed(encoded)), encoded)
    assert len(right) == 40 and right.both_right.mean() == right.both_exact.mean() == 1.0
    assert wrong.both_right.mean() == wrong.one_right.mean() == 0.0
    # Always the phrase that answers member a: right there, wrong in b.
    same_words = np.where(np.arange(len(encoded))[:, None] % 2, crossed(encoded), encoded.first_golds)
    bag = score_minimal_pairs(pointing_at(encoded, same_words), encoded)
    assert bag.both_right.mean() == 0.0 and bag.one_right.mean() == 1.0
    assert right.clusters[:2] == ("pair-000000", "pair-000001")
    assert {kind.split("/")[0] for kind in right.kinds} >= {"active", "cleft"}


def test_members_may_come_in_any_order_and_a_lost_one_takes_its_pair(encoded: EncodedQA) -> None:
    order = np.random.default_rng(0).permutation(len(encoded))[1:]
    mixed = encoded.subset(order)
    found = score_minimal_pairs(pointing_at(mixed, mixed.first_golds), mixed)
    assert len(found) == 39 and found.n_incomplete == 1 and found.both_right.mean() == 1.0


def test_the_cap_bounds_exact_matches_alone(encoded: EncodedQA) -> None:
    logits = pointing_at(encoded, encoded.first_golds)
    one_word = np.diff(encoded.first_golds, axis=1)[:, 0] == 0
    found = score_minimal_pairs(logits, encoded, max_answer_words=1)
    assert found.both_right.mean() == 1.0
    assert found.both_exact.tolist() == one_word.reshape(-1, 2).all(axis=1).tolist()


def test_no_pairs_are_no_scores(encoded: EncodedQA) -> None:
    none = encoded.subset([])
    nothing = np.zeros((0, 5), dtype=np.float32)
    assert len(score_minimal_pairs(SpanLogits(nothing, nothing, none.n_words), none)) == 0
