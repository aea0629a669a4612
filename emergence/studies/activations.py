"""States of the probe sentences at every level of a trunk, extracted once per set of weights.

One forward pass gives four sets of rows. A sentence's row is the mean over its tokens, a predicate's row the state of
its last token. Both are also kept as residuals, from which the mean state of every token type is subtracted. That takes
away what any network shares because it reads the same words (docs/methods.md#temporal-cka). Rows are linear in the
token states, so the residuals need no second pass.

The rows of one trunk are one ``.npy`` file, read through a memory map a level at a time. Its name is a digest of
weights and inputs. So an interrupted analysis goes on with the next trunk, and equal weights are extracted once.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from emergence.answering.features import TOKENS_PER_BATCH
from emergence.answering.stored_heads import trunk_weights
from emergence.data.qa_encoding import batches_for_scoring
from emergence.errors import RunDirectoryError
from emergence.files import TEMPORARY_SUFFIX, write_error
from emergence.model import Encoder
from emergence.studies.probe_sentences import EncodedSentences

logger = logging.getLogger(__name__)

#: Change it when the meaning of the stored rows changes.
STATES_VERSION = 1
#: Sentence or predicate rows are compared, as they are or without what the token types explain.
ROWS = ("sentence", "predicate")
PASSES = ("raw", "residual")
#: Squared residuals below this share of the squared states are rounding: the level depends on the token alone.
_NOTHING_LEFT = 1e-9


@dataclass(frozen=True)
class TrunkSource:
    """A trunk to be extracted.

    Attributes:
        key: Identity of its weights. Equal keys mean equal states.
        n_levels: L + 1. hidden_size: D.
        build: A function that makes the trunk on the CPU.
    """

    key: str
    n_levels: int
    hidden_size: int
    build: Callable[[], Encoder]


@dataclass(frozen=True)
class States:
    """The extracted rows of one trunk.

    Attributes:
        path: A ``.npy`` file of shape (L + 1, 2 (N + P), D) in float32.
        n_levels, n_sentences, n_predicates: L + 1, N and P.
    """

    path: Path
    n_levels: int
    n_sentences: int
    n_predicates: int

    def levels(self, rows: str, which: str) -> list[npt.NDArray[np.float32]]:
        """L + 1 memory maps (N or P, D) of ``sentence`` or ``predicate`` rows, ``raw`` or ``residual``."""
        sizes = [self.n_sentences, self.n_predicates] * len(PASSES)
        place = PASSES.index(which) * len(ROWS) + ROWS.index(rows)
        first = sum(sizes[:place])
        stored = np.load(self.path, mmap_mode="r")
        return [stored[level, first : first + sizes[place]] for level in range(self.n_levels)]


def weights_key(state_dict: Mapping[str, Tensor]) -> str:
    """The hexadecimal sha256 of a trunk's weights. Heads do not count."""
    digest = hashlib.sha256()
    for name, tensor in sorted(trunk_weights(state_dict).items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def extract_states(source: TrunkSource, inputs: EncodedSentences, folder: Path, *, device: torch.device) -> States:
    """The states of ``source`` on ``inputs``, from ``folder`` or else extracted into it.

    Args:
        source: The trunk.
        inputs: N sentences with P predicates.
        folder: Where the files are kept. It must exist.
        device: Where the trunk runs.

    Raises:
        RunDirectoryError: The file cannot be written.
    """
    identity = f"{STATES_VERSION}|{source.key}|{inputs.fingerprint}"
    path = folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.npy"
    n, p = len(inputs), len(inputs.predicate_sentences)
    states = States(path, source.n_levels, n, p)

    def fill(stored: npt.NDArray[np.float32]) -> None:
        _fill(stored, on_device(source.build(), device), inputs, device)

    shape = (source.n_levels, len(PASSES) * (n + p), source.hidden_size)
    keep_states(path, shape, fill, "compare on fewer --sentences")
    return states


def keep_states(path: Path, shape: tuple[int, ...], fill: Callable[[npt.NDArray[np.float32]], None], cure: str) -> None:
    """Write the array that ``fill`` fills to ``path``, as a ``.npy`` file of float32, unless it is there whole.

    Args:
        path: In a folder that exists. shape: Of the array.
        fill: A function that fills the memory map that it is given.
        cure: What a person can do who has no room on the disk.

    Raises:
        RunDirectoryError: The file cannot be written.
    """
    if _is_whole(path, shape):
        return
    n_bytes = 4 * math.prod(shape)
    _check_space(path.parent, n_bytes, cure)
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        stored = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
        _reserve(temporary)
        fill(stored)
        stored.flush()
        del stored
        temporary.replace(path)
    except OSError as error:
        raise write_error(path, error, n_bytes) from error
    finally:
        temporary.unlink(missing_ok=True)


def _is_whole(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether all states are there. A file that is cut or has another shape is not whole."""
    if not path.is_file():
        return False
    try:
        if np.load(path, mmap_mode="r", allow_pickle=False).shape == shape:
            return True
    except (ValueError, OSError, EOFError):
        pass
    logger.warning("%s: damaged: extracting these states again", path)
    return False


def on_device(encoder: Encoder, device: torch.device) -> Encoder:
    """The encoder on a device, ready to be read."""
    if isinstance(encoder, torch.nn.Module):
        encoder.to(device).eval()
    return encoder


def _fill(
    stored: npt.NDArray[np.float32],
    encoder: Encoder,
    inputs: EncodedSentences,
    device: torch.device,
) -> None:
    """Run the encoder in float32 and write its rows into ``stored`` (L + 1, 2 (N + P), D)."""
    n, owners = len(inputs), inputs.predicate_sentences
    types = _TokenTypes(inputs, stored.shape[0], stored.shape[2])
    for index in batches_for_scoring(inputs.lengths, TOKENS_PER_BATCH.get(device.type, TOKENS_PER_BATCH["cpu"])):
        ids, inside = inputs.padded(index)
        with torch.no_grad():
            levels = encoder.hidden_states(torch.from_numpy(ids).to(device))  # L + 1 of (B, T, D)
        weight = torch.from_numpy(inside / inside.sum(axis=1, keepdims=True)).to(device, torch.float32)  # (B, T)
        row_of = np.full(n, -1)
        row_of[index] = np.arange(len(index))
        asked = np.flatnonzero(row_of[owners] >= 0)
        rows = torch.from_numpy(row_of[owners[asked]]).to(device)
        positions = torch.from_numpy(inputs.predicate_positions[asked]).to(device)
        for level, states in enumerate(levels):
            states = states.float()  # (B, T, D)
            stored[level, index] = torch.einsum("bt,btd->bd", weight, states).cpu().numpy()
            stored[level, n + asked] = states[rows, positions].cpu().numpy()
            types.add(level, ids, inside, states)
    types.write_residuals(stored, inputs)


class _TokenTypes:
    """Mean state of every token type of the probe sentences, at every level."""

    def __init__(self, inputs: EncodedSentences, n_levels: int, hidden_size: int) -> None:
        before = np.zeros(len(inputs.ids), dtype=bool)
        before[inputs.offsets[:-1]] = inputs.n_before > 0  # what begins a text is no token of the sentence
        self.types, self.index = np.unique(inputs.ids, return_inverse=True)
        self.counts = np.bincount(self.index[~before], minlength=len(self.types))
        self.sums = torch.zeros(n_levels, len(self.types), hidden_size, dtype=torch.float64)

    def add(self, level: int, ids: npt.NDArray[np.int64], inside: npt.NDArray[np.bool_], states: Tensor) -> None:
        """Count the states (B, T, D) of the tokens marked by ``inside``."""
        number = torch.from_numpy(np.searchsorted(self.types, ids[inside]))
        kept = states[torch.from_numpy(inside).to(states.device)]  # (tokens, D)
        # On the CPU, where the order of the additions is fixed.
        self.sums[level].index_add_(0, number, kept.double().cpu())

    def write_residuals(self, stored: npt.NDArray[np.float32], inputs: EncodedSentences) -> None:
        """Fill the second half of ``stored``: each row of the first minus the mean of its tokens' type means."""
        n, p = len(inputs), len(inputs.predicate_sentences)
        ranges = zip(inputs.offsets[:-1], inputs.offsets[1:], strict=True)
        numbers = [self.index[begin + inputs.n_before : end] for begin, end in ranges]
        asked = self.index[inputs.offsets[inputs.predicate_sentences] + inputs.predicate_positions]  # (P,)
        for level in range(len(stored)):
            means = self.sums[level].numpy() / np.maximum(self.counts, 1)[:, None]  # (types, D)
            expected = np.stack([means[tokens].mean(axis=0) for tokens in numbers])  # (N, D)
            for rows, of_types in ((slice(0, n), expected), (slice(n, n + p), means[asked])):
                raw = stored[level, rows].astype(np.float64)
                residual = raw - of_types
                if (residual**2).sum() <= _NOTHING_LEFT * ((raw - raw.mean(axis=0)) ** 2).sum():
                    residual[:] = 0.0
                stored[level, rows.start + n + p : rows.stop + n + p] = residual


def _reserve(path: Path) -> None:
    """Give a sparse file its room now, because a disk that fills up under a memory map kills the process."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, path.stat().st_size)


def _check_space(folder: Path, needed: int, cure: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RunDirectoryError(
            f"{folder} has {free / 1e9:.1f} GB free, but the states of one checkpoint take {needed / 1e9:.1f} GB: "
            f"make room, or {cure}"
        )
