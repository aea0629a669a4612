"""How every part of the program writes files, and how it reads them back.

A reader finds the old file or the new one, never half of either. A write goes to a temporary name in the same folder,
is synced to disk and then renamed. JSON is strict (no NaN). A record carries a sha256 of its own content, so that
damage shows (:func:`seal`). Standard library only, but for orjson where it is installed.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from emergence.errors import EmergenceError, RunDirectoryError
from emergence.plain import plain

#: Ends the name of every file that is still being written. After a crash, a file with it is rubbish.
TEMPORARY_SUFFIX = ".tmp"

#: The key under which sealed JSON keeps the sha256 of everything else in it.
SEAL_KEY = "sha256"

_CHUNK = 1 << 20

#: What this program reads as JSON is far smaller and flatter; deeper nesting would end whoever walks through it.
MOST_JSON_BYTES, MOST_DEPTH = 1 << 28, 64
#: Whole numbers end where those of arrays do.
_MOST_WHOLE = 2**63
#: Bytes as :func:`_has_large` compares them: every digit is 0, and an exponent is e.
_SHAPES = bytes.maketrans(b"123456789E", b"000000000e")
#: All that a number is written with.
_NUMBER_BYTES = b"0123456789.+-eE"
_LARGE_EXPONENT = re.compile(rb"e\+?000")

#: Builds the error of a reader from one line of text: an exception class, or a function.
ErrorType = Callable[[str], EmergenceError]


# Writing ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic_writer(path: Path, bytes_needed: int | None = None) -> Iterator[BinaryIO]:
    """A binary file that appears under ``path``, complete and on disk, only if the block succeeds.

    Args:
        path: Destination; its folder must exist. An earlier file there survives any failure.
        bytes_needed: Size of the content where it is known beforehand, for the disk-full message.

    Raises:
        RunDirectoryError: The system refused the write, as on a full disk. It names the file and the bytes needed. Or
            there is a device or a pipe under ``path``, which a file must not take the place of.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise RunDirectoryError(f"{path}: a device or a pipe, which is not replaced: name a file")
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    at_least = bytes_needed is None
    try:
        with temporary.open("xb") as handle:
            try:
                yield handle
                handle.flush()
            finally:
                with contextlib.suppress(OSError):
                    bytes_needed = max(handle.tell(), bytes_needed or 0)
            at_least = False
            os.fsync(handle.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise write_error(path, error, bytes_needed, at_least=at_least) from error
        raise


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replace ``path`` by ``data`` (text as UTF-8), all or nothing; see :func:`atomic_writer`."""
    content = data.encode() if isinstance(data, str) else data
    with atomic_writer(path, len(content)) as handle:
        handle.write(content)


def write_json_atomic(path: Path, obj: Any) -> None:
    """Replace ``path`` by ``obj`` as indented strict JSON (:func:`to_json`)."""
    write_atomic(path, to_json(obj, indent=2) + "\n")


def write_json_lines_atomic(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Replace ``path`` by one strict JSON object per line; returns the number of lines."""
    count = 0
    with atomic_writer(path) as handle:
        for row in rows:
            handle.write(to_json(row).encode() + b"\n")
            count += 1
    return count


def append_line(path: Path, line: str) -> None:
    """Append ``line`` and a newline. The file is open only during the call.

    A write that fails half-way is taken back, so a full disk leaves the earlier lines as they were.

    Raises:
        RunDirectoryError: The system refused the write.
    """
    data = line.encode() + b"\n"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            before = os.fstat(descriptor).st_size
            try:
                written = 0
                while written < len(data):
                    written += os.write(descriptor, data[written:])
            except OSError:
                os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise write_error(path, error, len(data)) from error


def truncate_file(path: Path, size: int) -> None:
    """Cut ``path`` to ``size`` bytes and put that on disk."""
    try:
        os.truncate(path, size)
    except OSError as error:
        raise write_error(path, error, None) from error
    sync_file(path)


def drop_torn_line(path: Path) -> None:
    """Cut off a last line that lacks its newline. A crash in :func:`append_line` leaves such a line."""
    if not path.exists():
        return
    content = read_regular(path)
    if content and not content.endswith(b"\n"):
        truncate_file(path, content.rfind(b"\n") + 1)


def make_folder(path: Path) -> Path:
    """Make the folder ``path`` and its parents, where they are missing, and return it.

    Raises:
        RunDirectoryError: The system refused.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error, None) from error
    return path


def sync_file(path: Path) -> None:
    """Put what was appended to ``path`` on disk."""
    size = None
    try:
        descriptor = os.open(path, os.O_RDWR)
        try:
            size = os.fstat(descriptor).st_size
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise write_error(path, error, size) from error


def sync_folder(folder: Path) -> None:
    """Put a rename within ``folder`` on disk. Nothing happens where a system cannot: Windows, some network disks."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def write_error(path: Path, error: OSError, bytes_needed: int | None, *, at_least: bool = False) -> RunDirectoryError:
    """The one-line error for a write the system refused."""
    reason = error.strerror or str(error)
    needs = "" if bytes_needed is None else f"; it needs {'at least ' if at_least else ''}{bytes_needed:,} bytes"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        with contextlib.suppress(OSError):
            needs += f", {shutil.disk_usage(path.parent).free:,} are free"
        needs += ": make room and run the same command again"
    return RunDirectoryError(f"cannot write {path}: {reason}{needs}")


def may_write(path: Path) -> bool:
    """Whether the system lets this process write to a folder or file that is there."""
    return os.access(path, os.W_OK)


# Reading ----------------------------------------------------------------------------------------


def open_regular(path: Path, error: ErrorType = RunDirectoryError) -> BinaryIO:
    """``path`` opened to read bytes. A pipe would block for ever, and a device may never end, so both are refused.

    Raises:
        error: It is no regular file. It names ``path`` and the cure.
        OSError: The system refused.
    """
    handle = open(path, "rb", opener=_without_waiting)  # noqa: SIM115  (the caller closes it)
    if stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
        return handle
    handle.close()
    raise error(f"{path}: a pipe or a device, and no file: remove it")


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_regular(path: Path, error: ErrorType = RunDirectoryError, most: int | None = None) -> bytes:
    """The bytes of a regular file; see :func:`open_regular`.

    Args:
        most: The read ends with an error beyond so many bytes, whatever size the system tells.

    Raises:
        error: It is no regular file, or has more than ``most`` bytes.
        OSError: The system refused.
    """
    with open_regular(path, error) as handle:
        if most is None:
            return handle.read()
        content = bytearray()
        while block := handle.read(_CHUNK):
            content += block
            if len(content) > most:
                raise error(f"{path}: more than {most:,} bytes, and no file of its kind has so many")
    return bytes(content)


# JSON -------------------------------------------------------------------------------------------


def to_json(obj: Any, *, indent: int | None = None, sort_keys: bool = False) -> str:
    """``obj`` as strict JSON text. A number that is not finite becomes null, an array scalar becomes a number.

    Raises:
        TypeError: For anything JSON has no form for.
    """
    return _encoded(plain(obj), indent=indent, sort_keys=sort_keys)


def _encoded(value: Any, *, indent: int | None = None, sort_keys: bool = False) -> str:
    """:func:`to_json` of what is made of JSON's own types."""
    separators = None if indent else (",", ":")
    return json.dumps(value, indent=indent, separators=separators, sort_keys=sort_keys, allow_nan=False)


def read_json(path: Path, error: ErrorType = RunDirectoryError) -> Any:
    """Parse a strict JSON file.

    Raises:
        error: The file is missing, unreadable, no regular one, far too large, or no strict JSON (:func:`parse_json`).
            It names ``path``.
    """
    return read_json_and_text(path, error)[0]


def read_json_and_text(path: Path, error: ErrorType = RunDirectoryError) -> tuple[Any, str]:
    """:func:`read_json`, and the text that was parsed."""
    text = read_json_text(path, error)
    return parse_json(text, str(path), error), text


def read_json_text(path: Path, error: ErrorType = RunDirectoryError) -> str:
    """The text of a JSON file, which is not parsed.

    Raises:
        error: The file is missing, too large, not regular, or not UTF-8. It names ``path``.
    """
    try:
        return _content(path, error, MOST_JSON_BYTES).decode("utf-8")
    except UnicodeDecodeError:
        raise error(f"{path}: damaged: not UTF-8 text") from None


def _content(path: Path, error: ErrorType, most: int | None = None) -> bytes:
    """:func:`read_regular`, with the system's refusals as ``error``."""
    try:
        return read_regular(path, error, most)
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except OSError as reason:
        raise error(f"{path}: cannot be read: {reason.strerror or reason}") from reason


def parse_json(text: str, source: str, error: ErrorType = RunDirectoryError) -> Any:
    """Parse strict JSON text; ``source`` names it in errors.

    Raises:
        error: The text is no JSON, holds NaN or Infinity, or has a key twice. It is nested too deeply, or holds a
            number too large for an array, or half a character.
    """
    try:
        value = _FILE_DECODER.decode(text)
        # The slow look at every value is for text that may hold something odd.
        if _may_hold_odd(text):
            _refuse_odd(value)
        elif text.count("[") + text.count("{") > MOST_DEPTH:
            _refuse_deep(value)
    except json.JSONDecodeError as reason:
        if not text.strip():
            raise error(f"{source}: empty") from None
        raise error(f"{source}: not JSON, or cut short (line {reason.lineno}: {reason.msg})") from None
    except RecursionError:
        raise error(f"{source}: not strict JSON: {_TOO_DEEP}") from None
    except ValueError as reason:
        raise error(f"{source}: not strict JSON: {reason}") from None
    return value


def _may_hold_odd(text: str) -> bool:
    """Whether text may hold a whole number beyond 64 bits, a number that is infinite, or half a character.

    The first has nineteen digits or more, the second an exponent of three or more (or hundreds of digits), the third is
    escaped, or one that UTF-8 has no form for. Text with none of them holds nothing odd but its depth.
    """
    if "\\u" in text or not text.isascii():
        return re.search(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]", text) is not None or _has_large(text)
    return _has_large(text)


def _has_large(text: str) -> bool:
    """See :func:`_may_hold_odd`. With classes of digits a regular expression would take longer than the parsing."""
    shape = text.encode("utf-8", "replace").translate(_SHAPES)
    if _LARGE_EXPONENT.search(shape) and _ends_numbers(_LARGE_EXPONENT.split(shape)):
        return True
    many = b"0" * 19
    # Digits after a point make no number large, and most numbers here have up to seventeen.
    return many in shape and many in shape.replace(b"." + b"0" * 15, b".")


def _ends_numbers(parts: list[bytes]) -> bool:
    """Whether a part but the last ends in a number. Digests, of which results are full, hold such signs as well."""
    before = (part.rstrip(b"0.")[-1:] for part in parts[:-1])
    return any(sign in b" \t\r\n[:,-" for sign in before)  # nothing before it: a number alone


_TOO_DEEP = f"it is nested more than {MOST_DEPTH} levels deep"


def _refuse_deep(value: Any) -> None:
    """:func:`_refuse_odd` of values that can be odd in their depth alone, for which only containers are looked at."""
    level = [value]
    for _ in range(MOST_DEPTH + 1):
        containers = [item.values() if type(item) is dict else item for item in level if type(item) in (dict, list)]
        level = [item for container in containers for item in container]
        if not level:
            return
    raise ValueError(_TOO_DEEP)


def _refuse_odd(value: Any) -> None:
    """Look at every value, one level after the other, because a deep one would end a function that calls itself."""
    level = [value]
    for _ in range(MOST_DEPTH + 1):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += item.keys()
                below += item.values()
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str):
                _refuse_half_characters(item)
            elif isinstance(item, float) and not math.isfinite(item):
                raise ValueError("it holds a number that is too large")
            elif isinstance(item, int) and not -_MOST_WHOLE <= item < _MOST_WHOLE:
                raise ValueError("it holds a whole number of more than 64 bits")
        if not below:
            return
        level = below
    raise ValueError(_TOO_DEEP)


