"""Question-answering data from a file or folder, or from parsed rows, to one ``QADataset``.

``load_qa_path`` recognises formats by content and splits by name. ``build_dataset`` is the pure step from parsed rows
to a data set.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from operator import attrgetter
from pathlib import Path, PurePath

from emergence.data.file_search import files_at, without_copies
from emergence.data.formats.bank import examples_from_bank_rows
from emergence.data.formats.qasrl1 import examples_from_qasrl1_rows
from emergence.data.formats.raw import examples_from_raw
from emergence.data.formats.recognise import (
    FORMATS,
    QAFormat,
    is_sentences_file,
    looks_like_data,
    recognise,
    recognised_formats,
)
from emergence.data.formats.squad import examples_from_squad_rows
from emergence.data.records import SPLITS, Answer, FilterCounts, QADataset, QAExample
from emergence.data.splits import SplitPart, complete_splits, separate_documents, split_of_path
from emergence.errors import DataError

__all__ = [
    "build_dataset",
    "examples_from_bank_rows",
    "examples_from_qasrl1_rows",
    "examples_from_squad_rows",
    "fingerprint",
    "load_every_format",
    "load_qa_path",
]

log = logging.getLogger(__name__)

#: Every file is opened to see what it is. A folder of more files than this is taken for something else.
MOST_FILES = 5_000


def load_qa_path(path: str | Path, *, seed: int = 0, families: Sequence[str] | None = None) -> QADataset:
    """Every question of a file, or of the files of a folder and its subfolders.

    A folder is read in ONE format per family (``qasrl``, ``squad``), so that nothing counts twice. Original text is
    preferred to copies, and ``provenance`` lists the files of other formats. Example: a folder with ``.qa`` files and a
    parquet copy of them is read from the ``.qa`` files.

    Args:
        path: A file or a folder.
        seed: Decides which documents form the splits that no file names.
        families: The families to read; None for the first that is there, ``qasrl`` before ``squad``.

    Raises:
        DataError: There is nothing at the path, no file is recognised, or one is malformed (with the line).
    """
    inventory = _find(Path(path))
    chosen: dict[str, QAFormat] = {}
    for entry in inventory.formats():
        if families is None or entry.family in families:
            chosen.setdefault(entry.family, entry)
    if not chosen:
        raise DataError(f"holds no {' or '.join(families or ())} data, only other formats", path)
    return _load(inventory, list(chosen.values())[: 1 if families is None else None], seed)


def load_every_format(path: str | Path, *, seed: int = 0) -> list[QADataset]:
    """Every question of a file or folder, as one data set for each format there.

    This is for checking files, not for training, because the data sets may hold the same questions.
    """
    inventory = _find(Path(path))
    return [_load(inventory, [entry], seed) for entry in inventory.formats()]


@dataclass(frozen=True, slots=True)
class _Inventory:
    """The files at a path, in the order of their names: those of a recognised format, and those of none."""

    root: Path
    recognised: list[tuple[QAFormat, Path]]
    ignored: list[Path]

    def formats(self) -> list[QAFormat]:
        present = {entry for entry, _ in self.recognised}
        return [entry for entry in FORMATS if entry in present]

    def relative(self, file: Path) -> PurePath:
        return PurePath(file.name) if file == self.root else file.relative_to(self.root)

    def names(self, files: Iterable[Path]) -> list[str]:
        return [str(self.relative(file)) for file in files]


def _load(inventory: _Inventory, chosen: Sequence[QAFormat], seed: int) -> QADataset:
    by_split: dict[str, list[tuple[QAFormat, Path]]] = {}
    formats = {file: entry for entry, file in inventory.recognised if entry in chosen}
    splits = {file: split_of_path(inventory.relative(file)) for file in formats}
    kept, copies = without_copies((split or "train", file) for file, split in splits.items())
    for split, file in kept:
        by_split.setdefault(split, []).append((formats[file], file))
    unnamed = [file for _, file in kept if splits[file] is None]
    aside = [file for entry, file in inventory.recognised if entry not in chosen]
    if aside:
        names = " and ".join(entry.name for entry in chosen)
        log.info("%s: read as %s, %d files aside", inventory.root, names, len(aside))
    parts: dict[str, SplitPart] = {
        split: examples_from_raw(chain.from_iterable(entry.read(file) for entry, file in files), split)
        for split, files in sorted(by_split.items())
    }
    provenance: dict[str, object] = {
        "route": "local",
        "path": str(inventory.root),
        "formats": [entry.name for entry in chosen],
        "files": {split: inventory.names(file for _, file in files) for split, files in by_split.items()},
        "files_without_split_name": inventory.names(unnamed),
        "left_aside_other_formats": inventory.names(aside),
        "left_aside_copies": inventory.names(copies),
        "ignored_files": inventory.names(inventory.ignored),
    }
    try:
        return build_dataset(None, parts, seed=seed, provenance=provenance)
    except DataError as exc:
        raise DataError(str(exc), inventory.root) from exc


def build_dataset(
    name: str | None,
    raw_by_split: Mapping[str, SplitPart],
    *,
    seed: int = 0,
    provenance: Mapping[str, object] | None = None,
) -> QADataset:
    """A data set from ``{split: (examples, counts)}`` as the ``examples_from_*`` functions return them.

    No document stays in two splits, missing splits are split off by document with ``seed``, and the counts are checked.
    ``provenance`` gains ``carved``, ``answers_dropped`` (answers lost from kept questions, by split) and ``questions``
    (kept, by split).

    Args:
        name: The data set's name; None for the names of its sources.

    Raises:
        DataError: There is no usable question.
    """
    if not any(examples for examples, _ in raw_by_split.values()):
        reasons = FilterCounts.merge(counts for _, counts in raw_by_split.values()).skipped
        raise DataError(f"no usable question (dropped: {reasons or 'none, there was no question at all'})")
    completed, carved = complete_splits(separate_documents(raw_by_split), seed)
    splits = {split: completed[split][0] for split in SPLITS}
    filtering: dict[str, FilterCounts] = {split: completed[split][1] for split in SPLITS}
    for counts in filtering.values():
        counts.check()
    notes = dict(provenance or {})
    notes["carved"] = carved
    notes["questions"] = {split: len(examples) for split, examples in splits.items()}
    notes["answers_dropped"] = {split: sum(completed[split][1].answers_dropped.values()) for split in SPLITS}
    by_split = {split: {example.source for example in examples} for split, examples in splits.items()}
    if by_split["train"] and by_split["test"] and by_split["train"].isdisjoint(by_split["test"]):
        log.warning(
            "training questions are from %s and test questions from %s: what is measured is also the step from one "
            "data set to the other", _listed(by_split["train"]), _listed(by_split["test"]),
        )  # fmt: skip
    sources = sorted(set().union(*by_split.values()))
    return QADataset(name or "+".join(sources), splits, filtering, fingerprint(splits), notes)


def _listed(names: Iterable[str]) -> str:
    return " and ".join(sorted(names))


_ANSWER_FIELDS = attrgetter(*(field.name for field in fields(Answer)))
_OTHER_FIELDS = attrgetter(*(field.name for field in fields(QAExample) if field.name not in ("split", "answers")))


def fingerprint(splits: Mapping[str, Sequence[QAExample]]) -> str:
    """sha256 over the content of all examples. The order of files, rows and splits does not change it."""
    lines = sorted(
        json.dumps([split, _OTHER_FIELDS(example), [_ANSWER_FIELDS(answer) for answer in example.answers]])
        for split, examples in splits.items()
        for example in examples
    )
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def _find(root: Path) -> _Inventory:
    try:
        return _recognise_all(root)
    except OSError as error:  # a folder that may not be read, a file that went away
        raise DataError(
            f"cannot be read: {error.strerror or error}: point --qa-data to the data's folder", root
        ) from None


def _recognise_all(root: Path) -> _Inventory:
    inventory = _Inventory(root, [], [])
    for file in files_at(root, "--qa-data", MOST_FILES):
        if file.stat().st_size == 0:  # nothing in it, or a file of the system's that is no file at all
            if file == root or looks_like_data(file):
                raise DataError("the file is empty", file)
            inventory.ignored.append(file)
            continue
        entry = recognise(file)
        if entry is not None:
            inventory.recognised.append((entry, file))
        elif not is_sentences_file(file):
            inventory.ignored.append(file)
    if not inventory.recognised:
        raise DataError(f"holds no question-answering data; recognised are: {recognised_formats()}", root)
    return inventory
