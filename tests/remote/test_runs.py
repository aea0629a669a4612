"""Whole experiments through the unmodified client and the real container runtime, against the stand-in."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from grpclib import Status

from emergence.experiment.run import run_experiment
from emergence.experiment.store import RunStore
from emergence.remote.launch import split_overrides
from emergence.spec.experiment import ExperimentSpec
from emergence.training.checkpoint import load_weights
from emergence.training.checkpoint_names import CheckpointName, parse_checkpoint_name
from tests.remote.standin import StandIn
from tests.remote.standin_containers import Container
from tests.remote.standin_flags import ENTRY_POINT, FLAGS, ROOT, SMALL
from tests.remote.standin_server import Fault

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DOCUMENTED = {
    "spec.json",
    "data.json",
    "history.jsonl",
    "timings.jsonl",
    "toy_llm_unified_pretrained.pth",
    "toy_llm_qasrl_finetuned.pth",
    "predictions.jsonl",
    "tokenizer.json",
    "MANIFEST.json",
    "finetune_stats.json",
    "pretrain_epoch_1.pth",
    "finetune_epoch_1.pth",
}


def run_name(output: str) -> str:
    match = re.search(r"^run +(\S+)$", output, re.MULTILINE)
    assert match, output
    return match[1]


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# The documented commands --------------------------------------------------------------------------


def commands(document: Path, heading: str) -> list[str]:
    """The lines of the shell blocks under a heading, continuation lines joined, comments dropped."""
    text = document.read_text(encoding="utf-8")
    section = re.search(rf"^(#+) {heading}\n(.*?)(?=^\1 |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, f"{document.name} has no section {heading!r}"
    blocks = re.findall(r"```bash\n(.*?)```", section[2], re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines) if line]


class Terminal:
    """A laptop's shell: runs documented lines, with a small experiment in the place of a large one."""

    def __init__(self, standin: StandIn, folder: Path) -> None:
        self.standin, self.folder = standin, folder
        self.runs: dict[str, str] = {}
        self.typed: set[str] = set()

    def type(self, line: str) -> str:
        """Run one line as it stands in the documentation, once; ``<...Dir>`` stands for the run made first."""
        if line in self.typed:
            return ""
        self.typed.add(line)
        for placeholder in re.findall(r"<\w+>", line):
            line = line.replace(placeholder, self.runs["full"])
        words = shlex.split(line)
        if words[0] in ("pip", "git", "cd") or words[:2] == ["modal", "token"]:
            return ""
        if words[0] == "mkdir":
            done = subprocess.run(words, cwd=self.folder, capture_output=True, text=True, check=False)
        elif words[:2] == ["modal", "run"]:
            done = self._launch(words)
        elif words[0] == "modal":
            done = self.standin.modal(*words[1:], cwd=self.folder)
        else:
            assert words[0] == "emergence", line
            done = self._emergence(words[1:])
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}\n{self.standin.container_output()}"
        return done.stdout

    def _launch(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        launches = ENTRY_POINT in words and not {"--list-saved", "--dry-run"} & set(words)
        small = ("--data", "microworld", "--set", SMALL) if launches else ()
        words = [str(ROOT / word) if word.endswith(".py") else word for word in words]
        done = self.standin.modal(*words[1:], *small, cwd=self.folder)
        if done.returncode == 0 and launches:
            name = run_name(done.stdout)
            spec = json.loads((self.standin.volume("llm-models") / name / "spec.json").read_text())["spec"]
            self.runs[ExperimentSpec.from_dict(spec).condition] = name
        return done

    def _emergence(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        program = "from emergence.cli import run; run()"
        environment = {**self.standin.environment(), "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, "-c", program, *words],
            env=environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )


def test_the_documented_commands_in_order(standin: StandIn, tmp_path: Path) -> None:
    folder = tmp_path / "laptop"
    folder.mkdir()
    terminal = Terminal(standin, folder)
    lines = [*commands(ROOT / "README.md", "On Modal"), *commands(ROOT / "docs" / "modal.md", "In five minutes")]
    assert len(lines) > 12
    outputs = [terminal.type(line) for line in lines]
    assert set(terminal.runs) == {"full", "frozen", "random"} and not standin.server.unknown
    volume = standin.volume("llm-models")
    full = terminal.runs["full"]
    assert full.startswith("TinyQA_spe200k_2") and terminal.runs["frozen"].startswith("TinyQA_spe200k_frozen_2")
    assert files(volume / full) >= DOCUMENTED and not list(volume.rglob("*.tmp"))
    assert RunStore(volume).open(full).verify_manifest() == []
    stats = json.loads((volume / terminal.runs["frozen"] / "finetune_stats.json").read_text())
    assert stats["freeze_llm"] is True and stats["lineage"]["run_id"] == full
    listing = next(text for text in outputs if "val F1" in text)
    assert all(name in listing for name in terminal.runs.values()) and listing.count("finished") == 3
    assert json.loads((folder / "results" / "finetune_stats.json").read_text())["run_id"] == full
    assert files(folder / "runs" / full) == {name for name in files(volume / full) if not name.startswith("analysis/")}
    assert files(volume / full / "analysis") == {"temporal_cka/temporal_cka.json", "temporal_cka/temporal_cka.npz"}
    assert any("debiased linear CKA on" in text for text in outputs)
    for call in standin.calls("prepare"):  # data never waits on rented GPUs
        assert not call.function.definition.resources.gpu_config.count
    assert {c.function.definition.resources.gpu_config.gpu_type for c in standin.calls("train")} == {"A10G"}


# What ends containers -----------------------------------------------------------------------------


class Mishaps:
    """Ends the first four training containers of a run, each in its own way, when it has got on a bit."""

    def __init__(self, standin: StandIn) -> None:
        self.standin = standin
        self.began: dict[str, CheckpointName | None] = {}
        standin.rules.interfere = self.signal_for
        standin.rules.hours_passed = self.hours_for

    def published(self) -> CheckpointName | None:
        found = self.standin.volume("llm-models").glob("*/checkpoint/*.pth")
        return max((name for path in found if (name := parse_checkpoint_name(path.name))), default=None)

    def progressed(self, container: Container) -> CheckpointName | None:
        """The newest checkpoint on the volume, if this container put it there."""
        newest = self.published()
        if not container.delivered:
            return None
        begun = self.began.setdefault(container.task_id, newest)
        return newest if newest and newest != begun else None

    def is_attempt(self, container: Container, attempt: int) -> bool:
        return container.name == "train" and container.call.attempt == attempt

    def signal_for(self, container: Container) -> signal.Signals | None:
        newest = self.progressed(container)
        if newest is None:
            return None
        if self.is_attempt(container, 0) and newest.phase == "pretrain":
            return signal.SIGKILL
        if self.is_attempt(container, 1) and newest.phase == "pretrain":
            return signal.SIGINT
        if self.is_attempt(container, 3) and newest.phase == "finetune":
            return signal.SIGKILL
        return None

    def hours_for(self, container: Container) -> float:
        """For the third attempt 24 hours pass as soon as it has got on."""
        return 24.0 if self.is_attempt(container, 2) and self.progressed(container) else 0.0


def test_whatever_ends_a_container_the_result_is_the_same(standin: StandIn, tmp_path: Path) -> None:
    """Launched with -d and the laptop closed; killed, preempted and timed out while pretraining, killed while
    finetuning: the fifth container ends with what an undisturbed local run has."""
    Mishaps(standin)
    client = standin.start("run", "-d", ENTRY_POINT, *FLAGS, cwd=ROOT)
    assert client.stdout is not None
    heard = ""
    while not heard.endswith("\n") or "resume  " not in heard:
        line = client.stdout.readline()
        assert line, heard
        heard += line
    client.kill()  # the laptop is closed before the data is even prepared
    client.communicate()
    name = run_name(heard)

    spec = ExperimentSpec.from_flags(config_name="tiny", data="microworld", set_values=split_overrides(SMALL))
    expected = RunStore(tmp_path / "local")
    run_experiment(spec, expected, cache_dir=tmp_path / "cache", run_id=name)

    wait_for(lambda: bool(standin.calls("train")), standin)
    second = standin.modal("run", ENTRY_POINT, "--resume", name, cwd=ROOT)
    assert second.returncode == 1 and f"{name} is being written by" in second.stderr
    (call,) = standin.calls("train")
    wait_for(call.done.is_set, standin)

    outcomes = re.findall(r"ended: (.*)", "".join(log.items[0].data for log in call.function.app.logs))
    assert outcomes[1:] == ["signal 9", "exit 0", "timeout", "signal 9", "exit 0"], standin.container_output()
    assert "resumed run" in call.containers[-1].text
    same_run(expected.open(name).path, standin.volume("llm-models") / name)


def wait_for(condition: Callable[[], bool], standin: StandIn, seconds: float = 400) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, standin.container_output()
        time.sleep(0.05)


def same_run(one: Path, other: Path) -> None:
    """Equal bytes where only the seed decides, equal weights, equal results."""
    assert files(one) == files(other)
    for name in ("history.jsonl", "predictions.jsonl", "tokenizer.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    for path in sorted(one.glob("*.pth")):
        mine, theirs = load_weights(path).state_dict, load_weights(other / path.name).state_dict
        assert mine.keys() == theirs.keys() and all(mine[key].equal(theirs[key]) for key in mine), path.name
    assert decided_by_seed(one) == decided_by_seed(other)
    versions = [json.loads((folder / "finetune_stats.json").read_text())["versions"] for folder in (one, other)]
    assert versions[0]["commit"] == versions[1]["commit"]  # the container has no git: the launch told it


def decided_by_seed(folder: Path) -> dict[str, Any]:
    stats = json.loads((folder / "finetune_stats.json").read_text())
    # Times, places and machines differ, and so do the checksums of what they stand in.
    for key in ("seconds", "tokens_per_second", "versions", "sha256", "lineage", "data"):
        stats.pop(key)
    return {key: value for key, value in stats.items() if "second" not in key}


# What comes between a run and the server ---------------------------------------------------------------


class BadWeather:
    """Every kind of call that follows, locks and publishes fails a few times, with another status each time.

    Four times in a row is more than the client tries by itself; every other error comes where the work is done.
    """

    STATUSES = (*[Status.UNAVAILABLE] * 4, *[Status.INTERNAL] * 4, Status.RESOURCE_EXHAUSTED, Status.UNAUTHENTICATED)
    CALLS = ("FunctionGetOutputs", "DictGet", "DictUpdate", "DictPop", "VolumeCommit", "FunctionMap")

    def __init__(self, standin: StandIn) -> None:
        self.count: dict[tuple[str, bool], int] = {}
        self.sent: set[tuple[str, Status]] = set()
        standin.server.fault = self.fault_of

    def fault_of(self, name: str, task: str) -> Fault | None:
        if name not in self.CALLS or (name == "FunctionMap" and not task):
            return None  # what the laptop launches, it launches once: a person is there to see
        number = self.count[name, bool(task)] = self.count.get((name, bool(task)), -1) + 1
        if number >= len(self.STATUSES):
            return None
        self.sent.add((name, status := self.STATUSES[number]))
        return Fault(status, done=number % 2 == 1 and name != "FunctionGetOutputs")


def test_a_server_that_does_not_answer_neither_ends_nor_doubles_a_run(standin: StandIn) -> None:
    weather = BadWeather(standin)
    done = standin.modal("run", ENTRY_POINT, *FLAGS, cwd=ROOT, EMERGENCE_PATIENCE_SECONDS="60")
    assert done.returncode == 0, done.stdout + done.stderr + standin.container_output()
    assert {name for name, _ in weather.sent} == {*weather.CALLS} and len(weather.sent) >= 12
    (name,) = {path.name for path in standin.volume("llm-models").iterdir()}
    assert RunStore(standin.volume("llm-models")).open(name).verify_manifest() == []
    wrote = [container for container in standin.containers("train") if "new run" in container.text]
    assert len(wrote) == 1 and all(call.done.is_set() for call in standin.server.calls.values())
    assert not any(key for key in standin.server.dicts["emergence-run-locks"]), "the run is given back"


# Faults of ours that the stand-in must show ----------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the program, to be broken."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("emergence", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ENTRY_POINT, folder)
    return folder


def breaks(checkout: Path, file: str, old: str, new: str) -> None:
    path = checkout / "emergence" / file
    text = path.read_text()
    assert text.count(old) == 1, f"{file} no longer has {old!r}"
    path.write_text(text.replace(old, new))


def test_without_commits_a_killed_run_would_begin_again(standin: StandIn, checkout: Path) -> None:
    breaks(
        checkout,
        "remote/app.py",
        'MODELS / job["run_id"], models_volume.commit,',
        'MODELS / job["run_id"], lambda: None,',
    )

    def has_checkpoint(container: Container) -> bool:
        return container.name == "train" and any((container.root / "work" / "runs").glob("*/checkpoint/*.pth"))

    standin.once(signal.SIGKILL, has_checkpoint)
    done = standin.modal("run", ENTRY_POINT, *FLAGS, "--skip-finetune", cwd=checkout)
    assert done.returncode == 0, done.stderr
    first, second = (container.text for container in standin.calls("train")[0].containers)
    assert "new run" in first and "new run" in second and "resumed run" not in second


def test_what_hangs_for_good_is_killed_from_inside_and_given_up(standin: StandIn, checkout: Path) -> None:
    """The main thread hears no signal any more, as in a call to the GPU that never returns."""
    hang = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])\n    time.sleep(3600)\n    "
    breaks(checkout, "remote/container.py", "result = run_experiment(", f"{hang}result = run_experiment(")
    standin.rules.environment.update({"EMERGENCE_SILENT_SECONDS": "30", "EMERGENCE_GRACE_SECONDS": "1"})
    done = standin.modal("run", ENTRY_POINT, *FLAGS, "--max-cost", "2", cwd=checkout)
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert done.returncode == 1 and "3 attempts in a row brought no newer checkpoint" in line, done.stderr
    assert "nothing moved for 0.5 minutes" in line
    (call,) = standin.calls("train")
    # A fourth container only says how the third one ended, if that could not say so itself.
    assert call.function.definition.timeout_secs == 3600 and len(call.containers) in (3, 4)
    assert [each.text.count("ending this attempt") for each in call.containers[:3]] == [1, 1, 1]
    assert any("ending the container" in each.text for each in call.containers)  # others were still importing torch
    assert not standin.server.dicts["emergence-run-locks"] and call.done.is_set()


def test_without_the_mount_nothing_starts(standin: StandIn, checkout: Path) -> None:
    breaks(checkout, "remote/app.py", '.add_local_python_source("emergence")', "")
    done = standin.modal("run", ENTRY_POINT, *FLAGS, cwd=checkout)
    assert done.returncode == 1 and "No module named 'emergence'" in done.stdout + done.stderr


def test_user_errors_of_a_container_are_one_line_and_never_retried(standin: StandIn) -> None:
    done = standin.modal("run", ENTRY_POINT, *FLAGS, "--finetune-samples", "100000", cwd=ROOT)
    assert done.returncode == 2 and done.stderr.strip().splitlines()[-1].startswith(
        "error: --finetune-samples must be between 1 and"
    )
    assert len(standin.containers("prepare")) == 1 and not standin.containers("train")


def test_several_gpus_are_several_workers_of_one_container(standin: StandIn) -> None:
    done = standin.modal("run", ENTRY_POINT, *FLAGS, "--gpu", "A10G:2", "--skip-finetune", cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    (call,) = standin.calls("train")
    assert call.function.definition.resources.gpu_config.count == 2 and len(call.containers) == 1
    run = RunStore(standin.volume("llm-models")).open(run_name(done.stdout))
    assert run.is_finished and run.verify_manifest() == []
    assert json.loads(run.stats_path.read_text())["pretraining"]["steps"] == 100


# The laptop alone --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--freeze-llm", "--skip-pretrain"), 2, "--pretrained-model-path"),
        (("--config-name", "base", "--max-cost", "0.5"), 2, "--max-cost 0.5"),
        (("--config-name", "medium", "--gpu", "T4"), 2, "--yes"),
        (("--config-name", "gigantic"), 2, "debug"),
        (("--dry-run",), 0, "nothing was launched"),
    ],
)
def test_flags_are_answered_before_anything_is_sent(
    standin: StandIn, words: tuple[str, ...], code: int, says: str
) -> None:
    done = standin.modal("run", ENTRY_POINT, *words, cwd=ROOT)
    assert done.returncode == code and says in done.stdout + done.stderr
    # What runs there are may be looked at: one of them may have this trunk.
    assert {*standin.server.received} <= {"ClientHello", "VolumeGetOrCreate", "VolumeListFiles", "VolumeGetFile2"}
    if code and says != "debug":
        assert done.stderr.startswith("error: ") and len(done.stderr.strip().splitlines()) == 1


