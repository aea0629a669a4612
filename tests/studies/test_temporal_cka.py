"""Temporal CKA of run directories made by hand, so that what it must find is known."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from emergence.data.sources import load_qa
from emergence.data.tokenizer import TextTokenizer
from emergence.errors import DataError, RunDirectoryError, UsageError
from emergence.experiment.locks import RunLock
from emergence.experiment.store import RunDirectory, RunStore
from emergence.measures.cka import CKAMethod, cka
from emergence.model import Trunk, build_trunk
from emergence.spec.experiment import ExperimentSpec
from emergence.studies.activations import TrunkSource, extract_states, weights_key
from emergence.studies.cka import temporal as temporal_cka
from emergence.studies.cka.analyse import AnalysisFlags
from emergence.studies.cka.nulls import matched_noise, random_trunks
from emergence.studies.cka.result import TemporalCKA, read_result
from emergence.studies.cka.temporal import CKAOptions, analyse_run
from emergence.studies.cka.views import Effort
from emergence.studies.probe_sentences import ProbeSentence, choose_sentences, encode_sentences
from emergence.studies.trunks import read_timeline
from emergence.training.checkpoint import WeightsFile
from emergence.training.recording import StopRequested
from tests.command_lines import typed

SMALL = (
    "model.n_layers=2",
    "model.hidden_size=16",
    "model.n_heads=2",
    "model.vocab_size=400",
    "microworld.text_documents=20",
    "microworld.train_documents=2",
    "microworld.validation_documents=4",
    "microworld.test_documents=4",
)
FAST = Effort(draws=12, permutations=19)
OPTIONS = CKAOptions(sentences=40, random_seeds=2, effort=FAST)
#: Where intervals and p-values are not looked at.
CURVES = dataclasses.replace(OPTIONS, effort=Effort(draws=2, permutations=0))


def spec(*settings: str, **flags: object) -> ExperimentSpec:
    return ExperimentSpec.from_flags(config_name="debug", set_values=[*SMALL, *settings], data="microworld", **flags)


@pytest.fixture(scope="session")
def tokenizer() -> TextTokenizer:
    examples = load_qa(spec()).splits["train"]
    return TextTokenizer.train([" ".join(example.tokens) for example in examples], 400)


def state(the_spec: ExperimentSpec, tokenizer: TextTokenizer, seed: int) -> dict[str, Tensor]:
    return dict(build_trunk(the_spec.config.model, tokenizer.vocab_rows, seed=seed, init="normal").state_dict())


def moved(start: Mapping[str, Tensor], amount: float, seed: int = 0) -> dict[str, Tensor]:
    """``start`` pushed in one fixed direction by ``amount`` of each tensor's size."""
    generator = torch.Generator().manual_seed(1_000 + seed)  # not the numbers the weights were drawn from
    return {k: v + amount * v.std().nan_to_num() * torch.randn(v.shape, generator=generator) for k, v in start.items()}


def make_run(
    root: Path,
    the_spec: ExperimentSpec,
    tokenizer: TextTokenizer,
    start: Mapping[str, Tensor],
    *,
    pretrain: Mapping[int, Mapping[str, Tensor]] | None = None,
    finetune: list[dict[str, Tensor]] | None = None,
) -> RunDirectory:
    run = RunStore(root).create(the_spec)

    def weights(tensors: Mapping[str, Tensor], **facts: object) -> WeightsFile:
        return WeightsFile(
            dict(tensors), the_spec.config.model, tokenizer.vocab_rows, tokenizer.to_json(), {"name": "x", **facts}
        )

    for step, tensors in (pretrain or {}).items():
        run.save_snapshot(f"pretrain_step_{step}", weights(tensors, step=step, validation_loss=9.0 - step))
    run.save_trunk(weights(start))
    for epoch, tensors in enumerate(finetune or [], start=1):
        head = {"head.linear.weight": torch.full((2, 16), float(epoch))}
        run.save_snapshot(f"finetune_epoch_{epoch}", weights({**tensors, **head}, epoch=epoch))
    if finetune:
        run.save_finetuned(weights(finetune[-1]))
    return run


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory, tokenizer: TextTokenizer) -> RunDirectory:
    """Two pretraining snapshots, the second of them the start, and two epochs that move further and further."""
    start = state(spec(), tokenizer, 0)
    return make_run(
        tmp_path_factory.mktemp("runs"),
        spec(),
        tokenizer,
        start,
        pretrain={10: state(spec(), tokenizer, 1), 200: start},
        finetune=[moved(start, 0.1), moved(start, 0.5)],
    )


