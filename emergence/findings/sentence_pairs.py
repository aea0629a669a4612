"""What a folder says of sentence pairs: the scores of its runs, and of published models beside them."""

from __future__ import annotations

from emergence.errors import RunDirectoryError
from emergence.files import name_within
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
            problems.append((name_within(path.parent, folder.root) or path.parent.name, str(error)))
    return found, problems
