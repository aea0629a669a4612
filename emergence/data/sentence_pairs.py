"""Pairs of sentences of which one is better: read from files, fetched, or made in the micro-world.

A file is BLiMP's (Warstadt et al. 2020): JSON lines with ``sentence_good`` and ``sentence_bad``, and ``UID`` for the
phenomenon. A folder is all such files in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emergence.data.hub import fetch
from emergence.errors import DataError
from emergence.files import parse_json_lines, read_regular

ROLES, BLIMP = "microworld-roles", "blimp-argstructure"
#: Larger files are no pairs of sentences.
_MOST_BYTES = 1 << 28


@dataclass(frozen=True)
class SentencePair:
    """Two sentences.

    Attributes:
        good, bad: The sentences, as running text.
        kind: What tells them apart, for the breakdown.
        item: What intervals resample whole: the pair itself, or what it shares with others.
    """

    good: str
    bad: str
    kind: str
    item: str


@dataclass(frozen=True)
class PairSet:
    """Pairs under one name.

    Attributes:
        name: ``microworld-roles``, ``blimp-argstructure``, or the name of the file or folder.
        pairs: The pairs.
        facts: What a reader should know, in plain JSON types: files, baselines.
    """

    name: str
    pairs: tuple[SentencePair, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """sha256 (hexadecimal) of the pairs."""
        digest = hashlib.sha256()
        for pair in self.pairs:
            digest.update(json.dumps([pair.good, pair.bad, pair.kind, pair.item]).encode() + b"\n")
        return digest.hexdigest()


def load_pairs(asked: str, cache_dir: Path) -> PairSet:
    """The pairs that ``--data`` means: a name, a file or a folder.

    Raises:
        DataError: There are no such pairs, or a line is malformed.
        HubError: They could not be fetched.
    """
    if asked == ROLES:
        from emergence.data.role_pairs import role_pairs

        return role_pairs()
    if asked == BLIMP:
        folder, note = fetch(BLIMP, cache_dir)
        return PairSet(BLIMP, read_pairs(folder).pairs, {"route": note["route"], "date": note["date"]})
    return read_pairs(Path(asked))


def read_pairs(path: Path) -> PairSet:
    """The pairs of a file, or of all ``.jsonl`` files in a folder, in the order of their names.

    Raises:
        DataError: It is missing, holds no pairs, or a line is malformed. The message names file and line.
    """
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    pairs = [pair for file in files for pair in _pairs_of(file)]
    if not pairs:
        raise DataError(f"no pairs of sentences in it: give BLiMP's JSON lines, {ROLES} or {BLIMP}", path)
    return PairSet(path.resolve().name, tuple(pairs), {"files": [file.name for file in files]})


def _pairs_of(file: Path) -> Iterator[SentencePair]:
    try:
        content = read_regular(file, DataError, _MOST_BYTES)
    except OSError as error:
        known = f"give a file, a folder, {ROLES} or {BLIMP}"
        raise DataError(f"cannot be read: {error.strerror or error}: {known}", file) from None
    if not content.endswith(b"\n"):  # the last line of a file that somebody wrote is a whole one
        content += b"\n"
    lines = [line for line in content.split(b"\n")[:-1] if line.strip()]
    for number, row in enumerate(parse_json_lines(b"\n".join([*lines, b""]), str(file), DataError), start=1):
        good, bad, kind = row.get("sentence_good"), row.get("sentence_bad"), row.get("UID", file.stem)
        if not all(isinstance(text, str) and text.strip() for text in (good, bad, kind)):
            raise DataError("needs sentence_good and sentence_bad, two texts, as BLiMP has them", file, number)
        if good == bad:
            raise DataError(f"the two sentences are the same: {str(good)[:60]!r}", file, number)
        yield SentencePair(str(good), str(bad), str(kind), f"{kind} {number}")
