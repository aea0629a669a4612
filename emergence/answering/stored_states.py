"""States of a large frozen model over fixed questions, written to disk once and read a level at a time.

A trunk of this program is small, so it runs again for each group of levels. A published model is not: it runs once,
all levels are appended to files batch by batch, and probes read one level after the other. What a killed call wrote is
kept: whole batches stand, a torn one is cut off, and the same call goes on behind it.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from emergence.answering.features import LayerFeatures, batches_of, iter_states, question_states, word_states
from emergence.data.qa_encoding import EncodedQA
from emergence.errors import EmergenceError
from emergence.files import make_folder, open_regular, write_error
from emergence.measures.ragged import rows_at
from emergence.model import Encoder
from emergence.training.context import Context
from emergence.training.recording import StopRequested

logger = logging.getLogger(__name__)

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_KINDS = ("words", "questions")
#: Rows of a file that are brought into order at a time.
_CHUNK_ROWS = 1 << 16


class StoredStates:
    """An :class:`~emergence.model.encoder.Encoder` whose states over some questions lie on disk.

    Args:
        encoder: A frozen model in eval mode on the context's device.
        folder: Where the files go. Whoever makes it for one model may keep it until the last probe is fitted.
        layers: The levels to keep.
        dtype: ``bf16`` or ``fp32``, the type of word states on disk. Those of questions are float32.

    Attributes:
        hidden_size, n_layers: The encoder's.
    """

    def __init__(self, encoder: Encoder, folder: Path, layers: Sequence[int], dtype: str) -> None:
        self._encoder, self._folder = encoder, folder
        self._layers, self._dtype = tuple(layers), _TYPES[dtype]
        self.hidden_size, self.n_layers = encoder.hidden_size, encoder.n_layers
        self._digests: list[tuple[EncodedQA, str]] = []

    def hidden_states(self, ids: Tensor) -> list[Tensor]:
        """As the encoder's; nothing is stored."""
        return self._encoder.hidden_states(ids)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the word states on disk."""
        return self._dtype

    def size(self, splits: Sequence[EncodedQA]) -> int:
        """Bytes on disk of the states over ``splits``."""
        return sum(self._bytes(split) for split in splits) * len(self._layers)

    def write(self, splits: Sequence[EncodedQA], context: Context) -> None:
        """Run the model over every split and keep its states. What was written before is not computed again.

        Raises:
            StopRequested: ``should_stop`` was true after a batch. The same call goes on.
            EmergenceError: The disk is too small. Nothing has been written.
        """
        missing = [split for split in splits if self._there(split) < self._bytes(split) * len(self._layers)]
        if not missing:
            return
        make_folder(self._folder)
        need = self.size(missing) - sum(map(self._there, missing))
        if need > (free := shutil.disk_usage(self._folder).free):
            raise EmergenceError(
                f"the states take {need / 1e9:.1f} GB on disk, and {self._folder} has {free / 1e9:.1f} GB left: probe "
                "fewer --layers, or take --finetune-samples"
            )
        tokens = sum(int(split.lengths.sum()) for split in missing)
        logger.info(
            "states of %s questions (%s tokens) at %d levels take %.2f GB in %s until the probes are fitted",
            f"{sum(map(len, missing)):,}", f"{tokens:,}", len(self._layers), self.size(missing) / 1e9, self._folder,
        )  # fmt: skip
        begun, done = time.monotonic(), 0
        context.progress.start(tokens, "tokens", 0, "states")
        for split in missing:
            for n in self._append(split, context):
                if not done:
                    minutes = tokens / n * (time.monotonic() - begun) / 60
                    logger.info("about %.1f minutes", minutes)
                done += n
                context.progress.update(n)
        context.progress.close()
        seconds = time.monotonic() - begun
        context.recorder.time("states", seconds=seconds, tokens=done, tokens_per_second=done / max(seconds, 1e-9))

    def layer(
        self, split: EncodedQA, layer: int, device: torch.device, dtype: torch.dtype | None = None
    ) -> LayerFeatures:
        """One level of a split that was written.

        Args:
            dtype: Type of the word states in memory; by default that on disk.

        Raises:
            EmergenceError: A file is missing or cut short.
        """
        order = batches_of(split, device)
        words = torch.empty(int(split.word_offsets[-1]), self.hidden_size, dtype=dtype or self._dtype)
        places = np.concatenate([rows_at(split.word_offsets, index)[0] for index in order])
        questions = torch.empty(len(split), 2 * self.hidden_size)
        _read_rows(self._path(split, "words", layer), self._dtype, words, places)
        _read_rows(self._path(split, "questions", layer), torch.float32, questions, np.concatenate(order))
        return LayerFeatures(words.to(device), questions.to(device), split.word_offsets)

    def remove(self) -> None:
        """Delete the files. They can be computed again."""
        shutil.rmtree(self._folder, ignore_errors=True)

    # Files ---------------------------------------------------------------------------------------

    def _path(self, split: EncodedQA, kind: str, layer: int) -> Path:
        digest = next((digest for known, digest in self._digests if known is split), None)
        if digest is None:
            digest = _digest(split)
            self._digests.append((split, digest))
        return self._folder / digest / f"{kind}_{layer}.bin"

    def _row_bytes(self, kind: str) -> int:
        return self.hidden_size * (self._dtype.itemsize if kind == "words" else 2 * 4)

    def _bytes(self, split: EncodedQA) -> int:
        """Of a whole split at one level."""
        return int(split.word_offsets[-1]) * self._row_bytes("words") + len(split) * self._row_bytes("questions")

    def _there(self, split: EncodedQA) -> int:
        paths = (self._path(split, kind, layer) for kind in _KINDS for layer in self._layers)
        return sum(path.stat().st_size for path in paths if path.exists())

    def _append(self, split: EncodedQA, context: Context) -> Iterator[int]:
        """Write the batches that are missing, and yield the tokens of each."""
        order = batches_of(split, context.device)
        rows = {
            "words": np.cumsum([0, *(int(split.n_words[index].sum()) for index in order)]),
            "questions": np.cumsum([0, *(len(index) for index in order)]),
        }
        skip = min(self._whole_batches(split, kind, layer, rows[kind]) for kind in _KINDS for layer in self._layers)
        with ExitStack() as files:
            open_files = {
                (kind, layer): files.enter_context(
                    _opened(self._path(split, kind, layer), int(rows[kind][skip]) * self._row_bytes(kind))
                )
                for kind in _KINDS
                for layer in self._layers
            }
            for index, batch, states in iter_states(self._encoder, split, context, skip=skip):
                mask = torch.from_numpy(batch.word_mask).to(context.device)
                for layer in self._layers:
                    of_words = word_states(states[layer], batch)[mask].to(self._dtype)
                    _write(open_files["words", layer], of_words)
                    _write(open_files["questions", layer], question_states(states[layer], batch))
                yield int(split.lengths[index].sum())
                if context.should_stop():
                    raise StopRequested("stopped while states were computed; the same command goes on")

    def _whole_batches(self, split: EncodedQA, kind: str, layer: int, rows: npt.NDArray[np.int64]) -> int:
        """How many batches a file holds to their end. ``rows`` (batches + 1,) counts the rows before each."""
        path = self._path(split, kind, layer)
        there = path.stat().st_size // self._row_bytes(kind) if path.exists() else 0
        return int(np.searchsorted(rows, there, side="right")) - 1


def _digest(split: EncodedQA) -> str:
    """What the states over a split depend on beside the model."""
    digest = hashlib.sha256()
    for part in (split.ids, split.id_offsets, split.word_positions, split.word_offsets, split.question_ranges):
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:24]


def _opened(path: Path, size: int) -> BinaryIO:
    """A file to append to, cut off behind ``size`` bytes."""
    make_folder(path.parent)
    try:
        handle = path.open("ab")
        handle.truncate(size)
    except OSError as error:
        raise write_error(path, error, None) from error
    return handle


def _write(handle: BinaryIO, values: Tensor) -> None:
    try:
        handle.write(values.contiguous().cpu().view(torch.uint8).numpy().data)
    except OSError as error:
        raise write_error(Path(handle.name), error, values.nbytes) from error


def _read_rows(path: Path, dtype: torch.dtype, into: Tensor, places: npt.NDArray[np.int64]) -> None:
    """Put row i of a file at row ``places[i]`` of ``into`` (N, D)."""
    width = into.shape[1]
    with open_regular(path, EmergenceError) as handle:
        for begin in range(0, len(places), _CHUNK_ROWS):
            where = places[begin : begin + _CHUNK_ROWS]
            content = bytearray(handle.read(len(where) * width * dtype.itemsize))
            if len(content) < len(where) * width * dtype.itemsize:
                raise EmergenceError(f"{path} was cut short: remove {path.parent.parent}, and the same command goes on")
            into[torch.from_numpy(where)] = torch.frombuffer(content, dtype=dtype).view(-1, width).to(into.dtype)
