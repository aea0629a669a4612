"""The seal at the end of every ``.pth`` file: the sha256 of all bytes before it.

Neither ``.pth`` nor safetensors notices a flipped bit, so the digest is kept as the comment of the zip file that
``torch.save`` writes. PyTorch ignores the comment, so a sealed file is an ordinary ``.pth``.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

from emergence.errors import WeightsError
from emergence.files import sha256_stream

_SEAL_PREFIX = b"emergence sha256 "
_SEAL_LENGTH = len(_SEAL_PREFIX) + 64


class SealingStream:
    """Passes on what torch.save writes, hashes it, and puts the seal in place of the empty zip comment.

    A zip file without a comment ends in the comment's length, two zero bytes. So the last two bytes are held back.
    """

    def __init__(self, handle: BinaryIO) -> None:
        self._handle, self._digest, self._held = handle, hashlib.sha256(), b""
        #: What stopped a write. It is kept, because torch raises an error of its own that hides the reason.
        self.error: BaseException | None = None

    def write(self, block: bytes | memoryview) -> int:
        try:
            view = memoryview(block)
            if len(view) < 2:
                view = memoryview(self._held + bytes(view))
            else:
                self._put(self._held)
            cut = max(len(view) - 2, 0)
            self._put(view[:cut])
            self._held = bytes(view[cut:])
            return len(block)
        except BaseException as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self._handle.flush()

    def seal(self) -> None:
        if self._held != b"\0\0":
            raise RuntimeError("torch.save no longer ends its files in an empty zip comment")
        comment = _SEAL_PREFIX + self._digest.hexdigest().encode()
        self._handle.write(struct.pack("<H", len(comment)) + comment)

    def _put(self, data: bytes | memoryview) -> None:
        self._handle.write(data)
        self._digest.update(data)


def check_seal(path: Path, handle: BinaryIO) -> None:
    """Read all of ``handle`` and compare it with its seal.

    Raises:
        WeightsError: They differ. The message says in one line what the file at ``path`` is instead.
    """
    size = os.fstat(handle.fileno()).st_size
    if size == 0:
        raise WeightsError(f"{path}: an empty file")
    if handle.read(4) != b"PK\x03\x04":
        raise WeightsError(f"{path}: not a weights file of this program (pickles and other formats are never opened)")
    handle.seek(max(size - _SEAL_LENGTH, 0))
    comment = handle.read()
    if not comment.startswith(_SEAL_PREFIX):
        handle.seek(0)
        if zipfile.is_zipfile(handle):
            raise WeightsError(f"{path}: weights of another program, or damaged: it lacks this program's seal")
        raise WeightsError(f"{path}: cut short or damaged: copy or train it again")
    handle.seek(0)
    # The two bytes of the comment's length were not hashed, so they are checked by value.
    digest = sha256_stream(handle, size - _SEAL_LENGTH - 2)
    if handle.read(2) != struct.pack("<H", _SEAL_LENGTH) or comment != _SEAL_PREFIX + digest.encode():
        raise WeightsError(f"{path}: damaged: its bytes do not match their sha256; copy or train it again")
