"""The revisions of a published model: planted damage is named, left out everywhere, and the rest makes a curve."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file

from emergence.commands.probe import ProbeRequest, probe_model, show_revisions
from emergence.errors import UsageError
from emergence.export.folder import write_export
from emergence.files import seal, sha256_file
from emergence.findings.collect import collect_results
from emergence.findings.curves import read_curves
from emergence.findings.revision_curve import revision_probes
from emergence.findings.table import build_table
from emergence.measures.conditional import WITH_WORDS
from emergence.model.huggingface.files import choose_revisions, list_revisions, progress_of
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.published import EXPORT_FILE, EXPORT_KIND
from emergence.studies.revisions.examine import examine_revisions
from emergence.studies.revisions.record import all_revisions, load_revisions, record_path, save_revisions
from emergence.studies.snapshots.options import SnapshotOptions
from emergence.studies.snapshots.probes import probe_snapshots
from emergence.training.context import Context
from tests.published_models import save_model
from tests.small_runs import MICRO, SMALL, run_small

STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
NAMES = [f"step{step}" for step in STEPS]


def write_history(root: Path) -> None:
    """Twelve revisions whose weights go a bent way, small enough for the loss to stay near that of guessing."""
    for i, end in enumerate("abc"):
        save_model(root.parent / end, "gpt_neox", seed=i)
    ends = [load_file(root.parent / end / "model.safetensors") for end in "abc"]
    for step in STEPS:
        t = float(np.log1p(step) / np.log1p(STEPS[-1]))
        mixed = {
            name: (0.1 * ((1 - t) * a + t * (1 - t) * ends[1][name] + t * t * ends[2][name])).contiguous()
            for name, a in ends[0].items()
        }
        shutil.copytree(root.parent / "a", root / f"step{step}")
        save_file(mixed, root / f"step{step}" / "model.safetensors", {"format": "pt"})


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("history") / "tiny-neox"
    root.mkdir()
    write_history(root)
    return root


def weights(root: Path, revision: str) -> Path:
    return root / revision / "model.safetensors"


@pytest.fixture(scope="module")
def damaged(history: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four kinds of damage: a copy, a missing shard, two exchanged ones, the final weights in place of step 0."""
    root = Path(shutil.copytree(history, tmp_path_factory.mktemp("damaged") / "tiny-neox"))
    shutil.copy(weights(history, "step8"), weights(root, "step2"))
    shutil.copy(weights(history, "step1000"), weights(root, "step0"))
    shutil.copy(weights(history, "step32"), weights(root, "step256"))
    shutil.copy(weights(history, "step256"), weights(root, "step32"))
    lost = root / "step128"
    (lost / "model.safetensors").unlink()
    shards = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (lost / "model.safetensors.index.json").write_text(json.dumps(shards))
    shutil.copy(weights(history, "step128"), lost / "model-00001-of-00002.safetensors")
    return root


def test_a_sound_history_has_no_suspects(history: Path) -> None:
    examined = examine_revisions(str(history), NAMES, Context())
    assert examined.suspects == {} and examined.sound == NAMES
    assert all(r.loss == pytest.approx(np.log(400), rel=0.1) for r in examined.revisions)


def test_planted_damage_is_named_and_nothing_else(damaged: Path) -> None:
    for with_loss in (True, False):
        suspects = examine_revisions(str(damaged), NAMES, Context(), with_loss=with_loss).suspects
        assert set(suspects) == {"step0", "step2", "step32", "step256", "step128"}
        assert suspects["step0"] == "it has the weights of step1000, byte for byte"
        assert suspects["step2"] == "it has the weights of step8, byte for byte"
        assert "exchanged" in suspects["step32"] and "exchanged" in suspects["step256"]
        assert "a part of its weights is missing" in suspects["step128"]


def test_a_group_of_another_step_is_named(history: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(history, tmp_path / "tiny-neox"))
    mixed, last = load_file(weights(root, "step16")), load_file(weights(root, "step1000"))
    mixed |= {name: tensor for name, tensor in last.items() if ".layers.1." in name}
    save_file(mixed, weights(root, "step16"), {"format": "pt"})
    suspects = examine_revisions(str(root), NAMES, Context(), with_loss=False).suspects
    assert suspects == {"step16": "1 of its 5 groups of tensors are those of step1000"}


def test_one_revision_that_cannot_be_loaded_ends_nothing(history: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(history, tmp_path / "tiny-neox"))
    nan = {name: tensor * float("nan") for name, tensor in load_file(weights(root, "step4")).items()}
    save_file(nan, weights(root, "step4"), {"format": "pt"})
    (root / "step8" / "tokenizer.json").write_text("{")
    (root / "step16" / "config.json").write_text('{"model_type": "t5", "is_encoder_decoder": true}')
    suspects = examine_revisions(str(root), ["step2", "step4", "step8", "step16"], Context()).suspects
    assert set(suspects) == {"step4", "step8", "step16"}
    assert all(reason.startswith("it cannot be read: ") for reason in suspects.values())


