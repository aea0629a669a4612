"""The command line: help, exit codes, one-line errors, and no heavy import before it is needed."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from emergence.cli import ORDER, app, with_the_named
from tests.command_lines import ROOT, emergence_command, printed, typed


def call(*words: str) -> tuple[int, str]:
    """Exit code and all output of ``emergence WORDS``."""
    code, out, err = typed("emergence", *words)
    return code, out + err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "--config-name", "tinyy"], "Invalid value for '--config-name': 'tinyy' is not one of 'debug', 'tiny'"),
        (["table", "--format", "word"], "Invalid value for '--format': 'word' is not one of"),
        (["sweep", "--on", "moon"], "Invalid value for '--on': 'moon' is not one of"),
        (["run", "--no-such-flag"], "no-such-flag"),
        (["run", "--finetune-samples", "many"], "--finetune-samples"),
        (["run", "--finetune-samples", "0"], "at least 1"),
        (["run", "--freeze-llm", "--skip-pretrain"], "--pretrained-model-path"),
        (["run", "--random-baseline", "--pretrained-model-path", "x"], "drop one"),
        (["run", "--skip-pretrain", "--skip-finetune"], "drop one"),
        (["run", "--set", "pretrain.epoch=1"], "did you mean pretrain.epochs?"),
        (["run", "--set", "nonsense"], "SECTION.KEY=VALUE"),
        (["run", "--data", "microworld", "--log", "mlflow"], "tensorboard, wandb, trackio"),
        (["run", "--resume", "NoSuchRun"], "NoSuchRun"),
        (["run", "--pretrain-text", "no/such/text", "--data", "microworld"], "no/such/text"),
        (["config", "smal"], "did you mean small"),
        (["plan", "--gpu", "A11G"], "A11G"),
        (["plan", "--config-name", "medium", "--max-cost", "0.01"], "--max-cost"),
    ],
)
def test_what_cannot_work_is_one_line_and_writes_nothing(words: list[str], says: str, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    code, output = call(*words, *(["--runs-dir", str(runs)] if words[0] == "run" else []))
    assert code in (1, 2) and says in output and "Traceback" not in output
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_commands_stand_in_the_order_of_their_use_in_whole_sentences() -> None:
    text = call("--help")[1]
    commands = text.partition("Commands:")[2]
    listed = [line.split()[0] for line in commands.splitlines() if line[2:3].strip()]
    assert tuple(listed) == ORDER and "..." not in commands and "completion" not in text


def test_a_shell_can_complete(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("_EMERGENCE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "emergence ver")
    monkeypatch.setenv("COMP_CWORD", "1")
    with pytest.raises(SystemExit):
        emergence_command().main([], prog_name="emergence")
    assert capsys.readouterr().out.split() == ["verify", "verify-run"]


@pytest.mark.parametrize("words", [["tiny"], ["--config-name", "tiny"]])
def test_config_takes_its_name_either_way(words: list[str]) -> None:
    lines = call("config", *words)[1].splitlines()
    assert lines[0].startswith("tiny: run names begin with TinyQA") and lines[2].split()[:2] == ["recipe", "modern"]


def test_help_needs_neither_torch_nor_numpy() -> None:
    program = (
        "import sys; sys.argv = ['emergence', '--help']\n"
        "from emergence.cli import run\n"
        "try: run()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'scipy', 'modal', 'datasets'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)


def test_what_few_need_is_not_imported_by_all() -> None:
    """In one process, the module that needs least first.

    scikit-learn takes most of a second before pretraining, scipy's statistics half of one before a report.
    """
    program = """
import sys

def refuse(*heavy):
    if found := set(heavy) & set(sys.modules):
        sys.exit(f"imported {found}")

import emergence.findings.table
refuse("scipy.optimize")
import emergence.report.write
refuse("scipy.stats")
import emergence.experiment.run
refuse("sklearn")
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_a_run_trains_and_probes_without_the_compiler(tmp_path: Path) -> None:
    """Neither what a sweep's processes are forked from nor a short run on a CPU, which is not compiled, imports it.
    torch's own optimisers would."""
    program = (
        "import importlib, sys\n"
        "from pathlib import Path\n"
        "from emergence.sweep.worker import PRELOAD\n"
        "for module in PRELOAD:\n"
        "    importlib.import_module(module)\n"
        "assert 'torch._dynamo' not in sys.modules, 'imported beforehand'\n"
        "from tests.small_runs import run_micro\n"
        "for flags in ({}, {'freeze_llm': True}):\n"
        "    run_micro(Path(sys.argv[1]), **flags)\n"
        "heavy = {'torch._dynamo', 'sympy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    on_cpu = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, cwd=ROOT, env=on_cpu)


def test_plan_takes_what_run_takes() -> None:
    plain, careful = (call("plan", "--config-name", "debug", *more) for more in ((), ("--on-nan", "rewind")))
    assert plain == careful and plain[0] == 0
    assert call("plan", "--on-nan", "explode")[0] == 2


def test_config_as_json_has_the_three_counts() -> None:
    code, output = call("config", "tiny", "--json")
    facts = json.loads(output)
    assert code == 0
    assert facts["parameters"]["non_embedding"] < facts["parameters"]["total"]
    assert facts["parameters"]["trainable_frozen"] == 2 * (128 + 1)
    assert facts["tokens"]["at_most"] == 200_000 * 512


@pytest.mark.parametrize(("name", "low", "high"), [("tiny", 0.4e6, 0.7e6), ("small", 1.5e6, 3e6), ("base", 45e6, 55e6)])
def test_sizes_are_what_they_are_called(name: str, low: float, high: float) -> None:
    assert low < json.loads(call("config", name, "--json")[1])["parameters"]["non_embedding"] < high


def test_an_empty_runs_folder_is_not_an_error(tmp_path: Path) -> None:
    code, output = call("list", "--runs-dir", str(tmp_path / "none"))
    assert code == 0 and "no runs" in output
    assert json.loads(call("list", "--json", "--runs-dir", str(tmp_path / "none"))[1]) == []


def test_an_empty_name_is_not_the_folder_that_one_is_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (["run", "--config-name", "debug"], ["list"], ["verify-run"], ["sweep", "status"], ["demo"]):
        code, output = call(*words, "--runs-dir", "")
        assert code == 2 and "--runs-dir: an empty name" in output and len(output.splitlines()) == 1, output
    assert not list(tmp_path.iterdir()) and call("list", "--runs-dir", ".")[0] == 0


def test_doctor_reports_in_words_and_json() -> None:
    code, output = call("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(output)}
    assert code == 0 and checks["torch"]["status"] == "ok" and checks["arithmetic"]["found"]


def test_a_named_command_is_built_alone_and_reads_the_same() -> None:
    whole = emergence_command()
    assert set(whole.commands) == set(ORDER)
    for name in ORDER:
        alone = typer.main.get_command(with_the_named(app, [name, "--help"]))
        assert list(alone.commands) == [name]  # type: ignore[attr-defined]
        texts = [
            printed(lambda command=command, name=name: command.main([name, "--help"], prog_name="emergence"))
            for command in (whole, alone)
        ]
        assert texts[0] == texts[1]
    for words in ([], ["--help"], ["tabel"], ["--version"]):
        assert with_the_named(app, words) is app


def test_a_command_looks_for_cycles_seldom() -> None:
    before = gc.get_threshold()
    try:
        gc.set_threshold(700)
        assert call("--version")[0] == 0 and gc.get_threshold()[0] >= 10_000
    finally:
        gc.set_threshold(*before)
