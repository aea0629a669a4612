"""Selectivity and description length tell what is in the states from what a probe learned by itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from emergence.answering.features import cache_features
from emergence.answering.probe import predict_probes, probe_all_layers
from emergence.answering.probe_data import ProbeData, standardise_
from emergence.answering.probe_fitting import ProbeFit, fit_linear_probe
from emergence.answering.probe_loop import PHASE
from emergence.answering.probe_validity import ProbeValidity, control_golds, measure_validity, online_code
from emergence.data.qa_encoding import EncodedQA, encode_qa
from emergence.data.records import Answer
from emergence.measures.bootstrap import Estimate
from emergence.measures.spans import GoldSpans, n_valid_spans
from emergence.spec.config import EvaluateConfig, ProbeConfig
from emergence.training.checkpoint import Checkpointer
from emergence.training.context import Context
from emergence.training.recording import StopRequested
from tests.answering.qa_tasks import WORDS, PlantedEncoder, WordTokenizer, example, named_word_task
from tests.memory_recorder import MemoryRecorder

CPU = torch.device("cpu")
CONFIG = ProbeConfig(
    families=("linear", "bilinear"),
    bilinear_rank=8,
    epochs=8,
    batch_size=32,
    lr=1e-2,
    ridges=(1e-3, 1e-2),
    mdl_epochs=3,
)
Splits = tuple[EncodedQA, EncodedQA, EncodedQA]


def asked_words(kind: str, sizes: tuple[int, int, int] = (240, 60, 100)) -> Splits:
    """Sentences of 6 to 9 words with a predicate among the first three, one answer word each.

    ``kind``: ``marked``, the answer is always w0; ``asked``, the question names it; ``absent``, it is any word;
    ``rote``, its place follows from the predicate by a rule without reason.
    """
    tokenizer = WordTokenizer()
    for word in WORDS:
        tokenizer.token(word)
    rule = np.random.default_rng(9).integers(1, 6, size=3)
    parts = []
    for seed, n in enumerate(sizes):
        rng, examples = np.random.default_rng(seed), []
        for i in range(n):
            tokens = [WORDS[k] for k in rng.permutation(np.arange(4, 20))[: rng.integers(6, 10)]]
            predicate, verb = int(rng.integers(0, 3)), int(rng.integers(0, 3))
            tokens[predicate] = WORDS[1 + verb]
            answer = int(rng.choice([k for k in range(len(tokens)) if k != predicate]))
            if kind == "rote":
                answer = min(predicate + int(rule[verb]), len(tokens) - 1)
            if kind == "marked":
                tokens[answer] = "w0"
            question = f"where {tokens[answer]}" if kind == "asked" else "where something"
            examples.append(example(i, tokens, question, [(answer, answer + 1)], predicate_index=predicate))
        parts.append(encode_qa(examples, tokenizer, "question-first", 64)[0])
    return parts[0], parts[1], parts[2]


class RoteEncoder:
    """A word's state is (predicate, distance from it) and no more: what follows from these can be learned by rote."""

    reach, n_layers = 12, 0
    hidden_size = 3 * 24

    def hidden_states(self, ids: Tensor) -> list[Tensor]:
        mark = (ids == WordTokenizer.pred).int().argmax(1, keepdim=True)  # (B, 1)
        verb = (ids.gather(1, mark + 1) - 5).clamp(0, 2)  # (B, 1), w1 to w3
        distance = (torch.arange(ids.shape[1]) - mark - 1).clamp(-self.reach, self.reach - 1) + self.reach  # (B, T)
        return [nn.functional.one_hot(24 * verb + distance, self.hidden_size).float()]


def measure(
    encoder: PlantedEncoder | RoteEncoder, splits: Splits, config: ProbeConfig = CONFIG, **more: Any
) -> dict[str, ProbeValidity]:
    """Fit the families of ``config`` at the last level and measure them."""
    options: dict[str, Any] = {"seed": 0, "context": Context(), "max_answer_words": 3, **more}
    report = probe_all_layers(encoder, *splits[:2], config, layers=[encoder.n_layers], **options)
    best = [report.best(family) for family in config.families]
    logits = predict_probes(encoder, best, splits[2], context=Context())
    by_family = dict(zip(config.families, logits, strict=True))
    return measure_validity(encoder, report, splits, by_family, config, EvaluateConfig(bootstrap_draws=500), **options)


