"""The experiment guide's results table: every size, pretraining and mode with F1, EM and emergence score.

Rows of the random baselines are always there, "not run" where they were not, because without them there is no
score. Test scores are reported; validation stands beside them under its own name.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from emergence.errors import DataError
from emergence.experiment.facts import HEADLINE
from emergence.experiment.store import NO_RESULTS
from emergence.findings.collect import OWN_KIND, Collection, Skipped, collect_results
from emergence.findings.comparable import MODES, ComparableSet, Grouping, group_results
from emergence.findings.scores import POINT, ReadoutScores, SetScores, cell_estimate, score_sets
from emergence.findings.two_by_two import CELL_OF_CONDITION, readout_of
from emergence.findings.verdict import verdict_of
from emergence.measures.bootstrap import N_BOOT, Estimate
from emergence.measures.clustering import ClusterKind
from emergence.measures.conditional import F1, SELECTION
from emergence.measures.emergence_score import FROZEN, FROZEN_CELLS, FULL, EmergenceScore
from emergence.measures.measured_coverage import units_of
from emergence.measures.readings import SCORE_NAMES, ScaleReading, SizeScore, describe_score, read_sizes
from emergence.plain import plain
from emergence.spec.experiment import pretrain_label
from emergence.wording import format_estimate, shown

TABLE_KIND = f"{OWN_KIND}results-table"
SCHEMA_VERSION = 1
#: Begins what keeps sizes from being one series, in table and report.
NOT_ONE_SERIES = "Not in one series over sizes"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        set_label: The comparable set's label; rows that share it may be compared.
        model: Size, and what is not the default. config_name, layout, finetune_samples: The same, apart.
        pretrain: Pretraining data. mode: As in ``comparable.MODES``.
        probe: The family of a frozen mode's probe: ``linear`` or another one.
        was_run: Whether there is such a run; if not, all that follows is None.
        is_damaged: Whether there is one that cannot be read.
        n_seeds: Training seeds averaged over; None where the file does not tell. runs: Names of the results.
        test_f1, test_em, validation_f1, validation_em: Means over questions and seeds, with intervals.
        score, score_scratch: The emergence score (floor ``random frozen``) and the from-scratch score (floor
            ``random``); in frozen rows alone.
        gap: Full minus frozen F1, in frozen rows alone.
        test_argument_selection: As ``test_f1``, of the questions with more than one argument to choose from.
        added_f1, added_argument_selection: What the states of a frozen row add to words and positions; None for files
            without it.
        score_split, score_basis: Whose F1 the score is of, and how its interval came about.
        trainable: Parameters trained. seconds: Wall-clock time of one run's own phases (mean over seeds).
    """

    set_label: str
    model: str
    config_name: str
    layout: str
    finetune_samples: int | None
    pretrain: str
    mode: str
    probe: str | None
    was_run: bool
    is_damaged: bool = False
    n_seeds: int | None = None
    runs: tuple[str, ...] = ()
    test_f1: Estimate | None = None
    test_em: Estimate | None = None
    validation_f1: Estimate | None = None
    validation_em: Estimate | None = None
    score: EmergenceScore | None = None
    score_scratch: EmergenceScore | None = None
    gap: Estimate | None = None
    test_argument_selection: Estimate | None = None
    added_f1: Estimate | None = None
    added_argument_selection: Estimate | None = None
    score_split: str | None = None
    score_basis: str | None = None
    trainable: int | None = None
    seconds: float | None = None

    @property
    def is_extra_probe(self) -> bool:
        """Whether the row shows a probe beside the headline's."""
        return self.probe not in (None, "linear")


@dataclass(frozen=True)
class ResultsTable:
    """The table with all that belongs under it.

    Attributes:
        rows: In the guide's order.
        sets: Scores by comparable set, for whoever needs more than the table.
        trends: Label (``wiki``) to the reading over several sizes.
        skipped: What is in no row, and why. mixed: Sets that look alike and were kept apart.
        confounds_with_size: What sizes of a series differ in beside size, a sentence each.
        sizes_apart: What keeps several sizes from being one series, a sentence each.
    """

    root: Path
    rows: tuple[Row, ...]
    sets: tuple[SetScores, ...]
    trends: dict[str, ScaleReading]
    skipped: tuple[Skipped, ...]
    mixed: tuple[str, ...]
    confounds_with_size: tuple[str, ...]
    sizes_apart: tuple[str, ...]

    @property
    def has_validation_only(self) -> bool:
        """Whether some rows come from the older format, which has no test scores."""
        return any(row.was_run and row.test_f1 is None for row in self.rows)

    def notes(self) -> list[str]:
        """Verdicts and readings, what was kept apart, what is missing and what was skipped; a sentence each."""
        asked = [s for s in self.sets if not s.comparable.is_of_a_law or FROZEN in s.comparable.cells]
        verdicts = [verdict_of(set_scores.comparable, set_scores) for set_scores in asked]
        lines = [
            f"{verdict.set_label}: verdict: {verdict.short}. {' '.join(verdict.sentences[: 2 if verdict.where else 1])}"
            for verdict in verdicts
        ]
        lines += [_reading_line(set_scores) for set_scores in self.sets if set_scores.headline.basis]
        for label, trend in self.trends.items():
            pattern = f", {trend.pattern}" if trend.pattern else ""
            lines.append(f"Over sizes, {label}: {trend.verdict}{pattern} ({'; '.join(trend.evidence[-2:])})")
        lines += [f"Not size alone: {sentence}" for sentence in self.confounds_with_size]
        lines += [f"{NOT_ONE_SERIES}: {sentence}" for sentence in self.sizes_apart]
        lines += [f"Kept apart: {sentence}" for sentence in self.mixed]
        lines += [f"{set_scores.comparable.label}: {note}" for set_scores in self.sets for note in set_scores.notes]
        lines += [f"Not in the table ({item.kind}): {item.name}: {item.reason}" for item in self.skipped]
        return lines

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "kind": TABLE_KIND,
            "schema_version": SCHEMA_VERSION,
            "rows": plain(self.rows),
            "sets": [_set_dict(set_scores) for set_scores in self.sets],
            "trends": plain(self.trends),
            "confounds_with_size": list(self.confounds_with_size),
            "sizes_apart": list(self.sizes_apart),
            "kept_apart": list(self.mixed),
            "skipped": plain(self.skipped),
        }


