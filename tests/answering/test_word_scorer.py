"""The baseline of words and positions: it finds what they tell, sees nothing it must not, and is kept faithfully."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest

from emergence.answering import word_scorer
from emergence.answering.evaluate import gold_spans, quick_scores
from emergence.answering.features import SpanLogits
from emergence.answering.word_features import N_ROWS, Variant, question_template, word_features
from emergence.answering.word_scorer import (
    WordScores,
    fold_of_questions,
    loss_and_gradient,
    make_batch,
    word_scores,
)
from emergence.data.qa_encoding import EncodedQA, encode_qa
from emergence.data.records import QAExample
from emergence.training.recording import StopRequested
from tests.answering.qa_tasks import WORDS, WordTokenizer, example

SLOTS = {
    "who": ("who", "", "", "acted", "something", "", ""),
    "what": ("what", "did", "someone", "act", "", "", ""),
    "where": ("where", "did", "someone", "act", "", "", ""),
}


def encoded(examples: list[QAExample]) -> EncodedQA:
    return encode_qa(examples, WordTokenizer(), "question-first", 200)[0]


def planted(n: int, seed: int, shift: int = 0) -> EncodedQA:
    """``who`` is left of the predicate, ``what`` right of it, ``where`` two words from ``w0``'s place on."""
    rng = np.random.default_rng(seed)
    examples = []
    for i in range(n):
        width = int(rng.integers(10, 15))
        tokens = rng.choice(WORDS[1:], width).tolist()
        predicate, wh = int(rng.integers(3, width - 5)), ("who", "what", "where")[i % 3]
        place = int(rng.integers(predicate + 3, width - 1))
        tokens[place] = WORDS[0]
        span = {"who": (predicate - 1, predicate), "what": (predicate + 1, predicate + 3)}.get(wh, (place, place + 2))
        more = {"slots": SLOTS[wh], "is_passive": False, "sentence_id": f"s{shift + i}"}
        examples.append(example(i, tokens, f"{wh} acts?", [span], predicate_index=predicate, **more))
    return encoded(examples)


def random_labels(n: int, seed: int, sentences: int) -> EncodedQA:
    """Every sentence has words of its own; its questions are answered anywhere, by rote alone to be learnt."""
    rng = np.random.default_rng(seed)
    examples = []
    for i in range(n):
        sentence = i % sentences
        place = int(np.random.default_rng([seed, sentence]).integers(12))
        tokens = [f"{seed}x{sentence}x{k}" for k in range(12)]
        more = {"predicate_index": None, "sentence_id": f"s{sentence}"}
        examples.append(example(i, tokens, f"who q{rng.integers(10**9)}?", [(place, place + 1)], **more))
    return encoded(examples)


def loss(logits: SpanLogits, data: EncodedQA) -> float:
    return quick_scores(logits, gold_spans(data), 20, "marginal").loss


def scored(train: EncodedQA, variant: Variant = "left", **more: object) -> WordScores:
    options = {"validation": planted(60, 1, 10_000), "test": planted(60, 2, 20_000), **more}
    return word_scores(train, variant=variant, max_answer_words=6, **options)  # type: ignore[arg-type]


def same(one: WordScores, other: WordScores) -> bool:
    splits = ("train", "validation", "test")
    pairs = [(getattr(one, s), getattr(other, s)) for s in splits]
    equal = all(np.array_equal(vars(a)[k], vars(b)[k]) for a, b in pairs for k in ("start", "end", "lengths"))
    return equal and (one.epoch, one.facts, one.variant) == (other.epoch, other.facts, other.variant)


@pytest.mark.parametrize("variant", ["left", "both"])
def test_what_words_and_positions_tell_is_found(variant: Variant) -> None:
    test = planted(60, 2, 20_000)
    train = planted(300, 0)
    found = scored(train, variant)
    assert quick_scores(found.test, gold_spans(test), 6).f1 > 0.9
    assert quick_scores(found.train, gold_spans(train), 6).f1 > 0.9
    assert found.train.start.dtype == np.float32 and found.train.start.shape == (300, int(train.n_words.max()))
    assert found.facts["folds"] == 5 and found.variant == variant
    assert found.facts["validation_f1"].index(max(found.facts["validation_f1"])) + 1 == found.epoch


