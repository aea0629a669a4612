"""A finished run from a Modal volume to this machine, verified file by file.

Every file is written beside its place, compared with the run's ``MANIFEST.json``, and only then renamed into its place.
So an interrupted pull leaves nothing that looks complete, and the same command goes on with what is missing. What is
already here is never overwritten.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from emergence.errors import EmergenceError, RunDirectoryError
from emergence.experiment.manifest import MANIFEST_FILE, ManifestEntry, check_file, decode_manifest
from emergence.experiment.run_directory import SPEC_FILE, TOKENIZER_FILE
from emergence.experiment.store import is_run_id
from emergence.files import atomic_writer, make_folder, name_within, write_atomic

T = TypeVar("T")
Part = Literal["stats", "weights", "all"]

#: How often a file is tried, and the pause before the second try (doubled after each).
ATTEMPTS, FIRST_PAUSE = 4, 0.5


class RemoteFiles(Protocol):
    """Read access to the files of a volume."""

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of every file below ``folder`` by its relative name; empty if there is no such folder."""

    def read(self, path: str) -> Iterator[bytes]:
        """The content of one file in pieces. It may fail half-way."""


@dataclass(frozen=True)
class Pulled:
    """What one pull did.

    Attributes:
        folder: The local run directory.
        downloaded: Files fetched now.
        present: Files that were here already, verified too.
        bytes: Bytes fetched now.
    """

    folder: Path
    downloaded: tuple[str, ...]
    present: tuple[str, ...]
    bytes: int


def pull_run(
    source: RemoteFiles,
    run_id: str,
    to: Path,
    only: Part = "all",
    report: Callable[[str, int], None] = lambda name, size: None,
) -> Pulled:
    """Download a finished run into ``to/run_id``.

    Args:
        source: The volume.
        run_id: Name of the run on it.
        to: Folder that holds run directories; created when missing.
        only: ``stats`` (everything but weights and checkpoints), ``weights`` (the ``.pth`` files with what
            is needed to use them) or ``all``.
        report: Called before each download with the file's name and size in bytes.

    Raises:
        RunDirectoryError: The run is missing or unfinished, another file is in the way, or the connection is gone.
    """
    run_id = run_id.strip("/")
    if not is_run_id(run_id):
        raise RunDirectoryError(f"{run_id!r} cannot be the name of a run: --list-saved shows what there is")
    manifest = _fetch_manifest(source, run_id)
    entries = {name: entry for name, entry in manifest.entries.items() if _belongs(name, only)}
    folder = to / run_id
    if folder.is_symlink():
        raise RunDirectoryError(f"{folder} is a link, which a run directory never is: move it away, or use --to DIR")
    missing = _missing(folder, entries)
    for name in missing:
        report(name, entries[name].bytes)
        _download(source, run_id, name, entries[name], folder)
    if not (folder / MANIFEST_FILE).exists():
        make_folder(folder)
        write_atomic(folder / MANIFEST_FILE, manifest.text)
    fetched = sum(entries[name].bytes for name in missing)
    return Pulled(folder, tuple(missing), tuple(sorted(entries.keys() - set(missing))), fetched)


@dataclass(frozen=True)
class _Manifest:
    text: bytes
    entries: Mapping[str, ManifestEntry]


def _fetch_manifest(source: RemoteFiles, run_id: str) -> _Manifest:
    sizes = source.sizes(run_id)
    if not sizes:
        raise RunDirectoryError(f"there is no run {run_id!r} on the volume: --list-saved shows what there is")
    if MANIFEST_FILE not in sizes:
        raise RunDirectoryError(
            f"{run_id} has not finished, so its files cannot be verified yet: --list-saved shows how far it is"
        )
    path = f"{run_id}/{MANIFEST_FILE}"
    text = _patiently(lambda: b"".join(_pieces(source, path)), path)
    return _Manifest(text, decode_manifest(text, path))


def _belongs(name: str, only: Part) -> bool:
    weights = name.endswith(".pth")
    if only == "stats":
        return not weights and not name.startswith("checkpoint/")
    if only == "weights":
        return weights or name in (SPEC_FILE, TOKENIZER_FILE)
    return True


def _missing(folder: Path, entries: Mapping[str, ManifestEntry]) -> list[str]:
    """Names still to fetch.

    Raises:
        RunDirectoryError: Something else is in the place of one of the files.
    """
    missing = []
    for name, entry in sorted(entries.items()):
        path = folder / name
        if not path.exists() and not path.is_symlink():
            missing.append(name)
        elif problem := check_file(folder, name, entry):
            raise RunDirectoryError(
                f"{folder} holds another file than the volume ({problem}): move it away, or use --to DIR"
            )
    return missing


class _TransferError(Exception):
    """The bytes did not arrive. It is no OSError, because that would be about this machine's disk."""


def _pieces(source: RemoteFiles, path: str) -> Iterator[bytes]:
    try:
        yield from source.read(path)
    except OSError as error:
        raise _TransferError(str(error) or type(error).__name__) from error


def _download(source: RemoteFiles, run_id: str, name: str, entry: ManifestEntry, folder: Path) -> None:
    path = folder / name
    if name_within(path.parent, folder) is None:
        raise RunDirectoryError(f"{path.parent} is a link out of {folder}: move it away, or use --to DIR")
    make_folder(path.parent)

    def once() -> None:
        digest, size = sha256(), 0
        with atomic_writer(path, entry.bytes) as handle:
            for piece in _pieces(source, f"{run_id}/{name}"):
                handle.write(piece)
                digest.update(piece)
                size += len(piece)
            if size != entry.bytes or digest.hexdigest() != entry.sha256:
                raise _TransferError(f"{size:,} of {entry.bytes:,} bytes arrived, or others than were written")

    _patiently(once, f"{run_id}/{name}")


def _patiently(action: Callable[[], T], path: str) -> T:
    """Do what needs the network, and try again after failures of any type, because the client's types differ.

    Raises:
        RunDirectoryError: The last try failed, too.
    """
    for attempt in range(ATTEMPTS):
        try:
            return action()
        except EmergenceError:
            raise
        except Exception as error:
            if attempt == ATTEMPTS - 1:
                raise RunDirectoryError(
                    f"{path}: {error or type(error).__name__}; the same command goes on from here"
                ) from error
            time.sleep(FIRST_PAUSE * 2**attempt)
    raise AssertionError("unreachable")
