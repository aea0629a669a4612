"""Coverage-guided fuzzing of every parser, with the standard library alone.

    python -m benchmarks.fuzz_parsers --seconds 3600 --out fuzz.json
    python -m benchmarks.fuzz_parsers --parser bank --seconds 60 --corpus /tmp/corpus

Inputs are mutated from a corpus of valid ones; an input that takes a branch of the package not taken before (a pair of
lines run one after the other, seen with ``sys.settrace``) joins the corpus. A finding is an input after which anything
but an error of the project escapes, a promise of the format is broken, or the parser takes too long.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from benchmarks.parsers import PARSERS, Parser, problem_with
from emergence.files import write_json_atomic

PACKAGE = str(Path(__file__).resolve().parents[1] / "emergence")
#: Processor time of one input, traced (ten times slower than not).
MOST_SECONDS = 5.0
MOST_BYTES = 20_000
_MEMORY = Path("/dev/shm")  # files in memory, where the system has that

_BITS = (
    b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b"\n\n", b"\t", b"\xe2\x80\x8b", b"e\xcc\x81", b"\xed\xa0\x80",
    b"\xe2\x80\xa8", b"\\ud800", b"\\u0000", b"null", b"true", b"-1", b"0", b"1e999", b"NaN", b"9" * 30, b'""', b"[]",
    b"{}", b"[[", b'"', b"'", b",", b":", b"=", b"= = ", b"###", b"~!~", b"\x1f\x8b", b"PAR1", b"..", b"/", b"?",
    b"@-@", b" , ", b"#", b"9" * 5000, b"[" * 3000,
)  # fmt: skip
_VALUES: tuple[Any, ...] = (None, True, False, -1, 0, 1, 2.5, 10**9, 10**30, 1e308, "", "x", "\ud800", "\0", "é\u200b",
                            "../x", "/x", "a\nb", [], {}, [[]], [0], {"x": 1}, "x" * 300)  # fmt: skip


@dataclass
class Findings:
    """What fuzzing one parser gave.

    Attributes:
        executions: Inputs tried. edges: Branches seen. corpus: Inputs that found new ones.
        growth: ``(seconds, executions, edges)``, thinned out. problems: By message, the first input that showed it.
    """

    executions: int = 0
    edges: int = 0
    corpus: int = 0
    growth: list[tuple[float, int, int]] = field(default_factory=list)
    problems: dict[str, bytes] = field(default_factory=dict)


class _TooSlowError(BaseException):
    """The input's time is over; no handler of the parser may catch it."""


