"""Published models in a container: brought from the data volume, and a download kept there for the next container.

On the volume a model is a path that its owner put there, or below ``hub/`` a download in the layout of the hub's own
cache: ``models--ORG--NAME/snapshots/COMMIT`` with its files, and ``refs/REVISION`` that names the commit.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from emergence.errors import DataError
from emergence.files import TEMPORARY_SUFFIX
from emergence.remote.mirror import copy_file, copy_tree

if TYPE_CHECKING:
    from emergence.model.huggingface import ModelFiles

#: Where downloads lie on the data volume, and below ``HF_HOME``.
HUB = "hub"
_MAIN = "main"


def bring_model(name: str, revision: str | None, volume: Path, files: Path, hub_home: Path) -> None:
    """Put what the volume has of a model where a run looks for it. What it has not is fetched by the run itself.

    Args:
        name, revision: As the run asks for them. volume: The data volume.
        files: The folder that relative paths are of. hub_home: The hub's ``HF_HOME``.

    Raises:
        DataError: It can only be a path, and is not on the volume.
    """
    source = volume / name
    if source.is_file():  # a tokenizer may lie beside it
        for path in (source, source.parent / "tokenizer.json", source.parent / "vocab.txt"):
            if path.is_file():
                copy_file(path, files / source.parent.relative_to(volume) / path.name)
    elif source.is_dir():
        if revision is None or (source / revision).is_dir():
            copy_tree(source / (revision or ""), files / name / (revision or ""))
        else:  # what revisions there are, for the line that refuses this one
            for path in (*source.glob("config.json"), *source.glob("*/config.json")):
                copy_file(path, files / name / path.relative_to(source))
    elif name.startswith(".") or name.endswith(".pth"):
        raise DataError(f"{name} is not on the volume: modal volume put llm-training-data {name} {name}")
    else:
        _copy_download(volume / HUB, hub_home / HUB, name, revision)


def keep_model(found: ModelFiles, volume: Path) -> bool:
    """Leave a download on the volume for the next container. Returns whether it was not there yet.

    A branch stays at the commit that was fetched first, so that all runs of it read the same weights.
    """
    if found.commit is None:
        return False
    from emergence.model.huggingface.files import hub_folder

    ours = volume / HUB / hub_folder(found.name)
    is_new = not (ours / "snapshots" / found.commit).is_dir()
    if is_new:
        _copy_snapshot(found.folder, ours / "snapshots" / found.commit)
    ref = ours / "refs" / (found.revision or _MAIN)
    if found.revision != found.commit and not ref.is_file():
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(found.commit, encoding="ascii")
        is_new = True
    return is_new


def _copy_download(source: Path, target: Path, name: str, revision: str | None) -> None:
    """Copy one revision of a model between two caches of the hub's layout, if it is there."""
    from emergence.model.huggingface.files import hub_folder

    source, target = source / hub_folder(name), target / hub_folder(name)
    ref = source / "refs" / (revision or _MAIN)
    commit = ref.read_text(encoding="ascii") if ref.is_file() else revision
    if commit is None or not (source / "snapshots" / commit).is_dir():
        return
    if not (target / "snapshots" / commit).is_dir():
        _copy_snapshot(source / "snapshots" / commit, target / "snapshots" / commit)
    if ref.is_file():
        copy_file(ref, target / "refs" / (revision or _MAIN))


def _copy_snapshot(source: Path, target: Path) -> None:
    """Copy a snapshot, whole or not at all. Where its files are links into the hub's cache, what they lead to."""
    beside = target.with_name(f".{target.name}{TEMPORARY_SUFFIX}")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(source, beside)
    beside.replace(target)
