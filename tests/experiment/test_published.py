"""A published model goes through the same probes, scores and files as a trunk of this program."""

from __future__ import annotations

import json
import shlex
import shutil
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from emergence.answering.features import cache_features
from emergence.answering.stored_states import StoredStates
from emergence.data.qa_encoding import encode_qa
from emergence.data.reference_text import REFERENCE_FINGERPRINT, REFERENCE_TEXT
from emergence.errors import ConfigError, EmergenceError, UsageError, WeightsError
from emergence.experiment.asking import ask
from emergence.experiment.inputs import check_published
from emergence.experiment.run import run_experiment
from emergence.experiment.store import CACHE_FOLDER, RunDirectory, RunStore
from emergence.experiment.verification import verify_run
from emergence.export.folder import write_export
from emergence.findings.folder import read_folder
from emergence.findings.table import build_table, table_of
from emergence.model.huggingface import HuggingFaceEncoder, load_model
from emergence.report.charts.chart import all_charts
from emergence.report.provenance import command
from emergence.report.sections import report_of
from emergence.report.write import to_markdown
from emergence.spec.experiment import ExperimentSpec
from emergence.studies.snapshots.options import SnapshotOptions
from emergence.studies.snapshots.probes import probe_snapshots
from emergence.studies.trunks import read_timeline
from emergence.training.context import Context
from emergence.training.published_loss import evaluate_published
from emergence.training.recording import StopRequested
from tests.command_lines import typed
from tests.published_models import LAYERS, WIDTH, save_model
from tests.small_runs import MICRO, run_micro

SETTINGS = tuple(s for s in MICRO if not s.startswith(("model.", "pretrain.")))
#: Where what the probes say is beside the point.
FEWER = ("probe.validity=false", 'probe.families=["linear"]')


def spec_of(model: Path, *extra: str, **flags: Any) -> ExperimentSpec:
    values = (*SETTINGS, "pretrain.precision=fp32", *extra)
    return ExperimentSpec.from_flags(
        config_name="debug", data="microworld", set_values=values, model=str(model), freeze_llm=True, **flags
    )


def run(root: Path, spec: ExperimentSpec, **options: Any) -> RunDirectory:
    store = RunStore(root / "runs")
    result = run_experiment(spec, store, cache_dir=root / "cache", **options)
    assert result is not None and result.run_id is not None
    return store.open(result.run_id)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for family in ("gpt2", "llama"):
        save_model(root / family, family)
    return root


