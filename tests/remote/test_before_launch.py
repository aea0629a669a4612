"""What the laptop finds on the volume before anything is built or rented: trunks, weights, pretrainings under way."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from emergence.errors import RunDirectoryError, UnreachableError, UsageError
from emergence.experiment.listing import FileFacts
from emergence.experiment.run_directory import SPEC_FILE, STATS_FILE, TRUNK_FILE
from emergence.remote import client as remote_client
from emergence.remote import locks
from emergence.remote.calls import Look
from emergence.remote.client import VolumeFiles
from emergence.remote.launch import Request, flags_on_command_line, is_detached, launch_flags
from emergence.spec.cost import find_gpu
from emergence.spec.experiment import ExperimentSpec
from tests.command_lines import ROOT

FILE = str(ROOT / "pretrain_wikitext_finetune_qasrl_modal.py")
BASE = ("--config-name", "base")


class Volume:
    """Runs by name: the flags of their spec, and the files that they have so far."""

    def __init__(self, **runs: tuple[dict[str, Any], tuple[str, ...]]) -> None:
        self.specs = {name: ExperimentSpec.from_flags(**flags) for name, (flags, _) in runs.items()}
        self.files = {name: {SPEC_FILE, *files} for name, (_, files) in runs.items()}

    def runs(self) -> dict[str, dict[str, FileFacts]]:
        return {name: dict.fromkeys(files, FileFacts(1, 1.0)) for name, files in self.files.items()}


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``modal run FILE WORDS`` as far as the laptop goes alone, with what is on the volume and which runs are going."""

    def checked(volume: Volume, *words: str, going: tuple[str, ...] = (), detached: bool = True) -> Request | None:
        monkeypatch.setattr(remote_client, "reach_modal", lambda: None)
        monkeypatch.setattr(VolumeFiles, "runs", lambda self: volume.runs())
        monkeypatch.setattr(VolumeFiles, "spec", lambda self, run_id: volume.specs[run_id])
        monkeypatch.setattr(remote_client, "_is_running", lambda run_id: run_id in going)
        monkeypatch.setattr("sys.stdin", type("Pipe", (), {"isatty": lambda self: False})())
        flags = flags_on_command_line(["modal", "run", FILE, *words], FILE, launch_flags())
        assert flags is not None
        return remote_client._answer_without_container(flags, detached)

    return checked


WITH_TRUNK = {"BaseQA_spe800k_20260101-120000": ({"config_name": "base"}, (TRUNK_FILE, STATS_FILE))}
PRETRAINING = {"BaseQA_spe800k_20260101-120000": ({"config_name": "base"}, ())}
(RUN,) = WITH_TRUNK


@pytest.mark.parametrize("samples", ["10", "50", "100", "500"])
def test_a_trunk_that_is_there_is_not_paid_for_again(
    launch: Any, capsys: pytest.CaptureFixture[str], samples: str
) -> None:
    launch(Volume(), *BASE, "--finetune-samples", samples, "--yes")
    alone = capsys.readouterr().out
    launch(Volume(**WITH_TRUNK), *BASE, "--finetune-samples", samples)
    shared = capsys.readouterr().out
    assert f"pretraining  none, because {RUN} has this trunk\n" in shared and "tokens at most" in alone
    cost = [float(text.rpartition("$")[2].split()[0]) for text in (alone, shared)]
    assert cost[1] < cost[0] / 2


