"""Data and words that several kinds of figure share."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from emergence.errors import RunDirectoryError
from emergence.findings.folder import ResultsFolder, RunOnDisk
from emergence.findings.trunk_studies import Result, read_studies
from emergence.findings.two_by_two import ModelFree
from emergence.measures.bootstrap import Estimate
from emergence.measures.conditional import LINEAR
from emergence.measures.emergence_score import FROZEN, FULL, RANDOM_FROZEN, RANDOM_FULL
from emergence.report.charts.chart import Charts, Row
from emergence.studies.study import StudyFiles
from emergence.studies.units.result import FILES as UNITS
from emergence.studies.units.result import UnitResult
from emergence.studies.units.result import read_result as read_units

#: Cells of the row between pretrained and random, whose trunk was pretrained on shuffled text.
SHUFFLED_CELLS = {FULL: "shuffled_full", FROZEN: "shuffled_frozen"}
#: Cells in the words of figures, in the order of bars.
CELL_NAMES = {
    FULL: "pretrained, all weights trained",
    FROZEN: "pretrained, frozen",
    "shuffled_full": "shuffled text, all weights trained",
    "shuffled_frozen": "shuffled text, frozen",
    RANDOM_FULL: "random, all weights trained",
    RANDOM_FROZEN: "random, frozen",
}
#: Those of them whose trunk a probe reads.
FROZEN_BARS = (FROZEN, "shuffled_frozen", RANDOM_FROZEN)
#: Cell -> its trunk in words.
TRUNK_NAMES = {
    cell: "random" if cell.startswith("random") else "shuffled text" if cell.startswith("shuffled") else "pretrained"
    for cell in CELL_NAMES
}
NO_MODEL, WORDS_ALONE = "no_model", "words_alone"
#: What stands beside the bars as a line, in words. Both need no language model.
LINE_NAMES = {NO_MODEL: "best rule, no model", WORDS_ALONE: "words and positions"}


# Rows --------------------------------------------------------------------------------------------


def histories(folder: ResultsFolder, charts: Charts) -> Iterator[tuple[RunOnDisk, list[Row]]]:
    """Runs with their history, in the order of sets. Runs in no set, such as unfinished ones, come last."""
    for on_disk in folder.runs:
        try:
            yield on_disk, on_disk.history
        except RunDirectoryError as error:
            charts.skip(f"training of {on_disk.name}", str(error))


def studies(
    folder: ResultsFolder,
    charts: Charts,
    name: str,
    files: StudyFiles,
    read: Callable[[Path], Result],
    otherwise: str,
) -> list[Result]:
    """Every result of a study in a folder. What cannot be read is skipped by its place, ``name`` if there is none."""
    if read not in charts.read:
        charts.read[read] = read_studies(folder, files, read)
    return charts.take(name, charts.read[read], otherwise)


class OfSubject(Protocol):
    """A study's result."""

    @property
    def subject(self) -> dict[str, Any]: ...


Named = TypeVar("Named", bound=OfSubject)


def named_apart(
    results: Sequence[Named], key: Callable[[Named], object], settings: Callable[[Named], str]
) -> list[Named]:
    """Results whose subjects have different names: where ``key`` agrees, the settings stand behind the name."""
    counts = Counter((str(result.subject["name"]), key(result)) for result in results)
    apart = []
    for result in results:
        name = str(result.subject["name"])
        if counts[name, key(result)] > 1:
            result = replace(result, subject={**result.subject, "name": f"{name} ({settings(result)})"})  # type: ignore[type-var]
        apart.append(result)
    return apart


def unit_studies(folder: ResultsFolder, charts: Charts, name: str) -> list[UnitResult]:
    """Every study of units in a folder: of each subject, roles and kind of units the one with the most trunks."""
    found = studies(folder, charts, name, UNITS, read_units, "no units were examined: emergence units RUN")
    largest: dict[tuple[str, str, str, str], UnitResult] = {}
    for result in sorted(found, key=lambda r: (-len(r.trunks), -int(r.settings["questions"]))):
        data = str(result.subject["name"]), str(result.settings["data"]["name"]), str(result.settings["roles"])
        for kind in result.kinds:
            largest.setdefault((*data, kind), result)
    kept = []
    for result in found:
        kinds = [kind for (*_, kind), owner in largest.items() if owner is result]
        if kinds:
            in_order = [kind for kind in result.kinds if kind in kinds]
            kept.append(replace(result, settings={**result.settings, "kinds": in_order}))
    return kept