@pytest.fixture(scope="module")
def root(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the SentencePiece kind and its random twin, probed."""
    root = tmp_path_factory.mktemp("probed")
    for flags in ({}, {"random_baseline": True}):
        run(root, spec_of(models / "llama", **flags))
    return root


def stats(root: Path, condition: str) -> dict[str, Any]:
    runs = RunStore(root / "runs").runs()
    path = next(run.stats_path for run in runs if run.spec.condition == condition)
    return dict(json.loads(path.read_text()))


# A run ----------------------------------------------------------------------------------------------


def test_other_weights_in_a_models_place_are_not_given_its_old_numbers(root: Path, models: Path) -> None:
    path = models / "llama" / "model.safetensors"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 64]))
        with pytest.raises(UsageError, match="has other weights now than when"):
            run(root, spec_of(models / "llama"))
        path.unlink()
        assert run(root, spec_of(models / "llama")).is_finished, "what is gone contradicts nothing"
    finally:
        path.write_bytes(whole)
    assert run(root, spec_of(models / "llama")).is_finished


def test_a_result_tells_of_the_model_what_others_tell_of_their_trunk(root: Path, models: Path) -> None:
    probed, twin = stats(root, "frozen"), stats(root, "random-frozen")
    loaded = load_model(str(models / "llama"))
    assert probed["config_name"] == "llama"
    assert probed["parameters"] == {
        "total": loaded.n_parameters, "non_embedding": loaded.n_non_embedding, "trainable": 2 * (WIDTH + 1)
    }  # fmt: skip
    assert probed["data"]["model"]["tokenizer"]["bos"] == "<s>"
    assert probed["data"]["marks"]["separator"] == {"text": "\n", "count": None}
    assert probed["lineage"]["stage"] == "pretrained" and twin["lineage"]["stage"] == "random"
    assert probed["lineage"]["trunk_sha256"] != twin["lineage"]["trunk_sha256"]
    loss = evaluate_published(loaded, Context())
    assert probed["pretraining"]["test"]["nats_per_token"] == pytest.approx(loss.nats_per_token, abs=1e-6)
    assert probed["seconds"]["states"] > 0 and probed["tokens_per_second"]["states"] > 0
    assert {fit["layer"] for fit in probed["probes"]["fits"]} == {0, 1, LAYERS}
    rows = [json.loads(line) for line in next((root / "runs").glob("*/predictions.jsonl")).read_text().splitlines()]
    assert all("brier" in row and "brier" in row["readouts"]["bilinear"] for row in rows)


def test_a_layer_is_probed_alone(models: Path, tmp_path: Path) -> None:
    """The control of what states add reads the embeddings, though nobody asked for them."""
    probed = run(tmp_path, spec_of(models / "gpt2", 'probe.layers="2"', "probe.validity=false"))
    found = json.loads(probed.stats_path.read_text())["probes"]
    assert {fit["layer"] for fit in found["fits"]} == {2}
    assert {fit["layer"] for fit in found["conditional"].values()} == {0, 2}


def test_one_layers_states_are_in_memory_at_a_time(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, alive = StoredStates.layer, []

    def recorded(self: StoredStates, split: Any, layer: int, *rest: Any) -> Any:
        assert {of for of, states in alive if states() is not None} <= {layer}
        found = read(self, split, layer, *rest)
        alive.append((layer, weakref.ref(found.words)))
        return found

    monkeypatch.setattr(StoredStates, "layer", recorded)
    assert run(tmp_path, spec_of(models / "gpt2")).is_finished
    assert {layer for layer, _ in alive} == {0, 1, LAYERS}


def test_runs_are_whole_and_leave_no_trunk_and_no_states(root: Path) -> None:
    for run_directory in RunStore(root / "runs").runs():
        checked = verify_run(run_directory.path)
        assert checked.state == "finished" and not checked.damaged
        assert [path.name for path in run_directory.own_weights()] == ["toy_llm_qasrl_finetuned.pth"]
        assert not run_directory.trunk_path.exists()
    assert list((root / "cache" / "states").iterdir()) == []


def test_the_table_has_the_cells_that_there_can_be(root: Path) -> None:
    table = build_table(root / "runs")
    modes = [row.mode for row in table.rows if not row.is_extra_probe]
    assert modes == ["frozen", "random frozen"] and {row.model for row in table.rows} == {"llama"}
    assert not [note for note in table.notes() if "was not run" in note or "guide's scale" in note]
    assert table.sets[0].gains


@pytest.mark.slow
def test_directories_of_one_name_are_told_apart_by_their_paths_in_table_and_report(
    models: Path, tmp_path: Path
) -> None:
    """A report of published models alone speaks of no model that is trained whole, and of no run on Modal."""
    for i, where in enumerate(("one", "other")):
        (tmp_path / where).mkdir()
        run(tmp_path, spec_of(save_model(tmp_path / where / "gpt2", seed=i), "probe.validity=false"))
    folder = read_folder(tmp_path / "runs", n_boot=100)
    assert {s.label for s in folder.grouping.sets} == {
        "gpt2 (from one/gpt2), published", "gpt2 (from other/gpt2), published"
    }  # fmt: skip
    run(tmp_path, spec_of(save_model(tmp_path / "other" / "gpt2", seed=5), "probe.validity=false"), fresh=True)
    labels = {s.label for s in read_folder(tmp_path / "runs", n_boot=100).grouping.sets}
    assert len(labels) == 3 and len([label for label in labels if label.startswith("gpt2 (weights ")]) == 2
    results = table_of(folder.collection, folder.grouping, folder.scored)
    text = to_markdown(report_of(folder, results, all_charts(folder, n_boot=100)))
    assert "pretrained trunk" in text and "all weights trained" not in text
    assert "modal run" not in text and "emergence plan" not in text
    losses = text.partition("Published models and their random twins, on the reference text")[2].partition("\n\n")[2]
    told = [item.result.held_out_loss for item in folder.collection.found]
    rows = [line for line in losses.partition("\n\n")[0].splitlines() if "gpt2" in line]
    assert len(rows) == len({item.name for item in folder.collection.found}) and None not in told


def test_states_that_nothing_goes_on_with_are_deleted(models: Path, tmp_path: Path) -> None:
    """Those of finished and of deleted runs, not those of unfinished ones, nor of a cache of other runs."""
    store, flags = RunStore(tmp_path / "runs"), {"cache_dir": tmp_path / "runs" / CACHE_FOLDER}
    spec = spec_of(models / "gpt2", *FEWER)
    begun = store.create(spec_of(models / "llama"))
    finished = run_experiment(spec, store, **flags)
    assert finished is not None and finished.run_id is not None
    states = tmp_path / "runs" / CACHE_FOLDER / "states"
    for root in (states, tmp_path / "elsewhere" / "states"):
        for name in (begun.run_id, finished.run_id, "deleted_20260101-000000"):
            (root / name).mkdir(parents=True)
    run_experiment(spec, store, fresh=True, cache_dir=tmp_path / "elsewhere")
    assert len(list(states.iterdir())) == len(list((tmp_path / "elsewhere" / "states").iterdir())) == 3
    run_experiment(spec, store, fresh=True, **flags)
    assert [path.name for path in states.iterdir()] == [begun.run_id]


def test_the_weights_are_given_back_before_probes_are_fitted(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from emergence.experiment import phases

    loaded = load_model(str(models / "gpt2"))
    facts = loaded.facts()
    released: list[bool] = []

    def stop(*args: Any) -> None:
        released.append(all(parameter.is_meta for parameter in loaded.encoder.parameters()))
        raise EmergenceError("far enough")

    session = SimpleNamespace(
        spec=spec_of(models / "gpt2"), cache_dir=Path(), run=SimpleNamespace(run_id="x"), begin=lambda *_: None,
        context=Context(),
    )  # fmt: skip
    monkeypatch.setattr(phases.StoredStates, "write", lambda *_: None)
    monkeypatch.setattr(phases, "_probe", stop)
    questions = SimpleNamespace(train=None, validation=None, test=None, pairs=None)
    with pytest.raises(EmergenceError, match="far enough"):
        phases.probe_published(session, loaded, questions)  # type: ignore[arg-type]
    assert released == [True] and loaded.facts() == facts


def test_the_same_command_finds_the_finished_run(root: Path, models: Path) -> None:
    opened = []
    run(root, spec_of(models / "llama"), on_open=lambda run, what: opened.append(what))
    assert opened == ["finished"]


def test_a_stopped_run_computes_nothing_again(
    root: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of the states, then after a probe: the tokens seen by the model are those of one pass."""
    seen: list[int] = []
    forward = HuggingFaceEncoder.hidden_states

    def counted(self: HuggingFaceEncoder, ids: torch.Tensor) -> list[torch.Tensor]:
        seen.append(ids.numel())
        return forward(self, ids)

    monkeypatch.setattr(HuggingFaceEncoder, "hidden_states", counted)
    monkeypatch.setattr("emergence.answering.features.TOKENS_PER_BATCH", {"cpu": 512})
    spec = spec_of(models / "gpt2")
    whole = run(tmp_path / "whole", spec)
    passes = [n for n in seen if n > 16]  # the check when a model is wrapped has 16 tokens
    seen.clear()
    left = [0]  # questions of the switch before it says stop

    def should_stop() -> bool:
        left[0] -= 1
        return left[0] < 0

    for after in (3, 12):
        left[0] = after
        with pytest.raises(StopRequested):
            run(tmp_path / "stopped", spec, should_stop=should_stop)
    resumed = run(tmp_path / "stopped", spec)
    assert [n for n in seen if n > 16] == passes
    assert (resumed.path / "predictions.jsonl").read_bytes() == (whole.path / "predictions.jsonl").read_bytes()


def test_a_run_can_be_asked_as_long_as_its_model_is_the_same(root: Path, models: Path, tmp_path: Path) -> None:
    (probed,) = [r for r in RunStore(root / "runs").runs() if not r.spec.random_baseline]
    asked = ask(probed, "The boy painted the roof .", "Who painted something?")
    assert set(asked.spans) == {"linear", "bilinear"} and asked.predicate_index == 2
    other = shutil.copytree(models / "llama", tmp_path / "llama")
    moved = run(tmp_path, spec_of(other, *FEWER))
    save_model(other, "llama", seed=5)
    with pytest.raises(WeightsError, match="has other weights now"):
        ask(moved, "The boy painted the roof .", "Who painted something?")


def test_studies_of_a_runs_own_trunks_say_where_revisions_are_compared(root: Path) -> None:
    for run_directory in RunStore(root / "runs").runs():
        with pytest.raises(UsageError, match="emergence probe --revisions"):
            read_timeline(run_directory)


# States on disk -------------------------------------------------------------------------------------


def test_states_on_disk_are_those_in_memory(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from emergence.data.microworld import MicroWorldConfig, generate_qa

    monkeypatch.setattr("emergence.answering.features.TOKENS_PER_BATCH", {"cpu": 256})
    world = MicroWorldConfig(n_qa_train_documents=3, n_qa_validation_documents=1, n_qa_test_documents=1)
    loaded = load_model(str(models / "gpt2"))
    examples = generate_qa(world).splits["train"]
    encoded, _ = encode_qa(examples, loaded.tokenizer, "question-first", 128, "text")
    cache = cache_features(loaded.encoder, encoded, [0, LAYERS], Context())
    for dtype, tolerance in (("fp32", 0.0), ("bf16", 0.01)):
        states = StoredStates(loaded.encoder, tmp_path / dtype, [0, LAYERS], dtype)
        states.write([encoded], Context())
        assert states.size([encoded]) == sum(f.stat().st_size for f in (tmp_path / dtype).rglob("*.bin"))
        torn = next((tmp_path / dtype).rglob(f"words_{LAYERS}.bin"))
        torn.write_bytes(torn.read_bytes()[:-5])
        with pytest.raises(EmergenceError, match="cut short"):
            states.layer(encoded, LAYERS, torch.device("cpu"))
        states.write([encoded], Context())
        for layer in (0, LAYERS):
            read = states.layer(encoded, layer, torch.device("cpu"), torch.float32)
            torch.testing.assert_close(read.words, cache.words[layer], rtol=tolerance, atol=0)
            torch.testing.assert_close(read.questions, cache.questions[layer], rtol=0, atol=0)


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", ["total", "used", "free"])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 10))
    with pytest.raises(EmergenceError, match=r"the states take .* GB on disk"):
        run(tmp_path, spec_of(models / "gpt2"))
    assert not list((tmp_path / "cache" / "states").rglob("*.bin"))


# Loss -----------------------------------------------------------------------------------------------


def test_bits_per_byte_are_of_one_text_for_all_tokenizers(models: Path) -> None:
    # Losses of older results are of this very text.
    assert REFERENCE_FINGERPRINT.startswith("e465339ce878")
    for family in ("gpt2", "llama"):
        loaded = load_model(str(models / family))
        with torch.no_grad():
            for parameter in loaded.encoder.parameters():
                parameter.zero_()
        loss = evaluate_published(loaded, Context())
        rows = loaded.encoder.model.get_output_embeddings().weight.shape[0]
        assert loss.nats_per_token == pytest.approx(np.log(rows), rel=1e-5)
        tokens = sum(map(len, loaded.tokenizer.encode_batch(REFERENCE_TEXT)))
        n_bytes = sum(len(text.encode()) for text in REFERENCE_TEXT)
        assert loss.bits_per_byte == pytest.approx(np.log2(rows) * tokens / n_bytes, rel=1e-5)
        # Without a BOS nothing predicts the first token of a document.
        assert loss.n_tokens == tokens - (len(REFERENCE_TEXT) if family == "gpt2" else 0)


# Specs ----------------------------------------------------------------------------------------------


def test_model_and_revision_are_part_of_the_identity_and_of_the_name(models: Path) -> None:
    from datetime import datetime

    plain = ExperimentSpec.from_flags(config_name="debug", freeze_llm=True, random_baseline=True)
    one, other = spec_of(models / "gpt2"), spec_of(models / "gpt2", revision="step5")
    assert len({spec.experiment_id for spec in (plain, one, other)}) == 3
    assert len({spec.pretrain_id for spec in (plain, one, other)}) == 3
    assert other.run_name(datetime(2026, 1, 2)) == "gpt2_frozen_step5_20260102-000000"
    assert ExperimentSpec.from_dict(other.to_dict()) == other
    without = {k: v for k, v in plain.to_dict().items() if k not in ("model", "revision")}
    without["config"] = {**without["config"], "probe": {
        k: v for k, v in without["config"]["probe"].items() if k not in ("layers", "weights", "features")
    }}  # fmt: skip
    assert ExperimentSpec.from_dict(without).experiment_id == plain.experiment_id


def test_the_command_that_reproduces_a_run_makes_the_same_experiment(models: Path) -> None:
    for flags in ({"revision": "step8", "seed": 3}, {"random_baseline": True, "layout": "echo"}):
        spec = spec_of(models / "gpt2", 'probe.layers="2"', **flags)
        words = shlex.split(command(spec, "some runs"))
        assert words[:6] == ["emergence", "run", "--config-name", "tiny", "--runs-dir", "some runs"]
        given: dict[str, Any] = {"set_values": []}
        for flag, value in zip(words[6:], [*words[7:], "--"], strict=True):
            name = flag.removeprefix("--").replace("-", "_")
            if flag == "--set":
                given["set_values"].append(value)
            elif flag.startswith("--"):
                given[name] = True if value.startswith("--") else int(value) if name == "seed" else value
        again = ExperimentSpec.from_flags(**given)
        assert again.experiment_id == spec.experiment_id


@pytest.mark.slow
def test_two_models_with_two_seeds_stand_beside_each_other(models: Path, tmp_path: Path) -> None:
    for family in ("gpt2", "llama"):
        for seed in (0, 1):
            run(tmp_path, spec_of(models / family, "probe.validity=false", seed=seed))
    table = build_table(tmp_path / "runs")
    assert [(row.model, row.n_seeds) for row in table.rows if row.mode == "frozen" and not row.is_extra_probe] == [
        ("gpt2", 2),
        ("llama", 2),
    ]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"freeze_llm": False}, "probed frozen, not finetuned"),
        ({"pretrain_data": "shuffled"}, "--pretrain-data has nothing to do"),
        ({"pretrained_model_path": "x.pth"}, "--pretrained-model-path has nothing to do"),
        ({"set_values": ["model.n_layers=3"]}, "--set model.n_layers=3 changes nothing"),
        ({"set_values": ["pretrain.epochs=3"]}, "--set pretrain.epochs=3 changes nothing"),
        ({"set_values": ["recipe=gpt2"]}, "--set recipe=gpt2 changes nothing"),
        ({"set_values": ["finetune.marks=special"]}, "never saw tokens of this program"),
        ({"model": None, "revision": "step1"}, "--revision is a revision of --model"),
    ],
)
def test_what_makes_no_sense_for_a_published_model_is_refused(flags: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        ExperimentSpec.from_flags(**{"model": "a/b", "freeze_llm": True, **flags})


def test_layers_are_checked(models: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"probe\.layers must be all, or numbers"):
        spec_of(models / "gpt2", 'probe.layers="first"')
    with pytest.raises(UsageError, match=r"--layers 7: the layers of .* are 0 \(embeddings\) to 2"):
        run(tmp_path, spec_of(models / "gpt2", 'probe.layers="0,7"'))
    with pytest.raises(UsageError, match=r"--layers 7: the layers of .* are 0 \(embeddings\) to 2"):
        check_published(spec_of(models / "gpt2", 'probe.layers="0,7"'), tmp_path / "cache")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--model", "nowhere/./x"), "neither a directory nor a name"),
        (("--model", "./nowhere"), "there is no such directory"),
        ((), "--model is missing"),
        (("--model", "a/b", "--layers", "one"), "probe.layers must be all"),
        (("--model", "a/b", "--seeds", "0"), "--seeds must be at least 1"),
        (("--model", "a/b", "--revision", "x", "--revisions", "all"), "drop one of the two"),
    ],
)
def test_what_people_type_is_refused_in_one_line(words: tuple[str, ...], says: str, tmp_path: Path) -> None:
    ended = typed("emergence", "probe", *words, "--data", "microworld", "--runs-dir", str(tmp_path))
    assert ended.code == 2 and says in ended.err and ended.err.count("\n") == 1, ended


