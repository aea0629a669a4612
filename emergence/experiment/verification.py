"""Whether runs are still what they were when they were written: every byte, and what the results claim.

A finished run is compared with its manifest and its result with what follows from its other files. An unfinished run
has no manifest yet: seals, identities and the digests in its checkpoints say what can be known of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from emergence.errors import EmergenceError, UsageError
from emergence.experiment.claims import check_claims
from emergence.experiment.facts import dig
from emergence.experiment.history import check_history, check_position
from emergence.experiment.history_claims import check_told
from emergence.experiment.locks import read_holder
from emergence.experiment.manifest import (
    ANALYSIS_FOLDER,
    MANIFEST_FILE,
    ManifestEntry,
    check_file,
    read_manifest,
)
from emergence.experiment.result import load_result
from emergence.experiment.run_directory import (
    CHECKPOINT_FOLDER,
    DATA_FILE,
    HISTORY_FILE,
    PREDICTIONS_FILE,
    SPEC_FILE,
    STATS_FILE,
    TIMINGS_FILE,
    RunDirectory,
    is_own_weights,
    left_out_of_a_copy,
)
from emergence.files import (
    SEAL_KEY,
    folder_files,
    open_regular,
    parse_json_lines,
    read_json,
    read_regular,
    read_sealed,
    sha256_file,
)
from emergence.training.sealing import check_seal
from emergence.wording import counted

if TYPE_CHECKING:
    from emergence.training.recording import Position

Status = Literal["ok", "absent", "damaged"]


@dataclass(frozen=True)
class CheckedFile:
    """One file of a run: its name, whether it is as it was written, and why not.

    ``absent`` is what a copy of a part of a run leaves out.
    """

    name: str
    status: Status = "ok"
    detail: str = ""


@dataclass(frozen=True)
class CheckedRun:
    """What was seen of one run directory.

    Attributes:
        path: The run directory.
        state: ``finished``, ``unfinished``, or ``running``: what is written just now may look damaged.
        files: Every file that was looked at, in order.
    """

    path: Path
    state: str
    files: tuple[CheckedFile, ...]

    @property
    def damaged(self) -> tuple[CheckedFile, ...]:
        return tuple(file for file in self.files if file.status == "damaged")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        files = [vars(file) for file in self.files]
        return {"run": str(self.path), "state": self.state, "is_clean": not self.damaged, "files": files}

    def lines(self) -> list[str]:
        """One line a file."""
        return [
            f"{file.status:8}{self.path / file.name}{f': {file.detail}' if file.detail else ''}" for file in self.files
        ]


def verify_folder(root: Path) -> list[CheckedRun]:
    """Check the run directory ``root``, or every run directory below it.

    Raises:
        UsageError: There is none.
    """
    runs = [verify_run(path) for path in _run_folders(root)]
    if not runs:
        raise UsageError(f"{root} holds no run: give a run directory, or the folder that holds them")
    return runs


def summary_of(runs: list[CheckedRun]) -> str:
    """The last line for a person."""
    n_damaged = sum(len(run.damaged) for run in runs)
    checked = f"{counted(len(runs), 'run')}, {counted(sum(len(run.files) for run in runs), 'file')}"
    return f"{checked}: {n_damaged} damaged" if n_damaged else f"{checked}: all as they were written"


def verify_run(folder: Path) -> CheckedRun:
    """Check every file of the run in ``folder``."""
    # A manifest beside checkpoints is of an attempt that was killed as it finished: the next one writes it anew.
    is_sealed = (folder / MANIFEST_FILE).exists() and not (folder / CHECKPOINT_FOLDER).is_dir()
    if (folder / STATS_FILE).exists() or is_sealed:
        return CheckedRun(folder, "finished", tuple(_finished(folder)))
    state = "unfinished" if read_holder(folder) is None else "running"
    return CheckedRun(folder, state, tuple(_unfinished(folder)))


def _run_folders(root: Path) -> Iterator[Path]:
    """Folders with a spec or a manifest: a run that lost one of the two is a damaged one."""
    for parent, folders, names in os.walk(root):
        if {SPEC_FILE, MANIFEST_FILE} & set(names):
            yield Path(parent)
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))


# Finished ---------------------------------------------------------------------------------------


def _finished(folder: Path) -> Iterator[CheckedFile]:
    try:
        entries = read_manifest(folder)
    except EmergenceError as error:
        yield _problem(folder, MANIFEST_FILE, str(error))
        yield from _sealed_records(folder)
        return
    yield CheckedFile(MANIFEST_FILE)
    left_out = left_out_of_a_copy(entries, [name for name in entries if (folder / name).exists()])
    files = {name: _listed(folder, name, entry, left_out) for name, entry in entries.items()}
    # A result that contradicts a damaged file is not to blame for it.
    if STATS_FILE in files and all(file.status == "ok" or file.name in left_out for file in files.values()):
        files[STATS_FILE] = _result(folder)
        if files[STATS_FILE].status == "ok" and (problem := _history(folder)):
            files[HISTORY_FILE] = _problem(folder, HISTORY_FILE, problem)
    yield from files.values()
    for path in sorted(folder.glob("*.pth")):
        if path.name not in entries and is_own_weights(path.name):
            yield _problem(folder, path.name, "not in the manifest: no file of this run")
    yield from _analyses(folder)


def _listed(folder: Path, name: str, entry: ManifestEntry, left_out: Collection[str]) -> CheckedFile:
    if name in left_out:
        return CheckedFile(name, "absent", "not in this copy")
    problem = check_file(folder, name, entry)
    return _problem(folder, name, problem) if problem else CheckedFile(name)


def _result(folder: Path) -> CheckedFile:
    """The result, compared with what can be computed again."""
    if not (folder / STATS_FILE).exists():
        return CheckedFile(STATS_FILE, "absent", "not in this copy")
    try:
        run, result = RunDirectory.open(folder), load_result(folder / STATS_FILE)
        problems = check_claims(run, result)
    except EmergenceError as error:
        return _problem(folder, STATS_FILE, f"cannot be compared: {error}")
    if problems:
        return CheckedFile(STATS_FILE, "damaged", "; ".join(problems))
    if result.test_scores is None or not (folder / PREDICTIONS_FILE).exists():
        return CheckedFile(STATS_FILE)
    f1, em = (dig(result.test_scores, "scores", score, "point") for score in ("f1_tokens", "em"))
    return CheckedFile(STATS_FILE, "ok", f"F1 {f1:.3f} and EM {em:.3f} follow from {PREDICTIONS_FILE}")


def _history(folder: Path) -> str | None:
    """What the history of a finished run lacks of what its result repeats, or of what its trunk says of it."""
    run, path = RunDirectory.open(folder), folder / HISTORY_FILE
    content = read_regular(path) if path.exists() else b""
    try:
        lines = parse_json_lines(content, path.name)
        check_history(lines, path)
        if problem := next(check_told(lines, load_result(folder / STATS_FILE), run.spec), None):
            return problem
        if (position := _position_of_trunk(run)) is not None:
            check_position(content, position, path)
    except EmergenceError as error:
        return str(error)
    return None


def _position_of_trunk(run: RunDirectory) -> Position | None:
    """Where the history stood when the trunk was saved; None without its file, or without torch to read it."""
    if not run.trunk_path.is_file():
        return None
    try:
        from emergence.experiment.belonging import history_position
        from emergence.training.checkpoint import load_weights
    except ImportError:
        return None
    return history_position(load_weights(run.trunk_path))


def _sealed_records(folder: Path) -> Iterator[CheckedFile]:
    """What the seals in the files say of a run without its manifest."""
    for name in (SPEC_FILE, DATA_FILE, STATS_FILE):
        if (folder / name).exists():
            yield _tried(folder, name, read_sealed)
    for path in sorted(folder.glob("*.pth")):
        if is_own_weights(path.name):
            yield _tried(folder, path.name, _check_weights)


def _check_weights(path: Path) -> None:
    with open_regular(path) as handle:
        check_seal(path, handle)


def _analyses(folder: Path) -> Iterator[CheckedFile]:
    """Analyses are written after a run is sealed, with seals of their own."""
    for path in folder_files(folder / ANALYSIS_FOLDER) if (folder / ANALYSIS_FOLDER).is_dir() else ():
        if path.suffix == ".json":
            yield _tried(folder, path.relative_to(folder).as_posix(), _read_analysis)


def _read_analysis(path: Path) -> None:
    raw = read_json(path)
    if not isinstance(raw, dict) or SEAL_KEY not in raw:
        raise EmergenceError("has no seal, so nothing says that it is as it was written: run the analysis again")
    arrays = read_sealed(path).get("arrays")
    if not isinstance(arrays, dict) or not isinstance(arrays.get("file"), str):
        return
    beside = path.with_name(Path(arrays["file"]).name)
    if not beside.is_file() or sha256_file(beside) != arrays.get("sha256"):
        raise EmergenceError(f"{beside.name} beside it is missing or damaged")


# Unfinished -------------------------------------------------------------------------------------


def _unfinished(folder: Path) -> Iterator[CheckedFile]:
    try:
        run = RunDirectory.open(folder)
    except EmergenceError as error:
        yield _problem(folder, SPEC_FILE, str(error))
        return
    yield CheckedFile(SPEC_FILE)
    if (folder / DATA_FILE).exists():
        yield _tried(folder, DATA_FILE, read_sealed)
    from emergence.experiment.belonging import history_position, load_own

    positions = []
    for path in run.own_weights():
        try:
            weights = load_own(run, path)
            positions += [history_position(weights)] if path == run.trunk_path else []
            yield CheckedFile(path.name)
        except EmergenceError as error:
            yield _problem(folder, path.name, str(error))
    for name, content in run.checkpointer(identity=run.identity()).read_all().items():
        name = f"{CHECKPOINT_FOLDER}/{name}"
        if isinstance(content, EmergenceError):
            yield _problem(folder, name, str(content))
        else:
            positions.append(content.state.get("history", 0))
            yield CheckedFile(name)
    if (folder / HISTORY_FILE).exists():
        yield _tried(folder, HISTORY_FILE, lambda path: _check_history(path, positions))
    if (folder / TIMINGS_FILE).exists():
        yield _tried(folder, TIMINGS_FILE, lambda path: run.read_timings())


def _check_history(path: Path, positions: list[Any]) -> None:
    content = read_regular(path)
    check_history(parse_json_lines(content, path.name), path)
    for position in positions:
        check_position(content, position, path)


def _tried(folder: Path, name: str, read: Callable[[Path], object]) -> CheckedFile:
    try:
        read(folder / name)
    except EmergenceError as error:
        return _problem(folder, name, str(error))
    except OSError as error:
        return _problem(folder, name, error.strerror or str(error))
    return CheckedFile(name)


def _problem(folder: Path, name: str, message: str) -> CheckedFile:
    """The message without the path that is named beside it already."""
    for prefix in (f"{folder / name}: ", f"{folder / name} ", f"{name}: "):
        message = message.removeprefix(prefix)
    return CheckedFile(name, "damaged", message)
