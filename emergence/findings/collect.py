"""All results under a folder: run directories, downloaded copies, and renamed ``finetune_stats.json`` files.

People rename and move these files (``results/tiny_full.json``), so they are recognised by content, and
everything that could be a result but is none is named with its reason.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from emergence.errors import DataError, EmergenceError
from emergence.experiment.claims import check_counts, check_means, own_result
from emergence.experiment.manifest import MANIFEST_FILE
from emergence.experiment.result import RunResult, load_result, recognise
from emergence.experiment.run_directory import DATA_FILE, PREDICTIONS_FILE, SPEC_FILE, STATS_FILE, TOKENIZER_FILE
from emergence.experiment.store import RunDirectory, refuse_if_no_results
from emergence.files import read_json
from emergence.findings.two_by_two import RunScores
from emergence.spec.experiment import PRETRAIN_ONLY, ExperimentSpec
from emergence.spec.published import EXPORT_FILE, size_name
from emergence.studies.revisions.record import all_revisions

#: Top-level key of the JSON this package writes from results, so that reading them again passes it over.
KIND_KEY = "kind"
OWN_KIND = "emergence-"
#: A folder that holds more than this is none of results, but a disk or somebody's home.
MOST_ENTRIES, MOST_CANDIDATES = 50_000, 5_000
#: A results file is thousands of times smaller.
_MOST_BYTES = 1 << 26
_RUN_FILES = (SPEC_FILE, DATA_FILE, TOKENIZER_FILE, MANIFEST_FILE)


@dataclass(frozen=True)
class Found:
    """One readable result.

    Attributes:
        name: Path from the folder that was searched: the run directory, or the stats file.
        result: Its numbers.
        spec: None for the documented older format, which does not tell.
        scores: Per question, where a run directory holds them.
        remark: Why there are none although there should be (a damaged file); None when all is well.
        trunk_seed: Seed of the pretraining, where the trunk is one of another seed than the run's own.
    """

    name: str
    result: RunResult
    spec: ExperimentSpec | None = None
    scores: RunScores | None = None
    remark: str | None = None
    trunk_seed: int | None = None


@dataclass(frozen=True)
class Skipped:
    """Something that is in no average, and why.

    Attributes:
        name: Path from the folder that was searched.
        kind: ``unfinished``, ``pretraining`` (no questions were asked), ``damaged``, ``foreign``, ``copy``,
            ``incomparable``, ``suspect`` (a revision that is not what it says).
        reason: One sentence.
    """

    name: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Told:
    """A file of this program that is no run's result, such as a law or a study's cell: its ``kind`` and its place."""

    kind: str
    path: Path


@dataclass(frozen=True)
class Collection:
    """What a folder holds."""

    root: Path
    found: tuple[Found, ...]
    skipped: tuple[Skipped, ...]
    told: tuple[Told, ...] = ()

    @functools.cached_property
    def _by_name(self) -> Mapping[str, RunDirectory]:
        return {item.name: item.scores.run for item in self.found if item.scores}

    def run(self, name: str) -> RunDirectory | None:
        """The run directory of a result or of what was skipped; None for a file without one, or a damaged run."""
        if name in self._by_name:
            return self._by_name[name]
        path = self.root if (self.root / SPEC_FILE).is_file() else self.root / name
        return _opened(path) if (path / SPEC_FILE).is_file() else None


def collection_of(runs: Sequence[RunScores], root: Path = Path()) -> Collection:
    """Runs in hand as if they had been found under ``root``."""
    return Collection(root, tuple(Found(run.run.run_id, run.result, run.run.spec, run) for run in runs), ())


def collect_results(root: Path) -> Collection:
    """Every result under ``root``, which may also be one results file or one run directory.

    Raises:
        DataError: No such folder, or one with far too much in it.
    """
    results: list[Found] = []
    skipped: list[Skipped] = []
    told: list[Told] = []
    for found in _candidates(root):
        path = found.path if isinstance(found, RunDirectory) else found
        name = path.relative_to(root).as_posix() if path != root else root.resolve().name
        try:
            item = _read_run(found, name) if path.is_dir() else _read_file(path, name)
        except _NotAResultError as reason:
            skipped.append(Skipped(name, reason.kind, str(reason)))
        except EmergenceError as error:
            skipped.append(Skipped(name, "damaged", _without_path(error, path, root)))
        else:
            if isinstance(item, Told):
                told.append(item)
            else:
                results.append(item)
    kept, suspect = _without_suspects(root, results)
    return replace(_without_copies(root, kept, skipped + suspect), told=tuple(told))


def _without_suspects(root: Path, results: list[Found]) -> tuple[list[Found], list[Skipped]]:
    """Results without the revisions of published models that are not what they say, and those by name."""
    suspects = {
        (examined.model, name): why
        for folder in (root, root.parent)
        for examined in (all_revisions(folder) if folder.is_dir() else ())
        for name, why in examined.suspects.items()
    }
    kept, left_out, seen = [], [], set()
    for item in results:
        spec = item.spec
        model, revision = (spec.model, spec.revision) if spec and not spec.random_baseline else (None, None)
        why = suspects.get((model, revision)) if model and revision else None
        if why is None:
            kept.append(item)
        else:
            seen.add((model, revision))
            left_out.append(Skipped(item.name, "suspect", f"revision {revision} of {model}: {why}"))
    models = {item.spec.model for item in results if item.spec}
    left_out += [
        Skipped(f"{size_name(model)} {name}", "suspect", f"revision {name} of {model}: {why}")
        for (model, name), why in suspects.items()
        if model in models and (model, name) not in seen
    ]
    return kept, left_out


class _NotAResultError(Exception):
    """What was read is no result; not an error of anybody's."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def _candidates(root: Path) -> list[Path | RunDirectory]:
    """Run directories, not looked into any further, and JSON files elsewhere, in a fixed order; no hidden ones.

    A run directory whose spec is damaged is given as its folder.
    """
    refuse_if_no_results(root)
    if root.is_file():
        return [root]
    candidates = list(itertools.islice(_walked(root), MOST_CANDIDATES + 1))
    if len(candidates) > MOST_CANDIDATES:
        raise DataError(
            f"holds more than {MOST_CANDIDATES:,} results and JSON files: give the folder of the run directories", root
        )
    return candidates