@pytest.mark.parametrize(
    "words",
    [
        (*BASE, "--seed", "1"),
        (*BASE, "--pretrain-data", "wiki+nq"),
        (*BASE, "--set", "pretrain.epochs=2"),
        (*BASE, "--fresh"),
        ("--config-name", "small"),
    ],
)
def test_another_trunk_is_pretrained(launch: Any, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    launch(Volume(**WITH_TRUNK), *words, "--yes")
    assert "tokens at most" in capsys.readouterr().out


def test_a_trunk_that_is_being_pretrained_is_not_pretrained_twice_unasked(
    launch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    few = (*BASE, "--finetune-samples", "10")
    with pytest.raises(UsageError, match=f"{RUN} pretrains this very trunk now.*add --yes"):
        launch(Volume(**PRETRAINING), *few, going=(RUN,))
    assert launch(Volume(**PRETRAINING), *few, "--yes", going=(RUN,)) is not None
    assert launch(Volume(**PRETRAINING), *few, "--dry-run", going=(RUN,)) is None
    assert launch(Volume(**PRETRAINING), *few) is not None, "it has stopped: nobody else pretrains"
    assert launch(Volume(**PRETRAINING), *BASE, going=(RUN,)) is not None, "the same experiment is refused by its lock"
    waiting = {"X_20260101-130000": ({"config_name": "base", "skip_pretrain": True}, ())}
    for volume in (Volume(), Volume(**waiting)):
        with pytest.raises(UsageError, match="--skip-pretrain: no run on the volume has this pretraining"):
            launch(volume, *BASE, "--skip-pretrain")
    random = {"X_20260101-130000": ({"config_name": "base", "random_baseline": True}, ())}
    assert launch(Volume(**random), *few, going=("X_20260101-130000",)) is not None


def test_skip_pretrain_alone_takes_the_newest_trunk_of_this_pretraining(
    launch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = {"BaseQA_spe800k_n10_20260101-130000": ({"config_name": "base", "finetune_samples": 10}, (TRUNK_FILE,))}
    assert launch(Volume(**WITH_TRUNK, **newer), *BASE, "--skip-pretrain") is not None
    assert "none, because BaseQA_spe800k_n10_20260101-130000 has this trunk" in capsys.readouterr().out
    text = ("--pretrain-text", "mine")  # its content decides, which only a container can read
    assert launch(Volume(**WITH_TRUNK), *BASE, "--skip-pretrain", *text) is not None


@pytest.mark.parametrize(
    ("path", "cure"),
    [
        ("BaseQA_spe800k_20260101-120001/toy_llm_unified_pretrained.pth", f"did you mean {RUN}/"),
        (f"{RUN}/toy_llm_unified_pretrain.pth", f"did you mean {RUN}/"),
        (RUN, f"did you mean {RUN}/"),
        (f"/{RUN}/{TRUNK_FILE}", f"did you mean {RUN}/"),
        ("BaseQA_spe800k_YYYYMMDD-HHMMSS/toy_llm_unified_pretrained.pth", f"did you mean {RUN}/"),
        ("<BaseDir>/toy_llm_unified_pretrained.pth", "not on the volume"),
        ("x", "--list-saved"),
    ],
)
def test_mistyped_weights_cost_no_container(launch: Any, path: str, cure: str) -> None:
    with pytest.raises(UsageError, match="not on the volume llm-models") as caught:
        launch(Volume(**WITH_TRUNK), *BASE, "--freeze-llm", "--skip-pretrain", "--pretrained-model-path", path)
    assert cure in str(caught.value)


def test_weights_of_another_size_cost_no_container(launch: Any) -> None:
    probe = ("--freeze-llm", "--skip-pretrain", "--pretrained-model-path", f"{RUN}/{TRUNK_FILE}")
    for before in ("", "./", "/models/", "x/../"):  # as a container finds them
        written = (*probe[:-1], before + probe[-1])
        assert launch(Volume(**WITH_TRUNK), *BASE, *written) is not None
    with pytest.raises(UsageError, match="weights of base, not small: --config-name base"):
        launch(Volume(**WITH_TRUNK), "--config-name", "small", *probe)
    alone = Volume()
    alone.files["mine"] = {"weights.pth"}  # put there by hand
    probe = (*probe[:-1], "mine/weights.pth")
    assert launch(alone, *BASE, *probe) is not None


def test_a_plan_without_the_volume_says_so(
    launch: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def offline() -> None:
        raise UnreachableError("Modal cannot be reached")

    flags = flags_on_command_line(["modal", "run", FILE, *BASE, "--dry-run"], FILE, launch_flags())
    monkeypatch.setattr(remote_client, "reach_modal", offline)
    assert flags is not None and remote_client._answer_without_container(flags) is None
    printed = capsys.readouterr().out
    assert "note         Modal cannot be reached; what is on the volume is not known" in printed
    assert "tokens at most" in printed and "dry run" in printed


def test_hours_without_d_are_warned_of(launch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    note = "hours, and the app stops when this terminal closes: modal run -d goes on"
    launch(Volume(), *BASE, "--yes", detached=False)
    assert note in capsys.readouterr().out
    launch(Volume(), *BASE, "--yes", detached=True)
    launch(Volume(), "--config-name", "tiny", detached=False)
    assert note not in capsys.readouterr().out
    monkeypatched = ["modal", "run", FILE, "-d"]  # a flag of the entry point's, not of the client's
    assert is_detached(["modal", "run", "-d", FILE], FILE) and is_detached(["modal", "run", "--detach", FILE], FILE)
    assert not is_detached(monkeypatched, FILE) and not is_detached(["modal", "run", FILE], FILE)
    assert not is_detached([sys.executable, "-d"], FILE)


@pytest.mark.parametrize("name", ["H100", "H100!", "H100!:2", "B200+", "B200", "RTX-PRO-6000", "H200:8"])
def test_a_gpu_is_asked_for_by_the_name_that_was_typed(name: str) -> None:
    assert find_gpu(name).modal_name == name == find_gpu(name.lower()).modal_name


def test_a_lock_that_a_stopped_call_left_is_taken_over_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"RUN": {"holder": "fc-gone", "train": None}}
    spec = ExperimentSpec.from_flags(config_name="debug", data="microworld")

    def spawn(job: dict[str, Any]) -> None:
        raise KeyboardInterrupt  # far enough

    monkeypatch.setattr(remote_client, "reach_modal", lambda: None)
    monkeypatch.setattr(locks, "locks", table)
    monkeypatch.setattr(locks, "look_at", lambda call_id: Look("going"))
    monkeypatch.setattr(VolumeFiles, "spec", lambda self, run_id: spec)
    monkeypatch.setattr(VolumeFiles, "facts", lambda self, folder: {})
    monkeypatch.setattr(remote_client, "prepare", type("Prepare", (), {"spawn": staticmethod(spawn)}))
    with pytest.raises(RunDirectoryError, match="being written by fc-gone"):
        remote_client._with_stored_spec(Request(resume="RUN"), "RUN")
    assert "RUN" in table
    request = remote_client._with_stored_spec(Request(resume="RUN", take_over=True), "RUN")
    with pytest.raises(KeyboardInterrupt):
        remote_client._start_and_follow(request)
    assert not table
