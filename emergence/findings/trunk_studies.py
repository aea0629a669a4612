"""The studies that a folder holds: those of its runs, and those of published models beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from emergence.errors import RunDirectoryError
from emergence.files import name_within
from emergence.findings.folder import ResultsFolder
from emergence.studies.study import StudyFiles

Result = TypeVar("Result")
Problem = tuple[str, str]


def read_studies(
    folder: ResultsFolder, files: StudyFiles, read: Callable[[Path], Result]
) -> tuple[list[Result], list[Problem]]:
    """Every result of one kind of study in the runs of a folder, then those of models.

    Args:
        folder: The folder.
        files: The files of the study, which has a folder for each of its inputs.
        read: A function that reads one result from its folder.

    Returns:
        The results, and place and reason of each that cannot be read.
    """
    homes = [on_disk.run.path / files.folder for on_disk in folder.runs]
    # Of published models, by the name of the model (the study's command decides).
    homes += [path for path in sorted((folder.root / files.name).glob("*")) if path.is_dir()]
    found: list[Result] = []
    problems: list[Problem] = []
    for path in (path for home in homes for path in sorted(home.glob(f"*/{files.json_file}"))):
        try:
            found.append(read(path.parent))
        except RunDirectoryError as error:
            problems.append((name_within(path.parent, folder.root) or path.parent.name, str(error)))
    return found, problems
