"""Text without word order, for ``--pretrain-data shuffled``: it tells which words a sentence has, not their order.

In every sentence the words change places at random. Everything between them stays where it is: spaces, line breaks,
commas, quotation marks, the mark that ends the sentence. So the text has the same words, marks and sentence lengths
as before. A trunk can learn from it what words go together, but not who did what to whom. Capital letters move with
their word, so the trunk is not told which word began the sentence. The tokenizer is the plain text's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from emergence.data.records import TextDoc
from emergence.data.stream import EncodedDocument, TokenStream, cut_to_budget, encode_documents
from emergence.data.tokenizer import TextTokenizer

#: Change it when the same text gives other orders.
SHUFFLE_VERSION = 1
#: A word from its first to its last letter, digit or underscore, marks inside included (don't, 3.5, well-known).
_WORD = re.compile(r"(\w(?:\S*\w)?)")
#: What ends a sentence between two words: a final mark before white space, or a blank line.
_END = re.compile(r"[.!?][^\w\s]*(?:\s|\Z)|\n\s*\n")
#: A full stop after these ends no sentence. A cut there would keep the words before it before those after it.
_TITLES = frozenset(("Mr", "Mrs", "Ms", "Messrs", "Dr", "Prof", "St", "Rev", "Hon", "Capt", "Col", "Gen", "Lieut"))
_SHUFFLE_STREAM = 0x5F1E  # keeps these random numbers apart from others drawn from the same seed


def shuffle_words(text: str, rng: np.random.Generator) -> str:
    """``text`` with the words of each sentence in random order, and everything between the words in its place.

    Words are separated by white space. A sentence ends at a blank line, or with ``.``, ``!`` or ``?`` (and closing
    marks) before white space. It does not end after a title such as ``Mr.``.
    """
    parts = _WORD.split(text)  # what stands before the first word, a word, what stands after it, a word, ...
    words, after = parts[1::2], parts[2::2]
    ends = np.fromiter((_ends(word, gap) for word, gap in zip(words, after, strict=True)), dtype=bool, count=len(words))
    sentence = np.cumsum(ends) - ends  # (n_words,)
    order = np.lexsort((rng.random(len(words)), sentence))  # by sentence, within it at random
    parts[1::2] = [words[i] for i in order.tolist()]
    return "".join(parts)


def shuffled_documents(documents: Iterable[TextDoc], seed: int) -> Iterator[TextDoc]:
    """Each document with its words shuffled. The seed and the document's number decide the order."""
    for number, document in enumerate(documents):
        rng = np.random.default_rng([_SHUFFLE_STREAM, seed, number])
        yield TextDoc(document.id, shuffle_words(document.text, rng))


def shuffled_stream(
    base: TokenStream,
    documents: Callable[[], Iterable[TextDoc]],
    tokenizer: TextTokenizer,
    seed: int,
    report: dict[str, Any],
) -> Iterator[EncodedDocument]:
    """The shuffled documents, encoded, as exactly ``base.n_tokens`` tokens.

    A word at the beginning of a line has other tokens than within it, so shuffled text is a little longer or shorter.
    Excess tokens are cut off at the end, and missing ones are made up for from the beginning.

    Args:
        base: The text in its own order. Its length is the budget.
        documents: Gives the same documents at every call.
        tokenizer: The tokenizer of both.
        seed: Decides the order of the words.
        report: Receives the tokens of the shuffled text, and how many were left out or used twice.
    """

    def passes() -> Iterator[EncodedDocument]:
        n_tokens = 0
        for document in encode_documents(shuffled_documents(documents(), seed), tokenizer):
            n_tokens += len(document.ids)
            yield document
        missing = base.n_tokens - n_tokens
        report.update(shuffled_tokens=n_tokens, tokens_used_twice=max(missing, 0), tokens_left_out=max(-missing, 0))
        while True:
            yield from encode_documents(shuffled_documents(documents(), seed), tokenizer)

    report |= {"version": SHUFFLE_VERSION, "seed": seed, "validation_and_test": "in their own order"}
    endless = passes()
    yield from cut_to_budget(endless, base.n_tokens, tokenizer)
    while "shuffled_tokens" not in report:  # what is left out is counted, too
        next(endless)


def _ends(word: str, gap: str) -> bool:
    if gap == " ":  # nearly always
        return False
    return _END.search(gap) is not None and not (word in _TITLES and gap == ". ")
