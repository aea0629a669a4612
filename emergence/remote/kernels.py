"""Compiled GPU kernels from one container to the next: one archive on a volume for each shape of training.

``torch.compile`` keeps its work in several places. Its graphs are pickles (``FxGraphCache``, ``AOTAutogradCache``, the
profile of dynamic shapes) and its modules Python source that is run as it lies there, so none of that leaves a
container. Triton's kernels are machine code for the GPU, with their intermediate forms as text and their settings as
JSON, and making them is most of a compilation. Folders with anything else in them, such as Triton's launchers for the
host, are left out and made anew. A cache never ends a run: an archive that is damaged is left alone with a warning.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
import shutil
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from emergence.files import content_digest, read_regular, write_atomic
from emergence.spec.experiment import ExperimentSpec

logger = logging.getLogger(__name__)

#: The variable by which Triton is told where its kernels lie. They name their own places, which therefore stay.
VARIABLE = "TRITON_CACHE_DIR"
#: Whole kernels have these files and no other.
_SUFFIXES = {".cubin", ".json", ".llir", ".ptx", ".source", ".ttgir", ".ttir"}
_NAME = re.compile(r"[A-Za-z0-9_-]+/[A-Za-z0-9_][A-Za-z0-9_.-]*")
#: An archive is no larger.
_MOST_BYTES = 1 << 30


def archive_name(spec: ExperimentSpec, gpu: str) -> str:
    """The archive of all runs that compile the same: of one size, training, GPU and release of torch."""
    try:
        release = version("torch")
    except PackageNotFoundError:
        release = ""
    config = spec.config.to_dict()
    return content_digest([release, gpu.partition(":")[0], config["model"], config["pretrain"]]) + ".kernels"


def bring(archive: Path, folder: Path) -> set[str]:
    """Unpack an archive into Triton's folder. Returns the names of the kernels; none where it is absent or damaged."""
    beside = folder.with_name(f".{folder.name}.tmp")
    try:
        if not archive.exists():
            return set()
        digest, content = read_regular(archive, most=_MOST_BYTES).split(b"\n", 1)
        if hashlib.sha256(content).hexdigest() != digest.decode("ascii"):
            raise ValueError("its content does not match its sha256")
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            members = packed.infolist()
            if sum(member.file_size for member in members) > _MOST_BYTES:
                raise ValueError("too large")
            for member in members:
                if not _NAME.fullmatch(member.filename) or Path(member.filename).suffix not in _SUFFIXES:
                    raise ValueError(f"{member.filename!r} is no part of a kernel")
                target = beside / member.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(packed.read(member))
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside.replace(folder)
        return _kernels(folder)
    except Exception as error:  # whatever it holds, it costs no run
        logger.warning("%s: not used (%s: %s); kernels are compiled anew", archive.name, type(error).__name__, error)
        return set()
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def keep(folder: Path, archive: Path, known: set[str]) -> bool:
    """Write a folder's kernels to an archive if there are more than the ``known`` ones. Returns whether it did."""
    try:
        kernels = _kernels(folder)
        if kernels <= known:
            return False
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
            for file in sorted(file for name in kernels for file in (folder / name).iterdir() if file.is_file()):
                if file.suffix in _SUFFIXES:
                    packed.write(file, file.relative_to(folder).as_posix())
        content = buffer.getvalue()
        if len(content) > _MOST_BYTES:
            return False
        archive.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(archive, hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
        return True
    except Exception as error:
        logger.warning("compiled kernels are not kept: %s: %s", type(error).__name__, error)
        return False


def _kernels(folder: Path) -> set[str]:
    """The folders of whole kernels."""
    found = set()
    for path in folder.iterdir() if folder.is_dir() else ():
        names = {file.name for file in path.iterdir()} - {"lock"} if path.is_dir() else set()
        if any(name.endswith(".cubin") for name in names) and all(Path(name).suffix in _SUFFIXES for name in names):
            found.add(path.name)
    return found
