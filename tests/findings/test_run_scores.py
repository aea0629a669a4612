"""Per-question scores read from a run: those of older versions too, and null where a question has none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emergence.experiment.store import RunDirectory
from emergence.findings import two_by_two
from emergence.findings.two_by_two import RunScores
from tests.planted_runs import Added, write_run


def test_argument_selection_is_read_where_it_is_there(tmp_path: Path) -> None:
    run = write_run(tmp_path, "frozen", 0.4, bilinear=0.5)
    old = RunScores.load(run)
    assert set(old.scores) == {"headline", "bilinear"} and "argument_selection" not in old.scores["headline"]
    rows = run.read_predictions()
    for i, row in enumerate(rows):
        row["argument_selection"] = None if i % 3 == 2 else float(i % 3)
        row["readouts"]["bilinear"]["argument_selection"] = None if i % 3 == 2 else 1.0
    run.write_predictions(rows)
    run.write_stats(old.result.to_dict())
    new = RunScores.load(run)
    n = len(rows) // 3
    np.testing.assert_array_equal(new.scores["headline"]["argument_selection"], [0.0, 1.0, np.nan] * n)
    np.testing.assert_array_equal(new.scores["bilinear"]["argument_selection"], [1.0, 1.0, np.nan] * n)
    np.testing.assert_array_equal(new.scores["headline"]["f1_tokens"], old.scores["headline"]["f1_tokens"])
    for row in rows:  # a read-out kept by an older version
        del row["readouts"]["bilinear"]["argument_selection"]
    run.write_predictions(rows)
    run.write_stats(old.result.to_dict())
    assert "argument_selection" not in RunScores.load(run).scores["bilinear"]


def test_what_runs_share_is_kept_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that hundreds of them fit into memory: questions, what no model answers, configs, and the results' keys."""
    added = Added({"bilinear": (0.05, 0.08)})
    written = [write_run(tmp_path, "frozen", f1, seed=n, bilinear=f1, added=added) for n, f1 in enumerate((0.4, 0.5))]
    one, other = (RunScores.load(RunDirectory.open(run.path)) for run in written)
    assert one.run.spec != other.run.spec and one.run.spec.config is other.run.spec.config
    alone = [run.scores["wh_rule"]["f1_tokens"] for run in (one, other)]
    assert alone[0] is alone[1] and not alone[0].flags.writeable
    for name in ("ids", "sentences"):
        assert getattr(one, name) is getattr(other, name)
    assert one.scores is not other.scores and one.means() != other.means()
    keys = [sorted(run.result.test_scores or {}, key=str) for run in (one, other)]
    assert keys[0] and all(a is b for a, b in zip(*keys, strict=True))
    monkeypatch.setattr(two_by_two, "_KEPT", kept := {})
    monkeypatch.setattr(two_by_two, "_MOST_KEPT", 2)
    for n in range(9):
        assert two_by_two._shared(str(k) for k in range(n)) == tuple(str(k) for k in range(n))
    assert 0 < len(kept) <= 2
