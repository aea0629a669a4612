"""``MANIFEST.json``: size and sha256 of every file of a run but checkpoints and analyses, itself sealed.

A copied run directory, or one pulled from Modal, is checked against it. Bit-rot, a cut-off download and an edited file
all show.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from emergence.errors import RunDirectoryError
from emergence.files import (
    MOST_JSON_BYTES,
    SEAL_KEY,
    folder_files,
    is_laid_out,
    name_within,
    parse_json,
    read_regular,
    seal,
    sha256_file,
    to_json,
    unseal,
)

MANIFEST_FILE = "MANIFEST.json"
#: Analyses are written after a run is sealed, and carry seals of their own.
ANALYSIS_FOLDER = "analysis"


@dataclass(frozen=True)
class ManifestEntry:
    """Size and sha256 of one file."""

    bytes: int
    sha256: str


def describe_folder(folder: Path) -> dict[str, ManifestEntry]:
    """The entry of every file under ``folder`` by its relative name, except the manifest's own and analyses."""
    files = {path.relative_to(folder).as_posix(): path for path in folder_files(folder)}
    files.pop(MANIFEST_FILE, None)
    files = {name: path for name, path in files.items() if not name.startswith(f"{ANALYSIS_FOLDER}/")}
    return {name: ManifestEntry(path.stat().st_size, sha256_file(path)) for name, path in files.items()}


def manifest_text(run_id: str, entries: Mapping[str, ManifestEntry]) -> str:
    """The content of ``MANIFEST.json``."""
    return to_json(seal(_unsealed(run_id, entries)), indent=2) + "\n"


def _unsealed(run_id: str, entries: Mapping[str, ManifestEntry]) -> dict[str, Any]:
    files = {name: {"bytes": entry.bytes, "sha256": entry.sha256} for name, entry in sorted(entries.items())}
    return {"run_id": run_id, "files": files}


def read_manifest(folder: Path) -> Mapping[str, ManifestEntry]:
    """The entries of a run's manifest.

    Raises:
        RunDirectoryError: It is missing or damaged, or names a file outside ``folder``.
    """
    path = folder / MANIFEST_FILE
    try:
        content = read_regular(path, most=MOST_JSON_BYTES)
    except OSError as reason:
        raise RunDirectoryError(f"{path}: {reason.strerror or reason}") from None
    return decode_manifest(content, str(path))


@functools.lru_cache(maxsize=64)  # every file of a run that is read is compared with the same bytes
def decode_manifest(content: bytes, source: str) -> Mapping[str, ManifestEntry]:
    """The entries of a manifest from the bytes of its file.

    Raises:
        RunDirectoryError: They are not the bytes that were written, or name a file outside the run directory.
    """
    try:
        text = content.decode("utf-8")
        raw = parse_json(text, source)
    except UnicodeDecodeError:
        raise RunDirectoryError(f"{source}: damaged: not UTF-8 text") from None
    entries = parse_manifest(raw, source)
    # This file vouches for the others and is in no list itself, so not even its layout may differ.
    as_written = {**_unsealed(raw.get("run_id"), entries), SEAL_KEY: raw[SEAL_KEY]}
    if not is_laid_out(as_written, text) and manifest_text(raw.get("run_id"), entries) != text:
        raise RunDirectoryError(f"{source}: damaged or edited")
    return MappingProxyType(entries)


def parse_manifest(raw: Any, source: str) -> dict[str, ManifestEntry]:
    """The entries of a parsed manifest.

    Raises:
        RunDirectoryError: It is damaged, or names a file outside the run directory.
    """
    files = unseal(raw, source).get("files")
    if not isinstance(files, dict):
        raise RunDirectoryError(f"{source}: not a manifest of this program")
    entries = {}
    for name, entry in files.items():
        parts = PurePosixPath(name).parts
        odd = not parts or name != "/".join(parts) or "\\" in name or ":" in name or not name.isprintable()
        if odd or name.startswith("/") or ".." in parts or len(name) > 500:
            raise RunDirectoryError(f"{source}: it names {name!r}, which is not inside the run directory")
        try:
            size, digest = entry["bytes"], entry["sha256"]
            if type(size) is not int or size < 0 or not isinstance(digest, str):
                raise ValueError
            entries[name] = ManifestEntry(size, digest)
        except (TypeError, KeyError, ValueError):
            raise RunDirectoryError(f"{source}: its entry for {name!r} is malformed") from None
    return entries


def check_file(folder: Path, name: str, entry: ManifestEntry) -> str | None:
    """What is wrong with one file of a run, in a line; None when it is as the manifest says."""
    path = folder / name
    if path.is_symlink() or (path.parent != folder and name_within(path, folder) is None):
        return f"{name}: a link, which a run directory never holds"
    if not path.is_file():
        return f"{name}: missing"
    size = path.stat().st_size
    if size != entry.bytes:
        return f"{name}: damaged ({size:,} bytes instead of {entry.bytes:,})"
    if sha256_file(path) != entry.sha256:
        return f"{name}: damaged (its sha256 differs)"
    return None