def _refuse_half_characters(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half a character (a lone surrogate)") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"it holds {name}, which is no number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise ValueError(f"the key {twice!r} comes twice")
    return values


def _unique_shared_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """:func:`_unique_keys`, the same strings in every file: hundreds of results are kept, all with the same keys."""
    return {sys.intern(key): value for key, value in _unique_keys(pairs).items()}


#: Made once, because ``json.loads`` would make one a line; of lines, which are not kept, and of whole files.
_LINE_DECODER, _FILE_DECODER = (
    json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=hook)
    for hook in (_unique_keys, _unique_shared_keys)
)


def read_json_lines(path: Path, error: ErrorType = RunDirectoryError) -> list[dict[str, Any]]:
    """All objects of a JSON-lines file. A last line without its newline is left out: it was cut, or is being written.

    Raises:
        error: The file is missing or unreadable, or a line is no JSON object. It names file and line.
    """
    return parse_json_lines(_content(path, error), str(path), error)


def parse_json_lines(content: bytes, source: str, error: ErrorType = RunDirectoryError) -> list[dict[str, Any]]:
    """Objects of JSON-lines ``content``; see :func:`read_json_lines`."""
    if (rows := _ordinary_lines(content)) is not None:
        return rows
    rows = []
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            raise error(f"{source}:{number}: damaged: not UTF-8 text") from None
        row = parse_json(text, f"{source}:{number}", error)
        if not isinstance(row, dict):
            raise error(f"{source}:{number}: not a JSON object")
        rows.append(row)
    return rows


