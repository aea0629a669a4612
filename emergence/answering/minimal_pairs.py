"""Scores of minimal pairs from the span logits of any read-out."""

from __future__ import annotations

import numpy as np

from emergence.answering.features import SpanLogits
from emergence.data.minimal_sets import construction_of, crossed_span, pair_of
from emergence.data.qa_encoding import EncodedQA
from emergence.data.roles import asked_role
from emergence.measures.minimal_sets import MinimalPairScores, score_pairs


def score_minimal_pairs(
    logits: SpanLogits, encoded: EncodedQA, max_answer_words: int | None = None
) -> MinimalPairScores:
    """Scores of the pairs of ``data.minimal_sets.minimal_pairs``, by construction and role.

    Pairs of natural sentences are resampled by the sentence that they come from (``document_id``).

    Args:
        logits: Logits of the encoded questions.
        encoded: Members in any order. A pair that lost a member in encoding is left out and counted.
        max_answer_words: Longest span decoded for the exact matches; None for the longest sentence.
    """
    rows: dict[str, dict[str, int]] = {}
    for row, example in enumerate(encoded.examples):
        rows.setdefault(pair_of(example), {})[example.id[-1]] = row
    whole = [(members["a"], members["b"]) for members in rows.values() if len(members) == 2]
    order = np.array(whole, dtype=np.int64).reshape(-1)
    examples = [encoded.examples[row] for row in order]
    partners = [encoded.examples[row] for row in np.array(whole, dtype=np.int64).reshape(-1, 2)[:, ::-1].reshape(-1)]
    pairs_of_spans = zip(examples, partners, strict=True)
    crossed = np.array([crossed_span(e, partner) for e, partner in pairs_of_spans], dtype=np.int64).reshape(-1, 2)
    golds = encoded.first_golds[order]
    first = examples[::2]
    return score_pairs(
        logits.start[order],
        logits.end[order],
        logits.lengths[order],
        (golds[:, 0], golds[:, 1]),
        (crossed[:, 0], crossed[:, 1] - 1),
        clusters=[example.document_id for example in first],
        kinds=[f"{construction_of(example)}/{asked_role(example)}" for example in first],
        max_answer_words=max_answer_words or max(logits.start.shape[1], 1),
        n_incomplete=len(rows) - len(whole),
    )