def interval(found: ProbeValidity) -> Estimate:
    assert found.selectivity is not None
    return found.selectivity


def test_what_stands_at_the_token_is_selective_and_compresses() -> None:
    found = measure(PlantedEncoder(), asked_words("marked"), replace(CONFIG, families=("linear",)))["linear"]
    assert found.task_f1 == 1.0 and interval(found).lo > 0.4
    assert found.mdl.compression > 3 and found.control_mdl is not None and found.control_mdl.compression < 1.3


def test_what_the_question_must_point_at_only_the_bilinear_probe_reads() -> None:
    found = measure(PlantedEncoder(), asked_words("asked"))
    linear, bilinear = found["linear"], found["bilinear"]
    assert bilinear.task_f1 > 0.9 and interval(bilinear).lo > 0.4
    assert linear.task_f1 < 0.5 and interval(linear).lo < 0.1
    assert bilinear.mdl.compression > 1.4 > 1.2 > linear.mdl.compression


def test_what_is_absent_is_neither() -> None:
    found = measure(PlantedEncoder(), asked_words("absent", (160, 40, 100)))
    for family in found.values():
        assert abs(interval(family).point) < 0.2 and family.mdl.compression < 1.15


def test_control_answers_and_the_order_of_the_code_are_the_same_for_all_runs() -> None:
    """The linear probe is a function of the states, so runs that differ in seed alone agree to the last bit."""
    splits, linear = asked_words("marked", (120, 40, 40)), replace(CONFIG, families=("linear",))
    first, second = (measure(PlantedEncoder(), splits, linear, seed=seed)["linear"].to_dict() for seed in (0, 5))
    assert first == second


def test_what_can_only_be_learned_by_rote_scores_high_without_selectivity() -> None:
    found = measure(RoteEncoder(), asked_words("rote"), replace(CONFIG, families=("linear",)))["linear"]
    assert found.task_f1 > 0.9 and found.control_f1 is not None and found.control_f1 > 0.9
    assert abs(interval(found).point) < 0.1
    assert found.control_mdl is not None
    assert found.mdl.compression == pytest.approx(found.control_mdl.compression, rel=0.35)


def linear_parts(splits: Splits) -> tuple[ProbeData, ProbeData, ProbeFit]:
    states = [cache_features(PlantedEncoder(), s, [1], context=Context()).layer(1) for s in splits[:2]]
    golds = [GoldSpans.from_lists([[tuple(g)] for g in s.first_golds.tolist()]) for s in splits[:2]]
    train, validation = (ProbeData(f, g) for f, g in zip(states, golds, strict=True))
    statistics = standardise_(train.features, validation.features)
    return train, validation, fit_linear_probe(train, validation, statistics, CONFIG, layer=1, max_answer_words=3)


def test_a_probe_that_knows_nothing_sends_the_uniform_code() -> None:
    train, validation, fit = linear_parts(asked_words("marked"))
    stiff = replace(fit, ridge=1e9)
    code = online_code(stiff, train, validation, CONFIG, max_coded_words=4, seed=0)
    assert code.uniform_bits == pytest.approx(np.log2(n_valid_spans(train.lengths, 4)).sum())
    assert code.compression == pytest.approx(1.0, abs=1e-4) and code.n_clipped == 0


def test_a_longer_training_set_costs_a_perfect_probe_hardly_more_bits() -> None:
    costs = []
    for n in (120, 240):
        train, validation, fit = linear_parts(asked_words("marked", (n, 60, 4)))
        costs.append(online_code(fit, train, validation, CONFIG, max_coded_words=1, seed=0).online_bits)
    assert costs[1] - costs[0] < 0.3 * 120 * np.log2(7)


