"""Question-answering data from a file or folder, or from parsed rows, to one ``QADataset``.

``load_qa_path`` recognises formats by content and splits by name; ``build_dataset`` is the pure step
from parsed rows to a data set, which the hub route shares.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, replace
from itertools import chain
from pathlib import Path, PurePath

from emergence.data.formats.bank import examples_from_bank_rows
from emergence.data.formats.qasrl1 import examples_from_qasrl1_rows
from emergence.data.formats.raw import DocumentCounts, examples_from_raw
from emergence.data.formats.recognise import (
    FORMATS,
    QAFormat,
    is_sentences_file,
    looks_like_data,
    recognise,
    recognised_formats,
)
from emergence.data.formats.squad import examples_from_squad_rows
from emergence.data.records import SPLITS, FilterCounts, QADataset, QAExample
from emergence.data.splits import SplitPart, complete_splits, separate_documents, split_of_path
from emergence.errors import DataError

__all__ = [
    "build_dataset",
    "examples_from_bank_rows",
    "examples_from_qasrl1_rows",
    "examples_from_squad_rows",
    "fingerprint",
    "load_qa_path",
    "merge_datasets",
]

log = logging.getLogger(__name__)


def load_qa_path(path: str | Path, *, seed: int = 0, families: Sequence[str] | None = None) -> QADataset:
    """Every question of a file, or of the files of a folder and its subfolders.

    A folder is read in ONE format per family (``qasrl``, ``squad``), the original text before its
    copies, so that nothing counts twice; what was left aside is in ``provenance``.

    Args:
        path: A file or a folder.
        seed: Decides which documents form the splits that no file names.
        families: The families to read; None for the first that is there, ``qasrl`` before ``squad``.

    Raises:
        DataError: Nothing there, nothing recognised, or a malformed file (with the line).
    """
    root = Path(path)
    if not root.exists():
        raise DataError("no such file or folder: check --qa-data", root)
    recognised, ignored = _recognise_all(root)
    chosen = _chosen_formats({entry for entry, _ in recognised}, families)
    if not chosen:
        raise DataError(f"holds no question-answering data; recognised are: {recognised_formats()}", root)
    used = [(entry, file) for entry, file in recognised if entry in chosen]
    aside = [file for entry, file in recognised if entry not in chosen]
    if aside:
        log.warning("%s: read as %s; %d files in other formats left aside", root, _names(chosen), len(aside))
    by_split: dict[str, list[tuple[QAFormat, Path]]] = {}
    unnamed = [file for _, file in used if split_of_path(_relative(file, root)) is None]
    for entry, file in used:
        by_split.setdefault(split_of_path(_relative(file, root)) or "train", []).append((entry, file))
    parts: dict[str, SplitPart] = {
        split: examples_from_raw(chain.from_iterable(entry.read(file) for entry, file in files), split)
        for split, files in sorted(by_split.items())
    }
    provenance: dict[str, object] = {
        "route": "local",
        "path": str(root),
        "formats": [entry.name for entry in chosen],
        "files": {split: [str(_relative(file, root)) for _, file in files] for split, files in by_split.items()},
        "files_without_split_name": [str(_relative(file, root)) for file in unnamed],
        "left_aside_other_formats": [str(_relative(file, root)) for file in aside],
        "ignored_files": [str(_relative(file, root)) for file in ignored],
    }
    return build_dataset(None, parts, seed=seed, provenance=provenance)


def build_dataset(
    name: str | None,
    raw_by_split: Mapping[str, SplitPart],
    *,
    seed: int = 0,
    provenance: Mapping[str, object] | None = None,
) -> QADataset:
    """A data set from ``{split: (examples, counts)}`` as the ``examples_from_*`` functions return them.

    Missing splits are split off by document with ``seed``, documents are kept in one split, counts
    checked, the content fingerprinted. ``provenance`` gains ``carved``, ``answers_dropped`` (answers
    lost from kept questions, by split) and ``questions`` (kept, by split).

    Args:
        name: The data set's name; None for the names of its sources.

    Raises:
        DataError: No usable question.
    """
    if not any(examples for examples, _ in raw_by_split.values()):
        reasons = FilterCounts.merge(counts for _, counts in raw_by_split.values()).skipped
        raise DataError(f"no usable question (dropped: {reasons or 'none, there was no question at all'})")
    completed, carved = complete_splits(raw_by_split, seed)
    separated = separate_documents(completed)
    splits = {split: separated[split][0] for split in SPLITS}
    filtering = {split: separated[split][1] for split in SPLITS}
    for counts in filtering.values():
        counts.check()
    notes = dict(provenance or {})
    notes["carved"] = carved
    notes["questions"] = {split: len(examples) for split, examples in splits.items()}
    notes["answers_dropped"] = {
        split: sum(counts.answers_dropped.values()) if isinstance(counts, DocumentCounts) else 0
        for split, counts in filtering.items()
    }
    sources = sorted({example.source for examples in splits.values() for example in examples})
    return QADataset(name or "+".join(sources), splits, filtering, fingerprint(splits), notes)


def merge_datasets(parts: Sequence[QADataset]) -> QADataset:
    """Several data sets as one, split by split, in the order given (``qasrl+squad``)."""
    splits = {split: [example for part in parts for example in part.splits[split]] for split in SPLITS}
    filtering = {split: FilterCounts.merge(part.filtering[split] for part in parts) for split in SPLITS}
    provenance: dict[str, object] = {part.name: part.provenance for part in parts}
    return QADataset("+".join(part.name for part in parts), splits, filtering, fingerprint(splits), provenance)


def fingerprint(splits: Mapping[str, Sequence[QAExample]]) -> str:
    """sha256 over the content of all examples; the order of files, rows and splits does not matter."""
    lines = sorted(
        json.dumps(astuple(replace(example, split=split)), ensure_ascii=True)
        for split, examples in splits.items()
        for example in examples
    )
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def _recognise_all(root: Path) -> tuple[list[tuple[QAFormat, Path]], list[Path]]:
    """The recognised files with their formats, and the others, both in the order of their names."""
    recognised: list[tuple[QAFormat, Path]] = []
    ignored: list[Path] = []
    for file in _files(root):
        if file.stat().st_size == 0 and (file == root or looks_like_data(file)):
            raise DataError("the file is empty", file)
        entry = recognise(file)
        if entry is not None:
            recognised.append((entry, file))
        elif not is_sentences_file(file):
            ignored.append(file)
    return recognised, ignored


def _files(root: Path) -> Iterator[Path]:
    if root.is_file():
        yield root
        return
    for file in sorted(root.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
        if file.is_file() and not hidden:
            yield file


def _chosen_formats(present: set[QAFormat], families: Sequence[str] | None) -> list[QAFormat]:
    """The preferred format of each wanted family that is present."""
    chosen: dict[str, QAFormat] = {}
    for entry in FORMATS:
        if entry in present and (families is None or entry.family in families):
            chosen.setdefault(entry.family, entry)
    return list(chosen.values())[: 1 if families is None else None]


def _relative(file: Path, root: Path) -> PurePath:
    return PurePath(file.name) if file == root else file.relative_to(root)


def _names(formats: Sequence[QAFormat]) -> str:
    return " and ".join(entry.name for entry in formats)
