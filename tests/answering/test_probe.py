"""Probes find what is planted, fail where nothing is, and know how they got there."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import OptimizeResult

from benchmarks.probe_optima import above_optimum
from emergence.answering import probe_fitting
from emergence.answering.evaluate import gold_spans, score_logits
from emergence.answering.features import TOKENS_PER_BATCH, LayerFeatures, cache_features
from emergence.answering.probe import ProbeReport, predict_probes, probe_all_layers
from emergence.answering.probe_data import ProbeData, standardise_
from emergence.answering.probe_fitting import (
    ProbeFit,
    SpanObjective,
    fit_linear_probe,
    fit_minibatch_probe,
    fit_probe,
    span_head,
)
from emergence.data.qa_encoding import EncodedQA
from emergence.errors import EmergenceError
from emergence.measures.spans import GoldSpans
from emergence.model import span_cross_entropy
from emergence.spec.config import FinetuneConfig, ProbeConfig
from emergence.training.checkpoint import Checkpointer
from emergence.training.context import Context
from emergence.training.finiteness import NonFiniteLossError
from emergence.training.recording import StopRequested
from tests.answering.qa_tasks import PlantedEncoder, WordTokenizer, named_word_task
from tests.memory_recorder import MemoryRecorder

CPU = torch.device("cpu")
CONFIG = ProbeConfig(bilinear_rank=16, epochs=8, batch_size=16, lr=2e-2, patience=8)


def task(kind: str, n: int = 200) -> tuple[EncodedQA, EncodedQA, EncodedQA]:
    tokenizer = WordTokenizer()
    for word in range(20):
        tokenizer.token(f"w{word}")
    train, validation, test = (named_word_task(m, seed, kind, tokenizer) for seed, m in enumerate((n, 60, 60)))
    return train, validation, test


def layer_data(encoder: PlantedEncoder, *splits: EncodedQA, layer: int = 1) -> list[ProbeData]:
    return [
        ProbeData(cache_features(encoder, s, [layer], context=Context()).layer(layer), gold_spans(s)) for s in splits
    ]


def exact_match(fit: ProbeFit, encoder: PlantedEncoder, data: EncodedQA) -> float:
    logits = predict_probes(encoder, [fit], data, context=Context())[0]
    return float(score_logits(logits, data, 3).em.mean())


def test_linear_probe_finds_a_marked_word_and_bilinear_the_one_asked_for() -> None:
    encoder = PlantedEncoder()
    options = {"layer": 1, "max_answer_words": 3}
    for kind, linear_em in (("marked", 1.0), ("asked", None)):
        train, validation, test = task(kind)
        parts = layer_data(encoder, train, validation)
        statistics = standardise_(parts[0].features, parts[1].features)
        linear = fit_linear_probe(*parts, statistics, CONFIG, **options)
        bilinear = fit_minibatch_probe("bilinear", *parts, statistics, CONFIG, **options, seed=0)
        assert exact_match(bilinear, encoder, test) > 0.95
        if linear_em:
            assert exact_match(linear, encoder, test) == linear_em and linear.validation_em == linear_em
        else:  # the word asked for differs, and the linear probe cannot see the question
            assert exact_match(linear, encoder, test) < 0.45


def test_a_probe_that_diverges_says_where() -> None:
    train, validation, _ = task("marked", 20)
    parts = layer_data(PlantedEncoder(), train, validation)
    statistics = standardise_(parts[0].features, parts[1].features)
    options = {"layer": 1, "max_answer_words": 3}
    for family in ("bilinear", "mlp"):
        with pytest.raises(NonFiniteLossError, match=f"{family} probe, layer 1, epoch 1: .* lower probe.lr"):
            fit_minibatch_probe(family, *parts, statistics, replace(CONFIG, lr=1e30), **options, seed=0)
    parts[1].features.words[3] = torch.inf
    with pytest.raises(NonFiniteLossError, match="linear probe, layer 1, ridge 100: "):
        fit_linear_probe(*parts, statistics, CONFIG, **options)


def test_mlp_probe_learns_what_is_not_linear() -> None:
    """The answer is the word whose two planted signs differ (exclusive or)."""
    rng = np.random.default_rng(0)
    n, width = 400, 4
    signs = np.where(rng.random((n, width, 1)) < 0.5, 1.0, -1.0) * np.ones(2)  # equal signs
    answer = rng.integers(0, width, n)
    signs[np.arange(n), answer, 1] *= -1
    features = torch.tensor(signs.reshape(-1, 2), dtype=torch.float32)
    offsets = np.arange(0, n * width + 1, width)
    parts = []
    for rows in (slice(0, 300), slice(300, 400)):
        size = rows.stop - rows.start
        words = features[rows.start * width : rows.stop * width].clone()
        golds = GoldSpans(answer[rows], answer[rows], np.arange(size + 1))
        parts.append(ProbeData(LayerFeatures(words, torch.zeros(size, 4), offsets[: size + 1]), golds))
    statistics = standardise_(parts[0].features, parts[1].features)
    mlp = fit_minibatch_probe("mlp", *parts, statistics, CONFIG, layer=0, max_answer_words=1, seed=0)
    linear = fit_linear_probe(*parts, statistics, CONFIG, layer=0, max_answer_words=1)
    assert mlp.validation_em > 0.97 > 0.5 > linear.validation_em
    assert mlp.n_trainable == 2 * 128 + 128 + 128 * 2 + 2


@pytest.mark.parametrize("train_gold", ["first", "marginal"])
@pytest.mark.parametrize("with_offset", [False, True])
def test_gradient_and_loss_of_the_linear_objective(train_gold: str, with_offset: bool) -> None:
    train, validation, _ = task("marked", 20)
    parts = layer_data(PlantedEncoder(), train, validation)
    standardise_(parts[0].features, parts[1].features)
    data = several_golds(parts[0])
    n_words = len(data.features.words)
    if with_offset:
        data = replace(data, offset=torch.randn(n_words, 2, generator=torch.Generator().manual_seed(1)))
    objective = SpanObjective(data, train_gold)
    weights = objective.start + np.random.default_rng(0).normal(size=len(objective.start)) / 5
    value, gradient = objective(weights, 0.1)
    assert len(gradient) == 64 + 2 * with_offset
    for k in (0, 7, 40, 63, *((64, 65) if with_offset else ())):
        step = np.zeros_like(weights)
        step[k] = 1e-2
        slope = (objective(weights + step, 0.1)[0] - objective(weights - step, 0.1)[0]) / 2e-2
        assert gradient[k] == pytest.approx(slope, abs=2e-3)
    # The same loss by the model's own function, one sentence at a time.
    w = torch.tensor(weights[:64].reshape(-1, 2), dtype=torch.float32)
    losses = []
    for i in range(len(train)):
        rows = slice(*train.word_offsets[i : i + 2])
        logits = data.features.words[rows] @ w
        if data.offset is not None:
            logits = logits + torch.tensor(weights[64:], dtype=torch.float32) * data.offset[rows]
        starts, ends, golds = (torch.tensor(part) for part in data.golds.take([i]).padded())
        mask = torch.ones(1, len(logits), dtype=torch.bool)
        losses.append(span_cross_entropy(logits[None, :, 0], logits[None, :, 1], mask, starts, ends, golds, train_gold))
    penalty = 0.05 * (weights[:64] ** 2).sum()
    assert value == pytest.approx(float(torch.stack(losses).mean()) + penalty, rel=1e-5)


def several_golds(data: ProbeData) -> ProbeData:
    """Every second question has its first word for another gold."""
    spans = []
    for n in range(len(data)):
        own = data.golds.take([n])
        golds = list(zip(own.starts.tolist(), own.ends_inclusive.tolist(), strict=True))
        spans.append([*golds, *([(0, 0)] if n % 2 else [])])
    return replace(data, golds=GoldSpans.from_lists(spans))


@pytest.mark.parametrize("family", ["linear", "bilinear"])
def test_probes_train_on_the_golds_that_finetuning_trains_on(family: str) -> None:
    """By default on the sum over all of them: one question, two golds, and the states tell only the second."""
    train, validation, _ = task("marked", 120)
    parts = layer_data(PlantedEncoder(), train, validation)
    statistics = standardise_(parts[0].features, parts[1].features)
    rng = np.random.default_rng(0)
    noisy = []
    for part in parts:  # the gold with most votes is any word, the answer the other one
        spans = [
            [(k, k), (int(s), int(e))]
            for k, s, e in zip(
                rng.integers(0, part.lengths).tolist(), part.golds.starts, part.golds.ends_inclusive, strict=True
            )
        ]
        noisy.append(replace(part, golds=GoldSpans.from_lists(spans)))
    found = {
        gold: fit_probe(family, *noisy, statistics, replace(CONFIG, train_gold=gold, ridges=(1e-2,)), 1, 3, 0)
        for gold in ("first", "marginal")
    }
    assert ProbeConfig().train_gold == FinetuneConfig().train_gold == "marginal"
    assert found["marginal"].validation_f1 > found["first"].validation_f1 + 0.1


def test_an_offset_is_added_to_and_what_it_knows_is_not_learnt_again() -> None:
    """With the answer in the offset alone, states without it add nothing; with it in the states alone, they add it."""
    train, validation, _ = task("marked", 200)
    encoder = PlantedEncoder()
    blind, seeing = (layer_data(encoder, train, validation, layer=layer) for layer in (0, 1))
    options = {"max_answer_words": 3, "seed": 0, "layer": 1}
    for family in ("linear", "bilinear", "mlp"):
        told = [replace(part, offset=_answers(part, 4.0)) for part in blind]
        silent = [replace(part, offset=torch.zeros(len(part.features.words), 2)) for part in seeing]
        fits = []
        for parts in (told, silent):
            copies = [replace(p, features=replace(p.features, words=p.features.words.clone())) for p in parts]
            statistics = standardise_(copies[0].features, copies[1].features)
            fits.append(fit_probe(family, *copies, statistics, CONFIG, **options))  # type: ignore[arg-type]
        assert fits[0].scales is not None and min(fits[0].scales) > 0.5 and fits[0].validation_em > 0.95
        assert fits[1].validation_em > 0.9


def _answers(data: ProbeData, height: float) -> torch.Tensor:
    """(sum of W, 2) logits that point at the first gold."""
    offset = torch.zeros(len(data.features.words), 2)
    first, begins = data.golds.first(), torch.from_numpy(data.features.word_offsets[:-1])
    offset[begins + torch.from_numpy(first.starts), 0] = height
    offset[begins + torch.from_numpy(first.ends_inclusive), 1] = height
    return offset


def test_where_the_states_add_nothing_the_offset_stands_alone() -> None:
    """A probe that only overfits must not cost the scorer anything, or a gain of zero would read as a loss."""
    train, validation, _ = task("marked", 60)
    noise, parts = torch.Generator().manual_seed(0), []
    for part in layer_data(PlantedEncoder(), train, validation, layer=0):
        part.features.words.normal_(generator=noise)
        offset = 2 * torch.randn(len(part.features.words), 2, generator=noise)
        starts = [int(torch.multinomial(o[:, 0].softmax(0), 1, generator=noise)) for o in offset.split(
            part.lengths.tolist())]  # fmt: skip
        golds = GoldSpans(np.array(starts), np.array(starts), np.arange(len(part) + 1))
        parts.append(replace(part, offset=offset[:, :1].expand(-1, 2).contiguous(), golds=golds))
    statistics = standardise_(parts[0].features, parts[1].features)
    fit = fit_minibatch_probe(
        "bilinear", *parts, statistics, replace(CONFIG, lr=0.3), layer=0, max_answer_words=3, seed=0
    )
    assert fit.iterations == 0 and fit.scales == (1.0, 1.0)
    assert all((weight == 0).all() for name, weight in fit.weights.items() if "weight" in name)


def test_the_optimum_is_stationary_and_better_than_its_neighbours() -> None:
    train, validation, _ = task("asked", 200)
    parts = layer_data(PlantedEncoder(), train, validation)
    statistics = standardise_(parts[0].features, parts[1].features)
    config = replace(CONFIG, ridges=(1e-2,), max_iterations=300)
    fit = fit_linear_probe(*parts, statistics, config, layer=1, max_answer_words=3)
    assert fit.converged and fit.ridge == 1e-2 and len(fit.path) == 1
    objective = SpanObjective(parts[0])
    raw = fit.weights["linear.weight"] * statistics.word_std  # back to standardised states
    best, gradient = objective(raw.T.double().numpy().ravel(), 1e-2)
    assert np.abs(gradient).max() < 1e-3
    rng = np.random.default_rng(0)
    for _ in range(5):
        assert objective(raw.T.double().numpy().ravel() + 0.05 * rng.normal(size=64), 1e-2)[0] > best


def hard_problem(n: int, seed: int) -> SpanObjective:
    return SpanObjective(hard_data(n, seed, 48))


def hard_data(n: int, seed: int, size: int) -> ProbeData:
    """``n`` questions of 4 to 18 words, whose golds a noisy linear map of correlated states draws."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], rng.integers(4, 19, n).cumsum()])
    states = rng.normal(size=(offsets[-1], size)) @ np.diag(np.geomspace(3, 0.03, size)) @ rng.normal(size=(size, size))
    states /= states.std(0)
    logits = states @ rng.normal(size=size) / 4 + rng.gumbel(size=len(states))
    golds = np.array([logits[a:b].argmax() for a, b in pairwise(offsets.tolist())])
    words = torch.tensor(states, dtype=torch.float32)
    features = LayerFeatures(words, torch.zeros(n, size), offsets)
    return ProbeData(features, GoldSpans(golds, golds, np.arange(n + 1)))


