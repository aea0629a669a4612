"""Runs that finetune an adapter: what they leave, what they say, and how they go on."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from pathlib import Path

import pytest
import torch

from emergence.answering.finetune_search import grid
from emergence.errors import UsageError
from emergence.experiment import inputs
from emergence.experiment.asking import ask
from emergence.experiment.result import load_result
from emergence.experiment.run import run_experiment
from emergence.experiment.run_directory import RunDirectory
from emergence.experiment.store import RunStore
from emergence.experiment.verification import verify_run
from emergence.export.folder import write_export
from emergence.spec.adapters import adapter_parameters
from emergence.studies.trunks import read_timeline
from emergence.training.checkpoint import load_weights
from emergence.training.recording import StopRequested
from tests.small_runs import micro_spec, run_micro

#: LoRA runs where ``peft`` is installed.
LORA = pytest.param(
    "lora-2",
    marks=[
        pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="LoRA is of peft"),
        pytest.mark.filterwarnings("default"),
    ],
)
SEARCHED = ("finetune.search=on", "finetune.batch_size=16", "finetune.epochs=6")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return run_micro(tmp_path_factory.mktemp("adapters"), skip_finetune=True)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["prefix-16", LORA])
def test_the_trunk_stays_and_the_file_answers_as_the_run_did(pretrained: RunDirectory, adapter: str) -> None:
    run = run_micro(pretrained.path.parents[1], *SEARCHED, adapter=adapter)
    result = load_result(run.stats_path)
    model = run.spec.config.model
    assert result.n_parameters("trainable") == adapter_parameters(model, adapter) + 2 * (model.hidden_size + 1)
    assert result.condition == "full" and not verify_run(run.path).damaged
    assert [mark["text"] for mark in result.data_fact("marks").values()] != ["<|sep|>", "<|pred|>"]
    search = (result.finetuning or {})["search"]
    tried = {trial["embedding"] for trial in search["candidates"]}
    assert search["embedding_scale"] is None and tried == {"pretrained"}
    assert len(grid(None)) == 3
    start, end = (load_weights(path).state_dict for path in (run.trunk_path, run.finetuned_path))
    assert torch.equal(start["final_norm.weight"], end["final_norm.weight"])
    assert ("prefix" in end) == (adapter == "prefix-16") and not any("lora" in name for name in end)
    # The file alone gives the probabilities that the run had in memory.
    row = run.read_predictions()[0]
    asked = ask(run, " ".join(row["words"]), row["question"], predicate=str(row["predicate_index"] + 1), top=1_000)
    assert asked.words == tuple(row["words"])
    golds = {tuple(gold) for gold in row["golds"]}
    (spans,) = asked.spans.values()
    p = math.fsum(span.probability for span in spans if (span.start, span.end) in golds)
    assert p == pytest.approx(math.exp(row["log_prob"]), abs=1e-4)
    assert [point.phase for point in read_timeline(run).checkpoints][-1] == "finetune"


@pytest.mark.parametrize("adapter", ["prefix-16", LORA])
def test_it_goes_on_after_a_stop_to_the_same_weights(pretrained: RunDirectory, adapter: str) -> None:
    spec = micro_spec(*SEARCHED, adapter=adapter, finetune_samples=20)
    store, cache = RunStore(pretrained.path.parent), pretrained.path.parents[1] / "cache"
    for stop in (3, 5):  # in the search, and in what follows it
        asked = iter(range(1_000))
        with pytest.raises(StopRequested):
            run_experiment(spec, store, cache_dir=cache, should_stop=lambda n=stop, i=asked: next(i) == n)  # type: ignore
    run_experiment(spec, store, cache_dir=cache)
    (resumed,) = (run for run in store.runs() if run.spec == spec)
    run_experiment(spec, store, cache_dir=cache, fresh=True)
    fresh = next(run for run in store.runs() if run.spec == spec and run.run_id != resumed.run_id)
    one, two = (load_weights(run.finetuned_path).state_dict for run in (resumed, fresh))
    assert all(torch.equal(one[name], two[name]) for name in two)


def test_without_its_library_lora_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None)
    with pytest.raises(UsageError, match=r"--adapter lora-1 needs peft: pip install -e '\.\[laws\]'"):
        inputs.read_inputs(micro_spec(adapter="lora-1"), RunStore(tmp_path / "runs"), tmp_path / "cache")
    assert not list(tmp_path.iterdir())


def test_states_before_a_text_are_no_model_of_another_program(pretrained: RunDirectory, tmp_path: Path) -> None:
    run = RunDirectory(pretrained.path, dataclasses.replace(pretrained.spec, adapter="prefix-16"), "")
    with pytest.raises(UsageError, match="--which pretrained"):
        write_export(run, tmp_path / "model", which="finetuned")