def test_every_training_answer_can_be_sent_however_short_decoded_spans_are() -> None:
    splits = asked_words("marked", (80, 20, 20))
    answers = [Answer("the whole sentence", 0, len(e.tokens), "given") for e in splits[0].examples[:5]]
    few = [replace(e, answers=(answer,)) for e, answer in zip(splits[0].examples, answers, strict=False)]
    train = encode_qa([*few, *splits[0].examples[5:]], WordTokenizer(), "question-first", 64)[0]
    linear = replace(CONFIG, families=("linear",))
    found = measure(PlantedEncoder(), (train, *splits[1:]), linear, max_answer_words=1)["linear"]
    longest = max(len(e.tokens) for e in splits[0].examples[:5])
    assert found.mdl.uniform_bits == pytest.approx(np.log2(n_valid_spans(train.n_words, longest)).sum())
    assert np.isfinite(found.mdl.online_bits) and found.mdl.n_clipped == 0


def test_control_answers_are_one_place_for_a_type_in_every_split() -> None:
    splits = asked_words("absent")
    control = control_golds(splits)
    assert control is not None
    places: dict[str, set[int]] = {}
    for golds, split in zip(control[0], splits, strict=True):
        assert (golds.ends_inclusive < split.n_words).all()
        for e, start in zip(split.examples, golds.starts.tolist(), strict=True):
            if 0 < start < len(e.tokens) - 1:  # not clipped to the sentence
                places.setdefault(e.tokens[e.predicate_index], set()).add(start - e.predicate_index)
    assert len(places) == 3 and all(len(offsets) == 1 for offsets in places.values())
    assert control[1] == 1.0


def test_without_predicates_there_is_no_control_but_a_code() -> None:
    tokenizer = WordTokenizer()
    parts = [named_word_task(n, seed, "marked", tokenizer) for seed, n in enumerate((60, 20, 20))]
    found = measure(PlantedEncoder(), (parts[0], parts[1], parts[2]), replace(CONFIG, families=("linear",)))["linear"]
    assert found.selectivity is found.control_f1 is found.control_mdl is None
    assert found.mdl.n_examples == 60 and json.loads(json.dumps(found.to_dict()))["selectivity"] is None


def test_questions_are_taken_in_any_order() -> None:
    train, _, _ = linear_parts(asked_words("absent", (20, 20, 4)))
    taken = train.take(np.array([7, 2]))
    old, new = train.features.word_offsets, taken.features.word_offsets
    for i, k in enumerate((7, 2)):
        torch.testing.assert_close(taken.features.words[new[i] : new[i + 1]], train.features.words[old[k] : old[k + 1]])
        torch.testing.assert_close(taken.features.questions[i], train.features.questions[k])
        assert taken.golds.starts[i] == train.golds.starts[k]


def test_mlp_is_measured_too() -> None:
    found = measure(PlantedEncoder(), asked_words("marked", (100, 30, 40)), replace(CONFIG, families=("linear", "mlp")))
    assert found["mlp"].mdl.compression > 1.5 and interval(found["mlp"]).lo > 0.3


def test_stopped_after_every_part_it_ends_the_same(tmp_path: Path) -> None:
    splits, config = asked_words("asked", (60, 30, 30)), replace(CONFIG, epochs=2, mdl_epochs=1, ridges=(1e-2,))
    whole = measure(PlantedEncoder(), splits, config)
    recorder, stops = MemoryRecorder(), 0
    for _ in range(20):
        calls = iter((False, True))  # a new process does one more piece, the next one asks it to stop
        try:
            again = measure(
                PlantedEncoder(), splits, config,
                context=Context(
                    recorder=recorder, checkpointer=Checkpointer(tmp_path), should_stop=lambda c=calls: next(c, True)
                ),
            )  # fmt: skip
            break
        except StopRequested:
            stops += 1
    assert stops >= 3 and again == whole
    state = Checkpointer(tmp_path).load(PHASE)
    assert state is not None and len(state.state["fits"]) == 2 and len(state.state["validity"]) == 6
    assert [line["family"] for line in recorder.history] == ["linear", "bilinear"]
