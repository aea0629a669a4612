"""What is asked of the frozen probe of snapshots, and the flags that ask it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from emergence.answering.probe_fitting import FAMILIES
from emergence.errors import UsageError

#: Training questions by default. They are enough for a curve, in a sixth of the time of all of QA-SRL 1.0.
DEFAULT_SAMPLES = 2_000


@dataclass(frozen=True, kw_only=True)
class SnapshotOptions:
    """What to probe, and how.

    Attributes:
        families: Families of probes, by default the run's own. layers: Levels of states, by default all.
        every: Every n-th snapshot is probed, and always the first and the last.
        samples: Number of training questions, the nested subset of the run's seed (as ``--finetune-samples`` of a
            run); 0 takes all. The default is 2,000, or all if there are fewer.
        loss_tokens: Tokens of held-out text that are scored at most, spread evenly and the same for all; 0 takes all.
        random_trunks: How many untrained trunks are probed as the floor.
        qa_data, pretrain_text: Where the run's questions and text lie now, if they were moved.
        cache_dir: Where derived data is kept.
        device: ``cpu``, ``cuda`` or ``cuda:N``. The default is the GPU where there is one.
    """

    families: tuple[str, ...] | None = None
    layers: tuple[int, ...] | None = None
    every: int = 1
    samples: int | None = None
    loss_tokens: int = 65_536
    random_trunks: int = 1
    qa_data: str | None = None
    pretrain_text: str | None = None
    cache_dir: Path | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        if unknown := set(self.families or ()) - set(FAMILIES):
            raise UsageError(f"--families {sorted(unknown)[0]}: choose from {', '.join(FAMILIES)}")
        if self.families == () or self.layers == ():
            raise UsageError("--families and --layers need at least one entry: drop the flag for the default")
        for flag, value, least in (
            ("--every", self.every, 1),
            ("--finetune-samples", self.samples or 0, 0),
            ("--loss-tokens", self.loss_tokens, 0),
            ("--random-trunks", self.random_trunks, 0),
        ):
            if value < least:
                raise UsageError(f"{flag} must be {least} or more, not {value}")
