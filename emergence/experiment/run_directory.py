"""One run on disk: every file name, what is written when, and who may write.

The module imports no torch, so that listing and pulling need none. Methods that touch weights import the checkpoint
module when they are called.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emergence.errors import ConfigError, RunDirectoryError
from emergence.experiment.history import FileRecorder, check_history, check_position, check_timings
from emergence.experiment.locks import RunLock
from emergence.experiment.manifest import (
    MANIFEST_FILE,
    ManifestEntry,
    check_file,
    describe_folder,
    manifest_text,
    read_manifest,
)
from emergence.files import (
    ErrorType,
    parse_json,
    read_json_lines,
    read_json_text,
    read_regular,
    read_sealed,
    seal,
    sha256_text,
    to_json,
    unseal,
    unseal_as_written,
    write_atomic,
    write_json_atomic,
    write_json_lines_atomic,
)
from emergence.plain import plain
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.settings import SECTIONS
from emergence.training.identity import Identity, size_of

if TYPE_CHECKING:
    from emergence.training.checkpoint import Checkpointer, WeightsFile
    from emergence.training.recording import Position

SPEC_FILE = "spec.json"
DATA_FILE = "data.json"
HISTORY_FILE = "history.jsonl"
TIMINGS_FILE = "timings.jsonl"
TRUNK_FILE = "toy_llm_unified_pretrained.pth"
FINETUNED_FILE = "toy_llm_qasrl_finetuned.pth"
CHECKPOINT_FOLDER = "checkpoint"
PREDICTIONS_FILE = "predictions.jsonl"
TOKENIZER_FILE = "tokenizer.json"
STATS_FILE = "finetune_stats.json"

_FLAGS = frozenset(f.name for f in fields(ExperimentSpec))
_SETTINGS = {name: frozenset(f.name for f in fields(kind)) for name, kind in SECTIONS.items()}
_SNAPSHOT = re.compile(r"(?P<phase>pretrain|finetune)_(?P<unit>epoch|step)_(?P<number>\d+)")


@dataclass(frozen=True)
class Snapshot:
    """Weights kept along the way: ``pretrain_step_512.pth`` is (pretrain, step, 512)."""

    phase: str
    unit: str
    number: int
    path: Path


class RunDirectory:
    """One run on disk. Whoever writes to it holds :meth:`lock`."""

    def __init__(
        self,
        path: Path,
        spec: ExperimentSpec,
        created: str,
        experiment_id: str | None = None,
        begun_as: str | None = None,
    ) -> None:
        self.path, self.spec, self.created = path, spec, created
        #: The id of the spec. A spec of an earlier version, which lacks settings, has the id that was written when the
        #: run began: later versions' defaults for new settings do not change it.
        self.experiment_id = experiment_id or spec.experiment_id
        #: The name that the run was begun under, since a copy may have another; None where no file tells it.
        self.begun_as = begun_as

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """The run in folder ``path``, wherever it lies and whatever it is called (a downloaded copy, say).

        Raises:
            RunDirectoryError: It is no run directory, or its ``spec.json`` is damaged.
        """
        file = path / SPEC_FILE
        if not file.is_file():
            raise RunDirectoryError(f"{path} is not a run directory: it has no {SPEC_FILE}")
        text = read_json_text(file)
        try:
            stored, begun_as = _stored_in(text)
        except RunDirectoryError:
            stored, begun_as = _read_stored(text, str(file))  # the same error, which names the file
        return cls(path, stored.spec, stored.created, stored.experiment_id, begun_as)

    @property
    def run_id(self) -> str:
        return self.path.name

    @property
    def trunk_path(self) -> Path:
        """The trunk that finetuning starts from. Once it is there, pretraining is done."""
        return self.path / TRUNK_FILE

    @property
    def finetuned_path(self) -> Path:
        """The best model on validation."""
        return self.path / FINETUNED_FILE

    @property
    def stats_path(self) -> Path:
        return self.path / STATS_FILE

    @property
    def is_finished(self) -> bool:
        return self.stats_path.is_file()

    def lock(self) -> RunLock:
        """Context manager: the only writer of this directory (:class:`RunLock`)."""
        return RunLock(self.path)

    # Training ------------------------------------------------------------------------------------

    def recorder(self) -> FileRecorder:
        return FileRecorder(self.path / HISTORY_FILE, self.path / TIMINGS_FILE)

    def checkpointer(
        self, on_commit: Callable[[], None] | None = None, identity: Identity | None = None
    ) -> Checkpointer:
        from emergence.training.checkpoint import Checkpointer

        return Checkpointer(self.path / CHECKPOINT_FOLDER, on_commit=on_commit, identity=identity)

    def identity(self, tokenizer: str | None = None) -> Identity:
        """What every checkpoint and weights file of this run carries.

        Args:
            tokenizer: Fingerprint of the tokenizer; by default the one that ``data.json`` records, if it is there.
        """
        if tokenizer is None:
            tokenizer = self._fingerprint("tokenizer")
        spec, model = self.spec, self.spec.config.model
        return Identity(
            experiment_id=self.experiment_id,
            size=size_of(model),
            seed=spec.seed,
            tokenizer=tokenizer,
            pretrain_id=spec.pretrain_id if spec.pretrains else None,
        )

    def save_trunk(self, weights: WeightsFile) -> None:
        self._save(self.trunk_path, weights)

    def save_finetuned(self, weights: WeightsFile) -> None:
        self._save(self.finetuned_path, weights)

    def save_snapshot(self, name: str, weights: WeightsFile) -> None:
        """``name`` is ``pretrain_epoch_<n>``, ``finetune_epoch_<n>`` or ``pretrain_step_<n>``."""
        if not is_snapshot_name(name):
            raise ValueError(f"not a snapshot name: {name!r}")
        self._save(self.path / f"{name}.pth", weights)

    def snapshots(self) -> list[Snapshot]:
        """All snapshots there are: pretraining before finetuning, epochs before steps, each in order."""
        snapshots = []
        for path in self.path.glob("*.pth"):
            if match := _SNAPSHOT.fullmatch(path.stem):
                snapshots.append(Snapshot(match["phase"], match["unit"], int(match["number"]), path))
        return sorted(snapshots, key=lambda s: (s.phase != "pretrain", s.unit, s.number))

    def pretraining_steps(self) -> dict[int, Path]:
        """The snapshots of pretraining that were kept in log steps, by step."""
        kept = (snapshot for snapshot in self.snapshots() if (snapshot.phase, snapshot.unit) == ("pretrain", "step"))
        return {snapshot.number: snapshot.path for snapshot in kept}

    def own_weights(self) -> list[Path]:
        """Every weights file that this run has written: the trunk, snapshots, and the finetuned model."""
        return sorted(path for path in self.path.glob("*.pth") if is_own_weights(path.name))

    # Records -------------------------------------------------------------------------------------

    def record_data(self, fingerprints: Mapping[str, str | None], **facts: Any) -> None:
        """Write ``data.json``, or compare with it: a resumed run must see the data it began with.

        Args:
            fingerprints: Identity of each part of the data; None where the run has no such part.
            **facts: Filter counts and provenance, which are stored and not compared.

        Raises:
            RunDirectoryError: The data changed since the run began. The message names what changed.
        """
        path = self.path / DATA_FILE
        before = read_sealed(path) if path.exists() else {"fingerprints": {}}
        known = before["fingerprints"]
        changed = [
            f"{name} ({_short(known[name])} when it began, {_short(value)} now)"
            for name, value in fingerprints.items()
            if name in known and known[name] != value
        ]
        if changed:
            raise RunDirectoryError(
                f"{self.run_id}: the data changed since this run began: {', '.join(changed)}; "
                "restore it, or start a new run with --fresh"
            )
        now = plain({**before, **facts, "fingerprints": {**known, **fingerprints}})
        if now != before or not path.exists():
            write_json_atomic(path, seal(now))

    def read_data(self) -> dict[str, Any]:
        """What :meth:`record_data` wrote."""
        return read_sealed(self.path / DATA_FILE)

    @property
    def text_fingerprint(self) -> str | None:
        """Fingerprint of the pretraining text; None without pretraining, or where no readable file has it."""
        return self._fingerprint("text")

    def _fingerprint(self, part: str) -> str | None:
        try:
            fingerprint = self.read_data()["fingerprints"][part]
        except (RunDirectoryError, KeyError, TypeError):
            return None
        return fingerprint if isinstance(fingerprint, str) else None

    def write_tokenizer(self, tokenizer_json: str) -> None:
        write_atomic(self.path / TOKENIZER_FILE, tokenizer_json)

    def write_predictions(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Write ``predictions.jsonl``, one object per test question; returns their number."""
        return write_json_lines_atomic(self.path / PREDICTIONS_FILE, rows)

    def read_predictions(self) -> list[dict[str, Any]]:
        return read_json_lines(self.checked(PREDICTIONS_FILE))

    def read_history(self) -> list[dict[str, Any]]:
        return self._lines(HISTORY_FILE)

    def read_curves(self) -> list[dict[str, Any]]:
        """The history. Its lines are checked for the numbers that curves are drawn from."""
        lines = self.read_history()
        check_history(lines, self.path / HISTORY_FILE)
        return lines

    def read_timings(self) -> list[dict[str, Any]]:
        """The wall-clock facts, their lines checked for the numbers that results are made of."""
        lines = self._lines(TIMINGS_FILE)
        check_timings(lines, self.path / TIMINGS_FILE)
        return lines

    # The end -------------------------------------------------------------------------------------

    def write_stats(
        self, stats: Mapping[str, Any], identity: Identity | None = None, history: Position | None = None
    ) -> None:
        """Finish the run: write the manifest, and last ``finetune_stats.json``, which the manifest lists too.

        The manifest vouches for every file, so each is checked first. Checkpoints are not listed, because they may go
        once the result is there.

        Args:
            identity: Of the run, as :meth:`identity` gives it; None to take the weights as they are.
            history: Where the recorder stands, with the digest of what it wrote; None where nobody knows.

        Raises:
            RunDirectoryError: The history or a record is not what was written.
            WeightsError: A weights file is damaged, or of another run.
        """
        self._check_files(identity, history)
        text = to_json(seal(stats), indent=2) + "\n"
        files = describe_folder(self.path)
        entries = {name: entry for name, entry in files.items() if not name.startswith(f"{CHECKPOINT_FOLDER}/")}
        entries[STATS_FILE] = ManifestEntry(len(text.encode()), sha256_text(text))
        write_atomic(self.path / MANIFEST_FILE, manifest_text(self.run_id, entries))
        write_atomic(self.stats_path, text)

    def _check_files(self, identity: Identity | None, history: Position | None) -> None:
        """Refuse to vouch for what does not match its seal, its digest or this run."""
        for name in (SPEC_FILE, DATA_FILE):
            if (self.path / name).exists():
                read_sealed(self.path / name)
        if identity is not None:
            from emergence.experiment.belonging import load_own

            for path in self.own_weights():
                load_own(self, path, identity)
        if history is not None:
            path = self.path / HISTORY_FILE
            check_position(read_regular(path) if path.exists() else b"", history, path)

    def verify_manifest(self) -> list[str]:
        """What is wrong with the files of a finished run, a line each; empty when all are as they were written."""
        try:
            entries = read_manifest(self.path)
        except RunDirectoryError as error:
            return [str(error)]
        checked = (check_file(self.path, name, entry) for name, entry in entries.items())
        return [problem for problem in checked if problem]

    def differing_sizes(self) -> list[str]:
        """What the sizes of a finished run's files show without a byte of them being read, a line each."""
        try:
            entries = read_manifest(self.path)
        except RunDirectoryError as error:
            return [str(error)]
        paths = {name: self.path / name for name in entries}
        return differing_sizes(entries, {name: path.stat().st_size for name, path in paths.items() if path.is_file()})

    def checked(self, name: str) -> Path:
        """The path of file ``name``. The file is compared with the manifest, if that lists it.

        Raises:
            RunDirectoryError: The file is missing or not what the manifest says.
        """
        path = self.path / name
        entry = read_manifest(self.path).get(name) if (self.path / MANIFEST_FILE).exists() else None
        problem = check_file(self.path, name, entry) if entry else None if path.is_file() else f"{name}: missing"
        if problem:
            raise RunDirectoryError(f"{self.path}: {problem}")
        return path

    def _lines(self, name: str) -> list[dict[str, Any]]:
        return read_json_lines(self.checked(name)) if (self.path / name).exists() else []

    @staticmethod
    def _save(path: Path, weights: WeightsFile) -> None:
        from emergence.training.checkpoint import save_weights

        save_weights(path, weights)