@pytest.fixture(scope="session")
def analysed(full: RunDirectory) -> TemporalCKA:
    return analyse_run(full.path, options=OPTIONS)


# The whole analysis -----------------------------------------------------------------------------


def test_full_run(analysed: TemporalCKA) -> None:
    result = analysed
    names = [point.name for point in result.timelines[0].checkpoints]
    assert names == ["pretrain_step_10", "pretrained", "finetune_epoch_1", "finetune_epoch_2"]
    assert set(result.views[0]) == {"sentence/raw", "sentence/residual", "predicate/raw", "predicate/residual"}
    for rows in ("sentence/raw", "predicate/raw"):
        view = result.views[0][rows]
        assert view.drift.shape == (4, 3) and view.velocity.shape == (3, 3)
        assert view.layers.shape == view.from_start.shape == (4, 3, 3) and view.random.shape == (2, 4, 3)
        assert (view.drift[1] == 1).all() and (view.drift[2] > view.drift[3]).all()
        assert (view.drift[3] < 0.95).all() and (view.drift[0] < 0.95).all()
        np.testing.assert_array_equal(view.velocity[1], view.drift[2])
        np.testing.assert_array_equal(np.diagonal(view.from_start, axis1=1, axis2=2), view.drift)
        np.testing.assert_allclose(view.layers, view.layers.transpose(0, 2, 1), atol=1e-14)
        assert (view.drift_lo[2:] < view.drift[2:]).all() and (view.drift[2:] < view.drift_hi[2:]).all()
        assert (view.drift_se[2:] > 0).all() and (view.drift_lo[1] == 1).all()
        assert np.isnan(view.noise[:2]).all() and np.isfinite(view.noise[2:]).all()
        assert (view.noise[2] > view.noise[3]).all()
        assert all(test is not None and test.p_value == 0.05 for test in view.permutation)
        assert (view.procrustes[1] == 0).all() and (view.procrustes[2] < view.procrustes[3]).all()
        assert (view.neighbours[1] == 1).all() and (view.neighbours[2] > view.neighbours[3]).all()
        expected = (view.drift - view.random.mean(axis=0)) / (1 - view.random.mean(axis=0))
        np.testing.assert_allclose(view.excess, np.where(view.random.mean(axis=0) > 0.95, np.nan, expected))
    # Embeddings with rotary positions are a function of the token alone: nothing is left of them.
    assert np.isnan(result.views[0]["predicate/residual"].drift[:, 0]).all()
    assert result.views[0]["predicate/residual"].flags[1] == ("no_variance", "", "")
    assert result.missing[0].keys() == {"twin", "control"}
    text = result.summary()
    assert "every checkpoint against the start" in text and "nan" not in text
    assert "finetune_epoch_2 against the start" in text and "undefined" in text and "--seed-twin RUN" in text


def test_result_files(full: RunDirectory, analysed: TemporalCKA, tmp_path: Path) -> None:
    result, there = analysed, full.path / "analysis" / "temporal_cka"
    assert sorted(p.name for p in there.iterdir()) == ["temporal_cka.json", "temporal_cka.npz"]
    folder = Path(shutil.copytree(there, tmp_path / "copy"))
    content, arrays = read_result(folder)
    assert content["probe"]["sentences"] == 40 and content["probe"]["predicates"] == result.n_predicates > 40
    assert content["probe"]["fingerprint"] == result.probe_fingerprint
    run = content["runs"][0]
    assert [p["phase"] for p in run["checkpoints"]] == ["pretrain", "start", "finetune", "finetune"]
    assert run["checkpoints"][0]["validation_loss"] == -1.0 and run["start_index"] == 1
    np.testing.assert_array_equal(arrays["run/sentence/raw/drift"], result.views[0]["sentence/raw"].drift)
    assert run["views"]["sentence/raw"]["drift"] == result.views[0]["sentence/raw"].drift.tolist()
    assert run["views"]["predicate/residual"]["drift"][2][0] is None
    assert arrays["run/sentence/raw/layers"].shape == (4, 3, 3) and "layers" not in run["views"]["sentence/raw"]
    (folder / "temporal_cka.npz").write_bytes(b"not these")
    with pytest.raises(RunDirectoryError, match="missing or damaged"):
        read_result(folder)
    (folder / "temporal_cka.json").write_text(json.dumps({**content, "schema_version": 0}))
    with pytest.raises(RunDirectoryError, match="damaged, or not written by this program"):
        read_result(folder)


