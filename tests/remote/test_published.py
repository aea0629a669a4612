"""Published models on Modal: what they are estimated to cost, where containers find them, one run of each kind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emergence.errors import DataError, UsageError, WeightsError
from emergence.experiment.store import RunStore
from emergence.model.huggingface import ModelFiles, find_model
from emergence.remote.container import SHOWN_SCORES
from emergence.remote.launch import Request, job_of, launch_flags
from emergence.remote.published import bring_model, keep_model
from emergence.spec.cost import MOST_ATTEMPT_SECONDS, ask_if_dear, plan_experiment, refuse_if_too_dear
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.local_time import core_time
from emergence.spec.published import changes_nothing, published_parameters
from emergence.spec.workload import workload_of
from tests.remote.standin import StandIn
from tests.remote.test_runs import ENTRY_POINT, ROOT, SMALL, run_name

pytest.importorskip("transformers")
from tests.published_models import save_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def spec_of(model: str, *sets: str, **flags: Any) -> ExperimentSpec:
    return ExperimentSpec.from_flags(model=model, freeze_llm=True, set_values=sets, **flags)


# What it costs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("EleutherAI/pythia-160m", 160e6),
        ("EleutherAI/pythia-1.4b-deduped", 1.4e9),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 135e6),
        ("allenai/OLMo-2-0425-1B", 1e9),
        ("Qwen/Qwen2.5-0.5B", 5e8),
        ("openai-community/gpt2", 124_439_808),
        ("mistralai/Mixtral-8x7B-v0.1", None),
        ("someone/model", None),
        ("someone/m4", None),
        ("TinyLlama/TinyLlama-1.1B-step-50K-105b", 1.1e9),  # the second number counts tokens
    ],
)
def test_the_size_of_a_model_is_what_its_name_tells(name: str, weights: float | None) -> None:
    plan = plan_experiment(spec_of(name))
    assert plan.parameters == weights and (plan.hours is None) == (plan.dollars is None) == (weights is None)
    assert workload_of(spec_of(name)).is_known == (weights is not None)


def test_of_a_directory_here_the_files_tell_it(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "pythia-999b")
    found = find_model(str(folder))
    assert published_parameters(str(folder)) == found.n_values < 10**6
    shutil.copy(folder / "model.safetensors", folder / "consolidated.safetensors")  # as some publish it beside
    assert published_parameters(str(folder)) == found.n_values
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    index = {"weight_map": {"a": "part.safetensors", "b": "part.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert published_parameters(str(folder)) == found.n_values
    (folder / "part.safetensors").rename(folder / "model.safetensors")
    (tmp_path / "many").mkdir()
    shutil.move(folder, tmp_path / "many" / "step8")
    assert published_parameters(str(tmp_path / "many")) == found.n_values
    weights = tmp_path / "many" / "step8" / "model.safetensors"
    whole = weights.read_bytes()
    odd = [b"\xff" * 20, whole[:-10], b"", b"[" * 200_000, b"\x40\x9c" + bytes(6) + b"[" * 40_000]
    for shape, end in (([-10, 10], 8), ([10**9, 10**9], 8), (["a"], 8), ([2, 2], 10**9)):
        header = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
        odd.append(len(header).to_bytes(8, "little") + header + bytes(16))
    for content in odd:
        weights.write_bytes(content)
        with pytest.raises(WeightsError, match=r"model\.safetensors: missing, damaged or no safetensors file"):
            plan_experiment(spec_of(str(tmp_path / "many")))
    weights.unlink()
    (weights.parent / "model.safetensors.index.json").unlink()
    assert "neither its name nor its files tell its size" in plan_experiment(spec_of(str(tmp_path / "many"))).text()


def test_larger_models_and_more_levels_cost_more() -> None:
    small, large = plan_experiment(spec_of("a/m-160m")), plan_experiment(spec_of("a/m-410m"))
    one_level = plan_experiment(spec_of("a/m-410m", 'probe.layers="3"'))
    assert small.dollars and large.dollars and one_level.dollars
    assert small.dollars < large.dollars > one_level.dollars
    assert core_time(spec_of("a/m-160m")).most > core_time(spec_of("a/m-160m", finetune_samples=100)).most


def test_an_unknown_cost_is_agreed_to_or_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_experiment(spec_of("someone/model"))
    assert plan.attempt_seconds == MOST_ATTEMPT_SECONDS and plan.to_dict()["dollars"] is None
    assert "not known" in plan.text() and "its name does not tell its size" in plan.text()
    with pytest.raises(UsageError, match="nobody knows yet what it costs"):
        ask_if_dear(plan.dollars, yes=False)
    ask_if_dear(plan.dollars, yes=True)
    ask_if_dear(plan.dollars, yes=False, max_cost=5.0)
    with pytest.raises(UsageError, match="the estimate is above"):
        ask_if_dear(99.0, yes=False, max_cost=500.0)  # a limit is no consent to what is known to be dear
    refuse_if_too_dear(plan, 5.0)  # the run itself ends there
    with pytest.raises(UsageError, match="give an amount"):
        refuse_if_too_dear(plan, -1.0)
    assert job_of(plan.spec, "RUN", None)["dollars_per_hour"] == plan.dollars_per_hour > 1


@pytest.mark.parametrize(
    ("model", "flags", "says"),
    [
        ("/home/me/models/olmo", {}, "modal volume put llm-training-data /home/me/models/olmo olmo"),
        ("~/olmo", {}, "a path of this machine"),
        ("../olmo", {}, "a path of this machine"),
        ("a/m-160m", {"gpu": "A10G:2"}, "read on one GPU: --gpu A10G"),
        ("a/m-30b", {}, r"the container has 24 and the GPU 24 GiB: take --set compute.memory_gigabytes=113 and a"),
        ("a/m-7b", {"set": "compute.memory_gigabytes=64"}, r"and the GPU 24 GiB: take a larger --gpu, or --set probe"),
        ("a/m-160m", {"qa_data": "/home/me/qa"}, "modal volume put llm-training-data /home/me/qa qa, then --qa-data"),
        ("a/m-160m", {"max_cost": 0.01}, r"or fewer questions \(--finetune-samples N\)"),
    ],
)
def test_what_no_container_can_read_is_refused_on_the_laptop(model: str, flags: dict[str, Any], says: str) -> None:
    values = {each.name: each.default for each in launch_flags()} | {"model": model, "freeze_llm": True} | flags
    with pytest.raises(UsageError, match=says):
        Request.from_flags(values).plan()


# Where containers find it -------------------------------------------------------------------------


@pytest.fixture
def download(tmp_path: Path) -> Callable[..., ModelFiles]:
    """A model as a download leaves it in the hub's cache: files are links into a folder of blobs."""

    def make(revision: str | None = None) -> ModelFiles:
        home = tmp_path / "laptop" / "models--org--toy"
        if not home.exists():
            files = save_model(tmp_path / "files")
            snapshot = home / "snapshots" / COMMIT
            snapshot.mkdir(parents=True)
            (home / "blobs").mkdir()
            for path in files.iterdir():
                (snapshot / path.name).symlink_to(shutil.copy(path, home / "blobs" / f"blob-{path.name}"))
        ref = home / "refs" / (revision or "main")
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(COMMIT)
        return find_model("org/toy", revision, cache_dir=home.parent)

    return make


