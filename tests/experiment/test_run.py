"""The experiment end to end on a small micro-world: all cells, what they leave, how they go on."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emergence.answering import evaluate as evaluation
from emergence.answering.finetune_search import finetune_tuned
from emergence.commands.demo import verdict_of_runs
from emergence.data.qa_encoding import EncodedQA
from emergence.errors import DataError, EmergenceError, RunDirectoryError, UsageError, WeightsError
from emergence.experiment import outcome, phases
from emergence.experiment import run as run_module
from emergence.experiment.inputs import _unused_settings, marks_of, read_inputs
from emergence.experiment.result import DOCUMENTED_KEYS, load_result
from emergence.experiment.run import run_experiment
from emergence.experiment.store import RunDirectory, RunStore
from emergence.files import seal, write_json_atomic
from emergence.findings.two_by_two import RunScores, build_grid, format_grid
from emergence.report.terminal import describe_result, describe_verdict
from emergence.training.checkpoint import load_weights, save_weights
from emergence.training.context import Context
from emergence.training.distributed import Workers
from emergence.training.precision import resolve_precision
from emergence.training.recording import StopRequested
from tests.small_runs import MICRO, SMALL, run_micro, run_small, small_spec, trunk_flags

CELLS: dict[str, dict[str, Any]] = {
    "full": {},
    "frozen": {"freeze_llm": True},
    "random": {"random_baseline": True},
    "random-frozen": {"random_baseline": True, "freeze_llm": True},
}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDirectory]:
    root = tmp_path_factory.mktemp("cells") / "runs"
    runs: dict[str, RunDirectory] = {}
    for name, flags in CELLS.items():
        given = trunk_flags(runs["full"]) if name == "frozen" else {}
        runs[name], _ = run_small(root, **flags, **given)
    return runs


def same_result(one: RunDirectory, two: RunDirectory) -> None:
    """Weights, history and predictions are equal to the bit."""
    for name in ("history.jsonl", "predictions.jsonl"):
        assert (one.path / name).read_bytes() == (two.path / name).read_bytes(), name
    files = sorted(path.name for path in one.path.glob("*.pth"))
    assert files == sorted(path.name for path in two.path.glob("*.pth"))
    for name in files:
        first, second = (load_weights(run.path / name).state_dict for run in (one, two))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first), name


def test_every_cell_leaves_the_documented_files_and_keys(cells: dict[str, RunDirectory]) -> None:
    for condition, run in cells.items():
        names = {path.name for path in run.path.iterdir()}
        assert names >= {
            "spec.json",
            "history.jsonl",
            "toy_llm_unified_pretrained.pth",
            "toy_llm_qasrl_finetuned.pth",
            "finetune_epoch_1.pth",
            "predictions.jsonl",
            "tokenizer.json",
            "MANIFEST.json",
            "finetune_stats.json",
        }
        assert run.verify_manifest() == []
        stats = json.loads(run.stats_path.read_text())
        assert list(stats)[: len(DOCUMENTED_KEYS)] == list(DOCUMENTED_KEYS)
        assert (stats["freeze_llm"], stats["random_baseline"]) == ("frozen" in condition, "random" in condition)
        counts = stats["qasrl_train_filtering"]
        skipped = sum(n for key, n in counts.items() if key.startswith("skipped_"))
        assert counts["valid_examples"] + skipped == counts["total_raw_examples"]
    assert {"pretrain_epoch_1.pth", "pretrain_step_0.pth"} <= {p.name for p in cells["full"].path.iterdir()}


def test_the_frozen_trunk_is_the_pretrained_one_to_the_bit(cells: dict[str, RunDirectory]) -> None:
    start = load_weights(cells["full"].trunk_path).state_dict
    frozen = load_weights(cells["frozen"].finetuned_path).state_dict
    full = load_weights(cells["full"].finetuned_path).state_dict
    seen = torch.tensor(load_weights(cells["full"].trunk_path).metadata["token_counts"]) > 0
    for name, tensor in start.items():
        rows = torch.nonzero(seen)[:, 0] if name == "embedding.weight" else slice(None)  # the others are drawn anew
        assert torch.equal(frozen[name][rows], tensor[rows])
    assert not all(torch.equal(full[name], tensor) for name, tensor in start.items())
    hidden = 16
    assert sum(t.numel() for name, t in frozen.items() if name.startswith("head.")) == 2 * (hidden + 1)
    assert load_result(cells["frozen"].stats_path).parameters["trainable"] == 2 * (hidden + 1)  # type: ignore[index]


def test_a_random_trunk_does_not_start_as_the_identity(cells: dict[str, RunDirectory]) -> None:
    drawn = load_weights(cells["random-frozen"].trunk_path)
    assert drawn.metadata["stage"] == "random"
    outputs = [tensor for name, tensor in drawn.state_dict.items() if name.endswith("output.weight")]
    assert outputs and all(tensor.abs().sum() > 0 for tensor in outputs)


def test_probes_read_marks_of_the_text_and_finetuning_its_own() -> None:
    assert marks_of(small_spec()) == marks_of(small_spec(random_baseline=True)) == "special"
    assert marks_of(small_spec(freeze_llm=True)) == "text"
    assert marks_of(small_spec("finetune.marks=text")) == "text"


def test_scores_agree_between_predictions_and_stats(cells: dict[str, RunDirectory]) -> None:
    for run in cells.values():
        scores = RunScores.load(run)
        stats = load_result(run.stats_path)
        assert stats.test_scores is not None
        for name in ("f1_tokens", "em", "argument_selection"):
            assert np.nanmean(scores.scores["headline"][name]) == pytest.approx(
                stats.test_scores["scores"][name]["point"]
            )
        assert all("argument_selection" in columns for name, columns in scores.scores.items() if name != "wh_rule")
        assert {"words_left", "words_both", "wh_rule"} <= set(scores.scores)
    rows = cells["full"].read_predictions()
    assert {row["argument_selection"] for row in rows} <= {0.0, 1.0, None}
    assert all(0 <= row["prediction"][0] < row["prediction"][1] for row in rows)


def test_frozen_runs_say_how_far_their_probes_are_to_be_believed(cells: dict[str, RunDirectory]) -> None:
    for cell in ("frozen", "random-frozen"):
        result = load_result(cells[cell].stats_path)
        assert result.probes is not None and list(result.probes["validity"]) == ["linear", "bilinear"]
        found = result.probes["validity"]["linear"]
        assert found["layer"] == result.probes["headline_layer"]
        assert found["task_f1"] == pytest.approx(result.test_scores["scores"]["f1_tokens"]["point"])  # type: ignore[index]
        assert found["selectivity"]["point"] == pytest.approx(found["task_f1"] - found["control_f1"])
        assert found["mdl"]["n_examples"] == found["control_mdl"]["n_examples"] > 0
        assert "selectivity" in describe_result(result, cells[cell].path.parent)
    told = {cell: describe_result(load_result(run.stats_path), run.path.parent) for cell, run in cells.items()}
    expected = resolve_precision("auto", torch.device("cpu"))
    assert f"number format    {expected}\n" in told["full"] and "number format" not in told["random"]
    verdict = verdict_of_runs([RunScores.load(run) for run in cells.values()], cells["full"].path.parent)
    assert [finding.family for finding in verdict.families] == ["linear", "bilinear"]
    assert all(set(finding.compression) == {"frozen", "random_frozen"} for finding in verdict.families)
    assert verdict.short in describe_verdict(verdict)


def test_validity_can_be_left_out_and_rules_are_scored_once_a_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored, score = [], evaluation.baseline_scores
    for module in (evaluation, outcome):
        monkeypatch.setattr(module, "baseline_scores", lambda *given: scored.append(given) or score(*given))
    run = run_micro(tmp_path, "probe.validity=false", random_baseline=True, freeze_llm=True)
    result = load_result(run.stats_path)
    assert result.probes is not None and result.validities == {}
    assert len(scored) == 2


def test_the_2x2_from_the_directories(cells: dict[str, RunDirectory]) -> None:
    grid = build_grid([RunScores.load(run) for run in cells.values()], n_boot=200)
    assert set(grid.analysis.cells) == {"full", "frozen", "random_full", "random_frozen"}
    gap = grid.analysis.cells["full"].point - grid.analysis.cells["frozen"].point
    assert grid.analysis.gap.point == pytest.approx(gap)
    text = format_grid(grid)
    assert "emergence gap" in text and "pretrained" in text and not grid.left_out


def test_a_2x2_needs_a_full_and_a_frozen_run(cells: dict[str, RunDirectory]) -> None:
    with pytest.raises(DataError, match="needs a full and a frozen run"):
        build_grid([RunScores.load(cells["random"])])


@pytest.mark.slow
def test_other_test_questions_are_left_out_by_name(cells: dict[str, RunDirectory], tmp_path: Path) -> None:
    other, _ = run_small(tmp_path / "runs", "microworld.seed=5", random_baseline=True)
    grid = build_grid([RunScores.load(run) for run in (cells["full"], cells["frozen"], other)], n_boot=200)
    assert "random_full" not in grid.analysis.cells
    assert any(other.run_id in reason and "test questions" in reason for reason in grid.left_out)


def test_the_same_command_after_the_end_does_nothing(cells: dict[str, RunDirectory]) -> None:
    run = cells["full"]
    before = run.stats_path.read_bytes()
    again, _ = run_small(run.path.parent)
    assert again.run_id == run.run_id and run.stats_path.read_bytes() == before


def test_a_matching_pretraining_is_used_and_gives_the_same_probe(cells: dict[str, RunDirectory]) -> None:
    """--freeze-llm alone asks for the pretraining that the full run did: its trunk is taken, and said to be."""
    run, result = run_small(cells["full"].path.parent, freeze_llm=True)
    assert result.lineage is not None and result.lineage["source"]["run_id"] == cells["full"].run_id
    assert "trunk_from_another_run" in result.flags
    one, two = (r.path / "predictions.jsonl" for r in (run, cells["frozen"]))
    assert one.read_bytes() == two.read_bytes()


def write_text(folder: Path, town: str = "Rome") -> Path:
    folder.mkdir(exist_ok=True)
    for split, count in (("train", 120), ("valid", 10), ("test", 10)):
        lines = (f" = {split} {i} = \n\nThe baker {i} cut the rope with a knife in {town}.\n\n" for i in range(count))
        (folder / f"{split}.txt").write_text("".join(lines))
    return folder


def test_a_trunk_is_found_however_its_text_is_named_and_not_on_another_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = write_text(tmp_path / "text")
    first, _ = run_small(tmp_path / "runs", pretrain_text=str(text), skip_finetune=True)
    (tmp_path / "moved").symlink_to(text)
    for name in (f"{text}/", "moved"):
        run, result = run_small(tmp_path / "runs", pretrain_text=name, skip_finetune=True)
        assert run.spec.pretrain_id != first.spec.pretrain_id and run.path.name != first.run_id
        assert result.lineage is not None and result.lineage["source"]["pretrain_id"] != run.spec.pretrain_id, name
        assert result.lineage["pretrain_id"] == run.spec.pretrain_id, "the trunk that it would have pretrained itself"
        assert result.pretraining == load_result(first.stats_path).pretraining
    spec = small_spec(pretrain_text=str(text / "." / "."), skip_pretrain=True)
    given = read_inputs(spec, RunStore(tmp_path / "runs"), tmp_path / "cache").weights
    assert given is not None and given.path.parent.name in {run.run_id for run in RunStore(tmp_path / "runs").runs()}
    write_text(text, "Paris")
    with pytest.raises(WeightsError, match="found no run"):
        read_inputs(
            dataclasses.replace(spec, pretrain_text=f"{text}//"), RunStore(tmp_path / "runs"), tmp_path / "cache"
        )


def test_a_cell_of_a_sweep_does_not_pretrain_on_another_text_than_its_trunk(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text")
    store = RunStore(tmp_path / "runs")
    first, _ = run_small(store.root, pretrain_text=str(text), skip_finetune=True)
    spec = small_spec(pretrain_text=str(text), layout="echo", skip_finetune=True)
    write_text(text, "Paris")
    with pytest.raises(UsageError, match=f"not what {first.run_id} was trained on: restore it"):
        run_experiment(spec, store, cache_dir=tmp_path / "cache", trunk=first.run_id)
    assert [run.run_id for run in store.runs()] == [first.run_id], "nothing was written"
    write_text(text)
    result = run_experiment(spec, store, cache_dir=tmp_path / "cache", trunk=first.run_id)
    assert result is not None and result.lineage is not None
    assert result.lineage["source"]["run_id"] == first.run_id


def test_equal_seeds_give_equal_runs_and_others_do_not(tmp_path: Path) -> None:
    one, twin = (run_micro(tmp_path / name) for name in ("one", "twin"))
    same_result(one, twin)
    other = run_micro(tmp_path / "twin", seed=1)
    assert (other.path / "history.jsonl").read_bytes() != (twin.path / "history.jsonl").read_bytes()
    assert [r["id"] for r in other.read_predictions()] == [r["id"] for r in twin.read_predictions()]


@pytest.mark.parametrize("condition", ["full", pytest.param("frozen", marks=pytest.mark.slow)])
def test_interrupted_at_every_few_steps_it_ends_the_same(condition: str, cells: dict[str, RunDirectory]) -> None:
    """Stopped again and again, in every phase, and started by the same command each time."""
    root, spec = cells["full"].path.parent.parent / f"stopped-{condition}", small_spec(**CELLS[condition])
    stops = 0
    for _ in range(100):
        left = 4

        def should_stop() -> bool:
            nonlocal left
            left -= 1
            return left < 0

        try:
            result = run_experiment(spec, RunStore(root), cache_dir=root / "cache", should_stop=should_stop)
        except StopRequested:
            stops += 1
            continue
        break
    assert stops >= 3 and result is not None and result.run_id is not None
    run = RunStore(root).open(result.run_id)
    if condition == "full":
        same_result(cells["full"], run)
    else:
        assert (run.path / "predictions.jsonl").read_bytes() == (
            cells["frozen"].path / "predictions.jsonl"
        ).read_bytes()
        assert load_result(run.stats_path).probes == load_result(cells["frozen"].stats_path).probes


SEARCHED = ("finetune.search=on", "finetune.min_steps_per_epoch=24", "finetune.batch_size=32")


@pytest.mark.slow
def test_a_searched_ceiling_is_recorded_and_survives_interruptions(tmp_path: Path) -> None:
    """Stopped again and again within the search too; what it found stands in history and result."""
    whole, result = run_small(tmp_path / "whole", *SEARCHED, random_baseline=True, cache=tmp_path / "cache")
    assert result.finetuning is not None
    search = result.finetuning["search"]
    lines = [line for line in whole.read_history() if line["kind"] == "finetune_search"]
    assert [{k: v for k, v in line.items() if k != "kind"} for line in lines] == search["candidates"] != []
    assert search["embedding_scale"] is None and {t["embedding"] for t in search["candidates"]} == {"pretrained"}
    assert search["steps"] == sum(t["steps"] for t in search["candidates"]) and search["share_of_one_finetuning"] <= 2
    assert ("search_edge" in result.flags) == bool(search["edges"])
    assert result.seconds is not None and result.seconds["finetune_search"] > 0
    assert load_result(whole.stats_path).finetuning == result.finetuning
    settings = [value for value in SEARCHED if "search" not in value]
    _, plain = run_small(tmp_path / "plain", *settings, random_baseline=True, cache=tmp_path / "cache")
    assert result.final_validation_f1 >= plain.final_validation_f1

    spec, stops, again = small_spec(*SEARCHED, random_baseline=True), 0, None
    while again is None:
        calls = iter(range(1, 10_000))
        with contextlib.suppress(StopRequested):
            again = run_experiment(
                spec, RunStore(tmp_path / "again"), cache_dir=tmp_path / "cache",
                should_stop=lambda calls=calls: next(calls) >= 7,
            )  # fmt: skip
        stops += again is None
    assert stops > 5 and again.run_id is not None and again.finetuning == result.finetuning
    same_result(whole, RunStore(tmp_path / "again").open(again.run_id))


def test_the_search_never_meets_a_test_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    met: set[str] = set()
    batches = EncodedQA.padded_batch

    def spy(self: EncodedQA, indices: Any) -> Any:
        met.update(example.split for example in self.examples)
        return batches(self, indices)

    def tuned(*given: Any, **named: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(EncodedQA, "padded_batch", spy)
            return finetune_tuned(*given, **named)

    monkeypatch.setattr(phases, "finetune_tuned", tuned)
    run_micro(tmp_path, "finetune.search=on", "finetune.min_steps_per_epoch=6", random_baseline=True)
    assert met == {"train", "validation"}


def test_workers_share_pretraining_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others go home after it: a finetuning that waited for them would wait forever."""
    sizes: dict[str, int] = {}

    def spied(name: str) -> None:
        original = getattr(phases, name)

        def call(*given: Any, **named: Any) -> Any:
            sizes[name] = next(value.workers.size for value in given if isinstance(value, Context))
            return original(*given, **named)

        monkeypatch.setattr(phases, name, call)

    names = ("pretrain", "evaluate_language_model", "finetune_tuned", "predict_finetuned")
    for name in names:
        spied(name)
    for name in ("wait", "sum_gradients"):
        monkeypatch.setattr(Workers, name, lambda *_: None)
    monkeypatch.setattr(Workers, "sum", lambda _, values, device: list(values))
    monkeypatch.setattr(run_module, "workers_from_environment", lambda: contextlib.nullcontext(Workers(0, 2)))
    run_micro(tmp_path)
    assert sizes == dict(zip(names, (2, 1, 1, 1), strict=True))