def test_same_arguments_same_bytes(full: RunDirectory, analysed: TemporalCKA, tmp_path: Path) -> None:
    analyse_run(full.path, out_dir=tmp_path, options=OPTIONS)
    before = full.path / "analysis" / "temporal_cka" / "temporal_cka.json"
    assert (tmp_path / "temporal_cka.json").read_bytes() == before.read_bytes()


def test_frozen_run_is_one_with_its_start(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    start = state(spec(), tokenizer, 0)
    run = make_run(tmp_path, spec(freeze_llm=True), tokenizer, start, finetune=[start])
    result = analyse_run(run.path, options=OPTIONS)
    view = result.views[0]["sentence/raw"]
    assert result.timelines[0].trunk_never_moved
    assert [point.name for point in result.timelines[0].checkpoints] == ["pretrained", "finetune_epoch_1"]
    assert np.abs(view.drift - 1).max() < 1e-6 and np.abs(view.velocity - 1).max() < 1e-6
    assert result.missing[0]["noise"] == "the trunk did not move"
    assert all(test is None for test in view.permutation)
    text = result.summary()
    assert "a check of this program, not a finding" in text and "its trunk against untrained ones" in text
    assert "against the start" not in text


def test_rotated_weights_are_another_trunk_with_the_same_cka(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    # Permuting the residual stream's coordinates changes every weight and no function: states are permuted.
    start = state(spec(), tokenizer, 0)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    permuted = {}
    for name, tensor in start.items():
        if tensor.ndim == 1:
            permuted[name] = tensor[order] if len(tensor) == 16 else tensor
        else:
            writes = name.endswith(("attention.output.weight", "mlp.output.weight"))
            permuted[name] = tensor[order] if writes else tensor[:, order]
    run = make_run(tmp_path, spec(), tokenizer, start, finetune=[permuted])
    result = analyse_run(run.path, options=OPTIONS)
    assert not result.timelines[0].trunk_never_moved
    for view in (result.views[0]["sentence/raw"], result.views[0]["predicate/raw"]):
        assert np.abs(view.drift - 1).max() < 1e-6
        assert np.abs(view.procrustes).max() < 2e-3 and (view.neighbours > 0.999).all()


def test_two_runs_of_different_sizes_and_tokenizers(full: RunDirectory, analysed: TemporalCKA, tmp_path: Path) -> None:
    other = spec("model.n_layers=3", "model.hidden_size=32", "model.sequence_length=512")
    tokenizer = TextTokenizer.train(["some other text about nothing much at all"] * 3, 300)
    start = state(other, tokenizer, 5)
    small = make_run(tmp_path / "others", other, tokenizer, start, finetune=[moved(start, 0.3)])
    result = analyse_run(full.path, against=small.path, out_dir=tmp_path / "out", options=CURVES)
    assert result.cross["sentence/raw"]["last"].shape == (3, 4)
    assert result.views[1]["sentence/raw"].drift.shape == (2, 4)
    assert np.isfinite(result.cross["sentence/raw"]["start"]).all()
    _, arrays = read_result(tmp_path / "out")
    assert {"against/sentence/raw/drift", "cross/predicate/raw/last"} <= set(arrays)
    before, after = (found.views[0]["sentence/raw"].drift for found in (analysed, result))
    np.testing.assert_allclose(before, after, atol=1e-12)
    assert "last checkpoints: most similar level" in result.summary()


def test_seed_twin_and_control_run(full: RunDirectory, tmp_path: Path, tokenizer: TextTokenizer) -> None:
    start = state(spec(), tokenizer, 0)
    twin = make_run(tmp_path / "t", spec(seed=1), tokenizer, start, finetune=[moved(start, 0.5, seed=9)])
    control = make_run(tmp_path / "c", spec(), tokenizer, start, finetune=[moved(start, a, 4) for a in (0.1, 0.2, 0.6)])
    options = dataclasses.replace(CURVES, seed_twin=twin.path, control=control.path)
    view = analyse_run(full.path, out_dir=tmp_path / "out", options=options).views[0]["sentence/raw"]
    assert view.twin.shape == (3,) and (view.twin < 1).all()
    assert view.control.shape == (3, 3) and (np.diff(view.control, axis=0) < 0).all()
    stranger = make_run(tmp_path / "s", spec(), tokenizer, state(spec(), tokenizer, 7), finetune=[start])
    with pytest.raises(UsageError, match=r"--seed-twin .*did not start from the trunk of"):
        analyse_run(full.path, out_dir=tmp_path, options=dataclasses.replace(OPTIONS, seed_twin=stranger.path))
    frozen = make_run(tmp_path / "f", spec(), tokenizer, start, finetune=[start])
    with pytest.raises(UsageError, match="without --freeze-llm"):
        analyse_run(full.path, out_dir=tmp_path, options=dataclasses.replace(OPTIONS, control=frozen.path))


def test_pretraining_only(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    snapshots = {4: state(spec(), tokenizer, 1), 2: state(spec(), tokenizer, 2)}
    run = make_run(tmp_path, spec(skip_finetune=True), tokenizer, state(spec(), tokenizer, 0), pretrain=snapshots)
    result = analyse_run(run.path, options=CURVES)
    assert [p.name for p in result.timelines[0].checkpoints] == ["pretrain_step_2", "pretrain_step_4", "pretrained"]
    assert result.missing[0]["noise"] == "there is no finetuning checkpoint"
    assert "pretrain_step_2 against the start" in result.summary()


def test_other_estimators(full: RunDirectory, analysed: TemporalCKA, tmp_path: Path) -> None:
    drift = {"debiased": analysed.views[0]["sentence/raw"].drift[3]}
    for name, method, batch in (
        ("biased", CKAMethod("biased"), None),
        ("rbf", CKAMethod(kernel="rbf"), None),
        ("minibatch", CKAMethod(), 20),
    ):
        options = dataclasses.replace(CURVES, method=method, batch_rows=batch)
        drift[name] = analyse_run(full.path, out_dir=tmp_path / name, options=options).views[0]["sentence/raw"].drift[3]
    assert (drift["biased"] > drift["debiased"]).all()
    assert all(not np.array_equal(drift["debiased"], other) for name, other in drift.items() if name != "debiased")


def test_what_cannot_be_analysed(full: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="not a run directory"):
        analyse_run(tmp_path, options=OPTIONS)
    with pytest.raises(RunDirectoryError, match=r"has no toy_llm_unified_pretrained\.pth yet"):
        analyse_run(RunStore(tmp_path / "new").create(spec()).path, options=OPTIONS)
    with pytest.raises(UsageError, match="--sentences must be at least 20"):
        CKAOptions(sentences=5)
    with pytest.raises(UsageError, match="leave batch_rows out"):
        CKAOptions(batch_rows=256, method=CKAMethod("biased"))
    with pytest.raises(DataError, match="too few to compare"):
        choose_sentences(dataclasses.replace(load_qa(spec()), splits={"test": []}), 100, 0)


def test_questions_that_changed_are_noted(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    run = make_run(tmp_path, spec(), tokenizer, state(spec(), tokenizer, 0))
    run.record_data({"questions": "0123"})
    result = analyse_run(run.path, options=CURVES)
    assert "was trained on other questions" in result.notes[0] and "one checkpoint only" in result.summary()


def test_an_interrupted_analysis_goes_on_and_two_at_once_are_refused(
    full: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract, extracted = temporal_cka.extract_states, list[TrunkSource]()

    def interrupted(source: TrunkSource, *rest: object, **more: object) -> object:
        if len(extracted) == 2:
            raise KeyboardInterrupt
        extracted.append(source)
        return extract(source, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(temporal_cka, "extract_states", interrupted)
    with pytest.raises(KeyboardInterrupt):
        analyse_run(full.path, out_dir=tmp_path, options=CURVES)
    monkeypatch.undo()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "states").glob("*.npy")}
    assert len(kept) == 2
    with RunLock(tmp_path), pytest.raises(RunDirectoryError, match="is being written by process"):
        analyse_run(full.path, out_dir=tmp_path, options=CURVES)
    analyse_run(full.path, out_dir=tmp_path, options=dataclasses.replace(CURVES, keep_states=True))
    assert kept.items() <= {path: path.stat().st_mtime_ns for path in (tmp_path / "states").glob("*.npy")}.items()


def test_a_stop_between_comparisons_keeps_the_states_for_the_same_call(full: RunDirectory, tmp_path: Path) -> None:
    comparing: list[str] = []

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            comparing.append(record.getMessage())

    listening, log = Listening(), logging.getLogger(temporal_cka.__name__)
    log.addHandler(listening)
    before = log.level
    log.setLevel(logging.INFO)
    try:
        with pytest.raises(StopRequested, match="same command goes on with the extracted states"):
            analyse_run(full.path, out_dir=tmp_path, options=CURVES, should_stop=lambda: bool(comparing))
        assert len(comparing) == 1 and comparing[0].startswith("comparison 1 of 4, of ")
        kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "states").glob("*.npy")}
        with pytest.raises(StopRequested, match=f"from what is in {tmp_path / 'states'}"):
            analyse_run(full.path, out_dir=tmp_path, options=CURVES, should_stop=lambda: True)
        analyse_run(full.path, out_dir=tmp_path, options=dataclasses.replace(CURVES, keep_states=True))
    finally:
        log.removeHandler(listening)
        log.setLevel(before)
    assert kept and kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "states").glob("*.npy")}


