"""A tiny study: its own mathematics in one small class is all that it has to give."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from emergence.errors import RunDirectoryError, WeightsError
from emergence.experiment.locks import RunLock
from emergence.files import content_digest, read_sealed, seal, write_json_atomic
from emergence.model import build_trunk
from emergence.spec.config import ModelConfig
from emergence.studies.study import Cell, SealedStudy, StudyFiles
from emergence.studies.trunks import trunk_of
from emergence.training.recording import Progress, StopRequested


@dataclass(frozen=True)
class Squares:
    """What the study ends with."""

    squares: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        return {**SquareStudy.files.header, "largest": self.squares.max()}

    def arrays(self) -> dict[str, np.ndarray]:
        return {"squares": self.squares}


class SquareStudy(SealedStudy[dict[str, float], Squares]):
    """The square roots of some numbers, squared again."""

    files = StudyFiles(name="squares", version=1, what="squares", again="square again")
    noun = "number"

    def __init__(self, *numbers: int) -> None:
        self.numbers, self.computed = numbers, list[int]()

    def cells(self, folder: Path) -> list[Cell[dict[str, float]]]:
        return [Cell(str(n), content_digest(n)[:24], partial(self._root, n), steps=n) for n in self.numbers]

    def _root(self, number: int, progress: Progress) -> dict[str, float]:
        self.computed.append(number)
        progress.update(1)
        return {"root": number**0.5}

    def restore(self, content: dict[str, Any]) -> dict[str, float]:
        return content

    def result(self, made: Sequence[dict[str, float]]) -> Squares:
        return Squares(np.array([cell["root"] ** 2 for cell in made]))


class Bar:
    """Counts."""

    def start(self, total: int, unit: str, initial: int = 0, description: str = "") -> None:
        self.total, self.count = total, initial

    def update(self, n: int, /, **values: float) -> None:
        self.count += n

    def close(self) -> None:
        pass


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def run(out: Path, *numbers: int, stop: Callable[[], bool] = lambda: False) -> list[int]:
    """The numbers that had to be computed."""
    study, bar = SquareStudy(*numbers), Bar()
    study.run(out, bar, stop)
    assert bar.count == bar.total
    return study.computed


def test_an_interrupted_study_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    assert run(tmp_path / "whole", 2, 3, 5) == [2, 3, 5]
    with pytest.raises(
        StopRequested, match="stopped after 3; the same command goes on with the next number, from what is in "
    ):
        run(tmp_path / "cut", 2, 3, 5, stop=lambda: len(list((tmp_path / "cut" / "cells").iterdir())) == 2)
    assert not (tmp_path / "cut" / "squares.json").exists()
    assert run(tmp_path / "cut", 2, 3, 5) == [5]
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert run(tmp_path / "cut", 7, 2, 7) == [7], "what is shared is kept, what comes twice is done once"
    _, arrays = SquareStudy.files.read(tmp_path / "cut", lambda *both: both)
    np.testing.assert_allclose(arrays["squares"], [7, 2, 7])


def test_a_stop_waits_for_a_step_and_not_for_a_cell(tmp_path: Path) -> None:
    run(tmp_path / "whole", 2, 3)
    study = SquareStudy(2, 3)
    with pytest.raises(StopRequested, match="stopped in 3; the same command goes on, from what is in "):
        study.run(tmp_path / "cut", should_stop=lambda: study.computed == [2, 3])
    assert len(list((tmp_path / "cut" / "cells").iterdir())) == 1
    assert run(tmp_path / "cut", 2, 3) == [3]
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_cell_whose_steps_are_done_is_kept(tmp_path: Path) -> None:
    study = SquareStudy(1, 2)  # one step
    with pytest.raises(StopRequested, match="stopped after 1; "):
        study.run(tmp_path, should_stop=lambda: True)
    assert run(tmp_path, 1, 2) == [2]


@pytest.mark.parametrize("damage", ["cut", "edited", "another's"])
def test_a_damaged_cell_is_done_again(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path, 2, 3)
    before = contents(tmp_path)
    one, other = sorted((tmp_path / "cells").iterdir())
    text = one.read_text()
    one.write_text({"cut": text[:-9], "edited": text.replace("1.", "2."), "another's": other.read_text()}[damage])
    assert len(run(tmp_path, 2, 3)) == 1 and "doing that number again" in caplog.text
    assert contents(tmp_path) == before


def test_damaged_arrays_and_other_versions_are_refused(tmp_path: Path) -> None:
    run(tmp_path, 2, 3)
    files, path, arrays = SquareStudy.files, tmp_path / "squares.json", tmp_path / "squares.npz"
    whole, content = arrays.read_bytes(), read_sealed(path)
    assert list(content) == ["schema_version", "largest", "arrays"]
    for damaged in (whole[:-1], whole.replace(b"s", b"t", 1), None):
        arrays.unlink() if damaged is None else arrays.write_bytes(damaged)
        with pytest.raises(RunDirectoryError, match=r"squares.npz: missing or damaged: square again"):
            files.read(tmp_path, lambda *both: both)
    arrays.write_bytes(whole)
    with pytest.raises(RunDirectoryError, match=r"not in this program's format \('absent'\): square again"):
        files.read(tmp_path, lambda content, arrays: content["absent"])
    write_json_atomic(path, seal({**content, "schema_version": 2}))
    with pytest.raises(RunDirectoryError, match="not squares of this version: square again"):
        files.read(tmp_path, lambda *both: both)
    path.write_text(json.dumps(json.loads(path.read_text())))
    with pytest.raises(RunDirectoryError, match="damaged or edited"):
        files.read(tmp_path, lambda *both: both)


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with RunLock(tmp_path), pytest.raises(RunDirectoryError, match="is being written by process"):
        run(tmp_path, 2)
    assert run(tmp_path, 2) == [2]


@pytest.mark.parametrize(
    ("change", "says"),
    [(lambda t: t.double(), "is of type torch.float64"), (lambda t: t * float("nan"), "not finite")],
)
def test_weights_that_are_no_finite_float32_are_not_copied_in_silence(
    change: Callable[[Tensor], Tensor], says: str
) -> None:
    config = ModelConfig(n_layers=1, hidden_size=8, n_heads=2, sequence_length=8, vocab_size=320)
    state = build_trunk(config, 320, seed=0).state_dict()
    assert trunk_of(config, 320, state, "w.pth")
    name = next(iter(state))
    with pytest.raises(WeightsError, match=f"w.pth: {name} .*{says}"):
        trunk_of(config, 320, {**state, name: change(state[name])}, "w.pth")
