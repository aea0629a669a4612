"""Pretraining learns, and a run killed anywhere and resumed is the run that was not."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from emergence.data.stream import TokenStream
from emergence.errors import DataError
from emergence.model import Trunk, build_trunk
from emergence.spec.config import ModelConfig, PretrainConfig
from emergence.training import pretrain as loop
from emergence.training.checkpoint import Checkpointer
from emergence.training.context import Context
from emergence.training.finiteness import NonFiniteLossError
from emergence.training.optim import Optimizers
from emergence.training.pretrain import PretrainResult, pretrain
from emergence.training.recording import StopRequested
from emergence.training.schedule import learning_rate_factor
from tests.memory_recorder import MemoryRecorder

MODEL = ModelConfig(n_layers=1, hidden_size=16, n_heads=2, sequence_length=16)
ROWS = 64
CPU = torch.device("cpu")


def patterned(n_tokens: int, seed: int) -> TokenStream:
    """Text in which every token decides the next, but for one in ten."""
    rng = np.random.default_rng(seed)
    tokens = [5]
    for _ in range(n_tokens - 1):
        tokens.append(4 + (3 * tokens[-1] + 1) % 40 if rng.random() < 0.9 else int(rng.integers(4, 44)))
    return TokenStream.from_tokens(np.array(tokens), n_bytes=3 * n_tokens)


TRAIN, VALIDATION = patterned(4001, 0), patterned(500, 1)  # 250 sequences


def settings(**changes: Any) -> PretrainConfig:
    values: dict[str, Any] = {
        "samples_per_epoch": 96,
        "epochs": 2,
        "batch_size": 8,
        "evaluations_per_epoch": 3,
        "step_snapshots": 3,
        "log_every_steps": 5,
        "checkpoint_every_steps": 7,
        "initial_context": 4,  # in the first 14 of 24 updates
        "compile": "off",
        "precision": "fp32",
    }
    return PretrainConfig(**{**values, **changes})


class Lab:
    """One run directory's worth of state, which outlives a killed process."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder, self.config = folder, settings(**changes)
        self.recorder = MemoryRecorder()
        self.snapshots: dict[str, dict[str, Any]] = {}
        self.trunk: Trunk

    def save_snapshot(self, name: str, trunk: Trunk, facts: dict[str, Any]) -> None:
        weights = {key: value.clone() for key, value in trunk.state_dict().items()}
        self.snapshots[name] = {"facts": facts, "weights": weights}

    def start(
        self, should_stop: Callable[[], bool] = lambda: False, precision: str = "fp32", **changes: Any
    ) -> PretrainResult:
        self.trunk = build_trunk(MODEL, ROWS, seed=1)
        arguments: dict[str, Any] = {
            "train": TRAIN,
            "validation": VALIDATION,
            "save_snapshot": self.save_snapshot,
            **changes,
        }
        kept = Checkpointer(self.folder)
        context = Context(precision=precision, recorder=self.recorder, checkpointer=kept, should_stop=should_stop)
        return pretrain(self.trunk, config=self.config, seed=3, context=context, **arguments)

    def lines(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in self.recorder.history if line["kind"] == kind]


def after(calls: int) -> Callable[[], bool]:
    """False so many times, then True."""
    left = [calls]

    def asked() -> bool:
        left[0] -= 1
        return left[0] < 0

    return asked


def test_every_update_has_the_rate_of_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    real = Optimizers.step
    monkeypatch.setattr(
        Optimizers, "step", lambda self: (rates.append(self._optimizers[0].param_groups[0]["lr"]), real(self))[1]
    )
    lab = Lab(tmp_path)
    lab.start()
    expected = [lab.config.adamw_lr * learning_rate_factor(step, lab.config, 24) for step in range(24)]
    assert rates == pytest.approx(expected) and len(set(rates)) > 3


def test_the_first_updates_see_windows_and_evaluations_never(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[bool, tuple[int, ...]]] = []
    real = Trunk.forward
    monkeypatch.setattr(
        Trunk, "forward", lambda self, ids: (shapes.append((torch.is_grad_enabled(), ids.shape)), real(self, ids))[1]
    )
    lab = Lab(tmp_path)
    lab.start()
    assert [(plan["initial_context"], plan["windowed_updates"]) for plan in lab.lines("pretrain_plan")] == [(4, 14)]
    assert [shape for learning, shape in shapes if learning] == [(32, 4)] * 14 + [(8, 16)] * 10
    assert {shape[1] for learning, shape in shapes if not learning} == {16}