def test_an_exports_record_tells_exchanged_and_copied_steps(history: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(history, tmp_path / "tiny-neox"))
    for name in NAMES[:5]:
        files = {"model.safetensors": sha256_file(weights(root, name))}
        record = {"kind": EXPORT_KIND, "step": int(name.removeprefix("step")), "tokens_seen": 0, "files": files}
        (root / name / EXPORT_FILE).write_text(json.dumps(seal(record)))
    shutil.copy(weights(root, "step8"), weights(root, "step4"))
    for a, b in (("step1", "moved"), ("step2", "step1"), ("moved", "step2")):
        (root / a).rename(root / b)
    suspects = examine_revisions(str(root), NAMES[:5], Context(), with_loss=False).suspects
    assert suspects == {
        "step1": f"its record ({EXPORT_FILE}) is of step 2",
        "step2": f"its record ({EXPORT_FILE}) is of step 1",
        "step4": f"its model.safetensors is not the one that its record ({EXPORT_FILE}) was written with",
    }


def test_losses_are_measured_once(history: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from emergence.studies.revisions import examine

    show_revisions(str(history), "step0,step8", tmp_path, with_loss=True, precision="fp32", as_json=False)
    first = load_revisions(tmp_path, str(history))
    assert first is not None and [r.name for r in first.revisions] == ["step0", "step8"]
    loads: list[str] = []
    load = examine.load_model
    monkeypatch.setattr(examine, "load_model", lambda *a, **k: loads.append(k["files"].revision) or load(*a, **k))
    show_revisions(str(history), "step0,step8,step64", tmp_path, with_loss=True, precision="fp32", as_json=True)
    assert loads == ["step64"]


def test_a_damaged_record_is_named_and_not_read(history: Path, tmp_path: Path, caplog: Any) -> None:
    show_revisions(str(history), "step0,step8", tmp_path, with_loss=False, precision="fp32", as_json=False)
    path = record_path(tmp_path, str(history))
    path.write_text(path.read_text().replace("step8", "step9"))
    assert all_revisions(tmp_path) == [] and "is not read" in caplog.text


def test_which_revisions_are_meant(history: Path) -> None:
    there = list_revisions(str(history))
    assert there == NAMES
    assert choose_revisions("all", there) == NAMES
    assert choose_revisions("step8,step0", there) == ["step0", "step8"]
    assert choose_revisions("log3", there) == ["step0", "step32", "step1000"]
    assert choose_revisions("log99", there) == NAMES
    for asked in ("step3", "log1"):
        with pytest.raises(UsageError, match="--revisions"):
            choose_revisions(asked, there)
    with pytest.raises(UsageError, match="has no revisions that name a step"):
        list_revisions(str(history / "step0"))
    assert progress_of("step1000", "EleutherAI/pythia-70m")["tokens_seen"] == 2_097_152_000
    assert progress_of("stage1-step1000-tokens5B") == {"steps": 1000, "tokens_seen": 5_000_000_000}
    assert progress_of("main") == progress_of(None) == {}


# A sweep --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(damaged: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The runs of a sweep, and what was printed."""
    values = [s for s in MICRO if not s.startswith(("model.", "pretrain."))]
    values += ['probe.families=["linear"]', 'probe.layers="0,2"', "probe.validity=false"]
    spec = ExperimentSpec.from_flags(
        config_name="debug", data="microworld", set_values=values, model=str(damaged), freeze_llm=True
    )
    request = ProbeRequest(spec=spec, revisions="step0,step2,step4,step8,step1000", twins=1)
    runs, printed = tmp_path_factory.mktemp("swept") / "runs", io.StringIO()
    with contextlib.redirect_stdout(printed):
        probe_model(request, runs)
    return runs, printed.getvalue()


def test_a_sweep_leaves_suspects_out_by_name_and_shows_the_curve(swept: tuple[Path, str], damaged: Path) -> None:
    runs, printed = swept
    probed = collect_results(runs).found
    revisions = [item.spec.revision for item in probed if item.spec and not item.spec.random_baseline]
    assert sorted(revisions, key=str) == sorted(["step4", "step8", "step1000"], key=str)
    table = build_table(runs)
    assert len([row for row in table.rows if row.mode == "frozen" and row.was_run]) == 3
    assert {row.model for row in table.rows} == {"tiny-neox"}
    notes = "\n".join(table.notes())
    for name in ("step0", "step2"):
        assert (
            f"Not in the table (suspect): tiny-neox {name}: revision {name} of {damaged}: it has the weights" in notes
        )
    assert "tiny-neox, revisions, linear probe: 3 snapshots" in printed
    curves = read_curves(runs, n_boot=100, n_draws=50)
    assert [curve.points[-1].name for curve in curves.snapshots] == ["step1000"] * 2
    assert {name for name, _ in curves.problems} == {"tiny-neox step0", "tiny-neox step2"}


def test_points_of_the_curve_are_the_means_of_the_runs(swept: tuple[Path, str]) -> None:
    runs, _ = swept
    found = collect_results(runs).found
    (probes,) = revision_probes(found)
    assert [s.name for s in probes.snapshots] == ["step4", "step8", "step1000", "random_0"]
    for snapshot in probes.path_of_training:
        item = next(i for i in found if i.spec and i.spec.revision == snapshot.name and not i.spec.random_baseline)
        stored = item.result.estimate("test", "f1_tokens")
        assert stored is not None
        assert snapshot.scores["linear"]["f1_tokens"].mean() == pytest.approx(stored.point, abs=1e-12)
        gain = item.result.probes["conditional"][WITH_WORDS["left"].format(family="linear")]["gain"]  # type: ignore
        assert snapshot.scores["gain_linear"]["f1_tokens"].mean() == pytest.approx(gain["f1_tokens"]["point"], abs=1e-9)
        assert snapshot.step == int(snapshot.name.removeprefix("step"))


def test_a_revision_that_becomes_suspect_later_is_left_out_of_what_was_probed(
    tmp_path: Path, swept: tuple[Path, str]
) -> None:
    runs = Path(shutil.copytree(swept[0], tmp_path / "runs"))
    (examined,) = all_revisions(runs)
    judged = [replace(r, suspect="of another run" if r.name == "step4" else r.suspect) for r in examined.revisions]
    save_revisions(runs, replace(examined, revisions=tuple(judged)))
    collected = collect_results(runs)
    assert "step4" not in [item.spec.revision for item in collected.found if item.spec]
    reasons = {item.reason for item in collected.skipped if (runs / item.name).is_dir()}
    assert reasons == {f"revision step4 of {examined.model}: of another run"}


# A pretraining of our own ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_revisions_of_our_own_pretraining_are_its_snapshot_curve_and_damage_is_named(tmp_path: Path) -> None:
    """Twelve exported steps; the same with four kinds of damage planted, of which the sound ones keep their points."""
    extra = ("pretrain.precision=fp32", "probe.validity=false", 'probe.families=["linear"]', "evaluate.minimal_pairs=0")
    longer = ("samples_per_epoch=4096", "max_passes=1000.0", "step_snapshots=12", "checkpoint_every_steps=1000")
    pretraining = tuple(f"pretrain.{setting}" for setting in longer)
    own, _ = run_small(tmp_path / "own", *extra, *pretraining, cache=tmp_path / "cache", skip_finetune=True)
    whole = tmp_path / "whole"
    write_export(own, whole, snapshots=True)
    there = list_revisions(str(whole))
    names = choose_revisions("log12", there)
    assert len(names) == 12 and names[0] == "step0"
    assert examine_revisions(str(whole), names, Context()).suspects == {}

    damaged = Path(shutil.copytree(whole, tmp_path / "damaged"))
    shutil.copy(weights(whole, names[-1]), weights(damaged, "step0"))
    shutil.copy(weights(whole, names[7]), weights(damaged, names[2]))
    for here, other in ((6, 9), (9, 6)):
        shutil.copy(weights(whole, names[other]), weights(damaged, names[here]))
    weights(damaged, names[8]).rename(damaged / names[8] / "model-00001-of-00002.safetensors")
    shards = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (damaged / names[8] / "model.safetensors.index.json").write_text(json.dumps(shards))

    values = [s for s in SMALL if not s.startswith(("model.", "pretrain."))]
    spec = ExperimentSpec.from_flags(
        config_name="debug", data="microworld", set_values=[*values, *extra, "probe.features=fp32"],
        model=str(damaged), freeze_llm=True,
    )  # fmt: skip
    probe_model(ProbeRequest(spec=spec, revisions=",".join(names), twins=0), tmp_path / "runs")
    collected = collect_results(tmp_path / "runs")
    planted = {names[i] for i in (0, 2, 6, 8, 9)}
    assert {item.name for item in collected.skipped} == {f"damaged {name}" for name in planted}
    (probed,) = revision_probes(collected.found)
    assert {snapshot.name for snapshot in probed.snapshots} == set(names) - planted

    options = SnapshotOptions(samples=0, random_trunks=0, cache_dir=tmp_path / "cache", families=("linear",))
    native = {snapshot.step: snapshot for snapshot in probe_snapshots(own.path, options).path_of_training}
    for snapshot in probed.path_of_training:
        twin = native[snapshot.step]
        assert snapshot.tokens == twin.tokens and snapshot.probes["linear"]["layer"] == twin.probes["linear"]["layer"]
        for readout in ("linear", "gain_linear"):
            for score, column in twin.scores[readout].items():
                # The fits stop within a few parts in a million of each other; the answers are the same.
                loose = 0.0 if score in ("f1_tokens", "em") else 1e-3
                name = f"{snapshot.name}, {readout}, {score}"
                np.testing.assert_allclose(snapshot.scores[readout][score], column, 1e-6, loose, err_msg=name)