def test_the_optimum_is_found_as_well_as_float32_can_tell_and_no_better() -> None:
    """Beyond that, line searches fail: up to 40 evaluations for nothing, and fits at their optimum told as cut off."""
    iterations = evaluations = 0
    for n, seed, ridge in product((60, 200), range(3), (1e-1, 1e-2, 1e-3)):
        data = hard_data(n, seed, 48)
        objective = SpanObjective(data)
        found = objective.minimum(objective.start, ridge, 2_000)
        iterations, evaluations = iterations + found.nit, evaluations + found.nfev
        assert found.success, found.message
        assert above_optimum(data, found.x, ridge)[0] < 1e-6  # nats per question
    assert evaluations < 2 * iterations


@pytest.mark.parametrize(("n", "size"), [(60, 256), (200, 128)])
def test_a_flat_loss_does_not_end_a_fit_early(n: int, size: int) -> None:
    """Where dimensions outnumber questions the plain square of the gradient would be content 2e-4 nats too high.

    Nor are steps within rounding taken for a flat loss, and a fit at its optimum told as cut off.
    """
    for seed in range(2):
        data = hard_data(n, seed, size)
        objective = SpanObjective(data)
        weights = objective.start
        for ridge in (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5):
            found = objective.minimum(weights, ridge, 2_000)
            weights = found.x
            assert found.success and above_optimum(data, weights, ridge)[0] < 2e-5


