"""Words that stand for the arguments of a sentence's predicates, with their roles and what could pass for a role.

An argument is represented by the last word of its first gold span, the first word that has seen all of it. A word that
is an argument of several predicates is kept where its role is the same in all of them. The sentence is read without
any question, so nothing tells the model which argument will be asked for.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from emergence.data.microworld.generate import gold_role
from emergence.data.microworld.lexicon import ANIMALS, NAMES, ORIGINS, PEOPLE, PLACES, THINGS, TIMES_OF_TENSE, TOOLS
from emergence.data.records import QAExample
from emergence.data.roles import asked_role
from emergence.errors import DataError

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]

#: A role with fewer words than this in either half is left out.
LEAST_WORDS = 20
#: Sentences of each half that are read at most. More would tell little more, and their activations fill memory.
MOST_SENTENCES = 600
#: What is no role of its own.
_NO_ROLE = "other"
#: Decides which sentences are read where there are more.
_STREAM = 0xA17
_TIMES = {phrase for phrases in TIMES_OF_TENSE.values() for phrase in phrases}
_NOUNS = frozenset((*PEOPLE, *ANIMALS, *THINGS, *TOOLS, *PLACES, *ORIGINS, *(p[-1] for p in _TIMES if len(p) > 1)))
_ADVERBS = frozenset(phrase[0] for phrase in _TIMES if len(phrase) == 1)


def role_of(example: QAExample, roles: str = "gold") -> str:
    """The role that a question asks for.

    Args:
        roles: ``gold`` for what the micro-world's grammar wrote, and for natural sentences what slots and voice tell
            (``data.roles``); ``wh`` for the wh-word.
    """
    if roles == "wh":
        return example.wh
    return gold_role(example) if example.source == "microworld" else asked_role(example)


def part_of_speech(word: str) -> str:
    """``name``, ``noun``, ``adverb`` or ``other`` by the micro-world's grammar.

    Of words that it does not have, capitals tell names, and figures are ``number``.
    """
    if word in NAMES:
        return "name"
    lower = word.lower()
    if lower in _NOUNS or word in _NOUNS:
        return "noun"
    if lower in _ADVERBS:
        return "adverb"
    if any(letter.isdigit() for letter in word):
        return "number"
    return "name" if word[:1].isupper() else "other"


@dataclass(frozen=True, eq=False)
class ArgumentWords:
    """n argument words of S sentences, ordered by sentence and place.

    Attributes:
        roles: R roles, the most frequent first.
        sentences: S sentences as words. sentence_in_a: (S,) those of half A.
        sentence, word: (n,) where each word stands. label: (n,) its role, 0 to R - 1.
        confounds: (n, C) place in the sentence and its square, log frequency, part of speech (a column a part).
        left_out: Role with too few words -> words. n_ambiguous: Words with several roles.
    """

    roles: tuple[str, ...]
    sentences: tuple[tuple[str, ...], ...]
    sentence_in_a: BoolArray
    sentence: IntArray
    word: IntArray
    label: IntArray
    confounds: FloatArray
    left_out: dict[str, int]
    n_ambiguous: int

    def __len__(self) -> int:
        return len(self.label)

    @property
    def in_a(self) -> BoolArray:
        """(n,) words of half A."""
        return self.sentence_in_a[self.sentence]

    def words_at(self) -> list[tuple[int, ...]]:
        """Of every sentence its argument words, in order."""
        at: list[list[int]] = [[] for _ in self.sentences]
        for sentence, word in zip(self.sentence.tolist(), self.word.tolist(), strict=True):
            at[sentence].append(word)
        return [tuple(words) for words in at]


def argument_words(
    half_a: Sequence[QAExample],
    half_b: Sequence[QAExample],
    counted: Iterable[tuple[str, ...]],
    roles: str,
    fits: Callable[[tuple[str, ...]], bool],
) -> ArgumentWords:
    """The argument words of the questions' sentences.

    Args:
        half_a, half_b: Questions with their answers. A sentence that both ask about is half B's.
        counted: Sentences in which words are counted.
        roles: See :func:`role_of`.
        fits: Whether the model can read a sentence.

    Raises:
        DataError: Fewer than two roles have enough words.
    """
    fits = cache(fits)  # a sentence has many questions
    found: dict[tuple[tuple[str, ...], int], set[str]] = {}
    home: dict[tuple[str, ...], bool] = {}
    for example, in_a in (*((e, True) for e in half_a), *((e, False) for e in half_b)):
        if example.predicate_index is None or not fits(example.tokens):
            continue
        home[example.tokens] = in_a
        found.setdefault((example.tokens, example.answers[0].end - 1), set()).add(role_of(example, roles))
    home = _drawn(home)
    found = {place: names for place, names in found.items() if place[0] in home}
    sure = {place: next(iter(names)) for place, names in found.items() if len(names) == 1 and names != {_NO_ROLE}}
    counts = {half: Counter(role for (s, _), role in sure.items() if home[s] == half) for half in (True, False)}
    both = counts[True] + counts[False]
    names = [role for role, _ in both.most_common() if min(c[role] for c in counts.values()) >= LEAST_WORDS]
    if len(names) < 2:
        told = ", ".join(f"{role} {n}" for role, n in both.most_common()) or "none"
        raise DataError(
            f"selectivity takes two roles with {LEAST_WORDS} argument words in each half of the sentences, and "
            f"these have {told}: give more questions"
        )
    sentences = tuple(home)
    number = {sentence: i for i, sentence in enumerate(sentences)}
    rows = sorted((number[s], word, names.index(role)) for (s, word), role in sure.items() if role in names)
    sentence, word, label = np.array(rows, dtype=np.int64).T
    return ArgumentWords(
        roles=tuple(names),
        sentences=sentences,
        sentence_in_a=np.array([home[s] for s in sentences]),
        sentence=sentence,
        word=word,
        label=label,
        confounds=_confounds([(sentences[s], word) for s, word, _ in rows], counted),
        left_out={role: n for role, n in both.items() if role not in names},
        n_ambiguous=sum(len(each) > 1 for each in found.values()),
    )


def _drawn(home: dict[tuple[str, ...], bool]) -> dict[tuple[str, ...], bool]:
    """At most so many sentences of each half, in their order."""
    rng = np.random.default_rng(_STREAM)
    kept: set[tuple[str, ...]] = set()
    for half in (True, False):
        mine = [sentence for sentence, is_a in home.items() if is_a == half]
        kept |= {mine[i] for i in rng.permutation(len(mine))[:MOST_SENTENCES]}
    return {sentence: is_a for sentence, is_a in home.items() if sentence in kept}


def _confounds(places: Sequence[tuple[tuple[str, ...], int]], counted: Iterable[tuple[str, ...]]) -> FloatArray:
    counts = Counter(word.lower() for sentence in counted for word in sentence)
    at = np.array([word for _, word in places], dtype=np.float64)
    frequency = np.array([math.log1p(counts[sentence[word].lower()]) for sentence, word in places])
    parts = [part_of_speech(sentence[word]) for sentence, word in places]
    kinds = sorted(set(parts))[1:]  # the first is what the others differ from
    return np.column_stack([at, at**2, frequency, *([float(p == kind) for p in parts] for kind in kinds)])
