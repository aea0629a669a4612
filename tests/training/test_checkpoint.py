"""Weights and checkpoints: exact round trips, safe loading, every damage noticed."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import logging
import os
import random
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emergence.errors import RunDirectoryError, WeightsError
from emergence.files import sweep_temporary
from emergence.spec.config import load_config
from emergence.training.checkpoint import (
    Checkpointer,
    WeightsFile,
    check_matches,
    load_into,
    load_weights,
    save_weights,
)
from emergence.training.checkpoint_names import CheckpointName, parse_checkpoint_name
from emergence.training.sealing import SealingStream
from tests.fault_injection import Killed, counted, failing, killed_at


def tiny_weights() -> WeightsFile:
    generator = torch.Generator().manual_seed(0)
    state = {
        "embedding.weight": torch.randn(7, 4, generator=generator),
        "view": torch.randn(6, 6, generator=generator)[::2, 1:3],
        "half": torch.randn(3, generator=generator).to(torch.bfloat16),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 4),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    metadata = {"run_id": "TinyQA", "loss": 2.5, "spec": {"config": {"name": "tiny"}}, "bad": float("nan")}
    return WeightsFile(state, load_config("tiny").model, 7, '{"model": "bpe é"}', metadata)


def test_weights_round_trip_exactly(tmp_path: Path) -> None:
    weights, path = tiny_weights(), tmp_path / "w.pth"
    save_weights(path, weights)
    loaded = load_weights(path)
    assert list(loaded.state_dict) == list(weights.state_dict)
    for name, tensor in weights.state_dict.items():
        assert loaded.state_dict[name].dtype == tensor.dtype and not loaded.state_dict[name].requires_grad
        assert torch.equal(loaded.state_dict[name], tensor)
    assert (loaded.model, loaded.vocab_rows, loaded.tokenizer_json) == (weights.model, 7, weights.tokenizer_json)
    assert loaded.metadata == {**weights.metadata, "bad": None}
    assert path.stat().st_size < 5000, "a view must not drag its storage along"


def test_equal_weights_give_equal_bytes(tmp_path: Path) -> None:
    save_weights(tmp_path / "a.pth", tiny_weights())
    again = load_weights(tmp_path / "a.pth")
    save_weights(tmp_path / "b.pth", again)
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()


def test_a_sealed_file_is_an_ordinary_torch_file(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.pth", tiny_weights())
    with zipfile.ZipFile(tmp_path / "w.pth") as archive:
        assert archive.comment.startswith(b"emergence sha256 ") and archive.testzip() is None


def test_every_truncation_and_flip_is_noticed(tmp_path: Path) -> None:
    path, damaged = tmp_path / "w.pth", tmp_path / "d.pth"
    save_weights(path, tiny_weights())
    whole, chance = path.read_bytes(), random.Random(0)
    sizes = [0, 1, 3, 4, 100, len(whole) - 81, len(whole) - 1, *chance.sample(range(len(whole)), 40)]
    places = [*range(len(whole) - 110, len(whole)), *chance.sample(range(len(whole)), 200)]
    damages = [whole[:size] for size in sizes]
    damages += [whole[:i] + bytes([whole[i] ^ 1 << chance.randrange(8)]) + whole[i + 1 :] for i in places]
    damages += [whole + b"\0", whole + whole]
    for content in damages:
        damaged.write_bytes(content)
        with pytest.raises(WeightsError) as caught:
            load_weights(damaged)
        assert str(damaged) in str(caught.value) and "\n" not in str(caught.value)


class _Malicious:
    """What a pickle may do when opened carelessly: here, create a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def _sealed(content: Any, path: Path) -> None:
    """A file with a valid seal around any content: the seal is no signature."""
    with path.open("wb") as handle:
        stream = SealingStream(handle)
        torch.save(content, stream)  # type: ignore[arg-type]
        stream.seal()


def test_foreign_files_are_refused_and_run_nothing(tmp_path: Path) -> None:
    target, path = tmp_path / "owned", tmp_path / "toy_llm_unified_pretrained.pth"
    malicious = {"state_dict": _Malicious(target)}
    buffer = io.BytesIO()
    torch.save(malicious, buffer)
    old_style = io.BytesIO()
    torch.save(malicious, old_style, _use_new_zipfile_serialization=False)
    raw_state = io.BytesIO()
    torch.save({"weight": torch.ones(2)}, raw_state)
    for content, reason in [
        (buffer.getvalue(), "another program"),
        (raw_state.getvalue(), "another program"),
        (old_style.getvalue(), "never opened"),
        (b"text", "never opened"),
        (b"", "empty"),
    ]:
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=reason):
            load_weights(path)
    _sealed(malicious, path)
    with pytest.raises(WeightsError, match="refused by the safe loader"):
        load_weights(path)
    assert not target.exists()