@pytest.mark.parametrize("size", [0.01, 30.0])
def test_an_offset_may_be_of_any_size(size: float) -> None:
    """Its free scale takes that back, so the optimum is the same, and about as many steps away (not 20 and 32)."""
    objective = hard_problem(300, 0)
    noise = torch.randn(len(objective.words), 2, generator=torch.Generator().manual_seed(0))
    objective.offset = objective.words @ torch.full((48, 2), 0.1) + noise
    found = objective.minimum(objective.start, 1e-2, 2_000)
    sized = hard_problem(300, 0)
    sized.offset = size * objective.offset
    other = sized.minimum(sized.start, 1e-2, 2_000)
    assert found.success and other.success and other.fun == pytest.approx(found.fun, abs=2e-6)
    np.testing.assert_allclose(size * other.x[-2:], found.x[-2:], atol=5e-3)
    assert other.nit < 19


@pytest.mark.parametrize(("left", "converged"), [(1e-6, True), (1e-3, False)])
def test_whatever_ends_a_fit_what_is_left_says_whether_it_converged(
    left: float, converged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_fitting, "_gain_left", lambda *_: left)
    objective = hard_problem(60, 0)
    for limit in (1, 2_000):
        assert objective.minimum(objective.start, 1e-2, limit).success == converged


