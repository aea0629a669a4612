"""The runs of one folder, sorted into settings: within one, scores may stand side by side.

A setting is one architecture, layout, tokenizer, set of questions and pretraining text. Random trunks saw
no text and belong to every setting that shares the rest. What cannot be read is named, never guessed at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emergence.analysis.grid import CELL_OF_CONDITION, RunScores
from emergence.errors import ConfigError, DataError, RunDirectoryError
from emergence.experiment.result import RunResult, load_result
from emergence.experiment.run_directory import SPEC_FILE, STATS_FILE
from emergence.experiment.store import RunDirectory, RunStore
from emergence.spec import ExperimentSpec


@dataclass(frozen=True, eq=False)
class FoundRun:
    """One run, as far as it is there.

    Attributes:
        name: Folder or file name.
        spec: What was asked; None for a results file with the guide's keys alone.
        run: Its directory; None for a results file without one.
        result: None while the run is unfinished.
        scores: Per-question test scores; None without predictions.
    """

    name: str
    spec: ExperimentSpec | None
    run: RunDirectory | None = None
    result: RunResult | None = None
    scores: RunScores | None = None

    @property
    def cell(self) -> str | None:
        """Its cell of the 2x2; None for a run that only pretrained."""
        return CELL_OF_CONDITION.get(self.spec.condition) if self.spec else None

    @property
    def samples(self) -> int | None:
        """Its few-shot limit."""
        return self.spec.finetune_samples if self.spec else None

    @property
    def seed(self) -> int:
        return self.spec.seed if self.spec else 0

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Identities of its data, as far as they are known."""
        if self.result and self.result.data:
            return dict(self.result.data.get("fingerprints", {}))
        try:
            return dict(self.run.read_data()["fingerprints"]) if self.run else {}
        except RunDirectoryError:  # stopped before its data was recorded
            return {}


@dataclass(frozen=True, eq=False)
class Setting:
    """Runs that differ in condition, seed and number of training questions alone.

    Attributes:
        label: ``tiny``, ``base wiki+nq``, ``small echo``...
        members: Its runs.
    """

    label: str
    members: tuple[FoundRun, ...]

    def all_questions(self) -> list[FoundRun]:
        """The finished runs that trained on all questions."""
        return [m for m in self.members if m.samples is None and m.result and m.cell]

    def of_cell(self, cell: str) -> list[FoundRun]:
        """Those of one cell, by seed."""
        return sorted((m for m in self.all_questions() if m.cell == cell), key=lambda m: m.seed)


@dataclass(frozen=True, eq=False)
class ResultsFolder:
    """What a folder holds.

    Attributes:
        root: The folder.
        runs: Everything with a spec. settings: The same, grouped.
        documented: Results with the guide's keys alone, by file name.
        problems: What could not be used, a line each.
    """

    root: Path
    runs: tuple[FoundRun, ...]
    settings: tuple[Setting, ...]
    documented: tuple[FoundRun, ...]
    problems: tuple[str, ...]


def read_folder(root: Path) -> ResultsFolder:
    """Read every run directory and results file in ``root`` (or ``root`` itself, if it is a run).

    Raises:
        RunDirectoryError: There is no such folder.
    """
    if not root.is_dir():
        raise RunDirectoryError(f"{root}: no such folder: give one of run directories or downloaded results")
    problems: list[str] = []
    runs: list[FoundRun] = []
    documented: list[FoundRun] = []
    for folder in [root] if (root / SPEC_FILE).is_file() else _folders(root):
        try:
            runs.append(_read_run(folder, problems))
        except (RunDirectoryError, DataError) as error:
            problems.append(f"{folder.name}: {error}")
    known = {run.name for run in runs}
    for path in _result_files(root):
        try:
            found = _read_file(path)
        except (ConfigError, DataError) as error:
            problems.append(f"{path.name}: {error}")
            continue
        if found.result and found.result.run_id in known:
            problems.append(f"{path.name}: a copy of the result of {found.result.run_id}")
        else:
            (documented if found.spec is None else runs).append(found)
            known.add(found.result.run_id if found.result and found.result.run_id else path.name)
    return ResultsFolder(root, tuple(runs), tuple(_settings(runs)), tuple(documented), tuple(problems))


