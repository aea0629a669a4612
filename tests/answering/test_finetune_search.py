"""The search for finetuning's settings: what it finds, what it costs, and that nothing interrupts it."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emergence.answering import finetune_search
from emergence.answering.finetune import finetune, training_batches
from emergence.answering.finetune_result import EpochScores, FinetuneResult, SearchResult, Setting, Trial
from emergence.answering.finetune_search import edges_of, finetune_tuned, grid, settle, survivors
from emergence.data.qa_encoding import EncodedQA
from emergence.model import SpanHead, Trunk, build_trunk
from emergence.model.embedding_rows import fresh_scale, rescale_embedding
from emergence.spec.config import FinetuneConfig, ModelConfig
from emergence.spec.search_budget import (
    MOST_SHARE,
    finetuning_passes,
    passes_per_epoch,
    plan_rungs,
    search_passes,
)
from emergence.training.checkpoint import Checkpointer
from emergence.training.context import Context
from emergence.training.recording import StopRequested
from tests.answering.qa_tasks import WordTokenizer, named_word_task
from tests.memory_recorder import MemoryRecorder

CPU = torch.device("cpu")
MODEL = ModelConfig(n_layers=1, hidden_size=16, n_heads=2, vocab_size=300, sequence_length=64)
CONFIG = FinetuneConfig(
    epochs=2, batch_size=16, lr=3e-3, head_lr=3e-3, patience=0, log_every_steps=3, checkpoint_every_steps=2,
    min_steps_per_epoch=16,
)  # fmt: skip
OFF = replace(CONFIG, search="off")


@pytest.fixture(scope="module")
def data() -> tuple[EncodedQA, EncodedQA]:
    tokenizer = WordTokenizer()
    return named_word_task(64, 0, "after", tokenizer), named_word_task(40, 1, "after", tokenizer)


class Run:
    """One call of :func:`finetune_tuned`; ``scale`` makes the random trunk's embedding as long as a pretrained one."""

    def __init__(
        self, data: tuple[EncodedQA, EncodedQA], config: FinetuneConfig = CONFIG, scale: float = 1.0, **more: Any
    ) -> None:
        self.trunk: Trunk = build_trunk(more.pop("model", MODEL), 64, seed=0, init="normal")
        rescale_embedding(self.trunk, scale)
        self.head = SpanHead(16, seed=0)
        self.recorder: MemoryRecorder = more.pop("recorder", MemoryRecorder())
        self.data, self.config, self.more = data, config, more

    def __call__(self, tune: Callable[..., FinetuneResult] = finetune_tuned) -> FinetuneResult:
        return tune(
            self.trunk, self.head, *self.data, self.config, Context(recorder=self.recorder, **self.more), seed=0,
            max_answer_words=3,
        )  # fmt: skip

    def weights(self) -> list[torch.Tensor]:
        return [*self.trunk.state_dict().values(), *self.head.state_dict().values()]


@pytest.fixture(scope="module")
def whole(data: tuple[EncodedQA, EncodedQA]) -> tuple[Run, FinetuneResult]:
    run = Run(data, scale=20.0)
    return run, run()


def same(a: Run, b: Run) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.weights(), b.weights(), strict=True))


def stop_at(step: int) -> Callable[[], bool]:
    calls = iter(range(1, 100_000))
    return lambda: next(calls) == step


# What it finds ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "factor", "steps"), [(4e-4, 3.0, 40), (0.5, 0.3, 25)])
def test_a_planted_better_rate_is_found_and_said_to_be_an_edge(
    data: tuple[EncodedQA, EncodedQA], rate: float, factor: float, steps: int, caplog: pytest.LogCaptureFixture
) -> None:
    model = replace(MODEL, n_layers=2)  # one layer learns the task, but no better with the better rate
    config = replace(CONFIG, lr=rate, head_lr=rate, min_steps_per_epoch=steps)
    with caplog.at_level(logging.INFO):
        tuned = Run(data, config, model=model)()
    told = caplog.text
    plain = Run(data, replace(config, search="off"), model=model)()
    assert tuned.search is not None and tuned.search.chosen.lr_factor == factor
    assert tuned.best.validation_f1 > plain.best.validation_f1 + 0.1
    assert tuned.search.edges == ("lr_factor",) and "search_edge" in tuned.flags
    assert "may lie beyond (--set finetune.lr=... --set finetune.epochs=...)" in told
    assert "finetuning: search edge and best epoch is last" in told
    assert f"search: chose rate x {factor:g}" in told
    assert told.count("epoch 1:") == 1  # the trials' epochs are not told one by one


