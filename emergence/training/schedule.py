"""When pretraining does what: number of steps, learning rate, context window, evaluations, snapshots.

The configuration and the amount of text decide all of it, so a resumed run needs no memory of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from emergence.spec.config import PretrainConfig


@dataclass(frozen=True)
class PretrainPlan:
    """What happens at which step. Steps count finished updates, so step 0 is the untrained trunk.

    Attributes:
        batch_size: Sequences per update over all devices.
        total_steps: Updates in all.
        epoch_steps: Steps at which epoch 1, 2, ... ends. The last is ``total_steps``.
        snapshot_steps: Steps whose weights are kept, log-spaced. Step 0 and the last one are among them.
        evaluation_steps: Steps at which the validation loss is measured. All snapshot and epoch steps are among them.
        windowed_updates: How many updates, the first ones, have the initial context window.
    """

    batch_size: int
    total_steps: int
    epoch_steps: tuple[int, ...]
    snapshot_steps: frozenset[int]
    evaluation_steps: frozenset[int]
    windowed_updates: int = 0


def plan_pretraining(config: PretrainConfig, n_sequences: int) -> PretrainPlan:
    """The plan for a text of ``n_sequences`` packed sequences.

    The run sees ``epochs * samples_per_epoch`` sequences, or ``max_passes`` times the text if that is less. Sequences
    that do not fill a last batch are left out.
    """
    wanted = config.epochs * config.samples_per_epoch
    samples = max(1, min(wanted, math.floor(config.max_passes * n_sequences)))
    batch_size = min(config.batch_size, samples)
    total = samples // batch_size
    epoch = min(config.samples_per_epoch, samples)

    def step_at(share_of_epoch: float) -> int:
        return min(total, max(1, round(share_of_epoch * epoch / batch_size)))

    n_epochs = math.ceil(samples / epoch)
    # Epochs so short that they end in the same update are one.
    epoch_steps = tuple(sorted({step_at(n) for n in range(1, n_epochs)} | {total}))
    marks = range(1, n_epochs * config.evaluations_per_epoch)
    evaluations = {step_at(mark / config.evaluations_per_epoch) for mark in marks}
    snapshots = log_spaced_steps(total, config.step_snapshots)
    return PretrainPlan(
        batch_size,
        total,
        epoch_steps,
        snapshots,
        frozenset({0, total, *evaluations, *snapshots, *epoch_steps}),
        windowed_updates(config, total),
    )


def log_spaced_steps(total: int, count: int) -> frozenset[int]:
    """Step 0 and at most ``count`` steps, evenly spaced in log(step), from 1 to ``total``. Empty if ``count`` is 0."""
    if count == 0:
        return frozenset()
    spaced = (round(total ** (k / max(count - 1, 1))) for k in range(count))
    return frozenset({0, total, *spaced})


def context_window(step: int, config: PretrainConfig, total_steps: int) -> int:
    """Tokens of context for the update after ``step`` finished ones, 0 for whole sequences.

    This is context window scheduling (Zhu et al. 2025, SkyLadder, arXiv 2503.15450). A model learns first what the
    next token owes to near ones, and attention takes less time. Their windows grow in many steps, these once.
    """
    return config.initial_context if step < windowed_updates(config, total_steps) else 0


def windowed_updates(config: PretrainConfig, total_steps: int) -> int:
    """How many updates, the first ones, have windows."""
    return round(config.initial_context_fraction * total_steps) if config.initial_context else 0


def learning_rate_factor(step: int, config: PretrainConfig, total_steps: int) -> float:
    """Share of the peak learning rate for the update after ``step`` finished ones, in (0, 1].

    A linear warm-up comes first. With ``wsd`` the rate is then constant, and at last falls to zero in a line (Hu et al.
    2024). With ``cosine`` it falls to zero along half a cosine (Loshchilov & Hutter 2017).
    """
    warmup = round(config.warmup_fraction * total_steps)
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))
    decay = round(config.decay_fraction * total_steps)
    return min(1.0, (total_steps - step) / max(1, decay))
