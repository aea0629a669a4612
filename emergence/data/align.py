"""Answer strings to spans of word tokens.

QA-SRL 1.0 gives answers as text. Its span is found by matching whole tokens, never substrings. The answer is first
matched exactly, then without regard to case, then with its trailing punctuation cut off. About 3% of answers occur more
than once in their sentence. The annotated occurrence is the one nearest to the predicate in 87% of such cases, and the
first one in 51% (measured on 1,736 repeated answers of the QA-SRL Bank 2.0 dev set, which marks its spans).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

UNALIGNED = "unaligned_span"
AMBIGUOUS = "ambiguous_span"
#: Punctuation characters that are cut off an answer's end. Written answers have one or two.
MOST_TRIMS = 20

#: Spellings of one mark: the Penn Treebank's escapes, typographic and plain quotes.
_MARKS = {
    **dict.fromkeys(["-LRB-", "-lrb-"], "("), **dict.fromkeys(["-RRB-", "-rrb-"], ")"),
    **dict.fromkeys(["-LSB-", "-lsb-"], "["), **dict.fromkeys(["-RSB-", "-rsb-"], "]"),
    **dict.fromkeys(["-LCB-", "-lcb-"], "{"), **dict.fromkeys(["-RCB-", "-rcb-"], "}"),
    **dict.fromkeys(["``", "''", "“", "”", "„", "«", "»"], '"'),
    **dict.fromkeys(["`", "‘", "’", "‚"], "'"),
    "…": "...",
}  # fmt: skip
_MARK = re.compile("|".join(map(re.escape, sorted(_MARKS, key=len, reverse=True))))
#: Zero-width characters that annotation tools leave behind: they carry no text.
_ZERO_WIDTH = re.compile("[\u00ad\u200b-\u200d\u2060\ufeff]")


@dataclass(frozen=True, slots=True)
class Alignment:
    """A span ``tokens[start:end]`` (``end`` exclusive) and how it was found (see ``records.Answer``)."""

    start: int
    end: int
    kind: str


def normalise(text: str) -> str:
    """``text`` in Unicode NFC without zero-width characters: the form in which tokens are compared."""
    return text if text.isascii() else _ZERO_WIDTH.sub("", unicodedata.normalize("NFC", text))


def plain_marks(text: str) -> str:
    """``text`` with brackets and quotes spelled in one way: ``-LRB-`` is ``(``, typographic quotes are plain."""
    return _MARK.sub(lambda match: _MARKS[match[0]], text)


def split_tokens(sentence: str) -> tuple[str, ...]:
    """Split a sentence at its spaces, as every QA-SRL file writes its tokens.

    Only ASCII white space separates tokens. A no-break space belongs to its token, and splitting there would shift
    every later index.
    """
    return tuple(re.findall(r"[^ \t\r\n]+", sentence))


class SentenceIndex:
    """The tokens of one sentence, prepared for matching answers against them."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = tuple(tokens)
        exact = [normalise(token) for token in tokens]
        # A token of zero-width characters alone matches nothing and must not interrupt a match.
        self._positions = [i for i, token in enumerate(exact) if token]
        self._exact = [exact[i] for i in self._positions]
        self._folded = [token.casefold() for token in self._exact]

    def align(self, answer: str, predicate_index: int | None) -> Alignment | str:
        """The span of ``answer``, or the reason why there is none (``UNALIGNED`` or ``AMBIGUOUS``).

        Of several occurrences, the one with the fewest tokens between it and the predicate is taken. At equal
        distances the left one is (it was right in 25 of 32 such ties on the QA-SRL Bank dev set). Without a predicate
        index a repeated answer is ``AMBIGUOUS``.
        """
        plain = normalise(answer)
        words, any_space = list(split_tokens(plain)), plain.split()
        # Tokens may hold a no-break space. If none matches, the answer's may stand for a common space.
        for sought in [words] if words == any_space else [words, any_space]:
            for trimmed, candidate in enumerate(_with_trims(sought)):
                for folded in (False, True):
                    spans = self._occurrences(candidate, folded)
                    if spans:
                        kind = ("+casefold" * folded) + ("+trimmed" * (trimmed > 0))
                        return self._choose(spans, predicate_index, kind)
        return self._with_plain_marks(plain, predicate_index)

    def _with_plain_marks(self, answer: str, predicate_index: int | None) -> Alignment | str:
        """:meth:`align` where sentence and answer may spell brackets and quotes differently."""
        tokens, sought = tuple(map(plain_marks, self._tokens)), plain_marks(answer)
        if (tokens, sought) == (self._tokens, answer):
            return UNALIGNED
        place = SentenceIndex(tokens).align(sought, predicate_index)
        return replace(place, kind=f"{place.kind}+marks") if isinstance(place, Alignment) else place

    def _occurrences(self, words: list[str], folded: bool) -> list[tuple[int, int]]:
        sought = [word.casefold() for word in words] if folded else words
        tokens = self._folded if folded else self._exact
        n = len(sought)
        return [(self._positions[i], self._positions[i + n - 1] + 1) for i in _starts(tokens, sought)]

    @staticmethod
    def _choose(spans: list[tuple[int, int]], predicate_index: int | None, suffix: str) -> Alignment | str:
        if len(spans) == 1:
            return Alignment(*spans[0], kind="unique" + suffix)
        if predicate_index is None:
            return AMBIGUOUS
        start, end = min(spans, key=lambda span: (_distance(span, predicate_index), span))
        return Alignment(start, end, kind="nearest" + suffix)


def _starts(tokens: list[str], sought: list[str]) -> Iterator[int]:
    """Where ``sought`` stands in ``tokens``, in time linear in both (Knuth, Morris and Pratt 1977)."""
    n, k = len(sought), 0
    if n > len(tokens):
        return
    borders = [0]  # of each beginning, the longest end that is a beginning itself
    for word in sought[1:]:
        while k and word != sought[k]:
            k = borders[k - 1]
        k += word == sought[k]
        borders.append(k)
    k = 0
    for i, token in enumerate(tokens):
        while k and (k == n or token != sought[k]):
            k = borders[k - 1]
        k += token == sought[k]
        if k == n:
            yield i - n + 1


def _with_trims(words: list[str]) -> list[list[str]]:
    """The answer itself, then with one trailing punctuation character more cut off each time, up to ``MOST_TRIMS``."""
    candidates = [words] if words else []
    words = list(words)
    while words and len(candidates) <= MOST_TRIMS and unicodedata.category(words[-1][-1]).startswith("P"):
        last = words[-1][:-1]
        words = words[:-1] + ([last] if last else [])
        if words:
            candidates.append(words)
    return candidates


def _distance(span: tuple[int, int], predicate_index: int) -> int:
    start, end = span
    if start <= predicate_index < end:
        return 0
    return min(abs(start - predicate_index), abs(end - 1 - predicate_index))
