"""Weights files read as those of a run: of its identity, its size, and of the stage that their name says.

Whole files of another run lie in a run directory only because somebody put them there; used in silence, they would
give numbers of neither run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from emergence.errors import RunDirectoryError, WeightsError
from emergence.experiment.facts import dig
from emergence.experiment.history import check_position
from emergence.experiment.run_directory import (
    DATA_FILE,
    FINETUNED_FILE,
    HISTORY_FILE,
    SPEC_FILE,
    TRUNK_FILE,
    RunDirectory,
    is_finetuned_name,
    is_own_weights,
    is_snapshot_name,
)
from emergence.files import read_regular
from emergence.training.checkpoint import ForeignFileError, WeightsFile, check_matches, load_weights
from emergence.training.identity import IDENTITY_KEY, Identity, note_older
from emergence.training.recording import Position

#: ``metadata["stage"]`` of a weights file: what its trunk has been through.
PRETRAINED, RANDOM, FINETUNED = "pretrained", "random", "finetuned"


def load_own(run: RunDirectory, path: Path, identity: Identity | None = None) -> WeightsFile:
    """The weights in ``path``, a file of ``run``.

    Args:
        identity: Of the run; None for what the run directory itself says.

    Raises:
        WeightsError: Missing, damaged, or of another run, size or stage.
    """
    weights = load_weights(path)
    check_own(run, path, weights, identity)
    return weights


def check_own(run: RunDirectory, path: Path, weights: WeightsFile, identity: Identity | None = None) -> None:
    """Refuse ``weights`` of another run, size or stage than ``path``, a file of ``run``, says by its place and name.

    Raises:
        WeightsError: In one line, naming the difference, or a fact in it that is of no such kind.
    """
    check_matches(weights, run.spec.config.model, path)
    refuse_odd_facts(weights, path)
    metadata, identity = weights.metadata, identity or run.identity()
    problem = _other_name(run, path, metadata)
    if problem is None:
        problem = identity.difference(_stored(run, metadata), pretraining=metadata.get("stage") == PRETRAINED)
    if problem:
        raise ForeignFileError(
            f"{path} is not a file of this run: {problem}: put back the run's own, or start anew with --fresh"
        )


def refuse_odd_facts(weights: WeightsFile, path: Path) -> None:
    """Refuse a file whose metadata, as far as anything reads it, is not what this program writes.

    Raises:
        WeightsError: In one line, naming the first such fact.
    """
    metadata = weights.metadata
    pretraining = metadata.get("pretraining")
    if pretraining is not None and not isinstance(pretraining, Mapping):
        raise WeightsError(f"{path}: its metadata has the pretraining {str(pretraining)[:40]!r}, which is none")
    pretraining = pretraining or {}
    for key, fits in _FACTS.items():
        for where in (metadata, pretraining):
            if (value := where.get(key)) is not None and not fits(value):
                raise WeightsError(f"{path}: its metadata has the {key} {str(value)[:40]!r}, which is none")


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _are_counts(value: object) -> bool:
    counts = value.tolist() if isinstance(value, Tensor) else value
    return isinstance(counts, list) and all(map(_is_count, counts))


#: What a weights file tells of itself -> whether a value can be that.
_FACTS: dict[str, Callable[[Any], bool]] = {
    "stage": lambda value: isinstance(value, str) and value in (PRETRAINED, RANDOM, FINETUNED),
    **dict.fromkeys(("name", "pretrain_id"), lambda value: isinstance(value, str)),
    **dict.fromkeys(("step", "steps", "tokens_seen", "epoch", "history_bytes"), _is_count),
    "token_counts": _are_counts,
}


def history_position(trunk: WeightsFile) -> Position:
    """Where the history stood when ``trunk`` was saved; files of an earlier version know no digest."""
    length, digest = trunk.metadata.get("history_bytes", 0), trunk.metadata.get("history_sha256")
    return length if digest is None else {"bytes": length, "sha256": digest}


def refuse_damaged_records(run: RunDirectory) -> None:
    """Refuse to go on with a run whose records are not what it wrote before its newest checkpoint and its trunk.

    Going on finds the same, but only once data are read and the history is opened for writing. Nothing is changed here.

    Raises:
        RunDirectoryError: The data file or the history is damaged.
        WeightsError: The trunk or the newest checkpoint is damaged, or of another run.
    """
    if (run.path / DATA_FILE).exists():
        run.read_data()
    positions: list[Position] = []
    if run.trunk_path.is_file():
        positions.append(history_position(load_own(run, run.trunk_path)))
    newest, _ = run.checkpointer(identity=run.identity()).newest()
    if newest is not None:
        positions.append(newest.state.get("history", 0))
    path = run.path / HISTORY_FILE
    content = read_regular(path) if path.exists() else b""
    for position in positions:
        check_position(content, position, path)


def check_beside(path: Path, weights: WeightsFile) -> None:
    """Apply :func:`check_own` to given weights that lie in a run directory; others have nothing to agree with."""
    if not is_own_weights(path.name) or not (path.parent / SPEC_FILE).is_file():
        return
    try:
        run = RunDirectory.open(path.parent)
    except RunDirectoryError:  # who asks for one file of it need not mind
        return
    check_own(run, path, weights)


def _stored(run: RunDirectory, metadata: dict[str, Any]) -> Any:
    """The identity in a file; what an older one tells of it."""
    if IDENTITY_KEY in metadata:
        return metadata[IDENTITY_KEY]
    note_older(run.path)
    # A trunk that was taken from elsewhere tells of the run that trained it.
    seed = None if metadata.get("source") else dig(metadata, "spec", "seed")
    return {"seed": seed, "tokenizer": dig(metadata, "data", "tokenizer")}


def _other_name(run: RunDirectory, path: Path, metadata: dict[str, Any]) -> str | None:
    """How the stage in the file, or the name that it was saved under, contradicts the name that it has."""
    stage, name = metadata.get("stage"), metadata.get("name")
    if path.name == TRUNK_FILE:
        fits = stage != FINETUNED and (stage == RANDOM) == run.spec.random_baseline
    elif is_finetuned_name(path.name):
        fits = stage == FINETUNED
    else:
        fits = stage == PRETRAINED
    if stage is not None and not fits:
        return f"its weights are {stage}"
    if IDENTITY_KEY not in metadata:
        return f"it was saved as {name}" if _is_another_snapshot(name, path.stem) else None
    # A trunk that was taken from a snapshot has the name of that one; the only fit of a frozen run has none.
    wanted = path.stem if is_snapshot_name(path.stem) and not metadata.get("frozen") else None
    if name != wanted and not metadata.get("source"):
        return f"it was saved as {name or path.with_name(_unnamed(stage)).stem}"
    return None


def _is_another_snapshot(name: object, stem: str) -> bool:
    return name != stem and is_snapshot_name(str(name)) and is_snapshot_name(stem)


def _unnamed(stage: object) -> str:
    """The file that weights without a name of their own were saved as."""
    return FINETUNED_FILE if stage == FINETUNED else TRUNK_FILE