def test_the_command_asks_for_what_its_flags_say(full: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[AnalysisFlags, Path]] = []
    monkeypatch.setattr("emergence.cli.analyse_locally", lambda *both: asked.append(both) or "done")
    runs, name = full.path.parent, full.run_id
    ended = typed("emergence", "cka", name, "--against", name, "--runs-dir", str(runs), "--sentences", "50")
    assert (ended.code, ended.out) == (0, "done\n")
    assert asked == [(AnalysisFlags(model_dir=name, against=name, sentences=50), runs)]
    assert typed("emergence", "cka", name, "--runs-dir", str(runs), "--sentences", "0").code == 2


# Extraction -------------------------------------------------------------------------------------


def test_states_by_hand(full: RunDirectory, tmp_path: Path, tokenizer: TextTokenizer) -> None:
    sentences = choose_sentences(load_qa(spec()), 25, 0).sentences
    inputs = encode_sentences(sentences, tokenizer)
    source = read_timeline(full).start.source
    states = extract_states(source, inputs, tmp_path, device=torch.device("cpu"))
    trunk = source.build()
    assert isinstance(trunk, Trunk)
    tokens: dict[int, list[np.ndarray]] = {}
    by_sentence = []
    for i in range(len(inputs)):
        ids = inputs.ids[inputs.offsets[i] : inputs.offsets[i + 1]]
        assert ids[0] == tokenizer.eot and tokenizer.eot not in ids[1:] and tokenizer.pred not in ids
        with torch.no_grad():
            found = torch.stack(trunk.hidden_states(torch.from_numpy(ids)[None]))[:, 0].numpy()  # (L + 1, T, D)
        by_sentence.append((ids, found))
        for position in range(1, len(ids)):
            tokens.setdefault(int(ids[position]), []).append(found[:, position])
    means = {token: np.mean(values, axis=0) for token, values in tokens.items()}
    raw = np.stack([found[:, 1:].mean(axis=1) for _, found in by_sentence], axis=1)
    less = np.stack([np.mean([means[int(t)] for t in ids[1:]], axis=0) for ids, _ in by_sentence], axis=1)
    np.testing.assert_allclose(np.stack(states.levels("sentence", "raw")), raw, atol=1e-5)
    np.testing.assert_allclose(np.stack(states.levels("sentence", "residual"))[1:], (raw - less)[1:], atol=1e-5)
    assert (np.stack(states.levels("sentence", "residual"))[0] == 0).all()
    row = 7
    ids, found = by_sentence[inputs.predicate_sentences[row]]
    position = inputs.predicate_positions[row]
    np.testing.assert_allclose(np.stack(states.levels("predicate", "raw"))[:, row], found[:, position], atol=1e-5)
    residual = np.stack(states.levels("predicate", "residual"))[1:, row]
    np.testing.assert_allclose(residual, (found[:, position] - means[int(ids[position])])[1:], atol=1e-5)