def halves(data: ProbeData) -> tuple[ProbeData, ProbeData]:
    """The first and the second half of the questions, standardised with the first."""
    middle = len(data) // 2
    parts = data.take(np.arange(middle)), data.take(np.arange(middle, len(data)))
    standardise_(*(part.features for part in parts))
    return parts


@pytest.mark.parametrize("seed", range(2))
def test_an_offset_that_states_hold_is_told_apart_from_them(seed: int) -> None:
    """Its scale and the weights can change against each other, and a fit in that valley ended 3e-4 nats too high."""
    data = hard_data(60, seed, 16)
    data = replace(data, offset=3 * data.features.words[:, :2])
    objective = SpanObjective(data)
    found, steps = objective.start, 0
    for ridge in (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5):
        result = objective.minimum(found, ridge, 2_000)
        found, steps = result.x, steps + result.nit
        assert result.success and above_optimum(data, found, ridge)[0] < 1e-6
    assert steps < 60
    free = objective.minimum(objective.start, 0.0, 2_000)  # what states leave of the offset is rounding then
    assert free.success and free.fun < result.fun + 1e-5 and np.abs(free.x).max() < 1e4


def test_a_constant_offset_is_none_however_it_is_rounded() -> None:
    """One word's last bit was blown up to a scale at which float32 lost the states."""
    config, sizes = ProbeConfig(ridges=(1e-1, 1e-2)), {"layer": 1, "max_answer_words": 3}
    parts = halves(hard_data(400, 0, 16))
    plain = fit_linear_probe(*parts, None, config, **sizes)
    with_constant = []
    for part in parts:
        offset = torch.full((len(part.features.words), 2), 5.0)
        offset[3] = torch.nextafter(offset[3], torch.tensor(6.0))
        with_constant.append(replace(part, offset=offset))
    fit = fit_linear_probe(*with_constant, None, config, **sizes)
    assert plain.validation_f1 > 0.15 and fit.converged and all(row["converged"] for row in fit.path)
    assert fit.validation_f1 == pytest.approx(plain.validation_f1, abs=0.01)


