"""The 2x2 of an emergence claim from run directories: {random, pretrained} x {frozen, all weights trained}.

Scores are compared question by question, so only runs that saw the same test questions are put together. A run that
does not match is named and left out.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from emergence.errors import DataError
from emergence.experiment.claims import checked_result, own_result
from emergence.experiment.facts import HEADLINE
from emergence.experiment.prediction_rows import OPTIONAL_SCORES, REQUIRED_SCORES, column, odd_row
from emergence.experiment.result import RunResult
from emergence.experiment.run_directory import PREDICTIONS_FILE
from emergence.experiment.store import RunDirectory
from emergence.measures.bootstrap import N_BOOT, Estimate
from emergence.measures.clustering import ClusterKind, document_widening
from emergence.measures.emergence_score import (
    CELLS,
    FROZEN,
    FROZEN_CELLS,
    FULL,
    RANDOM_FROZEN,
    RANDOM_FULL,
    TwoByTwo,
    analyse_two_by_two,
    cells_table,
)
from emergence.measures.measured_coverage import interval_notes, units_of
from emergence.measures.readings import FLOORS, SCORE_NAMES, Reading, describe_score, read_score
from emergence.measures.resampling import ClusterTable, seed_df
from emergence.plain import plain
from emergence.wording import shown

Item = TypeVar("Item")

#: Cell of the 2x2 by ``ExperimentSpec.condition``.
CELL_OF_CONDITION = {"full": FULL, "frozen": FROZEN, "random": RANDOM_FULL, "random-frozen": RANDOM_FROZEN}


@dataclass(frozen=True)
class RunScores:
    """Per-question test scores of one run.

    Attributes:
        run: The run directory. result: Its result file.
        ids: Question ids in the file's order. sentences: The sentence that each question is from.
        scores: Read-out -> score name -> (N,) values; argument selection is nan where a question has no other
            argument to choose from, and absent from older files. Baselines (``words_left``, ``words_both``,
            ``wh_rule``) stand among the read-outs, with the scores they have.
        trunk_seed: Seed of the pretraining, where the run probes a trunk of another seed than its own; None until
            the run is grouped with others (``findings.comparable``).
        documents: The document that each question is from; None for older files, which do not tell.
        asked: A digest of the words and the question of each row; None for older files, which lack them.
        row_keys: Keys of the file's first row.
    """

    run: RunDirectory
    result: RunResult
    ids: tuple[str, ...]
    sentences: tuple[str, ...]
    scores: Mapping[str, Mapping[str, npt.NDArray[np.float64]]]
    trunk_seed: int | None = None
    documents: tuple[str, ...] | None = None
    asked: tuple[bytes, ...] | None = None
    row_keys: frozenset[str] = frozenset()

    @classmethod
    def load(cls, run: RunDirectory, result: RunResult | None = None) -> RunScores:
        """Read a finished run.

        Args:
            result: The run's own result, where the caller has read it.

        Raises:
            DataError: The run is not finished, or its predictions have not this program's format.
            RunDirectoryError: A file is damaged, or the result is of another run.
        """
        if not run.is_finished:
            raise DataError("the run is not finished: run its command again to go on with it", run.path)
        result, rows = result or own_result(run), run.read_predictions()
        if odd := odd_row(rows):
            raise DataError(f"not in this program's format ({odd})"[:200], run.path / PREDICTIONS_FILE)
        try:
            return cls._of_rows(run, result, rows)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as reason:
            path = run.path / PREDICTIONS_FILE
            raise DataError(f"not in this program's format ({reason!r})"[:200], path) from None

    @classmethod
    def checked(cls, run: RunDirectory) -> RunScores:
        """Read a finished run, once all that its result claims follows from its files.

        Raises:
            DataError: As :meth:`load`.
            RunDirectoryError: As :meth:`load`, or the result claims what does not follow.
        """
        scores = cls.load(run)
        checked_result(run)
        return scores

    @classmethod
    def _of_rows(cls, run: RunDirectory, result: RunResult, rows: Sequence[Mapping[str, Any]]) -> RunScores:
        scores = {HEADLINE: _columns(rows, REQUIRED_SCORES, OPTIONAL_SCORES)}
        for readout in rows[0].get("readouts", {}) if rows else ():
            scores[readout] = _columns([row["readouts"][readout] for row in rows], REQUIRED_SCORES, OPTIONAL_SCORES)
        for baseline in rows[0].get("baselines", {}) if rows else ():
            told = [row["baselines"][baseline] for row in rows]
            of_baseline = _columns(told, (), (*REQUIRED_SCORES, *OPTIONAL_SCORES))
            scores[baseline] = {name: _shared_array(values) for name, values in of_baseline.items()}
        sentences = _shared(f"{row['source']}\x1f{row['sentence_id']}" for row in rows)
        documents = None
        if all(row.get("document_id") is not None for row in rows):
            documents = _shared(f"{row['source']}\x1f{row['document_id']}" for row in rows)
        ids = _shared(row["id"] for row in rows)
        asked = _shared(map(_asked, rows)) if all("words" in row and "question" in row for row in rows) else None
        keys = frozenset(map(sys.intern, rows[0] if rows else ()))
        return cls(run, result, ids, sentences, scores, documents=documents, asked=asked, row_keys=keys)

    def means(self) -> dict[str, dict[str, float]]:
        """Read-out -> score -> mean over the questions that have one; nan where none has."""
        return {
            name: {score: float(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else math.nan
                   for score, values in of_name.items()}
            for name, of_name in self.scores.items()
        }  # fmt: skip

    @property
    def cell(self) -> str | None:
        """The run's cell of the 2x2; None for a run that only pretrained."""
        return CELL_OF_CONDITION.get(self.run.spec.condition)

    @property
    def units(self) -> tuple[int, int | None]:
        """How many sentences and documents the questions are from; documents None where the file does not tell."""
        return len(set(self.sentences)), len(set(self.documents)) if self.documents else None

    @property
    def seed_label(self) -> str:
        """Two runs with equal labels had the same training draws: the label is the seed of the trunk."""
        return str(self.run.spec.seed if self.trunk_seed is None else self.trunk_seed)