def test_predicate_positions(tokenizer: TextTokenizer) -> None:
    sentence = ProbeSentence(("The", "keeper", "handed", "it", "over", "."), (2, 4))
    inputs = encode_sentences([sentence], tokenizer)
    text = [tokenizer.decode(inputs.ids[1 : position + 1]) for position in inputs.predicate_positions]
    assert text == [" The keeper handed", " The keeper handed it over"]


def test_extraction_resumes(
    full: RunDirectory, analysed: TemporalCKA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extracted: list[str] = []

    def extract(source: TrunkSource, *args: object, **kwargs: object) -> object:
        if len(extracted) == 3:
            raise KeyboardInterrupt
        extracted.append(source.key)
        return extract_states(source, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(temporal_cka, "extract_states", extract)
    with pytest.raises(KeyboardInterrupt):
        analyse_run(full.path, out_dir=tmp_path / "out", options=OPTIONS)
    states = tmp_path / "out" / "states"
    before = {path.name: path.stat().st_mtime_ns for path in states.iterdir()}
    assert len(before) == 3
    monkeypatch.setattr(temporal_cka, "extract_states", extract_states)
    options = dataclasses.replace(OPTIONS, keep_states=True)
    resumed = analyse_run(full.path, out_dir=tmp_path / "out", options=options)
    after = {path.name: path.stat().st_mtime_ns for path in states.iterdir()}
    assert before.items() <= after.items() and len(after) == 8  # 4 checkpoints, 2 untrained, 2 noise
    for rows, view in analysed.views[0].items():
        for name, array in view.arrays().items():
            np.testing.assert_array_equal(array, resumed.views[0][rows].arrays()[name])


@pytest.mark.parametrize("damage", ["cut", "foreign", "empty"])
def test_damaged_states_are_extracted_again(
    full: RunDirectory, tmp_path: Path, tokenizer: TextTokenizer, damage: str
) -> None:
    inputs = encode_sentences(choose_sentences(load_qa(spec()), 20, 0).sentences, tokenizer)
    source, cpu = read_timeline(full).start.source, torch.device("cpu")
    states = extract_states(source, inputs, tmp_path, device=cpu)
    whole = states.path.read_bytes()
    if damage == "foreign":
        np.save(states.path, np.zeros((2, 3), dtype=np.float32))
    else:
        states.path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"")
    assert extract_states(source, inputs, tmp_path, device=cpu).path.read_bytes() == whole


def test_failed_extraction_leaves_nothing_behind(full: RunDirectory, tmp_path: Path, tokenizer: TextTokenizer) -> None:
    inputs = encode_sentences(choose_sentences(load_qa(spec()), 20, 0).sentences, tokenizer)

    def build() -> Trunk:
        raise OSError(28, "No space left on device")

    source = dataclasses.replace(read_timeline(full).start.source, build=build)
    with pytest.raises(RunDirectoryError, match="make room"):
        extract_states(source, inputs, tmp_path, device=torch.device("cpu"))
    assert not list((tmp_path).glob("*.np*"))


# Nulls ------------------------------------------------------------------------------------------


def test_matched_noise_moves_every_tensor_as_far(full: RunDirectory) -> None:
    timeline = read_timeline(full)
    target = timeline.last
    start, noisy, end = (
        dict(built.state_dict())  # type: ignore[attr-defined]
        for built in (timeline.start.source.build(), matched_noise(timeline, target, 3).build(), target.source.build())
    )
    for name in start:
        length = float((end[name].double() - start[name].double()).norm())
        assert float((noisy[name].double() - start[name].double()).norm()) == pytest.approx(length, rel=1e-4, abs=1e-6)
    a, b = (found["embedding.weight"] - start["embedding.weight"] for found in (noisy, end))
    assert abs(float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))) < 0.1