@pytest.mark.parametrize(("limit", "converged"), [(3, False), (2_000, True)])
def test_a_best_offset_says_whether_the_fits_beside_it_were_cut_off(limit: int, converged: bool) -> None:
    """States of noise only overfit, and the offset is best; but of fits that were cut off that is not known."""
    answers, generator = [], torch.Generator().manual_seed(0)
    for part in halves(hard_data(60, 0, 48)):
        offset = torch.randn(len(part.features.words), 2, generator=generator)
        firsts, golds = part.features.word_offsets[:-1], part.golds
        offset[golds.starts + firsts, 0] += 3
        offset[golds.ends_inclusive + firsts, 1] += 3
        part.features.words.normal_(generator=generator)
        answers.append(replace(part, offset=offset))
    config = ProbeConfig(ridges=(1e-3, 1e-4), max_iterations=limit)
    fit = fit_linear_probe(*answers, None, config, layer=1, max_answer_words=3)
    assert fit.iterations == 0 and fit.converged == converged
    told = "the offset alone was best, but fits on top of it were cut off before their optimum"
    scaled = replace(fit, scales=(3.0, 3.0))  # as where the states are constant, and its scales were fitted
    assert not any("alone" in remark for remark in scaled.remarks)
    assert fit.remarks == (() if converged else (told,))


@pytest.mark.parametrize(
    ("losses", "over"),
    [
        ((3.0,), False), ((3.0, 3.1), False), ((3.0, 3.1, 3.2), True), ((3.0, 2.0, 2.5), False),
        ((3.0, 2.0, 2.5, 2.4), True), ((3.0, 3.000_01, 3.000_02), False), ((3.0, 3.1, 3.000_01), False),
    ],
)  # fmt: skip
def test_ridges_end_after_two_that_are_truly_worse(losses: tuple[float, ...], over: bool) -> None:
    """Where strong ridges leave next to no weights, their losses differ by less than a fit ends from its optimum."""
    assert probe_fitting._only_worse(losses) == over


def test_what_is_left_knows_where_states_hardly_vary() -> None:
    """A coordinate of curvature 0.01 has a hundred times as much to gain as its gradient tells by itself."""
    gradient = np.array([1e-3, 0.0])
    left = probe_fitting._gain_left([(np.zeros(2), gradient)], np.array([0.01, 1.0]))
    assert left == pytest.approx(0.5 * 1e-6 / 0.01)