def test_the_next_word_helps_where_it_decides() -> None:
    def before_w0(n: int, seed: int, shift: int) -> EncodedQA:
        rng = np.random.default_rng(seed)
        rows = []
        for i in range(n):
            tokens, place = rng.choice(WORDS[1:], 12).tolist(), int(rng.integers(1, 12))
            tokens[place] = WORDS[0]
            rows.append(example(i, tokens, "who acts?", [(place - 1, place)], sentence_id=f"s{shift + i}"))
        return encoded(rows)

    train, others = before_w0(200, 0, 0), {"validation": before_w0(50, 1, 1000), "test": before_w0(50, 2, 2000)}
    f1 = {v: quick_scores(scored(train, v, **others).test, gold_spans(others["test"]), 6).f1 for v in ("left", "both")}
    assert f1["both"] > 0.95 and f1["left"] < 0.4


def test_cross_fitted_scores_leak_nothing() -> None:
    data = random_labels(120, 3, sentences=40)
    found = word_scores(data, data, data, variant="left", max_answer_words=6)
    chance = 2 * np.log(12)
    start, end = found.facts["scales"]
    assert (start, end) == (0.1, 0.1)  # what was never seen is not known: as little as may be is made of the scores
    bold = dataclasses.replace(found.test, start=found.test.start / start, end=found.test.end / end)
    assert loss(bold, data) < 0.5 * chance  # in-sample, at the first epoch already
    assert loss(found.train, data) > 0.98 * chance


def test_scores_are_as_bold_as_unseen_questions_warrant() -> None:
    """No other scale of the cross-fitted logits is likelier, so a probe on top has no boldness to be credited with."""
    data = planted(300, 0).joined(random_labels(80, 3, sentences=30))
    found = scored(data)
    assert 0.1 < min(found.facts["scales"]) <= max(found.facts["scales"]) < 10.0
    best = loss(found.train, data)
    for factor in (0.8, 1.25):
        for start, end in ((factor, 1.0), (1.0, factor)):
            other = dataclasses.replace(found.train, start=found.train.start * start, end=found.train.end * end)
            assert loss(other, data) > best


def test_questions_of_a_sentence_share_their_fold() -> None:
    clusters = np.repeat(np.arange(23), 3)
    folds = fold_of_questions(clusters, 0)
    assert all(len(set(folds[clusters == c])) == 1 for c in range(23))
    assert sorted(np.bincount(folds).tolist()) == [12, 12, 15, 15, 15]
    assert set(fold_of_questions([0, 0, 1, 2], 0)) == {0, 1, 2}


def test_left_never_uses_the_next_word() -> None:
    data, n_words = planted(40, 5), 4
    changed = [
        dataclasses.replace(e, tokens=(*e.tokens[:n_words], *("other" for _ in e.tokens[n_words:])))
        for e in data.examples
    ]
    train = planted(200, 0)
    for variant, equal in (("left", True), ("both", False)):
        one, other = (scored(train, variant, test=test).test for test in (data, encoded(changed)))  # type: ignore[arg-type]
        assert np.array_equal(one.start[:, :n_words], other.start[:, :n_words]) == equal
        assert np.array_equal(one.start[:, : n_words - 1], other.start[:, : n_words - 1])
        assert not np.array_equal(one.start[:, n_words:], other.start[:, n_words:])


def test_the_gradient_is_that_of_the_loss() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(6):
        spans = [(1, 3), (2, 5)] if i % 2 else [(0, 2)]
        rows.append(example(i, rng.choice(WORDS, 7).tolist(), "who acts?", spans, predicate_index=3))
    data = encoded(rows)
    batch = make_batch(data, word_features(data, "both"), np.array([4, 1, 5, 0]))
    weights = rng.normal(size=(len(batch.touched), 2))
    value, gradient = loss_and_gradient(batch, weights)
    step = 1e-6
    for row, side in [*((int(r), 0) for r in rng.integers(0, len(weights), 15)), (3, 1), (8, 1), (11, 1)]:
        moved = np.zeros_like(weights)
        moved[row, side] = step
        slope = (loss_and_gradient(batch, weights + moved)[0] - loss_and_gradient(batch, weights - moved)[0]) / 2 / step
        assert gradient[row, side] == pytest.approx(slope, abs=1e-7)
    assert loss_and_gradient(batch, np.zeros_like(weights))[0] == pytest.approx(
        np.mean([2 * np.log(7) - np.log(len(data.examples[i].answers)) for i in (4, 1, 5, 0)])
    )
    assert value > 0


def test_equal_seeds_give_equal_bits_and_other_seeds_do_not() -> None:
    train = planted(150, 0)
    assert same(scored(train), scored(train))
    assert not same(scored(train), scored(train, seed=1))


