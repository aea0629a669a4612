"""What the states of finished runs add to words and positions, from their per-question scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emergence.experiment.facts import HEADLINE, RULE, own_scorer, words_name
from emergence.findings.two_by_two import RunScores, in_order, runs_by_cell
from emergence.measures.bootstrap import N_BOOT
from emergence.measures.clustering import ClusterKind, document_widening
from emergence.measures.conditional import (
    BILINEAR,
    F1,
    FAMILIES,
    LINEAR,
    MLP,
    SCORES,
    SELECTION,
    WITH_WORDS,
    ScoreGains,
    TrunkScores,
    conditional_gains,
)
from emergence.measures.emergence_score import FROZEN, FROZEN_CELLS
from emergence.measures.resampling import FloatArray

#: What gains are called beside their scores.
_GAIN_WORDS = {F1: "gain in F1", SELECTION: "gain in argument selection"}


def gains_of_runs(
    runs: Sequence[RunScores], *, n_boot: int = N_BOOT, level: float = 0.95, cluster: ClusterKind = "sentence"
) -> tuple[ScoreGains, ...]:
    """Gains by F1 and by argument selection; empty where no frozen run measured them (older files).

    A family counts where all frozen runs of one trunk have it.

    Args:
        runs: Runs of one comparable set; those with all weights trained are passed over.
        n_boot: Bootstrap resamples. level: Coverage.
        cluster: What is resampled; sentences where older files do not tell the document.
    """
    cells, _ = runs_by_cell([run for run in runs if run.cell in FROZEN_CELLS])
    if FROZEN not in cells:
        return ()
    first = cells[FROZEN][0]
    clusters = (first.documents or first.sentences) if cluster == "document" else first.sentences
    measured: list[ScoreGains] = []
    for score in SCORES:
        pretrained, twin = (_trunk_scores(cells.get(cell, []), first, score) for cell in FROZEN_CELLS)
        if pretrained is not None:
            gains = conditional_gains(score, pretrained, twin, clusters, n_boot=n_boot, level=level)
            measured += [gains] if gains else []
    return tuple(measured)


def document_widening_of_gains(runs: Sequence[RunScores]) -> dict[str, float]:
    """Standard error by documents over that by sentences of what the widest family adds, by the words for its score."""
    cells, _ = runs_by_cell([run for run in runs if run.cell in FROZEN_CELLS])
    first = cells[FROZEN][0] if FROZEN in cells else None
    if first is None or first.documents is None:
        return {}
    found = {}
    for score, words in _GAIN_WORDS.items():
        trunk = _trunk_scores(cells[FROZEN], first, score)
        family = next((name for name in (BILINEAR, MLP, LINEAR) if trunk and name in trunk.families), None)
        if trunk and family:
            gain = (trunk.with_words[family] - trunk.words).mean(axis=0)  # (N,)
            kept = np.flatnonzero(np.isfinite(gain))
            sentences, documents = ([of[i] for i in kept] for of in (first.sentences, first.documents))
            found[words] = document_widening(gain[kept], sentences, documents)
    return {words: times for words, times in found.items() if np.isfinite(times)}


def _trunk_scores(members: Sequence[RunScores], first: RunScores, score: str) -> TrunkScores | None:
    """The scores of one cell; None where a run lacks R_1."""

    def rows(readout: str) -> FloatArray | None:
        if not all(score in run.scores.get(readout, {}) for run in members):
            return None
        return np.stack([in_order(run, first, readout, score) for run in members])

    scorer = own_scorer(first.run.spec.layout)
    words = rows(words_name(scorer)) if members else None
    if words is None:
        return None
    alone = {name: rows(HEADLINE if name == LINEAR else name) for name in FAMILIES}
    with_words = {name: rows(WITH_WORDS[scorer].format(family=name)) for name in FAMILIES}
    return TrunkScores(
        words=words,
        rule=rows(RULE),
        states={name: values for name, values in alone.items() if values is not None},
        with_words={name: values for name, values in with_words.items() if values is not None},
        seeds=tuple(run.seed_label for run in members),
    )