def _ordinary_lines(content: bytes) -> list[dict[str, Any]] | None:
    """What :func:`parse_json_lines` gives; None where a line may be odd and is looked at alone, which takes longer.

    With orjson it is done in a third of that time, without it in half. orjson takes the last of two equal keys without
    a word, so what it read is written again and compared with the line, but for the bytes of numbers, which it has
    other forms for (``1e-05`` is ``0.00001``). A lost key takes two quotes along; only an escaped one, ``\\u0022``,
    could stand in for them, and its u has no counterpart. A line that is not the same is read by Python.
    """
    try:
        if _may_hold_odd(content.decode("utf-8")):
            return None
    except UnicodeDecodeError:
        return None
    orjson = _orjson()
    rows = []
    try:
        for line in content.split(b"\n")[:-1]:
            if line.count(b"[") + line.count(b"{") > MOST_DEPTH:  # its depth, at most
                return None
            row = orjson.loads(line) if orjson else None
            if not orjson or orjson.dumps(row).translate(None, _NUMBER_BYTES) != line.translate(None, _NUMBER_BYTES):
                text = line.decode("utf-8")
                row, end = _LINE_DECODER.raw_decode(text)
                if end != len(text):
                    return None
            if type(row) is not dict:
                return None
            rows.append(row)
    except (ValueError, RecursionError):
        return None
    return rows