def test_patience_does_not_count_while_windows_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the loss on whole sequences lags."""
    losses = iter(range(1, 100))
    measured = SimpleNamespace(perplexity=1.0, bits_per_byte=1.0, n_tokens=1)
    monkeypatch.setattr(
        loop,
        "evaluate_language_model",
        lambda *_, **__: SimpleNamespace(nats_per_token=float(next(losses)), **vars(measured)),
    )
    lab = Lab(tmp_path, patience=2)
    result = lab.start()
    # Evaluations are at 0, 1, 4, 5, 8, 12, 16, 20 and 24; windows last to 14.
    assert (result.steps, result.best_step, result.stopped_early) == (20, 0, True)


def assert_same(one: Lab, other: Lab) -> None:
    assert one.recorder.history == other.recorder.history
    pairs = [(one.trunk.state_dict(), other.trunk.state_dict())]
    assert one.snapshots.keys() == other.snapshots.keys()
    pairs += [(one.snapshots[name]["weights"], other.snapshots[name]["weights"]) for name in one.snapshots]
    for ours, theirs in pairs:
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert all(one.snapshots[name]["facts"] == other.snapshots[name]["facts"] for name in one.snapshots)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A run that nothing interrupted: 24 updates."""
    lab = Lab(tmp_path_factory.mktemp("whole"))
    lab.start()
    return lab


def test_what_a_run_leaves_behind(whole: Lab) -> None:
    # 24 updates: epochs end at 12 and 24, evaluations every 4, snapshots at 0, 1, 5 (log-spaced), 24.
    names = ["step_0", "step_1", "step_5", "epoch_1", "step_24", "epoch_2"]
    assert list(whole.snapshots) == [f"pretrain_{name}" for name in names]
    assert [line["step"] for line in whole.lines("pretrain_step")] == [5, 10, 15, 20, 24]
    evaluations = whole.lines("pretrain_evaluation")
    assert [line["step"] for line in evaluations] == [0, 1, 4, 5, 8, 12, 16, 20, 24]
    assert evaluations[0]["validation_loss"] == pytest.approx(math.log(ROWS), abs=0.1)
    assert evaluations[-1]["validation_loss"] < 0.75 * evaluations[0]["validation_loss"]
    assert whole.snapshots["pretrain_step_5"]["facts"] == {
        "step": 5, "tokens_seen": 5 * 8 * 16, "validation_loss": evaluations[3]["validation_loss"]
    }  # fmt: skip
    assert "seconds" in whole.recorder.timings[0]
    assert not any("seconds" in line for line in whole.recorder.history)
    untouched = build_trunk(MODEL, ROWS, seed=1).state_dict()
    assert all(torch.equal(untouched[k], v) for k, v in whole.snapshots["pretrain_step_0"]["weights"].items())


