"""A finished run under damage and forgery: ``verify-run`` names it, and ``list``, ``table`` and ``run`` see it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emergence.errors import RunDirectoryError, UsageError
from emergence.experiment.asking import ask
from emergence.experiment.claims import score_span
from emergence.experiment.listing import FileFacts, list_runs
from emergence.experiment.manifest import MANIFEST_FILE, describe_folder, manifest_text
from emergence.experiment.run import run_experiment
from emergence.experiment.run_directory import HISTORY_FILE, PREDICTIONS_FILE, SPEC_FILE, STATS_FILE, TRUNK_FILE
from emergence.experiment.store import RunDirectory, RunStore
from emergence.experiment.verification import verify_folder, verify_run
from emergence.files import seal, write_json_atomic
from emergence.findings.collect import collect_results
from emergence.findings.two_by_two import RunScores
from emergence.remote.client import VolumeFiles
from emergence.remote.sweep import ModalPlace
from emergence.studies.snapshots.inputs import timeline_of
from emergence.sweep.existing import existing_runs
from tests.command_lines import typed
from tests.small_runs import NAME, micro_run, micro_spec


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished")
    return root / "runs" / micro_run(root, freeze_llm=True)


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy to damage; its runs folder is ``folder.parent``."""
    return Path(shutil.copytree(finished, tmp_path / "runs" / NAME))


def damage(folder: Path) -> str:
    """The damaged files and why, in one text; empty for a clean run."""
    return "; ".join(f"{file.name}: {file.detail}" for file in verify_run(folder).damaged)


def damages(folder: Path, change: Callable[[bytes], bytes]) -> Iterator[str]:
    """Every file of the run, changed while its name is given."""
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        whole = path.read_bytes()
        path.write_bytes(change(whole))
        yield path.name
        path.write_bytes(whole)


def test_every_flipped_bit_of_a_finished_run_is_named(folder: Path) -> None:
    assert damage(folder) == ""
    flip = lambda whole: whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :]  # noqa: E731
    names = list(damages(folder, lambda whole: whole))
    assert len(names) > 12
    for name in damages(folder, flip):
        assert {file.name for file in verify_run(folder).damaged} == {name}
        assert verify_run(folder).state == "finished"
    (folder / MANIFEST_FILE).write_bytes(b"{}")  # then the files' own seals speak
    for name in (TRUNK_FILE, SPEC_FILE, STATS_FILE):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(flip(whole))
        assert {file.name for file in verify_run(folder).damaged} == {name, MANIFEST_FILE}
        (folder / name).write_bytes(whole)
    (folder / MANIFEST_FILE).write_text(manifest_text(NAME, describe_folder(folder)))
    for name in names:
        (folder / name).rename(folder.parent / "away")
        assert name in damage(folder) or name == STATS_FILE  # then it is an unfinished one, or a copy of the weights
        (folder.parent / "away").rename(folder / name)


def test_the_listing_marks_what_sizes_and_seals_show(folder: Path) -> None:
    (summary,) = list_runs(folder.parent)
    assert (summary.stage, summary.detail) == ("finished", "")
    for name in damages(folder, lambda whole: whole[:-1]):
        (summary,) = list_runs(folder.parent)
        assert summary.stage == "damaged" and name in summary.detail
    (folder / TRUNK_FILE).unlink()
    code, out, _ = typed("emergence", "list", "--runs-dir", str(folder.parent))
    assert code == 0 and f"{TRUNK_FILE}: missing" in out and "sizes and seals" in out and "verify-run" in out


def rewrite(folder: Path, forge: Callable[[dict[str, Any]], Any], *, manifest: bool) -> None:
    """Change the result, with a seal that fits; and a manifest that fits, too."""
    stats = json.loads((folder / STATS_FILE).read_text())
    forge(stats)
    write_json_atomic(folder / STATS_FILE, seal(stats))
    if manifest:
        (folder / MANIFEST_FILE).write_text(manifest_text(NAME, describe_folder(folder)))


def test_a_result_that_is_not_the_manifests_is_used_by_nothing(folder: Path) -> None:
    rewrite(folder, lambda stats: stats.update(final_validation_f1=0.99), manifest=False)
    assert STATS_FILE in damage(folder)
    assert list_runs(folder.parent)[0].stage == "damaged"
    collection = collect_results(folder.parent)
    assert not collection.found and STATS_FILE in collection.skipped[0].reason
    for words in (["table", str(folder.parent)], ["report", str(folder.parent), "--out", str(folder.parent / "out")]):
        _, out, err = typed("emergence", *words)
        assert "Traceback" not in out + err and "0.99" not in out
    with pytest.raises(RunDirectoryError, match=STATS_FILE):
        spec = micro_spec(freeze_llm=True)
        run_experiment(spec, RunStore(folder.parent), cache_dir=folder.parent / "cache", run_id=NAME)
    with pytest.raises(RunDirectoryError, match=STATS_FILE):
        run_experiment(spec, RunStore(folder.parent), cache_dir=folder.parent / "cache")