class Coverage:
    """Pairs of lines of the package that ran one after the other."""

    def __init__(self) -> None:
        self.edges: set[int] = set()
        self._codes: dict[CodeType, int] = {}
        self._last = 0

    def run(self, action: Callable[[], str | None]) -> tuple[str | None, int]:
        """The action's result, and how many edges it was the first to take."""
        before, self._last = len(self.edges), 0
        sys.settrace(self._call)
        try:
            result = action()
        finally:
            sys.settrace(None)
        return result, len(self.edges) - before

    def _call(self, frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        return self._line

    def _line(self, frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
        if event == "line":
            place = self._codes.setdefault(frame.f_code, len(self._codes)) * 10_000 + frame.f_lineno
            self.edges.add(self._last * 100_000_000 + place)
            self._last = place
        return self._line


def fuzz(parser: Parser, seconds: float, seed: int, corpus_folder: Path | None = None) -> Findings:
    """Fuzz one parser for that long, from its valid inputs and what ``corpus_folder`` holds already."""
    chance, coverage, found = random.Random(f"{seed} {parser.name}"), Coverage(), Findings()
    corpus: list[bytes] = []
    started = time.monotonic()

    def attempt(content: bytes) -> None:
        problem, new = coverage.run(lambda: _in_time(lambda: problem_with(parser, content, folder)))
        found.executions += 1
        if new:
            corpus.append(content)
            _keep(corpus_folder, parser, content)
        if problem and found.problems.setdefault(_kind(problem), content) is content:
            print(f"    {parser.name}: {problem}\n        {content[:300]!r}", flush=True)
        if new or found.executions % 2000 == 0:
            found.growth.append((round(time.monotonic() - started, 1), found.executions, len(coverage.edges)))

    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as name:
        folder = Path(name)
        first = [seed.encode() if isinstance(seed, str) else seed for seed in parser.seeds()]
        for content in first:  # not traced: what is imported at the first call is no branch of the parser
            problem_with(parser, content, folder)
        started = time.monotonic()
        for content in [*first, *_kept(corpus_folder, parser)]:
            attempt(content)
        corpus = corpus or first
        while time.monotonic() - started < seconds:
            # Late finds are likelier to lead on than the first inputs.
            parent = corpus[max(chance.randrange(len(corpus)), chance.randrange(len(corpus)))]
            attempt(mutated(parent, corpus, chance))
    found.edges, found.corpus = len(coverage.edges), len(corpus)
    found.growth = found.growth[:: max(1, len(found.growth) // 40)]
    return found


def mutated(content: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """One to four changes: of a value in its JSON, of a line, of bytes, or parts of another input."""
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        kind = chance.randrange(4)
        if kind == 0:
            content = _other_value(content, chance)
        elif kind == 1:
            lines = content.splitlines(keepends=True) or [b""]
            at = chance.randrange(len(lines))
            lines[at : at + 1] = chance.choice(([], [lines[at]] * 2, [chance.choice(lines)], lines[at:][::-1]))
            content = b"".join(lines)
        elif kind == 2:
            content = _other_bytes(content, chance)
        else:
            other, at = chance.choice(others or [content]), chance.randrange(len(content) + 1)
            content = content[:at] + other[chance.randrange(len(other) + 1) :]
    return content[:MOST_BYTES]


def _other_bytes(content: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(content) + 1)
    end = min(len(content), start + chance.choice((0, 1, 1, 2, 8, 64)))
    if chance.random() < 0.3:
        return content[:start] + bytes(chance.randrange(256) for _ in range(end - start)) + content[end:]
    return content[:start] + chance.choice(_BITS) + content[end:]


def _other_value(content: bytes, chance: random.Random) -> bytes:
    """A JSON line with another value in a random place; anything else as it is."""
    lines = content.splitlines()
    at = chance.randrange(len(lines)) if lines else 0
    try:
        value = json.loads(lines[at])
    except (IndexError, ValueError, RecursionError):
        return content
    places: list[tuple[Any, Any]] = []
    waiting = [value] if isinstance(value, (dict, list)) else []
    while waiting:
        item = waiting.pop()
        pairs = list(item.items() if isinstance(item, dict) else enumerate(item))
        places += [(item, key) for key, _ in pairs]
        waiting += [child for _, child in pairs if isinstance(child, (dict, list))]
    if places:
        holder, key = chance.choice(places)
        if chance.random() < 0.2:
            del holder[key]
        elif chance.random() < 0.1 and isinstance(holder, dict):
            holder[str(chance.choice(_VALUES))] = holder.pop(key)
        else:
            holder[key] = chance.choice(_VALUES)
    lines[at] = json.dumps(value).encode()
    return b"\n".join([*lines, b""])


def _in_time(action: Callable[[], str | None]) -> str | None:
    def stop(number: int, frame: object) -> None:
        raise _TooSlowError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    try:
        return action()
    except _TooSlowError:
        return f"more than {MOST_SECONDS:g} s"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _kind(problem: str) -> str:
    """The message without what differs from input to input."""
    return "".join("0" if c.isdigit() else c for c in problem.split("'")[0])[:80]


def _keep(folder: Path | None, parser: Parser, content: bytes) -> None:
    if folder:
        (folder / parser.name).mkdir(parents=True, exist_ok=True)
        (folder / parser.name / hashlib.sha256(content).hexdigest()[:16]).write_bytes(content)


def _kept(folder: Path | None, parser: Parser) -> list[bytes]:
    if folder is None or not (folder / parser.name).is_dir():
        return []
    return [file.read_bytes() for file in sorted((folder / parser.name).iterdir())]


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    arguments.add_argument("--parser", action="append", choices=[*PARSERS], help="one or more (default: all)")
    arguments.add_argument("--seconds", type=float, default=60.0, help="in all, shared by the parsers")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--corpus", type=Path, help="grows there, and is gone on with")
    arguments.add_argument("--out", type=Path, help="a report in JSON")
    args = arguments.parse_args()
    names = args.parser or list(PARSERS)
    report, failed = {}, False
    for name in names:
        found = fuzz(PARSERS[name], args.seconds / len(names), args.seed, args.corpus)
        print(
            f"{name:14} {found.executions:8,} executions {found.edges:6,} edges {found.corpus:5} inputs "
            f"{len(found.problems)} findings",
            flush=True,
        )
        failed |= bool(found.problems)
        problems = {problem: content.decode("latin-1")[:2000] for problem, content in found.problems.items()}
        report[name] = {**vars(found), "problems": problems}
        if args.out:
            write_json_atomic(args.out, report)
    sys.exit(failed)


if __name__ == "__main__":
    main()