@functools.cache
def _orjson() -> ModuleType | None:
    """orjson; None where it is not installed, as beside ``pip install modal`` and in Modal's image."""
    try:
        import orjson
    except ImportError:
        return None
    return orjson


# Seals ------------------------------------------------------------------------------------------


def seal(obj: Mapping[str, Any]) -> dict[str, Any]:
    """``obj`` with the sha256 of its canonical JSON under ``"sha256"``, so that damage shows in every copy."""
    content = plain({key: value for key, value in obj.items() if key != SEAL_KEY})
    return {**content, SEAL_KEY: sha256_text(_encoded(content, sort_keys=True))}


def unseal(obj: Any, source: str, error: ErrorType = RunDirectoryError) -> dict[str, Any]:
    """The content of a sealed object without its seal.

    Raises:
        error: There is no seal, or the content is not what was sealed.
    """
    if not isinstance(obj, dict) or SEAL_KEY not in obj:
        raise error(f"{source}: damaged, or not written by this program (it has no {SEAL_KEY!r})")
    content = {key: value for key, value in obj.items() if key != SEAL_KEY}
    # Parsed JSON is plain already, and to make it so again would take most of the time.
    if sha256_text(_encoded(content, sort_keys=True)) != obj[SEAL_KEY]:
        raise error(f"{source}: damaged or edited: its content does not match its {SEAL_KEY!r}")
    return content


def read_sealed(path: Path, error: ErrorType = RunDirectoryError) -> dict[str, Any]:
    """The content of a file that ``write_json_atomic(path, seal(...))`` wrote, in the layout that it writes.

    The seal covers the content and not its layout: ``1E-05`` for ``1e-05`` would pass it. Neither tells the order of
    keys, which means nothing.

    Raises:
        error: The file is missing, damaged, or edited. It names ``path``.
    """
    raw, text = read_json_and_text(path, error)
    return unseal_as_written(raw, text, str(path), error)


