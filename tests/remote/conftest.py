"""A loopback stand-in for Modal's server, with empty volumes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.remote.standin import Environments, StandIn, make_environments


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
