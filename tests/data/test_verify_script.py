"""``emergence verify`` and its script: good data passes, every kind of corruption fails, exits as documented."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from emergence.commands import verify
from emergence.data import qa_load
from emergence.data.qa_load import load_qa_path
from emergence.data.records import QADataset, QAExample
from tests.command_lines import run_file, typed
from tests.data.qa_files import QA, write

SCRIPT = Path(__file__).resolve().parents[2] / "verify_qasrl_alignment.py"
APP = run_file(SCRIPT.name)["app"]


@pytest.fixture
def dataset(tmp_path: Path) -> QADataset:
    return load_qa_path(write(tmp_path / "a.qa", QA))


def only(dataset: QADataset) -> QAExample:
    """``Who built something?`` about ``Rome was [built] by many people , and many people left .``"""
    return next(e for e in dataset.splits["train"] if e.question == "Who built something?")


def test_good_data_passes(tmp_path: Path, dataset: QADataset) -> None:
    assert verify.dataset_problems(dataset) == []
    report = tmp_path / "out" / "report.json"
    result = CliRunner().invoke(APP, ["--qa-data", str(tmp_path / "a.qa"), "--json", str(report), "--sample", "1"])
    assert result.exit_code == 0, result.output
    assert "[[built]]" in result.output
    assert "- unaligned_span" in result.output
    left_out = "LEFT OUT 1 question: no answer is a sequence of whole words of the sentence (unaligned_span)\n"
    assert left_out in result.output and "SEEN" not in result.output
    content = json.loads(report.read_text())
    assert content["misaligned"] == 0
    assert content["datasets"][0]["alignment"] == {"nearest": 1, "unique": 1}
    assert content["datasets"][0]["filtering"]["train"] == {
        "total": 4,
        "kept": 2,
        "skipped": {"no_answer": 1, "unaligned_span": 1},
    }


def test_sentences_that_stand_in_train_and_later_are_told(
    tmp_path: Path, dataset: QADataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = replace(only(dataset), id="another", document_id="another", sentence_id="another", split="test")
    other = replace(again, id="third", tokens=("Words", *again.tokens[1:]))
    dataset.splits["test"], counts = [again, other], dataset.filtering["test"]
    dataset.filtering["test"] = replace(counts, total=2, kept=2)
    monkeypatch.setattr(qa_load, "load_every_format", lambda path, seed: [dataset])
    report = tmp_path / "report.json"
    result = CliRunner().invoke(APP, ["--qa-data", str(tmp_path), "--json", str(report)])
    assert "SEEN 1 of 2 sentences of test, word for word in train, too\n" in result.output
    assert json.loads(report.read_text())["datasets"][0]["sentences_of_train"]["test"] == [1, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": 3}, "decodes to 'by many people'"),
        ({"end": 5}, "decodes to 'many'"),
        ({"end": 99}, "outside the sentence"),
        ({"start": 6}, "outside the sentence"),
        ({"start": -3, "end": -1}, "outside the sentence"),
        ({"text": "Many people"}, "decodes to 'many people'"),
        ({"text": "many people ."}, "decodes to 'many people'"),
        ({"text": ""}, "decodes to"),
        ({"start": 8, "end": 10}, "stands nearer to the predicate"),
        ({"alignment": "unique"}, "called unique but also stands at word 8"),
    ],
)
def test_a_corrupted_span_is_found(dataset: QADataset, changes: dict[str, Any], message: str) -> None:
    example = only(dataset)
    corrupted = replace(example, answers=(replace(example.answers[0], **changes),))
    (problem,) = verify.example_problems(corrupted, "train")
    assert message in problem


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predicate_index": 12}, "points at no word"),
        ({"predicate_index": -1}, "points at no word"),
        ({"question": "Who built something"}, "is no question"),
        ({"split": "test"}, "stands in"),
        ({"answers": ()}, "no answer"),
    ],
)
def test_a_corrupted_example_is_found(dataset: QADataset, changes: dict[str, Any], message: str) -> None:
    (problem,) = verify.example_problems(replace(only(dataset), **changes), "train")
    assert message in problem


def test_a_promise_of_equality_is_held_to_its_words(dataset: QADataset) -> None:
    example = only(dataset)
    answer = replace(example.answers[0], text="MANY People.", alignment="nearest+casefold+trimmed")
    assert verify.example_problems(replace(example, answers=(answer,)), "train") == []
    for alignment in ("nearest+casefold", "nearest+trimmed", "nearest"):
        less = replace(example, answers=(replace(answer, alignment=alignment),))
        assert verify.example_problems(less, "train"), alignment


def test_faults_of_the_whole_data_set_are_found(dataset: QADataset) -> None:
    example = only(dataset)
    twice = replace(example, answers=example.answers * 2)
    assert "same span twice" in verify.example_problems(twice, "train")[0]
    dataset.splits["test"] = [replace(example, split="test")]
    problems = "\n".join(verify.dataset_problems(dataset))
    assert "is also in another split" in problems
    assert "counts do not add up" in problems
    assert "stands for 2 questions" in problems


def test_misaligned_data_exits_1_and_shows_where(
    tmp_path: Path, dataset: QADataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = only(dataset)
    shifted = replace(example, answers=(replace(example.answers[0], start=3, end=5),))
    dataset.splits["train"][dataset.splits["train"].index(example)] = shifted
    monkeypatch.setattr(qa_load, "load_every_format", lambda path, seed: [dataset])
    result = CliRunner().invoke(APP, ["--qa-data", str(tmp_path)])
    assert result.exit_code == 1
    assert f"MISALIGNED train {example.id}" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["--no-such-flag"],
        ["--qa-data", "{folder}/nowhere"],
        ["--qa-data", "{folder}/broken.qa"],
        ["--data", "elsewhere"],
        ["--finetune-data", "elsewhere", "--qa-data", "{folder}/a.qa"],
        ["--sample", "-1", "--qa-data", "{folder}/a.qa"],
        ["--json", "{folder}", "--qa-data", "{folder}/a.qa"],
    ],
)
def test_what_cannot_be_used_exits_2(tmp_path: Path, arguments: list[str]) -> None:
    write(tmp_path / "a.qa", QA)
    write(tmp_path / "broken.qa", QA.replace("\t?\tmany", "\tmany"))
    ended = typed(SCRIPT.name, *(argument.format(folder=tmp_path) for argument in arguments))
    assert ended.code == 2 and ended.err, ended


def test_help_answers_without_the_heavy_packages() -> None:
    heavy = "torch", "numpy", "datasets", "pyarrow"
    code = f"import runpy, sys; sys.argv = ['v', '--help']\ntry: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
    code += f"except SystemExit as e: print('exit', e.code, [m for m in {heavy!r} if m in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=SCRIPT.parent, check=True)
    assert "exit 0 []" in output.stdout
