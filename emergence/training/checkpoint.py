"""Weights and resumable state on disk: the only ``torch.save`` of the project.

Both kinds of file are ordinary PyTorch zip files of tensors and plain values. They are opened with
``weights_only=True``, so nothing in them can run. They are sealed (:mod:`emergence.training.sealing`), and torch never
opens a file without a matching seal.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor, nn

from emergence.data.tokenizer import TextTokenizer
from emergence.errors import ConfigError, WeightsError
from emergence.files import atomic_writer, make_folder, open_regular, to_json
from emergence.model.tensor_files import first_line, load_tensors
from emergence.model.trunk import Trunk
from emergence.spec.config import ModelConfig, model_config_from_dict
from emergence.training.checkpoint_names import CheckpointName, parse_checkpoint_name
from emergence.training.identity import IDENTITY_KEY, Identity, note_older, size_of
from emergence.training.sealing import SealingStream, check_seal

logger = logging.getLogger(__name__)

WEIGHTS_FORMAT = "emergence-weights"
CHECKPOINT_FORMAT = "emergence-checkpoint"
FORMAT_VERSION = 1

#: Token ids fit 16 bits, and rows are padded.
_MOST_ROWS = 1 << 17

#: What fixes the shape of a trunk and the meaning of its weights (not how they were initialised).
_ARCHITECTURE = tuple(f.name for f in dataclasses.fields(ModelConfig) if f.name != "init")


# Weights ----------------------------------------------------------------------------------------


@dataclass
class WeightsFile:
    """A trunk with all that using it takes. After finetuning its heads are with it.

    Attributes:
        state_dict: Tensors by parameter name, on the CPU.
        model: The architecture.
        vocab_rows: Rows of the embedding matrix.
        tokenizer_json: The tokenizer that the weights were trained with.
        metadata: Plain JSON values: run id, spec, stage, step, loss, data fingerprints, versions.
    """

    state_dict: dict[str, Tensor]
    model: ModelConfig
    vocab_rows: int
    tokenizer_json: str
    metadata: dict[str, Any] = field(default_factory=dict)


def save_weights(path: Path, weights: WeightsFile) -> None:
    """Write ``weights`` to ``path``, atomically and sealed. Equal weights give equal bytes.

    Raises:
        RunDirectoryError: The system refused the write.
        TypeError: A value is neither a tensor nor plain.
    """
    described = {"model": dataclasses.asdict(weights.model), "metadata": weights.metadata}
    content = {
        "format": WEIGHTS_FORMAT,
        "version": FORMAT_VERSION,
        "state_dict": portable(dict(weights.state_dict), "state_dict"),
        # JSON makes the types plain, and the bytes the same however the caller's strings are shared.
        **json.loads(to_json(described)),
        "vocab_rows": int(weights.vocab_rows),
        "tokenizer_json": str(weights.tokenizer_json),
    }
    _write_sealed(path, content)


def load_weights(path: Path) -> WeightsFile:
    """Read weights that :func:`save_weights` wrote.

    Raises:
        WeightsError: The file is missing, damaged, cut short, of another program, or of another format. A tensor is not
            plain numbers in their order.
    """
    content = _read_sealed(path)
    _check_format(path, content, WEIGHTS_FORMAT)
    state, rows = content.get("state_dict"), content.get("vocab_rows")
    tokenizer, metadata = content.get("tokenizer_json"), content.get("metadata")
    if not isinstance(state, dict) or not all(type(k) is str and type(v) is Tensor for k, v in state.items()):
        raise WeightsError(f"{path}: its state_dict is not a dictionary of tensors")
    for name, tensor in state.items():
        if reason := _oddity(tensor):
            raise WeightsError(f"{path}: {name[:200]} is {reason}, which this program does not write")
    if (
        type(rows) is not int
        or not 0 < rows <= _MOST_ROWS
        or not isinstance(tokenizer, str)
        or not isinstance(metadata, dict)
    ):
        raise WeightsError(f"{path}: vocab_rows, tokenizer_json or metadata is missing or of the wrong type")
    try:
        model = model_config_from_dict(content.get("model"), str(path))
    except ConfigError as error:
        raise WeightsError(str(error)) from None
    return WeightsFile(state, model, rows, tokenizer, metadata)


def check_matches(
    weights: WeightsFile, model: ModelConfig, source: str | Path, *, tokenizer_json: str | None = None
) -> None:
    """Refuse weights of another architecture or, if ``tokenizer_json`` is not None, of another tokenizer.

    Raises:
        WeightsError: They differ. The message names both sizes, what differs, and the flag that cures it.
    """
    ours, theirs = dataclasses.asdict(model), dataclasses.asdict(weights.model)
    different = [key for key in _ARCHITECTURE if ours[key] != theirs[key]]
    if different:
        detail = ", ".join(f"{key} {theirs[key]} against {ours[key]}" for key in different)
        name = _config_name(weights)
        cure = f"--config-name {name} with the --set of their run" if name else "the configuration of their run"
        raise WeightsError(
            f"{source} holds weights of another model: {size_of(weights.model)}{f' ({name})' if name else ''}, "
            f"but this run is {size_of(model)} ({detail}): use {cure}, or other weights"
        )
    if tokenizer_json is not None and tokenizer_json != weights.tokenizer_json:
        trained_with, wanted = _fingerprint(weights.tokenizer_json), _fingerprint(tokenizer_json)
        raise WeightsError(f"{source} was trained with another tokenizer ({trained_with}; this run: {wanted})")


def load_into(module: nn.Module, state_dict: Mapping[str, Tensor], source: str | Path) -> None:
    """Copy ``state_dict`` into ``module``, whose tensors it must hold, all of them and no others.

    A trunk without a prefix gets the one that the weights have.

    Raises:
        WeightsError: It does not. The message names the first tensors that are missing, unknown or of another shape.
    """
    prefix = state_dict.get("prefix")
    if isinstance(module, Trunk) and module.prefix is None and prefix is not None and prefix.ndim == 2:
        module.prefix = nn.Parameter(module.unembedding.new_empty(len(prefix), module.hidden_size).float())
    _refuse_misfits(module.state_dict(), state_dict, source)
    module.load_state_dict(dict(state_dict))


def check_trunk(weights: WeightsFile, source: str | Path) -> None:
    """Check a trunk that somebody gives, before anything is made of it.

    Raises:
        WeightsError: Its tensors are not those of its own architecture, all of them and no others, or hold numbers that
            are not finite. Its tokenizer has another number of tokens.
    """
    with torch.device("meta"):  # shapes alone, whatever their size
        own = Trunk(weights.model, weights.vocab_rows).state_dict()
    _refuse_misfits(own, weights.state_dict, source)
    check_numbers(weights.state_dict, source)
    rows = TextTokenizer.from_json(weights.tokenizer_json, str(source)).vocab_rows
    if rows != weights.vocab_rows:
        raise WeightsError(f"{source}: its embedding has {weights.vocab_rows:,} rows, and its tokenizer needs {rows:,}")


def check_numbers(state_dict: Mapping[str, Tensor], source: str | Path) -> None:
    """Refuse weights of a trunk that are no finite float32 numbers, which would be rounded or copied in silence.

    Raises:
        WeightsError: The message names the first of them.
    """
    for name, tensor in state_dict.items():
        if tensor.dtype != torch.float32:
            raise WeightsError(f"{source}: {name} is of type {tensor.dtype}, and a trunk's weights are float32")
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"{source}: {name} holds numbers that are not finite: its training diverged")


def _oddity(tensor: Tensor) -> str | None:
    """What keeps a tensor from being plain numbers in memory, in their order; None for nothing."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        return f"a tensor of another layout ({tensor.layout}, on {tensor.device.type})"
    if not tensor.is_contiguous() or tensor.untyped_storage().nbytes() != tensor.nbytes:
        return "a view of other numbers"
    return None