def test_without_a_search_nothing_is_recorded_of_one(cells: dict[str, RunDirectory]) -> None:
    for run in cells.values():
        result = load_result(run.stats_path)
        assert result.finetuning is None and not {"search_edge", "best_epoch_is_last"} & set(result.flags)


@pytest.mark.parametrize("condition", ["full", "frozen", "random"])
def test_rows_that_pretraining_never_saw_are_drawn_anew_where_a_trunk_is_used(
    condition: str, cells: dict[str, RunDirectory]
) -> None:
    run = cells[condition]
    weights = load_weights(run.trunk_path)
    session = types.SimpleNamespace(run=run, spec=run.spec, context=Context())
    assert ("token_counts" in weights.metadata) == (condition != "random")  # the weights bring them along
    weights.metadata.pop("token_counts", None)
    plain = phases.load_trunk(weights, session).embedding.weight  # type: ignore[arg-type]
    assert torch.equal(plain, weights.state_dict["embedding.weight"])
    weights.metadata["token_counts"] = [0, *[1] * 300]
    drawn = phases.load_trunk(weights, session).embedding.weight  # type: ignore[arg-type]
    again = phases.load_trunk(weights, session).embedding.weight  # type: ignore[arg-type]
    assert torch.equal(drawn, again) and torch.equal(drawn[1:301], plain[1:301])
    assert torch.equal(drawn[0], plain[0]) == (condition == "random")


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_the_same(cells: dict[str, RunDirectory], tmp_path: Path) -> None:
    """SIGKILL, which nothing can catch, and the same command again."""
    words = [sys.executable, "-m", "emergence.cli", "run", "--config-name", "debug", "--data", "microworld"]
    words += ["--runs-dir", str(tmp_path / "runs"), *(part for value in SMALL for part in ("--set", value))]
    rng, finished = random.Random(7), False
    for attempt in range(12):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if attempt < 3:
            time.sleep(rng.uniform(2.0, 4.5))
            process.send_signal(signal.SIGKILL)
        finished = process.wait() == 0
        if finished:
            break
    assert finished
    (run,) = RunStore(tmp_path / "runs").runs()
    same_result(cells["full"], run)


