"""Finetuning learns, resumes to the bit from anywhere, and says so when it cannot go on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emergence.answering.evaluate import QuickScores, gold_spans, quick_scores
from emergence.answering.features import predict_finetuned
from emergence.answering.finetune import FinetuneResult, build_optimizer, finetune, schedule, training_batches
from emergence.data.qa_encoding import EncodedQA, encode_qa
from emergence.data.records import Answer
from emergence.errors import EmergenceError
from emergence.model import SpanHead, Trunk, build_trunk
from emergence.spec.config import FinetuneConfig, ModelConfig
from emergence.training.checkpoint import Checkpointer
from emergence.training.context import Context
from emergence.training.finiteness import NonFiniteLossError
from emergence.training.recording import StopRequested
from tests.answering.qa_tasks import WordTokenizer, named_word_task
from tests.memory_recorder import MemoryRecorder

CPU = torch.device("cpu")
MODEL = ModelConfig(n_layers=2, hidden_size=16, n_heads=2, vocab_size=300, sequence_length=64)
CONFIG = FinetuneConfig(
    epochs=2, batch_size=16, lr=3e-3, head_lr=3e-3, patience=0, log_every_steps=3, checkpoint_every_steps=4,
    min_steps_per_epoch=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def data() -> tuple[EncodedQA, EncodedQA]:
    tokenizer = WordTokenizer()
    return named_word_task(100, 0, "after", tokenizer), named_word_task(40, 1, "after", tokenizer)


class Run:
    """One call of :func:`finetune` and what it left behind."""

    def __init__(self, data: tuple[EncodedQA, EncodedQA], config: FinetuneConfig = CONFIG, **more: Any) -> None:
        self.trunk: Trunk = build_trunk(MODEL, 64, seed=0, init="normal")
        self.head = SpanHead(16, seed=0)
        self.recorder: MemoryRecorder = more.pop("recorder", MemoryRecorder())
        self.saved: dict[str, dict[str, torch.Tensor]] = {}
        self.data, self.config, self.more = data, config, more

    def __call__(self) -> FinetuneResult:
        return finetune(
            self.trunk, self.head, *self.data, self.config, Context(recorder=self.recorder, **self.more), seed=0,
            max_answer_words=3, save_snapshot=self._snapshot,
        )  # fmt: skip

    def _snapshot(self, name: str, trunk: Trunk, head: SpanHead, facts: dict[str, Any]) -> None:
        assert facts["epoch"] == int(name.removeprefix("finetune_epoch_"))
        self.saved[name] = {k: v.clone() for k, v in [*trunk.state_dict().items(), *head.state_dict().items()]}

    def weights(self) -> list[torch.Tensor]:
        return [*self.trunk.state_dict().values(), *self.head.state_dict().values()]


def stop_at(step: int) -> Callable[[], bool]:
    calls = iter(range(1, 10_000))
    return lambda: next(calls) == step


def test_every_pass_is_in_one_order(data: tuple[EncodedQA, EncodedQA], monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention on a GPU would add up in any order otherwise, forward in evaluation apart, which has but one."""
    within = [False]

    @contextmanager
    def watched(device: torch.device) -> Iterator[None]:
        within[0] = True
        yield
        within[0] = False

    backward = torch.Tensor.backward
    seen: list[bool] = []
    monkeypatch.setattr("emergence.answering.finetune.in_one_order", watched)
    monkeypatch.setattr(torch.Tensor, "backward", lambda loss: (seen.append(within[0]), backward(loss))[1])
    Run(data, replace(CONFIG, epochs=1))()
    assert seen and all(seen)


def test_it_learns_to_answer_by_the_predicate(data: tuple[EncodedQA, EncodedQA]) -> None:
    run = Run(data, replace(CONFIG, epochs=8, lr=1e-2))
    result = run()
    assert result.epochs[-1].train_loss < 0.5 * result.epochs[0].train_loss
    assert result.best.validation_f1 > 0.9
    assert result.best.validation_f1 == max(e.validation_f1 for e in result.epochs)
    assert list(run.saved) == [f"finetune_epoch_{n}" for n in range(1, 9)]


def test_the_model_ends_with_the_best_epochs_weights(data: tuple[EncodedQA, EncodedQA]) -> None:
    run = Run(data, replace(CONFIG, lr=3e-2, head_lr=3e-2, epochs=4))  # unsteady on purpose
    result = run()
    kept = run.saved[f"finetune_epoch_{result.best.epoch}"].values()
    assert all(torch.equal(a, b) for a, b in zip(run.weights(), kept, strict=True))
    logits = predict_finetuned(run.trunk.eval(), run.head, data[1], context=Context())
    scores = quick_scores(logits, gold_spans(data[1]), 3)
    assert (scores.loss, scores.f1) == (result.best.validation_loss, result.best.validation_f1)