def test_the_final_training_is_the_chosen_setting_and_no_other(
    data: tuple[EncodedQA, EncodedQA], whole: tuple[Run, FinetuneResult]
) -> None:
    run, result = whole
    assert result.search is not None
    again = Run(data, OFF, scale=20.0)
    again.config = settle(again.trunk, OFF, result.search.chosen, result.search.embedding_scale)
    assert again(finetune).epochs == result.epochs and same(again, run)


def test_off_is_the_plain_finetuning_to_the_bit(data: tuple[EncodedQA, EncodedQA]) -> None:
    tuned, plain = Run(data, OFF), Run(data, OFF)
    assert tuned() == replace(plain(finetune), seconds=pytest.approx(0, abs=1e9), questions_per_second=pytest.approx(
        0, abs=1e9))  # fmt: skip
    assert same(tuned, plain) and tuned.recorder.history == plain.recorder.history


def test_a_fresh_scale_changes_the_rate_and_not_the_function() -> None:
    trunk = build_trunk(MODEL, 64, seed=0, init="normal")
    rescale_embedding(trunk, 20.0)
    ids = torch.arange(30).view(2, 15)
    before = trunk(ids)
    factor = fresh_scale(trunk)
    assert factor == pytest.approx(0.05, rel=0.05)
    rescale_embedding(trunk, factor)
    assert torch.allclose(trunk(ids), before, atol=2e-2)
    assert trunk.embedding.weight.square().mean().sqrt().item() == pytest.approx(0.02, rel=1e-5)


def test_both_initialisations_get_the_same_grid_but_for_points_that_are_one() -> None:
    pretrained, random = grid(0.05), grid(None)
    assert pretrained[0] == random[0] == Setting(1.0, "pretrained")
    assert len(pretrained) == 6 and {(s.lr_factor, s.embedding) for s in pretrained} == {
        (factor, scale) for factor in (0.3, 1.0, 3.0) for scale in ("pretrained", "fresh")
    }  # fmt: skip
    assert set(random) == {s for s in pretrained if s.embedding == "pretrained"}
    assert fresh_scale(build_trunk(MODEL, 64, seed=0, init="normal")) is None
    learned = build_trunk(replace(MODEL, positions="learned"), 64, seed=0)
    rescale_embedding(learned, 20.0)
    assert fresh_scale(learned) is None  # no norm on entry: it would be another function


def trial(f1: float, factor: float = 1.0, embedding: str = "pretrained", loss: float | None = 1.0) -> Trial:
    return Trial(factor, embedding, 1, 10, 20, f1, loss)


def test_the_best_goes_on_and_with_it_what_is_slower() -> None:
    fast = [trial(0.9, 3.0, "fresh"), trial(0.8, 1.0, "fresh"), trial(0.7, 3.0)]
    slow = [trial(0.6, 1.0), trial(0.5, 0.3, "fresh"), trial(0.4, 0.3)]
    kept = survivors([*slow, *fast], 3)
    assert kept == [fast[0].setting, fast[1].setting, fast[2].setting]
    assert survivors([fast[0], fast[2], slow[0]], 2) == [fast[0].setting, fast[2].setting]  # its rate, not its scale
    assert survivors([trial(0.9), trial(0.8, 3.0), trial(0.1, 0.3)], 2) == [
        trial(0).setting, trial(0, 0.3).setting
    ]  # fmt: skip
    assert survivors([*slow, fast[0], trial(0.3, 3.0)], 3) == [fast[0].setting, slow[0].setting, slow[1].setting]
    assert survivors([trial(0.9), trial(0.8, 3.0), trial(0.1, 3.0, "fresh")], 2) == [
        trial(0).setting, trial(0, 3.0, "fresh").setting
    ]  # fmt: skip
    assert survivors([trial(0.5, 0.3, loss=2.0), trial(0.5, 1.0, loss=1.0)], 1) == [trial(0).setting]
    assert survivors([trial(0.0, 3.0, loss=None), trial(0.0, 1.0)], 1) == [trial(0).setting]


def test_edges_are_the_ends_of_the_rates_alone() -> None:
    assert edges_of(Setting(1.0, "fresh")) == ()
    assert edges_of(Setting(0.3, "fresh")) == edges_of(Setting(3.0, "pretrained")) == ("lr_factor",)


def test_flags_say_what_may_lie_beyond() -> None:
    epochs = tuple(EpochScores(n, 1.0, 1.0, 0.5, 0.5) for n in (1, 2))
    search = SearchResult((), Setting(3.0, "fresh"), ("lr_factor",), 0, 0.0, 0.1)
    result = FinetuneResult(epochs, epochs[1], 2, False, 1.0, 1.0, search=search)
    assert result.flags == ["search_edge", "best_epoch_is_last"]
    assert replace(result, best=epochs[0]).flags == ["search_edge"]
    assert replace(result, stopped_early=True, search=replace(search, edges=())).flags == []
    assert replace(result, search=None).flags == []


