"""What a folder says of sentence pairs: the scores of its runs, and of published models beside them."""

from __future__ import annotations

from pathlib import Path

from emergence.errors import RunDirectoryError
from emergence.findings.folder import ResultsFolder
from emergence.studies.sentence_pairs.result import FILES, PairStudyResult, read_result

Problem = tuple[str, str]


def read_sentence_pairs(folder: ResultsFolder) -> tuple[list[PairStudyResult], list[Problem]]:
    """Every result in the runs of a folder, then those of models; place and reason of each that cannot be read."""
    homes = [on_disk.run.path / FILES.folder for on_disk in folder.runs]
    # Of published models, by the name of the model (commands/minimal_pairs.py).
    homes += [path for path in sorted((folder.root / FILES.name).glob("*")) if path.is_dir()]
    found: list[PairStudyResult] = []
    problems: list[Problem] = []
    for path in (path for home in homes for path in sorted(home.glob(f"*/{FILES.json_file}"))):
        try:
            found.append(read_result(path.parent))
        except RunDirectoryError as error:
            problems.append((_name(path.parent, folder.root), str(error)))
    return found, problems


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
