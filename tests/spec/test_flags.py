"""Flags are declared once: every command line and the spec agree because they are made of the same declarations."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import modal
import pytest
import typer
from typer.testing import CliRunner

import emergence.cli
import emergence.commands.sweep_app
import emergence.remote.app
import emergence.spec.experiment
from emergence.errors import ConfigError
from emergence.remote.launch import Request, launch_flags
from emergence.spec.experiment import ExperimentSpec, experiment_flags
from emergence.spec.flags import REQUIRED, Flag, flag, flags_of, for_modal, parser_of, takes
from emergence.spec.matrix import DATA_KEYS
from emergence.studies.cka.analyse import AnalysisFlags

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a file of the project again, apart from what is imported; entry points get an app of their own."""
    monkeypatch.setattr(emergence.remote.app, "app", modal.App())

    def run(file: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"again_{Path(file).stem}", ROOT / file)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return run


def typer_options(function: Any) -> dict[str, Any]:
    """The options that Typer makes for a command, by name."""
    app = typer.Typer()
    app.command()(function)
    return {option.name: option for option in typer.main.get_command(app).params}


def assert_modal_reads(function: Any, flags: Sequence[Flag]) -> None:
    """What Modal's client looks at: the signature for names and defaults, the type hints for the rest."""
    parameters, hints = inspect.signature(function).parameters, get_type_hints(function)
    assert list(parameters) == [each.name for each in flags]
    for each in flags:
        default = parameters[each.name].default
        assert default == (inspect.Parameter.empty if each.default is REQUIRED else each.default)
        assert hints[each.name] == each.kind


@pytest.mark.parametrize("command", [emergence.cli.run_command, emergence.cli.plan_command])
def test_run_and_plan_take_every_flag_of_an_experiment(command: Any) -> None:
    options = typer_options(command)
    declared = {each.name: each for each in experiment_flags()}
    assert [name for name in options if name in declared] == list(declared)
    for name, each in declared.items():
        option = options[name]
        assert (option.opts, option.help, option.default) == ([each.option], each.help, each.default)
        assert get_type_hints(command)[name] == each.kind


def test_the_modal_entry_point_takes_them_too(fresh: Any) -> None:
    main = fresh("pretrain_wikitext_finetune_qasrl_modal.py").main.info.raw_f
    assert_modal_reads(main, launch_flags())
    names = [each.name for each in launch_flags()]
    assert [name for name in names if name not in vars(Request())] == [each.name for each in experiment_flags()]
    assert names.index("list_saved") == names.index("seed") - 1


def test_all_but_what_shapes_the_configuration_are_the_fields_of_the_spec() -> None:
    fields = [f.name for f in dataclasses.fields(ExperimentSpec)]
    assert ["config", *(each.name for each in flags_of(ExperimentSpec))] == fields
    assert {each.name for each in experiment_flags()} - {*fields} == {"config_name", "on_nan", "set"}
    plain = ExperimentSpec.from_flags(**{each.name: each.default for each in experiment_flags() if each.name != "set"})
    assert plain == ExperimentSpec.from_flags()


def test_the_sweep_takes_where_the_data_comes_from() -> None:
    command = emergence.commands.sweep_app.start_command
    options = typer_options(command)
    for each in flags_of(ExperimentSpec, *DATA_KEYS):
        assert options[each.name].help.startswith(each.help) and options[each.name].default is None
        assert get_type_hints(command)[each.name] == each.kind | None


def test_cka_explains_its_flags_here_and_on_modal(fresh: Any, capsys: pytest.CaptureFixture[str]) -> None:
    flags = flags_of(AnalysisFlags)
    assert_modal_reads(fresh("temporal_cka_analysis.py").main.info.raw_f, flags)
    parser_of(flags).print_help()
    text = " ".join(capsys.readouterr().out.split())
    assert len(flags) > 12 and all(each.help and f"{each.option} " in text and each.help in text for each in flags)
    assert AnalysisFlags(**vars(parser_of(flags).parse_args(["--model-dir", "RUN"]))) == AnalysisFlags(model_dir="RUN")


def test_a_new_flag_is_one_line(fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    line = ("patience", int, flag(3, "Epochs without improvement."))
    more = dataclasses.make_dataclass("ExperimentSpec", [line], bases=(ExperimentSpec,), frozen=True, kw_only=True)
    monkeypatch.setattr(emergence.spec.experiment, "ExperimentSpec", more)

    cli = fresh("emergence/cli.py")
    for command in (cli.run_command, cli.plan_command):
        option = typer_options(command)["patience"]
        assert (option.opts, option.help, option.default) == (["--patience"], "Epochs without improvement.", 3)
    assert CliRunner().invoke(cli.app, ["plan", "--config-name", "debug", "--patience", "5"]).exit_code == 0
    main = fresh("pretrain_wikitext_finetune_qasrl_modal.py").main.info.raw_f
    assert inspect.signature(main).parameters["patience"].default == 3
    assert parser_of(launch_flags()).parse_args(["--patience", "5"]).patience == 5

    spec: Any = more.from_flags(patience=5)
    assert more.from_dict(spec.to_dict()) == spec and spec.patience == 5
    with pytest.raises(ConfigError, match="patience has the impossible value"):
        more.from_dict({**spec.to_dict(), "patience": "five"})


def test_own_parameters_stand_before_the_flags_and_keywords_after_them() -> None:
    middle, early = Flag("middle", int, 1, "."), Flag("early", int, 1, ".", before="middle")

    @takes(middle, early, client="modal")
    def function(first: int = 0, *, last: str = "", **flags: Any) -> dict[str, Any]:
        return flags

    assert list(inspect.signature(function).parameters) == ["first", "early", "middle", "last"]
    assert function(first=2, middle=3, early=4) == {"middle": 3, "early": 4}


def test_modal_gets_one_text_where_it_cannot_repeat_a_flag() -> None:
    ours, theirs = ({each.name: each for each in flags}["set"] for flags in (experiment_flags(), launch_flags()))
    assert (ours.kind, theirs.kind) == (list[str] | None, str | None)
    assert not [each for each in launch_flags() if list in each.types] and for_modal([ours]) == (theirs,)