def test_whose_result_it_is_is_asked_by_all_who_read_a_run(folder: Path) -> None:
    """A whole result of another seed, and its manifest made to fit."""
    rewrite(folder, lambda stats: stats.update(seed=5), manifest=True)
    run = RunStore(folder.parent).open(NAME)
    readers: list[Callable[[RunDirectory], object]] = [
        RunScores.load,
        timeline_of,
        lambda run: ask(run, "The baker cut the rope .", "Who cut something?"),
    ]
    for read in readers:
        with pytest.raises(RunDirectoryError, match="not of this run: its seed is 5"):
            read(run)
    existing = existing_runs(RunStore(folder.parent))
    assert not existing.finished and existing.unfinished == {run.experiment_id: NAME}, "a sweep does not call it done"
    assert "its seed is 5" in collect_results(folder.parent).skipped[0].reason


@pytest.mark.parametrize("damage_done", ["none", "other seed", "broken", "unfinished", "older spec"])
def test_a_sweep_sees_the_same_runs_on_modal_as_here(
    folder: Path, monkeypatch: pytest.MonkeyPatch, damage_done: str
) -> None:
    root = folder.parent
    if damage_done == "other seed":
        rewrite(folder, lambda stats: stats.update(seed=5), manifest=True)
    elif damage_done == "broken":
        (folder / STATS_FILE).write_text("{}")
    elif damage_done == "unfinished":
        (folder / STATS_FILE).unlink()
    elif damage_done == "older spec":  # it lacks a setting, and keeps the id that it was begun with
        content = json.loads((folder / SPEC_FILE).read_text())
        del content["sha256"], content["spec"]["layout"]
        content["experiment_id"] = "0123456789ab"
        write_json_atomic(folder / SPEC_FILE, seal(content))
        rewrite(folder, lambda stats: stats.update(experiment_id="0123456789ab"), manifest=True)

    def facts(self: VolumeFiles, inside: str = "/") -> dict[str, FileFacts]:
        return {
            path.relative_to(root).as_posix(): FileFacts(path.stat().st_size, path.stat().st_mtime)
            for path in root.rglob("*")
            if path.is_file() and not path.relative_to(root).parts[0].startswith(".")
        }

    monkeypatch.setattr(VolumeFiles, "facts", facts)
    monkeypatch.setattr(VolumeFiles, "read", lambda self, path: iter([(root / path).read_bytes()]))
    monkeypatch.setattr("emergence.remote.sweep.reach_modal", lambda: None)
    here, there = existing_runs(RunStore(root)), ModalPlace().existing(root)
    assert here == there
    assert bool(there.finished) == (damage_done not in ("other seed", "unfinished"))


def test_a_result_without_its_manifest_finishes_no_run(folder: Path) -> None:
    (folder / MANIFEST_FILE).unlink()
    for run_id in (NAME, None):
        with pytest.raises(RunDirectoryError, match=f"a result and no {MANIFEST_FILE}.*remove {STATS_FILE}") as caught:
            spec = micro_spec(freeze_llm=True)
            run_experiment(spec, RunStore(folder.parent), cache_dir=folder.parent / "cache", run_id=run_id)
        assert caught.value.exit_code == 2


