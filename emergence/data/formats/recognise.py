"""Which question-answering format a file has. Its content tells, not its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from emergence.data.formats.bank import read_bank
from emergence.data.formats.gold_csv import is_gold_header, is_sentences_header, read_gold_csv
from emergence.data.formats.parquet import MAGIC, parquet_shape, read_parquet
from emergence.data.formats.qasrl1 import read_qasrl1, starts_like_qasrl1
from emergence.data.formats.raw import RawQuestion
from emergence.data.formats.squad import read_squad
from emergence.data.formats.textfile import head
from emergence.errors import DataError


@dataclass(frozen=True, slots=True)
class QAFormat:
    """One readable format. ``family`` groups formats that may hold the same questions twice over."""

    name: str
    family: str
    description: str
    read: Callable[[Path], Iterator[RawQuestion]]


#: In order of preference if a folder holds one family in several formats: original text before copies.
FORMATS = (
    QAFormat("qasrl1-text", "qasrl", "QA-SRL 1.0 text (.qa)", read_qasrl1),
    QAFormat("qasrl-gold-csv", "qasrl", "QA-SRL Gold Standard CSV with its sentences CSV, or QANom CSV", read_gold_csv),
    QAFormat(
        "qasrl-bank-jsonl", "qasrl", "QA-SRL Bank 2.0, Gold Standard or QANom JSON lines (.jsonl, .jsonl.gz)", read_bank
    ),
    QAFormat("qasrl1-parquet", "qasrl", "QA-SRL 1.0 parquet in the hub's columns", read_parquet),
    QAFormat("qasrl-bank-parquet", "qasrl", "QA-SRL Bank 2.0 parquet in the hub's columns", read_parquet),
    QAFormat("squad-json", "squad", "SQuAD v1.1 or v2 JSON", read_squad),
    QAFormat("squad-parquet", "squad", "SQuAD parquet in the hub's columns", read_parquet),
)
_BY_NAME = {entry.name: entry for entry in FORMATS}
_PARQUET = {"qasrl1": "qasrl1-parquet", "bank": "qasrl-bank-parquet", "squad": "squad-parquet"}
_DATA_SUFFIXES = (".qa", ".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".parquet")


def recognised_formats() -> str:
    """The formats in words, for messages."""
    return "; ".join(entry.description for entry in FORMATS)


def recognise(path: Path) -> QAFormat | None:
    """The format of one file, or None. Its first bytes tell and, for parquet, its columns.

    A ``.qa`` file of unclear content goes to the ``.qa`` reader, whose message names the line.

    Raises:
        DataError: The file cannot be read, is damaged gzip or parquet, or has the name of data but is not UTF-8 text.
    """
    start = head(path)
    if start.startswith(MAGIC):
        shape = parquet_shape(path)
        return None if shape is None else _BY_NAME[_PARQUET[shape]]
    if looks_like_data(path) and (b"\0" in start or start.startswith((b"\xff\xfe", b"\xfe\xff"))):
        raise DataError("is not UTF-8 text (UTF-16, or damaged): convert it to UTF-8, or fetch it again", path, 1)
    text = start.decode("utf-8", "replace").lstrip()
    first_line = text.partition("\n")[0].rstrip("\r")
    if text.startswith("{"):
        if '"sentenceTokens"' in first_line or '"verbEntries"' in first_line or '"sentenceId"' in first_line:
            return _BY_NAME["qasrl-bank-jsonl"]
        return _BY_NAME["squad-json"] if '"data"' in text and '"paragraphs"' in text else None
    if is_gold_header(first_line):
        return _BY_NAME["qasrl-gold-csv"]
    return _BY_NAME["qasrl1-text"] if starts_like_qasrl1(text) or path.suffix == ".qa" else None


def is_sentences_file(path: Path) -> bool:
    """Whether a file holds the sentences of a Gold Standard CSV. Such a file is used, although it asks nothing."""
    return is_sentences_header(head(path, 4096).partition(b"\n")[0].decode("utf-8", "replace"))


def looks_like_data(path: Path) -> bool:
    """Whether a name promises data, so that an empty file of that name is an error."""
    return path.name.lower().endswith(_DATA_SUFFIXES)