def refused(flags: dict[str, Any], extra: tuple[str, ...], root: Path, kind: type[EmergenceError]) -> str:
    before = sorted(root.glob("*"))
    with pytest.raises(kind) as caught:
        run_experiment(small_spec(*extra, **flags), RunStore(root), cache_dir=root.parent / "cache")
    assert "\n" not in str(caught.value)
    assert sorted(root.glob("*")) == before, "something was written"
    return str(caught.value)


def test_unusable_weights_are_refused_before_anything_is_written(cells: dict[str, RunDirectory]) -> None:
    root = cells["full"].path.parent
    probe = {"freeze_llm": True, "skip_pretrain": True}
    weights: Callable[[str, str], dict[str, Any]] = lambda cell, name: {  # noqa: E731
        **probe,
        "pretrained_model_path": f"{cells[cell].run_id}/{name}",
    }
    trunk = "toy_llm_unified_pretrained.pth"
    assert "no such file" in refused({**probe, "pretrained_model_path": "no/such.pth"}, (), root, WeightsError)
    assert "hidden_size" in refused(weights("full", trunk), ("model.hidden_size=32",), root, WeightsError)
    assert "random weights" in refused(weights("random", trunk), (), root, WeightsError)
    assert "finetuned" in refused(weights("full", "toy_llm_qasrl_finetuned.pth"), (), root, WeightsError)
    assert "--skip-pretrain found no run" in refused({"skip_pretrain": True, "seed": 9}, (), root, WeightsError)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        pytest.param(("pretrain.adamw_lr=0.01",), "pretrain.adamw_lr=0.01", id="the weights have another"),
        pytest.param((), None, id="nothing asked"),
        pytest.param(("pretrain.step_snapshots=6",), None, id="what the size has by itself"),
        pytest.param(("pretrain.initial_context=32",), "pretrain.initial_context=32", id="one that the weights lack"),
        pytest.param(("pretrain.on_nan=rewind", "pretrain.loss_chunk_rows=64"), None, id="used in finetuning too"),
        pytest.param(("finetune.lr=0.01",), None, id="not of pretraining"),
    ],
)
def test_settings_of_pretraining_beside_given_weights_are_said_to_train_nothing(
    cells: dict[str, RunDirectory],
    asked: tuple[str, ...],
    said: str | None,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    store, weights = RunStore(cells["full"].path.parent), tmp_path / "as an earlier version wrote it.pth"
    file = load_weights(cells["full"].trunk_path)
    own = cells["full"].spec.config.pretrain
    del file.metadata["spec"]["config"]["pretrain"]["initial_context"]
    save_weights(weights, file)
    spec = small_spec(*asked, freeze_llm=True, skip_pretrain=True, pretrained_model_path=str(weights))
    read_inputs(spec, store, store.root.parent / "cache")
    told = [record.getMessage() for record in caplog.records if "trains nothing" in record.getMessage()]
    name = str(said).partition("=")[0].removeprefix("pretrain.")
    wanted = [
        f"--set {said} trains nothing: these weights were pretrained with pretrain.{name}={getattr(own, name, None)}. "
        "The run counts as another experiment: drop it"
    ]
    assert told == (wanted if said else [])


@pytest.mark.parametrize("spec", [None, "abc", [], {"config": 7}, {"spec_version": 99}])
def test_weights_that_do_not_tell_their_pretraining_are_taken_without_a_word(
    cells: dict[str, RunDirectory], spec: Any
) -> None:
    file = load_weights(cells["full"].trunk_path)
    file.metadata["spec"] = spec
    assert _unused_settings(small_spec("pretrain.adamw_lr=0.5"), file) is None


def test_what_a_recipe_brings_is_not_taken_for_what_was_asked_for(cells: dict[str, RunDirectory]) -> None:
    file = load_weights(cells["full"].trunk_path)
    file.metadata["spec"] = small_spec("recipe=gpt2", "pretrain.adamw_lr=0.5").to_dict()
    assert _unused_settings(small_spec("recipe=gpt2"), file) is None


def test_unusable_data_is_refused_before_anything_is_written(cells: dict[str, RunDirectory], tmp_path: Path) -> None:
    root = cells["full"].path.parent
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    assert "empty.txt" in refused({"pretrain_text": str(empty), "seed": 3}, (), root, DataError)
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"sentenceId": "a", "sentenceTokens": ["A"], "verbEntries": {}}\n{oops\n')
    assert "broken.jsonl:2" in refused({"qa_data": str(broken), "seed": 3}, (), root, DataError)
    assert "training questions" in refused({"finetune_samples": 10**6}, (), root, UsageError)
    assert "sequence_length" in refused({"layout": "echo"}, ("model.sequence_length=16",), root, DataError)


def test_pretraining_alone_finishes_and_is_listed(tmp_path: Path) -> None:
    run, result = run_small(tmp_path / "runs", skip_finetune=True)
    assert result.final_validation_f1 is None and result.condition == "pretrain-only"
    assert run.is_finished and result.pretraining is not None
    loss = result.pretraining["test"]
    assert loss["perplexity"] == pytest.approx(np.exp(loss["nats_per_token"]))
    assert result.parameters is not None and result.parameters["trainable"] == result.parameters["total"]


def test_ctrl_c_saves_and_exits_130(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "emergence.cli", "run", "--config-name", "debug", "--data", "microworld"]
    words += ["--runs-dir", str(tmp_path / "runs"), *(part for value in MICRO for part in ("--set", value))]
    words += ["--set", "pretrain.samples_per_epoch=100000", "--set", "pretrain.max_passes=1000"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stderr is not None
    seen = ""
    while "pretraining:" not in seen:
        line = process.stderr.readline()
        assert line, seen
        seen += line
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130, seen + rest
    assert "the same command" in rest and "Traceback" not in rest
    assert list((tmp_path / "runs").glob("*/checkpoint/*.pth"))


def test_role_crossed_pairs_are_put_to_every_read_out(cells: dict[str, RunDirectory]) -> None:
    for cell, run in cells.items():
        found = load_result(run.stats_path).minimal_pairs
        assert found is not None
        wanted = {"headline", "words_left"} | ({"bilinear"} if "frozen" in cell else set())
        assert set(found) == wanted
        assert all(scores["n_pairs"] + scores["n_incomplete"] == 10 for scores in found.values())
        assert "both right of" in describe_result(load_result(run.stats_path), run.path.parent)


def test_probes_that_were_begun_with_other_marks_do_not_go_on(tmp_path: Path) -> None:
    """As a frozen run of a version that took a newline and a quotation mark whatever the text held."""
    spec, store = small_spec(freeze_llm=True), RunStore(tmp_path / "runs")

    def probed() -> bool:
        return any('"probe"' in file.read_text() for file in tmp_path.glob("runs/*/history.jsonl"))

    with pytest.raises(StopRequested):
        run_experiment(spec, store, cache_dir=tmp_path / "cache", should_stop=probed)
    (run,) = store.runs()
    data = run.read_data()
    assert data["marks"]["separator"]["text"] == "."
    del data["marks"]
    write_json_atomic(run.path / "data.json", seal(data))
    with pytest.raises(RunDirectoryError, match=r"begun with the marks .* --fresh"):
        run_experiment(spec, store, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("counts", [[1] * 10, ["a"] * 384, [-1] * 384, [0] * 384, [[1]] * 384])
def test_token_counts_that_are_none_are_refused(counts: list, cells: dict[str, RunDirectory], tmp_path: Path) -> None:
    weights = load_weights(cells["full"].trunk_path)
    rows = weights.vocab_rows
    weights.metadata["token_counts"] = (counts * rows)[:rows] if len(counts) == 384 else counts
    save_weights(tmp_path / "given.pth", weights)
    flags = {"skip_pretrain": True, "pretrained_model_path": str(tmp_path / "given.pth"), "freeze_llm": True}
    with pytest.raises(WeightsError, match="token counts are not"):
        run_experiment(small_spec(**flags), RunStore(tmp_path / "runs"), cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "runs").glob("*QA*"))