def put(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def forge(stats: dict[str, Any]) -> None:
        for key in path[:-1]:
            stats = stats[key]
        assert stats[path[-1]] != value
        stats[path[-1]] = value

    return forge


def narrow(*path: str) -> Callable[[dict[str, Any]], None]:
    """An interval beside its mean."""

    def forge(stats: dict[str, Any]) -> None:
        for key in path:
            stats = stats[key]
        stats["lo"] = stats["hi"]

    return forge


def rewrite_rows(folder: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    """Change the predictions, with a manifest that fits."""
    rows = [json.loads(line) for line in (folder / PREDICTIONS_FILE).read_text().splitlines()]
    change(rows)
    (folder / PREDICTIONS_FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / MANIFEST_FILE).write_text(manifest_text(NAME, describe_folder(folder)))


def refused_by_compare(folder: Path) -> None:
    compared = typed("emergence", "compare", NAME, NAME, "--runs-dir", str(folder.parent))
    assert compared.code in (1, 2) and compared.err.count("\n") == 1 and "Traceback" not in compared.err


SCORES = ("test_scores", "scores")
FORGERIES = {
    "f1_tokens is": put(*SCORES, "f1_tokens", "point", value=0.5),
    "em is": put(*SCORES, "em", "point", value=0.5),
    "argument_selection is": put(*SCORES, "argument_selection", "point", value=0.5),
    "log_prob is": put(*SCORES, "log_prob", "point", value=-1.0),
    "n of test questions": put("test_scores", "n", value=34),
    "n_clusters of": put("test_scores", "n_clusters", value=33),
    "n_documents of": put("test_scores", "n_documents", value=2),
    "f1_tokens of words_left": put("test_scores", "baselines", "words_left", "f1_tokens", "point", value=0.1),
    "em of wh_rule": put("test_scores", "baselines", "wh_rule", "em", "point", value=0.3),
    "em of bilinear is": put("probes", "readouts", "bilinear", "test", "em", "point", value=0.3),
    "of words+linear is": put("probes", "conditional", "words+linear", "test", "f1_tokens", "point", value=0.9),
    "final_validation_f1": put("final_validation_f1", value=0.9),
    "final_validation_accuracy": put("final_validation_accuracy", value=0.9),
    "qasrl_train_filtering": put("qasrl_train_filtering", "valid_examples", value=88),
    "data are not": put("data", "fingerprints", "text", value="0" * 64),
    "kept 32 test questions": put("data", "filtering", "test", "valid_examples", value=32),
    "experiment_id is": put("experiment_id", value="0" * 12),
    "its spec is not": put("spec", "config", "probe", "epochs", value=2),
    "of the headline's probe": put("probes", "readouts", "headline", "test", "em", "point", value=0.9),
    "seed is": put("seed", value=5),
    "interval of test_scores.scores.f1_tokens": narrow(*SCORES, "f1_tokens"),
    "interval of test_scores.scores.iou is": put(*SCORES, "iou", "point", value=1e-4),
    "is of 5 values": put(*SCORES, "em", "n", value=5),
    "f1_tokens of the mean over predicates": put("test_scores", "macro", "f1_tokens", "point", value=0.0123),
    "em of role who": put("test_scores", "by", "role", "who", "em", "point", value=0.0123),
    "expected_f1 of voice active": put("test_scores", "by", "voice", "active", "expected_f1", "point", value=0.0123),
    "em of role who is of 5 values": put("test_scores", "by", "role", "who", "em", "n", value=5),
    "f1_tokens of words_left is of 5 values": put("test_scores", "baselines", "words_left", "f1_tokens", "n", value=5),
    "em of headline is of 4 units": put(*SCORES, "em", "n_clusters", value=4),
    "its iou is": put(*SCORES, "iou", "point", value=0.5),
    "it has no test scores, but": put("test_scores", value=None),
    "another toy_llm": put("lineage", "trunk_sha256", value="0" * 64),
    "another toy_llm_unified": put("lineage", "trunk_sha256", value=None),
    "run_id is '', where the name of a run belongs": put("run_id", value=""),
    "run_id is '../../etc'": put("run_id", value="../../etc"),
    "its run_id is Other, that of MANIFEST.json": put("run_id", value="Other"),
    "its run_id is None": put("run_id", value=None),
    "its config_name is other": put("config_name", value="other"),
    "its layout is echo": put("layout", value="echo"),
    "its initialisation is martian": put("initialisation", value="martian"),
    "its finetune_samples_limit is 7": put("finetune_samples_limit", value=7),
    "its finetune_epochs is 2, where 1, since": put("finetune_epochs", value=2),
    "its condition is full": put("condition", value="full"),
    "it has no lineage": put("lineage", value=None),
    "its lineage.run_id is X, where": put("lineage", "run_id", value="X"),
    "its lineage.pretrain_id is None": put("lineage", "pretrain_id", value=None),
    "its lineage.stage is random": put("lineage", "stage", value="random"),
    f"its lineage.run_id is {NAME}, where X belongs": put("lineage", "source", value={"path": "a.pth", "run_id": "X"}),
    "it has a flag of a trunk from another run": lambda stats: stats["flags"].append("trunk_from_another_run"),
    "it has no probes": put("probes", value=None),
}


@pytest.mark.parametrize("says", FORGERIES)
def test_what_does_not_follow_from_the_other_files_is_named(folder: Path, says: str) -> None:
    """With seal and manifest made to fit: only computing again shows it."""
    rewrite(folder, FORGERIES[says], manifest=True)
    assert says in damage(folder) and damage(folder).startswith(STATS_FILE)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("em", 1.0, "do not follow from the spans"),
        ("prediction", [0, 1], "do not follow from the spans"),
        ("golds", [[5, 6]], "do not follow from the spans"),
        ("prediction", [3, 3], "[3, 3) is no span of words"),
        ("prediction", [-2, 1], "[-2, 1) is no span of words"),
        ("golds", [[3, 3]], "[3, 3) is no span of words"),
        ("golds", [7], "not in this program's format"),
        ("argument_selection", 0.0, "argument_selection is"),
        ("sentence_id", "other", "n_clusters"),
        ("f1_tokens", "x", "not in this program's format"),
        ("em", True, "not in this program's format"),
        ("id", ["x"], "not in this program's format"),
        ("readouts", None, "not in this program's format"),
        ("golds", None, "not in this program's format"),
        ("log_prob", 3.0, "log_prob of headline is 3, which no answer can have"),
        ("expected_f1", -0.5, "expected_f1 of headline is -0.5, which no answer can have"),
        ("golds", [[0.5, 1]], "not in this program's format"),
        ("golds", lambda rows: rows[0]["golds"] * 2, "not in this program's format"),
        ("id", "", "not in this program's format"),
        ("id", lambda rows: rows[1]["id"], "not in this program's format"),
        ("question", 5, "not in this program's format"),
        ("question", "", "not in this program's format"),
        ("passive", "maybe", "not in this program's format"),
        ("argument_chance", 7, "not in this program's format"),
        ("argument_chance", 0.123, "its argument_chance is 0.123, but its golds give"),
        ("argument_selection", None, "its argument_selection of headline is None, with other arguments"),
        ("readouts", lambda rows: {**rows[0]["readouts"], "magic": {}}, "not in this program's format"),
        ("readouts", lambda rows: {**rows[0]["readouts"], "bilinear": 5}, "not in this program's format"),
        ("baselines", [], "not in this program's format"),
        ("document_id", None, "1 rows of predictions.jsonl do not tell their document"),
        ("gold_texts", ["something else"], "its gold_texts are not what its words say"),
        ("predicate", "flew", "its predicate is not what its words say"),
        ("words", ["two", "words"], "its prediction_text is not what its words say"),
    ],
)
def test_predictions_that_do_not_give_the_result_are_named(folder: Path, field: str, value: Any, says: str) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        new = value(rows) if callable(value) else value
        assert rows[0][field] != new
        rows[0][field] = new

    rewrite_rows(folder, change)
    assert says in damage(folder)
    refused_by_compare(folder)
    collection = collect_results(folder.parent)
    if "format" in says:
        (item,) = collection.found
        assert item.scores is None and item.remark
    elif says.startswith(("argument_selection", "n_clusters")):
        assert not collection.found and says in collection.skipped[0].reason


