"""Units of a small run: what is stored is what its passes give, resumable to the byte, and refused in one line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from emergence.answering.evaluate import score_logits
from emergence.answering.features import predict_readouts
from emergence.answering.probe_fitting import new_probe, reader
from emergence.cli import app
from emergence.data.microworld.config import MicroWorldConfig
from emergence.data.microworld.generate import generate_qa
from emergence.errors import DataError, RunDirectoryError, UsageError
from emergence.experiment.run_directory import RunDirectory
from emergence.files import read_sealed, seal, write_json_atomic
from emergence.measures.bootstrap import Estimate
from emergence.measures.selectivity import widened
from emergence.model.unit_hooks import units_of
from emergence.studies.units import inputs, measure
from emergence.studies.units.inputs import Work, prepare_run
from emergence.studies.units.measure import UnitStudy
from emergence.studies.units.options import UnitOptions, parse_kinds
from emergence.studies.units.passes import Bench, cut
from emergence.studies.units.result import COUNTS, FILES, SHARES, SHUFFLED, read_result
from emergence.training.context import Context
from emergence.training.recording import StopRequested
from tests.published_models import save_model
from tests.small_runs import run_micro

CPU = torch.device("cpu")
DATA = (
    "model.n_layers=2",
    "microworld.test_documents=8",
    "microworld.validation_documents=8",
    "evaluate.minimal_pairs=4",
    "pretrain.step_snapshots=2",
)
#: What a stored result has beside its content.
_SEALED = ("arrays", "sha256")
OPTIONS = UnitOptions(questions=40, draws=1, snapshots=True)


@pytest.fixture(scope="module", autouse=True)
def few_resamples_and_shuffles() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "N_BOOT", 50)
        patch.setattr(measure, "_SHUFFLES", 2)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return run_micro(tmp_path_factory.mktemp("units"), *DATA, skip_finetune=True)


@pytest.fixture(scope="module")
def work(run: RunDirectory) -> Work:
    return prepare_run(run, OPTIONS, CPU)


def bench_of(work: Work) -> Bench:
    loaded = work.trunks[0].load(CPU)
    probe = new_probe("bilinear", 8, 4, 0).requires_grad_(False)
    return Bench(work, loaded, reader(probe))


def test_the_whole_trunk_scores_as_any_other_reader_scores_it(work: Work) -> None:
    bench = bench_of(work)
    whole = bench.outcome(beside=True)
    model = bench.loaded.model
    logits = predict_readouts(model, {"": (2, bench.readout)}, work.b.encoded, Context())[""]
    scores = score_logits(logits, work.b.encoded, work.b.max_answer_words)
    np.testing.assert_allclose(whole.f1, scores.f1_tokens)
    assert whole.pairs is not None and len(whole.pairs) == 4
    assert 3 < whole.loss < 8  # of 320 tokens, hardly trained


def test_means_are_of_half_a_by_class_and_cutting_runs_once(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = bench_of(work)
    (read,) = bench.read([units_of(bench.loaded.model, "mlp")])
    assert read.sizes.shape == (64,) and read.attributions.shape == (len(work.a.encoded), 64)
    assert [mean.shape for mean in read.means] == [(4, 32)] * 2
    first = work.a.encoded.subset([0])
    seen: list[torch.Tensor] = []
    hook = read.units.modules[0].register_forward_pre_hook(lambda module, args: seen.append(args[0][0]))
    only = replace(work, a=replace(work.a, encoded=first, labels=work.a.labels[:1]))
    alone = replace(bench, work=only)
    (again,) = alone.read([read.units])
    hook.remove()
    begin = int(first.question_ranges[0, 1]) + 1
    np.testing.assert_allclose(again.means[0][0], seen[0][:begin].mean(0), rtol=1e-4, atol=1e-6)
    some = cut(read, np.array([3, 40]))
    once = bench.outcome(some)
    of_patients = bench.outcome(some, role=1)  # fewer questions, with the same scores
    np.testing.assert_allclose(of_patients.f1, once.f1[work.b.labels == 1])
    monkeypatch.setattr(bench.loaded.model, "hidden_states", None)
    assert bench.outcome(cut(read, np.array([40, 3]))) is once
    with pytest.raises(TypeError):
        bench.outcome(cut(read, np.array([3, 40]), "zero"))


def test_a_unit_that_the_answer_hangs_on_is_found_and_cut(work: Work) -> None:
    """The probe reads one head alone: all that is lost is lost with that head, and attribution names it."""
    bench = bench_of(work)
    model = bench.loaded.model
    units = units_of(model, "head")
    for block in range(2):
        for kind in ("mlp", "head"):
            layer = model.output_layer(block, kind)  # type: ignore[arg-type]
            with torch.no_grad():
                layer.weight.zero_()
                if (block, kind) == (1, "head"):
                    layer.weight[:, 4:] = 3 * torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    (read,) = bench.read([units])
    assert np.abs(read.attributions).mean(axis=0).argmax() == 3 and (read.attributions[:, :3] == 0).all()
    whole = bench.outcome()
    assert (bench.outcome(cut(read, np.array([0, 1, 2]))).log_p == whole.log_p).all()
    assert (bench.outcome(cut(read, np.array([3]))).log_p != whole.log_p).any()


@pytest.fixture(scope="module")
def stored(work: Work, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    UnitStudy({"name": "x", "kind": "run"}, replace(work, trunks=work.trunks[:3])).run(folder)
    return folder


def test_a_cut_study_goes_on_and_ends_with_the_same_bytes(work: Work, stored: Path, tmp_path: Path) -> None:
    two = replace(work, trunks=work.trunks[1:3])
    with pytest.raises(StopRequested, match="stopped after random"):
        UnitStudy({"name": "x", "kind": "run"}, two).run(
            tmp_path, should_stop=lambda: any((tmp_path / "cells").glob("*.json"))
        )
    UnitStudy({"name": "x", "kind": "run"}, two).run(tmp_path)
    cells = sorted((tmp_path / "cells").glob("*.json"))
    assert len(cells) == 2
    assert [(stored / "cells" / cell.name).read_bytes() for cell in cells] == [cell.read_bytes() for cell in cells]
    again = read_result(stored)
    assert again.to_dict() == {k: v for k, v in read_sealed(stored / FILES.json_file).items() if k not in _SEALED}


def test_what_is_stored(work: Work, stored: Path) -> None:
    result = read_result(stored)
    assert [t["kind"] for t in result.trunks] == ["trained", "random", *["trained"] * (len(result.trunks) - 2)]
    assert len(result.path_of_training) >= 2 and set(result.roles) >= {"agent", "patient"}
    for kind, n in (("mlp", 64), ("head", 4)):
        found = result.main["units"][kind]
        assert found["n_units"] == n and len(found["selectivity"]) == len(result.roles)
        cuts = {(row["cut"], row["share"], row["with"]) for row in found["ablation"]}
        assert {(name, share, "mean") for name in result.roles for share in SHARES} < cuts
        of_twin = {(row["cut"], row["share"]) for row in result.random["units"][kind]["ablation"]}
        assert (SHUFFLED, 0.02, "mean") in cuts and of_twin == {(name, 0.02) for name in (*result.roles, SHUFFLED)}
        assert all(set(row["effects"]) == set(result.roles) for row in found["ablation"])
        told = [row["participation"]["n"] for row in found["concentration"] if row["participation"]["n"] is not None]
        assert all(0 < value <= n for value in told)
        assert all(0 < row["matched_size"] < 10 for row in found["ablation"])
        later = result.trunks[2]["units"][kind]
        assert later["check"] is None and later["ablation"] == []  # the trend over training takes the counts alone
        assert len(result.successive(kind)) == len(result.roles) * (len(result.path_of_training) - 1)
    text = result.text()
    assert "random twin in brackets" in text and "rank correlation" in text and "over training, half" in text
    assert all(words in text for words in COUNTS.values())
    content = read_sealed(stored / FILES.json_file)
    content["trunks"][0]["units"]["mlp"]["concentration"][0]["half"]["n"] = 17.5
    write_json_atomic(stored / FILES.json_file, seal(content))
    with pytest.raises(RunDirectoryError, match="not those of its arrays"):
        read_result(stored)


def test_an_interval_counts_which_units_were_drawn() -> None:
    """Sets of units from one distribution are called different as often as promised, however sharp each effect is."""
    rng, called = np.random.default_rng(0), 0
    for _ in range(400):
        draws = rng.normal(scale=0.05, size=(7, 3))
        point = draws[0].mean() - rng.normal(scale=0.05)
        effect = widened(Estimate(point, point - 0.002, point + 0.002, "bca", 40, 30), draws.tolist())
        called += not effect.lo <= 0 <= effect.hi
    assert called / 400 < 0.08
    alone = widened(Estimate(0.1, 0.0, 0.2, "bca", 40, 30), [[0.4]])
    assert math.isnan(alone.lo) and math.isnan(alone.hi)


def test_by_command(run: RunDirectory) -> None:
    command = ["units", run.run_id, "--runs-dir", str(run.path.parent), "--kind", "head", "--questions", "40"]
    done = CliRunner().invoke(app, [*command, "--roles", "wh", "--draws", "2"])
    assert done.exit_code == 0, done.output
    assert "attention heads (4)" in done.output and "MLP neurons" not in done.output
    stored = json.loads((run.path / FILES.folder / "wh-head-q40-draws2" / FILES.json_file).read_text())
    assert stored["subject"]["n_params"] > 0 and stored["kind"].startswith("emergence-")
    assert [trunk["name"] for trunk in stored["trunks"]] == ["pretrained", "random"]


@pytest.mark.slow
def test_a_published_model_and_its_revisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = MicroWorldConfig(n_documents=1, n_qa_train_documents=3, n_qa_validation_documents=14, n_qa_test_documents=14)
    monkeypatch.setattr(inputs, "load_qa", lambda spec, cache_dir: generate_qa(few))
    command = ["units", "--runs-dir", str(tmp_path / "runs"), "--kind", "head", "--questions", "40", "--draws", "2"]
    for step in (0, 8):
        save_model(tmp_path / "model" / f"step{step}", seed=step)
    given = [str(tmp_path / "model"), "--data", "microworld", "--snapshots"]
    done = CliRunner().invoke(app, [*command, *given])
    assert done.exit_code == 0, done.output
    (stored,) = (tmp_path / "runs" / FILES.name).rglob(FILES.json_file)
    result = read_result(stored.parent)
    assert [(t["name"], t["kind"]) for t in result.trunks] == [
        ("step8", "trained"), ("random", "random"), ("step0", "initial")
    ]  # fmt: skip
    assert result.settings["data"]["name"] == "microworld" and result.subject["kind"] == "model"
    one = CliRunner().invoke(app, [*command, *given, "--revision", "step8"])
    assert isinstance(one.exception, UsageError) and "drop one of the two" in str(one.exception)


def test_what_cannot_be_examined_is_refused(run: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--kind neuron: choose from mlp, head"):
        parse_kinds(["neuron"])
    assert parse_kinds(["head", "mlp"]) == ("mlp", "head")
    for flags, told in ((["--revision", "main"], "--revision"), (["--data", "hub"], "--data")):
        done = CliRunner().invoke(app, ["units", run.run_id, "--runs-dir", str(run.path.parent), *flags])
        assert isinstance(done.exception, UsageError) and f"{told} is of published models" in str(done.exception)
    few = run_micro(tmp_path, "pretrain.step_snapshots=0", skip_finetune=True)
    with pytest.raises(DataError, match="20 argument words in each half"):
        prepare_run(few, UnitOptions(), CPU)
