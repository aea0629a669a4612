"""What is exported is what stock ``transformers`` computes, whole or not at all, and says what it is."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from emergence.cli import app
from emergence.errors import EmergenceError, UsageError
from emergence.experiment.manifest import MANIFEST_FILE
from emergence.experiment.result import load_result
from emergence.experiment.run_directory import RunDirectory
from emergence.experiment.store import RunStore
from emergence.export import folder as export_folder
from emergence.export.architecture import architecture_of, exported_model, generation_config
from emergence.export.folder import write_export
from emergence.export.push import push_export
from emergence.files import read_sealed, write_json_atomic
from emergence.findings.collect import collect_results
from emergence.model import Trunk, build_trunk
from emergence.spec.config import load_config
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.published import EXPORT_FILE
from emergence.studies.activations import weights_key
from emergence.studies.trunks import read_timeline, trunk_of
from emergence.training.checkpoint import WeightsFile, load_weights, save_weights
from tests.command_lines import typed
from tests.export.hub_standin import HubStandIn, serving
from tests.published_models import save_model
from tests.small_runs import run_micro

transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")

RECIPES = {
    "Qwen3ForCausalLM": (),
    "LlamaForCausalLM": ("model.qk_norm=false",),
    "GPT2LMHeadModel": ("recipe=gpt2",),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDirectory]:
    """Micro runs: a pretraining of each recipe, a random trunk, and a frozen one."""
    root = tmp_path_factory.mktemp("export")
    return {
        "modern": run_micro(root),
        "gpt2": run_micro(root, "recipe=gpt2", skip_finetune=True),
        "random": run_micro(root, random_baseline=True, freeze_llm=True),
    }


@pytest.fixture(scope="module")
def exported(runs: dict[str, RunDirectory], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The modern run with its snapshots."""
    to = tmp_path_factory.mktemp("exported") / "modern"
    write_export(runs["modern"], to, snapshots=True)
    return to