def of_every_row(**values: Any) -> Callable[[list[dict[str, Any]]], None]:
    def change(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row |= values

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        *((lambda rows, key=key: rows[-1].pop(key), f"not every row has {key}") for key in
          ("words", "question", "role", "asked_role", "document_id", "prediction_text", "gold_texts")),
        (of_every_row(document_id=None), "do not tell their document"),
        (lambda rows: [row["readouts"].update(magic=row["readouts"]["bilinear"]) for row in rows], "scores of magic"),
        (of_every_row(predicate_index=None, predicate=None, argument_chance=None), "no other argument to choose from"),
    ],
)  # fmt: skip
def test_rows_that_were_not_written_so_are_named(
    folder: Path, change: Callable[[list[dict[str, Any]]], object], says: str
) -> None:
    rewrite_rows(folder, change)
    assert says in damage(folder)
    refused_by_compare(folder)


def test_rows_of_an_earlier_version_lack_keys_in_all_rows(folder: Path) -> None:
    lacking = ("words", "question", "asked_role", "document_id", "gold_texts", "argument_chance", "prediction_text")
    rewrite_rows(folder, lambda rows: [row.pop(key) for row in rows for key in lacking])
    assert damage(folder) == ""
    assert typed("emergence", "compare", NAME, NAME, "--runs-dir", str(folder.parent)).code == 0


