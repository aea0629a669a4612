"""The documents keep up with the program: every number is explained, every path exists, every command parses."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import math
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import emergence
from tests.command_lines import emergence_command, modal_command, script_command

ROOT = Path(__file__).resolve().parents[1]
METHODS = ROOT / "docs" / "methods.md"
PAGES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)
#: Every text in which a person may be sent to a section of a page.
SOURCES = [*PAGES, *ROOT.glob("*.py")] + [
    path
    for folder in ("emergence", "tests", "benchmarks", "scripts", "docs", "notebooks")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".jinja", ".ipynb", ".toml")
]

#: Sections that the report links to.
ANCHORS = (
    "emergence-score",
    "emergence-gap",
    "token-f1",
    "exact-match",
    "intervals",
    "selectivity",
    "mdl",
    "temporal-cka",
    "bits-per-byte",
    "probes",
    "no-model-floor",
    "filtering",
    "cost",
    "emergence-curve",
    "snapshot-probes",
    "metric-mirage",
    "thresholds",
    "few-shot",
)


def anchors(page: Path) -> list[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _without_code(page.read_text(encoding="utf-8")), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


# Links and paths ----------------------------------------------------------------------------------


def test_sections_that_the_report_links_to_exist_once() -> None:
    from emergence.report.glossary import GLOSSARY

    found = anchors(METHODS)
    assert [name for name in {*ANCHORS, *GLOSSARY} if found.count(name) != 1] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", _without_code(page.read_text(encoding="utf-8"))):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
            broken.append(target)
    assert broken == []


def test_references_to_the_methods_page_lead_to_a_heading() -> None:
    """Those of docstrings, comments, templates and notebooks; and none is to the sections of another document."""
    texts = {path: path.read_text(encoding="utf-8") for path in SOURCES}
    references = [
        (path, anchor) for path, text in texts.items() for anchor in re.findall(r"methods\.md#([\w-]+)", text)
    ]
    assert len(references) > 60
    known = set(anchors(METHODS))
    assert [(path, anchor) for path, anchor in references if anchor not in known] == []
    assert [path for path, text in texts.items() if re.search(r"\bMETHODS [A-Z]\d?\b", text)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    paths = re.findall(r"\b(?:emergence|tests|benchmarks|scripts|configs|docs|notebooks)/[\w/.-]+\.\w+", text)
    assert sorted({path for path in paths if not (ROOT / path).exists()}) == []


# Numbers ------------------------------------------------------------------------------------------


def explained() -> set[str]:
    """Whatever stands in code font in the methods page, and the names in its formulas."""
    text = METHODS.read_text(encoding="utf-8")
    formulas = " ".join(re.findall(r"^    .+$", text, re.MULTILINE))
    return set(re.findall(r"`([^`\n]+)`", text)) | set(re.findall(r"\w+", formulas))


def test_every_key_of_a_result_is_explained() -> None:
    from emergence.answering.evaluate import Evaluation
    from emergence.answering.probe_fitting import ProbeFit
    from emergence.answering.probe_validity import ProbeValidity
    from emergence.experiment.result import SCHEMA_VERSION, RunResult
    from emergence.measures.bootstrap import Estimate
    from emergence.measures.probe_validity import DescriptionLength
    from emergence.measures.scoring import SCORE_NAMES
    from emergence.training.language_model_eval import LanguageModelLoss
    from emergence.training.pretrain import PretrainResult

    assert SCHEMA_VERSION == 1
    kinds: tuple[Any, ...] = (
        RunResult,
        Evaluation,
        Estimate,
        LanguageModelLoss,
        PretrainResult,
        ProbeValidity,
        DescriptionLength,
    )
    keys = {f.name for kind in kinds for f in dataclasses.fields(kind)}
    keys |= {f.name for f in dataclasses.fields(ProbeFit) if f.name != "weights"}
    keys |= {
        *SCORE_NAMES,
        "invalid_rate",
        "readouts",
        "fits",
        "validity",
        "headline_layer",
        "role",
        "asked_role",
        "by_role",
        "voice",
        "answer_words",
    }
    keys |= {"total", "non_embedding", "trainable"}
    assert sorted(keys - explained()) == []


def test_every_baseline_and_flag_of_a_score_is_explained() -> None:
    from emergence.measures.chance import FIXED_PLACEMENTS
    from emergence.measures.emergence_score import CELLS, TwoByTwo

    names = {"uniform", "whole_sentence", "wh_rule", *FIXED_PLACEMENTS, *CELLS, *flags_of_scores()}
    names |= {f.name for f in dataclasses.fields(TwoByTwo) if f.name.endswith(("benefit", "interaction"))}
    assert sorted(names - explained()) == []


def flags_of_scores() -> set[str]:
    """What scores are flagged with: below, between and above the cells, known well, hardly and not at all."""
    from emergence.measures.bootstrap import Estimate
    from emergence.measures.emergence_score import RatioMoments, score_flags
    from emergence.measures.ratio import Fieller
    from emergence.measures.summaries import score_from_summaries

    sets = [Fieller(kind, 0.0, 1.0, 0.5) for kind in get_args(get_type_hints(Fieller)["kind"])]
    moments = [RatioMoments(n, d, v, v, 0.0) for n in (-1.0, 0.5, 2.0) for d in (-1.0, 1.0) for v in (0.01, 9.0)]
    cells = [Estimate(point, math.nan, math.nan, "none", 0, 0, 1, (), 0.95) for point in (0.5, 0.8, 0.2)]
    flags = {flag for m in moments for fieller in sets for flag in score_flags(m, fieller, 1, 0.95)}
    return flags | set(score_from_summaries(*cells).flags)


def test_every_key_of_a_temporal_cka_is_explained(tmp_path: Path) -> None:
    from emergence.measures.cka import CKAMethod
    from emergence.measures.cka_resampling import PermutationTest
    from emergence.studies.cka.result import FILES
    from emergence.studies.cka.views import Effort, View
    from tests.planted_runs import fake_cka, fake_run

    run = fake_run(tmp_path, "debug")
    fake_cka(run)
    content = json.loads((run.path / FILES.folder / FILES.json_file).read_text())
    keys = {f.name for kind in (View, Effort, CKAMethod, PermutationTest) for f in dataclasses.fields(kind)}
    keys |= set(content) | set(content["probe"]) | set(content["runs"][0]) | set(content["runs"][0]["views"])
    keys |= {key for point in content["runs"][0]["checkpoints"] for key in point} | set(content["arrays"])
    assert sorted(keys - explained()) == []


def test_every_key_of_a_plan_is_explained() -> None:
    from emergence.spec.cost import plan_experiment
    from emergence.spec.experiment import ExperimentSpec

    plan = plan_experiment(ExperimentSpec.from_flags(config_name="debug", data="microworld"))
    assert sorted(set(plan.to_dict()) - explained()) == []


def test_every_key_of_a_configuration_is_explained() -> None:
    from emergence.commands.config import describe_config

    facts = json.loads(describe_config("debug", as_json=True))
    keys = set(facts) | {key for name in facts if name != "config" for key in _keys(facts[name])}
    assert sorted(keys - explained() - {"name", "count", "dollars_per_hour"}) == []


def _keys(value: Any) -> set[str]:
    return set(value) if isinstance(value, dict) else set()


def test_filter_reasons_are_explained() -> None:
    """Every reason that a question is dropped for stands in the table of words, and in the documents."""
    from emergence.data.records import DROP_REASONS

    given = re.compile(r"""(?:^[A-Z_]+ = |problem = |problem=|return )"([a-z]+_[a-z_]+)"(?: if|$)""", re.M)
    readers = [*(ROOT / "emergence/data/formats").glob("*.py"), *(ROOT / "emergence/data").glob("*.py")]
    reasons = {reason for path in readers for reason in given.findall(path.read_text(encoding="utf-8"))}
    assert {"unaligned_span", "too_long", "redundant_question", "not_verbal"} <= reasons == set(DROP_REASONS)
    assert {f"skipped_{reason}" for reason in DROP_REASONS} <= explained()


# Commands -----------------------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, str]]:
    """Page and command line of every shell block, continuation lines joined, comments off."""
    for page in PAGES:
        for block in re.findall(
            r"^```(?:bash|sh)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        ):
            for line in re.sub(r"\\\n\s*", " ", block).splitlines():
                words = shlex.split(line, comments=True)
                while words and re.fullmatch(r"\w+=\S*", words[0]):  # environment
                    words = words[1:]
                if words:
                    yield page.name, shlex.join(words)


COMMANDS = sorted(set(commands()))


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) > 20 and {page for page, _ in COMMANDS} >= {"README.md", "modal.md"}


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[line[:60] for _, line in COMMANDS])
def test_documented_command_parses(page: str, line: str) -> None:
    words = [word for word in shlex.split(line) if word != "..."]
    if words[0] == "torchrun":
        words = ["emergence", *words[words.index("emergence.cli") + 1 :]]
    if words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]) is not None, line
        return
    if words[0] == "emergence":
        parse(emergence_command(), words[1:])
    elif words[0] == "python":
        parse(script_command(words[1]), words[2:])
    elif words[:2] == ["modal", "run"]:
        words = [word for word in words[2:] if word not in ("-d", "--detach")]
        parse(modal_command(words[0]), words[1:])
    elif words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= set(targets), line
    elif words[:2] == ["pip", "install"]:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(re.findall(r"[\w-]+", "".join(re.findall(r"\[(.+?)\]", line)))) <= set(extras), line
    else:
        assert words[0] in ("modal", "mkdir", "cd", "git", "source", "export", "jupyter"), f"{page}: {line}"


@pytest.mark.parametrize(
    "line",
    [
        "emergence run --no-such-flag",
        "emergence run --layout backwards",
        "emergence tabel runs",
        "python scripts/generate_figures.py --no-such-flag",
        "python verify_qasrl_alignment.py --no-such-flag",
        "python temporal_cka_analysis.py --no-such-flag",
        "modal run temporal_cka_analysis.py --model-dir RUN --no-such-flag",
        "modal run temporal_cka_analysis.py --model-dir RUN --kernel cubic",
        "modal run verify_qasrl_alignment.py",
        "make tea",
        "pip install -e '.[no-such-extra]'",
        "no-such-program",
    ],
)
def test_a_wrong_command_would_be_found(line: str) -> None:
    with pytest.raises(AssertionError):
        test_documented_command_parses("page", line)


def parse(command: Any, words: list[str]) -> None:
    """Parse without running; an unknown flag, a wrong choice or a missing value is a failure."""
    assert command is not None, "no command line"
    try:
        with command.make_context(command.name or "script", words) as context:
            if not hasattr(command, "resolve_command"):
                return
            _, subcommand, rest = command.resolve_command(context, [*context._protected_args, *context.args])
    except Exception as error:  # of click, or of the click within typer
        assert not hasattr(error, "format_message"), error.format_message()
        raise
    parse(subcommand, rest)


def test_what_is_cited_is_this_version() -> None:
    cited = dict(line.split(": ", 1) for line in (ROOT / "CITATION.cff").read_text().splitlines() if ": " in line)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (cited["version"], cited["license"]) == (emergence.__version__, project["license"])
