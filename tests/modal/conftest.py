"""A loopback stand-in for Modal's server, and an experiment small enough for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from standin import Environments, StandIn, make_environments

ROOT = Path(__file__).resolve().parents[2]
ENTRY_POINT = "pretrain_wikitext_finetune_qasrl_modal.py"
#: For ``--set``: the micro-world and a model of ten thousand parameters, some seconds from start to end.
SMALL = ",".join(
    [
        "microworld.text_documents=60",
        "microworld.train_documents=12",
        "microworld.validation_documents=6",
        "microworld.test_documents=6",
        "model.vocab_size=400",
        "model.n_layers=1",
        "model.hidden_size=16",
        "model.n_heads=2",
        "model.sequence_length=64",
        "pretrain.samples_per_epoch=800",
        "pretrain.max_passes=100",
        "pretrain.batch_size=8",
        "pretrain.evaluations_per_epoch=2",
        "pretrain.validation_tokens=512",
        "pretrain.step_snapshots=2",
        "pretrain.checkpoint_every_steps=5",
        "pretrain.compile=off",
        "finetune.epochs=3",
        "finetune.search=off",
        "finetune.checkpoint_every_steps=3",
        "probe.epochs=2",
        "probe.max_iterations=10",
        "evaluate.bootstrap_draws=100",
        "evaluate.minimal_pairs=0",
    ]
)
FLAGS = ("--config-name", "tiny", "--data", "microworld", "--set", SMALL)


@pytest.fixture(scope="session")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Environments:
    return make_environments(tmp_path_factory.mktemp("environments"))


@pytest.fixture
def stand_ins(tmp_path: Path, environments: Environments) -> Iterator[Callable[[], StandIn]]:
    """Makes stand-ins with empty volumes."""
    with ExitStack() as stack:
        count = iter(range(100))

        def make() -> StandIn:
            folder = tmp_path / f"modal{next(count)}"
            folder.mkdir()
            standin = StandIn(folder, environments)
            standin.rules.environment.update({"EMERGENCE_COMMIT_SECONDS": "0.1", "OMP_NUM_THREADS": "1"})
            return stack.enter_context(standin)

        yield make


@pytest.fixture
def standin(stand_ins: Callable[[], StandIn]) -> StandIn:
    return stand_ins()
