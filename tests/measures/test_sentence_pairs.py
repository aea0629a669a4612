"""Scores of sentence pairs against what can be counted by hand, and n-gram models against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from emergence.measures.ngrams import NGramModel
from emergence.measures.sentence_pairs import SentencePairScores


def planted(**changes: object) -> SentencePairScores:
    """Two items of two pairs: the first is right twice by the sum, the second once and with a tie."""
    nats = np.array([[-2.0, -4.0], [-6.0, -9.0], [-5.0, -1.0], [-3.0, -3.0]])
    tokens = np.array([[2.0, 4.0], [3.0, 3.0], [5.0, 1.0], [3.0, 3.0]])
    values = {
        "nats": {"with_bos": nats, "without_bos": nats + np.array([0.0, 3.0])},
        "n_tokens": {"with_bos": tokens, "without_bos": tokens - 1},
        "n_bytes": np.full((4, 2), 8.0),
        "clusters": ("x", "x", "y", "y"),
        "kinds": ("active", "passive", "active", "passive"),
    }
    return SentencePairScores(**{**values, **changes})  # type: ignore[arg-type]


def test_a_pair_is_right_where_the_good_sentence_is_likelier_and_a_tie_is_one_half() -> None:
    scores = planted()
    assert scores.rules == ("with_bos", "with_bos_per_token", "without_bos", "without_bos_per_token")
    np.testing.assert_array_equal(scores.right("with_bos"), [1, 1, 0, 0.5])
    np.testing.assert_array_equal(scores.right("with_bos_per_token"), [0.5, 1, 0.5, 0.5])  # means -1 and -1, ...
    np.testing.assert_array_equal(scores.right("without_bos"), [0, 0.5, 0, 0])


def test_a_sentence_of_one_token_has_a_mean_without_bos() -> None:
    one = planted(n_tokens={"with_bos": np.ones((4, 2)), "without_bos": np.zeros((4, 2))})
    assert np.isfinite(one.scores("without_bos_per_token")).all()


def test_differences_are_in_bits_per_byte() -> None:
    np.testing.assert_allclose(planted().bits_per_byte("with_bos")[0], 2.0 / math.log(2) / 8)


def test_summaries_resample_items_and_count_whole_ones() -> None:
    found = planted().summary(n_boot=200)
    assert found["n_pairs"] == 4 and found["n_items"] == 2
    assert found["accuracy"]["with_bos"]["point"] == 0.625 and found["accuracy"]["with_bos"]["n_clusters"] == 2
    assert found["whole_items"]["with_bos"]["point"] == 0.5
    assert found["by_kind"]["passive"]["with_bos"]["point"] == 0.75
    assert found["bits_per_byte_difference"].keys() == {"with_bos", "without_bos"}
    assert not planted(clusters=("a", "b", "c", "d")).summary(n_boot=200)["whole_items"]


def test_shapes_must_agree() -> None:
    for changes in ({"n_bytes": np.ones((3, 2))}, {"kinds": ("a",)}, {"n_tokens": {}}):
        with pytest.raises(ValueError):
            planted(**changes)


def test_n_grams_are_their_closed_forms() -> None:
    texts = [["a", "b"], ["a", "c"]]
    unigram, bigram = NGramModel.fit(texts, 1), NGramModel.fit(texts, 2)
    a, b, unseen = 3 / 8, 2 / 8, 1 / 8  # add one, over three words and one for all others
    assert unigram.log_prob(["a", "b", "z"]) == pytest.approx(math.log(a * b * unseen))
    assert bigram.log_prob(["a", "b"]) == pytest.approx(math.log((2 + a) / 3 * (1 + b) / 3))
    with pytest.raises(ValueError, match="order"):
        NGramModel.fit(texts, 3)


def test_a_unigram_model_ties_exactly_on_the_same_words() -> None:
    rng = np.random.default_rng(0)
    model = NGramModel.fit([[str(word) for word in rng.zipf(1.5, 200) % 50]], 1)
    words = [str(word) for word in range(40)]
    assert model.log_prob(words) == model.log_prob(list(rng.permutation(words)))
