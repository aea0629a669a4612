"""Pretraining text: natural text out of every format, splits by name or by document, faults by file and line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emergence.data.records import SPLITS
from emergence.data.text import LocalText, load_text_path
from emergence.data.text_files import natural_text
from emergence.data.wikitext import detokenise, is_title, looks_tokenised, plain_heading
from emergence.errors import DataError

ARTICLE = [
    "",
    " = Lobster = ",
    "",
    ' It weighs 0 @.@ 7 – 2 @.@ 2 kg ( 1 @.@ 5 lb ) , and is called " midnight @-@ sun lobster " . ',
    " = = Life cycle = = ",
    " It doesn 't eat <unk> ; the lobsters ' claws cost $ 1 @,@ 000 . ",
]


def documents(text: LocalText, split: str) -> list[str]:
    return [document.text for document in text.documents(split)]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def articles(count: int, name: str = "Title") -> str:
    return "\n".join(f" = {name} {i} = \n\nBody of {name} {i}, a sentence.\n" for i in range(count))


# WikiText -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (" a role @-@ playing game , 1 @,@ 000 copies . ", "a role-playing game, 1,000 copies."),
        ('He said " no " , then " yes . "', 'He said "no", then "yes."'),
        ("Japanese : 日本 ( lit . Japan ) ; 5 % [ 1 ]", "Japanese: 日本 (lit. Japan); 5% [1]"),
        ("the boys ' dog isn 't Ann 's and / or mine", "the boys' dog isn't Ann's and/or mine"),
        ("from 1990 – 95 at 13 : 05 – late", "from 1990–95 at 13:05 – late"),
        ("a <unk> of £ 5 ... ( really ) .", "a <unk> of £5... (really)."),
        ('an odd " quote', 'an odd " quote'),
        ("x .5 y", "x .5 y"),
    ],
)
def test_detokenised_wikitext(line: str, expected: str) -> None:
    assert detokenise(line) == expected


def test_headings() -> None:
    assert is_title(" = Lobster = ") and is_title("= Lobster =") and is_title(" = E = mc2 = ")
    assert not any(is_title(line) for line in (" = = Life cycle = = ", "a = b", "", " = ", "= x", "x = "))
    assert plain_heading(" = = Life cycle = = ") == "Life cycle"
    assert plain_heading(" = = = Deep = = = ") == "Deep"
    assert plain_heading("a = b") == "a = b"


def test_tokenised_text_is_told_from_natural_text() -> None:
    assert looks_tokenised("a tactical role @-@ playing game")
    assert looks_tokenised("one , two , three , four")
    assert not looks_tokenised("one, two, three, four , five")
    assert not looks_tokenised("")


def test_natural_text_keeps_lines_and_joins_nothing() -> None:
    assert natural_text(ARTICLE, tokenised=True) == (
        'Lobster\n\nIt weighs 0.7–2.2 kg (1.5 lb), and is called "midnight-sun lobster".\n'
        "Life cycle\nIt doesn't eat <unk>; the lobsters' claws cost $1,000."
    )
    assert natural_text(["", "a  b ", "", " ", "", "c", ""], tokenised=False) == "a  b\n\nc"


# Splits -------------------------------------------------------------------------------------------


def test_splits_by_file_name_and_notes_left_aside(tmp_path: Path) -> None:
    for name, count in (("wiki.train.tokens", 3), ("wiki.valid.tokens", 2), ("wiki.test.tokens", 1)):
        write(tmp_path / name, articles(count, name))
    write(tmp_path / "SOURCE.txt", "where it is from")
    write(tmp_path / ".hidden" / "train.txt", "not this")
    text = load_text_path(tmp_path, seed=0)
    assert [len(documents(text, split)) for split in SPLITS] == [3, 2, 1]
    assert documents(text, "test") == ["wiki.test.tokens 0\n\nBody of wiki.test.tokens 0, a sentence."]
    assert text.location()["ignored_files"] == ["SOURCE.txt"] and text.provenance()["carved"] == []


def test_folders_may_name_the_splits(tmp_path: Path) -> None:
    for split in SPLITS:
        write(tmp_path / split / "0000.txt", f"text of {split}")
    text = load_text_path(tmp_path, seed=0)
    assert {split: documents(text, split) for split in SPLITS} == {split: [f"text of {split}"] for split in SPLITS}


def test_missing_test_comes_from_validation_by_whole_documents(tmp_path: Path) -> None:
    write(tmp_path / "train.txt", articles(5))
    write(tmp_path / "valid.txt", articles(2, "Held out"))
    text = load_text_path(tmp_path, seed=0)
    assert [len(documents(text, split)) for split in SPLITS] == [5, 1, 1]
    assert set(documents(text, "validation")) | set(documents(text, "test")) == {
        f"Held out {i}\n\nBody of Held out {i}, a sentence." for i in range(2)
    }
    (carved,) = text.provenance()["carved"]
    assert carved == {"from": "validation", "by": "documents", "seed": 0, "units": 2, "test": 1}


def test_missing_test_comes_from_train_where_validation_is_one_document(tmp_path: Path) -> None:
    write(tmp_path / "train.txt", articles(40))
    write(tmp_path / "valid.txt", "one document alone")
    text = load_text_path(tmp_path, seed=0)
    assert [len(documents(text, split)) for split in SPLITS] == [38, 1, 2]
    assert text.provenance()["carved"][0]["from"] == "train"


@pytest.mark.parametrize("seed", [0, 1])
def test_one_file_gives_all_splits_disjoint_and_complete(tmp_path: Path, seed: int) -> None:
    text = load_text_path(write(tmp_path / "all.txt", articles(100)), seed)
    parts = {split: documents(text, split) for split in SPLITS}
    assert [len(part) for part in parts.values()] == [90, 5, 5]
    assert sorted(document for part in parts.values() for document in part) == sorted(
        f"Title {i}\n\nBody of Title {i}, a sentence." for i in range(100)
    )
    assert parts == {split: documents(load_text_path(tmp_path / "all.txt", seed), split) for split in SPLITS}
    other = load_text_path(tmp_path / "all.txt", seed + 1)
    assert documents(other, "test") != parts["test"] and other.fingerprint != text.fingerprint


def test_few_long_documents_are_split_by_pieces_that_lose_nothing(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {i} has some words in it. " * 4 for i in range(300)]
    text = load_text_path(write(tmp_path / "book.txt", " = Book = \n\n" + "\n\n".join(paragraphs)), 0)
    parts = {split: documents(text, split) for split in SPLITS}
    assert text.provenance()["carved"][0]["by"] == "pieces"
    assert min(len(part) for part in parts.values()) >= 2
    words = sorted(word for part in parts.values() for document in part for word in document.split())
    assert words == sorted(["Book", *(word for paragraph in paragraphs for word in paragraph.split())])


def test_a_seed_changes_nothing_where_the_files_name_all_splits(tmp_path: Path) -> None:
    for split in SPLITS:
        write(tmp_path / "a" / f"{split}.txt", articles(3, split))
        write(tmp_path / "b" / f"other.{split}.text", articles(3, split))
    prints = {load_text_path(tmp_path / folder, seed).fingerprint for folder in "ab" for seed in (0, 7)}
    assert len(prints) == 1
    write(tmp_path / "b" / "other.test.text", articles(4))
    assert load_text_path(tmp_path / "b", 0).fingerprint not in prints


def test_every_nth_document(tmp_path: Path) -> None:
    text = load_text_path(write(tmp_path / "x.txt", articles(50)), 0)
    all_of_them = list(text.documents("train"))
    assert list(text.documents("train", every=7)) == all_of_them[::7]
    assert len({document.id for document in all_of_them}) == len(all_of_them)


# Shapes of files ----------------------------------------------------------------------------------


def test_byte_order_mark_and_foreign_line_ends(tmp_path: Path) -> None:
    plain = articles(30)
    expected = documents(load_text_path(write(tmp_path / "plain.txt", plain), 0), "train")
    for name, content in {
        "bom": b"\xef\xbb\xbf" + plain.encode(),
        "crlf": plain.replace("\n", "\r\n").encode(),
        "mac": plain.replace("\n", "\r").encode(),
    }.items():
        assert documents(load_text_path(write(tmp_path / f"{name}.txt", content), 0), "train") == expected, name


@pytest.mark.parametrize("unit", ["word and ", "wörd日本🦞", "x"])
def test_one_huge_line_is_read_in_parts_and_loses_nothing(tmp_path: Path, unit: str) -> None:
    line = unit * (5_000_000 // len(unit.encode()))
    text = load_text_path(write(tmp_path / "train.txt", line), 0)
    parts = sorted((d for split in SPLITS for d in text.documents(split)), key=lambda d: int(d.id.split(".")[-1]))
    assert len(parts) > 50 and max(len(part.text) for part in parts) < 50_000
    assert "".join(part.text for part in parts).replace(" ", "") == line.replace(" ", "")


def test_parquet_by_lines_reads_like_the_text_file(tmp_path: Path) -> None:
    lines = [line for i in range(30) for line in (*ARTICLE[:1], f" = Lobster {i} = ", *ARTICLE[2:])]
    write(tmp_path / "text" / "all.tokens", "\n".join(lines) + "\n")
    (tmp_path / "hub").mkdir()
    rows = [line + "\n" if line else "" for line in lines]
    pq.write_table(pa.table({"text": rows}), tmp_path / "hub" / "all.parquet")
    by_text, by_rows = (load_text_path(tmp_path / kind, 0) for kind in ("text", "hub"))
    assert documents(by_text, "train") == documents(by_rows, "train") and len(documents(by_text, "train")) == 26
    assert by_rows.files["train"][0].kind == "parquet-lines"


def test_parquet_by_documents(tmp_path: Path) -> None:
    rows = [f"First line of {i}.\nSecond line." for i in range(40)]
    pq.write_table(pa.table({"text": rows, "url": rows}), tmp_path / "docs.parquet")
    text = load_text_path(tmp_path / "docs.parquet", 0)
    assert text.files["train"][0].kind == "parquet-documents"
    assert sorted(document for split in SPLITS for document in documents(text, split)) == sorted(rows)


# Faults -------------------------------------------------------------------------------------------


def folder_without_text(path: Path) -> Path:
    write(path / "README.md", "nothing")
    return path


def folder_without_train(path: Path) -> Path:
    write(path / "valid.txt", "a")
    write(path / "test.txt", "b")
    return path


def folder_of_two_kinds(path: Path) -> Path:
    write(path / "train.txt", "a")
    pq.write_table(pa.table({"text": ["a"]}), path / "test.parquet")
    return path


def parquet_of(**columns: Any) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        pq.write_table(pa.table(columns), path / "train.parquet")
        return path

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path / "absent", "--pretrain-text"),
        (lambda path: write(path / "train.txt", ""), "empty"),
        (lambda path: write(path / "train.txt", "\n \n"), "empty"),
        (lambda path: write(path / "train.txt", b"good\nbad \xff\xfe\n"), r"train.txt:2: is not UTF-8"),
        (lambda path: write(path / "train.txt", b"good\ngood\nb\0d"), r"train.txt:3: holds a NUL"),
        (lambda path: write(path / "train.txt", "tiny"), "too little text"),
        (lambda path: write(path / "train.parquet", b"PAR1 and then nothing"), "damaged parquet"),
        (parquet_of(words=["a"]), "no column text"),
        (parquet_of(text=[1, 2]), "row 1: the column text holds int"),
        (parquet_of(text=["a", None]), "row 2: the column text holds NoneType"),
        (folder_without_text, "holds no text"),
        (folder_without_train, "no training text"),
        (folder_of_two_kinds, "both text and parquet"),
    ],
)
def test_faults_name_the_file(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        text = load_text_path(make(tmp_path), 0)
        for split in SPLITS:
            documents(text, split)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_real_wikitext(shared_data: Path) -> None:
    text = load_text_path(shared_data / "wikitext-2", 0)
    parts = {split: documents(text, split) for split in SPLITS}
    assert [len(part) >= 3 for part in parts.values()] == [True] * 3
    joined = "\n".join(document for part in parts.values() for document in part)
    assert "@-@" not in joined and " , " not in joined and joined.count("<unk>") > 1000
