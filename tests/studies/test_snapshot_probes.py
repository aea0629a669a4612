"""Probing the snapshots of a micro run: complete, resumable to the bit, and refused in one line where it cannot be."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from emergence.cli import app
from emergence.data.roles import ROLES
from emergence.errors import UsageError
from emergence.experiment.result import load_result
from emergence.experiment.store import RunDirectory, find_run
from emergence.files import to_json
from emergence.findings.snapshot_curve import emergence_curves
from emergence.spec.flags import parse_layers
from emergence.studies.snapshots import probes as snapshot_probes
from emergence.studies.snapshots.inputs import _probed_as_today, prepare, timeline_of, trunks_to_probe
from emergence.studies.snapshots.options import SnapshotOptions
from emergence.studies.snapshots.probes import probe_snapshots
from emergence.studies.snapshots.result import (
    FILES,
    SCORES,
    ProbedSnapshot,
    read_result,
    summarise,
)
from emergence.training.recording import StopRequested
from tests.planted_runs import gradual, planted_snapshots
from tests.small_runs import run_small

SETTINGS = ("pretrain.step_snapshots=3", "probe.ridges=[0.1]", "probe.max_iterations=5")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, Path]:
    """A pretrained micro run, and its cache."""
    root = tmp_path_factory.mktemp("snapshots")
    run, _ = run_small(root / "runs", *SETTINGS, cache=root / "cache", skip_finetune=True)
    return run, root / "cache"


def options(cache: Path, **more: object) -> SnapshotOptions:
    return SnapshotOptions(**{"families": ("linear",), "samples": 20, "cache_dir": cache, "device": "cpu", **more})  # type: ignore[arg-type]


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in (FILES.json_file, FILES.arrays_file)}


def test_every_snapshot_is_probed_on_the_same_questions_and_text(
    world: tuple[RunDirectory, Path], tmp_path: Path
) -> None:
    run, cache = world
    result = probe_snapshots(run.path, options(cache), out_dir=tmp_path)
    steps = [snapshot.step for snapshot in result.path_of_training]
    assert steps == sorted(set(steps)) and steps[0] == 0 and len(steps) >= 4
    assert {s.kind for s in result.snapshots} == {"initial", "trained", "random"}
    assert result.path_of_training[-1].name == "pretrained"
    assert len({s.loss["n_tokens"] for s in result.snapshots}) == 1
    # Of the weights as they were saved, whatever rows are drawn anew for the probes.
    whole = probe_snapshots(run.path, options(cache, every=100, loss_tokens=0), out_dir=tmp_path / "whole")
    own = (load_result(run.stats_path).pretraining or {})["test"]["nats_per_token"]
    assert whole.path_of_training[-1].loss["nats_per_token"] == pytest.approx(own, rel=1e-6)
    assert result.path_of_training[-1].loss["nats_per_token"] < result.path_of_training[0].loss["nats_per_token"]
    assert result.settings["train_questions"] == 20 < result.settings["train_questions_available"]
    assert any("20 of" in note for note in result.notes)
    # The micro-world's ids end with the gold role; who falls is the one known disagreement.
    told = [question.rpartition("-")[2] for question in result.ids]
    assert len(result.roles) == len(result.ids) and set(result.roles) <= set(ROLES)
    assert {pair for pair in zip(told, result.roles, strict=True) if pair[0] != pair[1]} <= {("agent", "patient")}
    final = result.snapshots[-2]
    for score in SCORES:
        values = final.scores["linear"][score]
        assert values.shape == (len(result.ids),)
        assert result.estimates[final.name]["linear"][score].point == pytest.approx(float(np.nanmean(values)))
        gain = result.differences["initial"][final.name]["linear"][score]["difference"]["point"]
        assert gain == pytest.approx(float(np.nanmean(values - result.snapshots[0].scores["linear"][score])))
    layers = final.probes["linear"]["validation_f1_by_layer"]
    assert layers[str(final.probes["linear"]["layer"])] == max(layers.values())
    curve, added = emergence_curves([read_result(tmp_path)], n_boot=50, n_draws=19)
    words = result.no_model["words_f1_tokens"]
    assert 0 < words < 1 and f"{words:.3f} (words and positions, to which the states add)" in result.text()
    available = f"{result.settings['train_questions_available']:,}"
    assert f"20 of {available} training questions, 1 seed" in curve.text()
    assert added.family == "gain_linear" and added.no_model == 0.0
    assert "what the states add to words and positions, linear probe" in result.text()
    gains = final.scores["gain_linear"]["f1_tokens"]
    assert added.points[-1].scores["f1_tokens"].point == pytest.approx(float(gains.mean())) and np.abs(gains).max() <= 1
    of_random = result.snapshots[-1].scores["gain_linear"]["f1_tokens"]
    assert added.floor["f1_tokens"].point == pytest.approx(float(of_random.mean()))
    assert curve.verdict.verdict == "undetermined" and len(curve.points) == len(steps)
    assert run.verify_manifest() == []


def test_random_trunks_do_not_start_as_the_identity(world: tuple[RunDirectory, Path]) -> None:
    run, cache = world
    work = prepare(timeline_of(run), options(cache, random_trunks=2))
    drawn = [task.build().state_dict() for task in trunks_to_probe(work) if task.kind == "random"]
    outputs = [[weight for name, weight in trunk.items() if name.endswith("output.weight")] for trunk in drawn]
    assert len(outputs) == 2 and all(bool(weight.abs().sum() > 0) for trunk in outputs for weight in trunk)
    assert not any(bool((a == b).all()) for a, b in zip(*outputs, strict=True)), "different draws"


def test_an_interrupted_call_goes_on_and_ends_with_the_same_bits(
    world: tuple[RunDirectory, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, cache = world
    few = options(cache, layers=(1,), random_trunks=0)
    probe_snapshots(run.path, few, out_dir=tmp_path / "whole")
    asked = iter([False, False, True])
    with pytest.raises(StopRequested, match="same command goes on"):
        probe_snapshots(run.path, few, out_dir=tmp_path / "cut", should_stop=lambda: next(asked))
    cells = sorted((tmp_path / "cut" / "cells").iterdir())
    assert len(cells) == 1 and not (tmp_path / "cut" / FILES.json_file).exists()
    damaged = shutil.copy(cells[0], tmp_path / "damaged.json")
    probed = counted(monkeypatch)
    probe_snapshots(run.path, few, out_dir=tmp_path / "cut")
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    n = len(read_result(tmp_path / "cut").snapshots)
    assert len(probed) == n - 1
    cells[0].write_text(Path(damaged).read_text()[:-20])
    probe_snapshots(run.path, few, out_dir=tmp_path / "cut")
    assert len(probed) == n  # the damaged one alone, again
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the snapshots that are really probed."""
    probed: list[str] = []
    before: Callable[..., object] = snapshot_probes._probe

    def probe(work: object, asked: snapshot_probes.TrunkToProbe, *rest: object) -> object:
        probed.append(asked.name)
        return before(work, asked, *rest)

    monkeypatch.setattr(snapshot_probes, "_probe", probe)
    return probed


