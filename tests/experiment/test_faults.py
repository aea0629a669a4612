"""A few points of the fault and damage campaigns of ``benchmarks/``, on a whole small run."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork")


def campaign_module(name: str) -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_killed_or_out_of_room_anywhere_it_ends_the_same(scratch: Path) -> None:
    faults = campaign_module("fault_campaign")
    campaign = faults.Campaign(scratch, {}, cold=False)
    assert len(campaign.points) > 200
    order = faults.spread(len(campaign.points), "2")
    for kind, number in [*(("kill", n) for n in order), ("ENOSPC", order[1])]:
        _, result = campaign.try_one(kind, number)
        assert not result["wrong"], (kind, result)


def test_every_damage_of_a_finished_run_is_noticed(scratch: Path, tmp_path: Path) -> None:
    damage = campaign_module("damage_campaign")
    shutil.copytree(scratch, tmp_path / "run")
    (warm,) = (tmp_path / "run" / "whole" / "runs").iterdir()
    for path in sorted(p for p in warm.iterdir() if not p.name.endswith(".tmp")):
        tried, unnoticed = damage.damage_file(path, truncations=3, flips=6)
        assert tried >= 9 and unnoticed == [], path.name
