"""The smallest valid file of each format, as docs/data.md shows it, is read as that format."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from emergence.data.formats.raw import examples_from_raw
from emergence.data.formats.recognise import FORMATS, recognise
from emergence.data.nq import load_nq_path
from emergence.data.text_files import cut_documents, open_text_file

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```', PAGE, re.MULTILINE | re.DOTALL))
ANSWERS = {
    "mine.qa": ("qasrl1-text", ["The old company", "its factory"]),
    "mine.jsonl": ("qasrl-bank-jsonl", ["Dogs"]),
    "gold.csv": ("qasrl-gold-csv", ["Dogs"]),
    "qanom.csv": ("qasrl-gold-csv", ["the bridge"]),
    "squad.json": ("squad-json", ["Dogs"]),
}


def test_every_format_that_is_no_parquet_has_its_file() -> None:
    assert {name for name, _ in ANSWERS.values()} == {f.name for f in FORMATS if "parquet" not in f.name}
    assert set(FILES) == {*ANSWERS, "sentences.csv", "text.txt", "nq.jsonl"}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_smallest_file_is_read_as_its_format_with_its_answers(name: str, tmp_path: Path) -> None:
    for file, content in FILES.items():
        (tmp_path / file).write_text(content, encoding="utf-8")
    format_name, answers = ANSWERS[name]
    found = recognise(tmp_path / name)
    assert found is not None and found.name == format_name
    examples, counts = examples_from_raw(found.read(tmp_path / name), "train")
    assert [answer.text for example in examples for answer in example.answers] == answers, counts


def test_the_smallest_texts(tmp_path: Path) -> None:
    for name in ("text.txt", "nq.jsonl"):
        (tmp_path / name).write_text(FILES[name], encoding="utf-8")
    pieces = list(cut_documents(open_text_file(tmp_path / "text.txt", "text.txt"), 10_000))
    assert "Dogs eat meat." in str(pieces) and "Cats do not agree." in str(pieces)
    pairs = load_nq_path(tmp_path / "nq.jsonl", seed=0)
    assert [pair.question for split in pairs.splits.values() for pair in split] == ["who wrote it"]
