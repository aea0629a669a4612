"""A live log of a run on Modal: its key by the name of a secret, its package, and a run that needs neither."""

from __future__ import annotations

import subprocess
import types
from typing import Any

import modal
import pytest

from emergence.errors import UsageError
from emergence.remote import client as remote_client
from emergence.remote import container
from emergence.remote.launch import Request, flags_on_command_line, launch_flags, split_names
from tests.command_lines import ROOT

FILE = str(ROOT / "pretrain_wikitext_finetune_qasrl_modal.py")


def request(*words: str) -> Request:
    flags = flags_on_command_line(["modal", "run", FILE, *words], FILE, launch_flags())
    assert flags is not None
    return Request.from_flags(flags)


@pytest.mark.parametrize(
    ("words", "cure"),
    [
        (("--log", "wandb"), "modal secret create wandb WANDB_API_KEY=..., then add --secret wandb"),
        (("--log", "wandb", "--secret", " , "), "add --secret wandb"),
        (("--log", "trackio"), "modal secret create trackio HF_TOKEN=... TRACKIO_SPACE_ID=USER/SPACE"),
        (("--log", "tensorboard", "--secret", "x"), "on Modal choose one of wandb, trackio"),
        (("--resume", "RUN", "--log", "wandb"), "add --secret wandb"),
        (("--take-over",), "add --resume RUN"),
    ],
)
def test_a_log_that_nobody_could_see_is_refused(words: tuple[str, ...], cure: str) -> None:
    with pytest.raises(UsageError, match=cure):
        request(*words)


def test_the_job_has_the_log_and_the_names_of_secrets() -> None:
    job = request("--log", "wandb", "--secret", "wandb, more").job("RUN")
    assert (job["log"], job["secrets"]) == ("wandb", ["wandb", "more"])
    assert request("--secret", "mine").job("RUN")["secrets"] == ["mine"]
    assert not {"log", "secrets"} & request().job("RUN").keys()
    assert [split_names(text) for text in (None, "", "a", "a,b c")] == [[], [], ["a"], ["a", "b", "c"]]


def test_a_mistyped_secret_costs_no_container(monkeypatch: pytest.MonkeyPatch) -> None:
    def from_name(name: str) -> Any:
        def hydrate() -> None:
            if name != "there":
                raise modal.exception.NotFoundError(f"Secret '{name}' not found")

        return types.SimpleNamespace(hydrate=hydrate)

    monkeypatch.setattr(modal.Secret, "from_name", from_name)
    remote_client.refuse_unknown_secrets(["there"])
    with pytest.raises(UsageError, match=r"--secret wandbb: no secret of that name.*modal secret create wandbb"):
        remote_client.refuse_unknown_secrets(["there", "wandbb"])


def test_a_package_is_fetched_where_it_is_missing_and_a_run_goes_on_without(monkeypatch: pytest.MonkeyPatch) -> None:
    installs: list[list[str]] = []
    there: set[str] = set()
    arrives = True

    def run(words: list[str], check: bool) -> Any:
        installs.append(words[1:])
        if arrives:
            there.add(words[-1])
        return subprocess.CompletedProcess(words, 0 if arrives else 1)

    monkeypatch.setattr(container.subprocess, "run", run)
    monkeypatch.setattr(container.importlib.util, "find_spec", lambda name: name in there or None)
    monkeypatch.delenv("RANK", raising=False)
    assert container.usable_sink(None) is None and not installs
    assert container.usable_sink("wandb") == "wandb" == container.usable_sink("wandb")
    assert installs == [["-m", "pip", "install", "--quiet", "wandb"]]
    arrives = False
    assert container.usable_sink("trackio") is None
    monkeypatch.setenv("RANK", "1")  # the first worker of several logs
    assert container.usable_sink("wandb") is None
