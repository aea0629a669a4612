"""What the 95% intervals were measured to hold, and the words for it where that is not 95%.

The figures are data of ``benchmarks/score_coverage.py --regimes``: the share of simulated experiments whose interval
held the planted truth, the lower of F1's and the score's, and the lowest over small and large effects of the seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from emergence.measures.clustering import ClusterKind
from emergence.wording import counted

#: (seeds, clusters) to the measured coverage of a nominal 95% interval.
MEASURED: Mapping[tuple[int, int], float] = {
    (1, 10): 0.948,
    (1, 30): 0.938,
    (1, 200): 0.944,
    (2, 10): 0.964,
    (2, 30): 0.934,
    (2, 200): 0.936,
    (3, 10): 0.960,
    (3, 30): 0.956,
    (3, 200): 0.954,
    (5, 10): 0.952,
    (5, 30): 0.940,
    (5, 200): 0.940,
}
#: Below this an output says what was measured.
PROMISED = 0.92
#: Why two seeds are always told.
_ADVICE = {2: "; two tell their spread poorly, and a third narrows the interval most"}
#: A standard error this many times as large by documents as by sentences deserves a sentence of its own.
DOCUMENTS_MATTER = 1.1


def measured_coverage(n_seeds: int, n_clusters: int) -> float:
    """The coverage of the nearest regime that is no easier: with no more clusters and no more seeds.

    One seed is a regime of its own. The coverage is nan for fewer clusters than were measured.
    """
    seeds = max((s for s, _ in MEASURED if s <= n_seeds and (s > 1) == (n_seeds > 1)), default=1)
    clusters = max((c for s, c in MEASURED if s == seeds and c <= n_clusters), default=0)
    return MEASURED.get((seeds, clusters), math.nan)


def units_of(n_sentences: int, n_documents: int | None) -> str:
    """``184 sentences, 16 documents``; older files do not tell the documents."""
    documents = "documents unknown" if n_documents is None else counted(n_documents, "document")
    return f"{counted(n_sentences, 'sentence')}, {documents}"


def interval_notes(
    n_seeds: Mapping[str, int],
    *,
    n_sentences: int,
    n_documents: int | None,
    cluster: ClusterKind,
    widening: Mapping[str, float],
    pooled: Mapping[str, int] | None = None,
) -> Iterator[str]:
    """What a reader of these intervals should know, a sentence each.

    Args:
        n_seeds: Cell -> its number of seeds.
        n_sentences, n_documents: Counts; documents None where unknown. cluster: Which of them was resampled.
        widening: Name of a number (``score``, ``F1``) to its standard error by documents over that by sentences.
        pooled: Cell to the degrees of freedom of its variance over seeds, where other sizes helped to tell it.
    """
    n_clusters = n_documents if cluster == "document" and n_documents else n_sentences
    for seeds in sorted(set(n_seeds.values())):
        cells = ", ".join(name.replace("_", " ") for name, number in n_seeds.items() if number == seeds)
        helped = min((pooled or {}).get(name, 0) for name, number in n_seeds.items() if number == seeds)
        coverage = measured_coverage(helped + 1 if helped else seeds, n_clusters)
        regime = f"{counted(seeds, 'seed')} ({cells}), {counted(n_clusters, cluster)}"
        if math.isnan(coverage):
            yield f"{regime}: what the interval holds was not measured for so few"
        elif (seeds == 2 and not helped) or coverage < PROMISED:
            yield f"{regime}: measured coverage {coverage:.2f} of a nominal 95% interval" + _ADVICE.get(seeds, "")
    if pooled:
        each = ", ".join(f"{name.replace('_', ' ')} {df}" for name, df in pooled.items())
        yield f"variance over seeds pooled within each cell over model sizes, degrees of freedom: {each}"
    if widening:
        each = " and ".join(f"{times:.2f} times ({name})" for name, times in widening.items())
        text = f"by documents ({n_documents:,}) the standard error is {each} that by sentences"
        if cluster == "document":
            yield f"documents are resampled; {text}"
        elif max(widening.values()) >= DOCUMENTS_MATTER:
            yield f"{text}: if documents differ, intervals here are that much too narrow (--cluster document)"
        else:
            yield text
