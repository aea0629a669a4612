"""Scores of span tables equal those of span heads where a table is a head's, and those done by hand where it is not."""

from __future__ import annotations

import numpy as np
import pytest

from emergence.measures.span_scores import PROBABILITY_FLOOR, expected_f1, gold_log_prob, span_em, span_f1
from emergence.measures.span_tables import decode_table, golds_log_sum, score_table
from emergence.measures.spans import GoldSpans, decode_joint


def test_a_heads_table_has_the_heads_scores() -> None:
    rng = np.random.default_rng(0)
    n, width, longest = 300, 9, 4
    lengths = rng.integers(1, width + 1, n)
    start, end = rng.normal(size=(2, n, width)).round(1)  # rounded, so that there are ties
    golds = GoldSpans.from_lists(
        [
            [(s, int(rng.integers(s, length))) for s in (int(rng.integers(length)) for _ in range(rng.integers(1, 4)))]
            for length in lengths
        ]
    )
    table = start[:, :, None] + np.pad(end, ((0, 0), (0, longest)))[:, np.arange(width)[:, None] + np.arange(longest)]
    prediction, scores = score_table(table, lengths, golds)
    joint = decode_joint(start, end, lengths, longest)
    np.testing.assert_array_equal(prediction, joint)
    np.testing.assert_array_equal(scores["em"], span_em(joint, golds))
    np.testing.assert_array_equal(scores["f1_tokens"], span_f1(joint, golds))
    likelihood = gold_log_prob(start, end, lengths, golds, longest)
    np.testing.assert_allclose(scores["log_prob"], likelihood.log_prob, atol=1e-12)
    np.testing.assert_allclose(scores["expected_f1"], expected_f1(start, end, lengths, golds, longest), atol=1e-12)


def test_golds_beyond_the_longest_span_have_no_probability() -> None:
    table = np.log(np.array([[[0.1, 0.2], [0.3, 0.4], [0.5, np.nan]]]))
    golds = GoldSpans.from_lists([[(0, 2)]])
    assert golds_log_sum(table, golds) == -np.inf
    _, scores = score_table(table, [3], golds)
    assert scores["log_prob"] == pytest.approx(np.log(PROBABILITY_FLOOR))
    both = GoldSpans.from_lists([[(0, 2), (1, 1), (0, 1)]])
    assert golds_log_sum(table, both) == pytest.approx(np.log(0.5))
    assert score_table(table, [3], both)[1]["log_prob"] == pytest.approx(np.log(0.5 / 1.5))
    assert [end.tolist() for end in decode_table(np.where(np.isnan(table), -np.inf, table))] == [[2], [2]]


def test_what_is_no_table_is_refused() -> None:
    golds = GoldSpans.from_lists([[(0, 0)]])
    for table, lengths in ((np.zeros((1, 2)), [2]), (np.zeros((1, 2, 2)), [3]), (np.full((1, 2, 2), -np.inf), [2])):
        with pytest.raises(ValueError, match=r"table|lengths|finite"):
            score_table(table, lengths, golds)