def test_a_fit_that_is_cut_off_says_so_and_one_at_its_optimum_does_not() -> None:
    train, validation, _ = task("asked", 60)
    parts = layer_data(PlantedEncoder(), train, validation)
    standardise_(parts[0].features, parts[1].features)
    for limit, converged in ((3, False), (2_000, True)):
        config = replace(CONFIG, ridges=(1e-1,), max_iterations=limit)
        fit = fit_linear_probe(*parts, None, config, layer=1, max_answer_words=3)
        assert fit.converged == converged
        assert any("3 iterations, before its optimum" in remark for remark in fit.remarks) != converged


def test_ridge_is_chosen_on_validation_and_every_one_reported() -> None:
    train, validation, _ = task("asked", 60)
    parts = layer_data(PlantedEncoder(), train, validation)
    statistics = standardise_(parts[0].features, parts[1].features)
    fit = fit_linear_probe(*parts, statistics, CONFIG, layer=1, max_answer_words=3)
    tried = [row["ridge"] for row in fit.path]
    assert tried == sorted(CONFIG.ridges, reverse=True)[: len(tried)]
    losses = [row["loss"] for row in fit.path]
    assert len(tried) == len(CONFIG.ridges) or min(losses[-2:]) > min(losses)  # weaker ones only overfitted more
    assert fit.validation_loss == min(row["loss"] for row in fit.path)
    train_losses = [row["train_loss"] for row in fit.path]
    assert train_losses == sorted(train_losses, reverse=True)  # weaker penalty, better fit
    assert fit.n_trainable == 2 * 33 == sum(v.numel() for v in fit.weights.values())


