"""Numbered lines of a text file, plain or gzipped, with damage reported by file and line."""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from emergence.errors import DataError

#: A packed file may unpack to this much, or to this many times its size: no text packs better.
_MOST_UNPACKED, _MOST_TIMES = 1 << 22, 100
#: No line of questions, and no JSON file of them, is this long.
MOST_LINE_BYTES = 1 << 28
#: Data nested deeper than this would end whoever walks through it.
_MOST_DEPTH = 256
_GZIP_MAGIC = b"\x1f\x8b"
_UTF8_BOM = b"\xef\xbb\xbf"
#: What stands in a checkout in place of a large file that Git LFS has not fetched.
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
#: What UTF-16 and UTF-32 files begin with.
_OTHER_BOMS = (b"\xff\xfe", b"\xfe\xff")
#: In JSON text: escapes that may stand for half a character, or for NUL.
_ODD_ESCAPE = re.compile(r"\\u(?:[dD][89a-fA-F]|0000)")
_ODD_CHARACTER = re.compile("[\0\ud800-\udfff]")


@contextmanager
def open_bytes(path: Path) -> Iterator[io.BufferedIOBase]:
    """The file's bytes, unpacked if they are gzipped (by content, not by name).

    Raises:
        DataError: The file cannot be read, its gzip data is damaged or cut short, or it is a pointer of Git LFS.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(_LFS_POINTER))
            if start == _LFS_POINTER:
                raise DataError(
                    "is a Git LFS pointer in place of the file: run `git lfs pull` where it came from, or download the "
                    "file itself",
                    path,
                )
            file.seek(0)
            if start.startswith(_GZIP_MAGIC):
                with gzip.open(file, "rb") as unpacked:
                    most = max(_MOST_UNPACKED, _MOST_TIMES * path.stat().st_size)
                    yield io.BufferedReader(_Bounded(unpacked, most, path))
            else:
                yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
        raise DataError(f"damaged gzip data ({exc}): fetch the file again", path) from exc
    except OSError as exc:
        raise DataError(f"cannot be read: {exc.strerror or exc}", path) from exc


class _Bounded(io.RawIOBase):
    """What a packed file unpacks to, up to a size that no data reaches."""

    def __init__(self, unpacked: gzip.GzipFile, most: int, path: Path) -> None:
        self._unpacked, self._left, self._path = unpacked, most, path

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._unpacked.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise DataError(
                f"unpacks to more than {_MOST_TIMES} times its size: it is no text, fetch the file again", self._path
            )
        buffer[: len(data)] = data
        return len(data)


def head(path: Path, size: int = 1 << 16) -> bytes:
    """The first ``size`` bytes after unpacking, without a UTF-8 byte order mark."""
    with open_bytes(path) as file:
        return file.read(size).removeprefix(_UTF8_BOM)


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """``(line number from 1, line without its LF or CRLF)``, of UTF-8 text with or without a BOM.

    Lines end at LF only, so a Unicode line separator inside a sentence is part of the sentence.

    Raises:
        DataError: The file is empty, is not UTF-8, or holds a NUL byte. The message has the line.
    """
    number = 0
    with open_bytes(path) as file:
        for number, raw in enumerate(iter(lambda: file.readline(MOST_LINE_BYTES + 1), b""), start=1):
            if len(raw) > MOST_LINE_BYTES:
                raise DataError(
                    f"is a line of more than {MOST_LINE_BYTES >> 20} MiB: this is no such data", path, number
                )
            if number == 1:
                raw = raw.removeprefix(_UTF8_BOM)
            if raw.startswith(_OTHER_BOMS) and number == 1:
                raise DataError("is UTF-16 or UTF-32 text: convert it to UTF-8", path, number)
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


def whole_text(path: Path) -> str:
    """All lines of a text file in one.

    Raises:
        DataError: As :func:`text_lines`, or the file is far too large for a JSON file of questions.
    """
    lines, size = [], 0
    for number, line in text_lines(path):
        lines.append(line)
        size += len(line) + 1
        if size > MOST_LINE_BYTES:
            raise DataError(
                f"holds more than {MOST_LINE_BYTES >> 20} MiB: this is no JSON file of questions", path, number
            )
    return "\n".join(lines)


def json_value(text: str, path: Path, line: int | None = None) -> Any:
    """The value that JSON text from a data file stands for.

    Raises:
        DataError: It is no JSON, is nested beyond reason, or holds NaN, half a character or NUL (with the line).
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as exc:
        where = exc.lineno if line is None else line
        raise DataError(f"is not JSON ({exc.msg.removesuffix(' at')} at column {exc.colno})", path, where) from None
    except (ValueError, RecursionError) as exc:  # a number of thousands of digits; a thousand brackets
        raise DataError(f"is not JSON that can be read ({exc})", path, line) from None
    if text.count("[") + text.count("{") > _MOST_DEPTH:
        _refuse_depth(value, path, line)
    if _ODD_ESCAPE.search(text):
        refuse_odd_characters(value, path, line)
    return value


def _refuse_depth(value: Any, path: Path, line: int | None) -> None:
    level = [value]
    for _ in range(_MOST_DEPTH):
        lists = [item.values() if isinstance(item, dict) else item for item in level]
        level = [item for items in lists for item in items if isinstance(item, (dict, list))]
        if not level:
            return
    raise DataError(f"is nested more than {_MOST_DEPTH} levels deep, which no data of questions is", path, line)


def refuse_odd_characters(value: Any, path: Path, line: int | None = None) -> None:
    """Refuse strings that hold half a character (a lone surrogate, which no encoding can write) or NUL.

    Raises:
        DataError: A string holds one of them. The message has the file and the line or row.
    """
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            if not item.isascii() or "\0" in item:
                odd = _ODD_CHARACTER.search(item)
                if odd:
                    raise DataError(
                        f"holds {ascii(odd[0])[1:-1]}, which is no character of a text: write the file anew",
                        path,
                        line,
                    )
        elif isinstance(item, dict):
            waiting += item.keys()
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no number")


def whole(value: Any, what: str) -> int:
    """``value``, which must be a whole number or a string of its digits, as a whole number.

    Raises:
        ValueError: It is anything else. The message calls it ``what``.
    """
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 9:
        return int(value)
    if type(value) is not int:
        raise ValueError(f"{what} is {str(value)[:40]!r}, not a whole number")
    return value


def words(value: Any, what: str) -> str:
    """``value``, which must be a string.

    Raises:
        ValueError: It is none. The message calls it ``what``.
    """
    if not isinstance(value, str):
        raise ValueError(f"{what} is {str(value)[:40]!r}, not a string")
    return value
