"""Experiments small enough for tests: the micro-world, one narrow block, a few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emergence.experiment.result import RunResult
from emergence.experiment.run import run_experiment
from emergence.experiment.store import RunDirectory, RunStore
from emergence.spec.experiment import ExperimentSpec

SMALL = (
    "model.n_layers=1",
    "model.hidden_size=16",
    "model.n_heads=2",
    "model.vocab_size=400",
    "model.sequence_length=96",
    "pretrain.samples_per_epoch=96",
    "pretrain.batch_size=8",
    "pretrain.evaluations_per_epoch=2",
    "pretrain.validation_tokens=512",
    "pretrain.step_snapshots=2",
    "pretrain.log_every_steps=3",
    "pretrain.checkpoint_every_steps=5",
    "finetune.epochs=2",
    "finetune.search=off",
    "finetune.batch_size=64",
    "finetune.checkpoint_every_steps=3",
    "probe.epochs=2",
    "probe.ridges=[0.01,0.1]",
    "probe.max_iterations=15",
    "probe.mdl_epochs=1",
    "evaluate.bootstrap_draws=200",
    "evaluate.minimal_pairs=10",
    "microworld.text_documents=60",
    "microworld.train_documents=8",
    "microworld.validation_documents=4",
    "microworld.test_documents=4",
)


def small_spec(*extra: str, **flags: Any) -> ExperimentSpec:
    return ExperimentSpec.from_flags(config_name="debug", data="microworld", set_values=(*SMALL, *extra), **flags)


def run_small(root: Path, *extra: str, cache: Path | None = None, **flags: Any) -> tuple[RunDirectory, RunResult]:
    """Run (or go on with) a small experiment under ``root``."""
    store = RunStore(root)
    result = run_experiment(small_spec(*extra, **flags), store, cache_dir=cache or root.parent / "cache")
    assert result is not None and result.run_id is not None
    return store.open(result.run_id), result


def trunk_flags(run: RunDirectory) -> dict[str, Any]:
    """Flags that start from the trunk of ``run``."""
    return {"skip_pretrain": True, "pretrained_model_path": f"{run.run_id}/{run.trunk_path.name}"}