#: Ids, sentences, documents and digests of questions, and the scores of baselines without a model: many runs have the
#: same ones, which are one object. Where runs share none, keeping all of them would double the memory.
_KEPT: dict[Hashable, Any] = {}
_MOST_KEPT = 64


def _kept(key: Hashable, column: Item) -> Item:
    """The column that was given first with this key."""
    if len(_KEPT) >= _MOST_KEPT and key not in _KEPT:
        _KEPT.clear()
    kept: Item = _KEPT.setdefault(key, column)
    return kept


def _shared(column: Iterable[Item]) -> tuple[Item, ...]:
    """The column as a tuple, the same one for all runs with equal ones."""
    values = tuple(column)
    return _kept(values, values)


def _shared_array(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The column, made read-only, the same one for all runs with equal ones."""
    values.flags.writeable = False
    return _kept(values.tobytes(), values)


def _asked(row: Mapping[str, Any]) -> bytes:
    """What two rows of one question have in common, short enough to be kept for many runs."""
    return hashlib.sha256("\x1f".join([row["question"], *row["words"]]).encode()).digest()[:16]


def _columns(
    rows: Sequence[Mapping[str, Any]], required: Sequence[str], optional: Sequence[str]
) -> dict[str, npt.NDArray[np.float64]]:
    """Score name -> (N,) values, nan for null; an optional score is there where the first row has it."""
    names = [*required, *(name for name in optional if rows and name in rows[0])]
    return {name: np.array(column(rows, name), dtype=np.float64) for name in names}


@dataclass(frozen=True)
class Grid:
    """One 2x2 with its evidence.

    Attributes:
        analysis: Cells, scores against both floors, gap, benefits.
        reading: The guide's reading of the primary score; None where the random trunk was not probed frozen.
        runs: Cell -> ids of its runs. n_questions, n_sentences: Counts that all runs share.
        readout: Which read-out the frozen cells show. no_model_floor: Name and F1 of the best rule without a model.
        words_alone: F1 of words and positions without a language model; None where runs are older than that.
        left_out: Runs that could not be compared, with the reason.
        n_documents: None where older files do not tell. cluster: What was resampled.
        document_widening: ``score`` (``gap`` where there is no score) and ``F1`` (of the frozen cell) -> standard error
            by documents over the one by sentences. Empty where the documents are unknown.
        notes: How far the intervals can be trusted.
    """

    analysis: TwoByTwo
    reading: Reading | None
    runs: Mapping[str, Sequence[str]]
    n_questions: int
    n_sentences: int
    readout: str
    score_name: str
    no_model_floor: tuple[str, float] | None
    words_alone: Estimate | None
    left_out: tuple[str, ...]
    n_documents: int | None = None
    cluster: ClusterKind = "sentence"
    document_widening: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return plain({"score" if key == "score_name" else key: value for key, value in vars(self).items()})


def build_grid(
    runs: Iterable[RunScores],
    *,
    readout: str = HEADLINE,
    score_name: str = "f1_tokens",
    n_boot: int = N_BOOT,
    level: float = 0.95,
    cluster: ClusterKind = "sentence",
    peers: Sequence[Sequence[RunScores]] = (),
) -> Grid:
    """The 2x2 of runs that differ in nothing but condition and seed.

    Args:
        runs: Finished runs of one size, pretraining data, layout and number of training questions.
        readout: The frozen cells' read-out; cells with all weights trained have the headline alone.
        score_name: ``f1_tokens``, ``em``, ``expected_f1`` or ``log_prob``.
        n_boot: Bootstrap resamples. level: Coverage.
        cluster: What is resampled; sentences where older files do not tell the document.
        peers: Runs of other sizes, a group for each, that help to tell the variance over seeds.

    Raises:
        DataError: No full or no frozen run, or no two runs share their test questions.
    """
    cells, left_out = runs_by_cell(list(runs))
    if FULL not in cells or FROZEN not in cells:
        have = ", ".join(cells) or "none"
        raise DataError(f"a 2x2 needs a full and a frozen run on the same test questions; found: {have}")
    first = cells[FULL][0]
    n_sentences, n_documents = first.units
    cluster = cluster if first.documents else "sentence"
    table, scores = table_of_runs(cells, readout, score_name, cluster)
    others = [runs_by_cell(list(group))[0] for group in peers]
    tables = [table_of_runs(other, readout, score_name, cluster)[0] for other in others]
    analysis = analyse_two_by_two(table, n_boot=n_boot, level=level, peers=tables)
    widening = _document_widening(analysis, scores, first)
    free = model_free([member.result for members in cells.values() for member in members])
    bar = free.bar if score_name == "f1_tokens" else None
    reading = read_score(analysis.probe, analysis.cells[FULL], no_model_floor=bar) if analysis.probe else None
    return Grid(
        analysis=analysis,
        reading=reading,
        runs={cell: [member.run.run_id for member in members] for cell, members in cells.items()},
        n_questions=len(first.ids),
        n_sentences=n_sentences,
        readout=readout,
        score_name=score_name,
        no_model_floor=(free.floor[0], free.floor[1].point) if free.floor else None,
        words_alone=free.words if score_name == "f1_tokens" else None,
        left_out=tuple(left_out),
        n_documents=n_documents,
        cluster=cluster,
        document_widening=widening,
        notes=tuple(
            interval_notes(
                {cell: len(members) for cell, members in cells.items()},
                n_sentences=n_sentences,
                n_documents=n_documents,
                cluster=cluster,
                widening=widening,
                pooled=_pooled(analysis, table, tables),
            )
        ),
    )


def table_of_runs(
    cells: Mapping[str, Sequence[RunScores]], readout: str, score_name: str, cluster: ClusterKind
) -> tuple[ClusterTable, dict[str, npt.NDArray[np.float64]]]:
    """Runs by cell as a table to resample, and the scores (S, N) of each cell, in the question order of the first."""
    first = next(iter(cells.values()))[0]
    scores = {
        cell: np.stack([in_order(member, first, readout_of(cell, readout), score_name) for member in members])
        for cell, members in cells.items()
    }
    labels = {cell: [member.seed_label for member in members] for cell, members in cells.items()}
    clusters = (first.documents or first.sentences) if cluster == "document" else first.sentences
    return cells_table(scores, clusters, labels), scores


def _pooled(analysis: TwoByTwo, table: ClusterTable, peers: Sequence[ClusterTable]) -> dict[str, int]:
    """Cell to the degrees of freedom of its variance over seeds, where it was pooled over sizes."""
    return {
        cell: seed_df(table, cell, peers)
        for cell, estimate in analysis.cells.items()
        if "seed_variance_pooled" in estimate.flags
    }


def readout_of(cell: str, readout: str) -> str:
    """``readout`` for a frozen cell; a cell with all weights trained has the headline alone."""
    return readout if cell in FROZEN_CELLS else HEADLINE


def _document_widening(
    analysis: TwoByTwo, scores: Mapping[str, npt.NDArray[np.float64]], first: RunScores
) -> dict[str, float]:
    """See :class:`Grid`; a score's standard error is that of its influence function."""
    if first.documents is None:
        return {}
    mean = {cell: values.mean(axis=0) for cell, values in scores.items()}
    raw = analysis.probe.raw if analysis.probe else math.nan
    name, influence = "gap", mean[FULL] - mean[FROZEN]
    if math.isfinite(raw):
        name, influence = "score", mean[FROZEN] - mean[RANDOM_FROZEN] - raw * (mean[FULL] - mean[RANDOM_FROZEN])
    widening = {
        key: document_widening(values, first.sentences, first.documents)
        for key, values in ((name, influence), ("F1", mean[FROZEN]))
    }
    return {key: times for key, times in widening.items() if math.isfinite(times)}


def runs_by_cell(runs: list[RunScores]) -> tuple[dict[str, list[RunScores]], list[str]]:
    """Runs by cell, those with the most common set of test questions; the others with their reason."""
    left_out = [f"{run.run.run_id}: pretraining only" for run in runs if run.cell is None]
    candidates = [run for run in runs if run.cell is not None]
    questions = {run.run.run_id: frozenset(run.ids) for run in candidates}
    common = max(times := Counter(questions.values()), key=times.__getitem__, default=None)
    cells: dict[str, list[RunScores]] = {}
    taken: set[tuple[str | None, str]] = set()
    for run in candidates:
        if questions[run.run.run_id] != common:
            left_out.append(f"{run.run.run_id}: its test questions are not those of the other runs")
        elif (run.cell, run.seed_label) in taken:
            left_out.append(f"{run.run.run_id}: another run of the same cell and seed is used")
        else:
            taken.add((run.cell, run.seed_label))
            cells.setdefault(run.cell or "", []).append(run)
    return {cell: sorted(cells[cell], key=lambda r: r.seed_label) for cell in CELLS if cell in cells}, left_out


def in_order(run: RunScores, first: RunScores, readout: str, score_name: str) -> npt.NDArray[np.float64]:
    """Scores of ``run`` in the question order of ``first``."""
    if readout not in run.scores:
        known = ", ".join(run.scores)
        raise DataError(f"the run has no read-out {readout!r}, only {known}", run.run.path)
    values = run.scores[readout][score_name]
    if run.ids == first.ids:
        return values
    place = {question: i for i, question in enumerate(run.ids)}
    return values[[place[question] for question in first.ids]]


@dataclass(frozen=True)
class ModelFree:
    """What answers the test questions without a language model; None for what was not measured.

    Attributes:
        floor: Name and F1 of the best rule (R_0). words: F1 of the scorer of words and positions (R_1).
    """

    floor: tuple[str, Estimate] | None
    words: Estimate | None

    @property
    def bar(self) -> float | None:
        """The higher of both F1s. Full finetuning below it is no ceiling."""
        bars = [*([self.floor[1].point] if self.floor else []), *([self.words.point] if self.words else [])]
        return max(bars, default=None)


def model_free(results: Sequence[RunResult]) -> ModelFree:
    """Rule and scorer of results on the same questions, each from the first result that measured it."""
    return ModelFree(
        next((floor for result in results if (floor := result.no_model_floor)), None),
        next((words for result in results if (words := result.words_alone)), None),
    )


def format_grid(grid: Grid) -> str:
    """The 2x2 as text, with score, gap and reading."""
    cells = grid.analysis.cells

    def cell(name: str) -> str:
        return shown(cells[name]) if name in cells else "not run"

    width = max(len(cell(name)) for name in CELLS) + 3
    lines = [
        f"{grid.score_name} on {grid.n_questions:,} test questions "
        f"({units_of(grid.n_sentences, grid.n_documents)}), {grid.analysis.gap.level:.0%} intervals",
        f"{'':<14}{'frozen, probed':<{width}}{'all weights trained':<{width}}",
        f"{'pretrained':<14}{cell(FROZEN):<{width}}{cell(FULL):<{width}}",
        f"{'random':<14}{cell(RANDOM_FROZEN):<{width}}{cell(RANDOM_FULL):<{width}}",
    ]
    if grid.no_model_floor:
        lines.append(f"{'no model':<14}{grid.no_model_floor[1]:.3f} ({grid.no_model_floor[0].replace('_', ' ')})")
    if grid.words_alone:
        lines.append(f"{'':<14}{shown(grid.words_alone)} (words and positions)")
    lines.append("")
    for score in (grid.analysis.probe, grid.analysis.scratch):
        if score:
            lines.append(f"{SCORE_NAMES[score.floor]:<20}{describe_score(score, 3)}  floor: {FLOORS[score.floor]}")
    lines.append(f"{'emergence gap':<20}{shown(grid.analysis.gap)}  full minus frozen")
    if grid.reading:
        lines.append(f"{'by the guide':<20}{grid.reading.verdict}" + _open_verdicts(grid.reading))
    lines += [f"{'note':<20}{note}" for note in grid.notes]
    return "\n".join([*lines, *(f"{'left out':<20}{reason}" for reason in grid.left_out)])


def _open_verdicts(reading: Reading) -> str:
    return f" (could be {' or '.join(reading.could_be)})" if len(reading.could_be) > 1 else ""
