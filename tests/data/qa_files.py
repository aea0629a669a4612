"""Small files of each QA format, written by the tests that read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emergence.data.formats.raw import examples_from_raw
from emergence.data.formats.recognise import recognise
from emergence.data.records import QAExample

QA = (
    "WIKI1_77\t1\n"
    "Rome was built by many people , and many people left .\n"
    "2\tbuilt\t3\n"
    "who\t_\t_\tbuilt\tsomething\t_\t_\t?\tmany people\n"
    'what\twas\t""\tbuilt\t_\tby\tsomeone\t?\tRome ### nonsense\n'
    "why\tmight not\tsomething\tbe built\t_\t_\t_\t?\t\n"
    "\n"
    "WIKI1_78\t1\n"
    "It rained .\n"
    "1\trained\t1\n"
    "what\t_\t_\trained\t_\t_\t_\t?\tsnow\n"
    "\n"
    "\n"
)


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read_all(path: Path) -> list[QAExample]:
    entry = recognise(path)
    assert entry is not None
    return examples_from_raw(entry.read(path), "train")[0]


def hub_rows() -> list[dict[str, Any]]:
    tokens = "Rome was built by many people , and many people left ."
    slots = ["who", "_", "_", "built", "something", "_", "_", "?"]
    row = {"sentence": tokens, "sent_id": "WIKI1_77", "predicate_idx": 2, "predicate": "built", "question": slots}
    return [row | {"answers": ["many people"]}, row | {"predicate_idx": 40, "answers": ["Rome"]}]