def test_nothing_is_unpickled_while_loading(tmp_path: Path) -> None:
    events: list[str] = []
    sys.addaudithook(lambda event, args: events.append(event) if event == "pickle.find_class" else None)
    save_weights(tmp_path / "w.pth", tiny_weights())
    load_weights(tmp_path / "w.pth")
    assert events == []


def test_wrong_content_in_a_valid_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    model = dataclasses.asdict(load_config("tiny").model)
    good = {
        "format": "emergence-weights", "version": 1, "state_dict": {"w": torch.ones(1)}, "model": model,
        "metadata": {}, "vocab_rows": 1, "tokenizer_json": "{}",
    }  # fmt: skip
    _sealed(good, path)
    load_weights(path)
    for change, reason in [
        ({"format": "emergence-checkpoint"}, "resumable checkpoint"), ({"format": 3}, "another format"),
        ({"version": 2}, "version 2"), ({"state_dict": [1]}, "dictionary of tensors"),
        ({"state_dict": {1: torch.ones(1)}}, "dictionary of tensors"), ({"vocab_rows": "7"}, "wrong type"),
        ({"tokenizer_json": None}, "wrong type"), ({"model": {**model, "n_layers": 10**9}}, "n_layers"),
        ({"model": None}, "model"), ({"model": {**model, "depth": 3}}, "depth"),
    ]:  # fmt: skip
        _sealed({**good, **change}, path)
        with pytest.raises(WeightsError, match=reason) as caught:
            load_weights(path)
        assert str(path) in str(caught.value)
    _sealed([good], path)
    with pytest.raises(WeightsError, match="not a weights file"):
        load_weights(path)
    with pytest.raises(WeightsError, match="--list-saved"):
        load_weights(tmp_path / "absent.pth")
    with pytest.raises(WeightsError, match="folder"):
        load_weights(tmp_path)


def test_weights_of_another_size_or_tokenizer_are_refused() -> None:
    weights = tiny_weights()
    check_matches(weights, weights.model, "w.pth", tokenizer_json=weights.tokenizer_json)
    check_matches(weights, dataclasses.replace(weights.model, init="normal"), "w.pth")
    small = load_config("small").model
    with pytest.raises(WeightsError) as caught:
        check_matches(weights, small, "w.pth")
    message = str(caught.value)
    assert "3 layers x 128 (tiny)" in message and f"{small.n_layers} layers x {small.hidden_size}" in message
    assert "--config-name tiny" in message
    with pytest.raises(WeightsError, match="another tokenizer"):
        check_matches(weights, weights.model, "w.pth", tokenizer_json="{}")


