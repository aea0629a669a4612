"""Decoding and span scores: known answers, and every vectorised measure against a naive loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emergence.measures.argument_selection import argument_choices
from emergence.measures.scoring import SCORE_NAMES, answer_length_cap, score_spans
from emergence.measures.span_scores import (
    boundary_offset,
    expected_f1,
    gold_log_prob,
    span_brier,
    span_edit_distance,
    span_em,
    span_f1,
    span_iou,
)
from emergence.measures.spans import (
    GoldSpans,
    decode_independent,
    decode_joint,
    empty_where_invalid,
    invalid_rate,
    n_valid_spans,
)


def _f1(p, g):
    a, b = set(range(p[0], p[1] + 1)), set(range(g[0], g[1] + 1))
    return 2 * len(a & b) / (len(a) + len(b))


def _levenshtein(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (x != y)))
    return row[-1]


def _naive(start, end, length, golds, max_answer_words):
    """Every measure of one question by enumeration."""
    spans = [(i, j) for i in range(length) for j in range(i, min(length, i + max_answer_words))]
    scores = np.array([start[i] + end[j] for i, j in spans])
    p = np.exp(scores - scores.max())
    p /= p.sum()
    probability = dict(zip(spans, p, strict=True))
    best = spans[int(scores.argmax())]
    mass = [probability.get(g, 0.0) for g in golds]
    return {
        "decode": best,
        "f1": max(_f1(best, g) for g in golds),
        "iou": max(f / (2 - f) for f in (_f1(best, g) for g in golds)),
        "em": float(best in golds),
        "log_prob": np.log(max(sum(mass), 1e-12)),
        "expected_f1": sum(q * max(_f1(s, g) for g in golds) for s, q in probability.items()),
        "brier": 1 - 2 * max(mass) + (p**2).sum(),
        "offset": min(abs(best[0] - s) + abs(best[1] - e) for s, e in golds),
        "edit": min(_levenshtein(range(best[0], best[1] + 1), range(s, e + 1)) for s, e in golds),
        "unreachable": sum(g not in probability for g in golds),
    }


@st.composite
def _batches(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, width = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    lengths = rng.integers(1, width + 1, n)
    scale = draw(st.sampled_from([0.0, 1.0, 30.0]))
    start, end = np.round(scale * rng.normal(size=(2, n, width)), draw(st.sampled_from([0, 6])))  # 0 makes ties
    golds = []
    for length in lengths:
        firsts = rng.integers(0, length, rng.integers(1, 4))
        golds.append([(int(s), int(rng.integers(s, length))) for s in firsts])
    return start, end, lengths, golds, draw(st.integers(1, 10))


@given(_batches())
@settings(max_examples=60, deadline=None)
def test_vectorised_measures_equal_enumeration(batch):
    start, end, lengths, gold_lists, max_answer_words = batch
    golds = GoldSpans.from_lists(gold_lists)
    gold_lists = [list(dict.fromkeys(g)) for g in gold_lists]
    naive = [_naive(*row, max_answer_words) for row in zip(start, end, lengths, gold_lists, strict=True)]
    args = (start, end, lengths, golds, max_answer_words)
    predicted = decode_joint(*args[:3], max_answer_words)
    likelihood = gold_log_prob(*args)
    got = {
        "f1": span_f1(predicted, golds),
        "iou": span_iou(predicted, golds),
        "em": span_em(predicted, golds),
        "log_prob": likelihood.log_prob,
        "expected_f1": expected_f1(*args),
        "brier": span_brier(*args),
        "offset": boundary_offset(predicted, golds),
        "edit": span_edit_distance(predicted, golds),
    }
    assert list(zip(*(a.tolist() for a in predicted), strict=True)) == [row["decode"] for row in naive]
    assert likelihood.n_unreachable_golds == sum(row["unreachable"] for row in naive)
    for name, values in got.items():
        np.testing.assert_allclose(values, [row[name] for row in naive], rtol=1e-9, atol=1e-10, err_msg=name)


@given(_batches(), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_padding_and_order_of_questions_do_not_matter(batch, seed):
    start, end, lengths, gold_lists, max_answer_words = batch
    rng = np.random.default_rng(seed)
    plain = score_spans(start, end, lengths, GoldSpans.from_lists(gold_lists), max_answer_words)
    order = rng.permutation(len(lengths))
    wider = [np.full((len(lengths), start.shape[1] + 3), fill) for fill in (np.nan, np.inf)]
    for padded, logits in zip(wider, (start, end), strict=True):
        for n, length in enumerate(lengths):
            padded[n, :length] = logits[n, :length]
    golds = GoldSpans.from_lists(gold_lists).take(order)
    shuffled = score_spans(wider[0][order], wider[1][order], lengths[order], golds, max_answer_words)
    for name, values in plain.columns().items():
        np.testing.assert_allclose(shuffled.columns()[name], values[order], rtol=1e-12, atol=1e-13, err_msg=name)


def test_known_f1_and_iou():
    golds = GoldSpans.from_lists([[(4, 7)]])
    predicted = (np.array([2]), np.array([5]))
    assert span_f1(predicted, golds)[0] == 0.5
    assert span_iou(predicted, golds)[0] == pytest.approx(1 / 3)


def test_known_invalid_decode_and_joint_repair():
    start, end = np.log([[0.1, 0.2, 0.7, 1e-300]]), np.log([[0.6, 0.05, 0.05, 0.3]])
    starts, ends, valid = decode_independent(start, end, [4], 4)
    assert (starts[0], ends[0], valid[0]) == (2, 0, False)
    assert invalid_rate(start, end, [4], 4) == 1.0
    first, last = decode_joint(start, end, [4], 4)
    assert (first[0], last[0]) == (2, 3)
    assert np.exp(start[0, 2] + end[0, 3]) == pytest.approx(0.21)
    golds = GoldSpans.from_lists([[(0, 1)]])
    void = empty_where_invalid(starts, ends, valid)
    assert span_f1(void, golds)[0] == span_iou(void, golds)[0] == span_em(void, golds)[0] == 0.0
    assert span_edit_distance(void, golds)[0] == 2


def test_known_uniform_chance():
    assert n_valid_spans([20, 20], 30).tolist() == [210, 210]
    assert n_valid_spans([20], 10)[0] == 155
    flat = np.zeros((1, 20))
    for max_answer_words, chance in ((30, -5.347), (10, -5.043)):
        assert gold_log_prob(flat, flat, [20], GoldSpans.from_lists([[(3, 4)]]), max_answer_words).log_prob[
            0
        ] == pytest.approx(chance, abs=5e-4)
    flat, golds = np.zeros((1, 4)), GoldSpans.from_lists([[(1, 2)]])
    assert expected_f1(flat, flat, [4], golds, 4)[0] == pytest.approx(0.56)
    assert np.exp(gold_log_prob(flat, flat, [4], golds, 4).log_prob[0]) == pytest.approx(0.1)


def test_known_uniform_brier():
    # K = 4 valid spans: four words, one-word spans only.
    flat = np.zeros((1, 4))
    assert span_brier(flat, flat, [4], GoldSpans.from_lists([[(2, 2)]]), 1)[0] == pytest.approx(0.75)


def test_ties_go_to_the_smallest_start_then_the_smallest_end():
    flat = np.zeros((1, 5))
    assert [a[0] for a in decode_joint(flat, flat, [5], 3)] == [0, 0]
    end = np.array([[0.0, 1.0, 1.0, 0.0, 0.0]])
    assert [a[0] for a in decode_joint(flat, end, [5], 3)] == [0, 1]


def test_unreachable_golds_are_floored_and_counted():
    flat = np.zeros((2, 6))
    golds = GoldSpans.from_lists([[(0, 4)], [(0, 5), (1, 1)]])
    result = gold_log_prob(flat, flat, [6, 6], golds, 2)
    assert result.log_prob[0] == pytest.approx(np.log(1e-12))
    assert result.log_prob[1] == pytest.approx(-np.log(11))
    assert (result.n_floored, result.n_unreachable_golds, result.n_unreachable_questions) == (1, 2, 1)
    beyond = gold_log_prob(flat, flat, [3, 6], GoldSpans.from_lists([[(2, 3)], [(1, 1)]]), 6)
    assert beyond.n_unreachable_golds == 1


def test_extreme_logits_stay_finite():
    start, end = np.array([[0.0, 900.0, 0.0]]), np.array([[900.0, 0.0, 0.0]])  # both peaks form no valid span
    golds = GoldSpans.from_lists([[(0, 0), (1, 1)]])
    assert gold_log_prob(start, end, [3], golds, 3).log_prob[0] == pytest.approx(np.log(2 / 3), abs=1e-9)


def test_bad_input_is_refused():
    flat = np.zeros((1, 3))
    with pytest.raises(ValueError, match="no gold span"):
        GoldSpans.from_lists([[(0, 1)], []])
    with pytest.raises(ValueError, match="twice"):
        GoldSpans(np.array([0, 0]), np.array([1, 1]), np.array([0, 2]))
    with pytest.raises(ValueError, match="ends before"):
        GoldSpans.from_lists([[(2, 1)]])
    with pytest.raises(ValueError, match="lengths"):
        decode_joint(flat, flat, [4], 2)
    with pytest.raises(ValueError, match="finite"):
        decode_joint(np.full((1, 3), np.nan), flat, [3], 2)
    with pytest.raises(ValueError, match="max_answer_words"):
        decode_joint(flat, flat, [3], 0)


def test_score_spans_gives_every_column_and_string_scores():
    start = np.array([[5.0, 0, 0, 0], [0, 0, 5.0, 0]])
    end = np.array([[0, 5.0, 0, 0], [0, 0, 0, 5.0]])
    words = [["The", "cat", "ate", "fish"], ["x", "y", "the", "end"]]
    golds = GoldSpans.from_lists([[(1, 1)], [(0, 1)]])
    choices = argument_choices(golds, [None, None])
    scores = score_spans(start, end, [4, 4], golds, 4, sentences=words, choices=choices)
    assert tuple(scores.columns()) == SCORE_NAMES
    assert scores.em.tolist() == [0, 0] and scores.em_string.tolist() == [1, 0]
    assert scores.f1_tokens.tolist() == pytest.approx([2 / 3, 0])
    assert scores.means()["f1_string"] == 0.5 and scores.invalid_rate == 0.0
    given_texts = score_spans(start, end, [4, 4], golds, 4, sentences=words, gold_texts=[["fish"], ["end"]])
    assert given_texts.em_string.tolist() == [0, 1]
    assert "em_string" not in score_spans(start, end, [4, 4], golds, 4).columns()


def test_length_cap_is_the_rounded_up_percentile():
    golds = GoldSpans.from_lists([[(0, n % 10)] for n in range(1000)])
    assert answer_length_cap(golds) == 10
    assert answer_length_cap(golds, percentile=50) == 6