def _walked(root: Path) -> Iterator[Path | RunDirectory]:
    seen = 0
    for parent, folders, files in os.walk(root):
        folder = Path(parent)
        seen += len(folders) + len(files)
        if seen > MOST_ENTRIES:
            raise DataError(f"holds more than {MOST_ENTRIES:,} files: give the folder of the run directories", root)
        if SPEC_FILE in files:
            run = _opened(folder)
            yield run or folder
            if run:
                folders.clear()
                continue
            files = [name for name in files if name != STATS_FILE]  # the result of the run whose spec is damaged
        if EXPORT_FILE in files:  # its other JSON is of transformers
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.endswith(".json") and not name.startswith(".") and name not in _RUN_FILES:
                yield folder / name


def _opened(folder: Path) -> RunDirectory | None:
    try:
        return RunDirectory.open(folder)
    except EmergenceError:
        return None


def _read_run(found: Path | RunDirectory, name: str) -> Found:
    run = found if isinstance(found, RunDirectory) else RunDirectory.open(found)  # which says what is wrong with it
    if not run.is_finished:
        raise _NotAResultError("unfinished", "not finished: its own command goes on with it")
    item = _checked(name, own_result(run))
    run.checked(STATS_FILE)
    if not (run.path / PREDICTIONS_FILE).exists():  # a copy of the small files alone
        return item
    try:
        scores, problems = _read_scores(run, item)
    except EmergenceError as error:
        return replace(item, remark=_without_path(error, run.path, run.path))
    if problems:
        raise DataError(f"{STATS_FILE} does not follow from the predictions: {problems[0]}")
    return replace(item, scores=scores)


def _read_scores(run: RunDirectory, item: Found) -> tuple[RunScores, list[str]]:
    """Scores per question, and what the means and counts in the stats say otherwise."""
    scores = RunScores.load(run, item.result)
    sentences, documents = scores.units
    counts = {"n": len(scores.ids), "n_clusters": sentences, "n_documents": documents}
    try:
        problems = [*check_means(scores.means(), item.result), *check_counts(counts, item.result)]
    except (KeyError, TypeError, ValueError) as reason:
        raise DataError(f"not in this program's format ({reason!r})", run.path / PREDICTIONS_FILE) from None
    return scores, problems


def _read_file(path: Path, name: str) -> Found | Told:
    if not path.is_file() or path.stat().st_size > _MOST_BYTES:
        raise _NotAResultError("foreign", "not a results file: no file, or far too large for one")
    raw = read_json(path, DataError)
    if isinstance(raw, dict) and str(raw.get(KIND_KEY, "")).startswith(OWN_KIND):
        return Told(str(raw[KIND_KEY]), path)
    # A study of a model keeps its cells beside its result.
    if isinstance(raw, dict) and raw.get("cell") == path.stem and path.parent.name == "cells":
        return Told("cell", path)
    if not recognise(raw):
        raise _NotAResultError("foreign", "not a results file: it has none of the keys of a finetune_stats.json")
    return _checked(name, load_result(path))


def _checked(name: str, result: RunResult) -> Found:
    """The result with its spec, once its score can be read.

    Raises:
        DataError: A score that is missing, null (it was not finite) or malformed.
        ConfigError: A malformed spec.
    """
    if result.condition == PRETRAIN_ONLY:
        raise _NotAResultError("pretraining", "pretraining only: no questions were put to it")
    if result.is_documented_format:
        item, split = Found(name, result), "validation"
    else:
        item, split = Found(name, result, ExperimentSpec.from_dict(result.spec or {}, "spec")), "test"
    result.check_facts()
    score = result.estimate(split, "f1_tokens")
    if score is None or not math.isfinite(score.point):
        raise DataError(f"it has no {split} F1 (null: the score did not exist, or was no finite number)")
    return item


def _without_path(error: EmergenceError, path: Path, root: Path) -> str:
    """The message without the path that is named beside it already."""
    message = str(error)
    for prefix in (f"{path}: ", f"{path}/", f"{root}/"):
        message = message.removeprefix(prefix)
    return message


def _without_copies(root: Path, results: list[Found], skipped: list[Skipped]) -> Collection:
    """One of every result: the one with its predictions, where a run is there as a folder and as a renamed file."""
    kept: dict[str, Found] = {}
    for item in sorted(results, key=lambda f: (f.scores is None, f.name)):
        result = item.result
        identity = f"{result.run_id}\x1f{result.experiment_id}" if item.spec else repr(result.to_dict())
        if identity in kept:
            skipped.append(Skipped(item.name, "copy", f"the same run as {kept[identity].name}, which is used"))
        else:
            kept[identity] = item
    ordered = tuple(sorted(kept.values(), key=lambda f: f.name))
    return Collection(root, ordered, tuple(sorted(skipped, key=lambda s: s.name)))