@pytest.mark.parametrize("step", [1, 4, 7, 13])
def test_stopped_anywhere_it_resumes_to_the_same_end(
    data: tuple[EncodedQA, EncodedQA], tmp_path: Path, step: int
) -> None:
    whole = Run(data)
    expected = whole()
    first = Run(data, should_stop=stop_at(step), checkpointer=Checkpointer(tmp_path))
    with pytest.raises(StopRequested):
        first()
    second = Run(data, recorder=first.recorder, checkpointer=Checkpointer(tmp_path))
    second.trunk.embedding.weight.data.fill_(9.0)  # everything must come from the checkpoint
    result = second()
    assert all(torch.equal(a, b) for a, b in zip(second.weights(), whole.weights(), strict=True))
    assert second.recorder.history == whole.recorder.history
    assert (result.epochs, result.best, result.steps) == (expected.epochs, expected.best, expected.steps)


def test_killed_without_warning_it_goes_on_from_the_last_checkpoint(
    data: tuple[EncodedQA, EncodedQA], tmp_path: Path
) -> None:
    whole = Run(data)
    whole()
    recorder = MemoryRecorder()
    for step in (3, 3, 5):  # dies so many steps after each start, with history written but not checkpointed

        def die(calls: Callable[[], bool] = stop_at(step)) -> bool:
            if calls():
                raise KeyboardInterrupt
            return False

        run = Run(data, recorder=recorder, should_stop=die, checkpointer=Checkpointer(tmp_path))
        with pytest.raises(KeyboardInterrupt):
            run()
    last = Run(data, recorder=recorder, checkpointer=Checkpointer(tmp_path))
    last()
    assert recorder.history == whole.recorder.history
    assert all(torch.equal(a, b) for a, b in zip(last.weights(), whole.weights(), strict=True))


def test_a_finished_run_only_returns_its_result(data: tuple[EncodedQA, EncodedQA], tmp_path: Path) -> None:
    first = Run(data, checkpointer=Checkpointer(tmp_path))
    expected = first()
    again = Run(data, recorder=first.recorder, checkpointer=Checkpointer(tmp_path))
    lines = len(first.recorder.history)
    result = again()
    assert result.best == expected.best and again.saved == {} and len(first.recorder.history) == lines
    assert all(torch.equal(a, b) for a, b in zip(again.weights(), first.weights(), strict=True))


def test_patience_ends_it_and_history_says_what_happened(data: tuple[EncodedQA, EncodedQA]) -> None:
    run = Run(data, replace(CONFIG, epochs=12, patience=2, lr=0.0, head_lr=0.0))  # never better
    result = run()
    assert result.stopped_early and result.best.epoch == 1 and len(result.epochs) == 3
    epochs = [line for line in run.recorder.history if line["kind"] == "finetune_epoch"]
    assert [line["epoch"] for line in epochs] == list(range(1, len(result.epochs) + 1))
    steps = [line["step"] for line in run.recorder.history if line["kind"] == "finetune_step"]
    assert steps == list(range(3, result.steps + 1, 3)) and result.steps == 7 * len(result.epochs)
    assert not any("seconds" in line for line in run.recorder.history)
    assert [line["kind"] for line in run.recorder.timings] == ["finetune_epoch"] * len(epochs)


def test_same_seed_same_run(data: tuple[EncodedQA, EncodedQA]) -> None:
    a, b = Run(data), Run(data)
    a(), b()
    assert a.recorder.history == b.recorder.history


def test_the_best_epoch_has_the_highest_f1_not_the_lowest_loss(
    data: tuple[EncodedQA, EncodedQA], monkeypatch: pytest.MonkeyPatch
) -> None:
    by_epoch = iter([QuickScores(0.5, 0.3, 0.60), QuickScores(0.9, 0.3, 0.70), QuickScores(0.8, 0.3, 0.70)])
    monkeypatch.setattr("emergence.answering.finetune.quick_scores", lambda *a: next(by_epoch))
    run = Run(data, replace(CONFIG, epochs=3))
    assert run().best.epoch == 3, "loss decides between equal F1 alone"


