"""Texts of one length in tokens, for studies that need equal lengths: lists of entities, or the texts of a file.

Lists are those of Chen et al. (2025): entities of one kind with a comma after each, none twice. Their entropy is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from emergence.errors import DataError, UsageError
from emergence.files import content_digest, read_regular
from emergence.measures.information import ListEntropy, list_entropy
from emergence.wording import did_you_mean

Ids = npt.NDArray[np.int64]

#: Names of each kind; how many of them a list is made of, and how many stand in one. Names that a tokenizer cuts are
#: passed over, so there are more than are taken.
LISTS: dict[str, tuple[int, int, str]] = {
    "icl-country": (
        25, 4,
        "France Germany Italy Spain China Japan India Russia Canada Brazil Mexico Egypt Greece Poland Sweden Norway "
        "Ireland Australia England Turkey Iran Iraq Israel Korea Vietnam Cuba Chile Peru Argentina Denmark Finland "
        "Austria Hungary Portugal Belgium Scotland Wales Ukraine Pakistan Indonesia Thailand Nigeria Kenya Syria",
    ),
    "icl-animal": (
        16, 5,
        "dog cat horse bird fish cow sheep bear lion wolf fox mouse rabbit snake duck elephant tiger deer pig goat"
        " monkey frog bee eagle owl shark whale rat bull chicken spider ant",
    ),
    "icl-colour": (
        15, 5,
        "red blue green white black yellow brown grey gray orange purple pink gold silver violet crimson tan scarlet "
        "ivory bronze",
    ),
}  # fmt: skip
#: The sentences of a run's own questions, in windows of so many tokens unless it is said.
SENTENCES, SENTENCE_LENGTH = "sentences", 8
#: Largest file that is read, and the largest length in tokens that windows are cut to.
_MOST_BYTES = 1 << 30


class CanEncode(Protocol):
    """What is needed of a tokenizer."""

    @property
    def fingerprint(self) -> str: ...

    def encode_batch(self, texts: Sequence[str]) -> Sequence[Any]:
        """Token ids of every text, without special tokens."""


@dataclass(frozen=True, eq=False)
class TokenTexts:
    """Texts of T tokens.

    Attributes:
        name: Of the set.
        length: T.
        available: How many texts there are.
        draw: A function of a number n and a seed that gives n texts (n, T), all there are if they are fewer.
        fingerprint: Identity of the set with this tokenizer.
        entropy: Of the lists, in nats; None for files.
        facts: What a result records of it.
    """

    name: str
    length: int
    available: int
    draw: Callable[[int, int], Ids]
    fingerprint: str
    entropy: ListEntropy | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def refuse_missing_texts(name: str) -> None:
    """Refuse texts that are neither known nor a file, before a model is read for them.

    Raises:
        UsageError: There are none of that name. DataError: No such file.
    """
    path = Path(name)
    if name in (*LISTS, SENTENCES) or path.is_file():
        return
    if not path.exists() and not path.suffix and path.name == name:
        raise UsageError(f"no texts {name!r}: {did_you_mean(name, [*LISTS, SENTENCES])}, or give a file")
    raise DataError(f"no such file of texts ({', '.join(LISTS)} and {SENTENCES} need none)", path)


def load_texts(name: str, tokenizer: CanEncode, length: int | None = None) -> TokenTexts:
    """Lists by their name, or the texts of a file, one a line.

    Args:
        name: A key of :data:`LISTS` or a file.
        tokenizer: The tokenizer of the model that will read them.
        length: T. By default a list has as many entities as in the paper, and all texts of a file must agree.

    Raises:
        UsageError: There are no such lists, or the tokenizer cuts too many names.
        DataError: The file is missing, has no text, or texts of unequal length.
    """
    if name in LISTS:
        return _lists(name, tokenizer, length)
    refuse_missing_texts(name)
    return _file(Path(name), tokenizer, length)


def _lists(name: str, tokenizer: CanEncode, length: int | None) -> TokenTexts:
    most, shots, words = LISTS[name]
    if length is not None:
        if length < 2 or length % 2:
            raise UsageError(f"--length {length}: a list has an entity and a comma for each shot, so an even length")
        shots = length // 2
    comma = _single_tokens([","], tokenizer)
    entities = list(dict.fromkeys(_single_tokens(words.split(), tokenizer)))[:most]
    if not comma or len(entities) <= shots:
        most_shots = max(len(entities) - 1, 0)
        cure = f"take --length {2 * most_shots} or less, or " if comma and most_shots else "take "
        raise UsageError(
            f"{name}: this tokenizer has {len(entities)} of its names as one token each, and {shots} shots take "
            f"{shots + 1}: {cure}--texts {SENTENCES} (of a run's questions), or a file"
        )
    names = np.array(entities)

    def draw(n: int, seed: int) -> Ids:
        rng = np.random.default_rng([0x1E, seed])
        chosen = rng.random((n, len(names))).argpartition(shots - 1, axis=1)[:, :shots]
        # A partition is in no random order, so the places are shuffled.
        texts = np.full((n, 2 * shots), comma[0], dtype=np.int64)
        texts[:, ::2] = names[rng.permuted(chosen, axis=1)]
        return texts

    return TokenTexts(
        name,
        2 * shots,
        round(np.prod([float(len(names) - i) for i in range(shots)])),
        draw,
        content_digest([name, tokenizer.fingerprint, entities, comma, shots]),
        list_entropy(len(names), shots),
        {"entities": len(names), "shots": shots},
    )


def _single_tokens(words: Sequence[str], tokenizer: CanEncode) -> list[int]:
    """The token of each word that is one token in running text, with the space before it or (a comma) without."""
    spaced = tokenizer.encode_batch([word if word == "," else f" {word}" for word in words])
    bare = tokenizer.encode_batch(list(words))  # tokenizers that put the space there themselves
    pairs = zip(spaced, bare, strict=True)
    return [int((a if len(a) == 1 else b)[0]) for a, b in pairs if len(a) == 1 or len(b) == 1]


def _file(path: Path, tokenizer: CanEncode, length: int | None) -> TokenTexts:
    content = read_regular(path, DataError, _MOST_BYTES).decode("utf-8", "replace")
    lines = [line.strip() for line in content.splitlines() if line.strip()]
    if not lines:
        raise DataError("no text in it: give one text a line", path)
    return texts_of_lines(path.name, lines, tokenizer, length, path)


def texts_of_lines(
    name: str, lines: Sequence[str], tokenizer: CanEncode, length: int | None, path: Path | None = None
) -> TokenTexts:
    """Windows of ``length`` tokens, cut from every line; None for lines that are all of one length.

    Raises:
        DataError: Lines of unequal length without one asked for, or none that is so long; ``path`` says where.
        UsageError: A length below 1.
    """
    encoded = [np.asarray(ids, dtype=np.int64) for ids in tokenizer.encode_batch(list(lines))]
    if length is None:
        lengths = sorted({len(ids) for ids in encoded})
        if len(lengths) > 1:
            raise DataError(
                f"texts of unequal length, {lengths[0]} to {lengths[-1]} tokens: give --length, and windows of as many "
                "tokens are cut from every line",
                path,
            )
        length = lengths[0]
    if length < 1:
        raise UsageError(f"--length {length}: at least 1 token")
    windows = [ids[: len(ids) // length * length].reshape(-1, length) for ids in encoded]
    texts = np.concatenate(windows)
    if not len(texts):
        raise DataError(f"no text has {length} tokens: give a smaller --length", path)

    def draw(n: int, seed: int) -> Ids:
        return texts[np.random.default_rng([0x1E, seed]).permutation(len(texts))[:n]]

    facts = {"lines": len(lines), "windows": len(texts), "lines_too_short": sum(not len(one) for one in windows)}
    digest = content_digest([name, tokenizer.fingerprint, length, texts.tolist()])
    return TokenTexts(name, length, len(texts), draw, digest, None, facts)


def shuffled_tokens(texts: Ids, seed: int) -> Ids:
    """Texts (n, T) with the tokens of each in random order."""
    return np.random.default_rng([0x5F, seed]).permuted(texts, axis=1)


def resampled_tokens(texts: Ids, seed: int) -> Ids:
    """Texts (n, T) whose tokens are drawn one by one, each with its share of all tokens."""
    return np.random.default_rng([0xE5, seed]).choice(texts.ravel(), size=texts.shape)
