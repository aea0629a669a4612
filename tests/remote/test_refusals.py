"""What keeps a laptop from Modal is one line with its cure: no token, no network, an error for an answer, no extras."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpclib
import modal
import pytest

from emergence.commands import sweep as sweep_command
from emergence.errors import EmergenceError, UnreachableError, install_line, missing_package
from emergence.remote import client as remote_client
from emergence.remote import refusals
from emergence.remote.refusals import refusal, refuse_if_unreachable
from emergence.spec.experiment import ExperimentSpec
from emergence.sweep.graph import Graph, Task
from emergence.sweep.record import Record, record_path
from tests.command_lines import ROOT, Ended, run_file, typed

LAUNCHER, ANALYSIS = "pretrain_wikitext_finetune_qasrl_modal.py", "temporal_cka_analysis.py"
#: Every way from a laptop to Modal; {runs} holds the record of a sweep.
WAYS = (
    f"modal run {LAUNCHER} --list-saved",
    f"modal run {LAUNCHER} --config-name tiny",
    f"modal run -d {LAUNCHER} --resume RUN",
    f"modal run {LAUNCHER} --resume RUN --dry-run",
    f"modal run {ANALYSIS} --model-dir RUN",
    "emergence pull RUN",
    "emergence sweep --on modal --yes --runs-dir {runs}",
    "emergence sweep status --runs-dir {runs}",
    "emergence sweep resume --runs-dir {runs}",
    "emergence sweep cancel --runs-dir {runs}",
)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder of runs with the record of a sweep on Modal."""
    spec = ExperimentSpec.from_flags(config_name="debug", data="microworld", random_baseline=True)
    tasks = [Task(spec.experiment_id, "D-R-F-ALL", spec, is_pretraining=False)]
    record = Record("m-1", record_path(tmp_path, "m-1"), "modal", 1, str(tmp_path), Graph(tasks))
    record.conductor = "fc-1"
    record.save()
    return tmp_path


@pytest.fixture(autouse=True)
def not_connected() -> Iterator[None]:
    remote_client.reach_modal.cache_clear()
    yield
    remote_client.reach_modal.cache_clear()