def test_the_learning_rate_falls_to_zero(data: tuple[EncodedQA, EncodedQA]) -> None:
    run = Run(data, replace(CONFIG, epochs=3, log_every_steps=1))
    run()
    rates = [line["lr"] for line in run.recorder.history if line["kind"] == "finetune_step"]
    peak = rates.index(max(rates))
    assert peak <= 0.1 * len(rates) and rates[-1] < 0.1 * rates[peak]
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_marginal_training_sums_over_golds() -> None:
    """Weights stand still, so every loss is that of the initial weights, which is computed here by hand."""
    two_golds = [
        replace(example, answers=(*example.answers, Answer(" ".join(example.tokens[:2]), 0, 2, "given")))
        for example in named_word_task(60, 0, "after", WordTokenizer()).examples
    ]
    data = encode_qa(two_golds, WordTokenizer(), "question-first", 64)[0]  # type: ignore[arg-type]
    still = replace(CONFIG, epochs=1, lr=0.0, head_lr=0.0)
    runs = {gold: Run((data, data), replace(still, train_gold=gold)) for gold in ("marginal", "first")}
    logits = predict_finetuned(runs["first"].trunk, runs["first"].head, data, context=Context())
    batch = data.padded_batch(np.arange(len(data)))
    want = {"marginal": 0.0, "first": 0.0}
    for i, gold in enumerate(zip(batch.gold_starts, batch.gold_ends, batch.gold_mask, strict=True)):
        start, end = (np.exp(x[i, : logits.lengths[i]]) for x in (logits.start, logits.end))
        start, end = start / start.sum(), end / end.sum()
        p = [start[a] * end[b] for a, b, is_gold in zip(*gold, strict=True) if is_gold]
        want["marginal"] -= np.log(sum(p)) / len(data)
        want["first"] -= np.log(p[0]) / len(data)
    assert want["marginal"] < want["first"] - 0.3
    assert FinetuneConfig().train_gold == "marginal", "the default"
    for name, run in runs.items():
        (epoch,) = run().epochs
        assert epoch.train_loss == pytest.approx(want[name], rel=1e-4)
        assert epoch.validation_loss == pytest.approx(want[name], rel=1e-4)


def test_divergence_is_reported_before_anything_is_saved(data: tuple[EncodedQA, EncodedQA], tmp_path: Path) -> None:
    run = Run(data, replace(CONFIG, checkpoint_every_steps=1), checkpointer=Checkpointer(tmp_path))
    run.trunk.embedding.weight.data[10:].fill_(math.nan)
    with pytest.raises(NonFiniteLossError, match="a weight is not finite"):
        run()
    assert Checkpointer(tmp_path).load() is None and run.saved == {}


def test_a_loss_that_is_not_finite_names_step_and_batch(data: tuple[EncodedQA, EncodedQA], tmp_path: Path) -> None:
    run = Run(data, replace(CONFIG, checkpoint_every_steps=1), checkpointer=Checkpointer(tmp_path))
    run.trunk.embedding.weight.data.fill_(3e38)
    with pytest.raises(NonFiniteLossError, match=r"step 1 \(epoch 1, batch 1\): .*; the state of step 0"):
        run()
    kept = Checkpointer(tmp_path).load()
    assert kept is not None and kept.step == 0 and run.saved == {}


def test_few_questions_are_seen_often_enough(data: tuple[EncodedQA, EncodedQA]) -> None:
    few = data[0].subset(np.arange(10))
    config = replace(CONFIG, batch_size=4, min_steps_per_epoch=10, epochs=2)
    batches = training_batches(few, config, seed=0, epoch=0)
    assert len(batches) == 12  # four passes of three batches
    assert all(sorted(np.concatenate(batches[k : k + 3])) == list(range(10)) for k in (0, 3, 6, 9))
    again = training_batches(few, config, seed=0, epoch=1)
    assert any((a.shape != b.shape) or (a != b).any() for a, b in zip(batches, again, strict=True))
    result = Run((few, data[1]), config)()
    assert result.steps == 24 and len(result.epochs) == 2


def test_no_questions_is_one_line(data: tuple[EncodedQA, EncodedQA]) -> None:
    with pytest.raises(EmergenceError, match="needs training and validation questions"):
        Run((data[0].subset([]), data[1]))()


def test_other_training_questions_are_refused_on_resume(data: tuple[EncodedQA, EncodedQA], tmp_path: Path) -> None:
    with pytest.raises(StopRequested):
        Run(data, should_stop=stop_at(2), checkpointer=Checkpointer(tmp_path))()
    with pytest.raises(EmergenceError, match="other training questions"):
        Run((data[0].subset(np.arange(20)), data[1]), checkpointer=Checkpointer(tmp_path))()


def test_only_matrices_decay_and_the_head_has_its_own_rate() -> None:
    groups = build_optimizer(
        build_trunk(MODEL, 64, seed=0), SpanHead(16), replace(CONFIG, lr=1e-3, head_lr=5e-3, weight_decay=0.1)
    ).param_groups
    assert {(g["lr"], g["weight_decay"], min(p.ndim for p in g["params"])) for g in groups} == {
        (1e-3, 0.1, 2), (1e-3, 0.0, 1), (5e-3, 0.1, 2), (5e-3, 0.0, 1),
    }  # fmt: skip


def test_learning_rate_rises_then_falls_to_zero() -> None:
    rates = [schedule(step, 100, 0.1) for step in range(101)]
    assert rates[:10] == pytest.approx(np.linspace(0.1, 1.0, 10)) and rates[10] == 1.0
    assert rates[100] == 0.0 and rates[55] == pytest.approx(0.5) and schedule(0, 5, 0.0) == 1.0
