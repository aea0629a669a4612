"""Searched ceilings beside each other: the configuration is compared, not what the search chose."""

from __future__ import annotations

from pathlib import Path

from emergence.errors import DataError
from emergence.experiment.run_directory import MANIFEST_FILE
from emergence.files import read_json, seal, unseal, write_json_atomic
from emergence.findings.collect import collect_results
from emergence.findings.comparable import group_results
from tests.planted_runs import write_grid, write_run


def test_what_a_search_chose_is_no_setting_and_whether_there_was_one_is(tmp_path: Path) -> None:
    write_grid(tmp_path, {"full": 0.6, "frozen": 0.4, "random_full": 0.3, "random_frozen": 0.2})
    for seed, factor in ((1, 3.0), (2, 0.3)):
        run = write_run(tmp_path, "full", 0.6, seed=seed)
        stats = unseal(read_json(run.stats_path, DataError), "stats", DataError)
        stats["finetuning"] = {"search": {"chosen": {"lr_factor": factor, "embedding": "fresh"}}}
        write_json_atomic(run.stats_path, seal(stats))
        (run.path / MANIFEST_FILE).unlink()
    old = write_run(tmp_path, "full", 0.6, seed=3, sets=("finetune.search=off",))
    grouping = group_results(collect_results(tmp_path))
    (one,) = grouping.sets
    assert [item.spec.seed for item in one.cells["full"] if item.spec] == [0, 1, 2]
    assert {s.name: s.reason for s in grouping.skipped}[old.run_id].startswith(
        "trained with finetune.search off instead of on"
    )
