"""Foreign files under the documented ``toy_llm_*.pth`` names: refused by name in one line, and nothing in them runs."""

from __future__ import annotations

import importlib
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import benchmarks.malformed_campaign as campaign
from benchmarks.malformed_cases import Case
from tests.small_runs import MICRO

NAMES = ("toy_llm_unified_pretrained.pth", "toy_llm_qasrl_finetuned.pth", "toy_llm_wiki_nq_pretrained.pth")
#: What the payloads would make.
OWNED = "owned"


class _Runs:
    """Pickled, it is a call of ``os.system``."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {OWNED}",)


def _saved(content: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def _plain_pickle(content: object) -> bytes:
    """What ``pickle.dump`` writes, by way of numpy, which pickles objects."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([content], dtype=object))
    return buffer.getvalue().partition(b"\n")[2]


def _numpy_pickle() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([_Runs()], dtype=object))
    return buffer.getvalue()


def _torchscript() -> bytes:
    """An archive as ``torch.jit.save`` lays it out: code beside pickles."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/data.pkl", _plain_pickle(_Runs()))
        archive.writestr("model/code/__torch__.py", f"import os\nos.system('touch {OWNED}')\n")
        archive.writestr("model/version", "3\n")
    return buffer.getvalue()


FOREIGN: dict[str, Callable[[], bytes]] = {
    "a call in a state dict": lambda: _saved({"state_dict": {"w": _Runs()}}),
    "the old format": lambda: _saved({"w": _Runs()}, _use_new_zipfile_serialization=False),
    "a pickle": lambda: _plain_pickle(_Runs()),
    "a numpy pickle": _numpy_pickle,
    "a torchscript archive": _torchscript,
    "a module": lambda: _saved(nn.Linear(2, 2)),
    "another program's state dict": lambda: _saved({"weight": torch.ones(2)}),
    "a shell script": lambda: f"#!/bin/sh\ntouch {OWNED}\n".encode(),
    "a zip": lambda: b"PK\x05\x06" + bytes(18),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_foreign_files_are_refused_by_name(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # and back, whatever the cases do
    (tmp_path / "cache").mkdir()
    settings = [word for value in MICRO for word in ("--set", value)]
    run = ["run", "--config-name", "debug", "--data", "microworld", *settings, "--skip-pretrain", "--freeze-llm"]
    for name in NAMES:
        case = Case(what, [*run, "--pretrained-model-path", "{folder}/" + name], {name: FOREIGN[what]()})
        verdict, told = campaign.judge(case, tmp_path / "cache", tmp_path / "case")
        assert verdict == "refused" or verdict.startswith("took"), (verdict, told)
        assert name in told.splitlines()[-1]
        assert not [*tmp_path.rglob(OWNED)]


def test_the_payload_would_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_is_unpickled: list[str]
) -> None:
    """The calls above are real: a careless reader is owned by them."""
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module("pickle")  # which nothing here may import otherwise
    module.loads(_plain_pickle(_Runs()))
    assert (tmp_path / OWNED).exists() and nothing_is_unpickled
    nothing_is_unpickled.clear()
