"""Experiments small enough for tests: the micro-world, one narrow block, a few steps.

``micro`` is the smallest that goes through every phase: pretrain, snapshot, checkpoint, finetune or probe, score, seal.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from emergence.data import sources
from emergence.experiment.result import RunResult
from emergence.experiment.run import run_experiment
from emergence.experiment.store import RunDirectory, RunStore
from emergence.spec.experiment import ExperimentSpec

# Equal configurations give equal worlds, which test_microworld.py shows. Runs here need few, and write them again
# for every cache of their own: a fifth of a run's time.
sources.generate_text = functools.cache(sources.generate_text)
sources.generate_qa = functools.cache(sources.generate_qa)

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
    "finetune.min_steps_per_epoch=10",
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


MICRO = (
    "model.n_layers=1",
    "model.hidden_size=8",
    "model.n_heads=2",
    "model.vocab_size=320",
    "model.sequence_length=96",
    "pretrain.samples_per_epoch=24",
    "pretrain.batch_size=8",
    "pretrain.evaluations_per_epoch=1",
    "pretrain.validation_tokens=96",
    "pretrain.step_snapshots=2",
    "pretrain.log_every_steps=1",
    "pretrain.checkpoint_every_steps=1",
    "finetune.epochs=2",
    "finetune.search=off",
    "finetune.batch_size=512",
    "finetune.min_steps_per_epoch=2",
    "finetune.log_every_steps=1",
    "finetune.checkpoint_every_steps=1",
    "probe.epochs=1",
    "probe.ridges=[0.1]",
    "probe.max_iterations=2",
    "probe.mdl_epochs=1",
    "evaluate.bootstrap_draws=100",
    "evaluate.minimal_pairs=0",
    "microworld.text_documents=12",
    "microworld.train_documents=3",
    "microworld.validation_documents=1",
    "microworld.test_documents=1",
)
#: Weights files hold the run's name, so it is fixed.
NAME = "Micro_20260101-000000"


def micro_spec(*extra: str, **flags: Any) -> ExperimentSpec:
    return ExperimentSpec.from_flags(config_name="debug", data="microworld", set_values=(*MICRO, *extra), **flags)


def micro_run(root: Path, cache: Path | None = None, *extra: str, **flags: Any) -> str:
    """Run (or go on with) the micro run under ``root``; returns its name."""
    spec = micro_spec(*extra, **flags)
    result = run_experiment(spec, RunStore(root / "runs"), cache_dir=cache or root / "cache", run_id=NAME)
    assert result is not None and result.run_id == NAME
    return NAME


def run_micro(root: Path, *extra: str, **flags: Any) -> RunDirectory:
    """Run the micro run with these settings and flags under ``root``; its name is its own."""
    store = RunStore(root / "runs")
    result = run_experiment(micro_spec(*extra, **flags), store, cache_dir=root / "cache")
    assert result is not None and result.run_id is not None
    return store.open(result.run_id)