def test_untrained_trunks_are_ordinary_and_different(full: RunDirectory) -> None:
    one, two = (source.build() for source in random_trunks(read_timeline(full), 2))
    assert isinstance(one, Trunk) and isinstance(two, Trunk)
    assert weights_key(one.state_dict()) != weights_key(two.state_dict())
    assert float(one.state_dict()["blocks.0.mlp.output.weight"].abs().max()) > 0


def test_untrained_trunks_are_not_unlike(analysed: TemporalCKA) -> None:
    # Both read the same tokens: chance, which the permutations show, is not the floor.
    view = analysed.views[0]["sentence/raw"]
    assert view.random[:, 1].mean() > 0.3
    assert all(test is not None and abs(test.null_mean) < 0.2 for test in view.permutation)


def test_drift_is_cka_of_the_extracted_states(analysed: TemporalCKA, tmp_path: Path) -> None:
    timeline = analysed.timelines[0]
    sentences = choose_sentences(load_qa(spec()), 40, 0).sentences
    inputs = encode_sentences(sentences, timeline.tokenizer)
    arrays = []
    for point in (timeline.start, timeline.last):
        found = extract_states(point.source, inputs, tmp_path, device=torch.device("cpu"))
        arrays.append(found.levels("predicate", "raw"))
    for level in range(3):
        value = cka(arrays[0][level], arrays[1][level])
        assert analysed.views[0]["predicate/raw"].drift[-1, level] == pytest.approx(value, abs=1e-12)
        assert not math.isnan(value)