def unseal_as_written(
    raw: Any, text: str, source: str, error: ErrorType = RunDirectoryError, *, digest: str | None = None
) -> dict[str, Any]:
    """:func:`read_sealed` of a file that was parsed.

    Args:
        digest: sha256 of the text as it was written, where a manifest tells it, so that the layout need not be looked
            at. It takes no seal's place: whoever made a manifest anew may have edited the file before.
    """
    content = unseal(raw, source, error)
    if digest is not None and sha256_text(text) == digest:
        return content
    if not is_laid_out(raw, text) and _encoded(raw, indent=2) + "\n" != text:
        raise error(f"{source}: damaged or edited: not the bytes that were written")
    return content


def is_laid_out(value: Any, text: str) -> bool:
    """Whether ``text`` is certainly ``value`` as :func:`write_json_atomic` writes it. False only means: compare them.

    Python writes indents five times as slowly as JSON on one line. So the text without its indents is compared with
    what the fast writer makes, and the indents are counted. No string in JSON holds a line break; one that holds a
    bracket leads to False, and so does half a character, which may be written in two ways.
    """
    if "\\ud" in text:
        return False
    lines = text.split("\n")
    if lines.pop():
        return False
    bare = [line.lstrip(" ") for line in lines]
    if "" in bare:
        return False
    depth = 0
    for line, inner in zip(lines, bare, strict=True):
        depth -= inner.startswith(("}", "]"))
        if len(line) - len(inner) != 2 * depth:
            return False
        depth += inner.endswith(("{", "["))
    joined = "\n".join(bare)
    for opens, closes in ("{}", "[]"):
        # Every bracket outside of strings stands at a line break or is one of an empty pair.
        n_empty = joined.count(opens + closes)
        if (
            joined.count(opens) != joined.count(f"{opens}\n") + n_empty
            or joined.count(closes) != joined.count(f"\n{closes}") + n_empty
            or f"{opens}\n{closes}" in joined
        ):
            return False
    for broken, whole in (("{\n", "{"), ("[\n", "["), ("\n}", "}"), ("\n]", "]")):
        joined = joined.replace(broken, whole)
    return joined == json.dumps(value, separators=(",\n", ": "), allow_nan=False)


def content_digest(obj: Any) -> str:
    """sha256 (hexadecimal) of the canonical JSON of ``obj``."""
    return sha256_text(to_json(obj, sort_keys=True))


def sha256_text(text: str) -> str:
    """sha256 (hexadecimal) of ``text`` in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """sha256 (hexadecimal) of the bytes of a regular file, streamed; see :func:`open_regular`."""
    with open_regular(path) as handle:
        return sha256_stream(handle)


def sha256_stream(handle: BinaryIO, limit: int | None = None) -> str:
    """sha256 (hexadecimal) of the next ``limit`` bytes of ``handle`` (None: of all)."""
    digest = hashlib.sha256()
    left = limit
    while left is None or left > 0:
        block = handle.read(_CHUNK if left is None else min(_CHUNK, left))
        if not block:
            break
        digest.update(block)
        left = None if left is None else left - len(block)
    return digest.hexdigest()


def name_within(path: Path, folder: Path) -> str | None:
    """The name of ``path`` relative to ``folder``, with all links followed; None where it lies elsewhere.

    Both sides are resolved here, and nowhere else are paths compared: a mount point may be a link (a volume on Modal
    is one), and then a path that is resolved never begins with the folder as it was named.
    """
    try:
        place, root = path.resolve(), folder.resolve()
    except (OSError, RuntimeError):  # links that lead to each other
        return None
    return place.relative_to(root).as_posix() if place.is_relative_to(root) else None


def folder_files(folder: Path) -> list[Path]:
    """Every regular file under ``folder``, sorted, without temporary ones; links are not followed."""
    files = []
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            if not name.endswith(TEMPORARY_SUFFIX) and path.is_file() and not path.is_symlink():
                files.append(path)
    return files


def sweep_temporary(folder: Path) -> None:
    """Delete what interrupted writes left under ``folder``. Only the folder's single writer may call this."""
    for path in folder.rglob(f".*{TEMPORARY_SUFFIX}"):
        with contextlib.suppress(OSError):
            path.unlink()
