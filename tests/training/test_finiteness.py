"""A number that is not finite: rewinds get through it or give up, and no interruption changes how they end."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from emergence.answering import finetune as finetuning
from emergence.answering.finetune import _Finetuning, finetune
from emergence.data.stream import TokenStream
from emergence.model import SpanHead, build_trunk
from emergence.spec.config import FinetuneConfig, ModelConfig, PretrainConfig
from emergence.spec.experiment import OnNan
from emergence.training import pretrain as pretraining
from emergence.training.checkpoint import Checkpointer
from emergence.training.context import Context
from emergence.training.finiteness import NonFiniteLossError
from emergence.training.loop import MOST_REWINDS
from emergence.training.optim import AdamW, clip_gradients
from emergence.training.pretrain import _Pretraining, pretrain
from emergence.training.recording import StopRequested
from tests.answering.qa_tasks import WordTokenizer, named_word_task
from tests.memory_recorder import MemoryRecorder

MODEL = ModelConfig(n_layers=1, hidden_size=16, n_heads=2, vocab_size=300, sequence_length=16)
CPU = torch.device("cpu")
EVERY = 4  # steps between checkpoints
TEXT, HELD_OUT = (TokenStream.from_tokens(np.random.default_rng(0).integers(4, 44, n)) for n in (2001, 65))
PRETRAIN = PretrainConfig(
    samples_per_epoch=96, batch_size=8, evaluations_per_epoch=2, step_snapshots=3, log_every_steps=3,
    checkpoint_every_steps=EVERY, compile="off", precision="fp32", warmup_fraction=0.0, decay_fraction=0.0,
)  # fmt: skip
FINETUNE = FinetuneConfig(
    epochs=2, batch_size=16, patience=0, log_every_steps=3, checkpoint_every_steps=EVERY, min_steps_per_epoch=1,
    warmup_fraction=0.0,
)  # fmt: skip
QUESTIONS, UNSEEN = (named_word_task(n, n, "after", WordTokenizer()) for n in (90, 10))  # 6 steps an epoch
#: Both loops take 12 steps; the update that goes wrong, and the checkpoint before it.
SICK, BEFORE = 11, 8


class Loop:
    """One training loop with what outlives its process: checkpoints, history, and the weights it ended with."""

    phase: str

    def __init__(self, folder: Path) -> None:
        self.folder, self.recorder, self.snapshots = folder, MemoryRecorder(), dict[str, list[Tensor]]()
        self.weights: list[Tensor] = []
        self.checkpointer = Checkpointer(folder)

    def start(self, on_nan: OnNan = "rewind", should_stop: Callable[[], bool] = lambda: False) -> Any:
        raise AssertionError

    def context(self, should_stop: Callable[[], bool]) -> Context:
        return Context(recorder=self.recorder, checkpointer=self.checkpointer, should_stop=should_stop)

    def rewinds(self) -> list[tuple[int, int, int]]:
        lines = [line for line in self.recorder.history if line["kind"] == f"{self.phase}_rewind"]
        return [(line["step"], line["failed_step"], line["rewinds"]) for line in lines]

    def rates(self) -> dict[int, float]:
        return {x["step"]: x["lr"] for x in self.recorder.history if x["kind"] == f"{self.phase}_step"}


class Pretraining(Loop):
    phase = "pretrain"

    def start(self, on_nan: OnNan = "rewind", should_stop: Callable[[], bool] = lambda: False) -> Any:
        trunk = build_trunk(MODEL, 64, seed=1)
        result = pretrain(
            trunk, TEXT, HELD_OUT, PRETRAIN, self.context(should_stop), seed=3, on_nan=on_nan,
            save_snapshot=lambda name, trunk, _: self.keep(name, trunk),
        )  # fmt: skip
        self.weights = list(trunk.state_dict().values())
        return result

    def keep(self, name: str, *modules: torch.nn.Module) -> None:
        self.snapshots[name] = [v.clone() for module in modules for v in module.state_dict().values()]


class Finetuning(Pretraining):
    phase = "finetune"

    def start(self, on_nan: OnNan = "rewind", should_stop: Callable[[], bool] = lambda: False) -> Any:
        trunk, head = build_trunk(MODEL, 64, seed=0, init="normal"), SpanHead(16, seed=0)
        result = finetune(
            trunk, head, QUESTIONS, UNSEEN, FINETUNE, self.context(should_stop), seed=0, max_answer_words=3,
            on_nan=on_nan, save_snapshot=lambda name, trunk, head, _: self.keep(name, trunk, head),
        )  # fmt: skip
        self.weights = [*trunk.state_dict().values(), *head.state_dict().values()]
        return result


@pytest.fixture(params=[Pretraining, Finetuning], ids=lambda kind: kind.phase)
def kind(request: pytest.FixtureRequest) -> type[Loop]:
    return request.param


@pytest.fixture
def sick(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Makes the loss of update :data:`SICK` NaN whenever the learning rate is above this share of its peak."""

    def infect(bound: float) -> None:
        update, loss_of = _Pretraining._update, _Finetuning._loss
        sick = torch.tensor([math.nan, 1.0])  # the loss and the gradient's norm

        def pretrained(run: _Pretraining) -> float:
            if run.state.step + 1 == SICK and 0.5**run.state.rewinds > bound:
                with mock.patch.object(run, "_gradients_for_update", lambda: lambda ids, of: sick):
                    return update(run)
            return update(run)

        def finetuned(loop: _Finetuning, batch: Any) -> Tensor:
            loss = loss_of(loop, batch)
            return loss * math.nan if loop.step + 1 == SICK and 0.5**loop.state.rewinds > bound else loss

        monkeypatch.setattr(_Pretraining, "_update", pretrained)
        monkeypatch.setattr(_Finetuning, "_loss", finetuned)

    return infect


