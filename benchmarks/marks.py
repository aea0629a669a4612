"""What is asked of a kind of machine, where that depends on how fast it multiplies matrices in bf16.

The first marks were set on a machine with bf16 tiles, whose products were taken to be 4.5 times as fast as in float32.
Against a peer in float32 a machine is asked as much of a mark as its own bf16 gains of that, and never less than 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

from emergence.training.precision import cpu_bf16_units

Kind = Literal["float32 only", "bf16 vector units", "bf16 tiles", "GPU"]

#: How many times as fast as float32 matrix products are taken to be in bf16.
BF16_GAIN: Mapping[Kind, float] = {"float32 only": 1.0, "bf16 vector units": 2.3, "bf16 tiles": 4.5, "GPU": 8.0}


def kind_of(device: torch.device) -> Kind:
    """The kind of machine that ``device`` is here, of what oneDNN is held to."""
    if device.type == "cuda":
        return "GPU"
    units: dict[str | None, Kind] = {"tiles": "bf16 tiles", "vectors": "bf16 vector units", None: "float32 only"}
    return units[cpu_bf16_units()]


def kind_of_result(result: Mapping[str, Any]) -> str:
    """The kind of machine that a stored result is of. Older ones tell only whether there is bf16; none had tiles."""
    facts = result["machine"]
    if "kind" in facts:
        return str(facts["kind"])
    return "GPU" if "gpu" in facts else "bf16 vector units" if facts.get("bf16_matrix_units") else "float32 only"


def against_float32(mark: float, device: torch.device) -> float:
    """The part of a mark of bf16 tiles that is asked here against a peer in float32, in whole numbers."""
    return max(1.0, float(round(mark * BF16_GAIN[kind_of(device)] / BF16_GAIN["bf16 tiles"])))


def against_tuned(mark: float, device: torch.device) -> float:
    """What is asked here against the best-tuned peer: the mark of bf16 tiles there, elsewhere to be no slower.

    It does the same products in the same format, which leave less beside them to gain.
    """
    return mark if kind_of(device) == "bf16 tiles" else 1.0


def of_finetuning(device: torch.device) -> float:
    """What is asked here of finetuning: 50 where products are twice as fast in bf16 or more, else 50 / 2.3."""
    return 50.0 if BF16_GAIN[kind_of(device)] >= 2 else 22.0
