"""Probes find what is planted, fail where nothing is, and know how they got there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from qa_tasks import PlantedEncoder, WordTokenizer, named_word_task

from emergence.config import ProbeConfig
from emergence.data.qa_encoding import EncodedQA
from emergence.errors import EmergenceError
from emergence.measures.spans import GoldSpans
from emergence.model import span_cross_entropy
from emergence.training.checkpoint import Checkpointer
from emergence.training.evaluate import gold_spans, score_logits
from emergence.training.features import TOKENS_PER_BATCH, LayerFeatures, cache_features
from emergence.training.health import NonFiniteLossError
from emergence.training.probe import ProbeReport, predict_probes, probe_all_layers
from emergence.training.probe_data import ProbeData, standardise_
from emergence.training.probe_fitting import (
    ProbeFit,
    SpanObjective,
    fit_linear_probe,
    fit_minibatch_probe,
    span_head,
)
from emergence.training.recording import MemoryRecorder, StopRequested

CPU = torch.device("cpu")
CONFIG = ProbeConfig(bilinear_rank=16, epochs=16, batch_size=16, lr=1e-2, patience=16)


def task(kind: str, n: int = 200) -> tuple[EncodedQA, EncodedQA, EncodedQA]:
    tokenizer = WordTokenizer()
    for word in range(20):
        tokenizer.token(f"w{word}")
    train, validation, test = (named_word_task(m, seed, kind, tokenizer) for seed, m in enumerate((n, 60, 60)))
    return train, validation, test


def layer_data(encoder: PlantedEncoder, *splits: EncodedQA, layer: int = 1) -> list[ProbeData]:
    return [
        ProbeData(cache_features(encoder, s, [layer], device=CPU, precision="fp32").layer(layer), gold_spans(s))
        for s in splits
    ]


def exact_match(fit: ProbeFit, encoder: PlantedEncoder, data: EncodedQA) -> float:
    logits = predict_probes(encoder, [fit], data, device=CPU, precision="fp32")[0]
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
    with pytest.raises(NonFiniteLossError, match="linear probe, layer 1, ridge 10: "):
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


def test_gradient_and_loss_of_the_linear_objective() -> None:
    train, validation, _ = task("marked", 20)
    parts = layer_data(PlantedEncoder(), train, validation)
    standardise_(parts[0].features, parts[1].features)
    objective = SpanObjective(parts[0])
    weights = np.random.default_rng(0).normal(size=objective.n_weights) / 5
    value, gradient = objective(weights, 0.1)
    for k in (0, 7, 40, 63):
        step = np.zeros_like(weights)
        step[k] = 1e-2
        slope = (objective(weights + step, 0.1)[0] - objective(weights - step, 0.1)[0]) / 2e-2
        assert gradient[k] == pytest.approx(slope, abs=2e-3)
    # The same loss by the model's own function, one sentence at a time.
    w = torch.tensor(weights.reshape(-1, 2), dtype=torch.float32)
    losses = []
    for i in range(len(train)):
        logits = parts[0].features.words[slice(*train.word_offsets[i : i + 2])] @ w
        gold = torch.tensor(train.first_golds[i])
        mask = torch.ones(1, len(logits), dtype=torch.bool)
        one = torch.ones(1, 1, dtype=torch.bool)
        losses.append(
            span_cross_entropy(logits[None, :, 0], logits[None, :, 1], mask, gold[None, :1], gold[None, 1:], one)
        )
    assert value == pytest.approx(float(torch.stack(losses).mean()) + 0.05 * (weights**2).sum(), rel=1e-5)


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


def test_ridge_is_chosen_on_validation_and_every_one_reported() -> None:
    train, validation, _ = task("asked", 60)
    parts = layer_data(PlantedEncoder(), train, validation)
    statistics = standardise_(parts[0].features, parts[1].features)
    fit = fit_linear_probe(*parts, statistics, CONFIG, layer=1, max_answer_words=3)
    assert [row["ridge"] for row in fit.path] == sorted(CONFIG.ridges, reverse=True)
    assert fit.validation_loss == min(row["loss"] for row in fit.path)
    train_losses = [row["train_loss"] for row in fit.path]
    assert train_losses == sorted(train_losses, reverse=True)  # weaker penalty, better fit
    assert fit.n_trainable == 2 * 33 == sum(v.numel() for v in fit.weights.values())


def test_the_exported_head_is_one_linear_layer_on_raw_states() -> None:
    encoder = PlantedEncoder()
    train, validation, test = task("marked")
    report = run(encoder, train, validation, families=("linear",))
    fit = report.best("linear")
    head = span_head(fit)
    raw = cache_features(encoder, test, [1], device=CPU, precision="fp32").words[1]
    start, _ = head(raw)
    logits = predict_probes(encoder, [fit], test, device=CPU, precision="fp32")[0]
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


def run(encoder: PlantedEncoder, train: EncodedQA, validation: EncodedQA, **more: object) -> ProbeReport:
    options: dict[str, object] = {"seed": 0, "device": CPU, "precision": "fp32", "max_answer_words": 3}
    return probe_all_layers(encoder, train, validation, replace(CONFIG, epochs=4), **{**options, **more})  # type: ignore[arg-type]


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
    options = {"seed": 0, "device": CPU, "precision": "fp32", "max_answer_words": 3}
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


def test_no_questions_is_one_line() -> None:
    train, validation, _ = task("marked", 20)
    with pytest.raises(EmergenceError, match="needs training and validation questions"):
        run(PlantedEncoder(), train, validation.subset([]))