@pytest.fixture(scope="module")
def finished() -> dict[str, Loop]:
    """Loops that rewound twice and were not interrupted, by their kind."""
    return {}


def twice_rewound(kind: type[Loop], folder: Path, sick: Callable[[float], None], finished: dict[str, Loop]) -> Loop:
    sick(0.3)
    if kind.phase not in finished:
        finished[kind.phase] = kind(folder)
        finished[kind.phase].start()
        assert len(finished[kind.phase].rewinds()) == 2
    return finished[kind.phase]


def stop_after(calls: int) -> Callable[[], bool]:
    asked = iter(range(calls + 1))
    return lambda: next(asked, calls) == calls


def assert_same(one: Loop, other: Loop) -> None:
    assert one.recorder.history == other.recorder.history
    assert one.snapshots.keys() == other.snapshots.keys()
    pairs = [(one.weights, other.weights), *((one.snapshots[k], other.snapshots[k]) for k in one.snapshots)]
    assert all(torch.equal(a, b) for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True))


def test_the_same_step_is_tried_at_lower_rates_until_it_gets_through(
    kind: type[Loop], tmp_path: Path, sick: Callable[[float], None]
) -> None:
    well = kind(tmp_path / "well")
    well.start()
    sick(0.2)  # 1, 1/2 and 1/4 are too high
    loop = kind(tmp_path / "sick")
    result = loop.start()
    assert result.rewinds == 3 and result.steps == 12
    assert loop.rewinds() == [(BEFORE, SICK, n) for n in (1, 2, 3)]
    assert list(loop.rates()) == [3, 6, 9, 12], "no line is lost, none comes twice"
    assert [loop.rates()[step] / well.rates()[step] for step in (3, 6, 9, 12)] == [1, 1, 1 / 8, 1 / 8]
    assert loop.snapshots.keys() == well.snapshots.keys()
    assert all(bool(w.isfinite().all()) for w in loop.weights) and well.rewinds() == []


def test_back_at_the_start_it_says_again_what_is_known_there(
    tmp_path: Path, sick: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "SICK", 2)
    sick(0.6)
    loop = Pretraining(tmp_path)
    loop.start()
    assert loop.rewinds() == [(0, 2, 1)]
    assert next(x["step"] for x in loop.recorder.history if x["kind"] == "pretrain_evaluation") == 0


def test_it_gives_up_in_one_line_and_never_tries_forever(
    kind: type[Loop], tmp_path: Path, sick: Callable[[float], None]
) -> None:
    sick(0.0)  # at any rate
    loop = kind(tmp_path)
    said = rf"step {SICK}.*nan.*; given up after {MOST_REWINDS} rewinds; the state of step \d+ is kept: lower .*lr"
    for _ in range(2):  # nor does the same command again
        with pytest.raises(NonFiniteLossError, match=said) as caught:
            loop.start()
        assert "\n" not in str(caught.value) and "--on-nan" not in str(caught.value)
        assert [line[2] for line in loop.rewinds()] == list(range(1, MOST_REWINDS + 1))
    kept = loop.checkpointer.load(loop.phase)
    # Pretraining sees it before it moves the weights, so all updates before it are kept, too.
    assert kept is not None and kept.step == (SICK - 1 if kind is Pretraining else BEFORE)
    assert all(bool(w.isfinite().all()) for w in kept.state["trunk"].values())