def test_help_needs_no_token_and_no_torch(standin: StandIn) -> None:
    assert not (standin.laptop / "torch").exists() and not (standin.laptop / "numpy").exists()
    done = standin.modal("run", ENTRY_POINT, "--help", cwd=ROOT, MODAL_TOKEN_ID="", MODAL_TOKEN_SECRET="")
    assert done.returncode == 0 and "--pretrained-model-path" in done.stdout and standin.server.received == []


def test_the_traps_of_volume_get_are_as_documented(standin: StandIn, tmp_path: Path) -> None:
    standin.modal("volume", "create", "llm-models", cwd=tmp_path)
    run = standin.volume("llm-models") / "RUN" / "checkpoint"
    run.mkdir(parents=True)
    (run.parent / "x.json").write_text("{}")
    (run / "1.pth").write_text("1")
    standin.modal("volume", "get", "llm-models", "RUN/x.json", "./results/", cwd=tmp_path)
    assert (tmp_path / "results").is_file()
    assert standin.modal("volume", "get", "llm-models", "RUN/", "./tiny/", cwd=tmp_path).returncode == 1
    (tmp_path / "there").mkdir()
    standin.modal("volume", "get", "llm-models", "RUN/", "./there/", cwd=tmp_path)
    assert files(tmp_path / "there") == {"RUN/x.json", "RUN/checkpoint/1.pth"}