def assert_same_model(trunk: Trunk, folder: Path) -> None:
    """Logits and every level within 1e-5, in stock ``transformers``, which finds each weight it looks for."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, trunk.vocab_rows, (3, trunk.config.sequence_length)))
    last: list[torch.Tensor] = []
    body = model.base_model
    final_norm = body.ln_f if hasattr(body, "ln_f") else body.norm
    final_norm.register_forward_hook(lambda _, __, output: last.append(output))
    with torch.no_grad():
        levels = trunk.eval().hidden_states(ids)
        output = model(input_ids=ids, output_hidden_states=True)
    torch.testing.assert_close(output.logits, levels[-1] @ trunk.unembedding.T, atol=1e-5, rtol=0)
    assert len(output.hidden_states) == len(levels)
    for theirs, ours in zip([*output.hidden_states[:-1], *last], levels, strict=True):
        torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", RECIPES)
def test_an_untrained_trunk_is_the_same_function(architecture: str, tmp_path: Path) -> None:
    small = ("model.n_layers=2", "model.hidden_size=32", "model.n_heads=2", "model.sequence_length=24")
    config = load_config("debug", [*small, *RECIPES[architecture]]).model
    trunk = build_trunk(config, 320, seed=1, init="normal")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in trunk.parameters():  # gains and biases that are not one and zero
            weight.add_(torch.randn(weight.shape, generator=generator) * (0.2 if weight.ndim == 1 else 0.02))
    model = exported_model(config, 320, trunk.state_dict())
    assert model.architecture == architecture == architecture_of(config)
    write_json_atomic(tmp_path / "config.json", model.config)
    write_json_atomic(tmp_path / "generation_config.json", generation_config())
    safetensors.save_file(model.tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert_same_model(trunk, tmp_path)


@pytest.mark.parametrize("recipe", ["modern", "gpt2"])
def test_a_trained_trunk_is_the_same_function(recipe: str, runs: dict[str, RunDirectory], tmp_path: Path) -> None:
    run = runs[recipe]
    weights = load_weights(run.trunk_path)
    write_export(run, tmp_path / "out")
    assert_same_model(trunk_of(weights.model, weights.vocab_rows, weights.state_dict, "test"), tmp_path / "out")


def test_the_finetuned_trunk_is_another_one_and_said_to_be(runs: dict[str, RunDirectory], tmp_path: Path) -> None:
    run = runs["modern"]
    result = CliRunner().invoke(app, ["export", str(run.path), "--to", str(tmp_path / "out"), "--which", "finetuned"])
    assert result.exit_code == 0 and "after finetuning all weights" in result.output
    weights = load_weights(run.finetuned_path)
    assert_same_model(trunk_of(weights.model, weights.vocab_rows, weights.state_dict, "test"), tmp_path / "out")
    assert read_sealed(tmp_path / "out" / EXPORT_FILE)["weights"] != weights_key(
        load_weights(run.trunk_path).state_dict
    )


def test_a_random_trunk_is_said_to_be_random(runs: dict[str, RunDirectory], tmp_path: Path) -> None:
    export = write_export(runs["random"], tmp_path / "out")
    assert "never trained" in "\n".join(export.lines())
    assert "never trained" in (tmp_path / "out" / "README.md").read_text()
    assert read_sealed(tmp_path / "out" / EXPORT_FILE)["step"] == 0


def test_every_step_of_pretraining_is_a_model_of_its_own(runs: dict[str, RunDirectory], exported: Path) -> None:
    timeline = read_timeline(runs["modern"])
    steps = {int(point.facts["step"]): point for point in timeline.checkpoints[: timeline.start_index]}
    last = load_weights(timeline.start.path).metadata["pretraining"]["steps"]
    assert len(steps) >= 2 and {path.name for path in exported.glob("step*")} == {f"step{n}" for n in (0, last, *steps)}
    for step, point in steps.items():
        trunk = point.source.build()
        assert isinstance(trunk, Trunk)
        assert_same_model(trunk, exported / f"step{step}")
        assert read_sealed(exported / f"step{step}" / EXPORT_FILE)["weights"] == point.source.key
    assert_same_model(
        build_trunk(timeline.model, timeline.vocab_rows, seed=runs["modern"].spec.seed), exported / "step0"
    )
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (exported / f"step{last}" / name).read_bytes() == (exported / name).read_bytes()


def test_what_the_manifest_does_not_vouch_for_is_not_exported(runs: dict[str, RunDirectory], tmp_path: Path) -> None:
    whole = runs["modern"]
    run = RunDirectory.open(Path(shutil.copytree(whole.path, tmp_path / whole.run_id)))
    shutil.copy(next(iter(sorted(run.path.glob("pretrain_step_*.pth")))), run.trunk_path)
    with pytest.raises(EmergenceError, match="verify-run"):
        write_export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _tensor(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[WeightsFile], None]:
    def harm(weights: WeightsFile) -> None:
        weights.state_dict[MATRIX] = change(weights.state_dict[MATRIX]).clone()

    return harm


def _fact(**facts: object) -> Callable[[WeightsFile], None]:
    return lambda weights: weights.metadata.update(facts)


MATRIX = "blocks.0.mlp.input.weight"
#: What somebody does to a weights file and seals again -> what is said of it.
HARMS: dict[str, tuple[Callable[[WeightsFile], None], str]] = {
    "nan": (_tensor(lambda it: torch.full_like(it, torch.nan)), "not finite"),
    "inf": (_tensor(lambda it: it * torch.inf), "not finite"),
    "long": (_tensor(lambda it: it.long()), "of type torch.int64"),
    "half": (_tensor(lambda it: it.half()), "of type torch.float16"),
    "complex": (_tensor(lambda it: it.to(torch.complex64)), "of type torch.complex64"),
    "shape": (_tensor(lambda it: it[:-1]), f"{MATRIX} is ("),
    "turned": (_tensor(lambda it: it.T.contiguous()), f"{MATRIX} is ("),
    "missing": (lambda weights: weights.state_dict.__delitem__(MATRIX), f"{MATRIX} is missing"),
    "renamed": (lambda weights: weights.state_dict.update(x=weights.state_dict.pop(MATRIX)), "x is unknown"),
    "extra": (lambda weights: weights.state_dict.update(more=torch.zeros(3)), "more is unknown"),
    "prefix": (lambda weights: weights.state_dict.update(prefix=torch.zeros(2, 32)), "prefix is unknown"),
    "rows": (lambda weights: setattr(weights, "vocab_rows", 64), "does not fit"),
    "counts that are words": (_fact(token_counts=["many"]), "token_counts"),
    "counts of no list": (_fact(token_counts={"a": 1}), "token_counts"),
    "negative counts": (_fact(token_counts=[-1]), "token_counts"),
    "too many counts": (_fact(token_counts=[1] * 10_000), "counts 10,000 tokens"),
    "stage": (_fact(stage="martian"), "stage 'martian'"),
    "pretraining": (_fact(pretraining="long"), "pretraining 'long'"),
    "steps": (_fact(pretraining={"steps": "3", "tokens_seen": 5}), "steps '3'"),
    "tokens": (_fact(pretraining={"steps": 3, "tokens_seen": 0.5}), "tokens_seen '0.5'"),
    "pretrain_id": (_fact(pretrain_id=[1]), "pretrain_id"),
}


def _unsealed(run: RunDirectory, folder: Path) -> RunDirectory:
    """A copy of a run that is not finished, so that no manifest vouches for its files."""
    copy = RunDirectory.open(Path(shutil.copytree(run.path, folder / run.run_id)))
    (copy.path / MANIFEST_FILE).unlink(missing_ok=True)
    return copy


def _harm(path: Path, harm: Callable[[WeightsFile], None]) -> None:
    weights = load_weights(path)
    harm(weights)
    save_weights(path, weights)


@pytest.mark.parametrize("case", HARMS)
def test_weights_that_no_run_would_take_are_not_exported(
    case: str, runs: dict[str, RunDirectory], tmp_path: Path
) -> None:
    harm, says = HARMS[case]
    run = _unsealed(runs["modern"], tmp_path)
    _harm(run.trunk_path, harm)
    ended = typed("emergence", "export", str(run.path), "--to", str(tmp_path / "new" / "out"))
    assert ended.code in (1, 2) and says in ended.err and ended.err.count("\n") == 1, ended
    assert str(run.trunk_path) in ended.err and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("harm", "says"),
    [(HARMS["nan"][0], "not finite"), (HARMS["complex"][0], "complex64"), (_fact(step=None), "after how many steps")],
)
def test_a_broken_snapshot_is_seen_before_anything_is_written(
    harm: Callable[[WeightsFile], None], says: str, runs: dict[str, RunDirectory], tmp_path: Path
) -> None:
    run = _unsealed(runs["modern"], tmp_path)
    path = min(run.path.glob("pretrain_step_*.pth"), key=lambda each: int(each.stem.rpartition("_")[2]))
    _harm(path, harm)
    ended = typed("emergence", "export", str(run.path), "--snapshots", "--to", str(tmp_path / "new" / "out"))
    assert ended.code == 2 and says in ended.err and ended.err.count("\n") == 1 and path.name in ended.err, ended
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ("--push", name)
        for name in ("", "../..", "nonsense", "a/b/c", "me/", "/x", "me/a b", "me/a..b", "me/" + "x" * 99)
    ]
    + [("--license", name) for name in ("", " ", "mit\nmodel-index: []", "MIT licence")],
)
def test_names_that_the_hub_has_not_are_refused_first(
    flags: tuple[str, str], runs: dict[str, RunDirectory], tmp_path: Path
) -> None:
    ended = typed("emergence", "export", str(runs["random"].path), "--to", str(tmp_path / "out"), *flags)
    assert ended.code == 2 and ended.err.startswith(f"error: {flags[0]} ") and ended.err.count("\n") == 1, ended
    assert not (tmp_path / "out").exists()
    if flags[0] == "--license":
        with pytest.raises(UsageError, match="--license"):
            write_export(runs["random"], tmp_path / "out", licence=flags[1])


def test_the_tokenizer_gives_the_same_tokens(runs: dict[str, RunDirectory], exported: Path) -> None:
    ours = read_timeline(runs["modern"]).tokenizer
    theirs = transformers.AutoTokenizer.from_pretrained(exported)
    for text in ("The dog's café,  3,000\r\n\t x", "", " a", "中文 \U0001f600 e\u0301", "it ' s ’s"):
        assert theirs(text)["input_ids"] == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == text
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (ours.eot, ours.eot, ours.pad)
    model = transformers.AutoModelForCausalLM.from_pretrained(exported)
    assert model.generation_config.eos_token_id == ours.eot
    tokens = model.generate(torch.tensor([[ours.eot]]), attention_mask=torch.ones(1, 1), max_new_tokens=3)
    assert tokens.shape[1] <= 4


def test_the_card_holds_what_the_result_says(runs: dict[str, RunDirectory], tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    run = runs["random"]
    write_export(run, tmp_path / "out", licence="cc-by-4.0")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    result = load_result(run.stats_path)
    assert card.data.license == "cc-by-4.0" and card.data.library_name == "transformers"
    values = {(entry.metric_type, entry.metric_name): entry for entry in card.data.eval_results}
    f1 = result.estimate("test", "f1_tokens")
    entry = values["f1", "Token F1, linear probe"]
    assert f1 is not None and entry.metric_value == f1.point and entry.metric_args["interval"] == [f1.lo, f1.hi]
    assert not any("byte" in name for _, name in values)  # no loss of a trunk that was never trained
    versions = result.versions or {}
    text = card.text
    assert f"Seed: {run.spec.seed}" in text and str(versions["commit"] or "not recorded") in text
    assert run.run_id in text and "random frozen" not in text


def test_scores_of_another_trunk_are_no_metric_of_this_one(exported: Path) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load(exported / "README.md")
    assert {entry.task_type for entry in card.data.eval_results} == {"text-generation"}
    assert "trained on from this one" in card.text and "finetuned head" in card.text


def test_writing_takes_no_transformers(
    runs: dict[str, RunDirectory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    write_export(runs["modern"], tmp_path / "out")


def test_what_is_there_is_not_overwritten_and_nothing_is_half_written(
    runs: dict[str, RunDirectory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, to = runs["modern"], tmp_path / "out"
    to.mkdir()
    (to / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="nothing is overwritten"):
        write_export(run, to, take_existing=True)
    assert [path.name for path in to.iterdir()] == ["mine.txt"]
    for inside in (run.path, run.path / "out", run.path / "some" / "where" / "out"):
        with pytest.raises(UsageError, match="run directory"):
            write_export(run, inside)

    written: list[Path] = []

    def interrupted(folder: Path, weights: object) -> None:
        written.append(folder)
        write_json_atomic(folder / "config.json", {})
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(export_folder, "_write_model", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_export(run, tmp_path / "late", snapshots=True)
    assert len(written) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_export_is_taken_again_only_if_it_is_this_one_and_whole(
    runs: dict[str, RunDirectory], tmp_path: Path
) -> None:
    to = tmp_path / "out"
    write_export(runs["modern"], to)
    before = (to / EXPORT_FILE).stat().st_mtime_ns
    write_export(runs["modern"], to, take_existing=True)
    assert (to / EXPORT_FILE).stat().st_mtime_ns == before
    for other, asked in (("random", {}), ("modern", {"snapshots": True}), ("modern", {"which": "finetuned"})):
        with pytest.raises(UsageError, match="nothing is overwritten"):
            write_export(runs[other], to, take_existing=True, **asked)  # type: ignore[arg-type]
    (to / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="nothing is overwritten"):
        write_export(runs["modern"], to, take_existing=True)


@pytest.mark.parametrize(
    ("run", "flags", "says"),
    [
        ("gpt2", ["--which", "finetuned"], "has no toy_llm_qasrl_finetuned.pth"),
        ("random", ["--snapshots"], "no pretraining snapshots"),
        ("modern", ["--snapshots", "--which", "finetuned"], "leave out --which finetuned"),
    ],
)
def test_refusals_are_one_line(
    run: str, flags: list[str], says: str, runs: dict[str, RunDirectory], tmp_path: Path
) -> None:
    result = CliRunner().invoke(app, ["export", str(runs[run].path), "--to", str(tmp_path / "out"), *flags])
    assert isinstance(result.exception, UsageError) and says in str(result.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", [["export", "--to", "out"], ["minimal-pairs"]])
def test_a_run_of_a_published_model_has_no_trunk_of_its_own(command: list[str], tmp_path: Path) -> None:
    model = save_model(tmp_path / "model")
    spec = ExperimentSpec.from_flags(config_name="debug", data="microworld", model=str(model), freeze_llm=True)
    run = RunStore(tmp_path).create(spec)
    result = CliRunner().invoke(app, [command[0], str(run.path), *command[1:]])
    assert isinstance(result.exception, UsageError) and "probes" in str(result.exception)


def test_a_mixture_that_transformers_lacks_is_refused_by_name() -> None:
    config = load_config("debug", ["model.activation=gelu"]).model
    with pytest.raises(
        UsageError, match="positions = rotary with norm = rmsnorm, activation = gelu and qk_norm = true"
    ):
        architecture_of(config)


def test_an_export_among_runs_is_passed_over(runs: dict[str, RunDirectory], exported: Path) -> None:
    collection = collect_results(exported.parent)
    assert not collection.found and not collection.skipped


# The hub ----------------------------------------------------------------------------------------------


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    with serving("hf_test") as standin:
        yield standin


def test_steps_become_branches_and_every_byte_arrives(
    hub: HubStandIn, runs: dict[str, RunDirectory], exported: Path
) -> None:
    from huggingface_hub import HfApi

    export = write_export(runs["modern"], exported, snapshots=True, take_existing=True)
    address = push_export(export, "me/model", HfApi(endpoint=hub.endpoint, token="hf_test"))
    assert address == f"{hub.endpoint}/me/model" and hub.private is True
    names = [trunk.folder for trunk in export.trunks[1:]]
    assert [branch for branch, _ in hub.commits] == [*names, "main"]
    for branch, files in hub.branches.items():
        folder = exported if branch == "main" else exported / branch
        assert files == {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_repository_of_something_else_is_left_alone(
    hub: HubStandIn, runs: dict[str, RunDirectory], exported: Path
) -> None:
    from huggingface_hub import HfApi

    export = write_export(runs["modern"], exported, snapshots=True, take_existing=True)
    hub.branches["main"] = {".gitattributes": b"", "model.safetensors": b"another"}
    with pytest.raises(UsageError, match=r"holds model\.safetensors and is no export"):
        push_export(export, "me/model", HfApi(endpoint=hub.endpoint, token="hf_test"))
    assert not hub.commits and len(hub.branches) == 1
    hub.branches["main"][EXPORT_FILE] = b"{}"
    assert push_export(export, "me/model", HfApi(endpoint=hub.endpoint, token="hf_test"))


def test_what_the_hub_refuses_is_one_line(hub: HubStandIn, runs: dict[str, RunDirectory], exported: Path) -> None:
    from huggingface_hub import HfApi

    export = write_export(runs["modern"], exported, snapshots=True, take_existing=True)
    with pytest.raises(UsageError, match="the hub refuses"):
        push_export(export, "me/model", HfApi(endpoint=hub.endpoint, token="hf_wrong"))
    with pytest.raises(UsageError, match="--push a/b/c"):
        push_export(export, "a/b/c", HfApi(endpoint=hub.endpoint, token="hf_test"))
    hub.refuse = 400
    with pytest.raises(EmergenceError, match="whole; the same command again"):
        push_export(export, "me/model", HfApi(endpoint=hub.endpoint, token="hf_test"))
    hub.refuse = None
    assert push_export(export, "me/model", HfApi(endpoint=hub.endpoint, token="hf_test"))
    with pytest.raises(EmergenceError, match="does not answer"):
        push_export(export, "me/model", HfApi(endpoint="http://127.0.0.1:9", token="hf_test"))