def build_table(
    root: Path, *, n_boot: int = N_BOOT, only: Container[str] | None = None, cluster: ClusterKind = "sentence"
) -> ResultsTable:
    """The table of everything under ``root``.

    Args:
        cluster: What the intervals resample.
        only: Run ids to which the table is restricted.

    Raises:
        DataError: No such folder, or no result in it (naming what is there instead).
    """
    collection = collect_results(root)
    if only is not None:
        kept = tuple(item for item in collection.found if item.result.run_id in only)
        skipped = tuple(item for item in collection.skipped if item.name in only and item.kind != "pretraining")
        collection = replace(collection, found=kept, skipped=skipped)
    if not collection.found:
        there = "; ".join(f"{item.name}: {item.reason}" for item in collection.skipped[:5])
        raise DataError(f"no finished results here: {there or NO_RESULTS}", root)
    grouping = group_results(collection)
    return table_of(collection, grouping, score_sets(grouping, n_boot=n_boot, cluster=cluster))


def table_of(collection: Collection, grouping: Grouping, scored: Sequence[SetScores]) -> ResultsTable:
    """The table of sets that are scored already."""
    damaged = _damaged_cells(collection)
    rows = [row for set_scores in scored for row in _rows(set_scores)]
    rows = [replace(row, is_damaged=not row.was_run and _cell_of(row) in damaged) for row in rows]
    return ResultsTable(
        root=collection.root,
        rows=tuple(rows),
        sets=tuple(scored),
        trends=_trends(grouping, scored),
        skipped=_all_skipped(collection.skipped, grouping),
        mixed=grouping.mixed,
        confounds_with_size=grouping.confounds_with_size(),
        sizes_apart=grouping.sizes_apart(),
    )


def _damaged_cells(collection: Collection) -> set[tuple[Any, ...]]:
    """The cells, as :func:`_cell_of`, of runs that are there but damaged, as far as their specs can be read."""
    cells = set()
    for item in collection.skipped:
        run = collection.run(item.name) if item.kind == "damaged" else None
        cell = CELL_OF_CONDITION.get(run.spec.condition) if run else None
        if run and cell and not (run.spec.at_snapshot or run.spec.subset or run.spec.adapter != "none"):
            pretrain = "none" if run.spec.random_baseline else pretrain_label(run.spec)
            spec = run.spec
            cells.add((spec.config.name, spec.layout, spec.finetune_samples, pretrain, MODES[cell]))
    return cells


def _cell_of(row: Row) -> tuple[Any, ...]:
    return row.config_name, row.layout, row.finetune_samples, row.pretrain, row.mode


def _all_skipped(collected: Sequence[Skipped], grouping: Grouping) -> tuple[Skipped, ...]:
    return tuple(sorted({*collected, *grouping.skipped}, key=lambda item: (item.kind, item.name)))


def _rows(set_scores: SetScores) -> list[Row]:
    """The four cells, the other probe families of the frozen ones after each."""
    rows = []
    for cell in (mode for mode in MODES if mode in set_scores.comparable.cells_to_run):
        rows.append(_row(set_scores, cell, set_scores.headline))
        if cell in FROZEN_CELLS:
            others = (scores for name, scores in set_scores.readouts.items() if name != HEADLINE)
            rows += [_row(set_scores, cell, scores) for scores in others if cell in scores.f1]
    return rows


