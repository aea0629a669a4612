"""Lines and documents of one text file: plain text, WikiText (tokenised or raw), hub-shaped parquet.

Everything is read as a stream, so memory stays bounded, however large a file, a line or a document is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from emergence.data.formats.parquet import MAGIC, open_parquet, parquet_rows
from emergence.data.formats.textfile import head, open_bytes
from emergence.data.wikitext import detokenise, is_title, looks_tokenised, plain_heading
from emergence.errors import DataError
from emergence.files import sha256_file

#: A document of at most this many pieces stays whole. A longer one (a book) is cut into pieces.
WHOLE_PIECES = 5
_MOST_LINE_BYTES = 1 << 22
_SAMPLE_ROWS = 2000
_BOM = "\ufeff"
#: What old copies of WikiText write where a line ends, some of them in place of the line's end.
_END_OF_LINE = "<eos>"
_SENTENCE_END = re.compile(r"[.!?][\"'”’)]* ")


@dataclass(frozen=True)
class TextFile:
    """A file of pretraining text.

    Attributes:
        name: Path relative to the user's folder.
        kind: ``text``, ``parquet-lines`` (a row is a line, as in the hub's wikitext) or ``parquet-documents``.
        tokenised: Whether its punctuation stands apart, as in WikiText.
        n_bytes: Size of the text, approximately.
    """

    path: Path
    name: str
    kind: str
    tokenised: bool
    n_bytes: int
    sha256: str


def open_text_file(path: Path, name: str) -> TextFile:
    """Recognise a file by its content.

    Raises:
        DataError: The file is empty, damaged, or parquet without a column ``text``.
    """
    start = head(path, 1 << 18)
    if not start.strip():
        raise DataError("the file is empty", path)
    if start.startswith(MAGIC):
        rows = [text for _, text in zip(range(_SAMPLE_ROWS), _parquet_rows(path), strict=False)]
        blank = sum(not row.strip() for row in rows)
        by_line = blank > len(rows) / 5 or any(is_title(row.rstrip("\r\n")) for row in rows)
        kind = "parquet-lines" if by_line else "parquet-documents"
        return TextFile(path, name, kind, looks_tokenised("".join(rows)), _parquet_bytes(path), sha256_file(path))
    tokenised = looks_tokenised(start.decode("utf-8", "replace"))
    return TextFile(path, name, "text", tokenised, path.stat().st_size, sha256_file(path))


def cut_documents(file: TextFile, piece_chars: int) -> Iterator[tuple[bool, list[str]]]:
    """The file's documents as ``(starts a new work, source lines)``.

    A work begins at `` = Title = `` after a blank line, or with a row of ``parquet-documents``. Text without either is
    one work. Works longer than ``WHOLE_PIECES * piece_chars`` are cut into pieces of about ``piece_chars`` characters,
    at a blank line if one is in reach.
    """
    lines: list[str] = []
    size, first, blank = 0, True, True
    limit = WHOLE_PIECES * piece_chars
    for line in _lines(file):
        if line is None or (blank and is_title(line)):
            for piece in _pieces(lines, piece_chars, limit):
                yield first, piece
                first = False
            lines, size, first, limit = [], 0, True, WHOLE_PIECES * piece_chars
        blank = not line or line.isspace()
        if line is not None:
            lines.append(line)
            size += len(line) + 1
        if size > limit:
            *done, lines = _pieces(lines, piece_chars, 0) or [[]]  # nothing but blank lines leaves none
            for piece in done:
                yield first, piece
                first = False
            size, limit = sum(map(len, lines)), 2 * piece_chars
    for piece in _pieces(lines, piece_chars, limit):
        yield first, piece
        first = False


def natural_text(lines: Iterable[str], tokenised: bool) -> str:
    """Source lines as the text a model reads: headings lose their ``=``, and tokenised text is detokenised.

    Line breaks stay, spaces at line ends go, and several blank lines become one.
    """
    kept: list[str] = []
    for line in lines:
        line = plain_heading(line).rstrip()
        line = detokenise(line) if tokenised else line
        if line or (kept and kept[-1]):
            kept.append(line)
    return "\n".join(kept).rstrip("\n")


def _pieces(lines: list[str], piece_chars: int, whole_chars: int) -> list[list[str]]:
    """Cut lines of more than ``whole_chars`` characters in all into pieces. Blank pieces vanish."""
    if sum(map(len, lines)) <= whole_chars:
        return [lines] if any(line and not line.isspace() for line in lines) else []
    pieces: list[list[str]] = [[]]
    size = 0
    for line in lines:
        if len(line) > 2 * piece_chars:  # one long line becomes pieces of its own
            pieces += [[part] for part in _cut_line(line, piece_chars)] + [[]]
            size = 0
            continue
        pieces[-1].append(line)
        size += len(line) + 1
        at_paragraph = not line or line.isspace()
        if size >= piece_chars * (1 if at_paragraph else 1.5):
            pieces.append([])
            size = 0
    return [piece for piece in pieces if any(line and not line.isspace() for line in piece)] or [[]]


def _cut_line(line: str, piece_chars: int) -> Iterator[str]:
    """Cut a long line after a sentence, or else after a word, or else anywhere."""
    start = 0
    while len(line) - start > 2 * piece_chars:
        window = line[start + piece_chars : start + 2 * piece_chars]
        sentence = _SENTENCE_END.search(window)
        cut = sentence.end() if sentence else window.find(" ") + 1 or len(window)
        yield line[start : start + piece_chars + cut]
        start += piece_chars + cut
    yield line[start:]


def _lines(file: TextFile) -> Iterator[str | None]:
    """Lines without their ends, and None where a row says that a document ends."""
    if file.kind == "text":
        for line in _text_lines(file.path):
            yield from line.split(_END_OF_LINE) if file.tokenised and _END_OF_LINE in line else (line,)
        return
    for row in _parquet_rows(file.path):
        yield from row.rstrip("\r\n").splitlines() or [""]
        if file.kind == "parquet-documents":
            yield None


def _text_lines(path: Path) -> Iterator[str]:
    """Lines of a text file in UTF-8. A line of many megabytes comes in several parts.

    Raises:
        DataError: A line holds NUL bytes or is not UTF-8; the message has its number.
    """
    number, carried = 1, b""
    with open_bytes(path) as file:
        while data := carried + (read := file.readline(_MOST_LINE_BYTES)):
            carried = b""
            if len(read) == _MOST_LINE_BYTES and not read.endswith(b"\n"):
                cut = data.rfind(b" ") + 1 or _last_character(data)
                data, carried = data[:cut], data[cut:]
            text = _decode(data, path, number).rstrip("\r\n")
            if number == 1:
                text = text.removeprefix(_BOM)
            yield from text.split("\r")
            number += data.endswith(b"\n")


def _decode(data: bytes, path: Path, number: int) -> str:
    if b"\0" in data:
        raise DataError("holds a NUL byte: the file is damaged or is not UTF-8 text", path, number)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"is not UTF-8 ({error.reason} at byte {error.start + 1}): convert it, for example with iconv", path, number
        ) from error


def _last_character(data: bytes) -> int:
    """Where the last UTF-8 character begins, so that cutting there cuts no character."""
    start = len(data) - 1
    while start > len(data) - 4 and data[start] & 0xC0 == 0x80:
        start -= 1
    return start


def _parquet_rows(path: Path) -> Iterator[str]:
    for number, row in enumerate(parquet_rows(open_parquet(path, ("text",)), path, ("text",)), start=1):
        text = row["text"]
        if not isinstance(text, str):
            raise DataError(f"row {number}: the column text holds {type(text).__name__}, not a string", path)
        if "\0" in text:
            raise DataError(f"row {number}: holds a NUL character: the file is damaged", path)
        yield text


def _parquet_bytes(path: Path) -> int:
    metadata = open_parquet(path, ("text",)).metadata
    return max(1, sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)))