# Our own trunks through transformers ------------------------------------------------------------------


def test_an_exported_run_and_its_snapshots_are_probed_as_the_run_probes_them(tmp_path: Path) -> None:
    """Point for point the snapshot curve; the levels of both differ by less than a fit can tell."""
    extra = ("pretrain.precision=fp32", "evaluate.minimal_pairs=0", "probe.validity=false", 'probe.families=["linear"]')
    own = run_micro(tmp_path, *extra, skip_finetune=True)
    options = SnapshotOptions(samples=0, random_trunks=0, cache_dir=tmp_path / "cache", families=("linear",))
    native = {s.step: s for s in probe_snapshots(own.path, options).path_of_training}
    export = tmp_path / "exported"
    write_export(own, export, snapshots=True)
    settings = tuple(s for s in SETTINGS if not s.startswith(("probe.families", "evaluate.minimal", "probe.validity")))
    values = (*settings, *extra, "probe.features=fp32")
    steps = [step for step in native if step]
    assert len(steps) >= 2
    for revision, step in ((f"step{steps[0]}", steps[0]), (None, steps[-1])):
        spec = ExperimentSpec.from_flags(
            config_name="debug", data="microworld", set_values=values, model=str(export), revision=revision,
            freeze_llm=True,
        )  # fmt: skip
        probed = run(tmp_path, spec)
        result = json.loads(probed.stats_path.read_text())
        assert result["pretraining"]["steps"] == step
        assert result["pretraining"]["tokens_seen"] == native[step].tokens
        rows = [json.loads(line) for line in (probed.path / "predictions.jsonl").read_text().splitlines()]
        for score in ("f1_tokens", "em", "log_prob", "expected_f1", "brier"):
            here = np.array([row[score] for row in rows])
            np.testing.assert_allclose(here, native[step].scores["linear"][score], atol=1e-6, err_msg=score)
        assert result["data"]["marks"]["separator"]["count"] is not None