def _folders(root: Path) -> Iterator[Path]:
    return (root / name for name in RunStore(root).run_ids() if (root / name / SPEC_FILE).is_file())


def _result_files(root: Path) -> Iterator[Path]:
    """Results without a run directory: JSON in ``root``, and stats in folders that are not runs."""
    if (root / SPEC_FILE).is_file():
        return
    yield from sorted(path for path in root.glob("*.json") if path.is_file())
    for name in RunStore(root).run_ids():
        if (root / name / STATS_FILE).is_file() and not (root / name / SPEC_FILE).is_file():
            yield root / name / STATS_FILE


def _read_run(folder: Path, problems: list[str]) -> FoundRun:
    run = RunDirectory.open(folder)
    if not run.is_finished:
        problems.append(f"{run.run_id}: not finished, so only its training so far is drawn")
        return FoundRun(run.run_id, run.spec, run)
    result, scores = load_result(run.stats_path), None
    if run.spec.condition in CELL_OF_CONDITION:
        try:
            scores = RunScores.load(run)
        except RunDirectoryError as error:
            problems.append(f"{run.run_id}: scores without their questions: {error}")
    return FoundRun(run.run_id, run.spec, run, result, scores)


def _read_file(path: Path) -> FoundRun:
    result = load_result(path)
    name = path.parent.name if path.name == STATS_FILE else path.name
    return FoundRun(name, ExperimentSpec.from_dict(result.spec, str(path)) if result.spec else None, None, result)


def _settings(runs: Sequence[FoundRun]) -> list[Setting]:
    """Runs by what they share, smallest model first."""
    pretrained: dict[tuple[str, str], list[FoundRun]] = {}
    random: dict[str, list[FoundRun]] = {}
    text_of = {run.spec.pretrain_id: run.spec.pretrain_data for run in runs if run.spec and run.spec.pretrains}
    for run in runs:
        if run.spec is None or run.spec.condition == "pretrain-only" or run.result is None:
            continue
        if run.spec.random_baseline:
            random.setdefault(_shared(run), []).append(run)
        else:
            pretrained.setdefault((_shared(run), _text(run, text_of)), []).append(run)
    groups = [(key, text, [*members, *random.get(key, [])]) for (key, text), members in pretrained.items()]
    paired = {key for key, _ in pretrained}
    groups += [(key, "", members) for key, members in random.items() if key not in paired]
    groups.sort(key=lambda group: (_parameters(group[2][0]), run_label(group[2][0], group[1]), group[0]))
    labels: list[str] = []
    settings = []
    for _, text, members in groups:
        label = run_label(members[0], text)
        labels.append(label)
        again = labels.count(label)
        settings.append(Setting(label if again == 1 else f"{label} #{again}", tuple(members)))
    return settings


def _shared(run: FoundRun) -> str:
    """Architecture, layout, tokenizer and questions as one string."""
    assert run.spec is not None
    data = run.fingerprint
    content = [run.spec.config.name, run.spec.config.model.__dict__, run.spec.layout]
    return json.dumps([*content, data.get("tokenizer"), data.get("questions")], sort_keys=True, default=str)


def _text(run: FoundRun, text_of: Mapping[str, str]) -> str:
    """Its pretraining data: by its trunk's lineage, because a run that was given weights need not repeat the flag."""
    assert run.spec is not None
    lineage = run.result.lineage if run.result else None
    return text_of.get((lineage or {}).get("pretrain_id") or "", run.spec.pretrain_data)


def run_label(run: FoundRun, text: str) -> str:
    """Size, and what differs from the defaults: ``base wiki+nq echo``."""
    assert run.spec is not None
    parts = [run.spec.config.name]
    parts += [text] if text == "wiki+nq" else []
    parts += ["echo"] if run.spec.layout == "echo" else []
    return " ".join(parts)


def _parameters(run: FoundRun) -> int:
    return ((run.result.parameters if run.result else None) or {}).get("non_embedding", 0)
