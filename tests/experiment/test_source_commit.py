"""The commit that a number was made with: from git, from the launch, or nothing; never a guess."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from emergence.experiment import source_commit as module
from emergence.experiment.result import current_versions
from emergence.experiment.source_commit import VARIABLE, commit_of, source_commit
from emergence.remote import container
from emergence.remote.launch import job_of
from emergence.spec.experiment import ExperimentSpec

UNKNOWN = {"commit": None, "modified": None}
SHA = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package in a repository with one commit."""
    package = tmp_path / "emergence"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for words in (
        ("init", "-q"),
        ("add", "."),
        ("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "first"),
    ):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    return package


def test_a_checkout_tells_its_commit_and_what_differs_from_it(package: Path) -> None:
    head = subprocess.check_output(["git", "-C", str(package), "rev-parse", "HEAD"], text=True).strip()
    assert commit_of(package) == {"commit": head, "modified": False}
    (package.parent / "notes.txt").write_text("beside the package")
    assert commit_of(package)["modified"] is False
    (package / "new.py").write_text("x = 1")
    assert commit_of(package) == {"commit": head, "modified": True}
    (package / "new.py").unlink()
    (package / "__init__.py").write_text("changed")
    assert commit_of(package)["modified"] is True


def test_what_git_does_not_track_has_no_commit(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = package.parent / ".venv" / "site-packages" / "emergence"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert commit_of(installed) == UNKNOWN
    (untracked := tmp_path / "other").mkdir()
    (untracked / "__init__.py").write_text("")
    assert commit_of(untracked) == UNKNOWN, "beside the repository's own folder, and not in it"
    monkeypatch.setenv("PATH", "")
    assert commit_of(package) == UNKNOWN, "no git"


@pytest.mark.parametrize(
    ("sent", "known"),
    [
        (json.dumps({"commit": SHA, "modified": True}), {"commit": SHA, "modified": True}),
        (json.dumps(UNKNOWN), UNKNOWN),
        (json.dumps({"commit": "\x1b[31m", "modified": 1}), UNKNOWN),
        ("[1]", UNKNOWN),
        ("{", UNKNOWN),
    ],
)
def test_a_container_takes_what_the_launch_sent(sent: str, known: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, sent)
    source_commit.cache_clear()
    try:
        assert source_commit() == known
    finally:
        source_commit.cache_clear()


def test_every_result_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, json.dumps({"commit": SHA, "modified": False}))
    module.source_commit.cache_clear()
    try:
        assert {"commit": SHA, "modified": False}.items() <= current_versions().items()
    finally:
        module.source_commit.cache_clear()


def test_a_job_tells_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ExperimentSpec.from_flags(config_name="debug", data="microworld")
    job = {**job_of(spec, "RUN", None), "source": {"commit": SHA, "modified": True}}
    monkeypatch.setenv(VARIABLE, "")  # what the call leaves behind is undone
    seen = []
    monkeypatch.setattr("emergence.experiment.run.run_experiment", lambda *_, **__: seen.append(os.environ[VARIABLE]))
    container.run_in_process(job, lambda: False)
    assert [json.loads(text) for text in seen] == [job["source"]]
    seen.clear()
    del job["source"]  # launched by a version that did not tell
    container.run_in_process(job, lambda: False)
    assert len(seen) == 1