PULL = """
import sys
from pathlib import Path
from emergence.errors import EmergenceError
import emergence.remote.pull
from emergence.remote.pull import pull_run
from emergence.remote.client import VolumeFiles
emergence.remote.pull.FIRST_PAUSE = 0.01
try:
    print(len(pull_run(VolumeFiles(), "RUN", Path(sys.argv[1])).downloaded), "files")
except EmergenceError as error:
    print(error)
"""


def test_a_pull_survives_a_dropped_connection(standin: StandIn, tmp_path: Path) -> None:
    """The client itself tries a block five times; beyond that, the same command goes on."""
    store = RunStore(standin.volume("llm-models"))
    run = store.create(ExperimentSpec.from_flags(), run_id="RUN")
    (run.path / "weights.pth").write_bytes(b"weights" * 100_000)
    run.write_stats({"config_name": "tiny"})

    def pull() -> str:
        environment = {**standin.environment(), "PYTHONPATH": f"{ROOT}:{standin.laptop}"}
        words = [sys.executable, "-S", "-c", PULL, str(tmp_path)]
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout

    standin.modal("volume", "create", "llm-models", cwd=tmp_path)
    standin.dropped_downloads = 1000
    assert "the same command goes on" in pull()
    standin.dropped_downloads = 2
    assert pull() == "3 files\n"
    assert (tmp_path / "RUN" / "weights.pth").read_bytes() == b"weights" * 100_000