def short_names(results: Sequence[UnitResult]) -> list[str]:
    """Size and seed of each subject, or its name: that of a model, or where another has the same size and seed."""
    told = [
        f"{r.subject['size']}, seed {r.subject['seed']}" if "seed" in r.subject else str(r.subject["name"])
        for r in results
    ]
    return [name if told.count(name) == 1 else str(r.subject["name"]) for name, r in zip(told, results, strict=True)]


def no_history(folder: ResultsFolder, otherwise: str) -> str:
    """Why no curve of training is drawn: without run directories nobody can tell what the runs did."""
    return otherwise if folder.runs else "results files hold no history of training: emergence pull RUN fetches it"


def cell_row(label: str, cell: str, estimate: Estimate, n_sentences: int, **more: Any) -> Row:
    """Token F1 of one cell of a set, with its interval and counts. The estimate may count documents."""
    return {
        "setting": label,
        **more,
        "cell": cell,
        "f1": estimate.point,
        "lo": estimate.lo,
        "hi": estimate.hi,
        "level": estimate.level,
        "n_questions": estimate.n,
        "n_sentences": n_sentences,
        "n_seeds": estimate.n_seeds,
    }


def slug(label: str) -> str:
    """A set's label as part of a file name, such as ``tiny_wiki``."""
    return re.sub(r"[^a-z0-9.]+", "_", label.lower()).strip("_")


def numbers(rows: Iterable[Row], key: str) -> npt.NDArray[np.float64]:
    """The values of one column, with nan for a missing one."""
    return np.array([math.nan if row[key] is None else row[key] for row in rows], dtype=float)


def distinct(rows: Iterable[Row], key: str = "setting") -> list[str]:
    """The distinct values of a column in order of appearance."""
    return list(dict.fromkeys(row[key] for row in rows))


def rows_where(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """The rows that have these values."""
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


# Widths ------------------------------------------------------------------------------------------


def always(rows: Sequence[Row]) -> bool:
    """One column always holds the figure."""
    return True


def never(rows: Sequence[Row]) -> bool:
    """The figure always takes two columns."""
    return False


def of_one_setting(rows: Sequence[Row]) -> bool:
    """One column holds the figure's one panel."""
    return len(distinct(rows)) == 1


# Words -------------------------------------------------------------------------------------------


def interval_words(rows: Sequence[Row], clusters: Iterable[str]) -> str:
    """A sentence such as ``Bars: 95% intervals, sentences resampled (2 seeds).`` ``clusters`` is what is resampled."""
    if not rows:
        return ""
    if all(row["lo"] is None or math.isnan(row["lo"]) for row in rows):
        return "Without intervals: these files hold no scores of single questions."
    level = next(row["level"] for row in rows if row.get("level"))
    seeds = sorted({row["n_seeds"] for row in rows if row.get("n_seeds")})
    n = "one seed" if seeds == [1] else f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"{seeds[0]} seeds"
    resampled = " or ".join(f"{cluster}s" for cluster in sorted(set(clusters), reverse=True))
    return f"Bars: {level:.0%} intervals, {resampled} resampled ({n})."


def seed_words(rows: Sequence[Row], kind: str) -> str:
    """What lines and bands are, where any setting has several seeds of one ``kind``. It begins with a blank."""
    seeds = {(row["setting"], row[kind], row["seed"]) for row in rows}
    several = len(seeds) > len({(setting, of) for setting, of, _ in seeds})
    return " Where there are several seeds: their mean, and their range as a band." if several else ""


def cell_words(row: Row) -> str:
    """The row's cell, or what stands in for a model."""
    words = LINE_NAMES.get(row["cell"]) or CELL_NAMES[row["cell"]]
    return words if row.get("probe") in (None, LINEAR) else f"{words}, {row['probe']} probe"


def model_free_rows(model_free: ModelFree, **where: Any) -> list[Row]:
    """What answers the test questions without a language model, a row for each line of a figure."""
    found = {NO_MODEL: model_free.floor and model_free.floor[1], WORDS_ALONE: model_free.words}
    return [{**where, "cell": cell, "f1": estimate.point} for cell, estimate in found.items() if estimate]


def value_words(value: Any) -> str:
    """A value with two digits."""
    return "undefined" if value is None or not math.isfinite(value) else f"{value:.2f}"


def ends_in_words(rows: Sequence[Row], name: Callable[[Row], str], x: str, y: str) -> list[str]:
    """The first and last point of every series, in words."""
    phrases = []
    for label, group in groupby(sorted(rows, key=name), key=name):
        points = sorted((row for row in group if row[y] is not None), key=lambda row: row[x])
        if points:
            first, last = points[0], points[-1]
            phrases.append(f"{label}: {value_words(first[y])} at {first[x]:,} to {value_words(last[y])} at {last[x]:,}")
    return phrases
