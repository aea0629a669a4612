"""The emergence score of one comparable set, by the best evidence its files hold.

Where every run has its predictions, a paired bootstrap resamples the shared test questions. Where there are only stats
files, the score comes from means and standard errors, with the cells taken as independent. The documented older format
gives a point without an interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from emergence.errors import DataError
from emergence.experiment.facts import HEADLINE
from emergence.findings.collect import Found
from emergence.findings.comparable import MODES, ComparableSet, Grouping, missing_cells, peers_of
from emergence.findings.two_by_two import Grid, RunScores, build_grid, readout_of, table_of_runs
from emergence.findings.word_gains import document_widening_of_gains, gains_of_runs
from emergence.measures.bootstrap import N_BOOT, Estimate, bootstrap_means
from emergence.measures.clustering import ClusterKind
from emergence.measures.conditional import ScoreGains
from emergence.measures.emergence_score import FROZEN, FROZEN_CELLS, FULL, RANDOM_FROZEN, RANDOM_FULL, EmergenceScore
from emergence.measures.measured_coverage import interval_notes
from emergence.measures.readings import Reading, read_score
from emergence.measures.summaries import difference, mean_over_seeds, score_from_summaries

#: How a score came about.
PAIRED, SUMMARY, POINT = "paired bootstrap", "independent summaries", "point only"
NO_INTERVAL = "no interval: per-question scores are not in this file"


@dataclass(frozen=True)
class ReadoutScores:
    """One read-out of the frozen cells against full finetuning.

    Attributes:
        readout: ``headline`` (the linear probe) or a probe family.
        split: Whose scores these are: ``test``, or ``validation`` for the older format.
        f1, em: Cell to its mean over seeds.
        probe, scratch: The score against the random trunk probed frozen (primary) and trained whole (the guide's).
        gap: Full minus frozen. reading: The guide's reading of ``probe``; None without a score or without intervals.
        basis: ``PAIRED``, ``SUMMARY`` or ``POINT``; None where full or frozen is missing.
        grid: All of the 2x2, where the basis is paired.
    """

    readout: str
    split: str
    f1: Mapping[str, Estimate]
    em: Mapping[str, Estimate]
    probe: EmergenceScore | None = None
    scratch: EmergenceScore | None = None
    gap: Estimate | None = None
    reading: Reading | None = None
    basis: str | None = None
    grid: Grid | None = None


@dataclass(frozen=True)
class SetScores:
    """The scores of one comparable set.

    Attributes:
        readouts: ``headline`` first, then every other probe family that a frozen cell has.
        notes: What a reader of these numbers should know.
        gains: What the frozen states add to words and positions, by F1 and argument selection; empty for older files.
        cluster: What the intervals were asked to resample.
    """

    comparable: ComparableSet
    readouts: Mapping[str, ReadoutScores]
    notes: tuple[str, ...]
    gains: tuple[ScoreGains, ...] = ()
    cluster: ClusterKind = "sentence"

    @property
    def headline(self) -> ReadoutScores:
        return self.readouts[HEADLINE]

    @property
    def resampled(self) -> set[str]:
        """What the intervals of the cells resample: what was asked for, wherever the files allow it."""
        items = self.comparable.results()
        if self.headline.grid:
            return {self.headline.grid.cluster}
        if not _all_have_predictions(self.comparable):
            return {item.result.scores("test").cluster for item in items}
        return {self.cluster if item.scores and item.scores.documents else "sentence" for item in items}

    @property
    def units(self) -> tuple[int, int | None]:
        """How many sentences and documents the scored questions are from; documents None where files do not tell."""
        grid = self.headline.grid
        if grid:
            return grid.n_sentences, grid.n_documents
        first = self.comparable.results()[0]
        if first.scores:
            return first.scores.units
        stored = first.result.scores("test")
        return stored.n_clusters or next(iter(self.headline.f1.values())).n_clusters, stored.n_documents


def score_sets(grouping: Grouping, *, n_boot: int = N_BOOT, cluster: ClusterKind = "sentence") -> list[SetScores]:
    """Scores of all sets, in their order; sets that differ in size alone help each other to the variance over seeds."""
    return [score_set(s, n_boot=n_boot, cluster=cluster, peers=peers_of(s, grouping)) for s in grouping.sets]


def score_set(
    comparable: ComparableSet,
    *,
    n_boot: int = N_BOOT,
    cluster: ClusterKind = "sentence",
    peers: Sequence[Mapping[str, tuple[Found, ...]]] = (),
) -> SetScores:
    """Scores of every read-out, with notes on what could not be computed.

    Args:
        cluster: What is resampled, where predictions tell it.
        peers: Cells of other sizes to pool the variance over seeds with, see :func:`~.comparable.peers_of`.
    """
    notes = [f"{MODES[cell]} was not run: {how}" for cell, how in missing_cells(comparable).items()]
    results = comparable.results()
    notes += [f"{item.name}: {item.remark}: its predictions are not used" for item in results if item.remark]
    if comparable.is_documented_format:
        notes.append(f"{NO_INTERVAL}; F1 and EM are of the validation questions, there are none of the test questions")
    elif not _all_have_predictions(comparable):
        names = ", ".join(item.name for item in results if item.scores is None)
        notes.append(
            f"no predictions to use beside {names}: cells are taken as independent, "
            "so intervals are wider than paired ones"
            + ("; they resample what their runs did, not documents" if cluster == "document" else "")
        )
    readouts: dict[str, ReadoutScores] = {}
    for name in (HEADLINE, *_families(comparable)):
        scores, more = _score_readout(comparable, name, n_boot, cluster, peers)
        readouts[name] = scores
        notes += [note if name == HEADLINE or note in notes else f"{name} probe: {note}" for note in more]
    probed = [item.scores for cell in FROZEN_CELLS for item in comparable.cells.get(cell, ())]
    runs = [scores for scores in probed if scores is not None]
    gains = gains_of_runs(runs, n_boot=n_boot, cluster=cluster) if len(runs) == len(probed) else ()
    if gains and (widening := document_widening_of_gains(runs)):
        n_sentences, n_documents = runs[0].units
        units: dict[str, Any] = {"n_sentences": n_sentences, "n_documents": n_documents, "cluster": cluster}
        notes += interval_notes({}, widening=widening, **units)
    return SetScores(comparable, readouts, tuple(dict.fromkeys(notes)), gains, cluster)


def _families(comparable: ComparableSet) -> list[str]:
    """Probe families beside the linear one: read-outs named as their family, at the layer validation chose."""
    names: dict[str, None] = {}
    for cell in FROZEN_CELLS:
        for item in comparable.cells.get(cell, ()):
            names |= {name: None for name, fit in item.result.readouts.items() if fit.family == name}
    return list(names)


def _all_have_predictions(comparable: ComparableSet) -> bool:
    return all(item.scores is not None for item in comparable.results())


def cell_estimate(
    items: tuple[Found, ...], split: str, score: str, readout: str, peers: Sequence[tuple[Found, ...]] = ()
) -> Estimate | None:
    """Mean over the seeds of one cell; None unless every seed has the score. ``peers``: that cell of other sizes."""
    groups = [[item.result.estimate(split, score, readout) for item in group] for group in (items, *peers)]
    there = [[estimate for estimate in group if estimate is not None] for group in groups]
    if not there[0] or len(there[0]) < len(groups[0]):
        return None
    return mean_over_seeds(there[0], [peer for peer in there[1:] if len(peer) > 1])


def cell_estimates(
    comparable: ComparableSet,
    split: str,
    score: str,
    readout: str,
    peers: Sequence[Mapping[str, tuple[Found, ...]]] = (),
) -> dict[str, Estimate]:
    """:func:`cell_estimate` of every cell; cells with all weights trained have the headline alone."""
    out = {}
    for cell, items in comparable.cells.items():
        estimate = cell_estimate(
            items, split, score, readout_of(cell, readout), [peer[cell] for peer in peers if cell in peer]
        )
        if estimate is not None:
            out[cell] = estimate
    return out


def _score_readout(
    comparable: ComparableSet,
    readout: str,
    n_boot: int,
    cluster: ClusterKind,
    peers: Sequence[Mapping[str, tuple[Found, ...]]],
) -> tuple[ReadoutScores, list[str]]:
    split = "validation" if comparable.is_documented_format else "test"
    f1, em = (cell_estimates(comparable, split, score, readout, peers) for score in ("f1_tokens", "em"))
    clusters = {item.result.scores("test").cluster for item in comparable.results()}
    if _all_have_predictions(comparable) and clusters != {cluster}:
        # As the runs did themselves, but by what is asked for here, so that no row has intervals of two kinds.
        f1, em = (
            {**stored, **_from_predictions(comparable, stored, score, readout, n_boot, cluster)}
            for stored, score in ((f1, "f1_tokens"), (em, "em"))
        )
    if FULL not in f1 or FROZEN not in f1:
        return ReadoutScores(readout, split, f1, em), []
    if _all_have_predictions(comparable):
        return _paired(comparable, readout, f1, em, n_boot, cluster, peers)
    basis = POINT if comparable.is_documented_format else SUMMARY
    probe, scratch = (
        score_from_summaries(f1[FROZEN], f1[FULL], f1[floor], floor=floor) if floor in f1 else None
        for floor in (RANDOM_FROZEN, RANDOM_FULL)
    )
    gap = difference(f1[FULL], f1[FROZEN])
    reading = read_score(probe, f1[FULL], no_model_floor=comparable.model_free.bar) if probe else None
    reading = None if basis == POINT else reading
    notes = [] if basis == POINT else _summary_notes(comparable, f1)
    return ReadoutScores(readout, split, f1, em, probe, scratch, gap, reading, basis), notes


def _summary_notes(comparable: ComparableSet, f1: Mapping[str, Estimate]) -> list[str]:
    """How far intervals from stats files alone can be trusted."""
    stored = comparable.cells[FULL][0].result.scores("test")
    return list(
        interval_notes(
            {cell: estimate.n_seeds for cell, estimate in f1.items()},
            n_sentences=stored.n_clusters or f1[FULL].n_clusters,
            n_documents=stored.n_documents,
            cluster=stored.cluster,
            widening=stored.widening,
        )
    )


def _paired(
    comparable: ComparableSet,
    readout: str,
    f1: dict[str, Estimate],
    em: dict[str, Estimate],
    n_boot: int,
    cluster: ClusterKind,
    peers: Sequence[Mapping[str, tuple[Found, ...]]],
) -> tuple[ReadoutScores, list[str]]:
    """From per-question scores; a cell whose runs lack the read-out stays out of the grid."""
    scores = [item.scores for cell in f1 for item in comparable.cells[cell] if item.scores is not None]
    others = [_scores_with(readout, peer) for peer in peers]
    options: dict[str, Any] = {"readout": readout, "n_boot": n_boot, "level": f1[FULL].level, "cluster": cluster}
    try:
        grid = build_grid(scores, peers=[other for other in others if other], **options)
    except (DataError, ValueError) as error:
        return ReadoutScores(readout, "test", f1, em), [f"{readout}: no score: {error}"]
    analysis = grid.analysis
    scored = ReadoutScores(
        readout,
        "test",
        {**f1, **analysis.cells},
        em,
        analysis.probe,
        analysis.scratch,
        analysis.gap,
        grid.reading,
        PAIRED,
        grid,
    )
    unknown = cluster == "document" and grid.cluster != cluster
    missing = ["predictions do not tell the documents: sentences are resampled"] if unknown else []
    return scored, [*grid.left_out, *grid.notes, *missing]


def _from_predictions(
    comparable: ComparableSet,
    stored: Mapping[str, Estimate],
    score: str,
    readout: str,
    n_boot: int,
    cluster: ClusterKind,
) -> dict[str, Estimate]:
    """Means of the cells in ``stored``, with intervals that resample ``cluster``; sentences where no run tells it."""
    out = {}
    for cell, estimate in stored.items():
        runs = [item.scores for item in comparable.cells[cell] if item.scores is not None]
        kind: ClusterKind = cluster if all(run.documents for run in runs) else "sentence"
        table, _ = table_of_runs({cell: runs}, readout, score, kind)
        out[cell] = bootstrap_means(table, n_boot=n_boot, level=estimate.level)[cell]
    return out


def _scores_with(readout: str, peer: Mapping[str, tuple[Found, ...]]) -> list[RunScores]:
    """Per-question scores of the cells that have them for all their runs, and the read-out in frozen ones."""
    usable: list[RunScores] = []
    for cell, items in peer.items():
        scores = [item.scores for item in items if item.scores is not None]
        if len(scores) == len(items) and all(readout_of(cell, readout) in one.scores for one in scores):
            usable += scores
    return usable