def is_snapshot_name(name: str) -> bool:
    """Whether a snapshot can be called ``name``, without its suffix."""
    return _SNAPSHOT.fullmatch(name) is not None


def is_own_weights(name: str) -> bool:
    """Whether a run writes weights under the file name ``name``. Others are somebody's, and nothing reads them."""
    return name in (TRUNK_FILE, FINETUNED_FILE) or (name.endswith(".pth") and is_snapshot_name(name[:-4]))


def is_finetuned_name(name: str) -> bool:
    """Whether weights that a run calls ``name`` have been finetuned on questions."""
    return name == FINETUNED_FILE or name.startswith("finetune_")


def left_out_of_a_copy(entries: Iterable[str], present: Collection[str]) -> set[str]:
    """Names in a manifest that are absent because a part of the run was fetched: without weights, or weights alone."""
    names = set(entries)
    weights = {name for name in names if name.endswith(".pth")}
    records = names - weights - {SPEC_FILE, TOKENIZER_FILE}
    return next((part for part in (weights, records) if part and part.isdisjoint(present)), set())


def differing_sizes(entries: Mapping[str, ManifestEntry], sizes: Mapping[str, int]) -> list[str]:
    """What the sizes of a finished run's files show without a byte being read, a line each."""
    left_out = left_out_of_a_copy(entries, sizes)
    return [
        f"{name}: {sizes[name]:,} bytes instead of {entry.bytes:,}" if name in sizes else f"{name}: missing"
        for name, entry in entries.items()
        if name not in left_out and sizes.get(name) != entry.bytes
    ]


