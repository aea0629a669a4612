"""All runs under one folder: how they are made, opened, and found again.

Names are for people. A run is found by the content of its ``spec.json``. The module imports no torch.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path, PurePath

from emergence.errors import DataError, RunDirectoryError, UsageError
from emergence.experiment.facts import dig
from emergence.experiment.manifest import MANIFEST_FILE
from emergence.experiment.run_directory import (
    CHECKPOINT_FOLDER,
    DATA_FILE,
    HISTORY_FILE,
    SPEC_FILE,
    STATS_FILE,
    RunDirectory,
    is_snapshot_name,
)
from emergence.experiment.weights_path import resolve_weights
from emergence.files import TEMPORARY_SUFFIX, may_write, name_within, read_sealed, seal, write_error, write_json_atomic
from emergence.spec.experiment import ExperimentSpec
from emergence.wording import did_you_mean

#: Folder of derived data (tokenizers, packed streams, downloads), beside the runs that use it.
CACHE_FOLDER = ".cache"

#: Files of which a folder that was a run, however damaged, still holds one.
_RUN_FILES = (SPEC_FILE, DATA_FILE, STATS_FILE, MANIFEST_FILE, HISTORY_FILE, CHECKPOINT_FOLDER)

__all__ = ["RunDirectory", "RunStore"]

logger = logging.getLogger(__name__)

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_TIMESTAMP = re.compile(r"_(\d{8}-\d{6})(?:-(\d+))?$")


def run_files(folder: Path) -> list[str]:
    """The names in a folder by which a run directory is known."""
    return [name for name in _RUN_FILES if (folder / name).exists()]


def holds_run_files(folder: Path) -> bool:
    """Whether a folder is a run, or what damage has left of one."""
    return bool(run_files(folder))


def is_run_id(name: str) -> bool:
    """Whether ``name`` can be the name of a run: one word, which names a folder and no path."""
    return _RUN_ID.fullmatch(name) is not None


def made_at(run_id: str) -> tuple[str, int]:
    """When a run was made, by its name: its time, and its number among those of that second. Later ones are greater."""
    found = re.search(r"(\d{8}-\d{6})(?:-(\d+))?$", run_id)
    return (found[1], int(found[2] or 1)) if found else ("", 0)


def numbered(name: str) -> Iterator[str]:
    """``name``, ``name-2``, ``name-3``...: a run gets the first of these names that is free."""
    yield name
    yield from (f"{name}-{number}" for number in itertools.count(2))


def find_run(name: str, runs_dir: Path = Path("runs"), *, or_folder_of_runs: bool = False) -> Path:
    """A run directory on this machine: a path, or a name in ``runs_dir``. Any folder will do if it may hold runs.

    Raises:
        UsageError: It is neither.
    """
    reason = f"no such folder here or in {runs_dir}"
    try:
        for path in (Path(name), runs_dir / name):
            if name and path.is_dir():
                if not or_folder_of_runs and not holds_run_files(path):
                    inside = next((path / run_id for run_id in RunStore(path).run_ids()), None)
                    meant = f"such as {inside}" if inside else f"which holds a {SPEC_FILE}"
                    raise UsageError(f"{path} is not a run directory: give one, {meant}")
                return path
            if name and path.is_file():
                reason = "a file: give the run directory that holds it"
    except OSError as error:  # a name too long, no permission
        reason = error.strerror or str(error)
    where = "" if runs_dir == Path("runs") else f" --runs-dir {runs_dir}"
    hint = f"emergence list{where} shows the runs there are, emergence pull RUN fetches one from Modal"
    with contextlib.suppress(OSError):
        hint = did_you_mean(name.rstrip("/"), RunStore(runs_dir).run_ids(), hint)
        if inside := next((folder for folder in sorted(runs_dir.iterdir()) if name and (folder / name).is_dir()), None):
            hint = f"there is {inside / name}: give that path, or --runs-dir {inside}"
    raise UsageError(f"{name[:200] or 'an empty name'}: {reason}: {hint}")


def refuse_if_no_folder(runs_dir: Path, flag: str = "--runs-dir") -> None:
    """Refuse a folder of runs that is something else, before anything is read for a run in it.

    Raises:
        UsageError: A file or a device is in its place or above it, its name is impossible, or nobody may write there.
    """
    try:
        nearest = next(path for path in (runs_dir, *runs_dir.absolute().parents) if path.exists())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{flag} {str(runs_dir)[:80]}: {reason}: name another folder") from None
    if not nearest.is_dir():
        where = "" if nearest == runs_dir else f": {nearest}"
        raise UsageError(f"{flag} {runs_dir}{where} is not a folder: name another one")
    if not may_write(nearest):
        raise UsageError(f"{flag} {runs_dir}: {nearest} may not be written to: name another one")


#: What to do about a folder in which nothing is.
NO_RESULTS = "emergence run makes one, emergence list shows what there is"


def refuse_if_no_results(root: Path) -> None:
    """Refuse what can hold no results, before anything is imported to read them.

    Raises:
        DataError: There is nothing at ``root``, or it cannot be read.
    """
    try:
        if not root.is_file() and not root.is_dir():
            raise DataError("no such folder: give the one that holds the run directories or downloaded stats", root)
    except (OSError, ValueError) as error:  # a name too long, no permission, a NUL
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot be read: {reason}: give a folder of run directories", str(root)[:200]) from None


class RunStore:
    """All runs under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def create(self, spec: ExperimentSpec, now: datetime | None = None, run_id: str | None = None) -> RunDirectory:
        """Make a new run directory with its ``spec.json``. An existing run is never taken.

        Args:
            now: The time in the name (default: the local time).
            run_id: The name, if a client has chosen it. Otherwise a taken name gets ``-2``, ``-3``...

        Raises:
            RunDirectoryError: ``run_id`` is taken or malformed, or the system refused.
        """
        now = now or datetime.now()
        path = self._new_folder(run_id) if run_id else self._unique_folder(spec.run_name(now))
        created = now.isoformat(timespec="seconds")
        identity = {"experiment_id": spec.experiment_id, "pretrain_id": spec.pretrain_id}
        content = {"run_id": path.name, "created": created, **identity, "spec": spec.to_dict()}
        write_json_atomic(path / SPEC_FILE, seal(content))
        return RunDirectory(path, spec, created)

    def open(self, run_id: str) -> RunDirectory:
        """An existing run, by its name.

        Raises:
            UsageError: There is no such run in this folder.
            RunDirectoryError: Its ``spec.json`` is damaged.
        """
        path = self._inside(run_id.rstrip("/"))
        if not path.is_dir():
            hint = did_you_mean(run_id, self.run_ids(), "--list-saved shows what there is")
            raise UsageError(f"{self.root} holds no run {run_id!r}; {hint}")
        return RunDirectory.open(path)

    def exists(self, run_id: str) -> bool:
        """Whether there is a run of that name with a ``spec.json``."""
        return (self._inside(run_id) / SPEC_FILE).is_file()

    def runs(self) -> Iterator[RunDirectory]:
        """Every readable run, newest first."""
        runs = []
        for run_id in self.run_ids():
            try:
                runs.append(self.open(run_id))
            except RunDirectoryError as error:
                logger.debug("not a readable run: %s", error)
        yield from sorted(runs, key=_age_key, reverse=True)

    def run_ids(self) -> list[str]:
        """Names of all folders that may be runs."""
        if not self.root.is_dir():
            return []
        folders = (path for path in self.root.iterdir() if path.is_dir() and not path.is_symlink())
        return sorted(path.name for path in folders if is_run_id(path.name))

    # Finding by content --------------------------------------------------------------------------

    def find_unfinished(self, spec: ExperimentSpec) -> RunDirectory | None:
        """The newest run of the same experiment that has no result yet: the one to go on with."""
        return next((run for run in self._same(spec) if not run.is_finished), None)

    def find_finished(self, spec: ExperimentSpec) -> RunDirectory | None:
        """The newest run of the same experiment that has its result."""
        return next((run for run in self._same(spec) if run.is_finished), None)

    def find_pretrained(self, pretrain_id: str) -> RunDirectory | None:
        """The newest run whose trunk comes from this pretraining: its own, or one it was given."""
        return next((run for run in self.runs() if run.trunk_path.is_file() and _trunk_id(run) == pretrain_id), None)

    def find_pretrained_on(self, text: str, spec: ExperimentSpec) -> RunDirectory | None:
        """The newest run with the trunk that ``spec`` would pretrain on the text with this fingerprint."""
        wanted = spec.training_id
        runs = (run for run in self._pretrainings() if run.trunk_path.is_file())
        return next((run for run in runs if run.spec.training_id == wanted and run.text_fingerprint == text), None)

    def find_snapshots(self, spec: ExperimentSpec, text: str | None = None) -> RunDirectory | None:
        """The newest finished pretraining of ``spec`` that kept snapshots.

        Args:
            text: A fingerprint. A pretraining on this text counts, whatever the text is called.
        """

        def is_same(run: RunDirectory) -> bool:
            if run.spec.pretrain_id == spec.pretrain_id:
                return text is None or run.text_fingerprint == text
            return text is not None and run.spec.training_id == spec.training_id and run.text_fingerprint == text

        done = (run for run in self._pretrainings() if run.trunk_path.is_file() and is_same(run))
        return next((run for run in done if run.pretraining_steps()), None)

    def resolve_weights(self, path: str, *, confined: bool = False) -> Path:
        """The weights file that ``--pretrained-model-path`` means.

        Args:
            path: Relative to this folder or to the working directory, or absolute.
            confined: Allow only files in this folder, because the path comes from somebody else.

        Raises:
            WeightsError: The file is missing, a folder, or outside. The message lists what could be meant.
        """
        return resolve_weights(self.root, path, confined=confined)

    def _pretrainings(self) -> Iterator[RunDirectory]:
        """Runs whose trunk is their own pretraining's last one, newest first."""
        return (run for run in self.runs() if run.spec.pretrains and not run.spec.at_snapshot)

    def _same(self, spec: ExperimentSpec) -> Iterator[RunDirectory]:
        return (run for run in self.runs() if run.experiment_id == spec.experiment_id)

    # Folders -------------------------------------------------------------------------------------

    def _inside(self, run_id: str) -> Path:
        path = self.root / run_id
        if not is_run_id(run_id) or name_within(path, self.root) != run_id:
            raise RunDirectoryError(f"{run_id!r} cannot be the name of a run in {self.root}: give one of --list-saved")
        return path

    def _new_folder(self, run_id: str) -> Path:
        path = self._inside(run_id)
        if not self._make(path):
            left = [p.name for p in path.iterdir() if not p.name.endswith(TEMPORARY_SUFFIX)]
            if left:  # an empty folder is a creation that was killed: it is taken over
                raise RunDirectoryError(f"{path} exists already: resume it with --resume {run_id}, or use another name")
        return path

    def _unique_folder(self, name: str) -> Path:
        return next(path for path in map(self._inside, numbered(name)) if self._make(path))

    @staticmethod
    def _make(path: Path) -> bool:
        """Whether this call made the folder. Of several concurrent calls only one does."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir()
        except FileExistsError:
            if not path.is_dir():
                raise RunDirectoryError(f"{path} exists and is not a folder") from None
            return False
        except OSError as error:
            raise write_error(path, error, None) from error
        return True


def _age_key(run: RunDirectory) -> tuple[str, int, str]:
    """Sorts runs by age: by the time in the name, which survives copying, else by the time of creation."""
    if match := _TIMESTAMP.search(run.run_id):
        return match[1], int(match[2] or 1), run.run_id
    return re.sub(r"[-:]", "", run.created).replace("T", "-"), 1, run.run_id


def _trunk_id(run: RunDirectory) -> str | None:
    """Id of the pretraining whose last trunk ``run`` has; None for a random one, a snapshot, or if unknown."""
    if run.spec.random_baseline or run.spec.at_snapshot:
        return None
    if run.spec.pretrains:
        return run.spec.pretrain_id
    try:
        lineage = read_sealed(run.stats_path).get("lineage")
    except RunDirectoryError:
        return None
    if not isinstance(lineage, dict) or is_snapshot_name(PurePath(str(dig(lineage, "source", "path") or "")).stem):
        return None
    return lineage.get("pretrain_id")