def end_of(line: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> Ended:
    """How a command line of :data:`WAYS` ends, in this process."""
    words = line.format(runs=runs).split()
    if words[0] != "modal":
        return typed(*words)
    file = next(word for word in words if word.endswith(".py"))
    with pytest.raises(SystemExit) as end:
        run_file(file, *(str(ROOT / word) if word == file else word for word in words))
    captured = capsys.readouterr()
    return Ended(end.value.code, captured.out, captured.err)


@pytest.mark.parametrize("line", WAYS)
def test_without_a_token_every_way_ends_in_one_line(
    line: str, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_token() -> None:
        raise modal.exception.AuthError("Token missing. Could not authenticate client.\nIf you have credentials, ...")

    monkeypatch.setattr(remote_client, "has_credentials", lambda setting: False)
    monkeypatch.setattr(modal.Client, "from_env", no_token)
    ended = end_of(line, runs, capsys)
    assert ended.code == 2 and ended.err == "error: this machine has no Modal token: modal token new\n", ended


@pytest.fixture
def closed_port() -> str:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("line", WAYS)
def test_without_a_network_every_way_ends_in_one_line_at_once(
    line: str, runs: Path, closed_port: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("TOKEN_ID", "ak-1"), ("TOKEN_SECRET", "as-1"), ("SERVER_URL", closed_port)):
        monkeypatch.setenv(f"MODAL_{name}", value)
    began = time.monotonic()
    ended = end_of(line, runs, capsys)
    assert time.monotonic() - began < 10, "the client itself tries for a minute"
    assert ended.code == 1 and ended.err.startswith(f"error: Modal cannot be reached ({closed_port}: "), ended
    assert ended.err.count("\n") == 1


def test_a_sweep_is_planned_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline() -> None:
        raise UnreachableError("Modal cannot be reached")

    monkeypatch.setattr("emergence.remote.sweep.reach_modal", offline)
    said: list[str] = []
    options = sweep_command.Options(dry_run=True, out=said.append, say=said.append)
    assert sweep_command.start("matrix", "modal", tmp_path, options, only=["T-*"]) == 0
    text = "\n".join(said)
    assert "T-W-F-ALL" in text and "$" in text and "dry run: nothing was started" in text
    assert "note: Modal cannot be reached; what is done already is not known, so the plan is for all of it" in text
    with pytest.raises(UnreachableError):  # only a plan can do without
        sweep_command.start("matrix", "modal", tmp_path, sweep_command.Options(yes=True), only=["T-*"])


@pytest.mark.parametrize(
    ("error", "code", "cure"),
    [
        (modal.exception.AuthError("Token missing. Could not"), 2, "modal token new"),
        (modal.exception.AuthError("Token ID is malformed"), 2, "modal token new"),
        (modal.exception.ConnectionError("Could not connect to the Modal server."), 1, "check the network"),
        (modal.exception.VersionError("too old"), 1, "pip install -U 'modal"),
        (modal.exception.NotFoundError("Volume 'x'\nnot found"), 1, "modal profile list"),
        (modal.exception.PermissionDeniedError("no"), 1, "modal profile list"),
        (modal.exception.ResourceExhaustedError("spend limit"), 1, "limit"),
        (modal.exception.InternalError("oh"), 1, "the same command again"),
        (modal.exception.ServiceError("oh"), 1, "the same command again"),
        (modal.exception.RemoteError("oh"), 1, "the same command again"),
        (modal.exception.FunctionTimeoutError("oh"), 1, "the same command again"),
        (modal.exception.ImageBuildError("oh", "im-1"), 1, "the image could not be built"),
        (modal.exception.ClientClosed(1), 1, "the same command again"),
        (grpclib.GRPCError(grpclib.Status.UNAVAILABLE, "gone"), 1, "the same command again"),
        (grpclib.exceptions.StreamTerminatedError("Connection lost"), 1, "the same command again"),
        (ModuleNotFoundError("No module named 'sklearn.svm'", name="sklearn.svm"), 2, "pip install -e '.[local]'"),
        (ModuleNotFoundError("No module named 'typer'", name="typer"), 2, "pip install -e ."),
        (EmergenceError("mine", 7), 7, "mine"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_an_answer_that_is_an_error_is_one_line(error: Exception, code: int, cure: str) -> None:
    one_line = refusal(error)
    assert one_line is not None and one_line.exit_code == code
    assert cure in str(one_line) and "\n" not in str(one_line)


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("a defect"),
        KeyError("a defect"),
        modal.exception.DeprecationError("a defect"),
        ModuleNotFoundError("No module named 'emergence.x'", name="emergence.x"),
        ImportError("cannot import name 'x' from 'numpy'", name="numpy"),
    ],
    ids=repr,
)
def test_a_defect_keeps_its_traceback(error: Exception) -> None:
    assert refusal(error) is None


def test_one_server_of_several_is_enough(closed_port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "CONNECT_SECONDS", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        refuse_if_unreachable(f"{closed_port}, {url}")
    refuse_if_unreachable("unix:///no/such/socket")  # for the client to say
    for urls in (closed_port, f"{closed_port},http://no-such-host.invalid"):
        with pytest.raises(UnreachableError, match="cannot be reached"):
            refuse_if_unreachable(urls)


def test_every_dependency_has_an_install_line() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    modules: dict[str, Any] = {"scikit-learn": "sklearn"}
    extras = {
        "": project["dependencies"],
        **{k: project["optional-dependencies"][k] for k in ("local", "report", "hf", "laws")},
    }
    for extra, requirements in extras.items():
        for name in (text.partition(">")[0] for text in requirements if not text.startswith("emergence")):
            assert install_line(modules.get(name, name)) == (
                f"pip install -e '.[{extra}]'" if extra else "pip install -e ."
            )
    assert missing_package(ModuleNotFoundError("No module named 'antigravity'", name="antigravity")) is None


# With nothing but ``pip install modal`` --------------------------------------------------------------

#: Runs each file in one process, as ``python FILE WORDS`` would, without the packages that are its arguments, and
#: prints its exit code and the last line it says.
RUN_ALL = """
import contextlib, importlib.machinery, io, runpy, sys
absent = set(sys.argv[1:])
class Without:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] not in absent:
            return importlib.machinery.PathFinder.find_spec(name, path, target)
sys.meta_path = [Without if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
for line in sys.stdin.read().splitlines():
    file, *words = line.split()
    out, sys.argv, code = io.StringIO(), [file, *words], 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            (runpy.run_path if file.endswith(".py") else runpy.run_module)(file, run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
    print(code, out.getvalue().strip().splitlines()[-1:])
"""
HEAVY = ("torch", "numpy", "scipy", "sklearn", "datasets", "tokenizers", "pyarrow", "matplotlib", "jinja2")


@pytest.mark.parametrize("has_modal", [True, False])
def test_what_is_not_installed_is_named(tmp_path: Path, has_modal: bool) -> None:
    typer = "error: this needs typer, which is not installed: pip install -e ."
    lines = {
        "verify_qasrl_alignment.py": typer,
        "scripts/compile_results.py": typer,
        "scripts/generate_figures.py": typer,
        "scripts/run_matrix.py --help": typer,
        "emergence --help": typer,
        "emergence list": typer,
    }
    if has_modal:
        lines["emergence pull RUN"] = "error: this machine has no Modal token: modal token new"
        lines[f"{ANALYSIS} --model-dir X"] = "error: an analysis on this machine needs torch: pip install -e '.[local]'"
    else:
        absent = "error: this needs modal, which is not installed: pip install -e ."
        lines |= dict.fromkeys((f"{ANALYSIS} --help", f"{LAUNCHER} --help", "emergence pull RUN"), absent)
    environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(tmp_path), "MODAL_CONFIG_PATH": str(tmp_path / "x")}
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL, "typer", "tqdm", *HEAVY, *([] if has_modal else ["modal"])],
        input="\n".join(lines),
        env={**environment, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == [f"2 {[text]!r}" for text in lines.values()], done.stderr
