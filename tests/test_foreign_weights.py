"""Foreign files under the documented ``toy_llm_*.pth`` names: refused by name in one line, and nothing in them runs."""

from __future__ import annotations

import dataclasses
import importlib
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pytest
import torch
from torch import nn

import benchmarks.malformed_campaign as campaign
from benchmarks import samples
from benchmarks.malformed_cases import Case
from emergence.data.tokenizer import TextTokenizer
from emergence.errors import WeightsError
from emergence.experiment.run import run_experiment
from emergence.experiment.store import RunStore
from emergence.model.trunk import build_trunk
from emergence.spec.config import load_config
from emergence.training import checkpoint
from emergence.training.sealing import SealingStream
from tests.small_runs import MICRO, micro_spec

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


def _bytes(change: Callable[[dict[str, Any]], None]) -> bytes:
    """A sealed weights file of the micro architecture, changed by somebody who knows the format."""
    model = load_config("debug", MICRO).model
    tokenizer = TextTokenizer.train([samples.TEXT * 4], 320)
    trunk = build_trunk(model, tokenizer.vocab_rows, seed=0)
    content: dict[str, Any] = {"state": dict(trunk.state_dict()), "rows": tokenizer.vocab_rows}
    change(content)
    described = {"model": dataclasses.asdict(model), "metadata": {"stage": "pretrained"}}
    buffer = io.BytesIO()
    stream = SealingStream(buffer)
    torch.save({
        "format": checkpoint.WEIGHTS_FORMAT, "version": checkpoint.FORMAT_VERSION, "state_dict": content["state"],
        **described, "vocab_rows": content["rows"], "tokenizer_json": tokenizer.to_json(),
    }, cast(IO[bytes], stream))  # fmt: skip
    stream.seal()
    return buffer.getvalue()


def _each(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, Any]], None]:
    def edit(content: dict[str, Any]) -> None:
        name = next(name for name, tensor in content["state"].items() if tensor.dim() == 2)
        content["state"][name] = change(content["state"][name])

    return edit


ODD_TENSORS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "half precision": (_each(torch.Tensor.half), "of type torch.float16"),
    "double precision": (_each(torch.Tensor.double), "of type torch.float64"),
    "whole numbers": (_each(lambda t: t.to(torch.int32)), "of type torch.int32"),
    "complex numbers": (_each(lambda t: t.to(torch.complex64)), "of type torch.complex64"),
    "a sparse tensor": (_each(torch.Tensor.to_sparse), "layout"),
    "no device": (_each(lambda t: t.to("meta")), "meta"),
    "one number for all": (_each(lambda t: t[:1, :1].expand(*t.shape)), "a view"),
    "transposed": (_each(lambda t: t.T.contiguous().T), "a view"),
    "part of a larger store": (_each(lambda t: torch.cat([t, t])[: len(t)]), "a view"),
    "nan": (_each(lambda t: t.fill_(float("nan"))), "not finite"),
    "one infinity": (_each(lambda t: t.index_fill_(0, torch.tensor([0]), float("inf"))), "not finite"),
    "another shape": (_each(lambda t: torch.ones(3, 3)), "does not fit this model"),
    "one tensor more": (lambda c: c["state"].update({"x" * 5_000: torch.ones(1)}), "is unknown"),
    "one tensor less": (lambda c: c["state"].popitem(), "is missing"),
    "rows without tokens": (lambda c: c.update(rows=c["rows"] + 64), "does not fit this model"),
}


@pytest.mark.parametrize("what", ODD_TENSORS)
def test_odd_tensors_are_refused_before_anything_is_copied(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cache").mkdir()
    change, says = ODD_TENSORS[what]
    settings = [word for value in MICRO for word in ("--set", value)]
    run = ["run", "--config-name", "debug", "--data", "microworld", *settings, "--skip-pretrain", "--freeze-llm"]
    case = Case(what, [*run, "--pretrained-model-path", "{folder}/w.pth"], {"w.pth": _bytes(change)})
    verdict, told = campaign.judge(case, tmp_path / "cache", tmp_path / "case")
    assert verdict == "refused" or verdict.startswith("took"), (verdict, told)
    assert says in told and "w.pth" in told and len(told) < 1_000


def test_a_refused_file_does_not_spoil_the_run_that_is_started_again(tmp_path: Path) -> None:
    """The same command with good weights under the same name runs to its end."""
    store, path = RunStore(tmp_path / "runs"), tmp_path / "w.pth"
    spec = micro_spec(skip_pretrain=True, freeze_llm=True, pretrained_model_path=str(path))
    path.write_bytes(_bytes(ODD_TENSORS["one infinity"][0]))
    with pytest.raises(WeightsError, match="not finite"):
        run_experiment(spec, store, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "runs").exists() or not [*(tmp_path / "runs").iterdir()]
    path.write_bytes(_bytes(lambda content: None))
    result = run_experiment(spec, store, cache_dir=tmp_path / "cache")
    assert result is not None and result.final_validation_f1 is not None


def test_the_payload_would_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_is_unpickled: list[str]
) -> None:
    """The calls above are real: a careless reader is owned by them."""
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module("pickle")  # which nothing here may import otherwise
    module.loads(_plain_pickle(_Runs()))
    assert (tmp_path / OWNED).exists() and nothing_is_unpickled
    nothing_is_unpickled.clear()