@pytest.mark.parametrize("revision", [None, "step8", COMMIT])
def test_a_download_is_there_for_the_next_container(
    revision: str | None, download: Callable[..., ModelFiles], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = download(revision)
    assert keep_model(found, tmp_path / "data") and not keep_model(found, tmp_path / "data")
    shutil.rmtree(tmp_path / "laptop")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    home = tmp_path / "next"
    bring_model("org/toy", "another", tmp_path / "data", tmp_path / "files", home)
    assert not home.exists()  # another revision is not taken for this one
    bring_model("org/toy", revision, tmp_path / "data", tmp_path / "files", home)
    again = find_model("org/toy", revision, cache_dir=home / "hub")
    assert again.commit == COMMIT and again.weights_digest == find_model(str(tmp_path / "files")).weights_digest
    assert not [path for path in home.rglob("*") if path.is_symlink()]


def test_a_directory_of_this_machine_is_not_kept(tmp_path: Path) -> None:
    assert not keep_model(find_model(str(save_model(tmp_path / "here"))), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_what_was_put_on_the_volume_is_brought(tmp_path: Path) -> None:
    data, files = tmp_path / "data", tmp_path / "files"
    for step in (0, 8):
        save_model(data / "mine" / "toy" / f"step{step}")
    bring_model("mine/toy", "step8", data, files, tmp_path)
    assert [path.name for path in (files / "mine" / "toy").iterdir()] == ["step8"]
    bring_model("mine/toy", "step9", data, files, tmp_path)
    with pytest.raises(UsageError, match=r"no revision 'step9' .*: it has step0, step8"):
        find_model(str(files / "mine" / "toy"), "step9")
    bring_model("./mine/toy", None, data, files, tmp_path)
    assert (files / "mine" / "toy" / "step0" / "model.safetensors").is_file()
    (data / "study").mkdir()
    for name in ("toy.pth", "vocab.txt", "other.pth"):
        (data / "study" / name).write_text(name)
    bring_model("study/toy.pth", None, data, files, tmp_path)
    (data / "at_root.pth").write_text("")
    (data / "vocab.txt").write_text("words")
    bring_model("at_root.pth", None, data, files, tmp_path)
    assert (files / "vocab.txt").read_text() == "words"
    assert {path.name for path in (files / "study").iterdir()} == {"toy.pth", "vocab.txt"}
    for absent in ("./absent", "study/absent.pth"):
        with pytest.raises(DataError, match="modal volume put llm-training-data"):
            bring_model(absent, None, data, files, tmp_path)


# Runs ---------------------------------------------------------------------------------------------

#: As the stand-in's small run, without what a published model brings itself.
SETTINGS = ",".join(part for part in SMALL.split(",") if not changes_nothing(part))
FLAGS = ("--freeze-llm", "--data", "microworld", "--set", SETTINGS, "--yes")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_models_from_the_volume_and_from_a_download_are_probed_alike(
    standin: StandIn, tmp_path: Path, download: Callable[..., ModelFiles]
) -> None:
    found = download()
    refused = standin.modal("run", ENTRY_POINT, "--model", str(tmp_path / "files"), *FLAGS, cwd=ROOT)
    assert refused.returncode == 2 and "modal volume put llm-training-data" in refused.stderr
    assert not standin.containers("prepare")
    shutil.copytree(tmp_path / "files", standin.volume("llm-training-data") / "toy")  # as `modal volume put` leaves it
    keep_model(replace(found, name="org/toy"), standin.volume("llm-training-data"))
    results = []
    for words in (("--model", "toy"), ("--model", "org/toy"), ("--model", "toy", "--random-baseline")):
        done = standin.modal("run", ENTRY_POINT, *words, *FLAGS, cwd=ROOT)
        assert done.returncode == 0, done.stdout + done.stderr + standin.container_output()
        assert "not known; $" in done.stdout
        run = RunStore(standin.volume("llm-models")).open(run_name(done.stdout))
        assert run.is_finished and run.verify_manifest() == []
        results.append(json.loads(run.stats_path.read_text()))
    ours, theirs, twin = ([stats[key] for key in SHOWN_SCORES] for stats in results)
    assert ours == theirs != twin and None not in ours
    for call in standin.calls("prepare"):
        assert not call.function.definition.resources.gpu_config.count
    done = standin.modal("run", ENTRY_POINT, "--model", "toy", "--revision", "step9", *FLAGS, cwd=ROOT)
    assert done.returncode == 2 and "has no revision 'step9'" in done.stderr
    assert len(standin.containers("train")) == 3
