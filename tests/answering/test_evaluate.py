"""The report: right numbers in the right groups, intervals, baselines, rows."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from emergence.answering.evaluate import (
    Evaluation,
    arguments_to_choose,
    baseline_scores,
    breakdown_labels,
    choose_max_answer_words,
    evaluate,
    evaluate_together,
    gold_spans,
    prediction_rows,
    quick_scores,
    score_logits,
)
from emergence.answering.features import SpanLogits
from emergence.answering.finetune import gold_tensors
from emergence.data.qa_encoding import EncodedQA, encode_qa
from emergence.data.roles import asked_role
from emergence.measures import bootstrap
from emergence.measures.resampling import ClusterTable
from emergence.model import span_cross_entropy
from emergence.spec.config import EvaluateConfig
from tests.answering.qa_tasks import WORDS, WordTokenizer, example

CONFIG = EvaluateConfig(bootstrap_draws=300)


def questions(n: int, seed: int = 0, predicates: bool = True) -> EncodedQA:
    """Active questions are answered left of the predicate, passive ones right of it; some have two golds."""
    rng = np.random.default_rng(seed)
    examples = []
    for i in range(n):
        width = int(rng.integers(8, 14))
        tokens = rng.choice(WORDS, width).tolist()
        predicate, passive = int(rng.integers(3, width - 4)), bool(rng.random() < 0.4)
        length = int(rng.integers(1, 4))
        span = (predicate + 1, predicate + 1 + length) if passive else (predicate - length, predicate)
        spans = [span, (0, width)] if i % 3 == 0 else [span]
        more = {"predicate_index": predicate if predicates else None, "is_passive": passive, "slots": None}
        examples.append(example(i, tokens, "who acts?" if i % 4 else "what is it?", spans, **more))
    return encode_qa(examples, WordTokenizer(), "question-first", 64)[0]


def logits_for(data: EncodedQA, noise: float, seed: int = 0) -> SpanLogits:
    """Logits that point at the first gold, more or less."""
    rng = np.random.default_rng(seed)
    shape = (len(data), int(data.n_words.max()))
    arrays = [noise * rng.normal(size=shape).astype(np.float32) for _ in range(2)]
    for array, column in zip(arrays, (0, 1), strict=True):
        array[np.arange(len(data)), data.first_golds[:, column]] += 10
    return SpanLogits(arrays[0], arrays[1], data.n_words)


@pytest.fixture(scope="module")
def data() -> EncodedQA:
    return questions(120)


def report(data: EncodedQA, noise: float, train: EncodedQA | None = None) -> Evaluation:
    scores = score_logits(logits_for(data, noise), data, 20)
    return evaluate(scores, data, CONFIG, rules=baseline_scores(data, train, 20) if train else None)


def test_read_outs_scored_together_are_scored_as_alone(data: EncodedQA, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, one with baselines and one without; and every set of clusters is resampled once for all."""
    rules = baseline_scores(data, questions(80, seed=9), 20)
    scores = {name: score_logits(logits_for(data, noise), data, 20) for name, noise in (("a", 3.0), ("b", 30.0))}
    alone = {
        "a": evaluate(scores["a"], data, CONFIG, rules=rules, trained_baselines={"words": scores["b"]}),
        "b": evaluate(scores["b"], data, CONFIG),
    }
    assert alone["a"].floor in rules and "words" in alone["a"].baselines
    assert alone["b"].floor is None and not alone["b"].baselines
    drawn: list[int] = []
    original = bootstrap.replicates_together

    def counted(tables: list[ClusterTable], *arguments: object) -> list[np.ndarray]:
        drawn.append(tables[0].n_clusters)
        return original(tables, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(bootstrap, "replicates_together", counted)
    together = evaluate_together(scores, data, CONFIG, baselines={"a": (rules, {"words": scores["b"]})})
    assert together == alone and [found.to_dict() for found in together.values()] == [
        found.to_dict() for found in alone.values()
    ]
    assert len(drawn) == len(set(drawn)) > 1


def test_perfect_and_useless_logits(data: EncodedQA) -> None:
    perfect, useless = report(data, 0.0), report(data, 100.0)
    assert perfect.scores["em"].point == perfect.scores["f1_tokens"].point == perfect.scores["f1_string"].point == 1.0
    assert perfect.scores["invalid_rate"].point == 0.0
    assert useless.scores["f1_tokens"].point < 0.5 < useless.scores["invalid_rate"].point + 0.3
    assert perfect.n == 120 and perfect.n_clusters == 60


def test_intervals_hold_the_point_and_count_their_questions(data: EncodedQA) -> None:
    found = report(data, 6.0)
    of_all = [estimate for name, estimate in found.scores.items() if name != "argument_selection"]
    for estimate in (*of_all, *found.macro.values()):
        assert estimate.lo <= estimate.point <= estimate.hi and estimate.n_clusters == 60
    groups = found.by["role"]
    assert set(groups) == {"who", "what"} and groups["who"]["em"].n + groups["what"]["em"].n == 120
    assert list(groups) == ["who", "what"]  # the most frequent first
    for kind in ("role", "asked_role", "voice", "answer_words"):
        total = sum(group["f1_tokens"].point * group["f1_tokens"].n for group in found.by[kind].values())
        assert total / 120 == pytest.approx(found.scores["f1_tokens"].point)


def test_groups_are_scored_apart(data: EncodedQA) -> None:
    logits = logits_for(data, 0.0)
    passive = np.array([bool(e.is_passive) for e in data.examples])
    logits.start[passive] = logits.end[passive] = 0.0
    logits.start[passive, 0] = logits.end[passive, 0] = 10.0  # always the first word, which is never the answer
    voice = evaluate(score_logits(logits, data, 20), data, CONFIG).by["voice"]
    assert voice["active"]["em"].point == 1.0 and voice["passive"]["em"].point == 0.0
    assert voice["passive"]["em"].n == passive.sum()


def test_macro_counts_each_predicate_once() -> None:
    # Sentence s0 has predicate 1 with one right question, and predicate 2 with two wrong ones (three sentence mates).
    tokens = WORDS[:6]
    more = {"sentence_id": "s0", "document_id": "d0"}
    examples = [example(0, tokens, "who?", [(0, 1)], predicate_index=1, **more)]
    examples += [example(i, tokens, "what?", [(3, 4)], predicate_index=2, **more) for i in (1, 2)]
    few = encode_qa(examples, WordTokenizer(), "question-first", 64)[0]
    zeros = np.zeros((3, 6), dtype=np.float32)
    zeros[:, 0] = 9.0
    found = evaluate(score_logits(SpanLogits(zeros, zeros.copy(), few.n_words), few, 6), few, CONFIG)
    assert found.scores["em"].point == pytest.approx(1 / 3) and found.macro["em"].point == pytest.approx(1 / 2)
    assert found.macro["em"].n == 2


def asked_thrice(n: int) -> EncodedQA:
    """Sentences with two questions about one predicate, and with one about another that has no other argument."""
    examples = []
    for i in range(3 * n):
        where, span = ((4, (0, 2)), (4, (5, 7)), (8, (9, 10)))[i % 3]
        more = {"predicate_index": where, "sentence_id": f"s{i // 3}", "slots": None, "is_passive": i % 3 == 2}
        examples.append(example(i, WORDS[:12], ("who acts?", "what acts?", "when?")[i % 3], [span], **more))
    return encode_qa(examples, WordTokenizer(), "question-first", 64)[0]


def test_argument_selection_is_over_the_questions_that_have_another_argument() -> None:
    data = asked_thrice(40)
    logits = logits_for(data, 0.0)
    logits.start[1::6] = 0.0  # half of the questions for what point nowhere: a tie, which is wrong
    logits.end[1::6] = 0.0
    scores = score_logits(logits, data, 20)
    assert scores.argument_selection is not None
    assert np.isnan(scores.argument_selection[2::3]).all() and np.isfinite(scores.argument_selection[0::3]).all()
    found = evaluate(scores, data, CONFIG)
    chosen = found.scores["argument_selection"]
    assert (chosen.point, chosen.n, chosen.n_clusters) == (0.75, 80, 40) and chosen.lo < 0.75 < chosen.hi
    assert found.scores["f1_tokens"].n == 120
    assert found.by["role"]["what"]["argument_selection"].point == 0.5
    assert "argument_selection" not in found.by["role"]["when?"] and "argument_selection" not in found.macro
    assert Evaluation.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_without_predicates_nothing_is_chosen_among() -> None:
    squad = questions(30, predicates=False)
    assert "argument_selection" not in report(squad, 0.0).scores
    row = prediction_rows(score_logits(logits_for(squad, 0.0), squad, 20), squad)[0]
    assert row["argument_selection"] is None and row["argument_chance"] is None


def test_rows_tell_the_choice_and_its_chance() -> None:
    data = asked_thrice(2)
    rows = json.loads(json.dumps(prediction_rows(score_logits(logits_for(data, 0.0), data, 20), data), allow_nan=False))
    assert [row["argument_selection"] for row in rows] == [1.0, 1.0, None] * 2
    assert [row["argument_chance"] for row in rows] == [0.5, 0.5, None] * 2


def test_sentences_of_two_sources_are_two_sentences() -> None:
    data = asked_thrice(1)
    other = dataclasses.replace(data.examples[1], source="another")
    mixed = encode_qa([data.examples[0], other], WordTokenizer(), "question-first", 64)[0]
    assert arguments_to_choose(mixed).n_clusters.tolist() == [1, 1]
    assert arguments_to_choose(data).n_clusters.tolist() == [2, 2, 1]


def test_baselines_and_their_best(data: EncodedQA) -> None:
    found = report(data, 1.0, train=questions(400, seed=1))
    f1 = {name: scores["f1_tokens"].point for name, scores in found.baselines.items()}
    assert {"uniform", "whole_sentence", "left_word", "right_word", "wh_rule"} <= set(f1)
    assert found.floor == max(f1, key=lambda name: f1[name]) == "wh_rule"  # it alone can tell the voices apart
    whole = [2 * n / (n + w) for n, w in zip(np.diff(data.first_golds).ravel() + 1, data.n_words, strict=True)]
    whole = [1.0 if len(e.answers) == 2 else x for x, e in zip(whole, data.examples, strict=True)]
    assert f1["whole_sentence"] == pytest.approx(np.mean(whole))


def test_without_predicates_only_position_free_baselines() -> None:
    squad = questions(30, predicates=False)
    assert set(baseline_scores(squad, squad, 10)) == {"uniform", "whole_sentence"}


def test_quick_scores_have_the_training_loss(data: EncodedQA) -> None:
    logits = logits_for(data, 4.0)
    batch = data.padded_batch(np.arange(len(data)))
    mask, *golds = gold_tensors(batch, torch.device("cpu"))
    start, end = torch.from_numpy(logits.start), torch.from_numpy(logits.end)
    for train_gold in ("first", "marginal"):
        quick = quick_scores(logits, gold_spans(data), 20, train_gold)
        want = span_cross_entropy(start, end, mask, *golds, train_gold=train_gold)
        assert quick.loss == pytest.approx(float(want), rel=1e-5)
    full = score_logits(logits, data, 20)
    assert (quick.em, quick.f1) == (full.em.mean(), full.f1_tokens.mean())


def test_the_length_cap_comes_from_training_answers(data: EncodedQA) -> None:
    lengths = gold_spans(data).ends_inclusive - gold_spans(data).starts + 1
    assert (
        choose_max_answer_words(0, data) == np.ceil(np.percentile(lengths, 99.5))
        and choose_max_answer_words(7, data) == 7
    )


def test_length_bins(data: EncodedQA) -> None:
    labels = breakdown_labels(data)["answer_words"]
    lengths = (np.diff(data.first_golds).ravel() + 1).tolist()
    want = {1: "1", 2: "2-3", 3: "2-3"}
    assert labels == [want[n] for n in lengths]


def test_rows_are_json_with_exclusive_spans(data: EncodedQA) -> None:
    scores = score_logits(logits_for(data, 0.0), data, 20)
    rows = json.loads(json.dumps(prediction_rows(scores, data)))
    assert len(rows) == len(data)
    for row, e in zip(rows, data.examples, strict=True):
        answer = e.answers[0]
        assert row["prediction"] == [answer.start, answer.end] == row["golds"][0]
        assert row["prediction_text"] == answer.text and row["em"] == row["f1_tokens"] == 1.0
        assert (row["id"], row["sentence_id"], row["role"]) == (e.id, e.sentence_id, e.wh)
        assert row["asked_role"] == asked_role(e)
        assert row["predicate"] == e.tokens[e.predicate_index]


def test_one_wh_word_holds_several_asked_roles() -> None:
    """ "What" mixes agents and patients; the breakdown by asked role takes them apart."""
    slots = [("what", "", "", "acts", "someone", "", ""), ("what", "does", "someone", "see", "", "", "")]
    examples = [example(i, WORDS[:6], "what?", [(0, 1)], predicate_index=1, slots=slots[i % 2], is_passive=False)
                for i in range(6)]  # fmt: skip
    labels = breakdown_labels(encode_qa(examples, WordTokenizer(), "question-first", 64)[0])
    assert set(labels["role"]) == {"what"} and labels["asked_role"] == ["agent", "patient"] * 3


def test_the_report_survives_json(data: EncodedQA) -> None:
    found = report(data, 3.0, train=data)
    assert Evaluation.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_same_seed_same_intervals(data: EncodedQA) -> None:
    assert report(data, 3.0) == report(data, 3.0)


def test_three_counts_and_documents_as_clusters(data: EncodedQA) -> None:
    found = score_logits(logits_for(data, 6.0), data, 20)
    by_sentence, by_document = (
        evaluate(found, data, EvaluateConfig(bootstrap_draws=300, cluster=kind)) for kind in ("sentence", "document")
    )
    for report_, clusters in ((by_sentence, 60), (by_document, 30)):
        assert (report_.n, report_.n_clusters, report_.n_documents) == (120, 60, 30)
        assert {e.n_clusters for e in (*report_.scores.values(), *report_.macro.values()) if e.n == 120} == {clusters}
    assert (by_sentence.cluster, by_document.cluster) == ("sentence", "document")
    ratio = by_document.scores["f1_tokens"].se / by_sentence.scores["f1_tokens"].se
    assert by_sentence.document_widening == pytest.approx(ratio, rel=0.1)
    assert Evaluation.from_dict(json.loads(json.dumps(by_document.to_dict()))) == by_document


def test_an_older_evaluation_does_not_tell_its_documents(data: EncodedQA) -> None:
    stored = report(data, 6.0).to_dict()
    for key in ("n_documents", "cluster", "document_widening"):
        del stored[key]
    found = Evaluation.from_dict(stored)
    assert (found.n_documents, found.cluster, found.document_widening) == (None, "sentence", None)