def test_the_training_loss_told_is_that_of_the_weights_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was evaluated last: a line search that fails ends elsewhere."""
    train, validation, _ = task("asked", 60)
    parts = layer_data(PlantedEncoder(), train, validation)
    standardise_(parts[0].features, parts[1].features)
    minimum = SpanObjective.minimum

    def ended_elsewhere(self: SpanObjective, start: np.ndarray, ridge: float, limit: int) -> OptimizeResult:
        found = minimum(self, start, ridge, limit)
        self(0 * found.x, ridge)
        return found

    monkeypatch.setattr(SpanObjective, "minimum", ended_elsewhere)
    config = replace(CONFIG, ridges=(1e-2,))
    fit = fit_linear_probe(*parts, None, config, layer=1, max_answer_words=3)
    weights = fit.weights["linear.weight"].T.double().numpy().ravel()
    unpenalised = SpanObjective(parts[0], config.train_gold)(weights, 0.0)[0]
    assert fit.path[0]["train_loss"] == pytest.approx(unpenalised, abs=1e-6)


def test_the_exported_head_is_one_linear_layer_on_raw_states() -> None:
    encoder = PlantedEncoder()
    train, validation, test = task("marked")
    report = run(encoder, train, validation, families=("linear",))
    fit = report.best("linear")
    head = span_head(fit)
    raw = cache_features(encoder, test, [1], context=Context()).words[1]
    start, _ = head(raw)
    logits = predict_probes(encoder, [fit], test, context=Context())[0]
    inside = np.arange(logits.start.shape[1]) < test.n_words[:, None]
    np.testing.assert_allclose(start.detach().numpy(), logits.start[inside], rtol=1e-4, atol=1e-3)


def test_control_targets_can_be_fitted() -> None:
    train, validation, _ = task("marked")
    parts = layer_data(PlantedEncoder(), train, validation)
    rng = np.random.default_rng(0)
    control = []
    for part, data in zip(parts, (train, validation), strict=True):
        where = (rng.random(len(data)) * data.n_words).astype(np.int64)
        control.append(ProbeData(part.features, GoldSpans(where, where, np.arange(len(data) + 1))))
    statistics = standardise_(parts[0].features, parts[1].features)
    task_fit = fit_linear_probe(*parts, statistics, CONFIG, layer=1, max_answer_words=3)
    control_fit = fit_linear_probe(*control, statistics, CONFIG, layer=1, max_answer_words=3)
    assert task_fit.validation_em == 1.0 and control_fit.validation_em < 0.4


def test_standardising() -> None:
    train, validation, _ = task("marked")
    parts = layer_data(PlantedEncoder(), train, validation)
    before = parts[1].features.words.clone()
    statistics = standardise_(parts[0].features, parts[1].features)
    words = parts[0].features.words.double()
    torch.testing.assert_close(words.mean(0), torch.zeros(32).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(words.std(0, correction=0), torch.ones(32).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        parts[1].features.words, (before - statistics.word_mean) / statistics.word_std, atol=1e-5, rtol=1e-5
    )
    constant = layer_data(PlantedEncoder(), train, validation, layer=0)
    standardise_(constant[0].features, constant[1].features)
    assert (constant[0].features.words == 0).all()  # nothing to divide by, and no nan


def run(encoder: PlantedEncoder, train: EncodedQA, validation: EncodedQA, **more: Any) -> ProbeReport:
    families = more.pop("families", None)
    return probe_all_layers(
        encoder, train, validation, replace(CONFIG, epochs=4), Context(**more), seed=0, max_answer_words=3,
        families=families,
    )  # fmt: skip


def test_every_layer_is_fitted_and_the_best_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOKENS_PER_BATCH, "cpu", 1 << 20)  # all questions of a split in one batch
    train, validation, _ = task("marked")
    encoder = PlantedEncoder()
    report = run(encoder, train, validation, families=("linear", "bilinear", "mlp"))
    assert [(f.family, f.layer) for f in report.fits] == [
        (family, layer) for layer in (0, 1) for family in ("linear", "bilinear", "mlp")
    ]
    assert encoder.passes == 2  # once over the training questions, once over the validation ones
    assert report.best("linear").layer == 1 and report.last("linear").layer == 1
    assert report.best("linear").validation_em == 1.0 > 0.5 > report.of("linear")[0].validation_em


def test_a_small_cache_gives_the_same_fits() -> None:
    train, validation, _ = task("marked", 60)
    encoder, frugal = PlantedEncoder(), PlantedEncoder()
    tight = 1.2e-9 * 4 * 32 * (train.word_offsets[-1] + validation.word_offsets[-1])  # one layer at a time
    options = {"seed": 0, "context": Context(), "max_answer_words": 3}
    small = probe_all_layers(
        frugal, train, validation, replace(CONFIG, epochs=2, cache_gigabytes=float(tight)), **options
    )  # type: ignore[arg-type]
    large = probe_all_layers(encoder, train, validation, replace(CONFIG, epochs=2), **options)  # type: ignore[arg-type]
    assert (frugal.passes, encoder.passes) == (4, 2)
    assert_equal(small, large)


def assert_equal(a: ProbeReport, b: ProbeReport) -> None:
    assert len(a.fits) == len(b.fits)
    for x, y in zip(a.fits, b.fits, strict=True):
        assert x.summary() == y.summary()
        assert all(torch.equal(x.weights[k], y.weights[k]) for k in y.weights) and x.weights.keys() == y.weights.keys()


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_a_stopped_run_resumes_and_ends_identical(tmp_path: Path, stop_after: int) -> None:
    train, validation, _ = task("asked", 60)
    undisturbed = MemoryRecorder()
    whole = run(PlantedEncoder(), train, validation, recorder=undisturbed)
    recorder, checkpointer = MemoryRecorder(), Checkpointer(tmp_path)
    calls = iter(range(1, 10))
    with pytest.raises(StopRequested):
        run(
            PlantedEncoder(), train, validation, recorder=recorder, checkpointer=checkpointer,
            should_stop=lambda: next(calls) == stop_after,
        )  # fmt: skip
    recorder.log("after the checkpoint")  # a killed run may have written more than it saved
    resumed = run(PlantedEncoder(), train, validation, recorder=recorder, checkpointer=Checkpointer(tmp_path))
    assert_equal(resumed, whole)
    assert recorder.history == undisturbed.history


def test_probes_that_go_on_in_another_number_format_say_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train, validation, _ = task("asked", 60)
    calls = iter(range(1, 10))
    with pytest.raises(StopRequested):
        run(
            PlantedEncoder(),
            train,
            validation,
            checkpointer=Checkpointer(tmp_path),
            should_stop=lambda: next(calls) == 1,
        )
    run(PlantedEncoder(), train, validation, checkpointer=Checkpointer(tmp_path), precision="bf16")
    assert caplog.text.count("computed in fp32, the rest will be in bf16") == 1


def test_no_questions_is_one_line() -> None:
    train, validation, _ = task("marked", 20)
    with pytest.raises(EmergenceError, match="needs training and validation questions"):
        run(PlantedEncoder(), train, validation.subset([]))
