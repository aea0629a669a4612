"""SQuAD-style strings: known answers by its rules."""

from __future__ import annotations

import pytest

from emergence.measures.strings import normalise_answer, string_em, string_f1


def test_normalisation_order():
    assert normalise_answer("  The  Cat's an 'A' theme. ") == "cats theme"
    assert normalise_answer("U.S.") == "us"


def test_known_answers():
    assert string_em("the cat", ["Cat."]) == string_f1("the cat", ["Cat."]) == 1.0
    assert string_f1("black cat sat", ["the cat sat down"]) == pytest.approx(2 / 3)
    assert string_f1("x x y", ["x y y"]) == pytest.approx(2 / 3)


def test_best_of_several_golds():
    assert string_f1("dog", ["cat", "big dog"]) == pytest.approx(2 / 3)
    assert string_em("dog", ["cat", "a dog"]) == 1.0


def test_empty_answers():
    assert string_f1("the", ["..."]) == string_em("the", ["..."]) == 1.0
    assert string_f1("", ["cat"]) == string_em("", ["cat"]) == 0.0
    assert string_f1("cat", ["the"]) == 0.0
    with pytest.raises(ValueError, match="drop and count"):
        string_f1("cat", [])
    with pytest.raises(ValueError, match="drop and count"):
        string_em("cat", [])