def _refuse_misfits(own: Mapping[str, Tensor], state_dict: Mapping[str, Tensor], source: str | Path) -> None:
    """See :func:`load_into`."""
    problems = [f"{name} is missing" for name in own if name not in state_dict]
    problems += [f"{name[:200]} is unknown" for name in state_dict if name not in own]
    problems += [
        f"{name} is {tuple(state_dict[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state_dict and state_dict[name].shape != tensor.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise WeightsError(f"{source} does not fit this model: {'; '.join(problems[:3])}{more}")


def _fingerprint(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _config_name(weights: WeightsFile) -> str | None:
    try:
        return str(weights.metadata["spec"]["config"]["name"])
    except (KeyError, TypeError):
        return None


# Resumable checkpoints --------------------------------------------------------------------------


class ForeignFileError(WeightsError):
    """A whole file that lies in the folder of a run that is not its own."""


@dataclass(frozen=True)
class Checkpoint:
    """All that resuming needs: where training stood, and its state there."""

    phase: str
    step: int
    state: dict[str, Any]


class Checkpointer:
    """The resumable state of one run: the newest ``keep`` checkpoints of one folder.

    A checkpoint is one sealed file that appears by a rename, so it is complete or absent.

    Args:
        folder: Is made when the first checkpoint is saved.
        keep: How many to keep. With two, a damaged one costs one interval, not the run.
        on_commit: Called after each save. On Modal it commits the volume.
        identity: Of the run. Every checkpoint is saved with it, and one with another is refused.
    """

    def __init__(
        self,
        folder: Path,
        keep: int = 2,
        on_commit: Callable[[], None] | None = None,
        identity: Identity | None = None,
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}")
        self._folder, self._keep, self._on_commit, self._identity = folder, keep, on_commit, identity
        self._damaged: set[CheckpointName] = set()

    def save(self, phase: str, step: int, state: dict[str, Any], rewind_to: int | None = None) -> Path:
        """Save ``state`` (nested dictionaries, lists and tuples of tensors and plain values).

        Args:
            rewind_to: Keep, beside the newest ones, what ``load(phase, up_to=rewind_to)`` finds.

        Raises:
            RunDirectoryError: The system refused the write. The earlier checkpoints are still there.
            TypeError: A value is neither a tensor nor plain. The message has its path in ``state``.
        """
        make_folder(self._folder)
        names = self._names()
        name = CheckpointName(max((n.sequence for n in names), default=0) + 1, phase, step)
        content = {
            "format": CHECKPOINT_FORMAT,
            "version": FORMAT_VERSION,
            "phase": phase,
            "step": step,
            **({} if self._identity is None else {IDENTITY_KEY: self._identity.to_dict()}),
            "state": portable(state, "state"),
        }
        path = self._folder / str(name)
        _write_sealed(path, content)
        self._prune([*names, name], phase, rewind_to)
        if self._on_commit is not None:
            self._on_commit()
        return path

    def load(self, phase: str | None = None, up_to: int | None = None) -> Checkpoint | None:
        """The newest complete checkpoint, or None. One warning names the damaged ones that were passed over.

        Args:
            phase: Only checkpoints of this phase count. up_to: Only those of this step or earlier ones do.

        Raises:
            WeightsError: The newest complete one is of another run.
        """
        newest, damaged = self.newest(phase, up_to)
        if damaged:
            where = f"step {newest.step} of {newest.phase}" if newest else "the start: no complete checkpoint is left"
            logger.warning("passed over a damaged checkpoint, going on from %s: %s", where, "; ".join(damaged))
        return newest

    def newest(self, phase: str | None = None, up_to: int | None = None) -> tuple[Checkpoint | None, list[str]]:
        """What :meth:`load` finds, and what is wrong with the damaged ones that it passes over. It says nothing."""
        damaged, newest = [], None
        for name in sorted(self._names(), reverse=True):
            if (phase is not None and name.phase != phase) or (up_to is not None and name.step > up_to):
                continue
            try:
                newest = self._read(name)
                break
            except ForeignFileError:  # whole, so its own run would be gone on with in silence
                raise
            except WeightsError as error:
                self._damaged.add(name)
                damaged.append(str(error))
        return newest, damaged

    def read_all(self) -> dict[str, Checkpoint | WeightsError]:
        """Every checkpoint by its file name, the oldest first; in place of a damaged or foreign one, what is wrong."""
        contents: dict[str, Checkpoint | WeightsError] = {}
        for name in sorted(self._names()):
            try:
                contents[str(name)] = self._read(name)
            except WeightsError as error:
                contents[str(name)] = error
        return contents

    def has(self, phase: str) -> bool:
        """Whether a checkpoint of ``phase`` is there. It may still prove damaged."""
        return any(name.phase == phase for name in self._names())

    def newest_step(self, phase: str) -> int | None:
        """The step of the newest checkpoint of ``phase``, or None. It may still prove damaged."""
        return max(((name.sequence, name.step) for name in self._names() if name.phase == phase), default=(0, None))[1]

    def clear(self) -> None:
        """Delete every checkpoint, because a finished run needs none."""
        self._delete(self._names())
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    def _read(self, name: CheckpointName) -> Checkpoint:
        path = self._folder / str(name)
        content = _read_sealed(path)
        _check_format(path, content, CHECKPOINT_FORMAT)
        state = content.get("state")
        if content.get("phase") != name.phase or content.get("step") != name.step or not isinstance(state, dict):
            raise WeightsError(f"{path}: its content is not what its name says")
        self._refuse_foreign(path, content.get(IDENTITY_KEY))
        return Checkpoint(name.phase, name.step, state)

    def _refuse_foreign(self, path: Path, stored: object) -> None:
        if self._identity is None:
            return
        if stored is None:
            note_older(self._folder.parent)
        elif difference := self._identity.difference(stored):
            raise ForeignFileError(
                f"{path} is a checkpoint of another run: {difference}: delete it to go on without it, "
                "or start anew with --fresh"
            )

    def _names(self) -> list[CheckpointName]:
        try:
            file_names = [path.name for path in self._folder.iterdir()]
        except FileNotFoundError:
            return []
        return [name for name in map(parse_checkpoint_name, file_names) if name is not None]

    def _prune(self, names: list[CheckpointName], phase: str, rewind_to: int | None) -> None:
        """Keep the newest ones not known to be damaged, and the one to rewind to."""
        good = sorted((name for name in names if name not in self._damaged), reverse=True)
        early = [name for name in good if rewind_to is not None and name.phase == phase and name.step <= rewind_to]
        self._delete({*names} - {*good[: self._keep], *early[:1]})
        self._damaged.clear()

    def _delete(self, names: Iterable[CheckpointName]) -> None:
        for name in names:
            try:
                (self._folder / str(name)).unlink(missing_ok=True)
            except OSError as error:  # this costs room, not the run, and the next save tries again
                logger.warning("could not delete the old checkpoint %s: %s", name, error.strerror or error)


class NoCheckpointer(Checkpointer):
    """Keeps nothing, so an interrupted loop starts anew."""

    def __init__(self) -> None:
        super().__init__(Path(os.devnull))

    def save(self, phase: str, step: int, state: dict[str, Any], rewind_to: int | None = None) -> Path:
        return self._folder

    def _names(self) -> list[CheckpointName]:
        return []


# Sealed PyTorch files ---------------------------------------------------------------------------


def portable(value: Any, place: str) -> Any:
    """``value`` with plain types only, and with its tensors on the CPU and free of views into larger storage.

    Raises:
        TypeError: Something else is in it, such as a NumPy array. The message names its ``place``.
    """
    if isinstance(value, Tensor):
        tensor = value.detach().cpu().contiguous()
        # A view would drag its whole storage into the file.
        return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return {portable(key, f"a key of {place}"): portable(item, f"{place}[{key!r}]") for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(portable(item, f"{place}[{i}]") for i, item in enumerate(value))
    raise TypeError(f"{place} is {type(value).__name__}: only tensors and plain values can be saved")


def _write_sealed(path: Path, content: dict[str, Any]) -> None:
    with atomic_writer(path, _tensor_bytes(content)) as handle:
        stream = SealingStream(handle)
        try:
            torch.save(content, cast(IO[bytes], stream))
        except BaseException:
            if stream.error is not None:
                raise stream.error from None
            raise
        stream.seal()


def _tensor_bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return 0
    return sum(map(_tensor_bytes, value))


def _read_sealed(path: Path) -> dict[str, Any]:
    """The content of a sealed file.

    Raises:
        WeightsError: It is none. The message says in one line what it is instead.
    """
    try:
        with open_regular(path, WeightsError) as handle:
            check_seal(path, handle)
            handle.seek(0)
            content = load_tensors(handle)
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file; --list-saved shows the runs there are") from None
    except IsADirectoryError:
        raise WeightsError(f"{path} is a folder: give the .pth file in it") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except WeightsError:
        raise
    except Exception as error:
        # A valid seal around something torch refuses: forged, or written by another version of torch.
        raise WeightsError(f"{path}: refused by the safe loader ({first_line(error)})") from error
    if type(content) is not dict:
        raise WeightsError(f"{path}: not a weights file of this program")
    return content


def _check_format(path: Path, content: Mapping[str, Any], wanted: str) -> None:
    kind, version = content.get("format"), content.get("version")
    if kind != wanted:
        kinds = {WEIGHTS_FORMAT: "a weights file", CHECKPOINT_FORMAT: "a resumable checkpoint"}
        what = kinds.get(str(kind), "a file of another format")
        raise WeightsError(f"{path} is {what}, not {kinds[wanted]}")
    if version != FORMAT_VERSION:
        raise WeightsError(f"{path}: format version {version!r}, but this program reads version {FORMAT_VERSION}")