def test_the_result_adds_up(whole: Lab, tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    result = lab.start()
    assert_same(lab, whole)
    assert (result.steps, result.tokens_seen, result.epochs) == (24, 24 * 8 * 16, 2.0)
    assert result.passes == 24 * 8 / 250
    assert result.validation_loss == whole.lines("pretrain_evaluation")[-1]["validation_loss"]
    assert result.best_validation_loss <= result.validation_loss
    assert result.tokens_per_second == result.tokens_seen / result.seconds
    assert not result.stopped_early
    # Asked again, a finished run is finished.
    again = lab.start()
    assert_same(lab, whole)
    assert again.steps == 24


@pytest.mark.parametrize("stops", [[0], [1], [7], [11, 3], [5, 0, 9], [23]])
def test_stopping_on_request_changes_nothing(whole: Lab, tmp_path: Path, stops: list[int]) -> None:
    lab = Lab(tmp_path)
    for stop in stops:
        with pytest.raises(StopRequested):
            lab.start(after(stop))
    lab.start()
    assert_same(lab, whole)


class Killed(BaseException):
    """What no handler of the program catches."""


@pytest.mark.parametrize("killed_at", [1, 3, 6, 8, 13, 24])
def test_being_killed_between_checkpoints_changes_nothing(whole: Lab, tmp_path: Path, killed_at: int) -> None:
    lab = Lab(tmp_path)

    class Trap(TokenStream):
        batches = 0

        def get(self, *args: Any, **kwargs: Any) -> Any:
            Trap.batches += 1
            if Trap.batches == killed_at:
                raise Killed
            return super().get(*args, **kwargs)

    trapped = Trap(TRAIN.tokens, TRAIN.document_ends, TRAIN.document_bytes, TRAIN.n_words, TRAIN.fingerprint)
    with pytest.raises(Killed):
        lab.start(train=trapped)
    lab.start()
    assert_same(lab, whole)


@pytest.mark.parametrize("name", ["pretrain_step_0", "pretrain_step_5", "pretrain_epoch_2"])
def test_being_killed_while_saving_a_snapshot_changes_nothing(whole: Lab, tmp_path: Path, name: str) -> None:
    lab = Lab(tmp_path)

    def killed_at(saved: str, trunk: Trunk, facts: dict[str, Any]) -> None:
        if saved == name:
            raise Killed
        lab.save_snapshot(saved, trunk, facts)

    with pytest.raises(Killed):
        lab.start(save_snapshot=killed_at)
    lab.start()
    assert_same(lab, whole)


def test_seconds_accumulate_over_resumptions(tmp_path: Path) -> None:
    lab = Lab(tmp_path, log_every_steps=1)
    with pytest.raises(StopRequested):
        lab.start(after(12))
    before = lab.recorder.timings[-1]["seconds"]
    result = lab.start()
    assert result.seconds > before
    marks = [line["seconds"] for line in lab.recorder.timings]
    assert marks == sorted(marks)


def test_accumulating_micro_batches_is_one_large_batch(whole: Lab, tmp_path: Path) -> None:
    lab = Lab(tmp_path, micro_batch_size=2)
    lab.start()
    for ours, theirs in zip(lab.recorder.history, whole.recorder.history, strict=True):
        assert ours.pop("kind") == theirs["kind"]
        assert ours == pytest.approx({key: value for key, value in theirs.items() if key != "kind"}, rel=2e-3)


@pytest.mark.parametrize("changes", [{}, {"optimizer": "adamw", "schedule": "cosine", "adamw_lr": 1e-2}])
def test_a_tiny_text_is_learnt_by_heart(tmp_path: Path, changes: dict[str, Any]) -> None:
    text = TokenStream.from_tokens(np.random.default_rng(0).integers(4, 64, 16 * 4 + 1))
    lab = Lab(tmp_path, samples_per_epoch=480, epochs=1, max_passes=1000, batch_size=4, muon_lr=0.05, **changes)
    lab.start(train=text, validation=text)
    assert lab.lines("pretrain_evaluation")[-1]["validation_loss"] < 0.5


def test_patience_stops_and_leaves_the_best_weights(tmp_path: Path) -> None:
    # Four sequences of noise, learnt by heart: the held-out loss soon rises.
    noise = TokenStream.from_tokens(np.random.default_rng(0).integers(4, 64, 16 * 4 + 1))
    settings = {
        "samples_per_epoch": 800, "max_passes": 1000, "initial_context": 0, "patience": 2, "evaluations_per_epoch": 20
    }  # fmt: skip
    lab = Lab(tmp_path / "a", **settings)
    result = lab.start(train=noise)
    evaluations = lab.lines("pretrain_evaluation")
    losses = [line["validation_loss"] for line in evaluations]
    assert result.stopped_early
    assert result.steps < 200
    assert result.best_validation_loss == min(losses) == losses[-3] == result.validation_loss
    assert result.best_step == evaluations[-3]["step"]
    # Interrupted after its best, it still remembers it.
    other = Lab(tmp_path / "b", **settings)
    with pytest.raises(StopRequested):
        other.start(after(result.best_step + 1), train=noise)
    assert other.start(train=noise).steps == result.steps
    assert_same(lab, other)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_weights(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    with pytest.raises(StopRequested):
        lab.start(after(4))
    good = Checkpointer(tmp_path).load("pretrain")
    assert good is not None
    poisoned = {**good.state, "trunk": {**good.state["trunk"]}}
    poisoned["trunk"]["final_norm.weight"] = torch.full_like(good.state["trunk"]["final_norm.weight"], 1e30)
    Checkpointer(tmp_path).save("pretrain", 4, poisoned)
    with pytest.raises(NonFiniteLossError, match=r"step 5: .* sequences \[\d+, .*muon_lr"):
        lab.start()
    kept = Checkpointer(tmp_path).load("pretrain")
    assert kept is not None
    assert kept.step == 4
    assert all(torch.isfinite(value).all() for value in kept.state["trunk"].values())


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    trunk = build_trunk(MODEL, ROWS, seed=0)
    with torch.no_grad():
        next(trunk.parameters()).fill_(math.inf)
    with pytest.raises(NonFiniteLossError, match="weight is not finite"):
        pretrain(
            trunk, TRAIN, VALIDATION, settings(), Context(checkpointer=Checkpointer(tmp_path)), seed=0,
            save_snapshot=lambda *_: None, on_nan="rewind",
        )  # fmt: skip
    assert Checkpointer(tmp_path).load() is None


def test_a_text_shorter_than_a_sequence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sequence_length"):
        Lab(tmp_path).start(train=patterned(16, 0))


def test_resuming_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lab = Lab(tmp_path)
    with pytest.raises(StopRequested, match="step 2 of pretraining; the same command resumes"):
        lab.start(after(2))
    with caplog.at_level(logging.INFO, "emergence"):
        lab.start()
    assert "pretraining resumes at step 2 of 24, in windows of 4 up to step 14" in caplog.text
    assert "pretraining: whole sequences of 16 tokens from step 14 on" in caplog.text


def test_going_on_in_another_number_format_is_told_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lab = Lab(tmp_path)
    caplog.set_level(logging.WARNING)
    for precision, told in (("bf16", 0), ("bf16", 0), ("fp32", 1), ("fp32", 1)):
        with pytest.raises(StopRequested):
            lab.start(after(5), precision=precision)
        assert len(caplog.records) == told
    assert "computed in bf16, the rest will be in fp32" in caplog.messages[0]
    assert lab.start().precision == "bf16, then fp32" and len(caplog.records) == 1
