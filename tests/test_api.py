"""The Python interface says what the commands say, and costs nothing until it is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import emergence
from emergence import api
from emergence.errors import DataError, RunDirectoryError, UsageError
from emergence.findings.two_by_two import RunScores
from tests.planted_runs import Added, write_run
from tests.small_runs import MICRO

ADDED = Added({"linear": (0.03, 0.03), "bilinear": (0.05, 0.08)})
NOTHING = Added({"linear": (0.0, 0.0), "bilinear": (0.0, 0.0)})


def planted(root: Path, **flags: Any) -> list[RunScores]:
    """Scores of runs of all four cells whose frozen states add much to words and positions."""
    cells: dict[str, Any] = {"full": 0.7, "frozen": 0.5, "random_full": 0.5, "random_frozen": 0.3}
    added = {"frozen": ADDED, "random_frozen": NOTHING}
    more = {cell: {"bilinear": f1, "added": added[cell]} if cell in added else {} for cell, f1 in cells.items()}
    return [RunScores.load(write_run(root, cell, f1, **more[cell], **flags)) for cell, f1 in cells.items()]


def test_the_names_are_those_of_the_interface() -> None:
    assert sorted(api.__all__) == sorted(emergence._INTERFACE)
    assert all(getattr(emergence, name) is getattr(api, name) for name in api.__all__)
    assert set(api.__all__) <= set(dir(emergence))
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        _ = emergence.runn


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = "import sys, emergence; print(any(name in sys.modules for name in ('torch', 'numpy', 'modal', 'typer')))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "False"


def test_score_compare_and_verdict_of_planted_runs(tmp_path: Path) -> None:
    full, frozen, *_ = planted(tmp_path)
    grid = emergence.score(full, frozen)
    assert grid.analysis.gap.point == pytest.approx(0.2)
    assert emergence.compare(full, frozen, "headline").rows[0].paired.difference.point == pytest.approx(0.2)
    whole, named = emergence.verdict(tmp_path), emergence.verdict(*planted(tmp_path / "again"))
    assert whole.outcome == named.outcome and whole.short == named.short
    # Planted scores follow from no answers, and what is loaded from a folder must.
    with pytest.raises(RunDirectoryError, match=r"does not follow from the run's files.*verify-run"):
        emergence.load(full.run.path)


def test_what_has_no_single_verdict_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no finished run"):
        emergence.verdict(tmp_path / "empty")
    planted(tmp_path)
    planted(tmp_path, layout="echo")
    with pytest.raises(DataError, match="2 comparable sets"):
        emergence.verdict(tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        emergence.load("nowhere", tmp_path)


def test_run_runs_loads_and_asks(tmp_path: Path) -> None:
    flags: dict[str, Any] = {"config_name": "debug", "data": "microworld", "random_baseline": True, "freeze_llm": True}
    run = emergence.run(runs_dir=tmp_path, settings=MICRO, **flags)
    assert run.result.estimate("test", "f1_tokens") is not None and len(run.ids) == len(run.sentences) > 0
    again = emergence.run(runs_dir=tmp_path, settings=MICRO, **flags)
    loaded = [again, emergence.load(run.run.path), emergence.load(run.run.run_id, tmp_path)]
    assert {each.run.run_id for each in loaded} == {run.run.run_id}
    answered = emergence.ask(run, "The baker cut the rope .", "Who cut something?", top=1)
    assert len(answered.spans["linear"]) == 1
    with pytest.raises(UsageError, match="only pretrains"):
        emergence.run(runs_dir=tmp_path, config_name="debug", data="microworld", skip_finetune=True)
