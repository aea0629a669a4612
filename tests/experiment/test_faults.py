"""A few points of the fault and damage campaigns of ``benchmarks/``, on a whole small run."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from benchmarks import damage_campaign, fault_campaign, unfinished_damage

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_killed_or_out_of_room_anywhere_it_ends_the_same(scratch: Path) -> None:
    campaign = fault_campaign.Campaign(scratch, {}, cold=False)
    assert len(campaign.points) > 200
    order = fault_campaign.spread(len(campaign.points), "2")
    for kind, number in [*(("kill", n) for n in order), ("ENOSPC", order[1])]:
        _, result = campaign.try_one(kind, number)
        assert not result["wrong"], (kind, result)


def test_every_damage_of_a_finished_run_is_noticed(scratch: Path, tmp_path: Path) -> None:
    shutil.copytree(scratch, tmp_path / "run")
    (warm,) = (tmp_path / "run" / "whole" / "runs").iterdir()
    for path in sorted(p for p in warm.iterdir() if not p.name.endswith(".tmp")):
        tried, unnoticed = damage_campaign.damage_file(path, truncations=3, flips=6)
        assert tried >= 9 and unnoticed == [], path.name


def test_a_stopped_run_refuses_what_is_damaged_or_ends_the_same(tmp_path: Path) -> None:
    run = unfinished_damage.StoppedRun(tmp_path, "pretraining")
    content = (run.root / "stopped" / unfinished_damage.NAME / "history.jsonl").read_bytes()
    for name, damaged, ends in [
        ("history.jsonl", content.replace(b"7", b"3", 1), "refused"),
        ("history.jsonl", content + b'{"kind": "torn', "ended"),
        ("pretrain_step_0.pth", b"PK", "refused"),
        ("tokenizer.json", b"{}", "ended"),  # is written anew
    ]:
        how, wrong = run.judge(lambda folder, name=name, damaged=damaged: (folder / name).write_bytes(damaged))  # type: ignore[misc]
        assert (how, wrong) == (ends, None), name
