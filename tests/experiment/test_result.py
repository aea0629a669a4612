"""Results: the documented keys, the older format, and everything that is no result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from emergence import files
from emergence.errors import DataError
from emergence.experiment.manifest import MANIFEST_FILE, ManifestEntry, manifest_text, read_manifest
from emergence.experiment.result import DOCUMENTED_KEYS, RunResult, current_versions, load_result, recognise
from emergence.experiment.run_directory import STATS_FILE
from emergence.files import seal, sha256_text, to_json
from emergence.spec.experiment import ExperimentSpec
from tests.planted_runs import write_run

#: Copied from the experiment guide.
GUIDE = {
    "config_name": "tiny",
    "finetune_epochs": 15,
    "best_validation_loss": 2.34,
    "final_validation_accuracy": 0.42,
    "final_validation_f1": 0.51,
    "freeze_llm": False,
    "random_baseline": False,
    "finetune_samples_limit": None,
    "qasrl_train_filtering": {"total_raw_examples": 6414, "valid_examples": 5823, "skipped_ambiguous_span": 312},
}


def full_result() -> RunResult:
    spec = ExperimentSpec.from_flags(
        config_name="debug", freeze_llm=True, data="microworld", seed=2, finetune_samples=50
    )
    return RunResult.from_spec(
        spec,
        "DebugQA",
        finetune_epochs=0,
        final_validation_f1=0.5,
        final_validation_accuracy=0.25,
        best_validation_loss=float("nan"),
        qasrl_train_filtering={"total_raw_examples": 3, "valid_examples": 3},
        lineage={"weights": "x.pth", "sha256": "0" * 64, "run_id": "A", "pretrain_id": "b"},
        test_scores={"f1": {"point": 0.5, "lo": 0.4, "hi": float("inf")}},
        parameters={"total": 10, "non_embedding": 5, "trainable": 1},
        flags=["few_clusters"],
    )


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_the_documented_keys_come_first_and_keep_their_names() -> None:
    assert list(full_result().to_dict())[:9] == list(GUIDE) == list(DOCUMENTED_KEYS)


def test_results_round_trip(tmp_path: Path) -> None:
    result, path = full_result(), tmp_path / "renamed.json"
    path.write_text(to_json(seal(result.to_dict()), indent=2))
    loaded = load_result(path)
    assert loaded.to_dict() == {**result.to_dict()} and not loaded.is_documented_format
    assert (loaded.condition, loaded.initialisation, loaded.layout, loaded.seed) == (
        "frozen",
        "pretrained",
        "question-first",
        2,
    )
    assert loaded.best_validation_loss is None and loaded.flags == [
        "few_clusters",
        "best_validation_loss was not finite",
    ]
    assert loaded.test_scores == {"f1": {"point": 0.5, "lo": 0.4, "hi": None}}
    assert loaded.spec is not None and ExperimentSpec.from_dict(loaded.spec).experiment_id == loaded.experiment_id
    path.write_text(json.dumps(json.loads(path.read_text()), indent=None, sort_keys=True))  # reformatted, not edited
    assert load_result(path) == loaded


def test_the_older_format_loads(tmp_path: Path) -> None:
    result = load_result(write(tmp_path / "tiny_full.json", {**GUIDE, "written_by": "another program"}))
    assert result.is_documented_format and result.run_id is None and result.test_scores is None
    assert {key: getattr(result, key) for key in GUIDE} == GUIDE
    few = {key: GUIDE[key] for key in ("config_name", "freeze_llm", "random_baseline", "final_validation_f1")}
    assert load_result(write(tmp_path / "x.json", few)).finetune_epochs is None
    assert recognise(GUIDE) and recognise(full_result().to_dict()) and not recognise([]) and not recognise({"a": 1})


def test_any_edit_or_damage_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "finetune_stats.json"
    text = to_json(seal(full_result().to_dict()))
    digits = [i for i, c in enumerate(text) if c.isdigit()][::7]
    letters = [i for i, c in enumerate(text) if c.isalpha()][::23]
    for i in [*digits, *letters]:
        path.write_text(text[:i] + chr(ord(text[i]) ^ 1) + text[i + 1 :])
        with pytest.raises(DataError):
            load_result(path)
    for size in range(0, len(text), 97):
        path.write_text(text[:size])
        with pytest.raises(DataError):
            load_result(path)


def test_a_result_in_its_run_is_looked_at_by_its_manifest_or_else_by_its_seal_and_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path, "frozen", 0.5)
    text, result = run.stats_path.read_text(), load_result(run.stats_path)
    relaid = text.replace("  ", "   ", 1)
    assert json.loads(relaid) == json.loads(text)
    run.stats_path.write_text(relaid)
    with pytest.raises(DataError, match="not the bytes that were written"):
        load_result(run.stats_path)
    passed_on = tmp_path / "passed_on.json"
    passed_on.write_text(relaid)
    assert load_result(passed_on) == result
    run.stats_path.write_text(text)
    manifest = (run.path / MANIFEST_FILE).read_bytes()
    (run.path / MANIFEST_FILE).write_bytes(manifest[:-9])  # a damaged one vouches for nothing
    assert load_result(run.stats_path) == result
    run.stats_path.write_text(text.replace('"frozen"', '"random"'))
    with pytest.raises(DataError, match="does not match its 'sha256'"):
        load_result(run.stats_path)
    (run.path / MANIFEST_FILE).write_bytes(manifest)
    run.stats_path.write_text(text)
    edited = text.replace('"frozen"', '"random"')
    run.stats_path.write_text(edited)
    entries = {**read_manifest(run.path), STATS_FILE: ManifestEntry(len(edited.encode()), sha256_text(edited))}
    (run.path / MANIFEST_FILE).write_text(manifest_text(run.run_id, entries))  # made anew for what was edited
    with pytest.raises(DataError, match="does not match its 'sha256'"):
        load_result(run.stats_path)
    (run.path / MANIFEST_FILE).write_bytes(manifest)
    run.stats_path.write_text(text)
    monkeypatch.setattr(files, "is_laid_out", None)  # which takes as long as the seal
    assert load_result(run.stats_path) == result


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([], "not a results file"),
        ({"name": "package", "version": 1}, "not a results file"),
        ({"sha256": "0"}, "damaged"),
        ({**GUIDE, "final_validation_f1": float("nan")}, "NaN"),
        ({**GUIDE, "final_validation_f1": 51.0}, "between 0 and 1"),
        ({**GUIDE, "final_validation_f1": "0.5"}, "impossible value"),
        ({**GUIDE, "final_validation_accuracy": -0.1}, "between 0 and 1"),
        ({**GUIDE, "freeze_llm": None}, "impossible value"),
        ({**GUIDE, "freeze_llm": 1}, "impossible value"),
        ({**GUIDE, "finetune_epochs": True}, "impossible value"),
        ({**GUIDE, "config_name": ""}, "empty"),
        ({**GUIDE, "qasrl_train_filtering": []}, "impossible value"),
        ({**GUIDE, "run_id": "x"}, "no schema_version"),
        ({**GUIDE, "schema_version": 2}, "schema version 2"),
        ({**GUIDE, "schema_version": "1"}, "damaged"),
        (seal({**GUIDE, "schema_version": "1"}), "schema version '1'"),
        (seal({**GUIDE, "schema_version": 1, "future": 1}), "'future'"),
        (seal({"answer": 42}), "not a results file"),
        (seal({**GUIDE, "schema_version": 1, "flags": None}), "impossible value"),
        ({key: value for key, value in GUIDE.items() if key != "random_baseline"}, "lacks random_baseline"),
    ],
)
def test_what_is_no_result_is_refused_by_name(tmp_path: Path, content: Any, reason: str) -> None:
    path = write(tmp_path / "strange.json", content)
    with pytest.raises(DataError, match=reason) as caught:
        load_result(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_versions_import_nothing() -> None:
    versions = current_versions()
    assert versions["python"] and versions["emergence"] and "torch" in versions
    json.dumps(versions, allow_nan=False)
