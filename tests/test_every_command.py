"""Every command in an unlucky place ends in one line with the right exit code, before torch is imported.

Without the extras, with a bad path, in a folder that may not be written to, stopped by Ctrl-C. (Without a token or a
network: ``tests/remote/test_refusals.py``; the hub: ``tests/data/test_hub.py``.) Each command has a row here, or
the test of the rows fails.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
import typer

from tests.command_lines import ROOT, _walk, emergence_command, typed
from tests.planted_runs import write_grid

#: No such thing; a file where a folder belongs. {runs}: a folder of finished runs; {run}, {other}: two of them.
NOWHERE, FILE = "/no/such/place", "{file}"


class Row(NamedTuple):
    """How a command is typed.

    Attributes:
        fine: Arguments that it can work with. bad: Arguments with a path that leads nowhere.
        needs: The extra without which it cannot work; "" for none.
        writes: The flag of what it writes to, by which a read-only place is given; "" where it writes nothing.
    """

    fine: str
    bad: str
    needs: str = ""
    writes: str = ""


#: Flags of a run that takes its data from this machine.
LOCAL = "--config-name debug --data microworld"
#: A sweep that is not run yet.
PLANNED = "--losses 2.5,2.2,1.8 --amounts 50,200,1000"
ROWS = {
    "run": Row(f"{LOCAL} --runs-dir {{new}}", f"{LOCAL} --pretrain-text {NOWHERE} --runs-dir {{new}}", "local",
               "--runs-dir"),
    "plan": Row("--config-name debug", "--config-name nowhere"),
    "pull": Row("", f"RUN --to {FILE}", writes="RUN --to"),
    "list": Row("--runs-dir {runs}", f"--runs-dir {FILE}"),
    "verify-run": Row("{runs}", NOWHERE),
    "table": Row("{runs}", NOWHERE, "local", "{runs} --output"),
    "config": Row("debug", "nowhere"),
    "figures": Row("{runs} --out {new}", NOWHERE, "report", "{runs} --out"),
    "report": Row("{runs} --out {new}", NOWHERE, "report", "{runs} --out"),
    "compare": Row("{run} {other}", f"{{run}} {NOWHERE}", "local"),
    "ask": Row("{run} Birds. What?", f"{NOWHERE} Birds. What?", "local"),
    "probe-snapshots": Row("{run}", NOWHERE, "local"),
    "fewshot": Row("{run}", NOWHERE, "local"),
    "export": Row("{run} --to {new}", f"{NOWHERE} --to {{new}}", "local"),
    "probe": Row("--model {run}", f"--model {{run}} --runs-dir {FILE}", "hf"),
    "minimal-pairs": Row("{run}", NOWHERE, "local"),
    "ie": Row("{run}", NOWHERE, "local"),
    "units": Row("{run}", NOWHERE, "local"),
    "revisions": Row("{run}", NOWHERE, "hf"),
    "cka": Row("{run} --sentences 5", f"{{run}} --against {NOWHERE}", "local"),
    "verify": Row("--data microworld --sample 0", f"--qa-data {NOWHERE}", "local"),
    "curves": Row("{runs}", NOWHERE, "local"),
    "law fit": Row("{file}", NOWHERE, "local", "{file} --output"),
    "law plan": Row(f"{PLANNED} --noise 0.01 --law 1.7,2.3,0.9", f"{PLANNED} --noise {NOWHERE}", "local"),
    "law compare": Row("{file} {file}", f"{{file}} {NOWHERE}", "local"),
    "law skills": Row("{runs}", NOWHERE, "local"),
    "law scaling": Row("{file}", NOWHERE, "local"),
    "demo": Row("--runs-dir {new}", f"--runs-dir {FILE}", "local", "--runs-dir"),
    "doctor": Row("", ""),
    "sweep start": Row("matrix-debug --runs-dir {new}", f"{NOWHERE}.toml", "local", "--runs-dir"),
    "sweep status": Row("", f"--runs-dir {NOWHERE}"),
    "sweep resume": Row("", f"--runs-dir {NOWHERE}"),
    "sweep cancel": Row("", f"--runs-dir {NOWHERE}"),
}  # fmt: skip
#: More bad paths: one for every flag that takes one.
MORE = {
    "run": [
        f"{LOCAL} --runs-dir {FILE}",
        f"{LOCAL} --qa-data {NOWHERE} --runs-dir {{new}}",
        f"{LOCAL} --pretrain-data wiki+nq --nq-data {NOWHERE} --runs-dir {{new}}",
        f"{LOCAL} --skip-pretrain --pretrained-model-path {NOWHERE} --runs-dir {{new}}",
        "--resume nothing --runs-dir {new}",
    ],
    "sweep start": [f"matrix-debug --runs-dir {FILE}"],
    "table": [f"{{runs}} --output {NOWHERE}/t.md"],
    "report": [f"{{runs}} --out {FILE}"],
    "figures": [f"{{runs}} --out {FILE}"],
    "compare": [f"{NOWHERE} {{run}}"],
    "probe": [f"--model {NOWHERE} --runs-dir {{new}}"],
    "list": [FILE],
    "law fit": [f"{{file}} --output {NOWHERE}/law.json"],
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("unlucky")
    write_grid(folder / "runs", {"full": 0.7, "frozen": 0.5})
    (folder / "file").write_text("mine")
    run, other = sorted(path for path in (folder / "runs").iterdir() if path.is_dir())[:2]
    named = {"runs": folder / "runs", "run": run, "other": other, "file": folder / "file", "new": folder / "new"}
    return {name: str(path) for name, path in named.items()}


def words(command: str, line: str, places: dict[str, str]) -> list[str]:
    return [*command.split(), *(word.format(**places) for word in line.split())]


def test_every_command_has_a_row() -> None:
    commands = {" ".join(path) for path in _walk(emergence_command())} - {"", "sweep", "law"}
    assert commands == set(ROWS)


# Without the extras ---------------------------------------------------------------------------------------

#: A process in which nothing of the extras can be imported. It types the lines it reads, and writes how each ended.
_BASE = """
import importlib.util, json, sys
from tests.test_import_direction import HEAVY
missing = {*HEAVY, "jinja2"}

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

there = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in missing else there(name, *rest)
sys.meta_path.insert(0, Missing())
from tests.command_lines import typed
print(json.dumps([typed("emergence", *line) for line in json.load(sys.stdin)]))
"""


#: Lines that are refused, and lines that need nothing more than an installation.
BAD = [(name, line) for name, row in ROWS.items() for line in (row.bad, *MORE.get(name, [])) if line]
FINE = [(name, row.fine) for name, row in ROWS.items() if row.fine or name == "doctor"]


@pytest.fixture(scope="module")
def in_a_base_installation(places: dict[str, str]) -> dict[tuple[str, str], list[Any]]:
    """How each of these lines ended: its exit code, standard output and standard error."""
    lines = [words(name, line, places) for name, line in BAD + FINE]
    process = subprocess.run(
        [sys.executable, "-c", _BASE], input=json.dumps(lines), capture_output=True, text=True, cwd=ROOT, timeout=100
    )
    assert process.returncode == 0, process.stderr
    assert not Path(places["new"]).exists()
    return dict(zip(BAD + FINE, json.loads(process.stdout), strict=True))


def test_bad_paths_and_missing_extras_are_one_line_each_without_torch(
    in_a_base_installation: dict[tuple[str, str], list[Any]],
) -> None:
    """A bad path is refused as such although nothing of the extras is there, so nothing of them is imported for it."""
    for name, line in BAD:
        code, _, err = in_a_base_installation[name, line]
        assert code == 2 and err.startswith("error: ") and "pip install" not in err, (name, line, err)
        assert err.count("\n") == 1, (name, line, err)
    for name, line in FINE:
        code, out, err = in_a_base_installation[name, line]
        if ROWS[name].needs:
            assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and not out, (name, line, err)
            assert "pip install -e '.[" in err, (name, err)
        else:
            damaged = name == "verify-run"  # planted runs hold no weights
            assert code == damaged and out and not err, (name, line, code, err)


def test_a_base_installation_is_not_called_broken(in_a_base_installation: dict[tuple[str, str], list[Any]]) -> None:
    code, out, err = in_a_base_installation["doctor", ""]
    assert code == 0 and not err and "MISSING" not in out
    assert "launching to Modal needs none of them" in out and "-> pip install -e '.[local]'" in out


# A folder that may not be written to ------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.writes])
def test_a_read_only_place_is_refused_first(
    name: str, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may = os.access
    locked = tmp_path / "locked"
    locked.mkdir()
    monkeypatch.setattr(os, "access", lambda path, *rest: Path(path) != locked and may(path, *rest))  # root may always
    line = f"{ROWS[name].writes} {locked}/new.md"
    if name in ("run", "sweep start"):
        line = f"{LOCAL if name == 'run' else 'matrix-debug'} {line}"
    ended = typed("emergence", *words(name, line, places))
    assert ended.code == 2 and f"{locked} may not be written to" in ended.err and ended.err.count("\n") == 1
    assert not list(locked.iterdir())


# Ctrl-C ---------------------------------------------------------------------------------------------------


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ROWS)
def test_ctrl_c_is_no_error(name: str, places: dict[str, str]) -> None:
    command: Any = emergence_command()
    for word in name.split():
        command = command.commands[word]
    line = ROWS[name].fine or ("RUN" if name == "pull" else "")
    with mock.patch.object(type(command), "invoke", interrupt):
        ended = typed("emergence", *words(name, line, places))
    assert ended == (130, "", "stopped; the same command begins again, or goes on from what was saved\n")


@pytest.mark.parametrize("script", ["scripts/run_matrix.py", "scripts/compile_results.py", "verify_qasrl_alignment.py"])
def test_ctrl_c_in_a_script_is_no_error_either(script: str) -> None:
    with (
        mock.patch.object(typer.core.TyperCommand, "invoke", interrupt),
        mock.patch.object(typer.core.TyperGroup, "invoke", interrupt),
    ):
        ended = typed(script)
    assert ended.code == 130 and ended.err.startswith("stopped; ") and ended.err.count("\n") == 1
