"""Few-shot training sets: nested ones, so that the points of a learning curve differ in size alone, and independent
draws, which a law of such points needs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from emergence.errors import UsageError


def few_shot_indices(n_questions: int, limit: int | None, seed: int, subset: int = 0) -> npt.NDArray[np.int64]:
    """Indices of the training questions to use, in their original order.

    They are the first ``limit`` of a seeded permutation of the *questions* (docs/methods.md#few-shot). With ``subset``
    0 there is one permutation, so the questions of a smaller limit are among those of every larger one with the same
    seed. Every other subset has a permutation of its own for each limit.

    Args:
        n_questions: How many training questions there are.
        limit: How many to use; None for all.
        seed: Seed of the permutation.
        subset: Number of the draw.

    Raises:
        UsageError: More questions were asked for than there are.
    """
    if limit is None:
        return np.arange(n_questions, dtype=np.int64)
    if not 1 <= limit <= n_questions:
        raise UsageError(
            f"--finetune-samples must be between 1 and the {n_questions} training questions there are, not {limit}"
        )
    own = [subset, limit] if subset else []
    order = np.random.default_rng([seed, 0xFE3, *own]).permutation(n_questions)
    return np.sort(order[:limit]).astype(np.int64)
