"""The experiment guide's command lines: each parses, plans, names the right thing; together they run on the stand-in.

The table in ``docs/modal.md`` says what each does here, from what it asks for; the slow test types all of them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from emergence.experiment.store import RunStore
from emergence.remote.launch import Request, flags_on_command_line, launch_flags
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.flags import flags_of
from emergence.studies.cka.analyse import AnalysisFlags
from tests.command_lines import script_command
from tests.remote.guide import GUIDE, LAUNCHER, REFERENCE, Line, filled
from tests.remote.standin import StandIn
from tests.remote.standin_flags import ROOT, SMALL

PAGE = ROOT / "docs" / "modal.md"
BEGIN, END = "<!-- the guide's lines: made by tests/remote/test_guide.py -->\n", "<!-- end of the guide's lines -->\n"
REWRITE = "python -m pytest tests/remote/test_guide.py --update-help"
#: Names of runs as they might be, by what a line's ``stands_for`` asks for.
NAMES = {
    f"{size} {data}": f"{size.capitalize()}QA_spe1k{suffix}_20260101-120000"
    for size in ("tiny", "small", "base", "medium")
    for data, suffix in (("wiki", ""), ("wiki+nq", "_wikinq"), ("frozen", "_frozen"))
}
EVERY = [pytest.param(line, id=f"{i}") for i, line in enumerate((*GUIDE, *REFERENCE), start=1)]


def request_of(words: list[str]) -> Request:
    flags = flags_on_command_line(words, str(ROOT / LAUNCHER), launch_flags())
    assert flags is not None, f"the client would refuse {words}"
    return Request.from_flags(flags)


def as_typed(line: Line) -> list[str]:
    """The words of a line, with the file where it lies for this process."""
    return [str(ROOT / word) if word.endswith(".py") else word for word in filled(line, NAMES)]


def what_it_does(line: Line) -> str:
    """What a line does here, in the words of the table."""
    words = as_typed(line)
    if words[0] == "cd":
        return "the folder of the clone, see above"
    if words[0] == "python":
        return "exits 1 if one is off" if "verify" in line.command else "those the files allow; names the others"
    if words[:2] == ["modal", "volume"]:
        place = Path(words[5]) / Path(words[4]).name if words[5].endswith("/") else Path(words[5])
        return f"`{place if words[5].endswith('.json') or place.suffix else f'{words[5]}RUN/'}`"
    if LAUNCHER not in line.command:
        return "`analysis/temporal_cka/` of the run, on the volume; prints the tables"
    request = request_of(words)
    if request.spec is None:
        return "needs no container"
    spec, plan = request.spec, request.plan()
    name = re.sub(r"_\d{8}-\d{6}$", "", spec.run_name(datetime(2026, 1, 1)))
    less = f", or ${request.plan(trunk='RUN').dollars:.2f}" if plan.pretrain_tokens else ""
    return f"`{name}_...` ({spec.condition}), {plan.gpu.modal_name}, {plan.hours:.1f} h, ${plan.dollars:.2f}{less}"


@pytest.mark.parametrize("line", EVERY)
def test_a_line_parses_plans_and_names_the_right_thing(line: Line) -> None:
    words = as_typed(line)
    if words[0] == "cd":
        clone = re.search(r"^git clone \S+ (\S+)", PAGE.read_text(), re.MULTILINE)
        assert clone and clone[1] == words[1], "the page says what to clone into"
    elif words[:3] == ["modal", "volume", "get"]:
        source, destination = words[4:]
        assert words[3] == "llm-models" and source.partition("/")[0] in NAMES.values()
        folder = ROOT / (destination if destination.endswith("/") else Path(destination).parent)
        assert (folder / ".gitkeep").is_file(), "where the folder is absent, the client makes a file of that name"
    elif words[0] == "python":
        command = script_command(Path(words[1]).relative_to(ROOT).as_posix())
        with command.make_context("script", words[2:]):
            pass
    elif Path(words[-1]).name == "--list-saved" or "--list-saved" in words:
        assert request_of(words).list_saved
    elif any(word.endswith("temporal_cka_analysis.py") for word in words):
        flags = flags_on_command_line(words, str(ROOT / "temporal_cka_analysis.py"), flags_of(AnalysisFlags))
        assert flags is not None
        AnalysisFlags(**flags).check()
        assert flags["model_dir"] in NAMES.values() and flags["config_name"] == "tiny"
    else:
        spec, size = request_of(words).spec, words[words.index("--config-name") + 1]
        assert spec is not None and spec.config.name == size and spec.condition == condition_of(line)
        assert spec.pretrain_data == ("wiki+nq" if "--pretrain-data wiki+nq" in line.command else "wiki")
        asked = re.search(r"--finetune-samples (\d+)", line.command)
        assert spec.finetune_samples == (int(asked[1]) if asked else None)
        assert spec.pretrains is ("--skip-pretrain" not in words)
        assert (spec.pretrained_model_path or "").partition("/")[0] in ("", *NAMES.values())
        assert spec.config.compute.gpu == ("A100-80GB" if size == "medium" else "A10G")


def condition_of(line: Line) -> str:
    return "random" if "--random" in line.command else "frozen" if "--freeze-llm" in line.command else "full"


# The table ---------------------------------------------------------------------------------------------


def table() -> str:
    """The table of the page: the guide's lines, what it says of each, what each does here."""
    rows = ["| | Line | In the guide | Here |", "|---|---|---|---|"]
    for number, line in enumerate(GUIDE, start=1):
        rows.append(f"| {number} | `{line.on_one_line}` | {line.promise} | {what_it_does(line)} |")
    return "\n".join(rows) + "\n"


