"""Hashed features of a word: what tells, without a model, whether it starts or ends the answer to a question.

A row is one word of one question's sentence. It holds one column for each kind of feature. ``left`` knows what a causal
state of the word could know: the question, the word, the words before it, and the distance to the asked predicate.
``both`` adds the next word. Texts are made and hashed once for each distinct combination, not once for each word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from emergence.data.qa_encoding import EncodedQA
from emergence.data.records import QAExample
from emergence.measures.ragged import within_rows

Variant = Literal["left", "both"]
IntArray = npt.NDArray[np.int64]

#: Features are hashed to this many rows of the weights.
N_ROWS = 1 << 20
#: Offsets from the predicate are clipped to the first, positions in sentences without a predicate to the second.
FARTHEST_OFFSET, FARTHEST_POSITION = 20, 100
_SHAPES = ("digit", "capital", "letter", "other")


@dataclass(frozen=True, eq=False)
class WordFeatures:
    """Features of all words of N questions.

    Attributes:
        columns: (sum of W, F) int32: the rows of the weights that each word's features are hashed to.
        word_offsets: (N+1,) places in ``columns``: question n has ``word_offsets[n]:word_offsets[n + 1]``.
    """

    columns: npt.NDArray[np.int32]
    word_offsets: IntArray


@dataclass(frozen=True, eq=False)
class _Part:
    """One ingredient of a feature: a code for every word, and the text that each code stands for."""

    codes: IntArray
    texts: Sequence[str]


def word_features(encoded: EncodedQA, variant: Variant) -> WordFeatures:
    """The hashed features of ``encoded`` (docs/methods.md#words-and-positions)."""
    parts = {**_of_questions(encoded), **_of_words(encoded)}
    kinds = _LEFT_KINDS + (_NEXT_KINDS if variant == "both" else ())
    columns = [_hashed("*".join(kind), [parts[name] for name in kind]) for kind in kinds]
    return WordFeatures(np.stack(columns, axis=1), encoded.word_offsets.astype(np.int64))


#: Kinds of features are products of parts. ``place`` is the offset from the predicate, or without one the position.
#: They were chosen on validation at 4,000 and 11,896 questions (docs/methods.md#words-and-positions).
_LEFT_KINDS: tuple[tuple[str, ...], ...] = (
    ("place",),
    ("wh", "place"),
    ("template", "place"),
    ("question_form", "place"),
    *((part, *more) for part in ("word", "previous") for more in ((), ("wh",), ("template",), ("wh", "side"))),
    ("shape", "previous_shape", "wh"),
    ("asked", "previous_asked", "wh"),
)
_NEXT_KINDS: tuple[tuple[str, ...], ...] = (("next",), ("next", "wh"), ("next", "template"), ("next", "wh", "side"))


def question_template(example: QAExample, *, with_auxiliary: bool) -> str:
    """The question without the form of its verb, such as ``who _ V something``; without slots its own words.

    ``with_auxiliary`` keeps the auxiliary (``did``, ``might``). Otherwise the voice alone is kept.
    """
    if example.slots is None:
        return " ".join(_question_words(example.question))
    wh, auxiliary, subject, _, object_, preposition, object_2 = (slot.lower() or "_" for slot in example.slots)
    verb = f"V{example.is_passive}"
    return " ".join([wh, auxiliary if with_auxiliary else "_", subject, verb, object_, preposition, object_2])


def _question_words(question: str) -> list[str]:
    return re.findall(r"\w+", question.lower())


def _of_questions(encoded: EncodedQA) -> dict[str, _Part]:
    """Parts that are the same for all words of a question."""
    counts = encoded.n_words
    text_of: dict[str, Callable[[QAExample], str]] = {
        "wh": lambda e: e.wh,
        "template": lambda e: question_template(e, with_auxiliary=False),
        "question_form": lambda e: question_template(e, with_auxiliary=True),
    }
    parts = {}
    for name, text in text_of.items():
        codes, texts = _coded(text(example) for example in encoded.examples)
        parts[name] = _Part(np.repeat(codes, counts), texts)
    return parts


def _of_words(encoded: EncodedQA) -> dict[str, _Part]:
    """Parts of each word: itself, its neighbours, its place. Only ``next`` knows what follows the word."""
    counts, offsets = encoded.n_words, encoded.word_offsets
    words, texts = _coded(word.lower() for example in encoded.examples for word in example.tokens)
    texts = [*texts, "<edge>"]
    position = within_rows(offsets)
    is_last = position == np.repeat(counts - 1, counts)
    shapes = np.array([_shape(word) for example in encoded.examples for word in example.tokens], dtype=np.int64)
    asked = np.array([word in asks for asks, word in _asked_pairs(encoded)], dtype=np.int64)
    edge = len(texts) - 1
    return {
        "word": _Part(words, texts),
        "previous": _Part(_before(words, position, edge), texts),
        "next": _Part(np.where(is_last, edge, np.roll(words, -1)), texts),
        "shape": _Part(shapes, _SHAPES),
        "previous_shape": _Part(_before(shapes, position, len(_SHAPES)), (*_SHAPES, "edge")),
        "asked": _Part(asked, ("no", "yes")),
        "previous_asked": _Part(_before(asked, position, 2), ("no", "yes", "edge")),
        **_places(encoded, position),
    }


def _places(encoded: EncodedQA, position: IntArray) -> dict[str, _Part]:
    """Where a word stands, counted from the predicate, or from the start of the sentence where none is asked about."""
    predicates = np.array([-1 if e.predicate_index is None else e.predicate_index for e in encoded.examples])
    predicate = np.repeat(predicates.astype(np.int64), encoded.n_words)
    offset = np.clip(position - predicate, -FARTHEST_OFFSET, FARTHEST_OFFSET)
    place = np.where(predicate < 0, 2 * FARTHEST_OFFSET + 1 + np.minimum(position, FARTHEST_POSITION), 0)
    place = np.where(predicate < 0, place, offset + FARTHEST_OFFSET)
    around = [f"{k:+d}" for k in range(-FARTHEST_OFFSET, FARTHEST_OFFSET + 1)]
    side = np.where(predicate < 0, 3, np.sign(offset) + 1)
    return {
        "place": _Part(place, [*around, *(f"at {k}" for k in range(FARTHEST_POSITION + 1))]),
        "side": _Part(side, ("left", "predicate", "right", "none")),
    }


def _before(values: IntArray, position: IntArray, edge: int) -> IntArray:
    """The value of the word before each word, and ``edge`` for the first word of a sentence."""
    return np.where(position == 0, edge, np.roll(values, 1))


def _shape(word: str) -> int:
    if any(letter.isdigit() for letter in word):
        return 0
    return 1 if word[:1].isupper() else 2 if word[:1].isalpha() else 3


def _asked_pairs(encoded: EncodedQA) -> Iterable[tuple[frozenset[str], str]]:
    """The words of the question and a word of its sentence, in lower case, for every word."""
    for example in encoded.examples:
        asks = frozenset(_question_words(example.question))
        for word in example.tokens:
            yield asks, word.lower()


def _coded(texts: Iterable[str]) -> tuple[IntArray, list[str]]:
    """Codes 0, 1, ... in order of first appearance, and the text of each."""
    known: dict[str, int] = {}
    codes = np.array([known.setdefault(text, len(known)) for text in texts], dtype=np.int64)
    return codes, list(known)


def _hashed(kind: str, parts: Sequence[_Part]) -> npt.NDArray[np.int32]:
    """(R,) the row of the weights for each word's combination of ``parts``."""
    from sklearn.feature_extraction import FeatureHasher  # most of a second, which pretraining need not wait for

    sizes = [len(part.texts) for part in parts]
    flat = np.ravel_multi_index([part.codes for part in parts], sizes)
    distinct, place = np.unique(flat, return_inverse=True)
    choices = [
        [part.texts[code] for code in codes.tolist()]
        for part, codes in zip(parts, np.unravel_index(distinct, sizes), strict=True)
    ]
    texts = ("\x1f".join((kind, *chosen)) for chosen in zip(*choices, strict=True))
    hasher = FeatureHasher(N_ROWS, input_type="string", alternate_sign=False)
    return np.asarray(hasher.transform([text] for text in texts).indices, dtype=np.int32)[place]
