"""Pretraining text from a file or folder to streams of documents by split.

File names tell the splits (train / dev, valid, validation / test). The seed splits missing ones off by document. A
missing test comes from validation if that has several documents, and otherwise from train. A missing validation comes
from train, and a single file gives all three. A text of few, long documents (books) is split by pieces of them, and the
provenance says so.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any, Protocol

import numpy as np

from emergence.data.file_search import files_at, without_copies
from emergence.data.records import SPLITS, TextDoc
from emergence.data.splits import split_of_path
from emergence.data.text_files import TextFile, cut_documents, natural_text, open_text_file
from emergence.errors import DataError

log = logging.getLogger(__name__)

#: Change it when the same files give other documents.
TEXT_VERSION = 1
#: Characters of a piece of a book.
PIECE_CHARS = 20_000
_LEAST_PIECE_CHARS = 200
#: Held-out text of fewer bytes is warned about: that is a page.
LITTLE_HELD_OUT = 2_000
_CARVED_PIECES = 60
_SUFFIXES = {"", ".txt", ".text", ".tokens", ".raw", ".parquet"}
_NOTES = re.compile(r"(readme|licen[cs]e|source|copying|citation|notice|changelog|authors)\b", re.IGNORECASE)
_CARVE_STREAM = 0x7E47  # keeps these random numbers apart from others drawn from the same seed


class TextSplits(Protocol):
    """Documents of pretraining text by split, readable any number of times."""

    @property
    def fingerprint(self) -> str:
        """sha256 (hexadecimal) of everything the documents depend on, known before they are read."""
        ...

    def size(self, split: str) -> int:
        """Bytes of text in a split, approximately."""
        ...

    def documents(self, split: str, every: int = 1) -> Iterator[TextDoc]:
        """Every ``every``-th document of a split, in order."""
        ...

    def provenance(self) -> dict[str, Any]:
        """What the documents are made of and how they were split, in plain JSON types. Their place changes nothing."""
        ...

    def location(self) -> dict[str, Any]:
        """Where the documents lie this time, in plain JSON types."""
        ...


@dataclass(frozen=True)
class Carving:
    """Which documents of one split become other splits.

    Attributes:
        donor: The split that gives.
        shares: Share of the donor's documents by receiving split.
        unit: ``documents`` (whole works) or ``pieces`` of them.
        homes: Receiving split by number of the unit. Units that it lacks stay with the donor.
        n_units: How many units the donor has.
    """

    donor: str
    shares: dict[str, float]
    unit: str
    homes: dict[int, str]
    n_units: int


class LocalText:
    """Text files of a file or folder; see :func:`load_text_path`."""

    def __init__(self, root: Path, files: dict[str, list[TextFile]], ignored: list[str], seed: int) -> None:
        self.root, self.files, self.ignored, self.seed = root, files, ignored, seed
        #: Set if :mod:`emergence.data.hub` fetched the files.
        self.hub_note: dict[str, Any] | None = None

    @cached_property
    def fingerprint(self) -> str:
        missing = set(SPLITS) - set(self.files)
        content: list[Any] = [TEXT_VERSION, PIECE_CHARS, self.seed if missing else None]
        content += [[split, file.sha256] for split in sorted(self.files) for file in self.files[split]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def size(self, split: str) -> int:
        for carving in self.carvings:
            if split in carving.shares:
                return int(self._own_bytes(carving.donor) * carving.shares[split])
        return self._own_bytes(split)

    def documents(self, split: str, every: int = 1) -> Iterator[TextDoc]:
        donor = next((carving.donor for carving in self.carvings if split in carving.shares), split)
        giving = [carving for carving in self.carvings if carving.donor == donor]
        number = 0
        for work, piece, file, lines in self._pieces(donor):
            homes = (carving.homes.get(work if carving.unit == "documents" else piece) for carving in giving)
            if next((home for home in homes if home), donor) != split:
                continue
            if number % every == 0:
                yield TextDoc(f"{file.name}:{work}.{piece}", natural_text(lines, file.tokenised))
            number += 1

    def provenance(self) -> dict[str, Any]:
        return {
            "files": {
                split: [
                    {"name": f.name, "kind": f.kind, "detokenised": f.tokenised, "bytes": f.n_bytes, "sha256": f.sha256}
                    for f in files
                ]
                for split, files in self.files.items()
            },
            "carved": [
                {
                    "from": carving.donor,
                    "by": carving.unit,
                    "seed": self.seed,
                    "units": carving.n_units,
                    **{split: list(carving.homes.values()).count(split) for split in carving.shares},
                }
                for carving in self.carvings
            ],
        }

    def location(self) -> dict[str, Any]:
        if self.hub_note is not None:
            return {"route": "hub", "hub": self.hub_note}
        return {"route": "local", "path": str(self.root), "ignored_files": self.ignored}

    @cached_property
    def carvings(self) -> list[Carving]:
        """How the missing splits are made. The donor's documents are read once to count them."""
        missing = [split for split in SPLITS if split not in self.files]
        if not missing:
            return []
        donor, shares = "train", dict.fromkeys(missing, 0.05)
        if missing == ["test"] and self._count("validation")[0] > 1:
            donor, shares = "validation", {"test": 0.5}
        carving = self._carve(donor, shares)
        log.info("%s: %s split off %s by %s, seed %d", self.root, ", ".join(shares), donor, carving.unit, self.seed)
        return [carving]

    def _carve(self, donor: str, shares: dict[str, float]) -> Carving:
        works, pieces = self._count(donor)
        unit, n_units = ("documents", works) if works * min(shares.values()) >= 1 else ("pieces", pieces)
        if n_units <= len(shares):
            raise DataError(
                f"too little text to split {' and '.join(shares)} off: give files named train, valid and test",
                self.root,
            )
        order = iter(np.random.default_rng([_CARVE_STREAM, self.seed]).permutation(n_units).tolist())
        homes = {next(order): split for split, share in shares.items() for _ in range(max(1, round(n_units * share)))}
        return Carving(donor, shares, unit, homes, n_units)

    def _count(self, split: str) -> tuple[int, int]:
        """Works and pieces of a split."""
        works = pieces = 0
        for work, piece, _, _ in self._pieces(split):
            works, pieces = work + 1, piece + 1
        return works, pieces

    def _pieces(self, split: str) -> Iterator[tuple[int, int, TextFile, list[str]]]:
        """``(work number, piece number, file, lines)``, numbered from zero within the split."""
        work = piece = -1
        for file in self.files.get(split, []):
            for starts, lines in cut_documents(file, self._piece_chars(split)):
                work, piece = work + starts, piece + 1
                yield work, piece, file, lines

    def _piece_chars(self, split: str) -> int:
        """Characters of a piece: fewer if a small text must give several splits."""
        if len(self.files) == len(SPLITS):
            return PIECE_CHARS
        return min(PIECE_CHARS, max(_LEAST_PIECE_CHARS, self._own_bytes(split) // _CARVED_PIECES))

    def _own_bytes(self, split: str) -> int:
        return sum(file.n_bytes for file in self.files.get(split, []))


def load_text_path(path: str | Path, seed: int) -> LocalText:
    """Find and recognise the text at a path. Its documents are read later, one at a time.

    Args:
        path: A text or parquet file, or a folder of them.
        seed: Decides which documents form the splits that no file names.

    Raises:
        DataError: The path does not exist or holds no text, a file is empty, or there is no training text.
    """
    root = Path(path)
    files = files_at(root, "--pretrain-text")
    if files == [root]:
        return LocalText(root, {"train": [open_text_file(root, root.name)]}, [], seed)
    chosen, ignored = _text_files(root, files)
    kept, copies = without_copies((split, root / name) for split, name in chosen)
    ignored += [path.relative_to(root).as_posix() for path in copies]
    by_split: dict[str, list[TextFile]] = {}
    for split, path in kept:
        by_split.setdefault(split, []).append(open_text_file(path, path.relative_to(root).as_posix()))
    kinds = {"parquet" if file.kind.startswith("parquet") else "text" for files in by_split.values() for file in files}
    if len(kinds) > 1:
        raise DataError("holds both text and parquet files: point to one of the two", root)
    if "train" not in by_split:
        if len(by_split) > 1:
            raise DataError("has no training text: name one of its files train", root)
        by_split = {"train": next(iter(by_split.values()))}
    text = LocalText(root, {split: by_split[split] for split in SPLITS if split in by_split}, ignored, seed)
    _warn_of_little_held_out(text)
    return text


def _warn_of_little_held_out(text: LocalText) -> None:
    for split in ("validation", "test"):
        if split in text.files and (size := text.size(split)) < LITTLE_HELD_OUT:
            log.warning(
                "%s: its %s text has %d bytes: a loss on so little says next to nothing; is the file whole?",
                text.root, split, size,
            )  # fmt: skip


def _text_files(root: Path, files: Iterable[Path]) -> tuple[list[tuple[str, str]], list[str]]:
    """``(split, name)`` of the files to read, and the names of those left aside.

    If no name tells a split, all files are training text.
    """
    names = sorted(file.relative_to(root).as_posix() for file in files)
    readable = [name for name in names if _is_text_name(name)]
    named = [(split, name) for name in readable if (split := split_of_path(PurePath(name)))]
    chosen = named or [("train", name) for name in readable]
    if not chosen:
        raise DataError(f"holds no text: looked for {', '.join(sorted(_SUFFIXES - {''}))} files", root)
    used = {name for _, name in chosen}
    return chosen, [name for name in names if name not in used]


def _is_text_name(name: str) -> bool:
    plain = name.removesuffix(".gz")
    return PurePath(plain).suffix.lower() in _SUFFIXES and not _NOTES.match(PurePath(name).name)