def test_the_page_has_the_table(request: pytest.FixtureRequest) -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    wanted = f"{before}{BEGIN}{table()}{END}{after}"
    if request.config.getoption("--update-help"):
        PAGE.write_text(wanted, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == wanted, f"a line, a plan or a price has changed: {REWRITE}"


# Run in order ------------------------------------------------------------------------------------------

#: The guide's numbers of questions, 500 among them, need more than the smallest micro-world has, and less of the rest.
CHANGES = {
    "train_documents=12": "train_documents=80",
    "finetune.epochs=3": "finetune.epochs=1",
    "epoch=800": "epoch=200",
}
SETTINGS = SMALL
for before, after in CHANGES.items():
    assert before in SETTINGS
    SETTINGS = SETTINGS.replace(before, after)
WORLD = ("--data", "microworld", "--set", SETTINGS)


class Checkout:
    """A clone called ``llm_scale_up`` on a laptop, in which the guide's lines are typed."""

    def __init__(self, standin: StandIn, folder: Path) -> None:
        self.standin, self.folder = standin, folder
        self.volume = standin.volume("llm-models")
        self.names: dict[str, str] = {}
        self.made_by: dict[str, int] = {}
        self.pretrained: list[str] = []
        folder.mkdir()
        for name in ("emergence", "configs", "scripts"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for path in ROOT.glob("*.py"):
            shutil.copy(path, folder)
        for name in ("results", "checkpoints/tiny_full"):
            (folder / name).mkdir(parents=True)
            shutil.copy(ROOT / name / ".gitkeep", folder / name)

    def type(self, number: int, line: Line) -> str:
        """Run one line. Returns what was seen, without times."""
        words = filled(line, self.names)
        if words[0] == "cd":
            assert self.folder.name == words[1]
            return "a clone of that name"
        if words[0] == "python":
            return self._on_this_machine(words)
        launches = LAUNCHER in words and "--list-saved" not in words
        before = {run.run_id for run in RunStore(self.volume).runs()} if self.volume.exists() else set()
        done = self.standin.modal(*words[1:], *(WORLD if launches else ()), cwd=self.folder)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}\n{self.standin.container_output()[-4000:]}"
        if words[:3] == ["modal", "volume", "get"]:
            return self._fetched(words)
        if not launches:
            return self._listed(done.stdout) if "--list-saved" in words else self._analysed(words)
        (run_id,) = {run.run_id for run in RunStore(self.volume).runs()} - before
        return self._finished(number, run_id, line, done.stdout)

    def _finished(self, number: int, run_id: str, line: Line, printed: str) -> str:
        run = RunStore(self.volume).open(run_id)
        stats = json.loads(run.stats_path.read_text())
        assert run.spec.condition == condition_of(line) and run.verify_manifest() == []
        assert f"run          {run_id}" in printed and f"finished     {run_id}" in printed
        assert re.search(r"^follow       modal app logs -f ap-\S+\nstop         modal app stop ap-", printed, re.M)
        assert stats["final_validation_f1"] is not None and stats["config_name"] == run.spec.config.name
        documented = {"toy_llm_unified_pretrained.pth", "toy_llm_qasrl_finetuned.pth", "finetune_epoch_1.pth"}
        assert documented - {path.name for path in run.path.iterdir()} <= {"toy_llm_unified_pretrained.pth"}
        size = run.spec.config.name
        kind = run.spec.pretrain_data if condition_of(line) == "full" and run.spec.finetune_samples is None else ""
        kind = "frozen" if condition_of(line) == "frozen" else kind
        if kind:
            self.names[f"{size} {kind}"] = run_id
        self.made_by[run_id] = number
        name = re.sub(r"_\d{8}-\d{6}(-\d+)?$", "_…", run_id)
        return f"`{name}` finished, {self._trunk(run.spec, stats, run_id)}"

    def _trunk(self, spec: ExperimentSpec, stats: dict[str, Any], run_id: str) -> str:
        source = (stats["lineage"] or {}).get("run_id")
        if spec.random_baseline:
            return "random trunk"
        if source in (None, run_id):
            self.pretrained.append(spec.pretrain_id)
            return "pretrained"
        assert (self.volume / source / "toy_llm_unified_pretrained.pth").exists()
        if spec.pretrained_model_path:  # the very run that the line names, or the one that it has its trunk from
            named = spec.pretrained_model_path.partition("/")[0]
            assert named in self.made_by
            return f"trunk of the run of line {self.made_by[named]}"
        return f"trunk of the run of line {self.made_by[source]}, not pretrained again"

    def _listed(self, printed: str) -> str:
        assert all(run_id in printed for run_id in self.made_by) and printed.count("finished") == len(self.made_by)
        return f"the {len(self.made_by)} runs so far, finished"

    def _analysed(self, words: list[str]) -> str:
        folder = self.volume / words[words.index("--model-dir") + 1] / "analysis" / "temporal_cka"
        names = sorted(path.name for path in folder.rglob("*") if path.is_file())
        assert names == ["temporal_cka.json", "temporal_cka.npz"]
        return "by layer and epoch, against the pretrained and random trunks: `analysis/temporal_cka/`"

    def _fetched(self, words: list[str]) -> str:
        source, destination = self.volume / words[4], self.folder / words[5]
        if source.is_dir():
            copy = destination / source.name
            files = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
            assert files and all((copy / name).read_bytes() == (source / name).read_bytes() for name in files)
            return "every file of the run, in a folder of its name"
        copy = destination / source.name if words[5].endswith("/") else destination
        assert copy.read_bytes() == source.read_bytes()
        return f"`{copy.relative_to(self.folder)}`, equal bytes"

    def _on_this_machine(self, words: list[str]) -> str:
        verifies = words[1].startswith("verify")
        more = ("--data", "microworld") if verifies else ()
        done = subprocess.run(
            [sys.executable, *words[1:], *more],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        if verifies:
            assert done.stdout.splitlines()[-1].endswith(" 0 misaligned")
            return "0 misaligned"
        drawn = re.findall(r"^drawn    (\w+):", done.stdout, re.MULTILINE)
        assert drawn and (self.folder / "results" / "figures" / f"{drawn[0]}.pdf").exists()
        return "drawn: " + ", ".join(drawn)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_guides_lines_in_order(standin: StandIn, tmp_path: Path) -> None:
    checkout = Checkout(standin, tmp_path / "llm_scale_up")
    for number, line in enumerate(GUIDE, start=1):
        print(f"{number} {line.on_one_line}: {checkout.type(number, line)}", flush=True)
    assert len(checkout.pretrained) == len(set(checkout.pretrained)), "a trunk was pretrained twice"
    assert not standin.server.unknown
    for call in standin.calls("prepare"):  # data never waits on rented GPUs
        assert not call.function.definition.resources.gpu_config.count