def lines_of(change: Callable[[list[str]], list[str]]) -> Callable[[str], str]:
    return lambda text: "".join(change(text.splitlines(keepends=True)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: "", "ends of a pretraining"),
        (lines_of(lambda lines: lines[::-1]), "pretraining after what follows it"),
        (lines_of(lambda lines: [lines[0], *lines[3:0:-1], *lines[4:]]), "after step"),
        (lines_of(lambda lines: lines[:-1]), "lines of a fit of its probes"),
        (lines_of(lambda lines: lines[1:]), "its first"),  # the digest in the trunk
        (lambda text: re.sub(r'"total_steps":\d+', '"total_steps":-1', text), "its total_steps is -1"),
        (lambda text: re.sub(r'"grad_norm":\d', '"grad_norm":7', text, count=1), "its first"),
        (
            lambda text: re.sub(r'"validation_em":[\d.]+', '"validation_em":0.9', text, count=1),
            "validation_em of a fit",
        ),
    ],
)
def test_a_history_that_is_not_the_one_of_its_result_is_named(
    folder: Path, change: Callable[[str], str], says: str
) -> None:
    before = (folder / HISTORY_FILE).read_text()
    assert change(before) != before
    (folder / HISTORY_FILE).write_text(change(before))
    rewrite(folder, lambda stats: None, manifest=True)
    assert damage(folder).startswith(HISTORY_FILE) and says in damage(folder)


@pytest.mark.parametrize("row", [0, -1])
@pytest.mark.parametrize(
    ("part", "name"), [("readouts", "bilinear"), ("baselines", "wh_rule"), ("baselines", "words_left")]
)
def test_scores_taken_out_of_a_row_do_not_switch_their_check_off(folder: Path, row: int, part: str, name: str) -> None:
    rewrite_rows(folder, lambda rows: rows[row][part].pop(name))
    assert name in damage(folder)
    collection = collect_results(folder.parent)
    assert all(item.scores is None and name in str(item.remark) for item in collection.found)
    assert all(name in item.reason for item in collection.skipped)


def test_spans_are_scored_against_the_best_gold() -> None:
    assert score_span([2, 5], [[0, 2], [2, 5]]) == (1.0, 1.0)
    assert score_span([2, 5], [[0, 2], [4, 8]]) == (0.0, pytest.approx(2 / 7))
    assert score_span([2, 5], [[0, 2]]) == (0.0, 0.0)


def test_an_analysis_without_its_seal_vouches_for_nothing(folder: Path) -> None:
    (folder / "analysis").mkdir(exist_ok=True)
    (folder / "analysis" / "result.json").write_text(json.dumps({"values": [1.0]}))
    assert "analysis/result.json has no seal" in damage(folder).replace(":", "")


def test_copies_of_a_part_of_a_run_are_clean_and_lost_files_are_not(folder: Path) -> None:
    weights = sorted(folder.glob("*.pth"))
    weights[0].rename(folder.parent / "away")
    assert damage(folder) == f"{weights[0].name}: missing"
    (folder.parent / "away").rename(weights[0])
    (folder / "pretrain_step_2.pth").write_bytes(weights[0].read_bytes())
    assert "not in the manifest" in damage(folder)
    (folder / "pretrain_step_2.pth").unlink()
    for kept in (lambda p: p.suffix != ".pth", lambda p: p.suffix == ".pth" or p.name in (SPEC_FILE, "tokenizer.json")):
        part = folder.parent / "part"
        part.mkdir()
        for path in folder.iterdir():
            if kept(path) or path.name == MANIFEST_FILE:
                shutil.copy(path, part)
        assert damage(part) == "" and any(file.status == "absent" for file in verify_run(part).files)
        assert all(s.stage != "damaged" for s in list_runs(folder.parent))
        shutil.rmtree(part)


def test_the_command_checks_every_run_of_a_folder(folder: Path) -> None:
    shutil.copytree(folder, folder.parent / "deeper" / "Second")
    code, out, _ = typed("emergence", "verify-run", str(folder.parent))
    assert code == 0 and out.splitlines()[-1].startswith("2 runs, ") and "as they were written" in out
    assert len(out.splitlines()) == 1 + 2 * len(list(folder.iterdir()))
    (folder.parent / "deeper" / "Second" / SPEC_FILE).unlink()
    code, out, _ = typed("emergence", "verify-run", str(folder.parent), "--json")
    told = json.loads(out)
    assert code == 1 and [run["is_clean"] for run in told["runs"]] == [True, False] and not told["is_clean"]
    assert typed("emergence", "verify-run", NAME, "--runs-dir", str(folder.parent))[0] == 0
    (folder.parent / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no run"):
        verify_folder(folder.parent / "empty")
    assert typed("emergence", "verify-run", "NoSuchRun")[0] == 2
