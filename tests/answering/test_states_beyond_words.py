"""What states add to words and positions: found where planted, nothing where words tell it or states are noise."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emergence.answering import conditional
from emergence.answering.conditional import (
    EMBEDDING_POSITION,
    ConditionalFit,
    measure_conditional,
    scorer_logits,
)
from emergence.answering.evaluate import gold_spans, quick_scores, score_logits
from emergence.answering.features import SpanLogits
from emergence.answering.probe import ProbeReport, probe_all_layers
from emergence.answering.word_scorer import WordScores, word_scores
from emergence.data.qa_encoding import EncodedQA, encode_qa
from emergence.spec.config import ProbeConfig
from emergence.training.checkpoint import Checkpointer
from emergence.training.context import Context
from emergence.training.recording import StopRequested
from tests.answering.qa_tasks import WORDS, PlantedEncoder, WordTokenizer, example

CPU = torch.device("cpu")
Splits = tuple[EncodedQA, EncodedQA, EncodedQA]
CONFIG = ProbeConfig(
    families=("linear", "bilinear"),
    ridges=(1e-3, 1e-2, 1e-1),
    bilinear_rank=16,
    epochs=8,
    batch_size=48,
    lr=2e-2,
    patience=3,
)
OPTIONS = {"seed": 0, "context": Context(), "max_answer_words": 1}


def asked_word(n: int, seed: int, tokenizer: WordTokenizer, *, hidden: bool | None) -> EncodedQA:
    """The answer is the word that the question names (``hidden``), always w0 (which words tell), or any (None)."""
    rng = np.random.default_rng(seed)
    examples = []
    for k in range(n):
        words = [WORDS[i] for i in rng.permutation(20)[: rng.integers(5, 9)]]
        if "w0" not in words:
            words[int(rng.integers(len(words)))] = "w0"
        at = words.index("w0") if hidden is False else int(rng.integers(len(words)))
        named = "thing" if hidden is None else words[at]
        fields = {"predicate_index": int(rng.integers(len(words))), "sentence_id": f"s{seed}-{k}"}
        examples.append(example(k, words, f"what {named} ?", [(at, at + 1)], **fields))
    return encode_qa(examples, tokenizer, "question-first", 64)[0]


class NoisyEncoder(PlantedEncoder):
    """States that tell nothing: a twin for the null."""

    def hidden_states(self, ids: torch.Tensor) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(int(ids.sum()) + int(self.table[0, 0] * 1e6))
        return [torch.randn(level.shape, generator=generator) for level in super().hidden_states(ids)]


@cache
def world(hidden: bool) -> tuple[tuple[EncodedQA, EncodedQA, EncodedQA], dict[str, WordScores]]:
    tokenizer = WordTokenizer()
    for word in WORDS:
        tokenizer.token(word)
    train, validation, test = (asked_word(n, s, tokenizer, hidden=hidden) for s, n in enumerate((240, 80, 80)))
    scorers = {v: word_scores(train, validation, test, variant=v, max_answer_words=1) for v in ("left", "both")}
    return (train, validation, test), scorers


def measure(
    encoder: PlantedEncoder, splits: Splits, scorers: dict[str, WordScores], **more: object
) -> tuple[ProbeReport, dict[str, ConditionalFit]]:
    report = probe_all_layers(encoder, *splits[:2], CONFIG, **OPTIONS)  # type: ignore[arg-type]
    return report, measure_conditional(encoder, report, splits, scorers, CONFIG, **{**OPTIONS, **more})  # type: ignore[arg-type]


@cache
def half_told() -> tuple[Splits, WordScores]:
    """Words tell half of the answers; nothing tells the others."""
    tokenizer = WordTokenizer()
    for word in WORDS:
        tokenizer.token(word)
    parts = [
        [asked_word(n, s + (10 if h is None else 0), tokenizer, hidden=h) for h in (False, None)]
        for s, n in enumerate((120, 60, 120))
    ]
    train, validation, test = (known.joined(unknown) for known, unknown in parts)
    return (train, validation, test), word_scores(train, validation, test, variant="left", max_answer_words=1)


@cache
def planted() -> tuple[ProbeReport, dict[str, ConditionalFit]]:
    """Measured where words tell the answer, over a planted trunk."""
    return measure(PlantedEncoder(), *world(hidden=False))


def f1(logits: SpanLogits, encoded: EncodedQA) -> float:
    return float(score_logits(logits, encoded, 1).f1_tokens.mean())


def test_states_add_what_only_they_know_and_noise_adds_nothing() -> None:
    splits, scorers = world(hidden=True)
    # Which word was asked for is in the question alone: hashed words see it as a template, states as an identity.
    blind = replace(scorers["left"], **{s: _flat(getattr(scorers["left"], s)) for s in ("train", "validation", "test")})
    gains = {}
    for name, encoder in (("planted", PlantedEncoder()), ("noise", NoisyEncoder())):
        _, found = measure(encoder, splits, {"left": blind}, control=False)
        gains[name] = f1(found["words+bilinear"].test, splits[2]) - f1(blind.test, splits[2])
    assert gains["planted"] > 0.5 and abs(gains["noise"]) < 0.15


def test_states_of_noise_gain_and_lose_nothing() -> None:
    """By any family, over draws of the noise: neither does a probe that overfits cost the scorer anything, nor is it
    credited with making its scores bolder. Words tell half of the answers."""
    (train, validation, test), scorer = half_told()
    alone = score_logits(scorer.test, test, 1)
    assert 0.5 < alone.f1_tokens.mean() < 0.75
    gains: dict[str, list[list[float]]] = {}
    for seed in range(6):
        _, found = measure(NoisyEncoder(seed=seed), (train, validation, test), {"left": scorer}, control=False)
        for name, fit in found.items():
            both = score_logits(fit.test, test, 1)
            gain = [float((getattr(both, s) - getattr(alone, s)).mean()) for s in ("f1_tokens", "log_prob")]
            gains.setdefault(name, []).append(gain)
    for name, rows in gains.items():
        mean, se = np.mean(rows, axis=0), np.std(rows, axis=0, ddof=1) / np.sqrt(len(rows))
        assert (np.abs(mean) <= 3 * se + 1e-3).all() and abs(mean[0]) < 0.01 and mean[1] < 0.01, (name, mean, se)


def _times(factor: float, logits: SpanLogits) -> SpanLogits:
    return SpanLogits(factor * logits.start, factor * logits.end, logits.lengths)


def _flat(logits: SpanLogits) -> SpanLogits:
    return SpanLogits(np.zeros_like(logits.start), np.zeros_like(logits.end), logits.lengths)


@pytest.mark.parametrize("encoder", [PlantedEncoder, pytest.param(NoisyEncoder, marks=pytest.mark.slow)])
def test_what_words_tell_is_not_credited_to_states(encoder: type[PlantedEncoder]) -> None:
    splits, scorers = world(hidden=False)
    alone = f1(scorers["left"].test, splits[2])
    assert alone > 0.95
    found = planted()[1] if encoder is PlantedEncoder else measure(encoder(), splits, scorers)[1]
    for name in ("words+linear", "words+bilinear", "words_both+bilinear"):
        assert abs(f1(found[name].test, splits[2]) - alone) < 0.06
    names = ["words+linear", "words+bilinear", "words_both+bilinear", EMBEDDING_POSITION, f"words+{EMBEDDING_POSITION}"]
    assert list(found) == names


def test_the_bilinear_probe_starts_from_the_linear_one() -> None:
    """So that it adds at least what the linear one adds, however its own search goes: here its rate moves nothing."""
    splits, scorers = world(hidden=False)
    blind = replace(scorers["left"], **{s: _flat(getattr(scorers["left"], s)) for s in ("train", "validation", "test")})
    report, _ = planted()
    report = replace(report, fits=tuple(fit for fit in report.fits if fit.layer == report.best("linear").layer))
    alone = quick_scores(blind.validation, gold_spans(splits[1]), 1, CONFIG.train_gold).loss
    losses = {}
    for nested in (True, False):
        config = replace(CONFIG, lr=1e-9, epochs=2, nested=nested)
        found = measure_conditional(
            PlantedEncoder(),
            report,
            splits,
            {"left": blind},
            config,
            control=False,
            **OPTIONS,  # type: ignore[arg-type]
        )
        losses[nested] = {name: fit.facts["validation_loss"] for name, fit in found.items()}
    assert losses[True]["words+bilinear"] <= losses[True]["words+linear"] < alone - 0.5
    assert losses[False]["words+bilinear"] == pytest.approx(alone), "from a random start nothing was found"


@pytest.mark.slow
def test_layers_are_those_that_validation_chose_and_the_control_reads_embeddings() -> None:
    report, found = planted()
    for family in ("linear", "bilinear"):
        assert found[f"words+{family}"].layer == report.best(family).layer
    control = found[EMBEDDING_POSITION]
    assert (control.layer, control.scorer, control.facts["scales"]) == (0, None, None)
    assert found["words+bilinear"].facts["scales"] is not None


def test_the_control_sees_positions() -> None:
    """The answer is the word after the predicate; embeddings alone cannot tell it, the position beside them can."""
    tokenizer = WordTokenizer()
    splits = []
    for seed, n in enumerate((240, 80, 80)):
        rng = np.random.default_rng(seed)
        examples = []
        for k in range(n):
            words = [WORDS[i] for i in rng.permutation(20)[:8]]
            at = int(rng.integers(1, 7))
            examples.append(example(k, words, "what ?", [(at, at + 1)], predicate_index=at - 1))
        splits.append(encode_qa(examples, tokenizer, "question-first", 64)[0])
    train, validation, test = splits
    scorers = {"left": word_scores(train, validation, test, variant="left", max_answer_words=1)}
    _, found = measure(PlantedEncoder(), (train, validation, test), scorers)
    assert f1(found[EMBEDDING_POSITION].test, test) > 0.9


def test_the_scorers_logits_are_log_probabilities_of_these_questions() -> None:
    splits, scorers = world(hidden=False)
    offset = scorer_logits(scorers["left"], splits[0].n_words, "train")
    begins = splits[0].word_offsets[:-1]
    np.testing.assert_allclose(np.add.reduceat(np.exp(offset), begins, axis=0), 1.0, rtol=1e-4)
    with pytest.raises(ValueError, match="of other questions"):
        scorer_logits(scorers["left"], splits[1].n_words, "train")


def test_scales_of_the_offset_are_learnt() -> None:
    """Of scorers that are too bold, one twice as bold as another is trusted half as much."""
    (train, validation, test), scorer = half_told()
    scales = {}
    for boldness in (3.0, 6.0):
        bold = {split: _times(boldness, getattr(scorer, split)) for split in ("train", "validation", "test")}
        config = replace(CONFIG, families=("linear",))
        report = probe_all_layers(NoisyEncoder(), train, validation, config, **OPTIONS)  # type: ignore[arg-type]
        found = measure_conditional(
            NoisyEncoder(), report, (train, validation, test), {"left": replace(scorer, **bold)}, config,
            control=False, **OPTIONS,  # type: ignore[arg-type]
        )  # fmt: skip
        scales[boldness] = np.array(found["words+linear"].facts["scales"])
    assert scales[6.0] == pytest.approx(scales[3.0] / 2, rel=0.02)
    assert (scales[3.0] < 0.5).all()


@pytest.mark.parametrize("stop_after", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_stopped_measurement_resumes_and_ends_identical(
    tmp_path: Path, stop_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits, scorers = world(hidden=False)
    encoder = PlantedEncoder()
    report, whole = planted()
    calls, fitted, fit = iter(range(1, 10)), [], conditional._fit

    def counted(name: str, *rest: Any) -> ConditionalFit:
        fitted.append(name)
        return fit(name, *rest)

    monkeypatch.setattr(conditional, "_fit", counted)
    with pytest.raises(StopRequested):
        measure_conditional(
            encoder, report, splits, scorers, CONFIG,
            Context(checkpointer=Checkpointer(tmp_path), should_stop=lambda: next(calls) == stop_after),
            seed=0, max_answer_words=1,
        )  # fmt: skip
    resumed = measure_conditional(
        encoder,
        report,
        splits,
        scorers,
        CONFIG,
        Context(checkpointer=Checkpointer(tmp_path)),
        seed=0,
        max_answer_words=1,
    )
    assert list(resumed) == list(whole) and sorted(fitted) == sorted(whole), "each was fitted once"
    for name, found in whole.items():
        assert resumed[name].facts == found.facts
        for split in ("validation", "test"):
            for key in ("start", "end", "lengths"):
                assert np.array_equal(getattr(getattr(resumed[name], split), key), getattr(getattr(found, split), key))
