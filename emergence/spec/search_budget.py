"""What the search for finetuning's settings may cost: at most twice one finetuning (docs/methods.md#the-ceiling).

Successive halving (Jamieson & Talwalkar 2016) in question passes, the unit of finetuning's cost: few candidates are
left when trainings become long. Without torch, so that planning a run can count it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from emergence.spec.config import FinetuneConfig

#: The search's most question passes, over those of one finetuning.
MOST_SHARE = 2
#: The grid: factors of both learning rates, and scales of the embedding matrix (``fresh``: as newly drawn).
LR_FACTORS = (0.3, 1.0, 3.0)
PRETRAINED, FRESH = "pretrained", "fresh"
EMBEDDINGS = (PRETRAINED, FRESH)
#: Candidates and the share of one finetuning that each gets, by rung; the shares times the candidates are 2.
LADDER = ((6, Fraction(1, 12)), (3, Fraction(1, 6)), (2, Fraction(1, 2)))
#: A subset has at least so many batches, where there are as many questions.
LEAST_BATCHES = 4


@dataclass(frozen=True)
class Rung:
    """One round of the search.

    Attributes:
        number: From 1; a rung that drops nobody is left out.
        candidates: Settings that it trains.
        questions: Size of the subset they train on.
        passes: Times that each sees the subset.
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
        """Questions that all candidates read, repeats counted."""
        return self.candidates * self.questions * self.passes


def grid_size(fresh_already: bool) -> int:
    """Settings in the grid; with an embedding that has the fresh scale already, as a random trunk's, half of them."""
    return len(LR_FACTORS) * (1 if fresh_already else len(EMBEDDINGS))


def passes_per_epoch(n_questions: int, config: FinetuneConfig) -> int:
    """Times that an epoch goes over the questions, to make ``min_steps_per_epoch`` steps."""
    return math.ceil(config.min_steps_per_epoch / math.ceil(n_questions / config.batch_size))


def finetuning_passes(n_questions: int, config: FinetuneConfig) -> int:
    """Question passes of one finetuning of all ``config.epochs``."""
    return config.epochs * passes_per_epoch(n_questions, config) * n_questions


def plan_rungs(n_questions: int, config: FinetuneConfig, n_candidates: int) -> tuple[Rung, ...]:
    """The rungs of a search from ``n_candidates`` settings; empty where a finetuning is too short to be searched.

    Candidates train on a subset with passes in proportion to its size's square root, between two wrong
    extremes: one pass over everything hides overfitting, all passes over a sliver shows nothing else.
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