def test_stopped_by_a_nan_it_can_be_told_to_rewind(
    kind: type[Loop], tmp_path: Path, sick: Callable[[float], None]
) -> None:
    sick(0.6)
    loop, whole = kind(tmp_path / "a"), kind(tmp_path / "b")
    for _ in range(2):
        with pytest.raises(NonFiniteLossError, match=rf"step {SICK}.* is kept: add --on-nan rewind .*, or lower "):
            loop.start("stop")
    assert loop.start("rewind").rewinds == whole.start().rewinds == 1
    assert_same(loop, whole)


@pytest.mark.parametrize("step", [7, 9, 13])
def test_stopped_anywhere_before_or_after_a_rewind_it_ends_the_same(
    kind: type[Loop], tmp_path: Path, sick: Callable[[float], None], finished: dict[str, Loop], step: int
) -> None:
    """Also twice within one interval: what a rewind goes back to is not the checkpoint that a signal left."""
    whole, loop = twice_rewound(kind, tmp_path / "whole", sick, finished), kind(tmp_path / "stopped")
    for calls in (step, 1, 1, 100):
        with contextlib.suppress(StopRequested):
            loop.start(should_stop=stop_after(calls))
    assert_same(loop, whole)


class Dying(Checkpointer):
    """Dies before or after its n-th save."""

    def __init__(self, folder: Path, save: int, after: bool) -> None:
        super().__init__(folder)
        self.left, self.after = save, after

    def save(self, *arguments: Any, **named: Any) -> Path:
        self.left -= 1
        if not self.left and not self.after:
            raise KeyboardInterrupt
        path = super().save(*arguments, **named)
        if not self.left:
            raise KeyboardInterrupt
        return path


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_around_any_save_it_ends_the_same(
    kind: type[Loop], tmp_path: Path, sick: Callable[[float], None], finished: dict[str, Loop], after: bool
) -> None:
    whole = twice_rewound(kind, tmp_path / "whole", sick, finished)
    for save in (4, 5):  # in pretraining those of the rewinds; finetuning has one more before
        loop = kind(tmp_path / f"{save}")
        loop.checkpointer = Dying(loop.folder, save, after)
        try:
            loop.start()
        except KeyboardInterrupt:
            loop.checkpointer = Checkpointer(loop.folder)
            loop.start()
        assert_same(loop, whole)


def test_weights_that_explode_are_neither_saved_nor_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spike in one update: every number is finite but the weights it makes, and nothing of that reaches a file."""
    step_of, calls = AdamW.step, 0

    def spiked(optimizer: AdamW, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        out = step_of(optimizer, *arguments)
        if calls == 6:  # the last of an epoch, whose snapshot is due
            optimizer.param_groups[0]["params"][0].data.fill_(math.inf)
        return out

    monkeypatch.setattr(AdamW, "step", spiked)
    loop = Finetuning(tmp_path)
    assert loop.start().rewinds == 1 and loop.rewinds() == [(4, 6, 1)]
    assert all(bool(w.isfinite().all()) for kept in loop.snapshots.values() for w in kept)


def test_a_validation_that_is_not_finite_is_a_failure_of_the_step_before_it(
    kind: type[Loop], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finite weights whose states overflow: a NaN there would otherwise stand in the results."""
    calls, evaluate, predict = 0, pretraining.evaluate_language_model, finetuning.predict_finetuned

    def is_sick() -> bool:
        nonlocal calls
        calls += 1
        return calls == 2

    def evaluated(*arguments: Any, **named: Any) -> Any:
        found = evaluate(*arguments, **named)
        return replace(found, nats_per_token=math.nan) if is_sick() else found

    def predicted(*arguments: Any, **named: Any) -> Any:
        found = predict(*arguments, **named)
        return replace(found, start=found.start * np.float32(math.nan)) if is_sick() else found

    monkeypatch.setattr(pretraining, "evaluate_language_model", evaluated)
    monkeypatch.setattr(finetuning, "predict_finetuned", predicted)
    loop = kind(tmp_path)
    assert loop.start().rewinds == 1
    ((back_to, failed, _),) = loop.rewinds()
    assert back_to == (failed - 1) // EVERY * EVERY
    scores = [x["validation_loss"] for x in loop.recorder.history if "validation_loss" in x]
    assert all(math.isfinite(score) for score in scores)


def test_gradients_are_clipped_to_a_norm_and_the_norm_before_is_told() -> None:
    weights = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    for weight, gradient in zip(weights, ([3.0, 0.0], [0.0, 4.0]), strict=False):
        weight.grad = torch.tensor(gradient)
    assert float(clip_gradients(weights, 0.0)) == 5.0 and weights[0].grad.tolist() == [3.0, 0.0]  # type: ignore[union-attr]
    assert float(clip_gradients(weights, 1.0)) == 5.0
    assert float(clip_gradients(weights, 1.0)) == pytest.approx(1.0, abs=1e-5)
