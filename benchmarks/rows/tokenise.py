"""Text on disk to a packed stream on disk: CPU minutes and memory for 540 MB, from a part of it."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer

from benchmarks.materials import Bench
from benchmarks.measure import in_child, interleaved, peak_bytes_above, ratio, ratios
from benchmarks.report import Comparison, Figure, RowResult
from emergence.data.records import TextDoc
from emergence.data.stream import encode_documents, write_streams
from emergence.data.text import load_text_path
from emergence.data.tokenizer import TextTokenizer

MARK_MINUTES, MEGABYTES = 3.0, 540
#: Bytes of one piece of work, and of the stretch whose memory is measured, short and long.
PIECE_BYTES, SHORT_BYTES, LONG_BYTES = 3_000_000, 5_000_000, 20_000_000
_BLOCK = 1 << 20


def run(bench: Bench) -> RowResult:
    """CPU minutes for 540 MB against the ``tokenizers`` library's own encoding."""
    piece, short, long = (20_000, 20_000, 40_000) if bench.toy else (PIECE_BYTES, SHORT_BYTES, LONG_BYTES)
    tokenizer = bench.pretraining.tokenizer
    library: Tokenizer = Tokenizer.from_str(tokenizer.to_json())
    mine, theirs, raw = _endless(bench), _endless(bench), _blocks(bench)

    def ours() -> float:
        with tempfile.TemporaryDirectory() as folder:
            texts = Counted(_up_to(mine, piece))
            write_streams(Path(folder) / "stream", {"train": encode_documents(texts, tokenizer)}, dict)
        return texts.n_bytes / 1e6

    def peer() -> float:
        documents = list(_up_to(theirs, piece // 4))
        library.encode_batch_fast([document.text for document in documents])  # without offsets, which ours has none of
        return sum(len(document.text.encode()) for document in documents) / 1e6

    def reading() -> float:
        n_bytes = 0
        while n_bytes < piece:
            block = next(raw)
            block.decode("utf-8", errors="replace")  # a block may end within a character
            n_bytes += len(block)
        return n_bytes / 1e6

    seconds = interleaved({"ours": ours, "library": peer, "reading": reading}, bench.repeats)
    minutes = [s * MEGABYTES / 60 for s in seconds["ours"]]
    library_minutes, reading_minutes = ([s * MEGABYTES / 60 for s in seconds[name]] for name in ("library", "reading"))
    text = str(bench.text) if bench.text else None
    memory = {n: in_child(_peak, text, tokenizer.to_json(), n, bench.toy) / 1e6 for n in (short, long)}
    found = Figure.of(f"ours, {MEGABYTES} MB", "CPU minutes", minutes)
    return RowResult(
        row="tokenise",
        title=f"tokenising {MEGABYTES} MB, from text files to a packed stream on disk",
        figures=[
            found,
            Figure.of(f"tokenizers library, {MEGABYTES} MB", "CPU minutes", library_minutes),
            Figure.of(f"reading bytes alone, {MEGABYTES} MB", "CPU minutes", reading_minutes),
            *(Figure(f"memory above the start, {n / 1e6:g} MB read", m, "MB", [m]) for n, m in memory.items()),
        ],
        comparisons=[
            Comparison.of(
                f"CPU minutes for {MEGABYTES} MB", minutes, MARK_MINUTES, at_least=False, unit="",
                limit=statistics.median(reading_minutes),
            ),
            Comparison.of(
                "against the library's encoding alone", ratios(seconds["library"], seconds["ours"]), 1.0,
                limit=ratio(seconds["library"], seconds["reading"]),
            ),
        ],
        data=bench.text_name,
        notes=[
            "the limit is reading the text's bytes and decoding them",
            f"extrapolated from pieces of {piece / 1e6:g} MB after one to warm up",
            "memory is bounded by construction, which no row goes as far as to show: documents stream through, and the "
            "table of known words starts afresh at 500,000 entries",
        ],
    )  # fmt: skip


class Counted:
    """Documents, counting the bytes of text that went through."""

    def __init__(self, documents: Iterable[TextDoc]) -> None:
        self._documents, self.n_bytes = documents, 0

    def __iter__(self) -> Iterator[TextDoc]:
        for document in self._documents:
            self.n_bytes += len(document.text.encode())
            yield document


def _up_to(documents: Iterator[TextDoc], n_bytes: int) -> Iterator[TextDoc]:
    for document in documents:
        yield document
        n_bytes -= len(document.text)
        if n_bytes <= 0:
            return


def _endless(bench: Bench) -> Iterator[TextDoc]:
    """Training documents, read from the files as they are needed, over and over."""
    while True:
        if bench.text is None:
            yield from (TextDoc(str(i), text) for i, text in enumerate(bench.paragraphs))
        else:
            yield from load_text_path(bench.text, 0).documents("train")


def _blocks(bench: Bench) -> Iterator[bytes]:
    """Bytes of the text's files, or of the micro-world's text, over and over."""
    while True:
        if bench.text is None:
            yield from (text.encode() for text in bench.paragraphs)
            continue
        for file in [bench.text] if bench.text.is_file() else sorted(bench.text.rglob("*")):
            if file.is_file():
                with file.open("rb") as handle:
                    yield from iter(lambda handle=handle: handle.read(_BLOCK), b"")  # type: ignore[misc]


def _peak(text: str | None, tokenizer_json: str, n_bytes: int, toy: bool) -> int:
    """Rise of this process's memory while ``n_bytes`` are read and written."""
    bench = Bench(text=Path(text) if text else None, toy=toy)
    tokenizer = TextTokenizer.from_json(tokenizer_json)
    documents = _endless(bench)
    next(documents)  # what reading itself sets up

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            texts = _up_to(documents, n_bytes)
            write_streams(Path(folder) / "stream", {"train": encode_documents(texts, tokenizer)}, dict)

    return peak_bytes_above(work)
