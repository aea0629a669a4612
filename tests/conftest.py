"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

try:
    import torch
except ImportError:
    pass
else:
    torch.set_num_threads(1)  # results that do not depend on the machine, and no fighting over its cores


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets, where there is one: ``EMERGENCE_SHARED_DATA`` or ``../shared/data``."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("EMERGENCE_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip("no real data here: set EMERGENCE_SHARED_DATA to a folder that holds some")
    return folder
