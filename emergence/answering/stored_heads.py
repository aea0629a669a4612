"""The heads of a weights file: what answers questions, stored beside the trunk that it reads.

The span head's tensors are named ``head.NAME``, those of further probes ``probe.FAMILY.NAME``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from emergence.answering.probe_fitting import ProbeFit

HEAD, PROBE = "head.", "probe."


def trunk_weights(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The trunk's part of a weights file."""
    return {name: tensor for name, tensor in state_dict.items() if not name.startswith((HEAD, PROBE))}


def head_weights(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The span head's part; empty in the file of a trunk alone."""
    return {name.removeprefix(HEAD): tensor for name, tensor in state_dict.items() if name.startswith(HEAD)}


def probe_tensors(fits: Iterable[ProbeFit]) -> dict[str, Tensor]:
    """The tensors of probes under the names they are stored by, one probe a family."""
    return {f"{PROBE}{fit.family}.{name}": tensor for fit in fits for name, tensor in fit.weights.items()}


def probe_weights(state_dict: Mapping[str, Tensor], family: str) -> dict[str, Tensor]:
    """One family's part; empty in files of versions that stored the linear probe alone."""
    prefix = f"{PROBE}{family}."
    return {name.removeprefix(prefix): tensor for name, tensor in state_dict.items() if name.startswith(prefix)}
