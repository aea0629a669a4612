"""A sweep on disk: what was asked for and how far it is, in one file under the runs folder.

``RUNS/.sweeps/NAME.json`` is replaced whole at every change (:mod:`emergence.files`), so that a sweep can go on after a
kill at any moment. Results are in the run directories. The record only leads to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from emergence.errors import ConfigError, RunDirectoryError, UsageError
from emergence.files import content_digest, make_folder, read_json, seal, unseal, write_json_atomic
from emergence.plain import plain
from emergence.sweep.graph import Graph, Status, Task
from emergence.wording import did_you_mean

#: Folder of the records. It is hidden, so that nothing takes it for a run.
FOLDER = ".sweeps"
SCHEMA_VERSION = 1


@dataclass
class Record:
    """One sweep.

    Attributes:
        name: The matrix's name with a digest of the cells, so that the same command finds the record again.
        path: The file, which bears the name.
        on: Name of the place that the sweep runs at.
        jobs: Runs at a time.
        cwd: Folder in which the sweep was started. Relative data paths begin there.
        graph: Tasks and states.
        created: Local time.
        conductor: On Modal, the call that drives the sweep.
        app: On Modal, the app that it runs in.
        gpu: On Modal, the GPU in place of the configurations'.
        max_cost: On Modal, what the runs of the last launch may cost together, in dollars; None for no end.
    """

    name: str
    path: Path
    on: str
    jobs: int
    cwd: str
    graph: Graph
    created: str = field(default_factory=lambda: datetime.now().isoformat(timespec="seconds"))
    conductor: str | None = None
    app: str | None = None
    gpu: str | None = None
    max_cost: float | None = None

    @property
    def runs_dir(self) -> Path:
        return self.path.parent.parent

    @property
    def logs(self) -> Path:
        """Folder of the logs of local cells."""
        return self.path.with_suffix("")

    def save(self) -> None:
        """Replace the file.

        Raises:
            RunDirectoryError: The system refused.
        """
        make_folder(self.path.parent)
        write_json_atomic(self.path, seal(self.to_dict()))

    def to_dict(self) -> dict[str, Any]:
        graph = self.graph
        return {
            "schema_version": SCHEMA_VERSION,
            "name": self.name,
            "on": self.on,
            "jobs": self.jobs,
            "cwd": self.cwd,
            "created": self.created,
            "conductor": self.conductor,
            "app": self.app,
            "gpu": self.gpu,
            "max_cost": self.max_cost,
            "tasks": [{**task.to_dict(), **plain(graph.status[key])} for key, task in graph.tasks.items()],
        }


def record_name(matrix: str, on: str, tasks: Sequence[Task]) -> str:
    """``matrix-1a2b3c4d``: equal for equal cells at the same place."""
    cells = sorted(task.key for task in tasks if not task.is_pretraining)
    return f"{matrix}-{content_digest([on, cells])[:8]}"


def record_path(runs_dir: Path, name: str) -> Path:
    return runs_dir / FOLDER / f"{name}.json"


def load_record(path: Path) -> Record:
    """Read a record.

    Raises:
        RunDirectoryError: It is missing, damaged, or of a later version.
    """
    raw = unseal(read_json(path), str(path))
    if raw.get("schema_version") != SCHEMA_VERSION:
        raise RunDirectoryError(f"{path}: a record of version {raw.get('schema_version')!r}, not {SCHEMA_VERSION}")
    try:
        tasks, status = [], {}
        for item in raw["tasks"]:
            task = Task.from_dict(item, str(path))
            tasks.append(task)
            status[task.key] = Status.from_dict({k: v for k, v in item.items() if k not in task.to_dict()})
        return Record(
            name=path.stem,
            path=path,
            on=raw["on"],
            jobs=raw["jobs"],
            cwd=raw["cwd"],
            graph=Graph(tasks, status),
            created=raw["created"],
            conductor=raw["conductor"],
            app=raw["app"],
            gpu=raw["gpu"],
            max_cost=raw.get("max_cost"),
        )
    except (KeyError, TypeError, AttributeError) as reason:
        raise RunDirectoryError(f"{path}: not a sweep's record of this program ({reason!r})") from None
    except ConfigError as reason:
        raise RunDirectoryError(str(reason)) from None


def find_record(runs_dir: Path, name: str | None) -> Record:
    """The record of that ``name``, or at that path. None means the sweep last written to.

    Raises:
        UsageError: There is no such record. The message names those there are.
    """
    if name and Path(name).suffix == ".json":
        return load_record(Path(name))
    files = sorted((runs_dir / FOLDER).glob("*.json"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise UsageError(f"no sweep was started in {runs_dir}: start one with `emergence sweep`, or give --runs-dir")
    if name is None:
        return load_record(files[-1])
    for path in files:
        if path.stem == name:
            return load_record(path)
    raise UsageError(f"no sweep {name!r} in {runs_dir}; {did_you_mean(name, [path.stem for path in files])}")