def test_a_setting_that_diverges_loses_and_the_run_goes_on(data: tuple[EncodedQA, EncodedQA]) -> None:
    run = Run(data, replace(CONFIG, epochs=2, lr=1e38, head_lr=1e-3, grad_clip=0.0))
    with pytest.raises(Exception, match="finetuning step"):
        run()  # no rate of these works, and the last training says so
    lines = [line for line in run.recorder.history if line["kind"] == "finetune_search"]
    assert lines and all(line["validation_f1"] == 0.0 and line["validation_loss"] is None for line in lines)


def test_the_result_survives_json(whole: tuple[Run, FinetuneResult]) -> None:
    search = whole[1].search
    assert search is not None and SearchResult.from_dict(search.to_dict()) == search


# What it costs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [1, 3, 4])
@pytest.mark.parametrize("least_steps", [1, 40])
def test_the_search_costs_at_most_two_finetunings(epochs: int, least_steps: int) -> None:
    config = FinetuneConfig(epochs=epochs, min_steps_per_epoch=least_steps)
    for n in (*range(10, 700), *range(700, 20_001, 37)):  # the rounding is coarsest where questions are few
        steps_of_one = epochs * passes_per_epoch(n, config) * -(-n // 32)
        for candidates in (3, 6):
            rungs = plan_rungs(n, config, candidates)
            assert search_passes(n, config, candidates) <= MOST_SHARE * finetuning_passes(n, config)
            assert sum(r.candidates * r.steps(32) for r in rungs) <= MOST_SHARE * steps_of_one
            assert [r.candidates for r in rungs] in ([], [6, 3, 2] if candidates == 6 else [3, 2])
            assert rungs or least_steps < 40
            assert all(min(n, 32) <= r.questions <= n and r.passes >= 1 for r in rungs)


def test_the_budget_is_used_where_there_are_questions_enough() -> None:
    config = FinetuneConfig()
    for n in (10, 100, 1_000, 4_000, 11_896):
        assert search_passes(n, config, 6) > 1.7 * finetuning_passes(n, config)
        longest = plan_rungs(n, config, 6)[-1]
        assert longest.questions * longest.passes > 0.4 * finetuning_passes(n, config)


def test_the_plan_is_what_is_trained(data: tuple[EncodedQA, EncodedQA], whole: tuple[Run, FinetuneResult]) -> None:
    run, result = whole
    search = result.search
    assert search is not None
    rungs = plan_rungs(64, CONFIG, 6)
    assert [(t.rung, t.questions, t.steps) for t in search.trials] == [
        (r.number, r.questions, r.steps(16)) for r in rungs for _ in range(r.candidates)
    ]  # fmt: skip
    assert search.steps == sum(t.steps for t in search.trials) <= MOST_SHARE * result.steps
    assert 0 < search.share_of_one_finetuning <= MOST_SHARE
    assert [line for line in run.recorder.history if line["kind"] == "finetune_search"] == [
        {"kind": "finetune_search", **vars(t)} for t in search.trials
    ]  # fmt: skip
    assert not [line for line in run.recorder.history[: len(search.trials)] if line["kind"] != "finetune_search"]


def test_too_short_a_finetuning_is_not_searched(data: tuple[EncodedQA, EncodedQA]) -> None:
    config = replace(CONFIG, epochs=1, min_steps_per_epoch=1)
    run = Run(data, config)
    result = run()
    assert result.search is not None and result.search.trials == () and result.search.edges == ()
    plain = Run(data, replace(config, search="off"))
    assert plain().epochs == result.epochs and same(plain, run)


def test_a_subset_is_gone_over_whole_passes() -> None:
    rung = plan_rungs(64, CONFIG, 6)[-1]
    data = named_word_task(rung.questions, 0, "after", WordTokenizer())
    config = replace(CONFIG, epochs=1, min_steps_per_epoch=rung.steps(16))
    batches = training_batches(data, config, seed=0, epoch=0)
    assert len(batches) == rung.steps(16)
    assert (np.bincount(np.concatenate(batches)) == rung.passes).all()


# What it may not see, and what may not disturb it ---------------------------------------------------


def test_it_is_given_no_test_questions(data: tuple[EncodedQA, EncodedQA], monkeypatch: pytest.MonkeyPatch) -> None:
    names = set(inspect.signature(finetune_tuned).parameters)
    assert {"train", "validation"} <= names and not any("test" in name for name in names)
    scored = []
    original = finetune_search.finetune

    def spy(trunk: Trunk, head: SpanHead, train: EncodedQA, validation: EncodedQA, *more: Any, **named: Any) -> Any:
        scored.append(({e.id for e in train.examples}, validation))
        return original(trunk, head, train, validation, *more, **named)

    monkeypatch.setattr(finetune_search, "finetune", spy)
    Run(data)()
    known = {e.id for e in data[0].examples}
    assert len(scored) == 6 and all(ids <= known and validation is data[1] for ids, validation in scored)


def test_the_given_weights_are_every_trials_start(data: tuple[EncodedQA, EncodedQA]) -> None:
    run = Run(data)
    before = [*copy.deepcopy(run.trunk.state_dict()).values()]
    seen = []

    def look() -> bool:
        now = run.trunk.state_dict().values()
        seen.append(all(torch.equal(a, b) for a, b in zip(before, now, strict=True)))
        return False

    run.more["should_stop"] = look
    result = run()
    assert result.search is not None and all(seen[: result.search.steps]) and not all(seen)


@pytest.mark.parametrize(
    "step", [1, 3, 30, 61, *(pytest.param(step, marks=pytest.mark.slow) for step in (4, 15, 45, 75))]
)  # of 12, 12 and 32 steps of the search's rounds, and 32 of the final training
def test_stopped_anywhere_it_resumes_to_the_same_end(
    data: tuple[EncodedQA, EncodedQA], whole: tuple[Run, FinetuneResult], tmp_path: Path, step: int
) -> None:
    first = Run(data, scale=20.0, should_stop=stop_at(step), checkpointer=Checkpointer(tmp_path))
    with pytest.raises(StopRequested):
        first()
    counted = iter(range(10_000))
    second = Run(
        data, scale=20.0, recorder=first.recorder, checkpointer=Checkpointer(tmp_path),
        should_stop=lambda: next(counted) < 0,
    )  # fmt: skip
    result = second()
    run, expected = whole
    assert same(second, run) and second.recorder.history == run.recorder.history
    assert (result.epochs, result.best, result.search) == (expected.epochs, expected.best, expected.search)
    assert expected.search is not None
    assert next(counted) == expected.search.steps + expected.steps - step  # nothing was trained twice


@pytest.mark.parametrize("step", [1, 61])  # in a trial, in the final training
def test_going_on_in_another_number_format_is_told_once(
    data: tuple[EncodedQA, EncodedQA], tmp_path: Path, caplog: pytest.LogCaptureFixture, step: int
) -> None:
    first = Run(data, scale=20.0, should_stop=stop_at(step), checkpointer=Checkpointer(tmp_path))
    with pytest.raises(StopRequested):
        first()
    again = Run(
        data, scale=20.0, recorder=first.recorder, checkpointer=Checkpointer(tmp_path), precision="bf16",
        should_stop=stop_at(3),
    )  # fmt: skip
    with pytest.raises(StopRequested):
        again()
    assert caplog.text.count("computed in fp32, the rest will be in bf16") == 1


def test_killed_without_warning_again_and_again_it_ends_the_same(
    data: tuple[EncodedQA, EncodedQA], whole: tuple[Run, FinetuneResult], tmp_path: Path
) -> None:
    recorder = MemoryRecorder()
    for step in (2, 5, 15, 17, 26, 12):

        def die(calls: Callable[[], bool] = stop_at(step)) -> bool:
            if calls():
                raise KeyboardInterrupt
            return False

        run = Run(data, scale=20.0, recorder=recorder, should_stop=die, checkpointer=Checkpointer(tmp_path))
        with pytest.raises(KeyboardInterrupt):
            run()
    last = Run(data, scale=20.0, recorder=recorder, checkpointer=Checkpointer(tmp_path))
    result = last()
    assert same(last, whole[0]) and recorder.history == whole[0].recorder.history
    assert result.search == whole[1].search


def test_finished_it_only_returns_its_result(
    data: tuple[EncodedQA, EncodedQA], whole: tuple[Run, FinetuneResult], tmp_path: Path
) -> None:
    first = Run(data, scale=20.0, checkpointer=Checkpointer(tmp_path))
    first()
    again = Run(data, scale=20.0, recorder=first.recorder, checkpointer=Checkpointer(tmp_path))
    result = again()
    assert same(again, whole[0]) and (result.best, result.search) == (whole[1].best, whole[1].search)
    assert again.recorder.history == whole[0].recorder.history
