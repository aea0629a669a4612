"""What safetensors files hold, told from their headers and bytes without torch.

The format is 8 bytes of length, a JSON header with name, type, shape and place of each tensor, then the numbers
(https://github.com/huggingface/safetensors). A header that does not account for every byte is damage.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from emergence.errors import WeightsError
from emergence.files import open_regular, parse_json

_MOST_HEADER = 100_000_000  # the limit of the library
_CHUNK = 1 << 22
_BITS = {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16,
         "U16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "I8": 8, "U8": 8, "BOOL": 8}  # fmt: skip
#: Types that causal checkpoints keep their weights in.
FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a safetensors file.

    Attributes:
        name, dtype, shape: As the header has them; the type is one of safetensors' words, such as ``BF16``.
        path: The file. begin, end: Its bytes there.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    begin: int
    end: int

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


def read_entries(path: Path) -> list[TensorEntry]:
    """The tensors of one file, by place.

    Raises:
        WeightsError: It is missing, cut short, or its header does not account for its bytes.
    """
    with open_regular(path, WeightsError) as handle:
        return _entries(path, handle, path.stat().st_size)


def _entries(path: Path, handle: BinaryIO, total: int) -> list[TensorEntry]:
    length = int.from_bytes(handle.read(8), "little")
    if total < 8 or not 2 <= length <= min(_MOST_HEADER, total - 8):
        raise WeightsError(f"{path} is not a safetensors file, or is cut short: fetch it anew")
    try:
        text = handle.read(length).decode("utf-8")
    except UnicodeDecodeError:
        raise WeightsError(f"{path}: damaged: its header is not UTF-8 text") from None
    header = parse_json(text, f"{path}: damaged header", WeightsError)
    if not isinstance(header, dict):
        raise WeightsError(f"{path}: damaged: its header names no tensors")
    found = [_entry(path, name, raw, 8 + length) for name, raw in header.items() if name != "__metadata__"]
    found.sort(key=lambda entry: (entry.begin, entry.end))
    place = 8 + length
    for entry in found:
        if entry.begin != place:
            raise WeightsError(f"{path}: damaged: {entry.name[:100]} does not begin where the tensor before it ends")
        place = entry.end
    if place != total:
        raise WeightsError(f"{path}: damaged: its header speaks of {place:,} bytes, and it has {total:,}")
    return found


def _entry(path: Path, name: str, raw: object, data: int) -> TensorEntry:
    try:
        dtype, shape, (begin, end) = raw["dtype"], tuple(raw["shape"]), raw["data_offsets"]  # type: ignore[index]
        whole = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
        fits = whole and (end - begin) * 8 == math.prod(shape) * _BITS[dtype]
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise WeightsError(f"{path}: damaged: type, shape and place of {name[:100]} do not agree")
    return TensorEntry(name, dtype, shape, path, data + begin, data + end)


def group_of(name: str) -> str:
    """The group of a tensor: its block (``model.layers.3``), or else the module that holds it (``model.embed_tokens``).

    >>> group_of("gpt_neox.layers.11.attention.dense.weight"), group_of("lm_head.weight")
    ('gpt_neox.layers.11', 'lm_head')
    """
    block = re.match(r".*?\.\d+(?=\.)", name)
    return block[0] if block else name.rpartition(".")[0] or name


def group_digests(entries: Iterable[TensorEntry]) -> dict[str, str]:
    """Group -> sha256 (hexadecimal) of names, types, shapes and bytes of its tensors, in the order of their names.

    Buffers that are no weights (``rotary_emb.inv_freq``, attention masks) are left out, since equal ones say nothing.
    """
    return {group: _digest(members) for group, members in _groups(entries).items()}


def group_sketches(entries: Iterable[TensorEntry], per_tensor: int = 64) -> dict[str, npt.NDArray[np.float64]]:
    """Group -> values at fixed places of its tensors, the same for all revisions: enough to tell how far two are apart.

    Args:
        per_tensor: Values of each tensor, spread evenly.
    """
    return {
        group: np.concatenate([_some_values(entry, per_tensor) for entry in members])
        for group, members in _groups(entries).items()
    }


def _groups(entries: Iterable[TensorEntry]) -> dict[str, list[TensorEntry]]:
    groups: dict[str, list[TensorEntry]] = {}
    for entry in sorted(entries, key=lambda e: e.name):
        if entry.dtype in FLOATS and entry.size and not entry.name.endswith(("inv_freq", "masked_bias")):
            groups.setdefault(group_of(entry.name), []).append(entry)
    return groups


def _some_values(entry: TensorEntry, count: int) -> npt.NDArray[np.float64]:
    width = _BITS[entry.dtype] // 8
    places = np.unique(np.linspace(0, entry.size - 1, count).astype(np.int64))
    with open_regular(entry.path, WeightsError) as handle:
        content = b"".join(_at(handle, entry.begin + int(place) * width, width) for place in places)
    if entry.dtype == "BF16":  # the upper half of a float32
        values = (np.frombuffer(content, dtype="<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(content, dtype=f"<f{width}")
    return np.nan_to_num(values.astype(np.float64))


def _at(handle: BinaryIO, place: int, size: int) -> bytes:
    handle.seek(place)
    return handle.read(size)


def _digest(entries: Iterable[TensorEntry]) -> str:
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(f"{entry.name}\0{entry.dtype}\0{list(entry.shape)}\0".encode())
        with open_regular(entry.path, WeightsError) as handle:
            handle.seek(entry.begin)
            left = entry.end - entry.begin
            while left:
                chunk = handle.read(min(_CHUNK, left))
                if not chunk:
                    raise WeightsError(f"{entry.path} was cut short while it was read")
                digest.update(chunk)
                left -= len(chunk)
    return digest.hexdigest()
