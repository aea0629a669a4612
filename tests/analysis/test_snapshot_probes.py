"""Probing the snapshots of a micro run: complete, resumable to the bit, and refused in one line where it cannot be."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from emergence.analysis import snapshot_probes
from emergence.analysis.emergence_curve import emergence_curves
from emergence.analysis.snapshot_inputs import SnapshotOptions, find_run, parse_layers, prepare, tasks_of, timeline_of
from emergence.analysis.snapshot_probes import CELLS_FOLDER, probe_snapshots
from emergence.analysis.snapshot_results import ARRAYS_FILE, JSON_FILE, RESULT_FOLDER, SCORES, read_result
from emergence.cli import app
from emergence.errors import UsageError
from emergence.experiment.store import RunDirectory
from emergence.training.recording import StopRequested
from tests.experiment.worlds import run_small

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
    return {name: (folder / name).read_bytes() for name in (JSON_FILE, ARRAYS_FILE)}


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
    assert result.path_of_training[-1].loss["nats_per_token"] < result.path_of_training[0].loss["nats_per_token"]
    assert result.settings["train_questions"] == 20 < result.settings["train_questions_available"]
    assert any("20 of" in note for note in result.notes)
    final = result.snapshots[-2]
    for score in SCORES:
        values = final.scores["linear"][score]
        assert values.shape == (len(result.ids),)
        assert result.estimates[final.name]["linear"][score].point == pytest.approx(float(values.mean()))
        gain = result.differences["initial"][final.name]["linear"][score]["difference"]["point"]
        assert gain == pytest.approx(float((values - result.snapshots[0].scores["linear"][score]).mean()))
    layers = final.probes["linear"]["validation_f1_by_layer"]
    assert layers[str(final.probes["linear"]["layer"])] == max(layers.values())
    (curve,) = emergence_curves([read_result(tmp_path)], n_boot=50, n_draws=19)
    assert curve.verdict.verdict == "undetermined" and len(curve.points) == len(steps)
    assert run.verify_manifest() == []


def test_random_trunks_do_not_start_as_the_identity(world: tuple[RunDirectory, Path]) -> None:
    run, cache = world
    work = prepare(timeline_of(run), options(cache, random_trunks=2))
    drawn = [task.build().state_dict() for task in tasks_of(work) if task.kind == "random"]
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
    cells = sorted((tmp_path / "cut" / CELLS_FOLDER).iterdir())
    assert len(cells) == 1 and not (tmp_path / "cut" / JSON_FILE).exists()
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

    def probe(work: object, task: snapshot_probes.Task, *rest: object) -> object:
        probed.append(task.name)
        return before(work, task, *rest)

    monkeypatch.setattr(snapshot_probes, "_probe", probe)
    return probed


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
    assert (copy / RESULT_FOLDER / JSON_FILE).is_file()


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
