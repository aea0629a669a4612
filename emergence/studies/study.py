"""What every study of trunks shares: sealed cells, one writer, resuming, and a result as JSON and npz.

A new study is a :class:`StudyFiles` and a subclass of :class:`SealedStudy`, which says what its cells are and what they
amount to. A study whose cells are no JSON is a subclass of :class:`Study`, which also says how cells are kept. Nothing
here needs torch, so results can be read without it.
"""

from __future__ import annotations

import hashlib
import io
import logging
import shutil
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from emergence.errors import RunDirectoryError
from emergence.experiment.locks import RunLock
from emergence.files import make_folder, read_sealed, seal, sha256_file, write_atomic, write_json_atomic
from emergence.plain import plain
from emergence.training.recording import NoProgress, Progress, StopRequested

logger = logging.getLogger(__name__)

Made = TypeVar("Made")
Read = TypeVar("Read")
Result = TypeVar("Result", bound="StudyResult")
Arrays = dict[str, npt.NDArray[Any]]


class StudyResult(Protocol):
    """The result of a study, as JSON and arrays."""

    def to_dict(self) -> dict[str, Any]:
        """The content of its JSON file, which begins with :attr:`StudyFiles.header`."""

    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """The content of its npz file."""


@dataclass(frozen=True, kw_only=True)
class StudyFiles:
    """Where a study's results lie, and how they are told from others.

    Attributes:
        name: Name of the files, and of their folder within a run's ``analysis``.
        version: Version of the result's schema. Other versions are refused.
        what, again: What errors say that the file should be, and how to make it anew.
        kind: Stored in the JSON if given. Readers of run results pass over kinds that begin with ``emergence-``.
    """

    name: str
    version: int
    what: str
    again: str
    kind: str | None = None

    @property
    def folder(self) -> Path:
        """The folder of the results within a run directory."""
        return Path("analysis") / self.name

    @property
    def json_file(self) -> str:
        return f"{self.name}.json"

    @property
    def arrays_file(self) -> str:
        return f"{self.name}.npz"

    @property
    def header(self) -> dict[str, Any]:
        """The first entries of the JSON."""
        return {**({"kind": self.kind} if self.kind else {}), "schema_version": self.version}

    def save(self, result: StudyResult, folder: Path) -> None:
        """Write the arrays, and then the sealed JSON, which holds the sha256 of the arrays."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **result.arrays())
        data = buffer.getvalue()
        write_atomic(folder / self.arrays_file, data)
        arrays = {"file": self.arrays_file, "sha256": hashlib.sha256(data).hexdigest()}
        write_json_atomic(folder / self.json_file, seal({**result.to_dict(), "arrays": arrays}))

    def read(self, folder: Path, build: Callable[[dict[str, Any], Arrays], Read]) -> Read:
        """What ``build`` makes of the JSON's content and the arrays that :meth:`save` wrote.

        Raises:
            RunDirectoryError: A file is missing, damaged or of another version, or the two do not belong together.
        """
        path, stored = folder / self.json_file, folder / self.arrays_file
        content = read_sealed(path)
        if {key: content.get(key) for key in self.header} != self.header:
            raise RunDirectoryError(f"{path}: not {self.what} of this version: {self.again}")
        try:
            if not stored.is_file() or sha256_file(stored) != content["arrays"]["sha256"]:
                raise RunDirectoryError(f"{stored}: missing or damaged: {self.again}")
            with np.load(stored, allow_pickle=False) as arrays:
                return build(content, {key: arrays[key] for key in arrays.files})
        except (KeyError, TypeError, ValueError, AttributeError, OSError, EOFError, zipfile.BadZipFile) as reason:
            raise RunDirectoryError(f"{path}: not in this program's format ({reason}): {self.again}") from None


@dataclass(frozen=True)
class Cell(Generic[Made]):
    """A part of a study that is kept as soon as it is done.

    Attributes:
        name: What people call it.
        key: Digest of all that decides it. Equal keys are computed once.
        compute: A function that makes it, and may count its steps on the progress bar.
        steps: How many steps it takes on the bar.
    """

    name: str
    key: str
    compute: Callable[[Progress], Made]
    steps: int = 1


class Study(ABC, Generic[Made, Result]):
    """Cells that are computed one by one, and the result that they make together."""

    files: ClassVar[StudyFiles]
    #: The folder of cells beside the result, the word for what a cell is of, and the word for what the bar counts.
    cells_folder: ClassVar[str] = "cells"
    noun: ClassVar[str] = "cell"
    steps: ClassVar[str] = "cells"
    #: Whether cells stay when the result is written.
    keep_cells: bool = True

    @abstractmethod
    def cells(self, folder: Path) -> Sequence[Cell[Made]]:
        """All cells, which are kept in ``folder``."""

    @abstractmethod
    def result(self, made: Sequence[Made]) -> Result:
        """The result of the cells ``made``, which are in the order of :meth:`cells`."""

    @abstractmethod
    def stored(self, cell: Cell[Made], folder: Path) -> Made | None:
        """A finished cell; None if there is none or its file is damaged, so that it is computed again."""

    @abstractmethod
    def store(self, cell: Cell[Made], made: Made, folder: Path) -> None:
        """Keep a finished cell."""

    def tidy(self, folder: Path) -> None:
        """Delete from ``folder`` what no finished study needs."""

    def run(
        self, out_dir: Path, progress: Progress = NoProgress(), should_stop: Callable[[], bool] = lambda: False
    ) -> Result:
        """Compute what is missing, and write the result into ``out_dir``.

        Raises:
            RunDirectoryError: Another process writes there.
            StopRequested: ``should_stop`` was true after a step. The same call goes on with the first cell that is not
                finished, and begins that anew.
        """
        folder = make_folder(out_dir / self.cells_folder)
        with RunLock(out_dir):
            result = self.result(self._compute(folder, progress, should_stop))
            self.files.save(result, out_dir)
            self.tidy(folder)
            if not self.keep_cells:
                shutil.rmtree(folder, ignore_errors=True)
        return result

    def _compute(self, folder: Path, progress: Progress, should_stop: Callable[[], bool]) -> list[Made]:
        cells = self.cells(folder)
        each = {cell.key: cell for cell in cells}
        done = {key: made for key, cell in each.items() if (made := self.stored(cell, folder)) is not None}
        finished = sum(each[key].steps for key in done)
        progress.start(
            sum(cell.steps for cell in each.values()), self.steps, finished, self.files.name.replace("_", " ")
        )
        kept = f"from what is in {folder}"
        try:
            for place, (key, cell) in enumerate(each.items(), start=1):
                if key in done:
                    continue
                logger.info("%s (%s %d of %d)", cell.name, self.noun, place, len(each))
                stopped = f"stopped in {cell.name}; the same command goes on, {kept}"
                share = _Share(progress, cell.steps, should_stop, stopped)
                done[key] = cell.compute(share)
                self.store(cell, done[key], folder)
                share.finish()
                if should_stop():
                    goes_on = f"the same command goes on with the next {self.noun}, {kept}"
                    raise StopRequested(f"stopped after {cell.name}; {goes_on}")
        finally:
            progress.close()
        return [done[cell.key] for cell in cells]


class SealedStudy(Study[Made, Result]):
    """A study whose cells are sealed JSON files, each named by its key.

    A cell must be what :func:`emergence.plain.plain` takes, and ``restore`` must be its inverse to the bit. Then an
    interrupted study ends with the same bytes.
    """

    @abstractmethod
    def restore(self, content: dict[str, Any]) -> Made:
        """A cell from its stored JSON."""

    def stored(self, cell: Cell[Made], folder: Path) -> Made | None:
        path = folder / f"{cell.key}.json"
        if not path.is_file():
            return None
        try:
            content = read_sealed(path)
            if content.pop("cell", None) != cell.key:
                raise RunDirectoryError(f"{path}: another {self.noun}'s")
            return self.restore(content)
        except RunDirectoryError as error:
            logger.warning("%s: doing that %s again", error, self.noun)
            return None

    def store(self, cell: Cell[Made], made: Made, folder: Path) -> None:
        write_json_atomic(folder / f"{cell.key}.json", seal({**plain(made), "cell": cell.key}))


class _Share:
    """Passes the progress of one cell on to the bar of all, and ends the cell where a stop was asked for.

    A person waits for a step, not for a cell, which takes minutes of a large model. A cell whose steps are all done is
    kept.
    """

    def __init__(self, whole: Progress, steps: int, should_stop: Callable[[], bool], stopped: str) -> None:
        self._whole, self._left = whole, steps
        self._should_stop, self._stopped = should_stop, stopped

    def start(self, total: int, unit: str, initial: int = 0, description: str = "") -> None:
        pass

    def update(self, n: int, /, **values: float) -> None:
        self._left -= n
        self._whole.update(n, **values)
        if self._left > 0 and self._should_stop():
            raise StopRequested(self._stopped)

    def close(self) -> None:
        pass

    def finish(self) -> None:
        """Count the steps that the cell did not count itself."""
        if self._left > 0:
            self._whole.update(self._left)