def test_test_questions_choose_nothing() -> None:
    train = planted(150, 0)
    one, other = scored(train), scored(train, test=random_labels(20, 9, 5))
    assert one.epoch == other.epoch and np.array_equal(one.validation.start, other.validation.start)
    assert np.array_equal(one.train.end, other.train.end)


@pytest.mark.parametrize(("questions", "folds"), [(10, 5), (3, 3), (1, 1)])
def test_few_questions(questions: int, folds: int) -> None:
    found = scored(planted(questions, 0))
    assert found.facts["folds"] == folds
    assert np.isfinite(found.train.start).all() and np.isfinite(found.test.end).all()
    assert (questions == 1) == (not found.train.start.any())


def test_a_kept_result_comes_back_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = planted(90, 0)
    first = scored(train, cache_dir=tmp_path)
    assert len(list((tmp_path / "words").iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(word_scorer, "_fit_and_score", lambda *_: pytest.fail("it was fitted again"))
        assert same(scored(train, cache_dir=tmp_path), first)
    others: tuple[dict[str, object], ...] = ({"seed": 1}, {"variant": "both"}, {"test": planted(60, 7, 30_000)})
    for k, change in enumerate(others, start=2):
        scored(train, cache_dir=tmp_path, **change)  # type: ignore[arg-type]
        assert len(list((tmp_path / "words").iterdir())) == k, change


@pytest.mark.parametrize("what", ["npz cut", "npz gone", "json edited", "json empty"])
def test_a_damaged_result_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str) -> None:
    train = planted(60, 0)
    first = scored(train, cache_dir=tmp_path)
    suffix, action = what.split()
    (file,) = (tmp_path / "words").glob(f"*/scores.{suffix}")
    whole = file.read_bytes()
    if action == "gone":
        file.unlink()
    else:
        file.write_bytes({"cut": whole[:-40], "edited": whole.replace(b'"left"', b'"both"'), "empty": b""}[action])
    with caplog.at_level(logging.WARNING):
        assert same(scored(train, cache_dir=tmp_path), first)
    assert "damaged" in caplog.text and "again" in caplog.text
    assert file.read_bytes() == whole


def test_what_stands_under_another_name_is_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Both variants have scores of one shape, so only their own key tells them apart."""
    train = planted(60, 0)
    first = {variant: scored(train, variant, cache_dir=tmp_path) for variant in ("left", "both")}  # type: ignore[arg-type]
    one, other = (tmp_path / "words").iterdir()
    one.rename(tmp_path / "kept"), other.rename(one), (tmp_path / "kept").rename(other)
    with caplog.at_level(logging.WARNING):
        for variant, before in first.items():
            assert same(scored(train, variant, cache_dir=tmp_path), before)  # type: ignore[arg-type]
    assert "the scores of other questions" in caplog.text


def test_a_cache_that_cannot_be_written_costs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "words").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        found = scored(planted(30, 0), cache_dir=tmp_path)
    assert same(found, scored(planted(30, 0))) and "not kept" in caplog.text


def test_a_request_to_stop_is_heard_after_an_epoch(tmp_path: Path) -> None:
    with pytest.raises(StopRequested, match="run the same command again"):
        scored(planted(30, 0), should_stop=lambda: True, cache_dir=tmp_path)
    assert not list(tmp_path.rglob("*.json"))


def test_templates_take_the_verb_out_and_keep_the_voice() -> None:
    def template(slots: tuple[str, ...], passive: bool | None, with_auxiliary: bool = False) -> str:
        asked = example(0, ["a"], "x?", [(0, 1)], slots=slots, is_passive=passive)
        return question_template(asked, with_auxiliary=with_auxiliary)

    did, will = ("who", "", "", "posted", "it", "", ""), ("who", "will", "", "post", "it", "", "")
    assert template(did, False) == template(will, False)
    assert template(did, False, True) != template(will, False, True)
    assert template(did, False) != template(did, True)
    bare = example(0, ["a"], "Who won, and when?", [(0, 1)])
    assert question_template(bare, with_auxiliary=False) == "who won and when"


def test_columns_are_rows_of_the_weights_and_both_has_more() -> None:
    data = planted(20, 0)
    left, both = word_features(data, "left"), word_features(data, "both")
    assert left.columns.shape[0] == both.columns.shape[0] == data.word_offsets[-1]
    assert left.columns.min() >= 0 and both.columns.max() < N_ROWS
    np.testing.assert_array_equal(both.columns[:, : left.columns.shape[1]], left.columns)
