"""Runs that start within a pretraining, and on draws of the training questions of their own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from emergence.errors import EmergenceError, WeightsError
from emergence.experiment import phases
from emergence.experiment.claims import check_claims
from emergence.experiment.facts import dig
from emergence.experiment.inputs import read_inputs
from emergence.experiment.result import load_result
from emergence.experiment.run import run_experiment
from emergence.experiment.store import RunDirectory, RunStore
from emergence.experiment.verification import verify_run
from emergence.report.terminal import describe_result
from emergence.training.checkpoint import load_weights
from emergence.training.recording import StopRequested
from tests.small_runs import micro_spec, run_micro

KEEPS = (
    "pretrain.samples_per_epoch=64",
    "pretrain.step_snapshots=4",
    "microworld.text_documents=60",
    "probe.validity=false",
)
#: The snapshots are of steps 0, 1, 2, 4 and 8.
FEW: dict[str, Any] = {"finetune_samples": 12}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return run_micro(tmp_path_factory.mktemp("snapshots"), *KEEPS, skip_finetune=True)


def run_at(pretrained: RunDirectory, *extra: str, **flags: Any) -> RunDirectory:
    return run_micro(pretrained.path.parents[1], *KEEPS, *extra, **{**FEW, **flags})


def test_a_snapshot_is_finetuned_and_probed_and_says_how_far_it_was_pretrained(pretrained: RunDirectory) -> None:
    store = RunStore(pretrained.path.parent)
    for flags, step in (({"snapshot": "2"}, 2), ({"snapshot": "2of3", "freeze_llm": True}, 2), ({"snapshot": "4"}, 4)):
        run = run_at(pretrained, **flags)
        ours, kept = (load_weights(path) for path in (run.trunk_path, pretrained.path / f"pretrain_step_{step}.pth"))
        assert all(torch.equal(ours.state_dict[name], value) for name, value in kept.state_dict.items())
        result = load_result(run.stats_path)
        assert result.pretrained.steps == step and result.pretrained.tokens_seen == step * 8 * 96
        assert result.pretraining is not None and result.pretraining["snapshot"] == f"pretrain_step_{step}"
        assert dig(result.lineage, "source", "run_id") == pretrained.run_id
        assert not verify_run(run.path).damaged and not run.pretraining_steps(), "it pretrains nothing"
        assert store.find_pretrained(run.spec.pretrain_id).run_id == pretrained.run_id  # type: ignore[union-attr]
    told = describe_result(result, run.path.parent)
    assert "trunk            pretrain_step_4, 3,072 tokens of pretraining" in told.splitlines()
    lossier, lossless = (load_result(path.stats_path).held_out_loss for path in (run_at(pretrained, snapshot="2"), run))
    whole = load_result(pretrained.stats_path).held_out_loss
    assert lossier and lossless and whole
    assert lossier.nats_per_token > lossless.nats_per_token > whole.nats_per_token


def test_the_last_snapshot_has_the_losses_of_the_finished_trunk(pretrained: RunDirectory) -> None:
    """Measured once, and kept for all cells on it."""
    run = run_at(pretrained, snapshot="8")
    of_snapshot, of_trunk = (load_result(each.stats_path).pretraining or {} for each in (run, pretrained))
    assert [of_snapshot[split] for split in ("validation", "test")] == [
        of_trunk[split] for split in ("validation", "test")
    ]
    folder = pretrained.path.parents[1] / "cache" / phases.LOSSES_FOLDER
    kept = max(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    before = kept.stat().st_mtime_ns
    again = run_at(pretrained, snapshot="8", subset=1)
    assert load_result(again.stats_path).pretraining == load_result(run.stats_path).pretraining
    assert kept.stat().st_mtime_ns == before
    kept.write_text("damaged")
    third = run_at(pretrained, snapshot="8", subset=2)
    assert load_result(third.stats_path).pretraining == load_result(run.stats_path).pretraining


def test_draws_train_on_other_questions_and_test_on_the_same(pretrained: RunDirectory) -> None:
    store, cache = RunStore(pretrained.path.parent), pretrained.path.parents[1] / "cache"
    read = [read_inputs(micro_spec(*KEEPS, **FEW, subset=k), store, cache).questions for k in (0, 1, 2)]
    ids = [{example.id for example in questions.train.examples} for questions in read if questions]
    assert len({frozenset(each) for each in ids}) == 3 and {len(each) for each in ids} == {12}
    assert len({tuple(e.id for e in questions.test.examples) for questions in read if questions}) == 1


def test_what_was_not_kept_is_refused_before_anything_is_written(pretrained: RunDirectory, tmp_path: Path) -> None:
    cache = pretrained.path.parents[1] / "cache"
    for root, flags, says in (
        (tmp_path, {"snapshot": "2"}, "no run in .* --skip-finetune in place of --snapshot"),
        (pretrained.path.parent, {"snapshot": "3"}, "kept steps 1, 2, 4, 8: choose from them$"),
        (pretrained.path.parent, {"snapshot": "2", "seed": 1}, "no run in"),
    ):
        before = set(root.iterdir())
        with pytest.raises(WeightsError, match=says):
            run_experiment(micro_spec(*KEEPS, **flags), RunStore(root), cache_dir=cache)
        assert set(root.iterdir()) == before


def test_it_goes_on_after_a_stop_to_the_same_weights(pretrained: RunDirectory) -> None:
    spec = micro_spec(*KEEPS, **FEW, snapshot="2", subset=3)
    store, cache = RunStore(pretrained.path.parent), pretrained.path.parents[1] / "cache"
    asked = iter(range(100))
    with pytest.raises(StopRequested):
        run_experiment(spec, store, cache_dir=cache, should_stop=lambda: next(asked) == 1)
    run_experiment(spec, store, cache_dir=cache)
    (resumed,) = (run for run in store.runs() if run.spec == spec)
    run_experiment(spec, store, cache_dir=cache, fresh=True)
    fresh = next(run for run in store.runs() if run.spec == spec and run.run_id != resumed.run_id)
    one, two = (load_weights(run.finetuned_path).state_dict for run in (resumed, fresh))
    assert all(torch.equal(one[name], two[name]) for name in two)


def test_a_result_of_another_step_is_no_result_of_this_run(pretrained: RunDirectory) -> None:
    run = run_at(pretrained, snapshot="2")
    result = load_result(run.stats_path)
    assert check_claims(run, result) == []
    other = dataclasses.replace(result, pretraining={**(result.pretraining or {}), "steps": 4})
    assert check_claims(run, other) == ["its trunk is of step 4, that of spec.json of step 2"]


def test_a_run_given_a_snapshot_by_its_path_does_not_stand_for_the_pretraining(pretrained: RunDirectory) -> None:
    path = f"{pretrained.run_id}/pretrain_step_1.pth"
    given = run_micro(pretrained.path.parents[1], *KEEPS, **FEW, skip_pretrain=True, pretrained_model_path=path)
    found = RunStore(pretrained.path.parent).find_pretrained(given.spec.pretrain_id)
    assert found is not None and found.run_id == pretrained.run_id


def test_an_impossible_stored_snapshot_is_refused(pretrained: RunDirectory) -> None:
    stored = micro_spec(*KEEPS).to_dict()
    for change in ({"snapshot": "9of3"}, {"snapshot": 3}, {"subset": True}):
        with pytest.raises(EmergenceError):
            type(pretrained.spec).from_dict({**stored, **change})
