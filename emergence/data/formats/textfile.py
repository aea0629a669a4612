"""Numbered lines of a text file, plain or gzipped, with damage reported by file and line."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emergence.errors import DataError

_GZIP_MAGIC = b"\x1f\x8b"
_UTF8_BOM = b"\xef\xbb\xbf"


@contextmanager
def open_bytes(path: Path) -> Iterator[io.BufferedIOBase]:
    """The file's bytes, unpacked if they are gzipped (by content, not by name).

    Raises:
        DataError: The file cannot be read, or its gzip data is damaged or cut short.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP_MAGIC
            file.seek(0)
            if packed:
                with gzip.open(file, "rb") as unpacked:
                    yield unpacked
            else:
                yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
        raise DataError(f"damaged gzip data ({exc}): fetch the file again", path) from exc
    except OSError as exc:
        raise DataError(f"cannot be read: {exc.strerror or exc}", path) from exc


def head(path: Path, size: int = 1 << 16) -> bytes:
    """The first ``size`` bytes, unpacked, without a UTF-8 byte order mark."""
    with open_bytes(path) as file:
        return file.read(size).removeprefix(_UTF8_BOM)


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """``(line number from 1, line without its end)``; LF and CRLF ends, UTF-8 with or without a BOM.

    Lines end at LF only: a Unicode line separator inside a sentence is part of the sentence.

    Raises:
        DataError: The file is empty, is not UTF-8, or holds a NUL byte; with the line.
    """
    number = 0
    with open_bytes(path) as file:
        for number, raw in enumerate(file, start=1):
            if number == 1:
                raw = raw.removeprefix(_UTF8_BOM)
            if b"\0" in raw:
                raise DataError("holds a NUL byte: the file is damaged or is not UTF-8 text", path, number)
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as exc:
                raise DataError(
                    f"is not UTF-8 ({exc.reason} at byte {exc.start + 1}): convert it", path, number
                ) from exc
            yield number, line.rstrip("\r\n")
    if number == 0:
        raise DataError("the file is empty", path)