@dataclass(frozen=True)
class StoredSpec:
    """What a ``spec.json`` says: the spec, when its run was made, and the id of the experiment it was begun as."""

    spec: ExperimentSpec
    created: str
    experiment_id: str


def parse_spec_file(raw: Any, source: str, error: ErrorType = RunDirectoryError) -> StoredSpec:
    """The content of a ``spec.json``.

    Raises:
        error: It is damaged, or of another version.
    """
    return _spec_in(unseal(raw, source, error), source, error)


@functools.lru_cache(maxsize=4_096)  # a command looks for a run among all others several times
def _stored_in(text: str) -> tuple[StoredSpec, str | None]:
    return _read_stored(text, SPEC_FILE)


def _read_stored(text: str, source: str) -> tuple[StoredSpec, str | None]:
    """What the text of a ``spec.json`` says, and the name that the run was begun under."""
    content = unseal_as_written(parse_json(text, source), text, source)
    return _spec_in(content, source, RunDirectoryError), content.get("run_id")


def _spec_in(content: Mapping[str, Any], source: str, error: ErrorType) -> StoredSpec:
    try:
        spec, created = ExperimentSpec.from_dict(content["spec"], source), str(content["created"])
    except KeyError as missing:
        raise error(f"{source}: not a spec of this program: it lacks {missing}") from None
    except ConfigError as reason:
        raise error(str(reason)) from None
    # Whoever edits a spec can keep its id, so the id counts only where this version cannot compute it.
    stored_id = content.get("experiment_id") if _lacks_settings(content["spec"]) else None
    return StoredSpec(spec, created, stored_id or spec.experiment_id)


def _lacks_settings(stored: Mapping[str, Any]) -> bool:
    """Whether a stored spec is of a version that did not know all of this one's flags and settings."""
    config = stored["config"]
    return not stored.keys() >= _FLAGS or any(not config.get(name, {}).keys() >= _SETTINGS[name] for name in _SETTINGS)


def _short(fingerprint: str | None) -> str:
    return fingerprint[:12] if fingerprint else "none"
