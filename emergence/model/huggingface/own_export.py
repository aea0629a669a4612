"""What a directory of ``emergence export`` tells of the run that made it, so that it is probed as its run probes it.

The text's token counts choose the marks, and the embedding rows of tokens that pretraining never saw are drawn anew,
both as for the run's own trunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import rms_norm

from emergence.errors import WeightsError
from emergence.files import parse_json, read_regular, sha256_file, unseal
from emergence.model.embedding_rows import drawn_rows
from emergence.model.trunk import NORM_EPSILON
from emergence.spec.published import EXPORT_FILE, EXPORT_KIND

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MOST_BYTES = 10_000_000


@dataclass(frozen=True)
class OwnExport:
    """The record of an export.

    Attributes:
        step, tokens_seen: Of pretraining; None where the run does not tell.
        token_counts: (V,) how often the run's text holds each token; None where it was not counted.
        files: Name -> sha256 (hexadecimal) of everything beside it, as it was written.
    """

    step: int | None
    tokens_seen: int | None
    token_counts: npt.NDArray[np.int64] | None
    files: dict[str, str]

    def contradiction(self, folder: Path, step: int | None) -> str | None:
        """Why the files of ``folder`` are not what the record says, or not of ``step``; None where they are."""
        if self.step is not None and step is not None and self.step != step:
            return f"its record ({EXPORT_FILE}) is of step {self.step}"
        for path in sorted(folder.glob("*.safetensors")):
            if self.files.get(path.name) not in (None, sha256_file(path)):
                return f"its {path.name} is not the one that its record ({EXPORT_FILE}) was written with"
        return None


def read_own_export(folder: Path) -> OwnExport | None:
    """The record in a model's directory; None for anybody else's model.

    Raises:
        WeightsError: It is damaged.
    """
    path = folder / EXPORT_FILE
    if not path.is_file():
        return None
    raw = parse_json(read_regular(path, WeightsError, _MOST_BYTES).decode("utf-8", "replace"), str(path), WeightsError)
    if not isinstance(raw, dict) or raw.get("kind") != EXPORT_KIND:
        return None
    content = unseal(raw, str(path), WeightsError)
    try:
        counts = content.get("token_counts")
        array = None if counts is None else np.array([int(n) for n in str(counts).split()], dtype=np.int64)
        step, tokens = (None if (n := content.get(key)) is None else int(n) for key in ("step", "tokens_seen"))
    except (TypeError, ValueError, OverflowError):
        raise WeightsError(f"{path}: damaged: its step, tokens or token counts are no numbers") from None
    files = content.get("files")
    return OwnExport(step, tokens, array, dict(files) if isinstance(files, dict) else {})


@torch.no_grad()
def redraw_unseen_rows(model: PreTrainedModel, counts: npt.NDArray[np.int64], seed: int) -> int:
    """:func:`~emergence.model.embedding_rows.redraw_unseen` for an exported trunk.

    Its head is the trunk's embedding. Where the two are not one, the input embedding holds the same rows RMS-normed.

    Returns:
        How many rows were drawn.
    """
    head: Any = model.get_output_embeddings().weight
    inputs: Any = model.get_input_embeddings().weight
    unseen, drawn = drawn_rows(head, torch.from_numpy(counts), seed)
    rows = drawn if inputs is head else rms_norm(drawn, (drawn.shape[-1],), eps=NORM_EPSILON)
    inputs[unseen.to(inputs.device)] = rows.to(inputs)
    return int(unseen.sum())
