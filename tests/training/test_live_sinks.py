"""Live sinks: they watch and never disturb, and their curves never run backwards."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emergence.errors import UsageError
from emergence.training import live_sinks
from emergence.training.live_sinks import open_sink
from tests.memory_recorder import MemoryRecorder


class Run:
    """A run of the name ``R`` under a folder."""

    run_id = "R"

    def __init__(self, root: Path) -> None:
        self.path = root / "R"


class Curves:
    """A sink that keeps what it is given, as a server would."""

    def __init__(self) -> None:
        self.given: list[tuple[int, dict[str, float]]] = []
        self.closed, self.fails = 0, False

    def open(self, run: Any) -> Any:
        return self.write, self.close

    def write(self, step: int, values: dict[str, float]) -> None:
        if self.fails:
            raise ConnectionError("the server is gone")
        self.given.append((step, values))

    def close(self) -> None:
        self.closed += 1

    def steps(self, curve: str) -> list[int]:
        return [step for step, values in self.given if any(key.startswith(f"{curve}/") for key in values)]


@pytest.fixture
def curves(monkeypatch: pytest.MonkeyPatch) -> Iterator[Curves]:
    sink = Curves()
    monkeypatch.setitem(live_sinks.SINKS, "kept", "json")  # a package that is always there
    monkeypatch.setitem(live_sinks._OPENERS, "kept", sink.open)
    yield sink


def session(root: Path, recorder: MemoryRecorder, *lines: tuple[str, dict[str, Any]]) -> None:
    """One process: opens the sink, logs, closes."""
    with open_sink("kept") as wrap:
        wrapped = wrap(recorder, Run(root))
        for kind, values in lines:
            wrapped.log(kind, **values)


def steps(kind: str, *numbers: int) -> list[tuple[str, dict[str, Any]]]:
    return [(kind, {"step": n, "loss": 10.0 - n}) for n in numbers]


def test_a_resumed_run_goes_on_where_its_curve_ends(curves: Curves, tmp_path: Path) -> None:
    """Killed after step 10 with a checkpoint at 5: steps 6 to 10 are done again, and shown once."""
    recorder = MemoryRecorder()
    session(tmp_path, recorder, *steps("pretrain_step", *range(1, 11)))
    recorder.rewind(5)
    session(tmp_path, recorder, *steps("pretrain_step", *range(6, 13)))
    assert curves.steps("pretrain_step") == list(range(1, 13))
    assert [line["step"] for line in recorder.history] == list(range(1, 13))  # the history has them all
    assert curves.closed == 2


def test_a_rewind_within_a_session_does_not_turn_the_curve(curves: Curves, tmp_path: Path) -> None:
    recorder = MemoryRecorder()
    with open_sink("kept") as wrap:
        wrapped = wrap(recorder, Run(tmp_path))
        for kind, values in steps("finetune_step", 1, 2, 3):
            wrapped.log(kind, **values)
        wrapped.rewind(wrapped.position() - 2)
        for kind, values in steps("finetune_step", 2, 3, 4):
            wrapped.log(kind, **values)
    assert curves.steps("finetune_step") == [1, 2, 3, 4]


def test_every_kind_has_a_curve_of_its_own(curves: Curves, tmp_path: Path) -> None:
    lines = [
        *steps("pretrain_step", 1, 5),
        *steps("finetune_step", 1, 2),
        ("finetune_epoch", {"epoch": 1, "validation_f1": 0.5}),
        *[("probe", {"family": f, "layer": n, "f1": 0.1}) for n in (0, 1) for f in ("linear", "bilinear")],
        *[("finetune_search", {"steps": n, "validation_f1": 0.2}) for n in (9, 9, 4)],
    ]
    session(tmp_path, MemoryRecorder(), *lines)
    assert curves.steps("pretrain_step") == [1, 5] and curves.steps("finetune_step") == [1, 2]
    assert curves.steps("probe/linear") == curves.steps("probe/bilinear") == [0, 1]
    assert len(curves.steps("finetune_search")) == 3, "lines without a place are all given"
    keys = {key for _, values in curves.given for key in values}
    assert {"probe/linear/f1", "finetune_epoch/validation_f1"} <= keys and not any("family" in key for key in keys)


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"pretrain_step": "many"}', "null"])
def test_a_damaged_note_of_what_was_given_changes_no_run(curves: Curves, tmp_path: Path, content: str) -> None:
    note = tmp_path / live_sinks.FOLDER / "R.kept.json"
    note.parent.mkdir()
    note.write_text(content)
    session(tmp_path, MemoryRecorder(), *steps("pretrain_step", 1))
    assert curves.steps("pretrain_step") == [1]


def test_where_nothing_can_be_noted_the_run_goes_on(curves: Curves, tmp_path: Path) -> None:
    (tmp_path / live_sinks.FOLDER).write_text("a file in the folder's place")
    recorder = MemoryRecorder()
    session(tmp_path, recorder, *steps("pretrain_step", 1, 2))
    assert curves.steps("pretrain_step") == [1, 2] and len(recorder.history) == 2


def test_a_sink_that_fails_is_dropped_and_the_run_goes_on(
    curves: Curves, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    curves.fails = True
    recorder = MemoryRecorder()
    with caplog.at_level(logging.WARNING):
        session(tmp_path, recorder, *steps("pretrain_step", 1, 2, 3))
    assert len(recorder.history) == 3 and caplog.text.count("the live log failed") == 1


def test_what_is_no_sink_is_one_line() -> None:
    with pytest.raises(UsageError, match="must be one of tensorboard, wandb"), open_sink("tensorbord"):
        pass


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(live_sinks.SINKS, "kept", "no_such_package_at_all")
    with pytest.raises(UsageError, match="pip install no_such_package_at_all"), open_sink("kept"):
        pass