def _row(set_scores: SetScores, cell: str, scores: ReadoutScores) -> Row:
    comparable, items = set_scores.comparable, set_scores.comparable.cells.get(cell, ())
    is_frozen = cell in FROZEN_CELLS
    shared: dict[str, Any] = {
        "set_label": comparable.label,
        "model": comparable.model,
        "config_name": comparable.base.size,
        "layout": comparable.base.layout,
        "finetune_samples": comparable.base.samples,
        "pretrain": comparable.pretrain if cell in (FULL, FROZEN) else "none",
        "mode": MODES[cell],
        "probe": ("linear" if scores.readout == HEADLINE else scores.readout) if is_frozen else None,
    }
    if not items:
        return Row(**shared, was_run=False)
    test = scores.split == "test"
    used = scores.grid.runs.get(cell) if scores.grid else None
    mean = partial(cell_estimate, items, readout=readout_of(cell, scores.readout))
    added = _added(set_scores, cell, shared["probe"]) if test else {}
    return Row(
        **shared,
        was_run=True,
        n_seeds=(len(used) if used else len(items)) if test else None,
        runs=tuple(item.name for item in items),
        test_f1=scores.f1.get(cell) if test else None,
        test_em=scores.em.get(cell) if test else None,
        validation_f1=mean("validation", "f1_tokens"),
        validation_em=mean("validation", "em"),
        score=scores.probe if cell == FROZEN else None,
        score_scratch=scores.scratch if cell == FROZEN else None,
        gap=scores.gap if cell == FROZEN else None,
        test_argument_selection=mean("test", SELECTION) if test else None,
        added_f1=added.get(F1),
        added_argument_selection=added.get(SELECTION),
        score_split=scores.split if cell == FROZEN and scores.basis else None,
        score_basis=scores.basis if cell == FROZEN else None,
        trainable=_trainable(comparable, cell, scores.readout),
        seconds=_seconds(comparable, cell),
    )


def _added(set_scores: SetScores, cell: str, family: str | None) -> dict[str, Estimate]:
    """Score -> what the states of a frozen cell add to words and positions, by a probe family."""
    found = {}
    for one in set_scores.gains:
        if family is not None and family in one.families:
            gain = one.families[family].gain if cell == FROZEN else one.families[family].twin_gain
            if gain is not None:
                found[one.score] = gain
    return found


def _trainable(comparable: ComparableSet, cell: str, readout: str) -> int | None:
    result = comparable.cells[cell][0].result
    if readout == HEADLINE:
        return result.n_parameters("trainable")
    fit = result.readout(readout)
    return fit.n_trainable if fit else None


def _seconds(comparable: ComparableSet, cell: str) -> float | None:
    """Mean over the seeds; None where a run does not tell."""
    times = [sum(item.result.seconds.values()) for item in comparable.cells[cell] if item.result.seconds]
    return sum(times) / len(times) if times and len(times) == len(comparable.cells[cell]) else None


def _trends(grouping: Grouping, scored: Sequence[SetScores]) -> dict[str, ScaleReading]:
    """Readings over two sizes or more that differ in size alone."""
    by_set = {id(s.comparable): s.headline for s in scored if s.headline.basis not in (None, POINT)}
    trends: dict[str, ScaleReading] = {}
    for label, members in grouping.over_sizes().items():
        sizes = [
            SizeScore(s.base.size, float(s.n_params), scores.probe, scores.reading)
            for s in members
            if (scores := by_set.get(id(s))) and scores.probe and scores.reading and s.n_params
        ]
        if len(sizes) > 1:
            trends[label] = read_sizes(sizes)
    return trends


def score_text(score: EmergenceScore | None, digits: int = 2) -> str:
    """``0.50 [0.38, 0.62]``; the reason in place of a number that means nothing. Empty for None."""
    if score is None:
        return ""
    if not score.is_meaningful:
        return f"not meaningful (full - floor {shown(score.headroom)})"
    return describe_score(score, digits)


def _reading_line(set_scores: SetScores) -> str:
    """``tiny, wiki: emergence score ..., gap ..., by the guide's scale: ...``."""
    scores = set_scores.headline
    parts = [f"{SCORE_NAMES[s.floor]} {describe_score(s)}" for s in (scores.probe, scores.scratch) if s]
    parts += [f"gap {format_estimate(scores.gap)}"] if scores.gap else []
    of_gains = (one.words for one in set_scores.gains if one.score == F1)  # resampled as the scores beside it are
    alone = next(of_gains, set_scores.comparable.model_free.words)
    parts += [f"words and positions F1 {shown(alone)}"] if alone else []
    parts += [f"{scores.split} F1, {scores.basis}"]
    if scores.grid:
        grid = scores.grid
        parts.append(f"{grid.n_questions:,} questions, {units_of(grid.n_sentences, grid.n_documents)}")
    if scores.reading:
        parts.append(f"by the guide's scale: {scores.reading.in_words()}")
    return f"{set_scores.comparable.label}: {'; '.join(parts)}"


def _set_dict(set_scores: SetScores) -> dict[str, Any]:
    comparable = set_scores.comparable
    return {
        "label": comparable.label,
        "shared": asdict(comparable.base) | (asdict(comparable.trunk) if comparable.trunk else {}),
        "runs": {cell: [item.name for item in items] for cell, items in comparable.cells.items()},
        "verdict": verdict_of(comparable, set_scores).to_dict(),
        "readouts": {
            name: {
                "basis": scores.basis,
                "split": scores.split,
                "reading": plain(scores.reading),
                "grid": plain(scores.grid),
            }
            for name, scores in set_scores.readouts.items()
        },
        "notes": list(set_scores.notes),
    }
