"""One estimate of the time that runs take on this machine, wherever it is given, and who is asked before long runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import emergence.spec.local_time as local_time
from emergence.errors import UsageError
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.local_time import ASK_ABOVE_SECONDS, CoreTime, Machine, ask_if_long, core_time
from emergence.spec.workload import workload_of
from emergence.wording import duration, time_range
from tests.command_lines import typed

IDLE, BUSY = Machine(2, 0.1), Machine(2, 3.0)
HOUR = CoreTime(ASK_ABOVE_SECONDS, 2 * ASK_ABOVE_SECONDS)


def spec(name: str = "debug", **flags: Any) -> ExperimentSpec:
    return ExperimentSpec.from_flags(config_name=name, **flags)


def only_before(*_: Any, before_reading: Callable[[], None], **__: Any) -> None:
    """Stands for a run that ends where its reading would begin."""
    before_reading()


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> Machine:
    for where in ("spec.local_time", "sweep.plan", "commands.config", "commands.doctor", "commands.run"):
        monkeypatch.setattr(f"emergence.{where}.this_machine", lambda: IDLE)
    return IDLE


def test_every_command_gives_the_same_estimate(idle: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = core_time(spec("tiny")).on(idle)
    hours, text = [pytest.approx(end / 3600) for end in seconds], f"{time_range(*seconds)} on {idle}"
    assert json.loads(typed("emergence", "config", "tiny", "--json").out)["run_hours"]["here"] == hours
    assert text in typed("emergence", "config", "tiny").out
    assert json.loads(typed("emergence", "plan", "--json").out)["hours_here"] == hours
    assert text in typed("emergence", "plan").out
    assert f"tiny {time_range(*seconds)}" in typed("emergence", "doctor").out
    sweep = ("sweep", "--only", "T-W-F-ALL", "--dry-run", "--runs-dir", str(tmp_path))
    planned = json.loads(typed("emergence", *sweep, "--json").out)["hours_here"]
    assert planned == [pytest.approx(end / 3600, rel=0.02) for end in seconds], "it reads for two runs instead of one"
    monkeypatch.setattr("emergence.commands.run.run_experiment", only_before)
    assert typed("emergence", "run", "--runs-dir", str(tmp_path)).err == f"estimate: {text}\n"


@pytest.mark.parametrize(
    ("flags", "seconds"),
    [  # measured on one thread of a machine that others used too
        ({}, 77),
        ({"freeze_llm": True, "skip_pretrain": True, "pretrained_model_path": "x"}, 59),
        ({"random_baseline": True}, 34),
        ({"random_baseline": True, "freeze_llm": True}, 35),
    ],
)
def test_what_was_measured_lies_in_the_range(flags: dict[str, Any], seconds: float) -> None:
    least, most = core_time(spec(data="microworld", **flags)).on(Machine(1))
    assert least < seconds < most < 5 * least


def test_a_pretraining_and_a_probing_that_were_measured_lie_in_the_range(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_bytes(b"x" * 41_963_928)  # 9.74 million tokens
    (tmp_path / "train.qa").write_bytes(b"x" * 1_378_885)  # 11,896 questions
    text, questions = str(tmp_path / "train.txt"), str(tmp_path / "train.qa")
    pretraining = spec("tiny", pretrain_text=text, skip_finetune=True)
    assert workload_of(pretraining, look_at_files=True).pretrain_tokens == pytest.approx(9.74e6, rel=0.05)
    least, most = core_time(pretraining).on(Machine(1))
    assert least < 2_477 < 4_638 < most
    probing = spec("tiny", qa_data=questions, random_baseline=True, freeze_llm=True)
    assert workload_of(probing, look_at_files=True).questions == pytest.approx(11_896, rel=0.05)
    least, most = core_time(probing).on(Machine(1))
    assert least < 175 < 346 < most


def test_files_that_are_not_there_change_nothing_and_modal_does_not_look(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("short")
    anywhere = workload_of(spec(pretrain_text="/no/such", qa_data="/no/such"), look_at_files=True)
    assert anywhere == workload_of(spec()) == workload_of(spec(pretrain_text=str(tmp_path)))
    assert workload_of(spec(pretrain_text=str(tmp_path)), look_at_files=True).pretrain_tokens < 10


def test_a_trunk_that_is_there_is_not_pretrained() -> None:
    assert core_time(spec("tiny"), has_trunk=True).most < core_time(spec("tiny")).least / 10


def test_other_work_makes_it_longer_and_is_said() -> None:
    (least, most), (same, longer) = HOUR.on(IDLE), HOUR.on(BUSY)
    assert least == same and longer == 2.5 * most
    assert HOUR.text(BUSY).startswith(HOUR.text(IDLE)), "what an idle machine takes stands beside it"
    assert f"busy now (load 3.0), and like that up to {duration(longer)}" in HOUR.text(BUSY)
    assert "far less on its GPU" in HOUR.text(Machine(2, None, has_gpu=True))


# Asking -------------------------------------------------------------------------------------------------


def at_a_terminal(monkeypatch: pytest.MonkeyPatch, answer: str | None) -> None:
    monkeypatch.setattr("sys.stdin", type("Input", (), {"isatty": lambda self: answer is not None})())
    monkeypatch.setattr("builtins.input", lambda question: answer)


@pytest.mark.parametrize(
    ("work", "machine", "yes", "answer", "starts"),
    [
        (HOUR, IDLE, False, "y", True),
        (HOUR, IDLE, False, "", False),
        (HOUR, IDLE, True, "n", True),
        (HOUR, IDLE, False, None, True),  # nobody to ask
        (HOUR, Machine(1, has_gpu=True), False, "n", True),
        (CoreTime(1, 1.4 * ASK_ABOVE_SECONDS), IDLE, False, "n", True),  # shorter on two cores
    ],
)
def test_more_than_an_hour_asks(
    work: CoreTime, machine: Machine, yes: bool, answer: str, starts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_a_terminal(monkeypatch, answer)
    if starts:
        ask_if_long(work, machine, yes)
    else:
        with pytest.raises(UsageError, match="not started: --yes starts without asking"):
            ask_if_long(work, machine, yes)


@pytest.mark.parametrize("command", [("run", "--config-name", "tiny"), ("sweep", "--only", "T-*")])
def test_who_declines_leaves_nothing_behind(
    command: tuple[str, ...], idle: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_a_terminal(monkeypatch, "n")
    monkeypatch.setattr("emergence.commands.run.run_experiment", only_before)
    ended = typed("emergence", *command, "--runs-dir", str(tmp_path / "runs"))
    assert ended.code == 2 and ended.err.endswith("smaller size takes less\n") and not list(tmp_path.iterdir())


def test_who_goes_on_with_a_run_is_not_asked_again(
    idle: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from emergence.experiment.store import RunStore

    RunStore(tmp_path).create(spec("tiny"))
    at_a_terminal(monkeypatch, "n")
    monkeypatch.setattr("emergence.commands.run.run_experiment", only_before)
    ended = typed("emergence", "run", "--runs-dir", str(tmp_path))
    assert ended.code == 0 and ended.err.endswith(", less what is done already\n")
    assert typed("emergence", "run", "--fresh", "--runs-dir", str(tmp_path)).code == 2


# Flags that would be ignored ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--max-cost", "5"), "this machine charges nothing: add --on modal"),
        (("--max-cost", "5", "--dry-run"), "this machine charges nothing: add --on modal"),
        (("--gpu", "H100"), "--gpu names a GPU of Modal's"),
    ],
)
def test_no_flag_of_a_sweep_is_ignored(words: tuple[str, ...], says: str, tmp_path: Path) -> None:
    ended = typed("emergence", "sweep", "matrix-debug", "--runs-dir", str(tmp_path / "runs"), *words)
    assert ended.code == 2 and says in ended.err and ended.err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_dry_run_shows_both_places(tmp_path: Path) -> None:
    shown = typed("emergence", "sweep", "--only", "T-W-*", "--dry-run", "--gpu", "H100", "--runs-dir", str(tmp_path))
    last = shown.out.splitlines()[-2:]
    assert last[0].startswith("here         $0.00, ") and "this machine's CPU" in last[0]
    assert last[1].startswith("on Modal     $") and "GPU hours" in last[1] and "H100" in shown.out


@pytest.mark.parametrize("amount", ["-1", "nan", "inf", "-0.01"])
@pytest.mark.parametrize("command", [("plan",), ("sweep", "matrix-debug", "--on", "modal", "--dry-run")])
def test_a_limit_is_an_amount(command: tuple[str, ...], amount: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from emergence.sweep.existing import Existing

    monkeypatch.setattr("emergence.remote.sweep.ModalPlace.existing", lambda self, runs_dir: Existing())
    ended = typed("emergence", *command, "--max-cost", amount)
    assert ended.code == 2 and "give an amount of dollars, 0 or more" in ended.err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        ((3, 40), "3 to 40 s"),
        ((20, 200), "up to 3 min"),
        ((60, 200), "1 to 3 min"),
        ((10_000, 57_000), "2.8 to 16 h"),
        ((100_000, 400_000), "1.2 to 5 days"),
        ((1, 8_000), "up to 2.2 h"),
        ((8_000, 8_000), "about 2.2 h"),
    ],
)
def test_ranges_have_the_unit_of_their_upper_end(seconds: tuple[float, float], text: str) -> None:
    assert time_range(*seconds) == text


def test_the_machine_is_asked_and_threads_that_a_person_set_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert local_time.this_machine().cores == 1
    monkeypatch.delattr("os.getloadavg")  # as on Windows
    assert local_time.this_machine().load is None and local_time.this_machine().busy == 1.0
