"""Scores without a model: closed forms, clipping at the sentence's edges, and a planted rule."""

from __future__ import annotations

import numpy as np
import pytest

from emergence.measures.chance import (
    Placement,
    heuristic_scores,
    heuristic_spans,
    learn_wh_rule,
    rule_scores,
    uniform_chance,
)
from emergence.measures.spans import GoldSpans


def test_known_uniform_chance():
    chance = uniform_chance([4], GoldSpans.from_lists([[(1, 2)]]), 4)
    assert chance.em[0] == pytest.approx(0.1)
    assert chance.f1[0] == pytest.approx(0.56)
    assert chance.log_prob[0] == pytest.approx(np.log(0.1))
    long = uniform_chance([20, 20], GoldSpans.from_lists([[(0, 0)], [(0, 0), (3, 5)]]), 10)
    assert long.log_prob == pytest.approx([-np.log(155), np.log(2 / 155)])
    assert long.log_prob[0] == pytest.approx(-5.043, abs=5e-4)


def test_chance_of_an_unreachable_gold_is_the_floor():
    chance = uniform_chance([6], GoldSpans.from_lists([[(0, 4)]]), 2)
    assert chance.em[0] == 0 and chance.log_prob[0] == pytest.approx(np.log(1e-12)) and chance.f1[0] > 0


def test_fixed_rules_place_and_clip():
    spans = {k: [tuple(map(int, s)) for s in zip(*v, strict=True)] for k, v in heuristic_spans([5, 5], [2, 0]).items()}
    assert spans == {
        "whole_sentence": [(0, 4), (0, 4)],
        "left_word": [(1, 1), (0, 0)],
        "right_word": [(3, 3), (1, 1)],
        "all_left": [(0, 1), (0, 0)],
        "all_right": [(3, 4), (1, 4)],
    }
    scores = heuristic_scores([5, 5], [2, 0], GoldSpans.from_lists([[(3, 4)], [(0, 4)]]))
    assert scores["all_right"]["em"].tolist() == [1, 0]
    assert scores["whole_sentence"]["f1_tokens"].tolist() == pytest.approx([4 / 7, 1])
    with pytest.raises(ValueError, match="predicate"):
        heuristic_spans([5], [5])


def test_placements_keep_to_the_sentence():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 12, 200)
    predicates = rng.integers(0, lengths)
    for placement in (Placement(s, g, n) for s in ("left", "right") for g in (1, 4, 20) for n in (1, 3, None)):
        starts, ends = placement.spans(lengths, predicates)
        assert (starts >= 0).all() and (starts <= ends).all() and (ends < lengths).all()


def _planted(rng, n):
    lengths = rng.integers(18, 30, n)
    predicates = rng.integers(7, 9, n)
    wh = rng.choice(["who", "what", "where"], n)
    form = rng.choice(["active", "passive"], n)
    golds = []
    for p, w, f, length in zip(predicates, wh, form, lengths, strict=True):
        left = (w == "who") == (f == "active")
        golds.append([(length - 1, length - 1)] if w == "where" else [(p - 4, p - 2) if left else (p + 1, p + 2)])
    return lengths, predicates, wh, form, GoldSpans.from_lists(golds)


def test_learned_rule_recovers_a_planted_one_and_backs_off():
    rng = np.random.default_rng(1)
    lengths, predicates, wh, form, golds = _planted(rng, 600)
    rule = learn_wh_rule(lengths, predicates, wh, form, golds)
    assert rule.placement("who", "active") == Placement("left", 2, 3)
    assert rule.placement("who", "passive") == Placement("right", 1, 2)
    assert rule.placement("what", "active") == Placement("right", 1, 2)
    assert rule.placement("who", "middle") == rule.by_wh["who"]
    assert rule.placement("why", "active") == rule.overall
    lengths, predicates, wh, form, golds = _planted(rng, 100)
    scores = rule_scores(rule.spans(lengths, predicates, wh, form), golds)
    assert scores["em"][wh != "where"].min() == 1.0
    assert scores["f1_tokens"].shape == (100,)


def test_rare_questions_get_no_row_of_their_own():
    lengths, predicates, wh, form, golds = _planted(np.random.default_rng(1), 50)
    rule = learn_wh_rule(lengths, predicates, wh, form, golds, min_count=51)
    assert rule.by_wh == rule.by_wh_form == {}