def test_load_into_takes_every_tensor_or_none() -> None:
    module = torch.nn.Linear(3, 2)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for state, reason in [
        ({"weight": torch.ones(2, 3)}, "bias is missing"),
        ({"weight": torch.ones(2, 3), "bias": torch.ones(2), "x": torch.ones(1)}, "x is unknown"),
        ({"weight": torch.ones(3, 2), "bias": torch.ones(2)}, r"weight is \(3, 2\), not \(2, 3\)"),
    ]:
        with pytest.raises(WeightsError, match=reason):
            load_into(module, state, "w.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    load_into(module, {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}, "w.pth")
    assert module.weight.sum() == 6


# Checkpoints ------------------------------------------------------------------------------------


def training_state() -> dict[str, Any]:
    """Everything a loop may want to keep: module, optimiser with momentum, generators, counters."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    module(torch.ones(2, 3)).square().sum().backward()
    optimizer.step()
    numpy_state = np.random.default_rng(3).bit_generator.state
    return {
        "module": module.state_dict(), "optimizer": optimizer.state_dict(),
        "numpy": json.loads(json.dumps(numpy_state)),
        "torch_rng": torch.get_rng_state(), "best": float("inf"), "nan": float("nan"), "none": None, "flag": True,
        "pair": (1, ("a", 2.5)), "list": [1, [2, None]], "int_keys": {0: "x", 7: [1.0]}, "big": 2**127 + 1,
        "loss": np.float64(0.1), "ordered": OrderedDict(a=1),
    }  # fmt: skip


def assert_same(a: Any, b: Any) -> None:
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b) and type(b) is dict
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert type(a) is type(b) and len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b or (a != a and b != b)


def test_checkpoints_round_trip_exactly(tmp_path: Path) -> None:
    state, commits = training_state(), []
    keeper = Checkpointer(tmp_path / "checkpoint", on_commit=lambda: commits.append(1))
    assert keeper.load() is None
    keeper.save("pretrain", 7, state)
    found = Checkpointer(tmp_path / "checkpoint").load("pretrain")
    assert found is not None and (found.phase, found.step) == ("pretrain", 7)
    assert_same(state, found.state)
    assert type(found.state["loss"]) is float and commits == [1]
    generator = np.random.default_rng()
    generator.bit_generator.state = found.state["numpy"]
    assert generator.random() == np.random.default_rng(3).random()


def test_what_cannot_be_restored_is_not_saved(tmp_path: Path) -> None:
    keeper = Checkpointer(tmp_path / "checkpoint")
    with pytest.raises(TypeError, match=r"state\['rng'\]\['x'\]\[1\] is ndarray"):
        keeper.save("pretrain", 1, {"rng": {"x": [1, np.ones(2)]}})
    with pytest.raises(ValueError, match="checkpoint name"):
        keeper.save("Pre train", 1, {})
    with pytest.raises(ValueError, match="keep"):
        Checkpointer(tmp_path, keep=0)
    assert keeper.load() is None


def test_newest_two_are_kept_across_phases_and_cleared(tmp_path: Path) -> None:
    keeper, folder = Checkpointer(tmp_path / "checkpoint"), tmp_path / "checkpoint"
    for step in (100, 200, 300):
        keeper.save("pretrain", step, {"step": step})
    assert sorted(p.name for p in folder.iterdir()) == [
        "000002-pretrain-000000200.pth", "000003-pretrain-000000300.pth",
    ]  # fmt: skip
    keeper.save("finetune", 5, {})
    newest = keeper.load()
    assert newest is not None and newest.phase == "finetune" and keeper.load("probe") is None
    assert (found := keeper.load("pretrain")) is not None and found.step == 300
    (folder / "notes.txt").write_text("not a checkpoint")
    keeper.clear()
    assert [p.name for p in folder.iterdir()] == ["notes.txt"]


def test_a_damaged_checkpoint_falls_back_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keeper = Checkpointer(tmp_path)
    keeper.save("pretrain", 1, {"x": torch.ones(3)})
    newest = keeper.save("pretrain", 2, {"x": torch.ones(3)})
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    keeper = Checkpointer(tmp_path)
    with caplog.at_level(logging.WARNING):
        found = keeper.load()
    assert found is not None and found.step == 1
    assert len(caplog.records) == 1 and "going on from step 1" in caplog.text and newest.name in caplog.text
    # The next save supersedes the damaged one and keeps the one that was good.
    keeper.save("pretrain", 2, {"x": torch.ones(3)})
    assert sorted(p.name[:6] for p in tmp_path.iterdir()) == ["000001", "000003"]
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-5])
    caplog.clear()
    assert keeper.load() is None
    assert len(caplog.records) == 1 and "from the start" in caplog.text


def test_a_renamed_checkpoint_is_not_believed(tmp_path: Path) -> None:
    keeper = Checkpointer(tmp_path)
    path = keeper.save("pretrain", 1, {})
    path.rename(tmp_path / str(CheckpointName(9, "pretrain", 5)))
    assert keeper.load() is None


def test_checkpoint_names() -> None:
    name = CheckpointName(12, "pretrain", 2400)
    assert str(name) == "000012-pretrain-000002400.pth" and parse_checkpoint_name(str(name)) == name
    for other in ("x.pth", ".000012-pretrain-000002400.pth.1-ab.tmp", "000012-pretrain-2400.pth"):
        assert parse_checkpoint_name(other) is None


def _kinds(keeper: Checkpointer) -> tuple[str, int] | None:
    found = keeper.load()
    return (found.phase, found.step) if found else None


@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_write_of_a_save_leaves_a_whole_checkpoint(tmp_path: Path, after: bool) -> None:
    state = {"x": torch.arange(5)}

    def fresh(name: str) -> Checkpointer:
        keeper = Checkpointer(tmp_path / name)
        for step in (1, 2):
            keeper.save("pretrain", step, state)
        return keeper

    keeper = fresh("count")
    with counted() as whole:
        keeper.save("pretrain", 3, state)
    for n in range(1, whole.count + 1):
        keeper = fresh(str(n))
        with pytest.raises(Killed), killed_at(n, after=after):
            keeper.save("pretrain", 3, state)
        sweep_temporary(tmp_path / str(n))
        again = Checkpointer(tmp_path / str(n))
        assert _kinds(again) in (("pretrain", 2), ("pretrain", 3))
        again.save("pretrain", 4, state)
        assert _kinds(again) == ("pretrain", 4) and len(list((tmp_path / str(n)).iterdir())) == 2


def test_a_full_disk_keeps_the_earlier_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Checkpointer(tmp_path)
    keeper.save("pretrain", 1, {"x": torch.ones(1000)})
    with failing("fsync", errno.ENOSPC), pytest.raises(RunDirectoryError, match="make room"):
        keeper.save("pretrain", 2, {"x": torch.ones(1000)})

    def full(self: SealingStream, data: bytes) -> None:  # in the middle of torch.save
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SealingStream, "_put", full)
    with pytest.raises(
        RunDirectoryError, match=r"pretrain-000000002.pth: No space left on device; it needs 4,000 bytes"
    ):
        keeper.save("pretrain", 2, {"x": torch.ones(1000)})
    monkeypatch.undo()
    assert _kinds(keeper) == ("pretrain", 1) and len(list(tmp_path.iterdir())) == 1
