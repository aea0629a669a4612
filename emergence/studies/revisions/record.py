"""What was found of a model's revisions, kept beside the runs and read without torch."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emergence.errors import EmergenceError
from emergence.files import content_digest, make_folder, read_sealed, seal, write_json_atomic
from emergence.plain import plain
from emergence.spec.published import size_name
from emergence.wording import aligned, counted

logger = logging.getLogger(__name__)

#: Where the records lie beside run directories, and how they are told from results.
FOLDER, KIND, VERSION = "revisions", "emergence-revisions", 1


@dataclass(frozen=True)
class Revision:
    """One revision as it was examined.

    Attributes:
        name, step: Its name and training step. tokens: Seen so far; None where nothing tells.
        n_values: Weights in its files. commit: The hub's.
        digest: Of all its weights. loss, bits_per_byte: On the reference text; None where it was not measured.
        suspect: Why it is not believed; None if it is.
    """

    name: str
    step: int
    tokens: int | None = None
    n_values: int | None = None
    commit: str | None = None
    digest: str | None = None
    loss: float | None = None
    bits_per_byte: float | None = None
    suspect: str | None = None


@dataclass(frozen=True)
class Revisions:
    """All examined revisions of a model, by step."""

    model: str
    revisions: tuple[Revision, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def sound(self) -> list[str]:
        return [revision.name for revision in self.revisions if revision.suspect is None]

    @property
    def suspects(self) -> dict[str, str]:
        return {revision.name: revision.suspect for revision in self.revisions if revision.suspect is not None}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"kind": KIND, "version": VERSION, **plain(vars(self))}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Revisions:
        """The inverse of :meth:`to_dict`."""
        return cls(str(raw["model"]), tuple(Revision(**r) for r in raw["revisions"]), tuple(raw["notes"]))

    def text(self) -> str:
        """A table for a terminal, and below it why revisions are suspect."""
        rows: list[tuple[str, ...]] = [("revision", "step", "tokens", "weights", "nats/token", "bits/byte", "")]
        for r in self.revisions:
            numbers = (f"{n:,}" if n is not None else "-" for n in (r.step, r.tokens, r.n_values))
            losses = (f"{x:.3f}" if x is not None else "-" for x in (r.loss, r.bits_per_byte))
            rows.append((r.name, *numbers, *losses, "suspect" if r.suspect else ""))
        lines = [f"{self.model}: {counted(len(self.revisions), 'revision')}, {len(self.suspects)} suspect"]
        lines += aligned(rows)
        lines += [f"{name} is suspect: {why}" for name, why in self.suspects.items()]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


# Beside the runs ----------------------------------------------------------------------------------


def record_path(runs_dir: Path, model: str) -> Path:
    """Where what was found of a model's revisions is kept."""
    return runs_dir / FOLDER / f"{size_name(model)}-{content_digest(model)[:8]}.json"


def save_revisions(runs_dir: Path, revisions: Revisions) -> None:
    """Keep what was found beside the runs."""
    path = record_path(runs_dir, revisions.model)
    make_folder(path.parent)
    write_json_atomic(path, seal(revisions.to_dict()))


def load_revisions(runs_dir: Path, model: str) -> Revisions | None:
    """What :func:`save_revisions` kept; None if there is none that can be read."""
    return next(iter(_read([record_path(runs_dir, model)])), None)


def all_revisions(runs_dir: Path) -> list[Revisions]:
    """Of every model that was examined."""
    return _read(sorted((runs_dir / FOLDER).glob("*.json")))


def _read(paths: Iterable[Path]) -> list[Revisions]:
    found = []
    for path in paths:
        try:
            raw = read_sealed(path)
            if raw.get("kind") == KIND and raw.get("version") == VERSION:
                found.append(Revisions.from_dict(raw))
        except (EmergenceError, KeyError, TypeError) as error:
            if path.exists():
                logger.warning("%s is not read: %s", path, error)
    return found
