"""What the search for finetuning's settings may cost: at most twice one finetuning (docs/methods.md#the-ceiling).

The search is successive halving (Jamieson & Talwalkar 2016): each rung trains fewer candidates for longer. Costs are
counted in question passes: one is one question read once. No torch, because the plan of a run counts them too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from emergence.spec.config import FinetuneConfig

#: Most question passes of the search, as a multiple of those of one finetuning.
MOST_SHARE = 2
#: The grid: factors of both learning rates, and scales of the embedding matrix (``fresh``: as newly drawn).
LR_FACTORS = (0.3, 1.0, 3.0)
PRETRAINED, FRESH = "pretrained", "fresh"
EMBEDDINGS = (PRETRAINED, FRESH)
#: By rung: number of candidates, and the share of one finetuning that each gets. Together they cost two finetunings.
LADDER = ((6, Fraction(1, 12)), (3, Fraction(1, 6)), (2, Fraction(1, 2)))
#: Fewest batches of a subset, where there are questions enough.
LEAST_BATCHES = 4


@dataclass(frozen=True)
class Rung:
    """One round of the search.

    Attributes:
        number: Its place, from 1 on. A rung that would drop no candidate is left out.
        candidates: Number of settings that it trains.
        questions: Size of the subset they train on.
        passes: Times that each candidate reads the subset.
    """

    number: int
    candidates: int
    questions: int
    passes: int

    def steps(self, batch_size: int) -> int:
        """Optimiser steps of one candidate."""
        return self.passes * math.ceil(self.questions / batch_size)

    @property
    def question_passes(self) -> int:
        """Questions that all candidates read, with repetitions."""
        return self.candidates * self.questions * self.passes


def grid_size(fresh_already: bool) -> int:
    """Number of settings in the grid. A random trunk's embedding has the fresh scale already, which halves it.

    So does an adapter's trunk, whose embedding is not trained.
    """
    return len(LR_FACTORS) * (1 if fresh_already else len(EMBEDDINGS))


def passes_per_epoch(n_questions: int, config: FinetuneConfig) -> int:
    """Times that an epoch goes over the questions, to make ``min_steps_per_epoch`` steps."""
    return math.ceil(config.min_steps_per_epoch / math.ceil(n_questions / config.batch_size))


def finetuning_passes(n_questions: int, config: FinetuneConfig) -> int:
    """Question passes of one finetuning of all ``config.epochs``."""
    return config.epochs * passes_per_epoch(n_questions, config) * n_questions


def plan_rungs(n_questions: int, config: FinetuneConfig, n_candidates: int) -> tuple[Rung, ...]:
    """The rungs of a search from ``n_candidates`` settings; empty where a finetuning is too short to be searched.

    A smaller share means fewer passes over fewer questions: a quarter is half the passes over half the questions. One
    pass over all questions would hide overfitting, and all passes over a few would show nothing else.
    """
    whole = finetuning_passes(n_questions, config)
    least = min(n_questions, config.batch_size)
    if whole * min(share for _, share in LADDER) < least:
        return ()
    rungs = []
    for number, (candidates, share) in enumerate(LADDER, start=1):
        if number < len(LADDER) and n_candidates <= LADDER[number][0]:
            continue
        budget = math.floor(whole * share)
        passes = max(1, round(math.sqrt(share) * whole / n_questions))
        room = max(budget // passes, min(LEAST_BATCHES * config.batch_size, budget))
        questions = n_questions if room >= n_questions else max(least, room - room % config.batch_size)
        rungs.append(Rung(number, candidates, questions, budget // questions))
    return tuple(rungs)


def search_passes(n_questions: int, config: FinetuneConfig, n_candidates: int) -> int:
    """Question passes of a whole search; 0 with ``finetune.search = "off"``."""
    if config.search == "off":
        return 0
    return sum(rung.question_passes for rung in plan_rungs(n_questions, config, n_candidates))
