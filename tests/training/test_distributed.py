"""Two processes on one host train the model that one process trains."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emergence.data.stream import TokenStream
from emergence.model import build_trunk
from emergence.spec.config import ModelConfig, PretrainConfig
from emergence.training.checkpoint import Checkpointer
from emergence.training.context import Context
from emergence.training.distributed import Workers, workers_from_environment
from emergence.training.pretrain import pretrain
from emergence.training.recording import StopRequested
from tests.memory_recorder import MemoryRecorder


def train(folder: Path) -> dict[str, Any]:
    """Stop and resume once; rank 1 is the one asked to stop. An odd batch gives the ranks unequal parts."""
    text = TokenStream.from_tokens(np.random.default_rng(0).integers(4, 64, 2000))
    held_out = TokenStream.from_tokens(np.random.default_rng(1).integers(4, 64, 300))
    config = PretrainConfig(samples_per_epoch=36, batch_size=3, compile="off", precision="fp32", step_snapshots=2)
    recorder = MemoryRecorder()
    snapshots: list[str] = []
    with workers_from_environment() as workers:
        for stops in (True, False):
            trunk = build_trunk(ModelConfig(n_layers=1, hidden_size=16, n_heads=2, sequence_length=16), 64, seed=0)
            asked = [0]

            def should_stop(stops: bool = stops, asked: list[int] = asked) -> bool:
                asked[0] += 1
                return stops and asked[0] == 5 and workers.rank == workers.size - 1

            try:
                pretrain(
                    trunk, text, held_out, config, Context(
                        recorder=recorder, checkpointer=Checkpointer(folder), should_stop=should_stop, workers=workers
                    ), seed=0, save_snapshot=lambda name, *_: snapshots.append(name),
                )  # fmt: skip
            except StopRequested:
                assert stops
        weights = {name: weight.flatten().tolist() for name, weight in trunk.state_dict().items()}
    return {"history": recorder.history, "snapshots": snapshots, "weights": weights, "rank": workers.rank}


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    outputs = [tmp_path / f"rank{rank}.json" for rank in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.test_distributed", str(tmp_path / "both"), str(outputs[rank])],
            cwd=Path(__file__).parents[2],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=100) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    first, second = (json.loads(output.read_text()) for output in outputs)
    alone = train(tmp_path / "alone")
    assert second["history"] == second["snapshots"] == []
    assert second["weights"] == first["weights"]
    assert first["snapshots"] == alone["snapshots"]
    assert len(first["history"]) == len(alone["history"]) > 5
    for both, one in zip(first["history"], alone["history"], strict=True):
        assert both.pop("kind") == one.pop("kind")
        assert both == pytest.approx(one, rel=2e-3)


def test_alone_nothing_is_exchanged() -> None:
    with workers_from_environment() as workers:
        assert workers == Workers(0, 1)
    assert workers.shard(np.arange(5)).tolist() == [0, 1, 2, 3, 4]
    assert workers.sum([1.5, 2.0], torch.device("cpu")) == [1.5, 2.0]
    parts = [Workers(rank, 3).shard(np.arange(8)).tolist() for rank in range(3)]
    assert sorted(itertools.chain(*parts)) == list(range(8))


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(train(Path(sys.argv[1]))), encoding="utf-8")