def test_old_runs_are_probed_as_today(world: tuple[RunDirectory, Path]) -> None:
    """What states add is measured whatever the run did itself; the golds are the run's, if it probed at all."""
    run, _ = world
    probe = dataclasses.replace(run.spec.config.probe, conditional=False, train_gold="first")
    old = dataclasses.replace(run.spec, config=dataclasses.replace(run.spec.config, probe=probe))
    for skipped, gold in ((False, "first"), (True, "marginal")):
        found = _probed_as_today(dataclasses.replace(old, skip_finetune=skipped)).probe
        assert (found.conditional, found.train_gold) == (True, gold)


def test_a_cell_of_another_snapshot_is_not_taken(
    world: tuple[RunDirectory, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, cache = world
    first = probe_snapshots(run.path, options(cache), out_dir=tmp_path)
    one, other, *_ = sorted((tmp_path / "cells").glob("*.json"))
    mine, theirs = one.read_bytes(), other.read_bytes()
    one.write_bytes(theirs), other.write_bytes(mine)
    second = probe_snapshots(run.path, options(cache), out_dir=tmp_path)
    assert second.to_dict() == first.to_dict() and "another snapshot's" in caplog.text
    assert (one.read_bytes(), other.read_bytes()) == (mine, theirs)


def test_a_missing_start_is_drawn_again_and_every_second_keeps_the_ends(
    world: tuple[RunDirectory, Path], tmp_path: Path
) -> None:
    run, cache = world
    copy = tmp_path / run.run_id
    shutil.copytree(run.path, copy)
    (copy / "pretrain_step_0.pth").unlink()
    few = {"every": 2, "layers": (1,), "random_trunks": 0}
    result = probe_snapshots(copy, options(cache, **few))
    names = [snapshot.name for snapshot in result.snapshots]
    assert names[0] == "initial" and names[-1] == "pretrained" and len(names) == 3
    assert any("drawn again" in note for note in result.notes)
    assert "random" not in result.differences
    again = probe_snapshots(run.path, options(cache, **few), out_dir=tmp_path / "out")
    assert again.snapshots[0].name == "pretrain_step_0"
    assert np.array_equal(again.snapshots[0].scores["linear"]["em"], result.snapshots[0].scores["linear"]["em"])
    assert (copy / FILES.folder / FILES.json_file).is_file()


def test_what_cannot_be_probed_is_refused_in_one_line(world: tuple[RunDirectory, Path], tmp_path: Path) -> None:
    run, cache = world
    copy = tmp_path / run.run_id
    shutil.copytree(run.path, copy)
    with pytest.raises(UsageError, match="layers are 0"):
        probe_snapshots(copy, options(cache, layers=(7,)))
    with pytest.raises(UsageError, match="no such"):
        probe_snapshots(copy, options(cache, qa_data=str(tmp_path / "nowhere")))
    for path in copy.glob("pretrain_*.pth"):
        path.unlink()
    with pytest.raises(UsageError, match="no pretraining snapshots"):
        probe_snapshots(copy, options(cache))
    (copy / "finetune_stats.json").unlink()
    with pytest.raises(UsageError, match="not finished"):
        probe_snapshots(copy, options(cache))
    with pytest.raises(UsageError, match="no such folder"):
        find_run("nowhere", tmp_path)
    with pytest.raises(UsageError, match="whole numbers"):
        parse_layers("one")
    for bad in ({"every": 0}, {"families": ("cubic",)}, {"families": ()}, {"samples": -1}):
        with pytest.raises(UsageError):
            options(cache, **bad)


def test_the_command(world: tuple[RunDirectory, Path], tmp_path: Path) -> None:
    run, cache = world
    root = tmp_path / "runs"
    shutil.copytree(run.path, root / run.run_id)
    shutil.copytree(cache, root / ".cache")
    arguments = ["probe-snapshots", run.run_id, "--runs-dir", str(root), "--families", "linear", "--layers", "1"]
    told = CliRunner().invoke(app, [*arguments, "--every", "9", "--random-trunks", "0", "--finetune-samples", "10"])
    assert told.exit_code == 0, told.output
    assert "linear probe" in told.output and "pretrained" in told.output
    assert f"kept in {root / run.run_id / FILES.folder}; emergence curves and" in told.output


def test_a_score_that_some_questions_lack_counts_the_others_and_old_results_stay_readable(tmp_path: Path) -> None:
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
    old = planted_snapshots(gradual)
    FILES.save(old, tmp_path / "old")
    before = read_result(tmp_path / "old")
    assert "argument_selection" not in before.snapshots[0].scores["linear"]
    rng = np.random.default_rng(0)
    lacks = np.arange(len(old.ids)) % 4 == 3
    snapshots = []
    for snapshot in old.snapshots:
        chosen = np.where(lacks, np.nan, rng.integers(0, 2, len(lacks)).astype(float))
        scores = {"linear": {**snapshot.scores["linear"], "argument_selection": chosen}}
        kept = dataclasses.replace(snapshot, scores=scores)
        snapshots.append(ProbedSnapshot.from_dict(json.loads(to_json(kept))))
    found = summarise(snapshots, old.clusters, n_boot=100, level=0.95)
    new = dataclasses.replace(old, snapshots=tuple(snapshots), **found)
    FILES.save(new, tmp_path / "new")
    again = read_result(tmp_path / "new")
    for result in (new, again):
        name, values = result.snapshots[1].name, result.snapshots[1].scores["linear"]["argument_selection"]
        np.testing.assert_array_equal(np.isnan(values), lacks)
        estimate = result.estimates[name]["linear"]["argument_selection"]
        assert estimate.point == pytest.approx(np.nanmean(values)) and estimate.n == (~lacks).sum()
        gain = result.differences["initial"][name]["linear"]["argument_selection"]
        assert gain["difference"]["n"] == (~lacks).sum() and gain["only_a"] is not None
        assert result.estimates[name]["linear"]["f1_tokens"] == old.estimates[name]["linear"]["f1_tokens"]
    mixed = summarise([before.snapshots[0], *snapshots[1:]], old.clusters, n_boot=100, level=0.95)
    assert "argument_selection" not in mixed["differences"]["initial"][snapshots[1].name]["linear"]
    assert len(emergence_curves([again], n_boot=50, n_draws=19)) == 1
