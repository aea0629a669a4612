"""Exact match and F1 of answer strings, SQuAD style, against several golds.

Kept for comparison with published numbers; the headline is the token-index F1 of ``span_scores``.
The only departure from the SQuAD 1.1 script: two answers that are both empty after normalisation score
F1 = 1 (the SQuAD 2.0 rule; 1.1 gives them EM 1 and F1 0).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_DELETE_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalise_answer(text: str) -> str:
    """Lower case, no ASCII punctuation, no a, an, the, white space collapsed (Rajpurkar et al. 2016)."""
    without_punctuation = text.lower().translate(_DELETE_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", without_punctuation).split())


def string_em(prediction: str, golds: Sequence[str]) -> float:
    """1.0 if the normalised prediction equals any normalised gold, else 0.0.

    Raises:
        ValueError: no golds; such a question is to be dropped and counted, not scored.
    """
    _require_golds(golds)
    normalised = normalise_answer(prediction)
    return float(any(normalised == normalise_answer(gold) for gold in golds))


def string_f1(prediction: str, golds: Sequence[str]) -> float:
    """F1 of the multisets of normalised words, best over golds; both empty 1, one empty 0.

    Raises:
        ValueError: no golds.
    """
    _require_golds(golds)
    words = normalise_answer(prediction).split()
    return max(_bag_f1(words, normalise_answer(gold).split()) for gold in golds)


def _bag_f1(predicted: list[str], gold: list[str]) -> float:
    if not predicted or not gold:
        return float(predicted == gold)
    overlap = (Counter(predicted) & Counter(gold)).total()
    return 2.0 * overlap / (len(predicted) + len(gold))


def _require_golds(golds: Sequence[str]) -> None:
    if not golds:
        raise ValueError("a question without gold answers cannot be scored; drop and count it")
