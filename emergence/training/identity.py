"""Which run a weights file or a checkpoint belongs to.

A seal says that a file is as it was written, not where. Whoever copies the trunk, a snapshot or a checkpoint of one
run into another would get numbers of neither, so each such file carries the identity of its run.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from emergence.spec.config import ModelConfig

logger = logging.getLogger(__name__)

#: Where a checkpoint, and the metadata of a weights file, keep it.
IDENTITY_KEY = "identity"

#: What must agree, in words, the plainest first.
_WORDS = {"size": "size", "seed": "seed", "tokenizer": "tokenizer", "experiment_id": "experiment"}


def size_of(model: ModelConfig) -> str:
    """The size of a trunk in words, as files and messages have it."""
    return f"{model.n_layers} layers x {model.hidden_size}"


@dataclass(frozen=True)
class Identity:
    """What tells the files of one run from those of another.

    Attributes:
        experiment_id: Of the run, as its ``spec.json`` has it.
        size: Layers and hidden size of the trunk.
        seed: Of the run.
        tokenizer: Fingerprint of the tokenizer; None where nothing says.
        pretrain_id: Of the run's own pretraining; None for a run that does not pretrain.
    """

    experiment_id: str
    size: str
    seed: int
    tokenizer: str | None = None
    pretrain_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as files store them."""
        return asdict(self)

    def difference(self, stored: object, *, pretraining: bool = False) -> str | None:
        """What ``stored`` says that this run is not, in words; None where they agree.

        Args:
            stored: The identity in a file. Older files hold a part of it, which alone is compared.
            pretraining: Whether equal pretrainings will do, whatever their experiments do afterwards.
        """
        if not isinstance(stored, Mapping):
            return "its identity is malformed"
        mine, words = self.to_dict(), dict(_WORDS)
        if pretraining and self.pretrain_id is not None and stored.get("pretrain_id") == self.pretrain_id:
            del words["experiment_id"]
        for key, word in words.items():
            theirs = stored.get(key)
            if theirs is not None and mine[key] is not None and theirs != mine[key]:
                return f"its {word} is {str(theirs)[:20]}, this run's {str(mine[key])[:20]}"
        return None


@functools.cache  # once a run, not once a file
def note_older(folder: Path) -> None:
    """Say that a run holds files of a version that kept no identity."""
    logger.info("%s holds files of an earlier version, which do not say whose they are: taken as its own", folder)
